//! Row security: a tenant's transaction sees and touches that tenant's rows only, and one without a tenant sees nothing.

use super::{TestDatabase, begin, insert_chunks, refusal, value};
use crate::store::{chunks, documents, knowledge_bases, page};

const TABLES: [&str; 24] = [
    "tenants",
    "api_keys",
    "users",
    "auth_sessions",
    "widgets",
    "meetings",
    "meeting_participants",
    "sessions",
    "messages",
    "knowledge_bases",
    "embedding_generations",
    "documents",
    "knowledge_chunks",
    "chunk_deletions",
    "cost_events",
    "cost_summaries",
    "budgets",
    "budget_alerts",
    "unresolved_problems",
    "unresolved_problem_users",
    "webhooks",
    "outbox",
    "idempotency_keys",
    "audit_log",
];
const FIRST_PAGE: page::PageRequest = page::PageRequest { limit: 100, start: page::Start::Offset(0) };

#[tokio::test(flavor = "multi_thread")]
async fn every_table_has_row_security_forced_and_its_tenant_first() {
    let db = TestDatabase::create().await;
    let superuser = db.superuser().await;
    let unsecured = "SELECT coalesce(string_agg(relname, ' '), '') FROM pg_class WHERE relkind IN ('r', 'p')
        AND relnamespace = 'public'::regnamespace AND relname <> 'refinery_schema_history'
        AND NOT (relrowsecurity AND relforcerowsecurity)";
    assert_eq!(value::<String>(&superuser, unsecured).await, "");
    let tables = "SELECT count(*) FROM pg_class WHERE relrowsecurity AND relnamespace = 'public'::regnamespace";
    assert_eq!(value::<i64>(&superuser, tables).await, TABLES.len() as i64, "TABLES names them all");
    // A key or index that starts with something else cannot serve one tenant's rows. What is looked up before the tenant is
    // known or for all tenants at once, and what has no first column, is listed here.
    let elsewhere =
        "SELECT coalesce(string_agg(i.indexrelid::regclass::text, ' ' ORDER BY i.indexrelid::regclass::text), '')
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE c.relnamespace = 'public'::regnamespace AND c.relname NOT IN ('tenants', 'refinery_schema_history')
            AND a.attname IS DISTINCT FROM 'tenant_id'";
    let expected = "api_keys_public_id_key auth_sessions_expiry auth_sessions_token_sha256_key idempotency_keys_expiry \
        knowledge_chunks_nearest_256 outbox_due outbox_finished widgets_embed_key_key widgets_of_origin";
    assert_eq!(value::<String>(&superuser, elsewhere).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_and_touches_only_its_own() {
    let db = TestDatabase::create().await;
    let (acme, rival) = (db.tenant("acme").await, db.tenant("rival").await);
    let base = db.base(&acme, "docs").await;
    db.base(&rival, "docs").await;
    let document = db.put(&acme, &base, "a", 2).await;
    db.put(&acme, &base, "a", 1).await;

    let mut tx = db.tx(&rival).await;
    assert_eq!(knowledge_bases::find(&mut tx, base.id).await.unwrap(), None);
    assert_eq!(knowledge_bases::list(&mut tx, &FIRST_PAGE).await.unwrap().items.len(), 1);
    assert_eq!(documents::find(&mut tx, base.id, document.id).await.unwrap(), None);
    assert_eq!(documents::list(&mut tx, base.id, &FIRST_PAGE).await.unwrap().total, Some(0));
    assert!(chunks::list(&mut tx, document.id, &FIRST_PAGE).await.unwrap().items.is_empty());
    assert!(!knowledge_bases::delete(&mut tx, base.id).await.unwrap());
    tx.commit().await.unwrap();
    assert!(db.store.changes(rival.tenant_id, base.id).await.unwrap().is_none());

    let client = db.begin(rival.tenant_id).await;
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM tenants").await, 1);
    for table in ["documents", "knowledge_chunks", "chunk_deletions"] {
        assert_eq!(value::<i64>(&client, &format!("SELECT count(*) FROM {table}")).await, 0, "{table}");
    }
    for sql in [
        "UPDATE knowledge_chunks SET content = ''",
        "UPDATE documents SET title = ''",
        "DELETE FROM documents",
        "DELETE FROM knowledge_chunks",
    ] {
        assert_eq!(client.execute(sql, &[]).await.unwrap(), 0, "{sql}");
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    // Writing into another tenant: refused, and nothing of it stays.
    let generation = format!(
        "INSERT INTO embedding_generations (tenant_id, knowledge_base_id, encoder, dimensions) VALUES ('{}', '{}', 'e', 3)",
        acme.tenant_id, base.id
    );
    let new_document = format!(
        "INSERT INTO documents (tenant_id, knowledge_base_id, external_id) VALUES ('{}', '{}', 'z')",
        acme.tenant_id, base.id
    );
    for (sql, code) in [
        (insert_chunks(&acme, &base, document.id, "9, 9"), "23503"),
        (generation, "42501"),
        (new_document, "42501"),
        ("UPDATE knowledge_bases SET version_xid = NULL".to_owned(), "42501"),
        ("UPDATE knowledge_bases SET document_count = 0".to_owned(), "42501"),
        ("UPDATE embedding_generations SET chunk_count = 0".to_owned(), "42501"),
        ("DELETE FROM chunk_deletions".to_owned(), "42501"),
        ("SELECT secret_sha256 FROM api_keys".to_owned(), "42501"),
        ("UPDATE api_keys SET public_id = 'x'".to_owned(), "42501"),
        ("SELECT password_hash FROM users".to_owned(), "42501"),
        ("SELECT token_sha256 FROM auth_sessions".to_owned(), "42501"),
        ("INSERT INTO auth_sessions SELECT".to_owned(), "42501"),
        ("SELECT identity_secrets FROM widgets".to_owned(), "42501"),
        ("SELECT signing_secrets FROM widgets".to_owned(), "42501"),
        ("SELECT secrets FROM webhooks".to_owned(), "42501"),
        ("UPDATE messages SET content = ''".to_owned(), "42501"),
        ("DELETE FROM messages".to_owned(), "42501"),
        ("UPDATE sessions SET last_revision = 0".to_owned(), "42501"),
        ("UPDATE audit_log SET after = NULL".to_owned(), "42501"),
        ("DELETE FROM audit_log".to_owned(), "42501"),
        ("DELETE FROM cost_events".to_owned(), "42501"),
        ("UPDATE tenants SET tier = 'enterprise'".to_owned(), "42501"),
        ("TRUNCATE documents".to_owned(), "42501"),
        ("CALL tertulia_secure('documents')".to_owned(), "42501"),
    ] {
        begin(&client, rival.tenant_id).await;
        assert_eq!(refusal(&client, &sql).await, code, "{sql}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    let now = db.look(&acme, &base).await;
    assert_eq!((now.version, now.document_count, now.chunk_count), (2, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_tenant_nothing_is_seen() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let base = db.base(&ctx, "docs").await;
    db.put(&ctx, &base, "a", 2).await;
    let client = db.connect("tertulia_user").await;
    let nothing = async |client: &tokio_postgres::Client, when: &str| {
        for table in TABLES {
            assert_eq!(value::<i64>(client, &format!("SELECT count(*) FROM {table}")).await, 0, "{table} {when}");
        }
        let hits = format!(
            "SELECT (SELECT count(*) FROM tertulia_keyword_hits('{0}', '{1}', 'text', NULL, 9))
                + (SELECT count(*) FROM tertulia_nearest_chunks('{0}', '{1}', '[1,2,3]', NULL, 9))",
            base.id, base.generation_id
        );
        assert_eq!(value::<i64>(client, &hits).await, 0, "{when}");
    };
    nothing(&client, "before any tenant was set").await;
    begin(&client, ctx.tenant_id).await;
    assert_eq!(value::<i64>(&client, "SELECT count(*) FROM knowledge_chunks").await, 2);
    client.batch_execute("COMMIT").await.unwrap();
    nothing(&client, "after a transaction that had one").await;
    // The service role sees all, the owner too, for migrations; neither may skip row security.
    for role in ["tertulia_svc", "tertulia_owner"] {
        let client = db.connect(role).await;
        assert_eq!(value::<i64>(&client, "SELECT count(*) FROM knowledge_chunks").await, 2, "{role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_pool_runs_for_ever_or_reads_a_table_that_grew() {
    let db = TestDatabase::create().await;
    // Settings of a database are not copied with it, so the template is asked.
    let cluster = db.cluster.cluster.as_ref().unwrap();
    for (role, settings) in
        [("tertulia_user", "30s 1min off"), ("tertulia_svc", "30s 1min off"), ("tertulia_owner", "0 1min on")]
    {
        let client = super::address(cluster, super::TEMPLATE, role).connect_and_drive().await.unwrap();
        let shown = "SELECT concat_ws(' ', current_setting('statement_timeout'),
            current_setting('idle_in_transaction_session_timeout'), current_setting('enable_seqscan'))";
        assert_eq!(value::<String>(&client, shown).await, settings, "{role}");
    }
}
