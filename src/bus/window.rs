//! How much was let through in a window that slides.
//!
//! The window is cut into [`STEPS`] steps, and a count of each is kept. What was counted leaves a whole window later at the
//! earliest, and one step after that at the latest: so never more than the limit comes through in any window, wherever it
//! begins, and a caller who keeps to a sixtieth less than the limit is never stopped.

use std::time::Duration;

use tokio::time::Instant;

/// Steps of a window.
pub(super) const STEPS: u32 = 60;
/// Counts that are kept: the step under way and those of a whole window before it.
const COUNTS: usize = STEPS as usize + 1;

/// Counts of one caller.
#[derive(Debug)]
pub(super) struct Window {
    counts: [u32; COUNTS],
    sum: u32,
    /// The newest step that is counted; its place among `counts` is the remainder.
    step: u64,
    step_nanos: u64,
    /// When step 0 began.
    began: Instant,
}

impl Window {
    /// One of that length, empty.
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        let step_nanos = (length / STEPS).as_nanos().max(1) as u64;
        Self { counts: [0; COUNTS], sum: 0, step: 0, step_nanos, began: now }
    }

    /// How much was let through in the window that ends now.
    pub(super) fn count(&mut self, now: Instant) -> u32 {
        let step = now.duration_since(self.began).as_nanos() as u64 / self.step_nanos;
        let passed = step.saturating_sub(self.step).min(COUNTS as u64);
        for past in 1..=passed {
            let at = place(self.step + past);
            self.sum -= std::mem::take(&mut self.counts[at]);
        }
        // After a long rest every place was emptied above, whichever step it stood for.
        self.step = self.step.max(step);
        self.sum
    }

    /// Counts `n` more, now.
    pub(super) fn add(&mut self, n: u32, now: Instant) {
        self.count(now);
        self.sum += n;
        self.counts[place(self.step)] += n;
    }

    /// How long until the oldest of what was let through is counted no more; nothing if there is none.
    pub(super) fn frees_in(&mut self, now: Instant) -> Duration {
        self.count(now);
        // The step after the newest is, a whole round earlier, the oldest.
        let oldest = (1..=COUNTS as u64).find(|past| self.counts[place(self.step + past)] > 0);
        oldest.map_or(Duration::ZERO, |past| {
            let leaves_at = self.began + Duration::from_nanos(self.step_nanos * (self.step + past));
            leaves_at.duration_since(now)
        })
    }
}

fn place(step: u64) -> usize {
    (step % COUNTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_counted_leaves_a_window_later() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut window = Window::new(MINUTE, start);
        assert_eq!((window.count(at(0)), window.frees_in(at(0))), (0, Duration::ZERO));
        window.add(2, at(900));
        window.add(3, at(30_000));
        assert_eq!(window.count(at(60_899)), 5);
        assert_eq!(window.frees_in(at(60_899)), Duration::from_millis(101));
        assert_eq!(window.count(at(61_000)), 3);
        assert_eq!(window.frees_in(at(61_000)), Duration::from_secs(30));
        assert_eq!(window.count(at(91_000)), 0);
        // Far beyond what it keeps, and no further than that.
        window.add(1, at(100_000_000));
        assert_eq!(window.count(at(100_000_001)), 1);
    }

    #[test]
    fn never_more_than_the_limit_comes_through_in_any_window_and_hardly_less_over_time() {
        const MAX: u32 = 100;
        let mut random = StdRng::seed_from_u64(7);
        for gap_max_ms in [10, 500, 1_500] {
            let start = Instant::now();
            let mut window = Window::new(MINUTE, start);
            let (mut now, mut through) = (start, Vec::new());
            while now < start + 10 * MINUTE {
                if window.count(now) < MAX {
                    window.add(1, now);
                    through.push(now);
                }
                now += Duration::from_millis(random.random_range(0..gap_max_ms));
            }
            for (n, first) in through.iter().enumerate() {
                let within = through[n..].iter().take_while(|it| it.duration_since(*first) < MINUTE).count();
                assert!(within <= MAX as usize, "{within} came through in a minute");
            }
            let offered = 60_000 * 2 / gap_max_ms as usize * 10;
            assert!(through.len() >= offered.min(MAX as usize * 10) * 95 / 100, "only {} came through", through.len());
        }
    }

    #[test]
    fn at_the_edge_of_a_window_not_double_the_limit_comes_through() {
        let start = Instant::now();
        let mut window = Window::new(MINUTE, start);
        let mut hammer = |from: u64| {
            let mut through = 0;
            for n in 0..200 {
                let now = start + Duration::from_millis(from + n);
                if window.count(now) < 100 {
                    window.add(1, now);
                    through += 1;
                }
            }
            through
        };
        assert_eq!((hammer(59_500), hammer(60_100), hammer(119_400), hammer(121_000)), (100, 0, 0, 100));
    }
}
