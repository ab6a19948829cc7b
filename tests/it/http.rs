//! HTTP: protocols, negotiation of codings, request ids, metrics, health.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use crate::harness::{Tenant, TestApp};

async fn with_long_answer() -> (TestApp, Tenant, String) {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    for n in 0..60 {
        acme.put_text(&id, &format!("document-{n:03}"), &format!("Text number {n}.")).await;
    }
    (app, acme, format!("/v1/knowledge-bases/{id}/documents"))
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_coded_as_the_client_prefers() {
    let (_app, acme, path) = with_long_answer().await;
    let plain = acme.client.get(&path).await;
    assert_eq!(plain.header("content-encoding"), None);
    #[rustfmt::skip]
    let cases = [
        ("br",                           Some("br")),
        ("gzip",                         Some("gzip")),
        ("deflate",                      Some("deflate")),
        ("gzip, deflate, br",            Some("br")),
        ("gzip;q=1.0, br;q=0.5",         Some("gzip")),
        ("br;q=0, gzip",                 Some("gzip")),
        ("*",                            Some("br")),
        ("*;q=0.5, gzip;q=0.4, br;q=0",  Some("deflate")),
        ("identity",                     None),
        ("identity, br;q=0.5",           None),
        ("zstd",                         None),
        ("",                             None),
        ("br;q=0, gzip;q=0, deflate;q=0", None),
    ];
    for (accept, coding) in cases {
        let request = acme.client.request(Method::GET, &path).header("accept-encoding", accept);
        let reply = acme.client.send(request.body(Full::default()).unwrap()).await;
        assert_eq!((reply.status, reply.header("content-encoding")), (200, coding), "{accept}");
        assert!(
            reply.header("vary").is_some_and(|vary| vary.to_ascii_lowercase().contains("accept-encoding")),
            "{accept}"
        );
        assert_eq!(decode(reply.header("content-encoding"), &reply.body).await, plain.body, "{accept}");
        if coding.is_some() {
            assert!(reply.body.len() < plain.body.len() / 3, "{accept}: {} of {}", reply.body.len(), plain.body.len());
        }
    }
    let small = acme.client.request(Method::GET, &format!("{path}?limit=1")).header("accept-encoding", "br");
    let small = acme.client.send(small.body(Full::default()).unwrap()).await;
    assert_eq!(small.header("content-encoding"), None, "{} bytes are not worth it", small.body.len());
}

async fn decode(coding: Option<&str>, body: &[u8]) -> Vec<u8> {
    use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZlibDecoder};
    let mut plain = Vec::new();
    match coding {
        None => plain.extend_from_slice(body),
        Some("br") => drop(BrotliDecoder::new(body).read_to_end(&mut plain).await.unwrap()),
        Some("gzip") => drop(GzipDecoder::new(body).read_to_end(&mut plain).await.unwrap()),
        // RFC 9110, section 8.4.1.2: the coding named deflate has the zlib format.
        Some("deflate") => drop(ZlibDecoder::new(body).read_to_end(&mut plain).await.unwrap()),
        Some(other) => panic!("unknown coding {other}"),
    }
    plain
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_works_with_prior_knowledge() {
    let (app, acme, path) = with_long_answer().await;
    let stream = TcpStream::connect(app.client().address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's own connection, gone with its runtime")]
    tokio::spawn(connection);
    let key = acme.client.request(Method::GET, "/").body(()).unwrap().headers()["authorization"].clone();
    let requests = (0..20).map(|_| {
        let request = Request::get(format!("http://test{path}")).header("authorization", &key);
        sender.send_request(request.body(Full::<Bytes>::default()).unwrap())
    });
    for reply in futures_util::future::join_all(requests.collect::<Vec<_>>()).await {
        let reply = reply.unwrap();
        assert_eq!(reply.status(), 200);
        assert!(reply.into_body().collect().await.unwrap().to_bytes().len() > 1_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_are_taken_over_or_made() {
    let app = TestApp::start().await;
    let request = app.client().request(Method::GET, "/v1/nothing").header("x-request-id", "mine-1");
    let reply = app.client().send(request.body(Full::default()).unwrap()).await;
    assert_eq!(reply.header("x-request-id"), Some("mine-1"));
    assert_eq!(reply.json()["request_id"], "mine-1");
    let reply = app.client().get("/healthz").await;
    assert!(uuid::Uuid::parse_str(reply.header("x-request-id").unwrap()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_requests_queries_and_gauges() {
    let (app, acme, path) = with_long_answer().await;
    let id = path.split('/').nth(3).unwrap();
    acme.search(id, &json!({ "query": "text" })).await;
    acme.client.get("/v1/nowhere/at/all").await;
    let text = String::from_utf8(app.client().get("/metrics").await.body.to_vec()).unwrap();
    for part in [
        "http_request_duration_seconds_count{method=\"POST\",route=\"/v1/knowledge-bases/{knowledge_base_id}/search\",status_code=\"200\"} 1",
        "http_request_duration_seconds_count{method=\"GET\",route=\"unmatched\",status_code=\"404\"} 1",
        "database_query_duration_seconds_count{query_type=\"",
        "# TYPE http_connections_accepted counter",
        "# TYPE index_chunks gauge",
        "# TYPE sync_lag_versions gauge",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(!text.contains("nowhere"), "a path that a stranger chose became a label");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_options_are_answered() {
    let (_app, acme, path) = with_long_answer().await;
    let head = acme.client.send(acme.client.request(Method::HEAD, &path).body(Full::default()).unwrap()).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let options = acme.client.send(acme.client.request(Method::OPTIONS, &path).body(Full::default()).unwrap()).await;
    assert_eq!((options.status, options.header("allow")), (204, Some("GET, HEAD, OPTIONS")));
}
