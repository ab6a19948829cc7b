//! What the subcommands that speak HTTP share: where the server is, the key, and errors that say what to do.

use std::time::Duration;

use anyhow::{Context as _, bail};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use clap::Args;
use serde_json::Value;

/// Longest time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a call that may be repeated is tried again.
const RETRIES_MAX: usize = 6;
/// First pause before trying again; it doubles, up to [`PAUSE_MAX`]. A longer `Retry-After` is followed.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before trying again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where to ask, and as whom.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address of the server
    #[arg(long, env = "TERTULIA_URL", default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// API key, from `tertulia key create`
    #[arg(long, env = "TERTULIA_KEY", hide_env_values = true)]
    pub key: String,
}

/// A connection to the server's `/v1`.
pub struct Client {
    agent: ureq::Agent,
    url: String,
    key: String,
}

impl Client {
    /// A client for `args`; nothing is sent yet.
    pub fn new(args: &ServerArgs) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(CALL_TIMEOUT))
            .http_status_as_error(false)
            .user_agent(concat!("tertulia/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: agent.into(), url: args.url.trim_end_matches('/').to_owned(), key: args.key.clone() }
    }

    /// `GET /v1{path}`.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses; the message says what to do.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.with_retries(|| self.with_key(self.agent.get(self.url(path))).call())
    }

    /// `POST /v1{path}` with a JSON body; not repeated.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses; the message says what to do.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.read(self.with_key(self.agent.post(self.url(path))).send_json(body))
    }

    /// `PUT /v1{path}` with `content` as it is.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses; the message says what to do.
    pub fn put(
        &self,
        path: &str,
        query: &[(&str, String)],
        content_type: &str,
        content: &[u8],
    ) -> anyhow::Result<Value> {
        self.with_retries(|| {
            let request =
                query.iter().fold(self.agent.put(self.url(path)), |request, (name, value)| request.query(name, value));
            self.with_key(request).header("Content-Type", content_type).send(content)
        })
    }

    /// `DELETE /v1{path}`.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses; the message says what to do.
    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.with_retries(|| self.with_key(self.agent.delete(self.url(path))).call())
    }

    /// Every item of the list at `/v1{path}`, page by page.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut all = Vec::new();
        let mut cursor = String::new();
        loop {
            let mut page = self.get(&format!("{path}?limit=100{cursor}"))?;
            if let Value::Array(items) = page["items"].take() {
                all.extend(items);
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(all),
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1{path}", self.url)
    }

    fn with_key<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        request.header("Authorization", format!("Bearer {}", self.key))
    }

    /// Calls again after 429, 503 and broken connections: only for what may be repeated without harm.
    fn with_retries(
        &self,
        call: impl Fn() -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> anyhow::Result<Value> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_max_times(RETRIES_MAX)
            .with_jitter()
            .build();
        loop {
            let reply = call();
            let told = match &reply {
                Ok(reply) if matches!(reply.status().as_u16(), 429 | 503) => retry_after(reply),
                Ok(_) => return self.read(reply),
                Err(_) => Duration::ZERO,
            };
            match pauses.next() {
                Some(pause) => std::thread::sleep(pause.max(told)),
                None => return self.read(reply),
            }
        }
    }

    fn read(&self, reply: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Value> {
        let mut reply = reply.with_context(|| {
            format!(
                "the server at {} does not answer; is `tertulia serve` running there? (--url sets the address)",
                self.url
            )
        })?;
        let status = reply.status();
        let body: Value = reply
            .body_mut()
            .read_json()
            .with_context(|| format!("{} answered {status}, but not in JSON; is it a tertulia server?", self.url))?;
        if status.is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().unwrap_or("no reason given");
        match status.as_u16() {
            401 => bail!("the key was not accepted: {detail} `tertulia key create` makes a new one."),
            404 => bail!("{detail} (Is the id right, and the key of the tenant that it belongs to?)"),
            _ => bail!(
                "the server answered {status}: {detail} (request id {})",
                body["request_id"].as_str().unwrap_or("–")
            ),
        }
    }
}

/// What `Retry-After` asks for, in seconds; nothing if it is not there.
fn retry_after(reply: &ureq::http::Response<ureq::Body>) -> Duration {
    let seconds = reply.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(CALL_TIMEOUT)
}
