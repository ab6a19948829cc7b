//! The index against the plain implementation, and against damage.

mod damage;
mod draw;
mod edges;
mod graphs;
mod histories;
mod large;
mod plain;

use serde_json::to_string;
use tertulia_index::{Analyzer, Answer, Filter, Fusion, Index, Neighbour, Query, SearchError, Settings, VectorSearch};

use plain::{Expected, Plain, Question, UnknownKey};

/// Settings of every index here.
fn settings() -> Settings {
    Settings {
        dimensions: draw::DIMENSIONS,
        encoder: "drawn".to_owned(),
        analyzer: Analyzer::English,
        vectors: VectorSearch::Auto,
    }
}

fn ask(index: &Index, question: &Question) -> Result<Answer, SearchError> {
    let filter = question.filter.as_ref().map(|json| Filter::from_json(json).expect("a filter"));
    index.search(&Query {
        text: &question.written(),
        embedding: Some(&question.embedding),
        top_k: question.top_k,
        mode: question.mode,
        prefix: question.prefix,
        filter: filter.as_ref(),
        fusion: Fusion::default(),
        options: question.options(),
        explain: true,
    })
}

/// Panics unless the index answers as the plain implementation does, with the same scores and the same payload.
fn assert_same(index: &Index, plain: &Plain, question: &Question) {
    assert_eq!((index.version(), index.len()), (plain.version, plain.chunks.len()));
    let answer = match (ask(index, question), plain.answer(question, &Fusion::default())) {
        (Ok(answer), Ok(expected)) => {
            let ids = |neighbours: &[Neighbour]| neighbours.iter().map(|neighbour| neighbour.row().id).collect();
            let found = answer.hits.iter().map(|hit| Expected {
                id: hit.row().id,
                score: hit.score,
                before: ids(&hit.before),
                after: ids(&hit.after),
            });
            let found: Vec<_> = found.collect();
            assert_eq!(found, expected, "{question:?}");
            answer
        }
        (
            Err(SearchError::UnknownKey { key, known } | SearchError::UnknownRecencyKey { key, known }),
            Err(UnknownKey(expected)),
        ) => {
            assert_eq!(key, expected);
            assert!(!known.contains(&key));
            return;
        }
        (answer, expected) => panic!("{question:?}: {answer:?}, where {expected:?} was expected"),
    };
    assert_eq!(answer.version, plain.version);
    for hit in &answer.hits {
        let row = hit.row();
        let chunk = &plain.chunks[&row.id];
        assert_eq!(row.document_id, chunk.document_id);
        assert_eq!(row.external_id, chunk.external_id);
        assert_eq!(row.title, chunk.title);
        assert_eq!(row.source_url, chunk.source_url.as_deref());
        assert_eq!(row.heading, chunk.heading);
        assert_eq!(row.ordinal, chunk.ordinal);
        assert_eq!(row.content, chunk.content);
        assert_eq!(row.metadata_json, to_string(&chunk.metadata).expect("JSON"));
        assert!((0.0..=1.0).contains(&hit.score));
        let explain = hit.explain.expect("it was asked for");
        let ranks = [explain.semantic, explain.keyword].map(|place| place.and_then(|place| place.rank));
        assert!(ranks.iter().any(Option::is_some));
        let neighbours = hit.before.iter().chain(&hit.after);
        for neighbour in neighbours {
            let chunk = &plain.chunks[&neighbour.row().id];
            assert_eq!((neighbour.row().ordinal, neighbour.row().content), (chunk.ordinal, chunk.content.as_str()));
        }
    }
}
