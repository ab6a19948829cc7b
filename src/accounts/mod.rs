//! Tenants, their people and their API keys: who is asking, and what they may do.
//!
//! Invariant: a key's secret and a login's token are never stored nor logged; Postgres holds their SHA-256. Of a password it
//! holds what argon2id makes of it. Nobody gives a key or a person more than they have themselves.

mod cached;
pub mod keys;
pub mod logins;
pub mod passwords;
pub mod roles;
pub mod tenants;
pub mod users;
pub mod visitors;

use std::{sync::Arc, time::Duration};

use self::{cached::Cached, passwords::Passwords, tenants::Tier};
use crate::{
    bus::Limits,
    compute::Compute,
    config::AccountsConfig,
    ctx::{Actor, Ctx, Scope, Scopes, TenantId, UserId, WidgetId},
    error::Error,
    store::{Store, StoreError, auth_sessions::Lifetimes, widgets::WidgetSecrets},
    tasks::Tasks,
};

/// What the use cases take and give as the store has it, so that callers need not know of the store.
pub use crate::store::{
    api_keys::ApiKeyRow,
    page::{Page, PageRequest},
    users::UserRow,
};

/// Who asks, once a key or a login proved it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The tenant whose data is opened.
    pub tenant_id: TenantId,
    /// The key, the person or the visitor.
    pub actor: Actor,
    /// What the tenant pays for.
    pub tier: Tier,
    /// What they may do.
    pub scopes: Scopes,
}

impl Caller {
    /// Whether they may do what `scope` stands for.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.has(scope)
    }
}

/// The accounts room: checks keys and logins, and manages them and the people. One for the whole server, shared by all
/// shards.
pub struct Accounts {
    store: Arc<Store>,
    keys: Cached<String, keys::Known>,
    logins: Cached<[u8; 32], logins::Known>,
    passwords: Passwords,
    limits: Arc<Limits>,
    lifetimes: Lifetimes,
    widgets: Cached<(TenantId, WidgetId), WidgetSecrets>,
    /// Where some widget, or that one, may be shown.
    origins: Cached<(String, Option<WidgetId>), ()>,
    visitor_ttl: Duration,
    tasks: Tasks,
}

impl Accounts {
    /// A room over `store` with nothing cached yet, on a machine with so many `cores`.
    pub fn new(
        store: Arc<Store>,
        compute: Arc<Compute>,
        cores: usize,
        config: &AccountsConfig,
        limits: Arc<Limits>,
        tasks: Tasks,
    ) -> Self {
        Self {
            store,
            keys: Cached::new(),
            logins: Cached::new(),
            passwords: Passwords::new(compute, cores),
            limits,
            lifetimes: logins::lifetimes(config),
            widgets: Cached::new(),
            origins: Cached::new(),
            visitor_ttl: config.visitor_ttl,
            tasks,
        }
    }

    /// The caller that `authorization` (the header's value) proves. `origin` is that of the page that asks, if one does.
    ///
    /// # Errors
    /// `Unauthenticated` if there is no key or token, or it is malformed, unknown, expired or revoked: all the same answer.
    /// `Forbidden` for a visitor's token on another page than its own.
    /// `Unavailable` if Postgres is away and it was not seen lately.
    pub async fn authenticate(&self, authorization: Option<&str>, origin: Option<&str>) -> Result<Caller, Error> {
        let token = authorization.and_then(bearer).ok_or(Error::Unauthenticated)?;
        if let Some(checked) = self.check_visitor(token, origin).await {
            return checked;
        }
        match logins::token_sha256(token) {
            Some(token_sha256) => self.check_login(token_sha256).await,
            None => self.check_key(token).await,
        }
    }

    /// Drops what is known of a key, because its row changed.
    pub async fn forget_key(&self, public_id: &str) {
        self.keys.forget(&public_id.to_owned()).await;
    }

    /// Drops what is known of a login, because it ended or its person changed.
    pub async fn forget_login(&self, token_sha256: &[u8; 32]) {
        self.logins.forget(token_sha256).await;
    }

    /// Drops what is known of all that is a tenant's, because it changed or is gone.
    pub fn forget_tenant(&self, tenant_id: TenantId) {
        self.keys.forget_all_of(move |known| known.caller.tenant_id == tenant_id);
        self.logins.forget_all_of(move |known| known.caller.tenant_id == tenant_id);
        self.widgets.forget_all_of(move |known| known.tenant_id == tenant_id);
    }

    /// Asks Postgres again for every key and login, because changes may have been missed.
    pub fn recheck_all(&self) {
        self.keys.recheck_all();
        self.logins.recheck_all();
        self.widgets.recheck_all();
        self.origins.recheck_all();
    }

    /// Drops what is known of all logins of a person, because something about them changed.
    fn forget_user(&self, id: UserId) {
        self.logins.forget_all_of(move |known| known.caller.actor.user_id() == Some(id));
    }
}

/// The token of an `Authorization` header.
fn bearer(authorization: &str) -> Option<&str> {
    let token = authorization.strip_prefix("Bearer ").or_else(|| authorization.strip_prefix("bearer "))?;
    Some(token.trim())
}

/// What is told if neither Postgres nor the cache knows who asks.
fn unchecked(error: Arc<StoreError>) -> Error {
    Error::unavailable("Keys and logins cannot be checked right now.", anyhow::anyhow!(error))
}

/// Refuses to give anybody what `ctx` has not. `what` they are to be is the subject of a sentence.
fn check_grant(ctx: &Ctx, what: &str, scopes: Scopes) -> Result<(), Error> {
    let beyond = scopes.beyond(ctx.scopes);
    if beyond.is_empty() {
        return Ok(());
    }
    Err(Error::Forbidden { detail: format!("{what} may more than you: {}.", beyond.words().join(", ")) })
}
