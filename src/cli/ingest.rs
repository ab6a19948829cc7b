//! `tertulia ingest DIR`: puts a folder of documents into a knowledge base, and the next time only what changed.
//!
//! The server's own list says what is there already, by external id (the path below DIR) and SHA-256, so a run that was cut
//! short is continued by the next one. Each file is one request, answered when it is committed.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::client::{Client, ServerArgs};
use crate::knowledge::extract::MediaType;

/// Files sent at once if nothing is said: enough to keep the server's compute threads and its commits busy.
const CONCURRENCY_DEFAULT: u16 = 8;
/// Failed files that are told one by one.
const FAILURES_TOLD_MAX: usize = 20;

/// Arguments of `ingest`.
#[derive(Debug, Args)]
pub struct IngestArgs {
    /// Folder with HTML, Markdown, plain text and PDF files; hidden ones are left out
    dir: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
    /// Id of the knowledge base
    #[arg(long, value_name = "ID")]
    knowledge_base: String,
    /// Delete documents of the knowledge base that are not in the folder
    #[arg(long)]
    delete: bool,
    /// Address that the files are published under; a hit then links to it
    #[arg(long, value_name = "URL")]
    source_url_prefix: Option<String>,
    /// Metadata of each document; a value that is JSON is taken as such, else as text; repeat for several
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = metadata)]
    metadata: Vec<(String, Value)>,
    /// Files sent at once
    #[arg(long, default_value_t = CONCURRENCY_DEFAULT, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// Print one JSON object, no progress
    #[arg(long)]
    json: bool,
}

/// A file to send.
struct File {
    path: PathBuf,
    external_id: String,
    media_type: MediaType,
}

/// A document as the server lists it.
struct Present {
    content_sha256: String,
    mime_type: String,
    source_url: Option<String>,
    metadata: Value,
}

/// What a run did.
#[derive(Default)]
struct Report {
    added: usize,
    updated: usize,
    unchanged: usize,
    deleted: usize,
    chunks: u64,
    version: u64,
    failures: Vec<String>,
}

/// Runs `ingest`; the exit code is 1 if a file failed, after all others were sent.
///
/// # Errors
/// If the folder cannot be read, or the server cannot be reached or refuses before anything is sent.
pub fn run(args: &IngestArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let client = Client::new(&args.server);
    let documents = format!("/knowledge-bases/{}/documents", args.knowledge_base);
    let mut present = list_present(&client, &documents)?;
    let files = find_files(&args.dir)?;
    if files.is_empty() {
        bail!("{} has no HTML, Markdown, text or PDF file", args.dir.display());
    }
    let metadata: Map<String, Value> = args.metadata.iter().cloned().collect();
    let bar = progress_bar(files.len(), args.json);
    let report = Mutex::new(Report::default());
    let next = AtomicUsize::new(0);
    let send_files = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = send(&client, &documents, file, present.get(&file.external_id), args, &metadata);
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.note(file, outcome, present.contains_key(&file.external_id));
            bar.inc(1);
            bar.set_message(format!("{} chunks", report.chunks));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.concurrency {
            scope.spawn(send_files);
        }
    });
    bar.finish_and_clear();
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    if args.delete {
        files.iter().for_each(|file| drop(present.remove(&file.external_id)));
        for external_id in present.keys() {
            match client.delete(&document_path(&documents, external_id)) {
                Ok(deletion) => {
                    report.deleted += 1;
                    report.version = report.version.max(deletion["version"].as_u64().unwrap_or_default());
                }
                Err(error) => report.failures.push(format!("{external_id}: {error:#}")),
            }
        }
    }
    tell(&report, started.elapsed(), args.json)?;
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    fn note(&mut self, file: &File, outcome: anyhow::Result<Option<Value>>, was_present: bool) {
        match outcome {
            Ok(None) => self.unchanged += 1,
            Ok(Some(receipt)) => {
                match (receipt["status"].as_str(), was_present) {
                    (Some("unchanged"), _) => self.unchanged += 1,
                    (_, true) => self.updated += 1,
                    (_, false) => self.added += 1,
                }
                self.chunks += receipt["chunks"].as_u64().unwrap_or_default();
                self.version = self.version.max(receipt["version"].as_u64().unwrap_or_default());
            }
            Err(error) => self.failures.push(format!("{}: {error:#}", file.path.display())),
        }
    }
}

/// Sends `file` unless the server has the very same; then there is no receipt.
fn send(
    client: &Client,
    documents: &str,
    file: &File,
    present: Option<&Present>,
    args: &IngestArgs,
    metadata: &Map<String, Value>,
) -> anyhow::Result<Option<Value>> {
    let content = std::fs::read(&file.path).context("cannot be read")?;
    let source_url = args
        .source_url_prefix
        .as_ref()
        .map(|prefix| format!("{}/{}", prefix.trim_end_matches('/'), encode_path(&file.external_id)));
    let is_same = |present: &Present| {
        present.content_sha256 == hex::encode(Sha256::digest(&content))
            && present.mime_type == file.media_type.as_str()
            && present.source_url == source_url
            && present.metadata.as_object() == Some(metadata)
    };
    if present.is_some_and(is_same) {
        return Ok(None);
    }
    let mut query = Vec::new();
    if let Some(url) = &source_url {
        query.push(("source_url", url.clone()));
    }
    if !metadata.is_empty() {
        query.push(("metadata", serde_json::to_string(metadata)?));
    }
    let path = document_path(documents, &file.external_id);
    client.put(&path, &query, file.media_type.as_str(), &content).map(Some)
}

/// Every file below `dir` of a known kind, by external id.
fn find_files(dir: &Path) -> anyhow::Result<Vec<File>> {
    let mut files = Vec::new();
    // A folder of documents is no checkout: what git ignores, such as built manuals, is wanted.
    let walk = ignore::WalkBuilder::new(dir)
        .git_ignore(false)
        .git_global(false)
        .git_exclude(false)
        .ignore(false)
        .follow_links(true)
        .build();
    for entry in walk {
        let entry = entry.with_context(|| format!("the folder {} cannot be read", dir.display()))?;
        let extension = entry.path().extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let kind = match extension.to_ascii_lowercase().as_str() {
            "html" | "htm" | "xhtml" => "text/html",
            "md" | "markdown" => "text/markdown",
            "txt" | "text" => "text/plain",
            "pdf" => "application/pdf",
            _ => continue,
        };
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let below = entry.path().strip_prefix(dir).unwrap_or(entry.path());
        let Some(external_id) = below.to_str().map(|path| path.replace(std::path::MAIN_SEPARATOR, "/")) else {
            bail!("the name of {} is not UTF-8", entry.path().display());
        };
        let media_type = MediaType::parse(kind).context("a media type of ingest's own")?;
        files.push(File { path: entry.path().to_owned(), external_id, media_type });
    }
    files.sort_by(|a, b| a.external_id.cmp(&b.external_id));
    Ok(files)
}

fn list_present(client: &Client, documents: &str) -> anyhow::Result<BTreeMap<String, Present>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = client.list(documents)?.into_iter().map(|mut document| {
        let present = Present {
            content_sha256: text(&document["content_sha256"]),
            mime_type: text(&document["mime_type"]),
            source_url: document["source_url"].as_str().map(str::to_owned),
            metadata: document["metadata"].take(),
        };
        (text(&document["external_id"]), present)
    });
    Ok(all.collect())
}

fn document_path(documents: &str, external_id: &str) -> String {
    format!("{documents}/{}", percent_encoding::utf8_percent_encode(external_id, percent_encoding::NON_ALPHANUMERIC))
}

/// `path` as part of a URL, its slashes kept.
fn encode_path(path: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');
    percent_encoding::utf8_percent_encode(path, KEPT).to_string()
}

fn metadata(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()))))
}

fn progress_bar(files: usize, json: bool) -> ProgressBar {
    let target = if json || !std::io::stderr().is_terminal() {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} files, {msg}, {elapsed} (about {eta} left)");
    let bar = ProgressBar::with_draw_target(Some(files as u64), target);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn tell(report: &Report, took: Duration, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for failure in report.failures.iter().take(FAILURES_TOLD_MAX) {
        eprintln!("failed: {failure}");
    }
    if report.failures.len() > FAILURES_TOLD_MAX {
        eprintln!("… and {} more", report.failures.len() - FAILURES_TOLD_MAX);
    }
    if json {
        let object = json!({
            "added": report.added, "updated": report.updated, "unchanged": report.unchanged, "deleted": report.deleted,
            "failed": report.failures.len(), "chunks": report.chunks, "version": report.version,
            "seconds": took.as_secs_f64(),
        });
        writeln!(out, "{object}")?;
    } else {
        let Report { added, updated, unchanged, deleted, chunks, .. } = report;
        let (failed, seconds) = (report.failures.len(), took.as_secs_f64());
        writeln!(
            out,
            "{added} added, {updated} updated, {unchanged} unchanged, {deleted} deleted, {failed} failed; {chunks} chunks \
             in {seconds:.1} s ({:.0} a second)",
            *chunks as f64 / seconds.max(1e-3)
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_json_where_it_can_be() {
        assert_eq!(metadata("release=16"), Ok(("release".into(), json!(16))));
        assert_eq!(metadata("lang=en"), Ok(("lang".into(), json!("en"))));
        assert_eq!(metadata("a=b=c"), Ok(("a".into(), json!("b=c"))));
        assert!(metadata("lang").is_err() && metadata("=en").is_err());
    }

    #[test]
    fn files_of_known_kinds_are_found_by_their_path_below_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["b.HTML", "a.md", "sub/c.txt", "sub/d.png", ".hidden.md", ".gitignore"] {
            std::fs::write(dir.path().join(name), "a.md").unwrap();
        }
        let found: Vec<_> = find_files(dir.path()).unwrap().into_iter().map(|file| file.external_id).collect();
        assert_eq!(found, ["a.md", "b.HTML", "sub/c.txt"]);
    }

    #[test]
    fn paths_are_encoded_for_urls() {
        assert_eq!(document_path("/d", "a b/ü.md"), "/d/a%20b%2F%C3%BC%2Emd");
        assert_eq!(encode_path("a b/ü.md"), "a%20b/%C3%BC.md");
    }
}
