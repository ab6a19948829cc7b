//! Visitors of a widget: let in by embed key and origin, held to their session by a signed token, for a time.

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::Full;
use hyper::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::{Client, Reply, Tenant, TestApp, connect, soon, until};

const SITE: &str = "https://example.com";

/// A widget, and who asks as its pages do.
struct Widget {
    client: Client,
    id: String,
    embed_key: String,
    identity_secret: String,
}

impl Widget {
    async fn of(acme: &Tenant, draft: &Value) -> Self {
        let reply = acme.client.post("/v1/widgets", draft).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        let widget = reply.json();
        let field = |name: &str| widget[name].as_str().unwrap().to_owned();
        let client = acme.client.without_key();
        Self { client, id: field("id"), embed_key: field("embed_key"), identity_secret: field("identity_secret") }
    }

    async fn shown_on(acme: &Tenant, origins: &[&str]) -> Self {
        Self::of(acme, &json!({ "name": "site", "allowed_origins": origins })).await
    }

    fn path(&self) -> String {
        format!("/v1/widgets/{}", self.id)
    }

    /// Asks to be let in from a page at `origin`.
    async fn enter(&self, origin: Option<&str>, draft: Value) -> Reply {
        let mut body = json!({ "embed_key": self.embed_key });
        body.as_object_mut().unwrap().extend(draft.as_object().unwrap().clone());
        send(&self.client, Method::POST, &format!("{}/visitors", self.path()), origin, &body).await
    }

    async fn visitor(&self, draft: Value) -> Visitor {
        let reply = self.enter(Some(SITE), draft).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        let visitor = reply.json();
        let session = visitor["session"]["id"].as_str().unwrap().to_owned();
        Visitor { client: self.client.with_key(visitor["token"].as_str().unwrap()), session }
    }

    /// An identity that the site's server signs with `secret`.
    fn identity(&self, secret: &str, id: &str, expires_at: &str) -> Value {
        let text = format!("tertulia identity 1\n{}\n{id}\nGrace\ngrace@example.com\n{expires_at}", self.id);
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        let signature = hex::encode(mac.finalize().into_bytes());
        json!({ "identity": {
            "id": id, "name": "Grace", "email": "grace@example.com", "expires_at": expires_at, "signature": signature,
        } })
    }
}

struct Visitor {
    client: Client,
    session: String,
}

impl Visitor {
    fn path(&self) -> String {
        format!("/v1/sessions/{}", self.session)
    }

    async fn status(&self) -> u16 {
        self.client.get(&self.path()).await.status
    }
}

async fn send(client: &Client, method: Method, path: &str, origin: Option<&str>, body: &Value) -> Reply {
    let mut request = client.request(method, path).header("content-type", "application/json");
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    client.send(request.body(Full::new(body)).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_talks_in_their_session_and_sees_no_other() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let widget = Widget::shown_on(&acme, &[SITE]).await;
    let reply = widget.enter(Some(SITE), json!({ "visitor_id": "v-1", "visitor_name": "Grace" })).await;
    assert_eq!((reply.status, reply.header("cache-control")), (201, Some("no-store")), "{reply:?}");
    let entered = reply.json();
    let session = &entered["session"];
    assert_eq!((session["visitor_id"].as_str(), session["visitor_name"].as_str()), (Some("v-1"), Some("Grace")));
    assert_eq!((session["widget_id"].as_str(), session["is_verified"].as_bool()), (Some(&*widget.id), Some(false)));
    let token = entered["token"].as_str().unwrap();
    let grace = Visitor { client: widget.client.with_key(token), session: session["id"].as_str().unwrap().to_owned() };
    let messages = format!("{}/messages", grace.path());

    // What the tenant keeps with a session is not for its visitor.
    acme.client.patch(&grace.path(), &json!({ "metadata": { "note": "difficult" } })).await;
    assert_eq!(acme.client.get(&grace.path()).await.json()["metadata"]["note"], "difficult");
    let seen = grace.client.get(&grace.path()).await;
    assert_eq!((seen.status, &seen.json()["metadata"]), (200, &json!({})));

    let hello = json!({ "role": "user", "content": "Hello.", "client_id": "c-1" });
    let posted = grace.client.post(&messages, &hello).await;
    assert_eq!((posted.status, posted.json()["seq"].as_u64()), (201, Some(1)), "{posted:?}");
    for role in ["assistant", "agent", "system"] {
        let reply = grace.client.post(&messages, &json!({ "role": role, "content": "Hello." })).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{role}");
    }
    let posing = json!({ "role": "user", "content": "Hello.", "sender": "Support" });
    assert_eq!(grace.client.post(&messages, &posing).await.status, 400);
    acme.client.post(&messages, &json!({ "role": "agent", "content": "Good day." })).await;
    let list = grace.client.get(&format!("{messages}?after_seq=0")).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 2);

    let other = widget.visitor(json!({})).await;
    for (method, path, body) in [
        (Method::GET, grace.path(), Value::Null),
        (Method::GET, messages.clone(), Value::Null),
        (Method::POST, messages.clone(), hello.clone()),
        (Method::POST, format!("{}/end", grace.path()), Value::Null),
        (Method::POST, format!("{}/refresh", grace.path()), Value::Null),
    ] {
        let never = path.replace(&grace.session, &uuid::Uuid::now_v7().to_string());
        let mut replies = Vec::new();
        for path in [&path, &never] {
            let reply = send(&other.client, method.clone(), path, None, &body).await;
            assert_eq!((reply.status, reply.problem().as_str()), (404, "not_found"), "{method} {path}");
            let mut problem = reply.json();
            problem.as_object_mut().unwrap().remove("request_id");
            replies.push(problem);
        }
        assert_eq!(replies[0], replies[1]);
    }
    assert_eq!(grace.client.post_nothing(&format!("{}/end", grace.path())).await.status, 200);
    let late = grace.client.post(&messages, &json!({ "role": "user", "content": "Wait!" })).await;
    assert_eq!((late.status, late.problem().as_str()), (409, "conflict"));
    let refreshed = grace.client.post_nothing(&format!("{}/refresh", grace.path())).await;
    assert_eq!((refreshed.status, refreshed.problem().as_str()), (409, "conflict"));
    assert_eq!(grace.status().await, 200, "it may still be read");
    assert_eq!(acme.client.get(&other.path()).await.json()["last_seq"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_pages_of_a_widget_let_visitors_in() {
    let app = TestApp::start().await;
    let (acme, rival) = (app.tenant("acme").await, app.tenant("rival").await);
    let widget = Widget::shown_on(&acme, &[SITE, "https://*.example.org", "http://localhost:3000"]).await;
    for good in [SITE, "https://shop.example.org", "https://a.b.example.org", "http://localhost:3000"] {
        let reply = widget.enter(Some(good), json!({})).await;
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (201, Some(good)), "{good}");
    }
    for bad in [
        None,
        Some(""),
        Some("null"),
        Some("http://example.com"),
        Some("https://example.com:8443"),
        Some("https://EXAMPLE.com"),
        Some("https://example.com."),
        Some("https://example.com/"),
        Some("https://example.org"),
        Some("https://evilexample.org"),
        Some("https://shop.example.org:8443"),
        Some("https://shop.example.org.evil.com"),
        Some("http://localhost:3001"),
    ] {
        let reply = widget.enter(bad, json!({})).await;
        assert_eq!((reply.status, reply.problem().as_str()), (403, "forbidden"), "{bad:?}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{bad:?}");
    }
    let path = format!("{}/visitors", widget.path());
    let twice = widget.client.request(Method::POST, &path).header("content-type", "application/json");
    let twice = twice.header("origin", SITE).header("origin", "https://evil.com");
    let body = json!({ "embed_key": widget.embed_key }).to_string();
    assert_eq!(widget.client.send(twice.body(Full::new(body.into())).unwrap()).await.status, 403);

    // The key of another widget, or none, is the same as a widget that is not there.
    let theirs = Widget::shown_on(&rival, &[SITE]).await;
    let mut problems = Vec::new();
    for (id, key) in [
        (&widget.id, theirs.embed_key.as_str()),
        (&widget.id, "wk_00000000000000000000000000000000"),
        (&uuid::Uuid::now_v7().to_string(), widget.embed_key.as_str()),
    ] {
        let path = format!("/v1/widgets/{id}/visitors");
        let reply = send(&widget.client, Method::POST, &path, Some(SITE), &json!({ "embed_key": key })).await;
        assert_eq!(reply.status, 404);
        let mut problem = reply.json();
        problem.as_object_mut().unwrap().remove("request_id");
        problems.push(problem);
    }
    assert!(problems.iter().all(|problem| *problem == problems[0]));

    let visitor = widget.visitor(json!({})).await;
    assert_eq!(visitor.status().await, 200);
    acme.client.patch(&widget.path(), &json!({ "is_disabled": true })).await;
    let reply = widget.enter(Some(SITE), json!({})).await;
    assert_eq!((reply.status, reply.problem().as_str()), (403, "forbidden"));
    assert_eq!(visitor.status().await, 401, "those who are in are out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_holds_on_its_page_for_its_time_and_as_it_was_signed() {
    let app = TestApp::start().await;
    let second = TestApp::start_on(app.database.clone(), &[("TERTULIA_ACCOUNTS_VISITOR_TTL", "1s")]).await;
    let acme = app.tenant("acme").await;
    let widget = Widget::shown_on(&acme, &[SITE, "https://other.example"]).await;
    let visitor = widget.visitor(json!({})).await;
    let there = visitor.client.at(&second.client());
    for client in [&visitor.client, &there] {
        assert_eq!(send(client, Method::GET, &visitor.path(), Some(SITE), &Value::Null).await.status, 200);
        for page in ["https://other.example", "https://evil.com", "null"] {
            let reply = send(client, Method::GET, &visitor.path(), Some(page), &Value::Null).await;
            assert_eq!((reply.status, reply.problem().as_str()), (403, "forbidden"), "{page}");
        }
    }
    let token = visitor.client.key();
    for at in [5, 40, 75, 110, 130, token.len() - 1] {
        let mut other = token.to_owned().into_bytes();
        other[at] = if other[at] == b'0' { b'1' } else { b'0' };
        let client = visitor.client.with_key(std::str::from_utf8(&other).unwrap());
        let reply = client.get(&visitor.path()).await;
        assert_eq!((reply.status, reply.problem().as_str()), (401, "unauthenticated"), "digit {at}");
    }
    let refreshed = visitor.client.post_nothing(&format!("{}/refresh", visitor.path())).await;
    assert_eq!((refreshed.status, refreshed.json()["session"]["id"].as_str()), (200, Some(&*visitor.session)));
    let at_second = Widget { client: widget.client.at(&second.client()), ..widget };
    let brief = at_second.visitor(json!({})).await;
    let brief = Visitor { client: brief.client.at(&app.client()), ..brief };
    until("the token has expired", async || (brief.status().await == 401).then_some(())).await;
    assert_eq!(brief.client.post_nothing(&format!("{}/refresh", brief.path())).await.status, 401);

    // An origin that is taken away takes its tokens along, at every server.
    let visitor = Visitor { client: there, ..visitor };
    assert_eq!(visitor.status().await, 200);
    acme.client.patch(&at_second.path(), &json!({ "allowed_origins": ["https://other.example"] })).await;
    soon("the second server refuses the token", async || (visitor.status().await == 403).then_some(())).await;
    acme.client.delete(&at_second.path()).await;
    soon("the second server knows that the widget is gone", async || (visitor.status().await == 401).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_change_with_an_overlap() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let widget = Widget::shown_on(&acme, &[SITE]).await;
    let rotate = async |body: Value| {
        let reply = acme.client.post(&format!("{}/rotate-secret", widget.path()), &body).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["identity_secret"].as_str().map(str::to_owned)
    };
    let [first, second, third] =
        [widget.visitor(json!({})).await, widget.visitor(json!({})).await, widget.visitor(json!({})).await];
    assert_eq!(rotate(json!({ "secret": "signing", "overlap_seconds": 60 })).await, None);
    assert_eq!(first.status().await, 200, "the one before holds too");
    let new = widget.visitor(json!({})).await;
    assert_eq!(new.status().await, 200);
    rotate(json!({ "secret": "signing", "overlap_seconds": 60 })).await;
    assert_eq!((first.status().await, new.status().await), (401, 200), "the second before does not");
    // The overlap ends.
    let sql = connect(&app.database.owner_url()).await;
    sql.batch_execute("UPDATE widgets SET signing_overlap_until = now()").await.unwrap();
    soon("the one before holds no more", async || (new.status().await == 401).then_some(())).await;
    let newest = widget.visitor(json!({})).await;
    rotate(json!({ "secret": "signing", "overlap_seconds": 0 })).await;
    assert_eq!((newest.status().await, second.status().await, third.status().await), (401, 401, 401));

    let later = "2999-01-01T00:00:00Z";
    let old = widget.identity_secret.clone();
    let enters = async |secret: &str| widget.enter(Some(SITE), widget.identity(secret, "u-1", later)).await.status;
    let new = rotate(json!({ "secret": "identity" })).await.unwrap();
    assert!(new.starts_with("ws_") && new != old);
    assert_eq!((enters(&old).await, enters(&new).await), (201, 201));
    let newest = rotate(json!({ "secret": "identity", "overlap_seconds": 0 })).await.unwrap();
    assert_eq!((enters(&old).await, enters(&new).await, enters(&newest).await), (403, 403, 201));
    for bad in [json!({ "secret": "embed" }), json!({ "secret": "signing", "overlap_seconds": 2_592_001 }), json!({})] {
        let reply = acme.client.post(&format!("{}/rotate-secret", widget.path()), &bad).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_widget_may_ask_for_a_signed_identity() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let draft = json!({ "name": "site", "allowed_origins": [SITE], "is_identity_required": true });
    let widget = Widget::of(&acme, &draft).await;
    let other = Widget::of(&acme, &draft).await;
    let (secret, later) = (widget.identity_secret.as_str(), "2999-01-01T00:00:00Z");
    let reply = widget.enter(Some(SITE), widget.identity(secret, "u-1", later)).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let session = reply.json()["session"].clone();
    assert_eq!((session["visitor_id"].as_str(), session["visitor_name"].as_str()), (Some("u-1"), Some("Grace")));
    assert_eq!(session["is_verified"], true);
    let seen = acme.client.get(&format!("/v1/sessions/{}", session["id"].as_str().unwrap())).await.json();
    assert_eq!(seen["metadata"]["visitor_email"], "grace@example.com");
    let mut tampered = widget.identity(secret, "u-1", later);
    tampered["identity"]["id"] = json!("u-2");
    let mut unnamed = widget.identity(secret, "u-1", later);
    unnamed["identity"].as_object_mut().unwrap().remove("name");
    for (what, draft) in [
        ("none", json!({})),
        ("unsigned", json!({ "visitor_id": "u-1" })),
        ("tampered", tampered),
        ("a field left out", unnamed),
        ("expired", widget.identity(secret, "u-1", "2020-01-01T00:00:00Z")),
        ("another secret", widget.identity("ws_0", "u-1", later)),
        ("another widget", other.identity(&other.identity_secret, "u-1", later)),
    ] {
        let reply = widget.enter(Some(SITE), draft).await;
        assert_eq!((reply.status, reply.problem().as_str()), (403, "forbidden"), "{what}");
    }
    let mut both = widget.identity(secret, "u-1", later);
    both["visitor_id"] = json!("u-2");
    assert_eq!(widget.enter(Some(SITE), both).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_told_which_pages_may_ask() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let widget = Widget::shown_on(&acme, &[SITE]).await;
    let elsewhere = Widget::shown_on(&acme, &["https://other.example"]).await;
    let visitor = widget.visitor(json!({})).await;
    let preflight = async |path: &str, origin: &str| {
        let request = widget.client.request(Method::OPTIONS, path).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        let reply = widget.client.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(reply.status, 204, "{path}");
        reply
    };
    let visitors = format!("{}/visitors", widget.path());
    let messages = format!("{}/messages", visitor.path());
    for path in [&visitors, &messages] {
        let told = preflight(path, SITE).await;
        assert_eq!(told.header("access-control-allow-origin"), Some(SITE), "{path}");
        assert!(told.header("access-control-allow-methods").unwrap().contains("POST"));
        assert!(told.header("access-control-allow-headers").unwrap().contains("authorization"));
        assert!(told.headers.get_all("vary").iter().any(|vary| vary == "origin"));
        for stranger in ["https://evil.com", "null", "https://example.com."] {
            let told = preflight(path, stranger).await;
            assert_eq!(told.header("access-control-allow-origin"), None, "{path} {stranger}");
            assert!(told.headers.get_all("vary").iter().any(|vary| vary == "origin"));
        }
    }
    assert_eq!(preflight(&visitors, "https://other.example").await.header("access-control-allow-origin"), None);
    for other in ["/v1/sessions".to_owned(), widget.path(), format!("{messages}/{}", elsewhere.id)] {
        let told = preflight(&other, SITE).await;
        assert!(told.header("access-control-allow-origin").is_none() && told.header("vary").is_none(), "{other}");
    }
    // Errors too can be read by the page.
    let refused = send(&widget.client, Method::GET, &messages, Some(SITE), &Value::Null).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some(SITE)));
    let listed = send(&visitor.client, Method::GET, &messages, Some(SITE), &Value::Null).await;
    assert_eq!((listed.status, listed.header("access-control-allow-origin")), (200, Some(SITE)));
    // A page that is new is known at once.
    acme.client.patch(&elsewhere.path(), &json!({ "allowed_origins": ["https://evil.com"] })).await;
    assert!(preflight(&messages, "https://evil.com").await.header("access-control-allow-origin").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_visitors_are_their_own() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let widget = Widget::shown_on(&acme, &[SITE]).await;
    let [ada, grace] = [widget.visitor(json!({})).await, widget.visitor(json!({})).await];
    let body = json!({ "role": "user", "content": "Hello." });
    let mut answers = Vec::new();
    for visitor in [&ada, &grace, &ada] {
        let request = visitor.client.request(Method::POST, &format!("{}/messages", visitor.path()));
        let request = request.header("content-type", "application/json").header("idempotency-key", "k");
        let reply = visitor.client.send(request.body(Full::new(body.to_string().into())).unwrap()).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        answers.push(reply.json()["id"].clone());
    }
    assert!(answers[0] == answers[2] && answers[0] != answers[1]);
}
