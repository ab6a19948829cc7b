//! Widgets: created with a key and a secret, changed, deleted; which origins they take.

use serde_json::json;

use crate::harness::{TestApp, connect};

#[tokio::test(flavor = "multi_thread")]
async fn a_widget_shows_its_secret_once() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let draft = json!({
        "name": "site", "allowed_origins": ["https://example.com", "http://localhost:3000"], "is_identity_required": true,
        "settings": { "colour": "green" },
    });
    let created = acme.client.post("/v1/widgets", &draft).await;
    assert_eq!(created.status, 201, "{created:?}");
    let mut created = created.json();
    for field in ["name", "allowed_origins", "is_identity_required", "settings"] {
        assert_eq!(created[field], draft[field], "{field}");
    }
    let secret = created.as_object_mut().unwrap().remove("identity_secret").unwrap();
    let secret = secret.as_str().unwrap();
    assert!(secret.starts_with("ws_") && secret.len() == 67, "{secret}");
    assert!(created["embed_key"].as_str().unwrap().starts_with("wk_"));
    let path = format!("/v1/widgets/{}", created["id"].as_str().unwrap());
    assert_eq!(acme.client.get(&path).await.json(), created);
    let list = acme.client.get("/v1/widgets").await.json();
    assert_eq!((&list["items"], list["total"].as_u64()), (&json!([created]), Some(1)));
    let sql = connect(&app.database.owner_url()).await;
    let stored = sql.query_one("SELECT identity_secrets FROM widgets", &[]).await.unwrap();
    assert_eq!(stored.get::<_, Vec<Vec<u8>>>(0), [secret.as_bytes()]);
    let other = acme.client.post("/v1/widgets", &draft).await.json();
    assert!(other["embed_key"] != created["embed_key"] && other["identity_secret"] != secret);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_widget_is_changed_and_deleted_and_its_sessions_stay() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.created("/v1/widgets", &json!({ "name": "site", "settings": { "a": 1, "b": 2 } })).await;
    let path = format!("/v1/widgets/{id}");
    let patch =
        json!({ "allowed_origins": ["https://example.com"], "settings": { "a": null, "c": 3 }, "is_disabled": true });
    let patched = acme.client.patch(&path, &patch).await.json();
    assert_eq!((&patched["settings"], patched["name"].as_str()), (&json!({ "b": 2, "c": 3 }), Some("site")));
    assert_eq!(patched["allowed_origins"], json!(["https://example.com"]));
    let again = acme.client.patch(&path, &json!({ "is_disabled": true, "name": "shop" })).await.json();
    assert_eq!((&again["disabled_at"], again["name"].as_str()), (&patched["disabled_at"], Some("shop")));
    assert!(patched["disabled_at"].is_string());
    let enabled = acme.client.patch(&path, &json!({ "is_disabled": false, "is_identity_required": true })).await.json();
    assert!(enabled["disabled_at"].is_null() && enabled["is_identity_required"] == true);

    let session = acme.session(&json!({ "widget_id": id })).await;
    assert_eq!(acme.client.delete(&path).await.status, 204);
    let session = acme.client.get(&format!("/v1/sessions/{session}")).await.json();
    assert!(session["id"].is_string() && session["widget_id"].is_null());
    for reply in [
        acme.client.get(&path).await,
        acme.client.delete(&path).await,
        acme.client.patch(&path, &json!({ "name": "gone" })).await,
    ] {
        assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_widget_without_a_secret_cannot_ask_for_identities() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = uuid::Uuid::now_v7();
    let insert = format!(
        "INSERT INTO widgets (tenant_id, id, name, embed_key) VALUES ('{}', '{id}', 'old', 'wk_of_another_server')",
        acme.id
    );
    connect(&app.database.owner_url()).await.batch_execute(&insert).await.unwrap();
    let reply = acme.client.patch(&format!("/v1/widgets/{id}"), &json!({ "is_identity_required": true })).await;
    assert_eq!((reply.status, reply.problem().as_str()), (409, "conflict"));
    assert_eq!(acme.client.patch(&format!("/v1/widgets/{id}"), &json!({ "name": "new" })).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_fit_up_to_their_limits() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let origins = |count: usize| (0..count).map(|n| format!("https://s{n}.example.com")).collect::<Vec<_>>();
    let settings = |bytes: usize| json!({ "k": "x".repeat(bytes - 8) });
    let most = json!({ "name": "ü".repeat(200), "allowed_origins": origins(100), "settings": settings(16_384) });
    let id = acme.created("/v1/widgets", &most).await;
    for (fields, field) in [
        (json!({ "name": "" }), "name"),
        (json!({ "name": "ü".repeat(201) }), "name"),
        (json!({ "name": "a\u{0}" }), "name"),
        (json!({ "name": "a", "allowed_origins": origins(101) }), "allowed_origins"),
        (json!({ "name": "a", "allowed_origins": ["https://a.example", "https://b.example/"] }), "allowed_origins[1]"),
        (json!({ "name": "a", "allowed_origins": ["*"] }), "allowed_origins[0]"),
        (json!({ "name": "a", "settings": settings(16_385) }), "settings"),
        (json!({ "name": "a", "settings": 1 }), "settings"),
        (json!({ "name": "a", "embed_key": "wk_mine" }), "embed_key"),
    ] {
        for reply in [
            acme.client.post("/v1/widgets", &fields).await,
            acme.client.patch(&format!("/v1/widgets/{id}"), &fields).await,
        ] {
            assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{fields}");
            assert_eq!(reply.json()["fields"][0]["field"], field, "{fields}");
        }
    }
    assert_eq!(acme.client.patch(&format!("/v1/widgets/{id}"), &json!({})).await.status, 400);
    for _ in 0..3 {
        acme.created("/v1/widgets", &json!({ "name": "more" })).await;
    }
    let (mut seen, mut next) = (0, "/v1/widgets?limit=3".to_owned());
    while !next.is_empty() {
        let page = acme.client.get(&next).await.json();
        seen += page["items"].as_array().unwrap().len();
        next = page["next_cursor"].as_str().map(|it| format!("/v1/widgets?limit=3&cursor={it}")).unwrap_or_default();
    }
    assert_eq!(seen, 4);
}
