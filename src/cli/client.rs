//! What the subcommands that speak HTTP share: where the server is, the key, and errors that say what to do.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use clap::Args;
use serde_json::Value;

/// Longest time for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a call that may be repeated is tried again: for about 15 s, in which a server restarts.
const RETRIES_MAX: usize = 8;
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

/// Connections kept between calls: as many as the threads that `ingest` may have.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// A call that did not get what it wanted, after all tries.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// What the server answered with; none if it did not answer.
    status: Option<u16>,
    message: String,
    source: Option<ureq::Error>,
}

impl CallError {
    /// Whether another document would fare no better: the server is away or overloaded, or refuses the caller, or the
    /// knowledge base as a whole.
    pub fn is_about_the_server(&self) -> bool {
        self.status.is_none_or(|status| matches!(status, 401 | 403 | 404 | 409 | 429 | 502 | 503))
    }

    /// Whether what the call was about is not there.
    pub fn is_not_found(&self) -> bool {
        self.status == Some(404)
    }
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
            .max_idle_connections(IDLE_CONNECTIONS_MAX)
            .max_idle_connections_per_host(IDLE_CONNECTIONS_MAX)
            .user_agent(concat!("tertulia/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: agent.into(), url: args.url.trim_end_matches('/').to_owned(), key: args.key.clone() }
    }

    /// `GET /v1{path}`.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses; the message says what to do.
    pub fn get(&self, path: &str) -> Result<Value, CallError> {
        self.with_retries(|| self.with_key(self.agent.get(self.url(path))).call())
    }

    /// `POST /v1{path}` with a JSON body; not repeated.
    ///
    /// # Errors
    /// If the server cannot be reached or refuses; the message says what to do.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, CallError> {
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
    ) -> Result<Value, CallError> {
        self.with_retries(|| {
            let request =
                query.iter().fold(self.agent.put(self.url(path)), |request, (name, value)| request.query(name, value));
            self.with_key(request).header("Content-Type", content_type).send(content)
        })
    }

    /// `DELETE /v1{path}`. Where a first try was carried out and its answer lost, the next one is told that nothing is
    /// there: [`CallError::is_not_found`].
    ///
    /// # Errors
    /// If the server cannot be reached or refuses; the message says what to do.
    pub fn delete(&self, path: &str) -> Result<Value, CallError> {
        self.with_retries(|| self.with_key(self.agent.delete(self.url(path))).call())
    }

    /// Every item of the list at `/v1{path}`, page by page.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn list(&self, path: &str) -> Result<Vec<Value>, CallError> {
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

    /// Calls again after 429, 502, 503 and broken connections: only for what may be repeated without harm.
    fn with_retries(
        &self,
        call: impl Fn() -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, CallError> {
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_max_times(RETRIES_MAX)
            .with_jitter()
            .build();
        loop {
            let reply = call();
            let told = match &reply {
                Ok(reply) if matches!(reply.status().as_u16(), 429 | 502 | 503) => retry_after(reply),
                Err(ureq::Error::Io(_) | ureq::Error::ConnectionFailed) => Duration::ZERO,
                Ok(_) | Err(_) => return self.read(reply),
            };
            match pauses.next() {
                Some(pause) => std::thread::sleep(pause.max(told)),
                None => return self.read(reply),
            }
        }
    }

    fn read(&self, reply: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, CallError> {
        let mut reply = reply.map_err(|source| CallError {
            status: None,
            message: format!(
                "the server at {} does not answer; is `tertulia serve` running there? (--url sets the address)",
                self.url
            ),
            source: Some(source),
        })?;
        let status = reply.status();
        let body: Value = reply.body_mut().read_json().map_err(|source| CallError {
            status: None,
            message: format!("{} answered {status}, but not in JSON; is it a tertulia server?", self.url),
            source: Some(source),
        })?;
        if status.is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().unwrap_or("no reason given");
        let message = match status.as_u16() {
            401 => format!("the key was not accepted: {detail} `tertulia key create` makes a new one."),
            404 => format!("{detail} (Is the id right, and the key of the tenant that it belongs to?)"),
            _ => {
                let request_id = body["request_id"].as_str().unwrap_or("–");
                format!("the server answered {status}: {detail} (request id {request_id})")
            }
        };
        Err(CallError { status: Some(status.as_u16()), message, source: None })
    }
}

/// What `Retry-After` asks for, in seconds; nothing if it is not there.
fn retry_after(reply: &ureq::http::Response<ureq::Body>) -> Duration {
    let seconds = reply.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0)).min(CALL_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread::JoinHandle,
    };

    use super::*;

    /// A client of a server that gives these answers (head, `|`, body), one a connection, and returns what it was asked.
    fn client(answers: &'static [&'static str]) -> (Client, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let answer = |answer: &&str| {
                let (mut socket, _) = listener.accept().unwrap();
                let (mut asked, mut bytes) = (String::new(), [0; 4_096]);
                while !asked.contains("\r\n\r\n") {
                    let read = socket.read(&mut bytes).unwrap();
                    asked.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
                }
                let (head, body) = answer.split_once('|').unwrap_or((answer, "{}"));
                let length = body.len();
                write!(socket, "HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
                    .unwrap();
                asked
            };
            answers.iter().map(answer).collect()
        });
        (Client::new(&ServerArgs { url, key: "tt_secret".into() }), server)
    }

    #[test]
    fn a_call_that_may_be_repeated_is_until_it_is_answered() {
        let (client, server) =
            client(&["503 Away\r\nRetry-After: 0", "429 Too many", "502 Bad gateway", "200 OK|{\"version\":7}"]);
        assert_eq!(client.delete("/documents/a").unwrap()["version"], 7);
        let asked = server.join().unwrap();
        assert_eq!(asked.len(), 4);
        assert!(asked.iter().all(|it| it.starts_with("DELETE /v1/documents/a HTTP/1.1\r\n")), "{asked:?}");
        assert!(asked.iter().all(|it| it.to_lowercase().contains("authorization: bearer tt_secret")), "{asked:?}");
    }

    #[test]
    fn what_the_server_refuses_is_not_repeated() {
        for (answer, is_about_the_server) in [
            ("400 Bad|{\"detail\":\"No UTF-8.\",\"request_id\":\"r1\"}", false),
            ("413 Large|{\"detail\":\"Too large.\"}", false),
            ("500 Wrong|{}", false),
            ("401 Who|{\"detail\":\"Unknown.\"}", true),
            ("404 Where|{\"detail\":\"No such knowledge base.\"}", true),
            ("200 OK|welcome to another server", true),
        ] {
            let (client, server) = client(Box::leak(Box::new([answer])));
            let error = client.put("/d", &[("source_url", "a b".into())], "text/plain", b"x").unwrap_err();
            assert_eq!(error.is_about_the_server(), is_about_the_server, "{error}");
            let asked = server.join().unwrap();
            assert!(asked[0].starts_with("PUT /v1/d?source_url=a%20b HTTP/1.1\r\n"), "{asked:?}");
        }
    }

    #[test]
    fn a_list_is_read_to_its_end() {
        let (client, server) = client(&[
            "200 OK|{\"items\":[1,2],\"next_cursor\":\"abc\"}",
            "503 Away",
            "200 OK|{\"items\":[3],\"next_cursor\":null}",
        ]);
        assert_eq!(client.list("/things").unwrap(), [1, 2, 3]);
        let asked = server.join().unwrap();
        assert!(asked[2].starts_with("GET /v1/things?limit=100&cursor=abc "), "{asked:?}");
    }
}
