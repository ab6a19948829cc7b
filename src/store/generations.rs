//! The table `embedding_generations`: what encoded the chunks of a knowledge base, and the building of a new generation.
//!
//! A new generation is built by reading the active one's chunks in the order of `(version, id)`, as an index does: what is
//! written meanwhile has a later version and so comes later. Each batch and the place that it reached are written in one
//! transaction under the knowledge base's lock, and so is the switch, once nothing is past that place.
//!
//! Invariant: a [`Lease`] only keeps two servers from doing the same work. That nothing is skipped or mixed is for each
//! write to see to: it is given up if another source is active by now, or somebody else has moved the cursor.

use std::time::Duration;

use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    StoreError,
    row::Reader,
    tx::{Params, ServiceTx, Statement, TenantTx},
};
use crate::ctx::{KnowledgeBaseId, TenantId};

macro_rules! statement {
    ($name:ident, $file:literal, $($type:ident)*) => {
        const $name: Statement = Statement {
            name: $file,
            sql: include_str!(concat!("sql/", $file, ".sql")),
            types: &[$(Type::$type),*],
        };
    };
}

statement!(INSERT, "generations/insert", UUID UUID TEXT INT4);
statement!(LIST, "generations/list", UUID);
statement!(RETIRE_BUILDING, "generations/retire", UUID UUID);
statement!(LIST_DUE, "building/list_due", TEXT_ARRAY UUID);
statement!(LEASE, "building/lease", UUID UUID UUID UUID FLOAT8);
statement!(RELEASE, "building/release", UUID UUID UUID UUID FLOAT8 TEXT);
statement!(RELEASE_ALL, "building/release_all", UUID);
statement!(HEAD, "building/head", UUID UUID UUID UUID);
statement!(LIST_CHUNKS, "building/list_chunks", UUID UUID UUID UUID INT8 UUID INT8);
statement!(LOCK, "building/lock", UUID UUID UUID);
statement!(ADVANCE, "building/advance", UUID UUID UUID UUID UUID INT8 UUID INT8 UUID);
statement!(INSERT_CHUNKS, "building/insert_chunks", UUID UUID UUID UUID_ARRAY INT8_ARRAY UUID_ARRAY FLOAT4_ARRAY INT4_ARRAY INT4_ARRAY);
statement!(UPDATE_METADATA, "building/update_metadata", UUID UUID UUID_ARRAY INT8_ARRAY);
statement!(HAS_MORE, "building/has_more", UUID UUID UUID INT8 UUID);
statement!(COMPARE, "building/compare", UUID UUID UUID UUID);
statement!(DELETE_EXTRA, "building/delete_extra", UUID UUID UUID UUID);
statement!(RESTART, "building/restart", UUID UUID UUID UUID);
statement!(ACTIVATE, "building/activate", UUID UUID UUID UUID UUID INT8 UUID);
statement!(RETIRE, "building/retire", UUID UUID UUID);
statement!(SWITCH, "building/switch", UUID UUID UUID);
statement!(LOCK_TO_DROP, "building/lock_to_drop", UUID UUID UUID);
statement!(DROP_CHUNKS, "building/drop_chunks", UUID UUID UUID INT8);
statement!(DROP, "building/drop", UUID UUID UUID);

/// Chunks of a retired generation that are deleted at once, for which the knowledge base's writers wait.
const DROPPED_MAX: i64 = 1_024;

/// What a generation is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationState {
    /// Searches ask it.
    Active,
    /// It is being built beside the active one.
    Building,
    /// Its chunks are being deleted.
    Retired,
}

impl GenerationState {
    /// The word for it in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Building => "building",
            Self::Retired => "retired",
        }
    }

    fn parse(word: &str) -> Self {
        match word {
            "building" => Self::Building,
            "retired" => Self::Retired,
            // The table has no other words.
            _ => Self::Active,
        }
    }
}

/// A generation of a knowledge base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRow {
    /// Its id.
    pub id: Uuid,
    /// Fingerprint of its encoder.
    pub encoder: String,
    /// Dimensions of its vectors.
    pub dimensions: usize,
    /// What it is there for.
    pub state: GenerationState,
    /// Chunks that it has.
    pub chunk_count: u64,
    /// Chunks of the active generation.
    pub total: u64,
    /// What keeps it from being built, if something does.
    pub problem: Option<String>,
    /// When it was created.
    pub created_at: OffsetDateTime,
}

/// Begins a generation. A unique violation says that one is being built already.
///
/// # Errors
/// If Postgres is away or refuses it.
pub async fn insert(
    tx: &mut TenantTx,
    knowledge_base_id: KnowledgeBaseId,
    encoder: &str,
    dimensions: usize,
) -> Result<Uuid, StoreError> {
    let id = Uuid::now_v7();
    // More than fit are more than the table takes, so Postgres refuses them.
    let dimensions = i32::try_from(dimensions).unwrap_or(i32::MAX);
    tx.execute(&INSERT, &[&knowledge_base_id.0, &id, &encoder, &dimensions]).await?;
    Ok(id)
}

/// The generations of a knowledge base, newest first, 100 at most; none if the tenant has no such knowledge base.
///
/// # Errors
/// If Postgres is away.
pub async fn list(tx: &mut TenantTx, knowledge_base_id: KnowledgeBaseId) -> Result<Vec<GenerationRow>, StoreError> {
    let rows = tx.query(&LIST, &[&knowledge_base_id.0]).await?;
    let mut all = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    all.sort_by_key(|generation| std::cmp::Reverse((generation.created_at, generation.id)));
    Ok(all)
}

/// Gives up the building of a generation; false if that one is not being built.
///
/// # Errors
/// If Postgres is away.
pub async fn retire(tx: &mut TenantTx, knowledge_base_id: KnowledgeBaseId, id: Uuid) -> Result<bool, StoreError> {
    Ok(tx.execute(&RETIRE_BUILDING, &[&knowledge_base_id.0, &id]).await? > 0)
}

/// The right to work on a generation, for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Whose generation it is.
    pub knowledge_base_id: KnowledgeBaseId,
    /// Which one.
    pub generation_id: Uuid,
    /// Who has the right.
    pub builder: Uuid,
}

/// A generation that there is work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// What would be leased.
    pub lease: Lease,
    /// [`GenerationState::Building`] or [`GenerationState::Retired`].
    pub state: GenerationState,
    /// Fingerprint of its encoder.
    pub encoder: String,
}

/// How far the building of a generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The active generation, which is read.
    pub source_id: Uuid,
    version: i64,
    id: Uuid,
}

/// A chunk of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceChunk {
    version: i64,
    id: Uuid,
    /// Heading and content, if they are not encoded yet.
    pub text: Option<(String, String)>,
}

/// What an attempt to switch led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switched {
    /// Searches ask the new generation; the old one is retired.
    Yes,
    /// There is more to read.
    NotYet,
    /// Not by this builder, or not any more.
    Lost,
}

/// Generations that can be worked on with one of `encoders`, by `builder`, 100 at most.
///
/// # Errors
/// If Postgres is away.
pub async fn list_due(tx: &mut ServiceTx, encoders: &[String], builder: Uuid) -> Result<Vec<Due>, StoreError> {
    let rows = tx.query(&LIST_DUE, &[&encoders, &builder]).await?;
    let read = |row: &Row| {
        let row = Reader::new(&LIST_DUE, row);
        let lease = Lease {
            tenant_id: TenantId(row.get("tenant_id")?),
            knowledge_base_id: KnowledgeBaseId(row.get("knowledge_base_id")?),
            generation_id: row.get("id")?,
            builder,
        };
        Ok(Due { lease, state: GenerationState::parse(row.get("state")?), encoder: row.get("encoder")? })
    };
    rows.iter().map(read).collect()
}

/// Takes or renews a lease for so long; false if somebody else has it.
///
/// # Errors
/// If Postgres is away.
pub async fn lease(tx: &mut ServiceTx, lease: &Lease, time: Duration) -> Result<bool, StoreError> {
    let [tenant, base, generation] = lease.key();
    Ok(tx.execute(&LEASE, &[&tenant, &base, &generation, &lease.builder, &time.as_secs_f64()]).await? > 0)
}

/// Gives a lease back, for others to take after `pause`; `problem` is for people to read.
///
/// # Errors
/// If Postgres is away.
pub async fn release(tx: &mut ServiceTx, lease: &Lease, pause: Duration, problem: &str) -> Result<(), StoreError> {
    let [tenant, base, generation] = lease.key();
    let params: Params<'_> = &[&tenant, &base, &generation, &lease.builder, &pause.as_secs_f64(), &problem];
    tx.execute(&RELEASE, params).await.map(drop)
}

/// Gives back every lease of `builder`.
///
/// # Errors
/// If Postgres is away.
pub async fn release_all(tx: &mut ServiceTx, builder: Uuid) -> Result<(), StoreError> {
    tx.execute(&RELEASE_ALL, &[&builder]).await.map(drop)
}

/// Where the building is; none if the lease is lost or the generation is not to be built any more.
///
/// # Errors
/// If Postgres is away.
pub async fn cursor(tx: &mut ServiceTx, lease: &Lease) -> Result<Option<Cursor>, StoreError> {
    let [tenant, base, generation] = lease.key();
    let row = tx.query_opt(&HEAD, &[&tenant, &base, &generation, &lease.builder]).await?;
    let read = |row: Row| {
        let row = Reader::new(&HEAD, &row);
        Ok(Cursor { source_id: row.get("source_id")?, version: row.get("cursor_version")?, id: row.get("cursor_id")? })
    };
    row.map(read).transpose()
}

/// Up to `limit` chunks of the source past `cursor`.
///
/// # Errors
/// If Postgres is away.
pub async fn list_chunks(
    tx: &mut ServiceTx,
    lease: &Lease,
    cursor: &Cursor,
    limit: i64,
) -> Result<Vec<SourceChunk>, StoreError> {
    let [tenant, base, generation] = lease.key();
    let params: Params<'_> = &[&tenant, &base, &cursor.source_id, &generation, &cursor.version, &cursor.id, &limit];
    let rows = tx.query(&LIST_CHUNKS, params).await?;
    let read = |row: &Row| {
        let row = Reader::new(&LIST_CHUNKS, row);
        let (heading, content): (Option<String>, Option<String>) = (row.get("heading")?, row.get("content")?);
        Ok(SourceChunk { version: row.get("version")?, id: row.get("id")?, text: heading.zip(content) })
    };
    rows.iter().map(read).collect()
}

/// Writes what was read past `cursor`: for each of `chunks` that has a text its vector of `embeddings`, in order; false if
/// the lease is lost, or the generation is not to be built any more.
///
/// # Errors
/// If Postgres is away or refuses a vector.
pub async fn write(
    tx: &mut ServiceTx,
    lease: &Lease,
    cursor: &Cursor,
    chunks: &[SourceChunk],
    embeddings: &[Vec<f32>],
) -> Result<bool, StoreError> {
    let Some(last) = chunks.last() else { return Ok(true) };
    let [tenant, base, generation] = lease.key();
    let (encoded, known): (Vec<_>, Vec<_>) = chunks.iter().partition(|chunk| chunk.text.is_some());
    let names = |chunks: &[&SourceChunk]| -> (Vec<Uuid>, Vec<i64>) {
        chunks.iter().map(|chunk| (chunk.id, chunk.version)).unzip()
    };
    let (ids, versions) = names(&encoded);
    let new_ids: Vec<Uuid> = encoded.iter().map(|_| Uuid::now_v7()).collect();
    let (components, firsts, lasts) = one_after_the_other(embeddings);
    let (known_ids, known_versions) = names(&known);

    if tx.execute(&LOCK, &[&tenant, &base, &cursor.source_id]).await? == 0 {
        return Ok(false);
    }
    let advance: Params<'_> = &[
        &tenant,
        &base,
        &generation,
        &lease.builder,
        &cursor.source_id,
        &cursor.version,
        &cursor.id,
        &last.version,
        &last.id,
    ];
    if tx.execute(&ADVANCE, advance).await? == 0 {
        return Ok(false);
    }
    if !ids.is_empty() {
        let insert: Params<'_> =
            &[&tenant, &base, &generation, &ids, &versions, &new_ids, &components, &firsts, &lasts];
        tx.execute(&INSERT_CHUNKS, insert).await?;
    }
    if !known_ids.is_empty() {
        tx.execute(&UPDATE_METADATA, &[&tenant, &generation, &known_ids, &known_versions]).await?;
    }
    Ok(true)
}

/// Makes the generation the active one if nothing is past `cursor`.
///
/// # Errors
/// If Postgres is away.
pub async fn switch(tx: &mut ServiceTx, lease: &Lease, cursor: &Cursor) -> Result<Switched, StoreError> {
    let [tenant, base, generation] = lease.key();
    let source = cursor.source_id;
    if tx.execute(&LOCK, &[&tenant, &base, &source]).await? == 0 {
        return Ok(Switched::Lost);
    }
    // Nobody writes from here on.
    let row = tx.query_one(&HAS_MORE, &[&tenant, &base, &source, &cursor.version, &cursor.id]).await?;
    if Reader::new(&HAS_MORE, &row).get("has_more")? {
        return Ok(Switched::NotYet);
    }
    let compare: Params<'_> = &[&tenant, &base, &source, &generation];
    let surplus = async |tx: &mut ServiceTx| -> Result<i64, StoreError> {
        let row = tx.query_one(&COMPARE, compare).await?;
        Reader::new(&COMPARE, &row).get("surplus")
    };
    let mut difference = surplus(tx).await?;
    if difference > 0 {
        tx.execute(&DELETE_EXTRA, compare).await?;
        difference = surplus(tx).await?;
    }
    if difference != 0 {
        tx.execute(&RESTART, &[&tenant, &base, &generation, &lease.builder]).await?;
        return Ok(Switched::NotYet);
    }
    let activate: Params<'_> = &[&tenant, &base, &generation, &lease.builder, &source, &cursor.version, &cursor.id];
    if tx.execute(&ACTIVATE, activate).await? == 0 {
        return Ok(Switched::Lost);
    }
    tx.execute(&RETIRE, &[&tenant, &base, &source]).await?;
    tx.execute(&SWITCH, &[&tenant, &base, &generation]).await?;
    Ok(Switched::Yes)
}

/// Deletes some chunks of a retired generation, at last itself; true once it is gone.
///
/// # Errors
/// If Postgres is away.
pub async fn drop_some(tx: &mut ServiceTx, lease: &Lease) -> Result<bool, StoreError> {
    let [tenant, base, generation] = lease.key();
    if tx.execute(&LOCK_TO_DROP, &[&tenant, &base, &generation]).await? == 0 {
        return Ok(true);
    }
    if tx.execute(&DROP_CHUNKS, &[&tenant, &base, &generation, &DROPPED_MAX]).await? > 0 {
        return Ok(false);
    }
    tx.execute(&DROP, &[&tenant, &base, &generation]).await?;
    Ok(true)
}

impl Lease {
    fn key(&self) -> [Uuid; 3] {
        [self.tenant_id.0, self.knowledge_base_id.0, self.generation_id]
    }
}

/// Vectors as one array, with each one's first and last place in it, counted from 1.
fn one_after_the_other(vectors: &[Vec<f32>]) -> (Vec<f32>, Vec<i32>, Vec<i32>) {
    let (mut firsts, mut lasts, mut last) = (Vec::new(), Vec::new(), 0);
    for vector in vectors {
        firsts.push(last + 1);
        last += vector.len() as i32;
        lasts.push(last);
    }
    (vectors.concat(), firsts, lasts)
}

fn read(row: &Row) -> Result<GenerationRow, StoreError> {
    let row = Reader::new(&LIST, row);
    Ok(GenerationRow {
        id: row.get("id")?,
        encoder: row.get("encoder")?,
        dimensions: row.small_count("dimensions")? as usize,
        state: GenerationState::parse(row.get("state")?),
        chunk_count: row.count("chunk_count")?,
        total: row.count("total")?,
        problem: row.get("problem")?,
        created_at: row.get("created_at")?,
    })
}
