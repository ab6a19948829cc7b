//! `graph`: a scan and a graph over the same rows, with and without a filter, and while the graph is built. The rule that
//! chooses between the two, in `index/src/graph.rs`, is fitted to what this prints.
//!
//! The rows are those of `growth`, or, with a length of their own, drawn: clusters in a space of fewer dimensions than the
//! vectors', as encoders' are, and noise.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tertulia_index::{Batch, Filter, GraphStep, Index, Mode, Query, Settings, VectorSearch};

use crate::{chunk, data, growth::Source, quantile_us, query, resident_bytes, vectors::place};

const TOP_K: usize = 10;
const QUESTIONS: usize = 300;
/// Rounds in which each question's best time counts: what else the machine does is not the index's.
const ROUNDS: usize = 3;
/// Filters keep so many of the places that `vectors` has, which are a thousand.
const KEPT: [usize; 5] = [1_000, 500, 100, 10, 1];
/// A score that is less than this below the tenth best is as good: rows are kept in 16 bits.
const TIE: f32 = 1e-5;
const LOAD_CHUNKS: usize = 10_000;
/// The server's share of a core for a graph: so long, then a pause as long, on a thread of this niceness.
const STEP: Duration = Duration::from_millis(10);
const NICENESS: i32 = 5;
/// Searches that are timed while a graph is built, and without.
const BESIDE: usize = 20_000;
/// Directions in which drawn vectors differ.
const LATENT: usize = 48;
const SEED: u64 = 1;

struct Case {
    kept: usize,
    filter: Option<Filter>,
    /// For each question the score of the last of those wanted.
    last: Vec<f32>,
}

struct Set {
    questions: Vec<Vec<f32>>,
    /// Others, for searches that are repeated to see what the graph misses.
    others: Vec<Vec<f32>>,
    rows: Vec<f32>,
    cases: Vec<Case>,
}

/// Runs `graph`.
///
/// # Errors
/// If there are no pages or no weights, or the graph is refused.
pub(crate) fn run(rows: usize, dimensions: Option<usize>) -> anyhow::Result<()> {
    ensure!(rows >= 10 * TOP_K, "{rows} rows are too few");
    let (rows, questions) = match dimensions {
        Some(dimensions) => drawn(rows, dimensions),
        None => real(rows)?,
    };
    let dimensions = questions[0].len();
    let count = rows.len() / dimensions;
    println!("{count} x {dimensions}");
    let settings = |vectors| Settings { vectors, ..crate::index(dimensions).settings().clone() };
    let resident = resident_bytes()?;
    let index = Index::new(settings(VectorSearch::Graph));
    load(&index, &rows, dimensions)?;
    let (bytes, resident) = (index.memory_bytes(), resident_bytes()?.saturating_sub(resident));
    println!("index without a graph: {} MB, resident {} MB", bytes >> 20, resident >> 20);
    let set = with_cases(rows, questions)?;
    report("scan", &index, &set)?;

    let resident = resident_bytes()?;
    let built = build(&index)?;
    println!(
        "graph: built in {:.1} s on one thread, {} MB, resident {} MB, recall@10 of its own rows {:.4}",
        built.took.as_secs_f64(),
        (index.memory_bytes() - bytes) >> 20,
        resident_bytes()?.saturating_sub(resident) >> 20,
        built.recall,
    );
    println!("searched with {} candidates", built.breadth);
    report("graph", &index, &set)?;
    if watch(&index, &set)? > 0 {
        report("wider", &index, &set)?;
    }

    let folder = tempfile::tempdir()?;
    let begun = Instant::now();
    index.snapshot(folder.path())?;
    println!("saved in {:.2} s", begun.elapsed().as_secs_f64());
    drop(index);
    restore(folder.path(), &settings(VectorSearch::Graph), "with its graph")?;
    report("auto", &restore(folder.path(), &settings(VectorSearch::Auto), "again")?, &set)?;
    // Without a graph, so that one is built anew. Nothing is saved, so the graph's file stays.
    let scanned = restore(folder.path(), &settings(VectorSearch::Scan), "without it")?;
    drop(scanned);
    beside(folder.path(), &settings(VectorSearch::Graph), &set)
}

/// Repeats searches as the server does with a sample of its own, until the graph is searched as wide as it takes; how often
/// it was widened.
fn watch(index: &Index, set: &Set) -> anyhow::Result<usize> {
    let mut widened = 0;
    loop {
        let (before, mut is_told) = (widened, false);
        for question in &set.others {
            let Some(watch) = index.watch_graphs(&query(Mode::Semantic, "", question, TOP_K))? else { continue };
            is_told |= watch.wanted > 0;
            for (recall, breadth) in watch.widened {
                println!("recall@10 of other questions {recall:.4}: searched with {breadth} candidates from now on");
                widened += 1;
            }
        }
        if !is_told {
            println!("the graph is of no use, and was let go");
        }
        if widened == before {
            return Ok(widened);
        }
    }
}

fn restore(folder: &Path, settings: &Settings, how: &str) -> anyhow::Result<Index> {
    let begun = Instant::now();
    let index = Index::restore(folder, settings)?;
    println!("restored {how} in {:.2} s", begun.elapsed().as_secs_f64());
    Ok(index)
}

fn real(count: usize) -> anyhow::Result<(Vec<f32>, Vec<Vec<f32>>)> {
    let encoder = data::encoder()?;
    let (texts, vectors) = data::chunks(&encoder, count)?;
    let mut source = Source::new(texts, vectors);
    let mut rows = Vec::with_capacity(count * encoder.dimensions());
    (0..count).for_each(|number| rows.extend(source.embedding(number)));
    let questions = data::questions().into_iter();
    Ok((rows, questions.map(|question| encoder.encode_query(question)).collect()))
}

/// Clusters whose sizes differ, in [`LATENT`] directions of decreasing weight, and a little noise in all.
fn drawn(count: usize, dimensions: usize) -> (Vec<f32>, Vec<Vec<f32>>) {
    let random = &mut StdRng::seed_from_u64(SEED);
    let basis: Vec<Vec<f32>> = (0..LATENT).map(|_| unit((0..dimensions).map(|_| normal(random)).collect())).collect();
    let latent =
        |random: &mut StdRng| -> Vec<f32> { (0..LATENT).map(|at| normal(random) / (1.0 + at as f32).sqrt()).collect() };
    let clusters: Vec<Vec<f32>> = (0..(count / 100).max(1)).map(|_| latent(random)).collect();
    let mut vector = || {
        let cluster = &clusters[(random.random::<f32>().powi(2) * clusters.len() as f32) as usize % clusters.len()];
        let place: Vec<f32> = latent(random).iter().zip(cluster).map(|(own, shared)| shared + 0.7 * own).collect();
        let mut vector: Vec<f32> = (0..dimensions).map(|_| 0.4 / (dimensions as f32).sqrt() * normal(random)).collect();
        for (weight, direction) in place.iter().zip(&basis) {
            vector.iter_mut().zip(direction).for_each(|(value, step)| *value += weight * step);
        }
        unit(vector)
    };
    let mut rows = Vec::with_capacity(count * dimensions);
    (0..count).for_each(|_| rows.extend(vector()));
    (rows, (0..2 * QUESTIONS).map(|_| vector()).collect())
}

/// About normally spread.
fn normal(random: &mut StdRng) -> f32 {
    (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|value| *value /= length);
    vector
}

fn load(index: &Index, rows: &[f32], dimensions: usize) -> anyhow::Result<()> {
    let mut number = 0;
    for rows in rows.chunks(LOAD_CHUNKS * dimensions) {
        let upserts = rows.chunks_exact(dimensions).map(|row| {
            let mut chunk = chunk(number, "", "", String::new(), row.to_vec());
            chunk.metadata.insert("place".to_owned(), place(number).into());
            number += 1;
            chunk
        });
        index.apply(Batch { version: index.version() + 1, upserts: upserts.collect(), deletions: Vec::new() })?;
    }
    while index.maintain() {}
    Ok(())
}

fn build(index: &Index) -> anyhow::Result<tertulia_index::GraphBuilt> {
    loop {
        match index.build_graphs(Duration::from_secs(1), usize::MAX) {
            GraphStep::Unfinished => {}
            GraphStep::Built(built) => return Ok(built),
            step => bail!("no graph: {step:?}"),
        }
    }
}

/// What is right: every row is compared.
fn with_cases(rows: Vec<f32>, mut questions: Vec<Vec<f32>>) -> anyhow::Result<Set> {
    let others = questions.split_off(QUESTIONS.min(questions.len()));
    let mut cases = Vec::new();
    for kept in KEPT {
        let filter = Filter::from_json(&json!({"type": "lt", "key": "place", "value": kept}))?;
        cases.push(Case { kept, filter: (kept < KEPT[0]).then_some(filter), last: Vec::new() });
    }
    for question in &questions {
        let scores: Vec<f32> = rows.chunks_exact(question.len()).map(|row| dot(row, question)).collect();
        for case in &mut cases {
            let kept = scores.iter().enumerate().filter(|(number, _)| place(*number) < case.kept);
            let mut kept: Vec<f32> = kept.map(|(_, score)| *score).collect();
            let last = TOP_K.min(kept.len()).checked_sub(1).context("a filter keeps nothing")?;
            let (_, last, _) = kept.select_nth_unstable_by(last, |left, right| right.total_cmp(left));
            case.last.push(*last);
        }
    }
    Ok(Set { questions, others, rows, cases })
}

fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    for (left, right) in left.chunks(16).zip(right.chunks(16)) {
        lanes.iter_mut().zip(left.iter().zip(right)).for_each(|(lane, (left, right))| *lane += left * right);
    }
    lanes.iter().sum()
}

fn report(name: &str, index: &Index, set: &Set) -> anyhow::Result<()> {
    for case in &set.cases {
        let mut times = vec![Duration::MAX; set.questions.len()];
        let (mut right, mut ways) = (0, Vec::new());
        // The first round warms up, and tells what is found.
        for round in 0..=ROUNDS {
            for ((question, best), last) in set.questions.iter().zip(&mut times).zip(&case.last) {
                let asked = query(Mode::Semantic, "", question, TOP_K);
                let asked = Query { filter: case.filter.as_ref(), explain: round == 0, ..asked };
                let begun = Instant::now();
                let answer = index.search(&asked)?;
                let time = begun.elapsed();
                if round > 0 {
                    *best = time.min(*best);
                    continue;
                }
                right += answer
                    .hits
                    .iter()
                    .filter(|hit| {
                        let number = hit.row().id.as_u128() as usize;
                        dot(&set.rows[number * question.len()..][..question.len()], question) >= last - TIE
                    })
                    .count();
                let semantic = answer.explain.and_then(|explain| explain.semantic).context("explain was asked for")?;
                ways = semantic.segments.iter().map(|segment| segment.way).collect();
            }
        }
        println!(
            "  {name:5} {:5.1} % kept: p50 {:7.0} us, p99 {:7.0} us, recall@10 {:.4} {ways:?}",
            case.kept as f64 / 10.0,
            quantile_us(&mut times, 0.5),
            quantile_us(&mut times, 0.99),
            right as f64 / (TOP_K * set.questions.len()) as f64,
        );
    }
    Ok(())
}

/// Searches while a graph is built as the server does it, in turns with searches while none is.
fn beside(folder: &Path, settings: &Settings, set: &Set) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("graph-")) {
            std::fs::remove_file(path)?;
        }
    }
    let index = &Index::restore(folder, settings)?;
    let (is_building, is_over) = (&AtomicBool::new(false), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The scheduler then prefers searches, as on the server's threads for such work.
            let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS);
            while !is_over.load(Relaxed) {
                if is_building.load(Relaxed) {
                    index.build_graphs(STEP, usize::MAX);
                }
                std::thread::sleep(STEP);
            }
        });
        let mut times = [Vec::new(), Vec::new()];
        let mut outcome = Ok(());
        'turns: for turn in 0..20 {
            is_building.store(turn % 2 == 1, Relaxed);
            for question in set.questions.iter().cycle().take(BESIDE / 20) {
                let begun = Instant::now();
                if let Err(error) = index.search(&query(Mode::Semantic, "", question, TOP_K)) {
                    outcome = Err(error.into());
                    break 'turns;
                }
                times[turn % 2].push(begun.elapsed());
            }
        }
        is_over.store(true, Relaxed);
        for (times, how) in times.iter_mut().zip(["alone", "while a graph is built"]) {
            let quantiles = [0.5, 0.99, 0.999].map(|share| quantile_us(times, share));
            let [p50, p99, p999] = quantiles;
            println!("searches {how}: p50 {p50:.0} us, p99 {p99:.0} us, p999 {p999:.0} us");
        }
        outcome
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_set_runs_through() {
        run(2_000, Some(32)).expect("it runs");
    }

    #[test]
    fn what_is_drawn_is_the_same_each_time_and_of_unit_length() {
        let (rows, questions) = drawn(200, 64);
        assert_eq!((&rows, &questions), (&drawn(200, 64).0, &drawn(200, 64).1));
        assert!(
            rows.chunks_exact(64)
                .chain(questions.iter().map(Vec::as_slice))
                .all(|row| (dot(row, row) - 1.0).abs() < 1e-4)
        );
    }
}
