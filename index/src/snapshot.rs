//! Snapshots: an index in a folder, so that a restart need not build it again.
//!
//! A sealed segment never changes, so its file is written once and named by the hash of its content. What changes, that is,
//! which segments there are, what is deleted in them and the version, stands in the manifest, which comes last:
//!
//! 1. files of new segments, each under a passing name, synced, renamed; then the folder is synced;
//! 2. the manifest likewise: this rename is the moment when the new snapshot counts;
//! 3. files that the manifest does not name are removed.
//!
//! So a crash at any point leaves a whole snapshot, the old one or the new one. The manifest is a line of JSON and a line
//! with its XXH3-128; it holds the hash of each segment's head, which holds those of the sections (see `sections`).
//!
//! A segment's graph has a file of its own, of the same form and named in the manifest too. It can be built again from
//! the segment, so a damaged one, or one of another build, is removed and everything else restored.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::{
    analyze::ANALYZER_VERSION,
    graph::{Graph, VectorSearch},
    index::{Part, Settings, View},
    sections::{LoadError, Seal},
    segment::Segment,
};

/// Goes up when what is in the files changes.
const FORMAT: u64 = 4;
const MANIFEST: &str = "manifest";
const SEGMENT_PREFIX: &str = "segment-";
const GRAPH_PREFIX: &str = "graph-";
const PASSING_SUFFIX: &str = ".new";
/// A megabyte, so that small sections are not written one by one.
const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// Why an index could not be saved.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be written", path.display())]
pub struct SnapshotError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Why an index could not be restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Nothing was saved there.
    #[error("there is no snapshot")]
    Missing,
    /// It is sound, and of no use here.
    #[error("the snapshot's {what} is {found}, and {expected} is wanted")]
    Foreign {
        /// What differs: `format`, `analyzer version`, `encoder`, `dimensions` or `analyzer`.
        what: &'static str,
        /// As saved.
        found: String,
        /// As wanted.
        expected: String,
    },
    /// It is not what was saved.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was noticed.
        what: &'static str,
    },
    /// It is there and cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    format: u64,
    /// What the analyzer made of text; see [`ANALYZER_VERSION`].
    analyzer_version: u32,
    version: u64,
    settings: Settings,
    segments: Vec<ManifestSegment>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ManifestSegment {
    file: String,
    bytes: u64,
    chunks: usize,
    /// Numbers of the documents that are deleted, ascending.
    deleted: Vec<u32>,
    /// Its graph, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    graph: Option<ManifestGraph>,
    /// How many graphs of it found too little.
    #[serde(default, skip_serializing_if = "is_zero")]
    failed_graphs: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Debug, Serialize, Deserialize)]
struct ManifestGraph {
    file: String,
    bytes: u64,
}

/// Saves `view` to `folder`.
pub(crate) fn save(settings: &Settings, view: &View, folder: &Path) -> Result<(), SnapshotError> {
    fs::create_dir_all(folder).map_err(at(folder))?;
    let mut segments = Vec::with_capacity(view.parts.len());
    for part in &view.parts {
        save_segment(&part.segment, folder)?;
        // First, so that a graph that is let go meanwhile is seen to be unsaved.
        let failed_graphs = part.segment.vectors.save_failed_graphs();
        segments.push(manifest_segment(part, save_graph(&part.segment, folder)?, failed_graphs));
    }
    sync_folder(folder)?;
    let manifest = Manifest {
        format: FORMAT,
        analyzer_version: ANALYZER_VERSION,
        version: view.version,
        settings: settings.clone(),
        segments,
    };
    let path = folder.join(MANIFEST);
    write_then_rename(&path, |out| {
        let json = serde_json::to_string(&manifest)?;
        writeln!(out, "{json}\n{:032x}", xxh3_128(json.as_bytes()))
    })?;
    sync_folder(folder)?;
    let graphs = manifest.segments.iter().filter_map(|segment| segment.graph.as_ref()).map(|graph| &graph.file);
    let named: HashSet<&str> =
        manifest.segments.iter().map(|segment| &segment.file).chain(graphs).map(String::as_str).collect();
    remove_others(folder, &named)
}

fn manifest_segment(part: &Part, graph: Option<Seal>, failed_graphs: usize) -> ManifestSegment {
    let seal = part.segment.seal();
    let deleted = part.live().map_or_else(Vec::new, |live| {
        let mut dead = live.clone();
        dead.not();
        dead.iter_ones().collect()
    });
    let graph = graph.map(|seal| ManifestGraph { file: file_name(GRAPH_PREFIX, seal), bytes: seal.bytes });
    let file = file_name(SEGMENT_PREFIX, seal);
    ManifestSegment { file, bytes: seal.bytes, chunks: part.segment.len(), deleted, graph, failed_graphs }
}

fn file_name(prefix: &str, seal: Seal) -> String {
    format!("{prefix}{:032x}", seal.hash)
}

fn seal_of(prefix: &str, file: &str, bytes: u64) -> Option<Seal> {
    let hash = u128::from_str_radix(file.strip_prefix(prefix)?, 16).ok()?;
    let seal = Seal { hash, bytes };
    // One spelling only, so that a name cannot lead out of the folder.
    (file_name(prefix, seal) == file).then_some(seal)
}

fn save_segment(segment: &Segment, folder: &Path) -> Result<(), SnapshotError> {
    let seal = segment.seal();
    let path = folder.join(file_name(SEGMENT_PREFIX, seal));
    if is_saved(&path, seal) {
        return Ok(());
    }
    let sections = segment.sections();
    let (head, _) = sections.head();
    write_then_rename(&path, |out| sections.write_to(&head, out))
}

/// Saves the segment's graph, if it has one, and gives back its seal.
fn save_graph(segment: &Segment, folder: &Path) -> Result<Option<Seal>, SnapshotError> {
    let Some(graph) = segment.vectors.graph() else { return Ok(None) };
    let path = |seal| folder.join(file_name(GRAPH_PREFIX, seal));
    if let Some(seal) = graph.seal().filter(|seal| is_saved(&path(*seal), *seal)) {
        return Ok(Some(seal));
    }
    // One that cannot be saved is built again after a restart.
    let Ok(file) = graph.file(segment.seal()) else {
        graph.set_unsavable();
        return Ok(None);
    };
    let sections = file.sections();
    let (head, seal) = sections.head();
    write_then_rename(&path(seal), |out| sections.write_to(&head, out))?;
    graph.set_saved(&file, seal);
    Ok(Some(seal))
}

fn is_saved(path: &Path, seal: Seal) -> bool {
    fs::metadata(path).is_ok_and(|file| file.len() == seal.bytes)
}

/// Writes a file under a passing name, has it reach the disk, and gives it its name.
fn write_then_rename(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), SnapshotError> {
    let mut passing = path.as_os_str().to_owned();
    passing.push(PASSING_SUFFIX);
    let passing = PathBuf::from(passing);
    let file = File::create(&passing).map_err(at(&passing))?;
    let mut out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, file);
    write(&mut out).map_err(at(&passing))?;
    let file = out.into_inner().map_err(|error| at(&passing)(error.into_error()))?;
    file.sync_all().map_err(at(&passing))?;
    fs::rename(&passing, path).map_err(at(path))
}

/// Has the names in `folder` reach the disk.
fn sync_folder(folder: &Path) -> Result<(), SnapshotError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

/// Removes files of ours that no manifest names: of snapshots before, or left by a crash.
fn remove_others(folder: &Path, named: &HashSet<&str>) -> Result<(), SnapshotError> {
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let name = entry.file_name();
        let is_ours = |name: &str| {
            name.starts_with(SEGMENT_PREFIX) || name.starts_with(GRAPH_PREFIX) || name.ends_with(PASSING_SUFFIX)
        };
        if name.to_str().is_some_and(|name| is_ours(name) && !named.contains(name)) {
            fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    |source| SnapshotError { path, source }
}

/// Reads the snapshot in `folder`, which must have been saved under those settings.
pub(crate) fn load(folder: &Path, expected: &Settings) -> Result<View, RestoreError> {
    let manifest = load_manifest(&folder.join(MANIFEST))?;
    let settings = &manifest.settings;
    same("encoder", &settings.encoder, &expected.encoder)?;
    same("dimensions", &settings.dimensions, &expected.dimensions)?;
    same("analyzer", &settings.analyzer, &expected.analyzer)?;
    load_parts(&manifest, folder, expected.vectors, IfDamaged::Remove)
}

/// Reads the snapshot in `folder` under whatever settings it was saved, but for how vectors are searched. Changes nothing.
pub(crate) fn load_as_saved(folder: &Path, vectors: VectorSearch) -> Result<(Settings, View), RestoreError> {
    let manifest = load_manifest(&folder.join(MANIFEST))?;
    let view = load_parts(&manifest, folder, vectors, IfDamaged::Fail)?;
    Ok((Settings { vectors, ..manifest.settings }, view))
}

fn load_parts(
    manifest: &Manifest,
    folder: &Path,
    way: VectorSearch,
    if_damaged: IfDamaged,
) -> Result<View, RestoreError> {
    same("analyzer version", &manifest.analyzer_version, &ANALYZER_VERSION)?;
    let parts = manifest.segments.par_iter();
    let parts = parts.map(|segment| load_part(&manifest.settings, folder, segment, way, if_damaged));
    Ok(View::new(manifest.version, parts.collect::<Result<_, _>>()?))
}

fn load_manifest(path: &Path) -> Result<Manifest, RestoreError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(RestoreError::Missing),
        Err(source) => return Err(RestoreError::Unreadable { path: path.to_owned(), source }),
    };
    let damaged = |what| RestoreError::Damaged { path: path.to_owned(), what };
    // The checksum, and a line's end before and after it.
    let json_len = text.len().checked_sub(34).ok_or_else(|| damaged("cut short"))?;
    let (json, rest) = text.split_at(json_len);
    if rest != format!("\n{:032x}\n", xxh3_128(json)).as_bytes() {
        return Err(damaged("another checksum"));
    }
    // The format comes first: of another one, nothing else need be as it is here.
    let json: serde_json::Value = serde_json::from_slice(json).map_err(|_| damaged("no JSON"))?;
    same("format", &json["format"], &serde_json::Value::from(FORMAT))?;
    serde_json::from_value(json).map_err(|_| damaged("no manifest"))
}

fn same<T: PartialEq + Serialize>(what: &'static str, found: &T, expected: &T) -> Result<(), RestoreError> {
    if found == expected {
        return Ok(());
    }
    let told = |value: &T| serde_json::to_string(value).unwrap_or_default();
    Err(RestoreError::Foreign { what, found: told(found), expected: told(expected) })
}

fn load_part(
    settings: &Settings,
    folder: &Path,
    entry: &ManifestSegment,
    way: VectorSearch,
    if_damaged: IfDamaged,
) -> Result<Part, RestoreError> {
    let damaged = |path: &Path, what| RestoreError::Damaged { path: path.to_owned(), what };
    let manifest = folder.join(MANIFEST);
    let no_name = || damaged(&manifest, "a segment has no name of ours");
    let seal = seal_of(SEGMENT_PREFIX, &entry.file, entry.bytes).ok_or_else(no_name)?;
    let path = folder.join(&entry.file);
    let segment = open(&path, seal)
        .and_then(|mut file| Segment::load(settings, &mut file, seal))
        .map_err(|error| restore_error(&path, error))?;
    let fits = segment.len() == entry.chunks
        && entry.deleted.is_sorted_by(|left, right| left < right)
        && entry.deleted.last().is_none_or(|last| (*last as usize) < segment.len());
    if !fits {
        return Err(damaged(&manifest, "deletions do not fit their segment"));
    }
    segment.vectors.set_failed_graphs(entry.failed_graphs);
    if let Some(graph) = &entry.graph {
        let graph_seal = seal_of(GRAPH_PREFIX, &graph.file, graph.bytes).ok_or_else(no_name)?;
        load_graph(&segment, seal, &folder.join(&graph.file), graph_seal, way, if_damaged)?;
    }
    Part::whole(segment)
        .without_docs(&entry.deleted, settings.analyzer)
        .ok_or_else(|| damaged(&manifest, "a segment without a live chunk"))
}

/// What becomes of a graph's file that is damaged or of another build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IfDamaged {
    /// It is removed, and the graph will be built again.
    Remove,
    /// It stays, and nothing is loaded.
    Fail,
}

/// Loads a segment's graph, if graphs are wanted.
fn load_graph(
    segment: &Segment,
    seal: Seal,
    path: &Path,
    graph_seal: Seal,
    way: VectorSearch,
    if_damaged: IfDamaged,
) -> Result<(), RestoreError> {
    if way == VectorSearch::Scan {
        return Ok(());
    }
    let vectors = &segment.vectors;
    let loaded = open(path, graph_seal).and_then(|mut file| Graph::load(&mut file, graph_seal, seal, vectors, way));
    match loaded {
        Ok(graph) => vectors.settle_graph(Some(graph)),
        Err(error) if if_damaged == IfDamaged::Fail => return Err(restore_error(path, error)),
        // If it cannot be removed, the next snapshot writes over it.
        Err(_) => drop(fs::remove_file(path)),
    }
    Ok(())
}

/// Opens a file that has the size of its seal.
fn open(path: &Path, seal: Seal) -> Result<File, LoadError> {
    let file = File::open(path).map_err(LoadError::Io)?;
    if file.metadata().map_err(LoadError::Io)?.len() != seal.bytes {
        return Err(LoadError::Damaged("another size"));
    }
    Ok(file)
}

fn restore_error(path: &Path, error: LoadError) -> RestoreError {
    let path = path.to_owned();
    match error {
        LoadError::Damaged(what) => RestoreError::Damaged { path, what },
        LoadError::Io(source) if source.kind() == io::ErrorKind::NotFound => {
            RestoreError::Damaged { path, what: "missing" }
        }
        LoadError::Io(source) => RestoreError::Unreadable { path, source },
    }
}

/// Checks the snapshot in `folder` as [`crate::Index::restore`] would, under whatever settings it was saved.
///
/// # Errors
/// Those of [`crate::Index::restore`].
pub fn verify_snapshot(folder: &Path) -> Result<(), RestoreError> {
    load_as_saved(folder, VectorSearch::Auto).map(drop)
}
