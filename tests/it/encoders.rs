//! An encoder that is a service: documents and questions by way of it, and what happens when it fails.

use serde_json::{Value, json};

use crate::harness::{
    Embeddings, Manner, Reply, Tenant, TestApp,
    binary::{Serve, data_dir},
    external_ids, until,
};

/// A server with the service's encoder and some settings of its own, and a knowledge base that is encoded by it.
async fn with_service(settings: &[(&'static str, &str)]) -> (TestApp, Embeddings, Tenant, String) {
    let service = Embeddings::start().await;
    let own = service.settings();
    let mut all: Vec<(&'static str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.extend(settings);
    let app = TestApp::start_with(&all).await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base_with("manual", "test-model").await;
    (app, service, acme, id)
}

async fn put(acme: &Tenant, id: &str, name: &str, content: &str) -> Reply {
    acme.client.put(&format!("/v1/knowledge-bases/{id}/documents/{name}"), &json!({ "content": content })).await
}

async fn search(acme: &Tenant, id: &str, mode: &str, query: &str) -> Reply {
    acme.client.post(&format!("/v1/knowledge-bases/{id}/search"), &json!({ "query": query, "mode": mode })).await
}

/// A Markdown document of so many chunks.
fn sections(count: usize) -> Value {
    let text: String = (0..count)
        .map(|n| {
            format!(
                "# Part {n}\n\nThe number of this part is {n}, and {n} is the number of no other part of this text.\n\n"
            )
        })
        .collect();
    json!({ "content": text, "content_type": "text/markdown" })
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_and_questions_are_encoded_by_the_service_that_is_named() {
    for memory in ["0", "1073741824"] {
        let (_app, service, acme, id) = with_service(&[("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", memory)]).await;
        let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
        assert_eq!((base["encoder"].as_str(), base["dimensions"].as_u64()), (Some("service-48-test-model"), Some(48)));
        let mut version = 0;
        for (name, text) in [("fruit", "apples and pears"), ("metal", "iron and copper"), ("cloth", "linen and silk")] {
            version = acme.put_text(&id, name, text).await;
        }
        if memory != "0" {
            acme.until_in_memory(&id, version).await;
        }
        let before = service.requests().len();
        for mode in ["semantic", "hybrid"] {
            let answer = search(&acme, &id, mode, "copper, iron").await.json();
            assert_eq!(external_ids(&answer)[0], "metal", "{answer}");
            assert_eq!(answer["source"], if memory == "0" { "postgres" } else { "memory" });
            assert!(answer.get("partial").is_none(), "{answer}");
        }
        assert_eq!(service.requests()[before..], [["copper, iron"], ["copper, iron"]]);
        search(&acme, &id, "keyword", "copper").await;
        assert_eq!(service.requests().len(), before + 2, "words need no vector");
        let body = &service.bodies()[0];
        assert_eq!(
            *body,
            json!({ "model": "test-model", "input": ["\napples and pears"], "encoding_format": "float" })
        );

        // The static one is the default, and beside it.
        let other = acme.knowledge_base("other").await;
        acme.put_text(&other, "a", "apples").await;
        assert_eq!(service.requests().len(), before + 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_dimensions_is_asked_for_where_it_is_set_and_the_key_may_stand_in_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "sk-test-0123456789\n").unwrap();
    let (_app, service, acme, id) = with_service(&[
        ("TERTULIA_ENCODER_SEND_DIMENSIONS", "true"),
        ("TERTULIA_ENCODER_API_KEY", ""),
        ("TERTULIA_ENCODER_API_KEY_FILE", file.path().to_str().unwrap()),
    ])
    .await;
    acme.put_text(&id, "a", "apples").await;
    assert_eq!(service.bodies()[0]["dimensions"], 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_requests_at_once_have_their_bounds() {
    let bounds = [
        ("TERTULIA_ENCODER_BATCH_TEXTS_MAX", "3"),
        ("TERTULIA_ENCODER_REQUESTS_MAX", "2"),
        ("TERTULIA_RETRIEVAL_CHUNK_TOKENS_MAX", "32"),
        ("TERTULIA_RETRIEVAL_CHUNK_OVERLAP_TOKENS", "0"),
    ];
    let (_app, service, acme, id) = with_service(&bounds).await;
    service.close();
    let (document, other) = (sections(20), sections(10));
    let puts =
        async { tokio::join!(acme.put_document(&id, "parts", &document), acme.put_document(&id, "others", &other)) };
    let watch = async {
        until("two requests wait", async || (service.under_way() == 2).then_some(())).await;
        service.open();
    };
    let ((first, second), ()) = tokio::join!(puts, watch);
    let requests = service.requests();
    assert!(requests.iter().all(|texts| (1..=3).contains(&texts.len())), "{requests:?}");
    assert_eq!(requests.iter().map(Vec::len).sum::<usize>(), 30);
    assert_eq!(service.under_way_max(), 2);
    let question = json!({
        "query": "Part 17 the number of this part is 17",
        "mode": "semantic",
        "min_version": first.max(second),
    });
    let answer = acme.search(&id, &question).await;
    assert_eq!(answer["results"][0]["ordinal"], 17, "each text has its own vector: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_away_or_busy_is_asked_again() {
    let (_app, service, acme, id) = with_service(&[]).await;
    for manner in [Manner::Status(429, Some(1)), Manner::Status(429, None), Manner::Status(500, None), Manner::Cut] {
        let before = service.requests().len();
        service.answer_next(&[manner, manner]);
        let started = std::time::Instant::now();
        assert_eq!(put(&acme, &id, "a", &format!("apples {manner:?}")).await.status, 200, "{manner:?}");
        assert_eq!(service.requests().len(), before + 3, "{manner:?}");
        if manner == Manner::Status(429, Some(1)) {
            assert!(started.elapsed() >= std::time::Duration::from_secs(2), "Retry-After is honoured");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_used_writes_nothing() {
    let (_app, service, acme, id) = with_service(&[]).await;
    let manners = [
        Manner::Short,
        Manner::WrongLength,
        Manner::NotANumber,
        Manner::Zero,
        Manner::Endless,
        Manner::Status(400, None),
        Manner::Status(401, None),
        Manner::Status(302, None),
    ];
    for manner in manners {
        let before = service.requests().len();
        service.answer_next(&[manner]);
        let reply = put(&acme, &id, "a", "a secret recipe").await;
        assert_eq!((reply.status, reply.problem().as_str()), (503, "unavailable"), "{manner:?}");
        assert!(reply.json()["detail"].as_str().unwrap().contains("encoder"), "{reply:?}");
        assert!(reply.header("retry-after").is_some());
        assert_eq!(service.requests().len(), before + 1, "{manner:?} is not asked again");
        assert_eq!(acme.client.get(&format!("/v1/knowledge-bases/{id}/documents/a")).await.status, 404);
    }
    acme.put_text(&id, "a", "a secret recipe").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_has_its_time_and_past_it_words_alone_are_asked() {
    for memory in ["0", "1073741824"] {
        let settings = [("TERTULIA_ENCODER_QUERY_TIMEOUT", "100ms"), ("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", memory)];
        let (_app, service, acme, id) = with_service(&settings).await;
        acme.put_text(&id, "metal", "iron and copper").await;
        let version = acme.put_text(&id, "cloth", "linen and silk").await;
        if memory != "0" {
            until("it answers from memory", async || {
                let request = json!({ "query": "iron", "mode": "keyword", "min_version": version });
                (acme.search(&id, &request).await["source"] == "memory").then_some(())
            })
            .await;
        }
        let check_partial = async |reason: &str| {
            let answer = search(&acme, &id, "hybrid", "copper").await.json();
            assert_eq!(answer["partial"]["reason"], reason);
            assert_eq!(external_ids(&answer), ["metal"]);
        };
        service.close();
        check_partial("encoder_timeout").await;
        let reply = search(&acme, &id, "semantic", "copper").await;
        assert_eq!((reply.status, reply.problem().as_str()), (503, "unavailable"));
        let answer = search(&acme, &id, "keyword", "copper").await.json();
        assert_eq!((answer.get("partial"), external_ids(&answer)), (None, vec!["metal"]));
        until("requests that nobody waits for are given up", async || (service.under_way() == 0).then_some(())).await;
        service.open();

        for manner in [Manner::Status(500, None), Manner::Status(429, Some(60)), Manner::Short, Manner::Cut] {
            let before = service.requests().len();
            service.answer_next(&[manner]);
            check_partial("encoder_unavailable").await;
            assert_eq!(service.requests().len(), before + 1, "a question is asked once");
        }
        service.answer_next(&[Manner::Status(429, Some(60))]);
        let reply = search(&acme, &id, "semantic", "copper").await;
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("60")));
        assert_eq!(external_ids(&search(&acme, &id, "semantic", "copper iron").await.json())[0], "metal");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_the_encoder_searches_by_words_only() {
    let (mut app, _service, acme, id) = with_service(&[]).await;
    acme.put_text(&id, "metal", "iron and copper").await;
    let without = ["TERTULIA_ENCODER_URL", "TERTULIA_ENCODER_MODEL"].map(|name| (name, ""));
    app.restart_with(&[without[0], without[1], ("TERTULIA_ENCODER_DIMENSIONS", "0")]).await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    for mode in ["hybrid", "semantic"] {
        let reply = search(&acme, &id, mode, "copper").await;
        assert_eq!((reply.status, reply.problem().as_str()), (409, "conflict"), "{mode}");
    }
    assert_eq!(external_ids(&search(&acme, &id, "keyword", "copper").await.json()), ["metal"]);
    assert_eq!(put(&acme, &id, "b", "apples").await.status, 409);
    let reply = acme.client.post("/v1/knowledge-bases", &json!({ "name": "x", "encoder": "test-model" })).await;
    assert_eq!((reply.status, reply.json()["fields"][0]["field"].as_str()), (400, Some("encoder")));
    assert!(reply.json()["detail"].as_str().unwrap().contains("`static`"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_https_service_is_known_by_the_systems_authorities() {
    let (service, certificate) = Embeddings::start_with_tls().await;
    let mut app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    app.stop().await;
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
    let mut id = String::new();
    for (authority, is_trusted) in [(certificate, true), (stranger, false)] {
        let dir = data_dir();
        let file = dir.path().join("authority.pem");
        std::fs::write(&file, authority).unwrap();
        let mut settings = service.settings();
        settings.extend([
            ("TERTULIA_ENCODER_URL", format!("https://localhost:{}/v1", service.address.port())),
            ("DATABASE_URL", app.database.user_url()),
            ("TERTULIA_DATABASE_SERVICE_URL", app.database.service_url()),
            ("TERTULIA_DATABASE_DIRECT_URL", app.database.owner_url()),
            // What stands for the system's store.
            ("SSL_CERT_FILE", file.display().to_string()),
        ]);
        let serve = Serve::start_with(dir.path(), &settings);
        let acme = Tenant {
            id: acme.id,
            name: acme.name.clone(),
            key_id: acme.key_id.clone(),
            client: acme.client.at(&serve.client()),
        };
        if is_trusted {
            id = acme.knowledge_base_with("manual", "test-model").await;
            acme.put_text(&id, "metal", "iron and copper").await;
        }
        let reply = search(&acme, &id, "semantic", "copper").await;
        assert_eq!(reply.status, if is_trusted { 200 } else { 503 }, "{reply:?}");
        assert_eq!(serve.stop(), 0);
    }
}
