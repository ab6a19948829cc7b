//! People: created, changed, deleted; nobody gives more than they have, and a tenant that has owners keeps one.

use serde_json::{Value, json};

use crate::harness::{Client, PASSWORD, Reply, Tenant, TestApp, connect};

async fn with_owner() -> (TestApp, Tenant, Client, String) {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.user("ada@example.com", "owner").await;
    let owner = acme.log_in("ada@example.com").await;
    (app, acme, owner, id)
}

fn path(id: &str) -> String {
    format!("/v1/users/{id}")
}

fn check(reply: &Reply, status: u16, code: &str, what: &str) {
    assert_eq!((reply.status, reply.problem().as_str()), (status, code), "{what}: {reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_created_read_changed_and_deleted() {
    let (app, acme, owner, ada) = with_owner().await;
    let draft = json!({ "email": "Grace.Hopper@Example.COM", "name": "Grace", "role": "agent", "password": PASSWORD });
    let created = owner.post("/v1/users", &draft).await;
    assert_eq!(created.status, 201, "{created:?}");
    let created = created.json();
    assert_eq!(
        (created["email"].as_str(), created["role"].as_str()),
        (Some("grace.hopper@example.com"), Some("agent"))
    );
    assert!(!created.to_string().contains("password"), "{created}");
    let id = created["id"].as_str().unwrap();
    assert_eq!(owner.get(&path(id)).await.json(), created);
    let list = owner.get("/v1/users").await.json();
    assert_eq!((list["total"].as_u64(), &list["items"][0], &list["items"][1]["id"]), (Some(2), &created, &json!(ada)));
    let first = owner.get("/v1/users?limit=1").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = owner.get(&format!("/v1/users?limit=1&cursor={cursor}")).await.json();
    assert_eq!((&second["items"][0]["id"], &second["next_cursor"]), (&json!(ada), &Value::Null));

    let taken = owner.post("/v1/users", &json!({ "email": "grace.hopper@EXAMPLE.com", "role": "viewer" })).await;
    check(&taken, 409, "conflict", "the address is taken");
    let other = app.tenant("other").await;
    assert_eq!(other.client.post("/v1/users", &draft).await.status, 201, "not in another tenant");

    let patched = owner.patch(&path(id), &json!({ "name": "Rear Admiral", "role": "admin" })).await.json();
    assert_eq!((patched["name"].as_str(), patched["role"].as_str()), (Some("Rear Admiral"), Some("admin")));
    assert!(patched["updated_at"].as_str() > created["updated_at"].as_str());
    assert_eq!(owner.patch(&path(id), &json!({ "password": "another password" })).await.status, 200);
    assert_eq!(acme.try_log_in("grace.hopper@example.com", PASSWORD).await.status, 401);
    assert_eq!(acme.try_log_in("grace.hopper@example.com", "another password").await.status, 200);

    assert_eq!(owner.delete(&path(id)).await.status, 204);
    for reply in [
        owner.get(&path(id)).await,
        owner.delete(&path(id)).await,
        owner.patch(&path(id), &json!({ "name": "x" })).await,
    ] {
        check(&reply, 404, "not_found", "it is gone");
    }
    let sql = connect(&app.database.owner_url()).await;
    let entries = "SELECT concat_ws(' ', action, actor_kind, before->>'role', after->>'role', after->>'password')
        FROM audit_log WHERE resource_id = $1::text::uuid AND actor_id = $2::text::uuid ORDER BY created_at, id";
    let entries = sql.query(entries, &[&id, &ada]).await.unwrap();
    let entries: Vec<String> = entries.iter().map(|row| row.get(0)).collect();
    let expected = [
        "user.create user agent",
        "user.update user agent admin",
        "user.update user admin admin another one",
        "user.delete user admin",
    ];
    assert_eq!(entries, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_fit_up_to_their_limits() {
    let (_app, acme, _, _) = with_owner().await;
    let longest = format!("{}@example.com", "a".repeat(242));
    let most = json!({ "email": longest, "name": "ü".repeat(200), "role": "viewer", "password": "ü".repeat(128) });
    let id = acme.created("/v1/users", &most).await;
    for (field, value) in [
        ("email", json!(format!("a{longest}"))),
        ("email", json!("nobody")),
        ("email", json!("a b@c")),
        ("email", json!("")),
        ("name", json!("")),
        ("name", json!("ü".repeat(201))),
        ("role", json!("Owner")),
        ("password", json!("x".repeat(11))),
        ("password", json!("x".repeat(129))),
        ("disabled_at", Value::Null),
    ] {
        let mut draft = json!({ "email": "new@example.com", "role": "viewer" });
        draft[field] = value.clone();
        let reply = acme.client.post("/v1/users", &draft).await;
        check(&reply, 400, "invalid", &draft.to_string());
        assert_eq!(reply.json()["fields"][0]["field"], field, "{draft}");
        let reply = acme.client.patch(&path(&id), &json!({ field: value })).await;
        check(&reply, 400, "invalid", field);
    }
    check(&acme.client.patch(&path(&id), &json!({})).await, 400, "invalid", "an empty patch");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_or_takes_more_than_they_have() {
    let (app, acme, owner, ada) = with_owner().await;
    let admin_id = acme.user("admin@example.com", "admin").await;
    let agent_id = acme.user("agent@example.com", "agent").await;
    let (admin, agent) = (acme.log_in("admin@example.com").await, acme.log_in("agent@example.com").await);
    let draft = |email: &str, role: &str| json!({ "email": email, "role": role });
    check(&admin.post("/v1/users", &draft("o@b", "owner")).await, 403, "forbidden", "an admin makes no owner");
    check(&admin.patch(&path(&admin_id), &json!({ "role": "owner" })).await, 403, "forbidden", "not of oneself either");
    check(&admin.patch(&path(&agent_id), &json!({ "role": "owner" })).await, 403, "forbidden", "nor of somebody");
    for patch in [json!({ "password": "of the intruder" }), json!({ "role": "viewer" }), json!({ "name": "x" })] {
        check(&admin.patch(&path(&ada), &patch).await, 403, "forbidden", "an owner is not an admin's to change");
    }
    check(&admin.delete(&path(&ada)).await, 403, "forbidden", "nor to delete");
    check(&agent.post("/v1/users", &draft("v@b", "viewer")).await, 403, "forbidden", "an agent makes nobody");
    check(&agent.delete(&path(&agent_id)).await, 403, "forbidden", "nor deletes anybody");
    let key = app.key_with(&acme, &[tertulia::ctx::Scope::UsersWrite]).await;
    check(&key.post("/v1/users", &draft("v@b", "viewer")).await, 403, "forbidden", "a viewer reads more than this key");

    assert_eq!(admin.post("/v1/users", &draft("admin2@example.com", "admin")).await.status, 201);
    assert_eq!(admin.patch(&path(&agent_id), &json!({ "role": "admin" })).await.status, 200);
    let own = admin.patch(&path(&admin_id), &json!({ "password": "without the old" })).await;
    check(&own, 400, "invalid", "one's own password takes the old one");
    assert_eq!(own.json()["fields"][0]["field"], "password");
    assert_eq!(acme.try_log_in("ada@example.com", PASSWORD).await.status, 200);
    assert_eq!(owner.delete(&path(&admin_id)).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_stays_one() {
    let (_app, acme, owner, ada) = with_owner().await;
    for reply in [
        owner.delete(&path(&ada)).await,
        owner.patch(&path(&ada), &json!({ "role": "admin" })).await,
        acme.client.delete(&path(&ada)).await,
    ] {
        check(&reply, 409, "conflict", "the last one");
    }
    assert_eq!(owner.patch(&path(&ada), &json!({ "role": "owner", "name": "Ada" })).await.status, 200);
    // Of two who go at once, each because the other stays, one has to stay.
    let mut ids = vec![ada];
    for round in 0..5 {
        ids.push(acme.user(&format!("owner{round}@example.com"), "owner").await);
        let (first, second) = (path(&ids[0]), path(&ids[1]));
        let demotion = json!({ "role": "viewer" });
        let outcomes = match round % 2 {
            0 => tokio::join!(acme.client.delete(&first), acme.client.delete(&second)),
            _ => tokio::join!(acme.client.patch(&first, &demotion), acme.client.delete(&second)),
        };
        let mut statuses = [outcomes.0.status, outcomes.1.status];
        let kept = usize::from(statuses[0] != 409);
        ids = vec![ids.swap_remove(kept)];
        statuses.sort_unstable();
        assert!(statuses[0] < 300 && statuses[1] == 409, "round {round}: {statuses:?}");
    }
    let owners = acme.client.get("/v1/users").await.json();
    let owners = owners["items"].as_array().unwrap().iter().filter(|user| user["role"] == "owner").count();
    assert_eq!(owners, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_does_carries_their_name() {
    let (app, acme, owner, ada) = with_owner().await;
    let session = acme.session(&json!({})).await;
    let messages = format!("/v1/sessions/{session}/messages");
    let posted = owner.post(&messages, &json!({ "role": "agent", "content": "Hello.", "client_id": "c" })).await.json();
    assert_eq!(posted["user_id"], ada.as_str());
    let message = format!("{messages}/{}", posted["id"].as_str().unwrap());
    assert_eq!(owner.get(&message).await.json(), posted);
    assert!(acme.say(&session, "By a key.").await["user_id"].is_null());
    assert_eq!(owner.patch(&message, &json!({ "content": "Hello there." })).await.status, 200);

    let widget = owner.post("/v1/widgets", &json!({ "name": "site" })).await.json();
    let widget_path = format!("/v1/widgets/{}", widget["id"].as_str().unwrap());
    assert_eq!(owner.patch(&widget_path, &json!({ "is_disabled": true })).await.status, 200);
    assert_eq!(owner.delete(&widget_path).await.status, 204);
    let meeting = owner.post("/v1/meetings", &json!({ "title": "weekly" })).await.json();
    let meeting_path = format!("/v1/meetings/{}", meeting["id"].as_str().unwrap());
    assert_eq!(owner.patch(&meeting_path, &json!({ "title": "daily" })).await.status, 200);
    for _ in 0..2 {
        assert_eq!(owner.post_nothing(&format!("{meeting_path}/end")).await.status, 200);
    }
    assert_eq!(acme.client.delete(&meeting_path).await.status, 204);

    let sql = connect(&app.database.owner_url()).await;
    let entries = "SELECT concat_ws(' ', action, actor_kind, before->>'name', before->>'title', '->', after->>'name', after->>'title'),
            actor_id = $1::text::uuid, host(address), before::text || after::text
        FROM audit_log WHERE action ~ '^(message|widget|meeting)' ORDER BY created_at, id";
    let rows = sql.query(entries, &[&ada]).await.unwrap();
    let told: Vec<(String, bool)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let expected = [
        ("message.edit user ->", true),
        ("widget.create user -> site", true),
        ("widget.update user site -> site", true),
        ("widget.delete user site ->", true),
        ("meeting.create user -> weekly", true),
        ("meeting.update user weekly -> daily", true),
        ("meeting.end user daily -> daily", true),
        ("meeting.delete api_key daily ->", false),
    ];
    assert_eq!(told, expected.map(|(text, own)| (text.to_owned(), own)));
    assert_eq!(rows[1].get::<_, &str>(2), "127.0.0.1");
    let secret = widget["identity_secret"].as_str().unwrap();
    assert!(!rows.iter().any(|row| row.get::<_, Option<&str>>(3).is_some_and(|text| text.contains(secret))));

    let grace = acme.user("grace@example.com", "owner").await;
    assert_eq!(acme.client.delete(&path(&ada)).await.status, 204);
    assert!(acme.client.get(&message).await.json()["user_id"].is_null(), "what they wrote stays");
    assert_eq!(acme.client.get(&path(&grace)).await.status, 200);
}
