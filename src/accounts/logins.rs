//! Logins of people: a password in, an opaque token `tl_<secret>` out, of which Postgres holds the SHA-256.
//!
//! Whether the tenant, the person or the password is wrong, the answer is the same and takes as long: a password is checked
//! in any case, and what is written down of a refusal is written once it has been answered.

use std::time::Duration;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{Accounts, Caller, UserRow, roles::Role, tenants::Tier, unchecked, users::lower};
use crate::{
    bus::{Rule, Subject},
    config::AccountsConfig,
    ctx::{Actor, Arrival, Ctx, LoginId, Scopes, TenantId, UserId},
    error::Error,
    secrets::{are_digits, random_digits},
    store::{
        self,
        audit_log::{self, Author, Change},
        auth_sessions::{Lifetimes, LoginRow, NewLogin},
        users::Candidate,
    },
};

/// What a login's token starts with, and no key.
const PREFIX: &str = "tl_";
const TOKEN_BYTES: usize = 32;
/// Longest that a login lasts, however much it is used.
const LIFETIME_MAX: Duration = Duration::from_secs(30 * 86_400);
/// That a login was used is noted, and makes it last longer, no more often than this.
const TOUCHED_WITHIN_MAX: Duration = Duration::from_secs(30 * 60);
/// Tries of one account from one address, and of a person who gives their old password.
const TRIES: Rule = Rule { max: 10, window: Duration::from_secs(300) };
/// Tries of one account from all addresses: many more, so that nobody else easily keeps somebody from logging in.
const TRIES_OF_ACCOUNT: Rule = Rule { max: 100, window: Duration::from_secs(300) };
/// Tries from one address, which may be that of a whole office.
const TRIES_FROM_ADDRESS: Rule = Rule { max: 100, window: Duration::from_secs(60) };
/// Longest name of a client that is kept, in bytes.
const USER_AGENT_BYTES_MAX: usize = 1_024;

/// A login as Postgres has it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) caller: Caller,
    expires_at: OffsetDateTime,
}

/// What somebody logs in with.
#[derive(Clone)]
pub struct Credentials {
    /// The tenant's short name.
    pub tenant: String,
    /// Their address, in whatever case.
    pub email: String,
    /// Their password.
    pub password: String,
    /// What the client says it is.
    pub user_agent: Option<String>,
}

/// A login that was just made: the only time that its token is shown.
#[derive(Clone)]
pub struct NewToken {
    /// `tl_<secret>`.
    pub text: String,
    /// When it ceases to hold, unless it is used.
    pub expires_at: OffsetDateTime,
    /// Whose it is.
    pub user: UserRow,
}

/// Whoever asks, as they see themselves.
#[derive(Debug, Clone)]
pub struct Me {
    /// What they may do.
    pub scopes: Scopes,
    /// When their login or key ceases to hold; none for a key that never does.
    pub expires_at: Option<OffsetDateTime>,
    /// The person; none for a key.
    pub user: Option<UserRow>,
}

impl Accounts {
    /// The caller that a login's token proves.
    pub(super) async fn check_login(&self, token_sha256: [u8; 32]) -> Result<Caller, Error> {
        let read = async || {
            let row = store::auth_sessions::find_by_token(&self.store, &token_sha256, &self.lifetimes).await?;
            Ok(row.map(Known::from))
        };
        match self.logins.find(&token_sha256, read).await.map_err(unchecked)? {
            Some(known) if known.expires_at > OffsetDateTime::now_utc() => Ok(known.caller),
            _ => Err(Error::Unauthenticated),
        }
    }

    /// Logs somebody in.
    ///
    /// # Errors
    /// `BadCredentials` whatever of them is wrong; `RateLimited` after too many tries of that account, there or not, or from
    /// that address; `Unavailable` if too many passwords wait to be checked, or Postgres is away.
    pub async fn log_in(&self, arrival: &Arrival, credentials: Credentials) -> Result<NewToken, Error> {
        let Credentials { tenant, email, password, user_agent } = credentials;
        let email = lower(&email);
        self.count_try(Subject::address_by("login_address", arrival.address), TRIES_FROM_ADDRESS).await?;
        // The edge lets no NUL through, so no two accounts are written the same.
        let account = format!("{tenant}\0{email}");
        self.count_try(Subject::text_from("login", &account, arrival.address), TRIES).await?;
        self.count_try(Subject::text("login_account", &account), TRIES_OF_ACCOUNT).await?;
        // Before Postgres is asked, so that many logins at once take none of its connections from others.
        let turn = self.passwords.turn().await?;
        let found = store::users::find_to_log_in(&self.store, &tenant, &email).await?;
        let hash = found.as_ref().and_then(|candidate| candidate.password_hash.clone());
        let fits = turn.check(password, hash).await?;
        let user_agent = user_agent.as_deref().map(|text| cut(text, USER_AGENT_BYTES_MAX));
        let made = match &found {
            Some(candidate) if fits => self.make_login(arrival, candidate, user_agent).await?,
            _ => None,
        };
        if let (None, Some(Candidate { tenant_id, user, .. })) = (&made, found) {
            self.note_refusal(tenant_id, user.id, arrival);
        }
        made.ok_or(Error::BadCredentials)
    }

    /// Makes a login of somebody whose password was checked; none if they may not log in, or got another password meanwhile.
    async fn make_login(
        &self,
        arrival: &Arrival,
        candidate: &Candidate,
        user_agent: Option<&str>,
    ) -> Result<Option<NewToken>, Error> {
        let Candidate { tenant_id, user, password_hash: Some(password_hash) } = candidate else { return Ok(None) };
        let (text, token_sha256) = new_token()?;
        let login = NewLogin {
            tenant_id: *tenant_id,
            user_id: user.id,
            password_hash,
            token_sha256: &token_sha256,
            idle: self.lifetimes.idle,
            user_agent,
            address: arrival.address,
        };
        let mut tx = self.store.service_tx().await?;
        let Some(expires_at) = store::auth_sessions::insert(&mut tx, &login).await? else { return Ok(None) };
        let author = Author { kind: "user", id: Some(user.id.0), ..of_arrival(arrival) };
        audit_log::insert(&mut tx, *tenant_id, author, "user.login", user.id.0, &Change::default()).await?;
        tx.commit().await?;
        Ok(Some(NewToken { text, expires_at, user: user.clone() }))
    }

    /// Writes down that somebody could not log in, after the answer: it would tell by its time that there is somebody.
    fn note_refusal(&self, tenant_id: TenantId, user_id: UserId, arrival: &Arrival) {
        let (store, arrival) = (self.store.clone(), arrival.clone());
        self.tasks.spawn(async move {
            let note = async {
                let mut tx = store.service_tx().await?;
                let (author, action) = (of_arrival(&arrival), "user.login_refused");
                audit_log::insert(&mut tx, tenant_id, author, action, user_id.0, &Change::default()).await?;
                tx.commit().await
            };
            if let Err(error) = note.await {
                let error = anyhow::Error::new(error);
                tracing::warn!(%tenant_id, %user_id, "a refused login could not be written down: {error:#}");
            }
        });
    }

    /// Ends the login that asks. `authorization` is the header's value that proved it.
    ///
    /// # Errors
    /// `Forbidden` for a key, which is revoked instead.
    pub async fn log_out(&self, ctx: &Ctx, authorization: Option<&str>) -> Result<(), Error> {
        let (user_id, login_id) = login_of(ctx)?;
        let mut tx = self.store.tenant_tx(ctx).await?;
        store::auth_sessions::delete(&mut tx, login_id).await?;
        audit_log::note(&mut tx, ctx, "user.logout", user_id.0, &Change::default()).await?;
        tx.commit().await?;
        if let Some(token_sha256) = authorization.and_then(super::bearer).and_then(token_sha256) {
            self.forget_login(&token_sha256).await;
        }
        Ok(())
    }

    /// Whoever asks.
    ///
    /// # Errors
    /// `Unauthenticated` if they are gone meanwhile.
    pub async fn find_me(&self, ctx: &Ctx) -> Result<Me, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        let (expires_at, user) = match ctx.actor {
            Actor::User(user_id, login_id) => {
                let expires_at = store::auth_sessions::find_expiry(&mut tx, login_id).await?;
                let user = store::users::find(&mut tx, user_id).await?;
                (Some(expires_at.ok_or(Error::Unauthenticated)?), Some(user.ok_or(Error::Unauthenticated)?))
            }
            Actor::ApiKey(id) => {
                let key = store::api_keys::find(&mut tx, id).await?.ok_or(Error::Unauthenticated)?;
                (key.expires_at, None)
            }
            Actor::Visitor(_) | Actor::Operator => (None, None),
        };
        Ok(Me { scopes: ctx.scopes, expires_at, user })
    }

    /// Gives the person who asks another password, and ends their other logins.
    ///
    /// # Errors
    /// `Forbidden` for a key; `Invalid` if `current` is not their password; `RateLimited` after too many tries; `Conflict` if
    /// they got another one meanwhile; `Unavailable` if too many passwords wait to be checked.
    pub async fn change_own_password(&self, ctx: &Ctx, current: String, new: String) -> Result<(), Error> {
        let (user_id, login_id) = login_of(ctx)?;
        self.count_try(Subject::text("password", &user_id.to_string()), TRIES).await?;
        let checked = store::users::find_password(&self.store, ctx.tenant_id, user_id).await?;
        if !self.passwords.turn().await?.check(current, checked.clone()).await? {
            return Err(Error::invalid_field("current_password", "is not your password"));
        }
        let checked = checked.ok_or(Error::Unauthenticated)?;
        let hash = self.passwords.turn().await?.hash(new).await?;
        let mut tx = self.store.service_tx().await?;
        if !store::users::change_password(&mut tx, ctx.tenant_id, user_id, &checked, &hash).await? {
            return Err(Error::Conflict { detail: "Your password was changed meanwhile.".into() });
        }
        store::auth_sessions::delete_of_user(&mut tx, ctx.tenant_id, user_id, Some(login_id)).await?;
        audit_log::note(&mut tx, ctx, "user.password", user_id.0, &Change::default()).await?;
        tx.commit().await?;
        self.forget_user(user_id);
        Ok(())
    }

    async fn count_try(&self, subject: Subject, rule: Rule) -> Result<(), Error> {
        let refused = self.limits.admit(subject, rule).await.retry_after;
        refused.map_or(Ok(()), |retry_after| Err(Error::RateLimited { retry_after }))
    }
}

/// How long logins last by the settings.
pub(super) fn lifetimes(config: &AccountsConfig) -> Lifetimes {
    let idle = config.login_ttl;
    Lifetimes { idle, whole: LIFETIME_MAX.max(idle), touched_within: TOUCHED_WITHIN_MAX.min(idle / 4) }
}

/// What a login is found by, if `token` has the form of one.
pub(super) fn token_sha256(token: &str) -> Option<[u8; 32]> {
    let secret = token.strip_prefix(PREFIX)?;
    are_digits(secret, TOKEN_BYTES).then(|| Sha256::digest(secret.as_bytes()).into())
}

/// A token of 256 random bits from the operating system's generator, and what it is found by.
fn new_token() -> Result<(String, [u8; 32]), Error> {
    let secret = random_digits::<TOKEN_BYTES>()?;
    let token_sha256 = Sha256::digest(secret.as_bytes()).into();
    Ok((format!("{PREFIX}{secret}"), token_sha256))
}

/// The person and the login that ask.
fn login_of(ctx: &Ctx) -> Result<(UserId, LoginId), Error> {
    match ctx.actor {
        Actor::User(user_id, login_id) => Ok((user_id, login_id)),
        Actor::ApiKey(_) | Actor::Visitor(_) | Actor::Operator => {
            Err(Error::Forbidden { detail: "This is for people who have logged in, not for API keys.".into() })
        }
    }
}

/// Somebody who is not known.
fn of_arrival(arrival: &Arrival) -> Author<'_> {
    Author { kind: "server", id: None, request_id: arrival.request_id.as_str(), address: Some(arrival.address) }
}

/// As much of `text` as fits into so many bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

impl From<LoginRow> for Known {
    fn from(row: LoginRow) -> Self {
        let scopes = Role::parse(&row.role).map(Role::scopes).unwrap_or_default();
        let (actor, tier) = (Actor::User(row.user_id, row.id), Tier::of_word(&row.tier));
        let caller = Caller { tenant_id: row.tenant_id, actor, tier, scopes };
        Self { caller, expires_at: row.expires_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_from_a_key_and_found_by_its_hash() {
        let (text, stored) = new_token().unwrap();
        assert_eq!(token_sha256(&text), Some(stored));
        assert_ne!(new_token().unwrap().0, text);
        let key = "tt_0123456789abcdef_0123456789abcdef0123456789abcdef0123456789abcdef";
        for bad in ["", "tl_", &text[..text.len() - 1], &format!("{text}0"), &text.replace("tl_", "tt_"), key] {
            assert_eq!(token_sha256(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_login_that_is_used_is_noted_before_it_ends() {
        for (ttl, touched_within) in [(12 * 3_600, 1_800), (3_600, 900), (300, 75)] {
            let lifetimes = lifetimes(&AccountsConfig {
                login_ttl: Duration::from_secs(ttl),
                visitor_ttl: Duration::from_secs(900),
            });
            assert_eq!(lifetimes.touched_within, Duration::from_secs(touched_within));
            assert_eq!((lifetimes.idle, lifetimes.whole), (Duration::from_secs(ttl), LIFETIME_MAX));
        }
    }

    #[test]
    fn the_name_of_a_client_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
        assert_eq!(cut("aé", 9), "aé");
    }
}
