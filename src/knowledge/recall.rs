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

/// Repeats a sample of searches, and knows how much of what was to be found they have found lately, in all knowledge bases.
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
    /// What was wanted and found by searches without a filter, and by those with one.
    lately: [(u64, u64); 2],
}

impl RecallWatch {
    /// One that has seen nothing.
    pub fn new(compute: Arc<Compute>, tasks: Tasks, loaded: Arc<LoadedBases>) -> Self {
        Self { compute, tasks, loaded, state: Arc::default() }
    }

    /// Takes in that `index` is being searched. If that is due, it is searched once more in the background, as it is
    /// and exactly.
    pub fn sample(&self, key: BaseKey, index: &Arc<Index>, embedding: &[f32], filter: Option<&Filter>) {
        // Searches do not wait for each other here.
        if !index.is_approximate() || !self.state.try_lock().is_ok_and(|mut state| state.is_due()) {
            return;
        }
        let (compute, loaded, state) = (self.compute.clone(), self.loaded.clone(), self.state.clone());
        let (index, embedding, filter) = (index.clone(), embedding.to_vec(), filter.cloned());
        let is_filtered = filter.is_some();
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
            state.lock().unwrap_or_else(PoisonError::into_inner).note(&watch, is_filtered);
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
            // The sync saves what a graph has learned, and has another built.
            let is_changed = !watch.widened.is_empty() || !watch.rebuilt.is_empty() || !watch.let_go.is_empty();
            if is_changed && let Some(base) = loaded.find(key) {
                base.wake(0);
            }
        });
    }

    /// The share of the ten nearest chunks that searches without a filter have found, 0 to 1, and that of those with one; none
    /// before one was repeated.
    pub fn recall_at_10(&self) -> [Option<f64>; 2] {
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

    fn note(&mut self, watch: &GraphWatch, is_filtered: bool) {
        let (wanted, found) = &mut self.lately[usize::from(is_filtered)];
        *wanted += watch.wanted as u64;
        *found += watch.found as u64;
        if *wanted > WANTED_MAX {
            *wanted /= 2;
            *found /= 2;
        }
    }

    fn recall_at_10(&self) -> [Option<f64>; 2] {
        self.lately.map(|(wanted, found)| (wanted > 0).then(|| found as f64 / wanted as f64))
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
        assert_eq!(watch.recall_at_10(), [None, None]);
        let ten = |found| GraphWatch { wanted: 10, found, ..GraphWatch::default() };
        watch.note(&ten(10), false);
        watch.note(&ten(5), false);
        assert_eq!(watch.recall_at_10(), [Some(0.75), None]);
        let with_filters = |watch: &State| watch.recall_at_10()[1].unwrap();
        (0..100_000).for_each(|_| watch.note(&ten(0), true));
        assert!(with_filters(&watch) < 0.001);
        (0..10_000).for_each(|_| watch.note(&ten(10), true));
        assert!(with_filters(&watch) > 0.99);
        assert_eq!(watch.recall_at_10()[0], Some(0.75));
    }
}
