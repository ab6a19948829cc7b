//! Sync: whatever any SQL client commits, in whatever order, the index becomes equal to the table.

use std::collections::BTreeSet;

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio_postgres::Client;

use crate::harness::{Tenant, TestApp, connect, external_ids, until};

/// Ids and contents of the knowledge base's chunks, as Postgres has them.
async fn in_table(sql: &Client, knowledge_base: &str) -> BTreeSet<(String, String)> {
    let statement =
        format!("SELECT id::text, content FROM knowledge_chunks WHERE knowledge_base_id = '{knowledge_base}'");
    sql.query(&statement, &[]).await.unwrap().into_iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The same, as the process has them in memory.
async fn in_memory(acme: &Tenant, knowledge_base: &str) -> BTreeSet<(String, String)> {
    let answer = acme.search(knowledge_base, &json!({ "query": "x", "mode": "semantic", "top_k": 100 })).await;
    assert_eq!(answer["source"], "memory");
    let text = |hit: &serde_json::Value, field: &str| hit[field].as_str().unwrap().to_owned();
    answer["results"].as_array().unwrap().iter().map(|hit| (text(hit, "chunk_id"), text(hit, "content"))).collect()
}

async fn until_equal(acme: &Tenant, sql: &Client, knowledge_base: &str) {
    until("index and table are equal", async || {
        let (table, memory) = (in_table(sql, knowledge_base).await, in_memory(acme, knowledge_base).await);
        (table == memory).then_some(())
    })
    .await;
}

async fn loaded() -> (TestApp, Tenant, String, Client) {
    loaded_with(&[]).await
}

async fn loaded_with(settings: &[(&'static str, &str)]) -> (TestApp, Tenant, String, Client) {
    let app = TestApp::start_with(settings).await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    let version = acme.put_text(&id, "first", "The first text.").await;
    acme.until_in_memory(&id, version).await;
    let sql = connect(&app.database.owner_url()).await;
    (app, acme, id, sql)
}

/// How often the server has looked for a knowledge base's changes, or whatever else the statement does.
async fn runs_of(app: &TestApp, statement: &str) -> u64 {
    let metrics = app.client().get("/metrics").await;
    let name = format!("database_query_duration_seconds_count{{query_type=\"{statement}\"}} ");
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

/// A connection that no trigger and no row security holds.
async fn without_triggers(app: &TestApp) -> Client {
    let sql = connect(&app.database.superuser_url()).await;
    sql.batch_execute("SET session_replication_role = replica").await.unwrap();
    sql
}

/// A statement that adds a chunk to the document `first`.
fn insert(knowledge_base: &str, ordinal: usize, content: &str) -> String {
    insert_many(knowledge_base, &format!("{ordinal}, {ordinal}"), &format!("'{content}'"))
}

/// A statement that adds a chunk for each ordinal `n` from the first to the last; `content` is SQL.
fn insert_many(knowledge_base: &str, ordinals: &str, content: &str) -> String {
    format!(
        "INSERT INTO knowledge_chunks (tenant_id, knowledge_base_id, generation_id, document_id, ordinal, heading, content, embedding)
         SELECT c.tenant_id, c.knowledge_base_id, c.generation_id, c.document_id, n, '', {content}, c.embedding
         FROM (SELECT * FROM knowledge_chunks WHERE knowledge_base_id = '{knowledge_base}' ORDER BY id LIMIT 1) AS c,
             generate_series({ordinals}) AS n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_by_any_sql_client_are_found() {
    let (_app, acme, id, sql) = loaded().await;
    sql.batch_execute(&insert(&id, 1, "A zebra crosses.")).await.unwrap();
    until_equal(&acme, &sql, &id).await;
    let answer = acme.search(&id, &json!({ "query": "zebra", "mode": "keyword" })).await;
    assert_eq!(answer["results"][0]["content"], "A zebra crosses.");

    sql.batch_execute("UPDATE knowledge_chunks SET content = 'A heron lands.' WHERE content LIKE '%zebra%'")
        .await
        .unwrap();
    until_equal(&acme, &sql, &id).await;
    let answer = acme.search(&id, &json!({ "query": "zebra", "mode": "keyword" })).await;
    assert!(external_ids(&answer).is_empty());

    sql.batch_execute("UPDATE documents SET title = 'Birds', metadata = '{\"kind\": \"bird\"}'").await.unwrap();
    until("the new title and metadata are there", async || {
        let filter = json!({ "type": "eq", "key": "kind", "value": "bird" });
        let path = format!("/v1/knowledge-bases/{id}/search");
        let reply = acme.client.post(&path, &json!({ "query": "heron", "mode": "keyword", "filter": filter })).await;
        (reply.status == 200 && reply.json()["results"][0]["title"] == "Birds").then_some(())
    })
    .await;

    sql.batch_execute("DELETE FROM knowledge_chunks WHERE content LIKE '%heron%'").await.unwrap();
    until_equal(&acme, &sql, &id).await;
    sql.batch_execute("DELETE FROM documents").await.unwrap();
    until_equal(&acme, &sql, &id).await;
    assert!(in_memory(&acme, &id).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_commit_out_of_order_or_roll_back_leave_no_gap() {
    let (app, acme, id, sql) = loaded().await;
    let (first, second) = (connect(&app.database.owner_url()).await, connect(&app.database.owner_url()).await);

    first
        .batch_execute(&format!(
            "BEGIN; SAVEPOINT s; {}; ROLLBACK TO s; {}",
            insert(&id, 1, "undone"),
            insert(&id, 2, "kept")
        ))
        .await
        .unwrap();
    // The second transaction waits for the first one's version, so its insert cannot be awaited yet.
    let insert_third = insert(&id, 3, "third");
    let waiting = second.batch_execute(&insert_third);
    let commit = async {
        until("the second transaction waits", async || {
            let waits =
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
            (sql.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
        first.batch_execute("COMMIT").await.unwrap();
    };
    let (outcome, ()) = tokio::join!(waiting, commit);
    outcome.unwrap();
    first.batch_execute(&format!("BEGIN; {}; ROLLBACK", insert(&id, 4, "rolled back"))).await.unwrap();
    until_equal(&acme, &sql, &id).await;
    let contents: BTreeSet<String> = in_memory(&acme, &id).await.into_iter().map(|(_, content)| content).collect();
    assert_eq!(contents, ["The first text.", "kept", "third"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_interleaving_of_writers_ends_in_an_index_equal_to_the_table() {
    let (app, acme, id, sql) = loaded().await;
    let writers = (0..4).map(|writer: u64| {
        let (url, id) = (app.database.owner_url(), id.clone());
        async move {
            let sql = connect(&url).await;
            let mut random = StdRng::seed_from_u64(writer);
            for round in 0..25 {
                let ordinal = (writer as usize + 1) * 1_000 + round;
                let statement = match random.random_range(0..5) {
                    0 => "UPDATE knowledge_chunks SET content = content || '.' WHERE ordinal % 7 = 3".to_owned(),
                    1 => format!(
                        "DELETE FROM knowledge_chunks WHERE ordinal > 0 AND ordinal % 5 = {}",
                        random.next_u32() % 5
                    ),
                    _ => insert(&id, ordinal, &format!("writer {writer} round {round}")),
                };
                let end = if random.random_bool(0.2) { "ROLLBACK" } else { "COMMIT" };
                // Two writers may deadlock; Postgres then ends one of them, which is a rollback like any other.
                if sql.batch_execute(&format!("BEGIN; {statement}; {end}")).await.is_err() {
                    sql.batch_execute("ROLLBACK").await.unwrap();
                }
            }
        }
    });
    let kill_listeners = async {
        for _ in 0..5 {
            let killed = until("the server listens", async || {
                // Waits until the backend is gone, so that none is killed twice.
                let kill = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
                            WHERE query ILIKE 'listen%' AND state = 'idle' AND datname = current_database()";
                let killed = sql.query(kill, &[]).await.unwrap();
                (!killed.is_empty()).then_some(killed)
            })
            .await;
            assert!(killed.len() == 1 && killed[0].get(0));
        }
    };
    tokio::join!(futures_util::future::join_all(writers), kill_listeners);
    until_equal(&acme, &sql, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zero_embedding_that_is_there_already_holds_nothing_up() {
    let (_app, acme, id, sql) = loaded().await;
    sql.batch_execute(&insert(&id, 1, "without direction")).await.unwrap();
    until_equal(&acme, &sql, &id).await;
    sql.batch_execute(
        "ALTER TABLE knowledge_chunks DROP CONSTRAINT knowledge_chunks_embedding_direction;
         UPDATE knowledge_chunks SET embedding = array_fill(0, ARRAY[256])::vector WHERE ordinal = 1",
    )
    .await
    .unwrap();
    let version = acme.put_text(&id, "second", "The second text.").await;
    acme.until_in_memory(&id, version).await;
    let contents: BTreeSet<String> = in_memory(&acme, &id).await.into_iter().map(|(_, content)| content).collect();
    assert_eq!(contents, ["The first text.", "The second text."].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn first_loads_leave_connections_for_everybody_else() {
    let (mut app, acme, first, sql) = loaded().await;
    let mut bases = vec![first];
    for n in 0..5 {
        let id = acme.knowledge_base(&format!("base {n}")).await;
        acme.put_text(&id, "a", "A text.").await;
        bases.push(id);
    }
    app.stop().await;
    std::fs::remove_dir_all(app.data_dir().join("snapshots")).unwrap();
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    let other = app.key_with(&acme, &tertulia::ctx::Scope::ALL).await;

    // Neither a load nor a search gets on while the chunks are locked.
    sql.batch_execute("BEGIN; LOCK TABLE knowledge_chunks").await.unwrap();
    let request = json!({ "query": "text", "mode": "keyword" });
    let searches = futures_util::future::join_all(bases.iter().map(|id| acme.search(id, &request)));
    let superuser = connect(&app.database.superuser_url()).await;
    let waiting = async |role: &str| {
        let count = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = '{role}' AND datname = current_database()"
        );
        superuser.query_one(&count, &[]).await.unwrap().get::<_, i64>(0)
    };
    let look = async {
        until("all searches wait, and a load", async || {
            (waiting(app.database.user()).await == 6 && waiting(app.database.service()).await >= 1).then_some(())
        })
        .await;
        assert_eq!(other.get("/v1/knowledge-bases").await.status, 200, "a key is looked up");
        for _ in 0..20 {
            assert_eq!(app.client().get("/readyz").await.status, 200);
        }
        assert_eq!(waiting(app.database.service()).await, 1);
        sql.batch_execute("COMMIT").await.unwrap();
    };
    tokio::join!(searches, look);
    for id in &bases {
        acme.until_in_memory(id, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_not_looked_at_again_and_again() {
    let settings = [("TERTULIA_RETRIEVAL_MEMORY_BYTES_MAX", "0"), ("TERTULIA_RETRIEVAL_POLL_INTERVAL", "10ms")];
    let app = TestApp::start_with(&settings).await;
    let acme = app.tenant("acme").await;
    let id = acme.knowledge_base("manual").await;
    acme.put_text(&id, "first", "The first text.").await;
    until("it does not fit", async || {
        let base = acme.client.get(&format!("/v1/knowledge-bases/{id}")).await.json();
        (base["status"] == "does_not_fit").then_some(())
    })
    .await;
    let (looks, polls) = (runs_of(&app, "changes/head").await, runs_of(&app, "knowledge_bases/list_versions").await);
    until("it was searched and polled often", async || {
        assert_eq!(acme.search(&id, &json!({ "query": "text" })).await["source"], "postgres");
        (runs_of(&app, "knowledge_bases/list_versions").await > polls + 20).then_some(())
    })
    .await;
    assert!(runs_of(&app, "changes/head").await <= looks + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_comes_round_to_each_of_many() {
    let app = TestApp::start_with(&[("TERTULIA_RETRIEVAL_POLL_INTERVAL", "10ms")]).await;
    let acme = app.tenant("acme").await;
    let sql = connect(&app.database.owner_url()).await;
    // More than one poll asks for.
    let create = format!(
        "BEGIN;
         CREATE TEMP TABLE new AS SELECT gen_random_uuid() AS id, gen_random_uuid() AS generation, n FROM generate_series(1, 1100) AS n;
         INSERT INTO knowledge_bases (tenant_id, id, name, generation_id) SELECT '{tenant}', id, 'base ' || n, generation FROM new;
         INSERT INTO embedding_generations (tenant_id, knowledge_base_id, id, encoder, dimensions)
         SELECT '{tenant}', id, generation, 'none', 256 FROM new;
         COMMIT",
        tenant = acme.id,
    );
    sql.batch_execute(&create).await.unwrap();
    let ids: Vec<String> =
        sql.query("SELECT id::text FROM new", &[]).await.unwrap().into_iter().map(|row| row.get(0)).collect();
    let request = json!({ "query": "x", "mode": "keyword" });
    for ids in ids.chunks(50) {
        futures_util::future::join_all(ids.iter().map(|id| acme.search(id, &request))).await;
    }
    let bases = app.app().knowledge.loaded().all();
    assert_eq!(bases.len(), 1_100);
    let all_at = async |version: u64| {
        until("all are there", async || {
            bases.iter().all(|base| base.index().is_some() && base.version() == version).then_some(())
        })
        .await;
    };
    all_at(0).await;
    // Nobody is told of it.
    without_triggers(&app).await.batch_execute("UPDATE knowledge_bases SET version = 1").await.unwrap();
    all_at(1).await;
}

/// A first load is applied in pieces, so one that breaks off has some already.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_between_two_tries_of_a_first_load_is_not_found() {
    let (mut app, acme, id, sql) = loaded().await;
    app.stop().await;
    std::fs::remove_dir_all(app.data_dir().join("snapshots")).unwrap();
    let words = "CASE WHEN n <= 1000 THEN 'zebra' ELSE 'heron' END";
    sql.batch_execute(&insert_many(&id, "1, 6000", words)).await.unwrap();
    sql.batch_execute(&insert(&id, 9_999, "broken")).await.unwrap();
    // No client can write an embedding of another length, and no index takes it.
    let break_it = "UPDATE knowledge_chunks SET embedding = '[1,2]' WHERE content = 'broken'";
    without_triggers(&app).await.batch_execute(break_it).await.unwrap();
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    let zebra = json!({ "query": "zebra", "mode": "keyword" });
    assert_eq!(acme.search(&id, &zebra).await["source"], "postgres");
    until("a first load has failed and begun anew", async || (runs_of(&app, "changes/head").await >= 2).then_some(()))
        .await;
    sql.batch_execute("DELETE FROM knowledge_chunks WHERE content IN ('zebra', 'broken')").await.unwrap();
    let version: i64 = sql.query_one("SELECT version FROM knowledge_bases", &[]).await.unwrap().get(0);
    acme.until_in_memory(&id, version as u64).await;
    assert!(external_ids(&acme.search(&id, &zebra).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_continues_from_the_snapshot() {
    let (mut app, acme, id, sql) = loaded().await;
    for n in 1..=20 {
        sql.batch_execute(&insert(&id, n, &format!("text {n}"))).await.unwrap();
    }
    until_equal(&acme, &sql, &id).await;
    app.stop().await;
    // What happens while the server is down is seen by the next start: new rows, and deletions too.
    sql.batch_execute(&insert(&id, 21, "while it was down")).await.unwrap();
    sql.batch_execute("DELETE FROM knowledge_chunks WHERE content = 'text 7'").await.unwrap();
    // What no trigger sees is not, and shows that the rest was not read again.
    let unseen = "UPDATE knowledge_chunks SET content = 'unseen' WHERE content = 'text 3'";
    assert_eq!(without_triggers(&app).await.execute(unseen, &[]).await.unwrap(), 1);
    let table = in_table(&sql, &id).await;
    let expected: BTreeSet<_> = table
        .into_iter()
        .map(|(chunk_id, content)| (chunk_id, if content == "unseen" { "text 3".to_owned() } else { content }))
        .collect();
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    assert_eq!(in_memory(&acme, &id).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_rebuilt_from_postgres() {
    let (mut app, acme, id, sql) = loaded().await;
    app.stop().await;
    let mut damaged = 0;
    for entry in walk(&app.data_dir().join("snapshots")) {
        let mut bytes = std::fs::read(&entry).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        std::fs::write(&entry, bytes).unwrap();
        damaged += 1;
    }
    assert!(damaged > 0, "the stop wrote no snapshot");
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    let version = acme.put_text(&id, "second", "The second text.").await;
    acme.until_in_memory(&id, version).await;
    until_equal(&acme, &sql, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_of_the_generation_is_followed() {
    let (_app, acme, id, sql) = loaded().await;
    let switch = format!(
        "BEGIN;
         INSERT INTO embedding_generations (tenant_id, knowledge_base_id, id, encoder, dimensions)
         SELECT tenant_id, knowledge_base_id, '{0}', encoder, dimensions FROM embedding_generations;
         {1};
         UPDATE knowledge_bases SET generation_id = '{0}';
         COMMIT",
        uuid::Uuid::nil(),
        insert(&id, 5, "of another generation").replace("c.generation_id", &format!("'{}'", uuid::Uuid::nil()))
    );
    sql.batch_execute(&switch).await.unwrap();
    until("only the new generation is in memory", async || {
        let contents: Vec<String> = in_memory(&acme, &id).await.into_iter().map(|(_, content)| content).collect();
        (contents == ["of another generation"]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_written_leaves_the_one_before() {
    // So that only the stop writes one.
    let (mut app, acme, id, sql) = loaded_with(&[("TERTULIA_RETRIEVAL_SNAPSHOT_INTERVAL", "3600s")]).await;
    let generation: uuid::Uuid = sql.query_one("SELECT generation_id FROM knowledge_bases", &[]).await.unwrap().get(0);
    let folder = app.data_dir().join(format!("snapshots/{}/{id}", acme.id));
    let (before, obstacle) = (folder.join(uuid::Uuid::nil().to_string()), folder.join(generation.to_string()));
    std::fs::create_dir_all(&before).unwrap();
    std::fs::write(&obstacle, "").unwrap();
    app.stop().await;
    assert!(obstacle.is_file() && before.exists());
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_sees_what_another_writes() {
    let (app, acme, id, sql) = loaded().await;
    let second = TestApp::start_on(app.database.clone(), &[]).await;
    let other = Tenant { client: acme.client.at(&second.client()), ..acme };
    let version = other.put_text(&id, "second", "Written elsewhere.").await;
    other.until_in_memory(&id, version).await;
    let first = Tenant { client: other.client.at(&app.client()), ..other };
    until_equal(&first, &sql, &id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_become_one_once_nothing_is_written() {
    let (mut app, acme, id, sql) = loaded().await;
    // Each is more than twice as large as the next, so that writers leave them apart.
    let mut version = 0;
    for (name, sentences) in [("large", 900), ("middle", 280), ("small", 80)] {
        let text: String = (0..sentences).map(|number| format!("Sentence {number} of the {name} text. ")).collect();
        version = acme.put_text(&id, name, &text).await;
    }
    acme.until_in_memory(&id, version).await;
    let request = json!({ "query": "sentence", "top_k": 1, "explain": true });
    let segments = async |acme: &Tenant| acme.search(&id, &request).await["explain"]["segments"].as_u64();
    until("all segments are one", async || (segments(&acme).await == Some(1)).then_some(())).await;
    until_equal(&acme, &sql, &id).await;

    // It was saved as one.
    app.restart().await;
    let acme = Tenant { client: acme.client.at(&app.client()), ..acme };
    assert_eq!(segments(&acme).await, Some(1));
}
