//! `Idempotency-Key`: what creates something is done once, however often, by whomever and with whatever luck it is sent.

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::harness::{Client, Reply, Tenant, TestApp, connect, until};

async fn post(client: &Client, path: &str, key: &str, body: &Value) -> Reply {
    let request = client.request(Method::POST, path).header("content-type", "application/json");
    let request = request.header("idempotency-key", key);
    client.send(request.body(Full::new(Bytes::from(body.to_string()))).unwrap()).await
}

fn hello() -> Value {
    json!({ "role": "user", "content": "Hello." })
}

/// Panics unless `reply` is `first` over again.
fn assert_replayed(reply: &Reply, first: &Reply) {
    assert_eq!((reply.status, &reply.body), (first.status, &first.body));
    assert_eq!(reply.header("content-type"), first.header("content-type"));
    assert_eq!((first.header("idempotency-replayed"), reply.header("idempotency-replayed")), (None, Some("true")));
}

/// A session of a new tenant, whose messages are under a path.
async fn session(app: &TestApp) -> (Tenant, String) {
    let acme = app.tenant("acme").await;
    let session = acme.session(&json!({})).await;
    (acme, format!("/v1/sessions/{session}/messages"))
}

async fn message_count(client: &Client, path: &str) -> u64 {
    client.get(path).await.json()["total"].as_u64().unwrap()
}

/// Holds up everybody who posts, until it is dropped.
async fn hold_sessions(app: &TestApp) -> tokio_postgres::Client {
    let sql = connect(&app.database.owner_url()).await;
    sql.batch_execute("BEGIN; SELECT FROM sessions FOR UPDATE").await.unwrap();
    sql
}

/// Waits until so many requests wait for [`hold_sessions`].
async fn until_held(app: &TestApp, requests: i64) {
    let sql = connect(&app.database.owner_url()).await;
    let waiting = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE NOT l.granted AND a.datname = current_database()";
    until("requests are held up", async || {
        (sql.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == requests).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_same_answer_and_does_nothing() {
    let app = TestApp::start().await;
    let second = TestApp::start_on(app.database.clone(), &[]).await;
    let (acme, messages) = session(&app).await;
    let agent = app.key_with(&acme, &[tertulia::ctx::Scope::SessionsWrite]).await;
    for (path, body) in [
        (messages.as_str(), hello()),
        ("/v1/sessions", json!({ "visitor_name": "Grace" })),
        ("/v1/meetings", json!({ "title": "weekly" })),
        ("/v1/knowledge-bases", json!({ "name": "manual" })),
        ("/v1/users", json!({ "email": "ada@example.com", "role": "owner", "password": "correct horse battery" })),
    ] {
        let key = format!("key of {path}").replace(' ', "-");
        let first = post(&acme.client, path, &key, &body).await;
        assert_eq!(first.status, 201, "{path}: {first:?}");
        for client in [&acme.client, &acme.client.at(&second.client())] {
            assert_replayed(&post(client, path, &key, &body).await, &first);
        }
        if path == messages {
            assert_replayed(&post(&agent, path, &key, &body).await, &first);
            let other = post(&acme.client, path, "another", &body).await;
            assert!(other.status == 201 && other.body != first.body);
        }
    }
    assert_eq!(message_count(&acme.client, &messages).await, 2);
    for list in ["/v1/meetings", "/v1/knowledge-bases", "/v1/users"] {
        assert_eq!(acme.client.get(list).await.json()["items"].as_array().unwrap().len(), 1, "{list}");
    }
    // Whoever may not ask gets no answer either, whatever key they know.
    let key = format!("key of {messages}").replace(' ', "-");
    let reader = app.key_with(&acme, &[tertulia::ctx::Scope::SessionsRead]).await;
    assert_eq!(post(&reader, &messages, &key, &hello()).await.status, 403);
    assert_eq!(post(&app.client(), &messages, &key, &hello()).await.status, 401);
    // Postgres has no key as it was sent.
    let sql = connect(&app.database.owner_url()).await;
    let rows = sql.query("SELECT k::text FROM idempotency_keys k", &[]).await.unwrap();
    assert!(rows.len() == 6 && rows.iter().all(|row| !row.get::<_, String>(0).contains("key-of")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stands_for_one_request_of_its_tenant() {
    let app = TestApp::start().await;
    let (acme, messages) = session(&app).await;
    let first = post(&acme.client, &messages, "k", &hello()).await;
    assert_eq!(first.status, 201);
    let other_session = format!("/v1/sessions/{}/messages", acme.session(&json!({})).await);
    for (path, body) in [
        (messages.as_str(), json!({ "role": "user", "content": "Hello!" })),
        (&other_session, hello()),
        ("/v1/sessions", json!({})),
        ("/v1/api-keys", json!({ "scopes": ["keys:read"] })),
    ] {
        let reply = post(&acme.client, path, "k", &body).await;
        assert_eq!((reply.status, reply.problem().as_str()), (422, "key_reused"), "{path}");
    }
    assert_eq!(message_count(&acme.client, &other_session).await, 0);
    let rival = app.tenant("rival").await;
    let theirs = post(&rival.client, "/v1/sessions", "k", &json!({})).await;
    assert_eq!((theirs.status, theirs.header("idempotency-replayed")), (201, None));
    let nobodys = post(&rival.client, &messages, "k2", &hello()).await;
    assert_eq!((nobodys.status, nobodys.problem().as_str()), (404, "not_found"));
    // A refusal that is the client's doing is an answer too, with the id of the request that it was given to.
    assert_replayed(&post(&rival.client, &messages, "k2", &hello()).await, &nobodys);
    assert_replayed(&post(&acme.client, &messages, "k", &hello()).await, &first);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_checked_where_they_count_and_nowhere_else() {
    let app = TestApp::start().await;
    let (acme, messages) = session(&app).await;
    for bad in ["a b", "k".repeat(256).as_str(), ""] {
        let reply = post(&acme.client, &messages, bad, &hello()).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{bad}");
        assert_eq!(reply.json()["fields"][0]["field"], "Idempotency-Key");
    }
    assert_eq!(message_count(&acme.client, &messages).await, 0);
    let end = messages.replace("/messages", "/end");
    assert_eq!(post(&acme.client, &end, "a b", &Value::Null).await.status, 200, "it takes none");
    let count = "SELECT count(*) FROM idempotency_keys";
    let sql = connect(&app.database.owner_url()).await;
    assert_eq!(post(&acme.client, "/v1/sessions", &"k".repeat(255), &json!({})).await.status, 201);
    assert_eq!(acme.client.post("/v1/sessions", &json!({})).await.status, 201);
    assert_eq!(sql.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_is_done() {
    let app = TestApp::start().await;
    let second = TestApp::start_on(app.database.clone(), &[]).await;
    let (acme, messages) = session(&app).await;
    let there = acme.client.at(&second.client());
    let held = hold_sessions(&app).await;
    let body = hello();
    let first = post(&acme.client, &messages, "slow", &body);
    let others = async {
        until_held(&app, 1).await;
        let sent = [&acme.client, &there].map(|client| post(client, &messages, "slow", &body));
        for reply in join_all(sent).await {
            assert_eq!((reply.status, reply.problem().as_str()), (409, "under_way"));
            assert_eq!(reply.header("retry-after"), Some("1"));
        }
        drop(held);
    };
    let (first, ()) = tokio::join!(first, others);
    assert_eq!(first.status, 201, "{first:?}");
    assert_replayed(&post(&there, &messages, "slow", &body).await, &first);
    for round in 0..5 {
        let key = format!("round-{round}");
        let clients = [&acme.client, &there].into_iter().cycle().take(8);
        let replies = join_all(clients.map(|client| post(client, &messages, &key, &body))).await;
        let done: Vec<_> = replies.iter().filter(|reply| reply.status == 201).collect();
        assert_eq!(
            done.iter().filter(|reply| reply.header("idempotency-replayed").is_none()).count(),
            1,
            "{replies:?}"
        );
        assert!(done.iter().all(|reply| reply.body == done[0].body));
        assert!(replies.iter().all(|reply| [201, 409].contains(&reply.status)), "{replies:?}");
    }
    assert_eq!(message_count(&acme.client, &messages).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_cut_finds_its_answer() {
    let app = TestApp::start().await;
    let (acme, messages) = session(&app).await;
    let held = hold_sessions(&app).await;
    let body = hello().to_string();
    let mut socket = TcpStream::connect(acme.client.address).await.unwrap();
    let head = format!(
        "POST {messages} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         idempotency-key: cut\r\ncontent-length: {}\r\n\r\n{body}",
        acme.client.key(),
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    until_held(&app, 1).await;
    drop(socket);
    until("the server has seen that the client is gone", async || {
        (app.metric("http_connections").await == 1).then_some(())
    })
    .await;
    assert_eq!(post(&acme.client, &messages, "cut", &hello()).await.status, 409);
    drop(held);
    let reply = until("it is answered", async || {
        let reply = post(&acme.client, &messages, "cut", &hello()).await;
        (reply.status != 409).then_some(reply)
    })
    .await;
    assert_eq!((reply.status, reply.header("idempotency-replayed")), (201, Some("true")));
    assert_eq!(message_count(&acme.client, &messages).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_left_behind_is_done_once() {
    let app = TestApp::start().await;
    let (acme, messages) = session(&app).await;
    let sql = connect(&app.database.owner_url()).await;
    let end_leases = "UPDATE idempotency_keys SET leased_until = now() - interval '1 s'";

    // Its lease is over before it comes to commit: another takes over, and it commits nothing.
    let held = hold_sessions(&app).await;
    let body = hello();
    let late = post(&acme.client, &messages, "late", &body);
    let next = async {
        until_held(&app, 1).await;
        sql.batch_execute(end_leases).await.unwrap();
        let next = post(&acme.client, &messages, "late", &body);
        let release = async {
            until_held(&app, 2).await;
            drop(held);
        };
        tokio::join!(next, release).0
    };
    let (late, next) = tokio::join!(late, next);
    assert_eq!((late.status, late.problem().as_str()), (504, "deadline"));
    assert_eq!((next.status, next.json()["seq"].as_u64()), (201, Some(1)), "{next:?}");
    assert_replayed(&post(&acme.client, &messages, "late", &body).await, &next);

    // It committed, and went away before it could write down what it answered.
    assert_eq!(post(&acme.client, &messages, "lost", &body).await.status, 201);
    let lose = "UPDATE idempotency_keys SET response_status = NULL, response_header = NULL, response_body = NULL,
        leased_until = now() + interval '1 min'";
    sql.batch_execute(lose).await.unwrap();
    let reply = post(&acme.client, &messages, "lost", &body).await;
    assert_eq!((reply.status, reply.problem().as_str()), (409, "under_way"));
    sql.batch_execute(end_leases).await.unwrap();
    let reply = post(&acme.client, &messages, "lost", &body).await;
    assert_eq!((reply.status, reply.problem().as_str(), reply.header("retry-after")), (409, "conflict", None));
    assert_eq!(message_count(&acme.client, &messages).await, 2);

    // It had claimed the key and done nothing.
    let undo = "UPDATE idempotency_keys SET committed_at = NULL";
    sql.batch_execute(undo).await.unwrap();
    assert_eq!(post(&acme.client, &messages, "lost", &body).await.status, 201);
    assert_eq!(message_count(&acme.client, &messages).await, 3);

    sql.batch_execute("UPDATE idempotency_keys SET expires_at = now()").await.unwrap();
    let other = post(&acme.client, "/v1/sessions", "lost", &json!({})).await;
    assert_eq!((other.status, other.header("idempotency-replayed")), (201, None), "a day later the key is a new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_for_no_fault_of_the_client_is_tried_again() {
    let app = TestApp::start_with(&[("TERTULIA_SERVER_HANDLER_TIMEOUT", "1s")]).await;
    let (acme, messages) = session(&app).await;
    let held = hold_sessions(&app).await;
    let failed = post(&acme.client, &messages, "k", &hello()).await;
    assert_eq!((failed.status, failed.problem().as_str()), (504, "deadline"));
    drop(held);
    let reply = until("the key is free again", async || {
        let reply = post(&acme.client, &messages, "k", &hello()).await;
        (reply.status != 409).then_some(reply)
    })
    .await;
    assert_eq!((reply.status, reply.header("idempotency-replayed")), (201, None), "{reply:?}");
    assert_eq!(message_count(&acme.client, &messages).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_shows_a_secret_is_not_kept() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    for (path, body) in
        [("/v1/api-keys", json!({ "scopes": ["keys:read"] })), ("/v1/widgets", json!({ "name": "site" }))]
    {
        let key = path.replace('/', "-");
        let first = post(&acme.client, path, &key, &body).await;
        assert_eq!(first.status, 201, "{first:?}");
        let reply = post(&acme.client, path, &key, &body).await;
        assert_eq!((reply.status, reply.problem().as_str(), reply.header("retry-after")), (409, "conflict", None));
        let secret =
            first.json().get("key").or(first.json().get("identity_secret")).unwrap().as_str().unwrap().to_owned();
        let sql = connect(&app.database.owner_url()).await;
        let rows = "SELECT convert_from(response_body, 'utf8') || k::text FROM idempotency_keys k";
        for row in sql.query(rows, &[]).await.unwrap() {
            assert!(!row.get::<_, Option<String>>(0).unwrap_or_default().contains(&secret), "{path}");
        }
        // What was refused shows none.
        let refused = post(&acme.client, path, "bad", &json!({ "scopes": [] })).await;
        assert_eq!(refused.status, 400);
        assert_replayed(&post(&acme.client, path, "bad", &json!({ "scopes": [] })).await, &refused);
        sql.batch_execute("DELETE FROM idempotency_keys").await.unwrap();
    }
    assert_eq!(acme.client.get("/v1/widgets").await.json()["total"], 1);
    assert_eq!(acme.client.get("/v1/api-keys").await.json()["total"], 2);
}
