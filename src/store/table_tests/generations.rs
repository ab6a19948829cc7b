//! Building a generation: who may write, from where, and when it is complete.

use std::time::Duration;

use super::TestDatabase;
use crate::store::{
    generations::{self, Cursor, GenerationState, Lease, SourceChunk, Switched},
    tx::ServiceTx,
};

/// A builder's place in the work, as it read it.
async fn read(tx: &mut ServiceTx, lease: &Lease, limit: i64) -> (Cursor, Vec<SourceChunk>, Vec<Vec<f32>>) {
    let cursor = generations::cursor(tx, lease).await.unwrap().unwrap();
    let chunks = generations::list_chunks(tx, lease, &cursor, limit).await.unwrap();
    let embeddings = chunks.iter().filter(|chunk| chunk.text.is_some()).map(|_| vec![0.6, 0.8]).collect();
    (cursor, chunks, embeddings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_was_overtaken_writes_nothing() {
    let db = TestDatabase::create().await;
    let (ctx, stranger) = (db.tenant("acme").await, db.tenant("rival").await);
    let base = db.base(&ctx, "docs").await;
    db.put(&ctx, &base, "a", 3).await;
    let mut tx = db.tx(&ctx).await;
    let generation_id = generations::insert(&mut tx, base.id, "other", 2).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = db.tx(&ctx).await;
    assert!(generations::insert(&mut tx, base.id, "third", 2).await.unwrap_err().is_unique_violation());
    drop(tx);
    let mut tx = db.tx(&stranger).await;
    assert!(generations::list(&mut tx, base.id).await.unwrap().is_empty());
    assert!(!generations::retire(&mut tx, base.id, generation_id).await.unwrap());
    drop(tx);

    let encoders = ["other".to_owned()];
    let builders = [uuid::Uuid::now_v7(), uuid::Uuid::now_v7()];
    let service = async || db.store.service_tx().await.unwrap();
    let due = async |builder: uuid::Uuid, encoders: &[String]| {
        let mut tx = service().await;
        let due = generations::list_due(&mut tx, encoders, builder).await.unwrap();
        tx.commit().await.unwrap();
        due
    };
    let take = async |lease: &Lease, time: Duration| {
        let mut tx = service().await;
        let is_taken = generations::lease(&mut tx, lease, time).await.unwrap();
        tx.commit().await.unwrap();
        is_taken
    };
    assert!(due(builders[0], &[]).await.is_empty(), "no such encoder");
    let [slow, quick] = [due(builders[0], &encoders).await[0].lease, due(builders[1], &encoders).await[0].lease];
    assert_eq!((slow.generation_id, slow.knowledge_base_id), (generation_id, base.id));
    assert!(take(&slow, Duration::ZERO).await);
    let mut tx = service().await;
    let old = read(&mut tx, &slow, 2).await;
    tx.commit().await.unwrap();
    assert_eq!(old.1.len(), 2);
    assert!(take(&quick, Duration::from_secs(600)).await, "the other's time is over");
    assert!(!take(&slow, Duration::from_secs(600)).await);
    assert!(due(builders[0], &encoders).await.is_empty());
    assert_eq!(due(builders[1], &encoders).await.len(), 1);

    let mut tx = service().await;
    assert!(!generations::write(&mut tx, &slow, &old.0, &old.1, &old.2).await.unwrap(), "not its turn");
    drop(tx);
    let mut tx = service().await;
    assert!(generations::write(&mut tx, &quick, &old.0, &old.1, &old.2).await.unwrap());
    tx.commit().await.unwrap();
    for again in [&slow, &quick] {
        let mut tx = service().await;
        assert!(!generations::write(&mut tx, again, &old.0, &old.1, &old.2).await.unwrap(), "the cursor has moved");
    }
    let mut tx = service().await;
    let (cursor, chunks, embeddings) = read(&mut tx, &quick, 10).await;
    assert_eq!(generations::switch(&mut tx, &quick, &cursor).await.unwrap(), Switched::NotYet);
    drop(tx);

    // One chunk is left; it changes after it was read, and another comes.
    assert_eq!(chunks.len(), 1);
    db.put(&ctx, &base, "a", 2).await;
    db.put(&ctx, &base, "b", 1).await;
    let mut tx = service().await;
    assert!(generations::write(&mut tx, &quick, &cursor, &chunks, &embeddings).await.unwrap());
    tx.commit().await.unwrap();
    let mut tx = service().await;
    let (cursor, chunks, embeddings) = read(&mut tx, &quick, 10).await;
    assert_eq!(chunks.iter().filter(|chunk| chunk.text.is_some()).count(), 3, "what is gone is not there");
    assert!(generations::write(&mut tx, &quick, &cursor, &chunks, &embeddings).await.unwrap());
    tx.commit().await.unwrap();
    let mut tx = service().await;
    let (cursor, chunks, _) = read(&mut tx, &quick, 10).await;
    assert!(chunks.is_empty());
    assert_eq!(generations::switch(&mut tx, &slow, &cursor).await.unwrap(), Switched::Lost);
    drop(tx);
    let mut tx = service().await;
    assert_eq!(generations::switch(&mut tx, &quick, &cursor).await.unwrap(), Switched::Yes);
    tx.commit().await.unwrap();

    let now = db.look(&ctx, &base).await;
    assert_eq!((now.generation_id, now.encoder.as_str(), now.chunk_count), (generation_id, "other", 3));
    let mut tx = db.tx(&ctx).await;
    let all = generations::list(&mut tx, base.id).await.unwrap();
    tx.commit().await.unwrap();
    let states: Vec<_> = all.iter().map(|generation| (generation.state, generation.chunk_count)).collect();
    assert_eq!(states, [(GenerationState::Active, 3), (GenerationState::Retired, 3)]);

    // The active one cannot be dropped, whoever asks; the old one goes.
    let old = due(builders[1], &[]).await[0].lease;
    assert_eq!(old.generation_id, base.generation_id);
    for (lease, is_gone) in [(&quick, true), (&old, false), (&old, true)] {
        let mut tx = service().await;
        assert_eq!(generations::drop_some(&mut tx, lease).await.unwrap(), is_gone);
        tx.commit().await.unwrap();
    }
    let mut tx = db.tx(&ctx).await;
    assert_eq!(generations::list(&mut tx, base.id).await.unwrap().len(), 1);
    tx.commit().await.unwrap();
    assert_eq!(db.look(&ctx, &base).await.chunk_count, 3);
    assert!(due(builders[1], &encoders).await.is_empty());
}
