//! Searches: modes, filters, explanations, and Postgres giving the same answers as memory.

use serde_json::{Value, json};

use crate::harness::{Tenant, TestApp, external_ids, until};

const TEXTS: &[(&str, &str, &str, u64)] = &[
    ("vacuum", "VACUUM reclaims storage occupied by dead tuples.", "en", 15),
    ("index", "CREATE INDEX builds an index on the given columns of a table.", "en", 15),
    ("activity", "The view pg_stat_activity shows what each session is doing now.", "en", 16),
    ("backup", "pg_dump writes a consistent backup of a database.", "en", 16),
    ("sicherung", "pg_dump schreibt eine Sicherung der Datenbank.", "de", 16),
];

async fn with_texts(settings: &[(&'static str, &str)]) -> (TestApp, Tenant, String, u64) {
    let app = TestApp::start_with(settings).await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let mut version = 0;
    for (name, text, lang, release) in TEXTS {
        let metadata =
            json!({ "lang": lang, "release": release, "tags": [name, "postgres"], "draft": *name == "backup" });
        version = acme.put_document(&id, name, &json!({ "content": text, "title": name, "metadata": metadata })).await;
    }
    (app, acme, id, version)
}

/// Filters, and which of [`TEXTS`] each one keeps.
fn filters() -> Vec<(Value, Vec<&'static str>)> {
    let leaf = |op: &str, key: &str, value: Value| json!({ "type": op, "key": key, "value": value });
    vec![
        (leaf("eq", "lang", json!("de")), vec!["sicherung"]),
        (leaf("ne", "lang", json!("en")), vec!["sicherung"]),
        (leaf("gt", "release", json!(15)), vec!["activity", "backup", "sicherung"]),
        (leaf("gte", "release", json!(16.0)), vec!["activity", "backup", "sicherung"]),
        (leaf("lt", "release", json!(16)), vec!["vacuum", "index"]),
        (leaf("lte", "release", json!(15)), vec!["vacuum", "index"]),
        (leaf("in", "lang", json!(["de", "fr"])), vec!["sicherung"]),
        (leaf("nin", "lang", json!(["de", "fr"])), vec!["vacuum", "index", "activity", "backup"]),
        (leaf("eq", "tags", json!("vacuum")), vec!["vacuum"]),
        (leaf("eq", "draft", json!(true)), vec!["backup"]),
        (leaf("eq", "release", json!("16")), vec![]),
        (json!({ "type": "exists", "key": "lang" }), TEXTS.iter().map(|text| text.0).collect()),
        (json!({ "type": "not", "filter": leaf("eq", "lang", json!("en")) }), vec!["sicherung"]),
        (
            json!({ "type": "and", "filters": [leaf("eq", "lang", json!("en")), leaf("eq", "release", json!(16))] }),
            vec!["activity", "backup"],
        ),
        (
            json!({ "type": "or", "filters": [leaf("eq", "lang", json!("de")), leaf("eq", "tags", json!("index"))] }),
            vec!["index", "sicherung"],
        ),
    ]
}

async fn check_filters(acme: &Tenant, id: &str, version: u64, source: &str) {
    for mode in ["semantic", "hybrid"] {
        for (filter, kept) in filters() {
            let request = json!({ "query": "postgres database", "mode": mode, "filter": filter, "top_k": 10, "min_version": version });
            let answer = acme.search(id, &request).await;
            assert_eq!(answer["source"], source);
            let mut found = external_ids(&answer);
            found.sort_unstable();
            let mut kept = kept;
            kept.sort_unstable();
            assert_eq!(found, kept, "{mode} {filter}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_answers_in_each_mode_and_with_each_filter() {
    let (_app, acme, id, version) = with_texts(&[]).await;
    acme.until_in_memory(&id, version).await;
    for (question, mode, first) in [
        ("which statement frees the space of dead rows", "semantic", "vacuum"),
        ("pg_stat_activity", "keyword", "activity"),
        ("pg_stat_activity", "hybrid", "activity"),
        ("Sicherung", "hybrid", "sicherung"),
        ("indexes", "keyword", "index"),
    ] {
        let answer = acme.search(&id, &json!({ "query": question, "mode": mode })).await;
        assert_eq!(external_ids(&answer).first(), Some(&first), "{mode} {question}: {answer}");
    }
    check_filters(&acme, &id, version, "memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_answers_alike_when_nothing_fits_into_memory() {
    let (_app, acme, id, version) = with_texts(&[("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", "0")]).await;
    // It was loaded while it was empty, and is let go as it outgrows the memory.
    until_let_go(&acme, &id).await;
    for (question, mode, first) in [
        ("which statement frees the space of dead rows", "semantic", "vacuum"),
        ("pg_stat_activity", "keyword", "activity"),
        ("pg_stat_activity", "hybrid", "activity"),
        ("Sicherung", "hybrid", "sicherung"),
        ("indexes", "keyword", "index"),
    ] {
        let answer = acme.search(&id, &json!({ "query": question, "mode": mode })).await;
        assert_eq!(answer["source"], "postgres");
        assert_eq!(external_ids(&answer).first(), Some(&first), "{mode} {question}: {answer}");
    }
    check_filters(&acme, &id, version, "postgres").await;
    let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
    assert_eq!(base["status"], "does_not_fit");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_filter_field_is_named_by_both_sources() {
    for memory in ["0", "1073741824"] {
        let (_app, acme, id, version) = with_texts(&[("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", memory)]).await;
        if memory != "0" {
            acme.until_in_memory(&id, version).await;
        }
        let filter = json!({ "type": "eq", "key": "colour", "value": "red" });
        let request = json!({ "query": "postgres", "filter": filter });
        let reply = acme.client.post(&format!("/v1/knowledge-bases/{id}/search"), &request).await;
        assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"));
        assert!(reply.json()["detail"].as_str().unwrap().contains("colour"), "{:?}", reply.json());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top_k_bounds_the_answer_and_scores_fall() {
    let (_app, acme, id, version) = with_texts(&[]).await;
    for top_k in [1, 3, 100] {
        let request =
            json!({ "query": "postgres database", "mode": "semantic", "top_k": top_k, "min_version": version });
        let answer = acme.search(&id, &request).await;
        let hits = answer["results"].as_array().unwrap();
        assert_eq!(hits.len(), top_k.min(TEXTS.len()));
        let scores: Vec<f64> = hits.iter().map(|hit| hit["score"].as_f64().unwrap()).collect();
        assert!(scores.windows(2).all(|pair| pair[0] >= pair[1]), "{scores:?}");
        assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_how_each_hit_was_found() {
    let (_app, acme, id, version) = with_texts(&[]).await;
    acme.until_in_memory(&id, version).await;
    let request = json!({ "query": "pg_stat_activity sessions", "explain": true });
    let answer = acme.search(&id, &request).await;
    let hit = &answer["results"][0];
    assert_eq!(hit["explain"]["keyword"]["rank"], 1, "{answer}");
    assert!(hit["explain"]["semantic"]["score"].is_number(), "{answer}");
    assert!(answer["explain"].is_object());
    let plain = acme.search(&id, &json!({ "query": "pg_stat_activity sessions" })).await;
    assert!(plain.get("explain").is_none() && plain["results"][0].get("explain").is_none());
    assert_eq!(external_ids(&answer), external_ids(&plain));
}

#[tokio::test(flavor = "multi_thread")]
async fn min_version_waits_for_what_was_written_and_refuses_what_never_was() {
    let (_app, acme, id, version) = with_texts(&[]).await;
    acme.until_in_memory(&id, version).await;
    for n in 0..20 {
        let version = acme.put_text(&id, "note", &format!("The code word is word{n}.")).await;
        let request = json!({ "query": format!("word{n}"), "mode": "keyword", "min_version": version });
        let answer = acme.search(&id, &request).await;
        assert_eq!(external_ids(&answer), ["note"], "{answer}");
        assert!(answer["version"].as_u64() >= Some(version));
    }
    let request = json!({ "query": "anything", "min_version": u32::MAX });
    let reply = acme.client.post(&format!("/v1/knowledge-bases/{id}/search"), &request).await;
    assert_eq!((reply.status, reply.json()["fields"][0]["field"].as_str()), (400, Some("min_version")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_knowledge_base_has_no_hits() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let filter = json!({ "type": "eq", "key": "lang", "value": "en" });
    for request in [json!({ "query": "a" }), json!({ "query": "a", "filter": filter })] {
        assert!(external_ids(&acme.search(&id, &request).await).is_empty());
    }
    acme.until_in_memory(&id, 0).await;
    assert!(external_ids(&acme.search(&id, &json!({ "query": "a", "filter": filter })).await).is_empty());
}

async fn words_alike(settings: &[(&'static str, &str)], source: &str) {
    let (app, acme, id, version) = with_texts(settings).await;
    if source == "memory" {
        acme.until_in_memory(&id, version).await;
    } else {
        until_let_go(&acme, &id).await;
    }
    for (request, found) in [
        (json!({ "query": "\"dead tuples\"", "mode": "keyword" }), vec!["vacuum"]),
        (json!({ "query": "\"dead tuples\"" }), vec!["vacuum"]),
        (json!({ "query": "\"tuples dead\"" }), vec![]),
        (json!({ "query": "dump -database", "mode": "keyword" }), vec!["sicherung"]),
        (json!({ "query": "dump -\"consistent backup\"", "mode": "keyword" }), vec!["sicherung"]),
        (json!({ "query": "a -index -postgres -tuples -backup -Sicherung" }), vec!["activity"]),
        (json!({ "query": "-index", "mode": "keyword" }), vec![]),
        (json!({ "query": "-index" }), vec![]),
        (json!({ "query": "stor", "mode": "keyword" }), vec![]),
        (json!({ "query": "stor", "mode": "keyword", "prefix": true }), vec!["vacuum"]),
        (json!({ "query": "a view pg_st", "mode": "keyword", "prefix": true, "top_k": 1 }), vec!["activity"]),
        (json!({ "query": "\"dead" , "mode": "keyword" }), vec!["vacuum"]),
        (json!({ "query": "- \"", "mode": "keyword" }), vec![]),
    ] {
        let answer = acme.search(&id, &request).await;
        assert_eq!(answer["source"], source);
        assert_eq!(external_ids(&answer), found, "{request}: {answer}");
    }
    // In semantic mode, a question is text.
    let request = json!({ "query": "-index \"no such phrase\"", "mode": "semantic", "top_k": 10 });
    assert_eq!(external_ids(&acme.search(&id, &request).await).len(), TEXTS.len());
    // Another tenant's knowledge base is not there, whatever is asked.
    let rival = app.tenant("rival").await;
    let path = format!("/v1/knowledge-bases/{id}/search");
    assert_eq!(rival.client.post(&path, &json!({ "query": "\"dead tuples\"", "prefix": true })).await.status, 404);
    let many = |count: usize| json!({ "query": "-index ".repeat(count) + "tuples", "mode": "keyword" });
    assert_eq!(external_ids(&acme.search(&id, &many(32)).await), ["vacuum"]);
    let reply = acme.client.post(&path, &many(33)).await;
    assert_eq!((reply.status, reply.json()["fields"][0]["field"].as_str()), (400, Some("query")));
}

async fn until_let_go(acme: &Tenant, id: &str) {
    until("it is let go", async || {
        let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
        (base["status"] == "does_not_fit").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phrases_exclusions_and_unfinished_words_in_memory() {
    words_alike(&[], "memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phrases_exclusions_and_unfinished_words_in_postgres() {
    words_alike(&[("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", "0")], "postgres").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_knowledge_base_has_a_language() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    for (analyzer, finds) in [(Some("german"), true), (Some("simple"), false), (None, false)] {
        let mut draft = json!({ "name": format!("{analyzer:?}") });
        if let Some(analyzer) = analyzer {
            draft["analyzer"] = json!(analyzer);
        }
        let created = acme.client.post("/v1/knowledge-bases", &draft).await.json();
        let id = created["id"].as_str().unwrap();
        assert_eq!(created["analyzer"], analyzer.unwrap_or("english"));
        assert_eq!(acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json()["analyzer"], created["analyzer"]);
        let version = acme.put_text(id, "a", "Die Häuser der Datenbanken").await;
        acme.until_in_memory(id, version).await;
        let answer = acme.search(id, &json!({ "query": "Haus", "mode": "keyword" })).await;
        assert_eq!((answer["source"].as_str(), external_ids(&answer).len()), (Some("memory"), usize::from(finds)));
    }
    let reply = acme.client.post("/v1/knowledge-bases", &json!({ "name": "x", "analyzer": "klingon" })).await;
    assert_eq!((reply.status, reply.problem().as_str()), (400, "invalid"));
    assert!(reply.json()["detail"].as_str().unwrap().contains("klingon"), "{:?}", reply.json());
}
