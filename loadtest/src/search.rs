//! `loadtest search`: load on the search of one knowledge base.

use std::{collections::BTreeMap, path::PathBuf, rc::Rc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use uuid::Uuid;

use crate::{
    client::{Connection, Server, ServerArgs},
    compare::{self, CompareArgs},
    load::{LoadArgs, Outcome, Peer, drive},
    questions::{self, Picker},
    report::{Report, Row},
};

/// Arguments of `search`.
#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// Id of the knowledge base
    #[arg(long, value_name = "ID")]
    pub(crate) knowledge_base: Uuid,
    /// File with questions, one a line; without it, 206 about PostgreSQL that are built in
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// How many hits
    #[arg(long, default_value_t = 5)]
    pub(crate) top_k: u32,
    /// Which lists are asked
    #[arg(long, value_enum, default_value = "hybrid")]
    mode: Mode,
    #[command(flatten)]
    pub(crate) load: LoadArgs,
    #[command(flatten)]
    compare: CompareArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Hybrid,
    Semantic,
    Keyword,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hybrid => "hybrid",
            Self::Semantic => "semantic",
            Self::Keyword => "keyword",
        }
    }
}

/// Runs `search`.
///
/// # Errors
/// If the server or a peer cannot be reached, the server does not find anything, or requests failed.
pub(crate) fn run(args: &SearchArgs) -> anyhow::Result<()> {
    let questions = questions::read(args.questions.as_deref())?;
    let searches = Searches::new(args, &questions)?;
    let setting = searches.look()?;
    let report = if args.compare.is_wanted() {
        ensure!(
            matches!(args.mode, Mode::Hybrid) && args.load.rate.is_none() && args.load.requests.is_none(),
            "--compare measures hybrid search for a duration: it goes without --mode, --rate and --requests"
        );
        compare::run(args, &args.compare, &searches, &questions, setting)?
    } else {
        let tally = drive(&args.load, async |connection| searches.connect(connection).await)?;
        let name = match args.load.rate {
            Some(rate) => format!("search, {rate} requests/s due"),
            None => "search".to_owned(),
        };
        Report { setting, rows: vec![Row::new(&name, args.load.connections, &tally)], ratios: Vec::new() }
    };
    report.print(args.json)
}

/// The searches of a run, written as requests beforehand so that this costs no time while measuring.
#[derive(Debug)]
pub(crate) struct Searches {
    server: Server,
    path: String,
    knowledge_base: Uuid,
    mode: Mode,
    bodies: Vec<Bytes>,
}

impl Searches {
    fn new(args: &SearchArgs, questions: &[String]) -> anyhow::Result<Self> {
        let body = |question: &String| {
            json!({ "query": question, "top_k": args.top_k, "mode": args.mode.as_str() }).to_string().into()
        };
        Ok(Self {
            server: Server::from_args(&args.server)?,
            path: format!("/v1/knowledge-bases/{}/search", args.knowledge_base),
            knowledge_base: args.knowledge_base,
            mode: args.mode,
            bodies: questions.iter().map(body).collect(),
        })
    }

    /// Asks every question once and checks that the answers are what one wants to measure.
    fn look(&self) -> anyhow::Result<BTreeMap<&'static str, Value>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let mut connection = self.server.connect().await?;
            let path = format!("/v1/knowledge-bases/{}", self.knowledge_base);
            let base = ask_json(&mut connection, Method::GET, &path, Bytes::new()).await?;
            let (mut found, mut from_memory) = (0, 0);
            for body in &self.bodies {
                let answer = ask_json(&mut connection, Method::POST, &self.path, body.clone()).await?;
                found += usize::from(answer["results"].as_array().is_some_and(|hits| !hits.is_empty()));
                from_memory += usize::from(answer["source"] == "memory");
            }
            ensure!(found > 0, "no question finds anything: has anything been ingested into this knowledge base?");
            Ok(BTreeMap::from([
                ("knowledge base", format!("{} ({} chunks)", self.knowledge_base, base["chunks"]).into()),
                ("mode", self.mode.as_str().into()),
                ("questions", self.bodies.len().into()),
                ("with hits", found.into()),
                ("from memory", from_memory.into()),
            ]))
        })
    }

    /// A connection that asks these questions in the order of its number.
    pub(crate) async fn connect(&self, number: u64) -> anyhow::Result<SearchPeer> {
        Ok(SearchPeer {
            server: self.server.clone(),
            connection: Some(self.server.connect().await?),
            path: self.path.clone(),
            bodies: self.bodies.clone().into(),
            picker: Picker::new(self.bodies.len(), number),
        })
    }
}

/// Sends a request and reads the JSON of its reply.
///
/// # Errors
/// If the connection breaks or the server refuses; the message has its reason.
pub(crate) async fn ask_json(
    connection: &mut Connection,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<Value> {
    let (status, body) = connection.send(method, path, body).await?;
    let reply: Value = serde_json::from_slice(&body)
        .with_context(|| format!("{path} answered {status}, but not in JSON; is it a tertulia server?"))?;
    if !status.is_success() {
        bail!("{path} answered {status}: {}", reply["detail"].as_str().unwrap_or("no reason given"));
    }
    Ok(reply)
}

/// A connection that searches.
pub(crate) struct SearchPeer {
    server: Server,
    connection: Option<Connection>,
    path: String,
    bodies: Rc<[Bytes]>,
    picker: Picker,
}

impl Peer for SearchPeer {
    async fn ask(&mut self, _turn: u64) -> Outcome {
        let body = self.bodies[self.picker.pick()].clone();
        // One that broke is made anew; the time for that is the client's to wait.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.server.connect().await {
                Ok(connection) => connection,
                Err(_) => return Outcome::Failed("no connection".into()),
            },
        };
        match connection.send(Method::POST, &self.path, body).await {
            Ok((status, body)) => {
                self.connection = Some(connection);
                if status == StatusCode::OK {
                    Outcome::Answered { server: took(&body) }
                } else {
                    Outcome::Failed(format!("status {}", status.as_u16()))
                }
            }
            Err(_) => Outcome::Failed("the connection broke".into()),
        }
    }
}

/// The server's own time, read from the answer without parsing all of it: it stands before the hits.
fn took(body: &[u8]) -> Option<Duration> {
    const FIELD: &[u8] = b"\"took_us\":";
    let start = body.windows(FIELD.len()).position(|window| window == FIELD)? + FIELD.len();
    let digits = body[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = std::str::from_utf8(&body[start..start + digits]).ok()?;
    number.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_time_is_read() {
        assert_eq!(took(br#"{"source":"memory","took_us":312,"results":[]}"#), Some(Duration::from_micros(312)));
        assert_eq!(took(br#"{"took_us":}"#), None);
        assert_eq!(took(b"{}"), None);
    }
}
