//! What holds for every table: who may see which rows, and that nothing is looked up without an index.

use super::{TestDatabase, refusal, value};

#[tokio::test(flavor = "multi_thread")]
async fn every_table_has_the_three_policies_for_reading_and_writing() {
    let db = TestDatabase::create().await;
    let superuser = db.superuser().await;
    let policies = "SELECT tablename::text, array_agg(
            concat_ws(' ', policyname, permissive, cmd, array_to_string(roles, ','), qual, with_check) ORDER BY policyname)
        FROM pg_policies WHERE schemaname = 'public' GROUP BY tablename ORDER BY tablename";
    let tables = superuser.query(policies, &[]).await.unwrap();
    assert!(tables.len() >= 24);
    for row in tables {
        let (table, found): (String, Vec<String>) = (row.get(0), row.get(1));
        let own = if table == "tenants" { "id" } else { "tenant_id" };
        let own = format!("({own} = ( SELECT tertulia_tenant_id() AS tertulia_tenant_id))");
        let expected = [
            "owner PERMISSIVE ALL tertulia_owner true true".to_owned(),
            "service PERMISSIVE ALL tertulia_service true true".to_owned(),
            format!("tenant PERMISSIVE ALL public {own} {own}"),
        ];
        assert_eq!(found, expected, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_foreign_key_has_an_index_and_no_index_is_there_twice() {
    let db = TestDatabase::create().await;
    let superuser = db.superuser().await;
    // An index serves a foreign key that begins with the same columns, whatever their order; or one that names a single row
    // by some of them. One that leaves out rows without a reference does too.
    let unserved = "SELECT coalesce(string_agg(f.conrelid::regclass || ': ' || f.conname, ', '), '')
        FROM pg_constraint f
        WHERE f.contype = 'f' AND f.connamespace = 'public'::regnamespace AND NOT EXISTS (
            SELECT FROM pg_index i
            WHERE i.indrelid = f.conrelid AND i.indisvalid
                AND (i.indpred IS NULL
                    OR pg_get_expr(i.indpred, i.indrelid) ~ '^\\([a-z_]+ IS NOT NULL\\)$')
                AND CASE WHEN i.indnkeyatts >= cardinality(f.conkey)
                    THEN (i.indkey::smallint[])[0:cardinality(f.conkey) - 1] @> f.conkey
                    ELSE i.indisunique AND f.conkey @> (i.indkey::smallint[])[0:i.indnkeyatts - 1]
                END)";
    assert_eq!(value::<String>(&superuser, unserved).await, "");
    let count = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
        WHERE c.relnamespace = 'public'::regnamespace AND c.relrowsecurity AND i.indisvalid";
    assert!(value::<i64>(&superuser, count).await > 60);
    let twice = "SELECT count(*) FROM (
            SELECT FROM pg_index GROUP BY indrelid, indkey, indoption, indclass, indexprs::text, indpred::text
            HAVING count(*) > 1
        ) AS same";
    assert_eq!(value::<i64>(&superuser, twice).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_column_cannot_mean_is_refused() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let client = db.connect("tertulia_svc").await;
    let owner = db.connect("tertulia_owner").await;
    let tenant = ctx.tenant_id;
    let users = "INSERT INTO users (tenant_id, email, role, password_hash)";
    client.batch_execute(&format!("{users} VALUES ('{tenant}', 'ada@acme.test', 'owner', NULL)")).await.unwrap();
    for (sql, code) in [
        (format!("{users} VALUES ('{tenant}', 'ada@acme.test', 'viewer', NULL)"), "23505"),
        (format!("{users} VALUES ('{tenant}', 'Bob@acme.test', 'viewer', NULL)"), "23514"),
        (format!("{users} VALUES ('{tenant}', 'nobody', 'viewer', NULL)"), "23514"),
        (format!("{users} VALUES ('{tenant}', 'bob@acme.test', 'root', NULL)"), "23514"),
        (format!("{users} VALUES ('{tenant}', 'bob@acme.test', 'viewer', 'hunter2')"), "23514"),
    ] {
        assert_eq!(refusal(&client, &sql).await, code, "{sql}");
    }
    let widgets = "INSERT INTO widgets (tenant_id, name, embed_key, allowed_origins, is_identity_required)";
    let sessions = "INSERT INTO sessions (tenant_id, id, widget_id, meeting_id, metadata)";
    let budgets = "INSERT INTO budgets (tenant_id, scope, scope_id, period, limit_nanodollars, thresholds)";
    let id = "01890000-0000-7000-8000-000000000001";
    for sql in [
        format!("{widgets} VALUES ('{tenant}', '', 'wk_0123456789abcdef', '{{}}', false)"),
        format!("{widgets} VALUES ('{tenant}', 'site', 'short', '{{}}', false)"),
        format!("{widgets} VALUES ('{tenant}', 'site', 'wk_0123456789abcdef', '{{NULL}}', false)"),
        format!("{widgets} VALUES ('{tenant}', 'site', 'wk_0123456789abcdef', '{{}}', true)"),
        format!("{sessions} VALUES ('{tenant}', '{id}', '{id}', '{id}', '{{}}')"),
        format!("{sessions} VALUES ('{tenant}', '{id}', NULL, NULL, '[]')"),
        format!("{budgets} VALUES ('{tenant}', 'tenant', '{id}', 'day', 1, '{{50}}')"),
        format!("{budgets} VALUES ('{tenant}', 'widget', '{id}', 'day', 1, '{{0}}')"),
        format!("{budgets} VALUES ('{tenant}', 'widget', '{id}', 'day', -1, '{{50}}')"),
        format!(
            "INSERT INTO webhooks (tenant_id, url, events, secrets) VALUES ('{tenant}', 'ftp://x', '{{a}}', '{{x}}')"
        ),
        format!("INSERT INTO audit_log (tenant_id, actor_kind, action) VALUES ('{tenant}', 'server', 'everything')"),
        format!("INSERT INTO meetings (tenant_id, title, ends_at) VALUES ('{tenant}', 'x', '2000-01-01')"),
    ] {
        assert_eq!(refusal(&owner, &sql).await, "23514", "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_goes_with_everything_and_a_widget_leaves_its_sessions() {
    let db = TestDatabase::create().await;
    let (acme, rival) = (db.tenant("acme").await, db.tenant("rival").await);
    let owner = db.connect("tertulia_owner").await;
    for ctx in [&acme, &rival] {
        let sql = include_str!("../sql/test/one_of_each.sql").replace("$TENANT", &ctx.tenant_id.to_string());
        owner.batch_execute(&sql).await.unwrap();
    }
    let client = db.begin(acme.tenant_id).await;
    client.batch_execute("DELETE FROM widgets; DELETE FROM meetings; DELETE FROM users; COMMIT").await.unwrap();
    let left = "SELECT count(*) FILTER (WHERE num_nonnulls(widget_id, meeting_id) = 0) FROM sessions";
    assert_eq!(value::<i64>(&owner, left).await, 2, "of four");
    assert_eq!(value::<i64>(&owner, "SELECT count(*) FROM auth_sessions").await, 1, "of two");
    db.connect("tertulia_svc").await.batch_execute("DELETE FROM tenants WHERE slug = 'acme'").await.unwrap();
    let count = "SELECT string_agg(relname || ' ' || (xpath('/row/n/text()', query_to_xml(
            format('SELECT count(*) AS n FROM %I', relname), false, true, '')))[1], ', ' ORDER BY relname)
        FROM pg_class WHERE relrowsecurity AND relnamespace = 'public'::regnamespace
            AND relname NOT IN ('knowledge_bases', 'embedding_generations', 'documents', 'knowledge_chunks',
                'chunk_deletions', 'tenants')";
    assert_eq!(
        value::<String>(&owner, count).await,
        "api_keys 2, audit_log 1, auth_sessions 1, budget_alerts 1, budgets 1, cost_events 1, cost_summaries 1, \
         idempotency_keys 1, meeting_participants 1, meetings 1, messages 1, outbox 1, sessions 2, \
         unresolved_problem_users 1, unresolved_problems 1, users 1, webhooks 1, widgets 1"
    );
}
