//! Documents picked by a filter over their own metadata: found, then deleted or given other metadata, some at a time.
//!
//! What is found is held by nobody, so whoever changes it locks it first ([`lock`]), and gets what still matches.

use serde_json::{Map, Value};
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    StoreError,
    knowledge_bases::{self, KnowledgeBaseRow},
    row::{Reader, object_text},
    search::UnknownKey,
    tx::{Statement, TenantTx},
};
use crate::ctx::{DocumentId, KnowledgeBaseId};

const LIST_MATCHING: Statement = Statement {
    name: "documents/list_matching",
    sql: include_str!("sql/documents/list_matching.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT, Type::TEXT, Type::INT8],
};
const LOCK_MATCHING: Statement = Statement {
    name: "documents/lock_matching",
    sql: include_str!("sql/documents/lock_matching.sql"),
    types: &[Type::UUID, Type::UUID, Type::UUID_ARRAY, Type::TEXT],
};
const DELETE_CHUNKS: Statement = Statement {
    name: "chunks/delete_of_documents",
    sql: include_str!("sql/chunks/delete_of_documents.sql"),
    types: &[Type::UUID_ARRAY],
};
const DELETE_MANY: Statement = Statement {
    name: "documents/delete_many",
    sql: include_str!("sql/documents/delete_many.sql"),
    types: &[Type::UUID, Type::UUID_ARRAY],
};
const UPDATE_METADATA: Statement = Statement {
    name: "documents/update_metadata",
    sql: include_str!("sql/documents/update_metadata.sql"),
    types: &[Type::UUID, Type::UUID_ARRAY, Type::TEXT_ARRAY],
};
const UNKNOWN_KEY: Statement = Statement {
    name: "documents/unknown_key",
    sql: include_str!("sql/documents/unknown_key.sql"),
    types: &[Type::UUID, Type::TEXT_ARRAY],
};
const KNOWN_KEYS: Statement =
    Statement { name: "documents/known_keys", sql: include_str!("sql/documents/known_keys.sql"), types: &[Type::UUID] };

/// Rows of one round trip: with the largest metadata that the API takes, 4 MiB.
const PAGE_MAX: i64 = 256;

/// A document that matches.
#[derive(Debug, Clone, PartialEq)]
pub struct Matching {
    /// Its id.
    pub id: DocumentId,
    /// The caller's own name of it.
    pub external_id: String,
    /// Its metadata.
    pub metadata: Map<String, Value>,
    /// Chunks of the active generation.
    pub chunk_count: u64,
}

/// Up to 256 documents that match, by the bytes of their external ids, from behind `after` ("" for the first); an empty
/// page comes after the last.
///
/// `filter`: as `tertulia_index::Filter` writes it.
///
/// # Errors
/// If Postgres is away.
pub async fn list(
    tx: &mut TenantTx,
    base: &KnowledgeBaseRow,
    filter: &Value,
    after: &str,
) -> Result<Vec<Matching>, StoreError> {
    let params: super::tx::Params<'_> = &[&base.id.0, &base.generation_id, &after, &filter.to_string(), &PAGE_MAX];
    tx.query(&LIST_MATCHING, params).await?.iter().map(|row| read(&LIST_MATCHING, row)).collect()
}

/// Locks the knowledge base, then those of `ids` that are still there and match, until the transaction ends. With them
/// the version of what the transaction writes.
///
/// # Errors
/// [`StoreError::Gone`] if the knowledge base is not there any more.
pub async fn lock(
    tx: &mut TenantTx,
    base: &KnowledgeBaseRow,
    filter: &Value,
    ids: &[DocumentId],
) -> Result<(u64, Vec<Matching>), StoreError> {
    let version = knowledge_bases::take_version(tx, base.id).await?;
    let version = version.ok_or(StoreError::Gone { what: "knowledge base" })?;
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = tx.query(&LOCK_MATCHING, &[&base.id.0, &base.generation_id, &ids, &filter.to_string()]).await?;
    let locked = rows.iter().map(|row| read(&LOCK_MATCHING, row)).collect::<Result<_, _>>()?;
    Ok((version, locked))
}

/// Deletes documents with their chunks. They should be locked.
///
/// # Errors
/// If Postgres is away.
pub async fn delete(tx: &mut TenantTx, id: KnowledgeBaseId, documents: &[Matching]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = documents.iter().map(|document| document.id.0).collect();
    // All chunks in one statement: the cascade would take one, with its triggers, for each document.
    tx.execute(&DELETE_CHUNKS, &[&ids]).await?;
    tx.execute(&DELETE_MANY, &[&id.0, &ids]).await?;
    Ok(())
}

/// Gives documents the metadata that they have here. They should be locked.
///
/// # Errors
/// If Postgres is away, or the table refuses the metadata.
pub async fn update_metadata(tx: &mut TenantTx, id: KnowledgeBaseId, documents: &[Matching]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = documents.iter().map(|document| document.id.0).collect();
    let metadata: Vec<String> = documents.iter().map(|document| object_text(&document.metadata)).collect();
    tx.execute(&UPDATE_METADATA, &[&id.0, &ids, &metadata]).await?;
    Ok(())
}

/// The first of a filter's `keys` that no document has a value for, which tells a mistyped key from one that nothing
/// fits; none of an empty knowledge base.
///
/// # Errors
/// If Postgres is away.
pub async fn find_unknown_key(
    tx: &mut TenantTx,
    id: KnowledgeBaseId,
    keys: &[&str],
) -> Result<Option<UnknownKey>, StoreError> {
    let Some(row) = tx.query_opt(&UNKNOWN_KEY, &[&id.0, &keys]).await? else {
        return Ok(None);
    };
    let key = Reader::new(&UNKNOWN_KEY, &row).get("key")?;
    let rows = tx.query(&KNOWN_KEYS, &[&id.0]).await?;
    let known = rows.iter().map(|row| Reader::new(&KNOWN_KEYS, row).get("key")).collect::<Result<_, _>>()?;
    Ok(Some(UnknownKey { key, known }))
}

fn read(statement: &Statement, row: &Row) -> Result<Matching, StoreError> {
    let row = Reader::new(statement, row);
    Ok(Matching {
        id: DocumentId(row.get("id")?),
        external_id: row.get("external_id")?,
        metadata: row.object("metadata")?,
        chunk_count: row.count("chunk_count")?,
    })
}
