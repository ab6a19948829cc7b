//! The table `knowledge_chunks`. Triggers stamp each chunk with the version of the transaction that wrote it.

use serde_json::{Map, Value};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    StoreError,
    page::{Key, Page, PageRequest},
    row::{Reader, object_text},
    tx::{Statement, TenantTx},
};
use crate::{
    ctx::{DocumentId, KnowledgeBaseId},
    watch,
};

const INSERT: Statement = Statement {
    name: "chunks/insert",
    sql: include_str!("sql/chunks/insert.sql"),
    types: &[
        Type::UUID,
        Type::UUID,
        Type::UUID,
        Type::UUID_ARRAY,
        Type::INT4_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::FLOAT4_ARRAY,
        Type::INT4_ARRAY,
        Type::INT4_ARRAY,
    ],
};
const LIST: Statement = Statement {
    name: "chunks/list",
    sql: include_str!("sql/chunks/list.sql"),
    types: &[Type::UUID, Type::INT4, Type::INT8, Type::INT8],
};
const COUNT: Statement =
    Statement { name: "chunks/count", sql: include_str!("sql/chunks/count.sql"), types: &[Type::UUID] };

/// Chunks that one statement inserts: enough that its own cost does not count, a few MiB on the wire.
pub(super) const INSERT_CHUNKS_MAX: usize = 512;

/// A chunk without its vector.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkRow {
    /// Its id.
    pub id: Uuid,
    /// Its place among the document's chunks, from 0.
    pub ordinal: u32,
    /// Headings that it stands under, outermost first, joined by ` › `.
    pub heading: String,
    /// The text.
    pub content: String,
    /// Its own metadata, without the document's.
    pub metadata: Map<String, Value>,
    /// The version that wrote it, or its document's title, address or metadata.
    pub version: u64,
}

/// A chunk to write.
#[derive(Debug, Clone, PartialEq)]
pub struct NewChunk {
    /// Its place among the document's chunks, from 0.
    pub ordinal: u32,
    /// Headings that it stands under, outermost first, joined by ` › `.
    pub heading: String,
    /// The text.
    pub content: String,
    /// `[dimensions]` of the generation.
    pub embedding: Vec<f32>,
    /// Lies on top of the document's.
    pub metadata: Map<String, Value>,
}

/// A page of the document's chunks of the active generation, in the document's order.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list(
    tx: &mut TenantTx,
    document_id: DocumentId,
    page: &PageRequest,
) -> Result<Page<ChunkRow>, StoreError> {
    let after = page.start.key(|key| match key {
        Key::Chunk(ordinal) => Some(i32::try_from(*ordinal).unwrap_or(i32::MAX)),
        _ => None,
    })?;
    let after = after.unwrap_or(-1);
    let rows = tx.query(&LIST, &[&document_id.0, &after, &page.start.offset(), &page.rows()]).await?;
    let items = rows.iter().map(read).collect::<Result<_, _>>()?;
    let total = page.total(tx, &COUNT, &[&document_id.0]).await?;
    Ok(Page::of(page, items, total, |row: &ChunkRow| Key::Chunk(row.ordinal)))
}

/// Inserts the chunks of a document, which has none of these ordinals yet.
pub(super) async fn insert(
    tx: &mut TenantTx,
    knowledge_base_id: KnowledgeBaseId,
    generation_id: Uuid,
    document_id: DocumentId,
    chunks: &[NewChunk],
) -> Result<(), StoreError> {
    for chunks in chunks.chunks(INSERT_CHUNKS_MAX) {
        let columns = Columns::of(chunks);
        let params: [&(dyn ToSql + Sync); 11] = [
            &knowledge_base_id.0,
            &generation_id,
            &document_id.0,
            &columns.ids,
            &columns.ordinals,
            &columns.headings,
            &columns.contents,
            &columns.metadata,
            &columns.components,
            &columns.firsts,
            &columns.lasts,
        ];
        watch::batch(tx.execute(&INSERT, &params)).await?;
    }
    Ok(())
}

/// Chunks as statements take them: an array for each column.
pub(super) struct Columns<'a> {
    pub(super) ids: Vec<Uuid>,
    pub(super) ordinals: Vec<i32>,
    pub(super) headings: Vec<&'a str>,
    pub(super) contents: Vec<&'a str>,
    pub(super) metadata: Vec<String>,
    /// All embeddings, one after the other.
    pub(super) components: Vec<f32>,
    /// Where each one begins, counted from 1.
    pub(super) firsts: Vec<i32>,
    /// Where each one ends.
    pub(super) lasts: Vec<i32>,
}

impl<'a> Columns<'a> {
    /// Of at most [`INSERT_CHUNKS_MAX`] chunks, with new ids.
    pub(super) fn of(chunks: &'a [NewChunk]) -> Self {
        let mut lasts = Vec::with_capacity(chunks.len());
        let mut last = 0;
        for chunk in chunks {
            last += chunk.embedding.len() as i32;
            lasts.push(last);
        }
        Self {
            ids: chunks.iter().map(|_| Uuid::now_v7()).collect(),
            // More than fit are more than a document can have bytes, so Postgres refuses them.
            ordinals: chunks.iter().map(|chunk| i32::try_from(chunk.ordinal).unwrap_or(-1)).collect(),
            headings: chunks.iter().map(|chunk| chunk.heading.as_str()).collect(),
            contents: chunks.iter().map(|chunk| chunk.content.as_str()).collect(),
            metadata: chunks.iter().map(|chunk| object_text(&chunk.metadata)).collect(),
            components: chunks.iter().flat_map(|chunk| chunk.embedding.iter().copied()).collect(),
            firsts: chunks.iter().zip(&lasts).map(|(chunk, last)| last - chunk.embedding.len() as i32 + 1).collect(),
            lasts,
        }
    }
}

fn read(row: &Row) -> Result<ChunkRow, StoreError> {
    let row = Reader::new(&LIST, row);
    Ok(ChunkRow {
        id: row.get("id")?,
        ordinal: row.small_count("ordinal")?,
        heading: row.get("heading")?,
        content: row.get("content")?,
        metadata: row.object("metadata")?,
        version: row.count("version")?,
    })
}
