//! A private cluster in a folder of its own, for the tests of this room.

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Connections, Store, embedded::EmbeddedCluster, migrate};
use crate::{
    config::{Config, DatabaseConfig},
    ctx::{Actor, ApiKeyId, Ctx, TenantId},
};

/// A folder that the user whom root makes Postgres run as may pass through.
pub(super) fn data_dir() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).expect("it is ours");
    folder
}

/// Settings with small pools.
pub(super) fn settings() -> DatabaseConfig {
    DatabaseConfig {
        user_connections_max: 4,
        service_connections_max: 4,
        acquire_timeout: Duration::from_millis(500),
        ..Config::default().database
    }
}

pub(super) async fn start(data_dir: &Path) -> EmbeddedCluster {
    EmbeddedCluster::start(data_dir, &settings()).await.expect("Postgres with pgvector is installed")
}

/// A running cluster with a migrated schema and a store on it.
pub(super) struct TestStore {
    pub(super) store: Arc<Store>,
    pub(super) connections: Connections,
    pub(super) cluster: EmbeddedCluster,
    _folder: TempDir,
}

impl TestStore {
    pub(super) async fn start() -> Self {
        Self::start_with(&settings()).await
    }

    pub(super) async fn start_with(database: &DatabaseConfig) -> Self {
        let folder = data_dir();
        let cluster = start(folder.path()).await;
        let connections = Connections::from_config(database, Some(&cluster)).expect("a cluster has addresses");
        migrate(connections.owner.as_ref().expect("a cluster has an owner")).await.expect("the migrations run");
        let runtime = tokio::runtime::Handle::current();
        let store = Store::connect(&connections, database, &runtime).await.expect("it takes connections");
        Self { store: Arc::new(store), connections, cluster, _folder: folder }
    }

    pub(super) async fn stop(self) {
        self.store.close();
        drop(self.store);
        self.cluster.stop().await.expect("it stops");
    }
}

/// A request of the tenant with that id, in time.
pub(super) fn ctx(tenant_id: Uuid) -> Ctx {
    Ctx { actor: Actor::ApiKey(ApiKeyId::new()), ..Ctx::of_operator(TenantId(tenant_id)) }
}

/// Looks again and again, without a pause longer than a moment, until `condition` holds.
pub(super) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
