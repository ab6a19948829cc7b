//! Tenancy: each route of the table, asked by everyone who must not be answered.

use serde_json::json;
use tertulia::{accounts::roles::Role, api, ctx::Scope};
use tokio_postgres::{SimpleQueryMessage, error::SqlState};

use crate::harness::{Client, PASSWORD, Tenant, TestApp, connect, external_ids};

/// What to put for each path parameter.
struct Ids {
    knowledge_base: String,
    session: String,
    message: String,
    widget: String,
    meeting: String,
    participant: String,
    user: String,
    api_key: String,
}

impl Ids {
    /// Of things that never were.
    fn never() -> Self {
        let id = || uuid::Uuid::now_v7().to_string();
        Self {
            knowledge_base: id(),
            session: id(),
            message: id(),
            widget: id(),
            meeting: id(),
            participant: id(),
            user: id(),
            api_key: id(),
        }
    }

    fn fill(&self, pattern: &str) -> String {
        pattern
            .replace("{knowledge_base_id}", &self.knowledge_base)
            .replace("{document}", "a")
            .replace("{generation_id}", &self.knowledge_base)
            .replace("{session_id}", &self.session)
            .replace("{message_id}", &self.message)
            .replace("{widget_id}", &self.widget)
            .replace("{meeting_id}", &self.meeting)
            .replace("{participant_id}", &self.participant)
            .replace("{user_id}", &self.user)
            .replace("{api_key_id}", &self.api_key)
    }
}

fn body(method: &str, pattern: &str) -> serde_json::Value {
    match (method, pattern) {
        ("POST", "/v1/knowledge-bases") => json!({ "name": "another" }),
        ("POST", pattern) if pattern.ends_with("/search") => json!({ "query": "secret" }),
        ("POST", pattern) if pattern.ends_with("/rotate-secret") => json!({ "secret": "signing" }),
        ("POST", pattern) if ["/warm", "/end", "/logout", "/refresh"].iter().any(|deed| pattern.ends_with(deed)) => {
            serde_json::Value::Null
        }
        ("POST", "/v1/auth/password") => json!({ "current_password": PASSWORD, "new_password": "of an intruder" }),
        ("POST", "/v1/users") => json!({ "email": "intruder@example.com", "role": "owner" }),
        ("POST", "/v1/api-keys") => json!({ "scopes": ["knowledge:read"] }),
        ("POST", pattern) if pattern.ends_with("/rotate") => json!({}),
        ("POST", "/v1/widgets") => json!({ "name": "another" }),
        ("POST", "/v1/meetings") => json!({ "title": "another" }),
        ("POST", pattern) if pattern.ends_with("/participants") => json!({ "name": "intruder" }),
        ("PATCH", "/v1/meetings/{meeting_id}") => json!({ "title": "overwritten" }),
        ("PATCH", pattern) if !pattern.contains("/sessions") => json!({ "name": "overwritten" }),
        ("POST", "/v1/sessions") => json!({}),
        ("POST", pattern) if pattern.ends_with("/messages") => json!({ "role": "user", "content": "intruding" }),
        ("PATCH", "/v1/sessions/{session_id}") => json!({ "visitor_name": "overwritten" }),
        ("POST", pattern) if pattern.ends_with("/generations") => json!({ "encoder": "static" }),
        ("POST", pattern) => by_filter(pattern),
        _ => json!({ "content": "overwritten" }),
    }
}

/// What the routes by filter take; harmless to the owner, since no document has the key.
fn by_filter(pattern: &str) -> serde_json::Value {
    let filter = json!({ "type": "exists", "key": "secret" });
    if pattern.ends_with("/patch-documents") {
        json!({ "filter": filter, "metadata": { "secret": true } })
    } else {
        json!({ "filter": filter })
    }
}

/// A visitor of a new widget, and their session.
async fn enter(acme: &Tenant) -> (Client, String) {
    let draft = json!({ "name": "site", "allowed_origins": ["https://example.com"] });
    let widget = acme.client.post("/v1/widgets", &draft).await.json();
    let path = format!("/v1/widgets/{}/visitors", widget["id"].as_str().unwrap());
    let request = acme.client.without_key().request(hyper::Method::POST, &path).header("origin", "https://example.com");
    let body = json!({ "embed_key": widget["embed_key"] }).to_string();
    let reply = acme.client.send(request.body(http_body_util::Full::new(body.into())).unwrap()).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let visitor = reply.json();
    let client = acme.client.with_key(visitor["token"].as_str().unwrap());
    (client, visitor["session"]["id"].as_str().unwrap().to_owned())
}

/// Tokens of `acme`'s people that hold no more, each for another reason.
async fn spent_tokens(app: &TestApp, acme: &Tenant) -> Vec<String> {
    acme.user("gone@example.com", "owner").await;
    let [expired, ended, removed] = [
        acme.log_in("ada@example.com").await,
        acme.log_in("ada@example.com").await,
        acme.log_in("gone@example.com").await,
    ];
    assert_eq!(ended.post_nothing("/v1/auth/logout").await.status, 204);
    let me = removed.get("/v1/auth/me").await.json();
    assert_eq!(acme.client.delete(&format!("/v1/users/{}", me["id"].as_str().unwrap())).await.status, 204);
    let expire =
        "UPDATE auth_sessions SET expires_at = now() - interval '1 s' WHERE token_sha256 = sha256($1::text::bytea)";
    let secret = expired.key().strip_prefix("tl_").unwrap().to_owned();
    assert_eq!(connect(&app.database.owner_url()).await.execute(expire, &[&secret]).await.unwrap(), 1);
    [expired, ended, removed].iter().map(|client| client.key().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_answers_a_stranger() {
    let app = TestApp::start().await;
    let (acme, stranger) = (app.tenant("acme").await, app.tenant("stranger").await);
    let id = acme.knowledge_base("manual").await;
    let version = acme.put_text(&id, "a", "The secret is swordfish.").await;
    acme.until_in_memory(&id, version).await;
    let session = acme.session(&json!({ "visitor_name": "Grace" })).await;
    let message = acme.say(&session, "The secret is marlin.").await;
    let message_id = message["id"].as_str().unwrap().to_owned();
    let widget = acme.created("/v1/widgets", &json!({ "name": "site" })).await;
    let meeting = acme.created("/v1/meetings", &json!({ "title": "weekly" })).await;
    let participants = format!("/v1/meetings/{meeting}/participants");
    let participant = acme.created(&participants, &json!({ "name": "Grace" })).await;
    let user = acme.user("ada@example.com", "owner").await;
    acme.user("vera@example.com", "viewer").await;
    stranger.user("ada@example.com", "owner").await;
    let (viewer, strange_owner) = (acme.log_in("vera@example.com").await, stranger.log_in("ada@example.com").await);
    let api_key = acme.created("/v1/api-keys", &json!({ "scopes": ["knowledge:read"] })).await;
    let ids = Ids {
        knowledge_base: id.clone(),
        session: session.clone(),
        message: message_id,
        widget: widget.clone(),
        meeting: meeting.clone(),
        participant,
        user: user.clone(),
        api_key: api_key.clone(),
    };
    let never = Ids::never();
    let [visitor, other_visitor] = [enter(&acme).await, enter(&acme).await];
    let of_visitor = Ids { session: visitor.1.clone(), ..Ids::never() };
    let forged = format!("{}0", &"tt_0123456789abcdef_0123456789abcdef0123456789abcdef0123456789abcdef"[..67]);
    let forged_token = format!("tl_{}", "0123456789abcdef".repeat(4));
    let mut refused = vec!["nonsense".to_owned(), forged, forged_token];
    refused.extend(spent_tokens(&app, &acme).await);
    let mut asked = 0;
    for route in api::ROUTES.iter().filter(|route| route.wants_caller()) {
        let (method, pattern) = (route.method.as_str(), route.pattern);
        let verb: hyper::Method = method.parse().unwrap();
        let path = ids.fill(pattern);
        let text = body(method, pattern).to_string();

        let refused = refused.iter().map(|token| app.client().with_key(token));
        for client in refused.chain([app.client()]) {
            let reply = client.send_bytes(verb.clone(), &path, "application/json", text.clone()).await;
            assert_eq!((reply.status, reply.problem().as_str()), (401, "unauthenticated"), "{method} {pattern}");
        }
        if let Some(needed) = route.scope() {
            let wrong = Scope::ALL.into_iter().filter(|scope| *scope != needed).collect::<Vec<_>>();
            let mut short = vec![app.key_with(&acme, &wrong).await];
            short.extend((!Role::Viewer.scopes().has(needed)).then(|| viewer.clone()));
            for client in short {
                let reply = client.send_bytes(verb.clone(), &path, "application/json", text.clone()).await;
                assert_eq!((reply.status, reply.problem().as_str()), (403, "forbidden"), "{method} {pattern}");
            }
        }

        // A visitor has their session; another's is as one that never was, and nothing else opens.
        for ids in [&ids, &of_visitor, &never] {
            let path = ids.fill(pattern);
            let reply = other_visitor.0.send_bytes(verb.clone(), &path, "application/json", text.clone()).await;
            let expected = if route.visitor { (404, "not_found") } else { (403, "forbidden") };
            assert_eq!((reply.status, reply.problem().as_str()), expected, "{method} {path}");
        }
        if !route.visitor {
            let path = of_visitor.fill(pattern);
            let reply = visitor.0.send_bytes(verb.clone(), &path, "application/json", text.clone()).await;
            assert_eq!((reply.status, reply.problem().as_str()), (403, "forbidden"), "{method} {path}");
        }

        if pattern.contains('{') {
            // Another tenant's is answered by the same bytes as one that never was, but for the request's id.
            let nobodys = never.fill(pattern);
            for client in [&stranger.client, &strange_owner] {
                let theirs = client.send_bytes(verb.clone(), &path, "application/json", text.clone()).await;
                let nobodys = client.send_bytes(verb.clone(), &nobodys, "application/json", text.clone()).await;
                let strip = |reply: &crate::harness::Reply| {
                    let mut problem = reply.json();
                    problem.as_object_mut().unwrap().remove("request_id");
                    problem
                };
                assert_eq!(theirs.status, 404, "{method} {pattern}: {theirs:?}");
                assert_eq!(strip(&theirs), strip(&nobodys), "{method} {pattern}");
            }
        }
        asked += 1;
    }
    assert!(asked >= 10, "only {asked} routes were asked");
    let answer = acme.search(&id, &json!({ "query": "secret" })).await;
    assert_eq!(external_ids(&answer), ["a"]);
    assert_eq!(answer["results"][0]["content"], "The secret is swordfish.");
    let found = acme.client.get("/v1/messages/search?q=secret").await.json();
    assert_eq!(found["items"], json!([message]));
    let head = acme.client.get(&format!("/v1/sessions/{session}")).await.json();
    assert_eq!((head["visitor_name"].as_str(), head["last_seq"].as_u64()), (Some("Grace"), Some(1)));
    assert!(head["ended_at"].is_null());
    assert_eq!(acme.client.get(&format!("/v1/widgets/{widget}")).await.json()["name"], "site");
    let head = acme.client.get(&format!("/v1/meetings/{meeting}")).await.json();
    assert!(head["title"] == "weekly" && head["ended_at"].is_null());
    let people = acme.client.get(&participants).await.json();
    assert_eq!((people["total"].as_u64(), people["items"][0]["name"].as_str()), (Some(1), Some("Grace")));
    assert!(acme.client.get(&format!("/v1/api-keys/{api_key}")).await.json()["revoked_at"].is_null());
    let ada = acme.client.get(&format!("/v1/users/{user}")).await.json();
    assert_eq!((ada["role"].as_str(), ada["name"].as_str()), (Some("owner"), Some("")));
    assert_eq!(acme.log_in("ada@example.com").await.get("/v1/auth/me").await.json()["id"], user.as_str());
    for list in ["/v1/knowledge-bases", "/v1/widgets", "/v1/meetings", "/v1/sessions", "/v1/messages/search?q=secret"] {
        let list = stranger.client.get(list).await.json();
        assert_eq!(list["items"].as_array().unwrap().len(), 0);
    }
    for list in ["/v1/users", "/v1/api-keys"] {
        let own = strange_owner.get(list).await.json();
        assert_eq!(own["total"], 1, "{own}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_at_once() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    assert_eq!(acme.client.get("/v1/knowledge-bases").await.status, 200);
    let sql = connect(&app.database.owner_url()).await;
    let revoke = format!("UPDATE api_keys SET revoked_at = now() WHERE public_id = '{}'", acme.key_id);
    sql.execute(&revoke, &[]).await.unwrap();
    crate::harness::until("the key is refused", async || {
        (acme.client.get("/v1/knowledge-bases").await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_refused() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let sql = connect(&app.database.owner_url()).await;
    let expire = format!("UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE public_id = '{}'", acme.key_id);
    sql.execute(&expire, &[]).await.unwrap();
    crate::harness::until("the key is refused", async || {
        (acme.client.get("/v1/knowledge-bases").await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_role_sees_and_writes_only_its_tenant() {
    let app = TestApp::start().await;
    let (acme, other) = (app.tenant("acme").await, app.tenant("other").await);
    let id = acme.knowledge_base("manual").await;
    acme.put_text(&id, "a", "Mine.").await;
    acme.put_text(&id, "gone", "Mine too.").await;
    assert_eq!(acme.client.delete(&format!("/v1/knowledge-bases/{id}/documents/gone")).await.status, 200);
    let others = include_str!("../../src/store/sql/test/one_of_each.sql").replace("$TENANT", &acme.id.to_string());
    connect(&app.database.owner_url()).await.batch_execute(&others).await.unwrap();
    let sql = connect(&app.database.direct_user_url()).await;
    let as_tenant =
        |tenant: &crate::harness::Tenant| format!("SELECT set_config('tertulia.tenant_id', '{}', true)", tenant.id);
    let tables = "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                  WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace AND a.attname = 'tenant_id'
                  ORDER BY c.relname";
    let tables: Vec<String> = sql.query(tables, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(tables.iter().any(|name| name == "knowledge_chunks"), "{tables:?}");
    // Rows of the statement, besides set_config's own; none also where the role has no right to the table at all.
    let rows_of = async |tenant: &crate::harness::Tenant, statement: &str| {
        let script = format!("BEGIN; {}; {statement}; ROLLBACK", as_tenant(tenant));
        let outcome = sql.simple_query(&script).await;
        let rows = match outcome {
            Ok(messages) => messages.iter().filter(|it| matches!(it, SimpleQueryMessage::Row(_))).count() - 1,
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => 0,
            Err(error) => panic!("{statement}: {error:?}"),
        };
        sql.batch_execute("ROLLBACK").await.unwrap();
        rows
    };
    let mut shown = Vec::new();
    for table in &tables {
        let nobody = sql.simple_query(&format!("SELECT 1 FROM {table}")).await;
        match nobody {
            Ok(rows) => {
                assert!(!rows.iter().any(|it| matches!(it, SimpleQueryMessage::Row(_))), "{table} without tenant")
            }
            Err(error) => assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{table}: {error:?}"),
        }
        let select = format!("SELECT 1 FROM {table} WHERE tenant_id = '{}'", acme.id);
        let delete = format!("DELETE FROM {table} WHERE tenant_id = '{}' RETURNING 1", acme.id);
        assert_eq!(rows_of(&other, &select).await, 0, "{table} shows another tenant's rows");
        assert_eq!(rows_of(&other, &delete).await, 0, "{table} lets another tenant's rows be deleted");
        // The same as the tenant itself: that the statement finds rows where it may is what makes the above worth something.
        if rows_of(&acme, &select).await > 0 {
            shown.push(table.as_str());
        }
    }
    shown.sort_unstable();
    assert_eq!(shown, tables, "a tenant sees its own rows of each table");
    let documents = format!("DELETE FROM documents WHERE tenant_id = '{}' RETURNING 1", acme.id);
    assert_eq!(rows_of(&acme, &documents).await, 1, "a tenant may delete its own");
    let steal = format!(
        "BEGIN; {}; INSERT INTO knowledge_bases (tenant_id, name) VALUES ('{}', 'theirs'); COMMIT",
        as_tenant(&other),
        acme.id
    );
    let error = sql.batch_execute(&steal).await.expect_err("a row was written for another tenant");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_role_that_can_bypass_row_security_is_refused() {
    let app = TestApp::start().await;
    let config = tertulia::config::Config::load(
        |name| match name {
            "DATABASE_URL" => Some(app.database.owner_url()),
            "TERTULIA_DATABASE_SERVICE_URL" => Some(app.database.service_url()),
            _ => None,
        },
        None,
    )
    .unwrap()
    .database;
    let connections = tertulia::store::Connections::from_config(&config, None).unwrap();
    let outcome = tertulia::store::Store::connect(&connections, &config, &tokio::runtime::Handle::current()).await;
    let told = format!("{:#}", anyhow::Error::new(outcome.err().expect("the owner was taken for a user role")));
    assert!(told.contains("row security"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_role_outside_its_group_is_told_so() {
    let app = TestApp::start().await;
    let sql = connect(&app.database.owner_url()).await;
    let role = format!("loner_of_{}", app.database.name());
    sql.batch_execute(&format!("CREATE ROLE {role} LOGIN")).await.unwrap();
    let config = tertulia::config::Config::load(
        |name| match name {
            "DATABASE_URL" => Some(app.database.user_url()),
            "TERTULIA_DATABASE_SERVICE_URL" => Some(app.database.direct_user_url().replace("tertulia_user", &role)),
            _ => None,
        },
        None,
    );
    let connections = tertulia::store::Connections::from_config(&config.unwrap().database, None).unwrap();
    let outcome = tertulia::store::check_schema(&connections.service).await;
    let told = format!("{:#}", anyhow::Error::new(outcome.expect_err("it may read nothing")));
    assert!(told.contains("GRANT tertulia_service") && told.contains(&role), "{told}");
}
