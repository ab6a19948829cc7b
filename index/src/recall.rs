//! What searches by vectors miss, measured: questions of the index's own making, each answered as a search answers it and by
//! a comparison with every chunk.
//!
//! Half of the questions are rows of the index, of which the row itself does not count as found; half lie between two rows,
//! since questions of people are like no row. Each is asked without a filter, with one that keeps half of the chunks and with
//! one that keeps one in twenty.

use std::time::{Duration, Instant};

use crate::{
    bits::Bits,
    index::{Part, View},
    search::{live_of, vectors_of},
    segment::unit,
    vectors::{self, VectorWay, Visited},
};

/// Most questions.
const QUESTIONS_MAX: usize = 100;
/// Hits that are looked for.
const TOP_K: usize = 10;
/// A filter keeps one chunk in so many.
const FILTER_SHARES: [u32; 2] = [2, 20];
/// Where the questions come from: steps of this share of the rows, round and round, are spread evenly wherever they end.
const GOLDEN_SHARE: f64 = 0.618_033_988_749_895;

/// How many of the nearest chunks searches find.
#[derive(Debug, Clone, PartialEq)]
pub struct RecallReport {
    /// Chunks that can be found.
    pub chunks: usize,
    /// Questions that were asked, each without a filter and with two.
    pub questions: usize,
    /// Without a filter.
    pub plain: Recall,
    /// With filters.
    pub filtered: Recall,
    /// How segments were searched, in the order of first use.
    pub ways: Vec<VectorWay>,
}

/// How many of the ten nearest chunks were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recall {
    /// That a comparison with every chunk finds.
    pub wanted: usize,
    /// Those of them that the search found too.
    pub found: usize,
}

impl Recall {
    /// Recall@10, 0 to 1; 1 where nothing was to be found.
    pub fn at_10(&self) -> f64 {
        if self.wanted == 0 { 1.0 } else { self.found as f64 / self.wanted as f64 }
    }
}

/// A live row: its segment and its number there.
type Row = (u32, u32);

/// Asks `view` questions for about as long as `longest`, and one in any case.
pub(crate) fn measure(view: &View, longest: Duration) -> RecallReport {
    let started = Instant::now();
    let all: Vec<Row> = (0_u32..)
        .zip(&view.parts)
        .flat_map(|(segment, part)| {
            let docs = 0..part.segment.len() as u32;
            docs.filter(move |doc| part.live().is_none_or(|live| live.get(*doc))).map(move |doc| (segment, doc))
        })
        .collect();
    let none = Recall::default();
    let mut report = RecallReport { chunks: all.len(), questions: 0, plain: none, filtered: none, ways: Vec::new() };
    if all.is_empty() {
        return report;
    }
    let filters = FILTER_SHARES.map(|share| kept_by(view, share));
    for at in 0..QUESTIONS_MAX.min(2 * all.len()) {
        if at > 0 && started.elapsed() >= longest {
            break;
        }
        let row = picked(&all, at);
        let is_row = at.is_multiple_of(2);
        let Some(vector) = question(view, row, (!is_row).then(|| picked(&all, at + QUESTIONS_MAX))) else { continue };
        let score = |(segment, doc): Row| view.parts[segment as usize].segment.vectors.score(doc, &vector);
        let scores: Vec<(f32, Row)> = all.iter().map(|row| (score(*row), *row)).collect();
        let asked = Asked { view, vector: &vector, own: is_row.then_some(row), scores: &scores };
        report.questions += 1;
        asked.add_to(&mut report.plain, &mut report.ways, None);
        filters.iter().for_each(|filter| asked.add_to(&mut report.filtered, &mut report.ways, Some(filter)));
    }
    report
}

/// The row that question number `at` comes from.
fn picked(all: &[Row], at: usize) -> Row {
    let share = (at as f64 * GOLDEN_SHARE).fract();
    all[((share * all.len() as f64) as usize).min(all.len() - 1)]
}

/// A row of the index or, with `other`, what lies between two; `None` if that has no direction.
fn question(view: &View, row: Row, other: Option<Row>) -> Option<Vec<f32>> {
    let vector = |(segment, doc): Row| view.parts[segment as usize].segment.vectors.row(doc);
    let mut question = vector(row);
    if let Some(other) = other {
        question.iter_mut().zip(vector(other)).for_each(|(value, other)| *value += other);
    }
    unit(&question)
}

/// For each part one in so many of its live documents, of all places.
fn kept_by(view: &View, share: u32) -> Vec<Bits> {
    let kept = |doc: u32| (doc.wrapping_mul(0x9e37_79b1) >> 16).is_multiple_of(share);
    let bits = |part: &Part| {
        let mut bits = Bits::zeros(part.segment.len());
        (0..part.segment.len() as u32).filter(|doc| kept(*doc)).for_each(|doc| _ = bits.set(doc, true));
        if let Some(live) = part.live() {
            bits.and(live);
        }
        bits
    };
    view.parts.iter().map(bits).collect()
}

/// A question, and what a comparison with every chunk says of it.
struct Asked<'a> {
    view: &'a View,
    vector: &'a [f32],
    /// The row that it is, if it is one.
    own: Option<Row>,
    scores: &'a [(f32, Row)],
}

impl Asked<'_> {
    /// Searches among what `filter` keeps; adds to `recall` what was to be found and what was, and to `ways` new ones.
    fn add_to(&self, recall: &mut Recall, ways: &mut Vec<VectorWay>, filter: Option<&[Bits]>) {
        let is_kept = |(segment, doc): Row| filter.is_none_or(|filter| filter[segment as usize].get(doc));
        let own = usize::from(self.own.is_some_and(is_kept));
        let top_k = TOP_K + own;
        let mut exact: Vec<f32> =
            self.scores.iter().filter(|(_, row)| is_kept(*row)).map(|(score, _)| *score).collect();
        if exact.len() > top_k {
            exact.select_nth_unstable_by(top_k, |left, right| right.total_cmp(left));
            exact.truncate(top_k);
        }
        let Some(last) = exact.iter().copied().min_by(f32::total_cmp) else { return };

        let mut visited = Visited::default();
        let segments = vectors_of(self.view, &live_of(self.view, filter));
        let found = vectors::search(&segments, self.vector, top_k, &mut visited);
        recall.wanted += exact.len() - own;
        // By score, since of rows that are alike any will do.
        let found = found.iter().filter(|place| place.score >= last).count().min(exact.len());
        recall.found += found.saturating_sub(own);
        for way in visited.ways {
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
    }
}
