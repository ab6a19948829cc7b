//! Segments too large to be merged by a writer: merges in the background, beside writers and searches.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use proptest::{strategy::Strategy, strategy::ValueTree, test_runner::TestRunner};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use tertulia_index::{Batch, Chunk, Filter, Fusion, Index, Mode, Options, Query, Settings};
use uuid::Uuid;

use crate::{assert_same, draw, plain::Plain, settings};

/// Chunks of that many ids from `first` on, drawn anew by each `seed`.
fn chunks(seed: u64, first: u128, count: usize) -> Vec<Chunk> {
    let rng = &mut StdRng::seed_from_u64(seed);
    let words = ["vacuum", "index", "table", "lock", "row", "page", "buffer", "tuple", "wal", "heap"];
    (first..first + count as u128)
        .map(|number| {
            let mut embedding = vec![0.0; draw::DIMENSIONS];
            embedding.iter_mut().for_each(|value| *value = if rng.random_bool(0.5) { 1.0 } else { -1.0 });
            let content: Vec<_> =
                (0..rng.random_range(0..12)).map(|_| words[rng.random_range(0..words.len())]).collect();
            Chunk {
                id: Uuid::from_u128(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)),
                document_id: Uuid::from_u128(number / 10),
                external_id: (number / 10).to_string(),
                title: "manual".to_owned(),
                source_url: None,
                heading: String::new(),
                ordinal: (number % 10) as u32,
                content: content.join(" "),
                embedding,
                metadata: json!({ "year": number as u64 % 7, "lang": "en", "tags": [], "rare": 1 })
                    .as_object()
                    .expect("an object")
                    .clone(),
            }
        })
        .collect()
}

/// Segments of an index, as an explanation tells.
fn segments(index: &Index) -> usize {
    let query = Query {
        text: "vacuum",
        embedding: None,
        top_k: 1,
        mode: Mode::Keyword,
        prefix: false,
        filter: None,
        fusion: Fusion::default(),
        options: Options::default(),
        explain: true,
    };
    index.search(&query).expect("an answer").explain.expect("it was asked for").segments
}

fn compare(index: &Index, plain: &Plain) {
    let mut runner = TestRunner::deterministic();
    for _ in 0..12 {
        assert_same(index, plain, &draw::question().new_tree(&mut runner).expect("a question").current());
    }
}

#[test]
fn maintenance_changes_no_answer() {
    let index = Index::new(settings());
    let mut plain = Plain::default();
    let apply = |plain: &mut Plain, version, upserts, deletions| {
        let batch = Batch { version, upserts, deletions };
        plain.apply(&batch);
        index.apply(batch).expect("a sound batch");
    };
    for round in 0..4 {
        apply(&mut plain, round + 1, chunks(round, u128::from(round) * 2_000, 2_500), Vec::new());
    }
    assert_eq!(segments(&index), 4, "each is too large for a writer");
    compare(&index, &plain);
    while index.maintain() {}
    assert_eq!(segments(&index), 1);
    compare(&index, &plain);

    let third: Vec<Uuid> = plain.chunks.keys().copied().step_by(3).collect();
    apply(&mut plain, 9, Vec::new(), third);
    compare(&index, &plain);
    let before = index.memory_bytes();
    assert!(index.maintain(), "a third is deleted");
    assert!(index.memory_bytes() < before * 3 / 4, "{} of {before} bytes", index.memory_bytes());
    assert!(!index.maintain());
    compare(&index, &plain);

    let all: Vec<Uuid> = plain.chunks.keys().copied().collect();
    apply(&mut plain, 10, Vec::new(), all);
    assert_eq!((index.len(), index.memory_bytes()), (0, 0));
}

#[test]
fn a_batch_is_seen_whole_while_everything_is_moved() {
    const ROUNDS: u64 = 150;
    let index = Index::new(settings());
    let mut plain = Plain::default();
    for round in 0..3 {
        let batch =
            Batch { version: 0, upserts: chunks(round, u128::from(round) * 3_000, 3_000), deletions: Vec::new() };
        plain.apply(&batch);
        index.apply(batch).expect("a sound batch");
    }
    // Ten chunks that each batch rewrites, all with its version.
    let marked = |version: u64| -> Vec<Chunk> {
        let mut marked = chunks(version, 500, 10);
        marked.iter_mut().for_each(|chunk| _ = chunk.metadata.insert("round".to_owned(), version.into()));
        marked
    };
    let start = Batch { version: 1, upserts: marked(1), deletions: Vec::new() };
    plain.apply(&start);
    index.apply(start).expect("a sound batch");

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let maintenance = scope.spawn(|| {
            let mut merges = 0;
            loop {
                merges += usize::from(index.maintain());
                if done.load(SeqCst) {
                    return merges;
                }
            }
        });
        let searches = scope.spawn(|| {
            let filter = Filter::from_json(&json!({ "type": "exists", "key": "round" })).expect("a filter");
            let embedding = vec![1.0; draw::DIMENSIONS];
            let mut answers = 0;
            loop {
                let query = Query {
                    text: "vacuum",
                    embedding: Some(&embedding),
                    top_k: 100,
                    mode: Mode::Semantic,
                    prefix: false,
                    filter: Some(&filter),
                    fusion: Fusion::default(),
                    options: Options::default(),
                    explain: false,
                };
                let answer = index.search(&query).expect("an answer");
                assert_eq!(answer.hits.len(), 10);
                for hit in &answer.hits {
                    let metadata: serde_json::Value = serde_json::from_str(hit.row().metadata_json).expect("JSON");
                    assert_eq!(metadata["round"], answer.version);
                }
                answers += 1;
                if done.load(SeqCst) {
                    return answers;
                }
            }
        });
        let rng = &mut StdRng::seed_from_u64(9);
        for version in 2..=ROUNDS {
            let mut upserts = marked(version);
            upserts.extend(chunks(version, rng.random_range(1_000..9_000), rng.random_range(0..60)));
            let deletions = chunks(0, rng.random_range(1_000..9_000), 40).into_iter().map(|chunk| chunk.id).collect();
            let batch = Batch { version, upserts, deletions };
            plain.apply(&batch);
            index.apply(batch).expect("a sound batch");
        }
        done.store(true, SeqCst);
        assert!(maintenance.join().expect("no panic") > 0);
        assert!(searches.join().expect("no panic") > 0);
    });
    compare(&index, &plain);
    while index.maintain() {}
    compare(&index, &plain);
}

#[test]
fn memory_per_chunk_stays_small() {
    // Texts of about a kilobyte from 20,000 words, and vectors of 256 dimensions: 512 bytes.
    const COUNT: usize = 2_000;
    let rng = &mut StdRng::seed_from_u64(3);
    let index = Index::new(Settings { dimensions: 256, ..settings() });
    let upserts = chunks(1, 0, COUNT)
        .into_iter()
        .map(|chunk| {
            let mut content = String::new();
            while content.len() < 1_000 {
                let rank = (rng.random::<f64>().powi(3) * 20_000.0) as u32;
                content.push_str(&format!("word{rank} "));
            }
            let embedding = (0..256).map(|_| rng.random_range(-1.0..1.0)).collect();
            Chunk { content, embedding, ..chunk }
        })
        .collect();
    index.apply(Batch { version: 1, upserts, deletions: Vec::new() }).expect("a sound batch");
    let per_chunk = index.memory_bytes() / COUNT;
    assert!((1_512..=1_512 + 800).contains(&per_chunk), "{per_chunk} bytes a chunk");
}
