//! One thread that accepts, and hands each socket to the shard with the fewest connections.
//!
//! `SO_REUSEPORT` would need no hand-over, but spreads by hash: unevenly, and a connection may live for hours.

use std::{
    io,
    net::{self, SocketAddr},
    sync::Arc,
    sync::atomic::Ordering,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Counters, Slot, Socket};

/// Pause after an error that will be there again at once, such as no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// Such errors are logged once in this time.
const ERROR_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Clients that may be on their way of being told 503; past it they are closed without a word.
const REFUSALS_MAX: usize = 256;
/// Longest that a client gets to read its 503.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Body of the 503 that is given without having read the request.
const REFUSAL: &str = concat!(
    r#"{"type":"about:blank","title":"Temporarily unavailable","status":503,"#,
    r#""detail":"as many connections as may be are open","code":"unavailable"}"#
);

pub(super) struct Acceptor {
    pub(super) has_tls: bool,
    pub(super) inboxes: Vec<mpsc::Sender<Socket>>,
    pub(super) counters: Arc<Counters>,
    pub(super) connections_max: usize,
    pub(super) stopping: CancellationToken,
}

impl Acceptor {
    /// Accepts until told to stop; then the port is free and the shards' inboxes are closed.
    pub(super) async fn run(self, listener: net::TcpListener) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "cannot wait for connections"),
        };
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        let mut told_at: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return,
                accepted = listener.accept() => accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))),
            };
            let error = match accepted {
                Ok((stream, peer)) => {
                    self.hand_over(stream, peer, &refusals);
                    continue;
                }
                Err(error) => error,
            };
            if is_of_one_connection(&error) {
                continue;
            }
            if told_at.is_none_or(|at| at.elapsed() > ERROR_LOG_INTERVAL) {
                told_at = Some(Instant::now());
                tracing::warn!(%error, "connections cannot be accepted");
            }
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// To the shard with the fewest connections; to the next if its inbox is full.
    fn hand_over(&self, mut stream: net::TcpStream, peer: SocketAddr, refusals: &Arc<Semaphore>) {
        // Answers are written whole, so waiting for more to send along only costs time.
        let _ = stream.set_nodelay(true);
        let mut by_load: Vec<_> =
            self.counters.open.iter().map(|count| count.load(Ordering::Relaxed)).enumerate().collect();
        if by_load.iter().map(|(_, open)| open).sum::<usize>() < self.connections_max {
            by_load.sort_by_key(|(_, open)| *open);
            for (shard, _) in by_load {
                let socket = Socket { stream, peer, slot: Slot::take(&self.counters, shard) };
                match self.inboxes[shard].try_send(socket) {
                    Ok(()) => {
                        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    Err(back) => stream = back.into_inner().stream,
                }
            }
        }
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        // A client that speaks TLS could not read it, and a handshake is the work that there is no room for.
        if !self.has_tls
            && let Ok(permit) = refusals.clone().try_acquire_owned()
        {
            tokio::task::spawn_local(async move {
                let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream)).await;
                drop(permit);
            });
        }
    }
}

/// Whether an error of `accept` concerns a connection that is gone already, and not the next one.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Says 503, and waits until the client has hung up: closing with its request unread would reset the connection, and
/// the answer with it.
async fn refuse(stream: net::TcpStream) -> io::Result<()> {
    let mut stream = TcpStream::from_std(stream)?;
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{REFUSAL}",
        REFUSAL.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_file_descriptors_is_no_matter_of_one_connection() {
        for (errno, expected) in [
            (rustix::io::Errno::MFILE, false),
            (rustix::io::Errno::NFILE, false),
            (rustix::io::Errno::NOBUFS, false),
            (rustix::io::Errno::CONNABORTED, true),
        ] {
            assert_eq!(is_of_one_connection(&errno.into()), expected, "{errno}");
        }
    }
}
