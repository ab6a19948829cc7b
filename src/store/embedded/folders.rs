//! The folders of a private cluster: made safely, by the right owner, and never left half done.
//!
//! ```text
//! data_dir/             the server's own; entered by the user that runs Postgres
//!   postgres/           the cluster: that user's own, mode 0700
//!   postgres.new/       a cluster that initdb has not finished; removed at the next start
//!   postgres.log        what Postgres has to say; the one before it is postgres.log.1
//!   run/                the socket: that user's own, mode 0700, so only it and root may connect
//!   lock, commands      see `lock`
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::{Access, access};
use sha2::{Digest as _, Sha256};

use super::{ClusterError, account::Account, programs::Programs};

/// A socket's path has at most this many bytes on Linux (`sun_path` less its closing NUL; 104 less one elsewhere).
const SOCKET_PATH_BYTES_MAX: usize = 103;
/// The log begins anew at a start at which it is larger.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// The port in the socket's name. Nothing listens on the network.
pub(super) const PORT: u16 = 5432;

/// `data_dir` as an absolute path, created if it does not exist.
pub(super) fn open_data_dir(data_dir: &Path) -> Result<PathBuf, ClusterError> {
    let failed = |error| ClusterError::folder("create", data_dir, error);
    if let Some(parent) = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(data_dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let data_dir = fs::canonicalize(data_dir).map_err(|error| ClusterError::folder("find", data_dir, error))?;
    if !data_dir.is_dir() {
        return Err(not_a_folder(&data_dir));
    }
    Ok(data_dir)
}

fn not_a_folder(path: &Path) -> ClusterError {
    ClusterError::Refused(format!("{} is not a folder; choose another --data-dir", path.display()))
}

/// Sees to it that `account` can reach what is below `data_dir`.
pub(super) fn let_in(data_dir: &Path, account: Account) -> Result<(), ClusterError> {
    if !account.is_dropped_to {
        return Ok(());
    }
    let failed = |error| ClusterError::folder("look at", data_dir, error);
    if account.first_closed(data_dir).map_err(failed)?.is_some_and(|closed| closed == data_dir) {
        // The folder itself is ours to open: for passing through, not for listing.
        let mode = fs::metadata(data_dir).map_err(failed)?.permissions().mode() & 0o7777 | 0o010;
        std::os::unix::fs::chown(data_dir, None, Some(account.gid)).map_err(failed)?;
        fs::set_permissions(data_dir, fs::Permissions::from_mode(mode)).map_err(failed)?;
    }
    match account.first_closed(data_dir).map_err(failed)? {
        None => Ok(()),
        Some(closed) => Err(no_way(&closed, data_dir, account)),
    }
}

/// Whether [`open_data_dir`] and [`let_in`] would succeed as far as can be seen without changing anything; `data_dir` need
/// not exist.
pub(super) fn check_way(data_dir: &Path, account: Account) -> Result<(), ClusterError> {
    let failed = |error| ClusterError::folder("look at", data_dir, error);
    let wanted = std::path::absolute(data_dir).map_err(failed)?;
    let (mut outermost, mut is_there) = (PathBuf::from("/"), false);
    for folder in wanted.ancestors() {
        match fs::canonicalize(folder) {
            Ok(found) => {
                (outermost, is_there) = (found, folder == wanted);
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    if !outermost.is_dir() {
        return Err(not_a_folder(&outermost));
    }
    if account.is_dropped_to {
        // What will be made is ours to open, and so is the data directory; what is above them is not.
        let closed = account.first_closed(&outermost).map_err(failed)?;
        if let Some(closed) = closed.filter(|closed| !is_there || *closed != outermost) {
            return Err(no_way(&closed, data_dir, account));
        }
    }
    access(&outermost, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| ClusterError::folder("write to", &outermost, error.into()))
}

fn no_way(closed: &Path, data_dir: &Path, account: Account) -> ClusterError {
    ClusterError::Refused(format!(
        "Postgres does not run as root, and {}, who runs it, may not enter {}, on the way to {}: choose a --data-dir that \
         every user can reach (such as /var/lib/tertulia), or start tertulia as an ordinary user",
        account.told(),
        closed.display(),
        data_dir.display()
    ))
}

/// Creates the cluster in `folder` with initdb, unless it is there. One that a crash has left unfinished is made anew.
pub(super) fn init(folder: &Path, account: Account, programs: &Programs) -> Result<(), ClusterError> {
    let unfinished = folder.with_extension("new");
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(ClusterError::folder("remove", &unfinished, error));
        }
        _ => {}
    }
    if folder.exists() {
        return Ok(());
    }
    tracing::info!(folder = %folder.display(), %programs, "creating a private postgres");
    // Letters beyond ASCII are letters in C.UTF-8, which not every system has; order is by code point in both.
    let mut output = initdb(&unfinished, account, programs, "C.UTF-8")?;
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("locale") {
        let _ = fs::remove_dir_all(&unfinished);
        output = initdb(&unfinished, account, programs, "C")?;
    }
    if !output.status.success() {
        let _ = fs::remove_dir_all(&unfinished);
        return Err(ClusterError::Initdb { told: String::from_utf8_lossy(&output.stderr).trim().to_owned() });
    }
    let failed = |error| ClusterError::folder("finish", folder, error);
    fs::rename(&unfinished, folder).map_err(failed)?;
    // The name is on disk before anything is stored under it.
    folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()).map_err(failed)
}

fn initdb(
    folder: &Path,
    account: Account,
    programs: &Programs,
    characters: &str,
) -> Result<std::process::Output, ClusterError> {
    DirBuilder::new().mode(0o700).create(folder).map_err(|error| ClusterError::folder("create", folder, error))?;
    account.take_over(folder).map_err(|error| ClusterError::folder("give away", folder, error))?;
    let mut command = Command::new(programs.path("initdb"));
    command
        .arg("--pgdata")
        .arg(folder)
        .args(["--username", super::SUPERUSER, "--encoding", "UTF8", "--locale", "C", "--data-checksums"])
        // Who can reach the socket has passed its folder's mode, so no password is asked for.
        .args(["--auth-local", "trust", "--auth-host", "reject"])
        .arg(format!("--lc-ctype={characters}"))
        .current_dir("/")
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    account.run_as(&mut command);
    command.output().map_err(|error| ClusterError::folder("run", &programs.path("initdb"), error))
}

/// A folder for the socket that only `account` and root may enter: `run` in the data directory, or, if a socket's name
/// would get too long there, one in the system's folder for temporary files.
pub(super) fn open_socket_dir(data_dir: &Path, account: Account) -> Result<PathBuf, ClusterError> {
    let folder = socket_dir(data_dir, &std::env::temp_dir());
    let failed = |error| ClusterError::folder("open", &folder, error);
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // In a shared folder, somebody else may have been there first; a link or a folder of theirs is not to be trusted.
    let metadata = fs::symlink_metadata(&folder).map_err(failed)?;
    let ours = [account.uid, rustix::process::geteuid().as_raw()];
    if !metadata.is_dir() || !ours.contains(&metadata.uid()) {
        return Err(ClusterError::Refused(format!(
            "{} is in the way: Postgres needs it for its socket, and it belongs to somebody else; remove it, or choose a \
             shorter --data-dir",
            folder.display()
        )));
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    account.take_over(&folder).map_err(failed)?;
    Ok(folder)
}

fn socket_dir(data_dir: &Path, temp_dir: &Path) -> PathBuf {
    let fits = |folder: &Path| {
        let socket = folder.join(format!(".s.PGSQL.{PORT}"));
        // Postgres splits the setting at commas.
        socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX && !folder.as_os_str().as_bytes().contains(&b',')
    };
    let beside = data_dir.join("run");
    if fits(&beside) {
        return beside;
    }
    // The same data directory always gets the same folder.
    let digest = hex::encode(&Sha256::digest(data_dir.as_os_str().as_bytes())[..8]);
    let short = temp_dir.join(format!("tertulia-{digest}"));
    if fits(&short) { short } else { Path::new("/tmp").join(format!("tertulia-{digest}")) }
}

/// The log, open for appending; a long one is put aside.
pub(super) fn open_log(data_dir: &Path) -> Result<(PathBuf, File), ClusterError> {
    let path = data_dir.join("postgres.log");
    let failed = |error| ClusterError::folder("open", &path, error);
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
        fs::rename(&path, data_dir.join("postgres.log.1")).map_err(failed)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
    Ok((path, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_path_is_never_too_long() {
        let temp = Path::new("/var/tmp");
        assert_eq!(socket_dir(Path::new("/srv/data"), temp), Path::new("/srv/data/run"));
        let deep = PathBuf::from(format!("/srv/{}", "d".repeat(100)));
        let short = socket_dir(&deep, temp);
        assert!(short.starts_with(temp), "{}", short.display());
        assert_eq!(short, socket_dir(&deep, temp), "it is found again");
        assert_ne!(short, socket_dir(&deep.join("x"), temp));
        let long_temp = PathBuf::from(format!("/{}", "t".repeat(100)));
        assert!(socket_dir(&deep, &long_temp).starts_with("/tmp"));
        assert!(socket_dir(Path::new("/a,b"), temp).starts_with(temp));
    }

    #[test]
    fn a_way_that_postgres_cannot_go_is_seen_before_anything_is_made() {
        let outer = tempfile::tempdir().expect("a folder");
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mine");
        set(outer.path(), 0o711);
        let closed = outer.path().join("closed");
        fs::create_dir(&closed).expect("it is writable");
        set(&closed, 0o700);
        let stranger = Account { uid: 4_000_001, gid: 4_000_002, is_dropped_to: true };
        let data_dir = closed.join("not/yet");
        let told = check_way(&data_dir, stranger).expect_err("it is closed").to_string();
        assert!(
            told.contains("the user with the id 4000001") && told.contains(&closed.display().to_string()),
            "{told}"
        );
        assert!(told.contains(&data_dir.display().to_string()), "{told}");
        // The data directory itself is opened by the server.
        check_way(&closed, stranger).expect("the way to it is open");
        let me = Account { uid: 4_000_001, gid: 4_000_002, is_dropped_to: false };
        check_way(&data_dir, me).expect("whoever runs it may enter");
        set(&closed, 0o711);
        check_way(&data_dir, stranger).expect("the way is open");
        assert!(!closed.join("not").exists(), "something was made");
        let file = outer.path().join("file");
        fs::write(&file, "").expect("it is writable");
        assert!(matches!(check_way(&file, me), Err(ClusterError::Refused(_))));
        assert!(check_way(&file.join("below"), me).is_err());
    }

    #[test]
    fn a_data_dir_that_cannot_be_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("it is writable");
        assert!(matches!(open_data_dir(&file), Err(ClusterError::Refused(_))));
        assert!(open_data_dir(&file.join("below")).is_err());
        let made = open_data_dir(&folder.path().join("a/b")).expect("it can be made");
        assert_eq!(fs::metadata(made).expect("it is there").permissions().mode() & 0o777, 0o700);
    }
}
