//! `tertulia migrate`: brings the schema up to date, as `serve` does where it has the owner's rights.

use std::io::Write as _;

use anyhow::Context as _;
use clap::Args;

use super::{Environment, SettingsArgs, operator::block_on};
use crate::store::{self, embedded::EmbeddedCluster};

/// Arguments of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Print one JSON object: {"applied": ["…"]}
    #[arg(long)]
    json: bool,
}

/// Runs `migrate`.
///
/// # Errors
/// If the database cannot be reached, or a migration fails: then nothing of that migration stays.
pub fn run(args: &MigrateArgs, environment: Environment<'_>) -> anyhow::Result<()> {
    let config = args.settings.load(None, environment)?;
    let applied = block_on(async {
        let cluster = match config.database.url {
            Some(_) => None,
            None => Some(EmbeddedCluster::connect_or_start(&config.server.data_dir, &config.database).await?),
        };
        let connections = store::Connections::from_config(&config.database, cluster.as_ref())?;
        let owner = connections.owner.context(
            "migrations need the owner's connection: set database.direct_url (TERTULIA_DATABASE_DIRECT_URL)",
        )?;
        let outcome = store::migrate(&owner).await;
        if let Some(cluster) = cluster {
            cluster.stop().await?;
        }
        Ok(outcome?)
    })?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!({ "applied": applied }))?;
    } else if applied.is_empty() {
        writeln!(out, "The schema is up to date.")?;
    } else {
        writeln!(out, "Applied {}: {}", applied.len(), applied.join(", "))?;
    }
    Ok(())
}
