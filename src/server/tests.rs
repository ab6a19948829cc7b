//! Connections from the client's side, over real sockets. The service is a few paths that do what a handler might.

#![expect(clippy::disallowed_methods, reason = "the clients of a test are not drained")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::join_all};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{Request, Response, body::Frame, body::Incoming, client::conn, header};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{ConnInfo, Server};
use crate::config::{Config, ServerConfig};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// The time limit under test, where one is.
const LIMIT: Duration = Duration::from_millis(300);

/// What handlers of one test share with it.
#[derive(Clone)]
struct Stage {
    /// A permit lets one `/wait` answer.
    curtain: Arc<Semaphore>,
    /// `/wait` requests that have begun and are not yet answered or dropped.
    waiting: Arc<AtomicUsize>,
    /// Bytes of `/endless` that were asked for.
    pulled: Arc<AtomicUsize>,
}

struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(
    stage: Stage,
    request: Request<Incoming>,
    conn: ConnInfo,
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let full = |text: String| Full::new(Bytes::from(text)).boxed_unsync();
    let body = match request.uri().path() {
        "/wait" => {
            let Ok(_request) = conn.requests.clone().try_acquire_owned() else {
                return Response::builder().status(503).body(full("busy".into())).unwrap();
            };
            stage.waiting.fetch_add(1, Ordering::SeqCst);
            let _waiting = Waiting(stage.waiting.clone());
            stage.curtain.acquire().await.unwrap().forget();
            full("waited".into())
        }
        "/endless" => {
            let piece = Bytes::from(vec![b'x'; 64 * 1024]);
            let pieces = futures_util::stream::repeat_with(move || {
                stage.pulled.fetch_add(piece.len(), Ordering::SeqCst);
                Ok(Frame::data(piece.clone()))
            });
            StreamBody::new(pieces).boxed_unsync()
        }
        "/large" => Full::new(Bytes::from(vec![b'x'; 64 << 20])).boxed_unsync(),
        "/panic" => panic!("as the test asked for"),
        "/length" => full(request.into_body().collect().await.unwrap().to_bytes().len().to_string()),
        path => full(format!("{path} on {} for {}", conn.shard, conn.peer.ip())),
    };
    Response::new(body)
}

struct TestServer {
    server: Server,
    stage: Stage,
}

impl TestServer {
    fn start(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = Config::default().server;
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.shards = 1;
        change(&mut config);
        let stage = Stage { curtain: Arc::new(Semaphore::new(0)), waiting: Arc::default(), pulled: Arc::default() };
        let shared = stage.clone();
        let service = move |request, conn| answer(shared.clone(), request, conn);
        let server = Server::start(Server::bind(&config).unwrap(), service).unwrap();
        Self { server, stage }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.local_addr()).await.unwrap()
    }

    async fn connect_h2(&self, stream_window: u32) -> conn::http2::SendRequest<Full<Bytes>> {
        h2_over(self.connect().await, stream_window).await
    }

    fn open(&self) -> usize {
        self.server.counters().open().iter().sum()
    }

    async fn all_closed(&self) {
        until("every connection is closed", || self.open() == 0).await;
    }

    async fn handler_waits(&self, requests: usize) {
        until("handlers wait", || self.stage.waiting.load(Ordering::SeqCst) == requests).await;
    }
}

async fn h2_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    stream_window: u32,
) -> conn::http2::SendRequest<Full<Bytes>> {
    let mut builder = conn::http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).initial_stream_window_size(stream_window);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn(connection.map(drop));
    sender
}

/// Waits until `holds` does.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

fn h2_get(path: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(format!("http://test{path}")).body(Full::default()).unwrap()
}

/// Reads one answer with a `Content-Length`, as text.
async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let read = async {
        let mut text = String::new();
        let mut byte = [0; 1];
        while !text.ends_with("\r\n\r\n") {
            assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "the answer ends within its head: {text:?}");
            text.push(char::from(byte[0]));
        }
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("content-length");
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        text + std::str::from_utf8(&body).unwrap()
    };
    timeout(PATIENCE, read).await.expect("an answer in time")
}

/// Reads until the server closes: cleanly, or by a reset where that is what it should do.
async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("a close in time")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn h2_text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request_and_closed_when_idle() {
    let server = TestServer::start(|config| config.head_timeout = LIMIT);
    let mut client = server.connect().await;
    for path in ["/a", "/b"] {
        client.write_all(get(path).as_bytes()).await.unwrap();
        assert!(read_answer(&mut client).await.ends_with(&format!("{path} on 0 for 127.0.0.1")));
    }
    let idle_since = Instant::now();
    assert_eq!(read_to_end(&mut client).await.unwrap(), "");
    assert!(idle_since.elapsed() > LIMIT / 2);
    server.all_closed().await;
    assert_eq!(server.server.stop().await, 0);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::start(|_| ());
    let mut client = server.connect().await;
    let requests: String = (0..50).map(|i| get(&format!("/{i}"))).collect();
    client.write_all(requests.as_bytes()).await.unwrap();
    for i in 0..50 {
        assert!(read_answer(&mut client).await.contains(&format!("/{i} on")));
    }
}

#[tokio::test]
async fn http2_by_prior_knowledge_answers_many_streams_and_is_closed_when_idle() {
    let server = TestServer::start(|config| config.head_timeout = LIMIT);
    let mut sender = server.connect_h2(65_535).await;
    let answers = join_all((0..50).map(|i| sender.send_request(h2_get(&format!("/{i}"))))).await;
    for (i, response) in answers.into_iter().enumerate() {
        assert!(h2_text(response.unwrap()).await.contains(&format!("/{i} on")));
    }
    assert_eq!(server.server.counters().accepted(), 1);
    until("the idle connection is closed", || sender.is_closed()).await;
    server.all_closed().await;
}

#[tokio::test]
async fn an_idle_http2_client_is_told_to_go_and_cut_if_it_does_not() {
    let server = TestServer::start(|config| config.head_timeout = LIMIT);
    let mut client = server.connect().await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frames = Vec::new();
    let _ = timeout(PATIENCE, client.read_to_end(&mut frames)).await.expect("a close in time");
    let mut types = Vec::new();
    while let [a, b, c, kind, ..] = frames[..] {
        types.push(kind);
        frames.drain(..9 + u32::from_be_bytes([0, a, b, c]) as usize);
    }
    assert!(types.contains(&7), "no GOAWAY among the frames {types:?}");
    server.all_closed().await;
}

/// A server with a certificate of its own, and a connector that trusts it and offers `alpn`.
fn tls_server(change: impl FnOnce(&mut ServerConfig)) -> (TestServer, impl Fn(&[&str]) -> tokio_rustls::TlsConnector) {
    let dir = tempfile::tempdir().unwrap();
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["test".to_owned()]).unwrap();
    let (cert_path, key_path) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert_path, cert.pem()).unwrap();
    std::fs::write(&key_path, signing_key.serialize_pem()).unwrap();
    let server = TestServer::start(|config| {
        config.tls_cert = Some(cert_path);
        config.tls_key = Some(key_path);
        change(config);
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let connector = move |alpn: &[&str]| {
        let mut config = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config).into()
    };
    (server, connector)
}

#[tokio::test]
async fn tls_speaks_what_the_client_offers() {
    let (server, connector) = tls_server(|_| ());
    for (alpn, expected) in [(&["http/1.1"][..], Some("http/1.1")), (&["h2", "http/1.1"], Some("h2")), (&[], None)] {
        let stream = connector(alpn).connect("test".try_into().unwrap(), server.connect().await).await;
        let mut stream = stream.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), expected.map(str::as_bytes));
        if expected == Some("h2") {
            let response = h2_over(stream, 65_535).await.send_request(h2_get("/tls")).await.unwrap();
            assert!(h2_text(response).await.starts_with("/tls on"));
        } else {
            stream.write_all(get("/tls").as_bytes()).await.unwrap();
            assert!(read_answer(&mut stream).await.contains("/tls on"));
        }
    }
    assert_eq!(server.server.stop().await, 0);
}

#[tokio::test]
async fn a_tls_handshake_that_takes_too_long_or_is_none_is_ended() {
    let (server, _) = tls_server(|config| config.head_timeout = LIMIT);
    let mut silent = server.connect().await;
    let mut plain = server.connect().await;
    plain.write_all(get("/").as_bytes()).await.unwrap();
    let _ = read_to_end(&mut plain).await;
    let _ = read_to_end(&mut silent).await;
    server.all_closed().await;
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_the_connection_however_it_drips() {
    let server = TestServer::start(|config| config.head_timeout = LIMIT);
    for start in [
        "",
        "GET / HTT",
        "GET / HTTP/1.1\r\nhost: te",
        "PRI * HTTP/2.0\r\n\r\nSM",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0",
    ] {
        let began_at = Instant::now();
        let (mut reader, mut writer) = server.connect().await.into_split();
        writer.write_all(start.as_bytes()).await.unwrap();
        // One byte at a time must not gain it time: the write fails once the server has closed.
        let drips = async {
            while start.contains("host") && writer.write_all(b"t").await.is_ok() {
                tokio::time::sleep(LIMIT / 10).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = read_to_end(&mut reader) => {}
            () = drips => {}
        }
        assert!(began_at.elapsed() >= LIMIT / 2, "{start:?} was cut at once");
    }
    server.all_closed().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_and_costs_bounded_memory() {
    let server = TestServer::start(|config| config.write_timeout = LIMIT);
    let mut client = server.connect().await;
    client.write_all(get("/endless").as_bytes()).await.unwrap();
    until("it is cut", || server.server.counters().stalled() == 1).await;
    server.all_closed().await;
    // What was pulled lies in the two kernels' socket buffers, which are no longer ours, but for what hyper holds.
    assert!(server.stage.pulled.load(Ordering::SeqCst) < 32 << 20);
    assert!(read_to_end(&mut client).await.is_err(), "what was not read is thrown away by a reset");
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_an_answer_in_one_piece_is_cut() {
    let server = TestServer::start(|config| config.write_timeout = LIMIT);
    let mut client = server.connect().await;
    client.write_all(get("/large").as_bytes()).await.unwrap();
    until("it is cut", || server.server.counters().stalled() == 1).await;
    server.all_closed().await;
}

#[tokio::test]
async fn an_http2_client_that_opens_no_window_is_cut_though_it_answers_pings() {
    let server = TestServer::start(|config| config.write_timeout = LIMIT);
    let mut sender = server.connect_h2(1_000).await;
    let response = sender.send_request(h2_get("/endless")).await.unwrap();
    until("it is cut", || server.server.counters().stalled() == 1).await;
    server.all_closed().await;
    assert!(server.stage.pulled.load(Ordering::SeqCst) <= 128 << 10);
    drop(response);
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_steadily_is_not_cut() {
    let server = TestServer::start(|config| config.write_timeout = LIMIT);
    let mut client = server.connect().await;
    client.write_all(get("/endless").as_bytes()).await.unwrap();
    let mut piece = vec![0; 1 << 20];
    let began_at = Instant::now();
    while began_at.elapsed() < LIMIT * 4 {
        client.read_exact(&mut piece).await.unwrap();
        tokio::time::sleep(LIMIT / 10).await;
    }
    assert_eq!(server.server.counters().stalled(), 0);
}

#[tokio::test]
async fn one_connection_too_many_gets_503_and_a_freed_place_is_given_again() {
    let server = TestServer::start(|config| (config.shards, config.connections_max) = (2, 3));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.write_all(get("/").as_bytes()).await.unwrap();
        assert!(read_answer(&mut client).await.starts_with("HTTP/1.1 200"));
        clients.push(client);
    }
    for refused in 1..=5 {
        let mut client = server.connect().await;
        client.write_all(get("/").as_bytes()).await.unwrap();
        let answer = read_to_end(&mut client).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
        let body: serde_json::Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(body["code"], "unavailable");
        assert_eq!(server.server.counters().refused(), refused);
    }
    drop(clients.pop());
    until("a place is free", || server.open() == 2).await;
    let mut client = server.connect().await;
    client.write_all(get("/").as_bytes()).await.unwrap();
    assert!(read_answer(&mut client).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn past_the_limit_no_tls_handshake_is_begun() {
    let (server, connector) = tls_server(|config| config.connections_max = 1);
    let _kept = connector(&[]).connect("test".try_into().unwrap(), server.connect().await).await.unwrap();
    assert!(connector(&[]).connect("test".try_into().unwrap(), server.connect().await).await.is_err());
    assert_eq!(server.server.counters().refused(), 1);
}

#[tokio::test]
async fn shards_stay_level_however_connections_come_and_go() {
    let server = TestServer::start(|config| config.shards = 4);
    let mut clients = Vec::new();
    // A fixed linear congruential generator picks who leaves.
    let mut random = 1_u64;
    for round in 1..=5 {
        while clients.len() < 200 {
            clients.push(server.connect().await);
        }
        until("all are handed over", || server.open() == 200).await;
        let open = server.server.counters().open();
        let (most, least) = (open.iter().max().unwrap(), open.iter().min().unwrap());
        assert!(*most as f64 / *least as f64 <= 1.1, "round {round}: {open:?}");
        for _ in 0..100 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            clients.swap_remove((random >> 33) as usize % clients.len());
        }
        until("those who left are noticed", || server.open() == 100).await;
    }
}

#[tokio::test]
async fn a_stop_lets_requests_finish_and_closes_idle_connections() {
    let server = TestServer::start(|config| {
        config.shards = 2;
        // An address that no other test uses, so that nobody takes the port when it is free.
        config.listen = "127.0.0.2:0".parse().unwrap();
    });
    let mut idle = server.connect().await;
    idle.write_all(get("/").as_bytes()).await.unwrap();
    read_answer(&mut idle).await;
    let mut silent = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(get("/wait").as_bytes()).await.unwrap();
    let mut sender = server.connect_h2(65_535).await;
    let busy_h2 = tokio::task::spawn(sender.send_request(h2_get("/wait")));
    server.handler_waits(2).await;
    until("all are handed over", || server.open() == 4).await;

    let address = server.server.local_addr();
    let stage = server.stage.clone();
    let stop = tokio::task::spawn(server.server.stop());
    assert_eq!(read_to_end(&mut idle).await.unwrap(), "");
    assert_eq!(read_to_end(&mut silent).await.unwrap(), "");
    assert!(TcpStream::connect(address).await.is_err(), "it no longer listens");
    assert!(!stop.is_finished());
    stage.curtain.add_permits(2);
    let answer = read_to_end(&mut busy).await.unwrap();
    // Whether the head already says `connection: close` depends on which its task hears of first: the stop or the answer.
    assert!(answer.ends_with("waited"), "{answer}");
    assert_eq!(h2_text(busy_h2.await.unwrap().unwrap()).await, "waited");
    assert_eq!(stop.await.unwrap(), 0);
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_finish_in_time_and_says_how_many() {
    let server = TestServer::start(|config| (config.shards, config.drain_timeout) = (2, LIMIT));
    let mut stuck = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.write_all(get("/wait").as_bytes()).await.unwrap();
        stuck.push(client);
    }
    let mut sender = server.connect_h2(65_535).await;
    let stuck_h2 = tokio::task::spawn(sender.send_request(h2_get("/wait")));
    server.handler_waits(4).await;
    let began_at = Instant::now();
    assert_eq!(server.server.stop().await, 4);
    assert!(began_at.elapsed() >= LIMIT && began_at.elapsed() < PATIENCE);
    assert_eq!(server.stage.waiting.load(Ordering::SeqCst), 0, "the handlers were dropped");
    assert!(stuck_h2.await.unwrap().is_err());
    for client in &mut stuck {
        assert_eq!(read_to_end(client).await.unwrap_or_default(), "");
    }
}

#[tokio::test]
async fn garbage_is_refused_and_harms_nobody() {
    let server = TestServer::start(|config| config.head_timeout = LIMIT);
    let mut neighbour = server.connect().await;
    let garbage: [&[u8]; 6] = [
        b"\0\x01\x02\xff\xfe\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for bytes in garbage {
        let mut client = server.connect().await;
        client.write_all(bytes).await.unwrap();
        let answer = read_to_end(&mut client).await.unwrap();
        assert!(!answer.contains("HTTP/1.1 200"), "{answer}");
    }
    neighbour.write_all(get("/").as_bytes()).await.unwrap();
    assert!(read_answer(&mut neighbour).await.contains("HTTP/1.1 200"));
    assert_eq!(server.server.counters().panicked(), 0);
}

#[tokio::test]
async fn a_head_too_large_is_answered_431() {
    let server = TestServer::start(|config| config.head_bytes_max = 8_192);
    let long = format!("GET / HTTP/1.1\r\nhost: test\r\nx-long: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nhost: test\r\n{}\r\n", "x-a: b\r\n".repeat(101));
    for request in [long, many] {
        let mut client = server.connect().await;
        // The server may have answered and closed before all of it is written.
        let _ = client.write_all(request.as_bytes()).await;
        let answer = read_to_end(&mut client).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let mut sender = server.connect_h2(65_535).await;
    let mut request = h2_get("/");
    request.headers_mut().insert("x-long", header::HeaderValue::from_str(&"x".repeat(12_000)).unwrap());
    assert!(sender.send_request(request).await.map_or(true, |response| response.status() == 431));
}

#[tokio::test]
async fn an_answer_given_before_the_body_was_read_reaches_a_client_that_goes_on_sending() {
    let server = TestServer::start(|_| ());
    let (mut reader, mut writer) = server.connect().await.into_split();
    let head = format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", 8 << 20);
    let upload = async move {
        writer.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![0; 1 << 20];
        for _ in 0..8 {
            writer.write_all(&piece).await.expect("the server takes it all");
        }
    };
    let (answer, ()) = tokio::join!(read_to_end(&mut reader), upload);
    assert!(answer.unwrap().contains("/ on 0"));
}

#[tokio::test]
async fn a_body_is_read_over_both_protocols() {
    let server = TestServer::start(|_| ());
    let body = vec![b'x'; 300_000];
    let mut client = server.connect().await;
    let head = format!("POST /length HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", body.len());
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&body).await.unwrap();
    assert!(read_answer(&mut client).await.ends_with("300000"));
    let mut sender = server.connect_h2(65_535).await;
    let request = Request::post("http://test/length").body(Full::new(Bytes::from(body))).unwrap();
    assert_eq!(h2_text(sender.send_request(request).await.unwrap()).await, "300000");
}

#[tokio::test]
async fn a_client_that_closed_its_sending_side_gets_its_answer() {
    let server = TestServer::start(|_| ());
    let mut quick = server.connect().await;
    quick.write_all((get("/a") + &get("/b")).as_bytes()).await.unwrap();
    quick.shutdown().await.unwrap();
    let answers = read_to_end(&mut quick).await.unwrap();
    assert!(answers.contains("/a on") && answers.contains("/b on"), "{answers}");

    let mut waits = server.connect().await;
    waits.write_all(get("/wait").as_bytes()).await.unwrap();
    waits.shutdown().await.unwrap();
    server.handler_waits(1).await;
    server.stage.curtain.add_permits(1);
    assert!(read_to_end(&mut waits).await.unwrap().ends_with("waited"));
}

#[tokio::test]
async fn the_work_for_a_client_that_is_gone_is_stopped() {
    let server = TestServer::start(|_| ());
    let mut client = server.connect().await;
    client.write_all(get("/wait").as_bytes()).await.unwrap();
    server.handler_waits(1).await;
    drop(client);
    server.handler_waits(0).await;

    let mut sender = server.connect_h2(65_535).await;
    let request = tokio::task::spawn(sender.send_request(h2_get("/wait")));
    server.handler_waits(1).await;
    // The stream is reset; the connection lives on.
    request.abort();
    server.handler_waits(0).await;
    assert!(sender.send_request(h2_get("/")).await.unwrap().status().is_success());

    // A runtime that is shut down takes the client's socket with it.
    let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = server.server.local_addr();
    elsewhere.spawn(async move {
        let mut sender = h2_over(TcpStream::connect(address).await.unwrap(), 65_535).await;
        sender.send_request(h2_get("/wait")).await
    });
    server.handler_waits(1).await;
    elsewhere.shutdown_background();
    server.handler_waits(0).await;
}

#[tokio::test]
async fn a_panic_costs_one_request_and_is_counted() {
    let server = TestServer::start(|_| ());
    let mut neighbour = server.connect().await;
    let mut client = server.connect().await;
    client.write_all(get("/panic").as_bytes()).await.unwrap();
    assert_eq!(read_to_end(&mut client).await.unwrap(), "");
    until("it is counted", || server.server.counters().panicked() == 1).await;

    let mut sender = server.connect_h2(65_535).await;
    assert!(sender.send_request(h2_get("/panic")).await.is_err());
    until("it is counted", || server.server.counters().panicked() == 2).await;
    assert!(sender.send_request(h2_get("/")).await.unwrap().status().is_success(), "other streams go on");
    neighbour.write_all(get("/").as_bytes()).await.unwrap();
    assert!(read_answer(&mut neighbour).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn requests_under_way_are_limited_where_the_route_says_so() {
    let server = TestServer::start(|config| config.requests_max = 1);
    let mut first = server.connect().await;
    first.write_all(get("/wait").as_bytes()).await.unwrap();
    server.handler_waits(1).await;
    let mut second = server.connect().await;
    second.write_all((get("/wait") + &get("/other")).as_bytes()).await.unwrap();
    assert!(read_answer(&mut second).await.starts_with("HTTP/1.1 503"));
    assert!(read_answer(&mut second).await.starts_with("HTTP/1.1 200"), "other routes are still answered");
    server.stage.curtain.add_permits(1);
    assert!(read_answer(&mut first).await.ends_with("waited"));
}
