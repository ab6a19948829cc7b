//! What graphs miss in searches as they are: now and then one is repeated in the background without them.
//!
//! A graph that finds too little is searched wider by the index itself, or let go; see `Index::watch_graphs`.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tertulia_index::GraphWatch;
use tokio::time::Instant;

/// Shortest time between two searches that are repeated: each costs the background a scan.
const PAUSE: Duration = Duration::from_secs(1);
/// After so many rows that were to be found, what came before counts half.
const WANTED_MAX: u64 = 10_000;

/// How much of what was to be found graphs have found lately, in all knowledge bases.
#[derive(Debug, Default)]
pub struct RecallWatch {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Since when one may be repeated; at once if `None`.
    due: Option<Instant>,
    wanted: u64,
    found: u64,
}

impl RecallWatch {
    /// Whether the search at hand is to be repeated. True once in [`PAUSE`] at most.
    pub fn is_due(&self) -> bool {
        // Searches do not wait for each other here.
        let Ok(mut state) = self.state.try_lock() else { return false };
        let now = Instant::now();
        let is_due = state.due.is_none_or(|due| now >= due);
        if is_due {
            state.due = Some(now + PAUSE);
        }
        is_due
    }

    /// Takes in what a repeated search told.
    pub fn note(&self, watch: &GraphWatch) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.wanted += watch.wanted as u64;
        state.found += watch.found as u64;
        if state.wanted > WANTED_MAX {
            state.wanted /= 2;
            state.found /= 2;
        }
    }

    /// The share of the ten nearest chunks that graphs have found, 0 to 1; none before the first was repeated.
    pub fn recall_at_10(&self) -> Option<f64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.wanted > 0).then(|| state.found as f64 / state.wanted as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_search_in_a_while_is_repeated() {
        let watch = RecallWatch::default();
        assert!(watch.is_due());
        assert!(!watch.is_due());
        tokio::time::advance(PAUSE - Duration::from_millis(1)).await;
        assert!(!watch.is_due());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(watch.is_due() && !watch.is_due());
    }

    #[test]
    fn what_is_told_last_counts_most() {
        let watch = RecallWatch::default();
        assert_eq!(watch.recall_at_10(), None);
        let note = |found| watch.note(&GraphWatch { wanted: 10, found, ..GraphWatch::default() });
        note(10);
        note(5);
        assert_eq!(watch.recall_at_10(), Some(0.75));
        (0..100_000).for_each(|_| note(0));
        assert!(watch.recall_at_10().is_some_and(|recall| recall < 0.001));
        (0..10_000).for_each(|_| note(10));
        assert!(watch.recall_at_10().is_some_and(|recall| recall > 0.99));
    }
}
