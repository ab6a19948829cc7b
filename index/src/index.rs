//! The index: a view that never changes and that searches read, and writers that replace it by another.
//!
//! Invariant: a view holds each batch whole or not at all, and an id is live in one of its segments at most. Searches
//! load the view without a lock; writers take turns. Merges of small segments are done by the writer that made them
//! necessary; larger ones are prepared by [`Index::maintain`] beside writers and searches, and put in place in a moment.
//! Graphs of large segments are built by [`Index::build_graphs`], beside all that: one for each segment, and one more if that
//! finds too little.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    analyze::Analyzer,
    bits::Bits,
    chunk::{Batch, Chunk},
    graph::{self, GraphBuilder, GraphBuilt, GraphError, VectorSearch},
    recall::{self, RecallReport},
    search::{self, Answer, GraphWatch, Query, SearchError},
    segment::{Segment, unit},
    snapshot::{self, RestoreError, SnapshotError},
    words::{DOCS_MAX, WordsLive},
};

/// Most live chunks of a segment that a writer makes by merging: some milliseconds of work.
const INLINE_MERGE_CHUNKS_MAX: usize = 2_048;
/// A segment is written anew when more than this share of it, one in so many, is deleted.
const DELETED_SHARE: usize = 4;
/// All segments become one, when there is time for it, if more than this share of the chunks is outside the largest: one in so
/// many. So each chunk is written anew that often at most.
const SCATTERED_SHARE: usize = 32;
/// If more than one document in so many is deleted at once, counting a segment's terms anew is cheaper than reading the
/// texts of what is deleted: 1 ns a posting, about a hundred of them to a document, against 50 ns a word.
const RECOUNT_SHARE: usize = 75;
/// Most text of a segment that is built from chunks: with it, no count of terms or postings leaves `u32`.
const BUILD_TEXT_BYTES_MAX: usize = 1 << 30;

/// What an index is made for; never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Length of embeddings, at least 1.
    pub dimensions: usize,
    /// Fingerprint of the encoder that embeddings come from; vectors of two encoders do not mix.
    pub encoder: String,
    /// What makes terms of text.
    pub analyzer: Analyzer,
    /// How vectors are searched; not part of what an index holds, so a snapshot may be restored under another.
    #[serde(skip)]
    pub vectors: VectorSearch,
}

/// Why a batch was refused; nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The index holds more than the batch would leave it at.
    #[error("the batch leads to version {batch}, and the index is at {index}")]
    VersionWentBack {
        /// The index's.
        index: u64,
        /// The batch's.
        batch: u64,
    },
    /// An embedding is of another encoder.
    #[error("the embedding of chunk {chunk_id} has {found} dimensions and the index {expected}")]
    WrongDimensions {
        /// Which chunk.
        chunk_id: Uuid,
        /// The index's.
        expected: usize,
        /// The embedding's.
        found: usize,
    },
    /// An embedding has no direction: it is all zero, or has a component that is no finite number.
    #[error("the embedding of chunk {chunk_id} is zero or not finite")]
    NoDirection {
        /// Which chunk.
        chunk_id: Uuid,
    },
}

/// The retrieval engine of one knowledge base. Shared between threads by reference; each method may be called at any
/// time from any thread.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    view: ArcSwap<View>,
    writer: Mutex<Writer>,
    /// Held through [`Index::maintain`], so that there is one at a time.
    maintenance: Mutex<()>,
    /// Held through [`Index::build_graphs`]: the graph that is being built, and what it is of.
    graph: Mutex<Option<(Arc<Segment>, GraphBuilder)>>,
    /// Bytes that it will take, about.
    graph_bytes: AtomicUsize,
    /// Held through [`Index::snapshot`], so that there is one at a time.
    saving: Mutex<()>,
}

/// What a call of [`Index::build_graphs`] led to.
#[derive(Debug, Clone, PartialEq)]
pub enum GraphStep {
    /// There is nothing to do.
    Idle,
    /// There is more to do.
    Unfinished,
    /// A graph is done, and searches take it.
    Built(GraphBuilt),
    /// The first graph of a segment found too little. It is built once more, with more care, so there is more to do.
    TooLittle {
        /// Share of the ten nearest rows that it found, by a sample.
        recall: f64,
    },
    /// A segment gets no graph and is scanned; the text says why.
    Refused(String),
    /// One that is due would take so much memory, and there is no room.
    NoRoom {
        /// About.
        bytes: usize,
    },
}

/// What writers take turns with.
#[derive(Debug, Default)]
struct Writer {
    /// Segments that [`Index::maintain`] is merging: no other merge may take them away meanwhile.
    busy: Vec<Arc<Segment>>,
}

/// All of an index at one version.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) version: u64,
    pub(crate) parts: Vec<Part>,
    /// Live chunks.
    pub(crate) len: usize,
    memory_bytes: usize,
}

/// A segment as a view has it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) segment: Arc<Segment>,
    left: Arc<Left>,
}

/// What is left of a segment.
#[derive(Debug)]
struct Left {
    /// The documents that are not deleted; all if `None`.
    live: Option<Bits>,
    /// How many there are.
    len: usize,
    words: WordsLive,
}

impl Index {
    /// An empty index at version 0.
    pub fn new(settings: Settings) -> Self {
        Self::of_view(settings, View::new(0, Vec::new()))
    }

    pub(crate) fn of_view(settings: Settings, view: View) -> Self {
        Self {
            settings,
            view: ArcSwap::from_pointee(view),
            writer: Mutex::default(),
            maintenance: Mutex::default(),
            graph: Mutex::default(),
            graph_bytes: AtomicUsize::new(0),
            saving: Mutex::default(),
        }
    }

    /// What it is made for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// It holds everything up to this version.
    pub fn version(&self) -> u64 {
        self.view.load().version
    }

    /// Chunks that can be found.
    pub fn len(&self) -> usize {
        self.view.load().len
    }

    /// Whether no chunk can be found.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all arrays, of deleted chunks too until a merge leaves them out, and of the graph that is being built. Hits
    /// that are still held, and a merge under way, take more.
    pub fn memory_bytes(&self) -> usize {
        self.view.load().memory_bytes + self.graph_bytes.load(Relaxed)
    }

    /// Applies `batch`: deletions, then upserts, then the version. Searches see all of it or nothing. Takes about 0.1 ms
    /// per new chunk, and blocks other writers only while it marks deletions and merges small segments.
    ///
    /// # Errors
    /// If the version goes back, or an embedding has another length than the settings say or no direction. Nothing is
    /// applied then.
    pub fn apply(&self, batch: Batch) -> Result<(), ApplyError> {
        self.check(&batch.upserts)?;
        let Batch { version, upserts, deletions: mut gone } = batch;
        gone.extend(upserts.iter().map(|chunk| chunk.id));
        gone.sort_unstable();
        gone.dedup();
        let fresh =
            sorted_groups(upserts).into_iter().map(|chunks| Part::whole(Segment::build(&self.settings, &chunks)));
        let fresh: Vec<Part> = fresh.collect();

        let analyzer = self.settings.analyzer;
        let writer = self.writer.lock();
        let view = self.view.load();
        if version < view.version {
            return Err(ApplyError::VersionWentBack { index: view.version, batch: version });
        }
        let mut parts: Vec<Part> = view.parts.iter().filter_map(|part| part.without(&gone, analyzer)).collect();
        parts.extend(fresh);
        self.merge_small(&mut parts, &writer.busy);
        self.view.store(Arc::new(View::new(version, parts)));
        Ok(())
    }

    fn check(&self, upserts: &[Chunk]) -> Result<(), ApplyError> {
        let expected = self.settings.dimensions;
        for Chunk { id: chunk_id, embedding, .. } in upserts {
            if embedding.len() != expected {
                let found = embedding.len();
                return Err(ApplyError::WrongDimensions { chunk_id: *chunk_id, expected, found });
            }
            if unit(embedding).is_none() {
                return Err(ApplyError::NoDirection { chunk_id: *chunk_id });
            }
        }
        Ok(())
    }

    fn merge_small(&self, parts: &mut Vec<Part>, busy: &[Arc<Segment>]) {
        loop {
            let idle = |part: &Part| !busy.iter().any(|segment| Arc::ptr_eq(segment, &part.segment));
            let planned = plan_merge(parts, INLINE_MERGE_CHUNKS_MAX, idle);
            if planned.is_empty() {
                return;
            }
            let merged = self.merged(&planned);
            parts.retain(|part| !is_among(&planned, part));
            parts.extend(merged);
        }
    }

    fn merged(&self, sources: &[Part]) -> Option<Part> {
        let sources: Vec<_> = sources.iter().map(|part| (&*part.segment, part.live())).collect();
        Segment::merge(&self.settings, &sources).map(Part::whole)
    }

    /// Merges segments that are too many, or of which much is deleted, whatever their size. Searches and writers go on
    /// meanwhile; writers wait only while the result is put in place. True if something was merged: there may be more.
    /// False if there was nothing to do, or another thread is at it.
    pub fn maintain(&self) -> bool {
        let Some(_only_one) = self.maintenance.try_lock() else {
            return false;
        };
        self.rewrite(|parts| plan_merge(parts, DOCS_MAX, |_| true))
    }

    /// Whether [`Index::compact`] has something to do.
    pub fn is_scattered(&self) -> bool {
        self.are_scattered(&self.view.load().parts)
    }

    /// Merges all segments into one if more than a small share of the chunks is outside the largest: each segment costs every
    /// search a little, and a small one, which has no sign codes, more for each chunk than a large one. About 6 µs a chunk of
    /// the index, so it is for times when nothing is written. Segments that have graphs, or would get one, are left alone.
    /// Beside searches and writers as [`Index::maintain`]; false if there was nothing to do, or another thread is at it.
    pub fn compact(&self) -> bool {
        let Some(_only_one) = self.maintenance.try_lock() else {
            return false;
        };
        self.rewrite(|parts| if self.are_scattered(parts) { parts.to_vec() } else { Vec::new() })
    }

    /// Whether all of `parts` should become one.
    fn are_scattered(&self, parts: &[Part]) -> bool {
        let Settings { dimensions, vectors: way, .. } = self.settings;
        let all: usize = parts.iter().map(Part::len).sum();
        let largest = parts.iter().map(Part::len).max().unwrap_or_default();
        let mut word_sizes = [0; 3];
        SCATTERED_SHARE * (all - largest) > all
            && all <= DOCS_MAX
            && !graph::is_due(way, all, dimensions)
            && parts.iter().all(|part| part.segment.vectors.graph().is_none() && add_word_sizes(&mut word_sizes, part))
    }

    /// Whether something of a deleted chunk is left in a segment.
    pub fn has_deleted(&self) -> bool {
        self.view.load().parts.iter().any(|part| part.live().is_some())
    }

    /// Writes every segment anew of which something is deleted, as [`Index::maintain`] would in time: then nothing of a
    /// chunk that was deleted before is left in memory, but for hits that are still held, nor in the next snapshot.
    pub fn purge(&self) {
        let _only_one = self.maintenance.lock();
        while self.rewrite(|parts| parts.iter().find(|part| part.live().is_some()).cloned().into_iter().collect()) {}
    }

    /// Makes one of the parts that `plan` picks; false if it picks none. For who holds the maintenance lock.
    fn rewrite(&self, plan: impl FnOnce(&[Part]) -> Vec<Part>) -> bool {
        let planned = {
            let mut writer = self.writer.lock();
            let planned = plan(&self.view.load().parts);
            writer.busy = planned.iter().map(|part| part.segment.clone()).collect();
            planned
        };
        if planned.is_empty() {
            return false;
        }
        let merged = self.merged(&planned);

        let mut writer = self.writer.lock();
        writer.busy.clear();
        let view = self.view.load();
        let gone = deleted_since(&planned, &view.parts);
        let mut parts = view.parts.clone();
        parts.retain(|part| !is_among(&planned, part));
        parts.extend(merged.and_then(|part| part.without(&gone, self.settings.analyzer)));
        self.view.store(Arc::new(View::new(view.version, parts)));
        true
    }

    /// Builds a graph for a large segment, for about as long as `budget` and then, when all rows are in, as long as it
    /// takes to compare it with a scan. Searches scan the segment until its graph is done, and nobody waits. Begins none that
    /// takes more than `room_bytes`. To be called until it is idle, with pauses as the caller sees fit; a merge makes new work.
    pub fn build_graphs(&self, budget: Duration, room_bytes: usize) -> GraphStep {
        let mut building = self.graph.lock();
        let step = self.build_graph(&mut building, budget, room_bytes);
        if building.is_none() {
            self.graph_bytes.store(0, Relaxed);
        }
        step
    }

    fn build_graph(
        &self,
        building: &mut Option<(Arc<Segment>, GraphBuilder)>,
        budget: Duration,
        room_bytes: usize,
    ) -> GraphStep {
        let view = self.view.load();
        let is_there = |segment: &Arc<Segment>| view.parts.iter().any(|part| Arc::ptr_eq(&part.segment, segment));
        let (segment, mut builder) = match building.take().filter(|(segment, _)| is_there(segment)) {
            Some(under_way) => under_way,
            None => {
                let Settings { dimensions, vectors: way, .. } = self.settings;
                let due = view.parts.iter().filter(|part| graph::is_due(way, part.segment.len(), dimensions));
                let due = due.filter_map(|part| Some((part, part.segment.vectors.graph_effort()?)));
                let Some((part, effort)) = due.max_by_key(|(part, _)| part.len()) else { return GraphStep::Idle };
                let segment = part.segment.clone();
                let bytes = graph::bytes_estimate(segment.len(), dimensions, effort);
                if bytes > room_bytes {
                    return GraphStep::NoRoom { bytes };
                }
                self.graph_bytes.store(bytes, Relaxed);
                match GraphBuilder::start(&segment.vectors, way, effort) {
                    Ok(builder) => (segment, builder),
                    Err(error) => return refuse(&segment, &error),
                }
            }
        };
        drop(view);
        match builder.add_rows(&segment.vectors, budget) {
            Ok(false) => {
                *building = Some((segment, builder));
                return GraphStep::Unfinished;
            }
            Ok(true) => {}
            Err(error) => return refuse(&segment, &error),
        }
        match builder.finish(&segment.vectors, segment.payload.ids()) {
            Ok((graph, built)) => {
                segment.vectors.settle_graph(Some(graph));
                self.recount();
                GraphStep::Built(built)
            }
            Err(GraphError::Recall { recall }) if segment.vectors.fail_graph() => GraphStep::TooLittle { recall },
            // It has failed for good.
            Err(error @ GraphError::Recall { .. }) => GraphStep::Refused(error.to_string()),
            Err(error) => refuse(&segment, &error),
        }
    }

    /// Counts memory anew, after a graph came or went.
    fn recount(&self) {
        let _writer = self.writer.lock();
        let view = self.view.load();
        self.view.store(Arc::new(View::new(view.version, view.parts.clone())));
    }

    /// Whether searches may miss something of the semantic list: by graphs or by sign codes.
    pub fn is_approximate(&self) -> bool {
        self.view.load().parts.iter().any(|part| part.segment.vectors.is_approximate())
    }

    /// Repeats the vectors' part of `query` as it is and exactly, and compares. `None` if it is exact as it is. By what
    /// many such queries tell, a graph that finds too little is searched wider while that helps and is quicker than a scan.
    /// Then it is let go, and [`Index::build_graphs`] builds another with more care; if that one comes to the same, its segment
    /// is scanned for good. To be called for a sample of searches, since it costs more than one.
    ///
    /// # Errors
    /// Those of [`Index::search`].
    pub fn watch_graphs(&self, query: &Query<'_>) -> Result<Option<GraphWatch>, SearchError> {
        let watch = search::watch(&self.settings, &self.view.load(), query)?;
        if watch.as_ref().is_some_and(|watch| !watch.rebuilt.is_empty() || !watch.let_go.is_empty()) {
            self.recount();
        }
        Ok(watch)
    }

    /// Whether there is a graph that [`Index::snapshot`] has not tried to save as it is searched now, or one was let go since.
    pub fn has_unsaved_graph(&self) -> bool {
        self.view.load().parts.iter().any(|part| part.segment.vectors.is_graph_unsaved())
    }

    /// The chunks that answer `query` best.
    ///
    /// # Errors
    /// If the filter asks for a key that no chunk has (an empty index has no hits instead), or the mode needs an
    /// embedding and there is none that fits.
    pub fn search(&self, query: &Query<'_>) -> Result<Answer, SearchError> {
        search::search(&self.settings, &self.view.load(), query)
    }

    /// Saves the index to `folder`, which is made if it is not there. Whenever the process or the machine stops, the
    /// folder holds the snapshot before or this one. Segments that are there already are not written again.
    ///
    /// # Errors
    /// If a file cannot be written; the snapshot before stays.
    pub fn snapshot(&self, folder: &Path) -> Result<(), SnapshotError> {
        let _only_one = self.saving.lock();
        snapshot::save(&self.settings, &self.view.load_full(), folder)
    }

    /// The index that was saved to `folder`. Every byte is checked against its checksum before it is used.
    ///
    /// # Errors
    /// [`RestoreError::Missing`] if there is none, `Foreign` if it was saved under other settings or by another format,
    /// `Damaged` if it is not what was saved.
    pub fn restore(folder: &Path, settings: &Settings) -> Result<Self, RestoreError> {
        let view = snapshot::load(folder, settings)?;
        Ok(Self::of_view(settings.clone(), view))
    }

    /// The same, under whatever settings it was saved but for how vectors are searched. Changes nothing in `folder`.
    ///
    /// # Errors
    /// As [`Index::restore`]; also if a graph is damaged.
    pub fn restore_as_saved(folder: &Path, vectors: VectorSearch) -> Result<Self, RestoreError> {
        let (settings, view) = snapshot::load_as_saved(folder, vectors)?;
        Ok(Self::of_view(settings, view))
    }

    /// Compares what searches by vectors find with what a comparison with every chunk does, with and without filters, for
    /// up to a hundred questions of its own making and about as long as `longest`; one question is asked in any case. Each
    /// reads all vectors, so it is nothing to be called for a search.
    pub fn measure_recall(&self, longest: Duration) -> RecallReport {
        recall::measure(&self.view.load(), longest)
    }
}

impl View {
    pub(crate) fn new(version: u64, parts: Vec<Part>) -> Self {
        let len = parts.iter().map(Part::len).sum();
        let memory_bytes = parts.iter().map(Part::memory_bytes).sum();
        Self { version, parts, len, memory_bytes }
    }
}

impl Part {
    /// A segment of which nothing is deleted.
    pub(crate) fn whole(segment: Segment) -> Self {
        let left = Left { live: None, len: segment.len(), words: WordsLive::all(&segment.words) };
        Self { segment: Arc::new(segment), left: Arc::new(left) }
    }

    /// The documents that are live; all if `None`.
    pub(crate) fn live(&self) -> Option<&Bits> {
        self.left.live.as_ref()
    }

    /// How many documents are live.
    pub(crate) fn len(&self) -> usize {
        self.left.len
    }

    /// Term counts of the live documents.
    pub(crate) fn words_live(&self) -> &WordsLive {
        &self.left.words
    }

    fn is_live(&self, doc: u32) -> bool {
        self.live().is_none_or(|live| live.get(doc))
    }

    fn memory_bytes(&self) -> usize {
        self.segment.memory_bytes() + self.left.words.memory_bytes() + self.live().map_or(0, Bits::memory_bytes)
    }

    /// The part without the chunks of `gone`, which ascend; `None` if nothing is left.
    fn without(&self, gone: &[Uuid], analyzer: Analyzer) -> Option<Self> {
        self.without_docs(&self.segment.find_all(gone), analyzer)
    }

    /// The part without those documents; `None` if nothing is left.
    pub(crate) fn without_docs(&self, docs: &[u32], analyzer: Analyzer) -> Option<Self> {
        let dead: Vec<u32> = docs.iter().copied().filter(|doc| self.is_live(*doc)).collect();
        if dead.is_empty() {
            return Some(self.clone());
        }
        let len = self.len() - dead.len();
        if len == 0 {
            return None;
        }
        let segment = &self.segment;
        let mut live = self.live().cloned().unwrap_or_else(|| Bits::ones(segment.len()));
        dead.iter().for_each(|doc| _ = live.set(*doc, false));
        let words = if dead.len() * RECOUNT_SHARE > segment.len() {
            WordsLive::recount(&segment.words, &live)
        } else {
            let mut words = self.left.words.clone();
            dead.iter().for_each(|doc| words.remove(&segment.words, analyzer, *doc, &segment.words_doc(*doc)));
            words
        };
        Some(Self { segment: segment.clone(), left: Arc::new(Left { live: Some(live), len, words }) })
    }
}

/// Settles that a segment gets no graph.
fn refuse(segment: &Segment, error: &GraphError) -> GraphStep {
    segment.vectors.settle_graph(None);
    GraphStep::Refused(error.to_string())
}

/// `chunks` in the order of their ids, of several with one id the last, in groups that a segment can hold.
fn sorted_groups(mut chunks: Vec<Chunk>) -> Vec<Vec<Chunk>> {
    // The sort is stable: turned round first, the last of an id comes first, and is the one that stays.
    chunks.reverse();
    chunks.sort_by_key(|chunk| chunk.id);
    chunks.dedup_by_key(|chunk| chunk.id);
    let mut groups: Vec<Vec<Chunk>> = Vec::new();
    let mut text_bytes = 0;
    for chunk in chunks {
        text_bytes += chunk.title.len() + chunk.heading.len() + chunk.content.len();
        match groups.last_mut() {
            Some(group) if text_bytes <= BUILD_TEXT_BYTES_MAX && group.len() < DOCS_MAX => group.push(chunk),
            _ => {
                text_bytes = chunk.title.len() + chunk.heading.len() + chunk.content.len();
                groups.push(vec![chunk]);
            }
        }
    }
    groups
}

/// Whether `part` is one of `parts`, at whatever state of deletion.
fn is_among(parts: &[Part], part: &Part) -> bool {
    parts.iter().any(|other| Arc::ptr_eq(&other.segment, &part.segment))
}

/// The ids that are live in `then` and no longer in `now`, ascending. A segment that is gone was deleted whole.
fn deleted_since(then: &[Part], now: &[Part]) -> Vec<Uuid> {
    let mut gone = Vec::new();
    for before in then {
        let after = now.iter().find(|part| Arc::ptr_eq(&part.segment, &before.segment));
        if after.is_some_and(|after| Arc::ptr_eq(&after.left, &before.left)) {
            continue;
        }
        let ids = before.segment.payload.ids().iter().zip(0_u32..);
        gone.extend(
            ids.filter(|(_, doc)| before.is_live(*doc) && !after.is_some_and(|after| after.is_live(*doc)))
                .map(|(id, _)| Uuid::from_bytes(*id)),
        );
    }
    gone.sort_unstable();
    gone
}

/// Adds what `part` has of words to `sums`; whether one segment can still have that many.
fn add_word_sizes(sums: &mut [usize; 3], part: &Part) -> bool {
    sums.iter_mut().zip(part.segment.words.sizes()).for_each(|(sum, size)| *sum += size);
    sums.iter().all(|size| *size <= u32::MAX as usize)
}

/// The parts that should become one, of at most `chunks_max` live chunks, among those that are `idle`; none if all is
/// well.
///
/// All is well if each part is more than twice as large as all smaller ones together, which keeps their number
/// logarithmic and the work of merging a small multiple of the work of building; and if less than a quarter of each
/// part is deleted.
fn plan_merge(parts: &[Part], chunks_max: usize, idle: impl Fn(&Part) -> bool) -> Vec<Part> {
    let mut by_size: Vec<&Part> = parts.iter().filter(|part| idle(part)).collect();
    by_size.sort_by_key(|part| part.len());
    let (mut smaller, mut word_sizes, mut take) = (0, [0; 3], 0);
    for (at, part) in by_size.iter().enumerate() {
        if !add_word_sizes(&mut word_sizes, part) || smaller + part.len() > chunks_max {
            break;
        }
        if at > 0 && 2 * smaller >= part.len() {
            take = at + 1;
        }
        smaller += part.len();
    }
    if take == 0 {
        let deleted = |part: &Part| part.segment.len() - part.len();
        let is_due = |part: &&Part| part.len() <= chunks_max && DELETED_SHARE * deleted(part) > part.segment.len();
        return by_size.into_iter().find(is_due).cloned().into_iter().collect();
    }
    by_size.truncate(take);
    by_size.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Map;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        Fusion, Mode, Options, Recall,
        graph::Effort,
        vectors::{self, VectorWay, VectorsView, Visited},
    };

    const DIMENSIONS: usize = 32;

    /// An embedding of no direction in particular.
    fn embedding(seed: usize, spread: f32) -> Vec<f32> {
        (0..DIMENSIONS).map(|at| 1.0 - spread + spread * ((seed * 7_919 + at * at * seed + at) as f32).sin()).collect()
    }

    /// An index of one segment that is large enough for a graph, its rows so far apart.
    fn large(spread: f32) -> Index {
        let settings = Settings {
            dimensions: DIMENSIONS,
            encoder: "test".to_owned(),
            analyzer: Analyzer::English,
            vectors: VectorSearch::Graph,
        };
        let chunk = |number: usize| Chunk {
            id: Uuid::from_u128(number as u128),
            document_id: Uuid::from_u128(0),
            external_id: String::new(),
            title: String::new(),
            source_url: None,
            heading: String::new(),
            ordinal: number as u32,
            content: "text".to_owned(),
            embedding: embedding(number, spread),
            metadata: Map::new(),
        };
        let index = Index::new(settings);
        let upserts = (0..1_500).map(chunk).collect();
        index.apply(Batch { version: 1, upserts, deletions: Vec::new() }).unwrap();
        index
    }

    /// What the steps to the next graph led to, but for those that only went on.
    fn steps(index: &Index) -> Vec<GraphStep> {
        let step = || index.build_graphs(Duration::from_millis(20), usize::MAX);
        let steps = std::iter::repeat_with(step).filter(|step| *step != GraphStep::Unfinished);
        steps.take_while(|step| *step != GraphStep::Idle).collect()
    }

    /// Searches, which are repeated, until a graph is let go; what that search told, and how many went before it.
    fn watch_until_let_go(index: &Index) -> (GraphWatch, usize) {
        for number in 0..10_000 {
            let embedding = embedding(number * 31 + 7, 1.0);
            let query = Query {
                text: "",
                embedding: Some(&embedding),
                top_k: 10,
                mode: Mode::Semantic,
                prefix: false,
                filter: None,
                fusion: Fusion::default(),
                options: Options::default(),
                explain: false,
            };
            let watch = index.watch_graphs(&query).unwrap().expect("a graph is taken");
            if !watch.rebuilt.is_empty() || !watch.let_go.is_empty() {
                return (watch, number);
            }
        }
        panic!("no graph was let go");
    }

    fn way(index: &Index) -> VectorWay {
        let view = index.view.load();
        let part = &view.parts[0];
        let views = [VectorsView { vectors: &part.segment.vectors, live: None, ids: part.segment.payload.ids() }];
        let mut visited = Visited::default();
        vectors::search(&views, &embedding(3, 1.0), 10, &mut visited);
        visited.ways[0]
    }

    fn spoil(index: &Index) {
        index.view.load().parts[0].segment.vectors.graph().unwrap().spoil();
    }

    fn restored(index: &Index) -> Index {
        let folder = TempDir::new().unwrap();
        index.snapshot(folder.path()).unwrap();
        assert!(!index.has_unsaved_graph());
        Index::restore(folder.path(), index.settings()).unwrap()
    }

    #[test]
    fn a_graph_that_searches_find_wanting_is_built_once_more_and_then_no_more() {
        let index = large(1.0);
        let scanned = index.memory_bytes();
        assert!(matches!(steps(&index)[..], [GraphStep::Built(built)] if built.recall >= 0.98));
        spoil(&index);
        let (watch, searches) = watch_until_let_go(&index);
        assert!(matches!(watch.rebuilt[..], [recall] if recall < 0.9) && watch.let_go.is_empty(), "{watch:?}");
        assert!(searches > 100, "it was searched wider before: {searches} searches");
        assert_eq!((way(&index), index.memory_bytes()), (VectorWay::Scan, scanned));
        assert!(index.has_unsaved_graph(), "a restart must not bring it back");
        let index = restored(&index);
        assert_eq!(way(&index), VectorWay::Scan);

        // The second one is not as the first.
        assert_eq!(index.view.load().parts[0].segment.vectors.graph_effort(), Effort::after(1));
        assert_ne!(Effort::after(0), Effort::after(1));
        assert!(matches!(steps(&index)[..], [GraphStep::Built(built)] if built.recall >= 0.98));
        assert_eq!(way(&index), VectorWay::Graph);
        let index = restored(&index);
        assert_eq!((way(&index), steps(&index)), (VectorWay::Graph, Vec::new()));
        spoil(&index);
        let (watch, _) = watch_until_let_go(&index);
        assert!(matches!(watch.let_go[..], [recall] if recall < 0.9) && watch.rebuilt.is_empty(), "{watch:?}");
        assert_eq!((way(&index), steps(&index)), (VectorWay::Scan, Vec::new()));
        let index = restored(&index);
        assert_eq!((way(&index), steps(&index)), (VectorWay::Scan, Vec::new()));

        // A merge makes another segment, which has its own graph.
        let deletions = (0..100).map(Uuid::from_u128).collect();
        index.apply(Batch { version: 2, upserts: Vec::new(), deletions }).unwrap();
        index.purge();
        assert!(matches!(steps(&index)[..], [GraphStep::Built(_)]));
    }

    #[test]
    fn measured_recall_is_that_of_searches() {
        let longest = Duration::from_secs(600);
        let index = large(1.0);
        let scanned = index.measure_recall(longest);
        assert_eq!((scanned.chunks, scanned.questions, &scanned.ways[..]), (1_500, 100, &[VectorWay::Scan][..]));
        // Ten without a filter and twenty with two of them; a scan finds all.
        assert_eq!(scanned.plain, Recall { wanted: 1_000, found: 1_000 });
        assert_eq!(scanned.filtered, Recall { wanted: 2_000, found: 2_000 });

        steps(&index);
        let sound = index.measure_recall(longest);
        assert!(sound.ways.contains(&VectorWay::Graph) && sound.plain.at_10() >= 0.98, "{sound:?}");
        spoil(&index);
        let spoilt = index.measure_recall(longest);
        assert!((0.5..0.8).contains(&spoilt.plain.at_10()), "{spoilt:?}");
        assert!((0.5..0.8).contains(&spoilt.filtered.at_10()), "{spoilt:?}");
        assert_eq!(index.measure_recall(Duration::ZERO).questions, 1);

        // What is deleted is neither looked for nor asked.
        let deletions = (5..1_500).map(Uuid::from_u128).collect();
        index.apply(Batch { version: 2, upserts: Vec::new(), deletions }).unwrap();
        let few = index.measure_recall(longest);
        assert_eq!((few.chunks, few.questions), (5, 10));
        // Five questions are rows, which do not count.
        assert_eq!(few.plain, Recall { wanted: 45, found: 45 });
        let deletions = (0..5).map(Uuid::from_u128).collect();
        index.apply(Batch { version: 3, upserts: Vec::new(), deletions }).unwrap();
        let none = index.measure_recall(longest);
        assert_eq!((none.chunks, none.questions, none.plain.at_10()), (0, 0, 1.0));
    }

    #[test]
    fn a_graph_that_misses_its_own_rows_is_built_once_more_and_then_no_more() {
        // Codes of 8 bits do not tell these rows apart, so more care does not help.
        let index = large(0.000_3);
        let steps_taken = steps(&index);
        assert!(
            matches!(&steps_taken[..], [GraphStep::TooLittle { recall }, GraphStep::Refused(_)] if *recall < 0.98),
            "{steps_taken:?}"
        );
        assert!(index.has_unsaved_graph());
        let index = restored(&index);
        assert_eq!((way(&index), steps(&index)), (VectorWay::Scan, Vec::new()));
    }
}
