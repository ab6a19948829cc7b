//! An encoder behind an address: OpenAI's `POST …/embeddings`, as many servers of models have it.
//!
//! Documents go in batches, a bounded number of them at once, each tried again with growing pauses while the service is
//! away or says that it has too much to do. A question is one request within a time of its own. What comes back is taken
//! only if it is whole: one vector for each text, of the right length, finite and not zero.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::Semaphore};

use crate::{
    config::EncoderConfig,
    error::Error,
    knowledge::endpoint::{Endpoint, ServiceError},
};

/// How often a batch is tried again: for about 15 s, in which a service restarts, and less than a request may take.
const RETRIES_MAX: usize = 6;
/// First pause before trying again; it doubles, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause before trying again, unless the service asks for a longer one.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Longest pause that a service may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer for each number in it (`-0.012345678901234567,` has 22), and for all around them.
const NUMBER_BYTES_MAX: usize = 32;
const AROUND_BYTES_MAX: usize = 64 << 10;

/// A model behind an address.
pub struct Service {
    endpoint: Arc<Endpoint>,
    model: String,
    fingerprint: String,
    dimensions: usize,
    send_dimensions: bool,
    batch_texts_max: usize,
    requests_max: usize,
    /// A permit for each request for documents.
    requests: Semaphore,
    timeout: Duration,
    query_timeout: Duration,
}

impl From<ServiceError> for Error {
    fn from(error: ServiceError) -> Self {
        let detail = match error {
            ServiceError::Answer(_) => "The encoder of this knowledge base does not answer as it should.",
            ServiceError::Refused { .. } if !error.is_transient() => {
                "The encoder of this knowledge base refuses requests."
            }
            _ => "The encoder of this knowledge base is away or busy; try again in a moment.",
        };
        let retry_after = error.retry_after().unwrap_or(Duration::from_secs(1));
        Self::Unavailable { detail, retry_after, source: Some(error.into()) }
    }
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    input: &'a [String],
    encoding_format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dimensions: Option<usize>,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<AnswerItem>,
}

#[derive(Deserialize)]
struct AnswerItem {
    index: usize,
    embedding: Vec<f32>,
}

impl Service {
    /// The service at `url`, spoken to on `runtime`. Nothing is sent yet.
    ///
    /// # Errors
    /// If the key cannot be read, or no certificate authority is there for an https address.
    pub fn new(url: &str, config: &EncoderConfig, runtime: Handle) -> anyhow::Result<Self> {
        let (key, key_file) = (config.api_key.as_ref(), config.api_key_file.as_deref());
        let endpoint = Arc::new(Endpoint::new(&format!("{url}/embeddings"), key, key_file, runtime)?);
        Ok(Self {
            endpoint,
            model: config.model.clone(),
            fingerprint: format!("service-{}-{}", config.dimensions, config.model),
            dimensions: config.dimensions,
            send_dimensions: config.send_dimensions,
            batch_texts_max: config.batch_texts_max,
            requests_max: config.requests_max,
            requests: Semaphore::new(config.requests_max),
            timeout: config.timeout,
            query_timeout: config.query_timeout,
        })
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Names the space: the model and how many numbers it gives. The address does not count: a model may move.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Numbers in each vector.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The vector of a question, by one request within `encoder.query_timeout`.
    ///
    /// # Errors
    /// If it takes longer, or the answer cannot be used.
    pub async fn encode_query(self: &Arc<Self>, text: &str) -> Result<Vec<f32>, ServiceError> {
        let mut vectors = self.request(vec![text.to_owned()].into(), self.query_timeout).await?;
        vectors.pop().ok_or_else(|| ServiceError::Answer("it is empty".into()))
    }

    /// A vector for each of `texts`, in order.
    ///
    /// # Errors
    /// The first batch's that fails for good.
    pub async fn encode_documents(self: &Arc<Self>, mut texts: Vec<String>) -> Result<Vec<Vec<f32>>, ServiceError> {
        let count = texts.len();
        let mut batches: Vec<Arc<[String]>> = Vec::with_capacity(count.div_ceil(self.batch_texts_max));
        while !texts.is_empty() {
            let rest = texts.split_off(texts.len().min(self.batch_texts_max));
            batches.push(std::mem::replace(&mut texts, rest).into());
        }
        let encoded = futures_util::stream::iter(batches.into_iter().map(|batch| self.encode_batch(batch)))
            .buffered(self.requests_max);
        let mut vectors = Vec::with_capacity(count);
        let mut encoded = std::pin::pin!(encoded);
        while let Some(batch) = encoded.try_next().await? {
            vectors.extend(batch);
        }
        Ok(vectors)
    }

    async fn encode_batch(self: &Arc<Self>, texts: Arc<[String]>) -> Result<Vec<Vec<f32>>, ServiceError> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_max_times(RETRIES_MAX)
            .with_jitter()
            .build();
        loop {
            let outcome = {
                // Never closed, so there is always a permit to come. None is held through a pause.
                let _permit = self.requests.acquire().await;
                self.request(texts.clone(), self.timeout).await
            };
            let error = match outcome {
                Err(error) if error.is_transient() => error,
                outcome => return outcome,
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            let pause = pause.max(error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX));
            tracing::debug!(
                error = format!("{:#}", anyhow::Error::new(error)),
                ?pause,
                "texts not encoded; trying again"
            );
            tokio::time::sleep(pause).await;
        }
    }

    async fn request(&self, texts: Arc<[String]>, longest: Duration) -> Result<Vec<Vec<f32>>, ServiceError> {
        let question = Question {
            model: &self.model,
            input: &texts,
            encoding_format: "float",
            dimensions: self.send_dimensions.then_some(self.dimensions),
        };
        let body = serde_json::to_vec(&question).map_err(|error| ServiceError::Unreachable(error.into()))?;
        let bytes_max = AROUND_BYTES_MAX + texts.len() * (self.dimensions * NUMBER_BYTES_MAX + 256);
        let body = self.endpoint.post(body, bytes_max, longest).await?;
        read_vectors(&body, texts.len(), self.dimensions).map_err(ServiceError::Answer)
    }
}

/// The vectors of an answer in the order of their texts, at unit length.
fn read_vectors(body: &[u8], count: usize, dimensions: usize) -> Result<Vec<Vec<f32>>, String> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| format!("it is no list of embeddings (line {}, column {})", error.line(), error.column()))?;
    if answer.data.len() != count {
        return Err(format!("it has {} vectors for {count} texts", answer.data.len()));
    }
    let mut vectors = vec![Vec::new(); count];
    for item in answer.data {
        let length = item.embedding.len();
        let slot =
            vectors.get_mut(item.index).ok_or_else(|| format!("it has a vector for text {} of {count}", item.index))?;
        if !slot.is_empty() {
            return Err(format!("it has two vectors for text {}", item.index));
        }
        if length != dimensions {
            return Err(format!("it has a vector of {length} dimensions, and encoder.dimensions is {dimensions}"));
        }
        *slot = at_unit_length(item.embedding)
            .ok_or_else(|| format!("the vector for text {} is zero or not finite", item.index))?;
    }
    Ok(vectors)
}

fn at_unit_length(mut vector: Vec<f32>) -> Option<Vec<f32>> {
    let norm = vector.iter().map(|component| f64::from(*component).powi(2)).sum::<f64>().sqrt();
    if !norm.is_finite() || norm < 1e-20 {
        return None;
    }
    vector.iter_mut().for_each(|component| *component = (f64::from(*component) / norm) as f32);
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_in_the_order_of_their_texts_and_at_unit_length() {
        let body = br#"{"object":"list","data":[{"index":1,"embedding":[0,2]},{"index":0,"embedding":[3.0,-4e0]}]}"#;
        assert_eq!(read_vectors(body, 2, 2), Ok(vec![vec![0.6, -0.8], vec![0.0, 1.0]]));
        assert_eq!(read_vectors(br#"{"data":[]}"#, 0, 2), Ok(vec![]));
    }

    #[test]
    fn an_answer_that_is_not_whole_is_refused() {
        for (body, told) in [
            ("", "no list"),
            ("[]", "no list"),
            (r#"{"data":[{"index":0,"embedding":[1,NaN]}]}"#, "no list"),
            (r#"{"data":[{"index":0,"embedding":[1,null]}]}"#, "no list"),
            (r#"{"data":[{"index":0,"embedding":"AAAA"}]}"#, "no list"),
            (r#"{"data":[{"index":-1,"embedding":[1,0]}]}"#, "no list"),
            (r#"{"data":[]}"#, "0 vectors for 1"),
            (r#"{"data":[{"index":0,"embedding":[1,0]},{"index":1,"embedding":[1,0]}]}"#, "2 vectors for 1"),
            (r#"{"data":[{"index":1,"embedding":[1,0]}]}"#, "for text 1 of 1"),
            (r#"{"data":[{"index":0,"embedding":[1]}]}"#, "1 dimensions"),
            (r#"{"data":[{"index":0,"embedding":[]}]}"#, "0 dimensions"),
            (r#"{"data":[{"index":0,"embedding":[1,0,0]}]}"#, "3 dimensions"),
            (r#"{"data":[{"index":0,"embedding":[0,0]}]}"#, "zero"),
            (r#"{"data":[{"index":0,"embedding":[1e39,0]}]}"#, "finite"),
        ] {
            let refused = read_vectors(body.as_bytes(), 1, 2).unwrap_err();
            assert!(refused.contains(told), "{body}: {refused}");
        }
        let twice = r#"{"data":[{"index":0,"embedding":[1,0]},{"index":0,"embedding":[1,0]}]}"#;
        assert!(read_vectors(twice.as_bytes(), 2, 2).unwrap_err().contains("two vectors"));
    }
}
