//! A connection's life: bound, accepted, handed to a shard, served, drained. A file is one stage.
//!
//! [`listener`] takes the port before anything else is started; [`acceptor`] is one thread that accepts and hands
//! each socket to the shard with the fewest connections; [`shard`] is one thread with a runtime of its own;
//! [`connection`] is what happens to a socket there (TLS from [`tls`], then HTTP/1.1 or HTTP/2), over [`wire`],
//! watched by [`life`].
//!
//! Invariant: a connection belongs to one shard for life; every wait on a peer has a time limit; every queue has a
//! bound. What a request means is not known here: a service function answers it, and learns from [`ConnInfo`] who
//! asks.

mod acceptor;
mod connection;
mod life;
mod listener;
mod shard;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::Context as _;
use bytes::Buf;
use hyper::{Request, Response, body::Incoming};
use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    sync::{Semaphore, mpsc},
};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use listener::Listener;

use crate::config::ServerConfig;

/// Sockets that may wait for one shard to take them; past it the next shard gets them, and if all are full the client
/// 503.
const INBOX_SOCKETS_MAX: usize = 1_024;
/// What a shard may use of its stack: calls nest deeply, and an unoptimised build takes several times as much. Only what is used takes
/// memory.
const STACK_BYTES: usize = 8 << 20;

/// What a request's handler may know of the connection it came on.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The client, or the proxy before it.
    pub peer: SocketAddr,
    /// The shard that serves it, from 0.
    pub shard: usize,
    /// One permit for each request that may be under way on this shard (`server.requests_max`). It is taken where the
    /// route is known, so that a full shard still answers health checks.
    pub requests: Arc<Semaphore>,
}

/// What happened to connections since the start. Shared by all threads, so plain atomics; read for metrics.
#[derive(Debug)]
pub struct Counters {
    open: Vec<AtomicUsize>,
    accepted: AtomicU64,
    refused: AtomicU64,
    stalled: AtomicU64,
    panicked: AtomicU64,
}

impl Counters {
    fn new(shards: usize) -> Self {
        Self {
            open: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            accepted: 0.into(),
            refused: 0.into(),
            stalled: 0.into(),
            panicked: 0.into(),
        }
    }

    /// Connections open now, for each shard.
    pub fn open(&self) -> Vec<usize> {
        self.open.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Connections that a shard was given.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections answered 503 because as many as may be were open.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Connections cut because the client read nothing for `server.write_timeout`.
    pub fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Requests or connections whose code panicked.
    pub fn panicked(&self) -> u64 {
        self.panicked.load(Ordering::Relaxed)
    }

    fn note_panic(&self) {
        self.panicked.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a request panicked; its connection or stream was closed");
    }
}

/// An accepted socket on its way to its shard, or on it.
struct Socket {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    slot: Slot,
}

/// A connection's place in the count of its shard, given back when it is dropped.
struct Slot {
    counters: Arc<Counters>,
    shard: usize,
}

impl Slot {
    fn take(counters: &Arc<Counters>, shard: usize) -> Self {
        counters.open[shard].fetch_add(1, Ordering::Relaxed);
        Self { counters: counters.clone(), shard }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.counters.open[self.shard].fetch_sub(1, Ordering::Relaxed);
    }
}

/// A running server: an acceptor and its shards. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Server {
    local_addr: SocketAddr,
    counters: Arc<Counters>,
    accepting: DropGuard,
    acceptor: thread::JoinHandle<()>,
    shards: Vec<thread::JoinHandle<usize>>,
}

impl Server {
    /// Takes the port and reads the TLS files, so that a start fails on them before it has started anything else. Also
    /// raises the process's own limit of open files as far as it may.
    ///
    /// # Errors
    /// The port is taken or not allowed, or a TLS file does not fit; the text says which and what to do about it.
    pub fn bind(config: &ServerConfig) -> anyhow::Result<Listener> {
        listener::bind(config)
    }

    /// Starts the threads. Each shard has a clone of `service`, which answers every request that gets as far as being
    /// one.
    ///
    /// A handler's future runs on its shard's thread only and is dropped when its client goes away. If it panics, its
    /// connection (HTTP/1.1) or stream (HTTP/2) is closed, and nothing else.
    ///
    /// # Errors
    /// The operating system gives no thread or no event queue.
    pub fn start<F, Fut, B>(listener: Listener, service: F) -> anyhow::Result<Self>
    where
        F: Fn(Request<Incoming>, ConnInfo) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Response<B>> + 'static,
        B: hyper::body::Body<Data: Buf, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin + 'static,
    {
        let Listener { socket, local_addr, tls, config, connections_max, counters } = listener;
        let accepting = CancellationToken::new();
        let mut inboxes = Vec::new();
        let mut shards = Vec::new();
        for index in 0..counters.open.len() {
            let (sender, inbox) = mpsc::channel(INBOX_SOCKETS_MAX);
            inboxes.push(sender);
            let (service, config, tls, counters) = (service.clone(), config.clone(), tls.clone(), counters.clone());
            shards.push(spawn(&format!("shard-{index}"), move |runtime| {
                let shard = connection::Shard::new(index, &config, tls, counters);
                let serve = move |socket, draining| connection::serve(shard.clone(), socket, draining, service.clone());
                runtime.block_on(shard::run(inbox, serve, config.drain_timeout))
            })?);
        }
        let acceptor = acceptor::Acceptor {
            has_tls: tls.is_some(),
            inboxes,
            counters: counters.clone(),
            connections_max,
            stopping: accepting.clone(),
        };
        let acceptor = spawn("acceptor", move |runtime| runtime.block_on(acceptor.run(socket)))?;
        Ok(Self { local_addr, counters, accepting: accepting.drop_guard(), acceptor, shards })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What happened to its connections.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Stops accepting, closes idle connections, lets requests under way finish for up to `server.drain_timeout`,
    /// cuts the rest and says how many those were. Every thread has ended when it gives back.
    pub async fn stop(self) -> usize {
        // Without the acceptor the shards' inboxes close, which is how they learn of it.
        drop(self.accepting);
        let join_all = move || {
            let acceptor_ended = self.acceptor.join();
            let cut = self.shards.into_iter().map(|shard| shard.join().unwrap_or_default()).sum();
            if acceptor_ended.is_err() {
                tracing::error!("the acceptor panicked");
            }
            cut
        };
        tokio::task::spawn_blocking(join_all).await.unwrap_or_default()
    }
}

/// A thread with a runtime of its own, whose tasks need not be `Send`.
fn spawn<T: Default + Send + 'static>(
    name: &str,
    run: impl FnOnce(&LocalRuntime) -> T + Send + 'static,
) -> anyhow::Result<thread::JoinHandle<T>> {
    // The runtime cannot be sent, so it is built on its thread, and what keeps it from being built is told from there.
    let (told, outcome) = std::sync::mpsc::sync_channel(1);
    let on_thread = move || match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => {
            let _ = told.send(Ok(()));
            run(&runtime)
        }
        Err(error) => {
            let _ = told.send(Err(error));
            T::default()
        }
    };
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(on_thread);
    let thread = thread.context("the operating system gives no thread for a shard; server.shards sets how many")?;
    outcome.recv()?.context("the operating system gives no event queue for a shard; server.shards sets how many")?;
    Ok(thread)
}
