//! How often somebody may try to log in: per account, whether there is one or not, and per address.
//!
//! GCRA: each key has the time at which it would be as if never used, pushed on by each try; one that would push it further
//! than the burst allows is refused. Bounds: [`KEYS_MAX`] keys, of which hashes are held and no addresses; if there are more,
//! those that are closest to unused go.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::ctx::UserId;

/// Keys held at most.
const KEYS_MAX: usize = 100_000;

/// Tries of one account: ten at once, then one each half minute.
const PER_ACCOUNT: Rate = Rate { burst: 10, each: Duration::from_secs(30) };
/// Tries from one address, which may be that of a whole office: a hundred at once, then one each second.
const PER_ADDRESS: Rate = Rate { burst: 100, each: Duration::from_secs(1) };

/// Whose tries are counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key<'a> {
    /// Of whoever has this address in the tenant of this name.
    Account {
        /// As it was sent.
        tenant: &'a str,
        /// In lower case.
        email: &'a str,
    },
    /// Of a person who gives their old password.
    User(UserId),
    /// From this place.
    Address(IpAddr),
}

/// So many at once, then one each time that passes.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    each: Duration,
}

/// Counts tries in this process.
#[derive(Default)]
pub(super) struct Attempts {
    hashes: RandomState,
    /// When each key, by its hash, is as if it had never been used.
    unused_at: Mutex<HashMap<u64, Instant>>,
}

impl Attempts {
    /// Counts a try.
    ///
    /// # Errors
    /// How long to wait, if there were too many. It is not counted then.
    pub(super) fn take(&self, key: Key<'_>) -> Result<(), Duration> {
        let key = key.counted_as();
        let rate = match key {
            Key::Account { .. } | Key::User(_) => PER_ACCOUNT,
            Key::Address(_) => PER_ADDRESS,
        };
        self.take_at(key, rate, Instant::now(), KEYS_MAX)
    }

    fn take_at(&self, key: Key<'_>, rate: Rate, now: Instant, keys_max: usize) -> Result<(), Duration> {
        let key = self.hashes.hash_one(key);
        let mut unused_at = self.unused_at.lock().unwrap_or_else(PoisonError::into_inner);
        let pushed_on = unused_at.get(&key).map_or(now, |at| (*at).max(now)) + rate.each;
        let furthest = now + rate.each * rate.burst;
        if pushed_on > furthest {
            return Err(pushed_on - furthest);
        }
        if unused_at.len() >= keys_max && !unused_at.contains_key(&key) {
            make_room(&mut unused_at, now);
        }
        unused_at.insert(key, pushed_on);
        Ok(())
    }
}

impl Key<'_> {
    /// A site has a whole network of IPv6 (RFC 6177), so its addresses are counted as one.
    fn counted_as(self) -> Self {
        match self {
            Self::Address(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
                Some(address) => Self::Address(address.into()),
                None => Self::Address(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into()),
            },
            key => key,
        }
    }
}

/// Removes what is as good as unused, and where that is little, the half that is closest to it.
fn make_room(unused_at: &mut HashMap<u64, Instant>, now: Instant) {
    let before = unused_at.len();
    unused_at.retain(|_, at| *at > now);
    if unused_at.len() > before - before / 8 {
        let mut times: Vec<Instant> = unused_at.values().copied().collect();
        let middle = times.len() / 2;
        let middle = *times.select_nth_unstable(middle).1;
        unused_at.retain(|_, at| *at > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, each: Duration::from_secs(10) };

    fn address(last: u8) -> Key<'static> {
        Key::Address(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn a_burst_is_let_through_and_then_one_at_a_time() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        let take = |key: u8, after: u64| attempts.take_at(address(key), RATE, start + Duration::from_secs(after), 100);
        assert_eq!([take(1, 0), take(1, 0), take(1, 0)], [Ok(()); 3]);
        assert_eq!(take(1, 0), Err(Duration::from_secs(10)));
        assert_eq!(take(1, 4), Err(Duration::from_secs(6)), "a refused one is not counted");
        assert_eq!(take(2, 4), Ok(()), "others are not concerned");
        assert_eq!(take(1, 10), Ok(()));
        assert_eq!(take(1, 10), Err(Duration::from_secs(10)));
        // Never more than a burst, however long it was quiet: no window lets double through.
        assert_eq!([take(1, 1_000), take(1, 1_000), take(1, 1_000)], [Ok(()); 3]);
        assert!(take(1, 1_000).is_err());
    }

    #[test]
    fn a_full_table_keeps_those_that_tried_most() {
        let (attempts, now) = (Attempts::default(), Instant::now());
        let take = |key: u8| attempts.take_at(address(key), RATE, now, 20);
        assert_eq!([take(0), take(0), take(0)], [Ok(()); 3]);
        for key in 1..=200 {
            assert_eq!(take(key), Ok(()));
        }
        assert!(take(0).is_err(), "it was not forgotten for those that came after it");
        assert!(attempts.unused_at.lock().unwrap().len() <= 20);
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_place() {
        let counted = |text: &str| Key::Address(text.parse().unwrap()).counted_as();
        assert_eq!(counted("2001:db8:0:1::1"), counted("2001:db8:0:1:ffff::2"));
        assert_ne!(counted("2001:db8:0:1::1"), counted("2001:db8:0:2::1"));
        assert_eq!(counted("::ffff:192.0.2.1"), address(1));
        assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
    }
}
