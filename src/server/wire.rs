//! The socket as hyper and rustls see it: what moves is noted in the connection's [`Life`], and both ends of it are
//! closed so that the client gets its answer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::life::Life;

/// Longest that the end of a client's input is held back from a request under way. The client may only have closed its
/// sending side and wait for the answer; or it is gone, and the work is stopped after this time.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(1);
/// Longest that input is thrown away after the last answer, so that the client gets to read it.
const LINGER_MAX: Duration = Duration::from_secs(30);
/// Longest pause in that input, after which nothing more is expected. The two are nginx's `lingering_time` and
/// `lingering_timeout`, with a shorter pause.
const LINGER_PAUSE_MAX: Duration = Duration::from_secs(2);

/// A client's socket.
pub(super) struct Wire {
    stream: TcpStream,
    life: Arc<Life>,
    /// Set once our side is closed.
    linger_end: Option<Instant>,
    /// Runs once the client's input has ended, or ours.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, life: Arc<Life>) -> Self {
        Self { stream, life, linger_end: None, alarm: None }
    }

    /// Writes down what came of a write.
    fn noted(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &outcome {
            Poll::Ready(Ok(bytes)) => self.life.wrote(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.life.blocked(),
        }
        outcome
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>, after: Duration) -> Poll<()> {
        self.alarm.get_or_insert_with(|| Box::pin(sleep(after))).as_mut().poll(cx)
    }

    /// Gives the client time to send more, but not for ever.
    fn expect_more(&mut self) {
        let pause_end = Instant::now() + LINGER_PAUSE_MAX;
        let until = self.linger_end.map_or(pause_end, |end| end.min(pause_end));
        self.alarm.get_or_insert_with(|| Box::pin(sleep_until(until))).as_mut().reset(until);
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.remaining();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let has_ended = before > 0 && buf.remaining() == before;
        if has_ended && self.life.is_answering() {
            ready!(self.poll_alarm(cx, HALF_CLOSED_MAX));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.noted(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.noted(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes our side, then throws away what the client still sends, until it closes its own: a socket that is closed
    /// with input unread, or on its way, is reset, and the reset destroys the answer (413 to an upload, say).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger_end.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.linger_end = Some(Instant::now() + LINGER_MAX);
            self.alarm = None;
            self.expect_more();
        }
        let mut ignored = [0; 4096];
        loop {
            let mut input = ReadBuf::new(&mut ignored);
            match Pin::new(&mut self.stream).poll_read(cx, &mut input) {
                Poll::Ready(Ok(())) if !input.filled().is_empty() => self.expect_more(),
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(self.poll_alarm(cx, LINGER_PAUSE_MAX));
                    return Poll::Ready(Ok(()));
                }
            }
            if self.poll_alarm(cx, LINGER_PAUSE_MAX).is_ready() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.life.is_cut() {
            let _ = self.stream.set_zero_linger();
        }
    }
}
