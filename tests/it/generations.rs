//! A knowledge base gets another encoder: searches go on, nothing is mixed, and the result is that of a fresh build.

use serde_json::{Value, json};
use tokio_postgres::Client as Sql;

use crate::harness::{
    Client, Database, Embeddings, Manner, Tenant, TestApp,
    binary::{Serve, data_dir},
    connect, external_ids, until,
};

const STATIC: &str = "static";
const SERVICE: &str = "test-model";

async fn start(settings: &[(&'static str, &str)]) -> (TestApp, Embeddings, Tenant, Sql) {
    let service = Embeddings::start().await;
    let app = start_on(Database::create().await, &service, settings).await;
    let acme = app.tenant("acme").await;
    let sql = connect(&app.database.owner_url()).await;
    (app, service, acme, sql)
}

async fn start_on(database: Database, service: &Embeddings, settings: &[(&'static str, &str)]) -> TestApp {
    let own = service.settings();
    let mut all: Vec<(&'static str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // A chunk for each part of a text.
    all.extend([("TERTULIA_RETRIEVAL_CHUNK_TOKENS_MAX", "32"), ("TERTULIA_RETRIEVAL_CHUNK_OVERLAP_TOKENS", "0")]);
    all.extend(settings);
    TestApp::start_on(database, &all).await
}

/// A document of three chunks.
fn text(n: usize, note: &str) -> Value {
    let part = |m: usize| {
        format!("# Part {m}\n\nPart {m} of document {n} {note}, about nothing that any other part has in it.\n\n")
    };
    let metadata = json!({ "n": n });
    json!({ "content": (0..3).map(part).collect::<String>(), "content_type": "text/markdown", "metadata": metadata })
}

async fn put_all(client: &Client, id: &str, documents: usize, note: &str) -> u64 {
    let mut version = 0;
    for n in 0..documents {
        let path = format!("/v1/knowledge-bases/{id}/documents/{n}");
        let reply = client.put(&path, &text(n, note)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        version = reply.json()["version"].as_u64().unwrap();
    }
    version
}

async fn change_encoder(client: &Client, id: &str, encoder: &str) -> String {
    let reply = client.post(&format!("/v1/knowledge-bases/{id}/generations"), &json!({ "encoder": encoder })).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.json()["state"], "building");
    reply.json()["id"].as_str().unwrap().to_owned()
}

async fn generations(client: &Client, id: &str) -> Vec<Value> {
    let reply = client.get(&format!("/v1/knowledge-bases/{id}/generations")).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["items"].as_array().unwrap().clone()
}

/// Waits until `generation` is the only one.
async fn until_switched(client: &Client, id: &str, generation: &str) {
    until("the new generation is the only one", async || {
        let all = generations(client, id).await;
        (all.len() == 1 && all[0]["id"] == generation && all[0]["state"] == "active").then_some(())
    })
    .await;
}

/// Everything that the chunks of the knowledge base say, vectors among it, whatever their ids and versions.
async fn rows(sql: &Sql, id: &str) -> Vec<String> {
    let statement = format!(
        "SELECT concat_ws('|', d.external_id, c.ordinal, c.heading, c.content, c.metadata, c.words, c.embedding)
         FROM knowledge_chunks c JOIN documents d ON d.tenant_id = c.tenant_id AND d.id = c.document_id
         WHERE c.knowledge_base_id = '{id}' ORDER BY d.external_id, c.ordinal"
    );
    sql.query(&statement, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A knowledge base of its own for `encoder`, with the same documents.
async fn fresh(acme: &Tenant, encoder: &str, documents: &[(String, Value)]) -> String {
    let id = acme.knowledge_base_with("fresh", encoder).await;
    for (name, document) in documents {
        acme.put_document(&id, name, document).await;
    }
    id
}

fn named(documents: impl IntoIterator<Item = (usize, &'static str)>) -> Vec<(String, Value)> {
    documents.into_iter().map(|(n, note)| (n.to_string(), text(n, note))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_encoder_gives_what_a_fresh_build_gives_and_searches_go_on() {
    let (_app, service, acme, sql) = start(&[]).await;
    let id = acme.knowledge_base("manual").await;
    let version = put_all(&acme.client, &id, 10, "first").await;
    acme.until_in_memory(&id, version).await;

    service.close();
    let generation = change_encoder(&acme.client, &id, SERVICE).await;
    until("the building has begun", async || (service.under_way() > 0).then_some(())).await;
    let all = generations(&acme.client, &id).await;
    assert_eq!((all[0]["state"].as_str(), all[0]["encoded"].as_u64()), (Some("building"), Some(0)), "{all:?}");
    assert_eq!((all[0]["total"].as_u64(), all[1]["state"].as_str()), (Some(30), Some("active")), "{all:?}");
    for mode in ["semantic", "hybrid", "keyword"] {
        let answer = acme.search(&id, &json!({ "query": "part 2 of document 7", "mode": mode })).await;
        assert_eq!((answer["results"].as_array().unwrap().len(), answer.get("partial")), (5, None));
    }
    service.open();
    until_switched(&acme.client, &id, &generation).await;

    let expected = fresh(&acme, SERVICE, &named((0..10).map(|n| (n, "first")))).await;
    assert_eq!(rows(&sql, &id).await, rows(&sql, &expected).await);
    let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
    assert_eq!((base["encoder"].as_str(), base["chunks"].as_u64()), (Some("service-48-test-model"), Some(30)));
    acme.until_in_memory(&id, base["version"].as_u64().unwrap()).await;
    for base in [&id, &expected] {
        let before = service.requests().len();
        let answer = acme.search(base, &json!({ "query": "part 2 of document 7", "mode": "semantic" })).await;
        assert_eq!(service.requests().len(), before + 1, "the question goes to the new encoder");
        assert_eq!((external_ids(&answer)[0], answer["results"][0]["ordinal"].as_u64()), ("7", Some(2)), "{answer}");
    }

    // And back: the static encoder is one as any other.
    let generation = change_encoder(&acme.client, &id, STATIC).await;
    until_switched(&acme.client, &id, &generation).await;
    acme.client.delete(&format!("/v1/knowledge-bases/{expected}")).await;
    let expected = fresh(&acme, STATIC, &named((0..10).map(|n| (n, "first")))).await;
    assert_eq!(rows(&sql, &id).await, rows(&sql, &expected).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_meanwhile_is_followed() {
    let (_app, service, acme, sql) = start(&[("TERTULIA_ENCODER_BATCH_TEXTS_MAX", "8")]).await;
    let id = acme.knowledge_base("manual").await;
    put_all(&acme.client, &id, 100, "first").await;
    service.close();
    let generation = change_encoder(&acme.client, &id, SERVICE).await;
    until("the first batch is under way", async || (service.under_way() > 0).then_some(())).await;
    // Chunks that are being encoded just now, and others.
    acme.put_document(&id, "0", &text(0, "second")).await;
    acme.put_document(&id, "99", &text(99, "second")).await;
    acme.put_document(&id, "new", &text(500, "second")).await;
    for gone in [1, 98] {
        assert_eq!(acme.client.delete(&format!("/v1/knowledge-bases/{id}/documents/{gone}")).await.status, 200);
    }
    acme.put_document(&id, "2", &json!({ "content": "short now" })).await;
    // As some SQL client would.
    let chunk = "(SELECT c.id FROM knowledge_chunks c JOIN documents d ON d.id = c.document_id
                  WHERE d.external_id = '$1' AND d.knowledge_base_id = '$2' AND c.ordinal = $3)";
    let chunk_of =
        |name: &str, ordinal: usize| chunk.replace("$1", name).replace("$2", &id).replace("$3", &ordinal.to_string());
    sql.batch_execute(&format!(
        "DELETE FROM knowledge_chunks WHERE id = {};
         UPDATE knowledge_chunks SET metadata = '{{\"own\": 1}}' WHERE id = {};
         UPDATE knowledge_chunks SET content = 'altogether different' WHERE id = {}",
        chunk_of("3", 1),
        chunk_of("4", 1),
        chunk_of("97", 0)
    ))
    .await
    .unwrap();
    service.open();
    until_switched(&acme.client, &id, &generation).await;

    let mut documents = named((0..100).filter(|n| ![0, 1, 2, 98, 99].contains(n)).map(|n| (n, "first")));
    documents.extend(named([(0, "second"), (99, "second")]));
    documents.push(("new".into(), text(500, "second")));
    documents.push(("2".into(), json!({ "content": "short now" })));
    let expected = fresh(&acme, SERVICE, &documents).await;
    let by_hand = |id: &str| {
        let of = |name: &str, ordinal: usize| {
            chunk.replace("$1", name).replace("$2", id).replace("$3", &ordinal.to_string())
        };
        (of("3", 1), of("4", 1), of("97", 0))
    };
    let (gone, marked, changed) = by_hand(&expected);
    // The vector of the changed text, from the service.
    let other = acme.knowledge_base_with("other", SERVICE).await;
    acme.put_document(
        &other,
        "x",
        &json!({ "content": "# Part 0\n\naltogether different", "content_type": "text/markdown" }),
    )
    .await;
    sql.batch_execute(&format!(
        "DELETE FROM knowledge_chunks WHERE id = {gone};
         UPDATE knowledge_chunks SET metadata = '{{\"own\": 1}}' WHERE id = {marked};
         UPDATE knowledge_chunks SET content = 'altogether different', embedding =
            (SELECT embedding FROM knowledge_chunks WHERE knowledge_base_id = '{other}')
         WHERE id = {changed}"
    ))
    .await
    .unwrap();
    assert_eq!(rows(&sql, &id).await, rows(&sql, &expected).await);
    let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
    assert_eq!(base["chunks"].as_u64(), Some(rows(&sql, &id).await.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_written_through_the_switch_are_all_there() {
    let (_app, _service, acme, sql) = start(&[]).await;
    let id = acme.knowledge_base("manual").await;
    put_all(&acme.client, &id, 5, "first").await;
    for (round, encoder) in [SERVICE, STATIC, SERVICE].into_iter().enumerate() {
        let generation = change_encoder(&acme.client, &id, encoder).await;
        let note: &'static str = ["second", "third", "fourth"][round];
        let writes = async {
            for n in 0..40 {
                acme.put_document(&id, &n.to_string(), &text(n, note)).await;
            }
        };
        tokio::join!(writes, until_switched(&acme.client, &id, &generation));
    }
    let expected = fresh(&acme, SERVICE, &named((0..40).map(|n| (n, "fourth")))).await;
    assert_eq!(rows(&sql, &id).await, rows(&sql, &expected).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_built_at_a_time_and_can_be_given_up() {
    let (_app, service, acme, sql) = start(&[]).await;
    let id = acme.knowledge_base("manual").await;
    put_all(&acme.client, &id, 5, "first").await;
    let path = format!("/v1/knowledge-bases/{id}/generations");
    let refused = async |body: Value, status: u16, told: &str| {
        let reply = acme.client.post(&path, &body).await;
        assert_eq!(reply.status, status, "{reply:?}");
        assert!(reply.json()["detail"].as_str().unwrap().contains(told), "{reply:?}");
    };
    refused(json!({ "encoder": "nobody" }), 400, "`static` and `test-model`").await;
    refused(json!({ "encoder": STATIC }), 409, "already").await;
    refused(json!({}), 400, "encoder").await;
    service.close();
    let generation = change_encoder(&acme.client, &id, SERVICE).await;
    refused(json!({ "encoder": SERVICE }), 409, "being built already").await;
    until("the building has begun", async || (service.under_way() > 0).then_some(())).await;
    let active = generations(&acme.client, &id).await[1]["id"].as_str().unwrap().to_owned();
    let delete = async |id: &str| acme.client.delete(&format!("{path}/{id}")).await.status;
    assert_eq!((delete(&active).await, delete("nonsense").await), (409, 404));
    assert_eq!(delete(&uuid::Uuid::now_v7().to_string()).await, 404);
    assert_eq!(delete(&generation).await, 204);
    service.open();
    until_switched(&acme.client, &id, &active).await;
    let expected = fresh(&acme, STATIC, &named((0..5).map(|n| (n, "first")))).await;
    assert_eq!(rows(&sql, &id).await, rows(&sql, &expected).await);

    // An empty one, and one that is deleted meanwhile.
    let empty = acme.knowledge_base("empty").await;
    let generation = change_encoder(&acme.client, &empty, SERVICE).await;
    until_switched(&acme.client, &empty, &generation).await;
    service.close();
    change_encoder(&acme.client, &id, SERVICE).await;
    assert_eq!(acme.client.delete(&format!("/v1/knowledge-bases/{id}")).await.status, 204);
    service.open();
    let generation = change_encoder(&acme.client, &empty, STATIC).await;
    until_switched(&acme.client, &empty, &generation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_is_told_and_the_building_goes_on_once_it_is_over() {
    let (_app, service, acme, _sql) = start(&[]).await;
    let id = acme.knowledge_base("manual").await;
    put_all(&acme.client, &id, 5, "first").await;
    service.answer_next(&[Manner::Status(401, None)]);
    let generation = change_encoder(&acme.client, &id, SERVICE).await;
    let problem = until("the problem is told", async || {
        let all = generations(&acme.client, &id).await;
        let problem = all.iter().find(|it| it["id"] == generation).map(|it| it["problem"].clone());
        problem.filter(|problem| !problem.is_null())
    })
    .await;
    assert_eq!(problem, "The encoder of this knowledge base refuses requests.");
    until_switched(&acme.client, &id, &generation).await;
    assert!(generations(&acme.client, &id).await[0]["problem"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_do_not_do_the_same_work() {
    let (app, service, acme, sql) = start(&[("TERTULIA_ENCODER_BATCH_TEXTS_MAX", "16")]).await;
    let other = start_on(app.database.clone(), &service, &[("TERTULIA_ENCODER_BATCH_TEXTS_MAX", "16")]).await;
    let id = acme.knowledge_base("manual").await;
    put_all(&acme.client, &id, 100, "first").await;
    let generation = change_encoder(&acme.client, &id, SERVICE).await;
    until_switched(&acme.client.at(&other.client()), &id, &generation).await;
    let mut texts: Vec<String> = service.requests().concat();
    texts.sort_unstable();
    assert_eq!(texts.len(), 300);
    texts.dedup();
    assert_eq!(texts.len(), 300, "each text was encoded once");
    let expected = fresh(&acme, SERVICE, &named((0..100).map(|n| (n, "first")))).await;
    assert_eq!(rows(&sql, &id).await, rows(&sql, &expected).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_goes_on_where_it_was() {
    let (mut app, service, acme, sql) = start(&[]).await;
    let id = acme.knowledge_base("manual").await;
    put_all(&acme.client, &id, 120, "first").await;
    // The server of this process cannot be killed; one in a process of its own takes its place.
    app.stop().await;
    let dir = data_dir();
    let mut settings = service.settings();
    settings.extend([
        ("DATABASE_URL", app.database.user_url()),
        ("TERTULIA_DATABASE_SERVICE_URL", app.database.service_url()),
        ("TERTULIA_DATABASE_DIRECT_URL", app.database.owner_url()),
        ("TERTULIA_ENCODER_BATCH_TEXTS_MAX", "64".into()),
        ("TERTULIA_ENCODER_REQUESTS_MAX", "1".into()),
    ]);
    let mut serve = Serve::start_with(dir.path(), &settings);
    let mut client = acme.client.at(&serve.client());
    // 360 chunks are two batches, of four requests and two: it is killed in the middle of each.
    service.close_after(2);
    let generation = change_encoder(&client, &id, SERVICE).await;
    for (more, encoded) in [(5, 0), (usize::MAX, 256)] {
        until("a request waits", async || service.is_waiting().then_some(())).await;
        assert_eq!(generations(&client, &id).await[0]["encoded"].as_u64(), Some(encoded));
        serve.kill();
        until("nobody waits for it", async || (service.under_way() == 0).then_some(())).await;
        match more {
            usize::MAX => service.open(),
            more => service.close_after(more),
        }
        serve = Serve::start_with(dir.path(), &settings);
        client = acme.client.at(&serve.client());
    }
    until_switched(&client, &id, &generation).await;
    let encoded = service.requests().concat().len();
    assert!(encoded <= 360 + 2 * 256, "what was written is not encoded again: {encoded}");
    assert_eq!(serve.stop(), 0);
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    let expected = fresh(&acme, SERVICE, &named((0..120).map(|n| (n, "first")))).await;
    assert_eq!(rows(&sql, &id).await, rows(&sql, &expected).await);
}
