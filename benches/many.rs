//! What do many small knowledge bases cost? Memory of each, time to build, save and load it, time of a search in it.
//!
//! `cargo bench --bench many -- [knowledge bases, 10000] [chunks of each, 100]`. Needs room for all of them in memory and in
//! the folder for temporary files.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tertulia_index::{Analyzer, Batch, Chunk, Fusion, Index, Mode, Options, Query, Settings, VectorSearch};
use uuid::Uuid;

/// The one that the server has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DIMENSIONS: usize = 256;
/// Words of a chunk, and words that there are.
const WORDS: (usize, usize) = (80, 20_000);
/// Chunks of a document.
const DOCUMENT_CHUNKS: usize = 10;
const SEARCHES: usize = 2_000;

fn main() {
    // `cargo bench` puts `--bench` among the arguments.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse().ok());
    let (bases, chunks) = (numbers.next().unwrap_or(10_000), numbers.next().unwrap_or(100));
    let settings = Settings {
        dimensions: DIMENSIONS,
        encoder: "drawn".into(),
        analyzer: Analyzer::English,
        vectors: VectorSearch::Scan,
    };
    let mut random = StdRng::seed_from_u64(7);
    println!("{bases} knowledge bases of {chunks} chunks, {DIMENSIONS} dimensions, {} words a chunk", WORDS.0);

    let (mut spent, mut spent_cpu) = (Duration::ZERO, Duration::ZERO);
    let mut text_bytes = 0;
    let at_start = resident_bytes();
    let indexes: Vec<Index> = (0..bases)
        .map(|_| {
            let upserts = drawn(&mut random, chunks);
            text_bytes += upserts.iter().map(|chunk| chunk.content.len()).sum::<usize>();
            let (started, cpu) = (Instant::now(), cpu_time());
            let index = Index::new(settings.clone());
            index.apply(Batch { version: 1, upserts, deletions: Vec::new() }).expect("a sound batch");
            spent += started.elapsed();
            spent_cpu += cpu_time() - cpu;
            index
        })
        .collect();
    let counted: usize = indexes.iter().map(Index::memory_bytes).sum();
    println!("text: {} bytes a base, vectors: {}", text_bytes / bases, chunks * DIMENSIONS * 4);
    let each = |time: Duration| time / bases as u32;
    println!("built: {:?} a base ({:?} CPU), counts {} bytes", each(spent), each(spent_cpu), counted / bases);
    println!("       process takes {} bytes a base", resident_bytes().saturating_sub(at_start) / bases);
    search(&indexes, &mut random);

    let folder = tempfile::tempdir().expect("a folder");
    let (started, cpu) = (Instant::now(), cpu_time());
    for (n, index) in indexes.iter().enumerate() {
        index.snapshot(&folder.path().join(n.to_string())).expect("a snapshot");
    }
    println!("saved: {:?} a base ({:?} CPU)", each(started.elapsed()), each(cpu_time() - cpu));
    drop(indexes);

    let (started, cpu) = (Instant::now(), cpu_time());
    let indexes: Vec<Index> = (0..bases)
        .map(|n| Index::restore(&folder.path().join(n.to_string()), &settings).expect("a sound snapshot"))
        .collect();
    let (spent, spent_cpu) = (started.elapsed(), cpu_time() - cpu);
    let counted: usize = indexes.iter().map(Index::memory_bytes).sum();
    println!("loaded: {:?} a base ({:?} CPU), counts {} bytes", each(spent), each(spent_cpu), counted / bases);
    println!("        process takes {} bytes a base", resident_bytes().saturating_sub(at_start) / bases);
    search(&indexes, &mut random);
}

/// Time of searches in knowledge bases that were not looked at before, so nothing of them is in a cache.
fn search(indexes: &[Index], random: &mut StdRng) {
    let mut times: Vec<Duration> = (0..SEARCHES)
        .map(|n| {
            let (text, embedding) = (words(random, 6), vector(random));
            let index = &indexes[n * 7_919 % indexes.len()];
            let query = Query {
                text: &text,
                embedding: Some(&embedding),
                top_k: 5,
                mode: Mode::Hybrid,
                prefix: false,
                filter: None,
                fusion: Fusion::default(),
                options: Options::default(),
                explain: false,
            };
            let started = Instant::now();
            black_box(index.search(&query).expect("an answer"));
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("search: p50 {:?}, p99 {:?}", times[SEARCHES / 2], times[SEARCHES * 99 / 100]);
}

fn drawn(random: &mut StdRng, chunks: usize) -> Vec<Chunk> {
    (0..chunks)
        .map(|n| {
            let document = n / DOCUMENT_CHUNKS;
            Chunk {
                id: Uuid::from_u128(random.random()),
                document_id: Uuid::from_u128(document as u128),
                external_id: format!("docs/page-{document}.html"),
                title: words(random, 4),
                source_url: Some(format!("https://example.com/docs/page-{document}.html")),
                heading: words(random, 3),
                ordinal: (n % DOCUMENT_CHUNKS) as u32,
                content: words(random, WORDS.0),
                embedding: vector(random),
                metadata: json!({ "lang": "en", "page": document }).as_object().cloned().unwrap_or_default(),
            }
        })
        .collect()
}

/// Words of which a few are frequent and most are rare.
fn words(random: &mut StdRng, count: usize) -> String {
    let word = |random: &mut StdRng| {
        let uniform: f64 = random.random();
        format!("word{}", (uniform.powi(3) * WORDS.1 as f64) as usize)
    };
    (0..count).map(|_| word(random)).collect::<Vec<_>>().join(" ")
}

fn vector(random: &mut StdRng) -> Vec<f32> {
    (0..DIMENSIONS).map(|_| random.random::<f32>() - 0.5).collect()
}

/// Memory of this process that is in use, as Linux counts it; 0 elsewhere.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0) * 1_024
}

/// CPU time of all threads of this process so far, as Linux counts it; 0 elsewhere.
fn cpu_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = |text: String| text.split(' ').next()?.parse::<u64>().ok();
    let each = threads.filter_map(|thread| nanoseconds(std::fs::read_to_string(thread.path().join("schedstat")).ok()?));
    Duration::from_nanos(each.sum())
}
