//! Where does a search's time go, and an ingested chunk's? On the pages in `demo/` (`make bench` fetches some), in process.
//!
//! `cargo bench --bench search`, or with a part of a name behind it.

mod corpus;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tertulia::knowledge::extract::{self, MediaType};
use tertulia_index::{Analyzer, Batch, Fusion, Index, Mode, Options, Query, Settings, VectorSearch};

fn search(criterion: &mut Criterion) {
    let encoder = corpus::encoder();
    let html = MediaType::parse("text/html").expect("a known media type");
    let index = Index::new(Settings {
        dimensions: encoder.dimensions(),
        encoder: encoder.fingerprint().to_owned(),
        analyzer: Analyzer::English,
        vectors: VectorSearch::Auto,
    });
    let batch = Batch { version: 1, upserts: corpus::chunks(&encoder, &html), deletions: Vec::new() };
    index.apply(batch).expect("a sound batch");
    while index.maintain() {}
    let questions = corpus::questions();
    let keyword = |text: &str, prefix: bool| {
        let query = Query {
            text,
            embedding: None,
            prefix,
            top_k: 10,
            mode: Mode::Keyword,
            filter: None,
            fusion: Fusion::default(),
            options: Options::default(),
            explain: false,
        };
        black_box(index.search(&query).expect("an answer"));
    };
    println!("keyword search of {} chunks, top 10:", index.len());
    corpus::percentiles("as asked", &questions, |text| keyword(text, false));
    // Without the last two characters and the sign behind them.
    let typed: Vec<&str> =
        questions.iter().map(|question| question.get(..question.len() - 3).unwrap_or(question)).collect();
    corpus::percentiles("while typed", &typed, |text| keyword(text, true));
    let phrases: Vec<String> = questions.iter().map(|question| last_words_quoted(question)).collect();
    let phrases: Vec<&str> = phrases.iter().map(String::as_str).collect();
    corpus::percentiles("last two words as a phrase", &phrases, |text| keyword(text, false));

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
                    prefix: false,
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

fn last_words_quoted(question: &str) -> String {
    let words: Vec<&str> =
        question.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let (others, last) = words.split_at(words.len().saturating_sub(2));
    format!("{} \"{}\"", others.join(" "), last.join(" "))
}

fn ingest(criterion: &mut Criterion) {
    let encoder = corpus::encoder();
    let html = MediaType::parse("text/html").expect("a known media type");
    let pages: Vec<_> = corpus::pages().into_iter().take(100).collect();
    let texts: Vec<Vec<String>> = pages
        .iter()
        .map(|page| corpus::passages(&encoder, page, &html).1.into_iter().map(|passage| passage.content).collect())
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
        bencher.iter(|| pages.iter().for_each(|page| drop(black_box(corpus::passages(&encoder, page, &html)))));
    });
    group.bench_function("encode", |bencher| {
        bencher.iter(|| texts.iter().for_each(|texts| drop(black_box(encoder.encode_documents(texts)))));
    });
    group.finish();
}

criterion_group!(benches, search, ingest);
criterion_main!(benches);
