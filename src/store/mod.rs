//! All SQL, and everything about Postgres: pools, transactions, migrations, the private cluster.
//!
//! Two roles are used at run time. The *user* pool's role is held by row security: it sees the rows of the one tenant that
//! its transaction names, and none without. The *service* pool's role sees all tenants; it signs callers in and feeds the
//! indexes. Migrations and upkeep run as the owner, on connections of their own.
//!
//! Invariant: a tenant's rows are reached through a [`TenantTx`], which cannot be opened without a [`Ctx`]. [`Store::connect`]
//! refuses roles for which row security would not hold.

mod address;
pub mod api_keys;
pub mod audit_log;
pub mod auth_sessions;
pub mod changes;
pub mod chunks;
pub mod documents;
pub mod documents_by_filter;
pub mod embedded;
mod error;
pub mod generations;
pub mod health;
pub mod idempotency_keys;
pub mod knowledge_bases;
pub mod listen;
pub mod meetings;
pub mod messages;
mod migrate;
pub mod page;
mod pool;
mod replica;
mod roles;
mod row;
pub mod search;
pub mod sessions;
#[cfg(test)]
mod table_tests;
pub mod tenants;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
mod tx;
pub mod upkeep;
pub mod users;
pub mod widgets;

use std::sync::Arc;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
};
use tokio::runtime::Handle;

pub use self::{
    address::Address,
    error::StoreError,
    migrate::{check_schema, migrate},
    replica::ReplicaGauges,
    tx::{ServiceTx, TenantTx},
};
use self::{
    embedded::EmbeddedCluster,
    pool::Pool,
    replica::Replica,
    tx::{Begin, WriteNotes},
};
use crate::{
    config::DatabaseConfig,
    ctx::{Ctx, TenantId},
};

/// How Postgres is reached in each role.
#[derive(Debug, Clone)]
pub struct Connections {
    /// Held by row security.
    pub user: Address,
    /// Sees all tenants.
    pub service: Address,
    /// Owns the tables; not through a pooler.
    pub owner: Option<Address>,
    /// As `user`, on a read replica.
    pub replica: Option<Address>,
}

/// The database, as the rest of the server sees it.
pub struct Store {
    user: Arc<Pool>,
    service: Pool,
    replica: Option<Arc<Replica>>,
    service_connections_max: usize,
    owner: Option<Address>,
    /// For what needs a session of its own, such as LISTEN: as the owner where there is one, because the service's URL
    /// may lead to a pooler.
    direct: Address,
    measures: Measures,
}

/// How a pool is used right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolGauges {
    /// `user`, `service` or `replica`.
    pub pool: &'static str,
    /// Connections that are open.
    pub size: usize,
    /// Connections that are open and idle.
    pub available: usize,
    /// Requests that wait for one.
    pub waiting: usize,
}

/// What is counted, and timed in seconds.
#[derive(Debug, Clone)]
pub struct Measures {
    /// Statements, from sending to the last row.
    pub queries: Family<QueryLabels, Histogram, fn() -> Histogram>,
    /// Waits for a connection of a pool, whatever came of them but a deadline that passed.
    pub waits: Family<PoolLabels, Histogram, fn() -> Histogram>,
    /// Lists, by who was asked first.
    pub reads: Family<TargetLabels, Counter>,
}

/// Labels of [`Measures::reads`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TargetLabels {
    /// `primary` or `replica`.
    pub target: &'static str,
}

/// A pool, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PoolLabels {
    /// As [`PoolGauges::pool`].
    pub pool: &'static str,
}

/// Labels of [`Measures::queries`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueryLabels {
    /// The statement's file, such as `documents/list`, or `commit`.
    pub query_type: &'static str,
}

impl Connections {
    /// From the settings; `cluster` is the private Postgres where they name no other.
    ///
    /// # Errors
    /// If a URL is not one, or one is missing.
    pub fn from_config(database: &DatabaseConfig, cluster: Option<&EmbeddedCluster>) -> Result<Self, StoreError> {
        if let Some(cluster) = cluster {
            return Ok(cluster.connections(database.connect_timeout));
        }
        let parse = |name: &str, url: &Option<String>| match url {
            Some(url) => Address::parse(name, url, database.connect_timeout).map(Some),
            None => Ok(None),
        };
        let missing = |name: &str| StoreError::Setup(format!("{name} is not set"));
        Ok(Self {
            user: parse("database.url (DATABASE_URL)", &database.url)?.ok_or_else(|| missing("database.url"))?,
            service: parse("database.service_url (TERTULIA_DATABASE_SERVICE_URL)", &database.service_url)?
                .ok_or_else(|| missing("database.service_url"))?,
            owner: parse("database.direct_url (TERTULIA_DATABASE_DIRECT_URL)", &database.direct_url)?,
            replica: parse("database.replica_url (TERTULIA_DATABASE_REPLICA_URL)", &database.replica_url)?,
        })
    }
}

impl Store {
    /// Opens the pools and looks at their roles. Connections live on `runtime`, whichever runtime uses them.
    ///
    /// # Errors
    /// If Postgres cannot be reached, or a role has rights that would make row security void.
    pub async fn connect(
        connections: &Connections,
        database: &DatabaseConfig,
        runtime: &Handle,
    ) -> Result<Self, StoreError> {
        let measures = Measures::default();
        let pool = |name, address, connections_max| {
            Pool::new(name, address, connections_max, database, runtime.clone(), measures.clone())
        };
        let user = Arc::new(pool("user", &connections.user, database.user_connections_max)?);
        let service = pool("service", &connections.service, database.service_connections_max)?;
        roles::check_user(&*user.get(None).await?).await?;
        roles::check_service(&*service.get(None).await?).await?;
        let direct = connections.owner.as_ref().unwrap_or(&connections.service).clone();
        let replica = match &connections.replica {
            Some(address) => Some(Replica::start(address, &direct, database, runtime, measures.clone())?),
            None => None,
        };
        let (service_connections_max, owner) = (database.service_connections_max, connections.owner.clone());
        Ok(Self { user, service, replica, service_connections_max, owner, direct, measures })
    }

    /// A transaction on the rows of the tenant of `ctx`. Nothing is sent before its first statement.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if no connection is free in time, [`StoreError::Deadline`] if the deadline of `ctx` is earlier;
    /// [`StoreError::Connect`] if Postgres is away.
    pub async fn tenant_tx(&self, ctx: &Ctx) -> Result<TenantTx, StoreError> {
        let tx = self.open(ctx, Begin::Tenant).await?;
        Ok(tx.under(ctx.claim.clone()).noting_writes(self.write_notes(ctx)))
    }

    /// For one statement on the rows of the tenant of `ctx`, in one round trip: it is committed when it is answered. Further
    /// statements are transactions of their own. In a request that is done once it is one transaction, so the caller commits.
    ///
    /// # Errors
    /// As [`Store::tenant_tx`].
    pub async fn tenant_single(&self, ctx: &Ctx) -> Result<TenantTx, StoreError> {
        if ctx.claim.is_some() {
            return self.tenant_tx(ctx).await;
        }
        let tx = self.open(ctx, Begin::TenantSingle).await?;
        Ok(tx.noting_writes(self.write_notes(ctx)))
    }

    /// For statements that read rows of the tenant of `ctx`, each in one round trip and with what is committed by then.
    ///
    /// # Errors
    /// As [`Store::tenant_tx`].
    pub async fn tenant_read(&self, ctx: &Ctx) -> Result<TenantTx, StoreError> {
        self.open(ctx, Begin::TenantRead).await
    }

    /// As [`Store::tenant_read`], for lists: from the replica if there is one that is fresh and has what the caller wrote.
    /// Never for what rights or numbers are taken from.
    ///
    /// # Errors
    /// As [`Store::tenant_tx`]; never because of the replica.
    pub async fn tenant_list(&self, ctx: &Ctx) -> Result<TenantTx, StoreError> {
        let count = |target| self.measures.reads.get_or_create(&TargetLabels { target }).inc();
        if let Some(replica) = &self.replica
            && let Some(connection) = replica.get(ctx).await
        {
            count("replica");
            let surroundings = replica.pool().surroundings().clone();
            let tx = TenantTx::new(connection, Begin::TenantRead(ctx.tenant_id), ctx.deadline, surroundings);
            return Ok(tx.falling_back(self.user.clone(), replica.clone()));
        }
        count("primary");
        self.tenant_read(ctx).await
    }

    fn write_notes(&self, ctx: &Ctx) -> Option<WriteNotes> {
        let replica = self.replica.clone()?;
        Some(WriteNotes { replica, caller: (ctx.tenant_id, ctx.actor) })
    }

    /// A transaction that reads one snapshot of the rows of the tenant of `ctx` and writes nothing.
    ///
    /// # Errors
    /// As [`Store::tenant_tx`].
    pub async fn tenant_snapshot(&self, ctx: &Ctx) -> Result<TenantTx, StoreError> {
        self.open(ctx, Begin::TenantSnapshot).await
    }

    async fn open(&self, ctx: &Ctx, begin: fn(TenantId) -> Begin) -> Result<TenantTx, StoreError> {
        let connection = self.user.get(Some(ctx.deadline)).await?;
        let surroundings = self.user.surroundings().clone();
        Ok(TenantTx::new(connection, begin(ctx.tenant_id), ctx.deadline, surroundings))
    }

    /// A transaction on the rows of all tenants.
    ///
    /// # Errors
    /// As [`Store::tenant_tx`], but without a deadline.
    pub async fn service_tx(&self) -> Result<ServiceTx, StoreError> {
        Ok(ServiceTx::new(self.service.get(None).await?, self.service.surroundings().clone()))
    }

    /// A transaction that reads one snapshot of all tenants' rows and writes nothing.
    ///
    /// # Errors
    /// As [`Store::service_tx`].
    pub(in crate::store) async fn service_snapshot(&self) -> Result<ServiceTx, StoreError> {
        Ok(ServiceTx::snapshot(self.service.get(None).await?, self.service.surroundings().clone()))
    }

    /// Asks Postgres for a sign of life.
    ///
    /// # Errors
    /// If there is none.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let connection = self.service.get(None).await?;
        connection.batch_execute("").await.map_err(|source| StoreError::of_statement("ping", source))
    }

    /// Closes the pools: idle connections now, busy ones when they come back. Later calls fail.
    pub fn close(&self) {
        self.user.close();
        self.service.close();
        if let Some(replica) = &self.replica {
            replica.close();
        }
    }

    /// Connections of the service pool, which sign-in, loads and `/readyz` share.
    pub fn service_connections_max(&self) -> usize {
        self.service_connections_max
    }

    /// How the pools are used right now.
    pub fn pool_gauges(&self) -> Vec<PoolGauges> {
        let replica = self.replica.as_ref().map(|replica| replica.pool().gauges());
        [self.user.gauges(), self.service.gauges()].into_iter().chain(replica).collect()
    }

    /// How the replica is doing, if there is one.
    pub fn replica_gauges(&self) -> Option<ReplicaGauges> {
        self.replica.as_ref().map(|replica| replica.gauges())
    }

    /// Times of all statements and waits, for the metrics to show.
    pub fn measures(&self) -> Measures {
        self.measures.clone()
    }
}

impl Default for Measures {
    fn default() -> Self {
        // Statements from 0.1 ms to 3.3 s, waits from 10 µs to 5.2 s, each bucket twice the one before it.
        let reads = Family::<TargetLabels, Counter>::default();
        for target in ["primary", "replica"] {
            drop(reads.get_or_create(&TargetLabels { target }));
        }
        Self {
            reads,
            queries: Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-4, 2.0, 16))),
            waits: Family::new_with_constructor(|| Histogram::new(exponential_buckets(1e-5, 2.0, 20))),
        }
    }
}
