//! Search: the in-process index where it is loaded, Postgres where it is not. Same lists, same fusion, same filter.
//!
//! Invariant: an answer holds everything up to its `version`, which is at least the `min_version` asked for.

use std::time::{Duration, Instant};

use tertulia_index::{Answer, Filter, Fusion, LIST_LEN_MIN, Mode, Query, Question, SearchError, fuse};

use super::{
    Base, BaseKey, Knowledge,
    encoders::{Encoder, service::ServiceError},
    loaded::Readiness,
};
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
    Memory {
        /// What was found.
        answer: Answer,
        /// Why it is not complete, if it is not.
        partial: Option<Partial>,
    },
    /// By Postgres, because the index is not loaded or not far enough.
    Postgres {
        /// What was found.
        hits: Vec<FallbackHit>,
        /// Everything up to here was seen.
        version: u64,
        /// Why it is not complete, if it is not.
        partial: Option<Partial>,
    },
}

/// Why an answer has less than was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partial {
    /// The encoder took longer than `encoder.query_timeout` for the question, so a hybrid search went by words alone.
    EncoderTimeout,
    /// The encoder did not answer as it should, so a hybrid search went by words alone.
    EncoderUnavailable,
}

impl Partial {
    /// The word for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EncoderTimeout => "encoder_timeout",
            Self::EncoderUnavailable => "encoder_unavailable",
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
            return self.search_memory(index, request).await;
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
    ) -> Result<Found, Error> {
        let question = self.encode(&request, &index.settings().encoder).await?;
        let (partial, encoded_in) = (question.partial, question.encoded_in);
        let comparisons = request.filter.as_ref().map_or(0, Filter::comparisons);
        let inline = index.len() * index.settings().dimensions <= INLINE_SCAN_BYTES_MAX
            && index.len() * comparisons <= INLINE_COMPARISONS_MAX
            // For phrases, texts are read again.
            && request.question().conditions() == 0;
        let search = move || {
            let query = Query {
                text: &request.query,
                embedding: question.embedding.as_deref(),
                top_k: request.top_k,
                mode: question.mode,
                prefix: request.prefix,
                filter: request.filter.as_ref(),
                fusion: Fusion::default(),
                explain: request.explain,
            };
            index.search(&query).map(|answer| with_encoding(answer, encoded_in))
        };
        let outcome = if inline { search() } else { self.compute.run(search).await? };
        let answer = outcome.map_err(search_error)?;
        Ok(Found::Memory { answer, partial })
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
        let limit = match question.mode {
            Mode::Hybrid => (2 * request.top_k).max(LIST_LEN_MIN),
            Mode::Semantic | Mode::Keyword => request.top_k,
        };
        let filter = request.filter.as_ref().map(Filter::to_json);
        let words = request.question();
        let semantic = match &question.embedding {
            Some(embedding) if !words.only_excludes() => {
                store::search::semantic(&mut tx, &base, embedding, &words, filter.as_ref(), limit).await?
            }
            _ => Vec::new(),
        };
        let keyword = match question.mode {
            _ if words.only_excludes() => Vec::new(),
            Mode::Semantic => Vec::new(),
            _ => store::search::keyword(&mut tx, &base, &words, request.prefix, filter.as_ref(), limit).await?,
        };
        tx.commit().await?;
        let hits = fuse_hits(semantic, keyword, question.mode, request.top_k);
        Ok(Found::Postgres { hits, version: base.version, partial: question.partial })
    }

    /// Whether the question's vector, if the mode needs one, takes no time to speak of.
    fn is_encoded_here(&self, mode: Mode, fingerprint: &str) -> bool {
        mode == Mode::Keyword || !matches!(self.encoders.of(fingerprint), Ok(Encoder::Service(_)))
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
