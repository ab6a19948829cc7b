//! Puts load on something that can be asked, over many connections, and tallies what came back.
//!
//! Two kinds of load. Closed: each connection asks again as soon as it has its reply; latency counts from sending. Open
//! (a rate): requests are due at fixed moments, whether or not earlier ones have been answered, and latency counts from
//! the moment a request was due (the correction for coordinated omission), so waiting for a free connection is in it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{
        Arc, Barrier, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use hdrhistogram::Histogram;
use tokio::{
    sync::{Mutex, mpsc},
    task::{JoinSet, LocalSet},
};

/// Significant digits that histograms keep.
const DIGITS: u8 = 3;
/// Longest latency that histograms tell apart, in nanoseconds: an hour.
const LATENCY_MAX: u64 = 3_600_000_000_000;
/// How long requests that are due may still wait for a connection when the time is over; then they count as failed.
const LATE_LIMIT: Duration = Duration::from_secs(10);
/// Pause of a connection whose request failed, so that a server that is away is not hammered.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

/// How much load, and for how long.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) connections: u32,
    /// Seconds to measure for
    #[arg(long, default_value_t = 10.0, value_parser = seconds, value_name = "S", conflicts_with = "requests")]
    pub(crate) duration: f64,
    /// Requests to measure, instead of a duration
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests: Option<u64>,
    /// Requests per second, due whether or not earlier ones are answered; without it each connection asks when it can
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Seconds of load before it counts
    #[arg(long, default_value_t = 1.0, value_parser = seconds, value_name = "S")]
    pub(crate) warmup: f64,
    /// Threads of the load generator; 0 means one for each core, and never more than connections
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds from 0 to 86400".into())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.001..=1e7).contains(rate));
    rate.ok_or_else(|| "a number of requests per second from 0.001 to 10000000".into())
}

/// Something that answers, one request after the other, over a connection of its own.
pub(crate) trait Peer {
    /// Asks the `turn`-th question of this connection.
    async fn ask(&mut self, turn: u64) -> Outcome;
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Answered; with the time that the server says it took, where it does.
    Answered { server: Option<Duration> },
    /// Not answered as wished: the status, or what broke.
    Failed(String),
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    /// Latencies of answered requests, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// The server's own times, in nanoseconds, where it tells them.
    pub(crate) server: Histogram<u64>,
    /// Requests that failed, by what failed them.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Time that was measured.
    pub(crate) elapsed: Duration,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        let histogram = Histogram::new_with_max(LATENCY_MAX, DIGITS)?;
        Ok(Self { latency: histogram.clone(), server: histogram, failures: BTreeMap::new(), elapsed: Duration::ZERO })
    }

    fn count(&mut self, outcome: Outcome, latency: Duration) {
        match outcome {
            Outcome::Answered { server } => {
                self.latency.saturating_record(nanoseconds(latency));
                if let Some(server) = server {
                    self.server.saturating_record(nanoseconds(server));
                }
            }
            Outcome::Failed(why) => *self.failures.entry(why).or_default() += 1,
        }
    }

    /// Adds what another thread counted at the same time.
    fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        self.latency.add(&other.latency)?;
        self.server.add(&other.server)?;
        for (why, times) in &other.failures {
            *self.failures.entry(why.clone()).or_default() += times;
        }
        Ok(())
    }

    /// Adds another round of the same load.
    ///
    /// # Errors
    /// If the histograms do not fit together, which they do.
    pub(crate) fn append(&mut self, round: &Self) -> anyhow::Result<()> {
        self.merge(round)?;
        self.elapsed += round.elapsed;
        Ok(())
    }

    /// Answered requests per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.latency.len() as f64 / self.elapsed.as_secs_f64()
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// When requests may start.
struct Schedule {
    /// From here on requests count.
    counts_from: Instant,
    /// No request starts after this.
    ends_at: Option<Instant>,
    /// Requests that may still be counted, where their number is fixed.
    left: Option<AtomicU64>,
    /// The moments at which requests are due, where there is a rate.
    due: Option<Mutex<mpsc::UnboundedReceiver<Instant>>>,
}

/// Asks over `load.connections` connections, each made by `connect` on the thread that then drives it.
///
/// # Errors
/// If a connection cannot be made before the load begins.
pub(crate) fn drive<P: Peer + 'static>(
    load: &LoadArgs,
    connect: impl AsyncFn(u64) -> anyhow::Result<P> + Sync,
) -> anyhow::Result<Tally> {
    let connections = u64::from(load.connections);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if load.threads == 0 { cores } else { load.threads }.min(load.connections as usize) as u64;
    // Threads wait for each other, so that no load runs while others still connect.
    let start = Start::new(threads as usize);
    let outcomes: Vec<anyhow::Result<Tally>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let (start, connect) = (&start, &connect);
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    LocalSet::new().block_on(&runtime, async {
                        let mut peers = Ok(Vec::new());
                        for number in (thread..connections).step_by(threads as usize) {
                            peers = match (peers, connect(number).await) {
                                (Ok(mut peers), Ok(peer)) => {
                                    peers.push(peer);
                                    Ok(peers)
                                }
                                (Err(error), _) | (_, Err(error)) => Err(error),
                            };
                        }
                        match start.wait(load, peers.is_ok()) {
                            Some(schedule) => run_thread(peers?, schedule).await,
                            None => peers.and_then(|_| Tally::new()),
                        }
                    })
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("a load thread does not panic")).collect()
    });
    let mut total = Tally::new()?;
    for outcome in outcomes {
        let tally = outcome?;
        total.elapsed = total.elapsed.max(tally.elapsed);
        total.merge(&tally)?;
    }
    Ok(total)
}

/// Where threads meet before the load begins.
struct Start {
    barrier: Barrier,
    has_failed: AtomicBool,
    schedule: OnceLock<Arc<Schedule>>,
}

impl Start {
    fn new(threads: usize) -> Self {
        Self { barrier: Barrier::new(threads), has_failed: AtomicBool::new(false), schedule: OnceLock::new() }
    }

    /// Blocks until all threads are here; none if one of them could not connect. Nothing runs on this thread yet that
    /// could be held up.
    fn wait(&self, load: &LoadArgs, is_connected: bool) -> Option<Arc<Schedule>> {
        self.has_failed.fetch_or(!is_connected, Ordering::Relaxed);
        self.barrier.wait();
        let may_begin = !self.has_failed.load(Ordering::Relaxed);
        may_begin.then(|| self.schedule.get_or_init(|| Arc::new(Schedule::begin(load))).clone())
    }
}

impl Schedule {
    fn begin(load: &LoadArgs) -> Self {
        let warmup = Duration::from_secs_f64(load.warmup);
        let begun = Instant::now();
        let counts_from = begun + warmup;
        let ends_at = load.requests.is_none().then(|| counts_from + Duration::from_secs_f64(load.duration));
        let due = load.rate.map(|rate| {
            // Bounded by the run's length times its rate.
            let (sender, receiver) = mpsc::unbounded_channel();
            let until = ends_at.unwrap_or_else(|| {
                counts_from + Duration::from_secs_f64(load.requests.unwrap_or_default() as f64 / rate)
            });
            std::thread::spawn(move || pace(begun, until, rate, &sender));
            Mutex::new(receiver)
        });
        Self { counts_from, ends_at, left: load.requests.map(AtomicU64::new), due }
    }

    /// When the next request is due; none if the load is over.
    async fn next(&self) -> Option<Instant> {
        let due = match &self.due {
            Some(due) => due.lock().await.recv().await?,
            None => Instant::now(),
        };
        if self.due.is_none() && self.ends_at.is_some_and(|end| due >= end) {
            return None;
        }
        if let Some(left) = self.left.as_ref().filter(|_| due >= self.counts_from) {
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        }
        Some(due)
    }

    fn is_hopelessly_late(&self, now: Instant) -> bool {
        self.ends_at.is_some_and(|end| now > end + LATE_LIMIT)
    }
}

/// Tells when each request is due. The system's sleep is precise to some ten microseconds, tokio's to a millisecond: hence
/// a thread of its own.
fn pace(begun: Instant, until: Instant, rate: f64, due: &mpsc::UnboundedSender<Instant>) {
    for number in 0_u64.. {
        let moment = begun + Duration::from_secs_f64(number as f64 / rate);
        if moment >= until {
            return;
        }
        if let Some(pause) = moment.checked_duration_since(Instant::now()) {
            std::thread::sleep(pause);
        }
        if due.send(moment).is_err() {
            return;
        }
    }
}

async fn run_thread<P: Peer + 'static>(peers: Vec<P>, schedule: Arc<Schedule>) -> anyhow::Result<Tally> {
    // One for the thread, not for each connection: a histogram has some hundred kilobytes.
    let tally = Rc::new(RefCell::new(Tally::new()?));
    let mut tasks = JoinSet::new();
    for peer in peers {
        tasks.spawn_local(run_connection(peer, schedule.clone(), tally.clone()));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a connection's task panicked")?;
    }
    let tally = tally.borrow().clone();
    Ok(tally)
}

async fn run_connection(mut peer: impl Peer, schedule: Arc<Schedule>, tally: Rc<RefCell<Tally>>) {
    let mut turn = 0;
    while let Some(due) = schedule.next().await {
        let outcome = if schedule.is_hopelessly_late(Instant::now()) {
            Outcome::Failed("not sent in time".into())
        } else {
            turn += 1;
            peer.ask(turn).await
        };
        let done = Instant::now();
        let has_failed = matches!(outcome, Outcome::Failed(_));
        if due >= schedule.counts_from {
            let mut tally = tally.borrow_mut();
            tally.count(outcome, done - due);
            tally.elapsed = done - schedule.counts_from;
        }
        if has_failed && !schedule.is_hopelessly_late(done) {
            tokio::time::sleep(FAILURE_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers after a time, and fails each `fails_each`-th request.
    struct Slow {
        takes: Duration,
        fails_each: u64,
        // Not Send, as a connection to a server is not either.
        _local: Rc<()>,
    }

    impl Peer for Slow {
        async fn ask(&mut self, turn: u64) -> Outcome {
            tokio::time::sleep(self.takes).await;
            if turn.is_multiple_of(self.fails_each) {
                Outcome::Failed("503".into())
            } else {
                Outcome::Answered { server: Some(self.takes) }
            }
        }
    }

    fn load() -> LoadArgs {
        LoadArgs { connections: 3, duration: 0.2, requests: None, rate: None, warmup: 0.0, threads: 2 }
    }

    fn tally(load: &LoadArgs, takes: Duration, fails_each: u64) -> Tally {
        drive(load, async |_| Ok(Slow { takes, fails_each, _local: Rc::new(()) })).expect("it connects")
    }

    #[test]
    fn a_number_of_requests_is_met_exactly_and_failures_are_told_apart() {
        let tally = tally(&LoadArgs { requests: Some(40), ..load() }, Duration::from_millis(1), 5);
        let failed = tally.failures.get("503").copied().unwrap_or_default();
        assert_eq!(tally.latency.len() + failed, 40);
        assert!(failed >= 6, "{failed}");
        assert_eq!(tally.server.len(), tally.latency.len());
        assert!(tally.latency.min() >= 1_000_000);
    }

    #[test]
    fn waiting_for_a_free_connection_counts_when_there_is_a_rate() {
        // Three connections of 20 ms each answer 150 a second; 600 are due, so the last ones wait for very long.
        let tally = tally(&LoadArgs { rate: Some(600.0), ..load() }, Duration::from_millis(20), u64::MAX);
        assert_eq!(tally.latency.len(), 120);
        assert!(tally.latency.max() > 300_000_000, "{}", tally.latency.max());
        assert!(tally.server.max() < 300_000_000);
    }

    #[test]
    fn what_cannot_connect_is_an_error() {
        let outcome = drive(&load(), async |number| {
            anyhow::ensure!(number != 2, "refused");
            Ok(Slow { takes: Duration::ZERO, fails_each: 2, _local: Rc::new(()) })
        });
        assert_eq!(outcome.expect_err("one was refused").to_string(), "refused");
    }
}
