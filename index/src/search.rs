//! A search over one view of an index: filter, two ranked lists, one answer.
//!
//! Every answer is determined by the live chunks alone: it does not depend on how they came to be spread over segments,
//! and ties go by chunk id.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use uuid::Uuid;

use crate::{
    answer::{self, Options, Ranked, Scale},
    bits::{Bits, Candidate},
    filter::Filter,
    fuse::Fusion,
    graph::Watched,
    highlight::Highlighter,
    index::{Part, Settings, View},
    kernels,
    payload::Row,
    question::{Conditions, Fitting, Question},
    segment::{Segment, unit},
    vectors::{self, VectorWay, Vectors, VectorsView, Visited},
    words::{self, WordsView},
};

/// Shortest list that is fused: below it, the ranks of the other list say too little about a chunk. With the tune half of
/// `loadtest quality` and five hits, lists of 10, 20 and 50 come to nDCG@5 0.457, 0.456 and 0.460: no difference beyond chance.
pub const LIST_LEN_MIN: usize = 10;
/// Hits that a repeated search looks for.
const WATCHED_TOP_K: usize = 10;
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
    /// What else is wanted. If there are `top_k` hits that fit, `top_k` come back: lists become longer until they hold
    /// them.
    pub options: Options<'a>,
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
    /// Best first by relevance, ties by chunk id. In hybrid mode, by recency and by diversity, scores need not fall.
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
    /// 0 to 1, higher is better, and the same whatever else was found. Semantic: the cosine, 0 if it is negative. Keyword:
    /// the share of the question that the chunk covers, that is, BM25 by what none can reach. Hybrid: the mean of both,
    /// weighted as the lists are. Times [`Recency::weight`](crate::Recency::weight), if it was asked.
    pub score: f32,
    /// Chunks of the document just before it, in order, if they were asked for and may be found.
    pub before: Vec<Neighbour>,
    /// Those just after it.
    pub after: Vec<Neighbour>,
    /// Where in the content the question's words are, if it was asked: see [`Highlighter::ranges`].
    pub highlights: Option<Vec<Range<u32>>>,
    /// How it was found, if it was asked.
    pub explain: Option<HitExplain>,
}

/// A chunk that stands next to a hit in its document.
#[derive(Debug, Clone)]
pub struct Neighbour {
    segment: Arc<Segment>,
    doc: u32,
}

impl Neighbour {
    /// All that there is of the chunk.
    pub fn row(&self) -> Row<'_> {
        self.segment.payload.row(self.doc)
    }
}

impl Hit {
    /// All that there is of the chunk.
    pub fn row(&self) -> Row<'_> {
        self.segment.payload.row(self.doc)
    }
}

/// How a hit was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HitExplain {
    /// What orders: the fused rank by the best possible one, or the score of the only list; before recency.
    pub relevance: f32,
    /// What recency makes of score and relevance, if it was asked.
    pub recency: Option<f32>,
    /// What the semantic list says of it, if it was asked.
    pub semantic: Option<ListPlace>,
    /// What the keyword list says of it, if it was asked.
    pub keyword: Option<ListPlace>,
}

/// A place in a list, or what it would be measured by there.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ListPlace {
    /// From 1; none if it is not in the list.
    pub rank: Option<usize>,
    /// The list's own measure: the cosine, or BM25.
    pub raw: f32,
    /// 0 to 1.
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
    /// How often lists were made, each time longer, until they held enough.
    pub rounds: usize,
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

impl From<Fusion> for FusionExplain {
    fn from(Fusion { constant, semantic_weight, keyword_weight }: Fusion) -> Self {
        Self { constant, semantic_weight, keyword_weight }
    }
}

/// What a filter kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FilterExplain {
    /// Chunks that pass.
    pub matches: usize,
    /// Of all chunks, 0 to 1.
    pub share: f32,
}

/// How the semantic list was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SemanticExplain {
    /// Chunks in the list.
    pub listed: usize,
    /// How each segment was searched.
    pub segments: Vec<SegmentExplain>,
    /// Chunks that graphs named as candidates.
    pub walked: u64,
    /// Chunks whose code of one bit a component was looked at.
    pub estimated: u64,
    /// Chunks whose code of eight bits a component was looked at.
    pub scanned: u64,
    /// Chunks whose whole vector was looked at.
    pub rescored: u64,
}

/// How a segment's vectors were searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SegmentExplain {
    /// Chunks of the segment, deleted ones included.
    pub chunks: usize,
    /// Which way.
    pub way: VectorWay,
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
    /// The key of [`Options::recency`] is in no live chunk's metadata.
    #[error("no chunk has the metadata key \"{key}\"; there are: {}", known.join(", "))]
    UnknownRecencyKey {
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
    let options = &query.options;
    if let Some(recency) = &options.recency
        && !is_known(recency.key, view)
    {
        return Err(SearchError::UnknownRecencyKey { key: recency.key.to_owned(), known: known_keys(view) });
    }
    let mut timings = Timings::default();
    let kept = match query.filter {
        Some(filter) => Some(timed(&mut timings.filter, || kept_by(filter, view))?),
        None => None,
    };
    let question = match query.mode {
        Mode::Semantic => Question::plain(query.text),
        Mode::Keyword | Mode::Hybrid => Question::parse(query.text),
    };
    let shown = live_of(view, kept.as_deref());
    let mut demands = Conditions::of(&question, settings.analyzer)
        .map(|conditions| timed(&mut timings.words, || Demands::of(conditions, view, &shown)));
    let asked =
        Asked { settings, view, query, words: question.words(), embedding: embedding.as_deref(), shown: &shown };

    let mut visited = Visited::default();
    let (mut depth, mut rounds, mut postings) = (options.depth(query.mode, query.top_k), 0, 0);
    let (lists, chosen) = loop {
        rounds += 1;
        let lists = asked.lists(depth, demands.as_mut(), &mut visited, &mut timings);
        postings += lists.postings;
        let chosen = timed(&mut timings.fuse, || asked.choose(&lists));
        let reach = answer::reach(&lists.semantic, &lists.keyword, depth, &lists.scale);
        if chosen.len() >= query.top_k || reach.is_none_or(|reach| reach < options.min_score) {
            break (lists, chosen);
        }
        depth = Options::deeper(depth);
    };
    let hits = timed(&mut timings.fuse, || asked.hits(&lists, chosen));
    let explain = query.explain.then(|| AnswerExplain {
        mode: query.mode,
        fusion: (query.mode == Mode::Hybrid).then(|| query.fusion.into()),
        chunks: view.len,
        segments: view.parts.len(),
        rounds,
        filter: kept.as_ref().map(|kept| {
            let matches = kept.iter().map(Bits::count).sum();
            FilterExplain { matches, share: if view.len > 0 { matches as f32 / view.len as f32 } else { 0.0 } }
        }),
        semantic: embedding.is_some().then(|| SemanticExplain {
            listed: lists.semantic.len(),
            segments: (view.parts.iter().zip(&visited.ways))
                .map(|(part, way)| SegmentExplain { chunks: part.segment.len(), way: *way })
                .collect(),
            walked: visited.walked,
            estimated: visited.estimated,
            scanned: visited.scanned,
            rescored: visited.rescored,
        }),
        keyword: (query.mode != Mode::Semantic).then_some(KeywordExplain {
            listed: lists.keyword.len(),
            terms: lists.terms,
            postings,
            ceiling: lists.scale.keyword_ceiling,
        }),
    });
    Ok(Answer { version: view.version, hits, timings, explain })
}

/// What a repeated search told; see [`crate::Index::watch_graphs`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GraphWatch {
    /// Rows that an exact search found: up to ten.
    pub wanted: usize,
    /// Those of them that the search found as it is, by graphs and sign codes.
    pub found: usize,
    /// The recall of graphs that are searched wider from now on, each with the number of candidates that it is to keep.
    pub widened: Vec<(f64, usize)>,
    /// The recall of graphs that were let go and are to be built once more, with more care.
    pub rebuilt: Vec<f64>,
    /// The recall of graphs that were let go for good: they are those that were built once more.
    pub let_go: Vec<f64>,
}

/// Repeats the vectors' part of `query` as it is and exactly.
pub(crate) fn watch(settings: &Settings, view: &View, query: &Query<'_>) -> Result<Option<GraphWatch>, SearchError> {
    if query.mode == Mode::Keyword {
        return Ok(None);
    }
    let embedding = query_direction(settings, query.embedding)?;
    let kept = query.filter.map(|filter| kept_by(filter, view)).transpose()?;
    let views = vectors_of(view, &live_of(view, kept.as_deref()));
    let mut visited = Visited::default();
    let found = vectors::search(&views, &embedding, WATCHED_TOP_K, &mut visited);
    if visited.ways.iter().all(|way| *way == VectorWay::Scan) {
        return Ok(None);
    }
    let exact = vectors::search_exactly(&views, &embedding, WATCHED_TOP_K);
    let Some(last) = exact.last() else { return Ok(None) };
    let near = found.iter().filter(|place| place.score >= last.score).count();
    let mut watch = GraphWatch { wanted: exact.len(), found: near.min(exact.len()), ..GraphWatch::default() };
    for (at, (part, way)) in view.parts.iter().zip(&visited.ways).enumerate() {
        let Some(graph) = part.segment.vectors.graph().filter(|_| *way == VectorWay::Graph) else { continue };
        let here = |place: &&Candidate| place.segment as usize == at;
        let wanted = exact.iter().filter(here).count();
        // By score, since of rows that are alike any will do.
        let found = found.iter().filter(here).filter(|place| place.score >= last.score).count().min(wanted);
        match graph.note_recall(wanted, found) {
            Watched::Enough => {}
            Watched::Widened { recall, breadth } => watch.widened.push((recall, breadth)),
            Watched::TooLittle { recall } => {
                let is_again = part.segment.vectors.fail_graph();
                if is_again { &mut watch.rebuilt } else { &mut watch.let_go }.push(recall);
            }
        }
    }
    Ok(Some(watch))
}

/// A query, and what it is asked of.
struct Asked<'a> {
    settings: &'a Settings,
    view: &'a View,
    query: &'a Query<'a>,
    /// What ranks of the question.
    words: &'a str,
    /// At unit length; none in [`Mode::Keyword`].
    embedding: Option<&'a [f32]>,
    /// For each part the documents that the filter keeps, which may stand beside what is found; all if `None`.
    shown: &'a [Option<&'a Bits>],
}

/// A chunk's place. Ordered by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    id: u128,
    segment: u32,
    doc: u32,
}

/// What the two searches found, best first; empty for one that was not made.
struct Lists {
    semantic: Vec<(Place, f32)>,
    keyword: Vec<(Place, f32)>,
    scale: Scale,
    /// Distinct terms of the question.
    terms: usize,
    postings: u64,
}

impl Asked<'_> {
    /// Lists of up to `depth` chunks.
    fn lists(
        &self,
        depth: usize,
        mut demands: Option<&mut Demands>,
        visited: &mut Visited,
        timings: &mut Timings,
    ) -> Lists {
        let (query, view) = (self.query, self.view);
        let semantic = self.embedding.map(|embedding| {
            // Of several rounds, the last one tells how.
            visited.ways.clear();
            timed(&mut timings.vectors, || {
                listed(view, self.shown, demands.as_deref_mut(), depth, |live, depth| {
                    vectors::search(&vectors_of(view, live), embedding, depth, visited)
                })
            })
        });
        let mut keyword = words::Found::default();
        if query.mode != Mode::Semantic {
            keyword.candidates = timed(&mut timings.words, || {
                listed(view, self.shown, demands, depth, |live, depth| {
                    keyword = self.words_among(live, depth);
                    std::mem::take(&mut keyword.candidates)
                })
            });
        }
        let scale = Scale { mode: query.mode, fusion: query.fusion, keyword_ceiling: keyword.ceiling };
        Lists {
            semantic: semantic.map(places).unwrap_or_default(),
            keyword: places(keyword.candidates),
            scale,
            terms: keyword.terms,
            postings: keyword.postings,
        }
    }

    /// The keyword list of the documents in `live`.
    fn words_among(&self, live: &[Option<&Bits>], depth: usize) -> words::Found {
        let views = zip_parts(self.view, live, |part, live| WordsView {
            words: &part.segment.words,
            counts: part.words_live(),
            live,
            ids: part.segment.payload.ids(),
        });
        words::search(self.settings.analyzer, &views, self.words, self.query.prefix, depth)
    }

    /// The best of the lists as the options want them.
    fn choose(&self, lists: &Lists) -> Vec<Ranked<Place>> {
        let options = &self.query.options;
        let mut ranked = answer::rank(&lists.semantic, &lists.keyword, &lists.scale);
        if let Some(recency) = &options.recency {
            ranked.iter_mut().for_each(|one| one.recency = recency.weight(self.row(one.id).metadata_json));
        }
        if options.min_score > 0.0 {
            self.complete(&mut ranked);
        }
        let document_id = |place| self.row(place).document_id;
        let vectors: HashMap<Place, Vec<f32>, foldhash::fast::FixedState> = match options.diversity {
            diversity if diversity > 0.0 => ranked.iter().map(|one| (one.id, self.vector(one.id))).collect(),
            _ => HashMap::default(),
        };
        let nearness = |left, right| kernels::dot(&vectors[&left], &vectors[&right]);
        answer::choose(ranked, self.query.top_k, options, &lists.scale, document_id, nearness)
    }

    /// Measures each candidate also as the list would that it is not in.
    fn complete(&self, ranked: &mut [Ranked<Place>]) {
        if self.query.mode != Mode::Hybrid {
            return;
        }
        if let Some(embedding) = self.embedding {
            for one in ranked.iter_mut().filter(|one| one.cosine.is_none()) {
                one.cosine = Some(self.vectors(one.id).score(one.id.doc, embedding));
            }
        }
        let missing: Vec<Place> = ranked.iter().filter(|one| one.keyword.is_none()).map(|one| one.id).collect();
        if missing.is_empty() {
            return;
        }
        let mut chosen: Vec<Bits> = self.view.parts.iter().map(|part| Bits::zeros(part.segment.len())).collect();
        missing.iter().for_each(|place| _ = chosen[place.segment as usize].set(place.doc, true));
        let chosen: Vec<Option<&Bits>> = chosen.iter().map(Some).collect();
        let found = places(self.words_among(&chosen, missing.len()).candidates);
        let found: HashMap<Place, f32, foldhash::fast::FixedState> = found.into_iter().collect();
        for one in ranked.iter_mut().filter(|one| one.keyword.is_none()) {
            one.keyword = Some(found.get(&one.id).copied().unwrap_or(0.0));
        }
    }

    fn hits(&self, lists: &Lists, mut chosen: Vec<Ranked<Place>>) -> Vec<Hit> {
        let query = self.query;
        self.complete(&mut chosen);
        let highlighter =
            query.options.highlight.then(|| Highlighter::new(self.settings.analyzer, self.words, query.prefix));
        let hit = |one: Ranked<Place>| Hit {
            segment: self.view.parts[one.id.segment as usize].segment.clone(),
            doc: one.id.doc,
            score: one.score(&lists.scale),
            before: Vec::new(),
            after: Vec::new(),
            highlights: highlighter.as_ref().map(|highlighter| highlighter.ranges(self.row(one.id).content)),
            explain: (query.explain)
                .then(|| one.explain(&lists.semantic, &lists.keyword, &query.options, &lists.scale)),
        };
        let mut hits: Vec<Hit> = chosen.into_iter().map(hit).collect();
        if query.options.expand > 0 {
            self.expand(&mut hits);
        }
        hits
    }

    /// Puts with each hit the chunks of its document that stand next to it and may be found.
    fn expand(&self, hits: &mut [Hit]) {
        let mut of_document: HashMap<Uuid, Vec<usize>> = HashMap::new();
        hits.iter().enumerate().for_each(|(at, hit)| of_document.entry(hit.row().document_id).or_default().push(at));
        let ordinals: Vec<u32> = hits.iter().map(|hit| hit.row().ordinal).collect();
        for (part, shown) in self.view.parts.iter().zip(self.shown) {
            let docs = part.segment.payload.chunks_of(|id| of_document.contains_key(&id));
            for doc in docs.into_iter().filter(|doc| shown.is_none_or(|shown| shown.get(*doc))) {
                let row = part.segment.payload.row(doc);
                for &at in &of_document[&row.document_id] {
                    let (distance, hit) = (row.ordinal.abs_diff(ordinals[at]), &mut hits[at]);
                    if (1..=self.query.options.expand).contains(&distance) {
                        let side = if row.ordinal < ordinals[at] { &mut hit.before } else { &mut hit.after };
                        side.push(Neighbour { segment: part.segment.clone(), doc });
                    }
                }
            }
        }
        for hit in hits {
            for side in [&mut hit.before, &mut hit.after] {
                side.sort_by_key(|neighbour| (neighbour.row().ordinal, neighbour.row().id));
            }
        }
    }

    fn row(&self, place: Place) -> Row<'_> {
        self.view.parts[place.segment as usize].segment.payload.row(place.doc)
    }

    fn vectors(&self, place: Place) -> &Vectors {
        &self.view.parts[place.segment as usize].segment.vectors
    }

    fn vector(&self, place: Place) -> Vec<f32> {
        let mut row = vec![0.0; self.settings.dimensions];
        self.vectors(place).read_row(place.doc, &mut row);
        row
    }
}

fn places(candidates: Vec<Candidate>) -> Vec<(Place, f32)> {
    let place = |Candidate { id, segment, doc, score }| (Place { id, segment, doc }, score);
    candidates.into_iter().map(place).collect()
}

/// The live documents of each part that pass `filter`.
fn kept_by(filter: &Filter, view: &View) -> Result<Vec<Bits>, SearchError> {
    for key in filter.keys() {
        if !is_known(key, view) {
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
    /// Of the documents in `kept`, all if `None`.
    fn of(conditions: Conditions, view: &View, kept: &[Option<&Bits>]) -> Self {
        let fitting = zip_parts(view, kept, |part, kept| conditions.fitting(&part.segment.words, kept));
        Self { fitting, conditions }
    }

    fn are_met(&mut self, view: &View, place: &Candidate) -> bool {
        let segment = &view.parts[place.segment as usize].segment;
        let fitting = &mut self.fitting[place.segment as usize];
        self.conditions.settle(fitting, place.doc, || segment.words_doc(place.doc))
    }
}

/// The best `k` documents of those in `kept`, all if `None`, that meet the demands. `find` gives as many as it is told to
/// of those it is given, best first.
///
/// Texts are looked at from the best document on, so that of many with the words of a phrase only so many are read as
/// come in. One that does not fit is left out and the next best are found, twice as many each time.
fn listed(
    view: &View,
    kept: &[Option<&Bits>],
    demands: Option<&mut Demands>,
    k: usize,
    mut find: impl FnMut(&[Option<&Bits>], usize) -> Vec<Candidate>,
) -> Vec<Candidate> {
    let Some(demands) = demands else { return find(kept, k) };
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

/// Whether a live chunk has the key; an empty index knows all keys.
fn is_known(key: &str, view: &View) -> bool {
    view.len == 0 || view.parts.iter().any(|part| part.segment.columns.has_key(key, part.live()))
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

/// For each part the live documents that the filter keeps; all if `None`.
pub(crate) fn live_of<'a>(view: &'a View, kept: Option<&'a [Bits]>) -> Vec<Option<&'a Bits>> {
    match kept {
        Some(kept) => kept.iter().map(Some).collect(),
        None => view.parts.iter().map(Part::live).collect(),
    }
}

pub(crate) fn vectors_of<'a>(view: &'a View, live: &[Option<&'a Bits>]) -> Vec<VectorsView<'a>> {
    zip_parts(view, live, |part, live| VectorsView {
        vectors: &part.segment.vectors,
        live,
        ids: part.segment.payload.ids(),
    })
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
