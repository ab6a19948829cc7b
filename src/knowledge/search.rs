//! Search: the in-process index where it is loaded, Postgres where it is not. Same lists, same fusion, same filter.
//!
//! Invariant: an answer holds everything up to its `version`, which is at least the `min_version` asked for.

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tertulia_index::{
    Answer, Filter, Fusion, FusionExplain, Highlighter, HitExplain, Mode, Options, Query, Question, Recency,
    SearchError,
    answer::{self, Ranked, Scale},
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Base, BaseKey, Knowledge,
    encoders::{self, Encoder},
    endpoint::ServiceError,
    loaded::Readiness,
    rerank::Reranker,
};
use crate::{
    ctx::{Ctx, KnowledgeBaseId},
    error::Error,
    store::{
        self, TenantTx,
        knowledge_bases::KnowledgeBaseRow,
        search::{FallbackHit, FallbackNeighbour},
    },
    watch,
};

/// Longest question, in bytes: ten times a long one, and short enough to encode in well under a millisecond.
pub const QUERY_BYTES_MAX: usize = 8_192;
/// Most hits of one answer.
pub const TOP_K_MAX: usize = 100;
/// Up to this many bytes of vectors a search stays on its shard's thread; a longer scan would hold up other sockets.
const INLINE_SCAN_BYTES_MAX: usize = 24 << 20;
/// Up to this many looks at a chunk for a comparison of a filter a search stays on its shard's thread, at about 1 ns each.
const INLINE_COMPARISONS_MAX: usize = 512 << 10;
/// Up to this many chunks a search with options stays on its shard's thread: whatever they ask, it looks at few.
const INLINE_OPTIONS_CHUNKS_MAX: usize = 4_096;
/// Most chunks neighbours are shown of on each side of a hit.
pub const EXPAND_MAX: u32 = 3;
/// Longest list that Postgres is asked for: with texts, a few MiB. As long as the longest that diversity and recency want.
const FALLBACK_LIST_LEN_MAX: usize = 1_000;
/// Knowledge bases of more chunks are searched by Postgres through an index that does not find all; see
/// `tertulia_nearest_chunks`.
const FALLBACK_EXACT_CHUNKS_MAX: u64 = 10_000;
/// What makes `ts_rank` a share of the question as BM25 gives it: a word that stands once in the text has 0.18 of its weight
/// there and 0.45 here.
const TS_RANK_FACTOR: f32 = 2.5;

/// What to look for.
#[derive(Debug)]
pub struct SearchRequest {
    /// The question.
    pub query: String,
    /// Hits wanted, 1 to [`TOP_K_MAX`].
    pub top_k: usize,
    /// Which lists to ask.
    pub mode: Mode,
    /// Whether the last word is still being typed.
    pub prefix: bool,
    /// Which chunks may be found.
    pub filter: Option<Filter>,
    /// The answer must hold everything up to this version.
    pub min_version: Option<u64>,
    /// Hits of a lower score are left out, 0 to 1.
    pub min_score: f32,
    /// One hit a document.
    pub group_by_document: bool,
    /// How much a hit must differ from those before it, 0 to 1.
    pub diversity: f32,
    /// Whether what is older counts for less.
    pub recency: Option<RecencyRequest>,
    /// How many chunks before and after each hit are shown, 0 to [`EXPAND_MAX`].
    pub expand: u32,
    /// Whether to say where in the texts the question's words are.
    pub highlight: bool,
    /// Whether the reranker orders the hits.
    pub rerank: bool,
    /// Whether to say how each hit was found.
    pub explain: bool,
}

/// How much older chunks count for less.
#[derive(Debug)]
pub struct RecencyRequest {
    /// The metadata key that holds a chunk's time.
    pub key: String,
    /// The age at which it counts half. Above 0.
    pub half_life: Duration,
}

impl SearchRequest {
    /// The question in the language that the mode has for it.
    pub fn question(&self) -> Question<'_> {
        match self.mode {
            Mode::Semantic => Question::plain(&self.query),
            Mode::Keyword | Mode::Hybrid => Question::parse(&self.query),
        }
    }

    fn options(&self) -> Options<'_> {
        Options {
            min_score: self.min_score,
            group_by_document: self.group_by_document,
            diversity: self.diversity,
            recency: self.recency.as_ref().map(|recency| Recency {
                key: &recency.key,
                half_life: recency.half_life,
                now: OffsetDateTime::now_utc().unix_timestamp_nanos() as f64 / 1e9,
            }),
            expand: self.expand,
            highlight: self.highlight,
        }
    }
}

/// Ranked chunks, best first, by the source that found them.
pub enum Found {
    /// By the in-process index.
    Memory {
        /// What was found.
        answer: Answer,
        /// Why it is not complete, if it is not.
        partial: Option<Partial>,
        /// What the reranker says, if it was asked and answered.
        reranked: Option<Reranked>,
    },
    /// By Postgres, because the index is not loaded or not far enough.
    Postgres(FallbackAnswer),
}

/// What Postgres found.
#[derive(Debug)]
pub struct FallbackAnswer {
    /// Everything up to here was seen.
    pub version: u64,
    /// Best first.
    pub hits: Vec<RankedHit>,
    /// Why hits may be missing, if they may.
    pub partial: Option<Partial>,
    /// What the reranker says, if it was asked and answered.
    pub reranked: Option<Reranked>,
    /// How the lists were made, if it was asked.
    pub explain: Option<FallbackExplain>,
}

/// What a reranker says of hits.
#[derive(Debug, Clone, PartialEq)]
pub struct Reranked {
    /// For each hit, falling, on the model's own scale.
    pub scores: Vec<f32>,
    /// How long it took.
    pub took: Duration,
}

/// A chunk that Postgres found, as [`tertulia_index::Hit`] is one of the index.
#[derive(Debug)]
pub struct RankedHit {
    /// The chunk.
    pub chunk: FallbackHit,
    /// 0 to 1, higher is better.
    pub score: f32,
    /// Chunks of the document just before it, in order, if they were asked for and may be found.
    pub before: Vec<FallbackNeighbour>,
    /// Those just after it.
    pub after: Vec<FallbackNeighbour>,
    /// Where in the content the question's words are, in UTF-16 code units, if it was asked.
    pub highlights: Option<Vec<Range<u32>>>,
    /// How it was found, if it was asked.
    pub explain: Option<HitExplain>,
}

/// How Postgres made its lists.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FallbackExplain {
    /// Which lists were asked.
    pub mode: Mode,
    /// How they became one, in [`Mode::Hybrid`].
    pub fusion: Option<FusionExplain>,
    /// Chunks of the knowledge base.
    pub chunks: u64,
    /// How often lists were made, each time longer, until they held enough.
    pub rounds: usize,
    /// The semantic list, if it was asked.
    pub semantic: Option<FallbackListExplain>,
    /// The keyword list, if it was asked.
    pub keyword: Option<FallbackListExplain>,
}

/// How Postgres made a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FallbackListExplain {
    /// Chunks in the list.
    pub listed: usize,
}

impl Found {
    /// Why hits may be missing, if they may.
    pub fn partial(&self) -> Option<Partial> {
        match self {
            Self::Memory { partial, .. } => *partial,
            Self::Postgres(answer) => answer.partial,
        }
    }

    /// What the reranker says of the hits, if it was asked and answered.
    pub fn reranked(&self) -> Option<&Reranked> {
        match self {
            Self::Memory { reranked, .. } => reranked.as_ref(),
            Self::Postgres(answer) => answer.reranked.as_ref(),
        }
    }
}

/// Why an answer may lack hits that it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partial {
    /// The encoder took longer than `encoder.query_timeout` for the question, so a hybrid search went by words alone.
    EncoderTimeout,
    /// The encoder did not answer as it should, so a hybrid search went by words alone.
    EncoderUnavailable,
    /// Fewer hits than asked for were good enough, or of different documents, among the longest lists that Postgres is
    /// asked for; there may be more.
    CandidateLimit,
    /// Postgres looked for the nearest vectors through an index that finds most of them.
    Approximate,
    /// The reranker took longer than `rerank.timeout`, so hits come in the order of the search.
    RerankTimeout,
    /// The reranker did not answer as it should, so hits come in the order of the search.
    RerankUnavailable,
}

impl Partial {
    /// The word for it in JSON.
    pub fn reason(self) -> &'static str {
        match self {
            Self::EncoderTimeout => "encoder_timeout",
            Self::EncoderUnavailable => "encoder_unavailable",
            Self::CandidateLimit => "candidate_limit",
            Self::Approximate => "approximate",
            Self::RerankTimeout => "rerank_timeout",
            Self::RerankUnavailable => "rerank_unavailable",
        }
    }

    /// What people read.
    pub fn detail(self) -> &'static str {
        match self {
            Self::EncoderTimeout => {
                "The encoder took too long for the question, so it was searched by its words alone."
            }
            Self::EncoderUnavailable => "The encoder does not answer as it should, so it was searched by words alone.",
            Self::CandidateLimit => {
                "The knowledge base is not in memory, and the best 1,000 chunks of each list did not have enough hits."
            }
            Self::Approximate => {
                "The knowledge base is not in memory, and so large that Postgres finds most of the nearest chunks, not all."
            }
            Self::RerankTimeout => "The reranker took too long; the hits are in the order of the search.",
            Self::RerankUnavailable => {
                "The reranker does not answer as it should; the hits are in the order of the search."
            }
        }
    }
}

/// A question as the lists take it.
struct Encoded {
    /// Which lists to ask: fewer than was asked for if the answer is partial.
    mode: Mode,
    /// There unless the mode is `keyword`.
    embedding: Option<Vec<f32>>,
    encoded_in: Duration,
    partial: Option<Partial>,
}

impl Knowledge {
    /// The chunks that answer `request` best.
    ///
    /// # Errors
    /// `NotFound` for a knowledge base that the tenant does not have; `Invalid` for a filter key that no chunk has, or a
    /// `min_version` that was never written; `Conflict` if it is encoded by an encoder that this server has not and the mode
    /// needs vectors; `Unavailable` in semantic mode if the encoder is a service that does not answer in time.
    pub async fn search(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        mut request: SearchRequest,
    ) -> Result<Found, Error> {
        if !request.rerank {
            return self.search_as_asked(ctx, knowledge_base_id, request).await;
        }
        let Some(reranker) = &self.reranker else {
            return Err(Error::invalid_field("rerank", "this server has no reranker (rerank.url)"));
        };
        let (words, top_k) = (request.question().words().to_owned(), request.top_k);
        request.top_k = top_k.max(reranker.candidates());
        Ok(match self.search_as_asked(ctx, knowledge_base_id, request).await? {
            Found::Memory { mut answer, partial, .. } => {
                let text = |hit: &tertulia_index::Hit| {
                    let tertulia_index::Row { heading, content, .. } = hit.row();
                    encoders::text_of(heading, content)
                };
                let outcome = rerank(reranker, &words, top_k, &mut answer.hits, text).await;
                Found::Memory { answer, partial: partial.or(outcome.as_ref().err().copied()), reranked: outcome.ok() }
            }
            Found::Postgres(mut answer) => {
                let text = |hit: &RankedHit| encoders::text_of(&hit.chunk.heading, &hit.chunk.content);
                let outcome = rerank(reranker, &words, top_k, &mut answer.hits, text).await;
                let partial = answer.partial.or(outcome.as_ref().err().copied());
                Found::Postgres(FallbackAnswer { partial, reranked: outcome.ok(), ..answer })
            }
        })
    }

    async fn search_as_asked(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        request: SearchRequest,
    ) -> Result<Found, Error> {
        let key = BaseKey::of(ctx, knowledge_base_id);
        // Only an index that is there is worth waiting for; Postgres answers at once.
        if let Some(base) = self.loaded.find(key)
            && base.readiness() == Readiness::Ready
            && self.is_far_enough(&base, request.min_version).await
            && let Some(index) = base.index()
        {
            base.note_search();
            return self.search_memory(key, index, request).await;
        }
        self.search_postgres(ctx, knowledge_base_id, request).await
    }

    async fn is_far_enough(&self, base: &Base, min_version: Option<u64>) -> bool {
        let Some(wanted) = min_version.filter(|wanted| *wanted > base.version()) else {
            return true;
        };
        base.wake(0);
        base.reached(wanted, self.config.min_version_wait).await
    }

    async fn search_memory(
        &self,
        key: BaseKey,
        index: Arc<tertulia_index::Index>,
        request: SearchRequest,
    ) -> Result<Found, Error> {
        let question = self.encode(&request, &index.settings().encoder).await?;
        let (partial, encoded_in) = (question.partial, question.encoded_in);
        let comparisons = request.filter.as_ref().map_or(0, Filter::comparisons);
        let has_options = request.options() != Options::default();
        let inline = index.len() * index.settings().dimensions <= INLINE_SCAN_BYTES_MAX
            && index.len() * comparisons <= INLINE_COMPARISONS_MAX
            && (!has_options || index.len() <= INLINE_OPTIONS_CHUNKS_MAX)
            // For phrases, texts are read again.
            && request.question().conditions() == 0;
        if let Some(embedding) = &question.embedding {
            self.recall().sample(key, &index, embedding, request.filter.as_ref());
        }
        let search = move || {
            let query = Query {
                text: &request.query,
                embedding: question.embedding.as_deref(),
                top_k: request.top_k,
                mode: question.mode,
                prefix: request.prefix,
                filter: request.filter.as_ref(),
                fusion: Fusion::default(),
                options: request.options(),
                explain: request.explain,
            };
            index.search(&query).map(|answer| with_encoding(answer, encoded_in))
        };
        let outcome = if inline { search() } else { self.compute.run(search).await? };
        let answer = outcome.map_err(search_error)?;
        Ok(Found::Memory { answer, partial, reranked: None })
    }

    /// The vector of the question, where the mode needs one, by the encoder of that fingerprint.
    async fn encode(&self, request: &SearchRequest, fingerprint: &str) -> Result<Encoded, Error> {
        if request.mode == Mode::Keyword {
            return Ok(Encoded { mode: Mode::Keyword, embedding: None, encoded_in: Duration::ZERO, partial: None });
        }
        let encoder = self.encoders.of(fingerprint)?;
        let started = Instant::now();
        let encoded = encoder.encode_query(request.question().words()).await;
        let encoded_in = started.elapsed();
        match encoded {
            Ok(embedding) => Ok(Encoded { mode: request.mode, embedding: Some(embedding), encoded_in, partial: None }),
            Err(error) if request.mode == Mode::Hybrid => {
                let partial = match error {
                    ServiceError::Timeout(_) => Partial::EncoderTimeout,
                    _ => Partial::EncoderUnavailable,
                };
                tracing::warn!(
                    error = format!("{:#}", anyhow::Error::new(error)),
                    "question not encoded; searching by words alone"
                );
                Ok(Encoded { mode: Mode::Keyword, embedding: None, encoded_in, partial: Some(partial) })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn search_postgres(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        request: SearchRequest,
    ) -> Result<Found, Error> {
        let mut asked: Option<(Encoded, String)> = None;
        // The version, both lists and what they show are of one moment, as an answer from memory is.
        let (mut tx, base, question) = loop {
            let mut tx = self.store.tenant_snapshot(ctx).await?;
            let base = store::knowledge_bases::find(&mut tx, knowledge_base_id)
                .await?
                .ok_or(Error::NotFound { what: "knowledge base" })?;
            match asked.take() {
                Some((question, encoder)) if encoder == base.encoder => break (tx, base, question),
                _ if self.is_encoded_here(request.mode, &base.encoder) => {
                    let question = self.encode(&request, &base.encoder).await?;
                    break (tx, base, question);
                }
                // A service takes its time, through which no connection is held. The knowledge base may have got another
                // encoder by then.
                _ => {
                    tx.commit().await?;
                    asked = Some((self.encode(&request, &base.encoder).await?, base.encoder));
                }
            }
        };
        if let Some(wanted) = request.min_version.filter(|wanted| *wanted > base.version) {
            let told = format!("{wanted} was never written; the newest version is {}", base.version);
            return Err(Error::invalid_field("min_version", told));
        }
        self.load_in_background(BaseKey::of(ctx, knowledge_base_id), base.version);
        if let Some(filter) = &request.filter
            && let Some(unknown) = store::search::find_unknown_key(&mut tx, &base, &filter.keys()).await?
        {
            return Err(search_error(SearchError::UnknownKey { key: unknown.key, known: unknown.known }));
        }
        if let Some(recency) = &request.recency
            && let Some(unknown) = store::search::find_unknown_key(&mut tx, &base, &[&recency.key]).await?
        {
            return Err(search_error(SearchError::UnknownRecencyKey { key: unknown.key, known: unknown.known }));
        }
        let fallback = Fallback {
            knowledge: self,
            base: &base,
            filter: request.filter.as_ref().map(Filter::to_json),
            scale: Scale { mode: question.mode, fusion: Fusion::default(), keyword_ceiling: 1.0 },
            request: Arc::new(request),
            question,
        };
        let mut found = fallback.search(&mut tx).await?;
        fallback.expand(&mut tx, &mut found.hits).await?;
        tx.commit().await?;
        fallback.highlight(found).await.map(Found::Postgres)
    }

    /// Whether the question's vector, if the mode needs one, takes no time to speak of.
    fn is_encoded_here(&self, mode: Mode, fingerprint: &str) -> bool {
        mode == Mode::Keyword || !matches!(self.encoders.of(fingerprint), Ok(Encoder::Service(_)))
    }
}

/// A search as Postgres is asked it.
struct Fallback<'a> {
    knowledge: &'a Knowledge,
    base: &'a KnowledgeBaseRow,
    request: Arc<SearchRequest>,
    filter: Option<serde_json::Value>,
    question: Encoded,
    scale: Scale,
}

/// A list of Postgres, best first, with its measure from 0 to 1.
type List = Vec<(Uuid, f32)>;

impl Fallback<'_> {
    /// Which lists are asked: fewer than was asked for if there is no embedding.
    fn mode(&self) -> Mode {
        self.question.mode
    }

    /// The same as the index does with its lists, which become longer until they hold enough hits or are as long as they
    /// may be.
    async fn search(&self, tx: &mut TenantTx) -> Result<FallbackAnswer, Error> {
        let request = &*self.request;
        let options = request.options();
        let mut depth = options.depth(self.mode(), request.top_k).min(FALLBACK_LIST_LEN_MAX);
        let mut rounds = 0;
        let (mut rows, lists, mut chosen, is_whole) = loop {
            rounds += 1;
            let mut rows: HashMap<Uuid, FallbackHit> = HashMap::new();
            // At most five rounds, each four times as deep: no loop over rows.
            let lists = watch::batch(self.lists(tx, depth, &mut rows)).await?;
            let mut ranked = answer::rank(&lists.0, &lists.1, &self.scale);
            if let Some(recency) = &options.recency {
                for one in &mut ranked {
                    one.recency = rows.get(&one.id).map_or(1.0, |row| recency.weight(&row.metadata_json));
                }
            }
            let vectors = if options.min_score > 0.0 || options.diversity > 0.0 {
                self.complete(tx, &mut ranked, options.diversity > 0.0).await?
            } else {
                HashMap::new()
            };
            let documents = rows.values().map(|row| (row.chunk_id, row.document_id.0)).collect();
            let chosen = self.choose(ranked, documents, vectors).await?;
            let reach = answer::reach(&lists.0, &lists.1, depth, &self.scale);
            let is_whole = chosen.len() >= request.top_k || reach.is_none_or(|reach| reach < options.min_score);
            if is_whole || depth >= FALLBACK_LIST_LEN_MAX {
                break (rows, lists, chosen, is_whole);
            }
            depth = Options::deeper(depth).min(FALLBACK_LIST_LEN_MAX);
        };
        self.complete(tx, &mut chosen, false).await?;

        let is_approximate = self.question.embedding.is_some() && self.base.chunk_count > FALLBACK_EXACT_CHUNKS_MAX;
        let hit = |one: Ranked<Uuid>| {
            let chunk = rows.remove(&one.id)?;
            let (score, explain) = (
                one.score(&self.scale),
                request.explain.then(|| one.explain(&lists.0, &lists.1, &options, &self.scale)),
            );
            Some(RankedHit { chunk, score, before: Vec::new(), after: Vec::new(), highlights: None, explain })
        };
        let listed = |list: &List| FallbackListExplain { listed: list.len() };
        Ok(FallbackAnswer {
            version: self.base.version,
            hits: chosen.into_iter().filter_map(hit).collect(),
            partial: match (self.question.partial, is_whole, is_approximate) {
                (Some(partial), ..) => Some(partial),
                (None, false, _) => Some(Partial::CandidateLimit),
                (None, true, true) => Some(Partial::Approximate),
                (None, true, false) => None,
            },
            reranked: None,
            explain: request.explain.then(|| FallbackExplain {
                mode: self.mode(),
                fusion: (self.mode() == Mode::Hybrid).then(|| self.scale.fusion.into()),
                chunks: self.base.chunk_count,
                rounds,
                semantic: (self.mode() != Mode::Keyword).then(|| listed(&lists.0)),
                keyword: (self.mode() != Mode::Semantic).then(|| listed(&lists.1)),
            }),
        })
    }

    /// The semantic and the keyword list, up to `depth` long, and what they found in `rows`.
    async fn lists(
        &self,
        tx: &mut TenantTx,
        depth: usize,
        rows: &mut HashMap<Uuid, FallbackHit>,
    ) -> Result<(List, List), Error> {
        let (base, request, filter) = (self.base, &*self.request, self.filter.as_ref());
        let words = request.question();
        if words.only_excludes() {
            return Ok((List::new(), List::new()));
        }
        let semantic = match &self.question.embedding {
            Some(embedding) => store::search::semantic(tx, base, embedding, &words, filter, depth).await?,
            None => Vec::new(),
        };
        let keyword = match self.mode() {
            Mode::Semantic => Vec::new(),
            _ => store::search::keyword(tx, base, &words, request.prefix, filter, depth).await?,
        };
        let lists = (
            semantic.iter().map(|hit| (hit.chunk_id, hit.score)).collect(),
            keyword.iter().map(|hit| (hit.chunk_id, coverage(hit.score))).collect(),
        );
        rows.extend(semantic.into_iter().chain(keyword).map(|hit| (hit.chunk_id, hit)));
        Ok(lists)
    }

    /// Measures each candidate also as the list would that it is not in; gives embeddings of all of them if they are needed.
    async fn complete(
        &self,
        tx: &mut TenantTx,
        ranked: &mut [Ranked<Uuid>],
        with_embeddings: bool,
    ) -> Result<HashMap<Uuid, Vec<f32>>, Error> {
        let is_hybrid = self.mode() == Mode::Hybrid;
        let lacks =
            |one: &&Ranked<Uuid>| with_embeddings || is_hybrid && (one.cosine.is_none() || one.keyword.is_none());
        let ids: Vec<Uuid> = ranked.iter().filter(lacks).map(|one| one.id).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let (embedding, words) = (self.question.embedding.as_deref(), self.request.question());
        let (base, is_prefix) = (self.base, self.request.prefix);
        let measures = store::search::measures(tx, base, &ids, embedding, &words, is_prefix, with_embeddings).await?;
        let mut measures: HashMap<_, _> = measures.into_iter().map(|found| (found.chunk_id, found)).collect();
        let mut embeddings = HashMap::new();
        for one in ranked {
            let Some(found) = measures.remove(&one.id) else { continue };
            if is_hybrid {
                one.cosine.get_or_insert(found.similarity);
                one.keyword.get_or_insert(coverage(found.rank));
            }
            embeddings.extend(found.embedding.map(|embedding| (one.id, embedding)));
        }
        Ok(embeddings)
    }

    async fn choose(
        &self,
        ranked: Vec<Ranked<Uuid>>,
        documents: HashMap<Uuid, Uuid>,
        vectors: HashMap<Uuid, Vec<f32>>,
    ) -> Result<Vec<Ranked<Uuid>>, Error> {
        let (request, scale) = (self.request.clone(), self.scale);
        let choose = move || {
            let document_id = |id| documents.get(&id).copied().unwrap_or(id);
            let nearness = |left, right| match (vectors.get(&left), vectors.get(&right)) {
                (Some(left), Some(right)) => answer::cosine(left, right),
                _ => 0.0,
            };
            answer::choose(ranked, request.top_k, &request.options(), &scale, document_id, nearness)
        };
        if self.request.diversity > 0.0 { self.knowledge.compute.run(choose).await } else { Ok(choose()) }
    }

    async fn expand(&self, tx: &mut TenantTx, hits: &mut [RankedHit]) -> Result<(), Error> {
        if self.request.expand == 0 || hits.is_empty() {
            return Ok(());
        }
        let chunks: Vec<&FallbackHit> = hits.iter().map(|hit| &hit.chunk).collect();
        let filter = self.filter.as_ref();
        let neighbours = store::search::neighbours(tx, self.base, &chunks, filter, self.request.expand).await?;
        for (hit, neighbours) in hits.iter_mut().zip(neighbours) {
            let ordinal = hit.chunk.ordinal;
            (hit.before, hit.after) = neighbours.into_iter().partition(|neighbour| neighbour.ordinal < ordinal);
        }
        Ok(())
    }

    async fn highlight(&self, mut found: FallbackAnswer) -> Result<FallbackAnswer, Error> {
        if !self.request.highlight {
            return Ok(found);
        }
        let (request, analyzer) = (self.request.clone(), self.base.analyzer);
        let highlight = move || {
            let highlighter = Highlighter::new(analyzer, request.question().words(), request.prefix);
            for hit in &mut found.hits {
                hit.highlights = Some(highlighter.ranges(&hit.chunk.content));
            }
            found
        };
        self.knowledge.compute.run(highlight).await
    }
}

/// How much of the question a chunk covers, 0 to 1, by its rank of full text divided by one more than it.
fn coverage(score: f32) -> f32 {
    if score < 1.0 { (TS_RANK_FACTOR * score / (1.0 - score)).clamp(0.0, 1.0) } else { 1.0 }
}

/// Leaves the `top_k` of `hits` that the reranker finds best, in its order, ties in that of the search; if it fails, the
/// first ones.
async fn rerank<H>(
    reranker: &Reranker,
    question: &str,
    top_k: usize,
    hits: &mut Vec<H>,
    text: impl Fn(&H) -> String,
) -> Result<Reranked, Partial> {
    if hits.is_empty() {
        return Ok(Reranked { scores: Vec::new(), took: Duration::ZERO });
    }
    let started = Instant::now();
    let texts: Vec<String> = hits.iter().map(text).collect();
    let scores = match reranker.scores(question, &texts).await {
        Ok(scores) => scores,
        Err(error) => {
            hits.truncate(top_k);
            let partial = match error {
                ServiceError::Timeout(_) => Partial::RerankTimeout,
                _ => Partial::RerankUnavailable,
            };
            tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "hits not reranked");
            return Err(partial);
        }
    };
    let mut scored: Vec<(f32, H)> = scores.into_iter().zip(hits.drain(..)).collect();
    scored.sort_by(|(left, _), (right, _)| right.total_cmp(left));
    scored.truncate(top_k);
    let (scores, best) = scored.into_iter().unzip();
    *hits = best;
    Ok(Reranked { scores, took: started.elapsed() })
}

fn with_encoding(mut answer: Answer, encoded_in: Duration) -> Answer {
    answer.timings.encode = encoded_in;
    answer
}

fn search_error(error: SearchError) -> Error {
    match error {
        SearchError::UnknownKey { .. } => Error::invalid_field("filter", error.to_string()),
        SearchError::UnknownRecencyKey { .. } => Error::invalid_field("recency.key", error.to_string()),
        other => Error::Internal(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_of_full_text_becomes_a_share_of_the_question() {
        let of_rank = |rank: f32| coverage(rank / (rank + 1.0));
        assert_eq!(of_rank(0.0), 0.0);
        // A word of the question that stands once in the text, by the formula of `ts_rank`; and in headings, many times.
        assert!((of_rank(0.3 / 1.644_934) - 0.456).abs() < 1e-3);
        assert!((of_rank(0.3) - 0.75).abs() < 1e-6);
        assert_eq!((of_rank(0.6), coverage(1.0), coverage(0.5)), (1.0, 1.0, 1.0));
    }
}
