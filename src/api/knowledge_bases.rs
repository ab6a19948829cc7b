//! `/v1/knowledge-bases`: create, list, read, delete, search.

use std::{ops::Range, time::Duration};

use serde::{Deserialize, Serialize};
use tertulia_index::{Analyzer, CONDITIONS_MAX, Filter, Mode, Neighbour};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::lists;
use crate::{
    app::App,
    ctx::{Ctx, KnowledgeBaseId},
    error::Error,
    http::{Request, Response, json::raw as raw_json, respond},
    knowledge::{
        FallbackNeighbour,
        bases::BaseStatus,
        loaded::Readiness,
        search::{EXPAND_MAX, Found, QUERY_BYTES_MAX, RankedHit, RecencyRequest, SearchRequest, TOP_K_MAX},
    },
};

/// Longest name of a knowledge base, in characters.
const NAME_CHARS_MAX: usize = 200;
/// Hits of an answer if nothing is said.
const TOP_K_DEFAULT: usize = 5;
/// Half-lives that a search may have, in days: a minute and a half to a century.
const HALF_LIFE_DAYS: std::ops::RangeInclusive<f64> = 0.001..=36_500.0;

/// A knowledge base to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KnowledgeBaseDraft {
    /// Unique within the tenant, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// The language of its words, whose stems searches compare: `english`, `arabic`, `danish`, `dutch`, `finnish`, `french`,
    /// `german`, `greek`, `hungarian`, `italian`, `norwegian`, `portuguese`, `romanian`, `russian`, `spanish`, `swedish`,
    /// `tamil` or `turkish`; `simple` leaves words as they are, for other languages and for several. Never changes.
    #[serde(default)]
    #[schema(value_type = String, default = "english")]
    analyzer: Analyzer,
    /// What encodes its chunks: `static` (the default), or the model of `encoder.model`.
    encoder: Option<String>,
}

/// A knowledge base.
#[derive(Debug, Serialize, ToSchema)]
pub struct KnowledgeBaseView {
    id: Uuid,
    name: String,
    /// The language of its words, or `simple`.
    analyzer: &'static str,
    /// Grows with every transaction that changes its chunks; a search may ask for one by `min_version`.
    version: u64,
    /// Fingerprint of what encodes its chunks.
    encoder: String,
    dimensions: usize,
    documents: u64,
    chunks: u64,
    /// How far this instance has it in memory: `not_loaded` (nobody asked for it yet, or it was let go for others),
    /// `loading`, `does_not_fit` (into `retrieval.memory_bytes_max`), `error` (reading it failed, and is tried again) or
    /// `ready`.
    status: &'static str,
    /// `memory` or `postgres`: who answers a search now. Both give what was asked for.
    source: &'static str,
    /// The share of its chunks that is in memory, 0 to 1, while it is `loading`.
    progress: Option<f64>,
    /// Versions that this instance's memory is behind, if it answers from memory.
    lag: Option<u64>,
    /// Bytes of this instance's memory that it takes, or that are set aside for it.
    memory_bytes: usize,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<BaseStatus> for KnowledgeBaseView {
    fn from(base: BaseStatus) -> Self {
        Self {
            id: base.row.id.0,
            name: base.row.name,
            analyzer: base.row.analyzer.name(),
            version: base.row.version,
            encoder: base.row.encoder,
            dimensions: base.row.dimensions,
            documents: base.row.document_count,
            chunks: base.row.chunk_count,
            status: base.readiness.as_str(),
            source: if base.readiness == Readiness::Ready { "memory" } else { "postgres" },
            progress: base.progress,
            lag: base.lag,
            memory_bytes: base.memory_bytes,
            created_at: base.row.created_at,
        }
    }
}

/// `POST /v1/knowledge-bases`
pub async fn create_knowledge_base(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let draft: KnowledgeBaseDraft = req.json(&app.compute).await?;
    let name = draft.name.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        return Err(Error::invalid_field("name", format!("must have 1 to {NAME_CHARS_MAX} characters")));
    }
    let base = app.knowledge.create_base(ctx, name, draft.analyzer, draft.encoder.as_deref()).await?;
    respond::created(&KnowledgeBaseView::from(base))
}

/// `GET /v1/knowledge-bases`
pub async fn list_knowledge_bases(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let bases = app.knowledge.list_bases(ctx, &page).await?;
    lists::respond(&page, bases.map(KnowledgeBaseView::from))
}

/// `GET /v1/knowledge-bases/{knowledge_base_id}`
pub async fn get_knowledge_base(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let base = app.knowledge.find_base(ctx, knowledge_base_id(&req)?).await?;
    respond::ok(&KnowledgeBaseView::from(base))
}

/// `DELETE /v1/knowledge-bases/{knowledge_base_id}`
pub async fn delete_knowledge_base(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    app.knowledge.delete_base(ctx, knowledge_base_id(&req)?).await?;
    Ok(respond::no_content())
}

/// `POST /v1/knowledge-bases/{knowledge_base_id}/warm`
pub async fn warm_knowledge_base(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let base = app.knowledge.warm_base(ctx, knowledge_base_id(&req)?).await?;
    respond::ok(&KnowledgeBaseView::from(base))
}

/// A search.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchDraft {
    /// The question, 1 to 8,192 bytes. But in semantic mode, hits have each `"phrase in quotes"` and nothing that stands
    /// behind a dash: `-word`, `-"phrase"`; at most 32 of both.
    #[schema(min_length = 1, max_length = 8_192)]
    query: String,
    /// Hits wanted, 1 to 100; 5 if nothing is said.
    #[serde(default = "top_k_default")]
    #[schema(minimum = 1, maximum = 100, default = 5)]
    top_k: usize,
    /// Which lists are asked: words, meaning, or both.
    #[serde(default)]
    mode: ModeDraft,
    /// Whether the last word is still being typed: chunks with words that begin so are found by it, too.
    #[serde(default)]
    prefix: bool,
    /// Which chunks may be found: `{"type": "eq", "key": "lang", "value": "en"}`, compounds with `and`, `or`, `not`.
    #[schema(value_type = Option<Object>)]
    filter: Option<serde_json::Value>,
    /// The answer must hold everything up to this version, as a write returned it.
    min_version: Option<u64>,
    /// Hits of a lower score are left out, 0 to 1; better ones come in their place, if there are any.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1, default = 0)]
    min_score: f32,
    /// `document`: one hit a document, its best chunk.
    group_by: Option<GroupByDraft>,
    /// How much a hit must differ from those before it, 0 to 1: maximal marginal relevance.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1, default = 0)]
    diversity: f32,
    /// Makes what is older count for less.
    recency: Option<RecencyDraft>,
    /// How many chunks of the document are shown before and after each hit, 0 to 3.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 3, default = 0)]
    expand: u32,
    /// Whether to say where in each hit's content the question's words are.
    #[serde(default)]
    highlight: bool,
    /// Whether the server's reranker, a model that reads the question with each of the best hits, orders them.
    #[serde(default)]
    rerank: bool,
    /// Whether to say how each hit was found.
    #[serde(default)]
    explain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum GroupByDraft {
    Document,
}

/// How much older chunks count for less.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RecencyDraft {
    /// The metadata key that holds a chunk's time: an RFC 3339 date, or date and time, or seconds since 1970.
    key: String,
    /// The age at which a chunk counts half, 0.001 to 36,500 days.
    #[schema(minimum = 0.001, maximum = 36_500)]
    half_life_days: f64,
}

fn top_k_default() -> usize {
    TOP_K_DEFAULT
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ModeDraft {
    #[default]
    Hybrid,
    Semantic,
    Keyword,
}

/// The answer to a search.
#[derive(Debug, Serialize, ToSchema)]
pub struct SearchView<'a> {
    knowledge_base_id: Uuid,
    /// Everything up to this version was searched.
    version: u64,
    /// `memory` or `postgres`: who answered.
    source: &'static str,
    /// Time in the server from the parsed request to the ranked hits, in microseconds.
    took_us: u64,
    /// Time of the reranker in microseconds, if it was asked and answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    rerank_us: Option<u64>,
    /// Times per stage in microseconds, if memory answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    stages: Option<StagesView>,
    /// Why hits may be missing that should be there; absent if none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<PartialView>,
    /// Best first.
    results: Vec<HitView<'a>>,
    /// How the lists were made, with `explain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    explain: Option<serde_json::Value>,
}

/// Why an answer may lack hits that it should have.
#[derive(Debug, Serialize, ToSchema)]
struct PartialView {
    /// `encoder_timeout` or `encoder_unavailable`: a hybrid search that went by words alone. `approximate` or
    /// `candidate_limit`: Postgres answered, and found most of the nearest chunks, or may not have looked at enough of them.
    /// `rerank_timeout` or `rerank_unavailable`: hits come in the order of the search.
    reason: &'static str,
    /// What people read.
    detail: &'static str,
}

/// Times per stage, in microseconds.
#[derive(Debug, Serialize, ToSchema)]
struct StagesView {
    encode_us: u64,
    filter_us: u64,
    vectors_us: u64,
    words_us: u64,
    fuse_us: u64,
}

/// A ranked chunk.
#[derive(Debug, Serialize, ToSchema)]
struct HitView<'a> {
    chunk_id: Uuid,
    document_id: Uuid,
    external_id: &'a str,
    title: &'a str,
    source_url: Option<&'a str>,
    /// Headings that the chunk stands under, outermost first, joined by ` › `.
    heading: &'a str,
    ordinal: u32,
    content: &'a str,
    /// 0 to 1, higher is better, and comparable between questions.
    score: f32,
    /// What the reranker says, with `rerank`: higher is better, on the scale of its model.
    #[serde(skip_serializing_if = "Option::is_none")]
    rerank_score: Option<f32>,
    /// The document's metadata with the chunk's on top.
    #[serde(serialize_with = "raw_json")]
    #[schema(value_type = Object)]
    metadata: &'a str,
    /// Chunks of the document just before it, in order, with `expand`.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Vec<NeighbourView<'a>>>,
    /// Those just after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Vec<NeighbourView<'a>>>,
    /// Where in `content` the question's words are, with `highlight`: in order, apart from each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    highlights: Option<Vec<HighlightView>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    explain: Option<serde_json::Value>,
}

/// A chunk that stands next to a hit.
#[derive(Debug, Serialize, ToSchema)]
struct NeighbourView<'a> {
    chunk_id: Uuid,
    ordinal: u32,
    content: &'a str,
}

impl<'a> From<&'a Neighbour> for NeighbourView<'a> {
    fn from(neighbour: &'a Neighbour) -> Self {
        let tertulia_index::Row { id, ordinal, content, .. } = neighbour.row();
        Self { chunk_id: id, ordinal, content }
    }
}

impl<'a> From<&'a FallbackNeighbour> for NeighbourView<'a> {
    fn from(FallbackNeighbour { chunk_id, ordinal, content }: &'a FallbackNeighbour) -> Self {
        Self { chunk_id: *chunk_id, ordinal: *ordinal, content }
    }
}

/// A place in a text, in UTF-16 code units, as JavaScript's `content.slice(start, end)` takes them.
#[derive(Debug, Serialize, ToSchema)]
struct HighlightView {
    start: u32,
    /// Past the last one.
    end: u32,
}

fn highlight_views(ranges: Option<&Vec<Range<u32>>>) -> Option<Vec<HighlightView>> {
    let view = |range: &Range<u32>| HighlightView { start: range.start, end: range.end };
    ranges.map(|ranges| ranges.iter().map(view).collect())
}

/// `POST /v1/knowledge-bases/{knowledge_base_id}/search`
pub async fn search_knowledge_base(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let knowledge_base_id = knowledge_base_id(&req)?;
    let draft: SearchDraft = req.json(&app.compute).await?;
    let request = search_request(draft)?;
    let expands = request.expand > 0;
    let started = std::time::Instant::now();
    let found = app.knowledge.search(ctx, knowledge_base_id, request).await?;
    let took = started.elapsed();
    app.metrics.observe_search(source(&found), took);
    respond::ok(&search_view(knowledge_base_id, &found, expands, took.as_micros() as u64)?)
}

fn search_request(draft: SearchDraft) -> Result<SearchRequest, Error> {
    if draft.query.trim().is_empty() || draft.query.len() > QUERY_BYTES_MAX {
        return Err(Error::invalid_field(
            "query",
            format!("must have 1 to {QUERY_BYTES_MAX} bytes that are not all blank"),
        ));
    }
    if !(1..=TOP_K_MAX).contains(&draft.top_k) {
        return Err(Error::invalid_field("top_k", format!("must be 1 to {TOP_K_MAX}")));
    }
    for (field, value) in [("min_score", draft.min_score), ("diversity", draft.diversity)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Error::invalid_field(field, "must be 0 to 1"));
        }
    }
    if draft.expand > EXPAND_MAX {
        return Err(Error::invalid_field("expand", format!("must be 0 to {EXPAND_MAX}")));
    }
    let recency = draft.recency.map(recency_request).transpose()?;
    let filter = draft.filter.as_ref().map(read_filter).transpose()?;
    let mode = match draft.mode {
        ModeDraft::Hybrid => Mode::Hybrid,
        ModeDraft::Semantic => Mode::Semantic,
        ModeDraft::Keyword => Mode::Keyword,
    };
    let request = SearchRequest {
        query: draft.query,
        top_k: draft.top_k,
        mode,
        prefix: draft.prefix,
        filter,
        min_version: draft.min_version,
        min_score: draft.min_score,
        group_by_document: draft.group_by == Some(GroupByDraft::Document),
        diversity: draft.diversity,
        recency,
        expand: draft.expand,
        highlight: draft.highlight,
        rerank: draft.rerank,
        explain: draft.explain,
    };
    if request.question().conditions() > CONDITIONS_MAX {
        let told = format!("must have at most {CONDITIONS_MAX} phrases in quotes and exclusions");
        return Err(Error::invalid_field("query", told));
    }
    Ok(request)
}

/// The filter that the member `filter` of a body holds.
pub(super) fn read_filter(json: &serde_json::Value) -> Result<Filter, Error> {
    Filter::from_json(json).map_err(|error| {
        let place = if error.path.is_empty() { "filter".to_owned() } else { format!("filter.{}", error.path) };
        Error::invalid_field(place, error.message)
    })
}

fn recency_request(draft: RecencyDraft) -> Result<RecencyRequest, Error> {
    if !HALF_LIFE_DAYS.contains(&draft.half_life_days) {
        let (least, most) = (HALF_LIFE_DAYS.start(), HALF_LIFE_DAYS.end());
        return Err(Error::invalid_field("recency.half_life_days", format!("must be {least} to {most}")));
    }
    Ok(RecencyRequest { key: draft.key, half_life: Duration::from_secs_f64(draft.half_life_days * 86_400.0) })
}

fn source(found: &Found) -> &'static str {
    match found {
        Found::Memory { .. } => "memory",
        Found::Postgres(_) => "postgres",
    }
}

fn search_view(id: KnowledgeBaseId, found: &Found, expands: bool, took_us: u64) -> Result<SearchView<'_>, Error> {
    let in_json = |error: serde_json::Error| Error::Internal(error.into());
    let (version, stages, mut results, explain) = match found {
        Found::Memory { answer, .. } => {
            let us = |stage: std::time::Duration| stage.as_micros() as u64;
            let stages = StagesView {
                encode_us: us(answer.timings.encode),
                filter_us: us(answer.timings.filter),
                vectors_us: us(answer.timings.vectors),
                words_us: us(answer.timings.words),
                fuse_us: us(answer.timings.fuse),
            };
            let hit_view = |hit| -> Result<HitView<'_>, Error> {
                let hit: &tertulia_index::Hit = hit;
                let row = hit.row();
                Ok(HitView {
                    chunk_id: row.id,
                    document_id: row.document_id,
                    external_id: row.external_id,
                    title: row.title,
                    source_url: row.source_url,
                    heading: row.heading,
                    ordinal: row.ordinal,
                    content: row.content,
                    score: hit.score,
                    rerank_score: None,
                    metadata: row.metadata_json,
                    before: expands.then(|| hit.before.iter().map(NeighbourView::from).collect()),
                    after: expands.then(|| hit.after.iter().map(NeighbourView::from).collect()),
                    highlights: highlight_views(hit.highlights.as_ref()),
                    explain: hit.explain.as_ref().map(serde_json::to_value).transpose().map_err(in_json)?,
                })
            };
            let results = answer.hits.iter().map(hit_view).collect::<Result<Vec<_>, _>>()?;
            let explain = answer.explain.as_ref().map(serde_json::to_value).transpose().map_err(in_json)?;
            (answer.version, Some(stages), results, explain)
        }
        Found::Postgres(answer) => {
            let hit_view = |hit| -> Result<HitView<'_>, Error> {
                let hit: &RankedHit = hit;
                let chunk = &hit.chunk;
                Ok(HitView {
                    chunk_id: chunk.chunk_id,
                    document_id: chunk.document_id.0,
                    external_id: &chunk.external_id,
                    title: &chunk.title,
                    source_url: chunk.source_url.as_deref(),
                    heading: &chunk.heading,
                    ordinal: chunk.ordinal,
                    content: &chunk.content,
                    score: hit.score,
                    rerank_score: None,
                    metadata: &chunk.metadata_json,
                    before: expands.then(|| hit.before.iter().map(NeighbourView::from).collect()),
                    after: expands.then(|| hit.after.iter().map(NeighbourView::from).collect()),
                    highlights: highlight_views(hit.highlights.as_ref()),
                    explain: hit.explain.as_ref().map(serde_json::to_value).transpose().map_err(in_json)?,
                })
            };
            let results = answer.hits.iter().map(hit_view).collect::<Result<Vec<_>, _>>()?;
            let explain = answer.explain.as_ref().map(serde_json::to_value).transpose().map_err(in_json)?;
            (answer.version, None, results, explain)
        }
    };
    if let Some(reranked) = found.reranked() {
        for (hit, score) in results.iter_mut().zip(&reranked.scores) {
            hit.rerank_score = Some(*score);
        }
    }
    let partial = found.partial().map(|partial| PartialView { reason: partial.reason(), detail: partial.detail() });
    Ok(SearchView {
        knowledge_base_id: id.0,
        version,
        source: source(found),
        took_us,
        rerank_us: found.reranked().map(|reranked| reranked.took.as_micros() as u64),
        stages,
        partial,
        results,
        explain,
    })
}

/// The knowledge base that the path names.
pub(super) fn knowledge_base_id(req: &Request) -> Result<KnowledgeBaseId, Error> {
    // An id that is none names nothing that could be there.
    req.path_uuid("knowledge_base_id").map(KnowledgeBaseId).ok_or(Error::NotFound { what: "knowledge base" })
}

pub(super) mod docs_of {
    use super::{
        super::{
            lists,
            openapi::{Docs, Gives},
        },
        KnowledgeBaseDraft, KnowledgeBaseView, SearchDraft, SearchView,
    };
    use crate::error::Error;

    pub(in crate::api) fn create_knowledge_base() -> Docs {
        let gives = Gives::json::<KnowledgeBaseView>(201, "The knowledge base, still empty.");
        Docs::new("Create a knowledge base", gives)
            .about("Its chunks are encoded by the static encoder, or by the one that is named.")
            .takes_json::<KnowledgeBaseDraft>()
            .fails(Error::Conflict { detail: String::new() })
    }

    pub(in crate::api) fn list_knowledge_bases() -> Docs {
        let gives = Gives::page::<KnowledgeBaseView>("A page, newest first.");
        Docs::new("List knowledge bases", gives).query(lists::QUERY)
    }

    pub(in crate::api) fn get_knowledge_base() -> Docs {
        Docs::new("Read a knowledge base", Gives::json::<KnowledgeBaseView>(200, "The knowledge base."))
    }

    pub(in crate::api) fn delete_knowledge_base() -> Docs {
        Docs::new("Delete a knowledge base with its documents", Gives::nothing(204, "It is gone."))
    }

    pub(in crate::api) fn warm_knowledge_base() -> Docs {
        let gives = Gives::json::<KnowledgeBaseView>(200, "How far it is now; `status` is `ready` if memory answers.");
        Docs::new("Load a knowledge base into memory", gives)
            .about("As the first search does, but waits until it is loaded, for at most 20 seconds.")
    }

    pub(in crate::api) fn search_knowledge_base() -> Docs {
        let about = "By words, by meaning, or by both, fused. With `min_version`, as a write returned it, the answer holds \
                     that write.";
        let gives = Gives::json::<SearchView<'_>>(200, "The chunks that answer best, best first.");
        Docs::new("Search a knowledge base", gives)
            .about(about)
            .takes_json::<SearchDraft>()
            .fails(Error::Conflict { detail: String::new() })
    }
}
