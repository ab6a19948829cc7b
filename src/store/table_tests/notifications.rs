//! What is told of, and what is not.

use tokio::time::timeout;

use super::{PATIENCE, TestDatabase, insert_chunks};
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
    let mut tx = db.store.service_tx().await.unwrap();
    let (tenant_id, secret_sha256) = (ctx.tenant_id, &[1; 32]);
    let key = NewApiKey { tenant_id, public_id: "aa", secret_sha256, name: "", scopes: &[], expires_at: None };
    api_keys::insert(&mut tx, &key).await.unwrap();
    tx.commit().await.unwrap();
    let told = |public_id: &str| Notification::ApiKey { public_id: public_id.into() };
    assert_eq!(heard(&mut listener).await, told("aa"));
    let service = db.connect("tertulia_svc").await;
    service.batch_execute("UPDATE api_keys SET last_used_at = now(), name = 'x'").await.unwrap();
    service.batch_execute("UPDATE api_keys SET public_id = 'bb'").await.unwrap();
    assert_eq!([heard(&mut listener).await, heard(&mut listener).await], [told("aa"), told("bb")]);
    let mut tx = db.store.service_tx().await.unwrap();
    assert!(api_keys::revoke(&mut tx, "bb").await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(heard(&mut listener).await, told("bb"));
    service.batch_execute("DELETE FROM api_keys").await.unwrap();
    assert_eq!(heard(&mut listener).await, told("bb"));
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
