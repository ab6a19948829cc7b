//! Logins: none slips past a change of password, and those that have expired go, as answers that were kept do.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{TestDatabase, until_somebody_waits, value};
use crate::{
    ctx::{Ctx, UserId},
    store::{
        Store, StoreError,
        auth_sessions::{self, NewLogin},
        idempotency_keys::{self, NewClaim},
        users::{self, NewUser},
    },
};

const OLD: &str = "$argon2id$old";
const NEW: &str = "$argon2id$new";

async fn person(db: &TestDatabase, ctx: &Ctx) -> UserId {
    let mut tx = db.tx(ctx).await;
    let user = NewUser { email: "ada@example.com", name: "", role: "agent", password_hash: Some(OLD) };
    let id = users::insert(&mut tx, &user).await.unwrap().id;
    tx.commit().await.unwrap();
    id
}

/// Logs in with a password that was checked against the hash `checked`; false if that is too late.
async fn log_in(store: &Store, ctx: &Ctx, user_id: UserId, checked: &str, token: u8) -> Result<bool, StoreError> {
    let login = NewLogin {
        tenant_id: ctx.tenant_id,
        user_id,
        password_hash: checked,
        token_sha256: &[token; 32],
        idle: Duration::from_secs(3_600),
        user_agent: None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let mut tx = store.service_tx().await?;
    let made = auth_sessions::insert(&mut tx, &login).await?;
    tx.commit().await?;
    Ok(made.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_does_not_slip_past_a_change_of_password() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let id = person(&db, &ctx).await;
    let superuser = db.superuser().await;
    assert!(log_in(&db.store, &ctx, id, OLD, 1).await.unwrap());
    assert!(!log_in(&db.store, &ctx, id, NEW, 2).await.unwrap(), "that is not the password");

    // The password was checked; before the login is written, another one changes it and ends all logins.
    let mut tx = db.tx(&ctx).await;
    users::set_password(&mut tx, id, NEW).await.unwrap();
    auth_sessions::delete_of_user(&mut tx, ctx.tenant_id, id, None).await.unwrap();
    let (late, ()) = tokio::join!(log_in(&db.store, &ctx, id, OLD, 3), async {
        until_somebody_waits(&superuser).await;
        tx.commit().await.unwrap();
    });
    assert!(!late.unwrap(), "it came after the change");
    assert_eq!(value::<i64>(&superuser, "SELECT count(*) FROM auth_sessions").await, 0);

    // The other way round: the change waits for the login, and ends it.
    let login = NewLogin {
        tenant_id: ctx.tenant_id,
        user_id: id,
        password_hash: NEW,
        token_sha256: &[4; 32],
        idle: Duration::from_secs(3_600),
        user_agent: None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let mut early = db.store.service_tx().await.unwrap();
    assert!(auth_sessions::insert(&mut early, &login).await.unwrap().is_some());
    let change = async {
        let mut tx = db.store.service_tx().await.unwrap();
        assert!(users::change_password(&mut tx, ctx.tenant_id, id, NEW, OLD).await.unwrap());
        auth_sessions::delete_of_user(&mut tx, ctx.tenant_id, id, None).await.unwrap();
        tx.commit().await.unwrap();
    };
    tokio::join!(change, async {
        until_somebody_waits(&superuser).await;
        early.commit().await.unwrap();
    });
    assert_eq!(value::<i64>(&superuser, "SELECT count(*) FROM auth_sessions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_that_have_expired_are_pruned() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let id = person(&db, &ctx).await;
    let superuser = db.superuser().await;
    for token in 1..=3 {
        assert!(log_in(&db.store, &ctx, id, OLD, token).await.unwrap());
    }
    let expire = "UPDATE auth_sessions SET expires_at = now() WHERE get_byte(token_sha256, 0) < 3";
    superuser.batch_execute(expire).await.unwrap();
    let mut tx = db.store.service_tx().await.unwrap();
    assert!(!auth_sessions::prune(&mut tx).await.unwrap(), "there are no more");
    tx.commit().await.unwrap();
    let left = "SELECT string_agg(get_byte(token_sha256, 0)::text, ' ') FROM auth_sessions";
    assert_eq!(value::<String>(&superuser, left).await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_for_their_time() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let mut tx = db.tx(&ctx).await;
    for (key, kept) in [("old", Duration::ZERO), ("new", Duration::from_secs(60))] {
        let claim = NewClaim {
            caller: "",
            route: "POST /v1/sessions",
            key,
            request_sha256: &[7; 32],
            lease: Duration::ZERO,
            kept,
        };
        assert!(idempotency_keys::claim(&mut tx, &claim).await.unwrap().is_some());
    }
    tx.commit().await.unwrap();
    let mut tx = db.store.service_tx().await.unwrap();
    assert!(!idempotency_keys::prune(&mut tx).await.unwrap(), "there are no more");
    tx.commit().await.unwrap();
    let left = "SELECT string_agg(key, ' ') FROM idempotency_keys";
    assert_eq!(value::<String>(&db.superuser().await, left).await, "new");
}
