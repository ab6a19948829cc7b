//! What the subcommands that work on the database share: finding it, and a runtime to ask it with.

use std::{future::Future, sync::Arc};

use anyhow::Context as _;

use crate::{
    config::Config,
    store::{self, Store, embedded::EmbeddedCluster},
};

/// The database that the settings name: theirs, or the private one of the data directory.
pub struct Operator {
    /// Ready for queries, its schema up to date.
    pub store: Arc<Store>,
    /// The private Postgres, if that is what it is.
    pub cluster: Option<EmbeddedCluster>,
}

impl Operator {
    /// Finds the database, starting the private one for the length of the command if no server runs on it, and brings its
    /// schema up to date where that is allowed.
    ///
    /// # Errors
    /// If it cannot be started or reached, or its schema is not the one this binary knows.
    pub async fn connect(config: &Config) -> anyhow::Result<Self> {
        let cluster = match config.database.url {
            Some(_) => None,
            None => Some(EmbeddedCluster::connect_or_start(&config.server.data_dir, &config.database).await?),
        };
        Self::connect_to(config, cluster, true).await
    }

    /// The same, but changes nothing in the database.
    ///
    /// # Errors
    /// As [`Operator::connect`].
    pub async fn connect_as_it_is(config: &Config) -> anyhow::Result<Self> {
        let cluster = match config.database.url {
            Some(_) => None,
            None => Some(EmbeddedCluster::connect_or_start_as_it_is(&config.server.data_dir, &config.database).await?),
        };
        Self::connect_to(config, cluster, false).await
    }

    async fn connect_to(config: &Config, cluster: Option<EmbeddedCluster>, may_migrate: bool) -> anyhow::Result<Self> {
        let connections = store::Connections::from_config(&config.database, cluster.as_ref())?;
        match &connections.owner {
            Some(owner) if may_migrate => drop(store::migrate(owner).await?),
            _ => store::check_schema(&connections.service).await?,
        }
        let runtime = tokio::runtime::Handle::current();
        let store = Store::connect(&connections, &config.database, &runtime).await?;
        Ok(Self { store: Arc::new(store), cluster })
    }

    /// Stops the private Postgres if this command started it.
    ///
    /// # Errors
    /// If it does not stop.
    pub async fn finish(self) -> anyhow::Result<()> {
        drop(self.store);
        if let Some(cluster) = self.cluster {
            cluster.stop().await.context("the private Postgres did not stop")?;
        }
        Ok(())
    }
}

/// Runs a subcommand's work on a runtime of its own.
///
/// # Errors
/// The work's own.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

/// Connects, has `work` done, and stops what was started, whether the work went well or not.
///
/// # Errors
/// The first that occurs.
pub fn with_store<T, F>(config: &Config, work: impl FnOnce(Arc<Store>) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    block_on(async {
        let operator = Operator::connect(config).await?;
        let outcome = work(operator.store.clone()).await;
        operator.finish().await?;
        outcome
    })
}
