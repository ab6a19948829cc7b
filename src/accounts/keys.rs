//! API keys: `tt_<public id>_<secret>`. The public id finds the row, the secret's SHA-256 proves it.
//!
//! What was looked up is kept for [`FRESH_FOR`]; a change in Postgres drops it at once by NOTIFY (see
//! [`Accounts::forget`]). While Postgres is away a key that was good within [`STALE_FOR`] stays good: nobody can revoke
//! one then either, and searches on loaded knowledge bases go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::{
    accounts::tenants::Tier,
    ctx::{ApiKeyId, Scope, TenantId},
    error::Error,
    store::{self, Store, StoreError},
};

/// How long a looked-up key is used without asking Postgres again.
const FRESH_FOR: Duration = Duration::from_secs(30);
/// How long a key that was good goes on while Postgres is away.
const STALE_FOR: Duration = Duration::from_secs(3_600);
/// Keys held at most, known and unknown ones together; the least used are let go.
const CACHED_MAX: u64 = 100_000;

const PREFIX: &str = "tt_";
const PUBLIC_ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 24;

/// Who asks, once a key proved it.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// The tenant whose data the key opens.
    pub tenant_id: TenantId,
    /// The key.
    pub api_key_id: ApiKeyId,
    /// What the tenant pays for.
    pub tier: Tier,
    scopes: [bool; Scope::ALL.len()],
}

impl Caller {
    /// Whether the key has `scope`.
    pub fn may(&self, scope: Scope) -> bool {
        Scope::ALL.iter().position(|known| *known == scope).is_some_and(|at| self.scopes[at])
    }
}

/// A key as Postgres has it, or the knowledge that there is none.
#[derive(Debug, Clone)]
struct Known {
    secret_sha256: [u8; 32],
    caller: Caller,
    expires_at: Option<OffsetDateTime>,
}

/// Checks keys. One for the whole server, shared by all shards.
pub struct Accounts {
    store: Arc<Store>,
    cached: Cached,
}

/// What is known of keys, for a time.
struct Cached {
    fresh: Cache<String, Option<Known>>,
    stale: Cache<String, Known>,
    /// How often a change was told.
    changes: AtomicU64,
}

impl Accounts {
    /// With nothing cached yet.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, cached: Cached::new() }
    }

    /// The caller that `authorization` (the header's value) proves.
    ///
    /// # Errors
    /// `Unauthenticated` if there is no key, or it is malformed, unknown, expired or revoked: all the same answer.
    /// `Unavailable` if Postgres is away and the key was not seen lately.
    pub async fn authenticate(&self, authorization: Option<&str>) -> Result<Caller, Error> {
        let (public_id, secret) = authorization
            .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")))
            .and_then(|token| split(token.trim()))
            .ok_or(Error::Unauthenticated)?;
        let read = async || {
            let row = store::api_keys::find_by_public_id(&self.store, public_id).await?;
            Ok(row.map(Known::from))
        };
        let known = self
            .cached
            .find(public_id, read)
            .await
            .map_err(|error| Error::unavailable("Keys cannot be checked right now.", anyhow::anyhow!(error)))?;
        let secret_sha256: [u8; 32] = Sha256::digest(secret).into();
        // An unknown public id is compared too, so that its answer takes as long as that for a wrong secret.
        let stored = known.as_ref().map_or(&[0; 32], |known| &known.secret_sha256);
        let secret_fits = bool::from(stored.ct_eq(&secret_sha256));
        match known {
            Some(known) if secret_fits && known.expires_at.is_none_or(|at| at > OffsetDateTime::now_utc()) => {
                Ok(known.caller)
            }
            _ => Err(Error::Unauthenticated),
        }
    }

    /// Drops what is known of a key, because its row changed.
    pub async fn forget(&self, public_id: &str) {
        self.cached.forget(public_id).await;
    }

    /// Asks Postgres again for every key, because changes may have been missed, or are a tenant's.
    pub fn recheck_all(&self) {
        self.cached.recheck_all();
    }
}

impl Cached {
    fn new() -> Self {
        Self {
            fresh: Cache::builder().max_capacity(CACHED_MAX).time_to_live(FRESH_FOR).build(),
            stale: Cache::builder().max_capacity(CACHED_MAX).time_to_live(STALE_FOR).build(),
            changes: AtomicU64::new(0),
        }
    }

    async fn forget(&self, public_id: &str) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.drop_known(public_id).await;
    }

    fn recheck_all(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.fresh.invalidate_all();
    }

    async fn drop_known(&self, public_id: &str) {
        self.fresh.invalidate(public_id).await;
        self.stale.invalidate(public_id).await;
    }

    /// What is known, else what `read` gives: one call for any number of requests that miss at once (moka hands the lead
    /// on if its request is dropped).
    async fn find<R>(&self, public_id: &str, read: impl Fn() -> R) -> Result<Option<Known>, Arc<StoreError>>
    where
        R: Future<Output = Result<Option<Known>, StoreError>>,
    {
        if let Some(known) = self.fresh.get(public_id).await {
            return Ok(known);
        }
        loop {
            let changes = self.changes.load(Ordering::SeqCst);
            let known = self.fresh.try_get_with_by_ref(public_id, self.read(public_id, &read)).await?;
            if self.changes.load(Ordering::SeqCst) == changes {
                return Ok(known);
            }
            // A change that was told while Postgres was read may be this key's, and newer than what was read.
            self.drop_known(public_id).await;
        }
    }

    async fn read<R>(&self, public_id: &str, read: impl Fn() -> R) -> Result<Option<Known>, StoreError>
    where
        R: Future<Output = Result<Option<Known>, StoreError>>,
    {
        match read().await {
            Ok(known) => {
                match &known {
                    Some(known) => self.stale.insert(public_id.to_owned(), known.clone()).await,
                    None => self.stale.invalidate(public_id).await,
                }
                Ok(known)
            }
            Err(error) => match self.stale.get(public_id).await {
                Some(known) => Ok(Some(known)),
                None => Err(error),
            },
        }
    }
}

impl From<(store::api_keys::ApiKeyRow, String)> for Known {
    fn from((row, tier): (store::api_keys::ApiKeyRow, String)) -> Self {
        // A word that this version does not know is not worth more than the least.
        let tier = Tier::parse(&tier).unwrap_or(Tier::Free);
        let scopes = Scope::ALL.map(|scope| row.scopes.iter().any(|word| word == scope.as_str()));
        Self {
            secret_sha256: row.secret_sha256,
            caller: Caller { tenant_id: row.tenant_id, api_key_id: row.id, tier, scopes },
            expires_at: row.expires_at,
        }
    }
}

/// A new key's two halves as they are stored, and the text that its owner gets to see once.
pub struct NewKey {
    /// Finds the row.
    pub public_id: String,
    /// Proves the secret.
    pub secret_sha256: [u8; 32],
    /// `tt_<public id>_<secret>`.
    pub text: String,
}

impl NewKey {
    /// A key of 192 random bits from the operating system's generator.
    ///
    /// # Errors
    /// If the operating system has no randomness to give.
    pub fn generate() -> Result<Self, rand::rngs::SysError> {
        use rand::TryRng as _;
        let (mut public_id, mut secret) = ([0; PUBLIC_ID_BYTES], [0; SECRET_BYTES]);
        rand::rngs::SysRng.try_fill_bytes(&mut public_id)?;
        rand::rngs::SysRng.try_fill_bytes(&mut secret)?;
        let (public_id, secret) = (hex::encode(public_id), hex::encode(secret));
        let text = format!("{PREFIX}{public_id}_{secret}");
        Ok(Self { secret_sha256: Sha256::digest(secret.as_bytes()).into(), public_id, text })
    }
}

/// Public id and secret of a key's text, if it has the form of one.
fn split(token: &str) -> Option<(&str, &[u8])> {
    let (public_id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let is_hex = |part: &str, bytes: usize| part.len() == 2 * bytes && part.bytes().all(|b| b.is_ascii_hexdigit());
    (is_hex(public_id, PUBLIC_ID_BYTES) && is_hex(secret, SECRET_BYTES)).then_some((public_id, secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_splits_into_what_is_stored() {
        let key = NewKey::generate().unwrap();
        let (public_id, secret) = split(&key.text).unwrap();
        assert_eq!(public_id, key.public_id);
        assert_eq!(<[u8; 32]>::from(Sha256::digest(secret)), key.secret_sha256);
        assert_ne!(NewKey::generate().unwrap().text, key.text);
    }

    #[tokio::test]
    async fn a_key_that_is_revoked_while_it_is_looked_up_is_not_kept() {
        let known = Known {
            secret_sha256: [7; 32],
            caller: Caller {
                tenant_id: TenantId::new(),
                api_key_id: ApiKeyId::new(),
                tier: Tier::Free,
                scopes: [true; Scope::ALL.len()],
            },
            expires_at: None,
        };
        let cached = Cached::new();
        let reads = AtomicU64::new(0);
        let read = async || {
            if reads.fetch_add(1, Ordering::SeqCst) > 0 {
                return Ok(None);
            }
            // The row was read; before that is written down, the news of its change comes in.
            cached.forget("id").await;
            Ok(Some(known.clone()))
        };
        assert!(cached.find("id", read).await.unwrap().is_none());
        assert!(cached.find("id", read).await.unwrap().is_none());
        assert_eq!(reads.load(Ordering::SeqCst), 2);
        assert!(cached.stale.get("id").await.is_none());
    }

    #[test]
    fn text_that_is_no_key_is_refused_before_anything_is_asked() {
        let key = NewKey::generate().unwrap().text;
        for bad in ["", "tt_", "tt__", "sk_abc_def", &key[..key.len() - 1], &key.replace('_', "-"), &format!("{key}0")]
        {
            assert!(split(bad).is_none(), "{bad} was taken for a key");
        }
    }
}
