//! What is told of, and what is not.

use std::future::poll_fn;

use tokio::{sync::mpsc, time::timeout};
use tokio_postgres::AsyncMessage;

use super::{PATIENCE, TestDatabase, address, insert_chunks};
use crate::store::{
    api_keys::{self, NewApiKey},
    knowledge_bases,
    listen::{Listener, Notification},
};

async fn heard(listener: &mut Listener) -> Notification {
    timeout(PATIENCE, listener.next()).await.expect("something is told").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_transaction_that_changes_a_knowledge_base_is_told_once() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let mut listener = db.store.listen().await.unwrap();
    let told = |version| Notification::Knowledge { tenant_id: ctx.tenant_id, knowledge_base_id: base.id, version };
    let document = db.put(&ctx, &base, "a", 600).await;
    assert_eq!(heard(&mut listener).await, told(1));

    // Neither what is rolled back nor what changes no search is told, so the next thing heard is the one after.
    let client = db.begin(ctx.tenant_id).await;
    client.batch_execute(&insert_chunks(&ctx, &base, document.id, "700, 700")).await.unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    db.superuser().await.batch_execute("UPDATE knowledge_bases SET name = 'renamed'").await.unwrap();
    db.put(&ctx, &base, "b", 1).await;
    assert_eq!(heard(&mut listener).await, told(2));

    let mut tx = db.tx(&ctx).await;
    knowledge_bases::delete(&mut tx, base.id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(heard(&mut listener).await, told(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_is_told() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let mut listener = db.store.listen().await.unwrap();
    let mut tx = db.tx(&ctx).await;
    let key = NewApiKey { public_id: "aa", secret_sha256: &[1; 32], name: "", scopes: &[], expires_at: None };
    let id = api_keys::insert(&mut tx, &key).await.unwrap().id;
    tx.commit().await.unwrap();
    let told = |public_id: &str| Notification::ApiKey { public_id: public_id.into() };
    assert_eq!(heard(&mut listener).await, told("aa"));
    let service = db.connect("tertulia_svc").await;
    service.batch_execute("UPDATE api_keys SET last_used_at = now(), name = 'x'").await.unwrap();
    service.batch_execute("UPDATE api_keys SET public_id = 'bb'").await.unwrap();
    assert_eq!([heard(&mut listener).await, heard(&mut listener).await], [told("aa"), told("bb")]);
    let mut tx = db.tx(&ctx).await;
    assert!(api_keys::revoke(&mut tx, id).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(heard(&mut listener).await, told("bb"));
    service.batch_execute("DELETE FROM api_keys").await.unwrap();
    assert_eq!(heard(&mut listener).await, told("bb"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_or_whose_person_changes_is_told_and_so_is_a_tenant() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let cluster = db.cluster.cluster.as_ref().unwrap();
    let (client, mut connection) = address(cluster, &db.name, "tertulia_svc").connect().await.unwrap();
    let (sender, mut told) = mpsc::unbounded_channel();
    #[expect(clippy::disallowed_methods, reason = "the test's runtime ends it")]
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(message) = message {
                let _ = sender.send(format!("{} {}", message.channel(), message.payload()));
            }
        }
    });
    client.batch_execute("LISTEN tertulia_auth_sessions; LISTEN tertulia_tenants").await.unwrap();
    let tenant = ctx.tenant_id;
    let sql = format!(
        "INSERT INTO users (tenant_id, email, role) VALUES ('{tenant}', 'ada@acme.test', 'agent');
         INSERT INTO auth_sessions (tenant_id, user_id, token_sha256, expires_at)
         SELECT '{tenant}', id, decode(repeat(login, 32), 'hex'), now() FROM users, unnest('{{aa,bb}}'::text[]) AS login"
    );
    client.batch_execute(&sql).await.unwrap();
    let (aa, bb) =
        (format!("tertulia_auth_sessions {}", "aa".repeat(32)), format!("tertulia_auth_sessions {}", "bb".repeat(32)));
    for (sql, expected) in [
        // Nobody has to hear of use, so the next line is what is heard.
        ("UPDATE auth_sessions SET last_used_at = now(), expires_at = now() + interval '1 hour'", vec![]),
        ("UPDATE users SET role = 'viewer'", vec![&aa, &bb]),
        ("UPDATE users SET updated_at = now()", vec![]),
        ("DELETE FROM auth_sessions WHERE token_sha256 = decode(repeat('aa', 32), 'hex')", vec![&aa]),
        ("UPDATE auth_sessions SET expires_at = now()", vec![&bb]),
        ("UPDATE tenants SET tier = tier", vec![]),
        ("UPDATE tenants SET tier = 'pro'", vec![&format!("tertulia_tenants {tenant}")]),
        ("DELETE FROM users", vec![&bb]),
        ("DELETE FROM tenants", vec![&format!("tertulia_tenants {tenant}")]),
    ] {
        client.batch_execute(sql).await.unwrap();
        let mut heard = Vec::new();
        for _ in &expected {
            heard.push(timeout(PATIENCE, told.recv()).await.expect("it is told").unwrap());
        }
        heard.sort();
        assert_eq!(heard.iter().collect::<Vec<_>>(), expected, "{sql}");
    }
    assert!(told.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_connection_is_cut_says_so() {
    let db = TestDatabase::create().await;
    let mut listener = db.store.listen().await.unwrap();
    let superuser = db.superuser().await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()";
    assert_eq!(superuser.execute(cut, &[]).await.unwrap(), 1);
    let error = timeout(PATIENCE, listener.next()).await.expect("it is noticed").unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(db.store.listen().await.is_ok());
}
