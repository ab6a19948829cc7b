//! `loadtest seed`: fills a database as years of use would, so that queries are timed on more than toys.
//!
//! One tenant is large, the others share a quarter of what it has, the first of them most of it. Sessions are many in
//! working hours and become more from month to month; most are short and a few very long. Rows lie in the order of their
//! times, tenants among each other, as if they had been written one by one. The same arguments give the same rows.
//!
//! Everything is one transaction: a run that is cut short leaves nothing. Rows are sent as arrays, since COPY is refused
//! for a role that row security holds, and the owner is one.

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::LocalSet;
use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::{
    peer_sql::connect,
    texts::{Texts, skewed},
};

/// The last moment of the year that is filled: 2026-01-01. A fixed one, so that ids and times are the same on any day.
const END_SECONDS: u64 = 1_767_225_600;
const DAY_SECONDS: f64 = 86_400.0;
const YEAR_DAYS: f64 = 365.0;
/// Rows that one statement inserts: some MiB of text.
const PIECE_ROWS: usize = 10_000;
/// Dimensions of the default encoder's vectors.
const DIMENSIONS: usize = 256;
/// What all other tenants have together, of what the large one has.
const OTHERS_SHARE: f64 = 0.25;

const INSERT_BASE: &str = include_str!("../../src/store/sql/knowledge_bases/insert.sql");
const PUT_DOCUMENT: &str = include_str!("../../src/store/sql/documents/put.sql");

const INSERT_TENANTS: &str = "INSERT INTO tenants (id, slug, name, tier, settings, created_at)
    SELECT id, slug, initcap(slug), tier, settings::jsonb, $5
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS t (id, slug, tier, settings)";
const INSERT_USERS: &str = "INSERT INTO users (tenant_id, id, email, role, created_at)
    SELECT tenant_id, id, 'agent-' || id || '@example.com', 'agent', $3
    FROM unnest($1::uuid[], $2::uuid[]) AS t (tenant_id, id)";
const INSERT_WIDGETS: &str = "INSERT INTO widgets (tenant_id, id, name, embed_key, allowed_origins, created_at)
    SELECT tenant_id, id, 'Site ' || place, 'wk_' || id, '{https://example.com}', $3
    FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS t (tenant_id, id, place)";
const INSERT_MEETINGS: &str = "INSERT INTO meetings (tenant_id, id, title, starts_at, created_at)
    SELECT tenant_id, id, 'Meeting ' || place, $3, $3
    FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS t (tenant_id, id, place)";
const INSERT_SESSIONS: &str = "INSERT INTO sessions
        (tenant_id, id, widget_id, meeting_id, visitor_id, last_seq, last_message_at, created_at, updated_at, ended_at)
    SELECT tenant_id, id, widget_id, meeting_id, visitor_id, last_seq, last_message_at, created_at, created_at, ended_at
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[], $7::timestamptz[],
        $8::timestamptz[], $9::timestamptz[])
        AS t (tenant_id, id, widget_id, meeting_id, visitor_id, last_seq, last_message_at, created_at, ended_at)";
const INSERT_MESSAGES: &str = "INSERT INTO messages
        (tenant_id, session_id, id, seq, role, user_id, content, client_id, timestamp)
    SELECT tenant_id, session_id, id, seq, role, user_id, content, client_id, timestamp
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::uuid[], $7::text[], $8::text[],
        $9::timestamptz[])
        AS t (tenant_id, session_id, id, seq, role, user_id, content, client_id, timestamp)";

/// Arguments of `seed`.
#[derive(Debug, Args)]
pub(crate) struct SeedArgs {
    /// The database as its owner; a URL, or such as `host=/folder/of/the/socket user=tertulia_owner dbname=tertulia`
    #[arg(long, value_name = "URL")]
    postgres_url: String,
    /// Tenants
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    tenants: u32,
    /// Sessions of the largest tenant; the others have a quarter of them together
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    sessions: u32,
    /// Messages of the largest tenant, at least one for each session; the others have a quarter of them together
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    messages: u32,
    /// Folder with HTML pages, whose sentences the messages and documents are made of
    #[arg(long, default_value = "demo/postgresql", value_name = "DIR")]
    texts: PathBuf,
    /// The same number gives the same rows
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs `seed`.
///
/// # Errors
/// If the database cannot be reached, holds a seed of other arguments, or the role may not write it.
pub(crate) fn run(args: &SeedArgs) -> anyhow::Result<()> {
    ensure!(args.messages >= args.sessions, "--messages is less than --sessions: each session has at least one");
    let config = args.postgres_url.parse().context("--postgres-url is no address of a database")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut client = connect(&config).await?;
        if is_seeded(&client, args).await? {
            eprintln!("the database is seeded with these arguments already");
            return Ok(());
        }
        let texts = Texts::read(&args.texts)?;
        let plan = Plan::new(args);
        fill(&mut client, args, &plan, &texts).await?;
        eprintln!("vacuum and analyze …");
        client.batch_execute("VACUUM ANALYZE").await?;
        Ok(())
    })
}

/// The id of the tenant with that number; 0 is the large one.
pub(crate) fn tenant_id(seed: u64, number: usize) -> Uuid {
    // Numbers of other things start far above.
    id(seed, number as u64, 0.0)
}

/// A UUIDv7 of that moment, the same for the same number.
fn id(seed: u64, number: u64, seconds: f64) -> Uuid {
    let mut rng = StdRng::seed_from_u64(seed.rotate_left(32) ^ number);
    let millis = time(seconds).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    uuid::Builder::from_unix_timestamp_millis(millis as u64, &rng.random()).into_uuid()
}

/// The moment so many seconds after the start of the year.
fn time(seconds: f64) -> SystemTime {
    let start = END_SECONDS - (YEAR_DAYS * DAY_SECONDS) as u64;
    // Postgres keeps microseconds.
    SystemTime::UNIX_EPOCH + Duration::from_secs(start) + Duration::from_micros((seconds * 1e6) as u64)
}

/// What is written, without the texts.
struct Plan {
    tenants: Vec<TenantPlan>,
    /// By time.
    sessions: Vec<SessionPlan>,
    /// By time.
    messages: Vec<MessagePlan>,
}

struct TenantPlan {
    id: Uuid,
    users: Vec<Uuid>,
    widgets: Vec<Uuid>,
    meetings: Vec<Uuid>,
}

struct SessionPlan {
    id: Uuid,
    tenant: usize,
    widget: Option<usize>,
    meeting: Option<usize>,
    visitor: usize,
    messages: u32,
    /// Whether a person of the tenant takes over at some time.
    agent: Option<usize>,
    created_at: f64,
    last_message_at: f64,
    has_ended: bool,
}

struct MessagePlan {
    session: usize,
    seq: u32,
    at: f64,
}

impl Plan {
    fn new(args: &SeedArgs) -> Self {
        let mut rng = StdRng::seed_from_u64(args.seed);
        let mut number = u64::from(args.tenants);
        let mut new_id = |seconds: f64| {
            number += 1;
            id(args.seed, number, seconds)
        };
        let (mut tenants, mut sessions) = (Vec::new(), Vec::new());
        for (tenant, (session_count, message_count)) in sizes(args).into_iter().enumerate() {
            let mut some = |count: usize| (0..count).map(|_| new_id(0.0)).collect::<Vec<_>>();
            let plan = TenantPlan {
                id: tenant_id(args.seed, tenant),
                users: some((session_count / 10_000).clamp(1, 20)),
                widgets: some((session_count / 5_000).clamp(2, 40)),
                meetings: some((session_count / 500).clamp(1, 400)),
            };
            let visitors = session_count / 3 + 1;
            let counts = message_counts(&mut rng, session_count, message_count);
            sessions.extend(counts.into_iter().map(|messages| {
                let created_at = session_start(&mut rng);
                let place = rng.random_range(0..10);
                SessionPlan {
                    id: Uuid::nil(),
                    tenant,
                    widget: (place > 1).then(|| skewed(&mut rng, plan.widgets.len())),
                    meeting: (place == 1).then(|| skewed(&mut rng, plan.meetings.len())),
                    visitor: skewed(&mut rng, visitors),
                    messages,
                    agent: rng.random_bool(0.1).then(|| rng.random_range(0..plan.users.len())),
                    created_at,
                    last_message_at: created_at,
                    has_ended: created_at < (YEAR_DAYS - 1.0) * DAY_SECONDS && rng.random_bool(0.99),
                }
            }));
            tenants.push(plan);
        }
        sessions.sort_by(|a, b| a.created_at.total_cmp(&b.created_at));
        let mut messages = Vec::new();
        for (number, session) in sessions.iter_mut().enumerate() {
            session.id = new_id(session.created_at);
            for seq in 1..=session.messages {
                messages.push(MessagePlan { session: number, seq, at: session.last_message_at });
                // Half a minute to think and write, now and then much more; never the same microsecond.
                session.last_message_at += 0.001 - 45.0 * (1.0 - rng.random::<f64>()).ln();
            }
        }
        messages.sort_by(|a, b| a.at.total_cmp(&b.at));
        Self { tenants, sessions, messages }
    }
}

/// Sessions and messages of each tenant.
fn sizes(args: &SeedArgs) -> Vec<(usize, usize)> {
    let (sessions, messages) = (f64::from(args.sessions), f64::from(args.messages));
    let weights: f64 = (1..args.tenants).map(|number| 1.0 / f64::from(number)).sum();
    let others = (1..args.tenants).map(|number| {
        let share = OTHERS_SHARE / f64::from(number) / weights;
        let sessions = (sessions * share).ceil();
        (sessions as usize, (messages * share).ceil().max(sessions) as usize)
    });
    std::iter::once((args.sessions as usize, args.messages as usize)).chain(others).collect()
}

/// How many messages each session has: at least one, together `messages`, most of them few and some very many.
fn message_counts(rng: &mut StdRng, sessions: usize, messages: usize) -> Vec<u32> {
    let weights: Vec<f64> = (0..sessions).map(|_| (1.2 * normal(rng)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let spare = (messages - sessions) as f64;
    let (mut weight, mut given) = (0.0, 0);
    let counts = weights.iter().map(|own| {
        // What is rounded off goes to the next, so the sum is exact.
        weight += own;
        let upto = (spare * weight / sum).round() as u32;
        let count = 1 + upto - given;
        given = upto;
        count
    });
    counts.collect()
}

/// A number of the normal distribution (Box and Muller).
fn normal(rng: &mut StdRng) -> f64 {
    let (radius, angle): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Seconds into the year: later days more often, and the middle of the day.
fn session_start(rng: &mut StdRng) -> f64 {
    let day = (rng.random::<f64>().sqrt() * YEAR_DAYS).floor();
    let hour = 6.0 + 8.0 * (rng.random::<f64>() + rng.random::<f64>());
    day * DAY_SECONDS + hour * 3_600.0
}

/// Whether a seed of these arguments is there.
async fn is_seeded(client: &Client, args: &SeedArgs) -> anyhow::Result<bool> {
    let found = client
        .query_typed("SELECT settings -> 'seed' FROM tenants WHERE slug = 'seed-0'", &[])
        .await
        .context("the database of --postgres-url is not one of tertulia's, or the role may not read it")?;
    match found.first() {
        None => Ok(false),
        Some(row) if row.try_get::<_, Value>(0)? == describe(args) => Ok(true),
        Some(_) => bail!("the database holds a seed of other arguments: take another database"),
    }
}

fn describe(args: &SeedArgs) -> Value {
    json!({ "tenants": args.tenants, "sessions": args.sessions, "messages": args.messages, "seed": args.seed })
}

async fn fill(client: &mut Client, args: &SeedArgs, plan: &Plan, texts: &Texts) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    let client = transaction.client();
    let mut rng = StdRng::seed_from_u64(args.seed ^ u64::MAX);
    insert_tenants(client, args, plan).await?;
    insert_knowledge(client, args, plan, texts, &mut rng).await?;
    let mut progress = Progress::new("sessions", plan.sessions.len());
    for piece in plan.sessions.chunks(PIECE_ROWS) {
        insert_sessions(client, plan, piece).await?;
        progress.advance(piece.len());
    }
    let mut progress = Progress::new("messages", plan.messages.len());
    for piece in plan.messages.chunks(PIECE_ROWS) {
        insert_messages(client, args, plan, piece, texts, &mut rng).await?;
        progress.advance(piece.len());
    }
    transaction.commit().await?;
    Ok(())
}

async fn insert_tenants(client: &Client, args: &SeedArgs, plan: &Plan) -> anyhow::Result<()> {
    let ids: Vec<Uuid> = plan.tenants.iter().map(|tenant| tenant.id).collect();
    let slugs: Vec<String> = (0..ids.len()).map(|number| format!("seed-{number}")).collect();
    let tiers: Vec<&str> =
        (0..ids.len()).map(|number| ["enterprise", "free", "pro"][number.min(1 + number % 2)]).collect();
    let settings: Vec<String> = (0..ids.len())
        .map(|number| if number == 0 { json!({ "seed": describe(args) }).to_string() } else { "{}".into() })
        .collect();
    let start = time(0.0);
    let types = [Type::UUID_ARRAY, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TEXT_ARRAY, Type::TIMESTAMPTZ];
    execute(client, INSERT_TENANTS, &[&ids, &slugs, &tiers, &settings, &start], &types).await?;
    for (sql, of_tenant) in [
        (INSERT_USERS, (|tenant| &tenant.users) as fn(&TenantPlan) -> &Vec<Uuid>),
        (INSERT_WIDGETS, |tenant| &tenant.widgets),
        (INSERT_MEETINGS, |tenant| &tenant.meetings),
    ] {
        let (tenants, ids): (Vec<Uuid>, Vec<Uuid>) =
            plan.tenants.iter().flat_map(|tenant| of_tenant(tenant).iter().map(|id| (tenant.id, *id))).unzip();
        let types = [Type::UUID_ARRAY, Type::UUID_ARRAY, Type::TIMESTAMPTZ];
        execute(client, sql, &[&tenants, &ids, &start], &types).await?;
    }
    Ok(())
}

/// A knowledge base for each tenant. Vectors are random, with as many dimensions as the default encoder's: rows are as
/// wide as real ones, and no server takes them for its own.
async fn insert_knowledge(
    client: &Client,
    args: &SeedArgs,
    plan: &Plan,
    texts: &Texts,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let documents_of = |tenant: usize| if tenant == 0 { (args.sessions as usize / 400).clamp(5, 500) } else { 5 };
    let mut progress = Progress::new("documents", (0..plan.tenants.len()).map(documents_of).sum());
    let mut new_id = || uuid::Builder::from_unix_timestamp_millis(END_SECONDS * 1_000, &rng.random()).into_uuid();
    let mut ids = plan.tenants.iter().map(|tenant| (tenant.id, new_id(), new_id())).collect::<Vec<_>>().into_iter();
    for tenant in 0..plan.tenants.len() {
        let Some((tenant_id, base, generation)) = ids.next() else { break };
        let of_tenant = "SELECT set_config('tertulia.tenant_id', $1, true)";
        client.query_typed(of_tenant, &[(&tenant_id.to_string(), Type::TEXT)]).await?;
        let types = [Type::UUID, Type::TEXT, Type::UUID, Type::TEXT, Type::INT4, Type::TEXT];
        let dimensions = DIMENSIONS as i32;
        execute(client, INSERT_BASE, &[&base, &"manual", &generation, &"seed", &dimensions, &"english"], &types)
            .await?;
        for number in 0..documents_of(tenant) {
            put_document(client, (base, generation), number, texts, rng).await?;
            progress.advance(1);
        }
    }
    Ok(())
}

async fn put_document(
    client: &Client,
    (base, generation): (Uuid, Uuid),
    number: usize,
    texts: &Texts,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let chunks = 1 + skewed(rng, 120);
    let mut new_id = || uuid::Builder::from_unix_timestamp_millis(END_SECONDS * 1_000, &rng.random()).into_uuid();
    let document = new_id();
    let ids: Vec<Uuid> = (0..chunks).map(|_| new_id()).collect();
    let ordinals: Vec<i32> = (0..).take(chunks).collect();
    let headings = vec!["Manual › Chapter"; chunks];
    let contents: Vec<String> = (0..chunks).map(|_| texts.passage(rng, 8)).collect();
    let metadata = vec!["{}"; chunks];
    let components: Vec<f32> = (0..chunks * DIMENSIONS).map(|_| normal(rng) as f32).collect();
    let firsts: Vec<i32> = ordinals.iter().map(|ordinal| ordinal * DIMENSIONS as i32 + 1).collect();
    let lasts: Vec<i32> = ordinals.iter().map(|ordinal| (ordinal + 1) * DIMENSIONS as i32).collect();
    let (external_id, title) = (format!("page-{number:05}"), format!("Page {number}"));
    let params: [&(dyn ToSql + Sync); 17] = [
        &base,
        &generation,
        &document,
        &external_id,
        &title,
        &None::<&str>,
        &"text/html",
        &"{}",
        &[0_u8; 32].as_slice(),
        &ids,
        &ordinals,
        &headings,
        &contents,
        &metadata,
        &components,
        &firsts,
        &lasts,
    ];
    let types = [
        Type::UUID,
        Type::UUID,
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::BYTEA,
        Type::UUID_ARRAY,
        Type::INT4_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::FLOAT4_ARRAY,
        Type::INT4_ARRAY,
        Type::INT4_ARRAY,
    ];
    execute(client, PUT_DOCUMENT, &params, &types).await
}

async fn insert_sessions(client: &Client, plan: &Plan, sessions: &[SessionPlan]) -> anyhow::Result<()> {
    let tenant = |session: &SessionPlan| &plan.tenants[session.tenant];
    let tenants: Vec<Uuid> = sessions.iter().map(|session| tenant(session).id).collect();
    let ids: Vec<Uuid> = sessions.iter().map(|session| session.id).collect();
    let widgets: Vec<Option<Uuid>> =
        sessions.iter().map(|session| session.widget.map(|widget| tenant(session).widgets[widget])).collect();
    let meetings: Vec<Option<Uuid>> =
        sessions.iter().map(|session| session.meeting.map(|meeting| tenant(session).meetings[meeting])).collect();
    let visitors: Vec<String> = sessions.iter().map(|session| format!("visitor-{}", session.visitor)).collect();
    let heads: Vec<i64> = sessions.iter().map(|session| i64::from(session.messages)).collect();
    let last: Vec<SystemTime> = sessions.iter().map(|session| time(session.last_message_at)).collect();
    let created: Vec<SystemTime> = sessions.iter().map(|session| time(session.created_at)).collect();
    let ended: Vec<Option<SystemTime>> =
        sessions.iter().map(|session| session.has_ended.then(|| time(session.last_message_at + 600.0))).collect();
    let types = [
        Type::UUID_ARRAY,
        Type::UUID_ARRAY,
        Type::UUID_ARRAY,
        Type::UUID_ARRAY,
        Type::TEXT_ARRAY,
        Type::INT8_ARRAY,
        Type::TIMESTAMPTZ_ARRAY,
        Type::TIMESTAMPTZ_ARRAY,
        Type::TIMESTAMPTZ_ARRAY,
    ];
    let params: [&(dyn ToSql + Sync); 9] =
        [&tenants, &ids, &widgets, &meetings, &visitors, &heads, &last, &created, &ended];
    execute(client, INSERT_SESSIONS, &params, &types).await
}

async fn insert_messages(
    client: &Client,
    args: &SeedArgs,
    plan: &Plan,
    messages: &[MessagePlan],
    texts: &Texts,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let session = |message: &MessagePlan| &plan.sessions[message.session];
    let tenants: Vec<Uuid> = messages.iter().map(|message| plan.tenants[session(message).tenant].id).collect();
    let sessions: Vec<Uuid> = messages.iter().map(|message| session(message).id).collect();
    // Numbers above those of everything else.
    let number = |message: &MessagePlan| 1 << 63 | (message.session as u64) << 32 | u64::from(message.seq);
    let ids: Vec<Uuid> = messages.iter().map(|message| id(args.seed, number(message), message.at)).collect();
    let seqs: Vec<i64> = messages.iter().map(|message| i64::from(message.seq)).collect();
    // Visitor and assistant in turns, until a person takes over from the assistant halfway.
    let agent = |message: &MessagePlan| {
        let session = session(message);
        session
            .agent
            .filter(|_| message.seq * 2 > session.messages)
            .map(|user| plan.tenants[session.tenant].users[user])
    };
    let is_answer = |message: &MessagePlan| message.seq.is_multiple_of(2);
    let roles: Vec<&str> = messages
        .iter()
        .map(|message| match (is_answer(message), agent(message)) {
            (false, _) => "user",
            (true, None) => "assistant",
            (true, Some(_)) => "agent",
        })
        .collect();
    let users: Vec<Option<Uuid>> =
        messages.iter().map(|message| agent(message).filter(|_| is_answer(message))).collect();
    let contents: Vec<String> = messages
        .iter()
        .map(|message| if is_answer(message) { texts.answer(rng) } else { texts.question(rng) })
        .collect();
    let client_ids: Vec<Option<String>> =
        messages.iter().zip(&ids).map(|(message, id)| (!is_answer(message)).then(|| id.to_string())).collect();
    let times: Vec<SystemTime> = messages.iter().map(|message| time(message.at)).collect();
    let types = [
        Type::UUID_ARRAY,
        Type::UUID_ARRAY,
        Type::UUID_ARRAY,
        Type::INT8_ARRAY,
        Type::TEXT_ARRAY,
        Type::UUID_ARRAY,
        Type::TEXT_ARRAY,
        Type::TEXT_ARRAY,
        Type::TIMESTAMPTZ_ARRAY,
    ];
    let params: [&(dyn ToSql + Sync); 9] =
        [&tenants, &sessions, &ids, &seqs, &roles, &users, &contents, &client_ids, &times];
    execute(client, INSERT_MESSAGES, &params, &types).await
}

async fn execute(client: &Client, sql: &str, params: &[&(dyn ToSql + Sync)], types: &[Type]) -> anyhow::Result<()> {
    let typed: Vec<_> = params.iter().copied().zip(types.iter().cloned()).collect();
    client.query_typed(sql, &typed).await?;
    Ok(())
}

/// Says on standard error how far it is, once for each hundredth.
struct Progress {
    what: &'static str,
    all: usize,
    done: usize,
    begun: Instant,
}

impl Progress {
    fn new(what: &'static str, all: usize) -> Self {
        Self { what, all, done: 0, begun: Instant::now() }
    }

    fn advance(&mut self, by: usize) {
        let hundredths = |done: usize| done * 100 / self.all.max(1);
        let before = hundredths(self.done);
        self.done += by;
        if hundredths(self.done) > before {
            let seconds = self.begun.elapsed().as_secs();
            let _ = write!(std::io::stderr(), "\r{}: {} of {} in {seconds} s ", self.what, self.done, self.all);
        }
        if self.done == self.all {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn args(seed: u64) -> SeedArgs {
        SeedArgs {
            postgres_url: String::new(),
            tenants: 10,
            sessions: 2_000,
            messages: 20_000,
            texts: PathBuf::new(),
            seed,
        }
    }

    #[test]
    fn one_tenant_is_large_and_counts_are_exact() {
        let plan = Plan::new(&args(1));
        let of_first = |plan: &Plan| plan.sessions.iter().filter(|session| session.tenant == 0).count();
        assert_eq!((plan.tenants.len(), of_first(&plan)), (10, 2_000));
        let messages: u32 =
            plan.sessions.iter().filter(|session| session.tenant == 0).map(|session| session.messages).sum();
        assert_eq!(messages, 20_000);
        assert!((2_500..2_520).contains(&plan.sessions.len()), "{}", plan.sessions.len());
        // Lengths are skewed: half of the messages are in few of the sessions.
        let mut lengths: Vec<u32> = plan.sessions.iter().map(|session| session.messages).collect();
        lengths.sort_unstable();
        let median = lengths[lengths.len() / 2];
        assert!(lengths[0] >= 1 && median < 8 && *lengths.last().expect("some") > 100, "{median}");
    }

    #[test]
    fn numbers_have_no_gap_and_times_are_in_order() {
        let plan = Plan::new(&args(1));
        let mut heads = vec![0; plan.sessions.len()];
        for message in &plan.messages {
            heads[message.session] += 1;
            assert_eq!(message.seq, heads[message.session]);
        }
        assert!(plan.sessions.iter().zip(&heads).all(|(session, head)| session.messages == *head));
        assert!(plan.messages.is_sorted_by(|a, b| a.at <= b.at));
        let year = 0.0..(YEAR_DAYS + 1.0) * DAY_SECONDS;
        assert!(plan.sessions.iter().all(|session| year.contains(&session.created_at)));
        let ids: BTreeSet<Uuid> = plan.sessions.iter().map(|session| session.id).collect();
        assert_eq!(ids.len(), plan.sessions.len());
        assert_eq!(ids.first().map(Uuid::get_version_num), Some(7));
    }

    #[test]
    fn the_same_seed_gives_the_same_rows() {
        let look = |seed| {
            let plan = Plan::new(&args(seed));
            (plan.tenants[9].id, plan.sessions[100].id, plan.sessions[100].visitor, plan.messages[100].at.to_bits())
        };
        assert_eq!(look(1), look(1));
        assert_ne!(look(1), look(2));
        assert_eq!(look(3).0, tenant_id(3, 9));
    }
}
