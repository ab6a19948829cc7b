//! Work in the background: on the service runtime, counted, and told when the server stops.
//!
//! Invariant: nothing is spawned without a name in the count, so a stop can wait for all of it. A handler's future is
//! dropped when its client goes away; what must finish all the same is spawned here.

use std::{future::Future, time::Duration};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of one server.
#[derive(Debug, Clone)]
pub struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// Tasks that run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, tracker: TaskTracker::new(), stopping: CancellationToken::new() }
    }

    /// Runs `task` to its end. A task that goes on for long watches [`Tasks::stopping`].
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn_on(task, &self.runtime);
    }

    /// Cancelled when the server stops.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// The runtime that tasks run on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Tells every task to stop and waits for them; false if some went on past `longest`.
    pub async fn stop(&self, longest: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(longest, self.tracker.wait()).await.is_ok()
    }
}
