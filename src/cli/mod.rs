//! The command line: a file for each subcommand, the same binary for all of them.
//!
//! `serve`, `migrate`, `tenant`, `key` and `doctor` work on the database (the private one is found through
//! `--data-dir`, also while the server runs); `knowledge-base`, `ingest` and `search` speak HTTP to a running server.
//! People read standard output as text, scripts ask for `--json`.

pub mod client;
pub mod doctor;
pub mod ingest;
pub mod key;
pub mod knowledge_base;
pub mod migrate;
pub mod operator;
pub mod search;
pub mod serve;
pub mod settings;
pub mod tenant;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::config::Config;

const EXAMPLES: &str = "\
From nothing to the first answer:
  tertulia serve --data-dir data &
  tertulia tenant create acme --data-dir data
  tertulia key create --tenant acme --data-dir data
  tertulia knowledge-base create manual --key tt_…
  tertulia ingest ./docs --key tt_… --knowledge-base <id>
  tertulia search \"how do I …\" --key tt_… --knowledge-base <id>

Something is wrong? `tertulia doctor` looks at every part and says what to do.";

/// The realtime conversation and retrieval server.
#[derive(Debug, Parser)]
#[command(name = "tertulia", version, about, after_help = EXAMPLES, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server; with no DATABASE_URL it runs a private Postgres of its own in the data directory
    Serve(serve::ServeArgs),
    /// Bring the database's schema up to date (serve does so too, where it may)
    Migrate(migrate::MigrateArgs),
    /// Create and list tenants: the customers whose data is kept apart
    Tenant(tenant::TenantArgs),
    /// Create, list and revoke a tenant's API keys
    Key(key::KeyArgs),
    /// Create and list knowledge bases on a running server
    KnowledgeBase(knowledge_base::KnowledgeBaseArgs),
    /// Put a folder of documents into a knowledge base; a second run sends only what changed
    Ingest(ingest::IngestArgs),
    /// Ask a knowledge base and print the hits with their times
    Search(Box<search::SearchArgs>),
    /// Look at Postgres, pgvector, weights, indexes and snapshots, and say what to do about what is wrong
    Doctor(doctor::DoctorArgs),
    /// Print every setting with its variable, default and meaning
    Settings,
}

/// Flags of the subcommands that read the settings.
#[derive(Debug, Clone, Args)]
pub struct SettingsArgs {
    /// TOML file with settings; `tertulia settings` lists them
    #[arg(long, env = "TERTULIA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the private Postgres and of the snapshots
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// The environment; only `main` has the real one.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Reads a variable.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Every variable that is set.
    pub names: &'a [String],
}

impl SettingsArgs {
    /// Flags before environment before file before defaults.
    ///
    /// # Errors
    /// If the file cannot be read, or [`crate::config::ConfigErrors`].
    pub fn load(&self, listen: Option<SocketAddr>, environment: Environment<'_>) -> anyhow::Result<Config> {
        let file = match &self.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("the configuration file {} cannot be read", path.display()))?;
                Some((path.as_path(), text))
            }
            None => None,
        };
        let lookup = |name: &str| match name {
            "TERTULIA_SERVER_DATA_DIR" if self.data_dir.is_some() => {
                self.data_dir.as_ref().map(|path| path.display().to_string())
            }
            "TERTULIA_SERVER_LISTEN" if listen.is_some() => listen.map(|address| address.to_string()),
            name => (environment.variable)(name),
        };
        Ok(Config::load(lookup, file.as_ref().map(|(path, text)| (*path, text.as_str())))?)
    }
}

/// Runs the subcommand; the exit code is its verdict.
///
/// # Errors
/// What stopped it, for `main` to print.
pub fn run(cli: Cli, environment: Environment<'_>) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(args) => serve::run(&args, environment).map(|()| ExitCode::SUCCESS),
        Command::Migrate(args) => migrate::run(&args, environment).map(|()| ExitCode::SUCCESS),
        Command::Tenant(args) => tenant::run(&args, environment).map(|()| ExitCode::SUCCESS),
        Command::Key(args) => key::run(&args, environment).map(|()| ExitCode::SUCCESS),
        Command::KnowledgeBase(args) => knowledge_base::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Ingest(args) => ingest::run(&args),
        Command::Search(args) => search::run(&args, environment).map(|()| ExitCode::SUCCESS),
        Command::Doctor(args) => doctor::run(&args, environment),
        Command::Settings => settings::run().map(|()| ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn each_variable_of_a_flag_is_known() {
        use clap::CommandFactory as _;
        fn collect(command: &clap::Command, names: &mut std::collections::BTreeSet<String>) {
            let of_flags = command.get_arguments().filter_map(clap::Arg::get_env);
            names.extend(of_flags.map(|name| name.to_string_lossy().into_owned()));
            command.get_subcommands().for_each(|subcommand| collect(subcommand, names));
        }
        let mut names = std::collections::BTreeSet::new();
        collect(&Cli::command(), &mut names);
        let known = crate::config::FLAG_VARIABLES.map(str::to_owned);
        assert_eq!(names, std::collections::BTreeSet::from(known));
    }
}
