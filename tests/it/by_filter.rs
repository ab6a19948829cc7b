//! Documents deleted and patched by filter.

use serde_json::{Value, json};

use crate::harness::{Tenant, TestApp, connect, external_ids, until};

async fn delete(acme: &Tenant, id: &str, filter: &Value, dry_run: bool) -> Value {
    let body = json!({ "filter": filter, "dry_run": dry_run });
    let reply = acme.client.post(&format!("/v1/knowledge-bases/{id}/delete-documents"), &body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

async fn patch(acme: &Tenant, id: &str, filter: &Value, metadata: &Value, dry_run: bool) -> Value {
    let body = json!({ "filter": filter, "metadata": metadata, "dry_run": dry_run });
    let reply = acme.client.post(&format!("/v1/knowledge-bases/{id}/patch-documents"), &body).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn counts(answer: &Value) -> [u64; 3] {
    ["matched", "documents", "chunks"].map(|field| answer[field].as_u64().unwrap())
}

fn eq(key: &str, value: impl Into<Value>) -> Value {
    json!({ "type": "eq", "key": key, "value": value.into() })
}

/// Six documents, half of them in German; gives the last version.
async fn with_documents(settings: &[(&'static str, &str)]) -> (TestApp, Tenant, String, u64) {
    let app = TestApp::start_with(settings).await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let mut version = 0;
    for n in 0..6 {
        let metadata = json!({ "lang": if n % 2 == 0 { "de" } else { "en" }, "n": n, "product": { "name": "x" } });
        let document = json!({ "content": format!("Text number {n}."), "metadata": metadata });
        version = acme.put_document(&id, &format!("doc{n}"), &document).await;
    }
    (app, acme, id, version)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_matches_is_counted_then_deleted_under_one_version() {
    let (_app, acme, id, before) = with_documents(&[]).await;
    let filter = json!({ "type": "and", "filters": [eq("lang", "de"), { "type": "lt", "key": "n", "value": 3 }] });
    let dry = delete(&acme, &id, &filter, true).await;
    assert_eq!((counts(&dry), &dry["version"], &dry["dry_run"]), ([2, 2, 2], &json!(before), &json!(true)));
    let done = delete(&acme, &id, &filter, false).await;
    assert_eq!((counts(&done), &done["version"], &done["complete"]), ([2, 2, 2], &json!(before + 1), &json!(true)));
    let request = json!({ "query": "text", "top_k": 100, "min_version": done["version"] });
    let mut left = external_ids(&acme.search(&id, &request).await).into_iter().map(str::to_owned).collect::<Vec<_>>();
    left.sort();
    assert_eq!(left, ["doc1", "doc3", "doc4", "doc5"]);
    // The same again does nothing, and takes no version.
    let again = delete(&acme, &id, &filter, false).await;
    assert_eq!((counts(&again), &again["version"]), ([0, 0, 0], &json!(before + 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_are_merged_and_a_repeat_changes_nothing() {
    let (_app, acme, id, before) = with_documents(&[]).await;
    let metadata = json!({ "product": { "version": 1e2 }, "n": null });
    let dry = patch(&acme, &id, &eq("lang", "en"), &metadata, true).await;
    assert_eq!((counts(&dry), &dry["version"]), ([3, 3, 3], &json!(before)));
    let done = patch(&acme, &id, &eq("lang", "en"), &metadata, false).await;
    assert_eq!((counts(&done), &done["version"]), ([3, 3, 3], &json!(before + 1)));
    let document = acme.client.get(&format!("/v1/knowledge-bases/{id}/documents/doc1")).await.json();
    assert_eq!(document["metadata"], json!({ "lang": "en", "product": { "name": "x", "version": 100.0 } }));
    let other = acme.client.get(&format!("/v1/knowledge-bases/{id}/documents/doc2")).await.json();
    assert_eq!(other["metadata"], json!({ "lang": "de", "n": 2, "product": { "name": "x" } }));
    // Searches filter by it, from memory and with the version that was told.
    let exists = json!({ "type": "not", "filter": { "type": "exists", "key": "n" } });
    let request = json!({ "query": "text", "min_version": done["version"], "filter": exists });
    assert_eq!(external_ids(&acme.search(&id, &request).await).len(), 3);
    let again = patch(&acme, &id, &eq("lang", "en"), &metadata, false).await;
    assert_eq!((counts(&again), &again["version"]), ([3, 0, 0], &json!(before + 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_meant_is_refused_and_changes_nothing() {
    let (_app, acme, id, before) = with_documents(&[]).await;
    let fits = "x".repeat(16_384 - r#"{"a":""}"#.len());
    let all = json!({ "type": "exists", "key": "lang" });
    for (path, body, field) in [
        ("delete-documents", json!({}), "filter"),
        ("delete-documents", json!({ "filter": null }), "filter"),
        ("delete-documents", json!({ "filter": {} }), "filter.type"),
        ("delete-documents", json!({ "filter": { "type": "and", "filters": [] } }), "filter.filters"),
        ("delete-documents", json!({ "filter": eq("colour", "red") }), "filter"),
        ("delete-documents", json!({ "filter": { "type": "not", "filter": eq("colour", "red") } }), "filter"),
        ("delete-documents", json!({ "filter": eq("lang", "de"), "dryrun": true }), "dryrun"),
        ("patch-documents", json!({ "filter": all, "metadata": {} }), "metadata"),
        ("patch-documents", json!({ "filter": all, "metadata": [] }), "metadata"),
        ("patch-documents", json!({ "filter": all }), "metadata"),
        ("patch-documents", json!({ "filter": {}, "metadata": { "a": 1 } }), "filter.type"),
        ("patch-documents", json!({ "filter": all, "metadata": { "a": "\0" } }), "metadata"),
        ("patch-documents", json!({ "filter": all, "metadata": { "a": format!("{fits}x") } }), "metadata"),
        // It fits by itself, and not into what is there.
        ("patch-documents", json!({ "filter": all, "metadata": { "a": fits } }), "metadata"),
    ] {
        let reply = acme.client.post(&format!("/v1/knowledge-bases/{id}/{path}"), &body).await;
        let told = reply.json();
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"), "{path} {told}");
        let named = told["fields"][0]["field"].as_str().unwrap_or_default().to_owned();
        assert!(
            named.starts_with(field) || named.is_empty() && told["detail"].as_str().unwrap().contains(field),
            "{told}"
        );
    }
    let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
    assert_eq!((&base["version"], &base["documents"]), (&json!(before), &json!(6)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_knowledge_base_has_nothing_to_delete() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let done = delete(&acme, &id, &eq("lang", "de"), false).await;
    assert_eq!((counts(&done), &done["version"]), ([0, 0, 0], &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_documents_take_several_transactions() {
    let (app, acme, id, _) = with_documents(&[]).await;
    let sql = connect(&app.database.owner_url()).await;
    // 600 documents of a chunk each, and one that alone has more than a transaction takes beside others.
    sql.batch_execute(&format!(
        "BEGIN;
         CREATE TEMP TABLE new AS SELECT gen_random_uuid() AS id, n FROM generate_series(1, 601) AS n;
         INSERT INTO documents (tenant_id, knowledge_base_id, id, external_id, metadata)
         SELECT '{tenant}', '{id}', new.id, 'many' || new.n, '{{\"many\": true}}' FROM new;
         INSERT INTO knowledge_chunks (tenant_id, knowledge_base_id, generation_id, document_id, ordinal, content, embedding)
         SELECT c.tenant_id, c.knowledge_base_id, c.generation_id, new.id, o, 'heron', c.embedding
         FROM new, LATERAL generate_series(1, CASE WHEN new.n = 601 THEN 3000 ELSE 1 END) AS o,
             (SELECT * FROM knowledge_chunks WHERE knowledge_base_id = '{id}' ORDER BY id LIMIT 1) AS c;
         COMMIT",
        tenant = acme.id,
    ))
    .await
    .unwrap();
    let version =
        async || sql.query_one("SELECT version FROM knowledge_bases", &[]).await.unwrap().get::<_, i64>(0) as u64;
    let before = version().await;
    let patched = patch(&acme, &id, &eq("many", true), &json!({ "seen": 1 }), false).await;
    assert_eq!(counts(&patched), [601, 601, 3_600]);
    assert_eq!((patched["version"].as_u64(), version().await), (Some(before + 4), before + 4));
    let done = delete(&acme, &id, &eq("many", true), false).await;
    assert_eq!(counts(&done), [601, 601, 3_600]);
    assert_eq!((done["version"].as_u64(), version().await), (Some(before + 8), before + 8));
    let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
    assert_eq!((&base["documents"], &base["chunks"]), (&json!(6), &json!(6)));
    let logged = sql.query_one("SELECT count(*) FROM chunk_deletions", &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(logged, 3_600);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_documents_stay() {
    let (app, acme, id, before) = with_documents(&[]).await;
    let other = app.tenant("other").await;
    let filter = eq("lang", "de");
    for (path, body) in [
        ("delete-documents", json!({ "filter": filter })),
        ("patch-documents", json!({ "filter": filter, "metadata": { "lang": "fr" } })),
    ] {
        let reply = other.client.post(&format!("/v1/knowledge-bases/{id}/{path}"), &body).await;
        assert_eq!(reply.status, 404, "{reply:?}");
    }
    // A knowledge base of the same documents beside it is another one.
    let beside = acme.knowledge_base("beside").await;
    acme.put_document(&beside, "doc0", &json!({ "content": "Text.", "metadata": { "lang": "de" } })).await;
    assert_eq!(counts(&delete(&acme, &beside, &filter, false).await), [1, 1, 1]);
    let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
    assert_eq!((&base["version"], &base["documents"]), (&json!(before), &json!(6)));
}

/// Every file below a folder that holds `word`.
fn files_with(folder: &std::path::Path, word: &str) -> Vec<std::path::PathBuf> {
    let files = ignore::WalkBuilder::new(folder).standard_filters(false).build().flatten();
    let holds = |path: &std::path::Path| {
        std::fs::read(path)
            .is_ok_and(|bytes| bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes())))
    };
    files.map(ignore::DirEntry::into_path).filter(|path| holds(path)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_deleted_text_is_left_anywhere() {
    let (mut app, acme, id, _) = with_documents(&[("TERTULIA_RETRIEVAL_SNAPSHOT_INTERVAL", "1ms")]).await;
    for n in 0..30 {
        acme.put_text(&id, &format!("other{n}"), "An ordinary text that stays where it is.").await;
    }
    let secret = json!({
        "content": "The zanzibar text.", "title": "Zanzibar", "metadata": { "secret": "zanzibar" },
    });
    let version = acme.put_document(&id, "zanzibar", &secret).await;
    acme.until_in_memory(&id, version).await;
    let snapshots = app.data_dir().join("snapshots");
    until("it is saved", async || (!files_with(&snapshots, "zanzibar").is_empty()).then_some(())).await;
    let sql = connect(&app.database.owner_url()).await;
    let chunk: String = sql
        .query_one("SELECT id::text FROM knowledge_chunks WHERE content LIKE '%zanzibar%'", &[])
        .await
        .unwrap()
        .get(0);

    let done = delete(&acme, &id, &eq("secret", "zanzibar"), false).await;
    assert_eq!(counts(&done), [1, 1, 1]);
    for mode in ["keyword", "semantic", "hybrid"] {
        let request = json!({ "query": "zanzibar text", "mode": mode, "top_k": 100, "min_version": done["version"] });
        let answer = acme.search(&id, &request).await;
        assert_eq!(answer["source"], "memory");
        let hits = answer["results"].as_array().unwrap();
        assert!(!answer["results"].to_string().to_lowercase().contains("zanzibar"), "{mode}: {answer}");
        assert!(hits.iter().all(|hit| hit["chunk_id"] != *chunk));
    }
    for path in ["documents/zanzibar", "documents/zanzibar/chunks"] {
        assert_eq!(acme.client.get(&format!("/v1/knowledge-bases/{id}/{path}")).await.status, 404);
    }
    let list = acme.client.get(&format!("/v1/knowledge-bases/{id}/documents?limit=100")).await.json();
    assert!(!list.to_string().contains("zanzibar"));
    let rows = "SELECT (SELECT count(*) FROM documents d WHERE d::text ILIKE '%zanzibar%')
        + (SELECT count(*) FROM knowledge_chunks c WHERE c::text ILIKE '%zanzibar%')";
    assert_eq!(sql.query_one(rows, &[]).await.unwrap().get::<_, i64>(0), 0);
    until("no snapshot has it", async || files_with(&snapshots, "zanzi").is_empty().then_some(())).await;
    let filter = eq("secret", "zanzibar");
    let request = json!({ "query": "zanzibar", "filter": filter });
    let reply = acme.client.post(&format!("/v1/knowledge-bases/{id}/search"), &request).await;
    assert_eq!(reply.status, 400, "no chunk has the key any more: {reply:?}");
    app.restart().await;
    assert!(files_with(&snapshots, "zanzi").is_empty());
}
