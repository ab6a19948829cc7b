//! A service with OpenAI's `/v1/embeddings` and Cohere's `/v1/rerank`, over real HTTP in the test's process, that can be told to misbehave.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;

/// Dimensions of its vectors.
pub const DIMENSIONS: usize = 48;
/// Its model.
pub const MODEL: &str = "test-model";
/// Its key.
pub const KEY: &str = "sk-test-0123456789";

/// How one request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should be, but the vectors in the opposite order of their texts, which `index` tells.
    Well,
    /// With this status and `Retry-After`.
    Status(u16, Option<u64>),
    /// Without the last vector.
    Short,
    /// With vectors of one number less.
    WrongLength,
    /// With a number that is none.
    NotANumber,
    /// With vectors of zeros.
    Zero,
    /// By closing the connection.
    Cut,
    /// With far more bytes than vectors could have.
    Endless,
}

/// The service; it ends with the test's runtime.
#[derive(Clone)]
pub struct Embeddings {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Seen>,
    /// Requests that may be answered, counted from the first one.
    limit: watch::Sender<usize>,
}

#[derive(Default)]
struct Seen {
    manners: VecDeque<Manner>,
    /// Texts of each request, in the order in which they came.
    requests: Vec<Vec<String>>,
    bodies: Vec<Value>,
    under_way: usize,
    under_way_max: usize,
}

impl Embeddings {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With TLS, under the name `localhost`; also gives the certificate.
    pub async fn start_with_tls() -> (Self, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        (Self::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await, cert.pem())
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared { seen: Mutex::default(), limit: watch::Sender::new(usize::MAX) });
        let service = Self { address: listener.local_addr().unwrap(), shared: shared.clone() };
        let serve = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = shared.clone();
                let answer = service_fn(move |request| answer(shared.clone(), request));
                let tls = tls.clone();
                let connection = async move {
                    let http = hyper::server::conn::http1::Builder::new();
                    match tls {
                        None => drop(http.serve_connection(TokioIo::new(stream), answer).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(http.serve_connection(TokioIo::new(stream), answer).await);
                            }
                        }
                    }
                };
                #[expect(clippy::disallowed_methods, reason = "a test's own connection, gone with its runtime")]
                tokio::spawn(connection);
            }
        };
        #[expect(clippy::disallowed_methods, reason = "a test's own service, gone with its runtime")]
        tokio::spawn(serve);
        service
    }

    /// The settings of a server that has this encoder.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TERTULIA_ENCODER_URL", format!("http://{}/v1", self.address)),
            ("TERTULIA_ENCODER_MODEL", MODEL.into()),
            ("TERTULIA_ENCODER_DIMENSIONS", DIMENSIONS.to_string()),
            ("TERTULIA_ENCODER_API_KEY", KEY.into()),
        ]
    }

    /// The settings of a server that has this reranker.
    pub fn rerank_settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("TERTULIA_RERANK_URL", format!("http://{}/v1", self.address)),
            ("TERTULIA_RERANK_MODEL", MODEL.into()),
            ("TERTULIA_RERANK_API_KEY", KEY.into()),
        ]
    }

    /// How the next requests are answered; those after them well.
    pub fn answer_next(&self, manners: &[Manner]) {
        self.shared.seen.lock().unwrap().manners.extend(manners);
    }

    /// Has requests wait from now on.
    pub fn close(&self) {
        self.close_after(0);
    }

    /// Answers so many more requests, and has those after them wait.
    pub fn close_after(&self, requests: usize) {
        let seen = self.shared.seen.lock().unwrap();
        self.shared.limit.send_replace(seen.requests.len() + requests);
    }

    /// Answers those that wait and all others.
    pub fn open(&self) {
        self.shared.limit.send_replace(usize::MAX);
    }

    /// Texts of each request so far.
    pub fn requests(&self) -> Vec<Vec<String>> {
        self.shared.seen.lock().unwrap().requests.clone()
    }

    /// Bodies of the requests so far.
    pub fn bodies(&self) -> Vec<Value> {
        self.shared.seen.lock().unwrap().bodies.clone()
    }

    /// Requests that were under way at once, at most.
    pub fn under_way_max(&self) -> usize {
        self.shared.seen.lock().unwrap().under_way_max
    }

    /// Whether a request waits, and all that came before it are answered.
    pub fn is_waiting(&self) -> bool {
        let seen = self.shared.seen.lock().unwrap();
        seen.under_way == 1 && seen.requests.len() > *self.shared.limit.borrow()
    }

    /// Requests that are under way.
    pub fn under_way(&self) -> usize {
        self.shared.seen.lock().unwrap().under_way
    }
}

/// A request in the count, also if its client goes away.
struct UnderWay(Arc<Shared>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.seen.lock().unwrap().under_way -= 1;
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
    let is_rerank = head.uri.path() == "/v1/rerank";
    let texts: Vec<String> = body[if is_rerank { "documents" } else { "input" }]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap().to_owned())
        .collect();
    let (ordinal, manner) = {
        let mut seen = shared.seen.lock().unwrap();
        seen.requests.push(texts.clone());
        seen.bodies.push(body.clone());
        seen.under_way += 1;
        seen.under_way_max = seen.under_way_max.max(seen.under_way);
        (seen.requests.len(), seen.manners.pop_front().unwrap_or(Manner::Well))
    };
    let _under_way = UnderWay(shared.clone());
    let _ = shared.limit.subscribe().wait_for(|limit| ordinal <= *limit).await;
    let reply = |status: u16, body: Value| {
        let response = Response::builder().status(status).header("content-type", "application/json");
        response.body(Full::from(body.to_string())).unwrap()
    };
    let is_key =
        head.headers.get("authorization").is_some_and(|key| key.as_bytes() == format!("Bearer {KEY}").as_bytes());
    if !is_rerank && head.uri.path() != "/v1/embeddings" || body["model"] != MODEL || !is_key {
        return Ok(reply(401, json!({ "error": { "code": "invalid_api_key", "message": "no" } })));
    }
    let mut vectors: Vec<Vec<f64>> = texts.iter().map(|text| vector(text)).collect();
    match manner {
        Manner::Well => {}
        Manner::Status(status, retry_after) => {
            let mut response = reply(status, json!({ "error": { "message": texts[0], "type": "test" } }));
            if let Some(seconds) = retry_after {
                response.headers_mut().insert("retry-after", seconds.into());
            }
            return Ok(response);
        }
        Manner::Short => drop(vectors.pop()),
        Manner::WrongLength => vectors.iter_mut().for_each(|vector| vector.truncate(DIMENSIONS - 1)),
        Manner::NotANumber => {
            let text = r#"{"data":[{"index":0,"embedding":[NaN]}]}"#;
            return Ok(Response::new(Full::from(text)));
        }
        Manner::Zero => vectors.iter_mut().for_each(|vector| vector.fill(0.0)),
        Manner::Cut => return Err(std::io::Error::other("as told")),
        Manner::Endless => return Ok(Response::new(Full::from(vec![b' '; 8 << 20]))),
    }
    if is_rerank {
        // The shorter, the better; as many as there are vectors, and in the opposite order of their texts.
        let scores = texts.iter().take(vectors.len()).enumerate().rev();
        let results: Vec<Value> =
            scores.map(|(index, text)| json!({ "index": index, "relevance_score": 1.0 / text.len() as f64 })).collect();
        return Ok(reply(200, json!({ "id": "test", "results": results })));
    }
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .rev()
        .map(|(index, vector)| json!({ "object": "embedding", "index": index, "embedding": vector }))
        .collect();
    Ok(reply(200, json!({ "object": "list", "data": data, "model": MODEL, "usage": { "prompt_tokens": 1 } })))
}

/// Words counted in places that their letters choose, so that texts with the same words are near; not at unit length.
fn vector(text: &str) -> Vec<f64> {
    let mut vector = vec![0.0; DIMENSIONS];
    vector[0] = 0.1;
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let hash = word
            .to_lowercase()
            .bytes()
            .fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
        vector[hash as usize % DIMENSIONS] += 1.0;
    }
    vector
}
