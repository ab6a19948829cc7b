//! Who may start and stop the Postgres of a data directory.
//!
//! Two files in the data directory are locked with flock, which the kernel lets go of when a process ends, however it ends:
//!
//! - `lock`, exclusively, by the one process that runs the cluster: a server for all its life, or a command that found
//!   none running.
//! - `commands`, shared, by every command while it uses the cluster, whoever runs it. A command that runs the cluster stops
//!   it only after it could lock this file exclusively, so it never stops it under another command.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tokio::time::Instant;

use super::ClusterError;

/// How often a lock that is held is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a server's lock may be held before a second server is refused. A process that another thread is just starting
/// has a copy of the lock until it becomes that other program, so one that was let go of can look held for a moment.
const RELEASE_WAIT: Duration = Duration::from_millis(500);

/// What kind of process runs the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Server,
    Command,
}

/// Held by the process that runs the cluster.
#[derive(Debug)]
pub(super) struct Ownership {
    _file: File,
}

/// Held by a command while it uses the cluster.
#[derive(Debug)]
pub(super) struct CommandGuard {
    file: File,
}

impl Ownership {
    /// The ownership, or the pid of the process that has it where that is known.
    pub(super) fn try_take(data_dir: &Path, owner: Owner) -> Result<Result<Self, Option<Holder>>, ClusterError> {
        let path = data_dir.join("lock");
        let failed = |error| ClusterError::folder("lock", &path, error);
        let mut file = open(&path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(failed)?;
                return Ok(Err(Holder::read(&text)));
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        let word = match owner {
            Owner::Server => "server",
            Owner::Command => "command",
        };
        writeln!(file, "{word} {}", std::process::id()).map_err(failed)?;
        Ok(Ok(Self { _file: file }))
    }

    /// The ownership for a server: waits for commands that have it for up to `longest`, and refuses if another server does.
    pub(super) async fn take_for_server(data_dir: &Path, longest: Duration) -> Result<Self, ClusterError> {
        let start = Instant::now();
        loop {
            let holder = match Self::try_take(data_dir, Owner::Server)? {
                Ok(ownership) => return Ok(ownership),
                Err(holder) => holder,
            };
            let is_another_server = holder.is_some_and(|holder| holder.owner == Owner::Server && holder.is_alive());
            if start.elapsed() > if is_another_server { RELEASE_WAIT.min(longest) } else { longest } {
                return Err(ClusterError::InUse {
                    data_dir: data_dir.to_owned(),
                    pid: holder.map_or_else(|| "unknown".into(), |holder| holder.pid.to_string()),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl CommandGuard {
    /// Waits while another command stops the cluster.
    pub(super) async fn take(data_dir: &Path) -> Result<Self, ClusterError> {
        let path = data_dir.join("commands");
        let file = open(&path)?;
        poll_lock(&file, FlockOperation::NonBlockingLockShared, None)
            .await
            .map_err(|error| ClusterError::folder("lock", &path, error))?;
        Ok(Self { file })
    }

    /// Waits until no other command uses the cluster, and keeps new ones out; gives up after `longest`.
    pub(super) async fn wait_for_others(&self, longest: Duration) {
        // Turning a shared lock into an exclusive one lets go of it first, so two that want this do not wait for each other.
        if let Err(error) = poll_lock(&self.file, FlockOperation::NonBlockingLockExclusive, Some(longest)).await {
            tracing::warn!(%error, "other commands still use the private postgres; stopping it regardless");
        }
    }
}

async fn poll_lock(file: &File, operation: FlockOperation, longest: Option<Duration>) -> std::io::Result<()> {
    let start = Instant::now();
    loop {
        match flock(file, operation) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if longest.is_none_or(|longest| start.elapsed() < longest) => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The file's lock is let go of when it is closed, and children do not inherit it (the standard library opens with
/// O_CLOEXEC).
fn open(path: &Path) -> Result<File, ClusterError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| ClusterError::folder("open", path, error))
}

/// The process that wrote itself into `lock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder {
    owner: Owner,
    pid: i32,
}

impl Holder {
    fn read(text: &str) -> Option<Self> {
        let (word, pid) = text.trim().split_once(' ')?;
        let owner = match word {
            "server" => Owner::Server,
            "command" => Owner::Command,
            _ => return None,
        };
        Some(Self { owner, pid: pid.parse().ok().filter(|pid| *pid > 0)? })
    }

    /// A new holder writes its name a moment after it has the lock; until then the file has the one before it.
    fn is_alive(self) -> bool {
        rustix::process::Pid::from_raw(self.pid)
            .is_some_and(|pid| !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_read() {
        assert_eq!(Holder::read("server 12\n"), Some(Holder { owner: Owner::Server, pid: 12 }));
        assert_eq!(Holder::read("command 7"), Some(Holder { owner: Owner::Command, pid: 7 }));
        for text in ["", "server", "server x", "server -1", "server 0", "king 3"] {
            assert_eq!(Holder::read(text), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_second_server_is_refused_by_the_first_ones_pid() {
        let folder = tempfile::tempdir().expect("a folder");
        let longest = Duration::from_secs(60);
        let first = Ownership::take_for_server(folder.path(), longest).await.expect("it is free");
        let error = Ownership::take_for_server(folder.path(), longest).await.expect_err("it is taken");
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        Ownership::take_for_server(folder.path(), longest).await.expect("it is free again");
    }

    #[tokio::test]
    async fn a_server_waits_for_a_command_and_commands_for_each_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        let owned = Ownership::try_take(path, Owner::Command).expect("it can be locked").expect("it is free");
        let brief = Duration::from_millis(1);
        assert!(Ownership::take_for_server(path, brief).await.is_err(), "the command is not done");
        let server = Ownership::take_for_server(path, Duration::from_secs(60));
        let (server, ()) = tokio::join!(server, async { drop(owned) });
        server.expect("the command is done");

        let (first, second) =
            (CommandGuard::take(path).await.expect("shared"), CommandGuard::take(path).await.expect("shared"));
        let (waited, ()) =
            tokio::join!(poll_lock(&first.file, FlockOperation::NonBlockingLockExclusive, None), async {
                drop(second)
            });
        waited.expect("the other is gone");
    }
}
