//! Bad input: each kind gets a clear 4xx with a `code`, and the server goes on.

use std::io::Write as _;

use hyper::Method;
use serde_json::json;

use crate::harness::{Reply, Tenant, TestApp, until};

async fn with_base() -> (TestApp, Tenant, String) {
    let app = TestApp::start_with(&[
        ("TERTULIA_SERVER_HEAD_TIMEOUT", "500ms"),
        ("TERTULIA_SERVER_BODY_TIMEOUT", "500ms"),
        ("TERTULIA_SERVER_DOCUMENT_BYTES_MAX", "2097152"),
    ])
    .await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let document = json!({ "content": "A text.", "metadata": { "lang": "en" } });
    let version = acme.put_document(&id, "a", &document).await;
    acme.until_in_memory(&id, version).await;
    (app, acme, format!("/v1/knowledge-bases/{id}"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_fit_are_told_apart() {
    let (_app, acme, base) = with_base().await;
    let nested = |open: &str, close: &str| {
        format!("{{\"query\": \"a\", \"filter\": {}1{}}}", open.repeat(10_000), close.repeat(10_000))
    };
    #[rustfmt::skip]
    let cases: Vec<(&str, Vec<u8>, u16, &str, &str)> = vec![
        ("not JSON",              b"{\"query\": ".to_vec(),                                 400, "invalid", ""),
        ("trailing garbage",      b"{\"query\": \"a\"} x".to_vec(),                         400, "invalid", ""),
        ("empty",                 b"".to_vec(),                                             400, "invalid", ""),
        ("an array",              b"[]".to_vec(),                                           400, "invalid", ""),
        ("wrong type",            b"{\"query\": 7}".to_vec(),                               400, "invalid", "query"),
        ("wrong type deep",       b"{\"query\": \"a\", \"top_k\": \"five\"}".to_vec(),      400, "invalid", "top_k"),
        ("fraction",              b"{\"query\": \"a\", \"top_k\": 1.5}".to_vec(),           400, "invalid", "top_k"),
        ("negative",              b"{\"query\": \"a\", \"top_k\": -1}".to_vec(),            400, "invalid", "top_k"),
        ("huge number",           b"{\"query\": \"a\", \"top_k\": 1e400}".to_vec(),         400, "invalid", ""),
        ("missing field",         b"{}".to_vec(),                                           400, "invalid", "query"),
        ("unknown field",         b"{\"query\": \"a\", \"topk\": 1}".to_vec(),              400, "invalid", "topk"),
        ("unknown mode",          b"{\"query\": \"a\", \"mode\": \"best\"}".to_vec(),       400, "invalid", "mode"),
        ("blank query",           b"{\"query\": \"  \"}".to_vec(),                          400, "invalid", "query"),
        ("top_k 0",               b"{\"query\": \"a\", \"top_k\": 0}".to_vec(),             400, "invalid", "top_k"),
        ("top_k 101",             b"{\"query\": \"a\", \"top_k\": 101}".to_vec(),           400, "invalid", "top_k"),
        ("min_score -0.1",        b"{\"query\": \"a\", \"min_score\": -0.1}".to_vec(),    400, "invalid", "min_score"),
        ("min_score 1.1",         b"{\"query\": \"a\", \"min_score\": 1.1}".to_vec(),     400, "invalid", "min_score"),
        ("min_score 1e39",        b"{\"query\": \"a\", \"min_score\": 1e39}".to_vec(),    400, "invalid", "min_score"),
        ("diversity 1.1",         b"{\"query\": \"a\", \"diversity\": 1.1}".to_vec(),     400, "invalid", "diversity"),
        ("diversity true",        b"{\"query\": \"a\", \"diversity\": true}".to_vec(),    400, "invalid", "diversity"),
        ("expand 4",              b"{\"query\": \"a\", \"expand\": 4}".to_vec(),          400, "invalid", "expand"),
        ("expand -1",             b"{\"query\": \"a\", \"expand\": -1}".to_vec(),         400, "invalid", "expand"),
        ("group by heading",      b"{\"query\": \"a\", \"group_by\": \"heading\"}".to_vec(), 400, "invalid", "group_by"),
        ("recency without key",   b"{\"query\": \"a\", \"recency\": {\"half_life_days\": 1}}".to_vec(), 400, "invalid", "recency.key"),
        ("recency of nothing",    json!({ "query": "a", "recency": { "key": "lang", "half_life_days": 0 } }).to_string().into(), 400, "invalid", "recency.half_life_days"),
        ("recency of ages",       json!({ "query": "a", "recency": { "key": "lang", "half_life_days": 36_501 } }).to_string().into(), 400, "invalid", "recency.half_life_days"),
        ("recency of a slip",     json!({ "query": "a", "recency": { "key": "lnag", "half_life_days": 1 } }).to_string().into(), 400, "invalid", "recency.key"),
        ("recency with more",     json!({ "query": "a", "recency": { "key": "lang", "half_life_days": 1, "x": 1 } }).to_string().into(), 400, "invalid", "recency.x"),
        ("oversized query",       json!({ "query": "a".repeat(8_193) }).to_string().into(), 400, "invalid", "query"),
        ("NUL",                   b"{\"query\": \"a\\u0000b\"}".to_vec(),                   400, "invalid", ""),
        ("raw NUL",               b"{\"query\": \"a\0b\"}".to_vec(),                        400, "invalid", ""),
        ("invalid UTF-8",         b"{\"query\": \"\xff\"}".to_vec(),                        400, "invalid", ""),
        ("lone surrogate",        b"{\"query\": \"\\ud800\"}".to_vec(),                     400, "invalid", ""),
        ("deep arrays",           nested("[", "]").into(),                                  400, "invalid", ""),
        ("deep objects",          nested("{\"a\":", "}").into(),                            400, "invalid", ""),
        ("unknown filter field",  json!({ "query": "a", "filter": { "type": "eq", "key": "colour", "value": 1 } }).to_string().into(), 400, "invalid", "filter"),
        ("unknown filter type",   json!({ "query": "a", "filter": { "type": "like", "key": "lang", "value": "e" } }).to_string().into(), 400, "invalid", "filter.type"),
        ("filter without value",  json!({ "query": "a", "filter": { "type": "eq", "key": "lang" } }).to_string().into(), 400, "invalid", "filter.value"),
        ("10 MB",                 vec![b' '; 10 << 20],                                     413, "too_large", ""),
    ];
    for (what, body, status, code, field) in cases {
        let reply = acme.client.send_bytes(Method::POST, &format!("{base}/search"), "application/json", body).await;
        assert_eq!((reply.status, reply.problem().as_str()), (status, code), "{what}: {reply:?}");
        if !field.is_empty() {
            let problem = reply.json();
            assert_eq!(problem["fields"][0]["field"], field, "{what}: {problem}");
        }
    }
    let most = json!({
        "query": "text", "top_k": 100, "min_score": 1, "diversity": 1, "expand": 3, "highlight": true, "explain": true,
        "group_by": "document", "recency": { "key": "lang", "half_life_days": 36_500 },
    });
    let least = json!({
        "query": "t", "top_k": 1, "min_score": 0, "diversity": 0, "expand": 0, "highlight": false, "group_by": null,
        "recency": { "key": "lang", "half_life_days": 0.001 },
    });
    for request in [json!({ "query": "text" }), most, least] {
        assert_eq!(acme.client.post(&format!("{base}/search"), &request).await.status, 200, "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_inflated_within_the_limit() {
    let (_app, acme, base) = with_base().await;
    let send = async |coding: &str, path: &str, body: Vec<u8>| {
        let request =
            acme.client.request(if path == "search" { Method::POST } else { Method::PUT }, &format!("{base}/{path}"));
        let content_type = if path == "search" { "application/json" } else { "text/plain" };
        let request = request.header("content-type", content_type).header("content-encoding", coding);
        acme.client.send(request.body(http_body_util::Full::from(body)).unwrap()).await
    };
    let question = json!({ "query": "text" }).to_string();
    assert_eq!(send("gzip", "search", gzip(question.as_bytes())).await.status, 200);

    let whole = gzip(question.as_bytes());
    let reply = send("gzip", "search", whole[..whole.len() - 9].to_vec()).await;
    assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "truncated");
    let reply = send("gzip", "search", b"not gzip at all".to_vec()).await;
    assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "not gzip");
    for (coding, body) in [("zstd", whole.clone()), ("gzip, gzip", gzip(&whole))] {
        let reply = send(coding, "search", body).await;
        assert_eq!((reply.status, reply.problem().as_str()), (415, "unsupported_coding"), "{coding}");
        assert_eq!(reply.header("accept-encoding"), Some("br, gzip, deflate"));
    }

    // 64 MB of one character in 64 KB: neither the JSON limit nor that of documents lets it unfold.
    let bomb = gzip(&vec![b'0'; 1 << 26]);
    for path in ["search", "documents/bomb"] {
        let reply = send("gzip", path, bomb.clone()).await;
        assert_eq!((reply.status, reply.problem().as_str()), (413, "too_large"), "{path}");
    }
    let mut brotli = Vec::new();
    let mut encoder = async_compression::tokio::write::BrotliEncoder::new(&mut brotli);
    tokio::io::AsyncWriteExt::write_all(&mut encoder, &vec![b'0'; 1 << 26]).await.unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut encoder).await.unwrap();
    let reply = send("br", "documents/bomb", brotli).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "too_large"), "brotli");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_at_the_limit_fits_and_one_byte_more_does_not() {
    let (_app, acme, base) = with_base().await;
    let path = format!("{base}/documents/long");
    let fits =
        acme.client.send_bytes(Method::PUT, &path, "text/plain", "word ".repeat(2 << 20)[..2 << 20].to_owned()).await;
    assert_eq!(fits.status, 200, "{fits:?}");
    let reply = acme.client.send_bytes(Method::PUT, &path, "text/plain", vec![b'x'; (2 << 20) + 1]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "too_large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_and_methods_that_are_not_there() {
    let (_app, acme, base) = with_base().await;
    let reply = acme.client.get("/v1/nothing").await;
    assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"));
    let reply = acme.client.get(&format!("{base}/search")).await;
    assert_eq!(
        (reply.status, reply.problem().as_str(), reply.header("allow")),
        (405, "method_not_allowed", Some("POST, OPTIONS"))
    );
    for bad in ["%ff", "%00", "not-an-id"] {
        let reply = acme.client.get(&format!("/v1/knowledge-bases/{bad}")).await;
        assert!(matches!(reply.status, 400 | 404), "{bad}: {reply:?}");
        reply.problem();
    }
    let reply = acme.client.get(&format!("{base}/documents/{}", "x".repeat(2_000))).await;
    assert!(matches!(reply.status, 400 | 404), "{reply:?}");
    let reply = acme.client.get(&format!("{base}/documents/a%00b")).await;
    assert!(matches!(reply.status, 400 | 404), "{reply:?}");
    reply.problem();
}

#[tokio::test(flavor = "multi_thread")]
async fn document_fields_are_checked() {
    let (_app, acme, base) = with_base().await;
    let deep = (0..70).fold(json!(1), |inner, _| json!({ "a": inner }));
    for (document, field) in [
        (json!({ "content": "a", "title": "t".repeat(1_001) }), "title"),
        (json!({ "content": "a", "source_url": "u".repeat(4_097) }), "source_url"),
        (json!({ "content": "a", "metadata": { "k": "v".repeat(20_000) } }), "metadata"),
        (json!({ "content": "a", "metadata": "text" }), "metadata"),
        (json!({ "content": 1 }), "content"),
    ] {
        let reply = acme.client.put(&format!("{base}/documents/b"), &document).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{field}");
        assert_eq!(reply.json()["fields"][0]["field"], field);
    }
    for document in [
        json!({ "content": "a", "metadata": deep }),
        json!({ "content": "a\u{0}b" }),
        json!({ "content": "a", "metadata": { "k\u{0}": 1 } }),
    ] {
        let reply = acme.client.put(&format!("{base}/documents/b"), &document).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"));
    }
    let nested = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for metadata in
        [r#"[1]"#, r#"{"a": "\u0000"}"#, r#"{"\u0000": 1}"#, r#"{"a": [1.795e308]}"#, &nested(64), &nested(70)]
    {
        let reply = put_with_metadata(&acme, &base, metadata).await;
        assert_eq!((reply.status, reply.json()["fields"][0]["field"].as_str()), (400, Some("metadata")), "{metadata}");
    }
    let document = json!({ "content": "a", "metadata": { "a": 1.795e308 } });
    let reply = acme.client.put(&format!("{base}/documents/b"), &document).await;
    assert_eq!((reply.status, reply.json()["fields"][0]["field"].as_str()), (400, Some("metadata")));
    for metadata in [r#"{"a": [-1.79e308, 18446744073709551615]}"#, &nested(63)] {
        assert_eq!(put_with_metadata(&acme, &base, metadata).await.status, 200, "{metadata}");
    }
    // In a document as it is, a NUL is dropped, as other control characters are.
    let reply = acme.client.send_bytes(Method::PUT, &format!("{base}/documents/b"), "text/plain", "a\0b").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let chunks = acme.client.get(&format!("{base}/documents/b/chunks")).await.json();
    assert_eq!(chunks["items"][0]["content"], "ab");
}

async fn put_with_metadata(tenant: &Tenant, base: &str, metadata: &str) -> Reply {
    let metadata = percent_encoding::utf8_percent_encode(metadata, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("{base}/documents/b?metadata={metadata}");
    tenant.client.send_bytes(Method::PUT, &path, "text/plain", "a").await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_bodies_are_cut_off() {
    let (app, acme, base) = with_base().await;
    let answer = app.client().raw(b"GET / HTTP/1.1\r\nHost: t\r\nX-Slow: ").await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");

    let key = acme.client.request(Method::POST, "/").body(()).unwrap().headers()["authorization"]
        .to_str()
        .unwrap()
        .to_owned();
    let head = format!(
        "POST {base}/search HTTP/1.1\r\nHost: t\r\nAuthorization: {key}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{\"que"
    );
    let answer = app.client().raw(head.as_bytes()).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_fill_the_memory_are_turned_away_until_there_is_room() {
    let app = TestApp::start_with(&[
        ("TERTULIA_SERVER_DOCUMENT_BYTES_MAX", "2000"),
        ("TERTULIA_SERVER_DOCUMENTS_HELD_BYTES_MAX", "2000"),
    ])
    .await;
    let acme = app.tenant("acme").await;
    let base = acme.knowledge_base("manual").await;
    let path = format!("/v1/knowledge-bases/{base}/documents/a");
    let put =
        async |bytes: usize| acme.client.send_bytes(Method::PUT, &path, "text/plain", "x ".repeat(bytes / 2)).await;
    assert_eq!(put(2_000).await.status, 200);

    let head = acme.client.request(Method::PUT, "/").body(()).unwrap();
    let key = head.headers()["authorization"].to_str().unwrap();
    let begun = format!(
        "PUT {path} HTTP/1.1\r\nHost: t\r\nAuthorization: {key}\r\nContent-Type: text/plain\r\nContent-Length: 2000\r\n\r\n{}",
        "y".repeat(1_000)
    );
    // The slow one is turned away itself where the quick one comes first, so each try has its own.
    let (refused, slow) = until("half of the room is taken", async || {
        let mut slow = tokio::net::TcpStream::connect(acme.client.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut slow, begun.as_bytes()).await.unwrap();
        acme.client.get("/healthz").await;
        let quick = put(1_002).await;
        (quick.status != 200).then_some((quick, slow))
    })
    .await;
    assert_eq!((refused.status, refused.problem().as_str()), (503, "unavailable"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    until("only the slow one of this try is left", async || (put(1_000).await.status == 200).then_some(())).await;
    drop(slow);
    until("the room is given back", async || (put(2_000).await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_or_no_http() {
    let (app, _acme, _base) = with_base().await;
    let large = format!("GET / HTTP/1.1\r\nHost: t\r\nX-Large: {}\r\n\r\n", "x".repeat(100_000));
    let answer = app.client().raw(large.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    let answer = app.client().raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(app.client().get("/healthz").await.status, 200);
}
