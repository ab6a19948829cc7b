//! `tertulia key create | list | revoke`.

use std::{io::Write as _, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Environment, SettingsArgs, operator::with_store};
use crate::{
    accounts::{
        ApiKeyRow, PageRequest,
        keys::{self, KeyDraft},
        tenants,
    },
    ctx::{Ctx, Scope, Scopes},
    store::{Store, page::Start},
};

/// Keys that are read at a time.
const LISTED_AT_ONCE: u64 = 1_000;

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
        /// What it may do: read or write of knowledge, widgets, meetings, sessions, users or keys, as knowledge:read; repeat for several, none means all
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
            let scopes = if scopes.is_empty() { Scopes::all() } else { scopes.iter().copied().collect() };
            let expires_at =
                expires_in_days.map(|days| OffsetDateTime::now_utc() + Duration::from_secs(u64::from(days) * 86_400));
            let draft = KeyDraft { name: name.clone(), scopes, expires_at };
            let key = with_store(&config, async |store| {
                let tenant_id = tenants::find_id(&store, tenant).await.with_context(|| no_such_tenant(tenant))?;
                Ok(keys::create(&store, &Ctx::of_operator(tenant_id), &draft).await?)
            })?;
            let id = &key.row.public_id;
            if *json {
                writeln!(out, "{}", json!({ "id": id, "key": key.text, "scopes": key.row.scopes }))?;
            } else {
                writeln!(out, "{}", key.text)?;
                writeln!(out, "Keep it: it is not shown again. Its id is {id}.")?;
            }
        }
        KeyCommand::List { tenant, settings, json } => {
            let config = settings.load(None, environment)?;
            let rows = with_store(&config, async |store| {
                let tenant_id = tenants::find_id(&store, tenant).await.with_context(|| no_such_tenant(tenant))?;
                list_all(&store, &Ctx::of_operator(tenant_id)).await
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
            let revoked = with_store(&config, async |store| Ok(keys::revoke_by_public_id(&store, id).await?))?;
            if revoked.is_none() {
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

/// Every key of a tenant, newest first.
async fn list_all(store: &Store, ctx: &Ctx) -> anyhow::Result<Vec<ApiKeyRow>> {
    let (mut all, mut start) = (Vec::new(), Start::Offset(0));
    loop {
        let page = keys::list(store, ctx, &PageRequest { limit: LISTED_AT_ONCE, start }).await?;
        all.extend(page.items);
        match page.next_cursor.as_deref().and_then(Start::after_cursor) {
            Some(next) => start = next,
            None => return Ok(all),
        }
    }
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
