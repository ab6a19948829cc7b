//! What searches miss as they are, by graphs or by sign codes: now and then one is repeated exactly in the background.
//!
//! A graph that finds too little is searched wider by the index itself, or let go and built once more; see `Index::watch_recall`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tertulia_index::{Filter, Fusion, Index, Mode, Options, Query, Recall};
use tokio::time::Instant;

use super::{BaseKey, LoadedBases};
use crate::{compute::Compute, tasks::Tasks};

/// Shortest time between two searches that are repeated: each costs the background a scan.
const PAUSE: Duration = Duration::from_secs(1);
/// After so many rows that were to be found, what came before counts half.
const WANTED_MAX: u64 = 10_000;

/// Repeats a sample of searches, and knows how much of what was to be found they have found lately, in all knowledge bases.
pub struct RecallWatch {
    loaded: Arc<LoadedBases>,
    compute: Arc<Compute>,
    tasks: Tasks,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when one may be repeated; at once if `None`.
    due: Option<Instant>,
    /// Of searches without a filter, and with one.
    lately: [Recall; 2],
}

impl RecallWatch {
    /// One that has seen nothing.
    pub fn new(loaded: Arc<LoadedBases>, compute: Arc<Compute>, tasks: Tasks) -> Self {
        Self { loaded, compute, tasks, state: Arc::default() }
    }

    /// Takes in that `index` is being searched. If that is due, it is searched once more in the background, as it is
    /// and exactly.
    pub fn sample(&self, key: BaseKey, index: &Arc<Index>, embedding: &[f32], filter: Option<&Filter>) {
        // Searches do not wait for each other here.
        if !index.is_approximate() || !self.state.try_lock().is_ok_and(|mut state| state.is_due()) {
            return;
        }
        let (loaded, compute, state) = (self.loaded.clone(), self.compute.clone(), self.state.clone());
        let (index, embedding, filter) = (index.clone(), embedding.to_vec(), filter.cloned());
        let is_filtered = filter.is_some();
        self.tasks.spawn(async move {
            let repeated = compute.run_in_background(move || {
                index.watch_recall(&Query {
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
            let Ok(Ok(Some(sample))) = repeated.await else { return };
            state.lock().unwrap_or_else(PoisonError::into_inner).note(sample.recall, is_filtered);
            let knowledge_base_id = key.knowledge_base_id;
            for (recall, breadth) in &sample.widened {
                tracing::info!(%knowledge_base_id, recall, breadth, "a graph found too little; it is searched wider");
            }
            if sample.to_rebuild > 0 {
                tracing::warn!(%knowledge_base_id, "a graph found too little and is built once more, with a greater effort; until then its segment is scanned");
                if let Some(base) = loaded.find(key) {
                    base.wake(0);
                }
            }
            if sample.let_go > sample.to_rebuild {
                tracing::warn!(%knowledge_base_id, "a graph of a greater effort found too little and was let go; its segment is scanned");
            }
        });
    }

    /// The share of the ten nearest chunks that searches without a filter have found, 0 to 1, and that of those with one; none
    /// before one was repeated.
    pub fn recall_at_10(&self) -> [Option<f64>; 2] {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).lately.map(Recall::share)
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

    fn note(&mut self, recall: Recall, is_filtered: bool) {
        let lately = &mut self.lately[usize::from(is_filtered)];
        lately.add(recall);
        if lately.wanted > WANTED_MAX {
            *lately = Recall { wanted: lately.wanted / 2, found: lately.found / 2 };
        }
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
        let told = |watch: &State, is_filtered: bool| watch.lately[usize::from(is_filtered)].share();
        assert_eq!(told(&watch, false), None);
        let ten = |found| Recall { wanted: 10, found };
        watch.note(ten(10), false);
        watch.note(ten(5), false);
        assert_eq!((told(&watch, false), told(&watch, true)), (Some(0.75), None));
        (0..100_000).for_each(|_| watch.note(ten(0), true));
        assert!(told(&watch, true).is_some_and(|recall| recall < 0.001));
        (0..10_000).for_each(|_| watch.note(ten(10), true));
        assert!(told(&watch, true).is_some_and(|recall| recall > 0.99));
        assert_eq!(told(&watch, false), Some(0.75));
    }
}
