//! `tertulia ingest DIR`: puts a folder of documents into a knowledge base, and the next time only what changed.
//!
//! The server's own list says what is there already, by external id (the path below DIR), SHA-256, address and metadata. Each
//! file is one request, answered when it is committed; so a run may be cut short at any time (Ctrl-C, a crash on either
//! side) and the next one goes on where it stopped. A file that fails holds up no other; a server that is away ends the run.

use std::{
    collections::{BTreeMap, HashSet},
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::client::{CallError, Client, ServerArgs};
use crate::knowledge::extract::MediaType;

/// Files sent at once if nothing is said: enough to keep the server's compute threads and its commits busy.
const CONCURRENCY_DEFAULT: u16 = 8;
/// Failures that are told one by one.
const FAILURES_TOLD_MAX: usize = 20;

/// Arguments of `ingest`.
#[derive(Debug, Args)]
pub struct IngestArgs {
    /// Folder with HTML, Markdown, plain text and PDF files; hidden ones are left out, and Sphinx's copies of its sources
    dir: PathBuf,
    #[command(flatten)]
    server: ServerArgs,
    /// Id of the knowledge base
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    knowledge_base: String,
    /// Delete the documents that are not in the folder: all others of the knowledge base, or, with --source-url-prefix or
    /// --metadata, those of them that have this address and metadata
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

/// What is in a folder.
#[derive(Default)]
struct Folder {
    /// By external id.
    files: Vec<File>,
    /// Parts of it that could not be looked at.
    failures: Vec<String>,
}

/// A document as the server lists it.
struct Present {
    content_sha256: String,
    mime_type: String,
    source_url: Option<String>,
    metadata: Map<String, Value>,
}

/// Where the documents go, and what all of them get.
struct Target {
    client: Client,
    /// The path of the knowledge base's documents.
    documents: String,
    source_url_prefix: Option<String>,
    metadata: Map<String, Value>,
}

/// What a run did.
#[derive(Default)]
struct Report {
    added: usize,
    updated: usize,
    unchanged: usize,
    deleted: usize,
    /// Of the documents added and updated.
    chunks: u64,
    version: u64,
    failures: Vec<String>,
    /// Files that were not tried because the run ended early.
    not_tried: usize,
}

/// Runs `ingest`; the exit code is 1 if anything failed.
///
/// # Errors
/// If the folder cannot be read, or the server cannot be reached or refuses before anything is sent.
pub fn run(args: &IngestArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let Folder { files, failures } = find_files(&args.dir)?;
    if files.is_empty() {
        bail!("{} has no HTML, Markdown, text or PDF file", args.dir.display());
    }
    let base = format!("/knowledge-bases/{}", encode(&args.knowledge_base));
    let target = Target {
        client: Client::new(&args.server),
        documents: format!("{base}/documents"),
        source_url_prefix: args.source_url_prefix.clone(),
        metadata: args.metadata.iter().cloned().collect(),
    };
    let version = target.client.get(&base)?["version"].as_u64().unwrap_or_default();
    let present = target.list_present()?;
    let all_seen = failures.is_empty();
    let report = Mutex::new(Report { version, failures, ..Report::default() });
    let bar = progress_bar(files.len(), args.json);
    let stop = AtomicBool::new(false);

    in_parallel(&files, args.concurrency, |file| {
        if stop.load(Ordering::Relaxed) {
            lock(&report).not_tried += 1;
            return;
        }
        let before = present.get(&file.external_id);
        let outcome = target.send(file, before);
        if outcome.as_ref().is_err_and(is_about_the_server) {
            stop.store(true, Ordering::Relaxed);
        }
        let mut report = lock(&report);
        report.note_file(file, outcome, before.is_some());
        bar.inc(1);
        bar.set_message(format!("{} chunks", report.chunks));
    });
    bar.finish_and_clear();

    // What could not be seen or sent may well be there still.
    if args.delete && all_seen && !stop.load(Ordering::Relaxed) {
        let kept: HashSet<&str> = files.iter().map(|file| file.external_id.as_str()).collect();
        let is_gone = |id: &str, document: &Present| !kept.contains(id) && target.is_of_this_folder(id, document);
        let gone: Vec<&str> =
            present.iter().filter(|(id, document)| is_gone(id, document)).map(|(id, _)| id.as_str()).collect();
        in_parallel(&gone, args.concurrency, |id| {
            let outcome = target.client.delete(&target.document_path(id));
            lock(&report).note_deletion(id, outcome);
        });
    }
    let report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.tell(started.elapsed(), args.json)?;
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Calls `work` with each item, on `threads` threads.
fn in_parallel<T: Sync>(items: &[T], threads: u16, work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let take_and_work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..usize::from(threads).min(items.len()) {
            scope.spawn(take_and_work);
        }
    });
}

fn lock(report: &Mutex<Report>) -> std::sync::MutexGuard<'_, Report> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_about_the_server(error: &anyhow::Error) -> bool {
    error.downcast_ref::<CallError>().is_some_and(CallError::is_about_the_server)
}

impl Report {
    fn note_file(&mut self, file: &File, outcome: anyhow::Result<Option<Value>>, was_present: bool) {
        match outcome {
            Ok(None) => self.unchanged += 1,
            Ok(Some(receipt)) => {
                match (receipt["status"].as_str(), was_present) {
                    (Some("unchanged"), _) => self.unchanged += 1,
                    (_, true) => self.updated += 1,
                    (_, false) => self.added += 1,
                }
                if receipt["status"] != "unchanged" {
                    self.chunks += receipt["chunks"].as_u64().unwrap_or_default();
                }
                self.version = self.version.max(receipt["version"].as_u64().unwrap_or_default());
            }
            Err(error) => self.failures.push(format!("{}: {error:#}", file.path.display())),
        }
    }

    fn note_deletion(&mut self, external_id: &str, outcome: Result<Value, CallError>) {
        match outcome {
            Ok(deletion) => {
                self.deleted += 1;
                self.version = self.version.max(deletion["version"].as_u64().unwrap_or_default());
            }
            // A try before this one may have deleted it, or somebody else: gone is what it was to be.
            Err(error) if error.is_not_found() => self.deleted += 1,
            Err(error) => self.failures.push(format!("{external_id}: {:#}", anyhow::Error::new(error))),
        }
    }

    fn tell(&self, took: Duration, json: bool) -> std::io::Result<()> {
        let mut err = std::io::stderr().lock();
        for failure in self.failures.iter().take(FAILURES_TOLD_MAX) {
            writeln!(err, "failed: {failure}")?;
        }
        if self.failures.len() > FAILURES_TOLD_MAX {
            writeln!(err, "… and {} more", self.failures.len() - FAILURES_TOLD_MAX)?;
        }
        if self.not_tried > 0 {
            writeln!(err, "{} files were not tried; run the same command again to go on", self.not_tried)?;
        }
        let mut out = std::io::stdout().lock();
        let Self { added, updated, unchanged, deleted, chunks, version, failures, not_tried } = self;
        let (failed, seconds) = (failures.len() + not_tried, took.as_secs_f64());
        if json {
            let object = json!({
                "added": added, "updated": updated, "unchanged": unchanged, "deleted": deleted, "failed": failed,
                "chunks": chunks, "seconds": seconds, "version": version,
            });
            return writeln!(out, "{object}");
        }
        writeln!(
            out,
            "{added} added, {updated} updated, {unchanged} unchanged, {deleted} deleted, {failed} failed; {chunks} chunks \
             in {seconds:.1} s ({:.0} a second)",
            *chunks as f64 / seconds.max(1e-3)
        )
    }
}

impl Target {
    /// Sends `file` unless the server has the very same; then there is no receipt.
    fn send(&self, file: &File, present: Option<&Present>) -> anyhow::Result<Option<Value>> {
        let content = std::fs::read(&file.path).context("cannot be read")?;
        let source_url = self.source_url(&file.external_id);
        let is_same = |present: &Present| {
            present.content_sha256 == hex::encode(Sha256::digest(&content))
                && present.mime_type == file.media_type.as_str()
                && present.source_url == source_url
                && present.metadata == self.metadata
        };
        if present.is_some_and(is_same) {
            return Ok(None);
        }
        let mut query = Vec::new();
        if let Some(url) = source_url {
            query.push(("source_url", url));
        }
        if !self.metadata.is_empty() {
            query.push(("metadata", serde_json::to_string(&self.metadata)?));
        }
        let path = self.document_path(&file.external_id);
        Ok(Some(self.client.put(&path, &query, file.media_type.as_str(), &content)?))
    }

    fn list_present(&self) -> Result<BTreeMap<String, Present>, CallError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let all = self.client.list(&self.documents)?.into_iter().map(|mut document| {
            let metadata = match document["metadata"].take() {
                Value::Object(metadata) => metadata,
                _ => Map::new(),
            };
            let present = Present {
                content_sha256: text(&document["content_sha256"]),
                mime_type: text(&document["mime_type"]),
                source_url: document["source_url"].as_str().map(str::to_owned),
                metadata,
            };
            (text(&document["external_id"]), present)
        });
        Ok(all.collect())
    }

    /// Whether a run with the same arguments would have made this document, as far as one can tell.
    fn is_of_this_folder(&self, external_id: &str, document: &Present) -> bool {
        self.source_url_prefix.as_ref().is_none_or(|_| document.source_url == self.source_url(external_id))
            && self.metadata.iter().all(|(key, value)| document.metadata.get(key) == Some(value))
    }

    fn source_url(&self, external_id: &str) -> Option<String> {
        let prefix = self.source_url_prefix.as_ref()?.trim_end_matches('/');
        Some(format!("{prefix}/{}", encode_path(external_id)))
    }

    fn document_path(&self, external_id: &str) -> String {
        format!("{}/{}", self.documents, encode(external_id))
    }
}

/// Every file below `dir` of a kind that can be read.
///
/// # Errors
/// If `dir` itself cannot be read; for parts of it that cannot, the folder has failures.
fn find_files(dir: &Path) -> anyhow::Result<Folder> {
    std::fs::read_dir(dir).with_context(|| format!("the folder {} cannot be read", dir.display()))?;
    let mut folder = Folder::default();
    // A folder of documents is no checkout: what git ignores, such as built manuals, is wanted.
    let walk = ignore::WalkBuilder::new(dir)
        .standard_filters(false)
        .hidden(true)
        .follow_links(true)
        .filter_entry(|entry| !is_sphinx_sources(entry.path()))
        .build();
    for entry in walk {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                folder.failures.push(error.to_string());
                continue;
            }
        };
        let name = entry.file_name().to_string_lossy();
        let Some(media_type) = MediaType::of_file_name(&name) else { continue };
        if !entry.file_type().is_some_and(|kind| kind.is_file()) {
            continue;
        }
        let below = entry.path().strip_prefix(dir).unwrap_or(entry.path());
        match below.to_str() {
            Some(below) => {
                let external_id = below.replace(std::path::MAIN_SEPARATOR, "/");
                folder.files.push(File { path: entry.path().to_owned(), external_id, media_type });
            }
            None => folder.failures.push(format!("{}: the name is not UTF-8", entry.path().display())),
        }
    }
    folder.files.sort_by(|a, b| a.external_id.cmp(&b.external_id));
    Ok(folder)
}

/// The folder in which Sphinx's HTML keeps the sources of its pages: the same text a second time.
fn is_sphinx_sources(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "_sources") && path.with_file_name("_static").is_dir()
}

/// `text` as one part of a path.
fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
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
    // Draws nothing where standard error is no terminal.
    let target = if json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} files, {msg}, {elapsed} (about {eta} left)");
    let bar = ProgressBar::with_draw_target(Some(files as u64), target);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
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
        for folder in ["sub", "_sources", "_static", "sub/_sources"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let names = ["b.HTML", "a.md", "sub/c.txt", "sub/d.png", ".hidden.md", ".gitignore", ".ignore"];
        for name in names.into_iter().chain(["_sources/a.rst.txt", "sub/_sources/e.txt"]) {
            std::fs::write(dir.path().join(name), "a.md").unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("sub/c.txt"), dir.path().join("link.txt")).unwrap();
        let folder = find_files(dir.path()).unwrap();
        let found: Vec<_> = folder.files.into_iter().map(|file| file.external_id).collect();
        assert_eq!(found, ["a.md", "b.HTML", "link.txt", "sub/_sources/e.txt", "sub/c.txt"]);
        assert_eq!(folder.failures, [""; 0]);
        assert!(find_files(&dir.path().join("none")).is_err());
        assert!(find_files(&dir.path().join("a.md")).is_err());
    }

    #[test]
    fn a_part_that_cannot_be_looked_at_is_a_failure_and_not_the_end() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.md"), "a").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("circle")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("none.md"), dir.path().join("dangling.md")).unwrap();
        let folder = find_files(dir.path()).unwrap();
        assert_eq!((folder.files.len(), folder.failures.len()), (1, 2), "{:?}", folder.failures);
    }

    fn target(source_url_prefix: Option<&str>, metadata: Value) -> Target {
        Target {
            client: Client::new(&ServerArgs { url: "http://127.0.0.1:9".into(), key: String::new() }),
            documents: "/d".into(),
            source_url_prefix: source_url_prefix.map(str::to_owned),
            metadata: metadata.as_object().unwrap().clone(),
        }
    }

    /// A server that closes the first connection without an answer, as one that stops does, and then answers `status`.
    fn server(status: &'static str) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for (connection, answer) in listener.incoming().zip([None, Some("{\"detail\": \"No.\"}")]) {
                let mut connection = std::io::BufReader::new(connection.unwrap());
                let mut line = String::new();
                while std::io::BufRead::read_line(&mut connection, &mut line).unwrap() > 2 {
                    line.clear();
                }
                if let Some(body) = answer {
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                    connection.get_mut().write_all((head + body).as_bytes()).unwrap();
                }
            }
        });
        url
    }

    #[test]
    fn a_deletion_that_was_carried_out_before_it_was_repeated_is_one() {
        let outcome = |status| {
            let client = Client::new(&ServerArgs { url: server(status), key: String::new() });
            let mut report = Report::default();
            report.note_deletion("a", client.delete("/d/a"));
            (report.deleted, report.failures.len())
        };
        assert_eq!(outcome("404 Not Found"), (1, 0));
        assert_eq!(outcome("403 Forbidden"), (0, 1));
    }

    #[test]
    fn paths_are_encoded_for_urls() {
        let target = target(Some("https://a.b/c/"), json!({}));
        assert_eq!(target.document_path("a b/ü.md"), "/d/a%20b%2F%C3%BC%2Emd");
        assert_eq!(target.source_url("a b/ü.md").unwrap(), "https://a.b/c/a%20b/%C3%BC.md");
    }

    #[test]
    fn only_documents_of_the_folder_are_taken_for_vanished() {
        let document = |source_url: Option<&str>, metadata: Value| Present {
            content_sha256: String::new(),
            mime_type: String::new(),
            source_url: source_url.map(str::to_owned),
            metadata: metadata.as_object().unwrap().clone(),
        };
        let is_ours = |target: &Target, document: &Present| target.is_of_this_folder("x", document);
        assert!(is_ours(&target(None, json!({})), &document(Some("http://a"), json!({"k": 1}))));
        let ours = target(Some("http://a"), json!({"k": 1}));
        assert!(is_ours(&ours, &document(Some("http://a/x"), json!({"k": 1, "more": true}))));
        assert!(!is_ours(&ours, &document(Some("http://b/x"), json!({"k": 1}))));
        assert!(!is_ours(&ours, &document(None, json!({"k": 1}))));
        assert!(!is_ours(&ours, &document(Some("http://a/x"), json!({"k": 2}))));
        assert!(!is_ours(&ours, &document(Some("http://a/x"), json!({}))));
    }
}
