//! The statements that run most often, explained as their roles on tables that hold something: each reads by the index that
//! was made for it, whatever its parameters are, and sorts nothing.

use std::{fs, path::Path};

use time::OffsetDateTime;
use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{TestDatabase, at, begin, value};

/// A parameter with its type, as statements are sent.
type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// The id of row `number` of `sql/test/many_conversations.sql`.
fn id(number: u32) -> Uuid {
    format!("{number:032}").parse().unwrap()
}

fn statement(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/sql");
    fs::read_to_string(root.join(name).with_extension("sql")).unwrap()
}

/// The plan for these very parameters, which is how an unnamed statement is planned.
async fn plan(client: &Client, sql: &str, params: &[Param<'_>]) -> String {
    let rows = client.query_typed(&format!("EXPLAIN {sql}"), params).await.unwrap();
    rows.iter().map(|row| row.get::<_, String>(0) + "\n").collect()
}

fn check(name: &str, plan: &str, indexes: &[&str]) {
    assert!(!plan.contains("Seq Scan"), "{name}:\n{plan}");
    assert!(!plan.contains("Sort"), "{name}:\n{plan}");
    for index in indexes {
        assert!(plan.contains(&format!(" using {index} on")), "{name} without {index}:\n{plan}");
    }
}

/// Two tenants with many conversations, so that none has most of a table.
async fn filled() -> (TestDatabase, Client) {
    let db = TestDatabase::create().await;
    let acme = db.tenant("acme").await;
    let owner = db.connect("tertulia_owner").await;
    for tenant_id in [acme.tenant_id, db.tenant("rival").await.tenant_id] {
        let sql = include_str!("../sql/test/many_conversations.sql").replace("$TENANT", &tenant_id.to_string());
        owner.batch_execute(&sql).await.unwrap();
    }
    owner.batch_execute("VACUUM ANALYZE").await.unwrap();
    let client = db.connect("tertulia_user").await;
    client.batch_execute("SET enable_seqscan = on").await.unwrap();
    begin(&client, acme.tenant_id).await;
    (db, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_are_read_by_the_indexes_that_are_made_for_it() {
    let (db, client) = filled().await;
    sessions_are_listed_by_the_index_of_each_condition(&client).await;
    messages_are_read_by_number_time_revision_and_client_id(&db, &client).await;
    a_search_of_messages_reads_few_pages(&db, &client).await;
}

async fn sessions_are_listed_by_the_index_of_each_condition(client: &Client) {
    let sql = statement("sessions/list");
    let newest = (at("2026-12-31T00:00:00Z"), Uuid::max());
    let deep = (at("2026-01-20T00:00:00Z"), id(2_000));
    let (widget, meeting, visitor) = (id(3), id(4), "v77");
    let (from, to) = (at("2026-01-10T00:00:00Z"), at("2026-01-11T00:00:00Z"));
    let none = (None::<Uuid>, None::<Uuid>, None::<&str>, None::<bool>);
    for (name, (widget, meeting, visitor, is_active), span, start, index) in [
        ("all", none, false, newest, "sessions_newest"),
        ("all, a late page", none, false, deep, "sessions_newest"),
        ("of a day", none, true, newest, "sessions_newest"),
        ("of a widget", (Some(widget), None, None, None), false, newest, "sessions_of_widget"),
        ("of a widget, a late page", (Some(widget), None, None, None), false, deep, "sessions_of_widget"),
        ("of a widget, active", (Some(widget), None, None, Some(true)), false, newest, "sessions_of_widget_active"),
        ("of a widget, ended", (Some(widget), None, None, Some(false)), false, newest, "sessions_of_widget"),
        ("of a meeting", (None, Some(meeting), None, None), false, newest, "sessions_of_meeting"),
        ("of a visitor", (None, None, Some(visitor), None), false, newest, "sessions_of_visitor"),
        ("active", (None, None, None, Some(true)), false, newest, "sessions_active"),
        ("ended", (None, None, None, Some(false)), false, newest, "sessions_ended"),
    ] {
        let (from, to) = (span.then_some(from), span.then_some(to));
        let filters: [Param<'_>; 6] = [
            (&widget, Type::UUID),
            (&meeting, Type::UUID),
            (&visitor, Type::TEXT),
            (&is_active, Type::BOOL),
            (&from, Type::TIMESTAMPTZ),
            (&to, Type::TIMESTAMPTZ),
        ];
        let page: [Param<'_>; 4] =
            [(&start.0, Type::TIMESTAMPTZ), (&start.1, Type::UUID), (&0_i64, Type::INT8), (&51_i64, Type::INT8)];
        let params = [&filters[..], &page[..]].concat();
        check(name, &plan(client, &sql, &params).await, &[index]);
        // A few that are there: the conditions are not such that an index serves them and nothing fulfils them.
        let rows = client.query_typed(&sql, &params).await.unwrap();
        assert!(rows.len() >= 4, "{name}: {}", rows.len());
        assert!(rows.windows(2).all(
            |pair| pair[0].get::<_, OffsetDateTime>("created_at") >= pair[1].get::<_, OffsetDateTime>("created_at")
        ));
        let count = client.query_typed_one(&statement("sessions/count"), &filters).await.unwrap().get::<_, i64>(0);
        assert!(count >= rows.len() as i64, "{name}: {count}");
        assert!(start == deep || count.min(51) == rows.len() as i64, "{name}: {count}");
    }
    let found = plan(client, &statement("sessions/find"), &[(&id(4_000), Type::UUID)]).await;
    check("find", &found, &["sessions_pkey"]);
}

async fn messages_are_read_by_number_time_revision_and_client_id(db: &TestDatabase, client: &Client) {
    let session = id(4_000);
    let (from, to) = (at("2026-01-20T00:00:00Z"), at("2026-02-20T00:00:00Z"));
    let (newest, last) = (at("2026-12-31T00:00:00Z"), Uuid::max());
    let by_seq = "messages_tenant_id_session_id_seq_key";
    let of_session = (&session as &(dyn ToSql + Sync), Type::UUID);
    let limit = (&101_i64 as &(dyn ToSql + Sync), Type::INT8);
    let number = |number: &'static i64| (number as &(dyn ToSql + Sync), Type::INT8);
    let cases: [(&str, Vec<Param<'_>>, &str, usize); 8] = [
        ("messages/list", vec![of_session.clone(), number(&0), limit.clone()], by_seq, 4),
        ("messages/list", vec![of_session.clone(), number(&2), limit.clone()], by_seq, 2),
        // Past its end there is a row still, which tells where that is.
        ("messages/list", vec![of_session.clone(), number(&9), limit.clone()], by_seq, 1),
        ("messages/list_newest", vec![of_session.clone(), number(&i64::MAX), number(&1), limit.clone()], by_seq, 3),
        (
            "messages/list_by_time",
            vec![of_session.clone(), (&from, Type::TIMESTAMPTZ), (&to, Type::TIMESTAMPTZ), limit.clone()],
            "messages_by_time",
            4,
        ),
        ("messages/list_revised", vec![of_session.clone(), number(&0), limit.clone()], "messages_revised", 1),
        (
            "messages/list_of_tenant",
            vec![(&newest, Type::TIMESTAMPTZ), (&last, Type::UUID), limit.clone()],
            "messages_newest",
            101,
        ),
        ("messages/find", vec![of_session.clone(), (&session, Type::UUID)], "messages_pkey", 0),
    ];
    for (name, params, index, count) in cases {
        let sql = statement(name);
        check(name, &plan(client, &sql, &params).await, &[index]);
        assert_eq!(client.query_typed(&sql, &params).await.unwrap().len(), count, "{name}");
    }
    // How the function that posts finds what was posted before.
    let repeated = "SELECT m.seq FROM messages m
        WHERE m.tenant_id = tertulia_tenant_id() AND m.session_id = $1 AND m.client_id = $2";
    let params = [of_session, (&"16001" as &(dyn ToSql + Sync), Type::TEXT)];
    check("client id", &plan(client, repeated, &params).await, &["messages_client_id"]);
    assert_eq!(client.query_typed_one(repeated, &params).await.unwrap().get::<_, i64>(0), 2);

    let service = db.connect("tertulia_svc").await;
    service.batch_execute("SET enable_seqscan = on").await.unwrap();
    let tenants: Vec<Uuid> =
        service.query("SELECT id FROM tenants", &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let sessions = vec![id(4_000), id(5_000)];
    let params: [Param<'_>; 2] = [(&tenants, Type::UUID_ARRAY), (&sessions, Type::UUID_ARRAY)];
    let heads = statement("sessions/list_heads");
    check("heads", &plan(&service, &heads, &params).await, &["sessions_pkey"]);
    assert_eq!(service.query_typed(&heads, &params).await.unwrap().len(), 2);
}

/// What the function does inside no plan of its caller shows, so its pages are counted: common words, rare ones, and a page
/// far back cost no more than a share of what reading the table would.
async fn a_search_of_messages_reads_few_pages(db: &TestDatabase, client: &Client) {
    let sql = statement("messages/search");
    let (newest, long_ago) = (at("2026-12-31T00:00:00Z"), at("2026-01-05T00:00:00Z"));
    let owner = db.connect("tertulia_owner").await;
    let pages = value::<i32>(&owner, "SELECT relpages FROM pg_class WHERE relname = 'messages'").await;
    for (question, before, count) in [
        ("question", newest, 51),
        ("replication", newest, 51),
        ("replication", long_ago, 51),
        ("number 23999", newest, 1),
        ("\"number 17\"", newest, 1),
        ("nowhere", newest, 0),
    ] {
        let params: [Param<'_>; 4] =
            [(&question, Type::TEXT), (&before, Type::TIMESTAMPTZ), (&Uuid::max(), Type::UUID), (&51_i64, Type::INT8)];
        // The first time a session plans what is within.
        assert_eq!(client.query_typed(&sql, &params).await.unwrap().len(), count, "{question}");
        let explained = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}");
        let row = client.query_typed_one(&explained, &params).await.unwrap();
        let json: serde_json::Value = row.get(0);
        let plan = &json[0]["Plan"];
        let read =
            ["Shared Hit Blocks", "Shared Read Blocks"].map(|name| plan[name].as_i64().unwrap()).iter().sum::<i64>();
        assert!(read < i64::from(pages) / 3, "{question}: {read} pages of {pages}\n{json:#}");
        assert!(!json.to_string().contains("Seq Scan"), "{json:#}");
    }
}

/// Lists that are short, or asked for seldom: on empty tables, with nothing but an index to choose.
#[tokio::test(flavor = "multi_thread")]
async fn every_order_of_a_list_has_an_index() {
    let db = TestDatabase::create().await;
    let client = db.connect("tertulia_svc").await;
    client.batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off").await.unwrap();
    let newest = "ORDER BY created_at DESC, id DESC";
    let nobody = "'00000000-0000-0000-0000-000000000000'";
    for (table, condition, order) in [
        ("api_keys", "", newest),
        ("users", "", newest),
        ("auth_sessions", "AND user_id = $", newest),
        ("widgets", "", newest),
        ("meetings", "", newest),
        ("meetings", "", "ORDER BY starts_at DESC, id DESC"),
        ("meeting_participants", "AND meeting_id = $", "ORDER BY id"),
        ("meeting_participants", "AND user_id = $", "ORDER BY meeting_id"),
        ("audit_log", "", newest),
        ("audit_log", "AND resource_id = $", newest),
        ("audit_log", "AND actor_id = $", newest),
        ("cost_events", "", newest),
        ("cost_events", "AND session_id = $", newest),
        ("cost_summaries", "", "ORDER BY period_start DESC, period_end DESC"),
        ("budgets", "", newest),
        ("budget_alerts", "", "ORDER BY triggered_at DESC, id DESC"),
        ("unresolved_problems", "", newest),
        ("unresolved_problems", "AND state = 'open'", "ORDER BY last_asked_at DESC, id DESC"),
        ("unresolved_problem_users", "AND problem_id = $ AND notified_at IS NULL", "ORDER BY id"),
        ("webhooks", "", newest),
        ("outbox", "AND webhook_id = $", newest),
    ] {
        let condition = condition.replace('$', nobody);
        let sql = format!("SELECT tenant_id FROM {table} WHERE tenant_id = {nobody} {condition} {order} LIMIT 50");
        check(&sql, &plan(&client, &sql, &[]).await, &[]);
    }
    for sql in [
        "SELECT id FROM outbox WHERE state = 'pending' AND due_at <= now() ORDER BY due_at LIMIT 50",
        "SELECT id FROM outbox WHERE finished_at < now() LIMIT 50",
        "SELECT id FROM auth_sessions WHERE expires_at < now() LIMIT 50",
        "SELECT key FROM idempotency_keys WHERE expires_at < now() LIMIT 50",
        "SELECT id FROM widgets WHERE embed_key = 'x'",
        "SELECT id FROM auth_sessions WHERE token_sha256 = 'x'",
        "SELECT id FROM users WHERE tenant_id = '00000000-0000-0000-0000-000000000000' AND email = 'x'",
    ] {
        check(sql, &plan(&client, sql, &[]).await, &[]);
    }
}
