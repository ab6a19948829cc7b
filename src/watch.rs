//! What one request asks of Postgres, watched in development (`log.queries`): every statement is logged with its time, and
//! one that a request runs again and again is named. A loop over rows that asks once for each of them is seen so while it
//! is new, and not when a tenant has many rows.
//!
//! Only what the handler's own task runs is seen. Where nothing is watched, a look into the task is all it costs.

use std::{cell::RefCell, future::Future, time::Duration};

use crate::ctx::RequestId;

/// How often a request may run one statement; a page and its total, or a row before and after a change, are fewer.
const RUNS_MAX: u32 = 3;

tokio::task_local! {
    static WATCHED: Watched;
}

/// The request that the task works on.
struct Watched {
    request_id: RequestId,
    route: &'static str,
    /// Each statement with how often it ran, in the order of first runs. A request runs few different ones.
    runs: RefCell<Vec<(&'static str, u32)>>,
}

/// Runs `work` for a request, and tells which statements it ran too often, such as `sessions/find 7, commit 4`, if any.
pub async fn watched<T>(
    request_id: &RequestId,
    route: &'static str,
    work: impl Future<Output = T>,
) -> (T, Option<String>) {
    let watched = Watched { request_id: request_id.clone(), route, runs: RefCell::default() };
    let watched_work = async {
        let outcome = work.await;
        (outcome, WATCHED.with(Watched::repeated))
    };
    WATCHED.scope(watched, watched_work).await
}

/// Runs `work`, which does one of several batches of rows: what runs once in each of them is no loop over rows. What runs too
/// often within one is told of its request.
pub async fn batch<T>(work: impl Future<Output = T>) -> T {
    let batch = WATCHED.try_with(|request| Watched {
        request_id: request.request_id.clone(),
        route: request.route,
        runs: RefCell::default(),
    });
    let Ok(batch) = batch else { return work.await };
    let watched_work = async {
        let outcome = work.await;
        (outcome, WATCHED.with(|batch| batch.runs.take()))
    };
    let (outcome, runs) = WATCHED.scope(batch, watched_work).await;
    let repeated = runs.into_iter().filter(|(_, count)| *count > RUNS_MAX);
    WATCHED.with(|request| request.runs.borrow_mut().extend(repeated));
    outcome
}

/// Notes that a statement ran, if somebody watches.
pub fn note(statement: &'static str, took: Duration) {
    // An error means that nobody does.
    let _ = WATCHED.try_with(|watched| watched.note(statement, took));
}

impl Watched {
    fn note(&self, statement: &'static str, took: Duration) {
        let mut runs = self.runs.borrow_mut();
        let at = runs.iter().position(|(name, _)| *name == statement).unwrap_or_else(|| {
            runs.push((statement, 0));
            runs.len() - 1
        });
        runs[at].1 += 1;
        let (request_id, route, took_us, count) = (&self.request_id, self.route, took.as_micros(), runs[at].1);
        tracing::debug!(%request_id, route, statement, took_us, count, "statement");
    }

    fn repeated(&self) -> Option<String> {
        let runs = self.runs.borrow();
        let told: Vec<String> =
            runs.iter().filter(|(_, count)| *count > RUNS_MAX).map(|(name, count)| format!("{name} {count}")).collect();
        if told.is_empty() {
            return None;
        }
        let (request_id, route, statements) = (&self.request_id, self.route, told.join(", "));
        tracing::warn!(%request_id, route, statements, "a request runs statements again and again");
        Some(statements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_runs_too_often_is_told() {
        let request_id = RequestId::accept_or_new(None);
        let run = |counts: &'static [(&'static str, u32)]| {
            watched(&request_id, "/v1/sessions", async move {
                for (name, count) in counts {
                    for _ in 0..*count {
                        note(name, Duration::from_micros(80));
                        tokio::task::yield_now().await;
                    }
                }
                7
            })
        };
        assert_eq!(run(&[]).await, (7, None));
        assert_eq!(run(&[("sessions/list", 3), ("sessions/count", 1)]).await, (7, None));
        let told = "sessions/find 4, commit 9".to_owned();
        assert_eq!(run(&[("sessions/find", 4), ("sessions/list", 1), ("commit", 9)]).await, (7, Some(told)));
        note("sessions/find", Duration::ZERO);
    }

    #[tokio::test]
    async fn batches_may_be_many_and_a_loop_within_one_is_told() {
        let request_id = RequestId::accept_or_new(None);
        let run = |times_in_the_last: u32| {
            watched(&request_id, "/v1/documents", async move {
                for times in [1, 1, 1, 1, times_in_the_last] {
                    batch(async {
                        for _ in 0..times {
                            note("chunks/insert", Duration::from_micros(80));
                            tokio::task::yield_now().await;
                        }
                    })
                    .await;
                }
            })
        };
        assert_eq!(run(3).await.1, None);
        assert_eq!(run(4).await.1.as_deref(), Some("chunks/insert 4"));
        assert_eq!(batch(async { 7 }).await, 7, "nobody watches");
    }
}
