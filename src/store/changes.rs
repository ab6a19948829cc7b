//! What changed in a knowledge base since a version: deletions, then chunks, in the order of `(version, id)`.
//!
//! Invariant: everything that one [`Changes`] hands out is of one snapshot of the database, that of its [`Head`]. Versions
//! commit in order, so what is past a version and up to the head is everything that a reader at that version lacks.

use std::{collections::VecDeque, time::Duration};

use tertulia_index::{Analyzer, Chunk};
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    Store, StoreError,
    row::Reader,
    tx::{Params, ServiceTx, Statement},
};
use crate::ctx::{KnowledgeBaseId, TenantId};

const HEAD: Statement =
    Statement { name: "changes/head", sql: include_str!("sql/changes/head.sql"), types: &[Type::UUID, Type::UUID] };
const DELETIONS: Statement = Statement {
    name: "changes/deletions",
    sql: include_str!("sql/changes/deletions.sql"),
    types: &[Type::UUID, Type::UUID, Type::INT8, Type::UUID, Type::INT8],
};
const UPSERTS: Statement = Statement {
    name: "changes/upserts",
    sql: include_str!("sql/changes/upserts.sql"),
    types: &[Type::UUID, Type::UUID, Type::UUID, Type::INT8, Type::UUID, Type::INT8],
};
const LIST_PRUNABLE: Statement = Statement {
    name: "changes/list_prunable",
    sql: include_str!("sql/changes/list_prunable.sql"),
    types: &[Type::FLOAT8],
};
const PRUNE: Statement = Statement {
    name: "changes/prune",
    sql: include_str!("sql/changes/prune.sql"),
    types: &[Type::UUID, Type::UUID, Type::FLOAT8, Type::INT8],
};

/// Rows of one round trip. A statement for all of them would run for as long as the reader takes, against
/// `statement_timeout`.
const DELETIONS_MAX: i64 = 8_192;
const UPSERTS_MAX: i64 = 1_024;
/// Deletions that are forgotten at once: well under a second, for which the knowledge base's writers wait.
const PRUNED_MAX: i64 = 8_192;

/// How far a knowledge base is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its version.
    pub version: u64,
    /// The active generation, whose chunks [`Changes`] hands out.
    pub generation_id: Uuid,
    /// What makes words of the chunks.
    pub analyzer: Analyzer,
    /// Fingerprint of the encoder of that generation.
    pub encoder: String,
    /// Dimensions of its vectors.
    pub dimensions: usize,
    /// Chunks that it has.
    pub chunk_count: usize,
    /// Deletions up to this version are no longer known: a reader that is not so far has to start from 0.
    pub pruned_version: u64,
}

/// A change.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "most changes are upserts, and go straight into a batch")]
pub enum Change {
    /// The chunk of that id is gone, unless an upsert follows.
    Deletion(Uuid),
    /// The chunk is new or changed.
    Upsert(Chunk),
}

/// A look at a knowledge base, and at what is past a version. Holds a connection until it is finished or dropped.
pub struct Changes {
    tx: ServiceTx,
    tenant_id: TenantId,
    knowledge_base_id: KnowledgeBaseId,
    head: Head,
    stage: Stage,
    page: VecDeque<Change>,
}

/// What is to be read next: everything after `(version, id)` in one of the two tables.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Deletions { from: u64, after: (i64, Uuid) },
    Upserts { after: (i64, Uuid) },
    Done,
}

impl Store {
    /// A look at the knowledge base as it is now; none if it is not there.
    ///
    /// # Errors
    /// If Postgres is away.
    pub async fn changes(
        &self,
        tenant_id: TenantId,
        knowledge_base_id: KnowledgeBaseId,
    ) -> Result<Option<Changes>, StoreError> {
        let mut tx = self.service_snapshot().await?;
        let Some(row) = tx.query_opt(&HEAD, &[&tenant_id.0, &knowledge_base_id.0]).await? else {
            tx.commit().await?;
            return Ok(None);
        };
        let head = read_head(&row)?;
        Ok(Some(Changes { tx, tenant_id, knowledge_base_id, head, stage: Stage::Done, page: VecDeque::new() }))
    }
}

impl Changes {
    /// How far the knowledge base is.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Has [`Changes::next`] hand out what is past `version`; with 0, every chunk. Costs a round trip.
    ///
    /// # Errors
    /// If Postgres is away.
    pub async fn read_from(&mut self, version: u64) -> Result<(), StoreError> {
        self.page.clear();
        // No row has the greatest id, so what comes after the pair is of a greater version.
        let after = (i64::try_from(version).unwrap_or(i64::MAX), Uuid::max());
        // Who has nothing has nothing to delete.
        self.stage = if version == 0 { Stage::Upserts { after } } else { Stage::Deletions { from: version, after } };
        self.fill().await
    }

    /// The next change, deletions first; none after the last.
    ///
    /// # Errors
    /// If Postgres is away, or a row cannot be read.
    pub async fn next(&mut self) -> Result<Option<Change>, StoreError> {
        if self.page.is_empty() {
            self.fill().await?;
        }
        Ok(self.page.pop_front())
    }

    /// Gives the connection back.
    ///
    /// # Errors
    /// If Postgres is away.
    pub async fn finish(self) -> Result<(), StoreError> {
        self.tx.commit().await
    }

    /// Reads on until there is something to hand out, or nothing left.
    async fn fill(&mut self) -> Result<(), StoreError> {
        while self.page.is_empty() {
            match self.stage {
                Stage::Deletions { from, after } => self.fill_deletions(from, after).await?,
                Stage::Upserts { after } => self.fill_upserts(after).await?,
                Stage::Done => return Ok(()),
            }
        }
        Ok(())
    }

    async fn fill_deletions(&mut self, from: u64, after: (i64, Uuid)) -> Result<(), StoreError> {
        let base = (self.tenant_id.0, self.knowledge_base_id.0);
        let rows = self.tx.query(&DELETIONS, &[&base.0, &base.1, &after.0, &after.1, &DELETIONS_MAX]).await?;
        for row in &rows {
            self.page.push_back(Change::Deletion(Reader::new(&DELETIONS, row).get("chunk_id")?));
        }
        self.stage = match rows.last().filter(|_| is_full(&rows, DELETIONS_MAX)) {
            Some(last) => Stage::Deletions { from, after: key(&DELETIONS, last, "chunk_id")? },
            None => Stage::Upserts { after: (i64::try_from(from).unwrap_or(i64::MAX), Uuid::max()) },
        };
        Ok(())
    }

    async fn fill_upserts(&mut self, after: (i64, Uuid)) -> Result<(), StoreError> {
        let generation = (self.tenant_id.0, self.knowledge_base_id.0, self.head.generation_id);
        let params: Params<'_> = &[&generation.0, &generation.1, &generation.2, &after.0, &after.1, &UPSERTS_MAX];
        let rows = self.tx.query(&UPSERTS, params).await?;
        for row in &rows {
            self.page.push_back(Change::Upsert(read_chunk(row)?));
        }
        self.stage = match rows.last().filter(|_| is_full(&rows, UPSERTS_MAX)) {
            Some(last) => Stage::Upserts { after: key(&UPSERTS, last, "id")? },
            None => Stage::Done,
        };
        Ok(())
    }
}

/// Knowledge bases of all tenants that have deletions older than `age`.
///
/// # Errors
/// If Postgres is away.
pub async fn list_prunable(tx: &mut ServiceTx, age: Duration) -> Result<Vec<(TenantId, KnowledgeBaseId)>, StoreError> {
    let rows = tx.query(&LIST_PRUNABLE, &[&age.as_secs_f64()]).await?;
    let read = |row: &Row| {
        let row = Reader::new(&LIST_PRUNABLE, row);
        Ok((TenantId(row.get("tenant_id")?), KnowledgeBaseId(row.get("id")?)))
    };
    rows.iter().map(read).collect()
}

/// Forgets the oldest deletions of a knowledge base, those older than `age`; whether there may be more. An index that did
/// not hear of them in that time is built anew. Writers of the knowledge base wait until the commit.
///
/// # Errors
/// If Postgres is away, or a writer holds the knowledge base for too long.
pub async fn prune(
    tx: &mut ServiceTx,
    tenant_id: TenantId,
    knowledge_base_id: KnowledgeBaseId,
    age: Duration,
) -> Result<bool, StoreError> {
    let params: Params<'_> = &[&tenant_id.0, &knowledge_base_id.0, &age.as_secs_f64(), &PRUNED_MAX];
    let deleted = tx.execute(&PRUNE, params).await?;
    Ok(i64::try_from(deleted).is_ok_and(|deleted| deleted >= PRUNED_MAX))
}

fn is_full(rows: &[Row], max: i64) -> bool {
    i64::try_from(rows.len()).is_ok_and(|rows| rows >= max)
}

fn key(statement: &Statement, row: &Row, id: &str) -> Result<(i64, Uuid), StoreError> {
    let row = Reader::new(statement, row);
    Ok((row.get("version")?, row.get(id)?))
}

fn read_head(row: &Row) -> Result<Head, StoreError> {
    let row = Reader::new(&HEAD, row);
    Ok(Head {
        version: row.count("version")?,
        generation_id: row.get("generation_id")?,
        analyzer: row.analyzer("analyzer")?,
        encoder: row.get("encoder")?,
        dimensions: row.small_count("dimensions")? as usize,
        chunk_count: row.count("chunk_count")? as usize,
        pruned_version: row.count("pruned_version")?,
    })
}

fn read_chunk(row: &Row) -> Result<Chunk, StoreError> {
    let row = Reader::new(&UPSERTS, row);
    Ok(Chunk {
        id: row.get("id")?,
        document_id: row.get("document_id")?,
        external_id: row.get("external_id")?,
        title: row.get("title")?,
        source_url: row.get("source_url")?,
        heading: row.get("heading")?,
        ordinal: row.small_count("ordinal")?,
        content: row.get("content")?,
        embedding: row.vector("embedding")?,
        metadata: row.object("metadata")?,
    })
}
