//! The Postgres process: started, watched, started again if it dies, stopped; and what an earlier one has left behind.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Child, time::Instant};
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use super::{ClusterError, SUPERUSER, account::Account, folders, programs::Programs, settings};
use crate::store::address::Address;

/// How often a process or a socket is looked at while waiting for it.
const PAUSE: Duration = Duration::from_millis(20);
/// Pauses between attempts to bring a dead Postgres back: from, to.
const RESTART_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Time for a stop in which Postgres writes a checkpoint, before it is told to leave without.
const FAST_STOP_WAIT: Duration = Duration::from_secs(60);
/// Time for a stop without a checkpoint, before the process is killed.
const IMMEDIATE_STOP_WAIT: Duration = Duration::from_secs(10);
/// How long memory of an earlier Postgres may be in use by processes that cannot be seen.
const SHARED_MEMORY_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for a new connection to the socket.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How often a long wait is told.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// How much of the log is shown when Postgres does not start.
const LOG_TAIL_BYTES: u64 = 2_000;

/// Everything that is needed to start Postgres on a cluster, again and again.
#[derive(Debug)]
pub(super) struct Postmaster {
    pub(super) data_dir: PathBuf,
    /// The cluster, as an absolute path without links.
    pub(super) folder: PathBuf,
    pub(super) socket_dir: PathBuf,
    pub(super) account: Account,
    pub(super) programs: Programs,
    pub(super) connections_max: usize,
}

/// A process that is told to stop if it is forgotten: where a start is given up, or a runtime ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // `id` is none once the end was waited for.
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::INT);
        }
    }
}

impl Running {
    fn pid(&self) -> Option<Pid> {
        self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed()))
    }
}

impl Postmaster {
    /// Starts Postgres, waits until it takes connections, and watches over it until `stopping` is cancelled. The inner
    /// future is to be spawned; it gives back once Postgres has stopped.
    pub(super) async fn start(
        self: Arc<Self>,
        stopping: CancellationToken,
    ) -> Result<impl Future<Output = Result<(), ClusterError>> + Send + 'static, ClusterError> {
        let running = self.launch().await?;
        Ok(self.watch(running, stopping))
    }

    pub(super) fn address(&self, user: &str, database: &str) -> Address {
        Address::local(&self.socket_dir, folders::PORT, user, database, CONNECT_WAIT)
    }

    async fn watch(self: Arc<Self>, mut running: Running, stopping: CancellationToken) -> Result<(), ClusterError> {
        loop {
            tokio::select! {
                status = running.0.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    tracing::warn!(status, "the private postgres ended by itself; starting it again");
                }
                () = stopping.cancelled() => return stop(running).await,
            }
            running = tokio::select! {
                running = self.relaunch() => running,
                // An attempt that is given up tells its Postgres to stop; this waits until it has.
                () = stopping.cancelled() => return clear_the_way(&self.folder).await,
            };
            tracing::info!("the private postgres is back");
        }
    }

    async fn relaunch(&self) -> Running {
        let mut pause = RESTART_PAUSES.0;
        loop {
            match self.launch().await {
                Ok(running) => return running,
                Err(error) => {
                    tracing::error!(%error, "the private postgres does not start; trying again in {pause:?}");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESTART_PAUSES.1);
        }
    }

    /// Clears away what an earlier Postgres left, starts one, and waits until it takes connections.
    async fn launch(&self) -> Result<Running, ClusterError> {
        let start = Instant::now();
        loop {
            clear_the_way(&self.folder).await?;
            let (log_path, log) = folders::open_log(&self.data_dir)?;
            let log_len = log.metadata().map_err(|error| ClusterError::folder("read", &log_path, error))?.len();
            let mut running = self.spawn(log)?;
            match self.wait_until_ready(&mut running).await? {
                None => return Ok(running),
                Some(status) => {
                    let told = read_tail(&log_path, log_len);
                    // Processes of an earlier Postgres outlive it for a moment, and need not be visible to us.
                    let is_shared_memory_in_use = told.contains("pre-existing shared memory block");
                    if is_shared_memory_in_use && start.elapsed() < SHARED_MEMORY_WAIT {
                        tokio::time::sleep(PAUSE * 10).await;
                        continue;
                    }
                    return Err(ClusterError::Start { status: status.to_string(), log: log_path, told });
                }
            }
        }
    }

    fn spawn(&self, log: File) -> Result<Running, ClusterError> {
        let program = self.programs.path("postgres");
        let failed = |error| ClusterError::folder("run", &program, error);
        let mut command = std::process::Command::new(&program);
        command.arg("-D").arg(&self.folder);
        for (name, value) in settings::lines(&self.socket_dir, self.connections_max, settings::memory_bytes()) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // A Ctrl-C in the terminal reaches the foreground process group; Postgres is stopped after the server is done.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.current_dir(&self.folder).env("LC_ALL", "C").stdin(Stdio::null());
        for secret in ["DATABASE_URL", "TERTULIA_DATABASE_SERVICE_URL", "TERTULIA_DATABASE_DIRECT_URL"] {
            command.env_remove(secret);
        }
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        self.account.run_as(&mut command);
        tokio::process::Command::from(command).spawn().map(Running).map_err(failed)
    }

    /// None once Postgres takes connections; how it ended, if it did that instead.
    async fn wait_until_ready(&self, running: &mut Running) -> Result<Option<ExitStatus>, ClusterError> {
        let address = self.address(SUPERUSER, "postgres");
        let mut told_at = Instant::now();
        loop {
            if let Some(status) =
                running.0.try_wait().map_err(|error| ClusterError::folder("watch", &self.folder, error))?
            {
                return Ok(Some(status));
            }
            match address.connect().await {
                Ok(_) => return Ok(None),
                Err(error) => match error.code() {
                    // Nobody is there yet, or replays what was not yet in the files.
                    None | Some(&SqlState::CANNOT_CONNECT_NOW) if told_at.elapsed() < TELL_AFTER => {}
                    None | Some(&SqlState::CANNOT_CONNECT_NOW) => {
                        told_at = Instant::now();
                        tracing::info!(%error, "still waiting for the private postgres, which may be replaying its log");
                    }
                    Some(_) => return Err(error.into()),
                },
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Stops Postgres after a checkpoint; if that takes too long, without one, which costs time at the next start only.
async fn stop(mut running: Running) -> Result<(), ClusterError> {
    for (signal, longest) in
        [(Signal::INT, FAST_STOP_WAIT), (Signal::QUIT, IMMEDIATE_STOP_WAIT), (Signal::KILL, IMMEDIATE_STOP_WAIT)]
    {
        if let Some(pid) = running.pid() {
            let _ = kill_process(pid, signal);
        }
        if tokio::time::timeout(longest, running.0.wait()).await.is_ok() {
            return Ok(());
        }
        tracing::warn!(?signal, "the private postgres does not stop");
    }
    Err(ClusterError::Refused("Postgres does not stop, not even when killed".into()))
}

/// Ends what an earlier server left running on the cluster in `folder`: its whole Postgres after the server was killed, or
/// parts of a Postgres that was killed itself. Data is safe from any signal here; Postgres recovers at its next start.
async fn clear_the_way(folder: &Path) -> Result<(), ClusterError> {
    let start = Instant::now();
    let mut told = None;
    loop {
        let left = processes_on(folder);
        if left.is_empty() {
            break;
        }
        let postmaster = read_pid_file(folder).filter(|pid| left.contains(pid));
        let step = match start.elapsed() {
            waited if waited < FAST_STOP_WAIT => 0,
            waited if waited < FAST_STOP_WAIT + IMMEDIATE_STOP_WAIT => 1,
            waited if waited < FAST_STOP_WAIT + 2 * IMMEDIATE_STOP_WAIT => 2,
            _ => {
                return Err(ClusterError::Refused(format!(
                    "processes of an earlier Postgres on {} do not end: {}",
                    folder.display(),
                    left.iter().map(|pid| pid.as_raw_pid().to_string()).collect::<Vec<_>>().join(", ")
                )));
            }
        };
        if told != Some((step, postmaster)) {
            told = Some((step, postmaster));
            tracing::warn!(processes = left.len(), "ending what is left of an earlier private postgres");
            let signal = [Signal::INT, Signal::QUIT, Signal::KILL][step];
            match postmaster {
                // It ends the others.
                Some(pid) if step < 2 => {
                    let _ = kill_process(pid, signal);
                }
                // Backends without a postmaster: SIGINT would only cancel their statements.
                _ => {
                    let signal = if step == 0 { Signal::TERM } else { signal };
                    for pid in left {
                        let _ = kill_process(pid, signal);
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    remove_reused_pid_file(folder);
    Ok(())
}

/// Postgres refuses to start if the pid in its pid file is alive. If that is by now another program's, which was just seen
/// not to run on this cluster, the file is removed. In every other case it stays: through it, Postgres checks that nobody
/// still uses the shared memory.
fn remove_reused_pid_file(folder: &Path) {
    let Some(pid) = read_pid_file(folder) else { return };
    let can_see_processes = Path::new("/proc/self/cwd").exists();
    if can_see_processes && rustix::process::test_kill_process(pid).is_ok() {
        tracing::warn!(pid = pid.as_raw_pid(), "removing a pid file of postgres whose pid is another program's now");
        let _ = std::fs::remove_file(folder.join("postmaster.pid"));
    }
}

/// The first line of `postmaster.pid`.
fn read_pid_file(folder: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(folder.join("postmaster.pid")).ok()?;
    // A postmaster writes its pid; a single-user session writes it negated.
    Pid::from_raw(text.lines().next()?.trim().parse::<i32>().ok()?.checked_abs()?)
}

/// Where the running Postgres on the cluster in `folder` has its socket: folder and port.
pub(super) fn read_socket(folder: &Path) -> Option<(PathBuf, u16)> {
    let text = std::fs::read_to_string(folder.join("postmaster.pid")).ok()?;
    parse_socket(&text)
}

fn parse_socket(pid_file: &str) -> Option<(PathBuf, u16)> {
    // Lines: pid, data directory, start time, port, socket directory, address, shared memory key, status.
    let mut lines = pid_file.lines().skip(3);
    let port = lines.next()?.trim().parse().ok()?;
    let socket_dir = lines.next().filter(|line| !line.is_empty())?;
    Some((socket_dir.into(), port))
}

/// All Postgres processes on the cluster in `folder`: they work in that folder. Empty where there is no /proc; Postgres's
/// own checks are all there is then.
fn processes_on(folder: &Path) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let is_on_folder = |process: &Path| {
        let is_postgres = std::fs::read_link(process.join("exe"))
            .is_ok_and(|exe| exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres")));
        is_postgres && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == folder)
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
            is_on_folder(&entry.path()).then_some(pid)
        })
        .collect()
}

/// What was written to the log since it had `from` bytes, the last of it.
fn read_tail(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(len.saturating_sub(LOG_TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_read_from_the_pid_file() {
        let text = "4242\n/srv/data/postgres\n1700000000\n5432\n/srv/data/run\n\n  5432001   7\nready   \n";
        assert_eq!(parse_socket(text), Some(("/srv/data/run".into(), 5432)));
        for bad in ["", "4242\n", "1\n/d\n2\nx\n/s\n", "1\n/d\n2\n5432\n\n"] {
            assert_eq!(parse_socket(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_pid_file_is_removed_only_if_its_pid_is_another_programs() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("postmaster.pid");
        // This very test is a program that is not Postgres.
        std::fs::write(&file, format!("{}\n", std::process::id())).expect("it is writable");
        remove_reused_pid_file(folder.path());
        assert!(!file.exists());
        // No process has the highest number that fits.
        std::fs::write(&file, format!("{}\n", i32::MAX)).expect("it is writable");
        remove_reused_pid_file(folder.path());
        assert!(file.exists());
    }

    #[test]
    fn a_process_that_is_not_postgres_is_never_taken_for_one() {
        let here = std::env::current_dir().expect("there is one");
        assert!(processes_on(&here).is_empty());
    }
}
