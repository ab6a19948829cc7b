//! What goes into an index: chunks, and batches of changes that become searchable as one.

use serde_json::{Map, Value};
use uuid::Uuid;

/// A chunk of a document with everything that a hit shows, a filter asks about or a search looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Unique in the index; a chunk of the same id is replaced.
    pub id: Uuid,
    /// The document that it is a part of.
    pub document_id: Uuid,
    /// The caller's own name of the document.
    pub external_id: String,
    /// The document's title.
    pub title: String,
    /// Where people can read the document.
    pub source_url: Option<String>,
    /// Headings that the chunk stands under, outermost first, joined by ` › `.
    pub heading: String,
    /// Place among the document's chunks, from 0.
    pub ordinal: u32,
    /// The text.
    pub content: String,
    /// `[dimensions]`, of any length but zero; the index keeps it at unit length.
    pub embedding: Vec<f32>,
    /// The document's metadata with the chunk's on top.
    pub metadata: Map<String, Value>,
}

/// Changes that become visible to searches together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// The index holds everything up to this version once the batch is applied; never less than before.
    pub version: u64,
    /// Chunks that are new or replace the one of their id. Applied after the deletions.
    pub upserts: Vec<Chunk>,
    /// Ids of chunks that are gone; one that is not there is no error.
    pub deletions: Vec<Uuid>,
}
