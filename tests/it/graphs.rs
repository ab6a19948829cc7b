//! Graphs over large knowledge bases: built in the background, told by `explain`, and there again after a restart.

use serde_json::{Value, json};

use crate::harness::{Tenant, TestApp, connect, until};

/// How the segments of `knowledge_base` are searched, and how many hits there are.
async fn ways(acme: &Tenant, knowledge_base: &str) -> (Vec<Value>, usize) {
    let request = json!({ "query": "anything", "mode": "semantic", "top_k": 100, "explain": true });
    let answer = acme.search(knowledge_base, &request).await;
    let segments = answer["explain"]["semantic"]["segments"].as_array().cloned().unwrap_or_default();
    let ways = segments.iter().map(|segment| segment["way"].clone()).collect();
    (ways, answer["results"].as_array().unwrap().len())
}

async fn until_by_graph(acme: &Tenant, knowledge_base: &str) {
    until("the knowledge base is searched by a graph", async || {
        let (ways, hits) = ways(acme, knowledge_base).await;
        assert_eq!(hits, 100);
        (ways == ["graph"]).then_some(())
    })
    .await;
}

/// A knowledge base of 1,500 chunks with embeddings of all directions, put there by SQL.
async fn large(app: &TestApp, acme: &Tenant) -> String {
    let id = acme.knowledge_base("large").await;
    acme.put_text(&id, "first", "The first text.").await;
    let statement = format!(
        "INSERT INTO knowledge_chunks (tenant_id, knowledge_base_id, generation_id, document_id, ordinal, heading, content, embedding)
         SELECT c.tenant_id, c.knowledge_base_id, c.generation_id, c.document_id, n, '', 'text ' || n,
             ARRAY(SELECT sin(n * 7.1 + i * i * n)::real FROM generate_series(1, vector_dims(c.embedding)) AS i)::vector
         FROM (SELECT * FROM knowledge_chunks WHERE knowledge_base_id = '{id}' ORDER BY id LIMIT 1) AS c,
             generate_series(1, 1500) AS n"
    );
    let sql = connect(&app.database.owner_url()).await;
    sql.batch_execute(&statement).await.unwrap();
    let version: i64 = sql.query_one("SELECT version FROM knowledge_bases", &[]).await.unwrap().get(0);
    acme.until_in_memory(&id, version as u64).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_is_built_in_the_background_and_saved() {
    let mut app = TestApp::start_with(&[("TERTULIA_RETRIEVAL_VECTORS", "graph")]).await;
    let acme = app.tenant("acme").await;
    let id = large(&app, &acme).await;
    until_by_graph(&acme, &id).await;

    // It was saved when it was done, and a restart builds none.
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    assert_eq!(ways(&acme, &id).await, (vec![json!("graph")], 100));

    // What comes later is found beside it.
    let version = acme.put_text(&id, "second", "anything").await;
    acme.until_in_memory(&id, version).await;
    let (ways, hits) = ways(&acme, &id).await;
    assert_eq!((ways.contains(&json!("graph")), hits), (true, 100));
    let answer = acme.search(&id, &json!({ "query": "anything", "mode": "semantic", "min_version": version })).await;
    assert_eq!(answer["results"][0]["external_id"], "second");

    // Another tenant has no part in it.
    let other = app.tenant("other").await;
    let path = format!("/v1/knowledge-bases/{id}/search");
    assert_eq!(other.client.post(&path, &json!({ "query": "anything" })).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_graph_is_built_again() {
    let mut app = TestApp::start_with(&[("TERTULIA_RETRIEVAL_VECTORS", "graph")]).await;
    let acme = app.tenant("acme").await;
    let id = large(&app, &acme).await;
    until_by_graph(&acme, &id).await;
    app.stop().await;
    let folder = app.data_dir().join(format!("snapshots/{}/{id}", acme.id));
    let generation = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut damaged = 0;
    for entry in std::fs::read_dir(generation).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("graph-") {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0xff;
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    until_by_graph(&acme, &id).await;
}
