//! One sealed segment's vectors, and search over many segments.
//!
//! A scan of 8-bit codes gives every row an upper bound of its score; rows are then scored in f32, highest bound
//! first, until no bound reaches the `k`-th score found. So the answer is the same as that of a scan in f32, whatever
//! the data: the codes decide only how much of it must be read.
//!
//! In a large segment sign codes come first (see `signs`): only rows that their estimate leaves in question are
//! looked at in 8 bits. An estimate's bound holds for all but one row in 80, so there the answer is that of a
//! scan in f32 but for a few searches in a hundred, which miss one of the last of their lists.
//!
//! A row is kept in 16 bits a component: whole multiples `256·c + d` of a step of its own, a power of two, so that what is
//! kept is an f32 exactly. `c` are the 8-bit codes, `d` what a score in f32 reads besides. That moves a component of a vector
//! of unit length by 2^-16 at most, and a score by about a millionth.
//!
//! The bound: a row `v` is `s·c + r` (step, codes, residual), a query `q` is `t·d + e`. Then
//! `q·v = s·t·(d·c) + e·(s·c) + q·r ≤ s·t·(d·c) + |e|·|s·c| + |q|·|r|` (Cauchy–Schwarz), plus what rounding may add.

use std::{cell::RefCell, sync::Arc};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::Serialize;
use thiserror::Error;

use crate::bits::{Best, Bits, Candidate};
use crate::graph::{Effort, Graph};
use crate::kernels::{self, BLOCK, CODE_LANES, RowScales, ScanQuery};
use crate::sections::{LoadError, SectionReader, SectionWriter};
use crate::signs::{SignScratch, Signs};

/// Rows of a segment from which on sign codes are worth their place: a scan of fewer 8-bit codes takes no longer than what
/// comes with an estimate.
const SIGNS_ROWS_MIN: usize = 4_096;
/// How many rows for each that is wanted make the first threshold: with fewer it is lower, and more is left to look at.
const SEEDS: usize = 4;
/// 8-bit codes that are read one after the other in the time that it takes to read one here and one there.
const SCATTERED_COST: usize = 4;
/// Rows of a block that must be kept, in the mean, for an estimate, which looks at whole blocks, to be worth it.
const SIGNS_KEPT_MIN: usize = 3;

/// The vectors of a segment: never changed once built.
#[derive(Debug)]
pub(crate) struct Vectors {
    dimensions: usize,
    /// `[len * stride]`, each row padded with zeros.
    codes: Vec<i8>,
    /// `[len * stride]`, likewise.
    fine: Vec<i8>,
    scales: RowScales,
    stride: usize,
    /// `None` for few rows.
    signs: Option<Signs>,
    /// At least the length of the longest row, and of the longest row made from codes.
    length_max: f32,
    graph: ArcSwapOption<Graph>,
    graph_plan: Mutex<GraphPlan>,
}

/// What there is to do about a segment's graph.
#[derive(Debug, Clone, Copy, Default)]
struct GraphPlan {
    /// Whether there is nothing to do: it is there, or usearch refuses.
    is_settled: bool,
    /// Graphs that were built and found too little.
    failed: usize,
    /// Whether another number of them was saved.
    is_unsaved: bool,
}

/// Rows that are no vectors of the index.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum VectorsError {
    #[error("{numbers} numbers are no rows of {dimensions}")]
    Shape { numbers: usize, dimensions: usize },
    #[error("row {row} holds a number that is not finite")]
    NotFinite { row: usize },
}

impl Vectors {
    /// Takes `rows`, `[n * dimensions]`, usually of unit length: no component below 2^-100 counts.
    ///
    /// # Errors
    /// Where `rows` is no whole number of rows, or a number is not finite.
    pub(crate) fn build(dimensions: usize, rows: &[f32]) -> Result<Self, VectorsError> {
        if dimensions == 0 || !rows.len().is_multiple_of(dimensions) {
            return Err(VectorsError::Shape { numbers: rows.len(), dimensions });
        }
        let stride = dimensions.next_multiple_of(CODE_LANES);
        let len = rows.len() / dimensions;
        let (mut codes, mut fine) = (vec![0_i8; len * stride], vec![0_i8; len * stride]);
        let mut steps = Vec::with_capacity(len);
        let planes = codes.chunks_exact_mut(stride).zip(fine.chunks_exact_mut(stride));
        for ((at, row), (codes, fine)) in rows.chunks_exact(dimensions).enumerate().zip(planes) {
            if !row.iter().all(|value| value.is_finite()) {
                return Err(VectorsError::NotFinite { row: at });
            }
            steps.push(quantise(row, codes, fine));
        }
        Ok(Self::with_signs(dimensions, codes, fine, &steps))
    }

    /// The rows that `picked` names, by source and document, in its order: as they are, bit by bit.
    pub(crate) fn merge(
        dimensions: usize,
        sources: &[&Self],
        picked: impl ExactSizeIterator<Item = (usize, u32)>,
    ) -> Self {
        let (len, stride) = (picked.len(), dimensions.next_multiple_of(CODE_LANES));
        let (mut codes, mut fine) = (Vec::with_capacity(len * stride), Vec::with_capacity(len * stride));
        let mut steps = Vec::with_capacity(len);
        for (source, doc) in picked {
            let source = sources[source];
            codes.extend_from_slice(source.plane(&source.codes, doc));
            fine.extend_from_slice(source.plane(&source.fine, doc));
            steps.push(source.fine_step(doc));
        }
        Self::with_signs(dimensions, codes, fine, &steps)
    }

    fn with_signs(dimensions: usize, codes: Vec<i8>, fine: Vec<i8>, steps: &[f32]) -> Self {
        let mut vectors = Self::new(dimensions, codes, fine, steps);
        let len = vectors.len();
        vectors.signs = (len >= SIGNS_ROWS_MIN && Signs::suit(dimensions))
            .then(|| Signs::build(dimensions, len, |doc, row| vectors.read_row(doc, row)));
        vectors
    }

    /// `steps`: of the fine parts, one for each row.
    fn new(dimensions: usize, codes: Vec<i8>, fine: Vec<i8>, steps: &[f32]) -> Self {
        let stride = dimensions.next_multiple_of(CODE_LANES);
        let mut scales = RowScales::with_capacity(steps.len());
        let mut length_max = 0.0_f32;
        for ((codes, fine), &step) in codes.chunks_exact(stride).zip(fine.chunks_exact(stride)).zip(steps) {
            let (residual, length) = kernels::squares(codes, fine);
            let at_least = |squares: f64| at_least(squares.sqrt() * f64::from(step));
            scales.push(FINE_STEPS * step, at_least(residual), codes);
            length_max = length_max.max(at_least(length) + at_least(residual));
        }
        Self {
            dimensions,
            codes,
            fine,
            scales,
            stride,
            signs: None,
            length_max,
            graph: ArcSwapOption::empty(),
            graph_plan: Mutex::default(),
        }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.scales.steps.len()
    }

    /// Components of a row.
    pub(crate) fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Whether searches may miss a row.
    pub(crate) fn is_approximate(&self) -> bool {
        self.signs.is_some() || self.graph.load().is_some()
    }

    /// The graph that searches may take, if there is one.
    pub(crate) fn graph(&self) -> Option<Arc<Graph>> {
        self.graph.load_full()
    }

    /// What its next graph is to be built with, if there may be one that is not there.
    pub(crate) fn graph_effort(&self) -> Option<Effort> {
        let plan = self.graph_plan.lock();
        if plan.is_settled { None } else { Effort::after(plan.failed) }
    }

    /// Has searches take `graph` from now on; `None` if there is to be none.
    pub(crate) fn settle_graph(&self, graph: Option<Graph>) {
        self.graph.store(graph.map(Arc::new));
        self.graph_plan.lock().is_settled = true;
    }

    /// Takes in that its graph, whether searches take it or it was just built, finds too little: they do without. Whether
    /// another is to be built.
    pub(crate) fn fail_graph(&self) -> bool {
        let mut plan = self.graph_plan.lock();
        self.graph.store(None);
        *plan = GraphPlan { is_settled: false, failed: plan.failed + 1, is_unsaved: true };
        Effort::after(plan.failed).is_some()
    }

    /// Takes back that so many graphs found too little.
    pub(crate) fn set_failed_graphs(&self, failed: usize) {
        self.graph_plan.lock().failed = failed;
    }

    /// How many graphs found too little, for who saves it.
    pub(crate) fn save_failed_graphs(&self) -> usize {
        let mut plan = self.graph_plan.lock();
        plan.is_unsaved = false;
        plan.failed
    }

    /// Whether there is something about its graph that was not saved.
    pub(crate) fn is_graph_unsaved(&self) -> bool {
        self.graph_plan.lock().is_unsaved || self.graph.load().as_ref().is_some_and(|graph| graph.is_unsaved())
    }

    /// The product of a row with `query`.
    pub(crate) fn score(&self, doc: u32, query: &[f32]) -> f32 {
        let (codes, fine) = (self.plane(&self.codes, doc), self.plane(&self.fine, doc));
        kernels::dot_fine(&codes[..self.dimensions], &fine[..self.dimensions], query) * self.fine_step(doc)
    }

    /// The row of a document of this segment.
    pub(crate) fn row(&self, doc: u32) -> Vec<f32> {
        let mut row = vec![0.0; self.dimensions];
        self.read_row(doc, &mut row);
        row
    }

    /// Writes to `row`, `[dimensions]`, the row of a document of this segment.
    pub(crate) fn read_row(&self, doc: u32, row: &mut [f32]) {
        let step = self.fine_step(doc);
        let components = self.plane(&self.codes, doc).iter().zip(self.plane(&self.fine, doc));
        for (value, (&code, &fine)) in row.iter_mut().zip(components) {
            *value = (f32::from(code) * FINE_STEPS + f32::from(fine)) * step;
        }
    }

    fn plane<'a>(&self, plane: &'a [i8], doc: u32) -> &'a [i8] {
        &plane[doc as usize * self.stride..][..self.stride]
    }

    fn fine_step(&self, doc: u32) -> f32 {
        self.scales.steps[doc as usize] / FINE_STEPS
    }

    /// Bytes on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        let signs = self.signs.as_ref().map_or(0, Signs::memory_bytes);
        let graph = self.graph.load().as_ref().map_or(0, |graph| graph.memory_bytes());
        self.codes.capacity() + self.fine.capacity() + self.scales.memory_bytes() + signs + graph
    }

    pub(crate) fn save<'a>(&'a self, out: &mut SectionWriter<'a>) {
        out.put(&self.codes);
        out.put(&self.fine);
        out.put(&self.scales.steps);
        if let Some(signs) = &self.signs {
            signs.save(out);
        }
    }

    /// Takes back what [`Vectors::save`] put, about 50 ns a row of 256.
    pub(crate) fn load(from: &mut SectionReader<'_>, dimensions: usize) -> Result<Self, LoadError> {
        let (codes, fine, mut steps): (Vec<i8>, Vec<i8>, Vec<f32>) = (from.take()?, from.take()?, from.take()?);
        let numbers = steps.len().checked_mul(dimensions.next_multiple_of(CODE_LANES));
        if numbers != Some(codes.len()) || numbers != Some(fine.len()) {
            return Err(LoadError::Damaged("vectors are not whole rows"));
        }
        if !steps.iter().all(|step| step.is_finite() && *step >= 0.0) {
            return Err(LoadError::Damaged("steps of vectors are no lengths"));
        }
        steps.iter_mut().for_each(|step| *step /= FINE_STEPS);
        let mut vectors = Self::new(dimensions, codes, fine, &steps);
        if vectors.len() >= SIGNS_ROWS_MIN && Signs::suit(dimensions) {
            vectors.signs = Some(Signs::load(from, dimensions, vectors.len())?);
        }
        Ok(vectors)
    }
}

/// Steps of a row's fine parts in a step of its codes.
const FINE_STEPS: f32 = 256.0;
/// Largest multiple of the fine step: 127 codes, and the largest fine part.
const FINE_MAX: f32 = 127.0 * FINE_STEPS + 127.0;

/// Writes the codes of a row and what they leave out, and returns the step of the latter: the smallest power of two that is
/// large enough.
fn quantise(row: &[f32], codes: &mut [i8], fine: &mut [i8]) -> f32 {
    let largest = row.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    // Rows too small for a step are zero.
    if largest < 1e-30 {
        return 0.0;
    }
    let power = |value: f32| f32::from_bits(value.to_bits() & 0x7f80_0000);
    let mut step = power(largest / FINE_MAX);
    if largest / step > FINE_MAX {
        step *= 2.0;
    }
    for ((code, fine), &value) in codes.iter_mut().zip(fine).zip(row) {
        let multiple = (value / step).round() as i32;
        let high = (multiple + 128) >> 8;
        *code = high as i8;
        *fine = (multiple - (high << 8)) as i8;
    }
    step
}

/// `value`, which f64 arithmetic may have left a little short, as an f32 that is not below it.
fn at_least(value: f64) -> f32 {
    ((value * (1.0 + 1e-9)) as f32).next_up()
}

/// A segment's vectors as one search sees them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VectorsView<'a> {
    pub(crate) vectors: &'a Vectors,
    /// The documents that count, all of them if `None`: neither deleted nor filtered out.
    pub(crate) live: Option<&'a Bits>,
    /// The documents' chunk ids.
    pub(crate) ids: &'a [[u8; 16]],
}

impl<'a> VectorsView<'a> {
    /// How many rows count.
    fn kept(&self) -> usize {
        self.live.map_or(self.vectors.len(), Bits::count)
    }

    /// Rows that the segment's graph names as the `k` nearest and more; `None` if there is none, or a scan is better.
    fn walk(&self, query: &[f32], k: usize) -> Option<Vec<u32>> {
        let (graph, kept) = (self.vectors.graph()?, self.kept());
        if graph.suits(kept, k) { graph.search(query, k, self.live, kept) } else { None }
    }

    /// The segment's sign codes, if they are to be looked at first.
    fn signs(&self) -> Option<&'a Signs> {
        self.vectors.signs.as_ref().filter(|_| is_estimated(self.vectors.len(), self.kept()))
    }
}

/// Whether a scan of `rows` of which `kept` count looks at sign codes first.
pub(crate) fn is_estimated(rows: usize, kept: usize) -> bool {
    kept >= rows / BLOCK * SIGNS_KEPT_MIN
}

/// How a segment's vectors were searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorWay {
    /// A graph named candidates, and they were scored in f32.
    Graph,
    /// Codes of one bit a component, then codes of eight, then f32.
    Estimate,
    /// Codes of eight bits a component, then f32.
    Scan,
}

/// What searches looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Visited {
    /// How each segment was searched, in their order.
    pub(crate) ways: Vec<VectorWay>,
    /// Rows that graphs named.
    pub(crate) walked: u64,
    /// Rows whose sign codes were read, if they were live.
    pub(crate) estimated: u64,
    /// Rows whose codes were read, if they were live.
    pub(crate) scanned: u64,
    /// Rows scored in f32.
    pub(crate) rescored: u64,
}

/// What a search needs of memory, kept by its thread.
#[derive(Default)]
struct Scratch {
    query: Vec<i16>,
    upper: Vec<f32>,
    maxima: Vec<f32>,
    signs: SignScratch,
    /// Bound and place of rows of the highest bounds.
    seeds: Vec<(f32, u32)>,
    /// Documents of a segment whose estimate leaves them in question.
    docs: Vec<u32>,
    /// Bound and place of rows to score.
    candidates: Vec<(f32, u32)>,
}

thread_local! {
    // Bound: sixteen bytes for each row of the largest index searched, four of them usually.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The `k` live rows of the highest dot product with `query`, best first, ties by chunk id; fewer if there are
/// fewer. Those that scoring every row in f32 gives, and with the same scores: exactly, or, where a segment has sign
/// codes, very nearly.
///
/// `query`: `[dimensions]`, finite; at unit length, with rows of unit length, scores are cosines, -1 to 1.
/// Blocks the calling thread for about 5 ns a row of 256 by 8-bit codes, 1.5 ns by sign codes.
pub(crate) fn search(segments: &[VectorsView<'_>], query: &[f32], k: usize, visited: &mut Visited) -> Vec<Candidate> {
    SCRATCH.with_borrow_mut(|scratch| search_with(scratch, segments, query, k, false, visited))
}

/// As [`search`], without graphs and sign codes: exactly what scoring every row in f32 gives.
pub(crate) fn search_exactly(segments: &[VectorsView<'_>], query: &[f32], k: usize) -> Vec<Candidate> {
    SCRATCH.with_borrow_mut(|scratch| search_with(scratch, segments, query, k, true, &mut Visited::default()))
}

fn search_with(
    scratch: &mut Scratch,
    segments: &[VectorsView<'_>],
    query: &[f32],
    k: usize,
    is_exact: bool,
    visited: &mut Visited,
) -> Vec<Candidate> {
    if k == 0 {
        return Vec::new();
    }
    // Rows that graphs name come first: the threshold that they set leaves less of what is scanned in question.
    let mut best = Best::new(k);
    let mut ways = Vec::with_capacity(segments.len());
    for (at, segment) in segments.iter().enumerate() {
        let way = match (!is_exact).then(|| segment.walk(query, k)).flatten() {
            Some(docs) => {
                visited.walked += docs.len() as u64;
                visited.rescored += docs.len() as u64;
                for doc in docs {
                    let score = segment.vectors.score(doc, query);
                    best.offer(Candidate::new(at as u32, doc, score, segment.ids));
                }
                VectorWay::Graph
            }
            None if !is_exact && segment.signs().is_some() => VectorWay::Estimate,
            None => VectorWay::Scan,
        };
        ways.push(way);
    }
    visited.ways.extend(&ways);
    let Scratch { query: codes, upper, maxima, signs, seeds, docs, candidates } = scratch;
    // Each segment starts a new block; one that was not scanned takes none.
    let mut starts = Vec::with_capacity(segments.len());
    let mut places = 0;
    for (segment, way) in segments.iter().zip(&ways) {
        starts.push(places);
        if *way != VectorWay::Graph {
            places += segment.vectors.len().next_multiple_of(BLOCK);
        }
    }
    if upper.len() < places {
        upper.resize(places, f32::NEG_INFINITY);
        maxima.resize(places / BLOCK, f32::NEG_INFINITY);
    }
    let (upper, maxima) = (&mut upper[..places], &mut maxima[..places / BLOCK]);

    let scale = quantise_query(query, codes);
    // All segments have rows of one length.
    codes.resize(segments.first().map_or(0, |segment| segment.vectors.stride), 0);
    let scan_query = |vectors: &Vectors| ScanQuery {
        codes,
        step: scale.step,
        length: scale.length,
        slack: vectors.length_max * (scale.residual + scale.length * rounding(query.len())),
    };
    // Places start with a segment that was scanned, and only those count below.
    let scanned = || {
        let all = segments.iter().zip(&starts).zip(&ways);
        all.filter(|(_, way)| **way != VectorWay::Graph).map(|((segment, &start), way)| {
            (segment, start, segment.vectors.signs.as_ref().filter(|_| *way == VectorWay::Estimate))
        })
    };
    for (segment, start, signs_of) in scanned() {
        let vectors = segment.vectors;
        let len = vectors.len();
        let upper = &mut upper[start..start + len.next_multiple_of(BLOCK)];
        upper[len..].fill(f32::NEG_INFINITY);
        let (upper, maxima) = (&mut upper[..len], &mut maxima[start / BLOCK..][..len.div_ceil(BLOCK)]);
        let keep = segment.live.map(Bits::words);
        let kept = segment.live.map_or(len, Bits::count) as u64;
        match signs_of {
            Some(codes) => {
                codes.bounds(query, scale.length, signs, keep, upper, maxima);
                visited.estimated += kept;
            }
            None => {
                kernels::scan(&vectors.codes, &vectors.scales, scan_query(vectors), keep, upper, maxima);
                visited.scanned += kept;
            }
        }
    }
    let locate = |place: u32| {
        let segment = starts.partition_point(|&start| start <= place as usize) - 1;
        (segment, place - starts[segment] as u32)
    };
    let score = |place: u32| {
        let (segment, doc) = locate(place);
        let VectorsView { vectors, ids, .. } = segments[segment];
        Candidate::new(segment as u32, doc, vectors.score(doc, query), ids)
    };

    // The best of the rows of the highest bounds make a first threshold …
    let by_bound = |left: &(f32, u32), right: &(f32, u32)| right.0.total_cmp(&left.0).then(left.1.cmp(&right.1));
    seeds_of(upper, maxima, k.saturating_mul(SEEDS), seeds);
    candidates.clear();
    for (segment, start, signs_of) in scanned() {
        let vectors = segment.vectors;
        let places = start..start + vectors.len();
        let of_segment = seeds.iter().filter(|(_, place)| places.contains(&(*place as usize)));
        if signs_of.is_some() {
            docs.clear();
            docs.extend(of_segment.map(|(_, place)| place - start as u32));
            visited.scanned += docs.len() as u64;
            let query = scan_query(vectors);
            kernels::bounds_of(docs, &vectors.codes, &vectors.scales, query, f32::MIN, start as u32, candidates);
        } else {
            candidates.extend(of_segment);
        }
    }
    // Not to be found again below.
    seeds.iter().for_each(|(_, place)| upper[*place as usize] = f32::NEG_INFINITY);
    candidates.sort_unstable_by(by_bound);
    for (_, place) in candidates.drain(..k.min(candidates.len())) {
        best.offer(score(place));
        visited.rescored += 1;
    }
    let threshold = best.threshold();
    if threshold == f32::NEG_INFINITY {
        return best.into_sorted();
    }

    // … and what it leaves in question is scored, the most promising first, so that the threshold rises soon.
    for (segment, start, signs_of) in scanned() {
        let vectors = segment.vectors;
        let places = start..start + vectors.len().next_multiple_of(BLOCK);
        let maxima = &mut maxima[start / BLOCK..places.end / BLOCK];
        if signs_of.is_some() {
            docs.clear();
            kernels::each_at_least(&upper[places.clone()], maxima, threshold, |doc, _| docs.push(doc));
            visited.scanned += docs.len() as u64;
            let query = scan_query(vectors);
            if docs.len() < vectors.len() / SCATTERED_COST {
                kernels::bounds_of(docs, &vectors.codes, &vectors.scales, query, threshold, start as u32, candidates);
                continue;
            }
            // The estimates tell too little apart.
            let keep = segment.live.map(Bits::words);
            let upper = &mut upper[start..][..vectors.len()];
            kernels::scan(&vectors.codes, &vectors.scales, query, keep, upper, maxima);
            for (_, place) in seeds.iter().filter(|(_, place)| places.contains(&(*place as usize))) {
                upper[*place as usize - start] = f32::NEG_INFINITY;
            }
        }
        kernels::each_at_least(&upper[places], maxima, threshold, |doc, bound| {
            candidates.push((bound, start as u32 + doc));
        });
    }
    candidates.sort_unstable_by(by_bound);
    for &(bound, place) in candidates.iter() {
        if bound < best.threshold() {
            break;
        }
        best.offer(score(place));
        visited.rescored += 1;
    }
    best.into_sorted()
}

/// Puts in `seeds` bounds and places of the `count` rows of the highest bounds, or of all that are kept, in any order.
fn seeds_of(upper: &[f32], maxima: &[f32], count: usize, seeds: &mut Vec<(f32, u32)>) {
    seeds.clear();
    // So many blocks have a row of this bound or a higher one.
    let threshold = kernels::nth_highest(maxima, count).unwrap_or(f32::MIN);
    // What is left out is at negative infinity, below all numbers.
    kernels::each_at_least(upper, maxima, threshold.max(f32::MIN), |place, bound| seeds.push((bound, place)));
    if count < seeds.len() {
        seeds.select_nth_unstable_by(count, |left, right| right.0.total_cmp(&left.0));
        seeds.truncate(count);
    }
}

/// What a query's codes mean, and at least how long it and its residual are.
struct QueryScale {
    step: f32,
    length: f32,
    residual: f32,
}

/// Writes the query's codes: 16 bits, or fewer where the sum of products with a row's codes could leave `i32`.
fn quantise_query(query: &[f32], codes: &mut Vec<i16>) -> QueryScale {
    let largest = query.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
    let total: f64 = query.iter().map(|value| f64::from(value.abs())).sum();
    // Rounding may add half a step to each code.
    let room = f64::from(i32::MAX) / 127.0 - query.len() as f64;
    let steps = (32_767.0 / f64::from(largest)).min(room / total);
    let step = if largest > 1e-30 && steps > 0.0 { (1.0 / steps) as f32 } else { 0.0 };
    codes.clear();
    let (mut residual, mut length) = (0.0_f64, 0.0_f64);
    for &value in query {
        // `as` saturates, and makes 0 of what is no number.
        let code = if step > 0.0 { (f64::from(value) / f64::from(step)).round() as i16 } else { 0 };
        let left = f64::from(value) - f64::from(step) * f64::from(code);
        residual += left * left;
        length += f64::from(value) * f64::from(value);
        codes.push(code);
    }
    QueryScale { step, length: at_least(length.sqrt()), residual: at_least(residual.sqrt()) }
}

/// At least the share of |q|·|v| by which rounding moves an f32 score or its bound: each of the additions of a lane
/// and of the tree, and the few operations of the bound, by half a unit of the last place. Doubled, to be far from
/// doubt.
fn rounding(dimensions: usize) -> f32 {
    (dimensions.div_ceil(16) + 16) as f32 * f32::EPSILON
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn unit(mut row: Vec<f32>) -> Vec<f32> {
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        row.iter_mut().for_each(|value| *value /= length);
        row
    }

    fn random(rng: &mut StdRng, dimensions: usize) -> Vec<f32> {
        unit((0..dimensions).map(|_| rng.random_range(-1.0..1.0)).collect())
    }

    fn near(rng: &mut StdRng, row: &[f32], distance: f32) -> Vec<f32> {
        unit(row.iter().map(|value| value + rng.random_range(-distance..distance)).collect())
    }

    /// Every live row scored in f32.
    fn plain(segments: &[VectorsView<'_>], query: &[f32], k: usize) -> Vec<Candidate> {
        let mut all = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            for doc in 0..segment.vectors.len() as u32 {
                if segment.live.is_none_or(|live| live.get(doc)) {
                    let score = kernels::dot(query, &segment.vectors.row(doc));
                    all.push(Candidate::new(at as u32, doc, score, segment.ids));
                }
            }
        }
        all.sort();
        all.truncate(k);
        all
    }

    fn check(segments: &[VectorsView<'_>], query: &[f32]) {
        for k in [0, 1, 7, 40, 5_000] {
            let mut visited = Visited::default();
            let found = search(segments, query, k, &mut visited);
            let expected = plain(segments, query, k);
            assert_eq!(found, expected, "k = {k}");
            assert!(found.iter().zip(&expected).all(|(left, right)| left.score.to_bits() == right.score.to_bits()));
            assert!(visited.rescored <= visited.scanned && visited.rescored >= found.len() as u64);
        }
    }

    fn check_rows(dimensions: usize, rows: Vec<Vec<f32>>, queries: &[Vec<f32>], rng: &mut StdRng) {
        let build = |rows: &[Vec<f32>]| Vectors::build(dimensions, &rows.concat()).unwrap();
        let (left, right) = rows.split_at(rows.len() / 3);
        let (whole, left, right) = (build(&rows), build(left), build(right));
        let mut most = Bits::ones(rows.len());
        let mut few = Bits::zeros(rows.len());
        let mut some = Bits::zeros(left.len());
        (0..rows.len() as u32).for_each(|at| _ = most.set(at, rng.random_bool(0.9)));
        (0..rows.len() as u32).for_each(|at| _ = few.set(at, rng.random_bool(0.03)));
        (0..left.len() as u32).for_each(|at| _ = some.set(at, rng.random_bool(0.3)));
        // Ids run against the order of documents, and to both segments alike.
        let ids: Vec<[u8; 16]> = (0..rows.len() as u128).rev().map(u128::to_be_bytes).collect();
        let view = |vectors, live| VectorsView { vectors, live, ids: &ids };
        for query in queries {
            check(&[view(&whole, None)], query);
            check(&[view(&whole, Some(&most))], query);
            check(&[view(&whole, Some(&few))], query);
            check(&[view(&left, Some(&some)), view(&right, None)], query);
        }
    }

    /// A segment of so many rows that it has sign codes, in `groups` clusters; a tenth of each query is not theirs.
    fn large(rng: &mut StdRng, dimensions: usize, groups: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let centres: Vec<_> = (0..groups).map(|_| random(rng, dimensions)).collect();
        let rows = (0..SIGNS_ROWS_MIN + 100).map(|at| near(rng, &centres[at % groups], 0.1)).collect();
        let queries = (0..20).map(|at| near(rng, &centres[at % groups], 0.1)).collect();
        (rows, queries)
    }

    #[test]
    fn sign_codes_hardly_ever_miss_a_row() {
        let rng = &mut StdRng::seed_from_u64(6);
        let (mut all, mut hit) = (0, 0);
        for (dimensions, groups) in [(64, 40), (100, 4_000), (256, 40), (384, 4_000)] {
            let (rows, queries) = large(rng, dimensions, groups);
            let vectors = Vectors::build(dimensions, &rows.concat()).unwrap();
            let ids: Vec<[u8; 16]> = (0..rows.len() as u128).rev().map(u128::to_be_bytes).collect();
            let mut most = Bits::ones(rows.len());
            (0..rows.len() as u32).for_each(|at| _ = most.set(at, rng.random_bool(0.7)));
            for live in [None, Some(&most)] {
                let segments = [VectorsView { vectors: &vectors, live, ids: &ids }];
                for (query, k) in queries.iter().flat_map(|query| [(query, 10), (query, 100)]) {
                    let mut visited = Visited::default();
                    let found = search(&segments, query, k, &mut visited);
                    let expected = plain(&segments, query, k);
                    assert_eq!(visited.estimated, live.map_or(rows.len(), Bits::count) as u64);
                    assert_eq!(found.len(), k);
                    assert!(found.is_sorted());
                    for candidate in &found {
                        let score = vectors.score(candidate.doc, query);
                        assert_eq!(candidate.score.to_bits(), score.to_bits());
                        assert!(live.is_none_or(|live| live.get(candidate.doc)));
                    }
                    all += k;
                    hit += expected.iter().filter(|candidate| found.contains(candidate)).count();
                }
            }
        }
        assert!(hit * 1_000 >= all * 998, "{hit} of {all}");
    }

    #[test]
    fn rows_that_sign_codes_cannot_tell_apart_are_scanned() {
        let rng = &mut StdRng::seed_from_u64(7);
        let centre = random(rng, 128);
        let mut rows: Vec<_> = (0..SIGNS_ROWS_MIN).map(|_| near(rng, &centre, 0.01)).collect();
        // Twice the same, and rows on which signs say everything or nothing.
        rows[9] = rows[8].clone();
        rows[10] = vec![0.0; 128];
        rows[11] = unit(vec![1.0; 128]);
        rows[12] = unit((0..128).map(|at| if at == 0 { 1.0 } else { 0.0 }).collect());
        let vectors = Vectors::build(128, &rows.concat()).unwrap();
        let ids: Vec<[u8; 16]> = (0..rows.len() as u128).map(u128::to_be_bytes).collect();
        let across = random(rng, 128);
        let segments = [VectorsView { vectors: &vectors, live: None, ids: &ids }];
        for query in [across, centre, rows[8].clone(), rows[12].clone(), vec![0.0; 128]] {
            let mut visited = Visited::default();
            let found = search(&segments, &query, 50, &mut visited);
            let expected = plain(&segments, &query, 50);
            let hit = expected.iter().filter(|candidate| found.contains(candidate)).count();
            assert!(hit >= 49, "{hit} of 50, {visited:?}");
            let mut places: Vec<u32> = found.iter().map(|candidate| candidate.doc).collect();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), 50, "each row once");
        }
    }

    #[test]
    fn what_is_kept_of_a_row_is_near_it_and_stays() {
        let rng = &mut StdRng::seed_from_u64(9);
        for dimensions in [1, 48, 256] {
            let rows: Vec<f32> = (0..300).flat_map(|_| random(rng, dimensions)).collect();
            let vectors = Vectors::build(dimensions, &rows).unwrap();
            let kept = |vectors: &Vectors| {
                let mut row = vec![0.0; dimensions];
                let read = |doc| {
                    vectors.read_row(doc, &mut row);
                    row.clone()
                };
                (0..vectors.len() as u32).flat_map(read).collect::<Vec<f32>>()
            };
            assert!(kept(&vectors).iter().zip(&rows).all(|(kept, value)| (kept - value).abs() <= f32::exp2(-16.0)));
            let again = Vectors::build(dimensions, &kept(&vectors)).unwrap();
            assert_eq!(kept(&again), kept(&vectors));
            let merged =
                Vectors::merge(dimensions, &[&again, &vectors], (0..300_usize).map(|doc| (doc % 2, doc as u32)));
            assert_eq!(kept(&merged), kept(&vectors));
        }
    }

    #[test]
    fn a_segment_with_sign_codes_is_saved_whole() {
        let rng = &mut StdRng::seed_from_u64(10);
        let (rows, queries) = large(rng, 64, 40);
        let vectors = Vectors::build(64, &rows.concat()).unwrap();
        let load = |sections: &[&[u8]], dimensions| {
            let mut out = SectionWriter::default();
            sections.iter().for_each(|section| out.put(section));
            let (head, seal) = out.head();
            let mut file = Vec::new();
            out.write_to(&head, &mut file).unwrap();
            Vectors::load(&mut SectionReader::open(&mut file.as_slice(), seal).unwrap(), dimensions)
        };
        let mut out = SectionWriter::default();
        vectors.save(&mut out);
        let sections: Vec<&[u8]> = out.sections().to_vec();
        let loaded = load(&sections, 64).unwrap();
        let ids: Vec<[u8; 16]> = (0..rows.len() as u128).map(u128::to_be_bytes).collect();
        for query in &queries {
            let found = |vectors| {
                let segments = [VectorsView { vectors, live: None, ids: &ids }];
                search(&segments, query, 20, &mut Visited::default())
            };
            assert_eq!(found(&loaded), found(&vectors));
        }
        assert!(load(&sections, 128).is_err());
        for cut in 0..sections.len() {
            assert!(load(&sections[..cut], 64).is_err(), "without section {cut}");
            let mut shorter = sections.clone();
            shorter[cut] = &shorter[cut][..shorter[cut].len() - 4];
            assert!(load(&shorter, 64).is_err(), "section {cut} shorter");
        }
    }

    #[test]
    fn few_of_many_rows_are_looked_at_one_by_one() {
        let rng = &mut StdRng::seed_from_u64(8);
        let (rows, queries) = large(rng, 64, 40);
        let vectors = Vectors::build(64, &rows.concat()).unwrap();
        let ids: Vec<[u8; 16]> = (0..rows.len() as u128).map(u128::to_be_bytes).collect();
        let mut few = Bits::zeros(rows.len());
        (0..rows.len() as u32).step_by(40).for_each(|at| _ = few.set(at, true));
        let segments = [VectorsView { vectors: &vectors, live: Some(&few), ids: &ids }];
        for query in &queries {
            let mut visited = Visited::default();
            assert_eq!(search(&segments, query, 10, &mut visited), plain(&segments, query, 10));
            assert_eq!((visited.estimated, visited.scanned), (0, few.count() as u64));
        }
    }

    #[test]
    fn random_rows_of_any_dimension() {
        let rng = &mut StdRng::seed_from_u64(1);
        for dimensions in [1, 3, 31, 32, 33, 100, 256] {
            let rows = (0..700).map(|_| random(rng, dimensions)).collect();
            let queries: Vec<_> = (0..5).map(|_| random(rng, dimensions)).collect();
            check_rows(dimensions, rows, &queries, rng);
        }
    }

    #[test]
    fn clusters_closer_than_codes_can_tell() {
        let rng = &mut StdRng::seed_from_u64(2);
        let centres: Vec<_> = (0..4).map(|_| random(rng, 64)).collect();
        let rows = (0..800).map(|at| near(rng, &centres[at % 4], 0.003)).collect();
        let queries: Vec<_> = centres.iter().map(|centre| near(rng, centre, 0.001)).collect();
        check_rows(64, rows, &queries, rng);
    }

    #[test]
    fn equal_rows_come_in_order() {
        let rng = &mut StdRng::seed_from_u64(3);
        let kinds: Vec<_> = (0..3).map(|_| random(rng, 48)).collect();
        let rows: Vec<_> = (0..300).map(|at| kinds[at % 3].clone()).collect();
        check_rows(48, rows, &kinds, rng);
    }

    #[test]
    fn rows_made_to_deceive_the_codes() {
        let rng = &mut StdRng::seed_from_u64(4);
        // One large component sets the step; the query looks only at the small ones, which codes round away.
        let rows: Vec<_> = (0..500)
            .map(|_| {
                let mut row: Vec<f32> = (0..64).map(|_| rng.random_range(-0.0035..0.0035)).collect();
                row[0] = 0.999;
                unit(row)
            })
            .collect();
        let mut query = random(rng, 64);
        query[0] = 0.0;
        let mut axis = vec![0.0; 64];
        axis[0] = 1.0;
        check_rows(64, rows.clone(), &[unit(query), axis.clone(), rows[7].clone()], rng);

        // No unit length, no length at all, tiny, huge.
        let mut odd: Vec<Vec<f32>> = rows.into_iter().take(200).collect();
        odd[3].iter_mut().for_each(|value| *value *= 1e6);
        odd[4].iter_mut().for_each(|value| *value *= -1e6);
        odd[5].fill(0.0);
        odd[6].iter_mut().for_each(|value| *value *= 1e-33);
        odd[7].fill(f32::MIN_POSITIVE / 8.0);
        let mut huge = axis.clone();
        huge[0] = 1e9;
        check_rows(64, odd, &[axis, huge, vec![0.0; 64]], rng);
    }

    #[test]
    fn sums_of_many_dimensions_stay_in_range() {
        // All codes at their largest, of one sign: the sum that comes closest to the end of i32.
        let dimensions = 8_192;
        let value = 1.0 / (dimensions as f32).sqrt();
        let rng = &mut StdRng::seed_from_u64(5);
        let mut rows = vec![vec![value; dimensions], vec![-value; dimensions]];
        rows.extend((0..6).map(|_| random(rng, dimensions)));
        check_rows(dimensions, rows, &[vec![value; dimensions], vec![-value; dimensions]], rng);
    }

    #[test]
    fn refuses_what_are_no_rows() {
        let refused = |dimensions, rows: Vec<f32>| Vectors::build(dimensions, &rows).unwrap_err();
        assert_eq!(refused(3, vec![0.0; 4]), VectorsError::Shape { numbers: 4, dimensions: 3 });
        assert_eq!(refused(0, vec![]), VectorsError::Shape { numbers: 0, dimensions: 0 });
        assert_eq!(refused(2, vec![0.0, 1.0, f32::NAN, 1.0]), VectorsError::NotFinite { row: 1 });
        let none = Vectors::build(3, &[]).unwrap();
        assert!(
            search(&[VectorsView { vectors: &none, live: None, ids: &[] }], &[1.0; 3], 5, &mut Visited::default())
                .is_empty()
        );
        assert!(search(&[], &[1.0; 3], 5, &mut Visited::default()).is_empty());
    }
}
