//! A service that is spoken to in JSON over HTTP, such as an encoder or a reranker: its connections, key, errors.
//!
//! Neither the key nor any text gets into errors and logs.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
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
use serde::Deserialize;
use tokio::{runtime::Handle, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::config::Secret;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection is kept that nobody uses.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// An address that takes JSON by POST. Its connections are kept, and shared by all shards.
pub struct Endpoint {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    authorization: Option<HeaderValue>,
    /// Connections live on it, whichever runtime asks.
    runtime: Handle,
}

/// Why there is no answer of use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// It cannot be reached, or the connection broke.
    #[error("the service cannot be reached")]
    Unreachable(#[source] anyhow::Error),
    /// It took too long.
    #[error("the service did not answer within {0:?}")]
    Timeout(Duration),
    /// It answered with an error.
    #[error("the service answered {status}{}", code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default())]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its own word for what is wrong, if it has one.
        code: Option<String>,
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// Its answer is not what was asked for.
    #[error("the service's answer cannot be used: {0}")]
    Answer(String),
}

impl ServiceError {
    /// Whether the same request may go well a little later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) => true,
            Self::Refused { status, .. } => *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error(),
            Self::Answer(_) => false,
        }
    }

    /// How long the service asks us to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
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

impl Endpoint {
    /// The one at `url`, spoken to on `runtime`, with `key` or the key in the file `key_file` as a bearer token. Nothing is
    /// sent yet.
    ///
    /// # Errors
    /// If the key cannot be read, or no certificate authority is there for an https address.
    pub fn new(url: &str, key: Option<&Secret>, key_file: Option<&Path>, runtime: Handle) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().context("is no address")?;
        let authorization = match (key, key_file) {
            (Some(key), _) => Some(bearer(key)?),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the key in {}", path.display()))?;
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
        Ok(Self { client, uri, authorization, runtime })
    }

    /// Sends `body`, JSON, and gives what is answered: one request within `longest`, the answer of at most `bytes_max`.
    ///
    /// # Errors
    /// If it takes longer, cannot be had, is too long, or has another status than 200.
    pub async fn post(
        self: &Arc<Self>,
        body: Vec<u8>,
        bytes_max: usize,
        longest: Duration,
    ) -> Result<Bytes, ServiceError> {
        let endpoint = self.clone();
        let asked = async move {
            let asked = timeout(longest, endpoint.ask(body, bytes_max)).await;
            asked.unwrap_or(Err(ServiceError::Timeout(longest)))
        };
        AbortOnDropHandle::new(self.runtime.spawn(asked))
            .await
            .unwrap_or_else(|error| Err(ServiceError::Unreachable(error.into())))
    }

    async fn ask(&self, body: Vec<u8>, bytes_max: usize) -> Result<Bytes, ServiceError> {
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
        Ok(body)
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

#[cfg(test)]
mod tests {
    use super::*;

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
