//! An encoder behind an address: OpenAI's `POST …/embeddings`, as many servers of models have it.
//!
//! Documents go in batches, a bounded number of them at once, each tried again with growing pauses while the service is
//! away or says that it has too much to do. A question is one request within a time of its own. What comes back is taken
//! only if it is whole: one vector for each text, of the right length, finite and not zero.
//!
//! Neither the key nor any text gets into errors and logs.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::{EncoderConfig, Secret},
    error::Error,
};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection is kept that nobody uses.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
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

/// A model behind an address. Its connections are kept, and shared by all shards.
pub struct Service {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    authorization: Option<HeaderValue>,
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
    /// Connections live on it, whichever runtime asks.
    runtime: Handle,
}

/// Why there are no vectors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// It cannot be reached, or the connection broke.
    #[error("the encoder cannot be reached")]
    Unreachable(#[source] anyhow::Error),
    /// It took too long.
    #[error("the encoder did not answer within {0:?}")]
    Timeout(Duration),
    /// It answered with something else than vectors.
    #[error("the encoder answered {status}{}", code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default())]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its own word for what is wrong, if it has one.
        code: Option<String>,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// Its answer is not what was asked for.
    #[error("the encoder's answer cannot be used: {0}")]
    Answer(String),
}

impl ServiceError {
    /// Whether the same request may go well a little later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) => true,
            Self::Refused { status, .. } => *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
            Self::Answer(_) => false,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
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

#[derive(Deserialize)]
struct Refusal {
    error: RefusalError,
}

#[derive(Deserialize)]
struct RefusalError {
    code: Option<String>,
    r#type: Option<String>,
}

impl Service {
    /// The service at `url`, spoken to on `runtime`. Nothing is sent yet.
    ///
    /// # Errors
    /// If the key cannot be read, or no certificate authority is there for an https address.
    pub fn new(url: &str, config: &EncoderConfig, runtime: Handle) -> anyhow::Result<Self> {
        let uri: Uri = format!("{url}/embeddings").parse().context("is no address")?;
        let authorization = match (&config.api_key, &config.api_key_file) {
            (Some(key), _) => Some(bearer(key)?),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read encoder.api_key_file {}", path.display()))?;
                Some(bearer(&Secret(text.trim().to_owned()))?)
            }
            (None, None) => None,
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(uri.scheme_str() == Some("https"))?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        // Requests run on `runtime`, so what the executor spawns does too.
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self {
            client,
            uri,
            authorization,
            model: config.model.clone(),
            fingerprint: format!("service-{}-{}", config.dimensions, config.model),
            dimensions: config.dimensions,
            send_dimensions: config.send_dimensions,
            batch_texts_max: config.batch_texts_max,
            requests_max: config.requests_max,
            requests: Semaphore::new(config.requests_max),
            timeout: config.timeout,
            query_timeout: config.query_timeout,
            runtime,
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

    /// One request, on the runtime of the connections.
    async fn request(self: &Arc<Self>, texts: Arc<[String]>, longest: Duration) -> Result<Vec<Vec<f32>>, ServiceError> {
        let service = self.clone();
        let asked = async move {
            let asked = timeout(longest, service.ask(&texts)).await;
            asked.unwrap_or(Err(ServiceError::Timeout(longest)))
        };
        AbortOnDropHandle::new(self.runtime.spawn(asked))
            .await
            .unwrap_or_else(|error| Err(ServiceError::Unreachable(error.into())))
    }

    async fn ask(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, ServiceError> {
        let question = Question {
            model: &self.model,
            input: texts,
            encoding_format: "float",
            dimensions: self.send_dimensions.then_some(self.dimensions),
        };
        let body = serde_json::to_vec(&question).map_err(|error| ServiceError::Unreachable(error.into()))?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let response = self.client.request(request).await.map_err(|error| ServiceError::Unreachable(error.into()))?;
        let (head, body) = response.into_parts();
        let bytes_max = AROUND_BYTES_MAX + texts.len() * (self.dimensions * NUMBER_BYTES_MAX + 256);
        let body = Limited::new(body, bytes_max).collect().await.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                ServiceError::Answer(format!("it has more than {bytes_max} bytes"))
            } else {
                ServiceError::Unreachable(anyhow::Error::from_boxed(error))
            }
        })?;
        let body = body.to_bytes();
        if head.status != StatusCode::OK {
            let retry_after = retry_after(&head.headers);
            return Err(ServiceError::Refused { status: head.status, code: refusal_code(&body), retry_after });
        }
        read_vectors(&body, texts.len(), self.dimensions).map_err(ServiceError::Answer)
    }
}

fn bearer(key: &Secret) -> anyhow::Result<HeaderValue> {
    ensure!(
        !key.0.is_empty() && key.0.bytes().all(|byte| byte.is_ascii_graphic()),
        "the key is empty or not one word of printable ASCII"
    );
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.0)).context("the key fits into no header")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Trusts the system's authorities.
fn tls(is_needed: bool) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    if is_needed {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        ensure!(!roots.is_empty(), "the system's store has no certificate authorities to check the service by");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// `Retry-After` in seconds; its form with a date is rare, and our own pauses do for it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// The service's own word for what is wrong. Its message is left out: it may quote the texts.
fn refusal_code(body: &[u8]) -> Option<String> {
    let error = serde_json::from_slice::<Refusal>(body).ok()?.error;
    let is_word = |text: &String| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    error.code.filter(is_word).or(error.r#type.filter(is_word))
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

    #[test]
    fn only_a_word_of_a_refusal_is_repeated() {
        assert_eq!(refusal_code(br#"{"error":{"code":"rate_limit"}}"#), Some("rate_limit".into()));
        assert_eq!(
            refusal_code(br#"{"error":{"code":null,"type":"invalid_request_error"}}"#),
            Some("invalid_request_error".into())
        );
        for quiet in [r#"{"error":{"code":"your text was: secret"}}"#, r#"{"error":"secret"}"#, "secret", ""] {
            assert_eq!(refusal_code(quiet.as_bytes()), None);
        }
    }
}
