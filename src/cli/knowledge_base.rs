//! `tertulia knowledge-base create | list`: over HTTP, as any client would.

use std::io::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{Client, ServerArgs};

/// Arguments of `knowledge-base`.
#[derive(Debug, Args)]
pub struct KnowledgeBaseArgs {
    #[command(subcommand)]
    command: KnowledgeBaseCommand,
}

#[derive(Debug, Subcommand)]
enum KnowledgeBaseCommand {
    /// Create one; its id goes into `ingest` and `search`
    Create {
        /// Name, unique within the tenant
        name: String,
        /// Language of its words, such as german; simple leaves words as they are
        #[arg(long, default_value = "english")]
        analyzer: String,
        /// What encodes it: `static` (the default), or the model of the server's `encoder.model`
        #[arg(long)]
        encoder: Option<String>,
        #[command(flatten)]
        server: ServerArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the tenant's knowledge bases
    List {
        #[command(flatten)]
        server: ServerArgs,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
}

/// Runs `knowledge-base`.
///
/// # Errors
/// If the server cannot be reached or refuses.
pub fn run(args: &KnowledgeBaseArgs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match &args.command {
        KnowledgeBaseCommand::Create { name, analyzer, encoder, server, json } => {
            let draft = json!({ "name": name, "analyzer": analyzer, "encoder": encoder });
            let created = Client::new(server).post("/knowledge-bases", &draft)?;
            if *json {
                writeln!(out, "{created}")?;
            } else {
                writeln!(out, "Created the knowledge base {name}: {}", text(&created["id"]))?;
            }
        }
        KnowledgeBaseCommand::List { server, json } => {
            let all = Client::new(server).list("/knowledge-bases")?;
            if *json {
                writeln!(out, "{}", Value::Array(all))?;
            } else if all.is_empty() {
                writeln!(out, "There are none yet: `tertulia knowledge-base create NAME` makes one.")?;
            } else {
                for base in &all {
                    let (documents, chunks) = (&base["documents"], &base["chunks"]);
                    writeln!(
                        out,
                        "{}  {}  {documents} documents, {chunks} chunks",
                        text(&base["id"]),
                        text(&base["name"])
                    )?;
                }
            }
        }
    }
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("–")
}
