//! Graphs over large knowledge bases: built in the background, told by `explain`, and there again after a restart.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Tenant, TestApp, until};

/// How the segments of `knowledge_base` are searched, each with its number of chunks, the largest first.
async fn ways(acme: &Tenant, knowledge_base: &str) -> Vec<(u64, Value)> {
    let request = json!({ "query": "anything", "mode": "semantic", "top_k": 100, "explain": true });
    let answer = acme.search(knowledge_base, &request).await;
    assert_eq!(answer["results"].as_array().unwrap().len(), 100);
    let segments = answer["explain"]["semantic"]["segments"].as_array().cloned().unwrap_or_default();
    let mut ways: Vec<_> =
        segments.iter().map(|segment| (segment["chunks"].as_u64().unwrap(), segment["way"].clone())).collect();
    ways.sort_by_key(|(chunks, _)| std::cmp::Reverse(*chunks));
    ways
}

/// Waits until the largest segment is searched by a graph; gives its number of chunks.
async fn until_by_graph(acme: &Tenant, knowledge_base: &str) -> u64 {
    until("the knowledge base is searched by a graph", async || {
        let (chunks, way) = ways(acme, knowledge_base).await.into_iter().next()?;
        (way == "graph").then_some(chunks)
    })
    .await
}

/// A knowledge base of two documents with 750 chunks each.
async fn large(app: &TestApp, acme: &Tenant) -> String {
    let (id, version) = app.large_knowledge_base(acme, "large", 750).await;
    acme.until_in_memory(&id, version).await;
    id
}

/// The files of the graphs of `knowledge_base`.
fn graph_files(app: &TestApp, acme: &Tenant, knowledge_base: &str) -> Vec<PathBuf> {
    let folder = app.data_dir().join(format!("snapshots/{}/{knowledge_base}", acme.id));
    let entries = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let files = entries(&folder).into_iter().flat_map(|generation| entries(&generation));
    files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("graph-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_is_built_in_the_background_and_saved() {
    let mut app = TestApp::start_with(&[("TERTULIA_RETRIEVAL_VECTORS", "graph")]).await;
    let acme = app.tenant("acme").await;
    let id = large(&app, &acme).await;
    assert_eq!(until_by_graph(&acme, &id).await, 1_500);

    // One of those searches is repeated without it, and tells what it misses.
    let recall = until("recall is known", async || {
        ways(&acme, &id).await;
        let metrics = String::from_utf8(app.client().get("/metrics").await.body.to_vec()).unwrap();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("retrieval_recall_at_10{filtered=\"false\"} "))?
            .to_owned();
        line.parse::<f64>().ok().filter(|recall| !recall.is_nan())
    })
    .await;
    assert!((0.5..=1.0).contains(&recall), "{recall}");

    // It is saved, and a restart builds none.
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    assert_eq!(ways(&acme, &id).await[0], (1_500, json!("graph")));

    // What comes later is found beside it.
    let version = acme.put_text(&id, "third", "anything").await;
    acme.until_in_memory(&id, version).await;
    assert_eq!(ways(&acme, &id).await[0], (1_500, json!("graph")));
    let answer = acme.search(&id, &json!({ "query": "anything", "mode": "semantic", "min_version": version })).await;
    assert_eq!(answer["results"][0]["external_id"], "third");

    // Another tenant has no part in it.
    let other = app.tenant("other").await;
    let path = format!("/v1/knowledge-bases/{id}/search");
    assert_eq!(other.client.post(&path, &json!({ "query": "anything" })).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_leaves_the_graph_and_its_file() {
    let app = TestApp::start_with(&[
        ("TERTULIA_RETRIEVAL_VECTORS", "graph"),
        ("TERTULIA_RETRIEVAL_SNAPSHOT_INTERVAL", "100ms"),
    ])
    .await;
    let acme = app.tenant("acme").await;
    let id = large(&app, &acme).await;
    // The rest of one document is too little for a graph.
    assert_eq!(until_by_graph(&acme, &id).await, 1_500);
    until("the graph is saved", async || graph_files(&app, &acme, &id).pop()).await;
    let path = format!("/v1/knowledge-bases/{id}/documents/second");
    assert_eq!(acme.client.delete(&path).await.status, 200);
    until("the segment is written anew, without a graph", async || {
        let largest = ways(&acme, &id).await.into_iter().next()?;
        (largest == (750, json!("scan")) && graph_files(&app, &acme, &id).is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_is_built_saves_nothing_of_what_is_gone() {
    let mut app = TestApp::start_with(&[
        ("TERTULIA_RETRIEVAL_VECTORS", "graph"),
        ("TERTULIA_RETRIEVAL_SNAPSHOT_INTERVAL", "1ms"),
    ])
    .await;
    let acme = app.tenant("acme").await;
    let id = large(&app, &acme).await;
    let folder = app.data_dir().join(format!("snapshots/{}/{id}", acme.id));
    until("it is saved", async || folder.exists().then_some(())).await;
    assert_eq!(acme.client.delete(&format!("/v1/knowledge-bases/{id}")).await.status, 204);
    until("its snapshot is removed", async || (!folder.exists()).then_some(())).await;
    app.stop().await;
    assert!(!folder.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_let_go_while_its_graph_is_built_comes_back() {
    let mut app = TestApp::start_with(&[("TERTULIA_RETRIEVAL_VECTORS", "scan")]).await;
    let acme = app.tenant("acme").await;
    let first = app.large_knowledge_base(&acme, "first", 1_500).await;
    let second = app.large_knowledge_base(&acme, "second", 1_500).await;
    app.stop().await;
    let _ = std::fs::remove_dir_all(app.data_dir().join("snapshots"));
    // Room for one with its graph, which is counted from its first row on, but not for another one beside it.
    let bytes_max = 28_000_000;
    app.restart_with(&[
        ("TERTULIA_RETRIEVAL_VECTORS", "graph"),
        ("TERTULIA_RETRIEVAL_UNLOAD_AFTER", "1ms"),
        ("TERTULIA_RETRIEVAL_SNAPSHOT_INTERVAL", "100ms"),
        ("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", &bytes_max.to_string()),
    ])
    .await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    let bytes = async |id: &str| {
        let status = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
        status["memory_bytes"].as_u64().unwrap()
    };

    // They push each other out in turns, each while its graph is built.
    let mut gone: Option<&str> = None;
    for (id, version) in [&first, &second, &first, &second, &first] {
        acme.until_in_memory(id, *version).await;
        if let Some(gone) = gone.replace(id) {
            assert_eq!(bytes(gone).await, 0);
            assert_eq!(graph_files(&app, &acme, gone), Vec::<PathBuf>::new(), "its graph was done when it was let go");
        }
        until("its graph is begun", async || (bytes(id).await > 16 << 20).then_some(())).await;
        assert!(app.metric("index_memory_bytes").await <= bytes_max);
    }
    assert_eq!(app.metric("index_unloads_total").await, 4);

    // The last one stays, its graph is done, it finds what it did, and nothing of those that went is counted.
    let (first, _) = first;
    assert_eq!(until_by_graph(&acme, &first).await, 3_002);
    let answer = acme.search(&first, &json!({ "query": "The first text.", "mode": "semantic" })).await;
    assert_eq!((&answer["source"], &answer["results"][0]["content"]), (&json!("memory"), &json!("The first text.")));
    until("only it is counted", async || (app.metric("index_memory_bytes").await == bytes(&first).await).then_some(()))
        .await;
    until("its graph is saved", async || graph_files(&app, &acme, &first).pop()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_graph_is_built_again() {
    let mut app = TestApp::start_with(&[("TERTULIA_RETRIEVAL_VECTORS", "graph")]).await;
    let acme = app.tenant("acme").await;
    let id = large(&app, &acme).await;
    until_by_graph(&acme, &id).await;
    app.stop().await;
    let paths = graph_files(&app, &acme, &id);
    assert_eq!(paths.len(), 1);
    let mut bytes = std::fs::read(&paths[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&paths[0], bytes).unwrap();
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    until_by_graph(&acme, &id).await;
}
