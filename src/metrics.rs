//! What is counted and timed, and its exposition as OpenMetrics text, which Prometheus reads.
//!
//! One [`Metrics`] for each server rather than one for the process, so that tests may run several side by side. Labels are
//! words of our own (route patterns, statement names, pools), never what a client sent: the number of series is bounded.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};

use crate::{
    bus::{limits::LimitMetrics, redis::RedisGauges},
    store::{Measures, PoolGauges, PoolLabels, ReplicaGauges},
};

/// `Content-Type` of what [`Metrics::render`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of every histogram's buckets, in seconds: from a search in memory to a handler that runs into its limit.
const BUCKETS_SECONDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];

/// Makes each histogram of a family with the server's buckets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS_SECONDS)
    }
}

/// What is read at the moment of exposition rather than counted here.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Open connections.
    pub connections: usize,
    /// Connections that a shard was given since the start.
    pub connections_accepted: u64,
    /// Connections answered 503 since the start, because as many as may be were open.
    pub connections_refused: u64,
    /// Connections cut since the start, because the client read nothing.
    pub connections_stalled: u64,
    /// Panics since the start that closed a connection or a stream.
    pub panics: u64,
    /// The pools.
    pub pools: Vec<PoolGauges>,
    /// Redis, if there is one.
    pub redis: Option<RedisGauges>,
    /// The read replica, if there is one.
    pub replica: Option<ReplicaGauges>,
    /// Knowledge bases in memory.
    pub index_bases: usize,
    /// Live chunks in memory.
    pub index_chunks: usize,
    /// Bytes that the indexes hold.
    pub index_bytes: usize,
    /// Indexes read into memory since the start.
    pub index_loads: u64,
    /// Indexes let go since the start, to make room for others.
    pub index_unloads: u64,
    /// Share of the ten nearest chunks that searches without a filter have found lately, and that of those with one, if any was
    /// repeated to tell.
    pub recall_at_10: [Option<f64>; 2],
    /// The most versions that a loaded knowledge base is behind Postgres.
    pub sync_lag_versions: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status_code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RedisLabels {
    topology: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FilteredLabels {
    filtered: bool,
}

type PoolFamily = Family<PoolLabels, Gauge<u64, AtomicU64>>;
type Count = Gauge<u64, AtomicU64>;

/// Every counter, gauge and histogram of one server.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Histogram, Buckets>,
    searches: Family<SourceLabels, Histogram, Buckets>,
    logins: Family<OutcomeLabels, Counter>,
    connections: Count,
    connections_accepted: Counter,
    connections_refused: Counter,
    connections_stalled: Counter,
    panics: Counter,
    pool_size: PoolFamily,
    pool_available: PoolFamily,
    pool_waiting: PoolFamily,
    limits: LimitMetrics,
    redis_up: Family<RedisLabels, Count>,
    redis_breaker_openings: Family<RedisLabels, Counter>,
    replica_lag: Gauge<f64, AtomicU64>,
    replica_is_fresh: Count,
    index_bases: Count,
    index_chunks: Count,
    index_bytes: Count,
    index_loads: Counter,
    index_unloads: Counter,
    recall_at_10: Family<FilteredLabels, Gauge<f64, AtomicU64>>,
    sync_lag_versions: Count,
}

impl Metrics {
    /// All at zero. `database` is shared with the store that observes into it.
    pub fn new(database: Measures) -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            requests: Family::new_with_constructor(Buckets),
            searches: Family::new_with_constructor(Buckets),
            logins: Family::default(),
            connections: Count::default(),
            connections_accepted: Counter::default(),
            connections_refused: Counter::default(),
            connections_stalled: Counter::default(),
            panics: Counter::default(),
            pool_size: PoolFamily::default(),
            pool_available: PoolFamily::default(),
            pool_waiting: PoolFamily::default(),
            limits: LimitMetrics::default(),
            redis_up: Family::default(),
            redis_breaker_openings: Family::default(),
            replica_lag: Gauge::default(),
            replica_is_fresh: Count::default(),
            index_bases: Count::default(),
            index_chunks: Count::default(),
            index_bytes: Count::default(),
            index_loads: Counter::default(),
            index_unloads: Counter::default(),
            recall_at_10: Family::default(),
            sync_lag_versions: Count::default(),
            registry: Registry::default(),
        };
        let r = &mut registry;
        let m = &metrics;
        // The registry puts the unit behind the name: `http_request_duration_seconds`.
        let seconds = || Unit::Seconds;
        let help = "Time from a request's head to its answer's head";
        r.register_with_unit("http_request_duration", help, seconds(), m.requests.clone());
        let help = "Time of a statement, with its round trip";
        r.register_with_unit("database_query_duration", help, seconds(), database.queries);
        let help = "Time that a request waits for a connection of a pool";
        r.register_with_unit("database_pool_wait", help, seconds(), database.waits);
        let help = "Time of a search from the parsed request to the ranked hits";
        r.register_with_unit("search_duration", help, seconds(), m.searches.clone());
        r.register("logins", "Tries to log in, by what came of them", m.logins.clone());
        r.register("http_connections", "Open connections", m.connections.clone());
        // The exposition puts `_total` behind a counter's name.
        r.register("http_connections_accepted", "Connections accepted", m.connections_accepted.clone());
        let help = "Connections answered 503 because as many as may be were open";
        r.register("http_connections_refused", help, m.connections_refused.clone());
        let help = "Connections cut because the client did not read";
        r.register("http_connections_stalled", help, m.connections_stalled.clone());
        let help = "Panics that closed a connection or a stream; one in a handler is a 500 instead";
        r.register("http_panics", help, m.panics.clone());
        r.register("database_pool_size", "Open connections of a pool", m.pool_size.clone());
        r.register("database_pool_available", "Connections of a pool that nobody uses", m.pool_available.clone());
        r.register("database_pool_waiting", "Requests that wait for a connection of a pool", m.pool_waiting.clone());
        m.limits.register(r);
        let help = "1 if commands are sent to Redis, 0 while the circuit breaker is open; absent without Redis";
        r.register("redis_up", help, m.redis_up.clone());
        let help = "How often the circuit breaker before Redis opened";
        r.register("redis_breaker_openings", help, m.redis_breaker_openings.clone());
        r.register("database_reads", "Lists, by who was asked for them first", database.reads);
        let help = "How old what the read replica has may be; NaN if there is none, or it was never complete";
        r.register_with_unit("database_replica_lag", help, seconds(), m.replica_lag.clone());
        let help = "1 while lists are read from the replica, else 0";
        r.register("database_replica_fresh", help, m.replica_is_fresh.clone());
        r.register("index_bases", "Knowledge bases in memory", m.index_bases.clone());
        r.register("index_chunks", "Live chunks in memory", m.index_chunks.clone());
        r.register_with_unit("index_memory", "Memory of the indexes", Unit::Bytes, m.index_bytes.clone());
        r.register("index_loads", "Indexes read into memory", m.index_loads.clone());
        r.register("index_unloads", "Indexes let go to make room for others", m.index_unloads.clone());
        let help = "Share of the ten nearest chunks that searches have found lately; NaN if none was repeated exactly";
        r.register("retrieval_recall_at_10", help, m.recall_at_10.clone());
        let help = "Most versions that a loaded knowledge base is behind Postgres";
        r.register("sync_lag_versions", help, m.sync_lag_versions.clone());
        Self { registry, ..metrics }
    }

    /// Notes a request that was answered. `route` is the pattern of its row in the route table, never the path itself.
    pub fn observe_request(&self, method: &'static str, route: &'static str, status_code: u16, took: Duration) {
        let labels = RequestLabels { method, route, status_code };
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// What limits count into.
    pub fn limits(&self) -> LimitMetrics {
        self.limits.clone()
    }

    /// Notes a search that was answered. `source`: `memory` or `postgres`.
    pub fn observe_search(&self, source: &'static str, took: Duration) {
        self.searches.get_or_create(&SourceLabels { source }).observe(took.as_secs_f64());
    }

    /// Counts a try to log in. `outcome`: `success`, `refused` for wrong credentials, `limited` for too many, `failed` for what
    /// is not the client's doing.
    pub fn observe_login(&self, outcome: &'static str) {
        self.logins.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    /// Everything as OpenMetrics text, with `gauges` as they are now.
    pub fn render(&self, gauges: &Gauges) -> String {
        for pool in &gauges.pools {
            let labels = PoolLabels { pool: pool.pool };
            self.pool_size.get_or_create(&labels).set(pool.size as u64);
            self.pool_available.get_or_create(&labels).set(pool.available as u64);
            self.pool_waiting.get_or_create(&labels).set(pool.waiting as u64);
        }
        if let Some(redis) = &gauges.redis {
            let labels = RedisLabels { topology: redis.topology };
            self.redis_up.get_or_create(&labels).set(redis.is_up.into());
            let openings = self.redis_breaker_openings.get_or_create(&labels);
            openings.inner().store(redis.breaker_openings, Ordering::Relaxed);
        }
        let lag = gauges.replica.and_then(|replica| replica.lag);
        self.replica_lag.set(lag.map_or(f64::NAN, |lag| lag.as_secs_f64()));
        self.replica_is_fresh.set(gauges.replica.is_some_and(|replica| replica.is_fresh).into());
        self.connections.set(gauges.connections as u64);
        for (counter, count) in [
            (&self.connections_accepted, gauges.connections_accepted),
            (&self.connections_refused, gauges.connections_refused),
            (&self.connections_stalled, gauges.connections_stalled),
            (&self.panics, gauges.panics),
            (&self.index_loads, gauges.index_loads),
            (&self.index_unloads, gauges.index_unloads),
        ] {
            counter.inner().store(count, Ordering::Relaxed);
        }
        self.index_bases.set(gauges.index_bases as u64);
        self.index_chunks.set(gauges.index_chunks as u64);
        self.index_bytes.set(gauges.index_bytes as u64);
        for (filtered, recall) in [false, true].into_iter().zip(gauges.recall_at_10) {
            self.recall_at_10.get_or_create(&FilteredLabels { filtered }).set(recall.unwrap_or(f64::NAN));
        }
        self.sync_lag_versions.set(gauges.sync_lag_versions);
        let mut text = String::with_capacity(16 * 1024);
        text::encode(&mut text, &self.registry).expect("a String takes whatever is written to it");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::QueryLabels;

    #[test]
    fn what_was_observed_is_exposed_under_the_agreed_names() {
        let measures = Measures::default();
        let metrics = Metrics::new(measures.clone());
        measures.waits.get_or_create(&PoolLabels { pool: "user" }).observe(0.000_03);
        measures.queries.get_or_create(&QueryLabels { query_type: "documents/list" }).observe(0.003);
        metrics.observe_request("GET", "/v1/knowledge-bases", 200, Duration::from_millis(2));
        metrics.observe_search("memory", Duration::from_micros(90));
        metrics.observe_login("refused");
        let text = metrics.render(&Gauges {
            connections: 1,
            connections_accepted: 12,
            connections_refused: 3,
            connections_stalled: 2,
            panics: 1,
            pools: vec![PoolGauges { pool: "user", size: 3, available: 2, waiting: 1 }],
            redis: Some(RedisGauges { topology: "single", is_up: true, breaker_openings: 2 }),
            replica: Some(ReplicaGauges { lag: Some(Duration::from_millis(250)), is_fresh: true }),
            index_bases: 1,
            index_chunks: 50,
            index_bytes: 4_096,
            index_loads: 4,
            index_unloads: 3,
            recall_at_10: [Some(0.99), None],
            sync_lag_versions: 7,
        });
        for line in [
            r#"http_request_duration_seconds_count{method="GET",route="/v1/knowledge-bases",status_code="200"} 1"#,
            r#"database_query_duration_seconds_count{query_type="documents/list"} 1"#,
            r#"search_duration_seconds_bucket{le="0.0001",source="memory"} 1"#,
            r#"logins_total{outcome="refused"} 1"#,
            "http_connections 1",
            "http_connections_accepted_total 12",
            "http_connections_refused_total 3",
            "http_connections_stalled_total 2",
            "http_panics_total 1",
            r#"database_pool_size{pool="user"} 3"#,
            r#"database_pool_wait_seconds_count{pool="user"} 1"#,
            r#"database_pool_available{pool="user"} 2"#,
            r#"database_pool_waiting{pool="user"} 1"#,
            r#"redis_up{topology="single"} 1"#,
            r#"redis_breaker_openings_total{topology="single"} 2"#,
            r#"database_reads_total{target="replica"} 0"#,
            "database_replica_lag_seconds 0.25",
            "database_replica_fresh 1",
            "index_bases 1",
            "index_chunks 50",
            "index_memory_bytes 4096",
            "index_loads_total 4",
            "index_unloads_total 3",
            r#"retrieval_recall_at_10{filtered="false"} 0.99"#,
            r#"retrieval_recall_at_10{filtered="true"} NaN"#,
            "sync_lag_versions 7",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is missing in:\n{text}");
        }
    }

    #[test]
    fn gauges_follow_what_is_read() {
        let metrics = Metrics::new(Measures::default());
        metrics.render(&Gauges { index_chunks: 9, ..Gauges::default() });
        assert!(metrics.render(&Gauges::default()).contains("index_chunks 0"));
    }
}
