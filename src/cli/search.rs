//! `tertulia search`: asks a knowledge base and prints the hits with their times.

use std::{io::Write as _, time::Instant};

use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, ServerArgs};

/// Characters of a hit's text that a terminal gets to see.
const EXCERPT_CHARS: usize = 280;

/// Arguments of `search`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// The question
    question: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Id of the knowledge base
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    knowledge_base: String,
    /// How many hits
    #[arg(long, default_value_t = 5)]
    top_k: u32,
    /// hybrid, semantic or keyword
    #[arg(long, default_value = "hybrid")]
    mode: String,
    /// Filter over metadata, as JSON: {"type":"eq","key":"lang","value":"en"}
    #[arg(long, value_parser = |text: &str| serde_json::from_str::<Value>(text))]
    filter: Option<Value>,
    /// Print the server's answer as it is
    #[arg(long)]
    json: bool,
}

/// Runs `search`.
///
/// # Errors
/// If the server cannot be reached or refuses.
pub fn run(args: &SearchArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.server);
    let path = format!("/knowledge-bases/{}/search", args.knowledge_base);
    let mut body = json!({ "query": args.question, "top_k": args.top_k, "mode": args.mode });
    if let Some(filter) = &args.filter {
        body["filter"] = filter.clone();
    }
    let started = Instant::now();
    let answer = client.post(&path, &body)?;
    let round_trip = started.elapsed();
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let hits = answer["results"].as_array().map_or(&[][..], Vec::as_slice);
    for (rank, hit) in hits.iter().enumerate() {
        let field = |name: &str| hit[name].as_str().unwrap_or_default();
        writeln!(out, "{}. {}  (score {:.3})", rank + 1, field("title"), hit["score"].as_f64().unwrap_or_default())?;
        if !field("heading").is_empty() {
            writeln!(out, "   {}", field("heading"))?;
        }
        if !field("source_url").is_empty() {
            writeln!(out, "   {}", field("source_url"))?;
        }
        writeln!(out, "   {}\n", excerpt(field("content")))?;
    }
    if hits.is_empty() {
        writeln!(out, "Nothing was found. Has anything been ingested into this knowledge base?")?;
    }
    let took_us = answer["took_us"].as_u64().unwrap_or_default();
    writeln!(
        out,
        "{} hits from {} in {:.3} ms on the server, {:.3} ms with a new connection",
        hits.len(),
        answer["source"].as_str().unwrap_or("–"),
        took_us as f64 / 1e3,
        round_trip.as_secs_f64() * 1e3,
    )?;
    Ok(())
}

/// The start of `content` on one line, cut at a word.
fn excerpt(content: &str) -> String {
    let line = content.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(EXCERPT_CHARS) {
        None => line,
        Some((end, _)) => {
            let cut = line[..end].rfind(' ').unwrap_or(end);
            format!("{} …", &line[..cut])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_ends_at_a_word() {
        assert_eq!(excerpt("a\n  b"), "a b");
        let long = "wörter ".repeat(100);
        let cut = excerpt(&long);
        assert!(cut.ends_with("wörter …") && cut.chars().count() <= EXCERPT_CHARS + 2);
        assert!(excerpt(&"é".repeat(1_000)).ends_with(" …"));
    }
}
