//! Search: the in-process index where it is loaded, Postgres where it is not. Same lists, same fusion, same filter.
//!
//! Invariant: an answer holds everything up to its `version`, which is at least the `min_version` asked for.

use std::time::{Duration, Instant};

use tertulia_index::{Answer, Filter, Fusion, LIST_LEN_MIN, Mode, Query, Question, SearchError, fuse};

use super::{Base, BaseKey, Knowledge, loaded::Readiness};
use crate::{
    ctx::{Ctx, KnowledgeBaseId},
    error::Error,
    store::{self, search::FallbackHit},
};

/// Longest question, in bytes: ten times a long one, and short enough to encode in well under a millisecond.
pub const QUERY_BYTES_MAX: usize = 8_192;
/// Most hits of one answer.
pub const TOP_K_MAX: usize = 100;
/// Up to this many bytes of vectors a search stays on its shard's thread; a longer scan would hold up other sockets.
const INLINE_SCAN_BYTES_MAX: usize = 24 << 20;
/// Up to this many looks at a chunk for a comparison of a filter a search stays on its shard's thread, at about 1 ns each.
const INLINE_COMPARISONS_MAX: usize = 512 << 10;

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
    /// Whether to say how each hit was found.
    pub explain: bool,
}

impl SearchRequest {
    /// The question in the language that the mode has for it.
    pub fn question(&self) -> Question<'_> {
        match self.mode {
            Mode::Semantic => Question::plain(&self.query),
            Mode::Keyword | Mode::Hybrid => Question::parse(&self.query),
        }
    }
}

/// Ranked chunks, best first, by the source that found them.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it for an answer, and the larger variant is the usual one"
)]
pub enum Found {
    /// By the in-process index.
    Memory(Answer),
    /// By Postgres, because the index is not loaded or not far enough.
    Postgres {
        /// What was found.
        hits: Vec<FallbackHit>,
        /// Everything up to here was seen.
        version: u64,
    },
}

impl Knowledge {
    /// The chunks that answer `request` best.
    ///
    /// # Errors
    /// `NotFound` for a knowledge base that the tenant does not have; `Invalid` for a filter key that no chunk has, or a
    /// `min_version` that was never written; `Conflict` if it was encoded by another encoder and the mode needs vectors.
    pub async fn search(
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
            return self.search_memory(index, request).await.map(Found::Memory);
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
        index: std::sync::Arc<tertulia_index::Index>,
        request: SearchRequest,
    ) -> Result<Answer, Error> {
        if request.mode != Mode::Keyword {
            self.same_encoder(&index.settings().encoder)?;
        }
        let encoder = self.encoder.clone();
        let comparisons = request.filter.as_ref().map_or(0, Filter::comparisons);
        let inline = index.len() * index.settings().dimensions <= INLINE_SCAN_BYTES_MAX
            && index.len() * comparisons <= INLINE_COMPARISONS_MAX
            // For phrases, texts are read again.
            && request.question().conditions() == 0;
        let search = move || {
            let started = Instant::now();
            let embedding = (request.mode != Mode::Keyword).then(|| encoder.encode_query(request.question().words()));
            let encoded_in = started.elapsed();
            let query = Query {
                text: &request.query,
                embedding: embedding.as_deref(),
                top_k: request.top_k,
                mode: request.mode,
                prefix: request.prefix,
                filter: request.filter.as_ref(),
                fusion: Fusion::default(),
                explain: request.explain,
            };
            index.search(&query).map(|answer| with_encoding(answer, encoded_in))
        };
        let outcome = if inline { search() } else { self.compute.run(search).await? };
        outcome.map_err(search_error)
    }

    async fn search_postgres(
        &self,
        ctx: &Ctx,
        knowledge_base_id: KnowledgeBaseId,
        request: SearchRequest,
    ) -> Result<Found, Error> {
        // The version, both lists and what they show are of one moment, as an answer from memory is.
        let mut tx = self.store.tenant_snapshot(ctx).await?;
        let base = store::knowledge_bases::find(&mut tx, knowledge_base_id)
            .await?
            .ok_or(Error::NotFound { what: "knowledge base" })?;
        if let Some(wanted) = request.min_version.filter(|wanted| *wanted > base.version) {
            let told = format!("{wanted} was never written; the newest version is {}", base.version);
            return Err(Error::invalid_field("min_version", told));
        }
        if request.mode != Mode::Keyword {
            self.same_encoder(&base.encoder)?;
        }
        self.load_in_background(BaseKey::of(ctx, knowledge_base_id), base.version);
        if let Some(filter) = &request.filter
            && let Some(unknown) = store::search::find_unknown_key(&mut tx, &base, &filter.keys()).await?
        {
            return Err(search_error(SearchError::UnknownKey { key: unknown.key, known: unknown.known }));
        }
        let limit = match request.mode {
            Mode::Hybrid => (2 * request.top_k).max(LIST_LEN_MIN),
            Mode::Semantic | Mode::Keyword => request.top_k,
        };
        let filter = request.filter.as_ref().map(Filter::to_json);
        let question = request.question();
        let semantic = match request.mode {
            _ if question.only_excludes() => Vec::new(),
            Mode::Keyword => Vec::new(),
            _ => {
                let embedding = self.encoder.encode_query(question.words());
                store::search::semantic(&mut tx, &base, &embedding, &question, filter.as_ref(), limit).await?
            }
        };
        let keyword = match request.mode {
            _ if question.only_excludes() => Vec::new(),
            Mode::Semantic => Vec::new(),
            _ => store::search::keyword(&mut tx, &base, &question, request.prefix, filter.as_ref(), limit).await?,
        };
        tx.commit().await?;
        Ok(Found::Postgres { hits: fuse_hits(semantic, keyword, request.mode, request.top_k), version: base.version })
    }
}

/// The two lists of Postgres as one, scored as the index would.
fn fuse_hits(semantic: Vec<FallbackHit>, keyword: Vec<FallbackHit>, mode: Mode, top_k: usize) -> Vec<FallbackHit> {
    let ids = |hits: &[FallbackHit]| hits.iter().map(|hit| hit.chunk_id).collect::<Vec<_>>();
    let fused = match mode {
        Mode::Semantic | Mode::Keyword => None,
        Mode::Hybrid => Some(fuse::reciprocal_rank(&ids(&semantic), &ids(&keyword), &Fusion::default())),
    };
    let mut all: Vec<FallbackHit> = semantic.into_iter().chain(keyword).collect();
    match fused {
        None => all.truncate(top_k),
        Some(fused) => {
            let mut by_id: std::collections::HashMap<_, _> = all.drain(..).map(|hit| (hit.chunk_id, hit)).collect();
            all.extend(
                fused
                    .into_iter()
                    .take(top_k)
                    .filter_map(|(chunk_id, score)| by_id.remove(&chunk_id).map(|hit| FallbackHit { score, ..hit })),
            );
        }
    }
    all
}

fn with_encoding(mut answer: Answer, encoded_in: Duration) -> Answer {
    answer.timings.encode = encoded_in;
    answer
}

fn search_error(error: SearchError) -> Error {
    match error {
        SearchError::UnknownKey { .. } => Error::invalid_field("filter", error.to_string()),
        other => Error::Internal(other.into()),
    }
}
