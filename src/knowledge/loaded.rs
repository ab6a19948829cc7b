//! The knowledge bases at hand in this process: one index each, found without a lock.
//!
//! Invariant: [`BaseKey`] names tenant and knowledge base together, and nothing here can be asked without one. A
//! [`Base`] is visible to searches only once its index has caught up with Postgres for the first time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tertulia_index::Index;
use tokio::sync::{Notify, watch};

use crate::ctx::{Ctx, KnowledgeBaseId, TenantId};

/// Names an index: a knowledge base of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseKey {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Which one.
    pub knowledge_base_id: KnowledgeBaseId,
}

impl BaseKey {
    /// The caller's knowledge base of that id.
    pub fn of(ctx: &Ctx, knowledge_base_id: KnowledgeBaseId) -> Self {
        Self { tenant_id: ctx.tenant_id, knowledge_base_id }
    }
}

/// How far a knowledge base is from answering in process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Nobody asked for it yet.
    NotLoaded,
    /// Being read from snapshot and Postgres.
    Loading,
    /// Larger than what is left of `retrieval.memory_bytes_max`: Postgres answers.
    DoesNotFit,
    /// Answers in process.
    Ready,
}

impl Readiness {
    /// The word for it in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotLoaded => "not_loaded",
            Self::Loading => "loading",
            Self::DoesNotFit => "does_not_fit",
            Self::Ready => "ready",
        }
    }
}

/// One knowledge base of this process. Its sync task writes it, searches read it.
pub struct Base {
    /// Which one it is.
    pub key: BaseKey,
    index: ArcSwapOption<Index>,
    version: watch::Sender<u64>,
    wake: Notify,
    readiness: watch::Sender<Readiness>,
    /// Held by the one that writes, see [`Base::turn_to_write`].
    write: tokio::sync::Mutex<()>,
    /// The newest version heard of from Postgres; past [`Base::version`] by the sync's lag.
    heard_of: AtomicU64,
    /// See [`LoadedBases::reserve`]; 0 if nothing is being read.
    reserved_bytes: AtomicUsize,
}

impl Base {
    fn new(key: BaseKey) -> Self {
        Self {
            key,
            index: ArcSwapOption::empty(),
            version: watch::Sender::new(0),
            wake: Notify::new(),
            readiness: watch::Sender::new(Readiness::Loading),
            write: tokio::sync::Mutex::new(()),
            heard_of: AtomicU64::new(0),
            reserved_bytes: AtomicUsize::new(0),
        }
    }

    /// The index, if it answers in process.
    pub fn index(&self) -> Option<Arc<Index>> {
        self.index.load_full()
    }

    /// How far it is.
    pub fn readiness(&self) -> Readiness {
        *self.readiness.borrow()
    }

    /// Waits until it is known whether this process answers from memory.
    pub async fn settled(&self) {
        // The sender is this base's own, so it cannot be gone.
        let _ = self.readiness.subscribe().wait_for(|now| *now != Readiness::Loading).await;
    }

    /// Makes `index`, which holds everything up to its version, the one that searches ask.
    pub fn publish(&self, index: Arc<Index>) {
        let version = index.version();
        self.index.store(Some(index));
        self.caught_up_to(version);
        self.readiness.send_replace(Readiness::Ready);
    }

    /// Takes the index away: searches go to Postgres. `readiness` says why.
    pub fn withdraw(&self, readiness: Readiness) {
        self.index.store(None);
        self.readiness.send_replace(readiness);
    }

    /// Tells those that wait that the index holds everything up to `version`.
    pub fn caught_up_to(&self, version: u64) {
        self.heard(version);
        self.version.send_replace(version);
    }

    /// Bytes that it takes, or will take once what it reads now is in its index.
    fn memory_bytes(&self) -> usize {
        let index_bytes = self.index().map_or(0, |index| index.memory_bytes());
        index_bytes.max(self.reserved_bytes.load(Ordering::Relaxed))
    }

    /// Gives back what [`LoadedBases::reserve`] set aside: what was read is in the index, or let go.
    pub fn release(&self) {
        self.reserved_bytes.store(0, Ordering::Relaxed);
    }

    /// Waits until nobody else of this process writes into the knowledge base. Postgres has writers take turns anyway, by
    /// a lock; but those who wait for that hold a connection of the pool, and a snapshot each, for which Postgres keeps
    /// every old version of the locked row. In the order of asking; the turn ends when the guard is dropped.
    pub async fn turn_to_write(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.write.lock().await
    }

    /// The version up to which the index holds everything.
    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// How many versions the index is behind what was heard of.
    pub fn lag(&self) -> u64 {
        self.heard_of.load(Ordering::Relaxed).saturating_sub(self.version())
    }

    /// Has the sync task look into Postgres now. `version`: what is known to be there, 0 if nothing is.
    pub fn wake(&self, version: u64) {
        self.heard(version);
        self.wake.notify_one();
    }

    /// Takes in that `version` is in Postgres, without waking anybody.
    pub fn heard(&self, version: u64) {
        self.heard_of.fetch_max(version, Ordering::Relaxed);
    }

    /// As [`Base::wake`], but who did not fit into memory is not woken for a version that was heard of before: it would
    /// find what it found.
    pub fn tell(&self, version: u64) {
        let known = self.heard_of.fetch_max(version, Ordering::Relaxed);
        if version > known || self.readiness() != Readiness::DoesNotFit {
            self.wake.notify_one();
        }
    }

    /// Waits for the next [`Base::wake`]; one that came while nobody waited counts.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Waits until the index holds everything up to `version`; false if that takes longer than `longest`.
    pub async fn reached(&self, version: u64, longest: Duration) -> bool {
        let mut seen = self.version.subscribe();
        let reached = seen.wait_for(|now| *now >= version);
        tokio::time::timeout(longest, reached).await.is_ok_and(|outcome| outcome.is_ok())
    }
}

/// All of them.
#[derive(Default)]
pub struct LoadedBases {
    bases: ArcSwap<HashMap<BaseKey, Arc<Base>>>,
    change: Mutex<()>,
}

impl LoadedBases {
    /// The one of that key, if it was asked for before.
    pub fn find(&self, key: BaseKey) -> Option<Arc<Base>> {
        self.bases.load().get(&key).cloned()
    }

    /// Every one.
    pub fn all(&self) -> Vec<Arc<Base>> {
        self.bases.load().values().cloned().collect()
    }

    /// The one of that key, and whether it is new: then the caller starts its sync.
    pub fn find_or_add(&self, key: BaseKey) -> (Arc<Base>, bool) {
        if let Some(base) = self.find(key) {
            return (base, false);
        }
        let _one_writer = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = self.find(key) {
            return (base, false);
        }
        let base = Arc::new(Base::new(key));
        let mut bases = HashMap::clone(&self.bases.load());
        bases.insert(key, base.clone());
        self.bases.store(Arc::new(bases));
        (base, true)
    }

    /// Lets one go.
    pub fn remove(&self, key: BaseKey) {
        let _one_writer = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bases = HashMap::clone(&self.bases.load());
        bases.remove(&key);
        self.bases.store(Arc::new(bases));
    }

    /// Sets aside `bytes`, which `base` is about to take in all, until [`Base::release`]; false if they and what all others
    /// take are more than `bytes_max`. Those that ask at once are answered one after the other, so together they fit too.
    pub fn reserve(&self, base: &Base, bytes: usize, bytes_max: usize) -> bool {
        let _one_at_a_time = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = self.has_room(base, bytes, bytes_max);
        if fits {
            base.reserved_bytes.store(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Whether [`LoadedBases::reserve`] would set that much aside now. Who takes nothing always has room.
    pub fn has_room(&self, base: &Base, bytes: usize, bytes_max: usize) -> bool {
        let bases = self.bases.load();
        let others = bases.values().filter(|other| other.key != base.key).map(|other| other.memory_bytes());
        bytes == 0 || others.sum::<usize>().saturating_add(bytes) <= bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> BaseKey {
        BaseKey { tenant_id: TenantId::new(), knowledge_base_id: KnowledgeBaseId::new() }
    }

    #[test]
    fn another_tenant_does_not_find_a_base_by_its_id() {
        let loaded = LoadedBases::default();
        let mine = key();
        assert!(loaded.find_or_add(mine).1);
        assert!(!loaded.find_or_add(mine).1);
        assert!(loaded.find(BaseKey { tenant_id: TenantId::new(), ..mine }).is_none());
        loaded.remove(mine);
        assert!(loaded.find(mine).is_none());
    }

    #[test]
    fn bases_that_load_at_once_fit_together() {
        let loaded = LoadedBases::default();
        let (one, other) = (loaded.find_or_add(key()).0, loaded.find_or_add(key()).0);
        assert!(loaded.reserve(&one, 60, 100));
        assert!(!loaded.reserve(&other, 60, 100));
        assert!(loaded.reserve(&other, 40, 100));
        assert!(!loaded.reserve(&one, 61, 100));
        one.release();
        assert!(loaded.reserve(&other, 100, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_version_ends_when_it_is_there_or_time_is_up() {
        let base = Base::new(key());
        assert!(!base.reached(1, Duration::from_millis(10)).await);
        let (reached, ()) = tokio::join!(base.reached(2, Duration::from_secs(1)), async { base.caught_up_to(2) });
        assert!(reached);
        base.wake(5);
        assert_eq!(base.lag(), 3);
    }
}
