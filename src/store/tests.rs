//! Transactions, pools, roles, migrations and upkeep on a real Postgres.

use std::{sync::Arc, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use time::OffsetDateTime;
use tokio::{task::JoinSet, time::Instant};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    Connections, Store, StoreError, check_schema, health, migrate,
    test_support::{TestStore, ctx, settings, until},
    tx::Statement,
    upkeep,
};
use crate::ctx::Ctx;

const TENANT_IN_FORCE: Statement = Statement {
    name: "test/tenant_in_force",
    sql: "SELECT current_setting('tertulia.tenant_id', true), pg_backend_pid()",
    types: &[],
};
const COUNT_TENANTS: Statement =
    Statement { name: "test/count_tenants", sql: "SELECT count(*) FROM tenants", types: &[] };
const INSERT_TENANT: Statement = Statement {
    name: "test/insert_tenant",
    sql: "INSERT INTO tenants (id, slug) VALUES ($1, $2)",
    types: &[Type::UUID, Type::TEXT],
};
const SLEEP: Statement =
    Statement { name: "test/sleep", sql: "SELECT pg_sleep($1), pg_backend_pid()", types: &[Type::FLOAT8] };
const DIVIDE: Statement = Statement { name: "test/divide", sql: "SELECT 1 / $1", types: &[Type::INT4] };
const SERIES: Statement = Statement { name: "test/series", sql: "SELECT generate_series(1, $1)", types: &[Type::INT4] };
const SLEEPERS: Statement = Statement {
    name: "test/sleepers",
    sql: "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'",
    types: &[],
};

/// What a transaction must not find: another's tenant, or a transaction that began earlier or has written.
const LEFT_OVER: Statement = Statement {
    name: "test/left_over",
    sql: "SELECT current_setting('tertulia.tenant_id', true), transaction_timestamp(), \
          pg_current_xact_id_if_assigned()::text FROM pg_sleep(0.001)",
    types: &[],
};
const WRITE: Statement = Statement { name: "test/write", sql: "SELECT pg_current_xact_id()::text", types: &[] };
const OPEN_TRANSACTIONS: Statement = Statement {
    name: "test/open_transactions",
    sql: "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tertulia_user' AND state <> 'idle'",
    types: &[],
};

/// Two tenants, committed.
async fn two_tenants(store: &Store) -> (Uuid, Uuid) {
    let ids = (Uuid::now_v7(), Uuid::now_v7());
    let mut tx = store.service_tx().await.expect("a connection");
    for (id, slug) in [(ids.0, "acme"), (ids.1, "globex")] {
        assert_eq!(tx.execute(&INSERT_TENANT, &[&id, &slug]).await.expect("it is new"), 1);
    }
    tx.commit().await.expect("it commits");
    ids
}

async fn tenant_in_force(store: &Store, ctx: &Ctx) -> (Option<String>, i32) {
    let mut tx = store.tenant_tx(ctx).await.expect("a connection");
    let row = tx.query_one(&TENANT_IN_FORCE, &[]).await.expect("it runs");
    tx.commit().await.expect("it commits");
    (row.get(0), row.get(1))
}

async fn count_tenants(store: &Store, ctx: &Ctx) -> i64 {
    let mut tx = store.tenant_tx(ctx).await.expect("a connection");
    let count = tx.query_one(&COUNT_TENANTS, &[]).await.expect("it runs").get(0);
    tx.commit().await.expect("it commits");
    count
}

/// Until the user pool has `size` connections, all of them idle, so that what a dropped transaction left to do is done.
async fn until_idle(store: &Store, size: usize) {
    until("the user pool is idle", async || {
        let gauges = store.pool_gauges()[0];
        gauges.size == size && gauges.available == size
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_sees_its_tenant_and_leaves_nothing_behind() {
    let test = TestStore::start().await;
    let store = &test.store;
    let (acme, globex) = two_tenants(store).await;

    // One connection serves one tenant after the other.
    let (first, backend) = tenant_in_force(store, &ctx(acme)).await;
    assert_eq!(first, Some(acme.to_string()));
    assert_eq!(tenant_in_force(store, &ctx(globex)).await, (Some(globex.to_string()), backend));
    assert_eq!(count_tenants(store, &ctx(acme)).await, 1);
    assert_eq!(count_tenants(store, &ctx(Uuid::now_v7())).await, 0, "a stranger sees nobody");

    // Without a transaction of ours there is no tenant, and nothing to see.
    until_idle(store, 1).await;
    let raw = test.connections.user.connect_and_drive().await.expect("it takes connections");
    let row = raw.query_one("SELECT count(*) FROM tenants", &[]).await.expect("it may read");
    assert_eq!(row.get::<_, i64>(0), 0);

    // Writing into another tenant is refused, and the transaction takes no more.
    let mut tx = store.tenant_tx(&ctx(acme)).await.expect("a connection");
    let refused = tx.execute(&INSERT_TENANT, &[&Uuid::now_v7(), &"initech"]).await;
    assert!(matches!(refused, Err(StoreError::Statement { statement: "test/insert_tenant", .. })), "{refused:?}");
    let after = tx.query(&COUNT_TENANTS, &[]).await;
    assert!(matches!(after, Err(StoreError::Unusable { .. })), "{after:?}");
    assert!(matches!(tx.commit().await, Err(StoreError::Unusable { .. })), "a failed transaction cannot commit");

    // It was rolled back, and its connection is used again.
    until_idle(store, 1).await;
    assert_eq!(tenant_in_force(store, &ctx(globex)).await, (Some(globex.to_string()), backend));
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_transaction_is_undone_and_its_connection_not_reused() {
    let test = TestStore::start().await;
    let store = &test.store;

    // Between statements: rolled back.
    let mut tx = store.service_tx().await.expect("a connection");
    tx.execute(&INSERT_TENANT, &[&Uuid::now_v7(), &"initech"]).await.expect("it is new");
    drop(tx);
    let mut tx = store.service_tx().await.expect("a connection");
    assert_eq!(tx.query_one(&COUNT_TENANTS, &[]).await.expect("it runs").get::<_, i64>(0), 0);
    drop(tx);

    // During a statement: cancelled in Postgres, and the connection is closed.
    let tenant = Uuid::now_v7();
    let (_, backend) = tenant_in_force(store, &ctx(tenant)).await;
    let mut tx = store.tenant_tx(&ctx(tenant)).await.expect("a connection");
    let sleeping = tokio::time::timeout(Duration::from_millis(200), tx.query(&SLEEP, &[&3_600.0]));
    assert!(sleeping.await.is_err(), "it sleeps for longer");
    drop(tx);
    until("nobody sleeps", async || {
        let mut tx = store.service_tx().await.expect("a connection");
        tx.query_one(&SLEEPERS, &[]).await.expect("it runs").get::<_, i64>(0) == 0
    })
    .await;
    assert_eq!(store.pool_gauges()[0].size, 0, "the connection is gone from the pool");
    let (_, next) = tenant_in_force(store, &ctx(tenant)).await;
    assert_ne!(next, backend);

    // A statement that was given up is the last of its transaction.
    let mut tx = store.tenant_tx(&ctx(tenant)).await.expect("a connection");
    let sleeping = tokio::time::timeout(Duration::from_millis(50), tx.query(&SLEEP, &[&3_600.0]));
    assert!(sleeping.await.is_err(), "it sleeps for longer");
    assert!(matches!(tx.query(&COUNT_TENANTS, &[]).await, Err(StoreError::Unusable { .. })));
    assert!(matches!(tx.commit().await, Err(StoreError::Unusable { .. })));
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_and_full_pools_end_a_wait() {
    let test = TestStore::start().await;
    let store = &test.store;
    let tenant = Uuid::now_v7();

    let soon = Ctx { deadline: Instant::now() + Duration::from_millis(300), ..ctx(tenant) };
    let mut tx = store.tenant_tx(&soon).await.expect("a connection");
    let outcome = tx.query(&SLEEP, &[&3_600.0]).await;
    assert!(matches!(outcome, Err(StoreError::Deadline)), "{outcome:?}");
    drop(tx);
    let late = Ctx { deadline: Instant::now(), ..ctx(tenant) };
    assert!(matches!(store.tenant_tx(&late).await, Err(StoreError::Deadline)));

    let mut held = Vec::new();
    for _ in 0..settings().user_connections_max {
        held.push(store.tenant_tx(&ctx(tenant)).await.expect("a connection"));
    }
    let outcome = store.tenant_tx(&ctx(tenant)).await.err();
    assert!(matches!(outcome, Some(StoreError::Busy { pool: "user", .. })), "{outcome:?}");
    let gauges = store.pool_gauges()[0];
    assert_eq!((gauges.size, gauges.available), (4, 0));
    drop(held);
    until_idle(store, 4).await;

    // A statement that fails leaves a message for the log and an answer for the client.
    let mut tx = store.tenant_tx(&ctx(tenant)).await.expect("a connection");
    let rows = tx.query(&DIVIDE, &[&1]).await.expect("it runs");
    assert_eq!(rows[0].get::<_, i32>(0), 1);
    let error = tx.query_one(&DIVIDE, &[&0]).await.expect_err("it cannot");
    assert_eq!(crate::error::Error::from(error).meaning().status, 500);
    drop(tx);
    let mut tx = store.tenant_tx(&ctx(tenant)).await.expect("a connection");
    assert!(matches!(tx.query(&DIVIDE, &[]).await, Err(StoreError::ParameterCount { .. })));
    assert!(matches!(tx.query_one(&SERIES, &[&0]).await, Err(StoreError::RowCount { count: 0, .. })));
    assert!(matches!(tx.query_opt(&SERIES, &[&2]).await, Err(StoreError::RowCount { count: 2, .. })));
    tx.commit().await.expect("a wrong count of rows is not a failed statement");

    store.close();
    assert!(matches!(store.tenant_tx(&ctx(tenant)).await, Err(StoreError::Closed)));
    test.stop().await;
}

/// One request of the churn below: it looks for what others have left, does one of many things, and is cut in some of them.
async fn churn(store: &Store, tenant: Uuid, rng: &mut StdRng) {
    let kind = rng.random_range(0..10);
    let cut_after = Duration::from_micros(rng.random_range(0..4_000));
    let ctx = ctx(tenant);
    let mut tx = match kind {
        0..=4 => store.tenant_tx(&ctx).await,
        5 => store.tenant_snapshot(&ctx).await,
        6 => store.tenant_single(&ctx).await,
        _ => store.tenant_read(&ctx).await,
    }
    .expect("a connection comes free");
    let got_at = OffsetDateTime::now_utc();
    // Cut anywhere from before BEGIN is sent until the answer is there.
    if kind == 4 || kind == 9 {
        let _ = tokio::time::timeout(cut_after, tx.query(&LEFT_OVER, &[])).await;
        return;
    }
    let row = tx.query_one(&LEFT_OVER, &[]).await.expect("nobody cancels it");
    assert_eq!(row.get::<_, Option<String>>(0), Some(tenant.to_string()));
    assert!(row.get::<_, OffsetDateTime>(1) >= got_at, "its transaction began before it");
    assert_eq!(row.get::<_, Option<String>>(2), None, "its transaction has written before it");
    match kind {
        0 => {
            tx.query_one(&WRITE, &[]).await.expect("it runs");
            tx.commit().await.expect("it commits");
        }
        // Left open.
        1 => drop(tx.query_one(&WRITE, &[]).await.expect("it runs")),
        // Refused, alone and in a transaction.
        2 | 6 | 7 => {
            let refused = tx.query(&DIVIDE, &[&0]).await;
            assert!(matches!(refused, Err(StoreError::Statement { .. })), "{refused:?}");
        }
        // Cancelled under way.
        3 | 8 => {
            let cut = tokio::time::timeout(cut_after, tx.query(&SLEEP, &[&60.0])).await;
            assert!(cut.is_err(), "it sleeps for longer");
        }
        _ => tx.commit().await.expect("it commits"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_becomes_of_a_request_the_next_on_its_connection_finds_nothing_of_it() {
    let database = crate::config::DatabaseConfig { acquire_timeout: Duration::from_secs(60), ..settings() };
    let test = TestStore::start_with(&database).await;
    let tenants: Vec<Uuid> = (0..5).map(|_| Uuid::now_v7()).collect();
    let mut callers = JoinSet::new();
    for caller in 0..48_u64 {
        let (store, tenants) = (test.store.clone(), tenants.clone());
        callers.spawn(async move {
            let mut rng = StdRng::seed_from_u64(caller);
            for turn in 0..60 {
                churn(&store, tenants[(caller as usize + turn) % tenants.len()], &mut rng).await;
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.expect("each finds what it should");
    }
    until("nothing of them is left in Postgres", async || {
        let mut tx = test.store.service_tx().await.expect("a connection");
        tx.query_one(&OPEN_TRANSACTIONS, &[]).await.expect("it runs").get::<_, i64>(0) == 0
    })
    .await;
    let gauges = test.store.pool_gauges()[0];
    assert!(gauges.size <= 4 && gauges.waiting == 0, "{gauges:?}");
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_statement_is_committed_with_its_answer_and_a_read_writes_nothing() {
    let test = TestStore::start().await;
    let store = &test.store;
    let tenant = two_tenants(store).await.0;
    let insert = Statement {
        name: "test/insert_widget",
        sql: "INSERT INTO widgets (tenant_id, id, name, embed_key) VALUES (tertulia_tenant_id(), $1, 'w', $2)",
        types: &[Type::UUID, Type::TEXT],
    };
    let count = Statement { name: "test/count_widgets", sql: "SELECT count(*) FROM widgets", types: &[] };
    let mut single = store.tenant_single(&ctx(tenant)).await.expect("a connection");
    assert_eq!(single.execute(&insert, &[&Uuid::now_v7(), &"wk_0000000000001"]).await.expect("it is new"), 1);
    // Not committed by a call: nobody has made one.
    let mut read = store.tenant_read(&ctx(tenant)).await.expect("a connection");
    assert_eq!(read.query_one(&count, &[]).await.expect("it runs").get::<_, i64>(0), 1);
    // Each statement sees what was committed before it.
    assert_eq!(single.execute(&insert, &[&Uuid::now_v7(), &"wk_0000000000002"]).await.expect("it is new"), 1);
    assert_eq!(read.query_one(&count, &[]).await.expect("it runs").get::<_, i64>(0), 2);
    let refused = read.execute(&insert, &[&Uuid::now_v7(), &"wk_0000000000003"]).await;
    assert!(matches!(refused, Err(StoreError::Statement { .. })), "{refused:?}");
    assert!(matches!(read.query(&count, &[]).await, Err(StoreError::Unusable { .. })), "it failed");
    drop((single, read));
    until_idle(store, 2).await;
    test.stop().await;
}

/// A shard's runtime comes and goes; the connection that it opened stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_outlives_the_runtime_that_opened_it() {
    let test = TestStore::start().await;
    let tenant = Uuid::now_v7();
    let ask_from_a_shard = |store: Arc<Store>| {
        tokio::task::spawn_blocking(move || {
            let shard = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            shard.block_on(async { tenant_in_force(&store, &ctx(tenant)).await })
        })
    };
    let (_, first) = ask_from_a_shard(test.store.clone()).await.expect("it answers");
    let (_, second) = ask_from_a_shard(test.store.clone()).await.expect("it answers");
    assert_eq!(first, second);
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_and_old_connections_are_closed() {
    let database = crate::config::DatabaseConfig { idle_timeout: Duration::from_millis(200), ..settings() };
    let test = TestStore::start_with(&database).await;
    let tenant = Uuid::now_v7();
    tenant_in_force(&test.store, &ctx(tenant)).await;
    until("the idle connection is closed", async || test.store.pool_gauges()[0].size == 0).await;
    tenant_in_force(&test.store, &ctx(tenant)).await;
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_refuses_roles_for_which_row_security_does_not_hold() {
    let test = TestStore::start().await;
    let runtime = tokio::runtime::Handle::current();
    let refused = async |user, service, word: &str| {
        let connections = Connections { user, service, owner: None, replica: None };
        match Store::connect(&connections, &settings(), &runtime).await {
            Ok(_) => panic!("it was not refused"),
            Err(error) => assert!(error.to_string().contains(word), "{error}"),
        }
    };
    let Connections { user, service, owner, .. } = test.connections.clone();
    let owner = owner.expect("a cluster has an owner");
    let superuser = test.cluster.superuser("tertulia", Duration::from_secs(5));
    refused(superuser.clone(), service.clone(), "superuser").await;
    refused(owner.clone(), service.clone(), "owns tables").await;
    refused(service.clone(), service.clone(), "tertulia_service").await;
    refused(user.clone(), user.clone(), "not a member of tertulia_service").await;

    // Through a membership it is the same.
    let client = superuser.connect_and_drive().await.expect("it takes connections");
    client.batch_execute("GRANT tertulia_owner TO tertulia_user").await.expect("a superuser may");
    refused(user.clone(), service.clone(), "owns tables").await;
    client
        .batch_execute("REVOKE tertulia_owner FROM tertulia_user; ALTER ROLE tertulia_user BYPASSRLS")
        .await
        .expect("a superuser may");
    refused(user.clone(), service.clone(), "BYPASSRLS").await;
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migrations_run_once_whoever_comes_first() {
    let test = TestStore::start().await;
    let owner = test.connections.owner.clone().expect("a cluster has an owner");
    let superuser = test.cluster.superuser("postgres", Duration::from_secs(5));
    let client = superuser.connect_and_drive().await.expect("it takes connections");
    client.batch_execute("CREATE DATABASE fresh OWNER tertulia_owner").await.expect("a superuser may");
    let in_fresh = |address: &super::Address| {
        let mut address = address.clone();
        address.config.dbname("fresh");
        address
    };
    let told = check_schema(&in_fresh(&test.connections.service)).await.expect_err("there is no schema").to_string();
    assert!(told.contains("tertulia migrate"), "{told}");

    let admin = in_fresh(&superuser).connect_and_drive().await.expect("it takes connections");
    admin.batch_execute("CREATE EXTENSION vector").await.expect("a superuser may");
    let fresh = in_fresh(&owner);
    let (one, other, third) = tokio::join!(migrate(&fresh), migrate(&fresh), migrate(&fresh));
    let mut counts = [one, other, third].map(|applied| applied.expect("they take turns").len());
    counts.sort_unstable();
    assert!(counts[0] == 0 && counts[1] == 0 && counts[2] > 0, "{counts:?}");
    check_schema(&in_fresh(&test.connections.service)).await.expect("it is up to date");

    // A schema from the future is none of this binary's business; one from the past is.
    let client = fresh.connect_and_drive().await.expect("it takes connections");
    client
        .batch_execute(
            "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
             VALUES (9999, 'tomorrow', '2040-01-01T00:00:00Z', '1')",
        )
        .await
        .expect("the owner may");
    check_schema(&in_fresh(&test.connections.service)).await.expect("it is new enough");
    assert!(migrate(&fresh).await.expect("nothing is missing").is_empty());
    client.batch_execute("DELETE FROM refinery_schema_history WHERE version > 1").await.expect("the owner may");
    let told = check_schema(&in_fresh(&test.connections.service)).await.expect_err("it is old").to_string();
    assert!(told.contains("has version 1"), "{told}");
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_counts_what_there_is_and_upkeep_prunes_what_is_old() {
    let test = TestStore::start().await;
    two_tenants(&test.store).await;
    let report = health::report(&test.store).await.expect("it answers");
    assert_eq!((report.tenants, report.knowledge_bases, report.documents, report.chunks), (2, 0, 0, 0));
    assert!(report.schema_version >= 13 && !report.pgvector_version.is_empty(), "{report:?}");

    let owner = test.connections.owner.clone().expect("a cluster has an owner");
    let client = owner.connect_and_drive().await.expect("it takes connections");
    client.batch_execute(include_str!("sql/test/old_deletions.sql")).await.expect("the owner may");
    upkeep::do_what_is_due(&test.store, &owner, Duration::from_secs(24 * 60 * 60)).await.expect("it runs");
    let row = client
        .query_one(
            "SELECT pruned_version, version, ARRAY(SELECT d.version FROM chunk_deletions d ORDER BY 1)
             FROM knowledge_bases",
            &[],
        )
        .await
        .expect("there is one");
    let (pruned, version, left): (i64, i64, Vec<i64>) = (row.get(0), row.get(1), row.get(2));
    assert!(pruned > 0 && pruned < version, "{pruned} of {version}");
    assert!(!left.is_empty() && left.iter().all(|version| *version > pruned), "{left:?} past {pruned}");

    // The index of a dimension with many chunks is built, and noted.
    client.batch_execute("UPDATE embedding_generations SET chunk_count = 20000").await.expect("the owner may");
    // Nothing is done while Postgres has not seen off the session of the round before.
    let until_noted = async |note: &str| {
        until("the index is built", async || {
            upkeep::do_what_is_due(&test.store, &owner, Duration::from_secs(24 * 60 * 60)).await.expect("it runs");
            let noted = "SELECT obj_description(to_regclass('knowledge_chunks_nearest_3'))";
            client.query_one(noted, &[]).await.expect("it runs").get::<_, Option<String>>(0).as_deref() == Some(note)
        })
        .await;
    };
    until_noted("built on 20000 chunks").await;
    client.batch_execute("UPDATE embedding_generations SET chunk_count = 200000").await.expect("the owner may");
    until_noted("built on 200000 chunks").await;
    test.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upkeep_prunes_a_long_log_and_passes_by_a_knowledge_base_that_somebody_holds() {
    let test = TestStore::start().await;
    let superuser =
        test.cluster.superuser("tertulia", Duration::from_secs(5)).connect_and_drive().await.expect("it is up");
    superuser.batch_execute("ALTER ROLE tertulia_svc SET lock_timeout = '200ms'").await.expect("a superuser may");
    let runtime = tokio::runtime::Handle::current();
    let impatient = Store::connect(&test.connections, &settings(), &runtime).await.expect("it takes connections");
    let owner = test.connections.owner.clone().expect("a cluster has an owner");
    let client = owner.connect_and_drive().await.expect("it takes connections");
    client.batch_execute(include_str!("sql/test/old_deletions.sql")).await.expect("the owner may");
    client.batch_execute(include_str!("sql/test/many_old_deletions.sql")).await.expect("the owner may");
    client.batch_execute("BEGIN; UPDATE knowledge_bases SET name = name WHERE name = 'manual'").await.expect("it may");

    let day = Duration::from_secs(24 * 60 * 60);
    upkeep::do_what_is_due(&impatient, &owner, day).await.expect("it goes on with the others");
    let left = "SELECT b.name, b.pruned_version, count(d.chunk_id) FROM knowledge_bases b
        LEFT JOIN chunk_deletions d ON d.knowledge_base_id = b.id GROUP BY b.id, b.name, b.pruned_version ORDER BY 1";
    let rows = superuser.query(left, &[]).await.expect("it may read");
    let left: Vec<(String, i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(left, [("long".to_owned(), 2, 1), ("manual".to_owned(), 0, 2)]);

    client.batch_execute("COMMIT").await.expect("it commits");
    // Nothing is done while Postgres has not seen off the session of the round before.
    until("both are pruned", async || {
        upkeep::do_what_is_due(&impatient, &owner, day).await.expect("it runs");
        let row = superuser.query_one("SELECT count(*) FROM chunk_deletions", &[]).await.expect("it may read");
        row.get::<_, i64>(0) == 2
    })
    .await;
    impatient.close();
    test.stop().await;
}
