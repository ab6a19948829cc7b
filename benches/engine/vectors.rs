//! `vectors`: what the engine finds among exported vectors, and each question's best time. Whether what is found is right
//! is for others to say.
//!
//! Each case leaves a file `found-<case>.u32`: for each question ten row numbers, little-endian, nearest first. Rows have
//! `place`, their number times [`SPREAD`] modulo [`PLACES`], for filters that keep a share of them.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tertulia_index::{Batch, Chunk, Filter, Index, Mode, Query};
use uuid::Uuid;

use crate::{chunk, data, index, query, resident_bytes};

const TOP_K: usize = 10;
/// Filters keep so many of [`PLACES`] places.
const KEPT: [usize; 4] = [500, 100, 10, 1];
const PLACES: usize = 1_000;
/// Spreads neighbouring rows over the places; prime to their number.
const SPREAD: usize = 7_919;
/// Rows whose place is this or higher are the three in ten that are replaced.
const REPLACED_FROM: usize = 700;
/// Chunks of a first load, and of a change.
const LOAD_CHUNKS: usize = 1_000;
const CHANGE_CHUNKS: usize = 100;

/// Runs `vectors`.
///
/// # Errors
/// If the files are not those of `export`, or cannot be written.
pub(crate) fn run(folder: &Path, rounds: u32) -> anyhow::Result<()> {
    let about: Value = serde_json::from_str(&fs::read_to_string(folder.join("about.json"))?)?;
    let dimensions = about["dimensions"].as_u64().context("about.json lacks dimensions")? as usize;
    let rows = data::read(&folder.join("rows.f32"), dimensions)?;
    let questions = data::read(&folder.join("questions.f32"), dimensions)?;
    ensure!(rows.len() >= TOP_K, "{} rows are too few", rows.len());
    let mut cases = Vec::new();

    let resident = resident_bytes()?;
    let begun = Instant::now();
    let plain = index(dimensions);
    load(&plain, &rows, |number, row| chunk(number, "", "", String::new(), row.clone()))?;
    let build = begun.elapsed();
    let resident = resident_bytes()?.saturating_sub(resident);
    let memory = plain.memory_bytes();
    cases.push(ask(folder, "all", &plain, &questions, None, rounds)?);
    drop(plain);

    let filtered = index(dimensions);
    load(&filtered, &rows, |number, row| {
        let mut chunk = chunk(number, "", "", String::new(), row.clone());
        chunk.metadata.insert("place".to_owned(), place(number).into());
        chunk
    })?;
    for kept in KEPT {
        let filter = Filter::from_json(&json!({"type": "lt", "key": "place", "value": kept}))?;
        cases.push(ask(folder, &format!("kept-{kept}"), &filtered, &questions, Some(&filter), rounds)?);
    }
    drop(filtered);

    // Three in ten rows begin with the vector of another, and end with their own: the right answers are then those of `all`.
    let churned = index(dimensions);
    load(&churned, &rows, |number, _| {
        let row = if is_replaced(number) { rows.len() - 1 - number } else { number };
        chunk(number, "", "", String::new(), rows[row].clone())
    })?;
    replace(&churned, &rows)?;
    cases.push(ask(folder, "replaced", &churned, &questions, None, rounds)?);
    while churned.maintain() {}
    cases.push(ask(folder, "replaced-maintained", &churned, &questions, None, rounds)?);

    let report = json!({
        "build_s": build.as_secs_f64(),
        "bytes_per_vector": memory as f64 / rows.len() as f64,
        "resident_bytes_per_vector": resident as f64 / rows.len() as f64,
        "cases": cases,
    });
    println!("{report}");
    Ok(())
}

/// Where among the places a row is.
pub(crate) fn place(number: usize) -> usize {
    number * SPREAD % PLACES
}

fn is_replaced(number: usize) -> bool {
    place(number) >= REPLACED_FROM
}

fn load(index: &Index, rows: &[Vec<f32>], make: impl Fn(usize, &Vec<f32>) -> Chunk) -> anyhow::Result<()> {
    let mut chunks = rows.iter().enumerate().map(|(number, row)| make(number, row)).peekable();
    while chunks.peek().is_some() {
        let upserts = chunks.by_ref().take(LOAD_CHUNKS).collect();
        index.apply(Batch { version: index.version() + 1, upserts, deletions: Vec::new() })?;
    }
    while index.maintain() {}
    Ok(())
}

/// Deletes the rows that are replaced, and writes them anew, some at a time.
fn replace(index: &Index, rows: &[Vec<f32>]) -> anyhow::Result<()> {
    let replaced: Vec<usize> = (0..rows.len()).filter(|number| is_replaced(*number)).collect();
    for numbers in replaced.chunks(CHANGE_CHUNKS) {
        let deletions = numbers.iter().map(|number| Uuid::from_u128(*number as u128)).collect();
        index.apply(Batch { version: index.version() + 1, upserts: Vec::new(), deletions })?;
        let fresh = |number: &usize| chunk(*number, "", "", String::new(), rows[*number].clone());
        let upserts = numbers.iter().map(fresh).collect();
        index.apply(Batch { version: index.version() + 1, upserts, deletions: Vec::new() })?;
    }
    Ok(())
}

fn ask(
    folder: &Path,
    case: &str,
    index: &Index,
    questions: &[Vec<f32>],
    filter: Option<&Filter>,
    rounds: u32,
) -> anyhow::Result<Value> {
    let mut times = vec![Duration::MAX; questions.len()];
    let mut found: Vec<u8> = Vec::new();
    // The first round warms up, and tells what is found.
    for round in 0..=rounds {
        for (question, best) in questions.iter().zip(&mut times) {
            let query = Query { filter, ..query(Mode::Semantic, "", question, TOP_K) };
            let begun = Instant::now();
            let answer = index.search(&query)?;
            let time = begun.elapsed();
            if round == 0 {
                let numbers = answer.hits.iter().map(|hit| hit.row().id.as_u128() as u32);
                let numbers = numbers.chain(std::iter::repeat(u32::MAX)).take(TOP_K);
                found.extend(numbers.flat_map(u32::to_le_bytes));
            } else {
                *best = time.min(*best);
            }
        }
    }
    fs::write(folder.join(format!("found-{case}.u32")), found)?;
    let times: Vec<f64> = times.iter().map(|time| time.as_nanos() as f64 / 1e3).collect();
    Ok(json!({ "case": case, "times_us": times }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that point to all sides, the same each time.
    fn rows(count: usize) -> Vec<Vec<f32>> {
        (0..count).map(|number| (0..8).map(|axis| ((number * 31 + axis * 17) as f32).sin()).collect()).collect()
    }

    #[test]
    fn what_is_replaced_ends_as_what_was_never_touched() {
        let folder = tempfile::tempdir().expect("a folder");
        let rows = rows(1_500);
        fs::write(folder.path().join("about.json"), r#"{"dimensions":8}"#).expect("written");
        let bytes = |rows: &[Vec<f32>]| rows.iter().flatten().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        fs::write(folder.path().join("rows.f32"), bytes(&rows)).expect("written");
        fs::write(folder.path().join("questions.f32"), bytes(&rows[..20])).expect("written");
        run(folder.path(), 1).expect("it runs");
        let found = |case: &str| fs::read(folder.path().join(format!("found-{case}.u32"))).expect("it is there");
        assert_eq!(found("all").len(), 20 * TOP_K * 4);
        assert_eq!(found("all"), found("replaced"));
        assert_eq!(found("all"), found("replaced-maintained"));
        let kept = found("kept-10");
        let kept = kept.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize);
        assert!(kept.into_iter().all(|number| place(number) < 10));
    }
}
