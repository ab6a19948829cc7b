//! The table `auth_sessions`: where people are logged in. A login is found before its tenant is known, so that is the service
//! role's, as making one is; tenants may end them. A trigger tells every server of one that ends or whose person changes,
//! through the channel that [`super::listen`] hears.

use std::{net::IpAddr, time::Duration};

use time::OffsetDateTime;
use tokio_postgres::types::Type;

use super::{
    Store, StoreError,
    row::Reader,
    tx::{ServiceTx, Statement, TenantTx, Tx},
};
use crate::ctx::{LoginId, TenantId, UserId};

const INSERT: Statement = Statement {
    name: "auth_sessions/insert",
    sql: include_str!("sql/auth_sessions/insert.sql"),
    types: &[Type::UUID, Type::UUID, Type::UUID, Type::BYTEA, Type::FLOAT8, Type::TEXT, Type::INET, Type::TEXT],
};
const FIND_BY_TOKEN: Statement = Statement {
    name: "auth_sessions/find_by_token",
    sql: include_str!("sql/auth_sessions/find_by_token.sql"),
    types: &[Type::BYTEA, Type::FLOAT8],
};
const TOUCH: Statement = Statement {
    name: "auth_sessions/touch",
    sql: include_str!("sql/auth_sessions/touch.sql"),
    types: &[Type::UUID, Type::UUID, Type::FLOAT8, Type::FLOAT8],
};
const FIND: Statement =
    Statement { name: "auth_sessions/find", sql: include_str!("sql/auth_sessions/find.sql"), types: &[Type::UUID] };
const DELETE: Statement =
    Statement { name: "auth_sessions/delete", sql: include_str!("sql/auth_sessions/delete.sql"), types: &[Type::UUID] };
const DELETE_OF_USER: Statement = Statement {
    name: "auth_sessions/delete_of_user",
    sql: include_str!("sql/auth_sessions/delete_of_user.sql"),
    types: &[Type::UUID, Type::UUID, Type::UUID],
};
const PRUNE: Statement =
    Statement { name: "auth_sessions/prune", sql: include_str!("sql/auth_sessions/prune.sql"), types: &[Type::INT8] };

/// Logins that one [`prune`] deletes at most.
const PRUNED_MAX: i64 = 1_000;

/// How long logins last.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// From the last use that was noted.
    pub idle: Duration,
    /// From the login itself, however much it is used.
    pub whole: Duration,
    /// A use is noted if the last one was noted longer ago.
    pub touched_within: Duration,
}

/// A login to make.
#[derive(Debug)]
pub struct NewLogin<'a> {
    /// Whose person.
    pub tenant_id: TenantId,
    /// The person.
    pub user_id: UserId,
    /// The hash of their password, which was checked.
    pub password_hash: &'a str,
    /// What it is found by.
    pub token_sha256: &'a [u8; 32],
    /// How long it lasts if it is not used.
    pub idle: Duration,
    /// What the client says it is, up to 1,024 bytes.
    pub user_agent: Option<&'a str>,
    /// Where the client is.
    pub address: IpAddr,
}

/// A login that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRow {
    /// Whose person.
    pub tenant_id: TenantId,
    /// Its id.
    pub id: LoginId,
    /// The person.
    pub user_id: UserId,
    /// The person's role.
    pub role: String,
    /// What the tenant pays for, as a word.
    pub tier: String,
    /// When it ceases to hold, unless it is used.
    pub expires_at: OffsetDateTime,
}

/// Logs somebody in and says until when; none if the password that was checked is theirs no more.
///
/// # Errors
/// If Postgres is away.
pub async fn insert(tx: &mut ServiceTx, login: &NewLogin<'_>) -> Result<Option<OffsetDateTime>, StoreError> {
    let (id, token): (_, &[u8]) = (LoginId::new().0, login.token_sha256);
    let (idle, user_agent) = (login.idle.as_secs_f64(), login.user_agent);
    let (address, password_hash) = (login.address, login.password_hash);
    let row = tx
        .query_opt(
            &INSERT,
            &[&login.tenant_id.0, &login.user_id.0, &id, &token, &idle, &user_agent, &address, &password_hash],
        )
        .await?;
    row.map(|row| Reader::new(&INSERT, &row).get("expires_at")).transpose()
}

/// The login of that token, unless it has expired. One whose use is to be noted lasts longer from then on.
///
/// # Errors
/// If Postgres is away.
pub async fn find_by_token(
    store: &Store,
    token_sha256: &[u8; 32],
    lifetimes: &Lifetimes,
) -> Result<Option<LoginRow>, StoreError> {
    let mut tx = store.service_tx().await?;
    let (token, touched_within): (&[u8], _) = (token_sha256, lifetimes.touched_within.as_secs_f64());
    let Some(row) = tx.query_opt(&FIND_BY_TOKEN, &[&token, &touched_within]).await? else {
        tx.commit().await?;
        return Ok(None);
    };
    let row = Reader::new(&FIND_BY_TOKEN, &row);
    let mut login = LoginRow {
        tenant_id: TenantId(row.get("tenant_id")?),
        id: LoginId(row.get("id")?),
        user_id: UserId(row.get("user_id")?),
        role: row.get("role")?,
        tier: row.get("tier")?,
        expires_at: row.get("expires_at")?,
    };
    if row.get("is_touch_due")? {
        let (idle, whole) = (lifetimes.idle.as_secs_f64(), lifetimes.whole.as_secs_f64());
        match tx.query_opt(&TOUCH, &[&login.tenant_id.0, &login.id.0, &idle, &whole]).await? {
            Some(row) => login.expires_at = Reader::new(&TOUCH, &row).get("expires_at")?,
            // It ended in between.
            None => return Ok(None),
        }
    }
    tx.commit().await?;
    Ok(Some(login))
}

/// When a login ceases to hold, unless it is used; none if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn find_expiry(tx: &mut TenantTx, id: LoginId) -> Result<Option<OffsetDateTime>, StoreError> {
    tx.query_opt(&FIND, &[&id.0]).await?.map(|row| Reader::new(&FIND, &row).get("expires_at")).transpose()
}

/// Ends a login.
///
/// # Errors
/// If Postgres is away.
pub async fn delete(tx: &mut TenantTx, id: LoginId) -> Result<(), StoreError> {
    tx.execute(&DELETE, &[&id.0]).await?;
    Ok(())
}

/// Ends all logins of a person but one.
///
/// # Errors
/// If Postgres is away.
pub async fn delete_of_user(
    tx: &mut Tx,
    tenant_id: TenantId,
    user_id: UserId,
    but: Option<LoginId>,
) -> Result<(), StoreError> {
    tx.execute(&DELETE_OF_USER, &[&tenant_id.0, &user_id.0, &but.map(|id| id.0)]).await?;
    Ok(())
}

/// Deletes some logins that have expired, of all tenants; true if there may be more.
///
/// # Errors
/// If Postgres is away.
pub async fn prune(tx: &mut ServiceTx) -> Result<bool, StoreError> {
    let pruned = tx.execute(&PRUNE, &[&PRUNED_MAX]).await?;
    Ok(i64::try_from(pruned).is_ok_and(|pruned| pruned == PRUNED_MAX))
}
