//! Knowledge bases: created, listed, read, deleted.

use serde_json::json;

use crate::harness::{TestApp, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_knowledge_base_is_created_read_and_deleted() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;

    let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
    assert_eq!(base["name"], "manual");
    assert_eq!(base["dimensions"], 256);
    assert_eq!((base["documents"].as_u64(), base["chunks"].as_u64()), (Some(0), Some(0)));

    let version = acme.put_text(&id, "a", "Turtles live long.").await;
    acme.until_in_memory(&id, version).await;
    let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
    assert_eq!((base["documents"].as_u64(), base["chunks"].as_u64()), (Some(1), Some(1)));
    assert_eq!((base["status"].as_str(), base["lag"].as_u64()), (Some("ready"), Some(0)));

    assert_eq!(acme.client.delete(&format!("/v1/knowledge-bases/{id}")).await.status, 204);
    let reply = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await;
    assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"));
    let reply = acme.client.post(&format!("/v1/knowledge-bases/{id}/search"), &json!({ "query": "turtles" })).await;
    assert_eq!(reply.status, 404);
    assert_eq!(acme.client.delete(&format!("/v1/knowledge-bases/{id}")).await.status, 404);
    until("the process has let it go", async || app.app().knowledge.loaded().all().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_once_per_tenant() {
    let app = TestApp::start().await;
    let (acme, other) = (app.tenant("acme").await, app.tenant("other").await);
    acme.knowledge_base("manual").await;
    let reply = acme.client.post("/v1/knowledge-bases", &json!({ "name": "manual" })).await;
    assert_eq!((reply.status, reply.problem().as_str()), (409, "conflict"));
    assert_eq!(reply.json()["detail"], "There is a knowledge base named manual already.");
    other.knowledge_base("manual").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_checked() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    for bad in ["", "   ", &"x".repeat(201)] {
        let reply = acme.client.post("/v1/knowledge-bases", &json!({ "name": bad })).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{bad:?}");
        assert_eq!(reply.json()["fields"][0]["field"], "name");
    }
    assert_eq!(acme.client.post("/v1/knowledge-bases", &json!({ "name": "ü".repeat(200) })).await.status, 201);
}
