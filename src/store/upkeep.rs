//! Work on the tables that no request waits for, done by one instance at a time.
//!
//! - *Vector indexes.* pgvector's ivfflat sorts rows around centroids that it finds when the index is built, so an index that
//!   was built on few rows finds little. It is built anew once the chunks have grown tenfold, and built at all for a number
//!   of dimensions that has many chunks and no index.
//! - *The log of deletions.* Instances read it to catch up. What is older than a week is deleted, and the knowledge base's
//!   `pruned_version` says so: an index that is older still is built afresh.
//! - *Logins that have expired*, and answers to requests that were done once, are deleted.

use std::{sync::Arc, time::Duration};

use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::{Address, Store, StoreError, auth_sessions, changes, idempotency_keys};

/// From the start to the first round, and between rounds.
const PAUSES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15 * 60));
/// Below this many chunks no search asks a vector index, whichever knowledge base they are in.
const INDEXED_CHUNKS_MIN: i64 = 10_000;
/// An index is built anew once there are this many times the chunks that it was built on.
const GROWTH: i64 = 10;
/// How long deletions stay in the log.
const DELETIONS_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

const LOCK: &str = include_str!("sql/upkeep/lock.sql");
const LIST_INDEXES: &str = include_str!("sql/upkeep/list_indexes.sql");
const LIST_BROKEN_INDEXES: &str = include_str!("sql/upkeep/list_broken_indexes.sql");

/// Does what is due, again and again until `stopping` is cancelled. Returns at once where the owner's address is not known.
pub async fn run(store: Arc<Store>, stopping: CancellationToken) {
    let Some(owner) = &store.owner else { return };
    let mut pause = PAUSES.0;
    loop {
        let round = async {
            tokio::time::sleep(pause).await;
            if let Err(error) = do_what_is_due(&store, owner, DELETIONS_KEPT).await {
                let error = anyhow::Error::new(error);
                tracing::warn!("upkeep of the tables failed, to be tried again later: {error:#}");
            }
        };
        tokio::select! {
            () = round => pause = PAUSES.1,
            () = stopping.cancelled() => return,
        }
    }
}

/// One round; none if another instance is at it.
pub(super) async fn do_what_is_due(store: &Store, owner: &Address, deletions_kept: Duration) -> Result<(), StoreError> {
    let client = owner.connect_and_drive().await?;
    // If this round is given up, Postgres would go on with a build that nobody waits for.
    let canceller = Canceller { client: &client, owner };
    let failed = |name| move |source| StoreError::of_statement(name, source);
    client.batch_execute("SET statement_timeout = 0").await.map_err(failed("upkeep/no_timeout"))?;
    let row = client.query_typed_one(LOCK, &[]).await.map_err(failed("upkeep/lock"))?;
    if row.try_get(0).map_err(failed("upkeep/lock"))? {
        prune_logins(store).await?;
        prune_idempotency_keys(store).await?;
        prune_deletions(store, deletions_kept).await?;
        build_indexes(&client).await?;
    }
    canceller.disarm();
    Ok(())
}

async fn prune_logins(store: &Store) -> Result<(), StoreError> {
    loop {
        let mut tx = store.service_tx().await?;
        let may_have_more = auth_sessions::prune(&mut tx).await?;
        tx.commit().await?;
        if !may_have_more {
            return Ok(());
        }
    }
}

async fn prune_idempotency_keys(store: &Store) -> Result<(), StoreError> {
    loop {
        let mut tx = store.service_tx().await?;
        let may_have_more = idempotency_keys::prune(&mut tx).await?;
        tx.commit().await?;
        if !may_have_more {
            return Ok(());
        }
    }
}

/// A transaction for each piece, so that no statement is long and none holds the locks of two knowledge bases.
async fn prune_deletions(store: &Store, kept: Duration) -> Result<(), StoreError> {
    let mut tx = store.service_tx().await?;
    let bases = changes::list_prunable(&mut tx, kept).await?;
    tx.commit().await?;
    for (tenant_id, knowledge_base_id) in bases {
        let prune = async {
            loop {
                let mut tx = store.service_tx().await?;
                let may_have_more = changes::prune(&mut tx, tenant_id, knowledge_base_id, kept).await?;
                tx.commit().await?;
                if !may_have_more {
                    return Ok(());
                }
            }
        };
        match prune.await {
            Ok(()) => {}
            // Somebody has had it locked for all that time; the others may be free.
            Err(error @ StoreError::Statement { .. }) => {
                let error = anyhow::Error::new(error);
                tracing::warn!(%knowledge_base_id, "log of deletions not pruned, to be tried again later: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn build_indexes(client: &Client) -> Result<(), StoreError> {
    let failed = |name| move |source| StoreError::of_statement(name, source);
    let read = failed("upkeep/list_broken_indexes");
    for row in client.query_typed(LIST_BROKEN_INDEXES, &[]).await.map_err(read)? {
        let name: String = row.try_get(0).map_err(read)?;
        let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS public.{name}");
        client.batch_execute(&sql).await.map_err(failed("upkeep/drop_index"))?;
    }
    let read = failed("upkeep/list_indexes");
    for row in client.query_typed(LIST_INDEXES, &[]).await.map_err(read)? {
        let dimensions: i32 = row.try_get(0).map_err(read)?;
        let chunk_count: i64 = row.try_get(1).map_err(read)?;
        let built_on: Option<i64> = row.try_get(2).map_err(read)?;
        if !is_build_due(dimensions, chunk_count, built_on) {
            continue;
        }
        // Neither can be part of a transaction, and neither holds up readers or writers.
        let sql = match built_on {
            Some(_) => format!("REINDEX INDEX CONCURRENTLY public.knowledge_chunks_nearest_{dimensions}"),
            None => format!(
                "CREATE INDEX CONCURRENTLY knowledge_chunks_nearest_{dimensions} ON public.knowledge_chunks \
                 USING ivfflat ((embedding::public.vector({dimensions})) public.vector_cosine_ops) WITH (lists = 100) \
                 WHERE public.vector_dims(embedding) = {dimensions}"
            ),
        };
        tracing::info!(dimensions, chunk_count, "building a vector index");
        client.batch_execute(&sql).await.map_err(failed("upkeep/build_index"))?;
        let note =
            format!("COMMENT ON INDEX public.knowledge_chunks_nearest_{dimensions} IS 'built on {chunk_count} chunks'");
        client.batch_execute(&note).await.map_err(failed("upkeep/note_index"))?;
    }
    Ok(())
}

/// `built_on`: none without an index, 0 if it was built by a migration.
fn is_build_due(dimensions: i32, chunk_count: i64, built_on: Option<i64>) -> bool {
    // pgvector indexes no vector longer than this.
    const INDEXED_DIMENSIONS_MAX: i32 = 2_000;
    dimensions <= INDEXED_DIMENSIONS_MAX
        && chunk_count >= INDEXED_CHUNKS_MIN
        && built_on.is_none_or(|built_on| chunk_count >= built_on.saturating_mul(GROWTH))
}

/// Cancels the statement that is under way when a round is dropped.
struct Canceller<'a> {
    client: &'a Client,
    owner: &'a Address,
}

impl Canceller<'_> {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for Canceller<'_> {
    fn drop(&mut self) {
        let (token, tls) = (self.client.cancel_token(), self.owner.tls.clone());
        tokio::runtime::Handle::current().spawn(async move {
            let _ = token.cancel_query(tls).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_built_once_it_would_be_asked_and_again_after_growing_tenfold() {
        assert!(!is_build_due(256, 9_999, None));
        assert!(is_build_due(256, 10_000, None));
        assert!(is_build_due(256, 10_000, Some(0)));
        assert!(!is_build_due(256, 99_999, Some(10_000)));
        assert!(is_build_due(256, 100_000, Some(10_000)));
        assert!(!is_build_due(3_072, 100_000, None), "pgvector cannot");
    }
}
