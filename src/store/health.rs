//! What `doctor` tells about the database.

use tokio_postgres::Row;

use super::{Store, StoreError, migrate};

const REPORT: &str = include_str!("sql/health/report.sql");

/// The database at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Such as `15.14 (Debian 15.14-0+deb12u1)`.
    pub postgres_version: String,
    /// Such as `0.8.1`.
    pub pgvector_version: String,
    /// The newest migration that was applied.
    pub schema_version: i32,
    /// Tenants.
    pub tenants: i64,
    /// Knowledge bases of all tenants.
    pub knowledge_bases: i64,
    /// Their documents.
    pub documents: i64,
    /// Their chunks, of all generations.
    pub chunks: i64,
}

/// Asks Postgres how it is.
///
/// # Errors
/// If it does not answer, or pgvector or the schema is missing.
pub async fn report(store: &Store) -> Result<Report, StoreError> {
    let connection = store.service.get(None).await?;
    let failed = |source| StoreError::of_statement("health/report", source);
    let schema_version = migrate::version(&connection).await?.ok_or_else(|| {
        StoreError::Setup("there is no schema: run `tertulia migrate` as the owner of the database".into())
    })?;
    let row = connection.query_typed_one(REPORT, &[]).await.map_err(failed)?;
    read(&row, schema_version).map_err(failed)
}

fn read(row: &Row, schema_version: i32) -> Result<Report, tokio_postgres::Error> {
    Ok(Report {
        postgres_version: row.try_get(0)?,
        pgvector_version: row.try_get(1)?,
        schema_version,
        tenants: row.try_get(2)?,
        knowledge_bases: row.try_get(3)?,
        documents: row.try_get(4)?,
        chunks: row.try_get(5)?,
    })
}
