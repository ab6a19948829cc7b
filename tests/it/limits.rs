//! Limits of requests as a caller sees them, on one instance without Redis.

use hyper::Method;
use serde_json::json;

use crate::harness::{Client, PASSWORD, Reply, TestApp, connect, until};

const LIST: &str = "/v1/knowledge-bases";

/// The numbers behind `"policy";r=` and `;t=`, or `;q=` and `;w=`.
fn item(reply: &Reply, header: &str, policy: &str) -> (u64, u64) {
    let value = reply.header(header).unwrap_or_else(|| panic!("no {header}: {reply:?}"));
    let item = value.split(", ").find_map(|item| item.strip_prefix(&format!("\"{policy}\";")));
    let item = item.unwrap_or_else(|| panic!("no {policy} in {value}"));
    let (first, second) = item.split_once(';').unwrap();
    (first[2..].parse().unwrap(), second[2..].parse().unwrap())
}

async fn statuses(client: &Client, path: &str, asked: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..asked {
        statuses.push(client.get(path).await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn one_too_many_is_told_when_to_come_again() {
    let app = TestApp::start_with(&[("TERTULIA_LIMITS_PRO_PER_MINUTE", "5")]).await;
    let (acme, other) = (app.tenant("acme").await, app.tenant("other").await);
    let first = acme.client.get(LIST).await;
    assert_eq!((first.status, item(&first, "ratelimit-policy", "tenant")), (200, (5, 60)));
    let (remaining, seconds) = item(&first, "ratelimit", "tenant");
    assert!(remaining == 4 && (60..=61).contains(&seconds), "{first:?}");
    // Errors are told too, and count.
    let second = acme.client.get("/v1/knowledge-bases/nonsense").await;
    assert_eq!((second.status, item(&second, "ratelimit", "tenant").0), (404, 3));
    assert_eq!(statuses(&acme.client, LIST, 3).await, [200; 3]);

    let refused = acme.client.post(LIST, &json!({ "name": "one too many" })).await;
    assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"));
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((50..=61).contains(&retry_after), "{retry_after}");
    assert_eq!(item(&refused, "ratelimit", "tenant"), (0, retry_after));

    let theirs = other.client.get(LIST).await;
    assert_eq!((theirs.status, item(&theirs, "ratelimit", "tenant").0), (200, 4), "another tenant's is its own");
    assert_eq!(theirs.json()["total"], 0);
    let metric = r#"rate_limit_checks_total{policy="tenant",outcome="limited"}"#;
    assert_eq!(app.metric(metric).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_have_less_than_its_tenant() {
    let app =
        TestApp::start_with(&[("TERTULIA_LIMITS_PRO_PER_MINUTE", "5"), ("TERTULIA_LIMITS_KEY_PER_MINUTE", "2")]).await;
    let acme = app.tenant("acme").await;
    let reply = acme.client.get(LIST).await;
    assert_eq!(reply.header("ratelimit-policy"), Some(r#""key";q=2;w=60, "tenant";q=5;w=60"#));
    assert_eq!((item(&reply, "ratelimit", "key").0, item(&reply, "ratelimit", "tenant").0), (1, 4));
    assert_eq!(statuses(&acme.client, LIST, 3).await, [200, 429, 429]);
    // What its key was refused was not taken from the tenant.
    let second = app.key_with(&acme, &tertulia::ctx::Scope::ALL).await;
    assert_eq!(item(&second.get(LIST).await, "ratelimit", "tenant").0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_tier_changes_has_the_new_limit_at_once() {
    let settings = [
        ("TERTULIA_LIMITS_PRO_PER_MINUTE", "500"),
        ("TERTULIA_LIMITS_ENTERPRISE_PER_MINUTE", "2000"),
        ("TERTULIA_LIMITS_FREE_PER_MINUTE", "0"),
    ];
    let app = TestApp::start_with(&settings).await;
    let acme = app.tenant("acme").await;
    assert_eq!(item(&acme.client.get(LIST).await, "ratelimit-policy", "tenant"), (500, 60));
    let sql = connect(&app.database.owner_url()).await;
    let change = async |tier: &str| {
        sql.execute(&format!("UPDATE tenants SET tier = '{tier}' WHERE id = '{}'", acme.id), &[]).await.unwrap();
    };
    change("enterprise").await;
    let began = std::time::Instant::now();
    until("the tier is known", async || {
        let reply = acme.client.get(LIST).await;
        (item(&reply, "ratelimit-policy", "tenant").0 == 2_000).then_some(())
    })
    .await;
    assert!(began.elapsed().as_secs() < 15, "it was told, not found out when the key was read again");
    change("free").await;
    until("a tier without a limit has no header", async || {
        acme.client.get(LIST).await.header("ratelimit").is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_without_a_key_are_limited_by_address() {
    let app = TestApp::start_with(&[("TERTULIA_LIMITS_ADDRESS_PER_MINUTE", "2")]).await;
    let anybody = app.client();
    assert_eq!(statuses(&anybody, "/openapi.json", 3).await, [200, 200, 429]);
    // The header of a proxy that is not ours is not believed.
    let disguised = anybody.request(Method::GET, "/docs").header("x-forwarded-for", "198.51.100.7");
    assert_eq!(anybody.send(disguised.body(Default::default()).unwrap()).await.status, 429);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(statuses(&anybody, path, 5).await, [200; 5], "{path}");
        assert!(anybody.get(path).await.header("ratelimit").is_none());
    }
    let acme = app.tenant("acme").await;
    assert_eq!(statuses(&acme.client, LIST, 5).await, [200; 5], "a key has limits of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_proves_nothing_is_counted_by_address() {
    let app = TestApp::start_with(&[("TERTULIA_LIMITS_ADDRESS_PER_MINUTE", "3")]).await;
    let acme = app.tenant("acme").await;
    let stranger = app.client().with_key(&format!("tt_{}_{}", "ab".repeat(8), "cd".repeat(24)));
    let first = stranger.get(LIST).await;
    assert_eq!((first.status, item(&first, "ratelimit", "address").0), (401, 2));
    let token = app.client().with_key(&format!("tl_{}", "ab".repeat(32)));
    assert_eq!([token.get(LIST).await.status, app.client().get(LIST).await.status], [401; 2]);
    let refused = stranger.get(LIST).await;
    assert_eq!((refused.status, refused.problem().as_str()), (429, "rate_limited"));
    assert_eq!(app.client().get("/docs").await.status, 429, "it is the limit of routes that need no key");
    assert_eq!(acme.try_log_in("ada@example.com", PASSWORD).await.status, 429, "as well as of logging in");
    assert_eq!(statuses(&acme.client, LIST, 4).await, [200; 4], "a key that is known is not held up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_has_the_limit_of_its_tenant() {
    let app =
        TestApp::start_with(&[("TERTULIA_LIMITS_PRO_PER_MINUTE", "5"), ("TERTULIA_LIMITS_KEY_PER_MINUTE", "2")]).await;
    let acme = app.tenant("acme").await;
    acme.user("ada@example.com", "viewer").await;
    let ada = acme.log_in("ada@example.com").await;
    let reply = ada.get(LIST).await;
    assert_eq!(reply.header("ratelimit-policy"), Some(r#""tenant";q=5;w=60"#));
    // What is left after the key made Ada.
    let left = item(&reply, "ratelimit", "tenant").0;
    assert!((3..5).contains(&left), "{left}");
    assert_eq!(statuses(&ada, LIST, left as usize).await, vec![200; left as usize]);
    assert_eq!([ada.get(LIST).await.status, acme.client.get(LIST).await.status], [429; 2], "it is one for both");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_address_is_that_which_the_proxy_saw() {
    let app = TestApp::start_with(&[
        ("TERTULIA_LIMITS_ADDRESS_PER_MINUTE", "2"),
        ("TERTULIA_SERVER_TRUSTED_PROXIES", "127.0.0.1"),
    ])
    .await;
    let anybody = app.client();
    let ask = async |seen: &str| {
        let request = anybody.request(Method::GET, "/docs").header("x-forwarded-for", seen);
        anybody.send(request.body(Default::default()).unwrap()).await.status
    };
    for (seen, status) in [
        ("198.51.100.7", 200),
        ("203.0.113.1, 198.51.100.7", 200),
        ("203.0.113.2, 198.51.100.7", 429),
        ("198.51.100.8", 200),
    ] {
        assert_eq!(ask(seen).await, status, "{seen}");
    }
}
