//! Finding `initdb` and `postgres` on this machine.

use std::{
    cmp::Reverse,
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use super::ClusterError;

/// Folders that hold folders with the programs in their `bin`: of Debian and Ubuntu, Red Hat (`/usr/pgsql-17`), an own
/// build (`/usr/local/pgsql`), Homebrew on either processor, Postgres.app.
const VERSIONS_IN: [&str; 6] = [
    "/usr/lib/postgresql",
    "/usr",
    "/usr/local",
    "/opt/homebrew/opt",
    "/usr/local/opt",
    "/Applications/Postgres.app/Contents/Versions",
];

/// The oldest major version that the schema runs on.
const MAJOR_MIN: u32 = 14;

/// The programs of one version of Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Where they are; `None` where the search path of the process finds them.
    folder: Option<PathBuf>,
    /// Such as `15.14`.
    version: String,
    major: u32,
    has_pgvector: bool,
}

impl Programs {
    /// The version, such as `15.14`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The major version, which a data directory is bound to.
    pub fn major(&self) -> u32 {
        self.major
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(|| program.into(), |folder| folder.join(program))
    }

    /// The programs in `folder`, if there are both and they run.
    fn in_folder(folder: Option<PathBuf>) -> Option<Self> {
        let program = |name: &str| folder.as_ref().map_or_else(|| name.into(), |folder| folder.join(name));
        let output = |name: &str| Command::new(program(name)).arg("--version").output().ok();
        output("initdb").filter(|output| output.status.success())?;
        let told = String::from_utf8(output("postgres")?.stdout).ok()?;
        let version = read_version(&told)?;
        let major = major_of(&version)?;
        let has_pgvector = folder.as_deref().is_some_and(|folder| has_pgvector(folder, major));
        Some(Self { folder, version, major, has_pgvector })
    }
}

impl fmt::Display for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgreSQL {}", self.version)?;
        match &self.folder {
            Some(folder) => write!(f, " in {}", folder.display()),
            None => f.write_str(" in the search path"),
        }
    }
}

/// The Postgres programs in `bin_dir`, else the newest that are found, those with pgvector first.
///
/// # Errors
/// If there are none, with how to install them.
pub fn find_programs(bin_dir: Option<&Path>) -> Result<Programs, ClusterError> {
    find_programs_for(bin_dir, None)
}

/// As [`find_programs`], but of the major version `wanted` that data was written by.
pub(super) fn find_programs_for(bin_dir: Option<&Path>, wanted: Option<&OldData>) -> Result<Programs, ClusterError> {
    let mut found = match bin_dir {
        Some(folder) => Programs::in_folder(Some(folder.to_owned())).into_iter().collect(),
        None => everything_installed(),
    };
    // Of what is equally good, the first that was found stays first.
    found.sort_by_key(|programs| Reverse((programs.has_pgvector, programs.major)));
    let Some(best) = found.first() else {
        return Err(ClusterError::NotInstalled { bin_dir: bin_dir.map(Into::into) });
    };
    match wanted {
        Some(old) => match found.iter().find(|programs| programs.major == old.major) {
            Some(programs) => Ok(programs.clone()),
            None => Err(ClusterError::OtherVersion {
                folder: old.folder.clone(),
                major: old.major,
                found: found.iter().map(Programs::to_string).collect::<Vec<_>>().join(", "),
            }),
        },
        None if best.major < MAJOR_MIN => Err(ClusterError::TooOld { found: best.to_string(), major_min: MAJOR_MIN }),
        None => Ok(best.clone()),
    }
}

/// A cluster that exists already.
pub(super) struct OldData {
    pub(super) folder: PathBuf,
    pub(super) major: u32,
}

impl OldData {
    /// What is in `folder`; none if the folder does not exist.
    pub(super) fn look(folder: &Path) -> Result<Option<Self>, ClusterError> {
        let written = match fs::read_to_string(folder.join("PG_VERSION")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ClusterError::Refused(format!(
                    "{} exists, but is no Postgres data directory: move it away, or choose another --data-dir",
                    folder.display()
                )));
            }
            Err(error) => return Err(ClusterError::folder("read", folder, error)),
        };
        let major = major_of(written.trim()).ok_or_else(|| {
            ClusterError::Refused(format!("{}/PG_VERSION holds no version; restore it", folder.display()))
        })?;
        Ok(Some(Self { folder: folder.to_owned(), major }))
    }
}

fn everything_installed() -> Vec<Programs> {
    let mut found = Vec::new();
    for parent in VERSIONS_IN {
        let Ok(entries) = fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let folder = entry.path().join("bin");
            if folder.join("initdb").exists() {
                found.extend(Programs::in_folder(Some(folder)));
            }
        }
    }
    found.extend(Programs::in_folder(None));
    found
}

/// Whether pgvector lies where the programs in `folder` look for extensions, as far as the layout is a usual one. The
/// running server is asked later and has the last word; this only tells which of several versions to take.
fn has_pgvector(folder: &Path, major: u32) -> bool {
    let prefix = folder.parent().unwrap_or(folder);
    [
        prefix.join("share/extension"),
        prefix.join("share/postgresql/extension"),
        PathBuf::from(format!("/usr/share/postgresql/{major}/extension")),
    ]
    .iter()
    .any(|folder| folder.join("vector.control").exists())
}

/// `15.14` of `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn read_version(told: &str) -> Option<String> {
    let version = told.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    Some(version.to_owned())
}

/// `15` of `15`, `15.14` and `15beta1`.
fn major_of(version: &str) -> Option<u32> {
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    version[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let check = |told: &str, version: Option<&str>, major: Option<u32>| {
            let read = read_version(told);
            assert_eq!(read.as_deref(), version);
            assert_eq!(read.and_then(|version| major_of(&version)), major);
        };
        check("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n", Some("15.14"), Some(15));
        check("postgres (PostgreSQL) 18beta1\n", Some("18beta1"), Some(18));
        check("mysqld  Ver 8.0", None, None);
        check("postgres (PostgreSQL) ", None, None);
        assert_eq!(major_of(""), None);
        assert_eq!(major_of("x15"), None);
    }

    #[test]
    fn a_folder_without_programs_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let told = find_programs(Some(folder.path())).expect_err("there are none").to_string();
        assert!(told.contains(&folder.path().display().to_string()), "{told}");
    }

    #[test]
    fn data_of_a_version_that_is_not_installed_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(OldData::look(folder.path()).is_err(), "an empty folder is not a cluster");
        assert!(OldData::look(&folder.path().join("none")).expect("it can be looked at").is_none());
        fs::write(folder.path().join("PG_VERSION"), "9\n").expect("it is writable");
        let old = OldData::look(folder.path()).expect("it is a cluster").expect("it exists");
        let error = find_programs_for(None, Some(&old)).expect_err("nobody has 9");
        assert!(matches!(error, ClusterError::OtherVersion { major: 9, .. }), "{error}");
        assert!(error.to_string().contains(&folder.path().display().to_string()));
    }
}
