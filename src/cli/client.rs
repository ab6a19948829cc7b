//! What the subcommands that speak HTTP share: where the server is, the key, and errors that say what to do.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

/// Longest time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

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
        let url = format!("{}/v1{path}", self.url);
        let reply = self.agent.get(&url).header("Authorization", format!("Bearer {}", self.key)).call();
        self.read(reply)
    }

    /// `POST /v1{path}` with a JSON body.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses; the message says what to do.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}/v1{path}", self.url);
        let reply = self.agent.post(&url).header("Authorization", format!("Bearer {}", self.key)).send_json(body);
        self.read(reply)
    }

    fn read(&self, reply: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> anyhow::Result<Value> {
        let mut reply = reply.with_context(|| {
            format!("the server at {} does not answer; is `tertulia serve` running there? (--url sets the address)", self.url)
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
            _ => bail!("the server answered {status}: {detail} (request id {})", body["request_id"].as_str().unwrap_or("–")),
        }
    }
}
