//! One shard: its connections as tasks of one thread, and their drain.

use std::{future::Future, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::Socket;

/// Serves what comes into `inbox` until that is closed; then tells every connection that it drains and cuts what is
/// left after `drain_timeout`. Gives back how many were cut.
pub(super) async fn run<Task: Future<Output = ()> + 'static>(
    mut inbox: mpsc::Receiver<Socket>,
    serve: impl Fn(Socket, CancellationToken) -> Task,
    drain_timeout: Duration,
) -> usize {
    let draining = CancellationToken::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            socket = inbox.recv() => match socket {
                Some(socket) => drop(connections.spawn_local(serve(socket, draining.clone()))),
                None => break,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    draining.cancel();
    let end = Instant::now() + drain_timeout;
    while let Ok(Some(_)) = timeout_at(end, connections.join_next()).await {}
    let cut = connections.len();
    connections.shutdown().await;
    cut
}
