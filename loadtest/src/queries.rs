//! `loadtest queries`: how long the statements that run most often take in the database, as the application role.
//!
//! They are asked of the large tenant of a seed (`loadtest seed`), with rows, cursors and words of its own, each in a
//! transaction that names the tenant as the server's do, and sent unnamed as the server sends them. Two times are told: that
//! of the round trip, and what EXPLAIN says that planning and executing the same statement took.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use tokio::task::LocalSet;
use tokio_postgres::{
    Client, Row as SqlRow,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::{
    peer_sql::connect,
    report::{Ratio, Report, Row},
    seed::tenant_id,
    texts::Texts,
};

/// Rows of a page, and one that tells whether there is another.
const PAGE_ROWS: i64 = 51;
const HISTORY_ROWS: i64 = 101;
/// How the two pages are named that a cursor makes cost the same.
const PAGE: &str = "sessions of the tenant, page";
/// Pages before the late one, if there are so many.
const LATE_PAGE: i64 = 2_000;

const LIST_SESSIONS: &str = include_str!("../../src/store/sql/sessions/list.sql");
const COUNT_SESSIONS: &str = include_str!("../../src/store/sql/sessions/count.sql");
const LIST_MESSAGES: &str = include_str!("../../src/store/sql/messages/list.sql");
const LIST_NEWEST_MESSAGES: &str = include_str!("../../src/store/sql/messages/list_newest.sql");
const LIST_MESSAGES_BY_TIME: &str = include_str!("../../src/store/sql/messages/list_by_time.sql");
const LIST_MESSAGES_OF_TENANT: &str = include_str!("../../src/store/sql/messages/list_of_tenant.sql");
const SEARCH_MESSAGES: &str = include_str!("../../src/store/sql/messages/search.sql");
const LIST_CHUNKS: &str = include_str!("../../src/store/sql/chunks/list.sql");

/// What is asked about, in an order that has nothing to do with that of the rows.
const SOME_SESSIONS: &str = "SELECT id, last_seq, created_at FROM sessions
    WHERE tenant_id = (SELECT tertulia_tenant_id()) AND last_seq >= $1 ORDER BY md5(id::text) LIMIT 500";
const SOME_WIDGETS: &str = "SELECT id FROM widgets ORDER BY md5(id::text) LIMIT 500";
const SOME_MEETINGS: &str = "SELECT id FROM meetings ORDER BY md5(id::text) LIMIT 500";
const SOME_DOCUMENTS: &str = "SELECT id FROM documents ORDER BY md5(id::text) LIMIT 500";
const LATE_SESSION: &str = "SELECT created_at, id FROM sessions WHERE tenant_id = (SELECT tertulia_tenant_id())
    ORDER BY created_at DESC, id DESC OFFSET $1 LIMIT 1";

/// Arguments of `queries`.
#[derive(Debug, Args)]
pub(crate) struct QueriesArgs {
    /// The database as the application role; a URL, or such as `host=/folder/of/the/socket user=tertulia_user dbname=tertulia`
    #[arg(long, value_name = "URL")]
    postgres_url: String,
    /// The number that the database was seeded with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder with the HTML pages that it was seeded with, for words to search for
    #[arg(long, default_value = "demo/postgresql", value_name = "DIR")]
    texts: PathBuf,
    /// How often each statement is asked, with other parameters each time
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    samples: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

type Param = (Box<dyn ToSql + Sync>, Type);

/// A statement with what makes its parameters.
struct Query<'a> {
    name: String,
    sql: &'static str,
    /// Longest that the median may be; none for what is told and not judged.
    limit_ms: Option<f64>,
    params: Box<MakeParams<'a>>,
}

type MakeParams<'a> = dyn Fn(&mut StdRng) -> Vec<Param> + 'a;

impl<'a> Query<'a> {
    fn new(
        name: &str,
        sql: &'static str,
        limit_ms: Option<f64>,
        params: impl Fn(&mut StdRng) -> Vec<Param> + 'a,
    ) -> Self {
        Self { name: name.to_owned(), sql, limit_ms, params: Box::new(params) }
    }
}

/// What the large tenant has.
struct Samples {
    sessions: Vec<(Uuid, SystemTime)>,
    /// Those of at least a page of messages, with how many they have.
    long_sessions: Vec<(Uuid, i64)>,
    widgets: Vec<Uuid>,
    meetings: Vec<Uuid>,
    documents: Vec<Uuid>,
    late_page: i64,
    late: (SystemTime, Uuid),
}

/// Runs `queries`.
///
/// # Errors
/// If the database cannot be reached or is not seeded, a statement fails, or a median is over its limit.
pub(crate) fn run(args: &QueriesArgs) -> anyhow::Result<()> {
    let config = args.postgres_url.parse().context("--postgres-url is no address of a database")?;
    let texts = Texts::read(&args.texts)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (report, slow) = LocalSet::new().block_on(&runtime, async {
        let client = connect(&config).await?;
        measure(args, &client, &texts).await
    })?;
    report.print(args.json)?;
    ensure!(slow.is_empty(), "over the limit at the median: {}", slow.join(", "));
    Ok(())
}

/// What was measured, and the names of the statements that are over their limits.
async fn measure(args: &QueriesArgs, client: &Client, texts: &Texts) -> anyhow::Result<(Report, Vec<String>)> {
    begin(client, args.seed).await?;
    let samples = Samples::read(client).await?;
    client.batch_execute("COMMIT").await?;
    let setting = setting(args, client).await?;
    let (mut rows, mut ratios, mut slow) = (Vec::new(), Vec::new(), Vec::new());
    let mut pages = Vec::new();
    for query in queries(&samples, texts) {
        let (mut asked, mut explained) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
        let mut rng = StdRng::seed_from_u64(args.seed);
        for _ in 0..args.samples {
            let params = (query.params)(&mut rng);
            let typed: Vec<_> = params.iter().map(|(value, kind)| (value.as_ref(), kind.clone())).collect();
            begin(client, args.seed).await?;
            let sent = Instant::now();
            client.query_typed(query.sql, &typed).await.with_context(|| format!("{} fails", query.name))?;
            asked.record(u64::try_from(sent.elapsed().as_nanos())?)?;
            let sql = format!("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {}", query.sql);
            let row = client.query_typed_one(&sql, &typed).await?;
            explained.record(nanoseconds(&row)?)?;
            client.batch_execute("COMMIT").await?;
        }
        let median_ms = explained.value_at_quantile(0.5) as f64 / 1e6;
        if let Some(limit_ms) = query.limit_ms {
            ratios.extend(Ratio::new(&format!("{}: median / {limit_ms} ms", query.name), vec![median_ms / limit_ms]));
            if median_ms > limit_ms {
                slow.push(query.name.clone());
            }
        }
        if query.name.starts_with(PAGE) {
            pages.push(median_ms);
        }
        rows.push(Row::timed_twice(&query.name, &asked, &explained));
    }
    if let [first, late] = pages[..] {
        ratios.extend(Ratio::new("the late page / the first page", vec![late / first]));
    }
    Ok((Report { setting, rows, ratios }, slow))
}

/// Opens a transaction of the large tenant.
async fn begin(client: &Client, seed: u64) -> anyhow::Result<()> {
    let sql = format!("BEGIN; SELECT set_config('tertulia.tenant_id', '{}', true)", tenant_id(seed, 0));
    Ok(client.batch_execute(&sql).await?)
}

async fn setting(args: &QueriesArgs, client: &Client) -> anyhow::Result<BTreeMap<&'static str, Value>> {
    begin(client, args.seed).await?;
    let counts = "SELECT current_setting('server_version'), current_user::text, (SELECT count(*) FROM sessions),
        (SELECT count(*) FROM messages), (SELECT count(*) FROM knowledge_chunks)";
    let row = client.query_typed_one(counts, &[]).await?;
    client.batch_execute("COMMIT").await?;
    Ok(BTreeMap::from([
        ("PostgreSQL", row.try_get::<_, String>(0)?.into()),
        ("role", row.try_get::<_, String>(1)?.into()),
        ("sessions", row.try_get::<_, i64>(2)?.into()),
        ("messages", row.try_get::<_, i64>(3)?.into()),
        ("chunks", row.try_get::<_, i64>(4)?.into()),
    ]))
}

impl Samples {
    async fn read(client: &Client) -> anyhow::Result<Self> {
        let sessions = client.query_typed(SOME_SESSIONS, &[(&1_i64, Type::INT8)]).await?;
        ensure!(!sessions.is_empty(), "the role sees no sessions: is the database seeded, and with this --seed?");
        let long = client.query_typed(SOME_SESSIONS, &[(&(HISTORY_ROWS - 1), Type::INT8)]).await?;
        ensure!(!long.is_empty(), "no session has as many messages as a page of the history");
        let count = "SELECT count(*) FROM sessions WHERE tenant_id = (SELECT tertulia_tenant_id())";
        let count: i64 = client.query_typed_one(count, &[]).await?.try_get(0)?;
        let late_page = LATE_PAGE.min(count / (PAGE_ROWS - 1) - 1).max(1);
        let skipped = late_page * (PAGE_ROWS - 1) - 1;
        let late = client.query_typed_one(LATE_SESSION, &[(&skipped, Type::INT8)]).await?;
        Ok(Self {
            sessions: sessions
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(2)?)))
                .collect::<anyhow::Result<_>>()?,
            long_sessions: long
                .iter()
                .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
                .collect::<anyhow::Result<_>>()?,
            widgets: ids(client, SOME_WIDGETS).await?,
            meetings: ids(client, SOME_MEETINGS).await?,
            documents: ids(client, SOME_DOCUMENTS).await?,
            late_page,
            late: (late.try_get(0)?, late.try_get(1)?),
        })
    }
}

async fn ids(client: &Client, sql: &str) -> anyhow::Result<Vec<Uuid>> {
    let ids: Vec<Uuid> =
        client.query_typed(sql, &[]).await?.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    ensure!(!ids.is_empty(), "the seed lacks what this finds: {sql}");
    Ok(ids)
}

fn queries<'a>(samples: &'a Samples, texts: &'a Texts) -> Vec<Query<'a>> {
    let one = |rng: &mut StdRng, ids: &[Uuid]| Some(ids[rng.random_range(0..ids.len())]);
    let a_long_session = |rng: &mut StdRng| samples.long_sessions[rng.random_range(0..samples.long_sessions.len())];
    let newest = (after_all(), Uuid::max());
    let late = samples.late;
    let late_page = format!("{PAGE} {}", samples.late_page + 1);
    vec![
        Query::new("sessions of a widget", LIST_SESSIONS, Some(1.0), move |rng| {
            page(filters(one(rng, &samples.widgets), None, None), newest)
        }),
        Query::new("sessions of a widget, active", LIST_SESSIONS, Some(1.0), move |rng| {
            page(filters(one(rng, &samples.widgets), None, Some(true)), newest)
        }),
        Query::new("sessions of a meeting", LIST_SESSIONS, Some(1.0), move |rng| {
            page(filters(None, one(rng, &samples.meetings), None), newest)
        }),
        Query::new(&format!("{PAGE} 1"), LIST_SESSIONS, Some(2.0), move |_| page(filters(None, None, None), newest)),
        Query::new(&late_page, LIST_SESSIONS, Some(2.0), move |_| page(filters(None, None, None), late)),
        Query::new("sessions that are active", LIST_SESSIONS, Some(1.0), move |_| {
            page(filters(None, None, Some(true)), newest)
        }),
        Query::new("how many sessions there are", COUNT_SESSIONS, None, |_| filters(None, None, None)),
        Query::new("history, the first 100", LIST_MESSAGES, Some(2.0), move |rng| {
            vec![uuid(a_long_session(rng).0), int(0), int(HISTORY_ROWS)]
        }),
        Query::new("history, what came after a message", LIST_MESSAGES, Some(2.0), move |rng| {
            let (session, last_seq) = a_long_session(rng);
            vec![uuid(session), int(rng.random_range(0..last_seq)), int(HISTORY_ROWS)]
        }),
        Query::new("history, the newest 100", LIST_NEWEST_MESSAGES, Some(2.0), move |rng| {
            vec![uuid(a_long_session(rng).0), int(i64::MAX), int(0), int(HISTORY_ROWS)]
        }),
        Query::new("history, since a time", LIST_MESSAGES_BY_TIME, Some(2.0), move |rng| {
            let (session, created_at) = samples.sessions[rng.random_range(0..samples.sessions.len())];
            vec![uuid(session), time(created_at), time(after_all()), int(HISTORY_ROWS)]
        }),
        Query::new("messages of all sessions", LIST_MESSAGES_OF_TENANT, Some(2.0), move |_| {
            vec![time(newest.0), uuid(newest.1), int(HISTORY_ROWS)]
        }),
        Query::new("full text, the newest 50", SEARCH_MESSAGES, Some(8.0), move |rng| {
            vec![text(texts.words(rng)), time(newest.0), uuid(newest.1), int(PAGE_ROWS)]
        }),
        Query::new("chunks of a document", LIST_CHUNKS, Some(1.0), move |rng| {
            let document = samples.documents[rng.random_range(0..samples.documents.len())];
            vec![uuid(document), (Box::new(-1_i32), Type::INT4), int(0), int(PAGE_ROWS)]
        }),
    ]
}

/// Conditions of the list of sessions and of their count.
fn filters(widget: Option<Uuid>, meeting: Option<Uuid>, is_active: Option<bool>) -> Vec<Param> {
    vec![
        (Box::new(widget), Type::UUID),
        (Box::new(meeting), Type::UUID),
        (Box::new(None::<String>), Type::TEXT),
        (Box::new(is_active), Type::BOOL),
        (Box::new(None::<SystemTime>), Type::TIMESTAMPTZ),
        (Box::new(None::<SystemTime>), Type::TIMESTAMPTZ),
    ]
}

/// The page after a cursor.
fn page(mut filters: Vec<Param>, (created_at, id): (SystemTime, Uuid)) -> Vec<Param> {
    filters.extend([time(created_at), uuid(id), int(0), int(PAGE_ROWS)]);
    filters
}

fn uuid(value: Uuid) -> Param {
    (Box::new(value), Type::UUID)
}

fn int(value: i64) -> Param {
    (Box::new(value), Type::INT8)
}

fn text(value: String) -> Param {
    (Box::new(value), Type::TEXT)
}

fn time(value: SystemTime) -> Param {
    (Box::new(value), Type::TIMESTAMPTZ)
}

/// Later than all that is seeded.
fn after_all() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000)
}

/// What planning and executing took.
fn nanoseconds(explained: &SqlRow) -> anyhow::Result<u64> {
    let json: Value = explained.try_get(0)?;
    let ms = |name: &str| json[0][name].as_f64().with_context(|| format!("EXPLAIN does not tell the {name}"));
    Ok(((ms("Planning Time")? + ms("Execution Time")?) * 1e6) as u64)
}
