//! The table `documents`.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    StoreError,
    chunks::{self, NewChunk},
    knowledge_bases,
    page::{Key, Page, PageRequest, Start},
    row::{Reader, object_text},
    tx::{Statement, TenantTx},
};
use crate::ctx::{DocumentId, KnowledgeBaseId};

const FIND: Statement =
    Statement { name: "documents/find", sql: include_str!("sql/documents/find.sql"), types: &[Type::UUID, Type::UUID] };
const FIND_BY_EXTERNAL_ID: Statement = Statement {
    name: "documents/find_by_external_id",
    sql: include_str!("sql/documents/find_by_external_id.sql"),
    types: &[Type::UUID, Type::TEXT],
};
const LIST: Statement = Statement {
    name: "documents/list",
    sql: include_str!("sql/documents/list.sql"),
    types: &[Type::UUID, Type::TEXT, Type::INT8, Type::INT8],
};
const COUNT: Statement =
    Statement { name: "documents/count", sql: include_str!("sql/documents/count.sql"), types: &[Type::UUID] };
const PUT: Statement = Statement {
    name: "documents/put",
    sql: include_str!("sql/documents/put.sql"),
    types: &[
        Type::UUID,
        Type::UUID,
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::BYTEA,
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
const DELETE: Statement = Statement {
    name: "documents/delete",
    sql: include_str!("sql/documents/delete.sql"),
    types: &[Type::UUID, Type::UUID],
};

/// A document.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentRow {
    /// Its id.
    pub id: DocumentId,
    /// The caller's own name of it, unique in the knowledge base.
    pub external_id: String,
    /// Shown with hits and searched.
    pub title: String,
    /// Where people can read it.
    pub source_url: Option<String>,
    /// What its bytes were.
    pub mime_type: String,
    /// What filters can ask about.
    pub metadata: Map<String, Value>,
    /// SHA-256 of its bytes; all zero if it was not written by this server.
    pub content_sha256: [u8; 32],
    /// Chunks of the active generation.
    pub chunk_count: usize,
    /// When it was first written.
    pub created_at: OffsetDateTime,
    /// When it was last replaced.
    pub updated_at: OffsetDateTime,
}

/// A document to write.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDocument {
    /// The caller's own name of it, 1 to 1,024 bytes.
    pub external_id: String,
    /// Shown with hits and searched.
    pub title: String,
    /// Where people can read it.
    pub source_url: Option<String>,
    /// What its bytes are.
    pub mime_type: String,
    /// What filters can ask about.
    pub metadata: Map<String, Value>,
    /// SHA-256 of its bytes.
    pub content_sha256: [u8; 32],
}

/// A document that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Its id, which it keeps as long as its external id is there.
    pub id: DocumentId,
    /// The version from which searches find it.
    pub version: u64,
}

/// The document of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn find(
    tx: &mut TenantTx,
    knowledge_base_id: KnowledgeBaseId,
    id: DocumentId,
) -> Result<Option<DocumentRow>, StoreError> {
    tx.query_opt(&FIND, &[&knowledge_base_id.0, &id.0]).await?.map(|row| read(&FIND, &row)).transpose()
}

/// The document of that external id.
///
/// # Errors
/// If Postgres is away.
pub async fn find_by_external_id(
    tx: &mut TenantTx,
    knowledge_base_id: KnowledgeBaseId,
    external_id: &str,
) -> Result<Option<DocumentRow>, StoreError> {
    let row = tx.query_opt(&FIND_BY_EXTERNAL_ID, &[&knowledge_base_id.0, &external_id]).await?;
    row.map(|row| read(&FIND_BY_EXTERNAL_ID, &row)).transpose()
}

/// A page of the knowledge base's documents, by the bytes of their external ids.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list(
    tx: &mut TenantTx,
    knowledge_base_id: KnowledgeBaseId,
    page: &PageRequest,
) -> Result<Page<DocumentRow>, StoreError> {
    let after = page.start.key(|key| match key {
        Key::Document(external_id) => Some(external_id.as_str().to_owned()),
        _ => None,
    })?;
    // No external id is empty, so each comes after "".
    let after = after.unwrap_or_default();
    let rows = tx.query(&LIST, &[&knowledge_base_id.0, &after, &page.start.offset(), &page.rows()]).await?;
    let items = rows.iter().map(|row| read(&LIST, row)).collect::<Result<_, _>>()?;
    let total = match page.start {
        Start::Offset(_) => {
            let row = tx.query_opt(&COUNT, &[&knowledge_base_id.0]).await?;
            Some(row.map_or(Ok(0), |row| Reader::new(&COUNT, &row).count("document_count"))?)
        }
        Start::After(_) => None,
    };
    Ok(Page::of(page, items, total, |row: &DocumentRow| Key::Document(row.external_id.clone())))
}

/// Makes `document` the one of its external id, and `chunks` its chunks; those that it had before go, all under one
/// version. Writers of one knowledge base wait for each other here, so the last of several is the one that stays, whole.
///
/// # Errors
/// [`StoreError::Gone`] if the knowledge base is not there any more; [`StoreError::GenerationSwitched`] if its active
/// generation is no longer `generation_id`.
pub async fn replace(
    tx: &mut TenantTx,
    knowledge_base_id: KnowledgeBaseId,
    generation_id: Uuid,
    document: &NewDocument,
    chunks: &[NewChunk],
) -> Result<Replaced, StoreError> {
    let sha256: &[u8] = &document.content_sha256;
    // Everything is made ready before the statement that locks the knowledge base.
    let (first, rest) = chunks.split_at(chunks.len().min(chunks::INSERT_CHUNKS_MAX));
    let columns = chunks::Columns::of(first);
    let row = tx
        .query_opt(
            &PUT,
            &[
                &knowledge_base_id.0,
                &generation_id,
                &DocumentId::new().0,
                &document.external_id,
                &document.title,
                &document.source_url,
                &document.mime_type,
                &object_text(&document.metadata),
                &sha256,
                &columns.ids,
                &columns.ordinals,
                &columns.headings,
                &columns.contents,
                &columns.metadata,
                &columns.components,
                &columns.firsts,
                &columns.lasts,
            ],
        )
        .await?
        .ok_or(StoreError::Gone { what: "knowledge base" })?;
    let row = Reader::new(&PUT, &row);
    let id: Option<Uuid> = row.get("document_id")?;
    let id = DocumentId(id.ok_or(StoreError::GenerationSwitched)?);
    let version = row.count("version")?;
    chunks::insert(tx, knowledge_base_id, generation_id, id, rest).await?;
    Ok(Replaced { id, version })
}

/// Deletes a document with its chunks; gives the version from which no search finds them. One that is not there is no
/// error.
///
/// # Errors
/// [`StoreError::Gone`] if the knowledge base is not there any more.
pub async fn delete(tx: &mut TenantTx, knowledge_base_id: KnowledgeBaseId, id: DocumentId) -> Result<u64, StoreError> {
    let version = knowledge_bases::take_version(tx, knowledge_base_id).await?;
    let version = version.ok_or(StoreError::Gone { what: "knowledge base" })?;
    tx.execute(&DELETE, &[&knowledge_base_id.0, &id.0]).await?;
    Ok(version)
}

fn read(statement: &Statement, row: &Row) -> Result<DocumentRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(DocumentRow {
        id: DocumentId(row.get("id")?),
        external_id: row.get("external_id")?,
        title: row.get("title")?,
        source_url: row.get("source_url")?,
        mime_type: row.get("mime_type")?,
        metadata: row.object("metadata")?,
        content_sha256: row.sha256("content_sha256")?,
        chunk_count: row.count("chunk_count")? as usize,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}
