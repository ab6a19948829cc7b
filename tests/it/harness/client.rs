//! A small HTTP client: a connection for each request, the reply read whole.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Speaks to one server, with or without a key.
#[derive(Clone)]
pub struct Client {
    /// Where the server listens.
    pub address: SocketAddr,
    key: Option<String>,
}

/// What the server answered.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body as it came, compressed if it was.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The `code` of a problem; checks what every problem has.
    pub fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"].as_u64(), Some(u64::from(self.status)), "{problem}");
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"), "{problem}");
        for member in ["title", "detail", "code"] {
            assert!(problem[member].is_string(), "{member} is missing in {problem}");
        }
        problem["code"].as_str().unwrap().to_owned()
    }
}

impl Client {
    pub fn new(address: SocketAddr, key: Option<String>) -> Self {
        Self { address, key }
    }

    /// The same server with `key`.
    pub fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.to_owned()), ..self.clone() }
    }

    /// The same server without a key.
    pub fn without_key(&self) -> Self {
        Self { key: None, ..self.clone() }
    }

    /// The key that it sends.
    pub fn key(&self) -> &str {
        self.key.as_deref().expect("it has one")
    }

    /// The same key at the server of `other`.
    pub fn at(&self, other: &Self) -> Self {
        Self { address: other.address, ..self.clone() }
    }

    /// A request with this client's key, to be changed and sent.
    pub fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        let builder = Request::builder().method(method).uri(path).header("host", "test");
        match &self.key {
            Some(key) => builder.header("authorization", format!("Bearer {key}")),
            None => builder,
        }
    }

    /// Sends a request. One that runs a statement again and again fails its test, whatever that is about.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own connection, gone with its runtime")]
        tokio::spawn(connection);
        let place = format!("{} {}", request.method(), request.uri());
        let reply = sender.send_request(request).await.unwrap();
        if let Some(statements) = reply.headers().get("x-repeated-statements") {
            panic!("{place} runs statements again and again: {statements:?}");
        }
        let (head, body) = reply.into_parts();
        Reply { status: head.status.as_u16(), headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path).body(Full::default()).unwrap()).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(self.request(Method::DELETE, path).body(Full::default()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send_bytes(Method::POST, path, "application/json", body.to_string()).await
    }

    /// Posts without a body.
    pub async fn post_nothing(&self, path: &str) -> Reply {
        self.send(self.request(Method::POST, path).body(Full::default()).unwrap()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send_bytes(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send_bytes(Method::PATCH, path, "application/json", body.to_string()).await
    }

    /// The status of a PUT, or none if the server went away.
    pub async fn try_put(&self, path: &str, body: &Value) -> Option<u16> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        #[expect(clippy::disallowed_methods, reason = "a test's own connection, gone with its runtime")]
        tokio::spawn(connection);
        let request = self.request(Method::PUT, path).header("content-type", "application/json");
        let reply = sender.send_request(request.body(Full::new(Bytes::from(body.to_string()))).unwrap()).await.ok()?;
        let status = reply.status().as_u16();
        reply.into_body().collect().await.ok()?;
        Some(status)
    }

    /// Sends `body` as it is.
    pub async fn send_bytes(&self, method: Method, path: &str, content_type: &str, body: impl Into<Bytes>) -> Reply {
        let request = self.request(method, path).header("content-type", content_type);
        self.send(request.body(Full::new(body.into())).unwrap()).await
    }

    /// Writes `bytes` on a new connection and gives everything that comes until the server closes it.
    pub async fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    }
}
