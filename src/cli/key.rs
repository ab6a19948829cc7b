//! `tertulia key create | list | revoke`.

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Environment, SettingsArgs, operator::with_store};
use crate::{
    accounts::{keys::NewKey, tenants},
    ctx::Scope,
    store,
};

/// Arguments of `key`.
#[derive(Debug, Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Create a key; its text is shown this once
    Create {
        /// The tenant's name
        #[arg(long)]
        tenant: String,
        /// What the key is for
        #[arg(long, default_value = "")]
        name: String,
        /// What it may do: read or write of knowledge, widgets, meetings or sessions, as knowledge:read; repeat for several, none means all
        #[arg(long = "scope", value_parser = scope)]
        scopes: Vec<Scope>,
        /// Days until it expires; none means never
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        expires_in_days: Option<u32>,
        #[command(flatten)]
        settings: SettingsArgs,
        /// Print one JSON object, the key under `key`
        #[arg(long)]
        json: bool,
    },
    /// List a tenant's keys, without their secrets
    List {
        /// The tenant's name
        #[arg(long)]
        tenant: String,
        #[command(flatten)]
        settings: SettingsArgs,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key at once, everywhere
    Revoke {
        /// The key's id, as `list` shows it
        id: String,
        #[command(flatten)]
        settings: SettingsArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs `key`.
///
/// # Errors
/// If the database cannot be reached, or there is no such tenant or key.
pub fn run(args: &KeyArgs, environment: Environment<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match &args.command {
        KeyCommand::Create { tenant, name, scopes, expires_in_days, settings, json } => {
            let config = settings.load(None, environment)?;
            let key = NewKey::generate().context("the operating system gives no random bytes")?;
            let scopes = if scopes.is_empty() { &Scope::ALL[..] } else { scopes };
            let words: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
            let expires_at =
                expires_in_days.map(|days| OffsetDateTime::now_utc() + Duration::from_secs(u64::from(days) * 86_400));
            with_store(&config, async |store| {
                let tenant_id = tenants::find_id(&store, tenant).await.with_context(|| no_such_tenant(tenant))?;
                let mut tx = store.service_tx().await?;
                let row = store::api_keys::NewApiKey {
                    tenant_id,
                    public_id: &key.public_id,
                    secret_sha256: &key.secret_sha256,
                    name,
                    scopes: &words,
                    expires_at,
                };
                store::api_keys::insert(&mut tx, &row).await?;
                Ok(tx.commit().await?)
            })?;
            if *json {
                writeln!(out, "{}", json!({ "id": key.public_id, "key": key.text, "scopes": words }))?;
            } else {
                writeln!(out, "{}", key.text)?;
                writeln!(out, "Keep it: it is not shown again. Its id is {}.", key.public_id)?;
            }
        }
        KeyCommand::List { tenant, settings, json } => {
            let config = settings.load(None, environment)?;
            let rows = with_store(&config, async |store| {
                let tenant_id = tenants::find_id(&store, tenant).await.with_context(|| no_such_tenant(tenant))?;
                let mut tx = store.service_tx().await?;
                let rows = store::api_keys::list(&mut tx, tenant_id).await?;
                tx.commit().await?;
                Ok(rows)
            })?;
            let date = |at: Option<OffsetDateTime>| at.and_then(|at| at.format(&Rfc3339).ok());
            if *json {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| {
                        json!({ "id": row.public_id, "name": row.name, "scopes": row.scopes,
                                "expires_at": date(row.expires_at), "revoked_at": date(row.revoked_at) })
                    })
                    .collect();
                writeln!(out, "{}", serde_json::Value::Array(rows))?;
            } else if rows.is_empty() {
                writeln!(out, "{tenant} has no keys yet: `tertulia key create --tenant {tenant}` makes one.")?;
            } else {
                for row in rows {
                    let state = match (date(row.revoked_at), date(row.expires_at)) {
                        (Some(at), _) => format!("revoked {at}"),
                        (None, Some(at)) => format!("expires {at}"),
                        (None, None) => "never expires".into(),
                    };
                    writeln!(out, "{}  {}  {}  {state}", row.public_id, row.scopes.join(","), row.name)?;
                }
            }
        }
        KeyCommand::Revoke { id, settings, json } => {
            let config = settings.load(None, environment)?;
            let revoked = with_store(&config, async |store| {
                let mut tx = store.service_tx().await?;
                let revoked = store::api_keys::revoke(&mut tx, id).await?;
                tx.commit().await?;
                Ok(revoked)
            })?;
            if !revoked {
                bail!("there is no key with the id {id} that still holds; `tertulia key list --tenant NAME` shows ids");
            }
            if *json {
                writeln!(out, "{}", json!({ "id": id, "revoked": true }))?;
            } else {
                writeln!(out, "Revoked {id}.")?;
            }
        }
    }
    Ok(())
}

fn scope(word: &str) -> Result<Scope, String> {
    let known = || Scope::ALL.map(Scope::as_str).join(", ");
    Scope::parse(word).ok_or_else(|| format!("there is no such scope; there are {}", known()))
}

fn no_such_tenant(name: &str) -> String {
    format!(
        "there is no tenant named {name}; `tertulia tenant list` shows them, `tertulia tenant create {name}` makes it"
    )
}
