//! `tertulia doctor`: looks at every part and says what to do about what is wrong. Changes nothing; if no server runs on the
//! private Postgres, that is started to be looked at, and stopped again.
//!
//! The exit code is 0 if everything is well and 1 if something needs doing.

use std::{
    io::Write as _,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};
use tertulia_index::{Encoder, Index, RecallReport, RestoreError, VectorSearch};

use super::{Environment, SettingsArgs, operator::block_on};
use crate::{
    config::{Config, unknown_variables},
    knowledge::snapshots::Snapshots,
    store::{self, embedded},
};

/// How long recall is measured in one knowledge base, about, and in all of them.
const RECALL_TIME: Duration = Duration::from_secs(3);
const RECALL_TIME_OF_ALL: Duration = Duration::from_secs(30);
/// Recall@10 that searches should have; that of graphs is held at it by the server.
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
    /// What was measured, for who reads JSON.
    measured: Option<Value>,
}

/// Runs `doctor`.
///
/// # Errors
/// If the settings are wrong or standard output is gone; what it finds is no error.
pub fn run(args: &DoctorArgs, environment: Environment<'_>) -> anyhow::Result<ExitCode> {
    let config = args.settings.load(None, environment)?;
    let mut findings = vec![settings(environment), weights(&config)];
    findings.extend(block_on(async { Ok(database(&config).await) })?);
    findings.extend(snapshots(&config));
    findings.push(open_files());
    let all_well = findings.iter().all(|finding| finding.is_well);
    let mut out = std::io::stdout().lock();
    if args.json {
        let rows: Vec<_> = findings
            .iter()
            .map(|finding| {
                let mut row = json!({ "part": finding.part, "ok": finding.is_well, "message": finding.told });
                if let Some(measured) = &finding.measured {
                    row["measured"] = measured.clone();
                }
                row
            })
            .collect();
        writeln!(out, "{}", Value::Array(rows))?;
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
    Finding { part, is_well, told: outcome.unwrap_or_else(|told| told), measured: None }
}

/// What can be read is known by now; what is left is what nobody reads.
fn settings(environment: Environment<'_>) -> Finding {
    let unknown: Vec<String> = unknown_variables(environment.names).iter().map(ToString::to_string).collect();
    let outcome = if unknown.is_empty() { Ok("each can be read".to_owned()) } else { Err(unknown.join("; ")) };
    finding("settings", outcome)
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
            let outcome = embedded::check_data_dir(&config.server.data_dir)
                .map(|()| format!("none yet in {}; `tertulia serve` makes it", config.server.data_dir.display()))
                .map_err(|error| format!("{:#}", anyhow::Error::from(error)));
            findings.push(finding("database", outcome));
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

/// Whether snapshots are sound, and what searches find of what is in them. A server answers by the same index, and by what came
/// since.
fn snapshots(config: &Config) -> Vec<Finding> {
    let snapshots = Snapshots::in_data_dir(&config.server.data_dir);
    let saved = match snapshots.list() {
        Ok(saved) => saved,
        Err(error) => return vec![finding("snapshots", Err(format!("cannot be read: {error}")))],
    };
    let started = Instant::now();
    let (mut sound, mut damaged, mut unmeasured, mut recall) = (0, Vec::new(), 0, Vec::new());
    for (key, generation_id) in saved {
        let folder = snapshots.folder(key, generation_id);
        let index = match restore(&folder, config.retrieval.vectors) {
            Ok(Some(index)) => index,
            Ok(None) => continue,
            Err(error) => {
                damaged.push(format!("{}: {error}", folder.display()));
                continue;
            }
        };
        sound += 1;
        if index.is_empty() {
            continue;
        }
        if started.elapsed() >= RECALL_TIME_OF_ALL {
            unmeasured += 1;
            continue;
        }
        recall.push(told_recall(&key.knowledge_base_id.to_string(), &index.measure_recall(RECALL_TIME)));
    }
    if unmeasured > 0 {
        let told = format!("{unmeasured} more knowledge bases were not measured, for lack of time");
        recall.push(finding("recall", Ok(told)));
    } else if recall.is_empty() {
        let told = "nothing to measure: no snapshot holds a chunk; a server saves what it has loaded every \
                    `retrieval.snapshot_interval` and when it stops";
        recall.push(finding("recall", Ok(told.to_owned())));
    }
    let outcome = if damaged.is_empty() {
        Ok(format!("{sound} sound"))
    } else {
        Err(format!("{}; the server removes them at its next start and builds from Postgres", damaged.join("; ")))
    };
    [finding("snapshots", outcome)].into_iter().chain(recall).collect()
}

/// The index in `folder`; none if it is not saved yet.
fn restore(folder: &Path, vectors: VectorSearch) -> Result<Option<Index>, RestoreError> {
    // A server may have saved another one while the files were read.
    match Index::restore_as_saved(folder, vectors).or_else(|_| Index::restore_as_saved(folder, vectors)) {
        Ok(index) => Ok(Some(index)),
        Err(RestoreError::Missing) => Ok(None),
        Err(error) => Err(error),
    }
}

fn told_recall(knowledge_base_id: &str, report: &RecallReport) -> Finding {
    let RecallReport { chunks, questions, plain, filtered, ways } = report;
    let (plain, filtered) = (plain.at_10(), filtered.at_10());
    let ways = json!(ways);
    let names: Vec<&str> = ways.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let told = format!(
        "knowledge base {knowledge_base_id}: recall@10 {plain:.4}, with filters {filtered:.4}; {questions} questions, \
         {chunks} chunks, searched by {}",
        names.join(" and ")
    );
    let outcome = if plain.min(filtered) >= RECALL_MIN {
        Ok(told)
    } else {
        Err(format!(
            "{told}; a server that is searched mends its graphs by and by, `retrieval.vectors = \"scan\"` does without"
        ))
    };
    let measured = json!({
        "knowledge_base_id": knowledge_base_id,
        "recall_at_10": plain,
        "recall_at_10_with_filters": filtered,
        "questions": questions,
        "chunks": chunks,
        "ways": ways,
    });
    Finding { measured: Some(measured), ..finding("recall", outcome) }
}

fn open_files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let hard = limit.maximum.map_or_else(|| "unlimited".to_owned(), |n| n.to_string());
    finding("files", Ok(format!("at most {hard} open files, so about as many connections")))
}

#[cfg(test)]
mod tests {
    use tertulia_index::{Recall, VectorWay};

    use super::*;

    #[test]
    fn too_little_recall_needs_doing() {
        let check = |plain: usize, filtered: usize, is_well: bool| {
            let report = RecallReport {
                chunks: 2_000_000,
                questions: 100,
                plain: Recall { wanted: 1_000, found: plain },
                filtered: Recall { wanted: 2_000, found: filtered },
                ways: vec![VectorWay::Graph, VectorWay::Estimate],
            };
            let found = told_recall("b", &report);
            assert_eq!((found.part, found.is_well), ("recall", is_well), "{}", found.told);
            assert_eq!(found.told.contains("retrieval.vectors"), !is_well, "{}", found.told);
            found
        };
        let found = check(981, 1_998, true);
        let told = "knowledge base b: recall@10 0.9810, with filters 0.9990; 100 questions, 2000000 chunks, searched by \
                    graph and estimate";
        assert_eq!(found.told, told);
        let measured = found.measured.unwrap();
        assert_eq!((&measured["recall_at_10"], &measured["recall_at_10_with_filters"]), (&json!(0.981), &json!(0.999)));
        assert_eq!(measured["ways"], json!(["graph", "estimate"]));
        check(979, 2_000, false);
        check(1_000, 1_950, false);
    }
}
