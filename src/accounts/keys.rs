//! API keys: `tt_<public id>_<secret>`. The public id finds the row, the secret's SHA-256 proves it. A key has any set of
//! scopes, and is replaced by another that holds beside it for a time.

use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Accounts, ApiKeyRow, Caller, Page, PageRequest, check_grant, tenants::Tier, unchecked};
use crate::{
    ctx::{Actor, ApiKeyId, Ctx, Scope, Scopes},
    error::Error,
    secrets::{are_digits, random_digits},
    store::{
        self, Store,
        api_keys::{KeyProof, NewApiKey},
        audit_log::{self, Change},
    },
};

/// Longest name of a key, in characters.
pub const NAME_CHARS_MAX: usize = 200;
/// Longest that a key which was replaced holds on.
pub const OVERLAP_MAX: Duration = Duration::from_secs(30 * 86_400);

/// That a key was used is noted if that was last noted longer ago.
const TOUCHED_WITHIN: Duration = Duration::from_secs(30 * 60);
const PREFIX: &str = "tt_";
const PUBLIC_ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 24;

/// A key as Postgres has it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) caller: Caller,
    secret_sha256: [u8; 32],
    expires_at: Option<OffsetDateTime>,
}

/// A key to create.
#[derive(Debug, Clone)]
pub struct KeyDraft {
    /// What it is for, up to 200 characters.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// When it ceases to hold; none means never.
    pub expires_at: Option<OffsetDateTime>,
}

/// A key that was just created: the only time that its text is shown.
#[derive(Clone)]
pub struct CreatedKey {
    /// As Postgres has it.
    pub row: ApiKeyRow,
    /// `tt_<public id>_<secret>`.
    pub text: String,
}

impl Accounts {
    /// The caller that a key's text proves.
    pub(super) async fn check_key(&self, text: &str) -> Result<Caller, Error> {
        let (public_id, secret) = split(text).ok_or(Error::Unauthenticated)?;
        let secret_sha256: [u8; 32] = Sha256::digest(secret).into();
        let read = async || {
            let found =
                store::api_keys::find_by_public_id(&self.store, public_id, &secret_sha256, TOUCHED_WITHIN).await?;
            Ok(found.map(Known::from))
        };
        let known = self.keys.find(&public_id.to_owned(), read).await.map_err(unchecked)?;
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

    /// Creates a key.
    ///
    /// # Errors
    /// `Forbidden` if it would have a scope that whoever asks lacks.
    pub async fn create_key(&self, ctx: &Ctx, draft: &KeyDraft) -> Result<CreatedKey, Error> {
        create(&self.store, ctx, draft).await
    }

    /// A page of the tenant's keys, newest first, those too that hold no more.
    ///
    /// # Errors
    /// `Invalid` for a cursor of another list.
    pub async fn list_keys(&self, ctx: &Ctx, page: &PageRequest) -> Result<Page<ApiKeyRow>, Error> {
        list(&self.store, ctx, page).await
    }

    /// One key.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn find_key(&self, ctx: &Ctx, id: ApiKeyId) -> Result<ApiKeyRow, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        let row = store::api_keys::find(&mut tx, id).await?.ok_or(Error::NotFound { what: "API key" })?;
        Ok(row)
    }

    /// Replaces a key by one that may do the same, under the same name. The old one holds for `overlap` more, which is no
    /// longer than [`OVERLAP_MAX`]. The new one expires at `expires_at`; if that is none, it lasts as long as the old one did
    /// when it was new.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id; `Conflict` if it holds no more or was replaced before; `Forbidden` if it
    /// has a scope that whoever asks lacks.
    pub async fn rotate_key(
        &self,
        ctx: &Ctx,
        id: ApiKeyId,
        overlap: Duration,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<CreatedKey, Error> {
        let now = OffsetDateTime::now_utc();
        let key = NewKey::generate()?;
        let mut tx = self.store.tenant_tx(ctx).await?;
        let old = store::api_keys::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "API key" })?;
        check_grant_of(ctx, &old.scopes)?;
        if old.revoked_at.is_some() || old.expires_at.is_some_and(|at| at <= now) {
            return Err(Error::Conflict { detail: "The key holds no more; create another one.".into() });
        }
        let expires_at =
            expires_at.or_else(|| old.expires_at.map(|at| now.checked_add(at - old.created_at).unwrap_or(at)));
        let row = store::api_keys::replace(&mut tx, id, &key.public_id, &key.secret_sha256, expires_at)
            .await
            .map_err(|error| match error.is_unique_violation() {
                true => {
                    Error::Conflict { detail: "The key was rotated before; rotate the one that replaced it.".into() }
                }
                false => error.into(),
            })?
            .ok_or(Error::NotFound { what: "API key" })?;
        store::api_keys::expire(&mut tx, id, now + overlap.min(OVERLAP_MAX)).await?;
        let change = Change::between(json!({ "id": old.id.0 }), told(&row));
        audit_log::note(&mut tx, ctx, "api_key.rotate", row.id.0, &change).await?;
        tx.commit().await?;
        self.forget_key(&old.public_id).await;
        Ok(CreatedKey { row, text: key.text })
    }

    /// Revokes a key. One that was revoked before stays as it is.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn revoke_key(&self, ctx: &Ctx, id: ApiKeyId) -> Result<(), Error> {
        let row = revoke(&self.store, ctx, id).await?;
        self.forget_key(&row.public_id).await;
        Ok(())
    }
}

/// As [`Accounts::create_key`].
///
/// # Errors
/// As there.
pub async fn create(store: &Store, ctx: &Ctx, draft: &KeyDraft) -> Result<CreatedKey, Error> {
    check_grant(ctx, "The key", draft.scopes)?;
    let key = NewKey::generate()?;
    let new = NewApiKey {
        public_id: &key.public_id,
        secret_sha256: &key.secret_sha256,
        name: &draft.name,
        scopes: &draft.scopes.words(),
        expires_at: draft.expires_at,
    };
    let mut tx = store.tenant_tx(ctx).await?;
    let row = store::api_keys::insert(&mut tx, &new).await?;
    let change = Change::to(told(&row));
    audit_log::note(&mut tx, ctx, "api_key.create", row.id.0, &change).await?;
    tx.commit().await?;
    Ok(CreatedKey { row, text: key.text })
}

/// As [`Accounts::list_keys`].
///
/// # Errors
/// As there.
pub async fn list(store: &Store, ctx: &Ctx, page: &PageRequest) -> Result<Page<ApiKeyRow>, Error> {
    let mut tx = store.tenant_list(ctx).await?;
    let rows = store::api_keys::list(&mut tx, page).await?;
    Ok(rows)
}

/// Revokes a key, as [`Accounts::revoke_key`]; servers that remember it are told by Postgres.
///
/// # Errors
/// As there.
pub async fn revoke(store: &Store, ctx: &Ctx, id: ApiKeyId) -> Result<ApiKeyRow, Error> {
    let mut tx = store.tenant_tx(ctx).await?;
    let row = store::api_keys::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "API key" })?;
    if store::api_keys::revoke(&mut tx, id).await? {
        let change = Change::from(told(&row));
        audit_log::note(&mut tx, ctx, "api_key.revoke", id.0, &change).await?;
    }
    tx.commit().await?;
    Ok(row)
}

/// Revokes the key of that public id, whichever tenant has it; none if there is none that was not revoked before.
///
/// # Errors
/// If Postgres is away.
pub async fn revoke_by_public_id(store: &Store, public_id: &str) -> Result<Option<ApiKeyRow>, Error> {
    match store::api_keys::find_id(store, public_id).await? {
        Some((tenant_id, id)) => revoke(store, &Ctx::of_operator(tenant_id), id).await.map(Some),
        None => Ok(None),
    }
}

/// [`check_grant`], for words as they are stored: one that this server does not know may mean anything.
fn check_grant_of(ctx: &Ctx, words: &[String]) -> Result<(), Error> {
    if let Some(unknown) = words.iter().find(|word| Scope::parse(word).is_none()) {
        return Err(Error::Forbidden { detail: format!("The key may more than you: {unknown}.") });
    }
    check_grant(ctx, "The key", Scopes::of_words(words))
}

/// What the audit log says of a key.
fn told(row: &ApiKeyRow) -> Value {
    let expires_at = row.expires_at.and_then(|at| at.format(&Rfc3339).ok());
    json!({ "public_id": row.public_id, "name": row.name, "scopes": row.scopes, "expires_at": expires_at })
}

impl From<KeyProof> for Known {
    fn from(proof: KeyProof) -> Self {
        let caller = Caller {
            tenant_id: proof.tenant_id,
            actor: Actor::ApiKey(proof.id),
            tier: Tier::of_word(&proof.tier),
            scopes: Scopes::of_words(&proof.scopes),
        };
        Self { caller, secret_sha256: proof.secret_sha256, expires_at: proof.expires_at }
    }
}

/// A new key's two halves as they are stored, and the text that its owner gets to see once.
struct NewKey {
    /// Finds the row.
    public_id: String,
    /// Proves the secret.
    secret_sha256: [u8; 32],
    /// `tt_<public id>_<secret>`.
    text: String,
}

impl NewKey {
    /// A key of 192 random bits from the operating system's generator.
    fn generate() -> Result<Self, Error> {
        let (public_id, secret) = (random_digits::<PUBLIC_ID_BYTES>()?, random_digits::<SECRET_BYTES>()?);
        let text = format!("{PREFIX}{public_id}_{secret}");
        Ok(Self { secret_sha256: Sha256::digest(secret.as_bytes()).into(), public_id, text })
    }
}

/// Public id and secret of a key's text, if it has the form of one.
fn split(token: &str) -> Option<(&str, &[u8])> {
    let (public_id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let has_form = are_digits(public_id, PUBLIC_ID_BYTES) && are_digits(secret, SECRET_BYTES);
    has_form.then_some((public_id, secret.as_bytes()))
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

    #[test]
    fn text_that_is_no_key_is_refused_before_anything_is_asked() {
        let key = NewKey::generate().unwrap().text;
        for bad in ["", "tt_", "tt__", "sk_abc_def", &key[..key.len() - 1], &key.replace('_', "-"), &format!("{key}0")]
        {
            assert!(split(bad).is_none(), "{bad} was taken for a key");
        }
    }

    #[test]
    fn a_scope_that_is_not_known_here_is_not_passed_on() {
        let ctx = Ctx::of_operator(crate::ctx::TenantId::new());
        assert!(check_grant_of(&ctx, &["keys:write".into()]).is_ok());
        assert!(matches!(check_grant_of(&ctx, &["costs:read".into()]), Err(Error::Forbidden { .. })));
        let ctx = Ctx { scopes: Scopes::default(), ..ctx };
        assert!(matches!(check_grant_of(&ctx, &["keys:write".into()]), Err(Error::Forbidden { .. })));
    }
}
