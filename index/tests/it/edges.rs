//! Bounds, mistakes and odd input.

use proptest::prelude::*;
use serde_json::json;
use tertulia_index::{ApplyError, Batch, Chunk, Filter, Fusion, Index, Mode, Neighbour, Options, Query, SearchError};
use uuid::Uuid;

use crate::{draw::DIMENSIONS, settings};

fn axis(at: usize, length: f32) -> Vec<f32> {
    let mut embedding = vec![0.0; DIMENSIONS];
    embedding[at] = length;
    embedding
}

fn chunk(number: u128, content: &str, embedding: Vec<f32>) -> Chunk {
    Chunk {
        id: Uuid::from_u128(number),
        document_id: Uuid::from_u128(1),
        external_id: "guide".to_owned(),
        title: String::new(),
        source_url: None,
        heading: String::new(),
        ordinal: number as u32,
        content: content.to_owned(),
        embedding,
        metadata: json!({ "number": number as u64 }).as_object().expect("an object").clone(),
    }
}

fn batch(version: u64, upserts: Vec<Chunk>) -> Batch {
    Batch { version, upserts, deletions: Vec::new() }
}

fn query<'a>(text: &'a str, embedding: Option<&'a [f32]>, mode: Mode) -> Query<'a> {
    Query {
        text,
        embedding,
        top_k: 10,
        mode,
        prefix: false,
        filter: None,
        fusion: Fusion::default(),
        options: Options::default(),
        explain: false,
    }
}

fn found(index: &Index, query: &Query<'_>) -> Vec<(u128, f32)> {
    let answer = index.search(query).expect("an answer");
    answer.hits.iter().map(|hit| (hit.row().id.as_u128(), hit.score)).collect()
}

#[test]
fn a_batch_with_one_bad_embedding_is_refused_whole() {
    let index = Index::new(settings());
    index.apply(batch(1, vec![chunk(1, "old", axis(0, 1.0))])).expect("a sound batch");
    let check = |embedding: Vec<f32>, expected: ApplyError| {
        let bad = chunk(3, "bad", embedding);
        let batch = Batch {
            version: 2,
            upserts: vec![chunk(2, "good", axis(1, 1.0)), bad],
            deletions: vec![Uuid::from_u128(1)],
        };
        assert_eq!(index.apply(batch), Err(expected));
        assert_eq!((index.version(), index.len()), (1, 1));
        assert_eq!(found(&index, &query("old", None, Mode::Keyword)).len(), 1);
    };
    let no_direction = || ApplyError::NoDirection { chunk_id: Uuid::from_u128(3) };
    check(axis(0, 0.0), no_direction());
    check(axis(0, f32::NAN), no_direction());
    check(axis(0, f32::NEG_INFINITY), no_direction());
    let wrong = |found| ApplyError::WrongDimensions { chunk_id: Uuid::from_u128(3), expected: DIMENSIONS, found };
    check(vec![1.0; 3], wrong(3));
    check(Vec::new(), wrong(0));
}

#[test]
fn versions_do_not_go_back() {
    let index = Index::new(settings());
    index.apply(batch(7, Vec::new())).expect("a sound batch");
    index.apply(batch(7, vec![chunk(1, "same version", axis(0, 1.0))])).expect("the same version again");
    let refused = index.apply(batch(6, vec![chunk(2, "late", axis(0, 1.0))]));
    assert_eq!(refused, Err(ApplyError::VersionWentBack { index: 7, batch: 6 }));
    assert_eq!((index.version(), index.len()), (7, 1));
}

#[test]
fn embeddings_of_any_length_have_a_direction() {
    let index = Index::new(settings());
    let lengths = [f32::MAX, 1.0, 1e-30, f32::MIN_POSITIVE / 4.0];
    let chunks = lengths.iter().zip(1..).map(|(length, number)| chunk(number, "", axis(0, *length))).collect();
    index.apply(batch(1, chunks)).expect("a sound batch");
    for length in lengths {
        let embedding = axis(0, length);
        let found = found(&index, &query("", Some(&embedding), Mode::Semantic));
        assert_eq!(found, [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.0)]);
    }
}

#[test]
fn a_question_without_a_direction_is_refused() {
    let index = Index::new(settings());
    let check = |embedding: Option<&[f32]>, expected: SearchError| {
        for mode in [Mode::Semantic, Mode::Hybrid] {
            assert_eq!(index.search(&query("word", embedding, mode)).expect_err("refused"), expected);
        }
        assert!(found(&index, &query("word", embedding, Mode::Keyword)).is_empty());
    };
    check(None, SearchError::NoEmbedding);
    check(Some(&[1.0]), SearchError::WrongDimensions { expected: DIMENSIONS, found: 1 });
    check(Some(&axis(3, 0.0)), SearchError::NoDirection);
    check(Some(&axis(3, f32::NAN)), SearchError::NoDirection);
}

#[test]
fn the_last_of_an_id_in_a_batch_counts() {
    let index = Index::new(settings());
    let twice =
        vec![chunk(1, "first", axis(0, 1.0)), chunk(2, "other", axis(0, 1.0)), chunk(1, "second", axis(0, 1.0))];
    index.apply(batch(1, twice)).expect("a sound batch");
    assert_eq!(index.len(), 2);
    assert!(found(&index, &query("first", None, Mode::Keyword)).is_empty());
    let again =
        Batch { version: 2, upserts: vec![chunk(1, "third", axis(0, 1.0))], deletions: vec![Uuid::from_u128(1)] };
    index.apply(again).expect("a sound batch");
    assert_eq!(found(&index, &query("third second", None, Mode::Keyword)).len(), 1, "deletions come first");
    let unknown = Batch { version: 3, upserts: Vec::new(), deletions: vec![Uuid::from_u128(99)] };
    index.apply(unknown).expect("what is not there can be deleted");
    assert_eq!(index.len(), 2);
}

#[test]
fn a_key_is_known_as_long_as_a_live_chunk_has_it() {
    let index = Index::new(settings());
    let filter = Filter::from_json(&json!({ "type": "exists", "key": "number" })).expect("a filter");
    let query = Query { filter: Some(&filter), ..query("word", None, Mode::Keyword) };
    assert!(found(&index, &query).is_empty(), "an empty index knows no key and has no hits");
    let mut other = chunk(2, "word", axis(0, 1.0));
    other.metadata = json!({ "lang": "en", "number": null }).as_object().expect("an object").clone();
    index.apply(batch(1, vec![chunk(1, "word", axis(0, 1.0)), other])).expect("a sound batch");
    assert_eq!(found(&index, &query).len(), 1);
    let deletion = Batch { version: 2, upserts: Vec::new(), deletions: vec![Uuid::from_u128(1)] };
    index.apply(deletion).expect("a sound batch");
    let error = index.search(&query).expect_err("nobody has the key");
    assert_eq!(error, SearchError::UnknownKey { key: "number".to_owned(), known: vec!["lang".to_owned()] });
    assert_eq!(error.to_string(), "no chunk has the metadata key \"number\"; there are: lang");
}

#[test]
fn top_k_has_no_bound_but_the_chunks() {
    let index = Index::new(settings());
    index.apply(batch(1, (1..=60).map(|n| chunk(n, "word", axis(0, 1.0))).collect())).expect("a sound batch");
    let embedding = axis(0, 2.0);
    for mode in [Mode::Hybrid, Mode::Semantic, Mode::Keyword] {
        for (top_k, expected) in [(0, 0), (1, 1), (60, 60), (usize::MAX, 60)] {
            let query = Query { top_k, ..query("word", Some(&embedding), mode) };
            assert_eq!(found(&index, &query).len(), expected, "{mode:?}");
        }
    }
}

#[test]
fn a_filter_that_keeps_k_gives_k() {
    let index = Index::new(settings());
    index.apply(batch(1, (1..=500).map(|n| chunk(n, "word", axis(0, 1.0))).collect())).expect("a sound batch");
    let filter = Filter::from_json(&json!({ "type": "gt", "key": "number", "value": 490 })).expect("a filter");
    let embedding = axis(1, 1.0);
    for mode in [Mode::Hybrid, Mode::Semantic, Mode::Keyword] {
        let query = Query { filter: Some(&filter), ..query("word", Some(&embedding), mode) };
        let ids: Vec<u128> = found(&index, &query).iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, (491..=500).collect::<Vec<_>>(), "{mode:?}");
    }
}

#[test]
fn scores_say_what_they_mean() {
    let index = Index::new(settings());
    let chunks = vec![
        chunk(1, "vacuum", axis(0, 1.0)),
        chunk(2, "vacuum of tables and of whatever else", axis(0, -1.0)),
        chunk(3, "locks", axis(1, 1.0)),
    ];
    index.apply(batch(1, chunks)).expect("a sound batch");
    let embedding = axis(0, 1.0);
    let semantic = found(&index, &query("", Some(&embedding), Mode::Semantic));
    assert_eq!(semantic, [(1, 1.0), (3, 0.0), (2, 0.0)], "opposite comes last, and no score is negative");
    let hybrid = found(&index, &query("vacuum", Some(&embedding), Mode::Hybrid));
    let keyword = found(&index, &query("vacuum", None, Mode::Keyword));
    assert_eq!(hybrid[0], (1, (1.0 + 2.0 * keyword[0].1) / 3.0), "the mean of both, weighted");
    let locks = hybrid.iter().find(|(id, _)| *id == 3).expect("all are hits");
    assert_eq!(locks.1, 0.0, "across, and without a word");
    let alone = found(&index, &query("vacuum", None, Mode::Keyword));
    let with_unknown = found(&index, &query("vacuum nowhere", None, Mode::Keyword));
    assert!(alone[0].1 > alone[1].1 && alone[0].1 < 1.0);
    assert!(with_unknown[0].1 < alone[0].1 / 2.0, "half of the question is not covered");
}

#[test]
fn explanations_are_stable_json() {
    let index = Index::new(settings());
    let chunks = vec![chunk(1, "vacuum", axis(0, 1.0)), chunk(2, "locks", axis(0, 1.0))];
    index.apply(batch(1, chunks)).expect("a sound batch");
    let embedding = axis(0, 1.0);
    let filter = Filter::from_json(&json!({ "type": "lt", "key": "number", "value": 2 })).expect("a filter");
    let query = Query { filter: Some(&filter), explain: true, ..query("vacuum", Some(&embedding), Mode::Hybrid) };
    let answer = index.search(&query).expect("an answer");
    let keyword = &answer.explain.as_ref().expect("it was asked for").keyword.expect("a keyword list");
    assert!(keyword.ceiling > 0.0);
    assert_eq!(
        serde_json::to_value(&answer.explain).expect("JSON"),
        json!({
            "mode": "hybrid",
            "fusion": { "constant": 10.0, "semantic_weight": 1.0, "keyword_weight": 2.0 },
            "chunks": 2,
            "segments": 1,
            "rounds": 1,
            "filter": { "matches": 1, "share": 0.5 },
            "semantic": {
                "listed": 1,
                "segments": [{ "chunks": 2, "way": "scan" }],
                "walked": 0,
                "estimated": 0,
                "scanned": 1,
                "rescored": 1,
            },
            "keyword": { "listed": 1, "terms": 1, "postings": 1, "ceiling": keyword.ceiling },
        })
    );
    let explain = answer.hits[0].explain.expect("it was asked for");
    let raw = explain.keyword.expect("a keyword list").raw;
    assert_eq!(
        serde_json::to_value(explain).expect("JSON"),
        json!({
            "relevance": 1.0,
            "recency": null,
            "semantic": { "rank": 1, "raw": 1.0, "score": 1.0 },
            "keyword": { "rank": 1, "raw": raw, "score": raw / keyword.ceiling },
        })
    );
}

#[test]
fn explanations_say_what_a_list_would_measure_that_a_hit_is_not_in() {
    let index = Index::new(settings());
    // The first has the word and is across; all others are near, and have it not.
    let chunks = (1..=40).map(|n| match n {
        1 => chunk(n, "vacuum", axis(1, 1.0)),
        _ => chunk(n, "other", axis(0, 1.0)),
    });
    index.apply(batch(1, chunks.collect())).expect("a sound batch");
    let embedding = axis(0, 1.0);
    let filter = Filter::from_json(&json!({ "type": "gt", "key": "number", "value": 99 })).expect("a filter");
    let asked = Query { explain: true, ..query("vacuum", Some(&embedding), Mode::Hybrid) };
    let answer = index.search(&asked).expect("an answer");
    let semantic = |at: usize| answer.hits[at].explain.expect("it was asked for").semantic.expect("one");
    let keyword = |at: usize| answer.hits[at].explain.expect("it was asked for").keyword.expect("one");
    assert_eq!(answer.hits[0].row().id, Uuid::from_u128(1));
    assert_eq!((semantic(0).rank, semantic(0).raw, keyword(0).rank), (None, 0.0, Some(1)));
    assert_eq!((semantic(1).rank, keyword(1).rank, keyword(1).raw), (Some(1), None, 0.0));
    assert_eq!(answer.hits[0].score, 2.0 * keyword(0).score / 3.0);

    for mode in [Mode::Hybrid, Mode::Keyword] {
        let answer = index.search(&Query { filter: Some(&filter), mode, ..asked }).expect("an answer");
        let explain = serde_json::to_value(answer.explain).expect("JSON");
        assert_eq!(explain["filter"], json!({ "matches": 0, "share": 0.0 }), "{mode:?}");
    }
}

#[test]
fn as_many_documents_come_back_as_fit_however_deep_they_are() {
    let index = Index::new(settings());
    // The first document has nearly all, and the best.
    let chunks = (1..=2_000).map(|n| {
        let mut one = chunk(n, "word", axis(0, 1.0));
        if n > 1_990 {
            one.document_id = Uuid::from_u128(n);
            one.embedding[1] = 1.0;
            one.content.push_str(" and others that make it longer");
        }
        one
    });
    index.apply(batch(1, chunks.collect())).expect("a sound batch");
    let embedding = axis(0, 1.0);
    let options = Options { group_by_document: true, ..Options::default() };
    for mode in [Mode::Hybrid, Mode::Semantic, Mode::Keyword] {
        for (top_k, expected) in [(1, 1), (10, 10), (11, 11), (12, 11)] {
            let asked = Query { top_k, options, explain: true, ..query("word", Some(&embedding), mode) };
            let answer = index.search(&asked).expect("an answer");
            assert_eq!(answer.hits.len(), expected, "{mode:?}");
            assert_eq!(answer.hits[0].row().document_id, Uuid::from_u128(1));
            assert_eq!(answer.explain.expect("it was asked for").rounds > 1, top_k > 1);
        }
        let best = Options { min_score: 0.999, ..options };
        let asked = Query { top_k: 5, options: best, explain: true, ..query("word", Some(&embedding), mode) };
        let answer = index.search(&asked).expect("an answer");
        assert_eq!(answer.hits.len(), usize::from(mode == Mode::Semantic));
    }
}

#[test]
fn no_list_becomes_longer_once_nothing_else_can_be_good_enough() {
    let index = Index::new(settings());
    let chunks = (1..=2_000).map(|n| chunk(n, if n < 9 { "word" } else { "other" }, axis((n > 8).into(), 1.0)));
    index.apply(batch(1, chunks.collect())).expect("a sound batch");
    let embedding = axis(0, 1.0);
    let options = Options { min_score: 0.4, ..Options::default() };
    for mode in [Mode::Hybrid, Mode::Semantic, Mode::Keyword] {
        let asked = Query { top_k: 20, options, explain: true, ..query("word", Some(&embedding), mode) };
        let answer = index.search(&asked).expect("an answer");
        assert_eq!((answer.hits.len(), answer.explain.expect("it was asked for").rounds), (8, 1), "{mode:?}");
    }
}

#[test]
fn hits_show_their_neighbours_and_the_words() {
    let index = Index::new(settings());
    let chunks =
        (0..5).map(|n| chunk(n + 1, ["one", "two", "Vacuuming; vacuum", "four", "five"][n as usize], axis(0, 1.0)));
    index.apply(batch(1, chunks.collect())).expect("a sound batch");
    let filter = Filter::from_json(&json!({ "type": "ne", "key": "number", "value": 5 })).expect("a filter");
    let options = Options { expand: 2, highlight: true, ..Options::default() };
    let asked = Query { filter: Some(&filter), options, ..query("vacuum", None, Mode::Keyword) };
    let answer = index.search(&asked).expect("an answer");
    let hit = &answer.hits[0];
    let contents = |neighbours: &[Neighbour]| {
        neighbours.iter().map(|neighbour| neighbour.row().content.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(contents(&hit.before), ["one", "two"]);
    assert_eq!(contents(&hit.after), ["four"], "what the filter keeps out is not shown");
    assert_eq!(hit.highlights, Some(vec![0..9, 11..17]));
    let plain = index.search(&query("vacuum", None, Mode::Keyword)).expect("an answer");
    assert!(plain.hits[0].before.is_empty() && plain.hits[0].highlights.is_none());
}

#[test]
fn a_hit_outlives_the_index() {
    let index = Index::new(settings());
    index.apply(batch(1, vec![chunk(1, "word", axis(0, 1.0))])).expect("a sound batch");
    let answer = index.search(&query("word", None, Mode::Keyword)).expect("an answer");
    index.apply(Batch { version: 2, upserts: Vec::new(), deletions: vec![Uuid::from_u128(1)] }).expect("a sound batch");
    drop(index);
    assert_eq!(answer.hits[0].row().content, "word");
    assert_eq!(answer.version, 1);
}

#[test]
fn what_is_excluded_is_in_neither_list() {
    let index = Index::new(settings());
    let chunks =
        [(1, "vacuum full"), (2, "vacuum only"), (3, "the full text"), (4, "tuples, dead ones"), (5, "dead tuples")];
    let upserts = chunks.map(|(number, text)| chunk(number, text, axis(number as usize, 1.0)));
    index.apply(batch(1, upserts.to_vec())).expect("a sound batch");
    let near_the_first = axis(1, 1.0);
    let check = |text: &str, mode: Mode, expected: &[u128]| {
        let mut found: Vec<u128> =
            found(&index, &query(text, Some(&near_the_first), mode)).into_iter().map(|(number, _)| number).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{text} {mode:?}");
    };
    check("vacuum -full", Mode::Keyword, &[2]);
    check("vacuum -full", Mode::Hybrid, &[2, 4, 5]);
    check("vacuum -full", Mode::Semantic, &[1, 2, 3, 4, 5]);
    check("\"dead tuples\"", Mode::Keyword, &[5]);
    check("\"dead tuples\"", Mode::Hybrid, &[5]);
    check("tuples -\"dead tuples\"", Mode::Hybrid, &[1, 2, 3, 4]);
    // An open quote and a dash alone are nothing.
    check("\"dead tuples", Mode::Keyword, &[4, 5]);
    check("tuples - dead", Mode::Keyword, &[4, 5]);
    for only in ["-full", "-\"dead tuples\" -full"] {
        check(only, Mode::Keyword, &[]);
        check(only, Mode::Hybrid, &[]);
    }
    let typing = Query { prefix: true, ..query("vac", None, Mode::Keyword) };
    assert_eq!(found(&index, &typing).len(), 2);
    assert_eq!(found(&index, &Query { prefix: false, ..typing }).len(), 0);
}

#[test]
fn the_best_come_first_of_those_that_have_a_phrase() {
    let index = Index::new(settings());
    // Many with all words of the phrase, few with the phrase, not the best of them.
    let text = |number: u128| match number % 400 {
        0 => "a long text that says at its end: dead tuples".to_owned(),
        _ => format!("tuples, w{number}, dead tuples w{number}").replace("dead tuples", "dead, no tuples"),
    };
    let upserts = (0..2_000).map(|number| chunk(number, &text(number), axis(number as usize % 16, 1.0))).collect();
    index.apply(batch(1, upserts)).expect("a sound batch");
    let embedding = axis(3, 1.0);
    for mode in [Mode::Keyword, Mode::Hybrid] {
        for top_k in [0, 1, 4, 5, 6, 100] {
            let query = Query { top_k, ..query("\"dead tuples\"", Some(&embedding), mode) };
            let mut found: Vec<u128> = found(&index, &query).into_iter().map(|(number, _)| number).collect();
            if mode == Mode::Hybrid {
                found.sort_unstable();
            }
            let expected: Vec<u128> = (0..5).map(|number| number * 400).take(top_k).collect();
            assert_eq!(found.len(), expected.len(), "{mode:?}, {top_k}");
            assert!(top_k < 5 && mode == Mode::Hybrid || found == expected, "{found:?}");
        }
    }
    let without = query("tuples -\"dead no\"", None, Mode::Keyword);
    assert_eq!(found(&index, &without).len(), 5);
}

proptest! {
    #[test]
    fn any_text_can_be_asked(text in "(?s).{0,40}|[\"“” \\-a-c_.:']{0,20}", prefix in any::<bool>()) {
        let index = Index::new(settings());
        index.apply(batch(1, vec![chunk(1, "a b c a-b_c", axis(0, 1.0)), chunk(2, &text, axis(1, 1.0))])).expect("a batch");
        let embedding = axis(1, 1.0);
        for mode in [Mode::Keyword, Mode::Semantic, Mode::Hybrid] {
            let query = Query { prefix, ..query(&text, Some(&embedding), mode) };
            prop_assert!(index.search(&query).is_ok());
        }
    }
}

/// The bytes of every file of a snapshot.
fn saved(index: &Index) -> Vec<u8> {
    let folder = tempfile::TempDir::new().expect("a folder");
    index.snapshot(folder.path()).expect("a snapshot");
    let files = std::fs::read_dir(folder.path()).expect("a folder").flatten();
    files.flat_map(|file| std::fs::read(file.path()).expect("a file")).collect()
}

#[test]
fn nothing_of_a_deleted_chunk_is_left_after_a_purge() {
    let index = Index::new(settings());
    let mut chunks: Vec<Chunk> = (0..20).map(|n| chunk(n, "an ordinary text", axis(0, 1.0))).collect();
    let mut secret = chunk(20, "the zanzibar text", axis(1, 1.0));
    secret.document_id = Uuid::from_bytes(*b"the-secret-docid");
    secret.external_id = "zanzibar-file".to_owned();
    secret.title = "Zanzibar title".to_owned();
    secret.heading = "Zanzibar heading".to_owned();
    secret.source_url = Some("https://zanzibar.example".to_owned());
    secret.metadata = json!({ "zanzibar_key": "zanzibar value" }).as_object().expect("an object").clone();
    chunks.push(secret);
    index.apply(batch(1, chunks)).expect("a sound batch");
    let holds = |index: &Index, what: &[u8]| {
        let bytes = saved(index).to_ascii_lowercase();
        bytes.windows(what.len()).any(|window| window == what)
    };
    assert!(holds(&index, b"zanzibar") && holds(&index, b"the-secret-docid"));
    let deletion = Batch { version: 2, upserts: Vec::new(), deletions: vec![Uuid::from_u128(20)] };
    index.apply(deletion).expect("a sound batch");
    let before = index.memory_bytes();
    index.purge();
    assert!(!holds(&index, b"zanzi") && !holds(&index, b"the-secret-docid"));
    assert!(index.memory_bytes() < before);
    assert_eq!((index.version(), index.len()), (2, 20));
    assert_eq!(found(&index, &query("zanzibar", None, Mode::Keyword)), []);
    let unknown = Filter::from_json(&json!({ "type": "exists", "key": "zanzibar_key" })).expect("a filter");
    let asked = Query { filter: Some(&unknown), ..query("text", None, Mode::Keyword) };
    assert!(matches!(index.search(&asked), Err(SearchError::UnknownKey { .. })));
}
