//! `kill -9` of the server or of its Postgres while documents are being put: nothing acknowledged is missing, and the
//! index equals the table.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use crate::harness::{
    Client,
    binary::{Serve, data_dir, run_well, stop_orphan},
    until,
};

/// How often something is killed.
const KILLS: usize = 20;
/// Documents that are written again and again; fewer than one answer can hold, so that a search can list them all.
const DOCUMENTS: usize = 60;
/// Most writes between two kills.
const WRITES_PER_KILL_MAX: usize = 120;

#[tokio::test(flavor = "multi_thread")]
async fn kills_during_ingest_lose_nothing_that_was_acknowledged() {
    let dir = data_dir();
    let path = dir.path().to_str().unwrap().to_owned();
    let mut serve = Serve::start(dir.path());
    run_well(&["tenant", "create", "acme", "--data-dir", &path]);
    let key = run_well(&["key", "create", "--tenant", "acme", "--json", "--data-dir", &path]).json();
    let key = key["key"].as_str().unwrap().to_owned();
    let base = serve.client().with_key(&key).post("/v1/knowledge-bases", &json!({ "name": "manual" })).await;
    let base = format!("/v1/knowledge-bases/{}", base.json()["id"].as_str().unwrap());

    let mut random = StdRng::seed_from_u64(20);
    let acknowledged: Arc<Mutex<BTreeMap<usize, usize>>> = Arc::default();
    let counter = Arc::new(AtomicUsize::new(0));
    for kill in 0..KILLS {
        let client = serve.client().with_key(&key);
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (client, base, stop) = (client.clone(), base.clone(), stop.clone());
                let (acknowledged, counter, written) = (acknowledged.clone(), counter.clone(), written.clone());
                let write = write_until(client, base, writer, stop, acknowledged, counter, written);
                #[expect(clippy::disallowed_methods, reason = "a test's own task, waited for below")]
                tokio::spawn(write)
            })
            .collect();
        let wanted = random.random_range(1..WRITES_PER_KILL_MAX);
        until("enough was written", async || (written.load(Ordering::SeqCst) >= wanted).then_some(())).await;
        if kill % 2 == 0 {
            serve.kill();
            stop.store(true, Ordering::SeqCst);
            futures_util::future::join_all(writers).await;
            serve = Serve::start(dir.path());
        } else {
            serve.kill_postgres();
            let before = written.load(Ordering::SeqCst);
            until("writes go on after Postgres came back", async || {
                (written.load(Ordering::SeqCst) > before + 4).then_some(())
            })
            .await;
            stop.store(true, Ordering::SeqCst);
            futures_util::future::join_all(writers).await;
        }
    }

    let client = serve.client().with_key(&key);
    let in_table = chunks_in_table(&client, &base).await;
    for (document, count) in acknowledged.lock().unwrap().iter() {
        let stored: Vec<usize> = in_table.iter().filter(|chunk| chunk.0 == *document).map(|chunk| chunk.1).collect();
        let [stored] = stored[..] else { panic!("document {document} has the chunks {stored:?}") };
        assert!(stored >= *count, "document {document} is at {stored}, but {count} was acknowledged");
    }
    until("the index equals the table", async || {
        let request = json!({ "query": "x", "mode": "semantic", "top_k": 100 });
        let answer = client.post(&format!("{base}/search"), &request).await.json();
        let hits = answer["results"].as_array().unwrap().iter();
        let mut in_memory: Vec<_> = hits.map(|hit| counts(hit["content"].as_str().unwrap())).collect();
        in_memory.sort_unstable();
        (answer["source"] == "memory" && in_memory == in_table).then_some(())
    })
    .await;
    assert_eq!(serve.stop(), 0);
    stop_orphan(dir.path());
}

async fn write_until(
    client: Client,
    base: String,
    writer: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeMap<usize, usize>>>,
    counter: Arc<AtomicUsize>,
    written: Arc<AtomicUsize>,
) {
    // Each writer has documents of its own, so that a later count is also a later write.
    for document in (writer..DOCUMENTS).step_by(4).cycle() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let count = counter.fetch_add(1, Ordering::SeqCst);
        let body = json!({ "content": format!("document {document} count {count}") });
        if client.try_put(&format!("{base}/documents/{document}"), &body).await == Some(200) {
            acknowledged.lock().unwrap().insert(document, count);
            written.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Document and count of every chunk, in order; a document of [`write_until`] has one.
async fn chunks_in_table(client: &Client, base: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for document in 0..DOCUMENTS {
        // A connection that broke with Postgres may be told of once more: 503, and the client asks again.
        let reply = until("the chunks are told", async || {
            let reply = client.get(&format!("{base}/documents/{document}/chunks")).await;
            (reply.status != 503).then_some(reply)
        })
        .await;
        if reply.status == 200 {
            let reply = reply.json();
            let chunks = reply["items"].as_array().unwrap().iter();
            found.extend(chunks.map(|chunk| counts(chunk["content"].as_str().unwrap())));
        }
    }
    found.sort_unstable();
    found
}

/// Document and count of a text that [`write_until`] wrote.
fn counts(content: &str) -> (usize, usize) {
    let mut words = content.split(' ');
    let mut number = || words.nth(1).unwrap().parse().unwrap();
    (number(), number())
}
