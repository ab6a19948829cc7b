//! What graphs miss in searches as they are: now and then one is repeated in the background without them.
//!
//! A graph that finds too little is searched wider by the index itself, or let go; see `Index::watch_graphs`. One that is to
//! be built once more, the sync builds, which is woken for it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tertulia_index::{Filter, Fusion, GraphWatch, Index, Mode, Options, Query};
use tokio::time::Instant;

use super::{BaseKey, LoadedBases};
use crate::{compute::Compute, tasks::Tasks};

/// Shortest time between two searches that are repeated: each costs the background a scan.
const PAUSE: Duration = Duration::from_secs(1);
/// After so many rows that were to be found, what came before counts half.
const WANTED_MAX: u64 = 10_000;

/// Repeats a sample of searches, and knows how much of what was to be found graphs have found lately, in all knowledge bases.
pub struct RecallWatch {
    compute: Arc<Compute>,
    tasks: Tasks,
    loaded: Arc<LoadedBases>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when one may be repeated; at once if `None`.
    due: Option<Instant>,
    wanted: u64,
    found: u64,
}

impl RecallWatch {
    /// One that has seen nothing.
    pub fn new(compute: Arc<Compute>, tasks: Tasks, loaded: Arc<LoadedBases>) -> Self {
        Self { compute, tasks, loaded, state: Arc::default() }
    }

    /// Takes in that `index` is being searched. If that is due, it is searched once more in the background, with and without
    /// its graphs.
    pub fn sample(&self, key: BaseKey, index: &Arc<Index>, embedding: &[f32], filter: Option<&Filter>) {
        // Searches do not wait for each other here.
        if !index.has_graph() || !self.state.try_lock().is_ok_and(|mut state| state.is_due()) {
            return;
        }
        let (compute, loaded, state) = (self.compute.clone(), self.loaded.clone(), self.state.clone());
        let (index, embedding, filter) = (index.clone(), embedding.to_vec(), filter.cloned());
        self.tasks.spawn(async move {
            let repeated = compute.run_in_background(move || {
                index.watch_graphs(&Query {
                    text: "",
                    embedding: Some(&embedding),
                    top_k: 1,
                    mode: Mode::Semantic,
                    prefix: false,
                    filter: filter.as_ref(),
                    fusion: Fusion::default(),
                    options: Options::default(),
                    explain: false,
                })
            });
            // Where it fails, the search itself failed, and said so.
            let Ok(Ok(Some(watch))) = repeated.await else { return };
            state.lock().unwrap_or_else(PoisonError::into_inner).note(&watch);
            let knowledge_base_id = key.knowledge_base_id;
            for (recall, breadth) in &watch.widened {
                tracing::info!(%knowledge_base_id, recall, breadth, "a graph found too little; it is searched wider");
            }
            for recall in &watch.rebuilt {
                tracing::warn!(%knowledge_base_id, recall, "a graph found too little and was let go; it is built once more, with more care");
            }
            for recall in &watch.let_go {
                tracing::warn!(%knowledge_base_id, recall, "a graph that was built once more found too little; its segment is scanned");
            }
            let is_let_go = !watch.rebuilt.is_empty() || !watch.let_go.is_empty();
            if is_let_go && let Some(base) = loaded.find(key) {
                base.wake(0);
            }
        });
    }

    /// The share of the ten nearest chunks that graphs have found, 0 to 1; none before a search was repeated.
    pub fn recall_at_10(&self) -> Option<f64> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).recall_at_10()
    }
}

impl State {
    /// Whether a search is to be repeated. True once in [`PAUSE`] at most.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.due.is_none_or(|due| now >= due);
        if is_due {
            self.due = Some(now + PAUSE);
        }
        is_due
    }

    fn note(&mut self, watch: &GraphWatch) {
        self.wanted += watch.wanted as u64;
        self.found += watch.found as u64;
        if self.wanted > WANTED_MAX {
            self.wanted /= 2;
            self.found /= 2;
        }
    }

    fn recall_at_10(&self) -> Option<f64> {
        (self.wanted > 0).then(|| self.found as f64 / self.wanted as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_search_in_a_while_is_repeated() {
        let mut watch = State::default();
        assert!(watch.is_due());
        assert!(!watch.is_due());
        tokio::time::advance(PAUSE - Duration::from_millis(1)).await;
        assert!(!watch.is_due());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(watch.is_due() && !watch.is_due());
    }

    #[test]
    fn what_is_told_last_counts_most() {
        let mut watch = State::default();
        assert_eq!(watch.recall_at_10(), None);
        let ten = |found| GraphWatch { wanted: 10, found, ..GraphWatch::default() };
        watch.note(&ten(10));
        watch.note(&ten(5));
        assert_eq!(watch.recall_at_10(), Some(0.75));
        (0..100_000).for_each(|_| watch.note(&ten(0)));
        assert!(watch.recall_at_10().is_some_and(|recall| recall < 0.001));
        (0..10_000).for_each(|_| watch.note(&ten(10)));
        assert!(watch.recall_at_10().is_some_and(|recall| recall > 0.99));
    }
}
