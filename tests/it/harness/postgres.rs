//! One Postgres for all tests of the run, started by the server's own code; a migrated database for each test.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tertulia::{
    config::Config,
    store::{self, embedded::EmbeddedCluster},
};

use super::{binary::data_dir, connect, pgbouncer};

/// Logs in to make databases.
const SUPERUSER: &str = "postgres";
/// The cluster's own database, migrated once: the template of every test's.
const TEMPLATE: &str = "tertulia";

/// The run's Postgres.
struct Cluster {
    socket_dir: PathBuf,
    port: u16,
    /// Folder of the socket, and port, of the pooler that the pools go through, if they do.
    pooler: Option<(PathBuf, u16)>,
    databases: AtomicUsize,
    // CREATE DATABASE needs its template to itself.
    create: tokio::sync::Mutex<()>,
    _janitor: Child,
}

static CLUSTER: OnceLock<Cluster> = OnceLock::new();

/// A database of its own, dropped with the cluster.
#[derive(Debug, Clone)]
pub struct Database {
    name: String,
    socket_dir: String,
    port: u16,
    pooler: Option<(PathBuf, u16)>,
}

impl Database {
    /// A new migrated database.
    pub async fn create() -> Self {
        let cluster = tokio::task::spawn_blocking(|| CLUSTER.get_or_init(start)).await.unwrap();
        let name = format!("test_{}", cluster.databases.fetch_add(1, Ordering::SeqCst));
        let socket_dir = cluster.socket_dir.display().to_string();
        let database = Self { name, socket_dir, port: cluster.port, pooler: cluster.pooler.clone() };
        let _one_at_a_time = cluster.create.lock().await;
        let sql = connect(&Self { name: "postgres".into(), ..database.clone() }.url(SUPERUSER)).await;
        let create = format!("CREATE DATABASE {} TEMPLATE {TEMPLATE} OWNER {}", database.name, database.owner());
        sql.batch_execute(&create).await.unwrap();
        database
    }

    /// The database of another cluster, which somebody else runs.
    pub fn at(socket_dir: &Path, port: u16) -> Self {
        Self { name: TEMPLATE.into(), socket_dir: socket_dir.display().to_string(), port, pooler: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder of the cluster's socket.
    pub fn socket_dir(&self) -> &str {
        &self.socket_dir
    }

    /// Port in the socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The login that owns the tables.
    pub fn owner(&self) -> &'static str {
        "tertulia_owner"
    }

    /// The login that row security holds.
    pub fn user(&self) -> &'static str {
        "tertulia_user"
    }

    /// The login that sees all tenants.
    pub fn service(&self) -> &'static str {
        "tertulia_svc"
    }

    /// As the owner.
    pub fn owner_url(&self) -> String {
        self.url(self.owner())
    }

    /// As the application, through the pooler if there is one.
    pub fn user_url(&self) -> String {
        self.pooled_url(self.user())
    }

    /// As the service, through the pooler if there is one.
    pub fn service_url(&self) -> String {
        self.pooled_url(self.service())
    }

    /// As the application, past a pooler.
    pub fn direct_user_url(&self) -> String {
        self.url(self.user())
    }

    /// As the superuser, whom neither row security nor triggers need hold.
    pub fn superuser_url(&self) -> String {
        self.url(SUPERUSER)
    }

    fn pooled_url(&self, user: &str) -> String {
        match &self.pooler {
            Some((folder, port)) => self.url_at(user, &folder.display().to_string(), *port),
            None => self.url(user),
        }
    }

    fn url(&self, user: &str) -> String {
        self.url_at(user, &self.socket_dir, self.port)
    }

    fn url_at(&self, user: &str, folder: &str, port: u16) -> String {
        format!("postgres://{user}@{}:{port}/{}", folder.replace('/', "%2F"), self.name)
    }
}

/// Starts the cluster on a runtime of its own, which outlives those of the tests.
fn start() -> Cluster {
    let dir = data_dir().keep();
    let (send, receive) = std::sync::mpsc::channel();
    let (janitor, folder) = (janitor(&dir), dir.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let config = Config::default().database;
            let cluster = EmbeddedCluster::start(&dir, &config).await.unwrap();
            let connections = store::Connections::from_config(&config, Some(&cluster)).unwrap();
            store::migrate(&connections.owner.unwrap()).await.unwrap();
            send.send((cluster.socket_dir().to_owned(), cluster.port())).unwrap();
            std::future::pending::<()>().await;
        });
    });
    let (socket_dir, port) = receive.recv().expect("the tests' postgres did not start");
    let pooler = pgbouncer::start(&folder, &socket_dir, port);
    Cluster { socket_dir, port, pooler, databases: AtomicUsize::new(0), create: Default::default(), _janitor: janitor }
}

/// Stops Postgres and the pooler and removes its folder once this process is gone, however it ended: then the pipe closes.
fn janitor(dir: &Path) -> Child {
    let script = "read -r _; kill -TERM \"$(cat \"$1/pgbouncer/pgbouncer.pid\" 2>/dev/null)\" 2>/dev/null; \
        kill -QUIT \"$(head -n 1 \"$1/postgres/postmaster.pid\")\" 2>/dev/null; sleep 0.5; rm -rf \"$1\"";
    // In a group of its own: Ctrl-C at the terminal goes to the tests' whole group.
    Command::new("sh").args(["-c", script, "sh"]).arg(dir).stdin(Stdio::piped()).process_group(0).spawn().unwrap()
}
