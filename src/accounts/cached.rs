//! What is known of credentials, for a time: keys and logins are looked up in Postgres and kept here.
//!
//! What was looked up is used for [`FRESH_FOR`]; a change in Postgres drops it at once by NOTIFY (see [`Cached::forget`]).
//! While Postgres is away, what was good within [`STALE_FOR`] stays good: nobody can take it back then either, and searches
//! on loaded knowledge bases go on.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;

use crate::store::StoreError;

/// How long what was looked up is used without asking Postgres again.
const FRESH_FOR: Duration = Duration::from_secs(30);
/// How long what was good goes on while Postgres is away.
const STALE_FOR: Duration = Duration::from_secs(3_600);
/// Credentials of one kind that are held at most, known and unknown ones together; the least used are let go.
const CACHED_MAX: u64 = 100_000;

/// What is known of credentials of one kind.
pub(super) struct Cached<K, V> {
    fresh: Cache<K, Fresh<V>>,
    stale: Cache<K, V>,
    /// How often a change was told.
    changes: AtomicU64,
}

/// What Postgres said of one.
#[derive(Clone)]
struct Fresh<V> {
    /// None for what it does not know.
    known: Option<V>,
    /// Changes that had been told before it was asked.
    changes: u64,
}

impl<K, V> Cached<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self {
            fresh: Cache::builder()
                .max_capacity(CACHED_MAX)
                .time_to_live(FRESH_FOR)
                .support_invalidation_closures()
                .build(),
            stale: Cache::builder()
                .max_capacity(CACHED_MAX)
                .time_to_live(STALE_FOR)
                .support_invalidation_closures()
                .build(),
            changes: AtomicU64::new(0),
        }
    }

    /// Drops what is known of one, because it changed.
    pub(super) async fn forget(&self, key: &K) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.drop_known(key).await;
    }

    /// Drops what is known of all that `concerns` is true for, because something about them changed.
    pub(super) fn forget_all_of(&self, concerns: impl Fn(&V) -> bool + Clone + Send + Sync + 'static) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        let of_fresh = concerns.clone();
        self.fresh
            .invalidate_entries_if(move |_, fresh| fresh.known.as_ref().is_some_and(&of_fresh))
            .and_then(|_| self.stale.invalidate_entries_if(move |_, known| concerns(known)))
            .expect("the caches were built for closures");
    }

    /// Asks Postgres again for every one, because changes may have been missed.
    pub(super) fn recheck_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.fresh.invalidate_all();
    }

    async fn drop_known(&self, key: &K) {
        self.fresh.invalidate(key).await;
        self.stale.invalidate(key).await;
    }

    /// What is known, else what `read` gives: one call for any number of requests that miss at once (moka hands the lead
    /// on if its request is dropped).
    pub(super) async fn find<R>(&self, key: &K, read: impl Fn() -> R) -> Result<Option<V>, Arc<StoreError>>
    where
        R: Future<Output = Result<Option<V>, StoreError>>,
    {
        match self.fresh.get(key).await {
            Some(fresh) => Ok(fresh.known),
            // In a box: it is large, and every request would carry it along for the few that need it.
            None => Box::pin(self.look_up(key, read)).await,
        }
    }

    async fn look_up<R>(&self, key: &K, read: impl Fn() -> R) -> Result<Option<V>, Arc<StoreError>>
    where
        R: Future<Output = Result<Option<V>, StoreError>>,
    {
        loop {
            let Fresh { known, changes } = self.fresh.try_get_with_by_ref(key, self.read(key, &read)).await?;
            // Those who only waited for it compare with when it was read, too.
            if self.changes.load(Ordering::SeqCst) == changes {
                return Ok(known);
            }
            // A change that was told while Postgres was read may be this one's, and newer than what was read.
            self.drop_known(key).await;
        }
    }

    async fn read<R>(&self, key: &K, read: impl Fn() -> R) -> Result<Fresh<V>, StoreError>
    where
        R: Future<Output = Result<Option<V>, StoreError>>,
    {
        let changes = self.changes.load(Ordering::SeqCst);
        let known = match read().await {
            Ok(known) => {
                match &known {
                    Some(known) => self.stale.insert(key.clone(), known.clone()).await,
                    None => self.stale.invalidate(key).await,
                }
                known
            }
            Err(error) => Some(self.stale.get(key).await.ok_or(error)?),
        };
        Ok(Fresh { known, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads that give `answers` one after the other, and then nothing.
    async fn ask(
        cached: &Cached<u8, char>,
        key: u8,
        answer: Result<Option<char>, StoreError>,
    ) -> (Option<Option<char>>, bool) {
        let answer = std::sync::Mutex::new(Some(answer));
        let read = async || answer.lock().unwrap().take().expect("it is read once");
        let known = cached.find(&key, read).await.ok();
        (known, answer.lock().unwrap().is_none())
    }

    #[tokio::test]
    async fn what_was_read_is_not_read_again_until_it_changes() {
        let cached = Cached::new();
        assert_eq!(ask(&cached, 1, Ok(Some('a'))).await, (Some(Some('a')), true));
        assert_eq!(ask(&cached, 1, Ok(Some('b'))).await, (Some(Some('a')), false));
        assert_eq!(ask(&cached, 2, Ok(None)).await, (Some(None), true));
        assert_eq!(ask(&cached, 2, Ok(Some('b'))).await, (Some(None), false));
        cached.forget(&1).await;
        assert_eq!(ask(&cached, 1, Ok(Some('c'))).await, (Some(Some('c')), true));
        cached.forget_all_of(|known| *known == 'c');
        assert_eq!(ask(&cached, 1, Ok(Some('d'))).await, (Some(Some('d')), true));
        cached.forget_all_of(|known| *known == 'c');
        assert_eq!(ask(&cached, 1, Ok(None)).await, (Some(Some('d')), false));
        cached.recheck_all();
        assert_eq!(ask(&cached, 1, Ok(Some('e'))).await, (Some(Some('e')), true));
    }

    #[tokio::test]
    async fn what_was_good_stays_so_while_postgres_is_away_unless_it_was_told_to_have_changed() {
        let cached = Cached::new();
        let away = || Err(StoreError::Closed);
        ask(&cached, 1, Ok(Some('a'))).await;
        cached.recheck_all();
        assert_eq!(ask(&cached, 1, away()).await, (Some(Some('a')), true));
        cached.forget_all_of(|known| *known == 'a');
        assert_eq!(ask(&cached, 1, away()).await, (None, true));
        ask(&cached, 1, Ok(Some('b'))).await;
        cached.forget(&1).await;
        assert_eq!(ask(&cached, 1, away()).await, (None, true));
        assert_eq!(ask(&cached, 2, away()).await, (None, true), "it was never good");
    }

    #[tokio::test]
    async fn what_changes_while_it_is_looked_up_is_not_kept() {
        for one in [true, false] {
            let cached = Cached::new();
            let reads = AtomicU64::new(0);
            let read = async || {
                if reads.fetch_add(1, Ordering::SeqCst) > 0 {
                    return Ok(None);
                }
                // The row was read; before that is written down, the news of its change comes in.
                match one {
                    true => cached.forget(&"id").await,
                    false => cached.forget_all_of(|known| *known == 'a'),
                }
                Ok(Some('a'))
            };
            assert!(cached.find(&"id", read).await.unwrap().is_none());
            assert!(cached.find(&"id", read).await.unwrap().is_none());
            assert_eq!(reads.load(Ordering::SeqCst), 2);
            assert!(cached.stale.get(&"id").await.is_none());
        }
    }

    #[tokio::test]
    async fn who_joins_a_look_up_after_a_change_does_not_get_what_was_before_it() {
        let cached = Cached::new();
        let reads = AtomicU64::new(0);
        let (begun, go_on) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
        let read = async || {
            if reads.fetch_add(1, Ordering::SeqCst) > 0 {
                return Ok(None);
            }
            begun.notify_one();
            go_on.notified().await;
            Ok(Some('a'))
        };
        let first = cached.find(&1, read);
        let second = async {
            begun.notified().await;
            cached.forget(&1).await;
            let mut joined = Box::pin(cached.find(&1, read));
            // It has asked and waits for the first.
            assert!(futures_util::poll!(&mut joined).is_pending());
            go_on.notify_one();
            joined.await
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first.unwrap(), second.unwrap()), (None, None));
    }
}
