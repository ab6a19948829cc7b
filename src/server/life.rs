//! What a connection is waiting for, and since when: the one place where a client that does nothing, or reads
//! nothing, is told from one that is being served.
//!
//! The wire and the bodies write down what moves, and the connection's one alarm looks at it now and then, so a write
//! costs no timer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// Bytes from which a write counts as progress of an answer. Pings and window updates are smaller: a client that
/// answers those and reads nothing is no better than one that does nothing.
const PROGRESS_BYTES_MIN: usize = 256;

/// Shared by a connection, its wire and its answers, all on one thread; atomics because an upgraded wire must be
/// `Send`.
#[derive(Debug)]
pub(super) struct Life {
    born: Instant,
    /// Requests whose answer is not handed over completely.
    requests: AtomicUsize,
    /// Answers of which a piece was handed over and the next not yet asked for.
    waiting_answers: AtomicUsize,
    /// The socket takes no more bytes.
    is_blocked: AtomicBool,
    /// When the last request ended, in milliseconds since birth.
    idle_at: AtomicU64,
    /// When something last moved towards the client or began to wait for it, in milliseconds since birth.
    moved_at: AtomicU64,
    is_cut: AtomicBool,
}

/// What the alarm finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Nothing that could be held against it before this moment.
    Fine(Instant),
    /// No request for the time that an idle connection, or a head on its way, gets.
    Idle,
    /// The client has not read for the time that it gets.
    Stalled,
}

impl Life {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            born: Instant::now(),
            requests: 0.into(),
            waiting_answers: 0.into(),
            is_blocked: false.into(),
            idle_at: 0.into(),
            moved_at: 0.into(),
            is_cut: false.into(),
        })
    }

    /// Judges the connection now. `Fine` never lies further off than the shorter of the two times, so each is kept
    /// exactly.
    pub(super) fn look(&self, idle_timeout: Duration, write_timeout: Duration) -> Finding {
        let now = self.born.elapsed();
        let left = |since: &AtomicU64, timeout: Duration| {
            (Duration::from_millis(since.load(Relaxed)) + timeout).checked_sub(now).filter(|left| !left.is_zero())
        };
        let mut next = idle_timeout.min(write_timeout);
        if self.is_blocked.load(Relaxed) || self.waiting_answers.load(Relaxed) > 0 {
            match left(&self.moved_at, write_timeout) {
                None => return Finding::Stalled,
                Some(left) => next = next.min(left),
            }
        } else if self.requests.load(Relaxed) == 0 {
            match left(&self.idle_at, idle_timeout) {
                None => return Finding::Idle,
                Some(left) => next = next.min(left),
            }
        }
        Finding::Fine(self.born + now + next)
    }

    /// When something last moved, to see whether anything did since.
    pub(super) fn moved_at(&self) -> u64 {
        self.moved_at.load(Relaxed)
    }

    /// Whether a request is being answered.
    pub(super) fn is_answering(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// The wire took `bytes`.
    pub(super) fn wrote(&self, bytes: usize) {
        self.is_blocked.store(false, Relaxed);
        if bytes >= PROGRESS_BYTES_MIN {
            self.moved_at.store(self.age_ms(), Relaxed);
        }
    }

    /// The wire takes no more for now.
    pub(super) fn blocked(&self) {
        if !self.is_blocked.swap(true, Relaxed) {
            self.moved_at.store(self.age_ms(), Relaxed);
        }
    }

    /// Marks the connection as cut: its socket is reset, and what the client did not read is not kept for it.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Relaxed);
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A request under way, until its answer is handed over completely or dropped.
pub(super) struct Exchange {
    life: Arc<Life>,
    is_waiting: bool,
}

impl Exchange {
    pub(super) fn begin(life: &Arc<Life>) -> Self {
        life.requests.fetch_add(1, Relaxed);
        Self { life: life.clone(), is_waiting: false }
    }

    /// Whether it is the client, and not the handler, that the answer waits for.
    fn set_waiting(&mut self, is_waiting: bool) {
        if is_waiting != self.is_waiting {
            self.is_waiting = is_waiting;
            let waiting = &self.life.waiting_answers;
            if is_waiting {
                waiting.fetch_add(1, Relaxed)
            } else {
                waiting.fetch_sub(1, Relaxed)
            };
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.set_waiting(false);
        if self.life.requests.fetch_sub(1, Relaxed) == 1 {
            self.life.idle_at.store(self.life.age_ms(), Relaxed);
        }
    }
}

/// An answer's body, which keeps its exchange alive and notes when the client keeps it waiting: over HTTP/2 a client
/// that opens no window stalls its answer and not the socket.
pub(super) struct Answer<B> {
    body: B,
    exchange: Exchange,
}

impl<B: Body> Answer<B> {
    pub(super) fn new(body: B, exchange: Exchange) -> Self {
        Self { body, exchange }
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.exchange.set_waiting(false);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_some() {
            self.exchange.life.moved_at.store(self.exchange.life.age_ms(), Relaxed);
            self.exchange.set_waiting(true);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    const IDLE: Duration = Duration::from_secs(30);
    const WRITE: Duration = Duration::from_secs(10);

    fn later(seconds: u64) -> impl Future<Output = ()> {
        tokio::time::advance(Duration::from_secs(seconds))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_idle_in_the_end() {
        let life = Life::new();
        let born = Instant::now();
        assert_eq!(life.look(IDLE, WRITE), Finding::Fine(born + WRITE));
        later(25).await;
        assert_eq!(life.look(IDLE, WRITE), Finding::Fine(born + IDLE));
        later(5).await;
        assert_eq!(life.look(IDLE, WRITE), Finding::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_under_way_is_never_idle_and_restarts_the_time() {
        let life = Life::new();
        let exchange = Exchange::begin(&life);
        later(1_000).await;
        assert!(matches!(life.look(IDLE, WRITE), Finding::Fine(_)));
        drop(exchange);
        later(29).await;
        assert!(matches!(life.look(IDLE, WRITE), Finding::Fine(_)));
        later(1).await;
        assert_eq!(life.look(IDLE, WRITE), Finding::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_blocked_socket_is_stalled_unless_it_moves() {
        let life = Life::new();
        later(100).await;
        life.blocked();
        later(9).await;
        life.wrote(1);
        life.blocked();
        later(9).await;
        assert!(matches!(life.look(IDLE, WRITE), Finding::Fine(_)));
        life.blocked();
        later(1).await;
        assert_eq!(life.look(IDLE, WRITE), Finding::Stalled);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_waits_for_its_client_is_stalled_and_pings_are_no_progress() {
        let life = Life::new();
        let mut answer = Answer::new(Full::new(bytes::Bytes::from("piece")), Exchange::begin(&life));
        later(100).await;
        assert!(matches!(life.look(IDLE, WRITE), Finding::Fine(_)), "the handler may take its time");
        answer.frame().await;
        later(9).await;
        life.wrote(17);
        later(1).await;
        assert_eq!(life.look(IDLE, WRITE), Finding::Stalled);
        life.wrote(16_384);
        assert!(matches!(life.look(IDLE, WRITE), Finding::Fine(_)), "another answer is moving");
        drop(answer);
        assert!(!life.is_answering());
    }
}
