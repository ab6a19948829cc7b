//! The whole server: the domain rooms, built once from the settings, and the order of starting and stopping.
//!
//! [`App`] is what handlers see. [`Stack`] is what `serve` and the tests start: the private Postgres (if none is named),
//! the schema, the pools, the encoder, the rooms, the sync, the listener, each after what it needs.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tertulia_index::Encoder as Table;

use crate::{
    accounts::Accounts,
    api,
    bus::{Limits, Redis},
    chat::Chat,
    compute::Compute,
    config::Config,
    http::body::Room,
    knowledge::{
        BaseKey, Knowledge, LoadedBases, encoders::Encoders, generations::Builder, rerank::Reranker,
        snapshots::Snapshots, sync::Sync,
    },
    metrics::Metrics,
    repeats::Repeats,
    server::{ConnInfo, Counters, Server},
    store::{self, Store, StoreError, embedded::EmbeddedCluster, listen::Notification},
    tasks::Tasks,
};

/// First pause before listening again after the connection was lost; it doubles up to [`LISTEN_PAUSE_MAX`].
const LISTEN_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before listening again.
const LISTEN_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Longest that a start waits for snapshots to be loaded before it serves; Postgres answers for the rest meanwhile.
const LOAD_WAIT: Duration = Duration::from_secs(30);
/// Longest that a stop waits for background tasks, the last snapshots among them.
const TASKS_STOP_WAIT: Duration = Duration::from_secs(30);
/// Longest that `/readyz` waits for Postgres.
const READY_WAIT: Duration = Duration::from_secs(2);

/// What handlers see: the domain rooms and what all of them share.
pub struct App {
    /// The settings.
    pub config: Config,
    /// Counters and histograms, and their exposition.
    pub metrics: Metrics,
    /// How often callers may ask.
    pub limits: Arc<Limits>,
    /// Who is asking; people and API keys.
    pub accounts: Arc<Accounts>,
    /// Widgets, meetings, sessions and messages.
    pub chat: Chat,
    /// Documents in, ranked chunks out.
    pub knowledge: Knowledge,
    /// Requests that are done once, however often they are sent.
    pub repeats: Repeats,
    /// Threads for what would hold up a shard.
    pub compute: Arc<Compute>,
    /// Memory for documents under way.
    pub documents_room: Room,
    /// Work that outlives its request.
    pub tasks: Tasks,
    store: Arc<Store>,
    redis: Option<Arc<Redis>>,
    connections: Arc<Counters>,
    has_started: AtomicBool,
    is_draining: AtomicBool,
}

impl App {
    /// Whether traffic should come here.
    ///
    /// # Errors
    /// Why not, for people and load balancers to read.
    pub async fn readiness(&self) -> Result<(), &'static str> {
        if self.is_draining.load(Ordering::Relaxed) {
            return Err("stopping");
        }
        if !self.has_started.load(Ordering::Relaxed) {
            return Err("loading indexes");
        }
        match tokio::time::timeout(READY_WAIT, self.store.ping()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("postgres is away; searches on loaded knowledge bases go on"),
        }
    }

    /// The metrics in the text format of Prometheus, gauges read now.
    pub fn render_metrics(&self) -> String {
        let bases = self.knowledge.loaded().all();
        let indexes: Vec<_> = bases.iter().filter_map(|base| base.index()).collect();
        let (index_loads, index_unloads) = self.knowledge.loaded().loads_and_unloads();
        let gauges = crate::metrics::Gauges {
            connections: self.connections.open().iter().sum(),
            connections_accepted: self.connections.accepted(),
            connections_refused: self.connections.refused(),
            connections_stalled: self.connections.stalled(),
            panics: self.connections.panicked(),
            pools: self.store.pool_gauges(),
            redis: self.redis.as_ref().map(|redis| redis.gauges()),
            replica: self.store.replica_gauges(),
            index_bases: indexes.len(),
            index_chunks: indexes.iter().map(|index| index.len()).sum(),
            index_bytes: indexes.iter().map(|index| index.memory_bytes()).sum(),
            index_loads,
            index_unloads,
            recall_at_10: self.knowledge.recall().recall_at_10(),
            sync_lag_versions: bases.iter().map(|base| base.lag()).max().unwrap_or(0),
        };
        self.metrics.render(&gauges)
    }
}

/// A running server.
pub struct Stack {
    app: Arc<App>,
    server: Server,
    cluster: Option<EmbeddedCluster>,
}

impl Stack {
    /// Starts everything that `config` asks for; gives back once the server accepts connections and its indexes are loaded.
    ///
    /// # Errors
    /// The first thing that keeps it from starting, with what to do about it. What was started before is stopped.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        // What fails for want of a file or a port fails before a database is started.
        let table = Table::load(&config.retrieval.weights_dir).with_context(|| {
            format!(
                "no encoder in {}: run scripts/setup.sh, which fetches the weights, or set retrieval.weights_dir \
                 (TERTULIA_RETRIEVAL_WEIGHTS_DIR) to the folder that has them",
                config.retrieval.weights_dir.display()
            )
        })?;
        let listener = Server::bind(&config.server)?;
        let cluster = match config.database.url {
            Some(_) => None,
            None => Some(EmbeddedCluster::start(&config.server.data_dir, &config.database).await?),
        };
        match Self::start_on(config, table, listener, cluster.as_ref()).await {
            Ok((app, server)) => Ok(Self { app, server, cluster }),
            Err(error) => {
                if let Some(cluster) = cluster
                    && let Err(stop_error) = cluster.stop().await
                {
                    tracing::warn!(%stop_error, "the private postgres did not stop");
                }
                Err(error)
            }
        }
    }

    async fn start_on(
        config: Config,
        table: Table,
        listener: crate::server::Listener,
        cluster: Option<&EmbeddedCluster>,
    ) -> anyhow::Result<(Arc<App>, Server)> {
        let connections = store::Connections::from_config(&config.database, cluster)?;
        match &connections.owner {
            Some(owner) => {
                let applied = store::migrate(owner).await?;
                if let Some(newest) = applied.last() {
                    tracing::info!(migrations = applied.len(), newest, "schema brought up to date");
                }
            }
            None => store::check_schema(&connections.service).await?,
        }
        let tasks = Tasks::new(tokio::runtime::Handle::current());
        let store = Arc::new(Store::connect(&connections, &config.database, tasks.runtime()).await?);
        let metrics = Metrics::new(store.measures());
        let redis = match &config.redis.url {
            Some(url) => Some(Redis::start(url, &config.redis, &tasks).await.context("redis.url")?),
            None => None,
        };
        let compute = Arc::new(Compute::new(cores())?);
        let encoders = Arc::new(Encoders::new(table, &config.encoder, compute.clone(), &tasks)?);
        let loaded = Arc::new(LoadedBases::default());
        let sync = Sync::new(
            store.clone(),
            loaded.clone(),
            compute.clone(),
            Snapshots::in_data_dir(&config.server.data_dir),
            tasks.clone(),
            config.retrieval.clone(),
        );
        let limits = Limits::new(redis.clone(), tasks.clone(), metrics.limits());
        let accounts =
            Accounts::new(store.clone(), compute.clone(), cores(), &config.accounts, limits.clone(), tasks.clone());
        let accounts = Arc::new(accounts);
        let builder = Builder::new(store.clone(), encoders.clone(), loaded.clone(), tasks.clone());
        let knowledge = Knowledge::new(
            store.clone(),
            encoders,
            builder.clone(),
            compute.clone(),
            loaded,
            sync.clone(),
            config.retrieval.clone(),
        )
        .with_reranker(Reranker::new(&config.rerank, tasks.runtime().clone()).context("rerank.url")?);
        let app = Arc::new(App {
            documents_room: Room::new(config.server.documents_held_bytes_max),
            config,
            limits,
            metrics,
            accounts: accounts.clone(),
            chat: Chat::new(store.clone()),
            repeats: Repeats::new(store.clone()),
            knowledge,
            compute,
            tasks: tasks.clone(),
            store: store.clone(),
            redis,
            connections: listener.counters().clone(),
            has_started: false.into(),
            is_draining: false.into(),
        });
        let handlers = app.clone();
        let service = move |request, connection: ConnInfo| {
            let app = handlers.clone();
            async move { api::dispatch(&app, request, &connection).await }
        };
        let server = Server::start(listener, service)?;
        tasks.spawn(follow_notifications(store.clone(), sync.clone(), accounts, tasks.clone()));
        tasks.spawn(builder.run());
        if connections.owner.is_some() {
            tasks.spawn(store::upkeep::run(store, tasks.stopping().clone()));
        }
        sync.start(LOAD_WAIT).await;
        app.has_started.store(true, Ordering::Relaxed);
        Ok((app, server))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// The rooms.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Stops everything, in the opposite order: requests under way finish first, the database goes last.
    pub async fn stop(self) {
        self.app.is_draining.store(true, Ordering::Relaxed);
        let cut = self.server.stop().await;
        if cut > 0 {
            tracing::warn!(connections = cut, "connections were cut at the end of the drain");
        }
        if !self.app.tasks.stop(TASKS_STOP_WAIT).await {
            tracing::warn!("some background tasks did not stop in time");
        }
        self.app.store.close();
        if let Some(cluster) = self.cluster
            && let Err(error) = cluster.stop().await
        {
            tracing::warn!(%error, "the private postgres did not stop");
        }
    }
}

/// Hands on what NOTIFY tells. Whenever one may have been missed, everything is looked at again.
async fn follow_notifications(store: Arc<Store>, sync: Arc<Sync>, accounts: Arc<Accounts>, tasks: Tasks) {
    let mut pause = LISTEN_PAUSE_MIN;
    loop {
        let listening = async {
            let mut listener = store.listen().await?;
            pause = LISTEN_PAUSE_MIN;
            sync.look_everywhere();
            accounts.recheck_all();
            loop {
                match listener.next().await? {
                    Notification::Knowledge { tenant_id, knowledge_base_id, version } => {
                        sync.heard(BaseKey { tenant_id, knowledge_base_id }, version);
                    }
                    Notification::ApiKey { public_id } => accounts.forget_key(&public_id).await,
                    Notification::Login { token_sha256 } => accounts.forget_login(&token_sha256).await,
                    Notification::Tenant { tenant_id } => accounts.forget_tenant(tenant_id),
                    Notification::Widget { tenant_id, widget_id } => accounts.forget_widget(tenant_id, widget_id).await,
                }
            }
        };
        let outcome: Result<(), StoreError> = tokio::select! {
            outcome = listening => outcome,
            () = tasks.stopping().cancelled() => return,
        };
        if let Err(error) = outcome {
            tracing::warn!(
                error = format!("{:#}", anyhow::Error::new(error)),
                "listening for changes ended; polling until it is back"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = tasks.stopping().cancelled() => return,
        }
        pause = (pause * 2).min(LISTEN_PAUSE_MAX);
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
