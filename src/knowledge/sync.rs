//! Sync: what is committed in Postgres, by whomever, gets into the index, in the order of versions and with no gap.
//!
//! A knowledge base's version is bumped under its row's lock, so versions commit in order: whatever is past the
//! watermark is all there is. One task per loaded knowledge base reads it in one consistent snapshot of Postgres and
//! applies it as one batch, so that a transaction becomes searchable whole. NOTIFY wakes the task at once ([`Sync::heard`]);
//! a poll of the versions covers wake-ups that were lost. Start-up and increments are the same query from another watermark.
//!
//! What was deleted on request is purged: its segments are written anew with the next snapshot, which is then due. What
//! was deleted otherwise, by SQL or through another instance, goes so within [`PURGE_AFTER`].
//!
//! When Postgres is away, tasks try again with growing pauses, and searches go on with what is loaded.

use std::{sync::Arc, time::Duration};

use tertulia_index::{Batch, GraphStep, Index, Settings, VectorSearch};
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::{Instant, sleep, timeout},
};

use super::{Base, BaseKey, LoadedBases, loaded::Readiness, recall::RecallWatch, snapshots::Snapshots};
use crate::{
    compute::Compute,
    config::RetrievalConfig,
    store::{
        Store, StoreError,
        changes::{Change, Head},
    },
    tasks::Tasks,
};

/// First pause after a failure; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Shortest time between two looks at a knowledge base that does not fit into memory.
const UNFIT_PAUSE: Duration = Duration::from_secs(30);
/// Longest wait for others to save themselves and go.
const LEAVE_WAIT: Duration = Duration::from_secs(30);
/// So long nothing must have been written before all segments become one.
const COMPACT_AFTER: Duration = Duration::from_secs(3);
/// Longest that anything of a deleted chunk stays in memory and snapshot, if nobody asked for more haste.
const PURGE_AFTER: Duration = Duration::from_secs(3_600);
/// Versions that one poll asks for. With more knowledge bases than that, each is looked at every so many polls.
const POLLED_MAX: usize = 1_000;
/// Chunks that a first load applies at once. Nobody searches the index yet, so it need not come in one piece.
const LOAD_BATCH_CHUNKS: usize = 4_096;
/// Memory that a chunk takes beside its vector, before it is known: text, metadata and postings.
const CHUNK_BYTES_ESTIMATE: usize = 4_096;
/// First loads take one in so many of the service pool's connections, each for as long as it reads; sign-in and all else
/// that the pool is for have the others.
const LOADS_SHARE: usize = 3;
/// How long a compute thread builds at a graph before it looks after other jobs.
const GRAPH_STEP: Duration = Duration::from_millis(10);
/// Pause after it: so a graph takes half of one core at most.
const GRAPH_PAUSE: Duration = GRAPH_STEP;

/// Carries changes from Postgres into the indexes. One per server.
pub struct Sync {
    store: Arc<Store>,
    loaded: Arc<LoadedBases>,
    compute: Arc<Compute>,
    snapshots: Snapshots,
    tasks: Tasks,
    config: RetrievalConfig,
    /// A permit for each first load; further ones wait, and Postgres answers searches meanwhile.
    loads: Semaphore,
    /// Has the next poll ask for all versions, now.
    poll_all: Notify,
    recall: RecallWatch,
}

/// An index and the generation whose chunks it holds.
struct Built {
    index: Arc<Index>,
    generation_id: uuid::Uuid,
    saved_version: u64,
    saved_at: Instant,
    /// When something was last applied to it, or the index made.
    applied_at: Instant,
    /// Whether segments became one that the last snapshot has as several.
    is_compacted: bool,
    /// Wakes the task that builds its graphs, which ends when this is dropped.
    graphs: Option<mpsc::Sender<()>>,
    /// When a purge was last begun, or the index made.
    purged_at: Instant,
}

/// What one look into Postgres led to.
enum Looked {
    CaughtUp,
    /// It would take so much memory.
    DoesNotFit {
        bytes: usize,
    },
    /// What was published is of another generation, or too old, so the next look is a first load.
    Outdated,
    Gone,
}

/// What follows a look.
enum Rest {
    /// Until it is woken, or upkeep is due.
    CaughtUp(Option<Duration>),
    /// Until there is room for so much, or news.
    Unfit { bytes: usize },
    /// For so long.
    Failed(Duration),
}

impl Sync {
    /// A sync that has not started.
    pub fn new(
        store: Arc<Store>,
        loaded: Arc<LoadedBases>,
        compute: Arc<Compute>,
        snapshots: Snapshots,
        tasks: Tasks,
        config: RetrievalConfig,
    ) -> Arc<Self> {
        let loads = Semaphore::new((store.service_connections_max() / LOADS_SHARE).max(1));
        let recall = RecallWatch::new(compute.clone(), tasks.clone(), loaded.clone());
        Arc::new(Self { store, loaded, compute, snapshots, tasks, config, loads, poll_all: Notify::new(), recall })
    }

    /// What watches the graphs that it builds.
    pub fn recall(&self) -> &RecallWatch {
        &self.recall
    }

    /// Loads what has a snapshot, then follows Postgres until the server stops. Gives back once every snapshot is
    /// loaded and caught up, or `longest` has passed.
    pub async fn start(self: &Arc<Self>, longest: Duration) {
        let saved = self.snapshots.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "the folder of snapshots cannot be read; building from postgres");
            Vec::new()
        });
        for (key, _) in &saved {
            self.ensure(*key, 0);
        }
        self.tasks.spawn(self.clone().poll_versions());
        let all_ready = async {
            for (key, _) in saved {
                if let Some(base) = self.loaded.find(key) {
                    base.settled().await;
                }
            }
        };
        if timeout(longest, all_ready).await.is_err() {
            tracing::warn!("some knowledge bases are still loading; postgres answers for them meanwhile");
        }
    }

    /// Has `key` loaded and kept up to date; `version` is what is known to be in Postgres.
    pub fn ensure(self: &Arc<Self>, key: BaseKey, version: u64) -> Arc<Base> {
        self.ensure_for(key, version, false)
    }

    /// As [`Sync::ensure`], for a search: others may be let go to make room for it.
    pub fn ensure_for_search(self: &Arc<Self>, key: BaseKey, version: u64) -> Arc<Base> {
        self.ensure_for(key, version, true)
    }

    fn ensure_for(self: &Arc<Self>, key: BaseKey, version: u64, is_search: bool) -> Arc<Base> {
        let (base, is_new) = self.loaded.find_or_add(key);
        // Before the task starts, which asks for whom it loads.
        if is_search {
            base.want();
        }
        if is_new {
            self.tasks.spawn(self.clone().keep(base.clone()));
        } else {
            base.tell(version);
        }
        base
    }

    /// Takes in that Postgres has `version` of `key`; nothing to do if it is not loaded here.
    pub fn heard(&self, key: BaseKey, version: u64) {
        if let Some(base) = self.loaded.find(key) {
            base.wake(version);
        }
    }

    /// Has the versions of all loaded knowledge bases looked at, because wake-ups may have been missed.
    pub fn look_everywhere(&self) {
        self.poll_all.notify_one();
    }

    /// The life of one loaded knowledge base.
    async fn keep(self: Arc<Self>, base: Arc<Base>) {
        let mut built: Option<Built> = None;
        tokio::select! {
            () = self.follow(&base, &mut built) => {
                self.loaded.remove(&base);
                self.snapshots.remove_others(base.key, None);
            }
            () = self.tasks.stopping().cancelled() => Box::pin(self.save_last(&base, built.as_mut())).await,
            () = base.let_gone() => {
                Box::pin(self.save_last(&base, built.as_mut())).await;
                self.loaded.remove(&base);
                self.loaded.note_unload();
            }
        }
    }

    /// Keeps `base` up to date until it is gone from Postgres.
    ///
    /// # Cancel safety
    /// As [`Sync::look`]; a snapshot that is being written is written to its end, or not at all.
    async fn follow(self: &Arc<Self>, base: &Arc<Base>, built: &mut Option<Built>) {
        let mut pause = PAUSE_MIN;
        loop {
            // Boxed, as it is large: most knowledge bases rest most of the time, and there may be many.
            let looked = Box::pin(self.look(base, built)).await;
            base.release();
            let rest = match looked {
                Ok(Looked::Gone) => return,
                Ok(Looked::DoesNotFit { bytes }) => {
                    if Box::pin(self.make_room(base, bytes)).await {
                        continue;
                    }
                    *built = None;
                    base.withdraw(Readiness::DoesNotFit);
                    // What is saved has what was deleted, and nobody will purge it.
                    let due = base.purge_due();
                    if due > 0 {
                        self.snapshots.remove_others(base.key, None);
                        base.purged(due);
                    }
                    Rest::Unfit { bytes }
                }
                Ok(Looked::Outdated) => continue,
                Ok(Looked::CaughtUp) => {
                    pause = PAUSE_MIN;
                    self.wake_graphs(base, built.as_mut());
                    Rest::CaughtUp(self.until_upkeep(base, built.as_ref()))
                }
                Err(error) => {
                    // A first load that broke off holds parts of versions that it has not reached, and what is deleted
                    // meanwhile would stay in it: a load from 0 reads no deletions.
                    if !built.as_ref().is_some_and(|built| is_published(base, built)) {
                        *built = None;
                    }
                    base.note_failure();
                    tracing::warn!(knowledge_base_id = %base.key.knowledge_base_id, error = %chain(&error), "sync failed; trying again");
                    let this_time = pause;
                    pause = (pause * 2).min(PAUSE_MAX);
                    Rest::Failed(this_time)
                }
            };
            self.rest(base, rest).await;
            Box::pin(self.compact_if_due(built.as_mut())).await;
            Box::pin(self.save_if_due(base, built.as_mut())).await;
        }
    }

    /// Has the least recently searched of the others leave so that `bytes` fit; false if that cannot be.
    async fn make_room(&self, base: &Base, bytes: usize) -> bool {
        let (bytes_max, unload_after) = (self.config.memory_bytes_max, self.config.unload_after);
        let Some(others) = self.loaded.room_for(base, bytes, bytes_max, unload_after) else { return false };
        for other in &others {
            tracing::debug!(knowledge_base_id = %other.key.knowledge_base_id, bytes = other.memory_bytes(), "let go to make room");
            other.let_go();
        }
        let all_gone = futures_util::future::join_all(others.iter().map(|other| other.withdrawn()));
        timeout(LEAVE_WAIT, all_gone).await.is_ok()
    }

    /// Waits until it is time for the next look, or for upkeep.
    async fn rest(&self, base: &Base, rest: Rest) {
        match rest {
            Rest::CaughtUp(None) => base.woken().await,
            Rest::CaughtUp(Some(until_upkeep)) => drop(timeout(until_upkeep, base.woken()).await),
            // No wake-up shortens the pauses below: who was woken at once would fail, or find no room, at once again.
            Rest::Failed(pause) => sleep(pause).await,
            Rest::Unfit { bytes } => {
                if timeout(UNFIT_PAUSE, base.wanted()).await.is_ok() {
                    return;
                }
                let (bytes_max, unload_after) = (self.config.memory_bytes_max, self.config.unload_after);
                while self.loaded.room_for(base, bytes, bytes_max, unload_after).is_none() {
                    tokio::select! {
                        () = base.wanted() => return,
                        () = base.woken() => return,
                        () = sleep(UNFIT_PAUSE) => {}
                    }
                }
            }
        }
    }

    /// Reads what is past the watermark and applies it.
    ///
    /// # Cancel safety
    /// Leaves in `built` what was applied: a version whole or, in a first load, parts of versions that it does not claim.
    async fn look(&self, base: &Base, built: &mut Option<Built>) -> Result<Looked, anyhow::Error> {
        let key = base.key;
        let loading = match &built {
            Some(built) if is_published(base, built) => None,
            _ => Some(self.loads.acquire().await?),
        };
        let mut changes = match self.store.changes(key.tenant_id, key.knowledge_base_id).await? {
            Some(changes) => changes,
            None => return Ok(Looked::Gone),
        };
        let head = changes.head().clone();
        let is_usable = |built: &Built| {
            built.generation_id == head.generation_id
                && built.index.version() >= head.pruned_version
                && built.index.version() <= head.version
        };
        if !built.as_ref().is_some_and(is_usable) {
            *built = None;
            if loading.is_none() {
                changes.finish().await?;
                return Ok(Looked::Outdated);
            }
        }
        let bytes = estimate(built.as_ref(), &head);
        if !self.loaded.reserve(base, bytes, self.config.memory_bytes_max) {
            base.heard(head.version);
            return Ok(Looked::DoesNotFit { bytes });
        }
        if built.is_none() {
            let restored = self.restore(key, &head).await?;
            *built = Some(restored.filter(is_usable).unwrap_or_else(|| Built::empty(&head, self.config.vectors)));
        }
        if loading.is_some() {
            base.note_progress(built.as_ref().map_or(0, |built| built.index.len()), head.chunk_count);
        }
        let Some(current) = built else { return Ok(Looked::CaughtUp) };
        // Nobody searches an index before it is published, so it may be filled in pieces.
        let is_published = is_published(base, current);
        let mut batch = Batch { version: current.index.version(), upserts: Vec::new(), deletions: Vec::new() };
        if current.index.version() < head.version {
            changes.read_from(current.index.version()).await?;
            while let Some(change) = changes.next().await? {
                match change {
                    // The table refuses it, but may have had it before it did. One row must not hold up all others.
                    Change::Upsert(chunk) if chunk.embedding.iter().all(|component| *component == 0.0) => {
                        tracing::warn!(knowledge_base_id = %key.knowledge_base_id, chunk_id = %chunk.id, "chunk left out: its embedding is zero");
                        batch.deletions.push(chunk.id);
                    }
                    Change::Upsert(chunk) => batch.upserts.push(chunk),
                    Change::Deletion(chunk_id) => batch.deletions.push(chunk_id),
                }
                if !is_published && batch.upserts.len() >= LOAD_BATCH_CHUNKS {
                    let version = batch.version;
                    let full =
                        std::mem::replace(&mut batch, Batch { version, upserts: Vec::new(), deletions: Vec::new() });
                    self.apply(current, full).await?;
                    base.note_progress(current.index.len(), head.chunk_count);
                }
            }
            batch.version = head.version;
            self.apply(current, batch).await?;
            current.applied_at = Instant::now();
        }
        changes.finish().await?;
        drop(loading);
        if is_published {
            base.caught_up_to(current.index.version());
        } else {
            base.publish(current.index.clone());
            self.loaded.note_load();
            // As it was saved before a crash, or what was deleted while nobody looked.
            if current.index.has_deleted() {
                base.purge(current.index.version());
            }
        }
        self.merge_segments(current).await?;
        Ok(Looked::CaughtUp)
    }

    async fn apply(&self, built: &Built, batch: Batch) -> Result<(), anyhow::Error> {
        let index = built.index.clone();
        self.compute.run_in_background(move || index.apply(batch)).await?.map_err(anyhow::Error::new)
    }

    /// Merges larger segments, off the way of writes and searches.
    async fn merge_segments(&self, built: &Built) -> Result<(), anyhow::Error> {
        let index = built.index.clone();
        self.compute.run_in_background(move || while index.maintain() {}).await.map_err(anyhow::Error::new)
    }

    /// Has the graphs of large segments built, if there are any without.
    fn wake_graphs(self: &Arc<Self>, base: &Arc<Base>, built: Option<&mut Built>) {
        let Some(Built { index, graphs, .. }) = built else { return };
        let graphs = graphs.get_or_insert_with(|| {
            let (wake, woken) = mpsc::channel(1);
            self.tasks.spawn(self.clone().build_graphs(base.clone(), index.clone(), woken));
            wake
        });
        // If there is no room, it will look anyway.
        let _ = graphs.try_send(());
    }

    /// Builds the graphs of `index` bit by bit whenever it is woken. What is built, the sync saves, as the only one that
    /// writes snapshots.
    async fn build_graphs(self: Arc<Self>, base: Arc<Base>, index: Arc<Index>, mut woken: mpsc::Receiver<()>) {
        let knowledge_base_id = base.key.knowledge_base_id;
        let mut is_told = false;
        while woken.recv().await.is_some() {
            while !woken.is_closed() {
                let (working, room_bytes) = (index.clone(), self.loaded.room(self.config.memory_bytes_max));
                let step = self.compute.run_in_background(move || working.build_graphs(GRAPH_STEP, room_bytes)).await;
                if woken.is_closed() {
                    break;
                }
                base.recount();
                match step {
                    Ok(GraphStep::Idle) => break,
                    Ok(GraphStep::Unfinished) => sleep(GRAPH_PAUSE).await,
                    Ok(GraphStep::Built(built)) => {
                        let (rows, took_ms) = (built.rows, built.took.as_millis() as u64);
                        tracing::info!(%knowledge_base_id, rows, took_ms, recall = built.recall, "graph built");
                        base.wake(0);
                    }
                    Ok(GraphStep::TooLittle { recall }) => {
                        tracing::warn!(%knowledge_base_id, recall, "a graph found too little; it is built once more, with more care");
                    }
                    Ok(GraphStep::Refused(reason)) => {
                        tracing::warn!(%knowledge_base_id, reason, "no graph for a large segment; it is scanned");
                        // What was found out is saved.
                        base.wake(0);
                    }
                    Ok(GraphStep::NoRoom { bytes }) => {
                        if !is_told {
                            tracing::info!(%knowledge_base_id, bytes, "no memory for a graph now; its segment is scanned");
                            is_told = true;
                        }
                        let _ = timeout(UNFIT_PAUSE, woken.recv()).await;
                    }
                    Err(error) => {
                        tracing::warn!(%knowledge_base_id, error = %chain(&error), "graph not built");
                        break;
                    }
                }
            }
        }
    }

    async fn restore(&self, key: BaseKey, head: &Head) -> Result<Option<Built>, anyhow::Error> {
        let (snapshots, settings, generation_id) =
            (self.snapshots.clone(), settings(head, self.config.vectors), head.generation_id);
        let restored = self.compute.run_in_background(move || snapshots.restore(key, generation_id, &settings)).await?;
        Ok(restored.map(|index| Built {
            saved_version: index.version(),
            index: Arc::new(index),
            generation_id,
            saved_at: Instant::now(),
            applied_at: Instant::now(),
            is_compacted: false,
            graphs: None,
            purged_at: Instant::now(),
        }))
    }

    /// Time until the index is to be compacted or saved, or what is deleted purged; none if nothing is to be done.
    fn until_upkeep(&self, base: &Base, built: Option<&Built>) -> Option<Duration> {
        let until_compaction = built.and_then(until_compaction);
        [until_compaction, self.until_snapshot(base, built)].into_iter().flatten().min()
    }

    /// Makes one of all segments, if there are too many and nothing is written.
    async fn compact_if_due(&self, built: Option<&mut Built>) {
        let Some(built) = built.filter(|built| until_compaction(built) == Some(Duration::ZERO)) else { return };
        let index = built.index.clone();
        match self.compute.run_in_background(move || index.compact()).await {
            Ok(is_compacted) => built.is_compacted |= is_compacted,
            Err(error) => tracing::warn!(%error, "segments stay as they are: they could not be merged"),
        }
        // Not again at once if another thread was at it, or it failed.
        built.applied_at = Instant::now();
    }

    /// Time until the next snapshot or purge is due; none if the last one holds everything, and nothing that is deleted.
    fn until_snapshot(&self, base: &Base, built: Option<&Built>) -> Option<Duration> {
        // A purge that is under way wakes when it ends, and is saved then.
        let built = built.filter(|_| !base.is_purging())?;
        let is_stale = built.is_unsaved() || base.purge_due() > 0;
        let save_at = is_stale.then(|| built.saved_at + self.config.snapshot_interval);
        let purge_at = built.index.has_deleted().then(|| built.purged_at + PURGE_AFTER);
        let next = [save_at, purge_at].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Saves the index if that is due; where something has to go first, begins with that and saves once it is done.
    async fn save_if_due(self: &Arc<Self>, base: &Arc<Base>, built: Option<&mut Built>) {
        let Some(built) = built else { return };
        if self.until_snapshot(base, Some(built)) != Some(Duration::ZERO) {
            return;
        }
        if built.index.has_deleted() && built.purged_at.elapsed() >= PURGE_AFTER {
            base.purge(built.index.version());
        }
        if base.purge_due() == 0 {
            self.save(base, Some(built)).await;
        } else if base.is_purged() {
            self.save_purged(base, built).await;
        } else {
            built.purged_at = Instant::now();
            let purge = self.clone().purge(base.clone(), built.index.clone());
            base.purge_begins();
            self.tasks.spawn(purge);
        }
    }

    /// Writes segments anew beside the sync, which goes on, and has it save them.
    async fn purge(self: Arc<Self>, base: Arc<Base>, index: Arc<Index>) {
        let due = base.purge_due().min(index.version());
        let purged = self.compute.run_in_background(move || index.purge()).await;
        if let Err(error) = purged {
            tracing::warn!(knowledge_base_id = %base.key.knowledge_base_id, %error, "what was deleted could not be purged; a later merge does it");
            base.purged(base.purge_due());
        }
        base.purge_ends(due);
        base.wake(0);
    }

    async fn save_purged(&self, base: &Base, built: &mut Built) {
        let due = base.purge_due();
        // It may have been saved since the deletion, with all of it.
        built.saved_version = built.saved_version.min(due.saturating_sub(1));
        self.save(base, Some(&mut *built)).await;
        if built.saved_version >= due {
            base.purged(due);
        }
    }

    /// Saves the index before it goes, without what has to go at once.
    async fn save_last(&self, base: &Base, built: Option<&mut Built>) {
        let Some(built) = built else { return };
        if base.purge_due() == 0 {
            return self.save(base, Some(built)).await;
        }
        let index = built.index.clone();
        if self.compute.run_in_background(move || index.purge()).await.is_ok() {
            self.save_purged(base, built).await;
        }
    }

    async fn save(&self, base: &Base, built: Option<&mut Built>) {
        let Some(built) = built.filter(|built| built.is_unsaved()) else { return };
        let (snapshots, index, key, generation_id) =
            (self.snapshots.clone(), built.index.clone(), base.key, built.generation_id);
        let version = index.version();
        let save = move || {
            snapshots.save(key, generation_id, &index)?;
            snapshots.remove_others(key, Some(generation_id));
            anyhow::Ok(())
        };
        match self.compute.run_in_background(save).await.map_err(anyhow::Error::new).and_then(|saved| saved) {
            Ok(()) => {
                built.saved_version = version;
                built.is_compacted = false;
            }
            Err(error) => {
                tracing::warn!(knowledge_base_id = %key.knowledge_base_id, error = %chain(&error), "snapshot not written; the old one stays");
            }
        }
        built.saved_at = Instant::now();
    }

    /// Wakes the knowledge bases whose version moved on, or that are gone.
    async fn poll_versions(self: Arc<Self>) {
        let mut next = 0;
        loop {
            let is_for_all = tokio::select! {
                () = sleep(self.config.poll_interval) => false,
                () = self.poll_all.notified() => true,
                () = self.tasks.stopping().cancelled() => return,
            };
            let mut bases = self.loaded.all();
            if is_for_all {
                next = 0;
            } else if bases.len() > POLLED_MAX {
                bases.sort_unstable_by_key(|base| base.key);
                let first = next % bases.len();
                bases.rotate_left(first);
                bases.truncate(POLLED_MAX);
                next += POLLED_MAX;
            }
            for bases in bases.chunks(POLLED_MAX) {
                if let Err(error) = self.poll(bases).await {
                    tracing::debug!(%error, "versions could not be polled");
                    if is_for_all {
                        sleep(self.config.poll_interval).await;
                        self.look_everywhere();
                    }
                    break;
                }
            }
        }
    }

    async fn poll(&self, bases: &[Arc<Base>]) -> Result<(), StoreError> {
        let ids: Vec<_> = bases.iter().map(|base| (base.key.tenant_id, base.key.knowledge_base_id)).collect();
        let versions = self.store.list_versions(&ids).await?;
        for base in bases {
            match versions.get(&(base.key.tenant_id, base.key.knowledge_base_id)) {
                Some(version) if *version == base.version() => {}
                Some(version) => base.tell(*version),
                None => base.wake(0),
            }
        }
        Ok(())
    }
}

impl Built {
    fn empty(head: &Head, vectors: VectorSearch) -> Self {
        Self {
            index: Arc::new(Index::new(settings(head, vectors))),
            generation_id: head.generation_id,
            saved_version: 0,
            saved_at: Instant::now(),
            applied_at: Instant::now(),
            is_compacted: false,
            graphs: None,
            purged_at: Instant::now(),
        }
    }

    /// Whether there is something that the last snapshot lacks.
    fn is_unsaved(&self) -> bool {
        self.index.version() > self.saved_version || self.is_compacted || self.index.has_unsaved_graph()
    }
}

/// Time until the segments of `built` are to become one; none if they are not.
fn until_compaction(built: &Built) -> Option<Duration> {
    let at = built.index.is_scattered().then(|| built.applied_at + COMPACT_AFTER)?;
    Some(at.saturating_duration_since(Instant::now()))
}

/// Whether searches ask that very index.
fn is_published(base: &Base, built: &Built) -> bool {
    base.index().is_some_and(|index| Arc::ptr_eq(&index, &built.index))
}

/// Memory that a knowledge base of that size takes, in bytes; one that is loaded may outgrow it.
fn estimate(built: Option<&Built>, head: &Head) -> usize {
    // What an index without chunks takes counts for nothing.
    if head.chunk_count == 0 {
        return 0;
    }
    let (held_chunks, held_bytes) = built.map_or((0, 0), |built| (built.index.len(), built.index.memory_bytes()));
    let new_chunks = head.chunk_count.saturating_sub(held_chunks);
    new_chunks.saturating_mul(CHUNK_BYTES_ESTIMATE + 3 * head.dimensions).saturating_add(held_bytes)
}

fn settings(head: &Head, vectors: VectorSearch) -> Settings {
    Settings { dimensions: head.dimensions, encoder: head.encoder.clone(), analyzer: head.analyzer, vectors }
}

/// An error with its causes, as one line for the log.
fn chain(error: &(impl std::fmt::Display + ?Sized)) -> String {
    format!("{error:#}")
}
