//! The tables `knowledge_bases` and `embedding_generations`: a knowledge base is read together with its active generation.

use std::collections::HashMap;

use tertulia_index::Analyzer;
use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    Store, StoreError,
    page::{Key, Page, PageRequest},
    row::Reader,
    tx::{Statement, TenantTx},
};
use crate::ctx::{KnowledgeBaseId, TenantId};

const INSERT: Statement = Statement {
    name: "knowledge_bases/insert",
    sql: include_str!("sql/knowledge_bases/insert.sql"),
    types: &[Type::UUID, Type::TEXT, Type::UUID, Type::TEXT, Type::INT4, Type::TEXT],
};
const FIND: Statement =
    Statement { name: "knowledge_bases/find", sql: include_str!("sql/knowledge_bases/find.sql"), types: &[Type::UUID] };
const LIST: Statement = Statement {
    name: "knowledge_bases/list",
    sql: include_str!("sql/knowledge_bases/list.sql"),
    types: &[Type::TIMESTAMPTZ, Type::UUID, Type::INT8, Type::INT8],
};
const COUNT: Statement =
    Statement { name: "knowledge_bases/count", sql: include_str!("sql/knowledge_bases/count.sql"), types: &[] };
const TAKE_VERSION: Statement = Statement {
    name: "knowledge_bases/take_version",
    sql: include_str!("sql/knowledge_bases/take_version.sql"),
    types: &[Type::UUID],
};
const DELETE: Statement = Statement {
    name: "knowledge_bases/delete",
    sql: include_str!("sql/knowledge_bases/delete.sql"),
    types: &[Type::UUID],
};
const LIST_VERSIONS: Statement = Statement {
    name: "knowledge_bases/list_versions",
    sql: include_str!("sql/knowledge_bases/list_versions.sql"),
    types: &[Type::UUID_ARRAY, Type::UUID_ARRAY],
};

/// A knowledge base with its active generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnowledgeBaseRow {
    /// Its id.
    pub id: KnowledgeBaseId,
    /// Unique within the tenant.
    pub name: String,
    /// What makes words of its chunks and of questions to it.
    pub analyzer: Analyzer,
    /// Grows with every transaction that changes what a search finds.
    pub version: u64,
    /// The active generation.
    pub generation_id: Uuid,
    /// Fingerprint of the encoder of the active generation.
    pub encoder: String,
    /// Dimensions of its vectors.
    pub dimensions: usize,
    /// Documents in it.
    pub document_count: u64,
    /// Chunks of the active generation.
    pub chunk_count: u64,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// Creates an empty knowledge base with its first generation.
///
/// # Errors
/// A unique violation if the tenant has one of that name.
pub async fn insert(
    tx: &mut TenantTx,
    name: &str,
    analyzer: Analyzer,
    encoder: &str,
    dimensions: usize,
) -> Result<KnowledgeBaseRow, StoreError> {
    // More than fit are more than the table takes, so Postgres refuses them.
    let dimensions = i32::try_from(dimensions).unwrap_or(i32::MAX);
    let ids = (KnowledgeBaseId::new().0, Uuid::now_v7());
    let row = tx.query_one(&INSERT, &[&ids.0, &name, &ids.1, &encoder, &dimensions, &analyzer.name()]).await?;
    read(&INSERT, &row)
}

/// The knowledge base of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn find(tx: &mut TenantTx, id: KnowledgeBaseId) -> Result<Option<KnowledgeBaseRow>, StoreError> {
    tx.query_opt(&FIND, &[&id.0]).await?.map(|row| read(&FIND, &row)).transpose()
}

/// A page of the tenant's knowledge bases, newest first.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list(tx: &mut TenantTx, page: &PageRequest) -> Result<Page<KnowledgeBaseRow>, StoreError> {
    page.newest(tx, [&LIST, &COUNT], Key::KnowledgeBase, read, |row| (row.created_at, row.id.0)).await
}

/// Deletes a knowledge base with everything in it; false if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn delete(tx: &mut TenantTx, id: KnowledgeBaseId) -> Result<bool, StoreError> {
    Ok(tx.execute(&DELETE, &[&id.0]).await? > 0)
}

/// Locks the knowledge base and takes the version of what this transaction writes; none if the tenant has none of that id.
/// Each transaction that writes begins so, since the triggers would take the lock after those of other rows.
pub(super) async fn take_version(tx: &mut TenantTx, id: KnowledgeBaseId) -> Result<Option<u64>, StoreError> {
    let row = tx.query_opt(&TAKE_VERSION, &[&id.0]).await?;
    row.map(|row| Reader::new(&TAKE_VERSION, &row).count("version")).transpose()
}

impl Store {
    /// The versions of those of the knowledge bases that are still there.
    ///
    /// # Errors
    /// If Postgres is away.
    pub async fn list_versions(
        &self,
        bases: &[(TenantId, KnowledgeBaseId)],
    ) -> Result<HashMap<(TenantId, KnowledgeBaseId), u64>, StoreError> {
        let tenant_ids: Vec<Uuid> = bases.iter().map(|(tenant_id, _)| tenant_id.0).collect();
        let ids: Vec<Uuid> = bases.iter().map(|(_, id)| id.0).collect();
        let mut tx = self.service_tx().await?;
        let rows = tx.query(&LIST_VERSIONS, &[&tenant_ids, &ids]).await?;
        tx.commit().await?;
        let read = |row| {
            let row = Reader::new(&LIST_VERSIONS, row);
            Ok(((TenantId(row.get("tenant_id")?), KnowledgeBaseId(row.get("id")?)), row.count("version")?))
        };
        rows.iter().map(read).collect()
    }
}

fn read(statement: &Statement, row: &Row) -> Result<KnowledgeBaseRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(KnowledgeBaseRow {
        id: KnowledgeBaseId(row.get("id")?),
        name: row.get("name")?,
        analyzer: row.analyzer("analyzer")?,
        version: row.count("version")?,
        generation_id: row.get("generation_id")?,
        encoder: row.get("encoder")?,
        dimensions: row.small_count("dimensions")? as usize,
        document_count: row.count("document_count")?,
        chunk_count: row.count("chunk_count")?,
        created_at: row.get("created_at")?,
    })
}
