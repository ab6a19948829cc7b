//! `tertulia doctor`: looks at every part and says what to do about what is wrong. Changes nothing; if no server runs on the
//! private Postgres, that is started to be looked at, and stopped again.
//!
//! The exit code is 0 if everything is well and 1 if something needs doing.

use std::{io::Write as _, process::ExitCode};

use clap::Args;
use serde_json::json;
use tertulia_index::{Encoder, MeasuredRecall, Recall};

use super::{Environment, SettingsArgs, operator::block_on};
use crate::{
    config::Config,
    knowledge::snapshots::Snapshots,
    store::{self, embedded},
};

/// Share of the ten nearest chunks that must be found.
const RECALL_MIN: f64 = 0.98;

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
    findings.extend(snapshots(&config));
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

/// Whether snapshots are sound, and how much of what they hold searches find.
fn snapshots(config: &Config) -> Vec<Finding> {
    let snapshots = Snapshots::in_data_dir(&config.server.data_dir);
    let saved = match snapshots.list() {
        Ok(saved) => saved,
        Err(error) => return vec![finding("snapshots", Err(format!("cannot be read: {error}")))],
    };
    let (mut damaged, mut missed) = (Vec::new(), Vec::new());
    let mut measured = MeasuredRecall::default();
    for (key, generation_id) in &saved {
        let folder = snapshots.folder(*key, *generation_id);
        match tertulia_index::measure_snapshot(&folder) {
            Ok(recall) => {
                let least = [recall.all, recall.filtered].into_iter().filter_map(Recall::share).fold(1.0, f64::min);
                if least < RECALL_MIN {
                    missed.push(format!("knowledge base {}: {least:.4}", key.knowledge_base_id));
                }
                measured.all.add(recall.all);
                measured.filtered.add(recall.filtered);
            }
            Err(error) => damaged.push(format!("{}: {error}", folder.display())),
        }
    }
    let sound = if damaged.is_empty() {
        Ok(format!("{} sound", saved.len()))
    } else {
        Err(format!("{}; the server removes them at its next start and builds from Postgres", damaged.join("; ")))
    };
    let told = match (measured.all.share(), measured.filtered.share()) {
        (Some(all), None) => format!("{all:.4} of the ten nearest chunks found by searches made up for it"),
        (Some(all), Some(filtered)) => {
            format!("{all:.4} of the ten nearest chunks found by searches made up for it, {filtered:.4} under a filter")
        }
        (None, _) => "nothing saved yet to measure".to_owned(),
    };
    let recall = if missed.is_empty() {
        Ok(told)
    } else {
        Err(format!(
            "less than {RECALL_MIN} of the ten nearest chunks found in {}; `retrieval.vectors: scan` finds all",
            missed.join(", ")
        ))
    };
    vec![finding("snapshots", sound), finding("recall", recall)]
}

fn open_files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let hard = limit.maximum.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    finding("files", Ok(format!("at most {hard} open files, so about as many connections")))
}
