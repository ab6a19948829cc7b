//! What happens to a socket on its shard: TLS, the telling of HTTP/2 from HTTP/1.1, requests and answers, and each of
//! the ways to end: the client hangs up, does nothing, reads nothing, or the server stops.

use std::{
    convert::Infallible, future::Future, net::SocketAddr, panic::AssertUnwindSafe, pin::pin, rc::Rc, sync::Arc,
    sync::atomic::Ordering, time::Duration,
};

use bytes::Buf;
use futures_util::FutureExt as _;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    rt::Executor,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    ConnInfo, Counters, Socket,
    life::{Answer, Exchange, Finding, Life},
    tls,
    wire::Wire,
};
use crate::config::ServerConfig;

/// HTTP/2 requests that one connection may have under way.
const H2_STREAMS_MAX: u32 = 100;
/// HTTP/2 flow control: what a client may send unasked, for a stream and for the whole connection.
const H2_WINDOW_BYTES: u32 = 64 * 1024;
/// HTTP/2: what is buffered of one answer.
const H2_SEND_BUFFER_BYTES: usize = 64 * 1024;
/// HTTP/2 streams that a client may have reset before they were accepted (CVE-2023-44487).
const H2_PENDING_RESETS_MAX: usize = 20;
/// HTTP/2 streams that a client may make us reset (CVE-2025-8671).
const H2_ERROR_RESETS_MAX: usize = 100;
/// A ping after this time without a sign of life, and the time to answer it.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Time that a connection gets to close after it was asked to for idleness, as long as nothing moves on it.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the connections of one shard have in common.
pub(super) struct Shard {
    index: usize,
    requests: Arc<Semaphore>,
    counters: Arc<Counters>,
    tls: Option<TlsAcceptor>,
    /// HTTP/1.1, or HTTP/2 by prior knowledge.
    either: Builder<Tasks>,
    http1: Builder<Tasks>,
    http2: Builder<Tasks>,
    head_timeout: Duration,
    write_timeout: Duration,
}

impl Shard {
    pub(super) fn new(
        index: usize,
        config: &ServerConfig,
        tls: Option<Arc<rustls::ServerConfig>>,
        counters: Arc<Counters>,
    ) -> Rc<Self> {
        let mut builder = Builder::new(Tasks(counters.clone()));
        // The timer is what makes the timeouts work. The limit of 100 header fields is hyper's own: to set it would
        // cost an allocation for each request. The end of a client's input is judged by the wire, hence no
        // `half_close`.
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(config.head_timeout)
            .max_buf_size(config.head_bytes_max);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS_MAX)
            .initial_stream_window_size(H2_WINDOW_BYTES)
            .initial_connection_window_size(H2_WINDOW_BYTES)
            .max_send_buf_size(H2_SEND_BUFFER_BYTES)
            .max_header_list_size(u32::try_from(config.head_bytes_max).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
            .max_local_error_reset_streams(H2_ERROR_RESETS_MAX)
            .keep_alive_interval(H2_PING_INTERVAL)
            .keep_alive_timeout(H2_PING_TIMEOUT);
        Rc::new(Self {
            index,
            requests: Arc::new(Semaphore::new(config.requests_max)),
            counters,
            tls: tls.map(TlsAcceptor::from),
            http1: builder.clone().http1_only(),
            http2: builder.clone().http2_only(),
            either: builder,
            head_timeout: config.head_timeout,
            write_timeout: config.write_timeout,
        })
    }
}

/// Serves one socket to its end.
pub(super) async fn serve<F, Fut, B>(shard: Rc<Shard>, socket: Socket, draining: CancellationToken, service: F)
where
    F: Fn(Request<Incoming>, ConnInfo) -> Fut,
    Fut: Future<Output = Response<B>> + 'static,
    B: Body<Data: Buf, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let Socket { stream, peer, slot } = socket;
    let life = Life::new();
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => Wire::new(stream, life.clone()),
        Err(error) => return tracing::warn!(%error, "a socket was lost"),
    };
    let connection = async {
        match &shard.tls {
            None => exchange(&shard, &shard.either, stream, peer, &life, &draining, service).await,
            // Boxed, as a future is as large as its largest branch: a plain connection must not pay for TLS.
            Some(tls) => Box::pin(exchange_over_tls(&shard, tls, stream, peer, &life, &draining, service)).await,
        }
    };
    if AssertUnwindSafe(connection).catch_unwind().await.is_err() {
        shard.counters.note_panic();
    }
    drop(slot);
}

/// The handshake, then requests and answers over the protocol that it settled.
async fn exchange_over_tls<F, Fut, B>(
    shard: &Shard,
    tls: &TlsAcceptor,
    stream: Wire,
    peer: SocketAddr,
    life: &Arc<Life>,
    draining: &CancellationToken,
    service: F,
) where
    F: Fn(Request<Incoming>, ConnInfo) -> Fut,
    Fut: Future<Output = Response<B>> + 'static,
    B: Body<Data: Buf, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let handshake = tokio::select! {
        handshake = timeout(shard.head_timeout, tls.accept(stream)) => handshake,
        () = draining.cancelled() => return,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(tls::HTTP_2);
            let builder = if is_http2 { &shard.http2 } else { &shard.http1 };
            exchange(shard, builder, stream, peer, life, draining, service).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "tls handshake failed"),
        Err(_) => tracing::debug!("tls handshake took too long"),
    }
}

/// Requests and answers, until either side ends it.
async fn exchange<F, Fut, B>(
    shard: &Shard,
    builder: &Builder<Tasks>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: SocketAddr,
    life: &Arc<Life>,
    draining: &CancellationToken,
    service: F,
) where
    F: Fn(Request<Incoming>, ConnInfo) -> Fut,
    Fut: Future<Output = Response<B>> + 'static,
    B: Body<Data: Buf, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
{
    let info = ConnInfo { peer, shard: shard.index, requests: shard.requests.clone() };
    let service = service_fn(|request| {
        let exchange = Exchange::begin(life);
        let answer = service(request, info.clone());
        async move { Ok::<_, Infallible>(answer.await.map(|body| Answer::new(body, exchange))) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut drain = pin!(draining.cancelled().fuse());
    let mut alarm = pin!(sleep_until(Instant::now() + shard.head_timeout.min(shard.write_timeout)));
    // How far it had moved when it was last asked to close for idleness.
    let mut said_farewell_at = None;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = &mut drain => connection.as_mut().graceful_shutdown(),
            () = &mut alarm => {
                let next = match life.look(shard.head_timeout, shard.write_timeout) {
                    Finding::Fine(next) => next,
                    Finding::Idle if said_farewell_at == Some(life.moved_at()) => return life.cut(),
                    // What is still on its way to the client goes on as long as it moves: HTTP/2 may hold much of it.
                    Finding::Idle => {
                        said_farewell_at = Some(life.moved_at());
                        connection.as_mut().graceful_shutdown();
                        Instant::now() + FAREWELL.min(shard.head_timeout)
                    }
                    Finding::Stalled => {
                        shard.counters.stalled.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!("a client that reads nothing was cut off");
                        return life.cut();
                    }
                };
                alarm.as_mut().reset(next);
            }
        }
    }
}

/// Runs HTTP/2's streams as tasks of their shard. hyper ends them with their connection.
#[derive(Clone)]
struct Tasks(Arc<Counters>);

impl<Task: Future<Output = ()> + 'static> Executor<Task> for Tasks {
    fn execute(&self, task: Task) {
        let counters = self.0.clone();
        tokio::task::spawn_local(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                counters.note_panic();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;
    use crate::{config::Config, server::Slot};

    #[tokio::test]
    async fn a_plain_connection_is_small() {
        let counters = Arc::new(Counters::new(1));
        let shard = Shard::new(0, &Config::default().server, None, counters.clone());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = listener.local_addr().unwrap();
        let socket =
            Socket { stream: std::net::TcpStream::connect(peer).unwrap(), peer, slot: Slot::take(&counters, 0) };
        let service = |_: Request<Incoming>, _: ConnInfo| async { Response::new(Full::<bytes::Bytes>::default()) };
        let connection = serve(shard, socket, CancellationToken::new(), service);
        // What a client that is silent costs, with the socket and hyper's read buffer (8 KiB).
        assert!(size_of_val(&connection) <= 3 * 1024, "{} bytes", size_of_val(&connection));
    }
}
