//! Pages by offset and by cursor, keys and tenants.

use time::{Duration, OffsetDateTime};

use super::{TestDatabase, value};
use crate::{
    ctx::ApiKeyId,
    store::{
        StoreError,
        api_keys::{self, NewApiKey},
        chunks, documents, knowledge_bases,
        page::{PageRequest, Start},
        tenants,
    },
};
use tertulia_index::Analyzer;

fn offset(limit: u64, offset: u64) -> PageRequest {
    PageRequest { limit, start: Start::Offset(offset) }
}

fn after(limit: u64, cursor: &str) -> PageRequest {
    PageRequest { limit, start: Start::after_cursor(cursor).expect("it was given") }
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_walk_through_a_list_as_offsets_do() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    for name in ["b", "B", "ä", "a/2", "a/10", "z"] {
        db.put(&ctx, &base, name, 2).await;
    }
    let by_bytes = ["B", "a/10", "a/2", "b", "z", "ä"];
    let mut tx = db.tx(&ctx).await;
    let names = |rows: &[documents::DocumentRow]| rows.iter().map(|row| row.external_id.clone()).collect::<Vec<_>>();
    let first = documents::list(&mut tx, base.id, &offset(4, 0)).await.unwrap();
    assert_eq!((names(&first.items), first.total), (by_bytes[..4].iter().map(|s| (*s).to_owned()).collect(), Some(6)));
    assert!(first.items.iter().all(|row| row.chunk_count == 2 && row.content_sha256 == [7; 32]));
    let next = documents::list(&mut tx, base.id, &after(4, &first.next_cursor.unwrap())).await.unwrap();
    assert_eq!((names(&next.items), next.total, &next.next_cursor), (vec!["z".into(), "ä".into()], None, &None));
    let second = documents::list(&mut tx, base.id, &offset(4, 4)).await.unwrap();
    assert_eq!(names(&second.items), names(&next.items));
    let past_the_end = documents::list(&mut tx, base.id, &offset(4, 50)).await.unwrap();
    assert_eq!((past_the_end.items.len(), past_the_end.total), (0, Some(6)));

    let document = db.put(&ctx, &base, "long", 7).await;
    let ordinals = |rows: &[chunks::ChunkRow]| rows.iter().map(|row| row.ordinal).collect::<Vec<_>>();
    let first = chunks::list(&mut tx, document.id, &offset(5, 0)).await.unwrap();
    assert_eq!((ordinals(&first.items), first.total), (vec![0, 1, 2, 3, 4], Some(7)));
    assert_eq!((first.items[1].content.as_str(), first.items[1].heading.as_str()), ("text 1", "Part"));
    let cursor = first.next_cursor.unwrap();
    let next = chunks::list(&mut tx, document.id, &after(5, &cursor)).await.unwrap();
    assert_eq!(ordinals(&next.items), [5, 6]);
    let foreign = documents::list(&mut tx, base.id, &after(5, &cursor)).await;
    assert!(matches!(foreign, Err(StoreError::ForeignCursor)));
    // It was found out before anything was asked, so the transaction goes on.
    assert!(documents::find_by_external_id(&mut tx, base.id, "long").await.unwrap().is_some());
    assert!(documents::find_by_external_id(&mut tx, base.id, "LONG").await.unwrap().is_none());
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn knowledge_bases_come_newest_first() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    // Of one transaction, so of one time: then the id decides.
    let mut tx = db.tx(&ctx).await;
    for name in ["one", "two", "three"] {
        knowledge_bases::insert(&mut tx, name, Analyzer::English, "test-3", 3).await.unwrap();
    }
    tx.commit().await.unwrap();
    db.base(&ctx, "four").await;
    let mut tx = db.tx(&ctx).await;
    let names = |page: &crate::store::page::Page<knowledge_bases::KnowledgeBaseRow>| {
        page.items.iter().map(|row| row.name.clone()).collect::<Vec<_>>()
    };
    let first = knowledge_bases::list(&mut tx, &offset(2, 0)).await.unwrap();
    assert_eq!((names(&first), first.total), (vec!["four".into(), "three".into()], Some(4)));
    let next = knowledge_bases::list(&mut tx, &after(2, first.next_cursor.as_deref().unwrap())).await.unwrap();
    assert_eq!(names(&next), ["two", "one"]);
    assert_eq!(next.next_cursor, None);
    let taken = knowledge_bases::insert(&mut tx, "one", Analyzer::English, "test-3", 3).await.unwrap_err();
    assert!(taken.is_unique_violation(), "{taken}");
    assert_eq!(crate::error::Error::from(taken).meaning().status, 409);
    drop(tx);
    let mut tx = db.tx(&ctx).await;
    assert!(knowledge_bases::insert(&mut tx, "no dimensions", Analyzer::English, "test-0", 0).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_listed_of_what_is_there() {
    let db = TestDatabase::create().await;
    let (acme, rival) = (db.tenant("acme").await, db.tenant("rival").await);
    let (mine, theirs) = (db.base(&acme, "docs").await, db.base(&rival, "docs").await);
    db.put(&acme, &mine, "a", 1).await;
    let wanted = [
        (acme.tenant_id, mine.id),
        (rival.tenant_id, theirs.id),
        (acme.tenant_id, theirs.id),
        (acme.tenant_id, crate::ctx::KnowledgeBaseId::new()),
    ];
    let versions = db.store.list_versions(&wanted).await.unwrap();
    assert_eq!(versions, [(wanted[0], 1), (wanted[1], 0)].into());
    assert!(db.store.list_versions(&[]).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_keys_are_found_by_their_names() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    db.tenant("aaa").await;
    let mut tx = db.store.service_tx().await.unwrap();
    assert_eq!(tenants::insert(&mut tx, "acme", "pro").await.unwrap(), None, "the name is taken");
    let slugs: Vec<_> = tenants::list(&mut tx).await.unwrap().into_iter().map(|row| row.slug).collect();
    assert_eq!(slugs, ["aaa", "acme"]);
    let found = tenants::find_by_slug(&mut tx, "acme").await.unwrap().unwrap();
    assert_eq!((found.id, found.tier.as_str()), (ctx.tenant_id, "free"));
    assert_eq!(tenants::find_by_slug(&mut tx, "none").await.unwrap(), None);
    tx.commit().await.unwrap();
    let mut tx = db.tx(&ctx).await;
    let expires_at = OffsetDateTime::now_utc() + Duration::days(1);
    for (public_id, expires_at) in [("aa", None), ("bb", Some(expires_at))] {
        let key = NewApiKey { public_id, secret_sha256: &[9; 32], name: "ci", scopes: &["knowledge:read"], expires_at };
        api_keys::insert(&mut tx, &key).await.unwrap();
    }
    assert_eq!(api_keys::list(&mut tx, &offset(9, 0)).await.unwrap().total, Some(2));
    tx.commit().await.unwrap();

    let find_with = async |public_id, secret| {
        let minute = std::time::Duration::from_secs(60);
        api_keys::find_by_public_id(&db.store, public_id, secret, minute).await.unwrap()
    };
    let find = async |public_id| find_with(public_id, &[9; 32]).await;
    let wrong = find_with("bb", &[8; 32]).await.unwrap();
    let mut tx = db.tx(&ctx).await;
    let unused = api_keys::find(&mut tx, wrong.id).await.unwrap().unwrap().last_used_at;
    assert_eq!(unused, None, "somebody had its public id only");
    tx.commit().await.unwrap();
    let found = find("bb").await.unwrap();
    assert_eq!(
        (found.tenant_id, found.secret_sha256, found.tier.as_str(), found.scopes),
        (ctx.tenant_id, [9; 32], "free", vec!["knowledge:read".into()])
    );
    assert!(found.expires_at.is_some_and(|at| (at - expires_at).abs() < Duration::milliseconds(1)));
    assert_ne!(found.id, ApiKeyId::new());
    let mut tx = db.tx(&ctx).await;
    let first = api_keys::find(&mut tx, found.id).await.unwrap().unwrap().last_used_at;
    assert!(first.is_some(), "it was used");
    assert!(find("bb").await.is_some());
    let second = api_keys::find(&mut tx, found.id).await.unwrap().unwrap().last_used_at;
    assert_eq!(second, first, "that is not noted each time");
    assert_eq!(api_keys::find_id(&db.store, "bb").await.unwrap(), Some((ctx.tenant_id, found.id)));
    assert!(api_keys::revoke(&mut tx, found.id).await.unwrap());
    assert!(!api_keys::revoke(&mut tx, found.id).await.unwrap(), "it holds no more");
    assert!(api_keys::list(&mut tx, &offset(9, 0)).await.unwrap().items.iter().any(|row| row.revoked_at.is_some()));
    tx.commit().await.unwrap();
    assert_eq!(find("bb").await, None);
    assert_eq!(api_keys::find_id(&db.store, "bb").await.unwrap(), None);
    assert_eq!(find("cc").await, None);

    let superuser = db.superuser().await;
    superuser.batch_execute("DELETE FROM tenants").await.unwrap();
    assert_eq!(value::<i64>(&superuser, "SELECT count(*) FROM api_keys").await, 0);
}
