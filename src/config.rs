//! Every knob of the server: one row each in [`KNOBS`] with its meaning, unit and default.
//!
//! A value comes from the environment (`TERTULIA_` and the name in capitals, `.` as `_`), else from the TOML file, else
//! from the row's default. All bad values are reported at once, each with its name, what was read and what would fit.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use tertulia_index::VectorSearch;

use crate::redis_url::RedisUrl;

/// Prefix of every environment variable but `DATABASE_URL`.
const ENV_PREFIX: &str = "TERTULIA_";
/// Variables with that prefix that are no settings: flags of the command line have them.
pub const FLAG_VARIABLES: [&str; 3] = ["TERTULIA_CONFIG", "TERTULIA_URL", "TERTULIA_KEY"];

/// What `accounts.login_ttl` may be: longer than logins are remembered without asking Postgres, and no longer than one
/// lasts that is used.
const LOGIN_TTL: RangeInclusive<Duration> = Duration::from_secs(5 * 60)..=Duration::from_secs(30 * 86_400);

/// What `accounts.visitor_ttl` may be.
const VISITOR_TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// What `database.replica_lag_max` may be. The replica is looked at ten times within it.
const REPLICA_LAG_MAX: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);

/// The name of the encoder of `retrieval.weights_dir`.
pub const STATIC_ENCODER: &str = "static";

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where and how to serve.
    pub server: ServerConfig,
    /// Where Postgres is and how much of it to use.
    pub database: DatabaseConfig,
    /// Where Redis is, if there is one.
    pub redis: RedisConfig,
    /// How often callers may ask.
    pub limits: LimitsConfig,
    /// Encoder, index and search.
    pub retrieval: RetrievalConfig,
    /// The encoder that is a service, if there is one.
    pub encoder: EncoderConfig,
    /// The service that ranks hits anew, if there is one.
    pub rerank: RerankConfig,
    /// How people log in.
    pub accounts: AccountsConfig,
    /// How to log.
    pub log: LogConfig,
}

/// `server.*`
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Folder of the private Postgres and of the snapshots.
    pub data_dir: PathBuf,
    /// Shards, each a thread with a runtime of its own; 0 means one for each core.
    pub shards: usize,
    /// PEM file of the certificate chain; with `tls_key` it turns TLS on.
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the private key.
    pub tls_key: Option<PathBuf>,
    /// Connections that may be open at once; past it new ones are answered 503 and closed.
    pub connections_max: usize,
    /// Requests that may be under way at once on one shard; past it new ones are answered 503.
    pub requests_max: usize,
    /// Largest JSON body.
    pub body_bytes_max: usize,
    /// Largest document body, inflated.
    pub document_bytes_max: usize,
    /// Documents that all shards hold at once; past it new ones are answered 503.
    pub documents_held_bytes_max: usize,
    /// Largest request head.
    pub head_bytes_max: usize,
    /// Time for the TLS handshake and for each request's head; also how long an idle connection is kept.
    pub head_timeout: Duration,
    /// Time for a whole body to arrive.
    pub body_timeout: Duration,
    /// Time for a handler to answer.
    pub handler_timeout: Duration,
    /// Time without progress after which a client that does not read is cut off.
    pub write_timeout: Duration,
    /// Answers from this size up are compressed.
    pub compress_bytes_min: usize,
    /// Time that requests under way get to finish when the server stops.
    pub drain_timeout: Duration,
    /// Proxies that are believed when they say for whom they ask.
    pub trusted_proxies: Vec<IpNet>,
}

/// `database.*`
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Application role; none starts a private Postgres in the data directory.
    pub url: Option<String>,
    /// Service role.
    pub service_url: Option<String>,
    /// Owner role on a direct connection, for migrations; without it the server only checks the schema's version.
    pub direct_url: Option<String>,
    /// Application role on a read replica, for lists; none if there is no replica.
    pub replica_url: Option<String>,
    /// Folder of the Postgres programs (`initdb`, `postgres`); found by itself if not set.
    pub bin_dir: Option<PathBuf>,
    /// Connections of the user pool.
    pub user_connections_max: usize,
    /// Connections of the service pool.
    pub service_connections_max: usize,
    /// Connections of the replica's pool.
    pub replica_connections_max: usize,
    /// How old what the replica has may be.
    pub replica_lag_max: Duration,
    /// Longest wait for a free connection.
    pub acquire_timeout: Duration,
    /// Longest wait for a new connection.
    pub connect_timeout: Duration,
    /// A connection idle for longer is closed.
    pub idle_timeout: Duration,
    /// A connection older than this is closed when it comes back.
    pub lifetime: Duration,
}

/// `redis.*`
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// Where it is; none if this instance is alone.
    pub url: Option<RedisUrl>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for an answer.
    pub response_timeout: Duration,
}

/// `limits.*`: requests in any minute; 0 is no limit.
#[derive(Debug, Clone)]
pub struct LimitsConfig {
    /// Of a tenant of the tier `free`.
    pub free_per_minute: u32,
    /// Of a tenant of the tier `pro`.
    pub pro_per_minute: u32,
    /// Of a tenant of the tier `enterprise`.
    pub enterprise_per_minute: u32,
    /// Of each key.
    pub key_per_minute: u32,
    /// Of each address, to routes that need no key or with one that is refused.
    pub address_per_minute: u32,
}

/// `retrieval.*`
#[derive(Debug, Clone)]
pub struct RetrievalConfig {
    /// Folder with the encoder's weights (safetensors) and tokenizer.
    pub weights_dir: PathBuf,
    /// Memory for loaded knowledge bases; the least recently searched are let go, and one that does not fit even so is
    /// answered by Postgres.
    pub memory_bytes_max: usize,
    /// A knowledge base that was searched within this time is not let go to make room for another.
    pub unload_after: Duration,
    /// Longest that a search waits for its `min_version` before Postgres answers instead.
    pub min_version_wait: Duration,
    /// Pause between two looks at the versions in Postgres, for wake-ups that got lost.
    pub poll_interval: Duration,
    /// Shortest time between two snapshots of one knowledge base.
    pub snapshot_interval: Duration,
    /// How the vectors of loaded knowledge bases are searched.
    pub vectors: VectorSearch,
    /// Longest chunk, in tokens of the encoder.
    pub chunk_tokens_max: usize,
    /// Tokens that a chunk repeats of the one before it in the same section.
    pub chunk_overlap_tokens: usize,
}

/// `encoder.*`: a service with OpenAI's `/v1/embeddings`, beside the encoder of `retrieval.weights_dir`.
#[derive(Debug, Clone)]
pub struct EncoderConfig {
    /// What `/embeddings` is added to; none if there is no such service.
    pub url: Option<String>,
    /// The model, which is also the encoder's name.
    pub model: String,
    /// Numbers in each of its vectors.
    pub dimensions: usize,
    /// Whether requests ask for that many.
    pub send_dimensions: bool,
    /// Sent as a bearer token.
    pub api_key: Option<Secret>,
    /// File that has the key instead.
    pub api_key_file: Option<PathBuf>,
    /// Texts in one request.
    pub batch_texts_max: usize,
    /// Requests for documents that are under way at once.
    pub requests_max: usize,
    /// Longest that one request for documents may take.
    pub timeout: Duration,
    /// Longest that a question may take.
    pub query_timeout: Duration,
}

/// `rerank.*`: a service with `/v1/rerank`, for searches that ask for it.
#[derive(Debug, Clone)]
pub struct RerankConfig {
    /// What `/rerank` is added to; none if there is no such service.
    pub url: Option<String>,
    /// The model.
    pub model: String,
    /// Sent as a bearer token.
    pub api_key: Option<Secret>,
    /// File that has the key instead.
    pub api_key_file: Option<PathBuf>,
    /// How many hits it is given.
    pub candidates: usize,
    /// Longest that it may take.
    pub timeout: Duration,
}

/// Text that no log and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// `accounts.*`
#[derive(Debug, Clone)]
pub struct AccountsConfig {
    /// How long a login lasts that is not used.
    pub login_ttl: Duration,
    /// How long a visitor's token holds.
    pub visitor_ttl: Duration,
}

/// `log.*`
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// What to log, as tracing's `EnvFilter` reads it.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
    /// Whether the statements of each request are watched.
    pub queries: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Readable on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// One row of the settings table.
pub struct Knob {
    /// Name in the TOML file: `section.name`.
    pub name: &'static str,
    /// Value if nobody sets it, in the same spelling as in the environment.
    pub default: &'static str,
    /// What it does, with its unit.
    pub meaning: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

impl Knob {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        match self.name {
            "database.url" => "DATABASE_URL".into(),
            name => format!("{ENV_PREFIX}{}", name.replace('.', "_").to_ascii_uppercase()),
        }
    }
}

/// Every setting, in the order that the README lists them.
#[rustfmt::skip]
pub const KNOBS: &[Knob] = &[
    Knob { name: "server.listen", default: "127.0.0.1:8080", meaning: "address to listen on; port 0 takes a free one", set: |c, v| put(&mut c.server.listen, v, "an address with a port, such as 0.0.0.0:8080") },
    Knob { name: "server.data_dir", default: "data", meaning: "folder of the private Postgres and of the snapshots", set: |c, v| put_path(&mut c.server.data_dir, v) },
    Knob { name: "server.shards", default: "0", meaning: "threads that serve, each with a runtime of its own; 0: one for each core", set: |c, v| put_in(&mut c.server.shards, v, 0, 1_024) },
    Knob { name: "server.tls_cert", default: "", meaning: "PEM file of the certificate chain; with `server.tls_key` it turns TLS on", set: |c, v| put_optional_path(&mut c.server.tls_cert, v) },
    Knob { name: "server.tls_key", default: "", meaning: "PEM file of the private key", set: |c, v| put_optional_path(&mut c.server.tls_key, v) },
    Knob { name: "server.connections_max", default: "16384", meaning: "connections open at once; past it new ones get 503", set: |c, v| put_in(&mut c.server.connections_max, v, 1, 10_000_000) },
    Knob { name: "server.requests_max", default: "1024", meaning: "requests under way at once on one shard; past it new ones get 503", set: |c, v| put_in(&mut c.server.requests_max, v, 1, 1_000_000) },
    Knob { name: "server.body_bytes_max", default: "1048576", meaning: "largest JSON body, inflated, in bytes", set: |c, v| put_in(&mut c.server.body_bytes_max, v, 1_024, 1 << 30) },
    Knob { name: "server.document_bytes_max", default: "33554432", meaning: "largest document body, inflated, in bytes", set: |c, v| put_in(&mut c.server.document_bytes_max, v, 1_024, 1 << 30) },
    Knob { name: "server.documents_held_bytes_max", default: "536870912", meaning: "documents that all shards hold at once, from their first byte until they are written, in bytes; past it new ones get 503", set: |c, v| put_in(&mut c.server.documents_held_bytes_max, v, 1, usize::MAX >> 3) },
    Knob { name: "server.head_bytes_max", default: "32768", meaning: "largest request head, in bytes", set: |c, v| put_in(&mut c.server.head_bytes_max, v, 8_192, 1 << 20) },
    Knob { name: "server.head_timeout", default: "30s", meaning: "time for the TLS handshake and for each request's head; an idle connection is kept as long", set: |c, v| put_duration(&mut c.server.head_timeout, v) },
    Knob { name: "server.body_timeout", default: "30s", meaning: "time for a whole body to arrive", set: |c, v| put_duration(&mut c.server.body_timeout, v) },
    Knob { name: "server.handler_timeout", default: "30s", meaning: "time for a handler to answer", set: |c, v| put_duration(&mut c.server.handler_timeout, v) },
    Knob { name: "server.write_timeout", default: "30s", meaning: "time without progress after which a client that does not read is cut off", set: |c, v| put_duration(&mut c.server.write_timeout, v) },
    Knob { name: "server.compress_bytes_min", default: "1024", meaning: "answers from this size up are compressed, in bytes", set: |c, v| put_in(&mut c.server.compress_bytes_min, v, 0, 1 << 30) },
    Knob { name: "server.drain_timeout", default: "20s", meaning: "time that requests under way get when the server stops", set: |c, v| put_duration(&mut c.server.drain_timeout, v) },
    Knob { name: "server.trusted_proxies", default: "", meaning: "addresses and networks of the proxies in front, separated by commas, such as `10.0.0.0/8,::1`: from them `X-Forwarded-For` is believed", set: |c, v| put_networks(&mut c.server.trusted_proxies, v) },
    Knob { name: "database.url", default: "", meaning: "Postgres URL of the application role; none: a private Postgres in the data directory", set: |c, v| put_optional(&mut c.database.url, v) },
    Knob { name: "database.service_url", default: "", meaning: "Postgres URL of the service role; needed with `database.url`", set: |c, v| put_optional(&mut c.database.service_url, v) },
    Knob { name: "database.direct_url", default: "", meaning: "Postgres URL of the owner, not through a pooler: migrations and upkeep; none: the schema's version is only checked", set: |c, v| put_optional(&mut c.database.direct_url, v) },
    Knob { name: "database.replica_url", default: "", meaning: "Postgres URL of the application role on a read replica, from which lists are read; none: all is read from the primary", set: |c, v| put_optional(&mut c.database.replica_url, v) },
    Knob { name: "database.bin_dir", default: "", meaning: "folder of `initdb` and `postgres` for the private Postgres; none: found by itself", set: |c, v| put_optional_path(&mut c.database.bin_dir, v) },
    Knob { name: "database.user_connections_max", default: "50", meaning: "connections of the user pool", set: |c, v| put_in(&mut c.database.user_connections_max, v, 1, 10_000) },
    Knob { name: "database.service_connections_max", default: "15", meaning: "connections of the service pool", set: |c, v| put_in(&mut c.database.service_connections_max, v, 1, 10_000) },
    Knob { name: "database.replica_connections_max", default: "50", meaning: "connections of the replica's pool", set: |c, v| put_in(&mut c.database.replica_connections_max, v, 1, 10_000) },
    Knob { name: "database.replica_lag_max", default: "2s", meaning: "how old what the replica has may be, from 100ms to 1h; past it lists are read from the primary", set: |c, v| put_duration_in(&mut c.database.replica_lag_max, v, REPLICA_LAG_MAX) },
    Knob { name: "database.acquire_timeout", default: "5s", meaning: "longest wait for a free connection", set: |c, v| put_duration(&mut c.database.acquire_timeout, v) },
    Knob { name: "database.connect_timeout", default: "10s", meaning: "longest wait for a new connection", set: |c, v| put_duration(&mut c.database.connect_timeout, v) },
    Knob { name: "database.idle_timeout", default: "20s", meaning: "a connection idle for longer is closed", set: |c, v| put_duration(&mut c.database.idle_timeout, v) },
    Knob { name: "database.lifetime", default: "3600s", meaning: "a connection older than this is closed when it comes back", set: |c, v| put_duration(&mut c.database.lifetime, v) },
    Knob { name: "redis.url", default: "", meaning: "Redis that instances share: redis://host:6379, redis+sentinel://host,host,host/service or redis+cluster://host,host,host, with user:password@ before the hosts if need be; rediss encrypts; none: this instance is alone", set: |c, v| put_redis_url(&mut c.redis.url, v) },
    Knob { name: "redis.connect_timeout", default: "1s", meaning: "longest wait for a connection to Redis", set: |c, v| put_duration(&mut c.redis.connect_timeout, v) },
    Knob { name: "redis.response_timeout", default: "250ms", meaning: "longest wait for an answer of Redis; three in a row open the circuit breaker", set: |c, v| put_duration(&mut c.redis.response_timeout, v) },
    Knob { name: "limits.free_per_minute", default: "100", meaning: "requests in any minute of a tenant of the tier `free`; 0: no limit", set: |c, v| put_count(&mut c.limits.free_per_minute, v) },
    Knob { name: "limits.pro_per_minute", default: "500", meaning: "the same for the tier `pro`", set: |c, v| put_count(&mut c.limits.pro_per_minute, v) },
    Knob { name: "limits.enterprise_per_minute", default: "2000", meaning: "the same for the tier `enterprise`", set: |c, v| put_count(&mut c.limits.enterprise_per_minute, v) },
    Knob { name: "limits.key_per_minute", default: "0", meaning: "requests in any minute of one API key, beside its tenant's limit; 0: no limit", set: |c, v| put_count(&mut c.limits.key_per_minute, v) },
    Knob { name: "limits.address_per_minute", default: "300", meaning: "requests in any minute of one address (IPv6: its first 64 bits) to routes that need no key, or with one that is refused, or of a visitor; 0: no limit", set: |c, v| put_count(&mut c.limits.address_per_minute, v) },
    Knob { name: "retrieval.weights_dir", default: "weights", meaning: "folder with the encoder's weights (safetensors) and tokenizer", set: |c, v| put_path(&mut c.retrieval.weights_dir, v) },
    Knob { name: "retrieval.memory_bytes_max", default: "8589934592", meaning: "memory for loaded knowledge bases, in bytes; the least recently searched are let go, and one that does not fit even so is answered by Postgres", set: |c, v| put_in(&mut c.retrieval.memory_bytes_max, v, 0, usize::MAX >> 1) },
    Knob { name: "retrieval.unload_after", default: "60s", meaning: "a knowledge base that was searched within this time is not let go to make room for another", set: |c, v| put_duration(&mut c.retrieval.unload_after, v) },
    Knob { name: "retrieval.min_version_wait", default: "1s", meaning: "longest that a search waits for its `min_version` before Postgres answers instead", set: |c, v| put_duration(&mut c.retrieval.min_version_wait, v) },
    Knob { name: "retrieval.poll_interval", default: "1s", meaning: "pause between two looks at the versions in Postgres, for wake-ups that got lost", set: |c, v| put_duration(&mut c.retrieval.poll_interval, v) },
    Knob { name: "retrieval.snapshot_interval", default: "10s", meaning: "shortest time between two snapshots of one knowledge base", set: |c, v| put_duration(&mut c.retrieval.snapshot_interval, v) },
    Knob { name: "retrieval.vectors", default: "auto", meaning: "how vectors are searched: `scan`, which finds all; `graph`, which large segments of a knowledge base get in the background; or `auto`, whichever is quicker", set: |c, v| put_vector_search(&mut c.retrieval.vectors, v) },
    Knob { name: "retrieval.chunk_tokens_max", default: "256", meaning: "longest chunk, in tokens of the encoder", set: |c, v| put_in(&mut c.retrieval.chunk_tokens_max, v, 32, 8_192) },
    Knob { name: "retrieval.chunk_overlap_tokens", default: "32", meaning: "tokens that a chunk repeats of the one before it in the same section", set: |c, v| put_in(&mut c.retrieval.chunk_overlap_tokens, v, 0, 4_096) },
    Knob { name: "encoder.url", default: "", meaning: "service with OpenAI's `/v1/embeddings`, up to and without `/embeddings`, such as https://api.openai.com/v1; none: only the encoder of `retrieval.weights_dir`", set: |c, v| put_http_url(&mut c.encoder.url, v) },
    Knob { name: "encoder.model", default: "", meaning: "the service's model; knowledge bases name the encoder by it", set: |c, v| put_text(&mut c.encoder.model, v) },
    Knob { name: "encoder.dimensions", default: "0", meaning: "numbers in the model's vectors; needed with `encoder.url`", set: |c, v| put_in(&mut c.encoder.dimensions, v, 0, 16_000) },
    Knob { name: "encoder.send_dimensions", default: "false", meaning: "ask for that many, of a model that can shorten its vectors", set: |c, v| put(&mut c.encoder.send_dimensions, v, "`true` or `false`") },
    Knob { name: "encoder.api_key", default: "", meaning: "sent to the service as a bearer token", set: |c, v| put_secret(&mut c.encoder.api_key, v) },
    Knob { name: "encoder.api_key_file", default: "", meaning: "file that has the key, instead of `encoder.api_key`", set: |c, v| put_optional_path(&mut c.encoder.api_key_file, v) },
    Knob { name: "encoder.batch_texts_max", default: "64", meaning: "texts in one request to the service", set: |c, v| put_in(&mut c.encoder.batch_texts_max, v, 1, 2_048) },
    Knob { name: "encoder.requests_max", default: "4", meaning: "requests for documents under way at once; further ones wait", set: |c, v| put_in(&mut c.encoder.requests_max, v, 1, 1_024) },
    Knob { name: "encoder.timeout", default: "30s", meaning: "longest that one request for documents may take", set: |c, v| put_duration(&mut c.encoder.timeout, v) },
    Knob { name: "encoder.query_timeout", default: "1s", meaning: "longest that a search waits for its question's vector; past it hybrid searches go by words alone", set: |c, v| put_duration(&mut c.encoder.query_timeout, v) },
    Knob { name: "rerank.url", default: "", meaning: "service with `/v1/rerank` as Cohere, Jina and vLLM have it, up to and without `/rerank`, for searches with `rerank`; none: such searches are refused", set: |c, v| put_http_url(&mut c.rerank.url, v) },
    Knob { name: "rerank.model", default: "", meaning: "the service's model; needed with `rerank.url`", set: |c, v| put_text(&mut c.rerank.model, v) },
    Knob { name: "rerank.api_key", default: "", meaning: "sent to the service as a bearer token", set: |c, v| put_secret(&mut c.rerank.api_key, v) },
    Knob { name: "rerank.api_key_file", default: "", meaning: "file that has the key, instead of `rerank.api_key`", set: |c, v| put_optional_path(&mut c.rerank.api_key_file, v) },
    Knob { name: "rerank.candidates", default: "50", meaning: "how many of the best hits the service is given, unless more are wanted", set: |c, v| put_in(&mut c.rerank.candidates, v, 1, 1_000) },
    Knob { name: "rerank.timeout", default: "500ms", meaning: "longest that a search waits for the service; past it hits come in the order of the search", set: |c, v| put_duration(&mut c.rerank.timeout, v) },
    Knob { name: "accounts.login_ttl", default: "12h", meaning: "how long a login lasts that is not used, from 5m to 720h; one that is used lasts at most 30 days", set: |c, v| put_duration_in(&mut c.accounts.login_ttl, v, LOGIN_TTL) },
    Knob { name: "accounts.visitor_ttl", default: "15m", meaning: "how long the token of a widget's visitor holds, from 1s to 24h; while it does, it is exchanged for a new one", set: |c, v| put_duration_in(&mut c.accounts.visitor_ttl, v, VISITOR_TTL) },
    Knob { name: "log.filter", default: "info,refinery_core=warn,tokio_postgres=warn", meaning: "what to log, such as `info` or `tertulia=debug,info`", set: |c, v| put_filter(&mut c.log.filter, v) },
    Knob { name: "log.format", default: "auto", meaning: "`auto` (readable on a terminal, else JSON), `json` or `text`", set: |c, v| put_format(&mut c.log.format, v) },
    Knob { name: "log.queries", default: "false", meaning: "for development: log each statement of a request at debug with its time and count, and name one that runs more than 3 times in the log and in the header `X-Repeated-Statements`", set: |c, v| put(&mut c.log.queries, v, "`true` or `false`") },
];

/// Everything that is wrong with the settings, a line each.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} mistake{}:", self.0.len(), if self.0.len() == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads every knob: `variable` looks up an environment variable, `file` is the text of the TOML file and its path.
    ///
    /// # Errors
    /// Every bad value, unknown name and contradiction at once.
    pub fn load(variable: impl Fn(&str) -> Option<String>, file: Option<(&Path, &str)>) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let from_file = file.map(|(path, text)| read_file(path, text, &mut errors)).unwrap_or_default();
        let mut config = blank();
        for knob in KNOBS {
            let from_env = variable(&knob.variable()).map(|value| (value, knob.variable()));
            let found = from_env.or_else(|| from_file.get(knob.name).cloned());
            let (value, place) = found.unwrap_or_else(|| (knob.default.to_owned(), "its default".into()));
            if let Err(wanted) = (knob.set)(&mut config, &value) {
                let is_secret = knob.name.ends_with("url") || knob.name.ends_with("key");
                let shown = if is_secret { "…" } else { value.as_str() };
                errors.push(format!("{} is \"{shown}\" (from {place}), but must be {wanted}", knob.name));
            }
        }
        config.contradictions(&mut errors);
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    fn contradictions(&self, errors: &mut Vec<String>) {
        if self.server.tls_cert.is_some() != self.server.tls_key.is_some() {
            errors.push("server.tls_cert and server.tls_key go together: set both or none".into());
        }
        if self.server.documents_held_bytes_max < self.server.document_bytes_max {
            errors.push("server.documents_held_bytes_max must be at least server.document_bytes_max".into());
        }
        if self.database.url.is_some() != self.database.service_url.is_some() {
            errors.push(
                "database.url (DATABASE_URL) and database.service_url go together: the first is the application \
                 role, the second the service role; set both, or none for a private Postgres"
                    .into(),
            );
        }
        if self.database.replica_url.is_some() && self.database.url.is_none() {
            errors.push(
                "database.replica_url needs database.url (DATABASE_URL): a private Postgres has no replica".into(),
            );
        }
        if self.retrieval.chunk_overlap_tokens * 2 > self.retrieval.chunk_tokens_max {
            errors.push("retrieval.chunk_overlap_tokens may be at most half of retrieval.chunk_tokens_max".into());
        }
        let encoder = &self.encoder;
        let is_set = [encoder.url.is_some(), !encoder.model.is_empty(), encoder.dimensions > 0];
        if is_set.contains(&true) && is_set.contains(&false) {
            errors.push("encoder.url, encoder.model and encoder.dimensions go together: set all or none".into());
        }
        if encoder.model == STATIC_ENCODER {
            errors
                .push(format!("encoder.model may not be `{STATIC_ENCODER}`: the encoder in the process has that name"));
        }
        let rerank = &self.rerank;
        if rerank.url.is_some() == rerank.model.is_empty() {
            errors.push("rerank.url and rerank.model go together: set both or none".into());
        }
        for (name, key, file) in
            [("encoder", &encoder.api_key, &encoder.api_key_file), ("rerank", &rerank.api_key, &rerank.api_key_file)]
        {
            if key.is_some() && file.is_some() {
                errors.push(format!(
                    "{name}.api_key and {name}.api_key_file are two places for one key: set one of them"
                ));
            }
        }
    }
}

impl Default for Config {
    /// Every knob at the default of its row.
    fn default() -> Self {
        Self::load(|_| None, None).expect("the defaults in KNOBS fit their own rows (tested)")
    }
}

/// A configuration that no row has been put into yet.
fn blank() -> Config {
    Config {
        server: ServerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data_dir: PathBuf::new(),
            shards: 0,
            tls_cert: None,
            tls_key: None,
            connections_max: 0,
            requests_max: 0,
            body_bytes_max: 0,
            document_bytes_max: 0,
            documents_held_bytes_max: 0,
            head_bytes_max: 0,
            head_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
            handler_timeout: Duration::ZERO,
            write_timeout: Duration::ZERO,
            compress_bytes_min: 0,
            drain_timeout: Duration::ZERO,
            trusted_proxies: Vec::new(),
        },
        database: DatabaseConfig {
            url: None,
            service_url: None,
            direct_url: None,
            replica_url: None,
            bin_dir: None,
            user_connections_max: 0,
            service_connections_max: 0,
            replica_connections_max: 0,
            replica_lag_max: Duration::ZERO,
            acquire_timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            lifetime: Duration::ZERO,
        },
        redis: RedisConfig { url: None, connect_timeout: Duration::ZERO, response_timeout: Duration::ZERO },
        limits: LimitsConfig {
            free_per_minute: 0,
            pro_per_minute: 0,
            enterprise_per_minute: 0,
            key_per_minute: 0,
            address_per_minute: 0,
        },
        retrieval: RetrievalConfig {
            weights_dir: PathBuf::new(),
            memory_bytes_max: 0,
            unload_after: Duration::ZERO,
            min_version_wait: Duration::ZERO,
            poll_interval: Duration::ZERO,
            snapshot_interval: Duration::ZERO,
            vectors: VectorSearch::Auto,
            chunk_tokens_max: 0,
            chunk_overlap_tokens: 0,
        },
        encoder: EncoderConfig {
            url: None,
            model: String::new(),
            dimensions: 0,
            send_dimensions: false,
            api_key: None,
            api_key_file: None,
            batch_texts_max: 0,
            requests_max: 0,
            timeout: Duration::ZERO,
            query_timeout: Duration::ZERO,
        },
        rerank: RerankConfig {
            url: None,
            model: String::new(),
            api_key: None,
            api_key_file: None,
            candidates: 0,
            timeout: Duration::ZERO,
        },
        accounts: AccountsConfig { login_ttl: Duration::ZERO, visitor_ttl: Duration::ZERO },
        log: LogConfig { filter: String::new(), format: LogFormat::Auto, queries: false },
    }
}

/// The values of the TOML file by knob name, each with the place it stands in.
fn read_file(path: &Path, text: &str, errors: &mut Vec<String>) -> BTreeMap<String, (String, String)> {
    let place = path.display().to_string();
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            errors.push(format!("{place} is not TOML: {}", error.to_string().trim_end().replace('\n', "\n    ")));
            return BTreeMap::new();
        }
    };
    let mut values = BTreeMap::new();
    for (section, entry) in table {
        let toml::Value::Table(entries) = entry else {
            errors.push(format!("{place}: `{section}` stands outside a section such as [server]"));
            continue;
        };
        for (key, value) in entries {
            let name = format!("{section}.{key}");
            if !KNOBS.iter().any(|knob| knob.name == name) {
                errors.push(format!("{place}: there is no setting `{name}`{}", suggestion(&name)));
                continue;
            }
            let value = match value {
                toml::Value::String(value) => value,
                other => other.to_string(),
            };
            values.insert(name, (value, place.clone()));
        }
    }
    values
}

/// "; did you mean …?" for the known name that is nearest to a mistyped one.
fn suggestion(name: &str) -> String {
    nearest(name, KNOBS.iter().map(|knob| knob.name))
        .map(|known| format!("; did you mean `{known}`?"))
        .unwrap_or_default()
}

/// The name of `known` that shares the longest start or end with a mistyped one; none if that is little.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |known: &str| {
        let start = known.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        let end = known.bytes().rev().zip(name.bytes().rev()).take_while(|(a, b)| a == b).count();
        start + end
    };
    known.max_by_key(|known| alike(known)).filter(|known| alike(known) * 2 > known.len())
}

/// A variable that looks like a setting and is none.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownVariable {
    /// As it was set.
    pub name: String,
    /// The known one that it is most like, if there is one.
    pub nearest: Option<String>,
}

impl fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the environment variable {} is ignored, as there is no such setting", self.name)?;
        self.nearest.as_ref().map_or(Ok(()), |known| write!(f, "; did you mean {known}?"))
    }
}

/// Those of `names`, the environment's, that begin as our variables do and are none.
pub fn unknown_variables(names: &[String]) -> Vec<UnknownVariable> {
    let mut known: Vec<String> = KNOBS.iter().map(Knob::variable).collect();
    known.extend(FLAG_VARIABLES.map(str::to_owned));
    // Kubernetes tells every pod of every service: of one that is called tertulia, by TERTULIA_SERVICE_HOST and more.
    let services: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("_SERVICE_HOST")).collect();
    let of_service = |rest: &str| rest.starts_with("_SERVICE_") || rest == "_PORT" || rest.starts_with("_PORT_");
    let is_of_service = |name: &str| services.iter().any(|service| name.strip_prefix(service).is_some_and(of_service));
    let mut unknown: Vec<UnknownVariable> = names
        .iter()
        .filter(|name| name.starts_with(ENV_PREFIX) && !known.contains(name) && !is_of_service(name))
        .map(|name| UnknownVariable { name: name.clone(), nearest: nearest_variable(name, &known) })
        .collect();
    unknown.sort_by(|left, right| left.name.cmp(&right.name));
    unknown
}

fn nearest_variable(name: &str, known: &[String]) -> Option<String> {
    let rests = || known.iter().filter_map(|known| known.strip_prefix(ENV_PREFIX));
    let rest = name.strip_prefix(ENV_PREFIX)?.to_ascii_uppercase();
    // The section is what is left out most easily; and the one name without our prefix is given it.
    let whole = rests().find(|known| known.strip_suffix(&rest).is_some_and(|section| section.ends_with('_')));
    match whole.or_else(|| nearest(&rest, rests())) {
        _ if known.contains(&rest) => Some(rest),
        found => found.map(|found| format!("{ENV_PREFIX}{found}")),
    }
}

fn put<T: FromStr>(slot: &mut T, value: &str, wanted: &str) -> Result<(), String> {
    *slot = value.trim().parse().map_err(|_| wanted.to_owned())?;
    Ok(())
}

fn put_in(slot: &mut usize, value: &str, min: usize, max: usize) -> Result<(), String> {
    let wanted = || format!("a whole number from {min} to {max}");
    let number = value.trim().replace('_', "").parse().map_err(|_| wanted())?;
    if !(min..=max).contains(&number) {
        return Err(wanted());
    }
    *slot = number;
    Ok(())
}

fn put_count(slot: &mut u32, value: &str) -> Result<(), String> {
    let mut number = 0;
    put_in(&mut number, value, 0, 1_000_000_000)?;
    *slot = u32::try_from(number).unwrap_or(u32::MAX);
    Ok(())
}

fn put_redis_url(slot: &mut Option<RedisUrl>, value: &str) -> Result<(), String> {
    let value = value.trim();
    *slot = if value.is_empty() { None } else { Some(RedisUrl::parse(value)?) };
    Ok(())
}

fn put_path(slot: &mut PathBuf, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("a path".into());
    }
    *slot = value.into();
    Ok(())
}

fn put_optional(slot: &mut Option<String>, value: &str) -> Result<(), String> {
    *slot = Some(value.trim().to_owned()).filter(|text| !text.is_empty());
    match slot {
        Some(url) if !url.starts_with("postgres://") && !url.starts_with("postgresql://") => {
            Err("a URL that starts with postgres://".into())
        }
        _ => Ok(()),
    }
}

fn put_http_url(slot: &mut Option<String>, value: &str) -> Result<(), String> {
    let wanted = || "an address that starts with http:// or https://, without user, password, ? and #".to_owned();
    let value = value.trim().trim_end_matches('/');
    if value.is_empty() {
        *slot = None;
        return Ok(());
    }
    let url: hyper::Uri = value.parse().map_err(|_| wanted())?;
    let has_place = url.authority().is_some_and(|place| !place.as_str().contains('@') && !place.host().is_empty());
    if !matches!(url.scheme_str(), Some("http" | "https")) || !has_place || value.contains(['?', '#']) {
        return Err(wanted());
    }
    *slot = Some(value.to_owned());
    Ok(())
}

fn put_text(slot: &mut String, value: &str) -> Result<(), String> {
    let value = value.trim();
    if value.len() > 200 || value.chars().any(char::is_control) {
        return Err("at most 200 bytes of text on one line".into());
    }
    *slot = value.to_owned();
    Ok(())
}

fn put_secret(slot: &mut Option<Secret>, value: &str) -> Result<(), String> {
    let value = value.trim();
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("printable ASCII without blanks".into());
    }
    *slot = Some(Secret(value.to_owned())).filter(|_| !value.is_empty());
    Ok(())
}

fn put_optional_path(slot: &mut Option<PathBuf>, value: &str) -> Result<(), String> {
    *slot = Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty());
    Ok(())
}

fn put_duration(slot: &mut Duration, value: &str) -> Result<(), String> {
    let wanted = || "a time above zero such as 500ms, 30s or 5m".to_owned();
    let value = value.trim();
    let digits = value.len() - value.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = value.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wanted())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    *slot =
        milliseconds.filter(|ms| (1..=365 * 86_400_000).contains(ms)).map(Duration::from_millis).ok_or_else(wanted)?;
    Ok(())
}

fn put_duration_in(slot: &mut Duration, value: &str, range: RangeInclusive<Duration>) -> Result<(), String> {
    let mut duration = Duration::ZERO;
    put_duration(&mut duration, value)?;
    if !range.contains(&duration) {
        return Err(format!("a time from {:?} to {:?}", range.start(), range.end()));
    }
    *slot = duration;
    Ok(())
}

fn put_networks(slot: &mut Vec<IpNet>, value: &str) -> Result<(), String> {
    let network = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let texts = value.split(',').map(str::trim).filter(|text| !text.is_empty());
    let networks: Option<_> = texts.map(network).collect();
    *slot = networks.ok_or("addresses and networks separated by commas, such as 10.0.0.0/8,::1")?;
    Ok(())
}

fn put_filter(slot: &mut String, value: &str) -> Result<(), String> {
    value
        .parse::<tracing_subscriber::EnvFilter>()
        .map_err(|_| "a filter such as `info` or `tertulia=debug,info`".to_owned())?;
    *slot = value.to_owned();
    Ok(())
}

fn put_format(slot: &mut LogFormat, value: &str) -> Result<(), String> {
    *slot = match value {
        "auto" => LogFormat::Auto,
        "json" => LogFormat::Json,
        "text" => LogFormat::Text,
        _ => return Err("`auto`, `json` or `text`".into()),
    };
    Ok(())
}

fn put_vector_search(slot: &mut VectorSearch, value: &str) -> Result<(), String> {
    *slot = match value {
        "auto" => VectorSearch::Auto,
        "scan" => VectorSearch::Scan,
        "graph" => VectorSearch::Graph,
        _ => return Err("`auto`, `scan` or `graph`".into()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(variables: &[(&str, &str)], file: Option<&str>) -> Result<Config, ConfigErrors> {
        let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        Config::load(lookup, file.map(|text| (Path::new("t.toml"), text)))
    }

    #[test]
    fn environment_beats_file_beats_default() {
        let file = "[server]\nshards = 3\nbody_timeout = \"500ms\"";
        let config = load(&[("TERTULIA_SERVER_SHARDS", "2")], Some(file)).unwrap();
        assert_eq!(config.server.shards, 2);
        assert_eq!(config.server.body_timeout, Duration::from_millis(500));
        assert_eq!(config.server.head_timeout, Duration::from_secs(30));
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let file = "loose = 1\n[server]\nshard = 1\nlisten = \"nowhere\"";
        let variables = [("TERTULIA_SERVER_TLS_CERT", "c.pem"), ("TERTULIA_SERVER_HEAD_TIMEOUT", "0s")];
        let told = load(&variables, Some(file)).unwrap_err().to_string();
        for part in
            ["5 mistakes", "`loose`", "did you mean `server.shards`", "server.listen", "tls_key", "head_timeout"]
        {
            assert!(told.contains(part), "{part} is missing in: {told}");
        }
    }

    #[test]
    fn a_mistyped_variable_is_told_with_the_nearest_that_there_is() {
        let check = |names: &[&str], expected: &[(&str, Option<&str>)]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let found = unknown_variables(&names);
            let found: Vec<_> = found.iter().map(|it| (it.name.as_str(), it.nearest.as_deref())).collect();
            assert_eq!(found, expected);
        };
        let all: Vec<String> = KNOBS.iter().map(Knob::variable).collect();
        assert_eq!(unknown_variables(&all), []);
        check(&["PATH", "TERTULIA_URL", "TERTULIA_KEY", "TERTULIA_CONFIG", "DATABASE_URL"], &[]);
        for (name, nearest) in [
            ("TERTULIA_SERVER_SHARD", Some("TERTULIA_SERVER_SHARDS")),
            ("TERTULIA_SERVER_LITSEN", Some("TERTULIA_SERVER_LISTEN")),
            ("TERTULIA_LISTEN", Some("TERTULIA_SERVER_LISTEN")),
            ("TERTULIA_server_listen", Some("TERTULIA_SERVER_LISTEN")),
            ("TERTULIA_DATA_DIR", Some("TERTULIA_SERVER_DATA_DIR")),
            ("TERTULIA_DATABASE_URL", Some("DATABASE_URL")),
            ("TERTULIA_KEYS", Some("TERTULIA_KEY")),
            ("TERTULIA_", None),
            ("TERTULIA_WATER", None),
        ] {
            check(&[name], &[(name, nearest)]);
        }
        let of_kubernetes = [
            "TERTULIA_SERVICE_HOST",
            "TERTULIA_SERVICE_PORT_HTTP",
            "TERTULIA_PORT",
            "TERTULIA_PORT_80_TCP",
            "TERTULIA_OLD_SERVICE_HOST",
            "TERTULIA_OLD_PORT",
        ];
        check(&of_kubernetes, &[]);
        check(&["TERTULIA_PORT"], &[("TERTULIA_PORT", None)]);
        let told = UnknownVariable { name: "TERTULIA_LISTEN".into(), nearest: Some("TERTULIA_SERVER_LISTEN".into()) };
        assert!(told.to_string().ends_with("did you mean TERTULIA_SERVER_LISTEN?"), "{told}");
    }

    #[test]
    fn a_bad_url_is_not_printed_with_its_password() {
        for (variable, bad, name) in [
            ("DATABASE_URL", "mysql://u:secret@h/d", "database.url"),
            ("TERTULIA_REDIS_URL", "redis://u:secret@h/d", "redis.url"),
        ] {
            let told = load(&[(variable, bad)], None).unwrap_err().to_string();
            assert!(told.contains(name) && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let proxies = |text: &str| {
            load(&[("TERTULIA_SERVER_TRUSTED_PROXIES", text)], None).map(|config| config.server.trusted_proxies)
        };
        assert_eq!(proxies("").unwrap(), []);
        let networks: Vec<IpNet> = ["10.0.0.0/8", "::1/128", "192.0.2.1/32"].map(|it| it.parse().unwrap()).into();
        assert_eq!(proxies("10.0.0.0/8, ::1,192.0.2.1").unwrap(), networks);
        for bad in ["proxy.example.com", "10.0.0.0/33", "10.0.0.1;10.0.0.2", "*"] {
            assert!(proxies(bad).unwrap_err().to_string().contains("server.trusted_proxies"), "{bad}");
        }
    }

    #[test]
    fn a_login_lasts_for_some_minutes_at_least() {
        for (value, is_good) in [("5m", true), ("720h", true), ("299s", false), ("721h", false), ("0s", false)] {
            assert_eq!(load(&[("TERTULIA_ACCOUNTS_LOGIN_TTL", value)], None).is_ok(), is_good, "{value}");
        }
    }

    #[test]
    fn vectors_are_searched_as_told() {
        assert_eq!(load(&[], None).unwrap().retrieval.vectors, VectorSearch::Auto);
        for (value, expected) in [("scan", VectorSearch::Scan), ("graph", VectorSearch::Graph)] {
            let config = load(&[("TERTULIA_RETRIEVAL_VECTORS", value)], None).unwrap();
            assert_eq!(config.retrieval.vectors, expected);
        }
        let told = load(&[("TERTULIA_RETRIEVAL_VECTORS", "hnsw")], None).unwrap_err().to_string();
        assert!(told.contains("`auto`, `scan` or `graph`"), "{told}");
    }

    #[test]
    fn an_encoder_is_whole_and_its_key_is_shown_nowhere() {
        let whole = [
            ("TERTULIA_ENCODER_URL", "https://api.example.com/v1/"),
            ("TERTULIA_ENCODER_MODEL", "small"),
            ("TERTULIA_ENCODER_DIMENSIONS", "1536"),
            ("TERTULIA_ENCODER_API_KEY", "sk-secret"),
        ];
        let config = load(&whole, None).unwrap();
        assert_eq!(config.encoder.url.as_deref(), Some("https://api.example.com/v1"));
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        for left_out in 0..3 {
            let rest: Vec<_> =
                whole.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, pair)| *pair).collect();
            assert!(load(&rest, None).unwrap_err().to_string().contains("go together"));
        }
        for (name, bad) in [
            ("TERTULIA_ENCODER_URL", "ftp://secret.example.com"),
            ("TERTULIA_ENCODER_URL", "https://user:secret@example.com/v1"),
            ("TERTULIA_ENCODER_URL", "https://example.com/v1?key=secret"),
            ("TERTULIA_ENCODER_URL", "secret"),
            ("TERTULIA_ENCODER_API_KEY", "secret secret"),
            ("TERTULIA_ENCODER_DIMENSIONS", "16001"),
            ("TERTULIA_ENCODER_MODEL", "static"),
            ("TERTULIA_ENCODER_API_KEY_FILE", "/run/key"),
        ] {
            let mut variables = whole.to_vec();
            variables.retain(|(other, _)| *other != name);
            variables.push((name, bad));
            let told = load(&variables, None).unwrap_err().to_string();
            assert!(told.contains("encoder.") && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn a_reranker_is_whole_and_its_key_is_shown_nowhere() {
        let whole = [
            ("TERTULIA_RERANK_URL", "http://127.0.0.1:8000/v1/"),
            ("TERTULIA_RERANK_MODEL", "small"),
            ("TERTULIA_RERANK_API_KEY", "sk-secret"),
        ];
        let config = load(&whole, None).unwrap();
        assert_eq!(config.rerank.url.as_deref(), Some("http://127.0.0.1:8000/v1"));
        assert_eq!((config.rerank.candidates, config.rerank.timeout), (50, Duration::from_millis(500)));
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        for (at, told) in [(0, "go together"), (1, "go together")] {
            let rest: Vec<_> = whole.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, pair)| *pair).collect();
            assert!(load(&rest, None).unwrap_err().to_string().contains(told));
        }
        for (name, bad) in [
            ("TERTULIA_RERANK_API_KEY_FILE", "/run/key"),
            ("TERTULIA_RERANK_CANDIDATES", "0"),
            ("TERTULIA_RERANK_CANDIDATES", "1001"),
            ("TERTULIA_RERANK_TIMEOUT", "0s"),
        ] {
            let told = load(&[&whole[..], &[(name, bad)]].concat(), None).unwrap_err().to_string();
            assert!(told.contains("rerank.") && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn each_knob_has_a_default_that_fits_and_a_variable_of_its_own() {
        let _ = Config::default();
        let variables: std::collections::BTreeSet<_> = KNOBS.iter().map(Knob::variable).collect();
        assert_eq!(variables.len(), KNOBS.len());
    }
}
