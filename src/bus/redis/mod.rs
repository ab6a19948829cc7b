//! The way to Redis: connected in the background, and never waited for when it is away.
//!
//! One task holds the connection for commands. While it has none, every command fails at once: that is the circuit breaker.
//! It opens when the connection is lost, when the server says that it no longer takes writes, or after [`FAILURES_MAX`]
//! commands in a row without an answer. Then the task alone tries again, with growing pauses that are drawn at random, and the
//! first connection that answers closes it. With Sentinels it asks them each time who takes writes now.
//!
//! Commands are few and small, so one connection serves them all, each waiting for its answer and for none else's (for a
//! Cluster one connection for each node). A subscription needs a connection of its own: `Target::open` makes another.
//!
//! Invariant: [`Redis::query`] takes no longer than `redis.response_timeout`, and no time while the breaker is open.

pub mod advice;
pub(super) mod lease;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue as _,
    IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo, ServerErrorKind, TlsMode, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster::{ClusterClient, ClusterClientBuilder},
    cluster_async::ClusterConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};
use arc_swap::ArcSwapOption;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use crate::{
    config::RedisConfig,
    redis_url::{RedisUrl, Topology},
    tasks::Tasks,
};

/// Commands in a row without an answer that open the breaker.
const FAILURES_MAX: u32 = 3;
/// First pause before connecting again; it doubles up to [`PAUSE_MAX`]. Half of each is drawn at random.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// An answer that says what is wrong with a command is logged this often at most.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// A silent peer is asked for a sign of life after so long, and given up after a third more.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// There is no connection; nothing was sent.
    #[error("redis is away")]
    Away,
    /// It was sent and failed, or nobody answered.
    #[error("redis failed")]
    Failed(#[source] ::redis::RedisError),
}

/// Redis as one server uses it.
pub struct Redis {
    target: Target,
    /// For commands; none while the breaker is open.
    link: ArcSwapOption<Connection>,
    lost: Notify,
    failures: AtomicU32,
    openings: AtomicU64,
    complained_at: Mutex<Option<Instant>>,
    /// Names this instance, until it ends.
    instance: u64,
}

#[derive(Clone)]
enum Connection {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What is counted of Redis.
#[derive(Debug, Clone, Copy)]
pub struct RedisGauges {
    /// `single`, `sentinel` or `cluster`.
    pub topology: &'static str,
    /// Whether commands are sent: the breaker is closed.
    pub is_up: bool,
    /// How often the breaker opened since the start.
    pub breaker_openings: u64,
}

impl Redis {
    /// Connects in the background, until `tasks` stop. Waits for the first connection, but no longer than one may take: a
    /// server starts without Redis too.
    ///
    /// # Errors
    /// If `url` asks for what cannot be.
    pub async fn start(url: &RedisUrl, config: &RedisConfig, tasks: &Tasks) -> anyhow::Result<Arc<Self>> {
        let redis = Arc::new(Self {
            target: Target::new(url, config)?,
            link: ArcSwapOption::empty(),
            lost: Notify::new(),
            failures: 0.into(),
            openings: 0.into(),
            complained_at: Mutex::new(None),
            instance: rand::random(),
        });
        let stopping = tasks.stopping().clone();
        let (tried, first_try) = tokio::sync::oneshot::channel();
        let keeper = redis.clone();
        tasks.spawn(async move {
            stopping.run_until_cancelled(keeper.keep_connected(tried)).await;
            keeper.link.store(None);
        });
        let _ = first_try.await;
        Ok(redis)
    }

    /// Whether commands are sent at all: the breaker is closed.
    pub fn is_up(&self) -> bool {
        self.link.load().is_some()
    }

    /// What is exposed as metrics.
    pub fn gauges(&self) -> RedisGauges {
        RedisGauges {
            topology: self.target.url.topology.as_str(),
            is_up: self.is_up(),
            breaker_openings: self.openings.load(Ordering::Relaxed),
        }
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// At once if the breaker is open; after `redis.response_timeout` if nobody answers.
    pub async fn query(&self, command: &Cmd) -> Result<Value, RedisError> {
        let link = self.link.load_full().ok_or(RedisError::Away)?;
        let mut connection = Connection::clone(&link);
        match connection.query(command, self.target.response_timeout).await {
            Ok(value) => {
                self.failures.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Err(error) => {
                self.note_failure(&link, &error);
                Err(RedisError::Failed(error))
            }
        }
    }

    /// Opens the breaker if `error` says that `link` is of no more use.
    fn note_failure(&self, link: &Arc<Connection>, error: &::redis::RedisError) {
        let is_lost = match Fault::of(error) {
            // The node answered: the command is at fault, not the way.
            Fault::Command => {
                self.failures.store(0, Ordering::Relaxed);
                return self.complain(error);
            }
            Fault::NotTheMaster | Fault::Broken => matches!(**link, Connection::Node(_)),
            Fault::Silence => false,
        };
        // A Cluster's connection mends itself, node by node: one that is away does not close the way to the others.
        if !is_lost && self.failures.fetch_add(1, Ordering::Relaxed) + 1 < FAILURES_MAX {
            return;
        }
        let current = self.link.load_full();
        if current.is_some_and(|current| Arc::ptr_eq(&current, link)) {
            self.link.store(None);
            self.openings.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(place = %self.target.url, %error, "redis is away; this instance goes on alone");
            self.lost.notify_one();
        }
    }

    /// Logs that a command was refused: for want of rights or of room, say. Every one of them may be, so not each time.
    fn complain(&self, error: &::redis::RedisError) {
        if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) {
            return;
        }
        let mut complained_at = self.complained_at.lock().unwrap_or_else(PoisonError::into_inner);
        if complained_at.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            *complained_at = Some(Instant::now());
            tracing::warn!(%error, "redis refuses a command");
        }
    }

    async fn keep_connected(&self, tried: tokio::sync::oneshot::Sender<()>) {
        let mut tried = Some(tried);
        let mut pause = PAUSE_MIN;
        loop {
            match self.target.open().await {
                Ok(connection) => {
                    self.failures.store(0, Ordering::Relaxed);
                    self.link.store(Some(Arc::new(connection.clone())));
                    tracing::info!(place = %self.target.url, "redis is there");
                    drop(tried.take());
                    let begun = Instant::now();
                    advise(connection, self.target.response_timeout).await;
                    self.lost.notified().await;
                    // One that is lost at once again, such as that of a server that takes no writes, is no recovery.
                    if begun.elapsed() > PAUSE_MAX {
                        pause = PAUSE_MIN;
                    }
                }
                Err(error) => {
                    if tried.take().is_some() {
                        tracing::warn!(
                            place = %self.target.url, %error,
                            "redis is away; this instance goes on alone until it is there"
                        );
                    }
                    tracing::debug!(place = %self.target.url, %error, "redis is still away");
                }
            }
            sleep(pause / 2 + pause.mul_f64(rand::random_range(0.0..0.5))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Says what of the server's settings would hurt. One that does not tell them (a service may refuse to) is left alone.
async fn advise(mut connection: Connection, response_timeout: Duration) {
    let mut settings = HashMap::new();
    for pattern in ["maxmemory*", "timeout"] {
        let mut command = ::redis::cmd("CONFIG");
        command.arg("GET").arg(pattern);
        match connection.query(&command, response_timeout).await.map(HashMap::<String, String>::from_redis_value) {
            Ok(Ok(told)) => settings.extend(told),
            Ok(Err(_)) | Err(_) => return tracing::debug!("redis does not tell its settings"),
        }
    }
    for advice in advice::advice(&settings) {
        tracing::warn!("{advice}");
    }
}

impl Connection {
    async fn query(&mut self, command: &Cmd, response_timeout: Duration) -> ::redis::RedisResult<Value> {
        let answer = async {
            match self {
                Self::Node(node) => node.req_packed_command(command).await,
                Self::Cluster(cluster) => cluster.req_packed_command(command).await,
            }
        };
        // The libraries have limits of their own, but a Cluster's tries may add up.
        timeout(response_timeout, answer)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(TIMED_OUT).into()))?
            .extract_error()
    }
}

const TIMED_OUT: std::io::ErrorKind = std::io::ErrorKind::TimedOut;

/// What an error says of the way to Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The connection is gone.
    Broken,
    /// The server does not take writes (any more, or yet).
    NotTheMaster,
    /// No answer in time.
    Silence,
    /// None: the server answered that it does not like the command.
    Command,
}

impl Fault {
    fn of(error: &::redis::RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(
                ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading,
            ) => Self::NotTheMaster,
            ErrorKind::Server(ServerErrorKind::ClusterDown) => Self::Silence,
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType => Self::Command,
            _ if error.is_timeout() => Self::Silence,
            _ => Self::Broken,
        }
    }
}

/// How a connection is made.
struct Target {
    url: RedisUrl,
    clients: Clients,
    connect_timeout: Duration,
    response_timeout: Duration,
}

enum Clients {
    Single(Client),
    Sentinel { sentinels: Vec<ConnectionInfo>, service: String, node: SentinelNodeConnectionInfo },
    Cluster(Box<ClusterClient>),
}

impl Target {
    fn new(url: &RedisUrl, config: &RedisConfig) -> anyhow::Result<Self> {
        let login = login(url);
        let node = |(host, port): &(String, u16)| -> anyhow::Result<ConnectionInfo> {
            let (host, port) = (host.clone(), *port);
            let address = match url.has_tls {
                true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
                false => ConnectionAddr::Tcp(host, port),
            };
            Ok(address.into_connection_info()?.set_tcp_settings(tcp_settings()))
        };
        let nodes = url.hosts.iter().map(node).collect::<anyhow::Result<Vec<_>>>()?;
        let clients = match &url.topology {
            Topology::Single => {
                let [node] = <[ConnectionInfo; 1]>::try_from(nodes).map_err(|_| anyhow::anyhow!("one host"))?;
                Clients::Single(Client::open(node.set_redis_settings(login))?)
            }
            Topology::Sentinel { service } => {
                let mut node = SentinelNodeConnectionInfo::default()
                    .set_redis_connection_info(login)
                    .set_tcp_settings(tcp_settings());
                if url.has_tls {
                    node = node.set_tls_mode(TlsMode::Secure);
                }
                Clients::Sentinel { sentinels: nodes, service: service.clone(), node }
            }
            Topology::Cluster => {
                let nodes = nodes.into_iter().map(|node| node.set_redis_settings(login.clone()));
                let client = ClusterClientBuilder::new(nodes)
                    .tcp_settings(tcp_settings())
                    .connection_timeout(config.connect_timeout)
                    .response_timeout(config.response_timeout)
                    .retries(2)
                    .min_retry_wait(10)
                    .max_retry_wait(100)
                    .build()?;
                Clients::Cluster(Box::new(client))
            }
        };
        Ok(Self {
            url: url.clone(),
            clients,
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
        })
    }

    /// A new connection to the server that takes writes, which has answered on it.
    async fn open(&self) -> ::redis::RedisResult<Connection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout));
        let opening = async {
            let mut node = match &self.clients {
                Clients::Single(client) => client.get_multiplexed_async_connection_with_config(&config).await?,
                Clients::Sentinel { sentinels, service, node } => {
                    let kind = SentinelServerType::Master;
                    // A new client each time: one that is kept would go on with what a Sentinel said before.
                    SentinelClient::build(sentinels.clone(), service, Some(node.clone()), kind)?
                        .get_async_connection_with_config(&config)
                        .await?
                }
                // It has asked its nodes for who has which keys.
                Clients::Cluster(client) => return client.get_async_connection().await.map(Connection::Cluster),
            };
            node.req_packed_command(&::redis::cmd("PING")).await?.extract_error()?;
            Ok(Connection::Node(node))
        };
        // Each step has a limit, but there are several, and Sentinels may be many.
        let longest = self.connect_timeout * u32::try_from(1 + self.url.hosts.len()).unwrap_or(u32::MAX);
        timeout(longest, opening).await.unwrap_or_else(|_| Err(std::io::Error::from(TIMED_OUT).into()))
    }
}

fn login(url: &RedisUrl) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        .set_db(url.database.into())
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("tertulia", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &url.user {
        login = login.set_username(user);
    }
    if let Some(password) = &url.password {
        login = login.set_password(&password.0);
    }
    login
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 9).with_retries(3);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_whether_the_way_is_lost() {
        let server = |kind: ServerErrorKind| Fault::of(&(kind.into(), "as planned").into());
        assert_eq!(server(ServerErrorKind::ReadOnly), Fault::NotTheMaster);
        assert_eq!(server(ServerErrorKind::BusyLoading), Fault::NotTheMaster);
        assert_eq!(server(ServerErrorKind::NoScript), Fault::Command);
        assert_eq!(server(ServerErrorKind::ClusterDown), Fault::Silence);
        let io = |kind: std::io::ErrorKind| Fault::of(&std::io::Error::from(kind).into());
        assert_eq!(io(TIMED_OUT), Fault::Silence);
        assert_eq!(io(std::io::ErrorKind::BrokenPipe), Fault::Broken);
    }
}
