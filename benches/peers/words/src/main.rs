//! Is our own index of words worth having? The same chunks, terms and questions in it and in tantivy, on one thread, top 10,
//! in turns.
//!
//! `make bench-words`.

#[path = "../../../corpus/mod.rs"]
mod corpus;

use std::hint::black_box;

use tantivy::{
    Index as Tantivy, Searcher, TantivyDocument, Term,
    collector::TopDocs,
    query::BooleanQuery,
    schema::{Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions},
};
use tertulia::knowledge::extract::MediaType;
use tertulia_index::{Analyzer, Batch, Chunk, Fusion, Index, Mode, Options, Query, Settings, VectorSearch};

/// The server's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ANALYZER: Analyzer = Analyzer::English;
const TOP_K: usize = 10;
const TURNS: usize = 3;

fn main() {
    let encoder = corpus::encoder();
    let chunks = corpus::chunks(&encoder, &MediaType::parse("text/html").expect("a known media type"));
    let questions = corpus::questions();
    println!("{} chunks", chunks.len());
    let peer = Peer::new(&chunks);
    let index = Index::new(Settings {
        dimensions: encoder.dimensions(),
        encoder: encoder.fingerprint().to_owned(),
        analyzer: ANALYZER,
        vectors: VectorSearch::Scan,
    });
    index.apply(Batch { version: 1, upserts: chunks, deletions: Vec::new() }).expect("a sound batch");
    while index.maintain() {}
    for _ in 0..TURNS {
        corpus::percentiles("tantivy ", &questions, |text| _ = black_box(peer.search(text)));
        corpus::percentiles("tertulia", &questions, |text| {
            let query = Query {
                text,
                embedding: None,
                prefix: false,
                top_k: TOP_K,
                mode: Mode::Keyword,
                filter: None,
                fusion: Fusion::default(),
                options: Options::default(),
                explain: false,
            };
            black_box(index.search(&query).expect("an answer").hits.len());
        });
    }
}

/// One segment in memory, one field without positions, headings in it twice, as they weigh in ours; any word of the question,
/// the collector of the best by BM25. Our analyzer makes the terms, of texts and, each time, of questions.
struct Peer {
    searcher: Searcher,
    text: Field,
}

impl Peer {
    fn new(chunks: &[Chunk]) -> Self {
        let mut schema = Schema::builder();
        let indexing =
            TextFieldIndexing::default().set_tokenizer("whitespace").set_index_option(IndexRecordOption::WithFreqs);
        let text = schema.add_text_field("text", TextOptions::default().set_indexing_options(indexing));
        let index = Tantivy::create_in_ram(schema.build());
        let mut writer = index.writer_with_num_threads(1, 1 << 30).expect("room for a writer");
        for chunk in chunks {
            let mut document = TantivyDocument::default();
            let fields = [&chunk.title, &chunk.heading, &chunk.heading, &chunk.content];
            document.add_text(text, fields.map(|field| terms(field).join(" ")).join(" "));
            writer.add_document(document).expect("a document that fits");
        }
        writer.commit().expect("a commit in memory");
        let segments = index.searchable_segment_ids().expect("segments");
        if segments.len() > 1 {
            writer.merge(&segments).wait().expect("a merge in memory");
        }
        let searcher = index.reader().expect("a reader").searcher();
        println!("tantivy has {} segments", searcher.segment_readers().len());
        Self { searcher, text }
    }

    /// How many were found.
    fn search(&self, question: &str) -> usize {
        let terms = terms(question).iter().map(|term| Term::from_field_text(self.text, term)).collect();
        let query = BooleanQuery::new_multiterms_query(terms);
        self.searcher.search(&query, &TopDocs::with_limit(TOP_K).order_by_score()).expect("an answer").len()
    }
}

fn terms(text: &str) -> Vec<String> {
    let mut terms = Vec::new();
    ANALYZER.terms(text, &mut |term| terms.push(term.to_owned()));
    terms
}
