//! The real binary: run as a command, or started as a server with a private Postgres in a data directory of its own.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, openpt, ptsname, unlockpt},
};
use serde_json::Value;

use super::{Client, HIGH_LIMITS, weights_dir};

/// Longest that a start may take, the making of a new database included.
const START_WAIT: Duration = Duration::from_secs(120);

/// A folder that Postgres's own user may enter, removed at the end.
pub fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("tertulia-it-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The binary with nothing of the caller's own environment that could change what it does.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tertulia"));
    without_settings(&mut command).args(arguments).env("TERTULIA_RETRIEVAL_WEIGHTS_DIR", weights_dir());
    command
}

/// Keeps from `command` every variable that the server reads: `DATABASE_URL` and all that start with `TERTULIA_`.
pub fn without_settings(command: &mut Command) -> &mut Command {
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name == "DATABASE_URL" || name.as_encoded_bytes().starts_with(b"TERTULIA_")) {
        command.env_remove(name);
    }
    command
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Runs a command to its end.
pub fn run(arguments: &[&str]) -> Outcome {
    outcome_of(command(arguments))
}

/// Runs a prepared command to its end.
pub fn outcome_of(mut command: Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs a command that must end well.
pub fn run_well(arguments: &[&str]) -> Outcome {
    let outcome = run(arguments);
    assert_eq!(outcome.code, 0, "{arguments:?}: {outcome:?}");
    outcome
}

/// Runs a prepared command to its end with a terminal as its standard output; gives what that was sent.
pub fn sent_to_terminal(mut command: Command) -> String {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let screen = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(screen).spawn().unwrap();
    // Our end of what it writes to; once the child has ended too, reading fails.
    drop(command);
    let (mut sent, mut bytes) = (Vec::new(), [0; 4_096]);
    let mut terminal = std::fs::File::from(terminal);
    while let Ok(read @ 1..) = terminal.read(&mut bytes) {
        sent.extend_from_slice(&bytes[..read]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8(sent).unwrap()
}

/// A server in a process of its own, killed when the test ends.
pub struct Serve {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    data_dir: PathBuf,
}

impl Serve {
    /// Starts a server on `data_dir` and waits until it is ready.
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// The same with some settings of its own, by their environment variables.
    pub fn start_with(data_dir: &Path, settings: &[(&'static str, String)]) -> Self {
        let mut command = command(&["serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir.to_str().unwrap()]);
        let mut child = command
            .env("TERTULIA_LOG_FORMAT", "json")
            .envs(HIGH_LIMITS.map(|name| (name, "1000000")))
            .envs(settings.iter().cloned())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let logs = BufReader::new(child.stderr.take().unwrap());
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let mut told = Vec::new();
            for line in logs.lines().map_while(Result::ok) {
                if let Ok(entry) = serde_json::from_str::<Value>(&line)
                    && entry["message"] == "ready"
                {
                    let address = entry["address"].as_str().unwrap().parse().unwrap();
                    let _ = send.send(Ok(address));
                }
                told.push(line);
            }
            let _ = send.send(Err(told.join("\n")));
        });
        let address: SocketAddr = receive
            .recv_timeout(START_WAIT)
            .expect("the server took too long to start")
            .unwrap_or_else(|told| panic!("the server ended:\n{told}"));
        Self { child, address, data_dir: data_dir.to_owned() }
    }

    /// `http://…` of the server.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client without a key.
    pub fn client(&self) -> Client {
        Client::new(self.address, None)
    }

    /// Ends the server at once, as a crash would; its Postgres goes on without it.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends the private Postgres at once, all its processes.
    pub fn kill_postgres(&self) {
        let pid = postmaster_pid(&self.data_dir).expect("postgres runs");
        kill_process(pid, Signal::KILL).unwrap();
    }

    /// Stops the server with SIGTERM; gives its exit code.
    pub fn stop(mut self) -> i32 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // What is left behind by a failed test: the server first, then the Postgres it leaves.
        if self.child.try_wait().ok().flatten().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            stop_orphan(&self.data_dir);
        }
    }
}

/// Stops the Postgres that a killed server left behind, if there is one.
pub fn stop_orphan(data_dir: &Path) {
    if let Some(pid) = postmaster_pid(data_dir) {
        let _ = kill_process(pid, Signal::QUIT);
    }
}

fn postmaster_pid(data_dir: &Path) -> Option<Pid> {
    let mut text = String::new();
    std::fs::File::open(data_dir.join("postgres/postmaster.pid")).ok()?.read_to_string(&mut text).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}
