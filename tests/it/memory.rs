//! The memory of loaded knowledge bases: who is let go for whom, warm-up, and what the status says.

use serde_json::{Value, json};

use crate::harness::{Tenant, TestApp, connect, external_ids, until};

/// Two knowledge bases of ten chunks each, 100 kB in memory, in a server that has room for one.
async fn two_bases(settings: &[(&'static str, &str)]) -> (TestApp, Tenant, [String; 2]) {
    let mut all = vec![("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", "120000")];
    all.extend(settings);
    let app = TestApp::start_with(&all).await;
    let acme = app.tenant("acme").await;
    let bases = [acme.knowledge_base("first").await, acme.knowledge_base("second").await];
    for (n, id) in bases.iter().enumerate() {
        for text in 0..10 {
            let content = format!("Text {text} of base {n} about herons.");
            let document = json!({ "content": content, "metadata": { "pad": format!("{text}").repeat(4_000) } });
            acme.put_document(id, &format!("doc{text}"), &document).await;
        }
    }
    (app, acme, bases)
}

async fn status(acme: &Tenant, id: &str) -> Value {
    acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json()
}

async fn warm(acme: &Tenant, id: &str) -> Value {
    let path = format!("/v1/knowledge-bases/{id}/warm");
    let reply = acme.client.send_bytes(hyper::Method::POST, &path, "application/json", String::new()).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_searched_is_let_go_and_comes_back_from_its_snapshot() {
    let (app, acme, [first, second]) = two_bases(&[("TERTULIA_RETRIEVAL_UNLOAD_AFTER", "1ms")]).await;
    let sql = connect(&app.database.owner_url()).await;
    for (id, other, n) in [(&first, &second, 0), (&second, &first, 1), (&first, &second, 0)] {
        acme.until_in_memory(id, 10).await;
        let gone = status(&acme, other).await;
        assert!(gone["status"] != "ready" && gone["source"] == "postgres" && gone["lag"].is_null(), "{gone}");
        let answer = acme.search(id, &json!({ "query": "herons", "mode": "keyword", "top_k": 100 })).await;
        assert_eq!(answer["source"], "memory");
        assert_eq!(external_ids(&answer).len(), 10);
        assert!(answer["results"][0]["content"].as_str().unwrap().contains(&format!("of base {n}")), "{answer}");
        assert!(app.metric("index_memory_bytes").await <= 120_000);
    }
    assert!(app.metric("index_unloads_total").await >= 2);
    assert!(app.metric("index_loads_total").await >= 3);
    // What happens to one while it is not loaded is there when it comes back, and what no trigger saw is not: it was not
    // read again.
    sql.batch_execute(&format!("UPDATE knowledge_chunks SET content = 'An egret.' WHERE knowledge_base_id = '{second}' AND content LIKE 'Text 3 %'"))
        .await
        .unwrap();
    let superuser = connect(&app.database.superuser_url()).await;
    superuser
        .batch_execute(&format!("SET session_replication_role = replica; UPDATE knowledge_chunks SET content = 'Unseen.' WHERE knowledge_base_id = '{second}' AND content LIKE 'Text 4 %'"))
        .await
        .unwrap();
    acme.until_in_memory(&second, 11).await;
    let search = async |word: &str| {
        let answer = acme.search(&second, &json!({ "query": word, "mode": "keyword" })).await;
        assert_eq!(answer["source"], "memory");
        external_ids(&answer).len()
    };
    assert_eq!((search("egret").await, search("unseen").await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_in_use_is_not_let_go() {
    let (app, acme, [first, second]) = two_bases(&[]).await;
    acme.until_in_memory(&first, 10).await;
    let told = warm(&acme, &second).await;
    assert_eq!((&told["status"], &told["source"]), (&json!("does_not_fit"), &json!("postgres")), "{told}");
    for _ in 0..20 {
        assert_eq!(acme.search(&second, &json!({ "query": "herons" })).await["source"], "postgres");
        assert_eq!(acme.search(&first, &json!({ "query": "herons" })).await["source"], "memory");
    }
    assert_eq!(app.metric("index_unloads_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nobody_searches_takes_no_room_from_others() {
    let (app, acme, [first, second]) = two_bases(&[("TERTULIA_RETRIEVAL_UNLOAD_AFTER", "1ms")]).await;
    acme.until_in_memory(&first, 10).await;
    let version = acme.put_text(&second, "more", "One more text.").await;
    until("it does not fit", async || {
        let status = status(&acme, &second).await;
        (status["status"] == "does_not_fit" && status["version"] == version).then_some(())
    })
    .await;
    assert_eq!(status(&acme, &first).await["status"], "ready");
    assert_eq!(app.metric("index_unloads_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_up_ends_with_the_load() {
    let mut app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let version = acme.put_text(&id, "a", "A text.").await;
    app.stop().await;
    let _ = std::fs::remove_dir_all(app.data_dir().join("snapshots"));
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    let cold = status(&acme, &id).await;
    assert_eq!(
        (&cold["status"], &cold["source"], &cold["memory_bytes"]),
        (&json!("not_loaded"), &json!("postgres"), &json!(0))
    );
    let warm = warm(&acme, &id).await;
    assert_eq!((&warm["status"], &warm["source"], &warm["lag"]), (&json!("ready"), &json!("memory"), &json!(0)));
    assert!(warm["memory_bytes"].as_u64() > Some(512) && warm["progress"].is_null(), "{warm}");
    let answer = acme.search(&id, &json!({ "query": "text", "min_version": version })).await;
    assert_eq!(answer["source"], "memory");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warm_up_does_not_wait_for_long() {
    let mut app = TestApp::start_with(&[("TERTULIA_SERVER_HANDLER_TIMEOUT", "2s")]).await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    acme.put_text(&id, "a", "A text.").await;
    app.stop().await;
    let _ = std::fs::remove_dir_all(app.data_dir().join("snapshots"));
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    let sql = connect(&app.database.owner_url()).await;
    sql.batch_execute("BEGIN; LOCK TABLE knowledge_chunks").await.unwrap();
    let waited = warm(&acme, &id).await;
    assert_eq!((&waited["status"], &waited["progress"]), (&json!("loading"), &json!(0.0)), "{waited}");
    sql.batch_execute("COMMIT").await.unwrap();
    assert_eq!(warm(&acme, &id).await["status"], "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_is_told() {
    let mut app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    acme.put_text(&id, "a", "A text.").await;
    app.stop().await;
    let _ = std::fs::remove_dir_all(app.data_dir().join("snapshots"));
    // No client can write an embedding of another length, and no index takes it.
    let sql = connect(&app.database.superuser_url()).await;
    let set = |embedding: &str| {
        format!("SET session_replication_role = replica; UPDATE knowledge_chunks SET embedding = {embedding}")
    };
    sql.batch_execute(&set("'[1,2]'")).await.unwrap();
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    acme.search(&id, &json!({ "query": "text", "mode": "keyword" })).await;
    until("the failure is told", async || (status(&acme, &id).await["status"] == "error").then_some(())).await;
    let ones = "(SELECT array_agg(1)::vector FROM generate_series(1, 256))";
    sql.batch_execute(&set(ones)).await.unwrap();
    until("it is mended", async || (status(&acme, &id).await["status"] == "ready").then_some(())).await;
}
