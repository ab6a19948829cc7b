//! `tertulia doctor`: looks at every part and says what to do about what is wrong. Changes nothing; if no server runs on the
//! private Postgres, that is started to be looked at, and stopped again.
//!
//! The exit code is 0 if everything is well and 1 if something needs doing.

use std::{io::Write as _, process::ExitCode};

use clap::Args;
use serde_json::json;
use tertulia_index::Encoder;

use super::{Environment, SettingsArgs, operator::block_on};
use crate::{
    config::Config,
    knowledge::snapshots::Snapshots,
    store::{self, embedded},
};

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// One part and how it is.
struct Finding {
    part: &'static str,
    is_well: bool,
    told: String,
}

/// Runs `doctor`.
///
/// # Errors
/// If the settings are wrong or standard output is gone; what it finds is no error.
pub fn run(args: &DoctorArgs, environment: Environment<'_>) -> anyhow::Result<ExitCode> {
    let config = args.settings.load(None, environment)?;
    let mut findings = vec![weights(&config)];
    findings.extend(block_on(async { Ok(database(&config).await) })?);
    findings.push(snapshots(&config));
    findings.push(open_files());
    let all_well = findings.iter().all(|finding| finding.is_well);
    let mut out = std::io::stdout().lock();
    if args.json {
        let rows: Vec<_> = findings
            .iter()
            .map(|finding| json!({ "part": finding.part, "ok": finding.is_well, "message": finding.told }))
            .collect();
        writeln!(out, "{}", serde_json::Value::Array(rows))?;
    } else {
        for finding in &findings {
            let mark = if finding.is_well { "ok  " } else { "BAD " };
            writeln!(out, "{mark} {:<10} {}", finding.part, finding.told)?;
        }
        writeln!(
            out,
            "{}",
            if all_well { "\nAll is well." } else { "\nMend what is marked BAD and run doctor again." }
        )?;
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn finding(part: &'static str, outcome: Result<String, String>) -> Finding {
    let is_well = outcome.is_ok();
    Finding { part, is_well, told: outcome.unwrap_or_else(|told| told) }
}

fn weights(config: &Config) -> Finding {
    let outcome = Encoder::load(&config.retrieval.weights_dir)
        .map(|encoder| format!("{}, {} dimensions", encoder.fingerprint(), encoder.dimensions()))
        .map_err(|error| format!("{error}; `scripts/setup.sh` fetches them, --config or TERTULIA_RETRIEVAL_WEIGHTS_DIR says where they are"));
    finding("weights", outcome)
}

async fn database(config: &Config) -> Vec<Finding> {
    if config.database.url.is_none() {
        let programs = embedded::find_programs(config.database.bin_dir.as_deref());
        let told = programs.map(|programs| programs.to_string()).map_err(|error| error.to_string());
        let is_well = told.is_ok();
        let mut findings = vec![finding("postgres", told)];
        if is_well && config.server.data_dir.join("postgres").exists() {
            findings.extend(ask_database(config).await);
        } else if is_well {
            let told = format!("none yet in {}; `tertulia serve` makes it", config.server.data_dir.display());
            findings.push(finding("database", Ok(told)));
        }
        return findings;
    }
    ask_database(config).await
}

async fn ask_database(config: &Config) -> Vec<Finding> {
    let operator = match super::operator::Operator::connect_as_it_is(config).await {
        Ok(operator) => operator,
        Err(error) => return vec![finding("database", Err(format!("{error:#}")))],
    };
    let asked = store::health::report(&operator.store).await;
    let mut findings = match asked {
        Ok(report) => vec![
            finding(
                "database",
                Ok(format!("PostgreSQL {}, schema {}", report.postgres_version, report.schema_version)),
            ),
            finding("pgvector", Ok(report.pgvector_version)),
            finding(
                "knowledge",
                Ok(format!(
                    "{} tenants, {} knowledge bases, {} documents, {} chunks",
                    report.tenants, report.knowledge_bases, report.documents, report.chunks
                )),
            ),
        ],
        Err(error) => vec![finding("database", Err(error.to_string()))],
    };
    if let Err(error) = operator.finish().await {
        findings.push(finding("database", Err(format!("{error:#}"))));
    }
    findings
}

fn snapshots(config: &Config) -> Finding {
    let snapshots = Snapshots::in_data_dir(&config.server.data_dir);
    let outcome = snapshots.list().map_err(|error| format!("cannot be read: {error}")).and_then(|saved| {
        let damaged: Vec<String> = saved
            .iter()
            .map(|(key, generation_id)| snapshots.folder(*key, *generation_id))
            .filter_map(|folder| {
                tertulia_index::verify_snapshot(&folder).err().map(|error| format!("{}: {error}", folder.display()))
            })
            .collect();
        if damaged.is_empty() {
            Ok(format!("{} sound", saved.len()))
        } else {
            Err(format!("{}; the server removes them at its next start and builds from Postgres", damaged.join("; ")))
        }
    });
    finding("snapshots", outcome)
}

fn open_files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let hard = limit.maximum.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    finding("files", Ok(format!("at most {hard} open files, so about as many connections")))
}
