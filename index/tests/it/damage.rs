//! Snapshots that are not what was saved: an error each time, never a panic and never a wrong answer.

use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use tempfile::TempDir;
use tertulia_index::{Analyzer, Batch, Chunk, Index, RestoreError, Settings, verify_snapshot};

use crate::{assert_same, draw, plain::Plain, settings};

/// Some chunks, the same ones in each run.
fn chunks(count: usize) -> Vec<Chunk> {
    let mut runner = TestRunner::deterministic();
    vec(draw::chunk(), count).new_tree(&mut runner).expect("chunks").current()
}

/// An index of two segments, in one of which something is deleted, and what it should hold.
fn example() -> (Index, Plain) {
    let chunks = chunks(40);
    let index = Index::new(settings());
    let mut plain = Plain::default();
    let (many, few) = chunks.split_at(32);
    let batches = [
        Batch { version: 5, upserts: many.to_vec(), deletions: Vec::new() },
        Batch { version: 6, upserts: few[..3].to_vec(), deletions: vec![many[0].id, many[1].id] },
    ];
    for batch in batches {
        plain.apply(&batch);
        index.apply(batch).expect("a sound batch");
    }
    (index, plain)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

fn restore(folder: &Path) -> Result<Index, RestoreError> {
    Index::restore(folder, &settings())
}

fn saved() -> (TempDir, Index, Plain) {
    let folder = TempDir::new().expect("a folder");
    let (index, plain) = example();
    index.snapshot(folder.path()).expect("a snapshot");
    (folder, index, plain)
}

#[test]
fn each_byte_and_each_length_counts() {
    let (folder, _, plain) = saved();
    let files = files(folder.path());
    assert_eq!(files.len(), 3, "two segments and the manifest: {files:?}");
    for path in files {
        let sound = fs::read(&path).expect("a file");
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(&path, &damaged).expect("written");
            assert!(restore(folder.path()).is_err(), "{}: byte {at} flipped", path.display());
        }
        for length in (0..sound.len()).step_by(7) {
            fs::write(&path, &sound[..length]).expect("written");
            assert!(restore(folder.path()).is_err(), "{}: cut to {length}", path.display());
            assert!(verify_snapshot(folder.path()).is_err());
        }
        let mut longer = sound.clone();
        longer.push(0);
        fs::write(&path, &longer).expect("written");
        assert!(restore(folder.path()).is_err(), "{}: a byte more", path.display());
        fs::remove_file(&path).expect("removed");
        let is_manifest = path.ends_with("manifest");
        match restore(folder.path()) {
            Err(RestoreError::Missing) if is_manifest => {}
            Err(RestoreError::Damaged { path: named, what: "missing" }) if !is_manifest => assert_eq!(named, path),
            other => panic!("{other:?}"),
        }
        fs::write(&path, &sound).expect("written");
    }
    verify_snapshot(folder.path()).expect("all is mended");
    let index = restore(folder.path()).expect("all is mended");
    assert_eq!((index.version(), index.len()), (6, plain.chunks.len()));
}

#[test]
fn two_segments_do_not_pass_for_each_other() {
    let (folder, ..) = saved();
    let segments: Vec<_> = files(folder.path()).into_iter().filter(|path| !path.ends_with("manifest")).collect();
    let spare = folder.path().join("spare");
    fs::rename(&segments[0], &spare).expect("renamed");
    fs::rename(&segments[1], &segments[0]).expect("renamed");
    fs::rename(&spare, &segments[1]).expect("renamed");
    assert!(matches!(restore(folder.path()), Err(RestoreError::Damaged { .. })));
}

#[test]
fn what_a_crash_leaves_is_the_old_snapshot_or_the_new_one() {
    let (folder, index, plain) = saved();
    let before = files(folder.path());
    let old: Vec<_> = before.iter().map(|path| (path.clone(), fs::read(path).expect("a file"))).collect();
    index.apply(Batch { version: 7, upserts: chunks(48), deletions: Vec::new() }).expect("a sound batch");
    index.snapshot(folder.path()).expect("a snapshot");
    let new: Vec<_> =
        files(folder.path()).into_iter().map(|path| (path.clone(), fs::read(path).expect("a file"))).collect();
    let manifest = |files: &[(PathBuf, Vec<u8>)]| {
        files.iter().find(|(path, _)| path.ends_with("manifest")).expect("a manifest").1.clone()
    };

    // Files are made in this order; a crash may come after each, and cut the last one short under its passing name.
    let segments: Vec<_> = new.iter().filter(|(path, _)| !path.ends_with("manifest")).collect();
    for reached in 0..=segments.len() {
        let crashed = TempDir::new().expect("a folder");
        let put = |path: &Path, bytes: &[u8]| {
            fs::write(crashed.path().join(path.file_name().expect("a name")), bytes).expect("written");
        };
        old.iter().for_each(|(path, bytes)| put(path, bytes));
        segments[..reached].iter().for_each(|(path, bytes)| put(path, bytes));
        put(Path::new("segment-00.new"), b"cut sho");
        put(Path::new("manifest.new"), &manifest(&new)[..10]);
        let index = restore(crashed.path()).expect("the old snapshot");
        assert_eq!((index.version(), index.len()), (6, plain.chunks.len()));

        // The manifest's rename is the moment.
        segments.iter().for_each(|(path, bytes)| put(path, bytes));
        put(Path::new("manifest"), &manifest(&new));
        let index = restore(crashed.path()).expect("the new snapshot");
        assert_eq!(index.version(), 7);

        // The next one clears away what was left.
        put(Path::new("somebody-else's"), b"stays");
        index.snapshot(crashed.path()).expect("a snapshot");
        let names = |folder: &Path| -> Vec<_> {
            files(folder).iter().map(|path| path.file_name().expect("a name").to_owned()).collect()
        };
        let mut expected = names(folder.path());
        expected.push("somebody-else's".into());
        expected.sort();
        assert_eq!(names(crashed.path()), expected);
    }
}

#[test]
fn a_segment_is_written_once() {
    let (folder, index, _) = saved();
    let times = || -> Vec<_> {
        let segments = files(folder.path()).into_iter().filter(|path| !path.ends_with("manifest"));
        segments
            .map(|path| (path.clone(), fs::metadata(path).and_then(|file| file.modified()).expect("a time")))
            .collect()
    };
    let before = times();
    index.apply(Batch { version: 9, upserts: Vec::new(), deletions: vec![chunks(3)[2].id] }).expect("a sound batch");
    index.snapshot(folder.path()).expect("a snapshot");
    assert_eq!(times(), before);
    assert_eq!(restore(folder.path()).expect("a snapshot").version(), 9);
}

#[test]
fn a_restored_index_goes_on() {
    let (folder, _, mut plain) = saved();
    let index = restore(folder.path()).expect("a snapshot");
    let batch =
        Batch { version: 8, upserts: chunks(12), deletions: chunks(20)[12..].iter().map(|chunk| chunk.id).collect() };
    plain.apply(&batch);
    index.apply(batch).expect("a sound batch");
    let mut runner = TestRunner::deterministic();
    for _ in 0..40 {
        assert_same(&index, &plain, &draw::question().new_tree(&mut runner).expect("a question").current());
    }
    assert!(index.apply(Batch { version: 7, ..Batch::default() }).is_err(), "the version is restored too");
}

#[test]
fn a_snapshot_of_other_settings_is_foreign() {
    let (folder, ..) = saved();
    let check = |settings: Settings, expected: &str| match Index::restore(folder.path(), &settings) {
        Err(RestoreError::Foreign { what, .. }) => assert_eq!(what, expected),
        other => panic!("{other:?}"),
    };
    check(Settings { encoder: "another".to_owned(), ..settings() }, "encoder");
    check(Settings { dimensions: 32, ..settings() }, "dimensions");
    check(Settings { analyzer: Analyzer::Simple, ..settings() }, "analyzer");
    verify_snapshot(folder.path()).expect("sound under its own settings");
}

#[test]
fn a_snapshot_of_another_format_is_foreign() {
    let (folder, ..) = saved();
    let path = folder.path().join("manifest");
    let manifest = fs::read_to_string(&path).expect("a manifest");
    let json = manifest.lines().next().expect("a line").replacen("\"format\":4", "\"format\":2", 1);
    let checksum = xxhash_rust::xxh3::xxh3_128(json.as_bytes());
    fs::write(&path, format!("{json}\n{checksum:032x}\n")).expect("written");
    assert!(matches!(restore(folder.path()), Err(RestoreError::Foreign { what: "format", .. })));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (folder, ..) = saved();
    let path = folder.path().join("manifest");
    let manifest = fs::read_to_string(&path).expect("a manifest");
    let json = manifest.lines().next().expect("a line").replacen("\"segment-", "\"../segment-", 1);
    let checksum = xxhash_rust::xxh3::xxh3_128(json.as_bytes());
    fs::write(&path, format!("{json}\n{checksum:032x}\n")).expect("written");
    assert!(matches!(restore(folder.path()), Err(RestoreError::Damaged { .. })));
}

#[test]
fn folders_that_are_none_are_told_apart() {
    let folder = TempDir::new().expect("a folder");
    assert!(matches!(restore(folder.path()), Err(RestoreError::Missing)));
    assert!(matches!(restore(&folder.path().join("not/there")), Err(RestoreError::Missing)));
    let file = folder.path().join("file");
    fs::write(&file, "a file").expect("written");
    assert!(restore(&file).is_err());
    let error = example().0.snapshot(&file.join("below")).expect_err("a file is no folder");
    assert!(error.to_string().contains("cannot be written"));
}

#[test]
fn an_empty_index_is_saved_too() {
    let folder = TempDir::new().expect("a folder");
    let index = Index::new(settings());
    index.apply(Batch { version: 3, ..Batch::default() }).expect("a sound batch");
    index.snapshot(folder.path()).expect("a snapshot");
    let index = restore(folder.path()).expect("a snapshot");
    assert_eq!((index.version(), index.len()), (3, 0));
}
