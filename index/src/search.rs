//! A search over one view of an index: filter, two ranked lists, one answer.
//!
//! Every answer is determined by the live chunks alone: it does not depend on how they came to be spread over segments,
//! and ties go by chunk id.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use uuid::Uuid;

use crate::{
    bits::{Bits, Candidate},
    filter::Filter,
    fuse::{self, Fusion},
    index::{Part, Settings, View},
    payload::Row,
    question::{Conditions, Fitting, Question},
    segment::{Segment, unit},
    vectors::{self, VectorsView, Visited},
    words::{self, Found, WordsView},
};

/// Shortest list that is fused: below it, the ranks of the other list say too little about a chunk.
pub const LIST_LEN_MIN: usize = 20;
/// Most keys that an error lists.
const KNOWN_KEYS_MAX: usize = 20;

/// What to ask an index.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The question, for the list of words; in the language of [`Question`] but in [`Mode::Semantic`].
    pub text: &'a str,
    /// The embedding of the question's words ([`Question::words`]) by the index's encoder, `[dimensions]`, of any length
    /// but zero; not needed in [`Mode::Keyword`].
    pub embedding: Option<&'a [f32]>,
    /// Most hits.
    pub top_k: usize,
    /// Which lists are asked.
    pub mode: Mode,
    /// Whether the last word is still being typed: in the list of words it then also stands for those that begin with it.
    pub prefix: bool,
    /// Which chunks may be found. If `top_k` chunks pass the filter and fit the question, `top_k` come back.
    pub filter: Option<&'a Filter>,
    /// How the two lists become one in [`Mode::Hybrid`].
    pub fusion: Fusion,
    /// Whether to say how each hit was found.
    pub explain: bool,
}

/// Which lists are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Both lists, fused by rank.
    Hybrid,
    /// Nearness of embeddings. Each chunk has one, so there are `top_k` hits if there are as many chunks.
    Semantic,
    /// BM25. Only chunks that have a word of the question are hits.
    Keyword,
}

/// Hits of one view of the index.
#[derive(Debug)]
pub struct Answer {
    /// Everything up to this version was searched, and nothing past it.
    pub version: u64,
    /// Best first, ties by chunk id.
    pub hits: Vec<Hit>,
    /// Where the time went.
    pub timings: Timings,
    /// How the lists were made, if it was asked.
    pub explain: Option<AnswerExplain>,
}

/// Time per stage; zero for one that was not needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Encoding of the question; the caller's, who does it.
    pub encode: Duration,
    /// Finding the chunks that pass the filter.
    pub filter: Duration,
    /// The semantic list.
    pub vectors: Duration,
    /// The keyword list.
    pub words: Duration,
    /// Fusing and putting the hits together.
    pub fuse: Duration,
}

/// A chunk that was found. It keeps its segment alive and copies nothing.
#[derive(Debug, Clone)]
pub struct Hit {
    segment: Arc<Segment>,
    doc: u32,
    /// 0 to 1, higher is better. Semantic: the cosine, 0 if it is negative. Keyword: the share of the question that the
    /// chunk covers, that is, BM25 by what none can reach. Hybrid: the share of the best possible fused rank, so 1 is
    /// first in both lists.
    pub score: f32,
    /// How it was found, if it was asked.
    pub explain: Option<HitExplain>,
}

impl Hit {
    fn row(&self) -> Row<'_> {
        self.segment.payload.row(self.doc)
    }

    /// The chunk's id.
    pub fn chunk_id(&self) -> Uuid {
        self.row().id
    }

    /// The document that the chunk is a part of.
    pub fn document_id(&self) -> Uuid {
        self.row().document_id
    }

    /// The caller's own name of the document.
    pub fn external_id(&self) -> &str {
        self.row().external_id
    }

    /// The document's title.
    pub fn title(&self) -> &str {
        self.row().title
    }

    /// Where people can read the document.
    pub fn source_url(&self) -> Option<&str> {
        self.row().source_url
    }

    /// Headings that the chunk stands under, outermost first, joined by ` › `.
    pub fn heading(&self) -> &str {
        self.row().heading
    }

    /// Place among the document's chunks, from 0.
    pub fn ordinal(&self) -> u32 {
        self.row().ordinal
    }

    /// The text.
    pub fn content(&self) -> &str {
        self.row().content
    }

    /// The metadata, as the text of a JSON object.
    pub fn metadata_json(&self) -> &str {
        self.row().metadata_json
    }
}

/// How a hit was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HitExplain {
    /// Its place in the semantic list; none if it was not in the list.
    pub semantic: Option<ListPlace>,
    /// Its place in the keyword list; none if it was not in the list.
    pub keyword: Option<ListPlace>,
}

/// A place in a list.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ListPlace {
    /// From 1.
    pub rank: usize,
    /// The list's own measure: the cosine, or BM25.
    pub score: f32,
}

/// How an answer was made.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnswerExplain {
    /// Which lists were asked.
    pub mode: Mode,
    /// How they became one, in [`Mode::Hybrid`].
    pub fusion: Option<FusionExplain>,
    /// Chunks of the index.
    pub chunks: usize,
    /// Segments that they are spread over.
    pub segments: usize,
    /// What the filter kept, if there is one.
    pub filter: Option<FilterExplain>,
    /// The semantic list, if it was asked.
    pub semantic: Option<SemanticExplain>,
    /// The keyword list, if it was asked.
    pub keyword: Option<KeywordExplain>,
}

/// Constant and weights of a fusion; see [`Fusion`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FusionExplain {
    /// The larger, the less the first ranks stand out.
    pub constant: f32,
    /// Weight of the semantic list.
    pub semantic_weight: f32,
    /// Weight of the keyword list.
    pub keyword_weight: f32,
}

/// What a filter kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FilterExplain {
    /// Chunks that pass.
    pub matches: usize,
}

/// How the semantic list was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SemanticExplain {
    /// Chunks in the list.
    pub listed: usize,
    /// Chunks whose code of one bit a component was looked at.
    pub estimated: u64,
    /// Chunks whose code of eight bits a component was looked at.
    pub scanned: u64,
    /// Chunks whose whole vector was looked at.
    pub rescored: u64,
}

/// How the keyword list was made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KeywordExplain {
    /// Chunks in the list.
    pub listed: usize,
    /// Distinct terms of the question.
    pub terms: usize,
    /// Places looked at where a chunk has a term.
    pub postings: u64,
    /// BM25 that no chunk can reach: that of one with each term of the question without end.
    pub ceiling: f32,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// A key of the filter is in no live chunk's metadata; most likely it is mistyped.
    #[error("no chunk has the metadata key \"{key}\"; there are: {}", known.join(", "))]
    UnknownKey {
        /// The key.
        key: String,
        /// Keys that there are, ascending, 20 at most.
        known: Vec<String>,
    },
    /// The mode needs an embedding of the question.
    #[error("this mode needs the question's embedding")]
    NoEmbedding,
    /// The embedding is of another encoder.
    #[error("the question's embedding has {found} dimensions and the index {expected}")]
    WrongDimensions {
        /// The index's.
        expected: usize,
        /// The embedding's.
        found: usize,
    },
    /// The embedding has no direction: it is all zero, or has a component that is no finite number.
    #[error("the question's embedding is zero or not finite")]
    NoDirection,
}

/// The chunks of `view` that answer `query` best.
pub(crate) fn search(settings: &Settings, view: &View, query: &Query<'_>) -> Result<Answer, SearchError> {
    let embedding = match query.mode {
        Mode::Keyword => None,
        Mode::Semantic | Mode::Hybrid => Some(query_direction(settings, query.embedding)?),
    };
    let mut timings = Timings::default();
    let kept = match query.filter {
        Some(filter) => Some(timed(&mut timings.filter, || kept_by(filter, view))?),
        None => None,
    };
    let question = match query.mode {
        Mode::Semantic => Question::plain(query.text),
        Mode::Keyword | Mode::Hybrid => Question::parse(query.text),
    };
    let mut demands = Conditions::of(&question, settings.analyzer)
        .map(|conditions| timed(&mut timings.words, || Demands::of(conditions, view, kept.as_deref())));
    let list_len = match query.mode {
        Mode::Hybrid => query.top_k.saturating_mul(2).max(LIST_LEN_MIN),
        Mode::Semantic | Mode::Keyword => query.top_k,
    };
    let mut visited = Visited::default();
    let semantic = embedding.map(|embedding| {
        timed(&mut timings.vectors, || {
            listed(view, kept.as_deref(), demands.as_mut(), list_len, |live, k| {
                let views = zip_parts(view, live, |part, live| VectorsView {
                    vectors: &part.segment.vectors,
                    live,
                    ids: part.segment.payload.ids(),
                });
                vectors::search(&views, &embedding, k, &mut visited)
            })
        })
    });
    let keyword = (query.mode != Mode::Semantic).then(|| {
        timed(&mut timings.words, || {
            let mut found = Found::default();
            found.candidates = listed(view, kept.as_deref(), demands.as_mut(), list_len, |live, k| {
                let views = zip_parts(view, live, |part, live| WordsView {
                    words: &part.segment.words,
                    counts: part.words_live(),
                    live,
                    ids: part.segment.payload.ids(),
                });
                found = words::search(settings.analyzer, &views, question.words(), query.prefix, k);
                std::mem::take(&mut found.candidates)
            });
            found
        })
    });

    let hits = timed(&mut timings.fuse, || {
        let lists = Lists {
            semantic: semantic.as_deref().unwrap_or_default(),
            keyword: keyword.as_ref().map_or(&[], |found| &found.candidates),
            keyword_ceiling: keyword.as_ref().map_or(0.0, |found| found.ceiling),
        };
        let best = lists.ranked(query).into_iter().take(query.top_k);
        best.map(|(place, score)| lists.hit(view, query, place, score)).collect()
    });
    let explain = query.explain.then(|| AnswerExplain {
        mode: query.mode,
        fusion: (query.mode == Mode::Hybrid).then_some(FusionExplain {
            constant: query.fusion.constant,
            semantic_weight: query.fusion.semantic_weight,
            keyword_weight: query.fusion.keyword_weight,
        }),
        chunks: view.len,
        segments: view.parts.len(),
        filter: kept.as_ref().map(|kept| FilterExplain { matches: kept.iter().map(Bits::count).sum() }),
        semantic: semantic.as_ref().map(|list| SemanticExplain {
            listed: list.len(),
            estimated: visited.estimated,
            scanned: visited.scanned,
            rescored: visited.rescored,
        }),
        keyword: keyword.as_ref().map(|found| KeywordExplain {
            listed: found.candidates.len(),
            terms: found.terms,
            postings: found.postings,
            ceiling: found.ceiling,
        }),
    });
    Ok(Answer { version: view.version, hits, timings, explain })
}

/// What the two searches found, best first; empty for one that was not made.
struct Lists<'a> {
    semantic: &'a [Candidate],
    keyword: &'a [Candidate],
    keyword_ceiling: f32,
}

impl Lists<'_> {
    /// Both lists as one, best first, with scores from 0 to 1.
    fn ranked(&self, query: &Query<'_>) -> Vec<(Candidate, f32)> {
        let Self { semantic, keyword, keyword_ceiling } = self;
        match query.mode {
            Mode::Semantic => semantic.iter().map(|place| (*place, place.score.clamp(0.0, 1.0))).collect(),
            Mode::Keyword => keyword.iter().map(|place| (*place, (place.score / keyword_ceiling).min(1.0))).collect(),
            Mode::Hybrid => {
                let ids = |list: &[Candidate]| list.iter().map(|place| place.id).collect::<Vec<_>>();
                let fused = fuse::reciprocal_rank(&ids(semantic), &ids(keyword), &query.fusion);
                let places: HashMap<u128, Candidate, foldhash::fast::RandomState> =
                    semantic.iter().chain(*keyword).map(|place| (place.id, *place)).collect();
                fused.into_iter().map(|(id, score)| (places[&id], score)).collect()
            }
        }
    }

    fn hit(&self, view: &View, query: &Query<'_>, place: Candidate, score: f32) -> Hit {
        let in_list = |list: &[Candidate]| {
            let at = list.iter().position(|other| other.id == place.id)?;
            Some(ListPlace { rank: at + 1, score: list[at].score })
        };
        let explain =
            query.explain.then(|| HitExplain { semantic: in_list(self.semantic), keyword: in_list(self.keyword) });
        Hit { segment: view.parts[place.segment as usize].segment.clone(), doc: place.doc, score, explain }
    }
}

/// The live documents of each part that pass `filter`.
fn kept_by(filter: &Filter, view: &View) -> Result<Vec<Bits>, SearchError> {
    for key in filter.keys() {
        let is_known = view.parts.iter().any(|part| part.segment.columns.has_key(key, part.live()));
        if !is_known && view.len > 0 {
            return Err(SearchError::UnknownKey { key: key.to_owned(), known: known_keys(view) });
        }
    }
    let kept = |part: &Part| {
        let mut bits = part.segment.columns.matches(filter);
        if let Some(live) = part.live() {
            bits.and(live);
        }
        bits
    };
    Ok(view.parts.iter().map(kept).collect())
}

/// What the question demands, and which documents of each part fulfil it, as far as is known so far.
struct Demands {
    conditions: Conditions,
    fitting: Vec<Fitting>,
}

impl Demands {
    /// Of the documents that the filter kept.
    fn of(conditions: Conditions, view: &View, kept: Option<&[Bits]>) -> Self {
        let fitting = |(at, part): (usize, &Part)| {
            let live = kept.map_or(part.live(), |kept| Some(&kept[at]));
            conditions.fitting(&part.segment.words, live)
        };
        Self { fitting: view.parts.iter().enumerate().map(fitting).collect(), conditions }
    }

    fn are_met(&mut self, view: &View, place: &Candidate) -> bool {
        let segment = &view.parts[place.segment as usize].segment;
        let fitting = &mut self.fitting[place.segment as usize];
        self.conditions.settle(fitting, place.doc, || segment.words_doc(place.doc))
    }
}

/// The best `k` documents of those that the filter kept and that meet the demands. `find` gives as many as it is told to
/// of those it is given, best first.
///
/// Texts are looked at from the best document on, so that of many with the words of a phrase only so many are read as
/// come in. One that does not fit is left out and the next best are found, twice as many each time.
fn listed(
    view: &View,
    kept: Option<&[Bits]>,
    demands: Option<&mut Demands>,
    k: usize,
    mut find: impl FnMut(&[Option<&Bits>], usize) -> Vec<Candidate>,
) -> Vec<Candidate> {
    let Some(demands) = demands else {
        let live: Vec<Option<&Bits>> = match kept {
            Some(kept) => kept.iter().map(Some).collect(),
            None => view.parts.iter().map(Part::live).collect(),
        };
        return find(&live, k);
    };
    let mut wanted = k;
    loop {
        let live: Vec<Option<&Bits>> = demands.fitting.iter().map(|fitting| Some(&fitting.kept)).collect();
        let mut found = find(&live, wanted);
        let is_all = found.len() < wanted;
        let mut missing = k;
        found.retain(|place| {
            let fits = missing > 0 && demands.are_met(view, place);
            missing -= usize::from(fits);
            fits
        });
        if is_all || found.len() >= k {
            return found;
        }
        wanted = wanted.saturating_mul(2);
    }
}

fn known_keys(view: &View) -> Vec<String> {
    let mut known = BTreeSet::new();
    for part in &view.parts {
        let columns = &part.segment.columns;
        known.extend(columns.keys().filter(|key| columns.has_key(key, part.live())));
    }
    known.into_iter().take(KNOWN_KEYS_MAX).map(str::to_owned).collect()
}

/// The question's embedding at unit length.
fn query_direction(settings: &Settings, embedding: Option<&[f32]>) -> Result<Vec<f32>, SearchError> {
    let embedding = embedding.ok_or(SearchError::NoEmbedding)?;
    let (expected, found) = (settings.dimensions, embedding.len());
    if expected != found {
        return Err(SearchError::WrongDimensions { expected, found });
    }
    unit(embedding).ok_or(SearchError::NoDirection)
}

fn zip_parts<'a, T>(
    view: &'a View,
    live: &[Option<&'a Bits>],
    make: impl Fn(&'a Part, Option<&'a Bits>) -> T,
) -> Vec<T> {
    view.parts.iter().zip(live).map(|(part, live)| make(part, *live)).collect()
}

/// Adds the time that `stage` takes to `time`.
fn timed<T>(time: &mut Duration, stage: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let outcome = stage();
    *time += started.elapsed();
    outcome
}
