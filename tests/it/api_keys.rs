//! API keys over HTTP and by the command line: shown once, no more than their maker may, rotated with an overlap, revoked.

use serde_json::{Value, json};
use tertulia::ctx::Scope;

use crate::harness::{
    Client, TestApp,
    binary::{command, outcome_of},
    connect, soon,
};

fn path(key: &Value) -> String {
    format!("/v1/api-keys/{}", key["id"].as_str().unwrap())
}

/// By a route that looks at nothing but what the server remembers of a key.
async fn holds(client: &Client) -> bool {
    client.get("/v1/knowledge-bases").await.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_shows_its_text_once_and_is_revoked_at_every_server() {
    let app = TestApp::start().await;
    let second = TestApp::start_on(app.database.clone(), &[]).await;
    let acme = app.tenant("acme").await;
    let draft =
        json!({ "name": "ci", "scopes": ["knowledge:read", "sessions:read"], "expires_at": "2999-01-01T00:00:00Z" });
    let created = acme.client.post("/v1/api-keys", &draft).await;
    assert_eq!((created.status, created.header("cache-control")), (201, Some("no-store")), "{created:?}");
    let mut key = created.json();
    let text = key.as_object_mut().unwrap().remove("key").unwrap();
    let text = text.as_str().unwrap();
    assert_eq!(&text[..19], format!("tt_{}", key["public_id"].as_str().unwrap()));
    assert_eq!(
        (&key["name"], &key["scopes"], &key["expires_at"]),
        (&draft["name"], &draft["scopes"], &draft["expires_at"])
    );
    assert_eq!(acme.client.get(&path(&key)).await.json(), key);
    let list = acme.client.get("/v1/api-keys").await.json();
    assert_eq!((list["total"].as_u64(), &list["items"][0]), (Some(2), &key));
    let next = acme.client.get("/v1/api-keys?limit=1").await.json();
    let next = format!("/v1/api-keys?limit=1&cursor={}", next["next_cursor"].as_str().unwrap());
    assert_eq!(acme.client.get(&next).await.json()["items"][0]["public_id"], acme.key_id.as_str());

    let here = acme.client.with_key(text);
    let there = here.at(&second.client());
    assert!(holds(&here).await && holds(&there).await);
    assert!(acme.client.get(&path(&key)).await.json()["last_used_at"].is_string());
    assert_eq!(here.get("/v1/knowledge-bases").await.status, 200);
    assert_eq!(here.get("/v1/widgets").await.status, 403);
    for _ in 0..2 {
        assert_eq!(acme.client.delete(&path(&key)).await.status, 204);
        assert!(!holds(&here).await, "at once where it was done");
    }
    soon("the second server refuses it", async || (!holds(&there).await).then_some(())).await;
    assert!(acme.client.get(&path(&key)).await.json()["revoked_at"].is_string());
    let sql = connect(&app.database.owner_url()).await;
    let entries = "SELECT concat_ws(' ', action, actor_kind, coalesce(before, after)->>'name') FROM audit_log
        WHERE resource_id = $1::text::uuid ORDER BY created_at, id";
    let entries = sql.query(entries, &[&key["id"].as_str().unwrap()]).await.unwrap();
    let entries: Vec<String> = entries.iter().map(|row| row.get(0)).collect();
    assert_eq!(entries, ["api_key.create api_key ci", "api_key.revoke api_key ci"]);
    let rows = "SELECT string_agg(k::text, ' ') || (SELECT string_agg(a::text, ' ') FROM audit_log a) FROM api_keys k";
    let rows: String = sql.query_one(rows, &[]).await.unwrap().get(0);
    assert!(!rows.contains(&text[20..]), "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_key_that_may_more_than_they() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let maker = app.key_with(&acme, &[Scope::KeysWrite, Scope::KnowledgeRead]).await;
    let draft = |scopes: &[&str]| json!({ "scopes": scopes });
    let key = maker.post("/v1/api-keys", &draft(&["knowledge:read", "knowledge:read"])).await;
    assert_eq!((key.status, &key.json()["scopes"]), (201, &json!(["knowledge:read"])));
    let reply = maker.post("/v1/api-keys", &draft(&["knowledge:read", "knowledge:write", "keys:read"])).await;
    assert_eq!((reply.status, reply.problem().as_str()), (403, "forbidden"));
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("knowledge:write, keys:read") && !detail.contains("knowledge:read"), "{detail}");
    let stronger = acme.client.post("/v1/api-keys", &draft(&["widgets:read"])).await.json();
    let rotated = maker.post(&format!("{}/rotate", path(&stronger)), &json!({})).await;
    assert_eq!((rotated.status, rotated.problem().as_str()), (403, "forbidden"), "nor another's in its place");

    for email in ["owner", "admin"] {
        acme.user(&format!("{email}@example.com"), email).await;
        let client = acme.log_in(&format!("{email}@example.com")).await;
        let status = client.post("/v1/api-keys", &draft(&["users:write"])).await.status;
        assert_eq!(status, if email == "owner" { 201 } else { 403 }, "{email}");
        assert_eq!(client.get("/v1/api-keys").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_fit_up_to_their_limits() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let most = json!({ "name": "ü".repeat(200), "scopes": Scope::ALL.map(Scope::as_str) });
    let key = acme.client.post("/v1/api-keys", &most).await;
    assert_eq!(key.status, 201, "{key:?}");
    for (field, draft) in [
        ("name", json!({ "name": "ü".repeat(201), "scopes": ["keys:read"] })),
        ("name", json!({ "name": "", "scopes": ["keys:read"] })),
        ("scopes", json!({ "scopes": [] })),
        ("scopes[1]", json!({ "scopes": ["keys:read", "keys:*"] })),
        ("expires_at", json!({ "scopes": ["keys:read"], "expires_at": "2020-01-01T00:00:00Z" })),
        ("expires_at", json!({ "scopes": ["keys:read"], "expires_at": "tomorrow" })),
        ("public_id", json!({ "scopes": ["keys:read"], "public_id": "aa" })),
    ] {
        let reply = acme.client.post("/v1/api-keys", &draft).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{draft}");
        assert_eq!(reply.json()["fields"][0]["field"], field, "{draft}");
    }
    let rotate = format!("{}/rotate", path(&key.json()));
    for (field, draft) in [
        ("overlap_seconds", json!({ "overlap_seconds": 2_592_001 })),
        ("overlap_seconds", json!({ "overlap_seconds": -1 })),
        ("expires_at", json!({ "expires_at": "2020-01-01T00:00:00Z" })),
    ] {
        let reply = acme.client.post(&rotate, &draft).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{draft}");
        assert_eq!(reply.json()["fields"][0]["field"], field, "{draft}");
    }
    assert_eq!(acme.client.post(&rotate, &json!({ "overlap_seconds": 2_592_000 })).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_with_an_overlap() {
    let app = TestApp::start().await;
    let second = TestApp::start_on(app.database.clone(), &[]).await;
    let acme = app.tenant("acme").await;
    let sql = connect(&app.database.owner_url()).await;
    let create = async |draft: &Value| acme.client.post("/v1/api-keys", draft).await.json();
    let rotate = async |key: &Value, draft: &Value| acme.client.post(&format!("{}/rotate", path(key)), draft).await;
    let client = |key: &Value| acme.client.with_key(key["key"].as_str().unwrap());
    let hours_left = async |key: &Value| {
        let left =
            "SELECT extract(epoch FROM expires_at - now())::float8 / 3600 FROM api_keys WHERE id = $1::text::uuid";
        let id = key["id"].as_str().unwrap();
        sql.query_one(left, &[&id]).await.unwrap().get::<_, Option<f64>>(0)
    };
    let about = |hours: Option<f64>, expected: f64| hours.is_some_and(|hours| (hours - expected).abs() < 0.1);

    let old = create(&json!({ "name": "ci", "scopes": ["knowledge:read"] })).await;
    assert!(holds(&client(&old)).await && holds(&client(&old).at(&second.client())).await);
    let new = rotate(&old, &json!({ "overlap_seconds": 7200 })).await;
    assert_eq!(new.status, 201, "{new:?}");
    let new = new.json();
    assert_eq!((&new["name"], &new["scopes"], &new["replaces_id"]), (&old["name"], &old["scopes"], &old["id"]));
    assert!(new["expires_at"].is_null() && new["key"] != old["key"]);
    assert!(holds(&client(&old)).await && holds(&client(&new)).await, "both hold");
    assert!(about(hours_left(&old).await, 2.0));
    let again = rotate(&old, &json!({})).await;
    assert_eq!((again.status, again.problem().as_str()), (409, "conflict"), "a key is replaced once");
    assert!(about(hours_left(&old).await, 2.0), "and that does not make it last longer");

    let last = "9999-12-31T23:59:59.999999Z";
    let lasting = create(&json!({ "name": "ci", "scopes": ["knowledge:read"], "expires_at": last })).await;
    assert_eq!(rotate(&lasting, &json!({})).await.json()["expires_at"], last, "there is no later time");

    let newest = rotate(&new, &json!({ "overlap_seconds": 0, "expires_at": "2999-01-01T00:00:00Z" })).await.json();
    assert_eq!(newest["expires_at"], "2999-01-01T00:00:00Z");
    assert!(!holds(&client(&new)).await && holds(&client(&newest)).await, "without an overlap it ends at once");
    let ended = rotate(&new, &json!({})).await;
    assert_eq!((ended.status, ended.problem().as_str()), (409, "conflict"), "it holds no more");
    assert_eq!(acme.client.delete(&path(&newest)).await.status, 204);
    let revoked = rotate(&newest, &json!({})).await;
    assert_eq!((revoked.status, revoked.problem().as_str()), (409, "conflict"), "it was revoked");

    // One with an expiry is followed by one that lasts as long as it did, and does not itself last longer.
    let dated = create(&json!({ "scopes": ["knowledge:read"], "expires_at": "2999-01-01T00:00:00Z" })).await;
    let shorten = "UPDATE api_keys SET created_at = now() - interval '9 hours', expires_at = now() + interval '1 hour'
        WHERE id = $1::text::uuid";
    sql.execute(shorten, &[&dated["id"].as_str().unwrap()]).await.unwrap();
    let next = rotate(&dated, &json!({})).await.json();
    assert!(about(hours_left(&next).await, 10.0) && about(hours_left(&dated).await, 1.0));

    // The old key's end is known to the other server too.
    let used = client(&dated).at(&second.client());
    assert!(holds(&used).await);
    let replaced = create(&json!({ "scopes": ["knowledge:read"] })).await;
    let there = client(&replaced).at(&second.client());
    assert!(holds(&there).await);
    assert_eq!(rotate(&replaced, &json!({ "overlap_seconds": 0 })).await.status, 201);
    soon("the second server refuses it", async || (!holds(&there).await).then_some(())).await;
    let entries = sql.query("SELECT 1 FROM audit_log WHERE action = 'api_key.rotate'", &[]).await.unwrap();
    assert_eq!(entries.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_and_revokes_the_same_keys() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let run = async |arguments: &'static [&'static str], more: Option<String>| {
        let mut command = command(arguments);
        command
            .args(more)
            .env("DATABASE_URL", app.database.user_url())
            .env("TERTULIA_DATABASE_SERVICE_URL", app.database.service_url())
            .env("TERTULIA_DATABASE_DIRECT_URL", app.database.owner_url());
        tokio::task::spawn_blocking(move || outcome_of(command)).await.unwrap()
    };
    let create = &[
        "key",
        "create",
        "--tenant",
        "acme",
        "--name",
        "ci",
        "--scope",
        "keys:read",
        "--scope",
        "users:read",
        "--json",
    ];
    let made = run(create, None).await.json();
    assert_eq!(made["scopes"], json!(["users:read", "keys:read"]));
    let client = acme.client.with_key(made["key"].as_str().unwrap());
    assert_eq!(client.get("/v1/users").await.status, 200);
    let listed = run(&["key", "list", "--tenant", "acme", "--json"], None).await.json();
    assert_eq!(
        (listed.as_array().unwrap().len(), &listed[0]["id"], &listed[0]["name"]),
        (2, &made["id"], &json!("ci"))
    );
    let public_id = made["id"].as_str().unwrap().to_owned();
    let revoked = run(&["key", "revoke"], Some(public_id.clone())).await;
    assert_eq!((revoked.code, revoked.stdout), (0, format!("Revoked {public_id}.\n")));
    soon("the server refuses it", async || (client.get("/v1/users").await.status == 401).then_some(())).await;
    let again = run(&["key", "revoke"], Some(public_id)).await;
    assert!(again.code != 0 && again.stderr.contains("no key with the id"), "{again:?}");
    let entries = "SELECT string_agg(action, ' ' ORDER BY created_at, id) FROM audit_log
        WHERE actor_kind = 'operator' AND actor_id IS NULL AND coalesce(before, after)->>'name' = 'ci'";
    let entries: String = connect(&app.database.owner_url()).await.query_one(entries, &[]).await.unwrap().get(0);
    assert_eq!(entries, "api_key.create api_key.revoke");
}
