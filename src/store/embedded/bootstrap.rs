//! What the schema's migrations cannot make for themselves in a fresh cluster: roles, the database, the extension.
//!
//! Each step leaves alone what is there, so a start that was cut short is completed by the next one.

use tokio_postgres::Client;

use super::{ClusterError, DATABASE, SUPERUSER, postmaster::Postmaster};
use crate::store::StoreError;

const CREATE_ROLES: &str = include_str!("../sql/bootstrap/create_roles.sql");
const DATABASE_EXISTS: &str = include_str!("../sql/bootstrap/database_exists.sql");
const CREATE_DATABASE: &str = include_str!("../sql/bootstrap/create_database.sql");
const PGVECTOR_AVAILABLE: &str = include_str!("../sql/bootstrap/pgvector_available.sql");
const CREATE_EXTENSIONS: &str = include_str!("../sql/bootstrap/create_extensions.sql");

/// Makes the running cluster ready for migrations.
///
/// # Errors
/// [`ClusterError::NoPgvector`] if this Postgres does not have it, and whatever else Postgres has against it.
pub(super) async fn run(postmaster: &Postmaster) -> Result<(), ClusterError> {
    let client = postmaster.address(SUPERUSER, "postgres").connect_and_drive().await?;
    if !is_true(&client, "bootstrap/pgvector_available", PGVECTOR_AVAILABLE).await? {
        return Err(ClusterError::NoPgvector { programs: postmaster.programs.clone() });
    }
    execute(&client, "bootstrap/create_roles", CREATE_ROLES).await?;
    if !is_true(&client, "bootstrap/database_exists", DATABASE_EXISTS).await? {
        execute(&client, "bootstrap/create_database", CREATE_DATABASE).await?;
    }
    let client = postmaster.address(SUPERUSER, DATABASE).connect_and_drive().await?;
    execute(&client, "bootstrap/create_extensions", CREATE_EXTENSIONS).await
}

async fn execute(client: &Client, name: &'static str, sql: &str) -> Result<(), ClusterError> {
    Ok(client.batch_execute(sql).await.map_err(|source| StoreError::of_statement(name, source))?)
}

async fn is_true(client: &Client, name: &'static str, sql: &str) -> Result<bool, ClusterError> {
    let read = async { client.query_typed_one(sql, &[]).await?.try_get(0) };
    Ok(read.await.map_err(|source| StoreError::of_statement(name, source))?)
}
