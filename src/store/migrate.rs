//! Bringing the schema up to date, and telling whether it is.
//!
//! Migrations are the numbered files of `migrations/`, compiled in. Each runs in a transaction of its own, once, in order.
//! They suit the server before them too, so servers are replaced one by one while others go on; a schema that is newer than
//! this binary is therefore none of its business.

use tokio_postgres::{Client, error::SqlState};

use super::{Address, StoreError, roles};

mod compiled {
    refinery::embed_migrations!("migrations");
}

const VERSION: &str = include_str!("sql/schema/version.sql");
const LOCK: &str = include_str!("sql/schema/lock.sql");
const ALLOW_CHECKS: &str = include_str!("sql/schema/allow_checks.sql");

/// Applies the migrations that are missing and gives their names. Servers that start at once take turns.
///
/// # Errors
/// If the database cannot be reached, a migration fails (nothing of it stays, those before it do), or one that was applied
/// was changed since.
pub async fn migrate(owner: &Address) -> Result<Vec<String>, StoreError> {
    let mut client = owner.connect_and_drive().await?;
    run(&client, "schema/no_timeout", "SET statement_timeout = 0").await?;
    run(&client, "schema/lock", LOCK).await?;
    let mut runner = compiled::migrations::runner().set_abort_missing(false);
    let report =
        runner.set_migration_table_name("refinery_schema_history").run_async(&mut client).await.map_err(migration)?;
    // Servers without the owner's rights look there.
    run(&client, "schema/allow_checks", ALLOW_CHECKS).await?;
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

/// Checks that the schema is at least as new as this binary.
///
/// # Errors
/// If it is older, or not there; or if the database cannot be reached.
pub async fn check_schema(service: &Address) -> Result<(), StoreError> {
    let client = service.connect_and_drive().await?;
    let found = match version(&client).await {
        // Most often such a role is not in its group, and to hear that says more.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            roles::check_service(&client).await?;
            return Err(error);
        }
        outcome => outcome?,
    };
    let wanted = compiled::migrations::runner().get_migrations().iter().map(refinery::Migration::version).max();
    let wanted = wanted.unwrap_or(0);
    match found {
        Some(found) if found >= wanted => Ok(()),
        found => {
            let found = found.map_or_else(|| "is not there".to_owned(), |found| format!("has version {found}"));
            Err(StoreError::Setup(format!(
                "the schema {found}, and this tertulia needs version {wanted}: run `tertulia migrate` with \
                 database.direct_url (TERTULIA_DATABASE_DIRECT_URL) set to the owner's connection"
            )))
        }
    }
}

/// The version of the newest migration that was applied; none before the first.
pub(super) async fn version(client: &Client) -> Result<Option<i32>, StoreError> {
    let read = async { client.query_typed_one(VERSION, &[]).await?.try_get(0) };
    match read.await {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        outcome => outcome.map_err(|source| StoreError::of_statement("schema/version", source)),
    }
}

async fn run(client: &Client, name: &'static str, sql: &str) -> Result<(), StoreError> {
    client.batch_execute(sql).await.map_err(|source| StoreError::of_statement(name, source))
}

fn migration(error: refinery::Error) -> StoreError {
    StoreError::Migration(Box::new(error))
}
