//! The table `api_keys`. A key is found before its tenant is known, so that is the service role's, as reading hashes is;
//! tenants manage their keys themselves. A trigger tells every server of a change, through the channel that
//! [`super::listen`] hears.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};

use super::{
    Store, StoreError,
    page::{Key, Page, PageRequest},
    row::Reader,
    tx::{Statement, TenantTx},
};
use crate::ctx::{ApiKeyId, TenantId};

const INSERT: Statement = Statement {
    name: "api_keys/insert",
    sql: include_str!("sql/api_keys/insert.sql"),
    types: &[Type::UUID, Type::TEXT, Type::BYTEA, Type::TEXT, Type::TEXT_ARRAY, Type::TIMESTAMPTZ],
};
const REPLACE: Statement = Statement {
    name: "api_keys/replace",
    sql: include_str!("sql/api_keys/replace.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT, Type::BYTEA, Type::TIMESTAMPTZ],
};
const FIND: Statement =
    Statement { name: "api_keys/find", sql: include_str!("sql/api_keys/find.sql"), types: &[Type::UUID] };
const LOCK: Statement =
    Statement { name: "api_keys/lock", sql: include_str!("sql/api_keys/lock.sql"), types: &[Type::UUID] };
const LIST: Statement = Statement {
    name: "api_keys/list",
    sql: include_str!("sql/api_keys/list.sql"),
    types: &[Type::TIMESTAMPTZ, Type::UUID, Type::INT8, Type::INT8],
};
const COUNT: Statement = Statement { name: "api_keys/count", sql: include_str!("sql/api_keys/count.sql"), types: &[] };
const EXPIRE: Statement = Statement {
    name: "api_keys/expire",
    sql: include_str!("sql/api_keys/expire.sql"),
    types: &[Type::UUID, Type::TIMESTAMPTZ],
};
const REVOKE: Statement =
    Statement { name: "api_keys/revoke", sql: include_str!("sql/api_keys/revoke.sql"), types: &[Type::UUID] };
const FIND_BY_PUBLIC_ID: Statement = Statement {
    name: "api_keys/find_by_public_id",
    sql: include_str!("sql/api_keys/find_by_public_id.sql"),
    types: &[Type::TEXT, Type::BYTEA, Type::FLOAT8],
};
const FIND_ID: Statement =
    Statement { name: "api_keys/find_id", sql: include_str!("sql/api_keys/find_id.sql"), types: &[Type::TEXT] };
const TOUCH: Statement =
    Statement { name: "api_keys/touch", sql: include_str!("sql/api_keys/touch.sql"), types: &[Type::UUID, Type::UUID] };

/// A key, without the hash of its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Its id.
    pub id: ApiKeyId,
    /// The part of its text that finds it.
    pub public_id: String,
    /// What it is for.
    pub name: String,
    /// What it may do, as words.
    pub scopes: Vec<String>,
    /// When it ceases to hold.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was revoked.
    pub revoked_at: Option<OffsetDateTime>,
    /// When it was last used, roughly.
    pub last_used_at: Option<OffsetDateTime>,
    /// The key that it is to replace.
    pub replaces_id: Option<ApiKeyId>,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// What a key is checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyProof {
    /// Whose data it opens.
    pub tenant_id: TenantId,
    /// Its id.
    pub id: ApiKeyId,
    /// Proves the secret part of its text.
    pub secret_sha256: [u8; 32],
    /// What its tenant pays for, as a word.
    pub tier: String,
    /// What it may do, as words.
    pub scopes: Vec<String>,
    /// When it ceases to hold.
    pub expires_at: Option<OffsetDateTime>,
}

/// A key to create.
#[derive(Debug)]
pub struct NewApiKey<'a> {
    /// The part of its text that finds it; unique over all tenants.
    pub public_id: &'a str,
    /// Proves the secret part of its text.
    pub secret_sha256: &'a [u8; 32],
    /// What it is for.
    pub name: &'a str,
    /// What it may do, as words.
    pub scopes: &'a [&'a str],
    /// When it ceases to hold; none means never.
    pub expires_at: Option<OffsetDateTime>,
}

/// Creates a key.
///
/// # Errors
/// A unique violation if the public id is taken.
pub async fn insert(tx: &mut TenantTx, key: &NewApiKey<'_>) -> Result<ApiKeyRow, StoreError> {
    let (id, secret): (_, &[u8]) = (ApiKeyId::new().0, key.secret_sha256);
    let row = tx.query_one(&INSERT, &[&id, &key.public_id, &secret, &key.name, &key.scopes, &key.expires_at]).await?;
    read(&INSERT, &row)
}

/// Creates a key that may do what the key `replaced` may, under the same name; none if the tenant has none of that id.
///
/// # Errors
/// A unique violation if that key was replaced before, or the public id is taken.
pub async fn replace(
    tx: &mut TenantTx,
    replaced: ApiKeyId,
    public_id: &str,
    secret_sha256: &[u8; 32],
    expires_at: Option<OffsetDateTime>,
) -> Result<Option<ApiKeyRow>, StoreError> {
    let (id, secret): (_, &[u8]) = (ApiKeyId::new().0, secret_sha256);
    let row = tx.query_opt(&REPLACE, &[&id, &replaced.0, &public_id, &secret, &expires_at]).await?;
    row.map(|row| read(&REPLACE, &row)).transpose()
}

/// The key of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn find(tx: &mut TenantTx, id: ApiKeyId) -> Result<Option<ApiKeyRow>, StoreError> {
    tx.query_opt(&FIND, &[&id.0]).await?.map(|row| read(&FIND, &row)).transpose()
}

/// The key of that id, which nobody else changes until the transaction ends.
///
/// # Errors
/// If Postgres is away.
pub async fn lock(tx: &mut TenantTx, id: ApiKeyId) -> Result<Option<ApiKeyRow>, StoreError> {
    tx.query_opt(&LOCK, &[&id.0]).await?.map(|row| read(&LOCK, &row)).transpose()
}

/// A page of the tenant's keys, revoked ones too, newest first.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list(tx: &mut TenantTx, page: &PageRequest) -> Result<Page<ApiKeyRow>, StoreError> {
    page.newest(tx, [&LIST, &COUNT], Key::ApiAccess, read, |row| (row.created_at, row.id.0)).await
}

/// Has a key cease to hold at that time, or earlier if it would anyhow.
///
/// # Errors
/// If Postgres is away.
pub async fn expire(tx: &mut TenantTx, id: ApiKeyId, at: OffsetDateTime) -> Result<(), StoreError> {
    tx.execute(&EXPIRE, &[&id.0, &at]).await?;
    Ok(())
}

/// Revokes a key; false if the tenant has none of that id that was not revoked before.
///
/// # Errors
/// If Postgres is away.
pub async fn revoke(tx: &mut TenantTx, id: ApiKeyId) -> Result<bool, StoreError> {
    Ok(tx.execute(&REVOKE, &[&id.0]).await? > 0)
}

/// The key of that public id, unless it was revoked. Notes that it was used if `secret_sha256` is its secret's and that was
/// last noted longer ago than `touched_within`.
///
/// # Errors
/// If Postgres is away.
pub async fn find_by_public_id(
    store: &Store,
    public_id: &str,
    secret_sha256: &[u8; 32],
    touched_within: Duration,
) -> Result<Option<KeyProof>, StoreError> {
    let mut tx = store.service_tx().await?;
    let (secret, touched_within): (&[u8], _) = (secret_sha256, touched_within.as_secs_f64());
    let Some(row) = tx.query_opt(&FIND_BY_PUBLIC_ID, &[&public_id, &secret, &touched_within]).await? else {
        tx.commit().await?;
        return Ok(None);
    };
    let row = Reader::new(&FIND_BY_PUBLIC_ID, &row);
    let proof = KeyProof {
        tenant_id: TenantId(row.get("tenant_id")?),
        id: ApiKeyId(row.get("id")?),
        secret_sha256: row.sha256("secret_sha256")?,
        tier: row.get("tier")?,
        scopes: row.get("scopes")?,
        expires_at: row.get("expires_at")?,
    };
    if row.get("is_touch_due")? {
        tx.execute(&TOUCH, &[&proof.tenant_id.0, &proof.id.0]).await?;
    }
    tx.commit().await?;
    Ok(Some(proof))
}

/// Whose the key of that public id is, and its id, unless it was revoked.
///
/// # Errors
/// If Postgres is away.
pub async fn find_id(store: &Store, public_id: &str) -> Result<Option<(TenantId, ApiKeyId)>, StoreError> {
    let mut tx = store.service_tx().await?;
    let row = tx.query_opt(&FIND_ID, &[&public_id]).await?;
    tx.commit().await?;
    let Some(row) = row else { return Ok(None) };
    let row = Reader::new(&FIND_ID, &row);
    Ok(Some((TenantId(row.get("tenant_id")?), ApiKeyId(row.get("id")?))))
}

fn read(statement: &Statement, row: &Row) -> Result<ApiKeyRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(ApiKeyRow {
        id: ApiKeyId(row.get("id")?),
        public_id: row.get("public_id")?,
        name: row.get("name")?,
        scopes: row.get("scopes")?,
        expires_at: row.get("expires_at")?,
        revoked_at: row.get("revoked_at")?,
        last_used_at: row.get("last_used_at")?,
        replaces_id: row.get::<Option<_>>("replaces_id")?.map(ApiKeyId),
        created_at: row.get("created_at")?,
    })
}
