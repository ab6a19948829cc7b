//! Every statement is one that Postgres understands, with indexes for those that run often.

use std::{fs, path::Path};

use super::{TestDatabase, value};

/// Folders of statements that run in the pools' transactions.
const FOLDERS: [&str; 19] = [
    "tenants",
    "api_keys",
    "users",
    "auth_sessions",
    "audit_log",
    "idempotency_keys",
    "widgets",
    "meetings",
    "participants",
    "sessions",
    "messages",
    "knowledge_bases",
    "generations",
    "building",
    "documents",
    "chunks",
    "changes",
    "search",
    "replica",
];

fn statements() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/sql");
    let mut found = Vec::new();
    for folder in FOLDERS {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{folder}/{}", path.file_stem().unwrap().to_str().unwrap());
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_can_be_prepared_in_its_role() {
    let db = TestDatabase::create().await;
    let all = statements();
    assert!(all.len() > 25);
    for role in ["tertulia_user", "tertulia_svc"] {
        let client = db.connect(role).await;
        for (name, sql) in &all {
            client.prepare(sql).await.unwrap_or_else(|error| panic!("{name} as {role}: {error:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_lookups_are_served_by_indexes() {
    let db = TestDatabase::create().await;
    // Counts read everything by nature, one has no table to speak of, and the searches' work is inside of functions.
    let exempt = [
        "knowledge_bases/count",
        "users/count",
        "api_keys/count",
        "widgets/count",
        "widgets/rotate_secret",
        // Its index is one for bitmap scans, which are turned off here.
        "widgets/has_origin",
        "meetings/count",
        "tenants/list",
        "search/unknown_key",
        "search/known_keys",
        "documents/unknown_key",
        "documents/known_keys",
    ];
    for (name, sql) in statements() {
        let is_read = sql.contains("SELECT") && !sql.contains("INSERT");
        if !is_read || exempt.contains(&name.as_str()) {
            continue;
        }
        let is_service = [
            "tenants/",
            "api_keys/find_by_public_id",
            "api_keys/find_id",
            "users/find_to_log_in",
            "users/find_password",
            "auth_sessions/find_by_token",
            "auth_sessions/prune",
            "widgets/find_secrets",
            "widgets/find_by_embed_key",
            "widgets/has_origin",
            "idempotency_keys/prune",
            "changes/",
            "building/",
            "knowledge_bases/list_versions",
            "sessions/list_heads",
        ];
        let role =
            if is_service.iter().any(|prefix| name.starts_with(prefix)) { "tertulia_svc" } else { "tertulia_user" };
        let client = db.connect(role).await;
        // On tables as small as these a plan without an index would be the cheapest.
        client
            .batch_execute(
                "SET enable_seqscan = off; SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan",
            )
            .await
            .unwrap();
        client.batch_execute(&format!("PREPARE asked AS {sql}")).await.unwrap();
        let count: i32 =
            value(&client, "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'asked'")
                .await;
        let arguments = vec!["NULL"; count as usize].join(", ");
        let execute = if count == 0 { "EXECUTE asked".to_owned() } else { format!("EXECUTE asked({arguments})") };
        let rows = client.query(&format!("EXPLAIN {execute}"), &[]).await.unwrap();
        let plan: String = rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect();
        assert!(!plan.contains("Seq Scan"), "{name}:\n{plan}");
        let sorts_a_few = name.starts_with("search/") || name == "messages/search";
        assert!(sorts_a_few || !plan.contains("Sort"), "{name}:\n{plan}");
    }
}
