//! The same hybrid search as one SQL statement, the way one would write it with pgvector and full text.
//!
//! It works on a copy of the knowledge base's chunks in a schema of its own, `loadtest`: one table without row security,
//! an HNSW and a GIN index, freshly vacuumed, a prepared statement, and as many candidates as the server takes. That is
//! the best case of this way of searching. The question is encoded here, so its time is in this peer's as in the server's.

use std::{rc::Rc, sync::Arc};

use anyhow::{Context as _, ensure};
use pgvector::Vector;
use tertulia_index::{Encoder, Fusion, LIST_LEN_MIN};
use tokio::task::LocalSet;
use tokio_postgres::{Client, NoTls, Row, Statement};
use uuid::Uuid;

use crate::{
    load::{Outcome, Peer},
    questions::Picker,
};

/// Breadth of the walk through the HNSW graph: above pgvector's default of 40, so that its list lacks few of the nearest.
const EF_SEARCH: u32 = 64;

const VERSION: &str = "
SELECT current_setting('server_version') || ', pgvector ' || extversion FROM pg_extension WHERE extname = 'vector'";

/// Connections to a database that is ready to be searched.
pub(crate) struct SqlPeers {
    config: tokio_postgres::Config,
    encoder: Arc<Encoder>,
    questions: Vec<String>,
    top_k: u32,
    chunks: i64,
    version: String,
}

impl SqlPeers {
    /// Makes the copy of the chunks if there is none of this state of the knowledge base.
    ///
    /// # Errors
    /// If the database cannot be reached, the role may not do that, or a question finds nothing.
    pub(crate) fn prepare(
        url: &str,
        knowledge_base: Uuid,
        encoder: Encoder,
        questions: &[String],
        top_k: u32,
    ) -> anyhow::Result<Self> {
        let mut peers = Self {
            config: url.parse().context("--postgres-url is no address of a database")?,
            encoder: Arc::new(encoder),
            questions: questions.to_vec(),
            top_k,
            chunks: 0,
            version: String::new(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, async {
            let client = connect(&peers.config).await?;
            copy(&client, knowledge_base, peers.encoder.dimensions()).await?;
            index_vectors(&client).await?;
            peers.chunks = client.query_one("SELECT count(*) FROM loadtest.chunks", &[]).await?.get(0);
            peers.version = client.query_one(VERSION, &[]).await?.get(0);
            // Every question once, as the server is asked too: it fills the caches.
            let peer = peers.connect(0).await?;
            for question in questions {
                let rows = peer.search(question).await.context("the search in SQL fails")?;
                ensure!(!rows.is_empty(), "the search in SQL finds nothing for: {question}");
            }
            Ok(())
        })?;
        Ok(peers)
    }

    /// What this peer is, for the report.
    pub(crate) fn describe(&self) -> String {
        format!(
            "PostgreSQL {}, {} chunks, hnsw.ef_search = {EF_SEARCH}, OR of words by ts_rank",
            self.version, self.chunks
        )
    }

    /// A connection that asks in the order of its number.
    ///
    /// # Errors
    /// If the database cannot be reached.
    pub(crate) async fn connect(&self, number: u64) -> anyhow::Result<SqlPeer> {
        let client = connect(&self.config).await?;
        // Planned for each question: a plan for all of them would make the words anew for every row that it looks at.
        let settings = format!("SET hnsw.ef_search = {EF_SEARCH}; SET plan_cache_mode = force_custom_plan");
        client.batch_execute(&settings).await?;
        Ok(SqlPeer {
            search: client.prepare(&search_sql()).await?,
            client,
            encoder: self.encoder.clone(),
            questions: self.questions.clone().into(),
            top_k: i64::from(self.top_k),
            list_len: list_len(self.top_k),
            picker: Picker::new(self.questions.len(), number),
        })
    }
}

/// The search. `$1`: the question's vector, `$2`: its text, `$3`: hits wanted, `$4`: length of each list. Reciprocal rank
/// fusion with the server's own constant and weights. Any of the question's words may match: with all of them required,
/// most questions find nothing.
fn search_sql() -> String {
    let Fusion { constant, semantic_weight, keyword_weight } = Fusion::default();
    format!(
        "
    WITH question AS (
        SELECT replace(plainto_tsquery('english', $2::text)::text, ' & ', ' | ')::tsquery AS words
    ),
    semantic AS (
        SELECT id, row_number() OVER (ORDER BY distance, id) AS place
        FROM (
            SELECT id, embedding <=> $1::vector AS distance
            FROM loadtest.chunks
            ORDER BY embedding <=> $1::vector
            LIMIT $4::bigint
        ) AS nearest
    ),
    keyword AS (
        SELECT id, row_number() OVER (ORDER BY score DESC, id) AS place
        FROM (
            SELECT chunks.id, ts_rank(chunks.words, question.words) AS score
            FROM loadtest.chunks, question
            WHERE chunks.words @@ question.words
            ORDER BY score DESC
            LIMIT $4::bigint
        ) AS ranked
    ),
    fused AS (
        SELECT id, coalesce({semantic_weight:?} / ({constant:?} + semantic.place), 0)
            + coalesce({keyword_weight:?} / ({constant:?} + keyword.place), 0) AS score
        FROM semantic FULL JOIN keyword USING (id)
        ORDER BY score DESC, id
        LIMIT $3::bigint
    )
    SELECT chunks.id, chunks.document_id, chunks.external_id, chunks.title, chunks.source_url, chunks.heading,
        chunks.ordinal, chunks.content, chunks.metadata::text, fused.score::real
    FROM fused JOIN loadtest.chunks USING (id)
    ORDER BY fused.score DESC, fused.id"
    )
}

/// Length of each of the two lists, as the server's.
fn list_len(top_k: u32) -> i64 {
    (2 * i64::from(top_k)).max(LIST_LEN_MIN as i64)
}

/// Opens a connection. Has to be called on a `LocalSet`, which then also drives it.
///
/// # Errors
/// If the database cannot be reached.
pub(crate) async fn connect(config: &tokio_postgres::Config) -> anyhow::Result<Client> {
    let (client, connection) = config.connect(NoTls).await.context("the database of --postgres-url does not answer")?;
    tokio::task::spawn_local(async {
        // What breaks the connection also fails the query that waits for it.
        let _ = connection.await;
    });
    Ok(client)
}

/// Copies the chunks of the knowledge base and indexes their words, unless the copy that is there is of this very version.
///
/// # Errors
/// If the role may not do that, or there is nothing to copy.
pub(crate) async fn copy(client: &Client, knowledge_base: Uuid, dimensions: usize) -> anyhow::Result<()> {
    let id = knowledge_base.to_string();
    let state = client
        .query_opt("SELECT version || ' of ' || id FROM knowledge_bases WHERE id = $1::text::uuid", &[&id])
        .await
        .context("the database of --postgres-url is not one of tertulia's, or the role may not read it")?
        .context("the database of --postgres-url does not have this knowledge base")?;
    let state: String = state.get(0);
    // The table is not logged: after a crash it is there, and empty.
    let copied = client.query_one("SELECT obj_description(to_regclass('loadtest.chunks'), 'pg_class')", &[]).await?;
    if copied.get::<_, Option<String>>(0).as_ref() == Some(&state)
        && client.query_one("SELECT EXISTS (SELECT FROM loadtest.chunks)", &[]).await?.get(0)
    {
        return Ok(());
    }
    eprintln!("copying the chunks for the peer in SQL and indexing their words …");
    client
        .batch_execute(&format!(
            "SET statement_timeout = 0;
             CREATE SCHEMA IF NOT EXISTS loadtest;
             DROP TABLE IF EXISTS loadtest.chunks;
             CREATE UNLOGGED TABLE loadtest.chunks (
                 id uuid PRIMARY KEY,
                 document_id uuid NOT NULL,
                 external_id text NOT NULL,
                 title text NOT NULL,
                 source_url text,
                 heading text NOT NULL,
                 ordinal integer NOT NULL,
                 content text NOT NULL,
                 metadata jsonb NOT NULL,
                 embedding vector({dimensions}) NOT NULL,
                 words tsvector NOT NULL GENERATED ALWAYS AS (
                     setweight(to_tsvector('english', title), 'A') || setweight(to_tsvector('english', heading), 'B')
                     || setweight(to_tsvector('english', content), 'D')
                 ) STORED
             )"
        ))
        .await
        .context("the role of --postgres-url may not make a schema of its own")?;
    let copied = client
        .execute(
            "INSERT INTO loadtest.chunks
             SELECT c.id, c.document_id, d.external_id, d.title, d.source_url, c.heading, c.ordinal, c.content,
                 d.metadata || c.metadata, c.embedding
             FROM knowledge_bases b
             JOIN knowledge_chunks c ON (c.tenant_id, c.knowledge_base_id, c.generation_id)
                 = (b.tenant_id, b.id, b.generation_id)
             JOIN documents d ON (d.tenant_id, d.id) = (c.tenant_id, c.document_id)
             WHERE b.id = $1::text::uuid",
            &[&id],
        )
        .await
        .context("the chunks cannot be copied")?;
    ensure!(copied > 0, "the knowledge base has no chunks");
    client
        .batch_execute(
            "SET maintenance_work_mem = '512MB';
             CREATE INDEX ON loadtest.chunks (external_id);
             CREATE INDEX ON loadtest.chunks USING gin (words) WITH (fastupdate = off)",
        )
        .await?;
    client.batch_execute("VACUUM ANALYZE loadtest.chunks").await?;
    client.batch_execute(&format!("COMMENT ON TABLE loadtest.chunks IS '{state}'")).await?;
    Ok(())
}

/// Indexes the vectors of the copy, if they are not. Takes a minute or more.
async fn index_vectors(client: &Client) -> anyhow::Result<()> {
    if !client.query_one("SELECT to_regclass('loadtest.chunks_embedding') IS NULL", &[]).await?.get::<_, bool>(0) {
        return Ok(());
    }
    eprintln!("indexing the vectors for the peer in SQL …");
    client
        .batch_execute(
            "SET statement_timeout = 0;
             SET maintenance_work_mem = '512MB';
             CREATE INDEX chunks_embedding ON loadtest.chunks USING hnsw (embedding vector_cosine_ops)",
        )
        .await?;
    client.batch_execute("VACUUM ANALYZE loadtest.chunks").await?;
    Ok(())
}

/// A connection that searches in SQL.
pub(crate) struct SqlPeer {
    client: Client,
    search: Statement,
    encoder: Arc<Encoder>,
    questions: Rc<[String]>,
    top_k: i64,
    list_len: i64,
    picker: Picker,
}

impl SqlPeer {
    async fn search(&self, question: &str) -> Result<Vec<Row>, tokio_postgres::Error> {
        let embedding = Vector::from(self.encoder.encode_query(question));
        self.client.query(&self.search, &[&embedding, &question, &self.top_k, &self.list_len]).await
    }
}

impl Peer for SqlPeer {
    async fn ask(&mut self, _turn: u64) -> Outcome {
        let question = self.picker.pick();
        match self.search(&self.questions[question]).await {
            Ok(_) => Outcome::Answered { server: None },
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_as_long_as_the_servers() {
        assert_eq!([1, 5, 10, 11, 100].map(list_len), [10, 10, 20, 22, 200]);
    }

    #[test]
    fn ranks_are_fused_with_the_servers_weights_and_not_as_integers() {
        let sql = search_sql();
        assert!(sql.contains("1.0 / (10.0 + semantic.place)") && sql.contains("2.0 / (10.0 + keyword.place)"), "{sql}");
    }
}
