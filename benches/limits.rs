//! What does a check of a limit cost in process, without Redis?
//!
//! `cargo bench --bench limits`. One caller, many callers in turn, and one caller asked about by two threads at once.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use tertulia::{
    bus::{Limits, Rule, Subject, limits::LimitMetrics},
    ctx::TenantId,
    tasks::Tasks,
};
use tokio::runtime::{Builder, Runtime};

/// The one that the server has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CHECKS: u32 = 500_000;
const MANY: usize = 10_000;

fn main() {
    let service = runtime();
    let limits = Limits::new(None, Tasks::new(service.handle().clone()), LimitMetrics::default());
    let callers: Vec<Subject> = (0..MANY).map(|_| Subject::Tenant(TenantId::new())).collect();
    let told = |name: &str, took: Duration| {
        println!("{name:<40} {:>6.0} ns a check", took.as_nanos() as f64 / f64::from(CHECKS))
    };
    told("one caller, let through", checks(&limits, &callers[..1], Rule::per_minute(u32::MAX)));
    told("one caller, refused", checks(&limits, &callers[1..2], Rule::per_minute(1)));
    told("10,000 callers in turn", checks(&limits, &callers, Rule::per_minute(500)));
    let on_two_threads = std::thread::scope(|scope| {
        let run = || checks(&limits, &callers[..1], Rule::per_minute(u32::MAX));
        let threads = [scope.spawn(run), scope.spawn(run)];
        threads.map(|thread| thread.join().expect("it does not panic")).into_iter().max().unwrap_or_default()
    });
    told("one caller, asked about by two threads", on_two_threads);
}

/// Time of [`CHECKS`] checks of `callers` in turn.
fn checks(limits: &Arc<Limits>, callers: &[Subject], rule: Rule) -> Duration {
    runtime().block_on(async {
        let started = Instant::now();
        for caller in callers.iter().cycle().take(CHECKS as usize) {
            black_box(limits.admit(*caller, rule).await);
        }
        started.elapsed()
    })
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}
