//! Versions: taken once per transaction, committed in order, stamped on all that a search would find differently.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tokio::{runtime::Handle, task::JoinSet};
use uuid::Uuid;

use super::{TestDatabase, begin, chunk, document, insert_chunks, refusal, until_somebody_waits, value};
use crate::{
    ctx::DocumentId,
    store::{StoreError, changes::Change, chunks, documents, knowledge_bases, page},
};

const FIRST_PAGE: page::PageRequest = page::PageRequest { limit: 100, start: page::Start::Offset(0) };

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_takes_one_version_for_all_it_writes() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    assert_eq!(base.version, 0);
    let first = db.put(&ctx, &base, "a", 700).await;
    assert_eq!(first.version, 1, "two statements of chunks, one version");
    assert_eq!(db.put(&ctx, &base, "b", 2).await.version, 2);

    let client = db.begin(ctx.tenant_id).await;
    client.batch_execute(&insert_chunks(&ctx, &base, first.id, "700, 702")).await.unwrap();
    client
        .batch_execute("UPDATE knowledge_chunks SET version = 99, content = 'new' WHERE ordinal = 701")
        .await
        .unwrap();
    client.batch_execute("DELETE FROM knowledge_chunks WHERE ordinal = 700").await.unwrap();
    client.batch_execute("UPDATE knowledge_bases SET version = 50").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let now = db.look(&ctx, &base).await;
    assert_eq!((now.version, now.document_count, now.chunk_count), (3, 2, 704));
    let (deletions, upserts) = db.changes(&ctx, &base, 2).await;
    assert_eq!((deletions.len(), upserts.len()), (1, 2));
    assert_eq!(db.changes(&ctx, &base, 3).await, (vec![], vec![]));
    assert_eq!(db.changes(&ctx, &base, 0).await.1.len(), 704);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_taken_in_the_order_of_commits() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let document = db.put(&ctx, &base, "a", 1).await;
    let superuser = db.superuser().await;
    for (end, place, steps) in [("COMMIT", 10, [1, 2]), ("ROLLBACK", 20, [1, 1])] {
        let before = db.look(&ctx, &base).await.version as i64;
        let early = db.begin(ctx.tenant_id).await;
        let insert = |place: i32| insert_chunks(&ctx, &base, document.id, &format!("{place}, {place}"));
        let taken = |place: i32| format!("SELECT version FROM knowledge_chunks WHERE ordinal = {place}");
        early.batch_execute(&insert(place)).await.unwrap();
        let first: i64 = value(&early, &taken(place)).await;
        let late = db.begin(ctx.tenant_id).await;
        let (insert, taken) = (insert(place + 1), taken(place + 1));
        let writing = Handle::current().spawn(async move {
            late.batch_execute(&insert).await.unwrap();
            let second: i64 = value(&late, &taken).await;
            late.batch_execute("COMMIT").await.unwrap();
            second
        });
        until_somebody_waits(&superuser).await;
        early.batch_execute(end).await.unwrap();
        assert_eq!([first, writing.await.unwrap()], steps.map(|step| before + step), "after {end}");
    }
    // A version that is written by hand is a step like any other.
    superuser.batch_execute("UPDATE knowledge_bases SET version = 0").await.unwrap();
    assert_eq!(db.look(&ctx, &base).await.version, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_that_is_rolled_back_gives_its_version_back() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let document = db.put(&ctx, &base, "a", 1).await;
    let one = db.begin(ctx.tenant_id).await;
    one.batch_execute("SAVEPOINT s").await.unwrap();
    one.batch_execute(&insert_chunks(&ctx, &base, document.id, "10, 11")).await.unwrap();
    one.batch_execute("ROLLBACK TO SAVEPOINT s").await.unwrap();
    // Its lock went with it, so another writer gets the version first.
    assert_eq!(db.put(&ctx, &base, "b", 1).await.version, 2);
    one.batch_execute(&insert_chunks(&ctx, &base, document.id, "20, 20")).await.unwrap();
    one.batch_execute("SAVEPOINT t").await.unwrap();
    one.batch_execute(&insert_chunks(&ctx, &base, document.id, "30, 30")).await.unwrap();
    one.batch_execute("ROLLBACK TO SAVEPOINT t").await.unwrap();
    one.batch_execute(&insert_chunks(&ctx, &base, document.id, "40, 40")).await.unwrap();
    one.batch_execute("COMMIT").await.unwrap();
    let now = db.look(&ctx, &base).await;
    assert_eq!((now.version, now.chunk_count), (3, 4));
    assert_eq!(db.changes(&ctx, &base, 2).await.1.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_shows_differently_stamps_its_chunks() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let document = db.put(&ctx, &base, "a", 3).await;
    db.put(&ctx, &base, "b", 1).await;
    let client = db.connect("tertulia_svc").await;
    let mut version = 2;
    for change in ["title = 'Zebra'", "source_url = 'http://a'", "metadata = '{\"x\": 1}'", "external_id = 'c'"] {
        let sql = format!("UPDATE documents SET {change} WHERE id = '{}'", document.id);
        client.batch_execute(&sql).await.unwrap();
        assert_eq!(db.changes(&ctx, &base, version).await.1.len(), 3, "{change}");
        version += 1;
        assert_eq!(db.look(&ctx, &base).await.version, version, "{change}");
    }
    let words = "SELECT count(*) FROM knowledge_chunks WHERE words @@ 'zebra' AND words @@ 'text' AND words @@ 'part'";
    assert_eq!(value::<i64>(&client, words).await, 3, "the new title is found");
    // What no search shows moves nothing.
    client.batch_execute("UPDATE documents SET updated_at = now(), mime_type = 'a/b', title = title").await.unwrap();
    assert_eq!(db.look(&ctx, &base).await.version, version);
    let forged = "UPDATE knowledge_chunks SET words = 'forged' WHERE ordinal = 0";
    client.batch_execute(forged).await.unwrap();
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM knowledge_chunks WHERE words @@ 'forged'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_added_while_the_title_changes_is_not_left_behind() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let document = db.put(&ctx, &base, "a", 1).await;
    let adding = db.begin(ctx.tenant_id).await;
    adding.batch_execute(&insert_chunks(&ctx, &base, document.id, "1, 1")).await.unwrap();
    let renaming = db.begin(ctx.tenant_id).await;
    let renamed = Handle::current().spawn(async move {
        renaming.batch_execute("UPDATE documents SET title = 'Zebra'").await.unwrap();
        renaming.batch_execute("COMMIT").await.unwrap();
    });
    until_somebody_waits(&db.superuser().await).await;
    adding.batch_execute("COMMIT").await.unwrap();
    renamed.await.unwrap();
    assert_eq!(db.look(&ctx, &base).await.version, 3);
    assert_eq!(db.changes(&ctx, &base, 2).await.1.len(), 2, "both show the new title");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_locks_in_the_order_of_a_replacement() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let document = db.put(&ctx, &base, "a", 1).await;
    let replacing = db.begin(ctx.tenant_id).await;
    replacing.batch_execute("UPDATE knowledge_bases SET version = version + 1").await.unwrap();
    let mut tx = db.tx(&ctx).await;
    let deleting = Handle::current().spawn(async move {
        let version = documents::delete(&mut tx, base.id, document.id).await?;
        tx.commit().await.map(|()| version)
    });
    until_somebody_waits(&db.superuser().await).await;
    replacing.batch_execute("UPDATE documents SET title = 'Zebra'; COMMIT").await.unwrap();
    assert_eq!(deleting.await.unwrap().unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_logged_whoever_deletes() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let a = db.put(&ctx, &base, "a", 3).await;
    let b = db.put(&ctx, &base, "b", 2).await;
    let kept = db.put(&ctx, &base, "c", 1).await;

    let mut tx = db.tx(&ctx).await;
    let version = documents::delete(&mut tx, base.id, a.id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(version, 4);
    assert_eq!(db.changes(&ctx, &base, 3).await.0.len(), 3, "by cascade");

    assert_eq!(db.put(&ctx, &base, "b", 1).await, documents::Replaced { id: b.id, version: 5 });
    let (deletions, upserts) = db.changes(&ctx, &base, 4).await;
    assert_eq!((deletions.len(), upserts.len()), (2, 1), "by replacing");
    let present: BTreeSet<Uuid> = db.changes(&ctx, &base, 0).await.1.into_iter().collect();
    assert!(deletions.iter().all(|id| !present.contains(id)));

    // Deleted, inserted and deleted again under one version.
    let client = db.begin(ctx.tenant_id).await;
    let again = "DELETE FROM knowledge_chunks WHERE content = 'again'";
    let id = Uuid::now_v7();
    let insert = format!(
        "INSERT INTO knowledge_chunks
             (tenant_id, knowledge_base_id, generation_id, document_id, id, ordinal, content, embedding)
         VALUES ('{}', '{}', '{}', '{}', '{id}', 50, 'again', '[1,2,3]')",
        ctx.tenant_id, base.id, base.generation_id, kept.id
    );
    for sql in [insert.as_str(), again, &insert, again, &insert, "COMMIT"] {
        client.batch_execute(sql).await.unwrap();
    }
    assert_eq!(db.changes(&ctx, &base, 5).await, (vec![id], vec![id]));

    let mut tx = db.tx(&ctx).await;
    assert!(knowledge_bases::delete(&mut tx, base.id).await.unwrap());
    tx.commit().await.unwrap();
    assert!(db.store.changes(ctx.tenant_id, base.id).await.unwrap().is_none());
    let superuser = db.superuser().await;
    for table in ["knowledge_chunks", "documents", "embedding_generations", "chunk_deletions"] {
        assert_eq!(value::<i64>(&superuser, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    let mut tx = db.tx(&ctx).await;
    assert!(!knowledge_bases::delete(&mut tx, base.id).await.unwrap());
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_and_upserts_are_stamped_too() {
    use futures_util::SinkExt as _;
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let document = db.put(&ctx, &base, "a", 1).await;
    // Postgres has no COPY FROM under row security, so this is how a restore writes.
    let superuser = db.superuser().await;
    let copy = "COPY knowledge_chunks (tenant_id, knowledge_base_id, generation_id, document_id, ordinal, content, embedding) FROM STDIN";
    let mut sink = Box::pin(superuser.copy_in::<_, bytes::Bytes>(copy).await.unwrap());
    let line = |ordinal| {
        let (tenant_id, generation_id) = (ctx.tenant_id, base.generation_id);
        format!("{tenant_id}\t{}\t{generation_id}\t{}\t{ordinal}\tcopied\t[1,2,3]\n", base.id, document.id)
    };
    sink.send((1..=5).map(line).collect::<String>().into()).await.unwrap();
    assert_eq!(sink.as_mut().finish().await.unwrap(), 5);
    let now = db.look(&ctx, &base).await;
    assert_eq!((now.version, now.chunk_count), (2, 6));
    assert_eq!(db.changes(&ctx, &base, 1).await.1.len(), 5);

    let client = db.begin(ctx.tenant_id).await;
    let sql = format!(
        "{} ON CONFLICT (tenant_id, document_id, generation_id, ordinal) DO UPDATE SET content = excluded.content",
        insert_chunks(&ctx, &base, document.id, "4, 7")
    );
    client.batch_execute(&sql).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let now = db.look(&ctx, &base).await;
    assert_eq!((now.version, now.chunk_count), (3, 8));
    assert_eq!(db.changes(&ctx, &base, 2).await.1.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_go_unnoticed_is_refused() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let other = db.base(&ctx, "other").await;
    let document = db.put(&ctx, &base, "a", 1).await;
    let superuser = db.superuser().await;
    let restricted = [
        "TRUNCATE knowledge_chunks".to_owned(),
        "TRUNCATE tenants CASCADE".to_owned(),
        "TRUNCATE chunk_deletions".to_owned(),
        "UPDATE knowledge_chunks SET id = gen_random_uuid()".to_owned(),
        format!("UPDATE knowledge_chunks SET knowledge_base_id = '{}'", other.id),
        format!("UPDATE documents SET knowledge_base_id = '{}'", other.id),
        "UPDATE documents SET id = gen_random_uuid()".to_owned(),
        "UPDATE knowledge_bases SET id = gen_random_uuid()".to_owned(),
    ];
    for sql in restricted {
        assert_eq!(refusal(&superuser, &sql).await, "23001", "{sql}");
    }
    let insert = insert_chunks(&ctx, &base, document.id, "1, 1");
    for (sql, code) in [
        (insert.replace("[1,2,3]", "[1,2]"), "23514"),
        (insert.replace("[1,2,3]", "[0,0,0]"), "23514"),
        (insert.replace(&base.id.to_string(), &other.id.to_string()), "23503"),
        (insert.replace(&base.id.to_string(), &Uuid::nil().to_string()), "23503"),
        (insert.replace(&base.generation_id.to_string(), &other.generation_id.to_string()), "23503"),
        (format!("UPDATE documents SET metadata = '{}'", json!([1])), "23514"),
        ("UPDATE documents SET metadata = '{\"a\": [{\"b\": 1e400}]}'".to_owned(), "23514"),
        (format!("UPDATE documents SET metadata = '{{\"a\": {}1{}}}'", "[".repeat(80), "]".repeat(80)), "23514"),
        (format!("UPDATE documents SET external_id = '{}'", "x".repeat(1_025)), "23514"),
    ] {
        assert_eq!(refusal(&superuser, &sql).await, code, "{sql}");
    }
    let now = db.look(&ctx, &base).await;
    assert_eq!((now.version, now.chunk_count, now.document_count), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn switching_the_generation_is_a_version() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let document_id = db.put(&ctx, &base, "a", 2).await.id;
    let client = db.begin(ctx.tenant_id).await;
    let generation_id = Uuid::now_v7();
    client
        .batch_execute(&format!(
            "INSERT INTO embedding_generations (tenant_id, knowledge_base_id, id, encoder, dimensions)
             VALUES ('{}', '{}', '{generation_id}', 'other', 2)",
            ctx.tenant_id, base.id
        ))
        .await
        .unwrap();
    let insert = insert_chunks(&ctx, &base, document_id, "0, 2").replace("[1,2,3]", "[1,2]");
    client.batch_execute(&insert.replace(&base.generation_id.to_string(), &generation_id.to_string())).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let building = db.look(&ctx, &base).await;
    assert_eq!((building.version, building.chunk_count), (2, 2));
    assert_eq!(db.changes(&ctx, &base, 1).await, (vec![], vec![]), "not visible before the switch");

    begin(&client, ctx.tenant_id).await;
    client.batch_execute(&format!("UPDATE knowledge_bases SET generation_id = '{generation_id}'")).await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    let now = db.look(&ctx, &base).await;
    assert_eq!((now.version, now.chunk_count, now.dimensions, now.encoder.as_str()), (3, 3, 2, "other"));
    let head = db.store.changes(ctx.tenant_id, base.id).await.unwrap().unwrap().head().clone();
    assert_eq!((head.version, head.generation_id, head.chunk_count), (3, generation_id, 3));
    assert_eq!(db.changes(&ctx, &now, 0).await.1.len(), 3);
    let mut tx = db.tx(&ctx).await;
    assert_eq!(chunks::list(&mut tx, document_id, &FIRST_PAGE).await.unwrap().items.len(), 3);
    assert_eq!(documents::find(&mut tx, base.id, document_id).await.unwrap().unwrap().chunk_count, 3);
    let late = documents::replace(&mut tx, base.id, base.generation_id, &document("b"), &[]).await;
    assert!(matches!(late, Err(StoreError::GenerationSwitched)));
    drop(tx);
    // The old one may go, the active one may not.
    let superuser = db.superuser().await;
    let delete = "DELETE FROM embedding_generations WHERE encoder";
    superuser.batch_execute(&format!("{delete} = 'test-3'")).await.unwrap();
    assert_eq!(refusal(&superuser, &format!("{delete} = 'other'")).await, "23503");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_puts_of_a_document_come_one_after_the_other() {
    let db = std::sync::Arc::new(TestDatabase::create().await);
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let mut writers = JoinSet::new();
    for writer in 0..6_u32 {
        let (db, ctx, base) = (db.clone(), ctx.clone(), base.clone());
        writers.spawn(async move { (db.put(&ctx, &base, "same", writer + 1).await, writer + 1) });
    }
    let written = writers.join_all().await;
    let ids: BTreeSet<DocumentId> = written.iter().map(|(replaced, _)| replaced.id).collect();
    let versions: BTreeSet<u64> = written.iter().map(|(replaced, _)| replaced.version).collect();
    assert_eq!((ids.len(), versions), (1, (1..=6).collect()));
    let (_, last_chunks) = written.iter().max_by_key(|(replaced, _)| replaced.version).unwrap();
    let now = db.look(&ctx, &base).await;
    assert_eq!((now.document_count, now.chunk_count), (1, u64::from(*last_chunks)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knowledge_base_that_went_meanwhile_is_told() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let mut tx = db.tx(&ctx).await;
    knowledge_bases::delete(&mut tx, base.id).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.tx(&ctx).await;
    let outcome = documents::replace(&mut tx, base.id, base.generation_id, &document("a"), &[chunk(0, "x")]).await;
    assert!(matches!(outcome, Err(StoreError::Gone { what: "knowledge base" })));
    let outcome = documents::delete(&mut tx, base.id, DocumentId::new()).await;
    assert!(matches!(outcome, Err(StoreError::Gone { .. })));
}

/// Writers of every kind, some of which think better of it, and a reader that follows by versions alone: at every look it
/// has exactly what Postgres has at that version.
#[tokio::test(flavor = "multi_thread")]
async fn who_follows_the_versions_misses_nothing() {
    let db = std::sync::Arc::new(TestDatabase::create().await);
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    let superuser = db.superuser().await;
    let impatient = format!("ALTER DATABASE {} SET deadlock_timeout = '10ms'", db.name);
    superuser.batch_execute(&impatient).await.unwrap();
    let mut documents = Vec::new();
    for name in ["a", "b", "c"] {
        documents.push(db.put(&ctx, &base, name, 4).await.id);
    }
    let mut writers = JoinSet::new();
    for writer in 1..=4_u64 {
        let (db, ctx, base, documents) = (db.clone(), ctx.clone(), base.clone(), documents.clone());
        writers.spawn(async move {
            let client = db.connect("tertulia_user").await;
            let mut seed = writer;
            let mut random = move |below: u64| {
                // Knuth's MMIX generator; its high bits are good enough here.
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) % below
            };
            for turn in 0..25 {
                begin(&client, ctx.tenant_id).await;
                for step in 0..=random(3) {
                    let document = documents[random(3) as usize];
                    let place = 1_000 * writer + 10 * turn + step;
                    let sql = match random(5) {
                        0 | 1 => insert_chunks(&ctx, &base, document, &format!("{place}, {place}")),
                        2 => format!(
                            "UPDATE knowledge_chunks SET content = content || '.' WHERE ordinal % 7 = {}",
                            random(7)
                        ),
                        3 => format!("DELETE FROM knowledge_chunks WHERE ordinal % 11 = {}", random(11)),
                        _ => format!("UPDATE documents SET title = 'T{place}' WHERE id = '{document}'"),
                    };
                    client.batch_execute("SAVEPOINT s").await.unwrap();
                    // Two that wait for each other's rows are told so, and the loser goes on from its savepoint.
                    if client.batch_execute(&sql).await.is_err() || random(4) == 0 {
                        client.batch_execute("ROLLBACK TO SAVEPOINT s").await.unwrap();
                    }
                }
                client.batch_execute(if random(4) == 0 { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
            }
        });
    }
    let mut held: BTreeMap<Uuid, (String, String)> = BTreeMap::new();
    let mut version = 0;
    let mut is_last = false;
    loop {
        let mut changes = db.store.changes(ctx.tenant_id, base.id).await.unwrap().unwrap();
        let head = changes.head().clone();
        assert!(head.version >= version);
        changes.read_from(version).await.unwrap();
        while let Some(change) = changes.next().await.unwrap() {
            match change {
                Change::Deletion(id) => drop(held.remove(&id)),
                Change::Upsert(chunk) => drop(held.insert(chunk.id, (chunk.title, chunk.content))),
            }
        }
        assert_eq!(held.len(), head.chunk_count, "at version {}", head.version);
        changes.finish().await.unwrap();
        version = head.version;
        if is_last {
            break;
        }
        tokio::select! {
            joined = writers.join_next() => match joined {
                Some(outcome) => outcome.unwrap(),
                None => is_last = true,
            },
            () = tokio::time::sleep(std::time::Duration::from_millis(3)) => {}
        }
    }
    let rows = superuser
        .query("SELECT c.id, d.title, c.content FROM knowledge_chunks c JOIN documents d ON d.id = c.document_id", &[])
        .await
        .unwrap();
    let truth: BTreeMap<Uuid, (String, String)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let differing: Vec<_> = held.iter().filter(|(id, chunk)| truth.get(id) != Some(chunk)).collect();
    assert!(differing.is_empty() && held.len() == truth.len(), "{differing:?}");
    assert!(version > 20, "the writers wrote: {version}");
}
