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
    assert!(hit["explain"]["semantic"]["raw"].is_number(), "{answer}");
    assert!(answer["explain"].is_object());
    let plain = acme.search(&id, &json!({ "query": "pg_stat_activity sessions" })).await;
    assert!(plain.get("explain").is_none() && plain["results"][0].get("explain").is_none());
    assert_eq!(external_ids(&answer), external_ids(&plain));
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_says_when_it_may_miss_some_of_the_nearest() {
    let app = TestApp::start_with(&[("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", "0")]).await;
    let acme = app.tenant("acme").await;
    // 10,000 chunks with the two that the texts are.
    let (id, _) = app.large_knowledge_base(&acme, "large", 4_999).await;
    let search = async |mode: &str, options: Value| -> Value {
        let mut request = json!({ "query": "The first text.", "mode": mode });
        request.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let answer = acme.search(&id, &request).await;
        assert_eq!(answer["source"], "postgres");
        answer
    };
    for mode in ["semantic", "hybrid", "keyword"] {
        let answer = search(mode, json!({})).await;
        assert!(answer.get("partial").is_none(), "{mode}: {answer}");
        assert_eq!(external_ids(&answer)[0], "first", "{mode}");
    }

    // One more, and vectors are found by an index that does not find all.
    acme.put_text(&id, "third", "Something else.").await;
    for mode in ["semantic", "hybrid"] {
        let answer = search(mode, json!({})).await;
        assert_eq!(answer["partial"]["reason"], "approximate", "{mode}: {answer}");
        assert!(answer["partial"]["detail"].as_str().unwrap().contains("Postgres"), "{mode}: {answer}");
        let hits = answer["results"].as_array().unwrap();
        assert_eq!((hits.len(), &hits[0]["content"]), (5, &json!("The first text.")), "{mode}: {answer}");
        // There are three documents, so the longest lists do not have five of them, which tells more.
        let answer = search(mode, json!({ "group_by": "document" })).await;
        assert_eq!(answer["partial"]["reason"], "candidate_limit", "{mode}: {answer}");
    }
    assert!(search("keyword", json!({})).await.get("partial").is_none());
}

/// Three documents of three chunks each, of different ages, all about the same.
async fn with_parts(memory_bytes: &str) -> (TestApp, Tenant, String) {
    let settings =
        [("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", memory_bytes), ("TERTULIA_RETRIEVAL_CHUNK_TOKENS_MAX", "64")];
    let app = TestApp::start_with(&settings).await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let mut version = 0;
    for (name, date, lang) in
        [("old", json!("2000-01-01"), "en"), ("new", json!(4_000_000_000_u64), "en"), ("plain", json!(null), "de")]
    {
        let part = |part: &str| {
            format!(
                "# {part} of {name}\n\nVacuuming {part} reclaims the storage of dead rows. {}\n\n",
                "Rows take space. ".repeat(6)
            )
        };
        let content = ["First", "Second", "Third"].map(part).concat();
        let metadata = json!({ "date": date, "lang": lang });
        let document =
            json!({ "content": content, "content_type": "text/markdown", "title": name, "metadata": metadata });
        version = acme.put_document(&id, name, &document).await;
    }
    if memory_bytes == "0" {
        until("it is let go", async || {
            let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
            (base["status"] == "does_not_fit").then_some(())
        })
        .await;
    } else {
        acme.until_in_memory(&id, version).await;
    }
    (app, acme, id)
}

fn scores(answer: &Value) -> Vec<f64> {
    answer["results"].as_array().unwrap().iter().map(|hit| hit["score"].as_f64().unwrap()).collect()
}

async fn check_options(acme: &Tenant, id: &str, source: &str) {
    for mode in ["hybrid", "semantic", "keyword"] {
        let search = async |options: Value| -> Value {
            let mut request = json!({ "query": "how do I vacuum dead rows?", "mode": mode, "top_k": 20 });
            request.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
            let answer = acme.search(id, &request).await;
            assert_eq!(answer["source"], source);
            assert!(answer.get("partial").is_none(), "{answer}");
            answer
        };
        let all = search(json!({})).await;
        assert_eq!(all["results"].as_array().unwrap().len(), 9, "{source} {mode}: {all}");
        let all_scores = scores(&all);
        assert!(all_scores.iter().all(|score| (0.0..=1.0).contains(score)), "{source} {mode}: {all_scores:?}");

        // A threshold between two scores; what is left out is what is below, and fewer wanted changes no score.
        let mut sorted = all_scores.clone();
        sorted.sort_by(f64::total_cmp);
        let least = sorted[4];
        let good = search(json!({ "min_score": least })).await;
        let expected: Vec<f64> = all_scores.iter().copied().filter(|score| *score >= least).collect();
        assert_eq!(scores(&good), expected, "{source} {mode}");
        assert_eq!(scores(&search(json!({ "top_k": 1 })).await)[0], all_scores[0]);
        assert!(scores(&search(json!({ "min_score": 1 })).await).is_empty());

        let filter = json!({ "type": "eq", "key": "lang", "value": "en" });
        let grouped = search(json!({ "group_by": "document", "top_k": 2, "diversity": 0.3, "filter": filter })).await;
        let mut names = external_ids(&grouped);
        names.sort_unstable();
        assert_eq!(names, ["new", "old"], "{source} {mode}");
        assert_eq!(search(json!({ "group_by": "document" })).await["results"].as_array().unwrap().len(), 3);

        let recency = json!({ "key": "date", "half_life_days": 365 });
        let recent = search(json!({ "recency": recency, "group_by": "document" })).await;
        assert_eq!(external_ids(&recent).last(), Some(&"old"), "{source} {mode}");
        assert!(scores(&recent)[2] < scores(&recent)[1] * 1e-6, "{source} {mode}: {recent}");

        let shown = search(json!({ "expand": 1, "highlight": true, "explain": true })).await;
        for hit in shown["results"].as_array().unwrap() {
            let ordinal = hit["ordinal"].as_u64().unwrap();
            let ordinals = |side: &str| -> Vec<u64> {
                hit[side].as_array().unwrap().iter().map(|near| near["ordinal"].as_u64().unwrap()).collect()
            };
            assert_eq!(ordinals("before"), (ordinal.saturating_sub(1)..ordinal).collect::<Vec<_>>(), "{hit}");
            assert_eq!(ordinals("after"), (ordinal + 1..(ordinal + 2).min(3)).collect::<Vec<_>>(), "{hit}");
            let units: Vec<u16> = hit["content"].as_str().unwrap().encode_utf16().collect();
            let marked = hit["highlights"].as_array().unwrap().iter().map(|range| {
                let [start, end] = ["start", "end"].map(|end| range[end].as_u64().unwrap() as usize);
                String::from_utf16(&units[start..end]).unwrap()
            });
            let marked: Vec<String> = marked.collect();
            assert!(marked.contains(&"Vacuuming".to_owned()) && marked.contains(&"dead".to_owned()), "{marked:?}");
            assert!(marked.iter().all(|word| word != "the"), "{marked:?}");
            assert_eq!(hit["explain"]["semantic"].is_null(), mode == "keyword", "{hit}");
            assert_eq!(hit["explain"]["keyword"].is_null(), mode == "semantic", "{hit}");
        }
        assert_eq!(shown["explain"]["mode"], mode);
        assert_eq!(shown["explain"]["rounds"], 1);
        assert_eq!(external_ids(&shown), external_ids(&all));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn options_shape_the_answer_of_memory() {
    let (_app, acme, id) = with_parts("1073741824").await;
    check_options(&acme, &id, "memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_shape_the_answer_of_postgres() {
    let (_app, acme, id) = with_parts("0").await;
    check_options(&acme, &id, "postgres").await;
    // Nothing of another tenant's comes with the options.
    let slip = json!({ "query": "rows", "recency": { "key": "dtae", "half_life_days": 1 } });
    let reply = acme.client.post(&format!("/v1/knowledge-bases/{id}/search"), &slip).await;
    assert_eq!((reply.status, reply.json()["fields"][0]["field"].as_str()), (400, Some("recency.key")));
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
