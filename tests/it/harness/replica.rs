//! A Postgres of a test's own with a real streaming replica, which the test delays, pauses, kills and starts again.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tertulia::{
    config::Config,
    store::{self, embedded::EmbeddedCluster},
};

use super::{Database, binary::data_dir, connect, until};

const PORT: u16 = 5432;

/// The primary, as the server would run it for itself.
pub struct Primary {
    cluster: EmbeddedCluster,
    dir: tempfile::TempDir,
}

/// Its replica.
pub struct Replica {
    folder: PathBuf,
    bin: PathBuf,
    owner: (u32, u32),
    server: Option<Child>,
}

impl Primary {
    /// A migrated one, with nothing in it.
    pub async fn start() -> Self {
        let dir = data_dir();
        let config = Config::default().database;
        let cluster = EmbeddedCluster::start(dir.path(), &config).await.unwrap();
        let connections = store::Connections::from_config(&config, Some(&cluster)).unwrap();
        store::migrate(&connections.owner.unwrap()).await.unwrap();
        Self { cluster, dir }
    }

    /// Its database.
    pub fn database(&self) -> Database {
        Database::at(self.cluster.socket_dir(), self.cluster.port())
    }

    /// A replica that follows it.
    pub async fn replica(&self) -> Replica {
        let pid = fs::read_to_string(self.dir.path().join("postgres/postmaster.pid")).unwrap();
        let program = fs::read_link(format!("/proc/{}/exe", pid.lines().next().unwrap())).unwrap();
        let socket_dir = self.cluster.socket_dir();
        let owner = fs::metadata(socket_dir).map(|folder| (folder.uid(), folder.gid())).unwrap();
        let folder = self.dir.path().join("replica");
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(owner.0), Some(owner.1)).unwrap();
        let mut replica = Replica { folder, bin: program.parent().unwrap().to_owned(), owner, server: None };
        let mut copy = replica.command("pg_basebackup");
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--username=postgres", "--pgdata"]);
        copy.arg(replica.data()).arg("--host").arg(socket_dir).arg(format!("--port={}", self.cluster.port()));
        let copied = copy.output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        replica.start().await;
        replica
    }

    /// Stops it.
    pub async fn stop(self) {
        self.cluster.stop().await.unwrap();
    }
}

impl Replica {
    /// As the application.
    pub fn user_url(&self) -> String {
        self.database().direct_user_url()
    }

    /// Starts it where it was stopped, and waits until it takes connections.
    pub async fn start(&mut self) {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        for setting in ["listen_addresses=", "max_connections=300", "fsync=off", "wal_retrieve_retry_interval=100ms"] {
            command.args(["-c", setting]);
        }
        command.arg("-c").arg(format!("unix_socket_directories={}", self.folder.display()));
        command.arg("-c").arg(format!("port={PORT}"));
        let log = fs::File::create(self.folder.join("log")).unwrap();
        self.server = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let url = self.database().superuser_url();
        until("the replica takes connections", async || {
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.ok().map(drop)
        })
        .await;
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = kill_process(Pid::from_child(&server), Signal::QUIT);
            let _ = server.wait();
        }
    }

    /// Has it replay nothing, while it answers.
    pub async fn pause(&self) {
        self.run("SELECT pg_wal_replay_pause()").await;
        until("the replica is paused", async || {
            let sql = connect(&self.database().superuser_url()).await;
            let row = sql.query_one("SELECT pg_get_wal_replay_pause_state()", &[]).await.unwrap();
            (row.get::<_, &str>(0) == "paused").then_some(())
        })
        .await;
    }

    /// Has it replay again.
    pub async fn resume(&self) {
        self.run("SELECT pg_wal_replay_resume()").await;
    }

    /// Has it replay each commit so many milliseconds after it was made.
    pub async fn delay(&self, milliseconds: u32) {
        self.run(&format!("ALTER SYSTEM SET recovery_min_apply_delay = {milliseconds}")).await;
        self.run("SELECT pg_reload_conf()").await;
    }

    async fn run(&self, sql: &str) {
        connect(&self.database().superuser_url()).await.batch_execute(sql).await.unwrap();
    }

    fn database(&self) -> Database {
        Database::at(&self.folder, PORT)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.uid(self.owner.0).gid(self.owner.1).process_group(0).current_dir(Path::new("/")).env("LC_ALL", "C");
        command
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}
