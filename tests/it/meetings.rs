//! Meetings: planned, changed, ended, deleted, and who is in them.

use hyper::Method;
use serde_json::{Value, json};

use crate::harness::{TestApp, connect};

fn column<'a>(page: &'a Value, field: &str) -> Vec<&'a str> {
    page["items"].as_array().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_is_planned_changed_ended_and_deleted() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let draft = json!({
        "title": "weekly", "starts_at": "2026-11-28T12:00:00+02:00", "ends_at": "2026-11-28T11:00:00Z",
        "metadata": { "room": "a" },
    });
    let created = acme.client.post("/v1/meetings", &draft).await;
    assert_eq!(created.status, 201, "{created:?}");
    let created = created.json();
    assert_eq!(created["starts_at"], "2026-11-28T10:00:00Z");
    let path = format!("/v1/meetings/{}", created["id"].as_str().unwrap());
    assert_eq!(acme.client.get(&path).await.json(), created);

    let reply = acme.client.patch(&path, &json!({ "ends_at": "2026-11-28T09:59:59Z" })).await;
    assert_eq!((reply.status, reply.json()["fields"][0]["field"].as_str()), (400, Some("ends_at")));
    let reply = acme.client.patch(&path, &json!({ "starts_at": "2026-11-28T11:00:01Z" })).await;
    assert_eq!((reply.status, reply.json()["fields"][0]["field"].as_str()), (400, Some("ends_at")));
    let patch = json!({ "starts_at": "2026-11-28T11:00:00Z", "title": "daily", "metadata": { "room": null, "n": 1 } });
    let patched = acme.client.patch(&path, &patch).await.json();
    assert_eq!((patched["title"].as_str(), &patched["metadata"]), (Some("daily"), &json!({ "n": 1 })));
    assert_eq!(patched["ends_at"], created["ends_at"]);
    assert!(acme.client.patch(&path, &json!({ "ends_at": null })).await.json()["ends_at"].is_null());

    let end =
        async || acme.client.send_bytes(Method::POST, &format!("{path}/end"), "application/json", "").await.json();
    let ended = end().await;
    assert!(ended["ended_at"].is_string());
    assert_eq!(end().await, ended);

    let session = acme.session(&json!({ "meeting_id": created["id"] })).await;
    assert_eq!(acme.client.delete(&path).await.status, 204);
    assert!(acme.client.get(&format!("/v1/sessions/{session}")).await.json()["meeting_id"].is_null());
    for reply in [
        acme.client.get(&path).await,
        acme.client.delete(&path).await,
        acme.client.patch(&path, &json!({ "title": "gone" })).await,
        acme.client.get(&format!("{path}/participants")).await,
    ] {
        assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_start_comes_first_on_every_page() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    for (title, day) in [("c", 3), ("a", 1), ("d", 4), ("b", 2)] {
        let draft = json!({ "title": title, "starts_at": format!("2026-11-0{day}T12:00:00Z") });
        acme.created("/v1/meetings", &draft).await;
    }
    let first = acme.client.get("/v1/meetings?limit=3").await.json();
    assert_eq!((column(&first, "title"), first["total"].as_u64()), (vec!["d", "c", "b"], Some(4)));
    let cursor = first["next_cursor"].as_str().unwrap();
    let next = acme.client.get(&format!("/v1/meetings?limit=3&cursor={cursor}")).await.json();
    assert_eq!((column(&next, "title"), &next["next_cursor"]), (vec!["a"], &Value::Null));
    let skipped = acme.client.get("/v1/meetings?offset=3").await.json();
    assert_eq!(column(&skipped, "title"), ["a"]);
    assert_eq!(acme.client.get(&format!("/v1/widgets?cursor={cursor}")).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_in_a_meeting_once_and_guests_as_often_as_they_come() {
    let app = TestApp::start().await;
    let (acme, other) = (app.tenant("acme").await, app.tenant("other").await);
    let (user, theirs) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let users = format!(
        "INSERT INTO users (tenant_id, id, email, role)
         VALUES ('{}', '{user}', 'ada@example.com', 'agent'), ('{}', '{theirs}', 'ada@example.com', 'agent')",
        acme.id, other.id
    );
    connect(&app.database.owner_url()).await.batch_execute(&users).await.unwrap();
    let meeting = acme.created("/v1/meetings", &json!({ "title": "weekly" })).await;
    let path = format!("/v1/meetings/{meeting}/participants");
    let ada = acme.created(&path, &json!({ "user_id": user, "role": "host", "name": "Ada" })).await;
    let reply = acme.client.post(&path, &json!({ "user_id": user })).await;
    assert_eq!((reply.status, reply.problem().as_str()), (409, "conflict"));
    for nobody in [theirs, uuid::Uuid::now_v7()] {
        let reply = acme.client.post(&path, &json!({ "user_id": nobody })).await;
        assert_eq!((reply.status, reply.json()["fields"][0]["field"].as_str()), (400, Some("user_id")));
    }
    for _ in 0..2 {
        acme.created(&path, &json!({ "name": "Grace" })).await;
    }
    let first = acme.client.get(&format!("{path}?limit=2")).await.json();
    assert_eq!((column(&first, "name"), first["total"].as_u64()), (vec!["Ada", "Grace"], Some(3)));
    assert_eq!(column(&first, "role"), ["host", "participant"]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let next = acme.client.get(&format!("{path}?limit=2&cursor={cursor}")).await.json();
    assert_eq!((column(&next, "name"), &next["next_cursor"]), (vec!["Grace"], &Value::Null));

    let one = format!("{path}/{ada}");
    let joined = acme.client.patch(&one, &json!({ "joined_at": "2026-11-28T12:00:00Z" })).await.json();
    let left =
        acme.client.patch(&one, &json!({ "left_at": "2026-11-28T13:00:00Z", "role": "participant" })).await.json();
    assert_eq!((&left["joined_at"], left["name"].as_str()), (&joined["joined_at"], Some("Ada")));
    assert_eq!((left["left_at"].as_str(), left["role"].as_str()), (Some("2026-11-28T13:00:00Z"), Some("participant")));
    // Of this meeting alone.
    let elsewhere = acme.created("/v1/meetings", &json!({ "title": "another" })).await;
    let astray = format!("/v1/meetings/{elsewhere}/participants/{ada}");
    assert_eq!(acme.client.patch(&astray, &json!({ "name": "x" })).await.status, 404);
    assert_eq!(acme.client.delete(&astray).await.status, 404);
    let nobody = acme.client.get(&format!("/v1/meetings/{elsewhere}/participants")).await.json();
    assert_eq!((nobody["items"].as_array().unwrap().len(), nobody["total"].as_u64()), (0, Some(0)));
    assert_eq!(acme.client.delete(&one).await.status, 204);
    assert_eq!(acme.client.delete(&one).await.status, 404);
    acme.created(&path, &json!({ "user_id": user })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_fit_up_to_their_limits() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let most = json!({ "title": "ü".repeat(500), "starts_at": "0000-01-01T00:00:00Z", "ends_at": "9999-12-31T23:59:59.999999999Z" });
    let meeting = acme.created("/v1/meetings", &most).await;
    for (fields, field) in [
        (json!({ "title": "" }), "title"),
        (json!({ "title": "ü".repeat(501) }), "title"),
        (json!({ "title": "a\u{0}" }), "title"),
        (json!({ "title": "a", "starts_at": "tomorrow" }), "starts_at"),
        (json!({ "title": "a", "starts_at": 7 }), "starts_at"),
        (json!({ "title": "a", "ends_at": "9999-12-31T23:59:59-23:59" }), "ends_at"),
        (json!({ "title": "a", "metadata": { "k": "x".repeat(16_384) } }), "metadata"),
        (json!({ "title": "a", "ended_at": "2026-11-28T12:00:00Z" }), "ended_at"),
    ] {
        for reply in [
            acme.client.post("/v1/meetings", &fields).await,
            acme.client.patch(&format!("/v1/meetings/{meeting}"), &fields).await,
        ] {
            assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{fields}");
            assert_eq!(reply.json()["fields"][0]["field"], field, "{fields}");
        }
    }
    assert_eq!(acme.client.patch(&format!("/v1/meetings/{meeting}"), &json!({})).await.status, 400);
    let path = format!("/v1/meetings/{meeting}/participants");
    let participant = acme.created(&path, &json!({ "name": "ü".repeat(200) })).await;
    for (fields, field) in [
        (json!({ "name": "" }), "name"),
        (json!({ "name": "ü".repeat(201) }), "name"),
        (json!({ "role": "boss" }), "role"),
        (json!({ "joined_at": "now" }), "joined_at"),
        (json!({ "left_at": "now" }), "left_at"),
        (json!({ "email": "a" }), "email"),
    ] {
        for reply in
            [acme.client.post(&path, &fields).await, acme.client.patch(&format!("{path}/{participant}"), &fields).await]
        {
            assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{fields}");
            assert_eq!(reply.json()["fields"][0]["field"], field, "{fields}");
        }
    }
    assert_eq!(acme.client.patch(&format!("{path}/{participant}"), &json!({})).await.status, 400);
}
