//! From how many vectors on is a graph quicker than a scan, and what does it cost? The cost rule in `index/src/graph.rs` is
//! fitted to what this prints: build time, memory, p50 and p99, recall@10 of scan and graph, with and without a filter,
//! and the time of a restart.
//!
//! `cargo bench -p tertulia-index --bench vectors -- 10000x256 100000x256 50000xreal`: rows and dimensions of each data set,
//! those three by default. `real`: passages of the pages in `demo/`, encoded; others are drawn, always alike: clusters in
//! a space of fewer dimensions than the vectors', as encoders' are, and noise.

use std::{
    hint::black_box,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rayon::prelude::*;
use serde_json::{Map, json};
use tertulia_index::{
    Analyzer, Answer, Batch, Chunk, Encoder, Filter, Fusion, GraphStep, Index, Mode, Query, Settings, VectorSearch,
};
use uuid::Uuid;

const QUESTIONS: &str = include_str!("../loadtest/questions/postgresql.txt");
const DEFAULT_SETS: [&str; 3] = ["10000x256", "100000x256", "50000xreal"];
const QUERIES: usize = 200;
const K: usize = 10;
/// Each query is timed so often.
const ROUNDS: usize = 5;
/// Directions in which drawn vectors differ.
const LATENT: usize = 48;
/// Bytes of a passage of a page.
const PASSAGE_BYTES: usize = 900;
/// Filters keep a row in so many.
const KEPT_SHARES: [u64; 4] = [2, 5, 10, 100];

struct Set {
    name: String,
    dimensions: usize,
    encoder: String,
    rows: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
}

fn main() {
    // Cargo itself gives `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let names = if args.is_empty() { DEFAULT_SETS.map(str::to_owned).to_vec() } else { args };
    for name in names {
        let parsed = name.split_once('x').and_then(|(rows, kind)| Some((rows.parse::<usize>().ok()?, kind)));
        let set = match parsed {
            Some((rows, "real")) => real(rows),
            Some((rows, dimensions)) if dimensions.parse::<usize>().is_ok_and(|number| number > 0) => {
                Some(drawn(rows, dimensions.parse().expect("just parsed")))
            }
            _ => panic!("{name}: rows and dimensions, such as 100000x256, or 50000xreal"),
        };
        match set {
            Some(set) => measure(set),
            None => println!("{name}: left out, there are no pages in demo/ or no weights in weights/"),
        }
    }
}

fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|value| *value /= length);
    vector
}

/// About normally spread.
fn normal(rng: &mut StdRng) -> f32 {
    (0..6).map(|_| rng.random_range(-0.7_f32..0.7)).sum()
}

/// Clusters whose sizes differ, in `LATENT` directions of decreasing weight, and a little noise in all.
fn drawn(rows: usize, dimensions: usize) -> Set {
    let rng = &mut StdRng::seed_from_u64(1);
    let basis: Vec<Vec<f32>> = (0..LATENT).map(|_| unit((0..dimensions).map(|_| normal(rng)).collect())).collect();
    let weight = |at: usize| 1.0 / (1.0 + at as f32).sqrt();
    let latent = |rng: &mut StdRng| -> Vec<f32> { (0..LATENT).map(|at| normal(rng) * weight(at)).collect() };
    let clusters: Vec<Vec<f32>> = (0..(rows / 100).max(1)).map(|_| latent(rng)).collect();
    let vector = |seed: u64| {
        let rng = &mut StdRng::seed_from_u64(seed);
        let cluster = &clusters[(rng.random::<f32>().powi(2) * clusters.len() as f32) as usize % clusters.len()];
        let place: Vec<f32> = latent(rng).iter().zip(cluster).map(|(own, shared)| shared + 0.7 * own).collect();
        let mut vector = vec![0.0_f32; dimensions];
        for (weight, direction) in place.iter().zip(&basis) {
            vector.iter_mut().zip(direction).for_each(|(value, step)| *value += weight * step);
        }
        let noise = 0.4 / (dimensions as f32).sqrt();
        vector.iter_mut().for_each(|value| *value += noise * normal(rng));
        unit(vector)
    };
    let many = |first: u64, count: usize| (first..first + count as u64).into_par_iter().map(vector).collect();
    let name = format!("{rows} × {dimensions}, drawn");
    Set { name, dimensions, encoder: "drawn".into(), rows: many(2, rows), queries: many(1 << 40, QUERIES) }
}

/// Passages of pages; where the text is not enough for as many, they overlap.
fn real(rows: usize) -> Option<Set> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?;
    let encoder = Encoder::load(&root.join("weights")).ok()?;
    let mut paths = Vec::new();
    pages(&root.join("demo"), &mut paths);
    paths.sort();
    let texts: Vec<String> = paths.iter().filter_map(|path| std::fs::read(path).ok()).map(|page| text(&page)).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let step = (bytes / rows.max(1)).clamp(1, PASSAGE_BYTES);
    let passages: Vec<String> = texts
        .iter()
        .flat_map(|text| (0..text.len()).step_by(step).map(move |at| passage(text, at)))
        .filter(|passage| passage.len() > 40)
        .take(rows)
        .collect();
    if passages.is_empty() {
        return None;
    }
    let rows: Vec<Vec<f32>> = encoder.encode_documents(&passages);
    let queries = QUESTIONS.lines().filter_map(|line| line.split('\t').next()).map(|text| encoder.encode_query(text));
    let (count, dimensions) = (rows.len(), encoder.dimensions());
    Some(Set {
        name: format!("{count} × {dimensions}, real"),
        dimensions,
        encoder: encoder.fingerprint().to_owned(),
        rows,
        queries: queries.take(QUERIES).collect(),
    })
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "html") {
            found.push(path);
        }
    }
}

/// What is between the tags: good enough to have vectors of real text.
fn text(page: &[u8]) -> String {
    let page = String::from_utf8_lossy(page);
    let mut text = String::new();
    for piece in page.split('<') {
        let words = piece.split_once('>').map_or("", |(_, words)| words);
        for word in words.split_whitespace() {
            text.push_str(word);
            text.push(' ');
        }
    }
    text
}

fn passage(text: &str, at: usize) -> String {
    let at = text.floor_char_boundary(at);
    text[at..text.floor_char_boundary(at + PASSAGE_BYTES)].to_owned()
}

/// Rows are numbered by their ids; a filter is on a remainder of the number.
fn chunk(number: usize, embedding: Vec<f32>) -> Chunk {
    let mut metadata = Map::new();
    for share in KEPT_SHARES {
        // Not in step with the order of rows.
        metadata.insert(format!("of{share}"), json!(scatter(number as u64) % share));
    }
    Chunk {
        id: Uuid::from_u128(number as u128),
        document_id: Uuid::from_u128(number as u128 / 10),
        external_id: String::new(),
        title: String::new(),
        source_url: None,
        heading: String::new(),
        ordinal: 0,
        content: String::new(),
        embedding,
        metadata,
    }
}

fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20
}

fn search(index: &Index, embedding: &[f32], filter: Option<&Filter>, explain: bool) -> Answer {
    let query = Query {
        text: "",
        embedding: Some(embedding),
        top_k: K,
        mode: Mode::Semantic,
        filter,
        fusion: Fusion::default(),
        explain,
    };
    index.search(&query).expect("an answer")
}

/// The `K` nearest rows that `keeps` lets through, by a plain scan in f32.
fn nearest(set: &Set, query: &[f32], keeps: impl Fn(usize) -> bool + Sync) -> Vec<u128> {
    let dot = |row: &[f32]| {
        let mut lanes = [0.0_f32; 16];
        for (left, right) in row.chunks(16).zip(query.chunks(16)) {
            lanes.iter_mut().zip(left.iter().zip(right)).for_each(|(lane, (left, right))| *lane += left * right);
        }
        lanes.iter().sum::<f32>()
    };
    let kept = set.rows.par_iter().enumerate().filter(|(number, _)| keeps(*number));
    let mut scores: Vec<(f32, u128)> = kept.map(|(number, row)| (dot(row), number as u128)).collect();
    scores.sort_unstable_by(|left, right| right.0.total_cmp(&left.0));
    scores.into_iter().take(K).map(|(_, number)| number).collect()
}

struct Case {
    name: String,
    filter: Option<Filter>,
    expected: Vec<Vec<u128>>,
}

fn cases(set: &Set) -> Vec<Case> {
    let case = |name: String, filter: Option<Filter>, keeps: &(dyn Fn(usize) -> bool + Sync)| {
        let expected = set.queries.iter().map(|query| nearest(set, query, keeps)).collect();
        Case { name, filter, expected }
    };
    let mut cases = vec![case("all".into(), None, &|_| true)];
    for share in KEPT_SHARES {
        let filter = Filter::from_json(&json!({ "type": "eq", "key": format!("of{share}"), "value": 0 }));
        let keeps = |number: usize| scatter(number as u64).is_multiple_of(share);
        cases.push(case(format!("1 in {share}"), Some(filter.expect("a filter")), &keeps));
    }
    cases
}

fn report(index: &Index, set: &Set, cases: &[Case]) {
    for case in cases {
        let (mut times, mut found, mut wanted) = (Vec::new(), 0, 0);
        for round in 0..=ROUNDS {
            for (query, expected) in set.queries.iter().zip(&case.expected) {
                let answer = black_box(search(index, query, case.filter.as_ref(), false));
                // The first round warms up.
                if round == 0 {
                    wanted += expected.len();
                    found += answer.hits.iter().filter(|hit| expected.contains(&hit.chunk_id().as_u128())).count();
                } else {
                    times.push(answer.timings.vectors);
                }
            }
        }
        times.sort_unstable();
        let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e3;
        let explain = search(index, &set.queries[0], case.filter.as_ref(), true).explain.expect("it was asked for");
        let semantic = explain.semantic.expect("it was asked for");
        println!(
            "  {:9} p50 {:7.3} ms  p99 {:7.3} ms  recall@10 {:.4}  {:?}",
            case.name,
            at(0.5),
            at(0.99),
            f64::from(found as u32) / f64::from(wanted as u32),
            semantic.segments.iter().map(|segment| segment.way).collect::<Vec<_>>(),
        );
    }
}

fn measure(set: Set) {
    println!("{}", set.name);
    let settings = Settings {
        dimensions: set.dimensions,
        encoder: set.encoder.clone(),
        analyzer: Analyzer::Simple,
        vectors: VectorSearch::Graph,
    };
    let index = Index::new(settings.clone());
    let upserts = set.rows.iter().enumerate().map(|(number, row)| chunk(number, row.clone())).collect();
    index.apply(Batch { version: 1, upserts, deletions: Vec::new() }).expect("a sound batch");
    let cases = cases(&set);
    let scanned_bytes = index.memory_bytes();
    println!(" scan: {} MB with all else of the index", scanned_bytes >> 20);
    report(&index, &set, &cases);

    let built = loop {
        match index.build_graphs(Duration::from_secs(1)) {
            GraphStep::Unfinished => {}
            GraphStep::Built(built) => break built,
            step => return println!(" graph: {step:?}"),
        }
    };
    println!(
        " graph: built in {:.1} s on one thread, {} MB, {} B a row, recall@10 of its own rows {:.4}",
        built.took.as_secs_f64(),
        built.memory_bytes >> 20,
        built.memory_bytes / built.rows,
        built.recall,
    );
    report(&index, &set, &cases);

    let folder = tempfile::tempdir().expect("a folder");
    let started = Instant::now();
    index.snapshot(folder.path()).expect("a snapshot");
    let saved = started.elapsed();
    drop(index);
    let started = Instant::now();
    let restored = Index::restore(folder.path(), &settings).expect("a snapshot");
    println!(" saved in {:.2} s, restored in {:.2} s", saved.as_secs_f64(), started.elapsed().as_secs_f64());
    report(&restored, &set, &cases[..1]);
}
