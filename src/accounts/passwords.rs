//! Passwords: argon2id with OWASP's parameters, on the compute threads.
//!
//! Bounds: at most [`Passwords::new`]'s number of hashes are made at once, so their memory (19 MiB each) and their share of
//! the threads are bounded; [`WAITING_MAX`] more wait for a [`Turn`], and what comes past them is told to come again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version, password_hash::phc::PasswordHash,
};
use rand::TryRng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{compute::Compute, error::Error};

/// Shortest password, in characters (NIST SP 800-63B asks for 8, and for 15 where nothing else is asked of people).
pub const CHARS_MIN: usize = 12;
/// Longest password, in characters.
pub const CHARS_MAX: usize = 128;

/// Memory of one hash, in KiB (OWASP Password Storage Cheat Sheet: 19 MiB, two passes, one lane).
const MEMORY_KIB: u32 = 19 * 1_024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;
/// Hashes made at once at most, however many cores there are.
const AT_ONCE_MAX: usize = 4;
/// Checks that may wait for their turn: some seconds' worth.
const WAITING_MAX: usize = 64;
/// What is checked for somebody who is not there, so that it takes as long: the parameters above, and the hash of nothing.
const NOBODYS: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Makes and checks hashes of passwords.
pub(super) struct Passwords {
    compute: Arc<Compute>,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Passwords {
    /// On `compute`'s threads, on half of the `cores` at once.
    pub(super) fn new(compute: Arc<Compute>, cores: usize) -> Self {
        let at_once = (cores / 2).clamp(1, AT_ONCE_MAX);
        Self { compute, turns: Arc::new(Semaphore::new(at_once)), waiting: AtomicUsize::new(0) }
    }

    /// Waits for the right to make a hash, or to check one.
    ///
    /// # Errors
    /// `Unavailable` if too many wait.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, Error> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Unavailable {
                detail: "Too many passwords are being checked; try again in a moment.",
                retry_after: Duration::from_secs(1),
                source: None,
            });
        }
        let waits = Waits(&self.waiting);
        let turn = self.turns.clone().acquire_owned().await.map_err(|error| Error::Internal(error.into()))?;
        drop(waits);
        Ok(Turn { compute: &self.compute, turn })
    }
}

/// The right to make a hash, or to check one.
pub(super) struct Turn<'a> {
    compute: &'a Compute,
    turn: OwnedSemaphorePermit,
}

impl Turn<'_> {
    /// What is stored of `password`, in the form of a PHC string.
    ///
    /// # Errors
    /// `Unavailable` if the compute threads have too much to do.
    pub(super) async fn hash(self, password: String) -> Result<String, Error> {
        self.run(move || make_hash(&password)).await?.map_err(Error::Internal)
    }

    /// Whether `password` is the one of `hash`. Without a hash it is not, and takes as long.
    ///
    /// # Errors
    /// As [`Turn::hash`].
    pub(super) async fn check(self, password: String, hash: Option<String>) -> Result<bool, Error> {
        self.run(move || {
            let fits = fits(&password, hash.as_deref().unwrap_or(NOBODYS));
            fits && hash.is_some()
        })
        .await
    }

    async fn run<T: Send + 'static>(self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let Self { compute, turn } = self;
        compute
            .run(move || {
                // The turn ends with the work, also where nobody waits for its result any more.
                let _turn = turn;
                job()
            })
            .await
    }
}

/// A place among those that wait, given back also where its request is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refuses what is too short or too long to be a password. Nothing is said of what it has to be made of.
///
/// # Errors
/// `Invalid` about `field`.
pub fn check_length(field: &str, password: &str) -> Result<(), Error> {
    match (CHARS_MIN..=CHARS_MAX).contains(&password.chars().count()) {
        true => Ok(()),
        false => Err(Error::invalid_field(field, format!("must have {CHARS_MIN} to {CHARS_MAX} characters"))),
    }
}

fn make_hash(password: &str) -> anyhow::Result<String> {
    let mut salt = [0; SALT_BYTES];
    rand::rngs::SysRng.try_fill_bytes(&mut salt)?;
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| anyhow::anyhow!("argon2: {error}"))?;
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash: PasswordHash = hasher
        .hash_password_with_salt(password.as_bytes(), &salt)
        .map_err(|error| anyhow::anyhow!("a password cannot be hashed: {error}"))?;
    Ok(hash.to_string())
}

fn fits(password: &str, hash: &str) -> bool {
    // The hash says by which parameters it was made.
    Argon2::default().verify_password(password.as_bytes(), hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords() -> Passwords {
        Passwords::new(Arc::new(Compute::new(1).unwrap()), 1)
    }

    #[tokio::test]
    async fn a_password_fits_its_own_hash_alone() {
        let passwords = passwords();
        let make = async || passwords.turn().await.unwrap().hash("correct horse battery".into()).await.unwrap();
        let hash = make().await;
        assert_ne!(make().await, hash, "each has a salt of its own");
        let fits = async |password: &str, hash: Option<&str>| {
            let turn = passwords.turn().await.unwrap();
            turn.check(password.to_owned(), hash.map(str::to_owned)).await.unwrap()
        };
        assert!(fits("correct horse battery", Some(&hash)).await);
        assert!(!fits("correct horse batterz", Some(&hash)).await);
        assert!(!fits("", None).await && !fits("correct horse battery", Some("nonsense")).await);
    }

    #[test]
    fn nobody_takes_as_long_as_somebody() {
        let parts = |hash: &str| hash.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        let made = make_hash("correct horse battery").unwrap();
        assert_eq!(parts(&made), parts(NOBODYS));
        assert_eq!(made.len(), NOBODYS.len());
        let parsed = PasswordHash::new(NOBODYS).unwrap();
        assert!(parsed.salt.is_some() && parsed.hash.is_some(), "it is computed to the end");
    }

    #[tokio::test]
    async fn checks_past_the_queue_are_told_to_come_again() {
        let passwords = passwords();
        let _taken = passwords.turns.clone().acquire_owned().await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| Box::pin(passwords.turn())).collect();
        for check in &mut waiting {
            assert!(futures_util::poll!(check).is_pending());
        }
        assert!(matches!(passwords.turn().await, Err(Error::Unavailable { .. })));
        drop(waiting.pop());
        let mut one_more = Box::pin(passwords.turn());
        assert!(futures_util::poll!(&mut one_more).is_pending(), "a place was given back");
    }

    #[test]
    fn a_password_has_its_length_in_characters() {
        for (password, is_good) in
            [("ä".repeat(12), true), ("ä".repeat(11), false), ("ä".repeat(128), true), ("a".repeat(129), false)]
        {
            assert_eq!(check_length("password", &password).is_ok(), is_good, "{password}");
        }
    }
}
