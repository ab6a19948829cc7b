//! The table `tenants`: who the customers are. Only the service role writes it.

use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};

use super::{
    StoreError,
    row::Reader,
    tx::{ServiceTx, Statement},
};
use crate::ctx::TenantId;

const INSERT: Statement = Statement {
    name: "tenants/insert",
    sql: include_str!("sql/tenants/insert.sql"),
    types: &[Type::UUID, Type::TEXT, Type::TEXT],
};
const LIST: Statement = Statement { name: "tenants/list", sql: include_str!("sql/tenants/list.sql"), types: &[] };
const FIND_BY_SLUG: Statement =
    Statement { name: "tenants/find_by_slug", sql: include_str!("sql/tenants/find_by_slug.sql"), types: &[Type::TEXT] };

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    /// Its id.
    pub id: TenantId,
    /// Its short name, unique.
    pub slug: String,
    /// Its full name.
    pub name: Option<String>,
    /// `free`, `pro` or `enterprise`.
    pub tier: String,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// Creates a tenant; none if the name is taken.
///
/// # Errors
/// If Postgres refuses it, such as for a name or tier of another form than the table's.
pub async fn insert(tx: &mut ServiceTx, slug: &str, tier: &str) -> Result<Option<TenantId>, StoreError> {
    let row = tx.query_opt(&INSERT, &[&TenantId::new().0, &slug, &tier]).await?;
    row.map(|row| Reader::new(&INSERT, &row).get("id").map(TenantId)).transpose()
}

/// Every tenant, by short name.
///
/// # Errors
/// If Postgres is away.
pub async fn list(tx: &mut ServiceTx) -> Result<Vec<TenantRow>, StoreError> {
    tx.query(&LIST, &[]).await?.iter().map(|row| read(&LIST, row)).collect()
}

/// The tenant of that short name.
///
/// # Errors
/// If Postgres is away.
pub async fn find_by_slug(tx: &mut ServiceTx, slug: &str) -> Result<Option<TenantRow>, StoreError> {
    tx.query_opt(&FIND_BY_SLUG, &[&slug]).await?.map(|row| read(&FIND_BY_SLUG, &row)).transpose()
}

fn read(statement: &Statement, row: &Row) -> Result<TenantRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(TenantRow {
        id: TenantId(row.get("id")?),
        slug: row.get("slug")?,
        name: row.get("name")?,
        tier: row.get("tier")?,
        created_at: row.get("created_at")?,
    })
}
