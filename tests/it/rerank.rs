//! A reranker that is a service: it orders hits, within its time, and a search goes on without it.

use serde_json::{Value, json};

use crate::harness::{Embeddings, KEY, MODEL, Manner, Tenant, TestApp, external_ids, until};

/// A server with the service as its reranker and some settings of its own, and a knowledge base with a word in texts of
/// different lengths.
async fn with_service(settings: &[(&'static str, &str)]) -> (TestApp, Embeddings, Tenant, String) {
    let service = Embeddings::start().await;
    let own = service.rerank_settings();
    let mut all: Vec<(&'static str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
    all.extend(settings);
    let app = TestApp::start_with(&all).await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let mut version = 0;
    for (name, text) in [("c", "vacuum vacuum vacuum"), ("a", "vacuum a"), ("b", "vacuum vacuum")] {
        version = acme.put_text(&id, name, text).await;
    }
    if !settings.contains(&IN_POSTGRES) {
        acme.until_in_memory(&id, version).await;
    }
    (app, service, acme, id)
}

const IN_POSTGRES: (&str, &str) = ("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", "0");

fn question(top_k: usize) -> Value {
    json!({ "query": "vacuum -nothing", "mode": "keyword", "top_k": top_k, "rerank": true })
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_come_in_the_order_of_the_reranker() {
    for settings in [&[][..], &[IN_POSTGRES]] {
        let (_app, service, acme, id) = with_service(settings).await;
        for (top_k, expected) in [(3, vec!["a", "b", "c"]), (1, vec!["a"])] {
            let answer = acme.search(&id, &question(top_k)).await;
            assert_eq!(external_ids(&answer), expected, "{answer}");
            let scores: Vec<f64> =
                answer["results"].as_array().unwrap().iter().map(|hit| hit["rerank_score"].as_f64().unwrap()).collect();
            assert!(scores.is_sorted_by(|left, right| left > right), "{scores:?}");
            assert!(answer["rerank_us"].as_u64().is_some() && answer.get("partial").is_none(), "{answer}");
        }
        let body = service.bodies().pop().unwrap();
        assert_eq!((body["model"].as_str(), body["query"].as_str()), (Some(MODEL), Some("vacuum ")));
        assert_eq!((body["top_n"].as_u64(), body["documents"].as_array().unwrap().len()), (Some(3), 3));

        // Nothing is asked for what is not asked of it, nor of no hits.
        let asked = service.bodies().len();
        let plain = acme.search(&id, &json!({ "query": "vacuum", "mode": "keyword" })).await;
        assert_ne!(external_ids(&plain), ["a", "b", "c"]);
        assert!(plain.get("rerank_us").is_none() && plain["results"][0].get("rerank_score").is_none(), "{plain}");
        let none = acme.search(&id, &json!({ "query": "absent", "mode": "keyword", "rerank": true })).await;
        assert!(external_ids(&none).is_empty() && none.get("partial").is_none(), "{none}");
        assert_eq!(service.bodies().len(), asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reranker_is_given_so_many_candidates() {
    let (_app, service, acme, id) = with_service(&[("TERTULIA_RERANK_CANDIDATES", "2")]).await;
    for (top_k, given) in [(1, 2), (2, 2), (3, 3)] {
        assert_eq!(external_ids(&acme.search(&id, &question(top_k)).await).len(), top_k);
        assert_eq!(service.bodies().pop().unwrap()["documents"].as_array().unwrap().len(), given);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_goes_on_without_a_reranker_that_fails() {
    for settings in [&[("TERTULIA_RERANK_TIMEOUT", "200ms")][..], &[("TERTULIA_RERANK_TIMEOUT", "200ms"), IN_POSTGRES]]
    {
        let (_app, service, acme, id) = with_service(settings).await;
        let plain = acme.search(&id, &json!({ "query": "vacuum", "mode": "keyword", "top_k": 2 })).await;
        let check = async |reason: &str| {
            let answer = acme.search(&id, &question(2)).await;
            assert_eq!(answer["partial"]["reason"], reason);
            assert!(!answer["partial"]["detail"].as_str().unwrap().contains(KEY));
            assert_eq!(external_ids(&answer), external_ids(&plain));
            assert!(answer["results"][0].get("rerank_score").is_none(), "{answer}");
        };
        for manner in
            [Manner::Status(500, None), Manner::Status(429, Some(60)), Manner::Short, Manner::Cut, Manner::Endless]
        {
            service.answer_next(&[manner]);
            check("rerank_unavailable").await;
        }
        service.close();
        check("rerank_timeout").await;
        until("requests that nobody waits for are given up", async || (service.under_way() == 0).then_some(())).await;
        service.open();
        assert_eq!(external_ids(&acme.search(&id, &question(2)).await), ["a", "b"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_reranker_says_so() {
    let app = TestApp::start().await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let reply = acme.client.post(&format!("/v1/knowledge-bases/{id}/search"), &question(2)).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["fields"][0]["field"], "rerank");
}
