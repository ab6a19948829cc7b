//! Graphs over large segments: built beside searches and writers, saved, and no reason ever to fail.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Map, json};
use tempfile::TempDir;
use tertulia_index::{
    Batch, Chunk, Filter, Fusion, GraphStep, GraphWatch, Index, Mode, Options, Query, RestoreError, SemanticExplain,
    Settings, VectorSearch, VectorWay, verify_snapshot,
};
use uuid::Uuid;

use crate::settings;

const DIMENSIONS: usize = 32;

fn graph_settings() -> Settings {
    Settings { dimensions: DIMENSIONS, vectors: VectorSearch::Graph, ..settings() }
}

fn random(rng: &mut StdRng) -> Vec<f32> {
    let row: Vec<f32> = (0..DIMENSIONS).map(|_| rng.random_range(-1.0..1.0)).collect();
    let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    row.into_iter().map(|value| value / length).collect()
}

/// Chunks of those numbers; `seed` draws their embeddings.
fn chunks(seed: u64, numbers: std::ops::Range<u128>) -> Vec<Chunk> {
    let rng = &mut StdRng::seed_from_u64(seed);
    numbers
        .map(|number| Chunk {
            id: Uuid::from_u128(number),
            document_id: Uuid::from_u128(number / 10),
            external_id: String::new(),
            title: String::new(),
            source_url: None,
            heading: String::new(),
            ordinal: 0,
            content: "text".to_owned(),
            embedding: random(rng),
            metadata: Map::from_iter([("of100".to_owned(), json!(number as u64 % 100))]),
        })
        .collect()
}

fn indexed(settings: Settings, chunks: &[Chunk]) -> Index {
    let index = Index::new(settings);
    index.apply(Batch { version: 1, upserts: chunks.to_vec(), deletions: Vec::new() }).expect("a sound batch");
    index
}

/// Builds what graphs there are to build; gives back how many rows they have.
fn build(index: &Index) -> Vec<usize> {
    let mut built = Vec::new();
    loop {
        match index.build_graphs(Duration::from_millis(2), usize::MAX) {
            GraphStep::Idle => return built,
            GraphStep::Unfinished => {}
            GraphStep::Built(graph) => built.push(graph.rows),
            step => panic!("{step:?}"),
        }
    }
}

fn search(index: &Index, embedding: &[f32], filter: Option<&Filter>, top_k: usize) -> (Vec<Uuid>, SemanticExplain) {
    let query = Query {
        text: "",
        prefix: false,
        embedding: Some(embedding),
        top_k,
        mode: Mode::Semantic,
        filter,
        fusion: Fusion::default(),
        options: Options::default(),
        explain: true,
    };
    let answer = index.search(&query).expect("an answer");
    let ids = answer.hits.iter().map(|hit| hit.row().id).collect();
    (ids, answer.explain.and_then(|explain| explain.semantic).expect("it was asked for"))
}

fn ways(index: &Index) -> Vec<(usize, VectorWay)> {
    let (_, explain) = search(index, &[1.0; DIMENSIONS], None, 10);
    explain.segments.iter().map(|segment| (segment.chunks, segment.way)).collect()
}

/// The nearest of `chunks`, each compared.
fn nearest(chunks: &[Chunk], query: &[f32], top_k: usize) -> Vec<Uuid> {
    let dot = |chunk: &Chunk| chunk.embedding.iter().zip(query).map(|(left, right)| left * right).sum::<f32>();
    let mut all: Vec<_> = chunks.iter().map(|chunk| (dot(chunk), chunk.id)).collect();
    all.sort_by(|left, right| right.0.total_cmp(&left.0));
    all.into_iter().take(top_k).map(|(_, id)| id).collect()
}

/// Panics unless the index finds nearly all that is nearest, and as many as there are.
fn assert_finds(index: &Index, chunks: &[Chunk]) {
    let rng = &mut StdRng::seed_from_u64(99);
    let (mut found, mut wanted) = (0, 0);
    for below in [100, 100, 50, 10, 2, 1] {
        let filter = json!({ "type": "lt", "key": "of100", "value": below });
        let filter = (below < 100).then(|| Filter::from_json(&filter).expect("a filter"));
        let kept: Vec<Chunk> =
            chunks.iter().filter(|chunk| chunk.metadata["of100"].as_u64() < Some(below)).cloned().collect();
        for top_k in [1, 10, 100] {
            let query = random(rng);
            let (ids, _) = search(index, &query, filter.as_ref(), top_k);
            let expected = nearest(&kept, &query, top_k);
            assert_eq!(ids.len(), expected.len(), "{top_k} of the lowest {below}");
            wanted += expected.len();
            found += ids.iter().filter(|id| expected.contains(id)).count();
        }
    }
    assert!(found * 100 >= wanted * 98, "{found} of {wanted}");
}

#[test]
fn large_segments_get_a_graph_and_answers_stay() {
    let mut all = chunks(1, 0..3_000);
    let index = indexed(graph_settings(), &all);
    assert_eq!(ways(&index), [(3_000, VectorWay::Scan)]);
    let before = index.memory_bytes();
    assert_eq!(build(&index), [3_000]);
    assert!(index.memory_bytes() > before + 3_000 * DIMENSIONS, "a graph is counted");
    assert_eq!(ways(&index), [(3_000, VectorWay::Graph)]);
    assert_finds(&index, &all);

    // What is new is scanned, what is replaced or deleted is not found any more.
    let fresh = chunks(2, 2_900..3_300);
    let deletions: Vec<Uuid> = (0..300).map(Uuid::from_u128).collect();
    index.apply(Batch { version: 2, upserts: fresh.clone(), deletions }).expect("a sound batch");
    all.truncate(2_900);
    all.drain(..300);
    all.extend(fresh);
    assert_eq!(ways(&index), [(3_000, VectorWay::Graph), (400, VectorWay::Scan)]);
    assert_eq!(build(&index), Vec::<usize>::new());
    assert_finds(&index, &all);

    // A merge makes a new segment, which gets a new graph.
    let more = chunks(3, 4_000..6_500);
    index.apply(Batch { version: 3, upserts: more.clone(), deletions: Vec::new() }).expect("a sound batch");
    all.extend(more);
    while index.maintain() {}
    assert_eq!(ways(&index), [(all.len(), VectorWay::Scan)]);
    assert_eq!(build(&index), [all.len()]);
    assert_eq!(ways(&index), [(all.len(), VectorWay::Graph)]);
    assert_finds(&index, &all);
}

#[test]
fn what_is_purged_leaves_a_graph_too() {
    let mut all = chunks(9, 0..2_000);
    let index = indexed(graph_settings(), &all);
    build(&index);
    index.apply(Batch { version: 2, upserts: Vec::new(), deletions: vec![all[7].id] }).expect("a sound batch");
    all.remove(7);
    assert_eq!(ways(&index), [(2_000, VectorWay::Graph)]);
    index.purge();
    assert_eq!(ways(&index), [(1_999, VectorWay::Scan)]);
    assert!(!index.has_unsaved_graph());
    assert_eq!(build(&index), [1_999]);
    assert_finds(&index, &all);

    // While a graph is built, its segment is purged away: it is given up, and its memory with it.
    index.apply(Batch { version: 3, upserts: Vec::new(), deletions: vec![all[0].id] }).expect("a sound batch");
    index.purge();
    let before = index.memory_bytes();
    assert_eq!(index.build_graphs(Duration::ZERO, usize::MAX), GraphStep::Unfinished);
    assert!(index.memory_bytes() > before);
    let deletions = all.iter().map(|chunk| chunk.id).collect();
    index.apply(Batch { version: 4, upserts: Vec::new(), deletions }).expect("a sound batch");
    assert_eq!(index.build_graphs(Duration::ZERO, usize::MAX), GraphStep::Idle);
    assert!(index.is_empty() && index.memory_bytes() < before / 2);
}

#[test]
fn searches_that_are_repeated_tell_what_a_graph_misses() {
    let all = chunks(11, 0..2_000);
    let index = indexed(graph_settings(), &all);
    fn question<'a>(embedding: &'a [f32], filter: Option<&'a Filter>) -> Query<'a> {
        Query {
            text: "text -other",
            embedding: Some(embedding),
            top_k: 3,
            mode: Mode::Hybrid,
            prefix: false,
            filter,
            fusion: Fusion::default(),
            options: Options::default(),
            explain: false,
        }
    }
    let rng = &mut StdRng::seed_from_u64(12);
    let embedding = random(rng);
    assert!(!index.is_approximate());
    assert_eq!(index.watch_graphs(&question(&embedding, None)), Ok(None));
    build(&index);
    assert!(index.is_approximate());
    let half = Filter::from_json(&json!({ "type": "lt", "key": "of100", "value": 50 })).expect("a filter");
    let (mut wanted, mut found) = (0, 0);
    for at in 0..200 {
        let embedding = random(rng);
        let filter = (at % 2 == 1).then_some(&half);
        let watch =
            index.watch_graphs(&question(&embedding, filter)).expect("a sound query").expect("a graph is taken");
        assert_eq!(watch, GraphWatch { wanted: 10, found: watch.found, ..GraphWatch::default() });
        wanted += watch.wanted;
        found += watch.found;
    }
    assert!(found * 100 >= wanted * 98, "{found} of {wanted}");
    // Where no graph is taken there is nothing to tell.
    let few = Filter::from_json(&json!({ "type": "eq", "key": "of100", "value": 1 })).expect("a filter");
    assert_eq!(index.watch_graphs(&question(&embedding, Some(&few))), Ok(None));
    let keyword = Query { mode: Mode::Keyword, ..question(&embedding, None) };
    assert_eq!(index.watch_graphs(&keyword), Ok(None));
    let none = Query { embedding: None, ..question(&embedding, None) };
    assert!(index.watch_graphs(&none).is_err());
}

#[test]
fn a_graph_needs_room() {
    let all = chunks(10, 0..1_000);
    let index = indexed(graph_settings(), &all);
    let before = index.memory_bytes();
    let GraphStep::NoRoom { bytes } = index.build_graphs(Duration::ZERO, 0) else { panic!("no room was needed") };
    assert_eq!(index.build_graphs(Duration::ZERO, bytes - 1), GraphStep::NoRoom { bytes });
    assert_eq!((index.memory_bytes(), ways(&index)), (before, vec![(1_000, VectorWay::Scan)]));
    // What was counted for it when it began is about what it takes.
    assert_eq!(index.build_graphs(Duration::ZERO, bytes), GraphStep::Unfinished);
    assert_eq!(index.memory_bytes(), before + bytes);
    build(&index);
    let taken = index.memory_bytes() - before;
    assert!((bytes / 2..=bytes * 2).contains(&taken), "{taken} of {bytes}");
}

#[test]
fn few_rows_and_other_settings_get_none() {
    let all = chunks(4, 0..1_000);
    assert_eq!(build(&indexed(graph_settings(), &all)), [1_000]);
    assert_eq!(build(&indexed(graph_settings(), &all[..999])), Vec::<usize>::new());
    for vectors in [VectorSearch::Scan, VectorSearch::Auto] {
        let index = indexed(Settings { vectors, ..graph_settings() }, &all);
        assert_eq!(build(&index), Vec::<usize>::new());
        assert_eq!(ways(&index), [(1_000, VectorWay::Scan)]);
    }
    assert_eq!(Index::new(graph_settings()).build_graphs(Duration::ZERO, usize::MAX), GraphStep::Idle);
}

#[test]
fn rows_that_a_graph_cannot_tell_apart_are_scanned() {
    let mut all = chunks(5, 0..1_200);
    let rng = &mut StdRng::seed_from_u64(6);
    let centre = random(rng);
    for chunk in &mut all {
        chunk.embedding = centre.iter().map(|value| value + rng.random_range(-0.000_3..0.000_3)).collect();
    }
    let index = indexed(graph_settings(), &all);
    let next = || loop {
        match index.build_graphs(Duration::from_secs(1), usize::MAX) {
            GraphStep::Unfinished => {}
            step => break step,
        }
    };
    let first = next();
    assert!(matches!(first, GraphStep::TooLittle { recall } if recall < 0.98), "{first:?}");
    let refused = next();
    assert!(matches!(&refused, GraphStep::Refused(reason) if reason.contains("nearest rows")), "{refused:?}");
    assert_eq!(index.build_graphs(Duration::ZERO, usize::MAX), GraphStep::Idle, "it is settled");
    assert_eq!(ways(&index), [(1_200, VectorWay::Scan)]);
}

#[test]
fn searches_and_writers_go_on_while_graphs_are_built() {
    let all = chunks(7, 0..4_000);
    let index = indexed(graph_settings(), &all);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let builder = scope.spawn(|| {
            let mut built = 0;
            while !done.load(SeqCst) {
                built += build(&index).len();
            }
            built + build(&index).len()
        });
        for seed in 0..3 {
            let (index, done) = (&index, &done);
            scope.spawn(move || {
                let rng = &mut StdRng::seed_from_u64(seed);
                while !done.load(SeqCst) {
                    assert_eq!(search(index, &random(rng), None, 20).0.len(), 20);
                }
            });
        }
        for version in 2..40_u64 {
            let first = u128::from(version) * 300;
            let upserts = chunks(version, first..first + 300);
            index.apply(Batch { version, upserts, deletions: vec![Uuid::from_u128(first)] }).expect("a sound batch");
            while index.maintain() {}
        }
        done.store(true, SeqCst);
        assert!(builder.join().expect("no panic") > 0);
    });
    let mut now: std::collections::BTreeMap<Uuid, Chunk> = all.into_iter().map(|chunk| (chunk.id, chunk)).collect();
    for version in 2..40_u64 {
        let first = u128::from(version) * 300;
        now.extend(chunks(version, first..first + 300).into_iter().map(|chunk| (chunk.id, chunk)));
    }
    assert_eq!(index.len(), now.len());
    assert_finds(&index, &now.into_values().collect::<Vec<_>>());
}

fn files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix)))
        .collect();
    paths.sort();
    paths
}

/// A snapshot of an index with a graph, what is in it, and the graph's file.
fn saved() -> (TempDir, Vec<Chunk>, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let all = chunks(8, 0..1_100);
    let index = indexed(graph_settings(), &all);
    assert!(!index.has_unsaved_graph());
    build(&index);
    assert!(index.has_unsaved_graph());
    index.snapshot(folder.path()).expect("a snapshot");
    assert!(!index.has_unsaved_graph());
    let graphs = files(folder.path(), "graph-");
    assert_eq!(graphs.len(), 1, "{graphs:?}");
    (folder, all, graphs[0].clone())
}

fn restore(folder: &Path) -> Index {
    Index::restore(folder, &graph_settings()).expect("a snapshot")
}

#[test]
fn a_graph_is_saved_once_and_there_after_a_restart() {
    let (folder, all, path) = saved();
    verify_snapshot(folder.path()).expect("sound");
    let written = || fs::metadata(&path).and_then(|file| file.modified()).expect("a time");
    let before = written();
    let as_saved = Index::restore_as_saved(folder.path(), VectorSearch::Graph).expect("a snapshot");
    assert_eq!((as_saved.settings(), ways(&as_saved)), (&graph_settings(), vec![(1_100, VectorWay::Graph)]));
    let index = restore(folder.path());
    assert_eq!(ways(&index), [(1_100, VectorWay::Graph)]);
    assert_eq!(build(&index), Vec::<usize>::new());
    assert!(!index.has_unsaved_graph());
    assert_finds(&index, &all);

    let deletions = vec![all[3].id];
    index.apply(Batch { version: 2, upserts: Vec::new(), deletions }).expect("a sound batch");
    index.snapshot(folder.path()).expect("a snapshot");
    assert_eq!(written(), before);
    let index = restore(folder.path());
    assert_eq!(ways(&index), [(1_100, VectorWay::Graph)]);
    assert!(!search(&index, &all[3].embedding, None, 1_100).0.contains(&all[3].id));

    // Where graphs are not wanted, it is neither read nor kept.
    let index = Index::restore(folder.path(), &Settings { vectors: VectorSearch::Scan, ..graph_settings() });
    let index = index.expect("a snapshot");
    assert_eq!(ways(&index), [(1_100, VectorWay::Scan)]);
    index.snapshot(folder.path()).expect("a snapshot");
    assert!(!path.exists());
}

#[test]
fn a_damaged_graph_is_removed_and_built_again() {
    let (folder, all, path) = saved();
    let sound = fs::read(&path).expect("a file");
    let check = |what: &str| {
        assert!(matches!(verify_snapshot(folder.path()), Err(RestoreError::Damaged { .. })), "{what}");
        let as_saved = Index::restore_as_saved(folder.path(), VectorSearch::Graph);
        assert!(matches!(as_saved, Err(RestoreError::Damaged { .. })), "{what}");
        let index = restore(folder.path());
        assert_eq!(ways(&index), [(1_100, VectorWay::Scan)], "{what}");
        assert!(!path.exists(), "{what}");
        index
    };
    for at in (0..sound.len()).step_by(sound.len() / 40).chain([0, 8, 16, 24, 40, 80, sound.len() - 1]) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, &damaged).expect("written");
        check(&format!("byte {at} flipped"));
        fs::write(&path, &sound[..at]).expect("written");
        check(&format!("cut to {at} bytes"));
    }
    let mut longer = sound.clone();
    longer.push(0);
    fs::write(&path, &longer).expect("written");
    check("a byte more");
    let index = check("missing");
    assert_finds(&index, &all);
    assert_eq!(build(&index), [1_100]);
    index.snapshot(folder.path()).expect("a snapshot");
    verify_snapshot(folder.path()).expect("all is mended");
    assert_eq!(ways(&restore(folder.path())), [(1_100, VectorWay::Graph)]);
}

#[test]
fn a_graph_of_another_segment_does_not_pass() {
    let (folder, _, path) = saved();
    let (other, _, _) = saved();
    // The same rows, in a segment with another text: a sound graph, which the manifest is made to name.
    let mut all = chunks(8, 0..1_100);
    all[0].content = "another text".to_owned();
    let index = indexed(graph_settings(), &all);
    build(&index);
    index.snapshot(other.path()).expect("a snapshot");
    let foreign = files(other.path(), "graph-").remove(0);
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    fs::copy(&foreign, folder.path().join(name(&foreign))).expect("copied");
    let manifest = folder.path().join("manifest");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let json = text.lines().next().expect("a line").replace(&name(&path), &name(&foreign));
    let checksum = xxhash_rust::xxh3::xxh3_128(json.as_bytes());
    fs::write(&manifest, format!("{json}\n{checksum:032x}\n")).expect("written");
    assert_eq!(ways(&restore(folder.path())), [(1_100, VectorWay::Scan)]);
    assert!(!folder.path().join(name(&foreign)).exists());

    // Nor does a name that leads out of the folder.
    let json = json.replacen("\"graph-", "\"../graph-", 1);
    let checksum = xxhash_rust::xxh3::xxh3_128(json.as_bytes());
    fs::write(&manifest, format!("{json}\n{checksum:032x}\n")).expect("written");
    assert!(matches!(Index::restore(folder.path(), &graph_settings()), Err(RestoreError::Damaged { .. })));
}
