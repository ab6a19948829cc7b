//! `loadtest quality`: how often a search finds the passage that answers a question, and how far up.
//!
//! Each question names the page that answers it and, where a page holds many answers, words that the answering passage
//! has in its headings or text. An answer counts once, at its first passage among the ten best. Questions fall in two
//! halves by a hash of their words: settings may be chosen with the `tune` half, and what is reported is the `test` half.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tertulia_index::{Encoder, Fusion, fuse};
use tokio::task::LocalSet;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::{
    client::{Connection, Server, ServerArgs},
    peer_sql,
    search::ask_json,
};

/// Asked if no file is named.
const BUILT_IN: &str = include_str!("../../benches/quality/questions.tsv");
/// Hits that are judged.
const TOP_K: u32 = 10;
/// Between several pages that answer alike.
const OR: char = '|';

/// Constants of the fusion that `--tune` tries.
const CONSTANTS: [f32; 8] = [1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 100.0];
/// Weights of the keyword list that `--tune` tries; the semantic list has 1.
const KEYWORD_WEIGHTS: [f32; 9] = [0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0];
/// Length of the lists that the server fuses for so many hits.
const LIST_LEN: usize = 2 * TOP_K as usize;
/// Lengths of the fused lists that `--tune` tries, ascending.
const LIST_LENS: [usize; 3] = [LIST_LEN, 50, 100];

/// Full text of Postgres. `$1`: the question, `$2`: hits wanted. `{query}` is how it becomes a query, `{rank}` the order.
const FULL_TEXT: &str = "
    SELECT chunks.external_id, chunks.heading, chunks.content
    FROM loadtest.chunks, (SELECT {query} AS words) AS question
    WHERE chunks.words @@ question.words
    ORDER BY {rank}(chunks.words, question.words) DESC, chunks.id
    LIMIT $2::bigint";
const ALL_WORDS: &str = "websearch_to_tsquery('english', $1::text)";
const ANY_WORD: &str = "replace(plainto_tsquery('english', $1::text)::text, ' & ', ' | ')::tsquery";

/// Arguments of `quality`.
#[derive(Debug, Args)]
pub(crate) struct QualityArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Id of the knowledge base, with the manuals of PostgreSQL and Python in it
    #[arg(long, value_name = "ID")]
    knowledge_base: Uuid,
    /// File with questions: question, tab, page (`|` between several), and perhaps a tab and words of the passage; without
    /// it, those of benches/quality/questions.tsv
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Which half of the questions
    #[arg(long, value_enum, default_value = "test")]
    half: Half,
    /// Print how the tune half would do with other constants and weights of the fusion, instead
    #[arg(long, conflicts_with = "half")]
    tune: bool,
    /// Ask full text search in the server's database as well; as --postgres-url of `search`
    #[arg(long, value_name = "URL")]
    postgres_url: Option<String>,
    /// Folder with the encoder's weights: the copy of the chunks in SQL needs to know how long their vectors are
    #[arg(long, env = "TERTULIA_RETRIEVAL_WEIGHTS_DIR", default_value = "weights", value_name = "DIR")]
    weights: PathBuf,
    /// Print also each question with the rank of its answer in each list
    #[arg(long)]
    each: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Half {
    Test,
    Tune,
    All,
}

/// A question and what answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    text: String,
    /// External ids of pages, each of which answers it.
    pages: BTreeSet<String>,
    /// Lower-case words of the passage; none if all of the page will do.
    passage: Option<String>,
}

/// A found passage, as far as judging needs it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Found {
    #[serde(default)]
    chunk_id: Uuid,
    external_id: String,
    heading: String,
    content: String,
}

/// Runs `quality`.
///
/// # Errors
/// If the server or the database cannot be reached, or a question names a page that the knowledge base does not have.
pub(crate) fn run(args: &QualityArgs) -> anyhow::Result<()> {
    let text = match &args.questions {
        Some(file) => &std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?,
        None => BUILT_IN,
    };
    let half = if args.tune { Half::Tune } else { args.half };
    let questions: Vec<Question> =
        parse(text)?.into_iter().filter(|question| half == Half::All || half_of(&question.text) == half).collect();
    ensure!(!questions.is_empty(), "there is no question to ask");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let server = Server::from_args(&args.server)?;
    if args.tune {
        let [semantic, keyword] = LocalSet::new().block_on(&runtime, async {
            let mut connection = server.connect().await?;
            let longest = LIST_LENS[LIST_LENS.len() - 1] as u32;
            let semantic = ask_all(&mut connection, args, &questions, "semantic", longest).await?;
            let keyword = ask_all(&mut connection, args, &questions, "keyword", longest).await?;
            anyhow::Ok([semantic, keyword])
        })?;
        return print_grid(&grid(&questions, &semantic, &keyword), questions.len(), args.json);
    }

    let mut ways: Vec<(&str, Vec<Vec<Found>>)> = LocalSet::new().block_on(&runtime, async {
        let mut connection = server.connect().await?;
        let mut ways = Vec::new();
        for mode in ["semantic", "keyword", "hybrid"] {
            ways.push((mode, ask_all(&mut connection, args, &questions, mode, TOP_K).await?));
        }
        anyhow::Ok(ways)
    })?;
    if let Some(url) = &args.postgres_url {
        let encoder = Encoder::load(&args.weights).context("the encoder's weights cannot be read")?;
        let asked = ask_sql(url, args.knowledge_base, encoder.dimensions(), &questions);
        ways.extend(LocalSet::new().block_on(&runtime, asked)?);
    }
    let rows = ways.iter().map(|(name, lists)| Measured::new(name, &questions, lists)).collect();
    let each = questions.iter().enumerate().map(|(number, question)| Each {
        question: &question.text,
        ranks: ways.iter().map(|(name, lists)| (*name, question.rank(&lists[number]))).collect(),
    });
    let each = if args.each { each.collect() } else { Vec::new() };
    Report { half: format!("{half:?}").to_lowercase(), questions: questions.len(), rows, each }.print(args.json)
}

/// The questions of a file, one a line; empty lines and those that start with `#` are left out.
fn parse(text: &str) -> anyhow::Result<Vec<Question>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let questions: Vec<Question> = lines
        .map(|(number, line)| {
            let fields: Vec<&str> = line.split('\t').map(str::trim).collect();
            let (text, pages, passage) = match fields[..] {
                [text, pages] => (text, pages, None),
                [text, pages, passage] => (text, pages, Some(passage.to_lowercase())),
                _ => bail!("line {number}: question, page and perhaps words of the passage, with a tab between"),
            };
            let pages: BTreeSet<String> = pages.split(OR).map(|page| page.trim().to_owned()).collect();
            ensure!(
                !text.is_empty() && !pages.contains("") && passage.as_deref() != Some(""),
                "line {number} has an empty field"
            );
            Ok(Question { text: text.to_owned(), pages, passage })
        })
        .collect::<anyhow::Result<_>>()?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = questions.iter().find(|question| !seen.insert(&question.text)) {
        bail!("this question is there twice: {}", twice.text);
    }
    Ok(questions)
}

/// The half that a question belongs to, by a bit of its FNV-1a hash: it stays there whatever else is asked.
fn half_of(text: &str) -> Half {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    if (hash >> 32) & 1 == 0 { Half::Tune } else { Half::Test }
}

impl Question {
    /// From 1, the first of `list` that answers; none if none does.
    fn rank(&self, list: &[Found]) -> Option<usize> {
        list.iter().position(|found| self.is_answered_by(found)).map(|place| place + 1)
    }

    /// From 1, the first of `list` that is of an answering page; none if none is.
    fn page_rank(&self, list: &[Found]) -> Option<usize> {
        list.iter().position(|found| self.pages.contains(&found.external_id)).map(|place| place + 1)
    }

    fn is_answered_by(&self, found: &Found) -> bool {
        self.pages.contains(&found.external_id)
            && self.passage.as_ref().is_none_or(|passage| {
                found.heading.to_lowercase().contains(passage) || found.content.to_lowercase().contains(passage)
            })
    }
}

async fn ask_all(
    connection: &mut Connection,
    args: &QualityArgs,
    questions: &[Question],
    mode: &str,
    top_k: u32,
) -> anyhow::Result<Vec<Vec<Found>>> {
    #[derive(Deserialize)]
    struct Reply {
        source: String,
        results: Vec<Found>,
    }
    let path = format!("/v1/knowledge-bases/{}/search", args.knowledge_base);
    let mut lists = Vec::with_capacity(questions.len());
    for question in questions {
        let body = json!({ "query": question.text, "top_k": top_k, "mode": mode }).to_string();
        let reply = ask_json(connection, Method::POST, &path, body.into()).await?;
        let reply: Reply = serde_json::from_value(reply).context("this is no answer to a search")?;
        ensure!(reply.source == "memory", "the knowledge base is not in memory: {} answered", reply.source);
        lists.push(reply.results);
    }
    ensure!(lists.iter().any(|list| !list.is_empty()), "no question finds anything: are the manuals in there?");
    Ok(lists)
}

async fn ask_sql(
    url: &str,
    knowledge_base: Uuid,
    dimensions: usize,
    questions: &[Question],
) -> anyhow::Result<Vec<(&'static str, Vec<Vec<Found>>)>> {
    let client = peer_sql::connect(&url.parse()?).await?;
    peer_sql::copy(&client, knowledge_base, dimensions).await?;
    check_pages(&client, questions).await?;
    let mut ways = Vec::new();
    for (name, query, rank) in [
        ("full text, all words, ts_rank", ALL_WORDS, "ts_rank"),
        ("full text, any word, ts_rank", ANY_WORD, "ts_rank"),
        ("full text, any word, ts_rank_cd", ANY_WORD, "ts_rank_cd"),
    ] {
        let statement = client.prepare(&FULL_TEXT.replace("{query}", query).replace("{rank}", rank)).await?;
        let mut lists = Vec::with_capacity(questions.len());
        for question in questions {
            let rows = client.query(&statement, &[&question.text, &i64::from(TOP_K)]).await?;
            lists.push(rows.iter().map(found).collect());
        }
        ways.push((name, lists));
    }
    Ok(ways)
}

/// A question whose answer is not there would count against everyone.
async fn check_pages(client: &Client, questions: &[Question]) -> anyhow::Result<()> {
    let statement = client
        .prepare(
            "SELECT EXISTS (SELECT FROM loadtest.chunks WHERE external_id = ANY ($1::text[])
                 AND (position($2::text IN lower(heading)) > 0 OR position($2::text IN lower(content)) > 0))",
        )
        .await?;
    let mut missing = Vec::new();
    for question in questions {
        let pages: Vec<&str> = question.pages.iter().map(String::as_str).collect();
        let passage = question.passage.as_deref().unwrap_or_default();
        if !client.query_one(&statement, &[&pages, &passage]).await?.get::<_, bool>(0) {
            missing.push(format!("{} ({}: {passage})", question.text, pages.join("|")));
        }
    }
    ensure!(missing.is_empty(), "the knowledge base has no answer to:\n{}", missing.join("\n"));
    Ok(())
}

fn found(row: &Row) -> Found {
    Found {
        chunk_id: Uuid::nil(),
        external_id: row.get("external_id"),
        heading: row.get("heading"),
        content: row.get("content"),
    }
}

/// What a rank from 1 is worth to nDCG: one answer is wanted, so the best possible is 1.
fn gain(rank: Option<usize>) -> f64 {
    rank.map_or(0.0, |rank| 1.0 / (rank as f64 + 1.0).log2())
}

/// One way to search, over all questions.
#[derive(Debug, PartialEq, Serialize)]
struct Measured {
    name: String,
    ndcg_at_10: f64,
    /// Standard error of the mean.
    ndcg_at_10_error: f64,
    mrr_at_10: f64,
    hit_at_10: f64,
    hit_at_1: f64,
    /// As above, if any passage of the page counts.
    page_ndcg_at_10: f64,
    page_hit_at_10: f64,
}

impl Measured {
    fn new(name: &str, questions: &[Question], lists: &[Vec<Found>]) -> Self {
        let judged = || lists.iter().map(|list| &list[..list.len().min(TOP_K as usize)]);
        let ranks: Vec<_> = questions.iter().zip(judged()).map(|(question, list)| question.rank(list)).collect();
        let pages: Vec<_> = questions.iter().zip(judged()).map(|(question, list)| question.page_rank(list)).collect();
        let (ndcg_at_10, ndcg_at_10_error) = mean_and_error(ranks.iter().map(|rank| gain(*rank)));
        let mean = |values: &[Option<usize>], worth: fn(usize) -> f64| {
            values.iter().flatten().fold(0.0, |sum, rank| sum + worth(*rank)) / values.len() as f64
        };
        Self {
            name: name.to_owned(),
            ndcg_at_10,
            ndcg_at_10_error,
            mrr_at_10: mean(&ranks, |rank| 1.0 / rank as f64),
            hit_at_10: mean(&ranks, |_| 1.0),
            hit_at_1: mean(&ranks, |rank| f64::from(u8::from(rank == 1))),
            page_ndcg_at_10: mean(&pages, |rank| gain(Some(rank))),
            page_hit_at_10: mean(&pages, |_| 1.0),
        }
    }
}

/// Mean and its standard error.
fn mean_and_error(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / count;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, (variance / count).sqrt())
}

/// A question and where each way to search has its answer, from 1.
#[derive(Debug, Serialize)]
struct Each<'a> {
    question: &'a str,
    ranks: BTreeMap<&'a str, Option<usize>>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    half: String,
    questions: usize,
    rows: Vec<Measured>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    each: Vec<Each<'a>>,
}

impl Report<'_> {
    fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            println!("{}", serde_json::to_string_pretty(self)?);
            return Ok(());
        }
        println!("{} questions ({})\n", self.questions, self.half);
        println!("| search | nDCG@10 | MRR@10 | hit@10 | hit@1 | page: nDCG@10 | hit@10 |");
        println!("|---|---|---|---|---|---|---|");
        for row in &self.rows {
            println!(
                "| {} | {:.3} ± {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} |",
                row.name,
                row.ndcg_at_10,
                row.ndcg_at_10_error,
                row.mrr_at_10,
                row.hit_at_10,
                row.hit_at_1,
                row.page_ndcg_at_10,
                row.page_hit_at_10
            );
        }
        for each in &self.each {
            let rank = |rank: &Option<usize>| rank.map_or("-".to_owned(), |rank| rank.to_string());
            let ranks: Vec<_> = self.rows.iter().map(|row| rank(&each.ranks[row.name.as_str()])).collect();
            println!("{}\t{}", ranks.join(" "), each.question);
        }
        Ok(())
    }
}

/// One setting of the fusion, over the tune half.
#[derive(Debug, PartialEq, Serialize)]
struct Tuned {
    list_len: usize,
    constant: f32,
    keyword_weight: f32,
    ndcg_at_10: f64,
    hit_at_10: f64,
    /// Mean gain in nDCG@10 over today's setting, question by question, and its standard error.
    gain: f64,
    gain_error: f64,
}

/// Every setting, best first.
fn grid(questions: &[Question], semantic: &[Vec<Found>], keyword: &[Vec<Found>]) -> Vec<Tuned> {
    let gains = |list_len: usize, fusion: &Fusion| -> Vec<f64> {
        let ask = |(number, question): (usize, &Question)| {
            let lists = [semantic, keyword].map(|lists| &lists[number][..lists[number].len().min(list_len)]);
            let ids = lists.map(|list| list.iter().map(|found| found.chunk_id).collect::<Vec<_>>());
            let fused = fuse::reciprocal_rank(&ids[0], &ids[1], fusion);
            let by_id = |id: Uuid| lists.into_iter().flatten().find(|found| found.chunk_id == id);
            let best = fused.iter().take(TOP_K as usize).filter_map(|(id, _)| by_id(*id));
            gain(question.rank(&best.cloned().collect::<Vec<_>>()))
        };
        questions.iter().enumerate().map(ask).collect()
    };
    let today = gains(LIST_LEN, &Fusion::default());
    let mut rows = Vec::new();
    for list_len in LIST_LENS {
        for constant in CONSTANTS {
            for keyword_weight in KEYWORD_WEIGHTS {
                let fusion = Fusion { constant, semantic_weight: 1.0, keyword_weight };
                let gains = gains(list_len, &fusion);
                let (gain, gain_error) = mean_and_error(gains.iter().zip(&today).map(|(new, old)| new - old));
                let hits = gains.iter().filter(|gain| **gain > 0.0).count();
                let (ndcg_at_10, _) = mean_and_error(gains.iter().copied());
                let hit_at_10 = hits as f64 / questions.len() as f64;
                rows.push(Tuned { list_len, constant, keyword_weight, ndcg_at_10, hit_at_10, gain, gain_error });
            }
        }
    }
    rows.sort_by(|left, right| right.ndcg_at_10.total_cmp(&left.ndcg_at_10));
    rows
}

fn print_grid(rows: &[Tuned], questions: usize, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(rows)?);
        return Ok(());
    }
    let Fusion { constant, semantic_weight, keyword_weight } = Fusion::default();
    println!(
        "{questions} questions (tune); today: lists of {LIST_LEN}, constant {constant}, weights {semantic_weight}:{keyword_weight}\n"
    );
    println!("| lists of | constant | weights | nDCG@10 | hit@10 | gain over today |");
    println!("|---|---|---|---|---|---|");
    for Tuned { list_len, constant, keyword_weight, ndcg_at_10, hit_at_10, gain, gain_error } in rows {
        println!(
            "| {list_len} | {constant} | 1:{keyword_weight} | {ndcg_at_10:.4} | {hit_at_10:.3} | {gain:+.4} ± {gain_error:.4} |"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(number: u128, external_id: &str, heading: &str, content: &str) -> Found {
        let text = |text: &str| text.to_owned();
        Found {
            chunk_id: Uuid::from_u128(number),
            external_id: text(external_id),
            heading: text(heading),
            content: text(content),
        }
    }

    fn question(line: &str) -> Question {
        parse(line).expect("it is sound").remove(0)
    }

    #[test]
    fn the_built_in_questions_are_many_and_halved() {
        let questions = parse(BUILT_IN).expect("they are sound");
        assert!(questions.len() >= 300, "{}", questions.len());
        let tune = questions.iter().filter(|question| half_of(&question.text) == Half::Tune).count();
        assert!((questions.len() * 2 / 5..questions.len() * 3 / 5).contains(&tune), "{tune}");
    }

    #[test]
    fn a_question_stays_in_its_half() {
        // Fixed for ever: what was reported stays comparable, and nothing that was tuned on moves into the reported half.
        for (text, half) in [
            ("which session is blocking mine", Half::Test),
            ("why is my query not run in parallel", Half::Tune),
            ("median of a column", Half::Test),
            ("number the rows within each group", Half::Tune),
        ] {
            assert_eq!(half_of(text), half, "{text}");
        }
    }

    #[test]
    fn lines_that_are_no_question_are_refused() {
        for (line, why) in [
            ("only a question", "with a tab between"),
            ("a\tb\tc\td", "with a tab between"),
            ("\tpage", "empty field"),
            ("why\t", "empty field"),
            ("why\ta||b", "empty field"),
            ("why\tpage\t ", "empty field"),
            ("why\ta\nwhy\tb", "twice"),
        ] {
            let error = parse(line).expect_err(line).to_string();
            assert!(error.contains(why), "{line}: {error}");
        }
        assert_eq!(parse("# a comment\n\n").expect("nothing is wrong"), []);
    }

    #[test]
    fn the_first_answering_passage_counts_once() {
        let question = question("why\ta.html|b.html\tDead Tuples");
        let list = [
            found(1, "c.html", "dead tuples", ""),
            found(2, "a.html", "live ones", "nothing"),
            found(3, "b.html", "x", "Of dead tuples."),
            found(4, "a.html", "dead tuples", ""),
        ];
        assert_eq!((question.rank(&list), question.page_rank(&list)), (Some(3), Some(2)));
        assert_eq!((question.rank(&list[..2]), question.page_rank(&list[..1])), (None, None));
    }

    #[test]
    fn measures_are_those_of_the_books() {
        let questions = [question("a\ta"), question("b\tb"), question("c\tc")];
        let miss = || found(9, "x", "", "");
        let eleventh = (0..10).map(|_| miss()).chain([found(1, "c", "", "")]).collect();
        let lists = [vec![found(1, "a", "", "")], vec![miss(), miss(), found(2, "b", "", "")], eleventh];
        let measured = Measured::new("x", &questions, &lists);
        let close = |left: f64, right: f64| assert!((left - right).abs() < 1e-9, "{left} {right}");
        close(measured.ndcg_at_10, (1.0 + 0.5) / 3.0);
        close(measured.mrr_at_10, (1.0 + 1.0 / 3.0) / 3.0);
        close(measured.hit_at_10, 2.0 / 3.0);
        close(measured.hit_at_1, 1.0 / 3.0);
        close(measured.page_ndcg_at_10, 0.5);
        // Values 1, 0.5, 0: variance 0.25 of the sample, by three, the root.
        close(measured.ndcg_at_10_error, (0.25_f64 / 3.0).sqrt());
    }

    #[test]
    fn the_grid_fuses_as_the_server_does() {
        let questions = [question("why\ta")];
        // Second by meaning, and not among the words: a small constant and weight of the words bring it up.
        let semantic = [vec![found(1, "x", "", ""), found(2, "a", "", "")]];
        let keyword = [vec![found(1, "x", "", ""), found(3, "y", "", "")]];
        let rows = grid(&questions, &semantic, &keyword);
        assert_eq!(rows.len(), CONSTANTS.len() * KEYWORD_WEIGHTS.len() * LIST_LENS.len());
        let at = |keyword_weight| {
            let row = rows
                .iter()
                .find(|row| row.list_len == 20 && row.constant == 10.0 && row.keyword_weight == keyword_weight);
            row.expect("it is in the grid")
        };
        assert_eq!((at(2.0).gain, at(2.0).ndcg_at_10), (0.0, 0.5));
        assert!(at(0.5).ndcg_at_10 > 0.63, "{:?}", at(0.5));
    }
}
