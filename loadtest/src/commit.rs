//! `loadtest commit`: how soon a search finds what was written, and no longer finds what was deleted.
//!
//! One document after the other, each with a word that no other has, is written, searched for without a pause until it
//! is found, deleted, and searched for until it is gone. Times from sending the write hold all of it: reading, encoding,
//! the transaction, the wake-up and the index. Times from its acknowledgement are what a client can notice as a delay.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::LocalSet;
use uuid::Uuid;

use crate::{
    client::{Connection, Server, ServerArgs},
    report::{Report, Row},
    search::ask_json,
};

/// A document that is not found for so long never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// Text around the word that is searched for, so that the document is of a usual size.
const FILLING: &str = "A support team writes an article when the same question has come up twice. It says what the \
    customer sees, what causes it, and which steps help, in the order in which they are tried. Most articles are short: \
    one screen, two headings, a list. They change often, since the product changes, and an article that is out of date \
    does more harm than none. What a team has just corrected is what the next customer must be told.";

/// Arguments of `commit`.
#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Id of the knowledge base; documents named `loadtest-…` come and go in it
    #[arg(long, value_name = "ID")]
    knowledge_base: Uuid,
    /// Documents to write, one after the other
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    writes: u32,
    /// Ask once with the write's version as `min_version`, instead of again and again
    #[arg(long)]
    min_version: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `commit`.
///
/// # Errors
/// If the server cannot be reached, refuses, or never finds a document.
pub(crate) fn run(args: &CommitArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Server::from_args(&args.server)?;
    let times = LocalSet::new().block_on(&runtime, measure(args, &server))?;
    times.report(args).print(args.json)
}

/// Latencies in nanoseconds.
struct Times {
    written: Histogram<u64>,
    found_from_sending: Histogram<u64>,
    found_from_reply: Histogram<u64>,
    gone_from_reply: Histogram<u64>,
    searches: u64,
}

async fn measure(args: &CommitArgs, server: &Server) -> anyhow::Result<Times> {
    let mut connection = server.connect().await?;
    let empty = Histogram::new(3)?;
    let mut times = Times {
        written: empty.clone(),
        found_from_sending: empty.clone(),
        found_from_reply: empty.clone(),
        gone_from_reply: empty,
        searches: 0,
    };
    let base = format!("/v1/knowledge-bases/{}", args.knowledge_base);
    let run = Uuid::now_v7().simple().to_string();
    for number in 0..args.writes {
        let word = format!("w{run}{number}");
        let document = format!("loadtest-{word}");
        let path = format!("{base}/documents/{document}");
        let draft = json!({ "title": "A note", "content": format!("{FILLING}\n\nIts number is {word}.") });
        let sent = Instant::now();
        let receipt = ask_json(&mut connection, Method::PUT, &path, draft.to_string().into()).await?;
        let replied = Instant::now();
        let mut search = Search { args, base: &base, word: &word, document: &document, connection: &mut connection };
        times.searches += search.until(&receipt, true).await?;
        let found = Instant::now();
        let receipt = ask_json(&mut connection, Method::DELETE, &path, Bytes::new()).await?;
        let deleted = Instant::now();
        let mut search = Search { args, base: &base, word: &word, document: &document, connection: &mut connection };
        times.searches += search.until(&receipt, false).await?;
        let gone = Instant::now();
        for (histogram, time) in [
            (&mut times.written, replied - sent),
            (&mut times.found_from_sending, found - sent),
            (&mut times.found_from_reply, found - replied),
            (&mut times.gone_from_reply, gone - deleted),
        ] {
            histogram.record(u64::try_from(time.as_nanos())?)?;
        }
    }
    Ok(times)
}

/// Searches for one word.
struct Search<'a> {
    args: &'a CommitArgs,
    base: &'a str,
    word: &'a str,
    document: &'a str,
    connection: &'a mut Connection,
}

impl Search<'_> {
    /// Searches until the document is found, or until it is not; how often that was.
    async fn until(&mut self, receipt: &Value, is_wanted: bool) -> anyhow::Result<u64> {
        let begun = Instant::now();
        let mut body = json!({ "query": self.word, "mode": "keyword", "top_k": 1 });
        if self.args.min_version {
            body["min_version"] = receipt["version"].as_u64().context("a write is answered with its version")?.into();
        }
        let body = Bytes::from(body.to_string());
        let path = format!("{}/search", self.base);
        let mut searches = 0;
        loop {
            searches += 1;
            let answer = ask_json(self.connection, Method::POST, &path, body.clone()).await?;
            let top = answer["results"][0]["external_id"].as_str().unwrap_or_default();
            if (top == self.document) == is_wanted {
                return Ok(searches);
            }
            let missing = if is_wanted { "not found" } else { "still found" };
            ensure!(!self.args.min_version, "{top:?} is the first hit with min_version: the document is {missing}");
            ensure!(begun.elapsed() < PATIENCE, "a document is {missing} after {PATIENCE:?}");
        }
    }
}

impl Times {
    fn report(&self, args: &CommitArgs) -> Report {
        let rows = vec![
            Row::timed("write sent to acknowledged", &self.written),
            Row::timed("write sent to found", &self.found_from_sending),
            Row::timed("write acknowledged to found", &self.found_from_reply),
            Row::timed("deletion acknowledged to gone", &self.gone_from_reply),
        ];
        let setting = BTreeMap::from([
            ("knowledge base", args.knowledge_base.to_string().into()),
            ("searches", self.searches.into()),
            ("min_version", args.min_version.into()),
        ]);
        Report { setting, rows, ratios: Vec::new() }
    }
}
