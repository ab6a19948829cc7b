//! Work that would hold up a shard: parsing, encoding, long searches. It runs on threads of its own, with a bound.
//!
//! Invariant: at most `threads` jobs run and [`WAITING_MAX`] of requests wait; one more is refused with `Unavailable`, early,
//! rather than queued for longer than its caller would wait. Work in the background is never refused: at most `threads` of
//! it is among the jobs, and the rest waits outside.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::sync::{Semaphore, oneshot};

use crate::error::Error;

/// Jobs that may wait for a thread.
const WAITING_MAX: usize = 256;
/// What the scheduler gives these threads compared with a shard's: searches and sockets go first.
const NICENESS: i32 = 5;

/// A pool of threads for work of more than about half a millisecond.
pub struct Compute {
    pool: rayon::ThreadPool,
    threads: usize,
    jobs: std::sync::Arc<AtomicUsize>,
    background: std::sync::Arc<Semaphore>,
}

impl Compute {
    /// A pool of `threads` threads.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn new(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("compute-{n}"))
            .start_handler(|_| yield_to_shards())
            .panic_handler(|_| tracing::error!("a job on a compute thread panicked"))
            .build()?;
        let background = std::sync::Arc::new(Semaphore::new(threads));
        Ok(Self { pool, threads, jobs: Default::default(), background })
    }

    /// Runs `job` on a compute thread and gives its result. Inside, rayon's parallel iterators use this pool.
    ///
    /// # Errors
    /// `Unavailable` if too many jobs wait already; `Internal` if the job panicked.
    ///
    /// # Cancel safety
    /// Dropping the future keeps a job that waits from being run. One that runs goes on; its result is thrown away.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        if self.jobs.fetch_add(1, Ordering::Relaxed) >= self.threads + WAITING_MAX {
            self.jobs.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Unavailable {
                detail: "The server has more work than it can queue.",
                retry_after: Duration::from_secs(1),
                source: None,
            });
        }
        self.run_in(Place(self.jobs.clone()), job).await
    }

    /// Runs `job`, for which no request waits, on a compute thread when there is a place for it.
    ///
    /// # Errors
    /// `Internal` if the job panicked.
    ///
    /// # Cancel safety
    /// As [`Compute::run`].
    pub async fn run_in_background<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let place = self.background.clone().acquire_owned().await.map_err(|error| Error::Internal(error.into()))?;
        self.run_in(place, job).await
    }

    /// Runs `job` and drops `place` after it.
    async fn run_in<T: Send + 'static>(
        &self,
        place: impl Send + 'static,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (send, receive) = oneshot::channel();
        self.pool.spawn(move || {
            let _place = place;
            // The receiver is gone when the request was; then nobody wants the result.
            if send.is_closed() {
                return;
            }
            let _ = send.send(job());
        });
        receive.await.map_err(|_| Error::Internal(anyhow::anyhow!("a job on a compute thread panicked")))
    }
}

/// A job's place in the count, given back also when the job panics.
struct Place(std::sync::Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lowers this thread's priority. Linux keeps niceness per thread, and a failure only costs latency.
fn yield_to_shards() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::debug!(%error, "could not lower the priority of a compute thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panicking_job_is_an_error_and_its_place_is_given_back() {
        let compute = Compute::new(1).unwrap();
        assert!(matches!(compute.run(|| panic!("as planned")).await, Err(Error::Internal(_))));
        assert_eq!(compute.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_job_that_nobody_waits_for_is_not_run() {
        let compute = Compute::new(1).unwrap();
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let mut first = Box::pin(compute.run(move || gate.recv().is_ok()));
        assert!(futures_util::poll!(&mut first).is_pending());
        let has_run = std::sync::Arc::new(AtomicUsize::new(0));
        let counted = has_run.clone();
        let mut given_up = Box::pin(compute.run(move || counted.fetch_add(1, Ordering::SeqCst)));
        assert!(futures_util::poll!(&mut given_up).is_pending());
        drop(given_up);
        open.send(()).unwrap();
        assert!(first.await.unwrap());
        compute.run(|| ()).await.unwrap();
        assert_eq!(has_run.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_job_past_the_bound_is_refused_and_work_in_the_background_waits() {
        let compute = Compute::new(1).unwrap();
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let mut jobs: Vec<_> = vec![Box::pin(compute.run(move || gate.recv().is_ok()))];
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(compute.run(|| true))).collect();
        for job in &mut jobs {
            assert!(futures_util::poll!(job).is_pending());
        }
        for job in &mut waiting {
            assert!(futures_util::poll!(job).is_pending());
        }
        assert!(matches!(compute.run(|| true).await, Err(Error::Unavailable { .. })));
        let mut background: Vec<_> =
            (0..2 * WAITING_MAX).map(|_| Box::pin(compute.run_in_background(|| true))).collect();
        for job in &mut background {
            assert!(futures_util::poll!(job).is_pending(), "it waits for a place");
        }
        open.send(()).unwrap();
        assert!(jobs.remove(0).await.unwrap());
        for job in waiting {
            assert!(job.await.unwrap());
        }
        for job in background {
            assert!(job.await.unwrap());
        }
    }
}
