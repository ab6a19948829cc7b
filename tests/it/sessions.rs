//! Sessions: started, found by what they are, changed, ended, deleted.

use serde_json::{Value, json};

use crate::harness::{Tenant, TestApp, connect};

fn ids(page: &Value) -> Vec<String> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// The ids of the sessions that `query` gives, newest first.
async fn listed(acme: &Tenant, query: &str) -> Vec<String> {
    let reply = acme.client.get(&format!("/v1/sessions?{query}")).await;
    assert_eq!(reply.status, 200, "{query}: {reply:?}");
    ids(&reply.json())
}

/// A widget and a meeting of `acme`'s.
async fn places(acme: &Tenant) -> (String, String) {
    (
        acme.created("/v1/widgets", &json!({ "name": "site" })).await,
        acme.created("/v1/meetings", &json!({ "title": "weekly" })).await,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_started_changed_ended_and_deleted() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let (widget, _) = places(&acme).await;
    let draft = json!({
        "widget_id": widget, "visitor_id": "v-1", "visitor_name": "Grace", "metadata": { "page": "/a", "n": { "a": 1 } },
    });
    let reply = acme.client.post("/v1/sessions", &draft).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let started = reply.json();
    for field in ["widget_id", "visitor_id", "visitor_name", "metadata"] {
        assert_eq!(started[field], draft[field], "{field}");
    }
    assert_eq!((started["last_seq"].as_u64(), started["is_verified"].as_bool()), (Some(0), Some(false)));
    assert!(started["ended_at"].is_null() && started["last_message_at"].is_null() && started["meeting_id"].is_null());
    let path = format!("/v1/sessions/{}", started["id"].as_str().unwrap());
    assert_eq!(acme.client.get(&path).await.json(), started);

    let patch = json!({ "metadata": { "page": null, "n": { "b": 2 }, "plan": "pro" } });
    let patched = acme.client.patch(&path, &patch).await.json();
    assert_eq!(patched["metadata"], json!({ "n": { "a": 1, "b": 2 }, "plan": "pro" }));
    assert_eq!(patched["visitor_name"], "Grace");
    assert!(patched["updated_at"].as_str() > started["updated_at"].as_str());
    let patched = acme.client.patch(&path, &json!({ "visitor_name": null })).await.json();
    assert!(patched["visitor_name"].is_null() && patched["metadata"]["plan"] == "pro");

    let ended = acme.client.send_bytes(hyper::Method::POST, &format!("{path}/end"), "application/json", "").await;
    assert_eq!(ended.status, 200, "{ended:?}");
    let ended = ended.json();
    assert!(ended["ended_at"].is_string());
    let again = acme.client.send_bytes(hyper::Method::POST, &format!("{path}/end"), "application/json", "").await;
    assert_eq!((again.status, again.json()), (200, ended));

    assert_eq!(acme.client.delete(&path).await.status, 204);
    for reply in [
        acme.client.get(&path).await,
        acme.client.delete(&path).await,
        acme.client.patch(&path, &json!({ "visitor_name": "Ada" })).await,
        acme.client.get(&format!("{path}/messages")).await,
    ] {
        assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_takes_the_messages_and_is_written_down() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let (gone, kept) = (acme.session(&json!({})).await, acme.session(&json!({})).await);
    for session in [&gone, &gone, &kept] {
        acme.say(session, "The same words.").await;
    }
    let request = acme.client.request(hyper::Method::DELETE, &format!("/v1/sessions/{gone}"));
    let reply = acme.client.send(request.header("x-request-id", "r-1").body(http_body_util::Full::default()).unwrap());
    assert_eq!(reply.await.status, 204);
    let found = acme.client.get("/v1/messages/search?q=words").await.json();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    assert_eq!(found["items"][0]["session_id"], kept.as_str());
    let sql = connect(&app.database.owner_url()).await;
    let entry = format!(
        "SELECT a.action, a.before::text, a.request_id, a.actor_kind, k.public_id
         FROM audit_log a JOIN api_keys k ON k.id = a.actor_id WHERE a.resource_id = '{gone}'"
    );
    let row = sql.query_one(&entry, &[]).await.unwrap();
    let entry: Vec<&str> = (0..5).map(|at| row.get(at)).collect();
    assert_eq!(entry, ["session.delete", "{\"messages\": 2}", "r-1", "api_key", acme.key_id.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_found_by_what_they_are() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let (widget, meeting) = places(&acme).await;
    let in_widget = acme.session(&json!({ "widget_id": widget, "visitor_id": "v-1" })).await;
    let in_meeting = acme.session(&json!({ "meeting_id": meeting })).await;
    let ended = acme.session(&json!({ "widget_id": widget, "visitor_id": "v 2" })).await;
    let reply =
        acme.client.send_bytes(hyper::Method::POST, &format!("/v1/sessions/{ended}/end"), "text/plain", "").await;
    assert_eq!(reply.status, 200);
    let started = acme.client.get(&format!("/v1/sessions/{in_meeting}")).await.json();
    let started = started["created_at"].as_str().unwrap();
    let check = async |query: &str, expected: &[&String]| {
        assert_eq!(listed(&acme, query).await.iter().collect::<Vec<_>>(), expected, "{query}");
    };
    check("", &[&ended, &in_meeting, &in_widget]).await;
    check(&format!("widget_id={widget}"), &[&ended, &in_widget]).await;
    check(&format!("meeting_id={meeting}"), &[&in_meeting]).await;
    check("visitor_id=v-1", &[&in_widget]).await;
    check("visitor_id=v+2", &[&ended]).await;
    check("visitor_id=v", &[]).await;
    check("active=true", &[&in_meeting, &in_widget]).await;
    check("active=false", &[&ended]).await;
    check(&format!("active=true&widget_id={widget}"), &[&in_widget]).await;
    check(&format!("created_after={started}"), &[&ended, &in_meeting]).await;
    check(&format!("created_before={started}"), &[&in_widget]).await;
    check(&format!("widget_id={}", uuid::Uuid::now_v7()), &[]).await;
    let page = acme.client.get(&format!("/v1/sessions?widget_id={widget}&limit=1")).await.json();
    assert_eq!((page["total"].as_u64(), ids(&page)), (Some(2), vec![ended.clone()]));
    let cursor = page["next_cursor"].as_str().unwrap();
    check(&format!("widget_id={widget}&limit=1&cursor={cursor}"), &[&in_widget]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_by_cursor_see_every_session_once_while_others_start() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let mut started = Vec::new();
    for _ in 0..5 {
        started.push(acme.session(&json!({})).await);
    }
    started.reverse();
    let (mut seen, mut next) = (Vec::new(), "limit=2".to_owned());
    loop {
        let page = acme.client.get(&format!("/v1/sessions?{next}")).await.json();
        seen.extend(ids(&page));
        acme.session(&json!({})).await;
        match page["next_cursor"].as_str() {
            Some(cursor) => next = format!("limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, started);
    let page = acme.client.get("/v1/sessions?limit=2&offset=3").await.json();
    assert_eq!((page["total"].as_u64(), ids(&page)), (Some(8), started[..2].to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_fit_up_to_their_limits() {
    let app = TestApp::start().await;
    let (acme, other) = (app.tenant("acme").await, app.tenant("other").await);
    let (widget, meeting) = places(&acme).await;
    // `{"k":"…"}`
    let metadata = |bytes: usize| json!({ "k": "x".repeat(bytes - 8) });
    let most = json!({
        "visitor_id": "v".repeat(255), "visitor_name": "ü".repeat(200), "metadata": metadata(16_384),
    });
    let session = acme.session(&most).await;
    let nobody = uuid::Uuid::now_v7();
    for (draft, field) in [
        (json!({ "visitor_id": "" }), "visitor_id"),
        (json!({ "visitor_id": "v".repeat(256) }), "visitor_id"),
        (json!({ "visitor_id": "a\u{0}b" }), "visitor_id"),
        (json!({ "visitor_name": "" }), "visitor_name"),
        (json!({ "visitor_name": "ü".repeat(201) }), "visitor_name"),
        (json!({ "visitor_name": 7 }), "visitor_name"),
        (json!({ "metadata": metadata(16_385) }), "metadata"),
        (json!({ "metadata": [1] }), "metadata"),
        (json!({ "metadata": { "k": ["\u{0}"] } }), "metadata.k[0]"),
        (json!({ "metadata": { "k": 1.795e308 } }), "metadata"),
        (json!({ "widget_id": "site" }), "widget_id"),
        (json!({ "widget_id": nobody }), "widget_id"),
        (json!({ "meeting_id": nobody }), "meeting_id"),
        (json!({ "widget_id": widget, "meeting_id": meeting }), "meeting_id"),
        (json!({ "visitor": "v" }), "visitor"),
    ] {
        let reply = acme.client.post("/v1/sessions", &draft).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{draft}");
        assert_eq!(reply.json()["fields"][0]["field"], field, "{draft}");
    }
    // Another tenant's widget is as one that is not there.
    let theirs = other.client.post("/v1/sessions", &json!({ "widget_id": widget })).await;
    let nobodys = other.client.post("/v1/sessions", &json!({ "widget_id": nobody })).await;
    assert_eq!((theirs.status, &theirs.json()["fields"]), (400, &nobodys.json()["fields"]));

    let path = format!("/v1/sessions/{session}");
    for (patch, field) in [
        (json!({ "visitor_name": "" }), Some("visitor_name")),
        (json!({ "visitor_name": "ü".repeat(201) }), Some("visitor_name")),
        (json!({ "metadata": { "more": 1 } }), Some("metadata")),
        (json!({ "metadata": { "\u{0}": 1 } }), Some("metadata.\\0")),
        (json!({ "visitor_id": "v" }), Some("visitor_id")),
        (json!({ "metadata": null }), None),
        (json!({}), None),
    ] {
        let reply = acme.client.patch(&path, &patch).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{patch}");
        assert_eq!(reply.json()["fields"][0]["field"].as_str(), field, "{patch}");
    }
    let patch = json!({ "metadata": { "k": null, "more": "x".repeat(16_384 - 20) } });
    assert_eq!(acme.client.patch(&path, &patch).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_do_not_fit_are_refused_with_the_field() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let session = acme.session(&json!({})).await;
    acme.say(&session, "one").await;
    acme.say(&session, "two").await;
    let messages = acme.client.get(&format!("/v1/sessions/{session}/messages?limit=1")).await.json();
    let foreign = messages["next_cursor"].as_str().unwrap();
    let visitor = "v".repeat(256);
    for (query, field) in [
        ("limit=0".to_owned(), "limit"),
        ("limit=101".to_owned(), "limit"),
        ("offset=100001".to_owned(), "offset"),
        ("cursor=00".to_owned(), "cursor"),
        (format!("cursor={foreign}"), "cursor"),
        (format!("cursor={foreign}&offset=0"), "cursor"),
        ("widget_id=site".to_owned(), "widget_id"),
        ("meeting_id=".to_owned(), "meeting_id"),
        ("active=1".to_owned(), "active"),
        ("created_after=yesterday".to_owned(), "created_after"),
        ("created_before=2026-11-28".to_owned(), "created_before"),
        ("created_before=9999-12-31T23:59:59-23:59".to_owned(), "created_before"),
        ("visitor_id=".to_owned(), "visitor_id"),
        (format!("visitor_id={visitor}"), "visitor_id"),
        ("visitor_id=%00".to_owned(), "visitor_id"),
        ("visitor=v".to_owned(), "visitor"),
    ] {
        let reply = acme.client.get(&format!("/v1/sessions?{query}")).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{query}");
        assert_eq!(reply.json()["fields"][0]["field"], field, "{query}");
    }
    for query in [
        "limit=1",
        "limit=100",
        "offset=100000",
        "created_after=0000-01-01T00:00:00Z&created_before=9999-12-31T23:59:59.999999999Z",
        "created_after=2026-11-28T12:00:00%2B01:00",
    ] {
        assert_eq!(acme.client.get(&format!("/v1/sessions?{query}")).await.status, 200, "{query}");
    }
}
