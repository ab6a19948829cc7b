//! Postgres away: searches on loaded knowledge bases go on, everything else is told to come again, and nothing is lost.

use std::path::PathBuf;

use serde_json::json;

use crate::harness::{Proxy, Tenant, TestApp, external_ids, until};

async fn behind_proxy() -> (TestApp, Proxy, Tenant, String) {
    let database = crate::harness::Database::create().await;
    let socket = PathBuf::from(database.socket_dir()).join(format!(".s.PGSQL.{}", database.port()));
    let proxy = Proxy::start(socket).await;
    let url = |user: &str| format!("postgres://{user}@{}/{}", proxy.address, database.name());
    let settings = [
        ("DATABASE_URL", url(database.user())),
        ("TERTULIA_DATABASE_SERVICE_URL", url(database.service())),
        ("TERTULIA_DATABASE_DIRECT_URL", url(database.owner())),
        ("TERTULIA_DATABASE_ACQUIRE_TIMEOUT", "1s".to_owned()),
        ("TERTULIA_DATABASE_CONNECT_TIMEOUT", "1s".to_owned()),
    ];
    let settings: Vec<(&'static str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let app = TestApp::start_on(database, &settings).await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let version = acme.put_text(&id, "a", "A text about turtles.").await;
    acme.until_in_memory(&id, version).await;
    (app, proxy, acme, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_go_on_and_writes_are_told_to_come_again() {
    let (app, proxy, acme, id) = behind_proxy().await;
    acme.user("ada@example.com", "viewer").await;
    let ada = acme.log_in("ada@example.com").await;
    let search = format!("/v1/knowledge-bases/{id}/search");
    assert_eq!(ada.post(&search, &json!({ "query": "turtles" })).await.status, 200);
    proxy.cut();
    assert_eq!(ada.post(&search, &json!({ "query": "turtles" })).await.status, 200, "her login is remembered");
    let login = acme.try_log_in("ada@example.com", crate::harness::PASSWORD).await;
    assert_eq!((login.status, login.problem().as_str()), (503, "unavailable"));
    let unseen = app.client().with_key(&format!("tl_{}", "0".repeat(64))).post(&search, &json!({ "query": "x" })).await;
    assert_eq!((unseen.status, unseen.problem().as_str()), (503, "unavailable"), "nobody can tell");
    let answer = acme.search(&id, &json!({ "query": "turtles" })).await;
    assert_eq!((external_ids(&answer), answer["source"].as_str()), (vec!["a"], Some("memory")));

    let path = format!("/v1/knowledge-bases/{id}/documents/b");
    for reply in [
        acme.client.put(&path, &json!({ "content": "lost?" })).await,
        acme.client.get("/v1/knowledge-bases").await,
        acme.client.delete(&path).await,
    ] {
        assert_eq!((reply.status, reply.problem().as_str()), (503, "unavailable"));
        assert!(reply.header("retry-after").is_some());
    }
    let ready = app.client().get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(String::from_utf8_lossy(&ready.body).contains("postgres"), "{ready:?}");
    assert_eq!(app.client().get("/healthz").await.status, 200);

    proxy.mend();
    until("the server is ready again", async || (app.client().get("/readyz").await.status == 200).then_some(())).await;
    let version = acme.put_text(&id, "b", "A text about herons.").await;
    acme.until_in_memory(&id, version).await;
    let answer = acme.search(&id, &json!({ "query": "herons", "mode": "keyword" })).await;
    assert_eq!(external_ids(&answer), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_under_way_are_replaced() {
    let (_app, proxy, acme, id) = behind_proxy().await;
    for n in 0..10 {
        proxy.end_connections();
        until("a write goes through", async || {
            let path = format!("/v1/knowledge-bases/{id}/documents/{n}");
            (acme.client.put(&path, &json!({ "content": format!("number {n}") })).await.status == 200).then_some(())
        })
        .await;
    }
    let list = acme.client.get(&format!("/v1/knowledge-bases/{id}/documents")).await.json();
    assert_eq!(list["total"], 11);
    let version = acme.put_text(&id, "last", "The last one.").await;
    acme.until_in_memory(&id, version).await;
    let answer = acme.search(&id, &json!({ "query": "number", "mode": "semantic", "top_k": 100 })).await;
    assert_eq!(answer["results"].as_array().unwrap().len(), 12);
}
