//! `loadtest`: asks a running server as its clients do, and measures what they would see.
//!
//! `search` puts load on one knowledge base and, with `--compare`, on two peers in the same run; `commit` measures how
//! soon a written document is found; `quality` how well questions with known answers are answered; `hello` is one of the
//! peers, a bare responder. `seed` fills a database as years of use would, and `queries` times what is asked of it most
//! often. It speaks the public protocol only, but for these two and the peer in SQL, which need the database.
//!
//! Latencies are those of the client, from before a request is written until its reply is read to the end. Load with a
//! fixed `--rate` counts from the moment at which a request was due, so a server that stalls cannot hide it.

#![forbid(unsafe_code)]

mod client;
mod commit;
mod compare;
mod load;
mod peer_hello;
mod peer_sql;
mod quality;
mod queries;
mod questions;
mod report;
mod search;
mod seed;
mod texts;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The server's own allocator, so that the bare responder differs by nothing but its work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load generator and peers for tertulia.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Search a knowledge base under load, alone or against peers
    Search(search::SearchArgs),
    /// Write documents one after the other and measure when a search finds them
    Commit(commit::CommitArgs),
    /// Ask questions with known answers and measure how well a search finds them
    Quality(quality::QualityArgs),
    /// Fill a database with many tenants, one of them large
    Seed(seed::SeedArgs),
    /// Time the most frequent statements in a database that was filled so
    Queries(queries::QueriesArgs),
    /// Answer every request with "hello": what this machine can serve at most
    Hello(peer_hello::HelloArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Search(args) => search::run(&args),
        Command::Commit(args) => commit::run(&args),
        Command::Quality(args) => quality::run(&args),
        Command::Seed(args) => seed::run(&args),
        Command::Queries(args) => queries::run(&args),
        Command::Hello(args) => peer_hello::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
