//! A graph over the rows of one large segment: candidates for the nearest rows without a look at all of them.
//!
//! This is HNSW (Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
//! Navigable Small World graphs", arXiv:1603.09320), as the usearch library has it; no other module names it.
//!
//! Invariant: a graph is sealed. One writer builds it, by the rows of a segment that never changes; it is compared with a
//! search without a graph; only then searches see it, and nobody writes it again. What is deleted or filtered out, a
//! search leaves out by the segment's bitmap. The graph holds codes of 8 bits, with one step for all rows, and names
//! candidates; their scores are computed from the segment's rows, so they are exact.
//!
//! How many candidates a walk keeps is found out: as many as it takes to find enough of what a scan finds, first by a sample
//! when the graph is built, then by searches that are repeated (`watch` in `search`), since questions are not as rows are.
//!
//! It fails soft: where usearch refuses, the segment is scanned. So it is where a graph finds too little and more candidates
//! do not help, or make a scan as quick; but then one more graph is built, with more care, see [`Effort`].

use std::{
    cell::Cell,
    io,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use usearch::{IndexOptions, MetricKind, ScalarKind};

use crate::{
    bits::Bits,
    sections::{LoadError, Seal, SectionReader, SectionWriter},
    vectors::{self, Vectors, VectorsView, Visited},
};

/// A segment's first graph, and the one that is built where the first found too little. There is no third.
const EFFORTS: [Effort; 2] = [
    Effort { connectivity: 16, expansion_add: 128, walk_cost: 1.0 },
    Effort { connectivity: 32, expansion_add: 256, walk_cost: 1.5 },
];
/// Candidates that a search keeps at first (ef); all of them are scored in f32. Of 500,000 rows 0.98 of the ten nearest to a
/// question are found so.
const EXPANSION_SEARCH: usize = 320;
/// Most that it comes to keep.
const EXPANSION_SEARCH_MAX: usize = 2_048;
/// A search for more than so many rows keeps this many candidates for each.
const CANDIDATES_A_ROW: usize = 2;
/// Searches of one graph at a time for each core of the machine; one more scans. A server has two threads that search for
/// each, and usearch uses its places in turn, so that many of them would be cold memory.
const SEARCHES_A_CORE: usize = 3;
/// Rows that are looked for when a graph is compared with a search without it, each with its [`CHECK_K`] neighbours.
const CHECK_QUERIES: usize = 200;
const CHECK_K: usize = 10;
/// Share of them that must be found for a graph to be used.
const RECALL_MIN: f64 = 0.98;
/// So many rows must have been looked for by repeated searches before they tell anything.
const WATCHED_MIN: u32 = 1_000;
/// After as many, what came before counts half.
const WATCHED_MAX: u32 = 10_000;
/// So many times in a row more candidates may find no more: one time may be chance.
const STALLED_MAX: u32 = 2;
/// Components of a row that step and clamping are fitted to: all but one in so many are represented.
const CLAMPED_SHARE: usize = 10_000;
/// Rows that are looked at for the step.
const STEP_ROWS: usize = 4_096;
/// Rows that are added between two looks at the clock.
const ADD_ROWS: usize = 16;
/// Bytes that a graph takes for a row besides its codes and neighbours.
const ROW_BYTES: usize = 64;
/// Bytes that the smallest graph takes: usearch asks for memory in pieces of this size.
const LEAST_BYTES: usize = 16 << 20;
/// Goes up when what is in a graph's file changes.
const FORMAT: u64 = 1;

/// What a graph is built with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Effort {
    /// Neighbours of a row (M in the paper); twice as many on the lowest level.
    connectivity: usize,
    /// Candidates that are kept while a row's neighbours are looked for (efConstruction).
    expansion_add: usize,
    /// What a walk costs, by what one costs through a graph of the first effort: there are more neighbours to look at.
    walk_cost: f64,
}

impl Effort {
    /// That of a segment's next graph, after so many that found too little; `None` if there is to be none.
    pub(crate) fn after(failed: usize) -> Option<Self> {
        EFFORTS.get(failed).copied()
    }
}

/// How the vectors of an index are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorSearch {
    /// Large segments get a graph, see [`is_due`]; a search takes what is quicker for it.
    #[default]
    Auto,
    /// Always a scan, which finds all.
    Scan,
    /// Segments of [`PREFERRED_ROWS_MIN`] rows get a graph already, and searches take it where a filter keeps enough.
    Graph,
}

/// Fewest rows of a segment for a graph where graphs are preferred.
const PREFERRED_ROWS_MIN: usize = 1_000;
/// Share of the rows, one in so many, that a filter must keep for a preferred graph to be searched.
const PREFERRED_KEPT_SHARE: usize = 20;

/// Nanoseconds that a scan takes for each row by sign codes, for 64 components.
const ESTIMATE_ROW_NS: f64 = 0.37;
/// Nanoseconds that a scan takes for each row that a selective filter keeps, for 64 components.
const SCATTERED_ROW_NS: f64 = 10.0;
/// Nanoseconds that a walk takes for each candidate that it keeps, and on top of it for 64 components: most of it is waiting
/// for memory, in a graph of a million rows.
const CANDIDATE_NS: [f64; 2] = [1_000.0, 300.0];
/// Rows that a walk looks at for each candidate.
const LOOKS_A_CANDIDATE: f64 = 4.0;
/// Candidates that questions are expected to take in the end, in so large a segment. Of a million rows, 320 find 0.96 of the ten
/// nearest to a question, 480 about 0.975, 1,080 0.99.
const EXPANSION_EXPECTED: usize = 640;
/// How much quicker than a scan a walk must be for a graph to be worth its memory and the time to build it.
const WORTH: f64 = 2.0;

/// What a search of `rows` of which `kept` count costs without a graph, about, in nanoseconds.
fn scan_ns(rows: usize, kept: usize, dimensions: usize) -> f64 {
    let width = dimensions as f64 / 64.0;
    if vectors::is_estimated(rows, kept) {
        rows as f64 * ESTIMATE_ROW_NS * width
    } else {
        kept as f64 * SCATTERED_ROW_NS * width
    }
}

fn candidate_ns(dimensions: usize, effort: Effort) -> f64 {
    (CANDIDATE_NS[0] + CANDIDATE_NS[1] * dimensions as f64 / 64.0) * effort.walk_cost
}

/// What a search with a graph costs, about. A filter that keeps one row in ten has ten times as many looked at, but a third
/// of the time goes to them: what is near is often near what was looked at.
fn walk_ns(rows: usize, kept: usize, dimensions: usize, candidates: usize, effort: Effort) -> f64 {
    let filtered = (2.0 + rows as f64 / kept.max(1) as f64) / 3.0;
    candidates as f64 * candidate_ns(dimensions, effort) * filtered
}

/// Whether a segment should have a graph, by the one rule: a scan costs so much a row, a walk about the same for any number
/// of rows; a graph takes minutes to build and much memory, so it must be [`WORTH`] it. At 256 components that is from about
/// 1,900,000 rows on. `make bench-graph` prints what the constants are fitted to.
pub(crate) fn is_due(way: VectorSearch, rows: usize, dimensions: usize) -> bool {
    match way {
        VectorSearch::Scan => false,
        VectorSearch::Graph => rows >= PREFERRED_ROWS_MIN,
        VectorSearch::Auto => {
            scan_ns(rows, rows, dimensions) > WORTH * walk_ns(rows, rows, dimensions, EXPANSION_EXPECTED, EFFORTS[0])
        }
    }
}

/// Bytes that a graph of so many rows takes, about: codes, neighbours on the lowest level and, for one row in `connectivity`,
/// on higher ones, and what finds them.
pub(crate) fn bytes_estimate(rows: usize, dimensions: usize, effort: Effort) -> usize {
    rows.saturating_mul(dimensions + effort.connectivity * 2 * 4 + ROW_BYTES).saturating_add(LEAST_BYTES)
}

/// What a repeated search led to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Watched {
    /// Enough is found, or it is too early to tell.
    Enough,
    /// Too little was found, so searches keep more candidates from now on.
    Widened { recall: f64, breadth: usize },
    /// Too little is found, and a search that is wider still finds no more, or is no quicker than a scan. Told once.
    TooLittle { recall: f64 },
}

/// What repeated searches told of a graph.
#[derive(Debug, Default)]
struct Tally {
    /// Rows that they looked for, and those of them that were found, with as many candidates as are kept now.
    wanted: u32,
    found: u32,
    /// The highest recall with fewer.
    recall_before: f64,
    /// How often in a row more candidates found no more.
    stalled: u32,
    is_given_up: bool,
}

/// Why a segment has no graph.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GraphError {
    #[error("usearch refused: {0}")]
    Library(String),
    #[error("only {recall:.3} of the nearest rows are found by it, and {RECALL_MIN} are wanted")]
    Recall { recall: f64 },
}

/// A graph that is done.
pub(crate) struct Graph {
    index: usearch::Index,
    rows: usize,
    dimensions: usize,
    /// Whether it is searched even where a scan may be as quick.
    is_preferred: bool,
    /// Candidates that a search keeps.
    breadth: AtomicUsize,
    tally: Mutex<Tally>,
    effort: Effort,
    /// As it was last saved or loaded.
    saved: Mutex<Option<Saved>>,
}

/// A graph's file.
#[derive(Debug, Clone, Copy)]
struct Saved {
    /// What it is named by; none if the graph cannot be saved.
    seal: Option<Seal>,
    /// Candidates that a search keeps, as the file says.
    breadth: usize,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Graph").field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// A graph that is being built.
pub(crate) struct GraphBuilder {
    graph: Graph,
    /// What a component is multiplied by to become a code.
    steps: f32,
    /// Rows that are in.
    added: usize,
    codes: Vec<i8>,
    /// Time that it took so far.
    took: Duration,
}

impl std::fmt::Debug for GraphBuilder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("GraphBuilder").field("added", &self.added).finish_non_exhaustive()
    }
}

fn refused(error: &impl std::fmt::Display) -> GraphError {
    GraphError::Library(error.to_string())
}

/// An empty graph, with room for so many rows.
fn empty(rows: usize, dimensions: usize, effort: Effort) -> Result<usearch::Index, GraphError> {
    let options = IndexOptions {
        dimensions,
        metric: MetricKind::IP,
        quantization: ScalarKind::I8,
        connectivity: effort.connectivity,
        expansion_add: effort.expansion_add,
        expansion_search: EXPANSION_SEARCH,
        // Keys are not looked up: each row comes once.
        multi: true,
    };
    let index = usearch::Index::new(&options).map_err(|error| refused(&error))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    index.reserve_capacity_and_threads(rows, SEARCHES_A_CORE * cores).map_err(|error| refused(&error))?;
    Ok(index)
}

impl GraphBuilder {
    /// Begins a graph of all rows of `vectors`.
    pub(crate) fn start(vectors: &Vectors, way: VectorSearch, effort: Effort) -> Result<Self, GraphError> {
        let (rows, dimensions) = (vectors.len(), vectors.dimensions());
        let index = empty(rows, dimensions, effort)?;
        let graph = Graph::new(index, rows, dimensions, way, effort, EXPANSION_SEARCH);
        Ok(Self { graph, steps: steps_of(vectors), added: 0, codes: Vec::new(), took: Duration::ZERO })
    }

    /// Adds rows for about as long as `budget`; true when all are in. About 0.3 ms a row of 256 components with the first
    /// effort.
    pub(crate) fn add_rows(&mut self, vectors: &Vectors, budget: Duration) -> Result<bool, GraphError> {
        let started = Instant::now();
        while self.added < self.graph.rows && started.elapsed() < budget {
            for doc in self.added..(self.added + ADD_ROWS).min(self.graph.rows) {
                write_codes(&vectors.row(doc as u32), self.steps, &mut self.codes);
                self.graph.index.add(doc as u64, &self.codes).map_err(|error| refused(&error))?;
                self.added += 1;
            }
        }
        self.took += started.elapsed();
        Ok(self.added == self.graph.rows)
    }

    /// The graph, if it finds what a search without it finds, as wide as it takes and a scan is not as quick. `vectors`: those
    /// that it was built of, all rows added.
    pub(crate) fn finish(self, vectors: &Vectors, ids: &[[u8; 16]]) -> Result<(Graph, GraphBuilt), GraphError> {
        let Self { graph, took, .. } = self;
        let segment = [VectorsView { vectors, live: None, ids }];
        // One of those found is the row itself, and says little.
        let queries: Vec<(Vec<f32>, f32)> = check_queries(vectors)
            .filter_map(|query| {
                let nearest = vectors::search(&segment, &query, CHECK_K + 1, &mut Visited::default());
                nearest.last().map(|last| (query, last.score))
            })
            .collect();
        let wanted = queries.len() * CHECK_K.min(graph.rows.saturating_sub(1));
        loop {
            let found = queries.iter().map(|(query, last)| {
                // By score, since of rows that are alike any will do.
                let walked = graph.candidates(query, CHECK_K + 1, None, usize::MAX).unwrap_or_default();
                let near = walked.iter().filter(|doc| vectors.score(**doc, query) >= *last);
                near.count().saturating_sub(1).min(CHECK_K)
            });
            let recall = found.sum::<usize>() as f64 / wanted.max(1) as f64;
            let mut tally = graph.tally.lock();
            if recall >= RECALL_MIN || wanted == 0 {
                *tally = Tally::default();
                drop(tally);
                let (breadth, memory_bytes) = (graph.breadth.load(Relaxed), graph.memory_bytes());
                return Ok((graph, GraphBuilt { rows: vectors.len(), took, recall, breadth, memory_bytes }));
            }
            if !graph.widen(&mut tally, recall) {
                return Err(GraphError::Recall { recall });
            }
        }
    }
}

/// What a graph is compared with a scan for: rows, of all places. Questions are less like them, and find less; that is for
/// [`Graph::note_recall`].
fn check_queries(vectors: &Vectors) -> impl Iterator<Item = Vec<f32>> {
    let queries = CHECK_QUERIES.min(vectors.len());
    (0..queries).map(move |at| vectors.row((at * vectors.len() / queries) as u32))
}

/// What came of building a graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphBuilt {
    /// Rows that it holds.
    pub rows: usize,
    /// How long it took, pauses not counted.
    pub took: Duration,
    /// Share of the ten nearest rows that it finds, by a sample.
    pub recall: f64,
    /// Candidates that a search keeps for that.
    pub breadth: usize,
    /// Memory that it takes.
    pub memory_bytes: usize,
}

impl Graph {
    fn new(
        index: usearch::Index,
        rows: usize,
        dimensions: usize,
        way: VectorSearch,
        effort: Effort,
        breadth: usize,
    ) -> Self {
        Self {
            index,
            rows,
            dimensions,
            is_preferred: way == VectorSearch::Graph,
            breadth: AtomicUsize::new(breadth),
            tally: Mutex::default(),
            effort,
            saved: Mutex::default(),
        }
    }

    /// How many candidates a search for `k` rows keeps.
    fn candidates_for(&self, k: usize) -> usize {
        k.saturating_mul(CANDIDATES_A_ROW).max(self.breadth.load(Relaxed))
    }

    /// Has searches keep half as many candidates more, since with those that they keep they have this recall; false if that
    /// was tried and did not help, a scan is then as quick, or that is too many.
    fn widen(&self, tally: &mut Tally, recall: f64) -> bool {
        tally.stalled = if recall > tally.recall_before { 0 } else { tally.stalled + 1 };
        tally.recall_before = tally.recall_before.max(recall);
        if tally.stalled >= STALLED_MAX {
            return false;
        }
        let breadth = self.breadth.load(Relaxed) * 3 / 2;
        self.breadth.store(breadth, Relaxed);
        breadth <= EXPANSION_SEARCH_MAX && self.suits(self.rows, CHECK_K)
    }

    /// Takes in that a repeated search was to find so many rows here, and how many of them it did. What follows from it.
    pub(crate) fn note_recall(&self, wanted: usize, found: usize) -> Watched {
        let mut tally = self.tally.lock();
        tally.wanted += wanted as u32;
        tally.found += found as u32;
        let recall = f64::from(tally.found) / f64::from(tally.wanted.max(1));
        if tally.wanted < WATCHED_MIN || recall >= RECALL_MIN || tally.is_given_up {
            if tally.wanted >= WATCHED_MAX {
                tally.wanted /= 2;
                tally.found /= 2;
            }
            return Watched::Enough;
        }
        (tally.wanted, tally.found) = (0, 0);
        if self.widen(&mut tally, recall) {
            return Watched::Widened { recall, breadth: self.breadth.load(Relaxed) };
        }
        tally.is_given_up = true;
        Watched::TooLittle { recall }
    }

    /// Bytes on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.index.memory_usage()
    }

    /// Whether it is the way to the `k` nearest of `kept` rows.
    pub(crate) fn suits(&self, kept: usize, k: usize) -> bool {
        if self.is_preferred {
            return kept * PREFERRED_KEPT_SHARE >= self.rows && kept >= k;
        }
        let walk_ns = walk_ns(self.rows, kept, self.dimensions, self.candidates_for(k), self.effort);
        kept >= k && walk_ns < scan_ns(self.rows, kept, self.dimensions)
    }

    /// Rows among which the `k` nearest to `query` nearly always are, in any order; at least `k` of `live` (all if
    /// `None`), of which there are `kept`. `None` if it found fewer, or looked at as many as a scan is better for: then the
    /// rows must be scanned.
    pub(crate) fn search(&self, query: &[f32], k: usize, live: Option<&Bits>, kept: usize) -> Option<Vec<u32>> {
        // So a walk that leads nowhere costs no more than two of the scans that come after it.
        let looks_max = if self.is_preferred {
            usize::MAX
        } else {
            let look_ns = candidate_ns(self.dimensions, self.effort) / LOOKS_A_CANDIDATE;
            (2.0 * scan_ns(self.rows, kept, self.dimensions) / look_ns) as usize
        };
        self.candidates(query, k, live, looks_max).filter(|found| found.len() >= k.min(kept))
    }

    fn candidates(&self, query: &[f32], k: usize, live: Option<&Bits>, looks_max: usize) -> Option<Vec<u32>> {
        // A query's length changes no order, so its codes take a step of their own.
        let largest = query.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let mut codes = Vec::with_capacity(query.len());
        write_codes(query, if largest > 1e-30 { 127.0 / largest } else { 0.0 }, &mut codes);
        let count = self.candidates_for(k).min(self.rows);
        let looks = Cell::new(0);
        let found = match live {
            None => self.index.search(&codes, count),
            // The walk ends when it has enough rows that count. One that has looked too long is told that all do.
            Some(live) => self.index.filtered_search(&codes, count, |doc| {
                looks.set(looks.get() + 1);
                looks.get() > looks_max || live.get(doc as u32)
            }),
        };
        let found = found.ok().filter(|_| looks.get() <= looks_max)?;
        Some(found.keys.into_iter().filter(|doc| *doc < self.rows as u64).map(|doc| doc as u32).collect())
    }

    /// Takes one row in three out, so that nobody finds them by it, however many candidates are kept.
    #[cfg(test)]
    pub(crate) fn spoil(&self) {
        (0..self.rows as u64).step_by(3).for_each(|doc| assert_eq!(self.index.remove(doc).expect("a row"), 1));
    }

    /// What the graph's file is named by, if there is one that has all of it.
    pub(crate) fn seal(&self) -> Option<Seal> {
        let saved = self.saved.lock().filter(|saved| self.is_as(saved))?;
        saved.seal
    }

    /// Whether it was not tried yet to save it as it is.
    pub(crate) fn is_unsaved(&self) -> bool {
        self.saved.lock().is_none_or(|saved| !self.is_as(&saved))
    }

    /// Whether the file is searched as the graph is, which may have been widened since.
    fn is_as(&self, saved: &Saved) -> bool {
        saved.breadth == self.breadth.load(Relaxed)
    }

    /// Takes in that it was saved as `file`, under a name by `seal`.
    pub(crate) fn set_saved(&self, file: &GraphFile, seal: Seal) {
        *self.saved.lock() = Some(Saved { seal: Some(seal), breadth: file.breadth() });
    }

    /// Takes in that it cannot be saved.
    pub(crate) fn set_unsavable(&self) {
        *self.saved.lock() = Some(Saved { seal: None, breadth: self.breadth.load(Relaxed) });
    }

    /// What is to be saved; for a moment it takes as much memory as the graph. `segment`: the seal of its segment.
    pub(crate) fn file(&self, segment: Seal) -> Result<GraphFile, GraphError> {
        let mut bytes = vec![0; self.index.serialized_length()];
        self.index.save_to_buffer(&mut bytes).map_err(|error| refused(&error))?;
        let header = header(segment, self.rows, self.dimensions, self.effort);
        Ok(GraphFile { header, breadth: [self.breadth.load(Relaxed) as u64], bytes })
    }

    /// Reads the graph of that seal, of the segment of that seal with these `vectors`, from its file. No byte of it gets to
    /// usearch, which trusts what it reads, before its checksum was found right.
    pub(crate) fn load(
        file: &mut dyn io::Read,
        seal: Seal,
        segment: Seal,
        vectors: &Vectors,
        way: VectorSearch,
    ) -> Result<Self, LoadError> {
        let mut from = SectionReader::open(file, seal)?;
        let (rows, dimensions) = (vectors.len(), vectors.dimensions());
        let found = from.take::<u64>()?;
        let effort = EFFORTS.into_iter().find(|effort| found == header(segment, rows, dimensions, *effort));
        let effort = effort.ok_or(LoadError::Damaged("a graph of another segment or format"))?;
        let breadth = match from.take::<u64>()?[..] {
            [breadth] if (EXPANSION_SEARCH..=EXPANSION_SEARCH_MAX).contains(&(breadth as usize)) => breadth as usize,
            _ => return Err(LoadError::Damaged("a graph that is searched otherwise")),
        };
        let bytes: Vec<u8> = from.take()?;
        from.finish()?;
        let unusable = |_| LoadError::Damaged("no graph that usearch can read");
        let index = empty(0, dimensions, effort).map_err(unusable)?;
        index.load_from_buffer(&bytes).map_err(|error| unusable(refused(&error)))?;
        let is_whole =
            (index.size(), index.dimensions(), index.expansion_search()) == (rows, dimensions, EXPANSION_SEARCH);
        if !is_whole {
            return Err(LoadError::Damaged("a graph of another size"));
        }
        let graph = Self::new(index, rows, dimensions, way, effort, breadth);
        *graph.saved.lock() = Some(Saved { seal: Some(seal), breadth });
        Ok(graph)
    }
}

/// What a graph's file holds.
pub(crate) struct GraphFile {
    header: Vec<u64>,
    breadth: [u64; 1],
    bytes: Vec<u8>,
}

impl GraphFile {
    /// The sections of the file.
    pub(crate) fn sections(&self) -> SectionWriter<'_> {
        let mut out = SectionWriter::default();
        out.put(&self.header);
        out.put(&self.breadth);
        out.put(&self.bytes);
        out
    }

    /// Candidates that a search keeps.
    fn breadth(&self) -> usize {
        self.breadth[0] as usize
    }
}

/// The first section of a graph's file: format, the segment that the graph is of, and what it is built with. The segment's
/// seal stands for its rows, and so for their encoder.
fn header(segment: Seal, rows: usize, dimensions: usize, effort: Effort) -> Vec<u64> {
    let numbers = [rows, dimensions, effort.connectivity, effort.expansion_add].map(|number| number as u64);
    [FORMAT, segment.hash as u64, (segment.hash >> 64) as u64, segment.bytes].into_iter().chain(numbers).collect()
}

/// What components are multiplied by: the largest but for a few becomes 127. One row that is all in one component must not
/// take the bits of all others.
fn steps_of(vectors: &Vectors) -> f32 {
    let every = vectors.len().div_ceil(STEP_ROWS).max(1);
    let mut sizes: Vec<f32> = Vec::new();
    for doc in (0..vectors.len()).step_by(every) {
        sizes.extend(vectors.row(doc as u32).iter().map(|value| value.abs()));
    }
    if sizes.is_empty() {
        return 0.0;
    }
    let clamped = sizes.len() / CLAMPED_SHARE;
    let (_, largest, _) = sizes.select_nth_unstable_by(clamped, |left, right| right.total_cmp(left));
    if *largest > 1e-30 { 127.0 / *largest } else { 0.0 }
}

/// Writes 8-bit codes of `row` to `codes`. `as` saturates.
fn write_codes(row: &[f32], steps: f32, codes: &mut Vec<i8>) {
    codes.clear();
    codes.extend(row.iter().map(|value| ((value * steps).round() as i8).max(-127)));
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::{kernels, segment::unit, vectors::VectorWay};

    const DIMENSIONS: usize = 48;

    fn random(rng: &mut StdRng) -> Vec<f32> {
        let row: Vec<f32> = (0..DIMENSIONS).map(|_| rng.random_range(-1.0..1.0)).collect();
        unit(&row).unwrap()
    }

    fn near(rng: &mut StdRng, row: &[f32], distance: f32) -> Vec<f32> {
        let row: Vec<f32> = row.iter().map(|value| value + rng.random_range(-distance..distance)).collect();
        unit(&row).unwrap()
    }

    /// Rows in clusters, and their ids.
    fn example(rng: &mut StdRng, rows: usize) -> (Vec<Vec<f32>>, Vec<[u8; 16]>) {
        let centres: Vec<_> = (0..rows / 20).map(|_| random(rng)).collect();
        let rows: Vec<_> = (0..rows).map(|at| near(rng, &centres[at % centres.len()], 0.1)).collect();
        let ids = (0..rows.len() as u128).rev().map(u128::to_be_bytes).collect();
        (rows, ids)
    }

    fn built(rows: &[Vec<f32>], ids: &[[u8; 16]]) -> Result<Vectors, GraphError> {
        built_with(EFFORTS[0], rows, ids)
    }

    fn built_with(effort: Effort, rows: &[Vec<f32>], ids: &[[u8; 16]]) -> Result<Vectors, GraphError> {
        let vectors = Vectors::build(DIMENSIONS, &rows.concat()).unwrap();
        let mut builder = GraphBuilder::start(&vectors, VectorSearch::Graph, effort)?;
        while !builder.add_rows(&vectors, Duration::from_millis(1))? {}
        let (graph, built) = builder.finish(&vectors, ids)?;
        assert!(built.recall >= RECALL_MIN && built.rows == rows.len() && built.memory_bytes > 0);
        vectors.settle_graph(Some(graph));
        Ok(vectors)
    }

    /// Every row that is kept, scored in f32.
    fn plain(vectors: &Vectors, live: Option<&Bits>, ids: &[[u8; 16]], query: &[f32], k: usize) -> Vec<u32> {
        let docs = (0..vectors.len() as u32).filter(|doc| live.is_none_or(|live| live.get(*doc)));
        let mut all: Vec<_> =
            docs.map(|doc| crate::bits::Candidate::new(0, doc, vectors.score(doc, query), ids)).collect();
        all.sort();
        all.into_iter().take(k).map(|candidate| candidate.doc).collect()
    }

    #[test]
    fn what_is_kept_is_found_whatever_a_filter_keeps() {
        let rng = &mut StdRng::seed_from_u64(1);
        let (rows, ids) = example(rng, 2_000);
        let vectors = built(&rows, &ids).unwrap();
        let (mut wanted, mut hit, mut walks) = (0, 0, 0);
        for share in [1.0, 0.9, 0.5, 0.1, 0.02, 0.001, 0.0] {
            let mut live = Bits::zeros(rows.len());
            (0..rows.len() as u32).for_each(|doc| _ = live.set(doc, rng.random_bool(share)));
            let kept = live.count();
            for live in [None, Some(&live)].into_iter().skip(usize::from(share < 1.0)) {
                let segments = [VectorsView { vectors: &vectors, live, ids: &ids }];
                for (k, at) in [1, 10, 50, 300, 2_000, 5_000].into_iter().zip(1..) {
                    let query = near(rng, &rows[at * 77], 0.05);
                    let mut visited = Visited::default();
                    let found = vectors::search(&segments, &query, k, &mut visited);
                    let expected = plain(&vectors, live, &ids, &query, k);
                    assert_eq!(found.len(), k.min(kept), "{share} kept, {k} wanted");
                    assert!(found.is_sorted());
                    for candidate in &found {
                        let score = vectors.score(candidate.doc, &query);
                        assert_eq!(candidate.score.to_bits(), score.to_bits());
                        assert!(live.is_none_or(|live| live.get(candidate.doc)));
                    }
                    wanted += expected.len();
                    hit += found.iter().filter(|candidate| expected.contains(&candidate.doc)).count();
                    if visited.ways == [VectorWay::Graph] {
                        assert!(visited.walked >= found.len() as u64 && visited.scanned == 0);
                        walks += 1;
                    }
                }
            }
        }
        assert!(walks > 10, "{walks} walks");
        assert!(hit * 100 >= wanted * 98, "{hit} of {wanted}");
    }

    #[test]
    fn a_graph_and_scanned_segments_are_one_list() {
        let rng = &mut StdRng::seed_from_u64(2);
        let (rows, ids) = example(rng, 3_000);
        let (large, rest) = rows.split_at(1_500);
        let (large, small) = (built(large, &ids).unwrap(), Vectors::build(DIMENSIONS, &rest.concat()).unwrap());
        let none = Vectors::build(DIMENSIONS, &[]).unwrap();
        let view = |vectors| VectorsView { vectors, live: None, ids: &ids };
        for segments in [vec![view(&large), view(&small)], vec![view(&none), view(&small), view(&large), view(&none)]] {
            let (mut hit, mut wanted) = (0, 0);
            for at in 0..20 {
                let query = near(rng, &rows[at * 150], 0.05);
                let mut visited = Visited::default();
                let found = vectors::search(&segments, &query, 10, &mut visited);
                assert_eq!(visited.ways.len(), segments.len());
                assert_eq!(visited.ways.iter().filter(|way| **way == VectorWay::Graph).count(), 1);
                let mut scores: Vec<f32> = rows.iter().map(|row| kernels::dot(&query, row)).collect();
                scores.sort_unstable_by(|left, right| right.total_cmp(left));
                // Rows are kept in 16 bits.
                wanted += 10;
                hit += found.iter().filter(|candidate| candidate.score >= scores[9] - 1e-5).count();
                assert_eq!(found.len(), 10);
            }
            assert!(hit * 100 >= wanted * 98, "{hit} of {wanted}");
        }
    }

    #[test]
    fn a_graph_that_finds_too_little_is_refused() {
        let rng = &mut StdRng::seed_from_u64(3);
        // Closer to each other than codes of 8 bits can tell.
        let centre = random(rng);
        let rows: Vec<_> = (0..1_500).map(|_| near(rng, &centre, 0.000_3)).collect();
        let ids = vec![[0; 16]; rows.len()];
        assert!(matches!(built(&rows, &ids), Err(GraphError::Recall { .. })));
    }

    #[test]
    fn a_row_unlike_all_others_does_not_take_their_bits() {
        let rng = &mut StdRng::seed_from_u64(4);
        let (mut rows, ids) = example(rng, 1_200);
        let others = steps_of(&Vectors::build(DIMENSIONS, &rows.concat()).unwrap());
        rows[7] = vec![0.0; DIMENSIONS];
        rows[7][0] = 1.0;
        let vectors = built(&rows, &ids).unwrap();
        assert!(steps_of(&vectors) > others / 2.0);
        let segments = [VectorsView { vectors: &vectors, live: None, ids: &ids }];
        assert_eq!(vectors::search(&segments, &rows[7], 1, &mut Visited::default())[0].doc, 7);
    }

    #[test]
    fn filters_choose_the_cheaper_way() {
        // A million rows of 256 components.
        let costs = |kept| {
            let walk = walk_ns(1_000_000, kept, 256, EXPANSION_SEARCH, EFFORTS[0]);
            (scan_ns(1_000_000, kept, 256), walk)
        };
        for (kept, by_graph) in [(1_000_000, true), (600_000, true), (100_000, false), (10_000, false), (10, false)] {
            let (scan, walk) = costs(kept);
            assert_eq!(walk < scan, by_graph, "{kept} kept: {walk} ns against {scan}");
        }
    }

    #[test]
    fn a_walk_that_leads_nowhere_gives_up() {
        let rng = &mut StdRng::seed_from_u64(5);
        let (rows, ids) = example(rng, 2_000);
        let vectors = built(&rows, &ids).unwrap();
        let graph = vectors.graph().unwrap();
        // Only what is far from the query counts.
        let far: Vec<u32> = plain(&vectors, None, &ids, &rows[0], 2_000).split_off(1_900);
        let mut live = Bits::zeros(rows.len());
        far.iter().for_each(|doc| _ = live.set(*doc, true));
        assert!(graph.candidates(&rows[0], 10, Some(&live), 300).is_none());
        assert!(graph.candidates(&rows[0], 10, Some(&live), usize::MAX).is_some_and(|found| found.len() == 100));
        let segments = [VectorsView { vectors: &vectors, live: Some(&live), ids: &ids }];
        let found = vectors::search(&segments, &rows[0], 10, &mut Visited::default());
        assert_eq!(found.iter().map(|candidate| candidate.doc).collect::<Vec<_>>(), far[..10]);
    }

    #[test]
    fn a_graph_that_finds_too_little_is_searched_wider_until_a_scan_is_as_quick() {
        let rng = &mut StdRng::seed_from_u64(7);
        let (rows, ids) = example(rng, 1_000);
        let graph = built(&rows, &ids).unwrap().graph().unwrap();
        // Enough, however often; and too few searches to tell.
        (0..100_000).for_each(|_| assert_eq!(graph.note_recall(10, 10), Watched::Enough));
        let graph = built(&rows, &ids).unwrap().graph().unwrap();
        (0..WATCHED_MIN - 1).for_each(|_| assert_eq!(graph.note_recall(1, 0), Watched::Enough));
        let mut breadth = graph.breadth.load(Relaxed);
        assert_eq!(breadth, EXPANSION_SEARCH);
        for found in 900.. {
            match graph.note_recall(WATCHED_MIN as usize, found) {
                Watched::Widened { recall, breadth: wider } => {
                    assert!(recall < RECALL_MIN && wider > breadth && wider <= EXPANSION_SEARCH_MAX);
                    breadth = wider;
                    assert_eq!(graph.candidates_for(10), breadth);
                }
                Watched::TooLittle { recall } => {
                    assert!(recall < RECALL_MIN);
                    break;
                }
                Watched::Enough => panic!("it was too little"),
            }
        }
        assert!(breadth > EXPANSION_SEARCH_MAX / 2);
        // It is told once, also to who searched it before it was let go.
        (0..100).for_each(|_| assert_eq!(graph.note_recall(WATCHED_MIN as usize, 0), Watched::Enough));
    }

    #[test]
    fn a_graph_is_searched_wider_only_while_that_helps() {
        let rng = &mut StdRng::seed_from_u64(8);
        let (rows, ids) = example(rng, 1_000);
        let check = |found: &[usize], widened: usize| {
            let graph = built(&rows, &ids).unwrap().graph().unwrap();
            let told: Vec<_> = found.iter().map(|found| graph.note_recall(WATCHED_MIN as usize, *found)).collect();
            let is_wider = |told: &&Watched| matches!(told, Watched::Widened { .. });
            assert_eq!(told.iter().take_while(is_wider).count(), widened, "{found:?} led to {told:?}");
            assert!(matches!(told.get(widened), None | Some(Watched::TooLittle { .. })), "{found:?} led to {told:?}");
        };
        check(&[900, 900, 900, 900], 2);
        check(&[900, 890, 900], 2);
        // Once may be chance.
        check(&[900, 890, 910, 905], 4);
        check(&[900, 901, 902, 903], 4);
    }

    #[test]
    fn more_care_finds_more() {
        let rng = &mut StdRng::seed_from_u64(9);
        let rows: Vec<_> = (0..4_000).map(|_| random(rng)).collect();
        let ids = vec![[0; 16]; rows.len()];
        let queries: Vec<_> = (0..100).map(|_| random(rng)).collect();
        let found = EFFORTS.map(|effort| {
            let vectors = built_with(effort, &rows, &ids).unwrap();
            let graph = vectors.graph().unwrap();
            // So few candidates that there is something to miss.
            graph.index.change_expansion_search(20);
            let hits = |query: &Vec<f32>| {
                let mut codes = Vec::new();
                write_codes(query, 200.0, &mut codes);
                let found = graph.index.search(&codes, 20).unwrap().keys;
                plain(&vectors, None, &ids, query, 10).iter().filter(|doc| found.contains(&u64::from(**doc))).count()
            };
            queries.iter().map(hits).sum::<usize>()
        });
        assert!(found[0] < 950 && found[1] > found[0] + 25, "{found:?} of 1000");
    }

    #[test]
    fn what_a_graph_has_learned_is_saved_anew() {
        let rng = &mut StdRng::seed_from_u64(8);
        let (rows, ids) = example(rng, 1_000);
        let vectors = built(&rows, &ids).unwrap();
        let graph = vectors.graph().unwrap();
        let segment = Seal { hash: 1, bytes: 1 };
        let save = || {
            let file = graph.file(segment).unwrap();
            let (head, seal) = file.sections().head();
            let mut bytes = Vec::new();
            file.sections().write_to(&head, &mut bytes).unwrap();
            graph.set_saved(&file, seal);
            (bytes, seal)
        };
        assert!(graph.is_unsaved() && graph.seal().is_none());
        let (_, first) = save();
        assert_eq!((graph.is_unsaved(), graph.seal()), (false, Some(first)));
        // Widened while it is written, so that the file is behind at once.
        let file = graph.file(segment).unwrap();
        let widened = graph.note_recall(WATCHED_MIN as usize, WATCHED_MIN as usize / 2);
        assert!(matches!(widened, Watched::Widened { .. }), "{widened:?}");
        graph.set_saved(&file, first);
        assert!(graph.is_unsaved() && graph.seal().is_none());

        let (bytes, second) = save();
        assert_eq!((graph.is_unsaved(), graph.seal()), (false, Some(second)));
        let loaded = Graph::load(&mut &bytes[..], second, segment, &vectors, VectorSearch::Graph).unwrap();
        assert_eq!(loaded.candidates_for(1), EXPANSION_SEARCH * 3 / 2);
        assert!(!loaded.is_unsaved());
    }

    #[test]
    fn a_file_is_of_one_segment() {
        let rng = &mut StdRng::seed_from_u64(6);
        let (rows, ids) = example(rng, 1_000);
        let vectors = built(&rows, &ids).unwrap();
        let graph = vectors.graph().unwrap();
        let segment = Seal { hash: 7 << 70 | 5, bytes: 9 };
        let file = graph.file(segment).unwrap();
        let sections = file.sections();
        let (head, seal) = sections.head();
        let mut bytes = Vec::new();
        sections.write_to(&head, &mut bytes).unwrap();
        let load = |bytes: &[u8], segment, vectors: &Vectors| {
            Graph::load(&mut &bytes[..], seal, segment, vectors, VectorSearch::Graph)
        };
        let loaded = load(&bytes, segment, &vectors).unwrap();
        for at in 0..20 {
            let found = |graph: &Graph| graph.candidates(&rows[at * 50], 10, None, usize::MAX).unwrap();
            assert_eq!(found(&loaded), found(&graph));
        }
        assert_eq!(loaded.seal(), Some(seal));
        // Searches at once, from more threads than the machine has.
        std::thread::scope(|scope| {
            for at in 0..32 {
                let (loaded, rows, vectors) = (&loaded, &rows, &vectors);
                scope.spawn(move || {
                    for row in rows.iter().skip(at).step_by(32) {
                        // There may be no place for so many: then it is scanned.
                        if let Some(found) = loaded.search(row, 10, None, vectors.len()) {
                            assert!(found.len() >= 10);
                        }
                    }
                });
            }
        });

        assert!(load(&bytes, Seal { hash: 1, ..segment }, &vectors).is_err());
        assert!(load(&bytes, Seal { bytes: 1, ..segment }, &vectors).is_err());
        let fewer = Vectors::build(DIMENSIONS, &rows[1..].concat()).unwrap();
        assert!(load(&bytes, segment, &fewer).is_err());
        for at in (0..bytes.len()).step_by(bytes.len() / 150) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(load(&damaged, segment, &vectors).is_err(), "byte {at} flipped");
            assert!(load(&bytes[..at], segment, &vectors).is_err(), "cut to {at} bytes");
        }
    }

    #[test]
    fn which_segments_get_a_graph() {
        let crossing = |dimensions| (1..10_000).find(|rows| is_due(VectorSearch::Auto, rows * 1_000, dimensions));
        let crossings: Vec<_> = [64, 256, 768, 1_536].into_iter().filter_map(crossing).collect();
        assert_eq!(crossings.len(), 4);
        assert!(crossings.is_sorted_by(|fewer, more| fewer > more), "{crossings:?}");
        assert!((1_800..2_000).contains(&crossings[1]), "{crossings:?}");
        for dimensions in [64, 256, 768, 1_536] {
            assert!(is_due(VectorSearch::Graph, PREFERRED_ROWS_MIN, dimensions));
            assert!(!is_due(VectorSearch::Graph, PREFERRED_ROWS_MIN - 1, dimensions));
            assert!(!is_due(VectorSearch::Scan, usize::MAX >> 20, dimensions));
            // Past the crossing there is no other.
            let after = |rows: usize| is_due(VectorSearch::Auto, rows * 1_000, dimensions);
            assert!(!after(100) && after(10_000));
            assert!((1..10_000).map(after).is_sorted());
        }
    }
}
