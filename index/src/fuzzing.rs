//! What the fuzz targets in `fuzz/` call: parts that the crate does not show otherwise.

use std::sync::OnceLock;

use serde_json::json;
use uuid::Uuid;

use crate::{
    Analyzer, Batch, Chunk, Filter, Fusion, Index, Mode, Options, Query, Settings, VectorSearch,
    index::{Part, View},
    sections::SectionWriter,
    segment::Segment,
};

const DIMENSIONS: usize = 8;

fn settings() -> Settings {
    Settings {
        dimensions: DIMENSIONS,
        encoder: "fuzz".to_owned(),
        analyzer: Analyzer::English,
        vectors: VectorSearch::Scan,
    }
}

/// A few chunks that differ in everything.
fn chunks() -> Vec<Chunk> {
    let metadata = [
        json!({ "lang": "en", "year": 2020 }),
        json!({ "lang": ["en", "de"], "draft": true }),
        json!({ "year": -1.5, "deep": { "a": [] } }),
        json!({}),
    ];
    let chunk = |at: usize| Chunk {
        id: Uuid::from_u128(at as u128),
        document_id: Uuid::from_u128(at as u128 / 2),
        external_id: format!("page-{}", at / 2),
        title: ["", "Vacuum"][at % 2].to_owned(),
        source_url: at.is_multiple_of(3).then(|| format!("https://example.org/{at}")),
        heading: ["Tables › Locks", ""][at % 2].to_owned(),
        ordinal: at as u32,
        content: format!("chunk {at} of pg_stat_activity and other words, é and 漢字"),
        embedding: (0..DIMENSIONS).map(|axis| ((at * 7 + axis * 3) % 11) as f32 - 5.0).collect(),
        metadata: metadata[at % metadata.len()].as_object().cloned().unwrap_or_default(),
    };
    (0..12).map(chunk).collect()
}

/// A small index, made once.
fn sound() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| {
        let index = Index::new(settings());
        index.apply(Batch { version: 1, upserts: chunks(), deletions: Vec::new() }).expect("a sound batch");
        index
    })
}

/// Searches a small index with `filter`.
pub fn search(filter: &Filter) {
    ask(sound(), "vacuum words", Some(filter));
}

/// Asks a small index `text`, whatever it is.
pub fn question(text: &str) {
    ask(sound(), text, None);
}

fn ask(index: &Index, text: &str, filter: Option<&Filter>) {
    let embedding = [1.0; DIMENSIONS];
    let options = Options { min_score: 0.01, diversity: 0.3, expand: 1, highlight: true, ..Options::default() };
    let ways = [(false, Options::default()), (true, options)];
    for (mode, (prefix, options)) in
        [Mode::Hybrid, Mode::Semantic, Mode::Keyword].into_iter().flat_map(|mode| ways.map(|way| (mode, way)))
    {
        let query = Query {
            text,
            embedding: Some(&embedding),
            prefix,
            top_k: 5,
            mode,
            filter,
            fusion: Fusion::default(),
            options,
            explain: true,
        };
        if let Ok(answer) = index.search(&query) {
            for hit in &answer.hits {
                let row = hit.row();
                let parts = [row.external_id, row.title, row.heading, row.content, row.metadata_json];
                std::hint::black_box(parts.iter().map(|part| part.len()).sum::<usize>());
            }
        }
    }
}

/// Loads a segment some of whose sections `data` changes, under checksums that fit, and searches it if it loads.
///
/// `data`: any number of changes of four bytes: section, kind (cut, or a byte put over another), place, byte.
pub fn segment(data: &[u8]) {
    let sound = Segment::build(&settings(), &chunks());
    let writer = sound.sections();
    let mut sections: Vec<Vec<u8>> = writer.sections().iter().map(|section| section.to_vec()).collect();
    for change in data.chunks_exact(4) {
        let at = usize::from(change[0]) % sections.len();
        let section = &mut sections[at];
        let place = usize::from(change[2]) * section.len() / 256;
        match change[1] % 4 {
            0 => section.truncate(place),
            1 => section.extend(std::iter::repeat_n(change[3], 8)),
            _ => section.iter_mut().skip(place).take(1).for_each(|byte| *byte = change[3]),
        }
    }
    let mut out = SectionWriter::default();
    sections.iter().for_each(|section| out.put(section));
    let (head, seal) = out.head();
    let mut file = Vec::new();
    out.write_to(&head, &mut file).expect("a Vec takes whatever is written to it");
    if let Ok(segment) = Segment::load(&settings(), &mut file.as_slice(), seal) {
        let index = Index::of_view(settings(), View::new(1, vec![Part::whole(segment)]));
        ask(&index, "vacuum words", None);
        ask(&index, "\"other words\" -\"chunk 1\" pg_stat_activity", None);
    }
}
