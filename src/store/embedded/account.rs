//! Which operating system user runs the private Postgres: the server's own, or, because Postgres refuses root, `postgres` or
//! `nobody` where the server runs as root.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use super::ClusterError;

/// Names to fall back to where root starts the server, best first.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// The user that runs Postgres and owns its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Whether the server has to become this user for its children.
    pub(super) is_dropped_to: bool,
}

impl Account {
    /// The user for the cluster in `folder`, which may not exist yet. A cluster that exists keeps its owner.
    pub(super) fn choose(folder: &Path) -> Result<Self, ClusterError> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let owner = match fs::metadata(folder) {
            Ok(metadata) => Some((metadata.uid(), metadata.gid())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(ClusterError::folder("look at", folder, error)),
        };
        match owner {
            Some((owner, _)) if uid != 0 && owner != uid => Err(ClusterError::Refused(format!(
                "{} belongs to {}, and this process runs as {}: start tertulia as that user, or as root, or choose another \
                 --data-dir",
                folder.display(),
                told_user(owner),
                told_user(uid)
            ))),
            _ if uid != 0 => Ok(Self { uid, gid, is_dropped_to: false }),
            Some((0, _)) => Err(ClusterError::Refused(format!(
                "{} belongs to root, as whom Postgres does not run: give it to another user, such as by \
                 `chown -R postgres: {}`",
                folder.display(),
                folder.display()
            ))),
            Some((uid, gid)) => Ok(Self { uid, gid, is_dropped_to: true }),
            None => {
                let passwd = passwd();
                let found = UNPRIVILEGED.iter().find_map(|name| find_user(&passwd, name));
                let (uid, gid) = found.ok_or_else(|| {
                    ClusterError::Refused(
                        "Postgres does not run as root, and there is no user `postgres` or `nobody` to run it as: start \
                         tertulia as an ordinary user"
                            .into(),
                    )
                })?;
                Ok(Self { uid, gid, is_dropped_to: true })
            }
        }
    }

    /// Has `command` run as this user.
    pub(super) fn run_as(self, command: &mut Command) {
        if self.is_dropped_to {
            // The standard library gives up root's other groups along with its uid.
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// The user, for people.
    pub(super) fn told(self) -> String {
        told_user(self.uid)
    }

    /// Gives `path` to this user.
    pub(super) fn take_over(self, path: &Path) -> io::Result<()> {
        if self.is_dropped_to { std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)) } else { Ok(()) }
    }

    /// The outermost folder on the way to and including `folder` that this user may not enter.
    pub(super) fn first_closed(self, folder: &Path) -> io::Result<Option<PathBuf>> {
        let mut folders: Vec<&Path> = folder.ancestors().collect();
        folders.reverse();
        for folder in folders {
            if !self.may_enter(&fs::metadata(folder)?) {
                return Ok(Some(folder.to_owned()));
            }
        }
        Ok(None)
    }

    fn may_enter(self, folder: &fs::Metadata) -> bool {
        let class = if folder.uid() == self.uid {
            0o100
        } else if folder.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        folder.permissions().mode() & class != 0
    }
}

/// The text of `/etc/passwd`; empty where it cannot be read.
fn passwd() -> String {
    fs::read_to_string("/etc/passwd").unwrap_or_default()
}

/// The user with this id, for people: by name, if it has one.
fn told_user(uid: u32) -> String {
    match find_name(&passwd(), uid) {
        Some(name) => format!("the user {name} (id {uid})"),
        None => format!("the user with the id {uid}"),
    }
}

/// The name of the user with this id in the text of `/etc/passwd`.
fn find_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let (name, rest) = line.split_once(':')?;
        (rest.split(':').nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// User and group id of `name` in the text of `/etc/passwd`.
fn find_user(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name_and_never_root() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7::/:/x\npostgres:x:101:104:,,,:/var:/bin/bash\nbad:x:q";
        assert_eq!(find_user(passwd, "postgres"), Some((101, 104)));
        assert_eq!(find_user(passwd, "root"), None);
        assert_eq!(find_user(passwd, "bad"), None);
        assert_eq!(find_user(passwd, "nobody"), None);
        assert_eq!((find_name(passwd, 101), find_name(passwd, 0)), (Some("postgres"), Some("root")));
        assert_eq!(find_name(passwd, 104), None);
        assert_eq!(told_user(0), "the user root (id 0)");
        assert_eq!(told_user(4_000_001), "the user with the id 4000001");
    }

    #[test]
    fn the_first_folder_that_cannot_be_entered_is_named() {
        let outer = tempfile::tempdir().expect("a folder");
        let closed = outer.path().join("closed");
        let inner = closed.join("inner");
        fs::create_dir_all(&inner).expect("folders");
        let stranger = Account { uid: 4_000_001, gid: 4_000_002, is_dropped_to: true };
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mine");
        set(outer.path(), 0o711);
        set(&closed, 0o711);
        set(&inner, 0o700);
        assert_eq!(stranger.first_closed(&inner).expect("they exist"), Some(inner.clone()));
        set(&inner, 0o711);
        assert_eq!(stranger.first_closed(&inner).expect("they exist"), None);
        set(&closed, 0o770);
        assert_eq!(stranger.first_closed(&inner).expect("they exist"), Some(closed));
    }
}
