//! Pools of connections, and single ones beside them.
//!
//! Requests are served by many runtimes, but a connection's socket and its task belong to one: the service runtime. A
//! connection that a shard opened thus outlives the request that wanted it, and needs no shard to make progress.
//!
//! Bounds: a pool has a fixed number of connections; a request waits for one no longer than `acquire_timeout` (nor its
//! own deadline) and is then told that the server is busy.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use deadpool_postgres::{Connect, Hook, HookError, Manager, ManagerConfig, Object, PoolError, RecyclingMethod};
use deadpool_postgres::{PoolConfig, QueueMode, Runtime, TimeoutType, Timeouts};
use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinHandle},
    time::Instant,
};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::context::TokioContext;

use super::{Measures, PoolGauges, PoolLabels, QueryLabels, StoreError, address::Address};
use crate::{config::DatabaseConfig, watch};

/// Connections to one role.
pub(super) struct Pool {
    name: &'static str,
    pool: deadpool_postgres::Pool,
    acquire_timeout: Duration,
    reaper: AbortHandle,
    /// Where its connections lead, for errors.
    place: String,
    surroundings: Arc<Surroundings>,
}

/// What a transaction needs beside its connection.
pub(super) struct Surroundings {
    /// Where its cleaning up runs.
    pub(super) runtime: Handle,
    /// How a cancellation gets to Postgres.
    pub(super) tls: MakeRustlsConnect,
    measures: Measures,
}

/// Opens connections on the service runtime, whichever runtime asks.
struct OnRuntime {
    runtime: Handle,
    address: Address,
}

impl Pool {
    /// An empty pool of at most `connections_max` connections; the first is opened when it is asked for.
    pub(super) fn new(
        name: &'static str,
        address: &Address,
        connections_max: usize,
        database: &DatabaseConfig,
        runtime: Handle,
        measures: Measures,
    ) -> Result<Self, StoreError> {
        let connect = OnRuntime { runtime: runtime.clone(), address: address.clone() };
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_connect(address.config.clone(), connect, manager_config);
        let (idle, lifetime) = (database.idle_timeout, database.lifetime);
        let pool = deadpool_postgres::Pool::builder(manager)
            .config(PoolConfig {
                max_size: connections_max,
                timeouts: Timeouts {
                    wait: Some(database.acquire_timeout),
                    create: Some(database.connect_timeout),
                    recycle: Some(database.acquire_timeout),
                },
                // The busiest connections are used first, so that the others grow idle and are closed.
                queue_mode: QueueMode::Lifo,
            })
            .runtime(Runtime::Tokio1)
            .pre_recycle(Hook::sync_fn(move |_, metrics| {
                if metrics.age() > lifetime || metrics.last_used() > idle {
                    return Err(HookError::message("too old"));
                }
                Ok(())
            }))
            .build()
            .map_err(|error| StoreError::Setup(format!("the {name} pool cannot be built: {error}")))?;
        let reaper = runtime.spawn(close_idle(pool.weak(), idle, lifetime)).abort_handle();
        let surroundings = Arc::new(Surroundings { runtime, tls: address.tls.clone(), measures });
        let acquire_timeout = database.acquire_timeout;
        Ok(Self { name, pool, acquire_timeout, reaper, place: address.to_string(), surroundings })
    }

    /// A connection, waited for until `deadline` at most.
    pub(super) async fn get(&self, deadline: Option<Instant>) -> Result<Object, StoreError> {
        let asked_at = Instant::now();
        let outcome = match deadline {
            // An idle connection would be given out all the same, for an answer that nobody waits for any more.
            Some(deadline) if deadline <= Instant::now() => return Err(StoreError::Deadline),
            Some(deadline) => {
                tokio::time::timeout_at(deadline, self.pool.get()).await.map_err(|_| StoreError::Deadline)?
            }
            None => self.pool.get().await,
        };
        let waits = self.surroundings.measures.waits.get_or_create(&PoolLabels { pool: self.name });
        waits.observe(asked_at.elapsed().as_secs_f64());
        outcome.map_err(|error| match error {
            PoolError::Timeout(TimeoutType::Wait) => StoreError::Busy { pool: self.name, waited: self.acquire_timeout },
            PoolError::Timeout(_) => StoreError::ConnectTimeout,
            PoolError::Backend(source) => StoreError::Connect { place: self.place.clone(), source },
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => StoreError::Closed,
        })
    }

    /// What its connections' transactions need beside them.
    pub(super) fn surroundings(&self) -> &Arc<Surroundings> {
        &self.surroundings
    }

    pub(super) fn gauges(&self) -> PoolGauges {
        let status = self.pool.status();
        PoolGauges { pool: self.name, size: status.size, available: status.available, waiting: status.waiting }
    }

    /// Closes idle connections now and busy ones when they come back; nobody gets one any more.
    pub(super) fn close(&self) {
        self.reaper.abort();
        self.pool.close();
    }
}

impl Surroundings {
    /// Notes a statement that took so long.
    pub(super) fn observe(&self, statement: &'static str, took: Duration) {
        self.measures.queries.get_or_create(&QueryLabels { query_type: statement }).observe(took.as_secs_f64());
        watch::note(statement, took);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

impl Connect for OnRuntime {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>> {
        let (config, runtime, tls) = (config.clone(), self.runtime.clone(), self.address.tls.clone());
        let connecting = async move {
            let (client, connection) = config.connect(tls).await?;
            let task = runtime.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a database connection ended");
                }
            });
            Ok((client, task))
        };
        // Polled inside that runtime, so the socket is registered with its reactor.
        Box::pin(TokioContext::new(connecting, self.runtime.clone()))
    }
}

/// Closes what has been idle for longer than `idle` or is older than `lifetime`, for as long as the pool exists.
async fn close_idle(pool: deadpool_postgres::WeakPool, idle: Duration, lifetime: Duration) {
    let pause = (idle / 4).max(Duration::from_millis(100));
    loop {
        tokio::time::sleep(pause).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.retain(|_, metrics| metrics.last_used() <= idle && metrics.age() <= lifetime);
    }
}
