//! `tertulia tenant create | list`.

use std::io::Write as _;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{Environment, SettingsArgs, operator::with_store};
use crate::accounts::tenants::{self, Tier};

/// Arguments of `tenant`.
#[derive(Debug, Args)]
pub struct TenantArgs {
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Create a tenant
    Create {
        /// Short name of letters, digits and hyphens, unique
        name: String,
        /// What it pays for
        #[arg(long, value_enum, default_value = "free")]
        tier: TierArg,
        #[command(flatten)]
        settings: SettingsArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the tenants
    List {
        #[command(flatten)]
        settings: SettingsArgs,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TierArg {
    Free,
    Pro,
    Enterprise,
}

impl From<TierArg> for Tier {
    fn from(tier: TierArg) -> Self {
        match tier {
            TierArg::Free => Self::Free,
            TierArg::Pro => Self::Pro,
            TierArg::Enterprise => Self::Enterprise,
        }
    }
}

/// Runs `tenant`.
///
/// # Errors
/// If the database cannot be reached, or the name does not fit or is taken.
pub fn run(args: &TenantArgs, environment: Environment<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match &args.command {
        TenantCommand::Create { name, tier, settings, json } => {
            let config = settings.load(None, environment)?;
            let tier = Tier::from(*tier);
            let id = with_store(&config, async |store| Ok(tenants::create(&store, name, tier).await?))?;
            if *json {
                writeln!(out, "{}", json!({ "id": id.0, "name": name, "tier": tier.as_str() }))?;
            } else {
                writeln!(out, "Created the tenant {name} ({}): {id}", tier.as_str())?;
                writeln!(out, "Next: tertulia key create --tenant {name}")?;
            }
        }
        TenantCommand::List { settings, json } => {
            let config = settings.load(None, environment)?;
            let all = with_store(&config, async |store| Ok(tenants::list(&store).await?))?;
            if *json {
                let rows: Vec<_> =
                    all.iter().map(|row| json!({ "id": row.id.0, "name": row.slug, "tier": row.tier })).collect();
                writeln!(out, "{}", serde_json::Value::Array(rows))?;
            } else if all.is_empty() {
                writeln!(out, "There are none yet: `tertulia tenant create NAME` makes one.")?;
            } else {
                for row in all {
                    writeln!(out, "{}  {}  {}", row.id, row.slug, row.tier)?;
                }
            }
        }
    }
    Ok(())
}
