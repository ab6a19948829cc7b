//! Where does a search's time go, and an ingested chunk's? On the pages in `demo/` (`make bench` fetches some), in process.
//!
//! `cargo bench --bench search`, or with a part of a name behind it.

use std::{hint::black_box, path::Path};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::Map;
use tertulia::knowledge::{
    chunking::{self, Limits},
    extract::{self, MediaType},
};
use tertulia_index::{Analyzer, Batch, Chunk, Encoder, Fusion, Index, Mode, Options, Query, Settings};
use uuid::Uuid;

const QUESTIONS: &str = include_str!("../loadtest/questions/postgresql.txt");
const LIMITS: Limits = Limits { tokens_max: 256, overlap_tokens: 32 };

/// Every page below `demo/`, in the order of its path.
fn pages() -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = ignore::WalkBuilder::new("demo")
        .standard_filters(false)
        .follow_links(true)
        .build()
        .flatten()
        .map(ignore::DirEntry::into_path)
        .filter(|path| path.extension().is_some_and(|extension| extension == "html"))
        .collect();
    paths.sort();
    let pages: Vec<_> = paths.iter().filter_map(|path| std::fs::read(path).ok()).collect();
    assert!(!pages.is_empty(), "no pages in demo/: run `make bench`");
    pages
}

fn passages(encoder: &Encoder, page: &[u8], html: &MediaType) -> (String, Vec<chunking::Passage>) {
    let extracted = extract::extract(page, html).unwrap_or_default();
    let passages = chunking::split(&extracted, &LIMITS, &|text| encoder.count_tokens(text));
    (extracted.title.unwrap_or_default(), passages)
}

fn chunks(encoder: &Encoder, html: &MediaType) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (number, page) in pages().iter().enumerate() {
        let (title, passages) = passages(encoder, page, html);
        let texts: Vec<_> =
            passages.iter().map(|passage| format!("{}\n{}", passage.heading, passage.content)).collect();
        let document_id = Uuid::from_u128(number as u128);
        for (passage, embedding) in passages.into_iter().zip(encoder.encode_documents(&texts)) {
            chunks.push(Chunk {
                id: Uuid::from_u128((number as u128) << 64 | u128::from(passage.ordinal)),
                document_id,
                external_id: number.to_string(),
                title: title.clone(),
                source_url: None,
                heading: passage.heading,
                ordinal: passage.ordinal,
                content: passage.content,
                embedding,
                metadata: Map::new(),
            });
        }
    }
    chunks
}

fn search(criterion: &mut Criterion) {
    let encoder = Encoder::load(Path::new("weights")).expect("weights (scripts/setup.sh)");
    let html = MediaType::parse("text/html").expect("a known media type");
    let index = Index::new(Settings {
        dimensions: encoder.dimensions(),
        encoder: encoder.fingerprint().to_owned(),
        analyzer: Analyzer::English,
    });
    let batch = Batch { version: 1, upserts: chunks(&encoder, &html), deletions: Vec::new() };
    index.apply(batch).expect("a sound batch");
    while index.maintain() {}
    let questions: Vec<&str> = QUESTIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();

    let mut group = criterion.benchmark_group(format!("search of {} chunks", index.len()));
    let mut next = (0..questions.len()).cycle();
    let mut question = || questions[next.next().unwrap_or_default()];
    group.bench_function("encode", |bencher| bencher.iter(|| encoder.encode_query(black_box(question()))));
    for (name, mode) in [("semantic", Mode::Semantic), ("keyword", Mode::Keyword), ("hybrid", Mode::Hybrid)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let text = question();
                let embedding = (mode != Mode::Keyword).then(|| encoder.encode_query(text));
                let query = Query {
                    text,
                    embedding: embedding.as_deref(),
                    top_k: 5,
                    mode,
                    filter: None,
                    fusion: Fusion::default(),
                    options: Options::default(),
                    explain: false,
                };
                index.search(black_box(&query)).expect("an answer")
            });
        });
    }
    group.finish();
}

fn ingest(criterion: &mut Criterion) {
    let encoder = Encoder::load(Path::new("weights")).expect("weights (scripts/setup.sh)");
    let html = MediaType::parse("text/html").expect("a known media type");
    let pages: Vec<_> = pages().into_iter().take(100).collect();
    let texts: Vec<Vec<String>> = pages
        .iter()
        .map(|page| passages(&encoder, page, &html).1.into_iter().map(|passage| passage.content).collect())
        .collect();
    let count: usize = texts.iter().map(Vec::len).sum();
    let mut group = criterion.benchmark_group("ingest of 100 pages, a chunk");
    group.throughput(Throughput::Elements(count as u64)).sample_size(10);
    group.bench_function("extract", |bencher| {
        bencher.iter(|| {
            pages.iter().map(|page| extract::extract(page, &html)).for_each(|extracted| drop(black_box(extracted)))
        });
    });
    group.bench_function("extract and split", |bencher| {
        bencher.iter(|| pages.iter().for_each(|page| drop(black_box(passages(&encoder, page, &html)))));
    });
    group.bench_function("encode", |bencher| {
        bencher.iter(|| texts.iter().for_each(|texts| drop(black_box(encoder.encode_documents(texts)))));
    });
    group.finish();
}

criterion_group!(benches, search, ingest);
criterion_main!(benches);
