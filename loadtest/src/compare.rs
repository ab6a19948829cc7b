//! `loadtest search --compare`: the served search beside two peers, in one run, in turns.
//!
//! The peers are the same hybrid search as one SQL statement, and a bare responder that answers "hello": the one is what
//! most people would do instead, the other what the machine could serve if a search cost nothing. A machine's speed
//! changes with the hour; ratios from one run, taken in turns, do not.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;
use tertulia_index::Encoder;

use crate::{
    load::{LoadArgs, Tally, drive},
    peer_hello::{self, HelloServer},
    peer_sql::SqlPeers,
    report::{Ratio, Report, Row},
    search::{SearchArgs, Searches},
};

/// Arguments of a comparison.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Measure two peers as well: hybrid search in SQL, and a bare responder
    #[arg(long, requires = "postgres_url")]
    compare: bool,
    /// The server's database as its owner: the peer in SQL makes a copy of the chunks there, in the schema `loadtest`. A
    /// URL, or such as `host=/folder/of/the/socket user=tertulia_owner dbname=tertulia`
    #[arg(long, value_name = "URL", requires = "compare")]
    postgres_url: Option<String>,
    /// Folder with the encoder's weights, for the questions of the peer in SQL
    #[arg(long, env = "TERTULIA_RETRIEVAL_WEIGHTS_DIR", default_value = "weights", value_name = "DIR")]
    weights: PathBuf,
    /// How often each peer has its turn of --duration seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Connections of the loads that ask for throughput
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    many: u32,
    /// Threads of the bare responder; 0 means one for each core, as the server has
    #[arg(long, default_value_t = 0)]
    hello_shards: usize,
}

impl CompareArgs {
    /// Whether peers are to be measured.
    pub(crate) fn is_wanted(&self) -> bool {
        self.compare
    }
}

/// Who is asked by how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Search,
    Sql,
    Hello,
    SearchMany,
    HelloMany,
}

impl Turn {
    /// In the order of a round: peers that are compared follow each other.
    const ALL: [Self; 5] = [Self::Sql, Self::Search, Self::Hello, Self::SearchMany, Self::HelloMany];

    fn name(self) -> &'static str {
        match self {
            Self::Search | Self::SearchMany => "tertulia, hybrid search over HTTP",
            Self::Sql => "the same in SQL (pgvector HNSW + full text)",
            Self::Hello | Self::HelloMany => "bare hyper, \"hello\" over HTTP",
        }
    }
}

/// Measures and compares.
///
/// # Errors
/// If a peer cannot be set up or reached.
pub(crate) fn run(
    args: &SearchArgs,
    compare: &CompareArgs,
    searches: &Searches,
    questions: &[String],
    mut setting: BTreeMap<&'static str, Value>,
) -> anyhow::Result<Report> {
    let url = compare.postgres_url.as_deref().context("--compare needs --postgres-url")?;
    let encoder = Encoder::load(&compare.weights)?;
    let sql = SqlPeers::prepare(url, args.knowledge_base, encoder, questions, args.top_k)?;
    let hello = HelloServer::start(compare.hello_shards)?;
    setting.insert("SQL peer", sql.describe().into());
    setting.insert("rounds", compare.rounds.into());
    setting.insert("seconds a turn", args.load.duration.into());

    let mut rounds: Vec<Vec<Tally>> = Vec::new();
    for round in 1..=compare.rounds {
        let mut tallies = Vec::new();
        for turn in Turn::ALL {
            eprintln!("round {round} of {}: {} × {}", compare.rounds, connections(turn, args, compare), turn.name());
            let load = LoadArgs { connections: connections(turn, args, compare), ..args.load.clone() };
            tallies.push(match turn {
                Turn::Search | Turn::SearchMany => drive(&load, async |number| searches.connect(number).await)?,
                Turn::Sql => drive(&load, async |number| sql.connect(number).await)?,
                Turn::Hello | Turn::HelloMany => {
                    drive(&load, async |_| peer_hello::connect(hello.authority().to_owned()).await)?
                }
            });
        }
        rounds.push(tallies);
    }

    let mut rows = Vec::new();
    for (place, turn) in Turn::ALL.into_iter().enumerate() {
        let (first, later) = rounds.split_first().context("there is at least one round")?;
        let mut total = first[place].clone();
        for round in later {
            total.append(&round[place])?;
        }
        rows.push(Row::new(turn.name(), connections(turn, args, compare), &total));
    }
    Ok(Report { setting, rows, ratios: ratios(&rounds) })
}

fn connections(turn: Turn, args: &SearchArgs, compare: &CompareArgs) -> u32 {
    match turn {
        Turn::Search | Turn::Sql | Turn::Hello => args.load.connections,
        Turn::SearchMany | Turn::HelloMany => compare.many,
    }
}

fn ratios(rounds: &[Vec<Tally>]) -> Vec<Ratio> {
    let each = |above: Turn, below: Turn, figure: &dyn Fn(&Tally) -> f64| {
        let place = |wanted: Turn| Turn::ALL.iter().position(|turn| *turn == wanted).unwrap_or_default();
        // A load without one answer has no figure.
        let measured =
            |tallies: &&Vec<Tally>| [above, below].into_iter().all(|turn| !tallies[place(turn)].latency.is_empty());
        let ratio = |tallies: &Vec<Tally>| figure(&tallies[place(above)]) / figure(&tallies[place(below)]);
        rounds.iter().filter(measured).map(ratio).collect()
    };
    let at = |quantile: f64| move |tally: &Tally| tally.latency.value_at_quantile(quantile) as f64;
    [
        Ratio::new("p50 of SQL / p50 of tertulia", each(Turn::Sql, Turn::Search, &at(0.5))),
        Ratio::new("p99 of SQL / p99 of tertulia", each(Turn::Sql, Turn::Search, &at(0.99))),
        Ratio::new("p50 of tertulia / p50 of hello", each(Turn::Search, Turn::Hello, &at(0.5))),
        Ratio::new(
            "requests/s of tertulia / of hello, few connections",
            each(Turn::Search, Turn::Hello, &Tally::per_second),
        ),
        Ratio::new(
            "requests/s of tertulia / of hello, many connections",
            each(Turn::SearchMany, Turn::HelloMany, &Tally::per_second),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}
