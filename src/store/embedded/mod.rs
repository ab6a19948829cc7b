//! The private Postgres: a cluster that the server makes, runs and stops by itself, for who has not named another.
//!
//! It is the system's Postgres on a folder in the data directory, reached through a Unix socket only, without passwords:
//! who may enter the socket's folder (the user that runs Postgres, and root) may connect. The schema is not made here.
//!
//! Invariant: at most one process runs the cluster of a data directory, and nothing that was committed is lost, whichever
//! of the processes is killed. After a `kill -9` of the server, the next start ends the Postgres that was left over; after
//! one of Postgres, the server starts it again.

mod account;
mod bootstrap;
mod folders;
mod lock;
mod postmaster;
mod programs;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::programs::{Programs, find_programs};
use self::{
    account::Account,
    lock::{CommandGuard, Owner, Ownership},
    postmaster::Postmaster,
    programs::OldData,
};
use super::{Connections, StoreError, address::Address};
use crate::config::DatabaseConfig;

/// Makes roles and extensions; nothing else connects as it.
const SUPERUSER: &str = "postgres";
/// The database in the cluster.
const DATABASE: &str = "tertulia";
/// Connections beyond the pools': commands beside the server, listening, upkeep, migrations.
const CONNECTIONS_SPARE: usize = 50;
/// Longest that a server waits for commands that use the cluster, or a command for a server that starts.
const OTHERS_WAIT: Duration = Duration::from_secs(60);
/// How often a cluster that another process starts is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// What keeps a private Postgres from running.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no Postgres on this machine, or none in the folder that was named.
    #[error(
        "no Postgres programs (initdb, postgres) {}: install PostgreSQL with pgvector (Debian, Ubuntu: `apt-get install \
         postgresql-15 postgresql-15-pgvector`; Fedora: `dnf install postgresql-server pgvector`; macOS: `brew install \
         postgresql@17 pgvector`), name their folder in database.bin_dir (TERTULIA_DATABASE_BIN_DIR), or set DATABASE_URL",
        place(.bin_dir.as_deref())
    )]
    NotInstalled {
        /// The folder that was named.
        bin_dir: Option<PathBuf>,
    },
    /// The Postgres that is there cannot hold the schema.
    #[error("{found} is too old: install PostgreSQL {major_min} or later with pgvector, or set DATABASE_URL")]
    TooOld {
        /// The newest that was found.
        found: String,
        /// The oldest that will do.
        major_min: u32,
    },
    /// Postgres is there without pgvector.
    #[error(
        "{programs} has no pgvector: install it (Debian, Ubuntu: `apt-get install postgresql-{}-pgvector`; Fedora: `dnf \
         install pgvector`; macOS: `brew install pgvector`) and start again",
        programs.major()
    )]
    NoPgvector {
        /// Which Postgres.
        programs: Programs,
    },
    /// The data was written by a major version that is not there.
    #[error(
        "the data in {} was written by PostgreSQL {major}, and there is only {found}: install PostgreSQL {major} (Debian, \
         Ubuntu: `apt-get install postgresql-{major} postgresql-{major}-pgvector`), or move the data to the newer version \
         with pg_upgrade or pg_dump, or choose another --data-dir",
        folder.display()
    )]
    OtherVersion {
        /// The cluster.
        folder: PathBuf,
        /// Its major version.
        major: u32,
        /// What is installed.
        found: String,
    },
    /// Another server has the data directory.
    #[error(
        "the data directory {} is in use by another tertulia (process {pid}): stop that one, or choose another --data-dir",
        data_dir.display()
    )]
    InUse {
        /// The data directory.
        data_dir: PathBuf,
        /// The process, where it is known.
        pid: String,
    },
    /// A folder, file or program cannot be used.
    #[error("cannot {verb} {} (is that folder meant? --data-dir names it)", path.display())]
    Folder {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Something is not as it has to be; the text says what to do.
    #[error("{0}")]
    Refused(String),
    /// initdb failed, and left nothing behind.
    #[error("initdb could not create a cluster: {told}")]
    Initdb {
        /// What it said.
        told: String,
    },
    /// Postgres ended instead of taking connections.
    #[error("Postgres did not start ({status}); the end of {}:\n{told}", log.display())]
    Start {
        /// How the process ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of what it said.
        told: String,
    },
    /// The cluster that another process runs does not get ready.
    #[error("the private Postgres of {} is run by another process and does not get ready", data_dir.display())]
    NotReady {
        /// The data directory.
        data_dir: PathBuf,
        /// The last attempt to connect.
        #[source]
        source: Option<StoreError>,
    },
    /// A connection to the cluster failed.
    #[error("the private Postgres cannot be set up")]
    Store(#[from] StoreError),
}

fn place(bin_dir: Option<&Path>) -> String {
    bin_dir.map_or_else(|| "on this machine".into(), |folder| format!("in {}", folder.display()))
}

impl ClusterError {
    fn folder(verb: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Folder { verb, path: path.to_owned(), source }
    }
}

/// A private Postgres that takes connections.
#[derive(Debug)]
pub struct EmbeddedCluster {
    socket_dir: PathBuf,
    port: u16,
    /// None where another process runs the cluster.
    supervisor: Option<Supervisor>,
    /// Held by commands.
    guard: Option<CommandGuard>,
}

/// The watch over Postgres in the process that runs it. Forgotten without a stop, it has Postgres stop in the background.
#[derive(Debug)]
struct Supervisor {
    watch: JoinHandle<Result<(), ClusterError>>,
    stop: DropGuard,
    _ownership: Ownership,
}

impl EmbeddedCluster {
    /// Makes the cluster of `data_dir` if there is none, starts it, and watches over it until it is stopped. For a server;
    /// waits for commands that use the cluster just now.
    ///
    /// # Errors
    /// What keeps Postgres from running, with what to do about it.
    pub async fn start(data_dir: &Path, database: &DatabaseConfig) -> Result<Self, ClusterError> {
        let data_dir = folders::open_data_dir(data_dir)?;
        let ownership = Ownership::take_for_server(&data_dir, OTHERS_WAIT).await?;
        Self::start_owned(&data_dir, database, ownership, None, true).await
    }

    /// The cluster of `data_dir` for the length of a command: the one that runs, or one that is started, and stopped again
    /// when no command uses it any more.
    ///
    /// # Errors
    /// What keeps Postgres from running, with what to do about it.
    pub async fn connect_or_start(data_dir: &Path, database: &DatabaseConfig) -> Result<Self, ClusterError> {
        Self::connect_or_start_with(data_dir, database, true).await
    }

    /// The same, but with its roles, databases and extensions as they are, whether a server could use them or not.
    ///
    /// # Errors
    /// As [`EmbeddedCluster::connect_or_start`].
    pub async fn connect_or_start_as_it_is(data_dir: &Path, database: &DatabaseConfig) -> Result<Self, ClusterError> {
        Self::connect_or_start_with(data_dir, database, false).await
    }

    async fn connect_or_start_with(
        data_dir: &Path,
        database: &DatabaseConfig,
        may_change: bool,
    ) -> Result<Self, ClusterError> {
        let data_dir = folders::open_data_dir(data_dir)?;
        let guard = CommandGuard::take(&data_dir).await?;
        let start = Instant::now();
        loop {
            // Whoever has the ownership may be starting, may be stopping, or may be killed any moment.
            if let Ok(ownership) = Ownership::try_take(&data_dir, Owner::Command)? {
                return Self::start_owned(&data_dir, database, ownership, Some(guard), may_change).await;
            }
            let socket = postmaster::read_socket(&data_dir.join("postgres"));
            let failed = match socket {
                Some((socket_dir, port)) => {
                    let address =
                        Address::local(&socket_dir, port, "tertulia_owner", DATABASE, database.connect_timeout);
                    match address.connect().await {
                        Ok(_) => return Ok(Self { socket_dir, port, supervisor: None, guard: Some(guard) }),
                        Err(error) => Some(error),
                    }
                }
                None => None,
            };
            if start.elapsed() > OTHERS_WAIT {
                return Err(ClusterError::NotReady { data_dir, source: failed });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn start_owned(
        data_dir: &Path,
        database: &DatabaseConfig,
        ownership: Ownership,
        guard: Option<CommandGuard>,
        may_change: bool,
    ) -> Result<Self, ClusterError> {
        let (path, settings) = (data_dir.to_owned(), database.clone());
        // initdb takes seconds. The ownership goes along: if this future is dropped, nobody else starts before initdb ended.
        let prepared =
            tokio::task::spawn_blocking(move || prepare(&path, &settings).map(|made| (made, ownership))).await;
        let (postmaster, ownership) = prepared
            .map_err(|error| ClusterError::Refused(format!("the cluster could not be prepared: {error}")))??;
        let socket_dir = postmaster.socket_dir.clone();
        let postmaster = Arc::new(postmaster);
        let stopping = CancellationToken::new();
        let watch = tokio::runtime::Handle::current().spawn(postmaster.clone().start(stopping.clone()).await?);
        let supervisor = Supervisor { watch, stop: stopping.drop_guard(), _ownership: ownership };
        let cluster = Self { socket_dir, port: folders::PORT, supervisor: Some(supervisor), guard };
        if may_change && let Err(error) = bootstrap::run(&postmaster).await {
            if let Err(error) = cluster.stop().await {
                tracing::warn!(%error, "the private postgres did not stop");
            }
            return Err(error);
        }
        Ok(cluster)
    }

    /// The folder of the cluster's socket, which only the user that runs Postgres, and root, may enter.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The port in the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How the pools and the owner reach the cluster.
    pub fn connections(&self, connect_timeout: Duration) -> Connections {
        let address = |user| Address::local(&self.socket_dir, self.port, user, DATABASE, connect_timeout);
        Connections {
            user: address("tertulia_user"),
            service: address("tertulia_svc"),
            owner: Some(address("tertulia_owner")),
            replica: None,
        }
    }

    /// As the superuser, on any database of the cluster.
    pub fn superuser(&self, database: &str, connect_timeout: Duration) -> Address {
        Address::local(&self.socket_dir, self.port, SUPERUSER, database, connect_timeout)
    }

    /// Stops Postgres, if this process runs it; a command first waits for the other commands that use it.
    ///
    /// # Errors
    /// If it does not stop.
    pub async fn stop(self) -> Result<(), ClusterError> {
        let Some(supervisor) = self.supervisor else { return Ok(()) };
        if let Some(guard) = &self.guard {
            guard.wait_for_others(OTHERS_WAIT).await;
        }
        drop(supervisor.stop);
        supervisor
            .watch
            .await
            .map_err(|error| ClusterError::Refused(format!("the watch over Postgres ended: {error}")))?
    }
}

/// Whether a cluster could be made in `data_dir`, which need not exist; changes nothing.
///
/// # Errors
/// What is in the way, with what to do about it.
pub fn check_data_dir(data_dir: &Path) -> Result<(), ClusterError> {
    folders::check_way(data_dir, Account::choose(&data_dir.join("postgres"))?)
}

/// Everything that Postgres needs to start: programs, a cluster, a folder for the socket. Blocks.
fn prepare(data_dir: &Path, database: &DatabaseConfig) -> Result<Postmaster, ClusterError> {
    let folder = data_dir.join("postgres");
    let account = Account::choose(&folder)?;
    let old = OldData::look(&folder)?;
    let programs = programs::find_programs_for(database.bin_dir.as_deref(), old.as_ref())?;
    folders::let_in(data_dir, account)?;
    folders::init(&folder, account, &programs)?;
    let socket_dir = folders::open_socket_dir(data_dir, account)?;
    let connections_max = database.user_connections_max + database.service_connections_max + CONNECTIONS_SPARE;
    Ok(Postmaster { data_dir: data_dir.to_owned(), folder, socket_dir, account, programs, connections_max })
}
