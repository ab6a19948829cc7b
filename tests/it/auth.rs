//! Logins: who may, how often, for how long, and how soon one that has ended holds nowhere.

use serde_json::{Value, json};

use crate::harness::{Client, PASSWORD, Reply, Tenant, TestApp, connect, soon, until};

/// Actions of the audit log, each with its actor and what it is about, in their order.
async fn audited(app: &TestApp, like: &str) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', action, actor_kind, actor_id, resource_id) FROM audit_log
        WHERE action LIKE $1 ORDER BY created_at, id";
    let rows = connect(&app.database.owner_url()).await.query(sql, &[&like]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// How a route answers that looks at nothing but what the server remembers of a login.
async fn status(client: &Client) -> u16 {
    client.get("/v1/knowledge-bases").await.status
}

/// The body of a problem but for the request's id.
fn told(reply: &Reply) -> Value {
    let mut problem = reply.json();
    problem.as_object_mut().unwrap().remove("request_id");
    problem
}

async fn with_ada(role: &str) -> (TestApp, Tenant, String) {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let ada = acme.user("ada@example.com", role).await;
    (app, acme, ada)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_logs_in_and_out() {
    let (app, acme, ada) = with_ada("agent").await;
    let reply = acme.try_log_in("Ada@Example.COM", PASSWORD).await;
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")), "{reply:?}");
    let login = reply.json();
    assert_eq!((&login["user"]["id"], &login["user"]["email"]), (&json!(ada), &json!("ada@example.com")));
    let token = login["token"].as_str().unwrap();
    assert!(token.starts_with("tl_") && token.len() == 67, "{token}");
    let client = acme.client.with_key(token);

    let me = client.get("/v1/auth/me").await.json();
    assert_eq!((me["kind"].as_str(), &me["id"], &me["user"]), (Some("user"), &login["user"]["id"], &login["user"]));
    assert_eq!((&me["tenant_id"], &me["expires_at"]), (&json!(acme.id.0), &login["expires_at"]));
    let scopes = me["scopes"].as_array().unwrap();
    assert!(scopes.contains(&json!("sessions:write")) && !scopes.contains(&json!("users:write")), "{scopes:?}");
    assert_eq!(client.get("/v1/sessions").await.status, 200);
    let refused = client.post("/v1/users", &json!({ "email": "a@b", "role": "viewer" })).await;
    assert_eq!((refused.status, refused.problem().as_str()), (403, "forbidden"));

    let sql = connect(&app.database.owner_url()).await;
    let stored =
        "SELECT s::text, u::text, s.address::text, s.user_agent FROM auth_sessions s JOIN users u ON u.id = s.user_id";
    let stored = sql.query_one(stored, &[]).await.unwrap();
    let rows: String = stored.get::<_, String>(0) + &stored.get::<_, String>(1);
    assert!(!rows.contains(&token[3..]) && !rows.contains(PASSWORD), "{rows}");
    assert!(rows.contains("$argon2id$v=19$m=19456,t=2,p=1$"), "{rows}");
    assert!(stored.get::<_, String>(2).starts_with("127.0.0.1"));

    let other = acme.log_in("ada@example.com").await;
    assert_eq!(client.post_nothing("/v1/auth/logout").await.status, 204);
    let reply = client.get("/v1/auth/me").await;
    assert_eq!((reply.status, reply.problem().as_str()), (401, "unauthenticated"));
    assert_eq!(status(&other).await, 200, "another login goes on");
    let entry = |action: &str| format!("{action} user {ada} {ada}");
    assert_eq!(audited(&app, "user.log%").await, [entry("user.login"), entry("user.login"), entry("user.logout")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_knows_itself_and_has_no_login_to_end() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let me = acme.client.get("/v1/auth/me").await.json();
    assert_eq!((me["kind"].as_str(), &me["user"], &me["expires_at"]), (Some("api_key"), &Value::Null, &Value::Null));
    assert_eq!(me["scopes"].as_array().unwrap().len(), 12);
    let draft = json!({ "current_password": PASSWORD, "new_password": PASSWORD });
    for reply in
        [acme.client.post_nothing("/v1/auth/logout").await, acme.client.post("/v1/auth/password", &draft).await]
    {
        assert_eq!((reply.status, reply.problem().as_str()), (403, "forbidden"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_the_answer_is_the_same() {
    let (app, acme, ada) = with_ada("agent").await;
    let new = acme.created("/v1/users", &json!({ "email": "new@example.com", "role": "agent" })).await;
    let gone = acme.user("gone@example.com", "agent").await;
    let sql = connect(&app.database.owner_url()).await;
    sql.execute("UPDATE users SET disabled_at = now() WHERE id = $1::text::uuid", &[&gone]).await.unwrap();
    let other = app.tenant("other").await;
    let secret = "a secret of mine";
    let mut answers = Vec::new();
    for (tenant, email, password) in [
        ("nowhere", "ada@example.com", PASSWORD),
        ("other", "ada@example.com", PASSWORD),
        ("acme", "nobody@example.com", PASSWORD),
        ("acme", "no address", PASSWORD),
        ("acme", "ada@example.com", secret),
        ("acme", "new@example.com", PASSWORD),
        ("acme", "gone@example.com", PASSWORD),
    ] {
        let draft = json!({ "tenant": tenant, "email": email, "password": password });
        let reply = app.client().post("/v1/auth/login", &draft).await;
        assert_eq!((reply.status, reply.problem().as_str()), (401, "bad_credentials"), "{draft}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(reply.header("www-authenticate").is_some());
        answers.push(told(&reply));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    // Of those that are there it is written down, with nothing of what was sent.
    until("three are written down", async || (audited(&app, "user.login%").await.len() == 3).then_some(())).await;
    let mut noted = audited(&app, "user.login%").await;
    noted.sort();
    let mut expected = [&ada, &new, &gone].map(|id| format!("user.login_refused server {id}"));
    expected.sort();
    assert_eq!(noted, expected);
    let entries = "SELECT coalesce(string_agg(a::text, ' '), '') FROM audit_log a";
    let entries: String = sql.query_one(entries, &[]).await.unwrap().get(0);
    assert!(!entries.contains(secret) && !entries.contains(PASSWORD) && !entries.contains("argon2"), "{entries}");
    drop(other);
    let metrics = app.client().get("/metrics").await;
    assert!(String::from_utf8_lossy(&metrics.body).contains("logins_total{outcome=\"refused\"} 7"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_login_is_refused_before_anything_is_asked() {
    let app = TestApp::start().await;
    let good = json!({ "tenant": "acme", "email": "ada@example.com", "password": PASSWORD });
    for (field, value) in [
        ("tenant", json!("")),
        ("tenant", json!("a".repeat(64))),
        ("email", json!("")),
        ("email", json!("a".repeat(255))),
        ("email", json!("a\u{0}@b")),
        ("password", json!("")),
        ("password", json!("ü".repeat(129))),
        ("password", json!(1)),
        ("role", json!("owner")),
    ] {
        let mut draft = good.clone();
        draft[field] = value;
        let reply = app.client().post("/v1/auth/login", &draft).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{draft}");
        assert_eq!(reply.json()["fields"][0]["field"], field, "{draft}");
    }
    assert_eq!(app.client().post("/v1/auth/login?tenant=acme", &good).await.status, 400);
    assert_eq!(app.client().get("/v1/auth/login").await.status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_are_limited_for_an_account_that_is_there_as_for_one_that_is_not() {
    let (app, acme, _) = with_ada("agent").await;
    let mut limited = Vec::new();
    for email in ["ada@example.com", "nobody@example.com"] {
        for n in 0..10 {
            assert_eq!(acme.try_log_in(email, "wrong, as it is").await.status, 401, "{email} {n}");
        }
        // The right password does not help any more, whichever way the address is written.
        let reply = acme.try_log_in(&email.to_uppercase(), PASSWORD).await;
        assert_eq!((reply.status, reply.problem().as_str()), (429, "rate_limited"), "{email}");
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((200..=305).contains(&wait), "{wait}");
        limited.push(told(&reply));
    }
    assert_eq!(limited[0], limited[1]);
    acme.user("grace@example.com", "agent").await;
    acme.log_in("grace@example.com").await;
    let other = app.tenant("other").await;
    assert_eq!(other.try_log_in("ada@example.com", "wrong, as it is").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_are_limited_for_an_address_that_a_trusted_proxy_tells() {
    let app = TestApp::start_with(&[("TERTULIA_SERVER_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let acme = app.tenant("acme").await;
    acme.user("ada@example.com", "owner").await;
    let from = async |address: &str, email: &str, password: &str| {
        let draft = json!({ "tenant": "acme", "email": email, "password": password }).to_string();
        let request = app.client().request(hyper::Method::POST, "/v1/auth/login").header("x-forwarded-for", address);
        app.client().send(request.body(http_body_util::Full::new(draft.into())).unwrap()).await
    };
    // Most of these are limited by their account, without a password being checked, and count all the same.
    for _ in 0..100 {
        from("192.0.2.1", "nobody@example.com", "wrong, as it is").await;
    }
    let reply = from("192.0.2.1", "grace@example.com", "wrong, as it is").await;
    assert_eq!(reply.status, 429, "the address is limited, not this account");
    let reply = from("192.0.2.2", "grace@example.com", "wrong, as it is").await;
    assert_eq!(reply.status, 401, "{reply:?}");
    let reply = from("203.0.113.9, 192.0.2.1", "ada@example.com", PASSWORD).await;
    assert_eq!(reply.status, 429, "what stands further left is the client's own word");
    let reply = from("192.0.2.2", "ada@example.com", PASSWORD).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let sql = connect(&app.database.owner_url()).await;
    let seen =
        "SELECT host(s.address), host(a.address) FROM auth_sessions s, audit_log a WHERE a.action = 'user.login'";
    let seen = sql.query_one(seen, &[]).await.unwrap();
    assert_eq!((seen.get(0), seen.get(1)), ("192.0.2.2", "192.0.2.2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_a_login_ends_it_at_every_server() {
    let (app, acme, _) = with_ada("owner").await;
    let second = TestApp::start_on(app.database.clone(), &[]).await;
    let ways: [(&str, &str); 4] = [
        ("logout", ""),
        ("password", r#"{"password": "another one of theirs"}"#),
        ("removal", ""),
        ("removal of the tenant", ""),
    ];
    for (way, patch) in ways {
        let email = format!("{}@example.com", way.replace(' ', "-"));
        let id = acme.user(&email, "agent").await;
        let here = acme.log_in(&email).await;
        let there = here.at(&second.client());
        assert_eq!((status(&here).await, status(&there).await), (200, 200), "{way}");
        let path = format!("/v1/users/{id}");
        match way {
            "logout" => assert_eq!(here.post_nothing("/v1/auth/logout").await.status, 204),
            "password" => {
                let patch = serde_json::from_str(patch).unwrap();
                assert_eq!(acme.client.patch(&path, &patch).await.status, 200);
            }
            "removal" => assert_eq!(acme.client.delete(&path).await.status, 204),
            _ => {
                let sql = connect(&app.database.owner_url()).await;
                sql.execute("DELETE FROM tenants WHERE slug = 'acme'", &[]).await.unwrap();
                soon("the first server refuses it", async || (status(&here).await == 401).then_some(())).await;
            }
        }
        assert_eq!(status(&here).await, 401, "{way}: at once where it was done");
        soon("the second server refuses it", async || (status(&there).await == 401).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_role_holds_at_every_server() {
    let (app, acme, ada) = with_ada("admin").await;
    let second = TestApp::start_on(app.database.clone(), &[]).await;
    let here = acme.log_in("ada@example.com").await;
    let there = here.at(&second.client());
    let may_write = async |client: &Client| {
        let me = client.get("/v1/auth/me").await.json();
        me["scopes"].as_array().unwrap().contains(&json!("users:write"))
    };
    assert!(may_write(&here).await && may_write(&there).await);
    let patched = acme.client.patch(&format!("/v1/users/{ada}"), &json!({ "role": "viewer" })).await;
    assert_eq!((patched.status, patched.json()["role"].as_str()), (200, Some("viewer")));
    assert!(!may_write(&here).await, "at once where it was changed");
    soon("the second server knows", async || (!may_write(&there).await).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_missed_a_change_asks_again_once_it_listens_again() {
    let (app, acme, _) = with_ada("owner").await;
    let ada = acme.log_in("ada@example.com").await;
    assert_eq!((status(&ada).await, status(&acme.client).await), (200, 200));
    let sql = connect(&app.database.superuser_url()).await;
    // Nobody is told.
    let silently = "SET session_replication_role = replica; DELETE FROM auth_sessions; DELETE FROM api_keys";
    sql.batch_execute(silently).await.unwrap();
    assert_eq!(status(&ada).await, 200, "it is remembered, or this test shows nothing");
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE query LIKE 'LISTEN%' AND datname = current_database()";
    assert_eq!(sql.execute(cut, &[]).await.unwrap(), 1);
    soon("the login is refused", async || (status(&ada).await == 401).then_some(())).await;
    soon("the key is refused", async || (status(&acme.client).await == 401).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_lasts_as_long_as_it_is_used_and_no_longer_than_thirty_days() {
    let (app, acme, _) = with_ada("agent").await;
    let sql = connect(&app.database.owner_url()).await;
    let hours_left = "SELECT extract(epoch FROM expires_at - now())::float8 / 3600 FROM auth_sessions";
    let left = async || sql.query_one(hours_left, &[]).await.unwrap().get::<_, f64>(0);
    let about = |hours: f64, expected: f64| (hours - expected).abs() < 0.1;
    let set = async |columns: &str| {
        sql.batch_execute("DELETE FROM auth_sessions").await.unwrap();
        let client = acme.log_in("ada@example.com").await;
        assert!(about(left().await, 12.0));
        sql.batch_execute(&format!("UPDATE auth_sessions SET {columns}")).await.unwrap();
        client
    };
    let hour = "now() + interval '1 hour'";
    let client = set(&format!("expires_at = {hour}, last_used_at = now() - interval '31 minutes'")).await;
    assert_eq!(status(&client).await, 200);
    assert!(about(left().await, 12.0), "{}", left().await);
    let client = set(&format!("expires_at = {hour}, last_used_at = now() - interval '29 minutes'")).await;
    assert_eq!(status(&client).await, 200);
    assert!(about(left().await, 1.0), "that is not written down each time: {}", left().await);
    let old = format!(
        "expires_at = {hour}, last_used_at = now() - interval '1 hour', created_at = now() - interval '29 days 21 hours'"
    );
    let client = set(&old).await;
    assert_eq!(status(&client).await, 200);
    assert!(about(left().await, 3.0), "{}", left().await);
    let client = set("expires_at = now()").await;
    soon("it has expired", async || (status(&client).await == 401).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_changes_their_password_by_giving_the_old_one() {
    let (app, acme, ada) = with_ada("viewer").await;
    let (mine, other) = (acme.log_in("ada@example.com").await, acme.log_in("ada@example.com").await);
    assert_eq!(status(&other).await, 200);
    let change = async |current: &str, new: &str| {
        mine.post("/v1/auth/password", &json!({ "current_password": current, "new_password": new })).await
    };
    for (current, new, field) in [
        ("wrong, as it is", "a new one of mine", "current_password"),
        (PASSWORD, "too short", "new_password"),
        (PASSWORD, &"x".repeat(129), "new_password"),
        ("", "a new one of mine", "current_password"),
    ] {
        let reply = change(current, new).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{current} {new}");
        assert_eq!(reply.json()["fields"][0]["field"], field, "{current} {new}");
    }
    assert_eq!((status(&other).await, status(&mine).await), (200, 200));
    assert_eq!(change(PASSWORD, "a new one of mine").await.status, 204);
    assert_eq!((status(&other).await, status(&mine).await), (401, 200));
    assert_eq!(acme.try_log_in("ada@example.com", PASSWORD).await.status, 401);
    assert_eq!(acme.try_log_in("ada@example.com", "a new one of mine").await.status, 200);
    assert_eq!(audited(&app, "user.password").await, [format!("user.password user {ada} {ada}")]);
    // Nor can it be guessed here.
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(change("wrong, as it is", "yet another of mine").await.status);
    }
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
}
