//! From ranked lists to the hits of an answer: one list of two, scores, recency, a threshold, one hit a document,
//! diversity. The same for the index and for a source beside it, which gives its lists and what it knows of a candidate.
//!
//! Order and score are two things. The order is by relevance: in hybrid mode the fused rank, whose weights were measured,
//! but which says nothing about how good the first one is. The score says that: it is made of nothing but the question,
//! the chunk and the counts of terms, so it is the same whatever else was found, and may be compared with a threshold.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    time::Duration,
};

use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::{
    fuse::{self, Fusion},
    kernels,
    search::{HitExplain, LIST_LEN_MIN, ListPlace, Mode},
};

/// How many candidates for each hit wanted are put in another order by [`Options::diversity`] and [`Options::recency`].
const POOL_FACTOR: usize = 10;
/// Fewest of them.
const POOL_LEN_MIN: usize = 100;
/// How much longer lists become when what they gave is not enough.
const DEPTH_FACTOR: usize = 4;

/// What is wanted of an answer beyond the best chunks in their order.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Options<'a> {
    /// Hits of a lower score are left out, and better ones looked for in their place; 0 to 1.
    pub min_score: f32,
    /// One hit a document, its best chunk. If that many documents fit the question, there are as many hits as asked for.
    pub group_by_document: bool,
    /// How much a hit must differ from those before it, 0 (not at all) to 1: see [`choose`].
    pub diversity: f32,
    /// Whether what is older counts for less.
    pub recency: Option<Recency<'a>>,
    /// How many chunks before and after each hit are shown with it.
    pub expand: u32,
    /// Whether to say where in a hit's content the question's words are.
    pub highlight: bool,
}

impl Options<'_> {
    /// How long the lists should be at first for `top_k` hits.
    pub fn depth(&self, mode: Mode, top_k: usize) -> usize {
        if self.diversity > 0.0 || self.recency.is_some() {
            return top_k.saturating_mul(POOL_FACTOR).max(POOL_LEN_MIN);
        }
        match mode {
            Mode::Hybrid => top_k.saturating_mul(2).max(LIST_LEN_MIN),
            Mode::Semantic | Mode::Keyword => top_k,
        }
    }

    /// How long they should be next, after `depth` gave too little.
    pub fn deeper(depth: usize) -> usize {
        depth.saturating_mul(DEPTH_FACTOR)
    }
}

/// How much older chunks count for less: half as much for each half-life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recency<'a> {
    /// The metadata key that holds a chunk's time: an RFC 3339 date or date and time, or seconds since 1970.
    pub key: &'a str,
    /// Above 0.
    pub half_life: Duration,
    /// Seconds since 1970.
    pub now: f64,
}

impl Recency<'_> {
    /// What a chunk's score and relevance are multiplied by: above 0 up to 1. A chunk without a time, or of one in the
    /// future, is taken as new: it is not known to be old.
    pub fn weight(&self, metadata_json: &str) -> f32 {
        let metadata: Map<String, Value> = serde_json::from_str(metadata_json).unwrap_or_default();
        let Some(at) = metadata.get(self.key).and_then(seconds) else { return 1.0 };
        let half_lives = (self.now - at).max(0.0) / self.half_life.as_secs_f64();
        // However old, it stays above those that do not fit at all.
        0.5_f64.powf(half_lives).max(f64::from(f32::MIN_POSITIVE)) as f32
    }
}

/// Seconds since 1970.
fn seconds(time: &Value) -> Option<f64> {
    match time {
        Value::Number(seconds) => seconds.as_f64(),
        Value::String(text) => {
            let is_date = text.len() == "2026-01-31".len();
            let parsed = if is_date {
                OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339)
            } else {
                OffsetDateTime::parse(text, &Rfc3339)
            };
            parsed.ok().map(|time| time.unix_timestamp_nanos() as f64 / 1e9)
        }
        _ => None,
    }
}

/// What makes a score of what the lists measure.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Which lists count.
    pub mode: Mode,
    /// How much each one does, in [`Mode::Hybrid`].
    pub fusion: Fusion,
    /// What the keyword list's measure cannot reach for this question.
    pub keyword_ceiling: f32,
}

impl Scale {
    /// 0 to 1: the cosine, 0 if it is negative.
    pub fn semantic(&self, cosine: f32) -> f32 {
        cosine.clamp(0.0, 1.0)
    }

    /// 0 to 1: how much of the question the chunk covers.
    pub fn keyword(&self, raw: f32) -> f32 {
        if self.keyword_ceiling > 0.0 { (raw / self.keyword_ceiling).clamp(0.0, 1.0) } else { 0.0 }
    }

    /// 0 to 1, of what the lists measure: in hybrid mode the mean of both, weighted as their ranks are.
    pub fn score(&self, cosine: f32, keyword: f32) -> f32 {
        match self.mode {
            Mode::Semantic => self.semantic(cosine),
            Mode::Keyword => self.keyword(keyword),
            Mode::Hybrid => {
                let weights = [self.fusion.semantic_weight, self.fusion.keyword_weight].map(|weight| weight.max(0.0));
                let all: f32 = weights.iter().sum();
                let sum = weights[0] * self.semantic(cosine) + weights[1] * self.keyword(keyword);
                if all > 0.0 { (sum / all).clamp(0.0, 1.0) } else { 0.0 }
            }
        }
    }
}

/// A candidate in the order of relevance.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked<T> {
    /// Which one.
    pub id: T,
    /// What orders, 0 to 1: the fused rank by the best possible one, or the score of the only list.
    pub relevance: f32,
    /// By [`Recency::weight`]; 1 if it was not asked for.
    pub recency: f32,
    /// Its cosine, if it is known.
    pub cosine: Option<f32>,
    /// What the keyword list measures, if it is known.
    pub keyword: Option<f32>,
}

impl<T> Ranked<T> {
    /// 0 to 1. What is not known counts as 0.
    pub fn score(&self, scale: &Scale) -> f32 {
        scale.score(self.cosine.unwrap_or(0.0), self.keyword.unwrap_or(0.0)) * self.recency
    }

    /// How it was found in the lists that it was ranked by.
    pub fn explain(
        &self,
        semantic: &[(T, f32)],
        keyword: &[(T, f32)],
        options: &Options<'_>,
        scale: &Scale,
    ) -> HitExplain
    where
        T: PartialEq,
    {
        let rank_in = |list: &[(T, f32)]| list.iter().position(|(id, _)| *id == self.id).map(|at| at + 1);
        HitExplain {
            relevance: self.relevance,
            recency: options.recency.map(|_| self.recency),
            semantic: self.cosine.map(|raw| ListPlace { rank: rank_in(semantic), raw, score: scale.semantic(raw) }),
            keyword: self.keyword.map(|raw| ListPlace { rank: rank_in(keyword), raw, score: scale.keyword(raw) }),
        }
    }
}

/// One list of those of [`Scale::mode`], each best first with its measure: most relevant first, ties by id.
pub fn rank<T: Copy + Eq + Hash + Ord>(semantic: &[(T, f32)], keyword: &[(T, f32)], scale: &Scale) -> Vec<Ranked<T>> {
    let ranked = |id, relevance| Ranked { id, relevance, recency: 1.0, cosine: None, keyword: None };
    match scale.mode {
        Mode::Semantic => {
            let semantic = semantic.iter();
            semantic.map(|&(id, raw)| Ranked { cosine: Some(raw), ..ranked(id, scale.semantic(raw)) }).collect()
        }
        Mode::Keyword => {
            let keyword = keyword.iter();
            keyword.map(|&(id, raw)| Ranked { keyword: Some(raw), ..ranked(id, scale.keyword(raw)) }).collect()
        }
        Mode::Hybrid => {
            let ids = |list: &[(T, f32)]| list.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            let raws = |list: &[(T, f32)]| list.iter().copied().collect::<HashMap<_, _, foldhash::fast::FixedState>>();
            let fused = fuse::reciprocal_rank(&ids(semantic), &ids(keyword), &scale.fusion);
            let (cosines, keywords) = (raws(semantic), raws(keyword));
            let with_raws = |(id, relevance)| Ranked {
                cosine: cosines.get(&id).copied(),
                keyword: keywords.get(&id).copied(),
                ..ranked(id, relevance)
            };
            fused.into_iter().map(with_raws).collect()
        }
    }
}

/// The highest score of what is in none of the lists, if they were made `depth` long; none if they hold everything.
pub fn reach<T>(semantic: &[(T, f32)], keyword: &[(T, f32)], depth: usize, scale: &Scale) -> Option<f32> {
    let last = |list: &[(T, f32)]| list.last().filter(|_| list.len() >= depth).map(|(_, raw)| *raw);
    let (semantic, keyword) = (last(semantic), last(keyword));
    (semantic.is_some() || keyword.is_some()).then(|| scale.score(semantic.unwrap_or(0.0), keyword.unwrap_or(0.0)))
}

/// The at most `top_k` hits of `ranked`, best first.
///
/// In this order: recency; the threshold; one chunk a document; and diversity, by maximal marginal relevance (Carbonell
/// and Goldstein, "The use of MMR", SIGIR 1998): the most relevant comes first, then always the one of the highest
/// `(1 - diversity) · relevance - diversity · (nearness to the nearest hit so far)`, ties in order of relevance.
///
/// Scores must be complete if there is a threshold. `nearness`: the cosine of two candidates' embeddings.
pub fn choose<T: Copy>(
    mut ranked: Vec<Ranked<T>>,
    top_k: usize,
    options: &Options<'_>,
    scale: &Scale,
    document_id: impl Fn(T) -> Uuid,
    nearness: impl Fn(T, T) -> f32,
) -> Vec<Ranked<T>> {
    if options.recency.is_some() {
        let relevance = |one: &Ranked<T>| one.relevance * one.recency;
        ranked.sort_by(|left, right| relevance(right).total_cmp(&relevance(left)));
    }
    if options.min_score > 0.0 {
        ranked.retain(|one| one.score(scale) >= options.min_score);
    }
    if options.group_by_document {
        let mut seen = HashSet::new();
        ranked.retain(|one| seen.insert(document_id(one.id)));
    }
    if options.diversity > 0.0 {
        return diverse(ranked, top_k, options.diversity, nearness);
    }
    ranked.truncate(top_k);
    ranked
}

/// The cosine of two embeddings of one length; 0 if one has no direction.
pub fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let lengths = (kernels::dot(left, left) * kernels::dot(right, right)).sqrt();
    let cosine = kernels::dot(left, right) / lengths;
    if cosine.is_finite() { cosine } else { 0.0 }
}

fn diverse<T: Copy>(
    ranked: Vec<Ranked<T>>,
    top_k: usize,
    diversity: f32,
    nearness: impl Fn(T, T) -> f32,
) -> Vec<Ranked<T>> {
    let mut rest: Vec<(Ranked<T>, f32)> = ranked.into_iter().map(|one| (one, f32::NEG_INFINITY)).collect();
    let mut chosen: Vec<Ranked<T>> = Vec::new();
    while chosen.len() < top_k && !rest.is_empty() {
        let gain =
            |(one, nearest): &(Ranked<T>, f32)| (1.0 - diversity) * one.relevance * one.recency - diversity * nearest;
        let mut best = 0;
        // Before the first, nothing is near to anything.
        if !chosen.is_empty() {
            for at in 1..rest.len() {
                if gain(&rest[at]) > gain(&rest[best]) {
                    best = at;
                }
            }
        }
        let (next, _) = rest.remove(best);
        for (one, nearest) in &mut rest {
            *nearest = nearest.max(nearness(one.id, next.id));
        }
        chosen.push(next);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: f64 = 1_767_225_600.0; // 2026-01-01

    fn weight(value: Value) -> f32 {
        let recency = Recency { key: "at", half_life: Duration::from_secs(86_400), now: NOW };
        recency.weight(&json!({ "at": value, "other": 0 }).to_string())
    }

    #[test]
    fn what_is_a_half_life_old_counts_half() {
        for (value, expected) in [
            (json!("2026-01-01"), 1.0),
            (json!("2025-12-31"), 0.5),
            (json!("2025-12-31T00:00:00Z"), 0.5),
            (json!("2025-12-31T02:00:00+02:00"), 0.5),
            (json!("2025-12-30T00:00:00.000Z"), 0.25),
            (json!(NOW - 86_400.0), 0.5),
            (json!(NOW as u64 - 3 * 86_400), 0.125),
        ] {
            assert_eq!(weight(value.clone()), expected, "{value}");
        }
    }

    #[test]
    fn what_has_no_time_or_a_later_one_counts_as_new() {
        for value in [
            json!(null),
            json!("2027-01-01"),
            json!(1e300),
            json!("yesterday"),
            json!("2025-13-01"),
            json!("äöüäö"),
            json!(""),
            json!(true),
            json!(["2020-01-01"]),
            json!({ "at": 1 }),
        ] {
            assert_eq!(weight(value.clone()), 1.0, "{value}");
        }
        let recency = Recency { key: "none", half_life: Duration::from_secs(1), now: NOW };
        assert_eq!(recency.weight("{}"), 1.0);
        assert_eq!(recency.weight("no JSON"), 1.0);
    }

    #[test]
    fn however_old_it_stays_above_nothing() {
        assert!(weight(json!("0001-01-01")) > 0.0);
        assert!(weight(json!(-1e300)) > 0.0);
    }

    fn scale(mode: Mode) -> Scale {
        Scale { mode, fusion: Fusion::default(), keyword_ceiling: 4.0 }
    }

    #[test]
    fn scores_are_shares() {
        assert_eq!(scale(Mode::Semantic).score(0.75, 99.0), 0.75);
        assert_eq!(scale(Mode::Semantic).score(-0.5, 0.0), 0.0);
        assert_eq!(scale(Mode::Keyword).score(1.0, 3.0), 0.75);
        assert_eq!(scale(Mode::Hybrid).score(0.75, 3.0), 0.75);
        assert_eq!(scale(Mode::Hybrid).score(0.75, 0.0), 0.25, "the keyword list counts twice");
        assert_eq!(scale(Mode::Hybrid).score(2.0, 99.0), 1.0);
        assert_eq!(Scale { keyword_ceiling: 0.0, ..scale(Mode::Keyword) }.score(1.0, 0.0), 0.0);
        let none = Fusion { semantic_weight: f32::NAN, keyword_weight: -1.0, ..Fusion::default() };
        assert_eq!(Scale { fusion: none, ..scale(Mode::Hybrid) }.score(1.0, 4.0), 0.0);
    }

    #[test]
    fn what_is_in_no_list_is_below_the_last_of_each() {
        let list = |raws: &[f32]| raws.iter().enumerate().map(|(at, raw)| (at, *raw)).collect::<Vec<_>>();
        let (semantic, keyword) = (list(&[0.9, 0.6]), list(&[4.0, 2.0]));
        let hybrid = scale(Mode::Hybrid);
        assert_eq!(reach(&semantic, &keyword, 2, &hybrid), Some((0.6 + 2.0 * 0.5) / 3.0));
        assert_eq!(reach(&semantic, &keyword[..1], 2, &hybrid), Some(0.6 / 3.0), "whatever else has no word");
        assert_eq!(reach(&semantic, &keyword, 3, &hybrid), None);
        assert_eq!(reach::<u8>(&[], &[], 3, &hybrid), None);
    }

    /// Places in the order of relevance 1, 0.9, 0.8 …; two of them are near if they are of one ten.
    fn diverse_order(count: u32, top_k: usize, diversity: f32) -> Vec<u32> {
        let ranked = (0..count).map(|at| Ranked {
            id: at * 4,
            relevance: 1.0 - at as f32 / 10.0,
            recency: 1.0,
            cosine: Some(0.5),
            keyword: None,
        });
        let options = Options { diversity, ..Options::default() };
        let near = |left: u32, right: u32| if left / 10 == right / 10 { 1.0 } else { 0.0 };
        let chosen = choose(ranked.collect(), top_k, &options, &scale(Mode::Semantic), |_| Uuid::nil(), near);
        chosen.into_iter().map(|one| one.id).collect()
    }

    #[test]
    fn diversity_brings_what_is_unlike_the_hits_before() {
        assert_eq!(diverse_order(6, 6, 0.0), [0, 4, 8, 12, 16, 20]);
        assert_eq!(diverse_order(6, 6, 0.5), [0, 12, 20, 4, 8, 16]);
        assert_eq!(diverse_order(6, 2, 1.0), [0, 12]);
        assert_eq!(diverse_order(6, 3, 0.01), [0, 4, 8]);
        assert_eq!(diverse_order(0, 3, 0.5), [0_u32; 0]);
    }

    #[test]
    fn one_of_a_document_and_none_below_the_threshold() {
        let ranked =
            |id: u32, cosine| Ranked { id, relevance: cosine, recency: 1.0, cosine: Some(cosine), keyword: None };
        let all = || vec![ranked(10, 0.9), ranked(11, 0.8), ranked(20, 0.7), ranked(30, 0.4), ranked(21, 0.3)];
        let document = |id: u32| Uuid::from_u128(u128::from(id / 10));
        let ids = |top_k, options: Options<'_>| {
            let chosen = choose(all(), top_k, &options, &scale(Mode::Semantic), document, |_, _| 0.0);
            chosen.into_iter().map(|one| one.id).collect::<Vec<_>>()
        };
        let grouped = Options { group_by_document: true, ..Options::default() };
        assert_eq!(ids(9, grouped), [10, 20, 30]);
        assert_eq!(ids(2, grouped), [10, 20]);
        assert_eq!(ids(9, Options { min_score: 0.4, ..grouped }), [10, 20, 30], "what has just enough is in");
        assert_eq!(ids(9, Options { min_score: 0.41, ..grouped }), [10, 20]);
        assert_eq!(ids(9, Options { min_score: 0.7, ..Options::default() }), [10, 11, 20]);
        assert_eq!(ids(9, Options { min_score: 1.0, ..Options::default() }), [0_u32; 0]);
    }

    #[test]
    fn a_cosine_needs_no_unit_length() {
        assert_eq!(cosine(&[3.0, 0.0], &[0.5, 0.0]), 1.0);
        assert_eq!(cosine(&[3.0, 0.0], &[0.0, 2.0]), 0.0);
        assert_eq!(cosine(&[0.0, 0.0], &[0.0, 2.0]), 0.0);
    }

    #[test]
    fn lists_are_longer_where_their_order_may_change() {
        let plain = Options::default();
        assert_eq!([Mode::Hybrid, Mode::Semantic, Mode::Keyword].map(|mode| plain.depth(mode, 3)), [10, 3, 3]);
        assert_eq!(plain.depth(Mode::Hybrid, 50), 100);
        let diverse = Options { diversity: 0.1, ..plain };
        assert_eq!(
            [5, 10, 11, usize::MAX].map(|top_k| diverse.depth(Mode::Keyword, top_k)),
            [100, 100, 110, usize::MAX]
        );
    }
}
