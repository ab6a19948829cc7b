//! The engine alone, in process, for comparisons that need its own numbers beside those of others.
//!
//! `export` writes the vectors of real chunks and questions to files; `vectors` builds an index from such files and says
//! for each question which rows it found and how long that took; `growth` measures one index while it grows; `graph`
//! compares a graph with a scan. All of them use one thread and the index crate's public face. Run by `make bench-vectors`,
//! `make bench-growth` and `make bench-graph`.

#![forbid(unsafe_code)]

mod data;
mod graph;
mod growth;
mod vectors;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tertulia_index::{Chunk, Fusion, Index, Mode, Options, Query, Settings, VectorSearch};

/// The server's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the engine.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the vectors of the pages in demo/ and of the questions to FOLDER
    Export {
        /// Where to; made if it is not there
        folder: PathBuf,
        /// Chunks, at most
        #[arg(long, default_value_t = usize::MAX)]
        rows: usize,
    },
    /// Search the vectors in FOLDER; what is found goes to FOLDER too, the figures to standard output as JSON
    Vectors {
        /// What `export` wrote
        folder: PathBuf,
        /// How often each question is asked
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
        rounds: u32,
    },
    /// Measure an index of 1,000 to --rows chunks; one JSON object a line
    Growth {
        /// Chunks in the end
        #[arg(long, default_value_t = 1_000_000)]
        rows: usize,
    },
    /// Compare a scan and a graph over --rows chunks
    Graph {
        /// Chunks
        #[arg(long, default_value_t = 1_000_000)]
        rows: usize,
        /// Draw vectors of this length, instead of those of the pages in demo/ and others made of them
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=16_000))]
        dimensions: Option<u64>,
    },
}

fn main() -> ExitCode {
    // One thread for everything: what is compared are ways to search, not machines.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let outcome = pool.map_err(anyhow::Error::from).and_then(|pool| {
        pool.install(|| match Cli::parse().command {
            Command::Export { folder, rows } => data::export(&folder, rows),
            Command::Vectors { folder, rounds } => vectors::run(&folder, rounds),
            Command::Growth { rows } => growth::run(rows),
            Command::Graph { rows, dimensions } => graph::run(rows, dimensions.map(|number| number as usize)),
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("engine: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// An empty index for vectors of this length.
fn index(dimensions: usize) -> Index {
    let analyzer = tertulia_index::Analyzer::English;
    Index::new(Settings { dimensions, encoder: "bench".to_owned(), analyzer, vectors: VectorSearch::Auto })
}

/// A query as most are.
fn query<'a>(mode: Mode, text: &'a str, embedding: &'a [f32], top_k: usize) -> Query<'a> {
    Query {
        text,
        embedding: Some(embedding),
        top_k,
        mode,
        prefix: false,
        filter: None,
        fusion: Fusion::default(),
        options: Options::default(),
        explain: false,
    }
}

/// A chunk with this number for its name.
fn chunk(number: usize, title: &str, heading: &str, content: String, embedding: Vec<f32>) -> Chunk {
    let id = uuid::Uuid::from_u128(number as u128);
    Chunk {
        id,
        document_id: id,
        external_id: number.to_string(),
        title: title.to_owned(),
        source_url: None,
        heading: heading.to_owned(),
        ordinal: 0,
        content,
        embedding,
        metadata: serde_json::Map::new(),
    }
}

/// The value that one in `1 - share` of the times is above, in microseconds. Sorts.
fn quantile_us(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let place = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
    times.get(place).map_or(0.0, |time| time.as_nanos() as f64 / 1e3)
}

/// Bytes of this process that are in memory.
fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).context("the system does not tell VmRSS")?;
    Ok(kilobytes.parse::<u64>()? * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let mut times: Vec<_> = (1..=100).rev().map(Duration::from_micros).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile_us(&mut times, share)), [1.0, 50.0, 99.0, 100.0]);
        assert_eq!(quantile_us(&mut [], 0.5), 0.0);
    }
}
