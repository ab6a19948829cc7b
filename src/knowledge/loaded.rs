//! The knowledge bases at hand in this process: one index each, found without a lock.
//!
//! Invariant: [`BaseKey`] names tenant and knowledge base together, and nothing here can be asked without one. A
//! [`Base`] is visible to searches only once its index has caught up with Postgres for the first time.
//!
//! Together they take no more than `retrieval.memory_bytes_max`. One that is searched and does not fit has others let go
//! for it ([`LoadedBases::room_for`]): those that were searched the longest ago, and none that was searched within
//! `retrieval.unload_after`. So two that are both in use and do not fit together do not take turns at being loaded: the
//! second is answered by Postgres for as long as the first is asked.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tertulia_index::Index;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::ctx::{Ctx, KnowledgeBaseId, TenantId};

/// Parts of the map of all knowledge bases: a new one copies one part only.
const MAP_PARTS: usize = 64;
/// Others are let go only for who was searched within this time.
const WANTED_FOR: Duration = Duration::from_secs(60);

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
    /// Nobody asked for it yet, or it was let go.
    NotLoaded,
    /// Being read from snapshot and Postgres.
    Loading,
    /// Larger than what is left of `retrieval.memory_bytes_max`: Postgres answers.
    DoesNotFit,
    /// Reading it failed, and is tried again.
    Failing,
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
            Self::Failing => "error",
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
    wanted: Notify,
    readiness: watch::Sender<Readiness>,
    /// Held by the one that writes, see [`Base::turn_to_write`].
    write: tokio::sync::Mutex<()>,
    /// The newest version heard of from Postgres; past [`Base::version`] by the sync's lag.
    heard_of: AtomicU64,
    /// Milliseconds from the birth of [`LoadedBases`] to the last search, and one; 0 before the first.
    searched_at: AtomicU64,
    /// Nothing of what is deleted up to this version may be left; 0 if nobody wants that.
    purge_due: AtomicU64,
    /// As far as the index is purged, but perhaps not saved since.
    purged_up_to: AtomicU64,
    is_purging: AtomicBool,
    /// Chunks that the first load has applied, and how many there are.
    progress: (AtomicUsize, AtomicUsize),
    leaving: CancellationToken,
    /// See [`LoadedBases::reserve`]; 0 if nothing is being read.
    reserved_bytes: AtomicUsize,
    /// What this one takes of the budget's `used_bytes`.
    counted_bytes: AtomicUsize,
    budget: Arc<Budget>,
}

/// What all knowledge bases share.
struct Budget {
    used_bytes: AtomicUsize,
    born: Instant,
}

impl Base {
    fn new(key: BaseKey, budget: Arc<Budget>) -> Self {
        Self {
            key,
            index: ArcSwapOption::empty(),
            version: watch::Sender::new(0),
            wake: Notify::new(),
            wanted: Notify::new(),
            readiness: watch::Sender::new(Readiness::Loading),
            write: tokio::sync::Mutex::new(()),
            heard_of: AtomicU64::new(0),
            searched_at: AtomicU64::new(0),
            purge_due: AtomicU64::new(0),
            purged_up_to: AtomicU64::new(0),
            is_purging: AtomicBool::new(false),
            progress: Default::default(),
            leaving: CancellationToken::new(),
            reserved_bytes: AtomicUsize::new(0),
            counted_bytes: AtomicUsize::new(0),
            budget,
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

    /// Waits until the index answers and holds everything up to `version`, or it is known that it will not soon.
    pub async fn decided(&self, version: u64) {
        let mut readiness = self.readiness.subscribe();
        let found =
            readiness.wait_for(|now| matches!(now, Readiness::Ready | Readiness::DoesNotFit | Readiness::NotLoaded));
        if found.await.is_ok_and(|now| *now == Readiness::Ready) {
            let _ = self.version.subscribe().wait_for(|now| *now >= version).await;
        }
    }

    /// Notes that it was searched, or is about to be.
    pub fn note_search(&self) {
        self.searched_at.store(self.budget.born.elapsed().as_millis() as u64 + 1, Relaxed);
    }

    /// As [`Base::note_search`], for who does not answer in process. One that did not fit while nobody searched it tries
    /// again at once, since others may go for it now.
    pub fn want(&self) {
        let is_news = !self.was_searched_within(WANTED_FOR);
        self.note_search();
        if is_news && self.readiness() == Readiness::DoesNotFit {
            self.readiness.send_replace(Readiness::Loading);
            self.wanted.notify_one();
        }
    }

    /// Waits for somebody to search it again, where it did not fit.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether it was searched within `time`.
    pub fn was_searched_within(&self, time: Duration) -> bool {
        let searched_at = self.searched_at.load(Relaxed);
        let idle_ms = (self.budget.born.elapsed().as_millis() as u64).saturating_sub(searched_at.saturating_sub(1));
        searched_at > 0 && Duration::from_millis(idle_ms) < time
    }

    /// Makes `index`, which holds everything up to its version, the one that searches ask.
    pub fn publish(&self, index: Arc<Index>) {
        let version = index.version();
        self.purged_up_to.store(0, Relaxed);
        self.index.store(Some(index));
        self.caught_up_to(version);
        self.readiness.send_replace(Readiness::Ready);
    }

    /// Takes the index away: searches go to Postgres. `readiness` says why.
    pub fn withdraw(&self, readiness: Readiness) {
        self.index.store(None);
        self.recount();
        self.readiness.send_replace(readiness);
    }

    /// Notes that a load failed; what answers already goes on.
    pub fn note_failure(&self) {
        self.readiness.send_if_modified(|now| {
            let is_loading = *now == Readiness::Loading;
            if is_loading {
                *now = Readiness::Failing;
            }
            is_loading
        });
    }

    /// Tells those that wait that the index holds everything up to `version`.
    pub fn caught_up_to(&self, version: u64) {
        self.heard(version);
        self.version.send_replace(version);
        self.recount();
    }

    /// Notes how many chunks a first load has applied, and how many there are.
    pub fn note_progress(&self, applied: usize, all: usize) {
        self.progress.0.store(applied, Relaxed);
        self.progress.1.store(all, Relaxed);
    }

    /// The share of its chunks that a first load has applied, 0 to 1.
    pub fn progress(&self) -> f64 {
        let (applied, all) = (self.progress.0.load(Relaxed), self.progress.1.load(Relaxed));
        (applied as f64 / all.max(1) as f64).min(1.0)
    }

    /// Bytes that it takes, or will take once what it reads now is in its index.
    pub fn memory_bytes(&self) -> usize {
        self.counted_bytes.load(Relaxed)
    }

    /// Takes in how much memory its index has come to take.
    pub fn recount(&self) {
        let index_bytes = self.index.load().as_ref().map_or(0, |index| index.memory_bytes());
        self.count(index_bytes.max(self.reserved_bytes.load(Relaxed)));
    }

    fn count(&self, bytes: usize) {
        // Where two count at once, either may come last; the sum is that of what was counted in any case.
        let before = self.counted_bytes.swap(bytes, Relaxed);
        self.budget.used_bytes.fetch_add(bytes.wrapping_sub(before), Relaxed);
    }

    /// Gives back what [`LoadedBases::reserve`] set aside: what was read is in the index, or let go.
    pub fn release(&self) {
        self.reserved_bytes.store(0, Relaxed);
        self.recount();
    }

    /// Has its sync task save it, take it away and end.
    pub fn let_go(&self) {
        self.leaving.cancel();
    }

    /// Waits for [`Base::let_go`].
    pub async fn let_gone(&self) {
        self.leaving.cancelled().await;
    }

    /// Waits until its index is taken away.
    pub async fn withdrawn(&self) {
        let _ = self.readiness.subscribe().wait_for(|now| *now == Readiness::NotLoaded).await;
    }

    /// Has whatever is deleted up to `version` leave memory and the snapshot, rather than only be found no more.
    pub fn purge(&self, version: u64) {
        self.purge_due.fetch_max(version, Relaxed);
    }

    /// The version that [`Base::purge`] was called with; 0 if all is done.
    pub fn purge_due(&self) -> u64 {
        self.purge_due.load(Relaxed)
    }

    /// Whether the index has nothing left of what is due, so that it only has to be saved.
    pub fn is_purged(&self) -> bool {
        self.purged_up_to.load(Relaxed) >= self.purge_due()
    }

    /// Whether a purge is under way.
    pub fn is_purging(&self) -> bool {
        self.is_purging.load(Relaxed)
    }

    /// Notes that a purge begins.
    pub fn purge_begins(&self) {
        self.is_purging.store(true, Relaxed);
    }

    /// Notes that a purge has ended: nothing of what is deleted up to `version` is left in the index.
    pub fn purge_ends(&self, version: u64) {
        self.purged_up_to.fetch_max(version, Relaxed);
        self.is_purging.store(false, Relaxed);
        self.recount();
    }

    /// Notes that nothing is left of what is deleted up to `version`, saved or not.
    pub fn purged(&self, version: u64) {
        // More may have become due since.
        let _ = self.purge_due.compare_exchange(version, 0, Relaxed, Relaxed);
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
        self.heard_of.load(Relaxed).saturating_sub(self.version())
    }

    /// Has the sync task look into Postgres now. `version`: what is known to be there, 0 if nothing is.
    pub fn wake(&self, version: u64) {
        self.heard(version);
        self.wake.notify_one();
    }

    /// Takes in that `version` is in Postgres, without waking anybody.
    pub fn heard(&self, version: u64) {
        self.heard_of.fetch_max(version, Relaxed);
    }

    /// As [`Base::wake`], but who did not fit into memory is not woken for a version that was heard of before: it would
    /// find what it found.
    pub fn tell(&self, version: u64) {
        let known = self.heard_of.fetch_max(version, Relaxed);
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
pub struct LoadedBases {
    parts: [ArcSwap<HashMap<BaseKey, Arc<Base>>>; MAP_PARTS],
    change: Mutex<()>,
    budget: Arc<Budget>,
    loads: AtomicU64,
    unloads: AtomicU64,
}

impl Default for LoadedBases {
    fn default() -> Self {
        Self {
            parts: std::array::from_fn(|_| ArcSwap::default()),
            change: Mutex::default(),
            budget: Arc::new(Budget { used_bytes: AtomicUsize::new(0), born: Instant::now() }),
            loads: AtomicU64::new(0),
            unloads: AtomicU64::new(0),
        }
    }
}

impl LoadedBases {
    fn part(&self, key: BaseKey) -> &ArcSwap<HashMap<BaseKey, Arc<Base>>> {
        // The last bits of an id are random in each version of UUID in use.
        &self.parts[key.knowledge_base_id.0.as_bytes()[15] as usize % MAP_PARTS]
    }

    /// The one of that key, if it was asked for before.
    pub fn find(&self, key: BaseKey) -> Option<Arc<Base>> {
        self.part(key).load().get(&key).cloned()
    }

    /// Every one.
    pub fn all(&self) -> Vec<Arc<Base>> {
        self.parts.iter().flat_map(|part| part.load().values().cloned().collect::<Vec<_>>()).collect()
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
        let base = Arc::new(Base::new(key, self.budget.clone()));
        let mut bases = HashMap::clone(&self.part(key).load());
        bases.insert(key, base.clone());
        self.part(key).store(Arc::new(bases));
        (base, true)
    }

    /// Takes `base`, whose sync ends, out.
    pub fn remove(&self, base: &Base) {
        base.withdraw(Readiness::NotLoaded);
        base.release();
        let _one_writer = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bases = HashMap::clone(&self.part(base.key).load());
        bases.remove(&base.key);
        self.part(base.key).store(Arc::new(bases));
    }

    /// Sets aside `bytes`, which `base` is about to take in all, until [`Base::release`]; false if they and what all others
    /// take are more than `bytes_max`. Those that ask at once are answered one after the other, so together they fit too.
    pub fn reserve(&self, base: &Base, bytes: usize, bytes_max: usize) -> bool {
        let _one_at_a_time = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = self.missing(base, bytes, bytes_max) == 0;
        if fits {
            base.reserved_bytes.store(bytes, Relaxed);
            base.recount();
        }
        fits
    }

    /// Bytes that would have to be freed for `base` to take `bytes`. Who takes nothing always has room.
    fn missing(&self, base: &Base, bytes: usize, bytes_max: usize) -> usize {
        let others = self.budget.used_bytes.load(Relaxed).saturating_sub(base.memory_bytes());
        if bytes == 0 { 0 } else { others.saturating_add(bytes).saturating_sub(bytes_max) }
    }

    /// Bytes that nobody takes.
    pub fn room(&self, bytes_max: usize) -> usize {
        bytes_max.saturating_sub(self.budget.used_bytes.load(Relaxed))
    }

    /// Which others have to go so that [`LoadedBases::reserve`] would set `bytes` aside for `base`: none if there is room,
    /// else those that are on their way and then those that were searched the longest ago. `None` if that does not help:
    /// who was searched within `unload_after`, or later than `base`, stays, and so do all if nobody searches `base`.
    pub fn room_for(
        &self,
        base: &Base,
        bytes: usize,
        bytes_max: usize,
        unload_after: Duration,
    ) -> Option<Vec<Arc<Base>>> {
        let missing = self.missing(base, bytes, bytes_max);
        if missing == 0 {
            return Some(Vec::new());
        }
        if bytes > bytes_max || !base.was_searched_within(WANTED_FOR) {
            return None;
        }
        let searched_at = base.searched_at.load(Relaxed);
        // What is read once, so that the order holds while searches go on.
        let mut idle: Vec<(u64, Arc<Base>)> = self
            .all()
            .into_iter()
            .filter(|other| other.key != base.key && other.memory_bytes() > 0)
            .map(|other| (if other.leaving.is_cancelled() { 0 } else { other.searched_at.load(Relaxed) }, other))
            .filter(|(at, other)| {
                let is_idle = *at < searched_at && !other.was_searched_within(unload_after);
                other.leaving.is_cancelled() || is_idle && other.readiness() == Readiness::Ready
            })
            .collect();
        idle.sort_by_key(|(at, _)| *at);
        let mut freed = 0;
        let mut going = Vec::new();
        for (_, other) in idle {
            if freed >= missing {
                break;
            }
            freed += other.memory_bytes();
            going.push(other);
        }
        (freed >= missing).then_some(going)
    }

    /// Notes that an index was read into memory.
    pub fn note_load(&self) {
        self.loads.fetch_add(1, Relaxed);
    }

    /// Notes that an index was let go to make room.
    pub fn note_unload(&self) {
        self.unloads.fetch_add(1, Relaxed);
    }

    /// Indexes read into memory, and let go to make room, since the start.
    pub fn loads_and_unloads(&self) -> (u64, u64) {
        (self.loads.load(Relaxed), self.unloads.load(Relaxed))
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
        let base = loaded.find(mine).unwrap();
        loaded.remove(&base);
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
        assert_eq!((loaded.room(99), loaded.room(100), loaded.room(101)), (0, 0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_version_ends_when_it_is_there_or_time_is_up() {
        let base = LoadedBases::default().find_or_add(key()).0;
        assert!(!base.reached(1, Duration::from_millis(10)).await);
        let (reached, ()) = tokio::join!(base.reached(2, Duration::from_secs(1)), async { base.caught_up_to(2) });
        assert!(reached);
        base.wake(5);
        assert_eq!(base.lag(), 3);
    }

    const AFTER: Duration = Duration::from_secs(60);

    /// One that answers in process and takes so many bytes.
    fn ready(loaded: &LoadedBases, bytes: usize) -> Arc<Base> {
        let base = loaded.find_or_add(key()).0;
        base.readiness.send_replace(Readiness::Ready);
        base.reserved_bytes.store(bytes, Relaxed);
        base.recount();
        base
    }

    fn keys(bases: Option<Vec<Arc<Base>>>) -> Option<Vec<BaseKey>> {
        bases.map(|bases| bases.iter().map(|base| base.key).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_searched_make_room() {
        let loaded = LoadedBases::default();
        let bases: Vec<_> = (0..4).map(|_| ready(&loaded, 25)).collect();
        // The last one was never searched, the others in another order than that of their loads.
        for searched in [1, 0, 2] {
            bases[searched].note_search();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let new = loaded.find_or_add(key()).0;
        let room = |bytes| keys(loaded.room_for(&new, bytes, 100, AFTER));
        assert_eq!(room(0), Some(vec![]));
        assert_eq!(room(1), None, "nobody searches it");
        new.note_search();
        assert_eq!(room(25), Some(vec![bases[3].key]));
        assert_eq!(room(26), None, "the others were searched just now");
        tokio::time::advance(AFTER - Duration::from_secs(2)).await;
        new.note_search();
        assert_eq!(room(26), Some(vec![bases[3].key, bases[1].key]));
        assert_eq!(room(76), None, "the third was searched within the time");
        tokio::time::advance(Duration::from_secs(2)).await;
        new.note_search();
        assert_eq!(room(100), Some([3, 1, 0, 2].map(|n: usize| bases[n].key).to_vec()));
        assert_eq!(room(101), None, "it can never fit");
        assert!(!loaded.reserve(&new, 25, 100));
        loaded.remove(&bases[3]);
        assert!(loaded.reserve(&new, 25, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn two_in_use_that_do_not_fit_together_do_not_take_turns() {
        let loaded = LoadedBases::default();
        let (one, other) = (ready(&loaded, 60), loaded.find_or_add(key()).0);
        for _ in 0..100 {
            one.note_search();
            tokio::time::advance(Duration::from_secs(5)).await;
            other.note_search();
            tokio::time::advance(Duration::from_secs(5)).await;
            assert!(loaded.room_for(&other, 60, 100, AFTER).is_none());
        }
        tokio::time::advance(AFTER).await;
        assert!(loaded.room_for(&other, 60, 100, AFTER).is_none(), "now neither is in use");
        other.note_search();
        assert_eq!(keys(loaded.room_for(&other, 60, 100, AFTER)), Some(vec![one.key]));
        // One that is on its way already counts as free, but is waited for.
        one.let_go();
        one.note_search();
        assert_eq!(keys(loaded.room_for(&other, 60, 100, AFTER)), Some(vec![one.key]));
    }

    #[tokio::test]
    async fn the_sum_follows_what_each_takes() {
        let loaded = LoadedBases::default();
        let used = || loaded.budget.used_bytes.load(Relaxed);
        let bases: Vec<_> = (1..=100).map(|bytes| ready(&loaded, bytes)).collect();
        assert_eq!(used(), 5_050);
        bases[..50].iter().for_each(|base| base.release());
        assert_eq!(used(), 5_050 - 1_275);
        bases.iter().for_each(|base| loaded.remove(base));
        assert_eq!((used(), loaded.all().len()), (0, 0));
    }
}
