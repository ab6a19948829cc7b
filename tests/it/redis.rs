//! Redis that several instances share: their limits hold together, and hold when Redis is away, comes back or has moved.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use tertulia::{
    bus::{Limits, Redis, Rule, Subject, limits::LimitMetrics, redis::advice},
    config::Config,
    redis_url::RedisUrl,
    tasks::Tasks,
};

use crate::harness::{
    Client, Database, Tenant, TestApp,
    binary::{Serve, command, data_dir, outcome_of},
    redis::{Cluster, RedisServer, Watched},
    until,
};

const LIST: &str = "/v1/knowledge-bases";

/// Two instances on one database and one Redis, and a tenant of theirs.
struct Pair {
    apps: [TestApp; 2],
    acme: Tenant,
}

impl Pair {
    async fn start(redis_url: &str, per_minute: u32) -> Self {
        let database = Database::create().await;
        let per_minute = per_minute.to_string();
        let settings = [("TERTULIA_REDIS_URL", redis_url), ("TERTULIA_LIMITS_PRO_PER_MINUTE", per_minute.as_str())];
        let first = TestApp::start_on(database.clone(), &settings).await;
        let second = TestApp::start_on(database, &settings).await;
        let acme = first.tenant("acme").await;
        let pair = Self { apps: [first, second], acme };
        pair.until_up(true).await;
        pair
    }

    /// The tenant's clients at each instance.
    fn clients(&self, tenant: &Tenant) -> [Client; 2] {
        [tenant.client.at(&self.apps[0].client()), tenant.client.at(&self.apps[1].client())]
    }

    /// Waits until both instances have, or miss, their Redis.
    async fn until_up(&self, is_up: bool) {
        for app in &self.apps {
            until("both instances know how Redis is", async || {
                (sum(app, "redis_up{").await == u64::from(is_up)).then_some(())
            })
            .await;
        }
    }

    /// How many of `asked` requests, by several clients at each instance in turn, are let through. Everything else is a
    /// plain refusal, and quick.
    async fn hammer(&self, tenant: &Tenant, asked: usize) -> usize {
        let clients = self.clients(tenant);
        let askers = (0..4).map(|asker| {
            let client = &clients[asker % 2];
            async move {
                let mut let_through = 0;
                for _ in 0..asked / 4 {
                    let began = Instant::now();
                    let reply = client.get(LIST).await;
                    assert!(matches!(reply.status, 200 | 429), "{reply:?}");
                    assert!(began.elapsed() < Duration::from_secs(2), "took {:?}", began.elapsed());
                    let_through += usize::from(reply.status == 200);
                }
                let_through
            }
        });
        futures_util::future::join_all(askers).await.into_iter().sum()
    }

    /// Sum of a metric of both instances, over all its labels that begin so.
    async fn sum(&self, name: &str) -> u64 {
        sum(&self.apps[0], name).await + sum(&self.apps[1], name).await
    }
}

async fn sum(app: &TestApp, name: &str) -> u64 {
    let metrics = app.client().get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_across_instances_and_most_checks_touch_no_network() {
    let redis = RedisServer::start();
    let pair = Pair::start(&redis.url(), 400).await;
    let other = pair.apps[0].tenant("other").await;
    let let_through = pair.hammer(&pair.acme, 600).await;
    // At most what one lease of each instance holds is kept from the others.
    assert!((392..=404).contains(&let_through), "{let_through}");
    let leases = pair.sum("rate_limit_leases_total{").await;
    assert!(leases <= 300, "{leases} leases for 600 requests");
    // A machine that is busy may make a request wait for too long.
    assert!(pair.sum("rate_limit_checks_alone_total").await <= 30);
    let their_first = other.client.at(&pair.apps[1].client()).get(LIST).await;
    assert_eq!(their_first.status, 200, "another tenant's is its own");

    let keys: Vec<String> = redis.ask(&["KEYS", "*"]);
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in keys {
        let ttl: i64 = redis.ask(&["PTTL", &key]);
        assert!((55_000..=71_000).contains(&ttl), "{key} is kept for {ttl} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_no_window_does_more_come_through_three_instances_and_over_time_not_less() {
    let redis = RedisServer::start();
    let rule = Rule { max: 120, window: Duration::from_millis(1_200) };
    let tasks = Tasks::new(tokio::runtime::Handle::current());
    let config = Config::load(|_| None, None).unwrap().redis;
    let url = RedisUrl::parse(&redis.url()).unwrap();
    let began = Instant::now();
    let ask = async || {
        let redis = Redis::start(&url, &config, &tasks).await.unwrap();
        let limits = Limits::new(Some(redis), tasks.clone(), LimitMetrics::default());
        let mut let_through = Vec::new();
        while began.elapsed() < 5 * rule.window {
            if limits.admit(Subject::text("test", "anybody"), rule).await.retry_after.is_none() {
                let_through.push(Instant::now());
            }
            tokio::task::yield_now().await;
        }
        let_through
    };
    let (one, two, three) = tokio::join!(ask(), ask(), ask());
    let mut let_through = [one, two, three].concat();
    let_through.sort();
    for (n, first) in let_through.iter().enumerate() {
        let within = let_through[n..].iter().take_while(|it| it.duration_since(*first) < rule.window).count();
        // A lease may be taken in one window and used in the next, by each instance.
        assert!(within <= 120 + 3 * 2, "{within} came through");
    }
    // Four windows have passed since the first one was used up.
    assert!(let_through.len() >= 4 * 120 * 9 / 10, "only {} came through", let_through.len());
    assert!(tasks.stop(Duration::from_secs(10)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_redis_forgot_is_sent_again() {
    let redis = RedisServer::start();
    let pair = Pair::start(&redis.url(), 400).await;
    assert_eq!(pair.hammer(&pair.acme, 40).await, 40);
    let _: String = redis.ask(&["SCRIPT", "FLUSH"]);
    assert_eq!(pair.hammer(&pair.acme, 40).await, 40);
    assert_eq!(pair.sum(r#"rate_limit_leases_total{outcome="failed"}"#).await, 0);
    assert_eq!(pair.sum("redis_breaker_openings_total").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_is_killed_and_comes_back_is_missed_by_nobody() {
    let mut redis = RedisServer::start();
    let pair = Pair::start(&redis.url(), 400).await;
    let mut let_through = pair.hammer(&pair.acme, 120).await;
    assert_eq!(let_through, 120);
    redis.kill();
    // The first that needs a lease finds out; nobody waits for a time limit.
    let began = Instant::now();
    let_through += pair.hammer(&pair.acme, 100).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    pair.until_up(false).await;
    assert_eq!(let_through, 220, "each instance has its part of the limit");
    // Alone, they keep to their parts: half of the limit each.
    let_through += pair.hammer(&pair.acme, 400).await;
    assert_eq!(let_through, 400);

    // Redis comes back without its memory, and is told what was let through.
    redis.restart();
    pair.until_up(true).await;
    let more = AtomicUsize::new(0);
    until("Redis refuses, as it knows what was let through", async || {
        more.fetch_add(pair.hammer(&pair.acme, 4).await, Ordering::Relaxed);
        (pair.sum(r#"rate_limit_leases_total{outcome="refused"}"#).await > 0).then_some(())
    })
    .await;
    more.fetch_add(pair.hammer(&pair.acme, 200).await, Ordering::Relaxed);
    // Each instance is alone for a second after a lease failed, and until the last of them has told, others get a lease more.
    let more = more.into_inner();
    assert!(more <= 24, "{more} more than 400");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_stands_still_holds_up_nobody_for_long() {
    let redis = RedisServer::start();
    let pair = Pair::start(&redis.url(), 400).await;
    assert_eq!(pair.hammer(&pair.acme, 40).await, 40);
    let go_on = redis.halt();
    let began = Instant::now();
    assert_eq!(pair.hammer(&pair.acme, 100).await, 100);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    until("the breaker opens", async || {
        pair.hammer(&pair.acme, 4).await;
        (pair.sum("redis_up{").await == 0).then_some(())
    })
    .await;
    let began = Instant::now();
    pair.hammer(&pair.acme, 100).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    go_on();
    pair.until_up(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_sentinels_name_another_server_it_is_asked() {
    let mut watched = tokio::task::spawn_blocking(Watched::start).await.unwrap();
    let pair = Pair::start(&watched.url(), 100_000).await;
    assert_eq!(pair.hammer(&pair.acme, 40).await, 40);
    watched.master.kill();
    assert_eq!(pair.hammer(&pair.acme, 4_000).await, 4_000, "nobody is refused meanwhile");
    until("the replica takes writes and leases come from it", async || {
        assert_eq!(pair.hammer(&pair.acme, 40).await, 40);
        let role: String = watched.replica.ask(&["INFO", "replication"]);
        let keys: Vec<String> = watched.replica.ask(&["KEYS", "tertulia:limit:tenant:*"]);
        let is_up = pair.sum("redis_up{").await == 2;
        (role.contains("role:master") && !keys.is_empty() && is_up).then_some(())
    })
    .await;
    let before = pair.sum(r#"rate_limit_leases_total{outcome="granted"}"#).await;
    until("leases are granted", async || {
        pair.hammer(&pair.acme, 400).await;
        (pair.sum(r#"rate_limit_leases_total{outcome="granted"}"#).await > before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_shares_the_keys() {
    let mut cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let pair = Pair::start(&cluster.url(), 40).await;
    for n in 0..8 {
        let tenant = pair.apps[0].tenant(&format!("tenant-{n}")).await;
        let let_through = pair.hammer(&tenant, 80).await;
        assert!((36..=42).contains(&let_through), "{let_through}");
    }
    assert!(pair.sum("rate_limit_checks_alone_total").await <= 30);
    let counts: Vec<usize> = cluster.nodes.iter().map(|node| node.ask::<Vec<String>>(&["KEYS", "*"]).len()).collect();
    assert!(counts.iter().filter(|count| **count > 0).count() > 1, "{counts:?}");

    // With a node gone, its tenants are counted by each instance alone; nobody notices.
    cluster.nodes[0].kill();
    for n in 0..8 {
        let tenant = pair.apps[0].tenant(&format!("later-{n}")).await;
        assert!(pair.hammer(&tenant, 16).await >= 8);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_redis_and_finds_it_later() {
    let mut redis = RedisServer::start();
    redis.kill();
    let url = redis.url();
    let app = TestApp::start_with(&[("TERTULIA_REDIS_URL", &url), ("TERTULIA_LIMITS_PRO_PER_MINUTE", "5")]).await;
    let acme = app.tenant("acme").await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(acme.client.get(LIST).await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429], "it is not simply open");
    redis.restart();
    until("redis is found", async || (sum(&app, "redis_up{").await == 1).then_some(())).await;
    assert_eq!(acme.client.get(LIST).await.status, 429, "what came before is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_encrypted_where_the_url_says_so_and_certificates_are_checked() {
    let (_redis, url, certificate) = RedisServer::start_with_tls();
    let data_dir = data_dir();
    for (authorities, is_up) in [(certificate.as_str(), true), ("/dev/null", false)] {
        let settings = [("TERTULIA_REDIS_URL", url.clone()), ("SSL_CERT_FILE", authorities.to_owned())];
        let path = data_dir.path().to_owned();
        let serve = tokio::task::spawn_blocking(move || Serve::start_with(&path, &settings)).await.unwrap();
        let metrics = serve.client().get("/metrics").await;
        let line = format!("redis_up{{topology=\"single\"}} {}", u8::from(is_up));
        assert!(String::from_utf8_lossy(&metrics.body).contains(&line), "{authorities}");
        tokio::task::spawn_blocking(move || serve.stop()).await.unwrap();
    }
}

#[test]
fn a_bad_url_is_told_at_the_start_without_its_password() {
    for url in ["redis://:hunter2@h:port", "http://:hunter2@h", "redis://:hunter2@a,b", "redis+sentinel://:hunter2@a"] {
        let mut serve = command(&["serve", "--listen", "127.0.0.1:0"]);
        serve.env("TERTULIA_REDIS_URL", url);
        let outcome = outcome_of(serve);
        assert_eq!(outcome.code, 64, "{url}: {outcome:?}");
        assert!(outcome.stderr.contains("redis.url") && !outcome.stderr.contains("hunter2"), "{outcome:?}");
    }
}

#[test]
fn the_settings_in_deploy_are_fine_and_those_of_a_bare_server_are_not() {
    let settings_of = |redis: &RedisServer| redis.ask::<HashMap<String, String>>(&["CONFIG", "GET", "*"]);
    let told = advice::advice(&settings_of(&RedisServer::start()));
    assert_eq!(told.len(), 2, "{told:?}");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/redis.conf");
    let settings = settings_of(&RedisServer::from_file(file));
    assert_eq!(advice::advice(&settings), Vec::<String>::new());
    assert_eq!((settings["maxmemory"].as_str(), settings["maxmemory-policy"].as_str()), ("2147483648", "allkeys-lru"));
}
