//! What the tables promise, checked on a real Postgres: the private cluster, started once for all tests that run at the same
//! time, with a database for each test.

mod conversations;
mod filters;
mod generations;
mod hot_queries;
mod isolation;
mod lists;
mod notifications;
mod people;
mod schema;
mod search;
mod statements;
mod versions;

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::Map;
use tempfile::TempDir;
use tertulia_index::Analyzer;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    runtime::{Handle, Runtime},
    time::{Instant, sleep},
};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::{
    Address, Connections, Store, TenantTx,
    changes::Change,
    chunks::NewChunk,
    documents::{self, NewDocument, Replaced},
    embedded::EmbeddedCluster,
    knowledge_bases::{self, KnowledgeBaseRow},
    migrate, tenants,
    test_support::data_dir,
};
use crate::{
    config::{Config, DatabaseConfig},
    ctx::{Actor, ApiKeyId, Ctx, DocumentId, TenantId},
};

/// Longest that a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(20);
/// Dimensions of the embeddings in tests.
const DIMENSIONS: usize = 3;
/// A database that is migrated once and copied for each test.
const TEMPLATE: &str = "tertulia";

/// The cluster that tests share; the last one to end stops it.
struct SharedCluster {
    // Fields in the order in which they have to go.
    cluster: Option<EmbeddedCluster>,
    runtime: Option<Runtime>,
    _data_dir: TempDir,
}

static SHARED: Mutex<Weak<SharedCluster>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

impl SharedCluster {
    /// Blocks; on a thread of its own, since tests have runtimes too.
    fn get() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return running;
        }
        let data_dir = data_dir();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let cluster = runtime.block_on(async {
            let cluster = EmbeddedCluster::start(data_dir.path(), &settings()).await.unwrap();
            migrate(&cluster.connections(PATIENCE).owner.unwrap()).await.unwrap();
            cluster
        });
        let started = Arc::new(Self { cluster: Some(cluster), runtime: Some(runtime), _data_dir: data_dir });
        *shared = Arc::downgrade(&started);
        started
    }
}

impl Drop for SharedCluster {
    fn drop(&mut self) {
        let (Some(cluster), Some(runtime)) = (self.cluster.take(), self.runtime.take()) else { return };
        // A runtime can neither block nor be dropped within another one.
        let stopping = std::thread::spawn(move || runtime.block_on(cluster.stop()));
        let _ = stopping.join();
    }
}

fn settings() -> DatabaseConfig {
    DatabaseConfig { user_connections_max: 8, service_connections_max: 8, ..Config::default().database }
}

/// A migrated database of a test's own.
struct TestDatabase {
    store: Store,
    name: String,
    cluster: Arc<SharedCluster>,
}

impl TestDatabase {
    async fn create() -> Self {
        let cluster = tokio::task::spawn_blocking(SharedCluster::get).await.unwrap();
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let embedded = cluster.cluster.as_ref().unwrap();
        let postgres = embedded.superuser("postgres", PATIENCE).connect_and_drive().await.unwrap();
        let sql = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER tertulia_owner");
        postgres.batch_execute(&sql).await.unwrap();
        let connections = Connections {
            user: address(embedded, &name, "tertulia_user"),
            service: address(embedded, &name, "tertulia_svc"),
            owner: Some(address(embedded, &name, "tertulia_owner")),
            replica: None,
        };
        let store = Store::connect(&connections, &settings(), &Handle::current()).await.unwrap();
        Self { store, name, cluster }
    }

    /// A connection of that role, on which a test says whatever it likes.
    async fn connect(&self, role: &str) -> Client {
        address(self.cluster.cluster.as_ref().unwrap(), &self.name, role).connect_and_drive().await.unwrap()
    }

    async fn superuser(&self) -> Client {
        self.connect("postgres").await
    }

    /// As a member of `tertulia_app`, in a transaction of that tenant.
    async fn begin(&self, tenant_id: TenantId) -> Client {
        let client = self.connect("tertulia_user").await;
        begin(&client, tenant_id).await;
        client
    }

    async fn tenant(&self, slug: &str) -> Ctx {
        let mut tx = self.store.service_tx().await.unwrap();
        let tenant_id = tenants::insert(&mut tx, slug, "free").await.unwrap().unwrap();
        tx.commit().await.unwrap();
        Ctx {
            actor: Actor::ApiKey(ApiKeyId::new()),
            deadline: Instant::now() + 10 * PATIENCE,
            ..Ctx::of_operator(tenant_id)
        }
    }

    async fn base(&self, ctx: &Ctx, name: &str) -> KnowledgeBaseRow {
        let mut tx = self.tx(ctx).await;
        let base = knowledge_bases::insert(&mut tx, name, Analyzer::English, "test-3", DIMENSIONS).await.unwrap();
        tx.commit().await.unwrap();
        base
    }

    async fn tx(&self, ctx: &Ctx) -> TenantTx {
        self.store.tenant_tx(ctx).await.unwrap()
    }

    /// Puts a document of so many chunks.
    async fn put(&self, ctx: &Ctx, base: &KnowledgeBaseRow, external_id: &str, chunks: u32) -> Replaced {
        let chunks: Vec<NewChunk> = (0..chunks).map(|ordinal| chunk(ordinal, &format!("text {ordinal}"))).collect();
        let mut tx = self.tx(ctx).await;
        let replaced =
            documents::replace(&mut tx, base.id, base.generation_id, &document(external_id), &chunks).await.unwrap();
        tx.commit().await.unwrap();
        replaced
    }

    /// The knowledge base as it is now.
    async fn look(&self, ctx: &Ctx, base: &KnowledgeBaseRow) -> KnowledgeBaseRow {
        let mut tx = self.tx(ctx).await;
        let now = knowledge_bases::find(&mut tx, base.id).await.unwrap().unwrap();
        tx.commit().await.unwrap();
        now
    }

    /// What is past `version`: ids of deletions, and of upserts.
    async fn changes(&self, ctx: &Ctx, base: &KnowledgeBaseRow, version: u64) -> (Vec<Uuid>, Vec<Uuid>) {
        let mut changes = self.store.changes(ctx.tenant_id, base.id).await.unwrap().unwrap();
        changes.read_from(version).await.unwrap();
        let (mut deletions, mut upserts) = (Vec::new(), Vec::new());
        while let Some(change) = changes.next().await.unwrap() {
            match change {
                Change::Deletion(id) => deletions.push(id),
                Change::Upsert(chunk) => upserts.push(chunk.id),
            }
        }
        changes.finish().await.unwrap();
        (deletions, upserts)
    }
}

fn address(cluster: &EmbeddedCluster, database: &str, role: &str) -> Address {
    let mut address = cluster.superuser(database, PATIENCE);
    address.config.user(role);
    address
}

/// A moment as RFC 3339 writes it.
fn at(text: &str) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap()
}

async fn begin(client: &Client, tenant_id: TenantId) {
    let sql = format!("BEGIN; SELECT set_config('tertulia.tenant_id', '{tenant_id}', true)");
    client.batch_execute(&sql).await.unwrap();
}

fn document(external_id: &str) -> NewDocument {
    NewDocument {
        external_id: external_id.to_owned(),
        title: format!("Title of {external_id}"),
        source_url: None,
        mime_type: "text/plain".into(),
        metadata: Map::new(),
        content_sha256: [7; 32],
    }
}

fn chunk(ordinal: u32, content: &str) -> NewChunk {
    let embedding = vec![1.0, ordinal as f32, 0.5];
    NewChunk { ordinal, heading: "Part".into(), content: content.into(), embedding, metadata: Map::new() }
}

/// SQL that inserts chunks of these ordinals into a document.
fn insert_chunks(ctx: &Ctx, base: &KnowledgeBaseRow, document_id: DocumentId, ordinals: &str) -> String {
    format!(
        "INSERT INTO knowledge_chunks
             (tenant_id, knowledge_base_id, generation_id, document_id, ordinal, content, embedding)
         SELECT '{}', '{}', '{}', '{}', ordinal, 'text ' || ordinal, '[1,2,3]'
         FROM generate_series({ordinals}) AS ordinal",
        ctx.tenant_id, base.id, base.generation_id, document_id
    )
}

/// The only value of the only row.
async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    let row: Row = client.query_one(sql, &[]).await.unwrap();
    row.get(0)
}

/// The code of the error that `sql` has to meet.
async fn refusal(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err("it is refused");
    error.code().expect("postgres refused it").code().to_owned()
}

/// Waits until a backend of the test's database waits for a lock.
async fn until_somebody_waits(superuser: &Client) {
    let waiting =
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database())";
    let start = Instant::now();
    while !value::<bool>(superuser, waiting).await {
        assert!(start.elapsed() < PATIENCE, "nobody waits for a lock");
        sleep(Duration::from_millis(2)).await;
    }
}
