//! What every integration test stands on: a real server in this process, on a database of its own.
//!
//! ```ignore
//! let app = TestApp::start().await;
//! let acme = app.tenant("acme").await;
//! let manual = acme.knowledge_base("manual").await;
//! acme.put_text(&manual, "greeting", "Hello, world").await;
//! ```

pub mod binary;
mod client;
mod embeddings;
mod pgbouncer;
mod postgres;
mod proxy;
pub mod redis;
pub mod replica;

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use tertulia::{
    accounts::{
        keys::{self, CreatedKey, KeyDraft},
        tenants::{self, Tier},
    },
    app::{App, Stack},
    config::Config,
    ctx::{Ctx, Scope, TenantId},
    store::{self, Store},
};
use tokio_postgres::NoTls;

pub use client::{Client, Reply};
pub use embeddings::{Embeddings, KEY, MODEL, Manner};
pub use postgres::Database;
pub use proxy::Proxy;

/// Settings of a test by their environment variables, on top of the harness's own.
pub type Settings = HashMap<&'static str, String>;

/// The password of a test's people.
pub const PASSWORD: &str = "correct horse battery";
/// A change has come to every server by then, and not only because what they remember grew old (30 s).
const SOON: std::time::Duration = std::time::Duration::from_secs(15);
/// Limits that tests of other things must not run into.
pub const HIGH_LIMITS: [&str; 4] = [
    "TERTULIA_LIMITS_FREE_PER_MINUTE",
    "TERTULIA_LIMITS_PRO_PER_MINUTE",
    "TERTULIA_LIMITS_ENTERPRISE_PER_MINUTE",
    "TERTULIA_LIMITS_ADDRESS_PER_MINUTE",
];

/// A running server with a database of its own.
pub struct TestApp {
    stack: Option<Stack>,
    /// The database, for what a test does behind the server's back.
    pub database: Database,
    settings: Settings,
    data_dir: tempfile::TempDir,
}

impl TestApp {
    /// A server with the defaults.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with some settings of its own, by their environment variables.
    pub async fn start_with(settings: &[(&'static str, &str)]) -> Self {
        let database = Database::create().await;
        Self::start_on(database, settings).await
    }

    /// A server on `database`, whose URLs `settings` may replace.
    pub async fn start_on(database: Database, settings: &[(&'static str, &str)]) -> Self {
        let mut all: Settings = HashMap::from([
            ("DATABASE_URL", database.user_url()),
            ("TERTULIA_DATABASE_SERVICE_URL", database.service_url()),
            ("TERTULIA_DATABASE_DIRECT_URL", database.owner_url()),
            ("TERTULIA_DATABASE_USER_CONNECTIONS_MAX", "8".into()),
            ("TERTULIA_DATABASE_SERVICE_CONNECTIONS_MAX", "4".into()),
            ("TERTULIA_SERVER_LISTEN", "127.0.0.1:0".into()),
            ("TERTULIA_SERVER_SHARDS", "2".into()),
            ("TERTULIA_LOG_QUERIES", "true".into()),
            ("TERTULIA_RETRIEVAL_WEIGHTS_DIR", weights_dir().display().to_string()),
        ]);
        all.extend(HIGH_LIMITS.map(|name| (name, "1000000".to_owned())));
        all.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let mut app = Self { stack: None, database, settings: all, data_dir: tempfile::tempdir().unwrap() };
        app.start_stack().await;
        app
    }

    async fn start_stack(&mut self) {
        let lookup = |name: &str| match name {
            "TERTULIA_SERVER_DATA_DIR" => Some(self.data_dir.path().display().to_string()),
            name => self.settings.get(name).cloned(),
        };
        let config = Config::load(lookup, None).unwrap();
        self.stack = Some(Stack::start(config).await.unwrap());
    }

    /// Stops the server and starts it again with other settings on top.
    pub async fn restart_with(&mut self, settings: &[(&'static str, &str)]) {
        self.stop().await;
        self.settings.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        self.start_stack().await;
    }

    /// Stops the server, as SIGTERM does; its database and data directory stay.
    pub async fn stop(&mut self) {
        if let Some(stack) = self.stack.take() {
            stack.stop().await;
        }
    }

    /// Stops the server and starts it again on the same data.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_stack().await;
    }

    /// The rooms of the running server.
    pub fn app(&self) -> &Arc<App> {
        self.stack.as_ref().expect("the server runs").app()
    }

    /// A client of the running server that sends no key.
    pub fn client(&self) -> Client {
        Client::new(self.stack.as_ref().expect("the server runs").local_addr(), None)
    }

    /// The folder of the server's snapshots.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data_dir.path()
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let metrics = self.client().get("/metrics").await;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// A knowledge base of two documents of a chunk each, `first` and `second`, and of `chunks` more chunks for each, with
    /// embeddings of all directions, put there by SQL. Gives its id and version.
    pub async fn large_knowledge_base(&self, tenant: &Tenant, name: &str, chunks: usize) -> (String, u64) {
        let id = tenant.knowledge_base(name).await;
        tenant.put_text(&id, "first", "The first text.").await;
        tenant.put_text(&id, "second", "The second text.").await;
        let statement = format!(
            "INSERT INTO knowledge_chunks (tenant_id, knowledge_base_id, generation_id, document_id, ordinal, heading, content, embedding)
             SELECT c.tenant_id, c.knowledge_base_id, c.generation_id, c.document_id, n, '', 'text ' || n,
                 ARRAY(SELECT sin(n * 7.1 + i * i * n)::real FROM generate_series(1, vector_dims(c.embedding)) AS i)::vector
             FROM (SELECT * FROM knowledge_chunks WHERE knowledge_base_id = '{id}') AS c, generate_series(1, {chunks}) AS n"
        );
        let sql = connect(&self.database.owner_url()).await;
        sql.batch_execute(&statement).await.unwrap();
        let version = format!("SELECT version FROM knowledge_bases WHERE id = '{id}'");
        let version: i64 = sql.query_one(&version, &[]).await.unwrap().get(0);
        (id, version as u64)
    }

    /// A new tenant with a key that has every scope.
    pub async fn tenant(&self, name: &str) -> Tenant {
        let store = self.operator_store().await;
        let id = tenants::create(&store, name, Tier::Pro).await.unwrap();
        let key = create_key(&store, id, &Scope::ALL).await;
        Tenant { id, name: name.to_owned(), key_id: key.row.public_id, client: self.client().with_key(&key.text) }
    }

    /// A client with a new key of `tenant` that has only `scopes`.
    pub async fn key_with(&self, tenant: &Tenant, scopes: &[Scope]) -> Client {
        let store = self.operator_store().await;
        self.client().with_key(&create_key(&store, tenant.id, scopes).await.text)
    }

    /// A store of its own, as the command line has it.
    pub async fn operator_store(&self) -> Store {
        let config = Config::load(|name| self.settings.get(name).cloned(), None).unwrap().database;
        let connections = store::Connections::from_config(&config, None).unwrap();
        Store::connect(&connections, &config, &tokio::runtime::Handle::current()).await.unwrap()
    }
}

async fn create_key(store: &Store, tenant_id: TenantId, scopes: &[Scope]) -> CreatedKey {
    let draft = KeyDraft { name: "test".into(), scopes: scopes.iter().copied().collect(), expires_at: None };
    keys::create(store, &Ctx::of_operator(tenant_id), &draft).await.unwrap()
}

/// A tenant and a client with its key.
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its short name.
    pub name: String,
    /// The public id of the client's key.
    pub key_id: String,
    /// Speaks with the tenant's key.
    pub client: Client,
}

impl Tenant {
    /// Creates a knowledge base; gives its id.
    pub async fn knowledge_base(&self, name: &str) -> String {
        let reply = self.client.post("/v1/knowledge-bases", &json!({ "name": name })).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// Creates a knowledge base with the encoder of that name; gives its id.
    pub async fn knowledge_base_with(&self, name: &str, encoder: &str) -> String {
        let reply = self.client.post("/v1/knowledge-bases", &json!({ "name": name, "encoder": encoder })).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// Puts a plain-text document; gives the version to search with.
    pub async fn put_text(&self, knowledge_base: &str, external_id: &str, content: &str) -> u64 {
        self.put_document(knowledge_base, external_id, &json!({ "content": content })).await
    }

    /// Puts a document given as JSON; gives the version to search with.
    pub async fn put_document(&self, knowledge_base: &str, external_id: &str, document: &Value) -> u64 {
        let path = format!("/v1/knowledge-bases/{knowledge_base}/documents/{external_id}");
        let reply = self.client.put(&path, document).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["version"].as_u64().unwrap()
    }

    /// Creates what `draft` says; gives its id.
    pub async fn created(&self, path: &str, draft: &Value) -> String {
        let reply = self.client.post(path, draft).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// Creates a person of that role with [`PASSWORD`]; gives their id.
    pub async fn user(&self, email: &str, role: &str) -> String {
        self.created("/v1/users", &json!({ "email": email, "role": role, "password": PASSWORD })).await
    }

    /// Asks to log somebody in.
    pub async fn try_log_in(&self, email: &str, password: &str) -> Reply {
        let draft = json!({ "tenant": self.name, "email": email, "password": password });
        self.client.without_key().post("/v1/auth/login", &draft).await
    }

    /// A client with a new login of somebody who has [`PASSWORD`].
    pub async fn log_in(&self, email: &str) -> Client {
        let reply = self.try_log_in(email, PASSWORD).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        self.client.with_key(reply.json()["token"].as_str().unwrap())
    }

    /// Starts a session; gives its id.
    pub async fn session(&self, draft: &Value) -> String {
        self.created("/v1/sessions", draft).await
    }

    /// Posts a message of a visitor; gives it as the server answered.
    pub async fn say(&self, session: &str, content: &str) -> Value {
        let path = format!("/v1/sessions/{session}/messages");
        let reply = self.client.post(&path, &json!({ "role": "user", "content": content })).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()
    }

    /// Searches; the answer must be 200.
    pub async fn search(&self, knowledge_base: &str, request: &Value) -> Value {
        let reply = self.client.post(&format!("/v1/knowledge-bases/{knowledge_base}/search"), request).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()
    }

    /// Waits until the server answers this knowledge base from memory with everything up to `version`.
    pub async fn until_in_memory(&self, knowledge_base: &str, version: u64) {
        let request = json!({ "query": "anything", "min_version": version });
        until("the knowledge base is answered from memory", async || {
            let answer = self.search(knowledge_base, &request).await;
            (answer["source"] == "memory").then_some(())
        })
        .await;
    }
}

/// The external ids of a search's hits, best first.
pub fn external_ids(answer: &Value) -> Vec<&str> {
    let hits = answer["results"].as_array().map_or(&[][..], Vec::as_slice);
    hits.iter().map(|hit| hit["external_id"].as_str().unwrap()).collect()
}

/// Asks `condition` again and again until it gives something; panics with `what` after a long time.
pub async fn until<T>(what: &str, condition: impl AsyncFn() -> Option<T>) -> T {
    let give_up = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < give_up, "waited too long until {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// [`until`], within the time in which every server hears of a change.
pub async fn soon<T>(what: &str, condition: impl AsyncFn() -> Option<T>) -> T {
    let start = tokio::time::Instant::now();
    let value = until(what, condition).await;
    assert!(start.elapsed() < SOON, "it took {:?} until {what}", start.elapsed());
    value
}

/// [`until`] for tests without a runtime.
pub fn wait_until<T>(what: &str, condition: impl Fn() -> Option<T>) -> T {
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(std::time::Instant::now() < give_up, "waited too long until {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A connection to Postgres for what a test does behind the server's back.
pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test's own connection, gone with its runtime")]
    tokio::spawn(connection);
    client
}

/// The encoder's weights, as `make test` has put them in place.
pub fn weights_dir() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("weights");
    assert!(dir.exists(), "no weights in {}: run scripts/setup.sh", dir.display());
    dir
}
