//! Sessions and their messages: numbers without a gap, repeats that change nothing, edits that leave a trace, and full text.

use std::collections::BTreeSet;

use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Row, types::Type};
use uuid::Uuid;

use super::{TestDatabase, at, begin, refusal, until_somebody_waits, value};
use crate::ctx::Ctx;

const POST: &str = include_str!("../sql/messages/post.sql");
const EDIT: &str = include_str!("../sql/messages/edit.sql");
const SEARCH: &str = include_str!("../sql/messages/search.sql");

impl TestDatabase {
    async fn session(&self, ctx: &Ctx) -> Uuid {
        let client = self.begin(ctx.tenant_id).await;
        let id = Uuid::now_v7();
        let sql = format!("INSERT INTO sessions (tenant_id, id) VALUES ('{}', '{id}'); COMMIT", ctx.tenant_id);
        client.batch_execute(&sql).await.unwrap();
        id
    }
}

/// Posts in the transaction that is open: no row if there is no such session, and one without an id if it has ended.
async fn post(client: &Client, session: Uuid, content: &str, client_id: Option<&str>) -> Option<Row> {
    let rows = client
        .query_typed(
            POST,
            &[
                (&session, Type::UUID),
                (&Uuid::now_v7(), Type::UUID),
                (&"user", Type::TEXT),
                (&None::<Uuid>, Type::UUID),
                (&None::<&str>, Type::TEXT),
                (&content, Type::TEXT),
                (&client_id, Type::TEXT),
                (&"{}", Type::TEXT),
            ],
        )
        .await
        .unwrap();
    rows.into_iter().next()
}

/// Edits in the transaction that is open; without a text it deletes.
async fn edit(client: &Client, session: Uuid, message: Uuid, content: Option<&str>) -> Option<(i64, i64)> {
    let rows = client
        .query_typed(
            EDIT,
            &[
                (&session, Type::UUID),
                (&message, Type::UUID),
                (&content, Type::TEXT),
                (&"api_key", Type::TEXT),
                (&Uuid::now_v7(), Type::UUID),
                (&Uuid::now_v7(), Type::UUID),
                (&"request 1", Type::TEXT),
            ],
        )
        .await
        .unwrap();
    rows.first().map(|row| (row.get("seq"), row.get("revision")))
}

async fn search(client: &Client, question: &str, before: (OffsetDateTime, Uuid), hits: i64) -> Vec<Row> {
    client
        .query_typed(
            SEARCH,
            &[(&question, Type::TEXT), (&before.0, Type::TIMESTAMPTZ), (&before.1, Type::UUID), (&hits, Type::INT8)],
        )
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_have_no_gap_whoever_posts_at_once_and_is_rolled_back() {
    let db = TestDatabase::create().await;
    let ctx = db.tenant("acme").await;
    let session = db.session(&ctx).await;
    let mut senders = JoinSet::new();
    for sender in 0..8 {
        let client = db.connect("tertulia_user").await;
        let tenant_id = ctx.tenant_id;
        senders.spawn(async move {
            for number in 0..20 {
                begin(&client, tenant_id).await;
                // Two senders use the same names, as one that sends again while its first try is still under way.
                let client_id = format!("{}-{number}", sender / 2);
                let posted = post(&client, session, "hello", Some(&client_id)).await.unwrap();
                assert!(posted.get::<_, i64>("seq") > 0);
                let end = if (sender + number) % 5 == 0 { "ROLLBACK" } else { "COMMIT" };
                client.batch_execute(end).await.unwrap();
            }
        });
    }
    senders.join_all().await;
    let client = db.begin(ctx.tenant_id).await;
    let messages = client.query("SELECT seq, timestamp, client_id FROM messages ORDER BY seq", &[]).await.unwrap();
    // Of each name at least one sender has committed.
    assert_eq!(messages.len(), 80);
    assert_eq!(messages.iter().map(|row| row.get::<_, &str>("client_id")).collect::<BTreeSet<_>>().len(), 80);
    assert!((1..).zip(&messages).all(|(seq, row)| row.get::<_, i64>("seq") == seq));
    let times: Vec<OffsetDateTime> = messages.iter().map(|row| row.get("timestamp")).collect();
    assert!(times.is_sorted_by(|earlier, later| earlier < later), "times have the order of the numbers");
    let head = client.query_one("SELECT last_seq, last_message_at FROM sessions", &[]).await.unwrap();
    assert_eq!((head.get::<_, i64>(0), head.get::<_, Option<OffsetDateTime>>(1)), (80, times.last().copied()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_first_answer_and_an_ended_session_takes_no_more() {
    let db = TestDatabase::create().await;
    let (ctx, rival) = (db.tenant("acme").await, db.tenant("rival").await);
    let session = db.session(&ctx).await;
    let client = db.begin(ctx.tenant_id).await;
    let first = post(&client, session, "hello", Some("a")).await.unwrap();
    assert!(first.get::<_, bool>("is_new"));
    client.batch_execute("COMMIT").await.unwrap();

    // One that waits for a sender with the same name sees what that one has posted.
    begin(&client, ctx.tenant_id).await;
    let second = post(&client, session, "again", Some("b")).await.unwrap();
    let (other, superuser) = (db.begin(ctx.tenant_id).await, db.superuser().await);
    let commit = async {
        until_somebody_waits(&superuser).await;
        client.batch_execute("COMMIT").await.unwrap();
    };
    let (repeat, ()) = tokio::join!(post(&other, session, "again", Some("b")), commit);
    let repeat = repeat.unwrap();
    assert_eq!(
        (repeat.get::<_, Uuid>("id"), repeat.get::<_, i64>("seq"), repeat.get::<_, bool>("is_new")),
        (second.get("id"), 2, false)
    );
    other.batch_execute("COMMIT").await.unwrap();

    begin(&client, ctx.tenant_id).await;
    client.batch_execute("UPDATE sessions SET ended_at = now()").await.unwrap();
    let repeat = post(&client, session, "hello", Some("a")).await.unwrap();
    assert_eq!(
        (repeat.get::<_, Uuid>("id"), repeat.get::<_, OffsetDateTime>("timestamp"), repeat.get::<_, bool>("is_new")),
        (first.get("id"), first.get("timestamp"), false)
    );
    let late = post(&client, session, "too late", Some("c")).await.expect("the session is there");
    assert_eq!((late.get::<_, Option<Uuid>>("id"), late.get::<_, Option<i64>>("seq")), (None, None));
    assert!(post(&client, Uuid::now_v7(), "nowhere", None).await.is_none());
    client.batch_execute("COMMIT").await.unwrap();

    begin(&client, rival.tenant_id).await;
    assert!(post(&client, session, "intruding", None).await.is_none(), "another tenant's session is not there");
    client.batch_execute("ROLLBACK").await.unwrap();
    let owner = db.connect("tertulia_owner").await;
    assert_eq!(value::<i64>(&owner, "SELECT count(*) FROM messages").await, 2);
    assert_eq!(value::<i64>(&owner, "SELECT last_seq FROM sessions").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_and_deletions_are_numbered_and_what_was_said_is_kept() {
    let db = TestDatabase::create().await;
    let (ctx, rival) = (db.tenant("acme").await, db.tenant("rival").await);
    let session = db.session(&ctx).await;
    let elsewhere = db.session(&ctx).await;
    let client = db.begin(ctx.tenant_id).await;
    let mut ids = Vec::new();
    for content in ["one", "two", "three"] {
        ids.push(post(&client, session, content, None).await.unwrap().get::<_, Uuid>("id"));
    }
    assert_eq!(edit(&client, session, ids[2], Some("3")).await, Some((3, 1)));
    assert_eq!(edit(&client, session, ids[0], None).await, Some((1, 2)));
    assert_eq!(edit(&client, session, ids[2], Some("III")).await, Some((3, 3)));
    assert_eq!(edit(&client, session, ids[0], Some("back")).await, None, "what is deleted stays deleted");
    assert_eq!(edit(&client, elsewhere, ids[1], None).await, None, "it is no message of that session");
    client.batch_execute("COMMIT").await.unwrap();
    begin(&client, rival.tenant_id).await;
    assert_eq!(edit(&client, session, ids[1], None).await, None, "nor of another tenant");
    client.batch_execute("COMMIT").await.unwrap();

    begin(&client, ctx.tenant_id).await;
    let messages =
        "SELECT string_agg(concat_ws(' ', seq, content, revision, deleted_at IS NOT NULL), ', ' ORDER BY seq)
        FROM messages";
    assert_eq!(value::<String>(&client, messages).await, "1  2 t, 2 two 0 f, 3 III 3 f");
    let head = "SELECT last_seq || ' ' || last_revision FROM sessions WHERE last_seq > 0";
    assert_eq!(value::<String>(&client, head).await, "3 3");
    let log = "SELECT string_agg(concat_ws(' ', action, before ->> 'content', after ->> 'content', request_id), ', '
        ORDER BY id) FROM audit_log WHERE actor_kind = 'api_key' AND actor_id IS NOT NULL";
    assert_eq!(
        value::<String>(&client, log).await,
        "message.edit three 3 request 1, message.delete one request 1, message.edit 3 III request 1"
    );
    client.batch_execute("COMMIT").await.unwrap();

    // Messages go with their session, and no other way.
    begin(&client, ctx.tenant_id).await;
    assert_eq!(refusal(&client, "DELETE FROM messages").await, "42501");
    client.batch_execute("ROLLBACK").await.unwrap();
    begin(&client, ctx.tenant_id).await;
    client.batch_execute("DELETE FROM sessions; COMMIT").await.unwrap();
    let owner = db.connect("tertulia_owner").await;
    assert_eq!(value::<i64>(&owner, "SELECT count(*) FROM messages").await, 0);
    assert_eq!(value::<i64>(&owner, "SELECT count(*) FROM audit_log").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_finds_what_a_scan_finds_newest_first_page_by_page() {
    let db = TestDatabase::create().await;
    let (ctx, rival) = (db.tenant("acme").await, db.tenant("rival").await);
    let owner = db.connect("tertulia_owner").await;
    for (ctx, question) in [(&ctx, "question"), (&rival, "secret")] {
        let sql = include_str!("../sql/test/many_conversations.sql")
            .replace("$TENANT", &ctx.tenant_id.to_string())
            .replace("6000", "600")
            .replace("24003", "2403")
            .replace("question", question);
        owner.batch_execute(&sql).await.unwrap();
    }
    let newest = (at("2026-12-31T00:00:00Z"), Uuid::max());
    let client = db.begin(ctx.tenant_id).await;
    // Many a day, some a day, few in all; two words, a phrase, an exclusion, either of two; and what finds nothing.
    for question in [
        "questions",
        "replication",
        "number 777",
        "\"number 777\"",
        "replication -number",
        "replication 42",
        "777 or 778",
        "secret",
        "the of",
        "",
        "-question",
        "' \\ & | ! ( ) :* <-> \"",
    ] {
        let mut found = Vec::new();
        let mut before = newest;
        loop {
            let page = search(&client, question, before, 37).await;
            let Some(last) = page.last() else { break };
            before = (last.get("timestamp"), last.get("id"));
            found.extend(page.iter().map(|row| row.get::<_, Uuid>("id")));
        }
        let all = "SELECT id FROM messages
            WHERE to_tsvector('english', content) @@ websearch_to_tsquery('english', $1)
                AND querytree(websearch_to_tsquery('english', $1)) NOT IN ('', 'T')
            ORDER BY timestamp DESC, id DESC";
        let expected: Vec<Uuid> = client.query(all, &[&question]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert_eq!(found, expected, "{question:?}");
    }
    assert_eq!(search(&client, "questions", newest, 5).await.len(), 5);
    let deleted: Uuid = search(&client, "replication", newest, 1).await[0].get("id");
    let session = value(&client, &format!("SELECT session_id FROM messages WHERE id = '{deleted}'")).await;
    edit(&client, session, deleted, None).await.unwrap();
    let left: Uuid = search(&client, "replication", newest, 1).await[0].get("id");
    assert_ne!(left, deleted);
    client.batch_execute("COMMIT").await.unwrap();
    assert!(search(&client, "replication", newest, 5).await.is_empty(), "without a tenant there is nothing");
}
