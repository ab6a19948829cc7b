//! The read replica: whether lists may be read from it just now, and by whom.
//!
//! A task looks at both servers in the background: how far the primary's log has come, and how far the replica has replayed
//! it. So the last moment is known of which the replica has everything, and it is *fresh* until `replica_lag_max` after that.
//! A request asks nobody: it compares two numbers with the clock. If looking fails, or stops, freshness runs out by itself.
//!
//! Invariants: what is read from the replica is no older than `replica_lag_max`. Who has written through this server reads it
//! again: the log's position after each caller's last commit is kept, and until the replica has replayed it, they read from the
//! primary. (Through another server they may miss it for as long as the replica lags.)

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Object;
use tokio::{
    task::AbortHandle,
    time::{Instant, timeout},
};
use tokio_postgres::Client;

use super::{Measures, StoreError, address::Address, pool::Pool, roles};
use crate::{
    config::DatabaseConfig,
    ctx::{Actor, Ctx, TenantId},
};

const PRIMARY_POSITION: &str = include_str!("sql/replica/primary_position.sql");
const REPLAYED_POSITION: &str = include_str!("sql/replica/replayed_position.sql");
/// Longest that a request waits for a connection before it goes to the primary. Few do: those that come before the task
/// that looks has noticed that the replica is away.
const CONNECT_WAIT: Duration = Duration::from_millis(500);
/// Longest that a request waits for an answer before it asks the primary instead.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Callers whose last write is known; past it all are forgotten, and each counts as having written what any of them has.
const CALLERS_MAX: usize = 100_000;
/// Positions that wait to be replayed; further ones are not noted until some are.
const SAMPLES_MAX: usize = 1_000;

/// A replica that lists may be read from.
pub(super) struct Replica {
    pool: Pool,
    lag_max: Duration,
    started_at: Instant,
    /// In milliseconds past `started_at`; 0 while it may not be used.
    fresh_until: AtomicU64,
    /// The last moment of which it is known to have everything, in milliseconds past `started_at`; 0 for none.
    complete_at: AtomicU64,
    /// How far it has replayed the log, in bytes.
    replayed: AtomicU64,
    written: Mutex<Written>,
    watcher: Mutex<Option<AbortHandle>>,
}

/// How the replica is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplicaGauges {
    /// How old what it has may be; none if it was never seen to have everything.
    pub lag: Option<Duration>,
    /// Whether lists are read from it.
    pub is_fresh: bool,
}

/// The log's positions after callers' last commits.
#[derive(Default)]
struct Written {
    by_caller: HashMap<(TenantId, Actor), u64>,
    /// The furthest that was forgotten.
    forgotten: u64,
}

impl Replica {
    /// Of the replica at `address`, compared with `primary` from now on. It need not be there.
    pub(super) fn start(
        address: &Address,
        primary: &Address,
        database: &DatabaseConfig,
        runtime: &tokio::runtime::Handle,
        measures: Measures,
    ) -> Result<Arc<Self>, StoreError> {
        let impatient = DatabaseConfig {
            acquire_timeout: database.acquire_timeout.min(CONNECT_WAIT),
            connect_timeout: database.connect_timeout.min(CONNECT_WAIT),
            ..database.clone()
        };
        let connections_max = database.replica_connections_max;
        let pool = Pool::new("replica", address, connections_max, &impatient, runtime.clone(), measures)?;
        let replica = Arc::new(Self {
            pool,
            lag_max: database.replica_lag_max,
            started_at: Instant::now(),
            fresh_until: 0.into(),
            complete_at: 0.into(),
            replayed: 0.into(),
            written: Mutex::default(),
            watcher: Mutex::default(),
        });
        let watcher = Watcher {
            replica: Arc::downgrade(&replica),
            primary: Probe { address: primary.clone(), client: None, is_replica: false },
            standby: Probe { address: address.clone(), client: None, is_replica: true },
            samples: VecDeque::new(),
            told: None,
        };
        let task = runtime.spawn(watcher.run(database.replica_lag_max)).abort_handle();
        *replica.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(replica)
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A connection, if it is fresh and has what the caller of `ctx` has written.
    pub(super) async fn get(&self, ctx: &Ctx) -> Option<Object> {
        if !self.is_fresh() || self.replayed.load(Ordering::Acquire) < self.written_by(ctx) {
            return None;
        }
        match self.pool.get(Some(ctx.deadline)).await {
            Ok(connection) => Some(connection),
            // Its own connections are all in use: that is no sign that it is away.
            Err(StoreError::Busy { .. } | StoreError::Deadline) => None,
            Err(error) => {
                self.skip(&error);
                None
            }
        }
    }

    /// Has nobody use it until it was seen to be well again.
    pub(super) fn skip(&self, error: &StoreError) {
        if self.fresh_until.swap(0, Ordering::AcqRel) > 0 {
            tracing::warn!(%error, "the read replica failed; lists are read from the primary until it is back");
        }
    }

    /// Notes that the caller has committed something, which the log has at `position`.
    pub(super) fn note_write(&self, caller: (TenantId, Actor), position: u64) {
        if self.replayed.load(Ordering::Acquire) >= position {
            return;
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.by_caller.len() >= CALLERS_MAX {
            let furthest = written.by_caller.drain().map(|(_, position)| position).max().unwrap_or(0);
            written.forgotten = written.forgotten.max(furthest);
        }
        let noted = written.by_caller.entry(caller).or_default();
        *noted = position.max(*noted);
    }

    pub(super) fn gauges(&self) -> ReplicaGauges {
        let complete_at = self.complete_at.load(Ordering::Relaxed);
        let lag = (complete_at > 0).then(|| Duration::from_millis(self.now().saturating_sub(complete_at)));
        ReplicaGauges { lag, is_fresh: self.is_fresh() }
    }

    /// Closes its pool, and looks no more.
    pub(super) fn close(&self) {
        if let Some(watcher) = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).take() {
            watcher.abort();
        }
        self.pool.close();
    }

    fn is_fresh(&self) -> bool {
        self.now() < self.fresh_until.load(Ordering::Acquire)
    }

    /// Milliseconds past `started_at`.
    fn now(&self) -> u64 {
        u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn written_by(&self, ctx: &Ctx) -> u64 {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = written.by_caller.get(&(ctx.tenant_id, ctx.actor)).copied().unwrap_or(0);
        noted.max(written.forgotten)
    }

    /// It was seen to have replayed up to `position`, and to have had everything at `complete_at`.
    fn seen(&self, position: u64, complete_at: Option<Instant>) {
        self.replayed.store(position, Ordering::Release);
        self.written.lock().unwrap_or_else(PoisonError::into_inner).by_caller.retain(|_, noted| *noted > position);
        let Some(complete_at) = complete_at else { return };
        let millis = |at: Instant| at.saturating_duration_since(self.started_at).as_millis();
        let to_u64 = |millis: u128| u64::try_from(millis).unwrap_or(u64::MAX);
        self.complete_at.store(to_u64(millis(complete_at)).max(1), Ordering::Relaxed);
        self.fresh_until.store(to_u64(millis(complete_at + self.lag_max)), Ordering::Release);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.close();
    }
}

/// The task that looks.
struct Watcher {
    replica: Weak<Replica>,
    primary: Probe,
    standby: Probe,
    /// Positions of the primary, with moments before which all that they stand for was committed; oldest first.
    samples: VecDeque<(Instant, u64)>,
    /// What was logged last: nothing, or why the replica is not used.
    told: Option<String>,
}

impl Watcher {
    async fn run(mut self, lag_max: Duration) {
        let pause = (lag_max / 10).clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut was_fresh = false;
        loop {
            let outcome = self.look(lag_max).await;
            let Some(replica) = self.replica.upgrade() else { return };
            let is_fresh = replica.is_fresh();
            drop(replica);
            let why = match outcome {
                Ok(()) if is_fresh => None,
                Ok(()) => Some("it lags".to_owned()),
                Err(error) => Some(format!("{:#}", anyhow::Error::new(error))),
            };
            if is_fresh && !was_fresh {
                tracing::info!("lists are read from the replica");
            }
            if let Some(why) = why.filter(|_| !is_fresh).filter(|why| was_fresh || self.told.as_ref() != Some(why)) {
                tracing::warn!(why, "the read replica is not used; lists are read from the primary");
                self.told = Some(why);
            }
            if is_fresh {
                self.told = None;
            }
            was_fresh = is_fresh;
            tokio::time::sleep(pause).await;
        }
    }

    /// Looks at both once, no longer than `longest` at each.
    async fn look(&mut self, longest: Duration) -> Result<(), StoreError> {
        // What was committed until now is below the position that is told later.
        let at = Instant::now();
        let primary = self.primary.position(longest).await;
        if let Ok(position) = primary
            && self.samples.len() < SAMPLES_MAX
        {
            self.samples.push_back((at, position));
        }
        let replayed = self.standby.position(longest).await?;
        let mut complete_at = None;
        while let Some((at, position)) = self.samples.front()
            && *position <= replayed
        {
            complete_at = Some(*at);
            self.samples.pop_front();
        }
        if let Some(replica) = self.replica.upgrade() {
            replica.seen(replayed, complete_at);
        }
        primary.map(|_| ())
    }
}

/// A connection to one of the two, made again when it is lost.
struct Probe {
    address: Address,
    client: Option<Client>,
    is_replica: bool,
}

impl Probe {
    /// Where its log is.
    async fn position(&mut self, longest: Duration) -> Result<u64, StoreError> {
        let position = timeout(longest, self.ask()).await.unwrap_or(Err(StoreError::ConnectTimeout));
        if position.is_err() {
            self.client = None;
        }
        position
    }

    async fn ask(&mut self) -> Result<u64, StoreError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let client = self.address.connect_and_drive().await?;
                if self.is_replica {
                    roles::check_user(&client).await?;
                }
                client
            }
        };
        let (name, sql) = match self.is_replica {
            true => ("replica/replayed_position", REPLAYED_POSITION),
            false => ("replica/primary_position", PRIMARY_POSITION),
        };
        let failed = |source| StoreError::of_statement(name, source);
        let row = client.query_typed_opt(sql, &[]).await.map_err(failed)?;
        let row = row.ok_or_else(|| {
            StoreError::Setup("database.replica_url leads to a server that is no replica (any more)".into())
        })?;
        let position: i64 = row.try_get(0).map_err(failed)?;
        self.client = Some(client);
        Ok(u64::try_from(position).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{config::Config, store::test_support::ctx};

    /// One that nobody looks at.
    fn unwatched() -> Replica {
        let database = Config::default().database;
        let address =
            Address::parse("database.replica_url", "postgres://a@127.0.0.1:1/a", CONNECT_WAIT).expect("it fits");
        let runtime = tokio::runtime::Handle::current();
        Replica {
            pool: Pool::new("replica", &address, 1, &database, runtime, Measures::default()).expect("it can be built"),
            lag_max: Duration::from_secs(2),
            started_at: Instant::now(),
            fresh_until: 0.into(),
            complete_at: 0.into(),
            replayed: 0.into(),
            written: Mutex::default(),
            watcher: Mutex::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn freshness_runs_out_by_itself_and_ends_with_a_failure() {
        let replica = unwatched();
        assert!(!replica.is_fresh() && replica.gauges().lag.is_none());
        tokio::time::advance(Duration::from_secs(10)).await;
        replica.seen(7, Some(Instant::now()));
        tokio::time::advance(Duration::from_millis(1_900)).await;
        assert!(replica.is_fresh());
        assert_eq!(replica.gauges().lag, Some(Duration::from_millis(1_900)));
        // It answers, and has nothing new.
        replica.seen(7, None);
        tokio::time::advance(Duration::from_millis(100)).await;
        assert!(!replica.is_fresh());
        replica.seen(9, Some(Instant::now()));
        assert!(replica.is_fresh());
        assert!(replica.get(&ctx(Uuid::now_v7())).await.is_none(), "nobody is there");
        assert!(!replica.is_fresh());
    }

    #[tokio::test]
    async fn a_caller_waits_for_their_own_writes_alone() {
        let replica = unwatched();
        let (writer, other) = (ctx(Uuid::now_v7()), ctx(Uuid::now_v7()));
        replica.seen(100, None);
        replica.note_write((writer.tenant_id, writer.actor), 120);
        replica.note_write((writer.tenant_id, writer.actor), 110);
        replica.note_write((other.tenant_id, other.actor), 100);
        assert_eq!((replica.written_by(&writer), replica.written_by(&other)), (120, 0));
        let colleague = Ctx { actor: Actor::Operator, ..writer.clone() };
        assert_eq!(replica.written_by(&colleague), 0);
        replica.seen(119, None);
        assert_eq!(replica.written_by(&writer), 120);
        replica.seen(120, None);
        assert_eq!(replica.written_by(&writer), 0);
        // Nobody is forgotten to have written.
        replica.written.lock().expect("nobody panicked").forgotten = 130;
        assert_eq!(replica.written_by(&other), 130);
    }
}
