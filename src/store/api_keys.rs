//! The table `api_keys`. A key is found before its tenant is known, so the service role reads it. A trigger tells every
//! server of a change, through the channel that [`super::listen`] hears.

use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};

use super::{
    Store, StoreError,
    row::Reader,
    tx::{ServiceTx, Statement},
};
use crate::ctx::{ApiKeyId, TenantId};

const INSERT: Statement = Statement {
    name: "api_keys/insert",
    sql: include_str!("sql/api_keys/insert.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT, Type::BYTEA, Type::TEXT, Type::TEXT_ARRAY, Type::TIMESTAMPTZ],
};
const LIST: Statement =
    Statement { name: "api_keys/list", sql: include_str!("sql/api_keys/list.sql"), types: &[Type::UUID] };
const REVOKE: Statement =
    Statement { name: "api_keys/revoke", sql: include_str!("sql/api_keys/revoke.sql"), types: &[Type::TEXT] };
const FIND_BY_PUBLIC_ID: Statement = Statement {
    name: "api_keys/find_by_public_id",
    sql: include_str!("sql/api_keys/find_by_public_id.sql"),
    types: &[Type::TEXT],
};

/// A key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Whose data it opens.
    pub tenant_id: TenantId,
    /// Its id.
    pub id: ApiKeyId,
    /// The part of its text that finds it.
    pub public_id: String,
    /// Proves the secret part of its text.
    pub secret_sha256: [u8; 32],
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
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// A key to create.
#[derive(Debug)]
pub struct NewApiKey<'a> {
    /// Whose data it opens.
    pub tenant_id: TenantId,
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
pub async fn insert(tx: &mut ServiceTx, key: &NewApiKey<'_>) -> Result<ApiKeyId, StoreError> {
    let id = ApiKeyId::new();
    let secret: &[u8] = key.secret_sha256;
    tx.execute(&INSERT, &[&key.tenant_id.0, &id.0, &key.public_id, &secret, &key.name, &key.scopes, &key.expires_at])
        .await?;
    Ok(id)
}

/// A tenant's keys, revoked ones too, newest first.
///
/// # Errors
/// If Postgres is away.
pub async fn list(tx: &mut ServiceTx, tenant_id: TenantId) -> Result<Vec<ApiKeyRow>, StoreError> {
    tx.query(&LIST, &[&tenant_id.0]).await?.iter().map(|row| read(&LIST, row)).collect()
}

/// Revokes the key of that public id; false if there is none that still holds.
///
/// # Errors
/// If Postgres is away.
pub async fn revoke(tx: &mut ServiceTx, public_id: &str) -> Result<bool, StoreError> {
    Ok(tx.execute(&REVOKE, &[&public_id]).await? > 0)
}

/// The key of that public id, unless it was revoked, and its tenant's tier.
///
/// # Errors
/// If Postgres is away.
pub async fn find_by_public_id(store: &Store, public_id: &str) -> Result<Option<(ApiKeyRow, String)>, StoreError> {
    let mut tx = store.service_tx().await?;
    let found = tx.query_opt(&FIND_BY_PUBLIC_ID, &[&public_id]).await?;
    tx.commit().await?;
    let read_both =
        |row: Row| Ok((read(&FIND_BY_PUBLIC_ID, &row)?, Reader::new(&FIND_BY_PUBLIC_ID, &row).get("tier")?));
    found.map(read_both).transpose()
}

fn read(statement: &Statement, row: &Row) -> Result<ApiKeyRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(ApiKeyRow {
        tenant_id: TenantId(row.get("tenant_id")?),
        id: ApiKeyId(row.get("id")?),
        public_id: row.get("public_id")?,
        secret_sha256: row.sha256("secret_sha256")?,
        name: row.get("name")?,
        scopes: row.get("scopes")?,
        expires_at: row.get("expires_at")?,
        revoked_at: row.get("revoked_at")?,
        last_used_at: row.get("last_used_at")?,
        created_at: row.get("created_at")?,
    })
}
