//! A read replica: lists come from it, never too old and never without what their reader has written; nothing else does.

use std::time::{Duration, Instant};

use serde_json::json;
use tertulia::ctx::Scope;

use crate::harness::{
    Client, Tenant, TestApp,
    replica::{Primary, Replica},
    until,
};

/// What `database.replica_lag_max` is in these tests.
const LAG_MAX: &str = "1s";

async fn replicated() -> (Primary, Replica, TestApp, Tenant) {
    let primary = Primary::start().await;
    let replica = primary.replica().await;
    let url = replica.user_url();
    let settings = [("TERTULIA_DATABASE_REPLICA_URL", url.as_str()), ("TERTULIA_DATABASE_REPLICA_LAG_MAX", LAG_MAX)];
    let app = TestApp::start_on(primary.database(), &settings).await;
    let acme = app.tenant("acme").await;
    (primary, replica, app, acme)
}

async fn stopped(primary: Primary, mut app: TestApp) {
    app.stop().await;
    primary.stop().await;
}

async fn reads_of_replica(app: &TestApp) -> u64 {
    app.metric("database_reads_total{target=\"replica\"}").await
}

/// How many sessions `client` sees; every answer has to come well before the time that a server which is away could take.
async fn sessions(client: &Client) -> u64 {
    let start = Instant::now();
    let reply = client.get("/v1/sessions").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "it took {:?}", start.elapsed());
    reply.json()["total"].as_u64().unwrap()
}

/// Until a list that `reader` asks for comes from the replica.
async fn until_used(app: &TestApp, reader: &Client) {
    until("lists are read from the replica", async || {
        let before = reads_of_replica(app).await;
        sessions(reader).await;
        (reads_of_replica(app).await > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_reads_their_own_writes_however_late_the_replica_is() {
    let (primary, replica, app, acme) = replicated().await;
    let reader = app.key_with(&acme, &[Scope::SessionsRead]).await;
    acme.session(&json!({})).await;
    until_used(&app, &reader).await;
    until("it has been replayed", async || (sessions(&reader).await == 1).then_some(())).await;

    // Late, but within the bound.
    replica.delay(300).await;
    for written in 2..12 {
        acme.session(&json!({})).await;
        assert_eq!(sessions(&acme.client).await, written);
    }
    until_used(&app, &reader).await;
    replica.delay(0).await;
    until("it has caught up", async || (sessions(&reader).await == 11).then_some(())).await;
    until_used(&app, &acme.client).await;

    // It replays nothing any more.
    replica.pause().await;
    let session = acme.session(&json!({})).await;
    assert_eq!(sessions(&acme.client).await, 12);
    until("who has not written sees it within the bound", async || (sessions(&reader).await == 12).then_some(())).await;
    let before = reads_of_replica(&app).await;
    assert_eq!(sessions(&reader).await, 12);
    assert_eq!(reads_of_replica(&app).await, before, "one that lags is skipped");

    // Whoever came meanwhile is known, and what was written is found: neither is looked for on the replica.
    let newcomer = app.key_with(&acme, &[Scope::SessionsRead]).await;
    assert_eq!(newcomer.get(&format!("/v1/sessions/{session}")).await.status, 200);
    let manual = acme.knowledge_base("manual").await;
    let version = acme.put_text(&manual, "a", "A text about turtles.").await;
    acme.until_in_memory(&manual, version).await;

    replica.resume().await;
    until_used(&app, &reader).await;
    stopped(primary, app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_after_a_number_is_read_from_the_primary() {
    let (primary, _replica, app, acme) = replicated().await;
    let reader = app.key_with(&acme, &[Scope::SessionsRead]).await;
    let session = acme.session(&json!({})).await;
    acme.say(&session, "one").await;
    until_used(&app, &reader).await;
    let path = format!("/v1/sessions/{session}/messages");
    let before = reads_of_replica(&app).await;
    let seen = reader.get(&format!("{path}?after_seq=0")).await;
    assert_eq!(seen.json()["total"], 1);
    assert_eq!(reads_of_replica(&app).await, before);
    until("the history is read from the replica", async || {
        let reply = reader.get(&path).await;
        (reply.status == 200 && reads_of_replica(&app).await > before).then_some(())
    })
    .await;
    stopped(primary, app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_away_costs_nobody_anything() {
    let (primary, mut replica, app, acme) = replicated().await;
    let reader = app.key_with(&acme, &[Scope::SessionsRead]).await;
    for _ in 0..2 {
        acme.session(&json!({})).await;
        until_used(&app, &reader).await;
        let expected = sessions(&acme.client).await;
        replica.kill();
        // The first of them may still hold a connection to it.
        for _ in 0..20 {
            assert_eq!(sessions(&acme.client).await, expected);
            assert!(sessions(&reader).await <= expected);
        }
        let before = reads_of_replica(&app).await;
        assert_eq!(sessions(&reader).await, expected);
        assert_eq!(reads_of_replica(&app).await, before, "one that is away is skipped");
        acme.session(&json!({})).await;
        assert_eq!(sessions(&reader).await, expected + 1);
        replica.start().await;
        until_used(&app, &reader).await;
    }
    stopped(primary, app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_replica_and_refuses_to_read_a_primary_as_one() {
    let primary = Primary::start().await;
    let mut replica = primary.replica().await;
    replica.kill();
    let url = replica.user_url();
    let mut app = TestApp::start_on(primary.database(), &[("TERTULIA_DATABASE_REPLICA_URL", url.as_str())]).await;
    let acme = app.tenant("acme").await;
    assert_eq!(sessions(&acme.client).await, 0);
    replica.start().await;
    until_used(&app, &acme.client).await;

    let url = primary.database().direct_user_url();
    // It is looked at each 20 ms, and each of these takes a few.
    app.restart_with(&[
        ("TERTULIA_DATABASE_REPLICA_URL", url.as_str()),
        ("TERTULIA_DATABASE_REPLICA_LAG_MAX", "200ms"),
    ])
    .await;
    let client = acme.client.at(&app.client());
    for _ in 0..50 {
        assert_eq!(sessions(&client).await, 0);
    }
    assert_eq!(reads_of_replica(&app).await, 0);
    stopped(primary, app).await;
}
