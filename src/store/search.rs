//! Searches that Postgres answers, for knowledge bases that are not loaded: one list by meaning, one by words.

use serde_json::Value;
use tertulia_index::Question;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    StoreError,
    knowledge_bases::KnowledgeBaseRow,
    row::Reader,
    tx::{Statement, TenantTx},
};
use crate::ctx::DocumentId;

const SEMANTIC: Statement = Statement {
    name: "search/semantic",
    sql: include_str!("sql/search/semantic.sql"),
    types: &[
        Type::UUID,
        Type::UUID,
        Type::FLOAT4_ARRAY,
        Type::TEXT,
        Type::INT8,
        Type::TEXT,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
    ],
};
const KEYWORD: Statement = Statement {
    name: "search/keyword",
    sql: include_str!("sql/search/keyword.sql"),
    types: &[
        Type::UUID,
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::INT8,
        Type::TEXT,
        Type::BOOL,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
    ],
};
const UNKNOWN_KEY: Statement = Statement {
    name: "search/unknown_key",
    sql: include_str!("sql/search/unknown_key.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT_ARRAY],
};

const KNOWN_KEYS: Statement = Statement {
    name: "search/known_keys",
    sql: include_str!("sql/search/known_keys.sql"),
    types: &[Type::UUID, Type::UUID],
};

const MEASURES: Statement = Statement {
    name: "search/measures",
    sql: include_str!("sql/search/measures.sql"),
    types: &[Type::UUID_ARRAY, Type::FLOAT4_ARRAY, Type::TEXT, Type::BOOL, Type::TEXT, Type::BOOL],
};

const NEIGHBOURS: Statement = Statement {
    name: "search/neighbours",
    sql: include_str!("sql/search/neighbours.sql"),
    types: &[Type::UUID, Type::UUID_ARRAY, Type::INT4_ARRAY, Type::TEXT, Type::INT8],
};

/// A chunk that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct FallbackHit {
    /// Its id.
    pub chunk_id: Uuid,
    /// The document that it is a part of.
    pub document_id: DocumentId,
    /// The caller's own name of the document.
    pub external_id: String,
    /// The document's title.
    pub title: String,
    /// Where people can read the document.
    pub source_url: Option<String>,
    /// Headings that it stands under, outermost first, joined by ` › `.
    pub heading: String,
    /// Its place among the document's chunks, from 0.
    pub ordinal: u32,
    /// The text.
    pub content: String,
    /// 0 to 1, higher is better: the cosine, or the rank of full text by one more than it.
    pub score: f32,
    /// The document's metadata with the chunk's on top, as JSON.
    pub metadata_json: String,
}

/// What the lists would measure a chunk by.
#[derive(Debug, Clone, PartialEq)]
pub struct Measures {
    /// Which chunk.
    pub chunk_id: Uuid,
    /// Its cosine with the question's embedding; 0 without one.
    pub similarity: f32,
    /// As [`FallbackHit::score`] of the keyword list; 0 without a word of the question.
    pub rank: f32,
    /// Its embedding, `[dimensions]`, if it was asked for.
    pub embedding: Option<Vec<f32>>,
}

/// A chunk that stands next to a hit in its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallbackNeighbour {
    /// Its id.
    pub chunk_id: Uuid,
    /// Its place among the document's chunks, from 0.
    pub ordinal: u32,
    /// The text.
    pub content: String,
}

/// A filter's key that no chunk has a value for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownKey {
    /// The key.
    pub key: String,
    /// Keys that there are, by their bytes, 20 at most.
    pub known: Vec<String>,
}

/// Up to `limit` chunks nearest to `embedding` of those that have what `question` demands, nearest first. Exact up to 10,000 chunks; beyond, most of them are found.
///
/// `embedding`: `[dimensions]` of the knowledge base's generation. `filter`: as `tertulia_index::Filter` writes it.
///
/// # Errors
/// If Postgres is away or the dimensions differ.
pub async fn semantic(
    tx: &mut TenantTx,
    base: &KnowledgeBaseRow,
    embedding: &[f32],
    question: &Question<'_>,
    filter: Option<&Value>,
    limit: usize,
) -> Result<Vec<FallbackHit>, StoreError> {
    let (filter, limit) = (filter.map(Value::to_string), rows(limit));
    let (analyzer, phrases, excluded) = (base.analyzer.name(), question.phrases(), question.excluded());
    let (id, generation_id) = (base.id.0, base.generation_id);
    let parameters: [&(dyn ToSql + Sync); 8] =
        [&id, &generation_id, &embedding, &filter, &limit, &analyzer, &phrases, &excluded];
    let found = tx.query(&SEMANTIC, &parameters).await?;
    found.iter().map(|row| read(&SEMANTIC, row)).collect()
}

/// Up to `limit` chunks with any of the words of `question` and all that it demands, best first. With `is_prefix`, words
/// that begin with the last one count too.
///
/// `filter`: as `tertulia_index::Filter` writes it.
///
/// # Errors
/// If Postgres is away.
pub async fn keyword(
    tx: &mut TenantTx,
    base: &KnowledgeBaseRow,
    question: &Question<'_>,
    is_prefix: bool,
    filter: Option<&Value>,
    limit: usize,
) -> Result<Vec<FallbackHit>, StoreError> {
    let (filter, limit) = (filter.map(Value::to_string), rows(limit));
    let (analyzer, phrases, excluded) = (base.analyzer.name(), question.phrases(), question.excluded());
    let (id, generation_id, words) = (base.id.0, base.generation_id, question.words());
    let parameters: [&(dyn ToSql + Sync); 9] =
        [&id, &generation_id, &words, &filter, &limit, &analyzer, &is_prefix, &phrases, &excluded];
    let found = tx.query(&KEYWORD, &parameters).await?;
    found.iter().map(|row| read(&KEYWORD, row)).collect()
}

/// What both lists would measure the chunks of these ids by, in any order, and with their embeddings if `with_embeddings`.
///
/// # Errors
/// If Postgres is away or the dimensions differ.
pub async fn measures(
    tx: &mut TenantTx,
    base: &KnowledgeBaseRow,
    chunk_ids: &[Uuid],
    embedding: Option<&[f32]>,
    question: &Question<'_>,
    is_prefix: bool,
    with_embeddings: bool,
) -> Result<Vec<Measures>, StoreError> {
    let (words, analyzer) = (question.words(), base.analyzer.name());
    let parameters: [&(dyn ToSql + Sync); 6] =
        [&chunk_ids, &embedding, &words, &with_embeddings, &analyzer, &is_prefix];
    let rows = tx.query(&MEASURES, &parameters).await?;
    let read = |row: &Row| {
        let row = Reader::new(&MEASURES, row);
        Ok(Measures {
            chunk_id: row.get("id")?,
            similarity: row.get::<Option<f32>>("similarity")?.unwrap_or(0.0),
            rank: row.get("rank")?,
            embedding: row.get("embedding")?,
        })
    };
    rows.iter().map(read).collect()
}

/// For each of `hits` the chunks up to `distance` places before or after it in its document that pass the filter, in order.
///
/// # Errors
/// If Postgres is away.
pub async fn neighbours(
    tx: &mut TenantTx,
    base: &KnowledgeBaseRow,
    hits: &[&FallbackHit],
    filter: Option<&Value>,
    distance: u32,
) -> Result<Vec<Vec<FallbackNeighbour>>, StoreError> {
    let documents: Vec<Uuid> = hits.iter().map(|hit| hit.document_id.0).collect();
    let ordinals: Vec<i32> = hits.iter().map(|hit| i32::try_from(hit.ordinal).unwrap_or(i32::MAX)).collect();
    let (filter, distance) = (filter.map(Value::to_string), i64::from(distance));
    let rows = tx.query(&NEIGHBOURS, &[&base.generation_id, &documents, &ordinals, &filter, &distance]).await?;
    let mut neighbours = vec![Vec::new(); hits.len()];
    for row in &rows {
        let row = Reader::new(&NEIGHBOURS, row);
        let place = row.count("place")? as usize;
        if let Some(of_hit) = place.checked_sub(1).and_then(|at| neighbours.get_mut(at)) {
            of_hit.push(FallbackNeighbour {
                chunk_id: row.get("id")?,
                ordinal: row.small_count("ordinal")?,
                content: row.get("content")?,
            });
        }
    }
    Ok(neighbours)
}

/// The first of a filter's `keys` that no chunk has a value for, which tells a mistyped key from one that nothing fits; none
/// of an empty knowledge base.
///
/// # Errors
/// If Postgres is away.
pub async fn find_unknown_key(
    tx: &mut TenantTx,
    base: &KnowledgeBaseRow,
    keys: &[&str],
) -> Result<Option<UnknownKey>, StoreError> {
    let Some(row) = tx.query_opt(&UNKNOWN_KEY, &[&base.id.0, &base.generation_id, &keys]).await? else {
        return Ok(None);
    };
    let key = Reader::new(&UNKNOWN_KEY, &row).get("key")?;
    let rows = tx.query(&KNOWN_KEYS, &[&base.id.0, &base.generation_id]).await?;
    let known = rows.iter().map(|row| Reader::new(&KNOWN_KEYS, row).get("key")).collect::<Result<_, _>>()?;
    Ok(Some(UnknownKey { key, known }))
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn read(statement: &Statement, row: &Row) -> Result<FallbackHit, StoreError> {
    let row = Reader::new(statement, row);
    Ok(FallbackHit {
        chunk_id: row.get("id")?,
        document_id: DocumentId(row.get("document_id")?),
        external_id: row.get("external_id")?,
        title: row.get("title")?,
        source_url: row.get("source_url")?,
        heading: row.get("heading")?,
        ordinal: row.small_count("ordinal")?,
        content: row.get("content")?,
        score: row.get("score")?,
        metadata_json: row.get("metadata")?,
    })
}
