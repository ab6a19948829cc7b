//! Is our own index of words worth having? The same chunks and questions in it and in tantivy, on one thread, top 10.
//!
//! From the root: `cargo run --release --manifest-path benches/peers/words/Cargo.toml --target-dir target`

#[path = "../../../corpus/mod.rs"]
mod corpus;

use std::hint::black_box;

use tantivy::{
    Index as Tantivy, TantivyDocument,
    collector::TopDocs,
    query::QueryParser,
    schema::{IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions},
};
use tertulia::knowledge::extract::MediaType;
use tertulia_index::{Analyzer, Batch, Chunk, Fusion, Index, Mode, Options, Query, Settings, VectorSearch};

fn main() {
    let encoder = corpus::encoder();
    let chunks = corpus::chunks(&encoder, &MediaType::parse("text/html").expect("a known media type"));
    let questions = corpus::questions();
    println!("{} chunks", chunks.len());

    peer(&chunks, &questions);

    let index = Index::new(Settings {
        dimensions: encoder.dimensions(),
        encoder: encoder.fingerprint().to_owned(),
        analyzer: Analyzer::English,
        vectors: VectorSearch::Scan,
    });
    index.apply(Batch { version: 1, upserts: chunks, deletions: Vec::new() }).expect("a sound batch");
    while index.maintain() {}
    corpus::percentiles("tertulia", &questions, |text| {
        let query = Query {
            text,
            embedding: None,
            prefix: false,
            top_k: 10,
            mode: Mode::Keyword,
            filter: None,
            fusion: Fusion::default(),
            options: Options::default(),
            explain: false,
        };
        black_box(index.search(&query).expect("an answer").hits.iter().map(|hit| hit.content().len()).sum::<usize>());
    });
}

/// One segment in memory, English stems, headings twice the weight; any word of the question, no positions.
fn peer(chunks: &[Chunk], questions: &[&str]) {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default().set_tokenizer("en_stem").set_index_option(IndexRecordOption::WithFreqs);
    let text = TextOptions::default().set_indexing_options(indexing);
    let number = schema.add_u64_field("number", STORED);
    let fields = ["title", "heading", "content"].map(|name| schema.add_text_field(name, text.clone()));
    let index = Tantivy::create_in_ram(schema.build());
    let mut writer = index.writer_with_num_threads(1, 1 << 30).expect("room for a writer");
    for (at, chunk) in (0_u64..).zip(chunks) {
        let mut document = TantivyDocument::default();
        document.add_u64(number, at);
        for (field, text) in fields.into_iter().zip([&chunk.title, &chunk.heading, &chunk.content]) {
            document.add_text(field, text);
        }
        writer.add_document(document).expect("a document that fits");
    }
    writer.commit().expect("a commit in memory");
    let segments = index.searchable_segment_ids().expect("segments");
    if segments.len() > 1 {
        writer.merge(&segments).wait().expect("a merge in memory");
    }
    let searcher = index.reader().expect("a reader").searcher();
    println!("tantivy has {} segments", searcher.segment_readers().len());
    let mut parser = QueryParser::for_index(&index, fields.to_vec());
    parser.set_field_boost(fields[1], 2.0);
    // Both give what they found: tantivy the number of the chunk, tertulia the chunk.
    corpus::percentiles("tantivy", questions, |question| {
        let (query, _) = parser.parse_query_lenient(question);
        let found = searcher.search(&query, &TopDocs::with_limit(10).order_by_score()).expect("an answer");
        for (_, address) in found {
            black_box(searcher.doc::<TantivyDocument>(address).expect("a document"));
        }
    });
}
