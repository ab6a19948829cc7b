//! `tertulia search`: asks a knowledge base and prints the hits with their times.
//!
//! Each option of the HTTP API has its flag; the server says what fits. What is printed as text is one line a thing, without
//! control characters of the documents, and marked on a terminal only.

use std::{
    io::{self, IsTerminal as _, Write},
    ops::Range,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    Environment,
    client::{Client, ServerArgs},
};

/// Characters of a chunk's text that a terminal gets to see.
const EXCERPT_CHARS: usize = 280;
/// Characters that are shown before the first highlight of an excerpt that does not begin with its chunk.
const LEAD_CHARS: usize = 40;

/// Arguments of `search`.
#[derive(Debug, Args)]
#[command(after_help = "\
The options compose; docs/search.md says what each does. A question that begins with a dash stands behind `--`:
  tertulia search --knowledge-base <id> --highlight --expand 1 \"how do I stop idle sessions?\"
  tertulia search --knowledge-base <id> --mode keyword -- '-full vacuum \"dead tuples\"'")]
pub struct SearchArgs {
    /// The question; but in semantic mode, hits have each "phrase in quotes", and nothing that stands behind a -dash
    question: String,
    #[command(flatten)]
    server: ServerArgs,
    /// Id of the knowledge base
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    knowledge_base: String,
    /// How many hits, 1 to 100
    #[arg(long, default_value_t = 5)]
    top_k: u32,
    /// Which lists are asked: words, meaning, or both
    #[arg(long, default_value = "hybrid", value_parser = ["hybrid", "semantic", "keyword"])]
    mode: String,
    /// The last word is still being typed: words that begin so count, too
    #[arg(long)]
    prefix: bool,
    /// Filter over metadata, as JSON: {"type":"eq","key":"lang","value":"en"}
    #[arg(long, value_parser = |text: &str| serde_json::from_str::<Value>(text))]
    filter: Option<Value>,
    /// The answer must hold everything up to this version, as a write returned it
    #[arg(long, value_name = "VERSION")]
    min_version: Option<u64>,
    /// Leave out hits of a lower score, 0 to 1
    #[arg(long, value_name = "SCORE")]
    min_score: Option<f64>,
    /// One hit a document, its best chunk
    #[arg(long, value_name = "WHAT", value_parser = ["document"])]
    group_by: Option<String>,
    /// How much a hit must differ from those before it, 0 to 1
    #[arg(long, value_name = "SHARE")]
    diversity: Option<f64>,
    /// What is older counts for less, half at so many days; KEY is the metadata that holds the time: updated=30
    #[arg(long, value_name = "KEY=DAYS", value_parser = recency)]
    recency: Option<Value>,
    /// Show so many chunks of the document before and after each hit, 0 to 3
    #[arg(long, value_name = "CHUNKS")]
    expand: Option<u32>,
    /// Show where the question's words are: that part of the text, with the words in bold on a terminal
    #[arg(long)]
    highlight: bool,
    /// Have the server's reranker (rerank.url) put the best hits in order
    #[arg(long)]
    rerank: bool,
    /// Say how each hit was found, and how the lists were made
    #[arg(long)]
    explain: bool,
    /// Print the server's answer as it is
    #[arg(long)]
    json: bool,
}

/// Runs `search`.
///
/// # Errors
/// If the server cannot be reached or refuses.
pub fn run(args: &SearchArgs, environment: Environment<'_>) -> anyhow::Result<()> {
    let client = Client::new(&args.server);
    let path = format!("/knowledge-bases/{}/search", args.knowledge_base);
    let body = body(args);
    let started = Instant::now();
    let answer = client.post(&path, &body)?;
    let round_trip = started.elapsed();
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{answer}")?;
        return Ok(());
    }
    let plain = (environment.variable)("NO_COLOR").is_some_and(|value| !value.is_empty());
    let marks = if out.is_terminal() && !plain { BOLD } else { PLAIN };
    print(&mut out, args, &answer, round_trip, marks)?;
    Ok(())
}

/// What is asked of the server; options that nobody gave are left to it.
fn body(args: &SearchArgs) -> Value {
    let mut body = json!({ "query": args.question, "top_k": args.top_k, "mode": args.mode });
    let values = [
        ("filter", args.filter.clone()),
        ("min_version", args.min_version.map(Value::from)),
        ("min_score", args.min_score.map(Value::from)),
        ("group_by", args.group_by.clone().map(Value::from)),
        ("diversity", args.diversity.map(Value::from)),
        ("recency", args.recency.clone()),
        ("expand", args.expand.map(Value::from)),
    ];
    for (name, value) in values {
        if let Some(value) = value {
            body[name] = value;
        }
    }
    let switches =
        [("prefix", args.prefix), ("highlight", args.highlight), ("rerank", args.rerank), ("explain", args.explain)];
    for (name, is_on) in switches {
        if is_on {
            body[name] = true.into();
        }
    }
    body
}

/// `KEY=DAYS` as the API has it. A key may hold `=`.
fn recency(text: &str) -> Result<Value, String> {
    let wanted = || "must be KEY=DAYS, such as updated=30".to_owned();
    let (key, days) = text.rsplit_once('=').ok_or_else(wanted)?;
    let days: f64 = days.trim().parse().map_err(|_| wanted())?;
    if key.is_empty() || !days.is_finite() {
        return Err(wanted());
    }
    Ok(json!({ "key": key, "half_life_days": days }))
}

/// What stands before and after a highlight.
type Marks = (&'static str, &'static str);
const PLAIN: Marks = ("", "");
const BOLD: Marks = ("\x1b[1m", "\x1b[0m");

/// Writes the answer for people.
fn print(
    out: &mut impl Write,
    args: &SearchArgs,
    answer: &Value,
    round_trip: Duration,
    marks: Marks,
) -> io::Result<()> {
    let hits = items(&answer["results"]);
    for (rank, hit) in hits.iter().enumerate() {
        print_hit(out, rank + 1, hit, marks)?;
    }
    if hits.is_empty() {
        let told = match args.filter.is_some() || args.min_score.is_some() {
            true => "Nothing was found; --filter or --min-score may leave out what there is.",
            false => "Nothing was found. Has anything been ingested into this knowledge base?",
        };
        writeln!(out, "{told}")?;
    }
    if let Some(detail) = answer["partial"]["detail"].as_str() {
        writeln!(out, "Partial: {}", one_line(detail))?;
    }
    if answer["explain"].is_object() {
        writeln!(out, "{}", told_answer(&answer["explain"]))?;
    }
    let ms = |us: u64| us as f64 / 1e3;
    let reranked =
        answer["rerank_us"].as_u64().map(|us| format!(" ({:.3} of them in the reranker)", ms(us))).unwrap_or_default();
    writeln!(
        out,
        "{} hits from {} in {:.3} ms{reranked} on the server, {:.3} ms with a new connection",
        hits.len(),
        answer["source"].as_str().unwrap_or("–"),
        ms(answer["took_us"].as_u64().unwrap_or_default()),
        round_trip.as_secs_f64() * 1e3,
    )
}

fn print_hit(out: &mut impl Write, rank: usize, hit: &Value, marks: Marks) -> io::Result<()> {
    let field = |name: &str| one_line(hit[name].as_str().unwrap_or_default());
    let score = hit["score"].as_f64().unwrap_or_default();
    let reranked = hit["rerank_score"].as_f64().map(|score| format!(", reranked {score:.3}")).unwrap_or_default();
    writeln!(out, "{rank}. {}  (score {score:.3}{reranked})", field("title"))?;
    for line in [field("heading"), field("source_url")] {
        if !line.is_empty() {
            writeln!(out, "   {line}")?;
        }
    }
    let text = |chunk: &Value, marks| {
        excerpt(chunk["content"].as_str().unwrap_or_default(), &highlights(&chunk["highlights"]), marks)
    };
    for chunk in items(&hit["before"]) {
        writeln!(out, "   before: {}", text(chunk, PLAIN))?;
    }
    writeln!(out, "   {}", text(hit, marks))?;
    for chunk in items(&hit["after"]) {
        writeln!(out, "   after: {}", text(chunk, PLAIN))?;
    }
    if hit["explain"].is_object() {
        writeln!(out, "   {}", told_hit(&hit["explain"]))?;
    }
    writeln!(out)
}

/// How a hit was found, on one line.
fn told_hit(explain: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let mut parts = vec![format!("relevance {:.3}", number(&explain["relevance"]))];
    if let Some(factor) = explain["recency"].as_f64() {
        parts.push(format!("recency {factor:.3}"));
    }
    for list in ["semantic", "keyword"] {
        let place = &explain[list];
        if !place.is_object() {
            continue;
        }
        let rank = place["rank"].as_u64().map_or_else(|| "not listed".to_owned(), |rank| format!("rank {rank}"));
        let (raw, score) = (number(&place["raw"]), number(&place["score"]));
        parts.push(format!("{list}: {rank}, raw {raw:.3}, score {score:.3}"));
    }
    parts.join("; ")
}

/// How the lists were made, on one line.
fn told_answer(explain: &Value) -> String {
    let mode = explain["mode"].as_str().unwrap_or("–");
    let mut parts = vec![format!("{mode} over {} chunks; rounds: {}", explain["chunks"], explain["rounds"])];
    if explain["filter"].is_object() {
        parts.push(format!("filter keeps {}", explain["filter"]["matches"]));
    }
    if explain["semantic"].is_object() {
        let mut ways: Vec<&str> = Vec::new();
        for way in items(&explain["semantic"]["segments"]).iter().filter_map(|segment| segment["way"].as_str()) {
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        let by = if ways.is_empty() { String::new() } else { format!(" by {}", ways.join(" and ")) };
        parts.push(format!("semantic: {} listed{by}", explain["semantic"]["listed"]));
    }
    if explain["keyword"].is_object() {
        parts.push(format!("keyword: {} listed", explain["keyword"]["listed"]));
    }
    parts.join("; ")
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The ranges of `highlights`, in UTF-16 code units.
fn highlights(value: &Value) -> Vec<Range<usize>> {
    let end = |range: &Value, name: &str| usize::try_from(range[name].as_u64()?).ok();
    items(value).iter().filter_map(|range| Some(end(range, "start")?..end(range, "end")?)).collect()
}

/// A character, and whether it is highlighted.
type Cell = (char, bool);

/// `content` on one line: blanks and control characters, such as would move a terminal's cursor, are one blank.
fn cells(content: &str, highlights: &[Range<usize>]) -> Vec<Cell> {
    let mut cells: Vec<Cell> = Vec::new();
    let (mut at, mut highlights) = (0, highlights.iter().peekable());
    for character in content.chars() {
        while highlights.next_if(|range| range.end <= at).is_some() {}
        let is_marked = highlights.peek().is_some_and(|range| range.contains(&at));
        at += character.len_utf16();
        if !character.is_whitespace() && !character.is_control() {
            cells.push((character, is_marked));
        } else if cells.last().is_some_and(|(last, _)| *last != ' ') {
            cells.push((' ', is_marked));
        }
    }
    if let Some((' ', _)) = cells.last() {
        cells.pop();
    }
    cells
}

fn one_line(text: &str) -> String {
    cells(text, &[]).into_iter().map(|(character, _)| character).collect()
}

/// The part of `content` with the most of its highlights, or its start, on one line and cut at words.
fn excerpt(content: &str, highlights: &[Range<usize>], marks: Marks) -> String {
    let cells = cells(content, highlights);
    let (mut start, mut end) = (excerpt_start(&cells), cells.len());
    if end - start > EXCERPT_CHARS {
        end = start + EXCERPT_CHARS;
        end = cells[start..end].iter().rposition(is_blank).filter(|cut| *cut > 0).map_or(end, |cut| start + cut);
    } else if start > 0 {
        // The end is near, so there is room for more before it.
        start = word_start(&cells, end.saturating_sub(EXCERPT_CHARS)).min(start);
    }
    let mut line = String::from(if start > 0 { "… " } else { "" });
    let mut was_marked = false;
    for (character, is_marked) in &cells[start..end] {
        if *is_marked != was_marked {
            line.push_str(if *is_marked { marks.0 } else { marks.1 });
            was_marked = *is_marked;
        }
        line.push(*character);
    }
    if was_marked {
        line.push_str(marks.1);
    }
    if end < cells.len() {
        line.push_str(" …");
    }
    line
}

/// Where the excerpt with the most highlighted characters begins, of those that begin some words before a highlight, or at 0.
fn excerpt_start(cells: &[Cell]) -> usize {
    if cells.len() <= EXCERPT_CHARS {
        return 0;
    }
    let marked = |start: usize| {
        let end = cells.len().min(start + EXCERPT_CHARS);
        cells[start..end].iter().filter(|(_, is_marked)| *is_marked).count()
    };
    let begins = |at: usize| cells[at].1 && (at == 0 || !cells[at - 1].1);
    let starts = (0..cells.len()).filter(|at| begins(*at)).map(|at| word_start(cells, at.saturating_sub(LEAD_CHARS)));
    let (mut best, mut most) = (0, marked(0));
    for start in starts {
        let count = marked(start);
        if count > most {
            (best, most) = (start, count);
        }
    }
    best
}

/// The first start of a word at or after `at`, if there is one within [`LEAD_CHARS`].
fn word_start(cells: &[Cell], at: usize) -> usize {
    if at == 0 || cells.get(at - 1).is_some_and(is_blank) {
        return at;
    }
    cells[at..].iter().take(LEAD_CHARS).position(is_blank).map_or(at, |blank| at + blank + 1)
}

fn is_blank((character, _): &Cell) -> bool {
    *character == ' '
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: SearchArgs,
    }

    fn read(flags: &[&str]) -> Result<SearchArgs, clap::Error> {
        let start = ["search", "--knowledge-base", "b", "--key", "k"];
        Ok(Line::try_parse_from(start.iter().chain(flags))?.args)
    }

    fn printed(answer: &Value, marks: Marks) -> String {
        let mut out = Vec::new();
        print(&mut out, &read(&["q"]).unwrap(), answer, Duration::from_millis(2), marks).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_is_not_given_is_left_to_the_server() {
        let check = |flags: &[&str], expected: Value| assert_eq!(body(&read(flags).unwrap()), expected);
        check(&["q"], json!({ "query": "q", "top_k": 5, "mode": "hybrid" }));
        #[rustfmt::skip]
        let all = [
            "--top-k", "3", "--mode", "keyword", "--prefix", "--filter", r#"{"type":"exists","key":"a"}"#, "--min-version", "7",
            "--min-score", "0.25", "--group-by", "document", "--diversity", "0.5", "--recency", "a=b=30", "--expand", "2",
            "--highlight", "--rerank", "--explain", "--", "-full vacuum",
        ];
        let expected = json!({
            "query": "-full vacuum", "top_k": 3, "mode": "keyword", "prefix": true, "filter": { "type": "exists", "key": "a" },
            "min_version": 7, "min_score": 0.25, "group_by": "document", "diversity": 0.5,
            "recency": { "key": "a=b", "half_life_days": 30.0 }, "expand": 2, "highlight": true, "rerank": true, "explain": true,
        });
        check(&all, expected);
    }

    #[test]
    fn a_flag_that_cannot_be_read_is_told() {
        for (flag, value, told) in [
            ("--recency", "30", "KEY=DAYS"),
            ("--recency", "updated=soon", "updated=30"),
            ("--recency", "=30", "KEY=DAYS"),
            ("--recency", "updated=inf", "KEY=DAYS"),
            ("--mode", "words", "keyword"),
            ("--group-by", "chunk", "document"),
            ("--filter", "{", "--filter"),
        ] {
            let error = read(&["q", flag, value]).unwrap_err().to_string();
            assert!(error.contains(told), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn an_excerpt_ends_at_a_word() {
        let excerpt = |content: &str| excerpt(content, &[], BOLD);
        assert_eq!(excerpt(" a\n  b "), "a b");
        assert_eq!(excerpt(""), "");
        let long = "wörter ".repeat(100);
        let cut = excerpt(&long);
        assert!(cut.ends_with("wörter …") && cut.chars().count() <= EXCERPT_CHARS + 2);
        assert!(excerpt(&"é".repeat(1_000)).ends_with(" …"));
    }

    #[test]
    fn nothing_in_a_document_moves_the_cursor() {
        assert_eq!(excerpt("a\x1b[2Jb\u{9b}1m\r\nc", &[], BOLD), "a [2Jb 1m c");
        let answer = json!({ "results": [{ "title": "a\x1b]0;x\x07", "content": "", "heading": "\x1b[1m" }] });
        assert!(!printed(&answer, BOLD).contains('\x1b'));
    }

    #[test]
    fn highlights_are_utf_16_code_units() {
        let (content, words) = ("😀 VACUUM\n\n  é vacuuming", [3..9, 15..24]);
        assert_eq!(excerpt(content, &words, PLAIN), "😀 VACUUM é vacuuming");
        assert_eq!(excerpt(content, &words, ("<", ">")), "😀 <VACUUM> é <vacuuming>");
        // What another server may say is no reason to fail.
        assert_eq!(excerpt("abc", &[Range { start: 2, end: 1 }, 1..2, 7..9], ("<", ">")), "a<b>c");
    }

    #[test]
    fn an_excerpt_is_where_most_highlights_are() {
        let filler = "lorem ipsum ".repeat(60);
        let content = format!("one heron {filler}heron heron {filler}");
        let places: Vec<_> = content.match_indices("heron").map(|(at, word)| at..at + word.len()).collect();
        let found = excerpt(&content, &places, ("<", ">"));
        assert!(found.starts_with("… ") && found.ends_with(" …"), "{found}");
        assert_eq!(found.matches("<heron>").count(), 2, "{found}");
        assert!(found.chars().count() <= EXCERPT_CHARS + 8, "{found}");
        // Near the end, it is not shorter for that.
        let content = format!("{filler}heron");
        let place = filler.len()..content.len();
        let found = excerpt(&content, std::slice::from_ref(&place), ("<", ">"));
        assert!(found.starts_with("… ") && found.ends_with("<heron>"), "{found}");
        assert!(found.chars().count() > EXCERPT_CHARS - 20, "{found}");
    }

    #[test]
    fn an_answer_is_shown_with_its_neighbours_and_reasons() {
        let answer = json!({
            "source": "memory", "took_us": 420, "rerank_us": 200,
            "partial": { "reason": "rerank_timeout", "detail": "The reranker was late." },
            "explain": {
                "mode": "hybrid", "chunks": 60, "rounds": 1, "filter": { "matches": 6, "share": 0.1 },
                "semantic": { "listed": 20, "segments": [{ "way": "scan" }, { "way": "scan" }] },
                "keyword": { "listed": 7 },
            },
            "results": [{
                "title": "Birds", "heading": "Rest", "source_url": null, "score": 0.5, "rerank_score": 1.25,
                "content": "Herons stand.", "highlights": [{ "start": 0, "end": 6 }],
                "before": [{ "content": "Before it." }], "after": [{ "content": "After it." }, { "content": "Later." }],
                "explain": {
                    "relevance": 0.75, "recency": 0.5, "semantic": { "rank": null, "raw": 0.25, "score": 0.25 },
                    "keyword": { "rank": 2, "raw": 3.5, "score": 0.625 },
                },
            }],
        });
        let expected = "\
1. Birds  (score 0.500, reranked 1.250)
   Rest
   before: Before it.
   <Herons> stand.
   after: After it.
   after: Later.
   relevance 0.750; recency 0.500; semantic: not listed, raw 0.250, score 0.250; keyword: rank 2, raw 3.500, score 0.625

Partial: The reranker was late.
hybrid over 60 chunks; rounds: 1; filter keeps 6; semantic: 20 listed by scan; keyword: 7 listed
1 hits from memory in 0.420 ms (0.200 of them in the reranker) on the server, 2.000 ms with a new connection
";
        assert_eq!(printed(&answer, ("<", ">")), expected);
        assert!(printed(&json!({}), BOLD).starts_with("Nothing was found. Has anything"));
    }
}
