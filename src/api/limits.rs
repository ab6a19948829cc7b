//! What limits mean to a request: whether it is let through, and the headers that say how often its sender may still ask.
//!
//! The headers are those of draft-ietf-httpapi-ratelimit-headers-10, an item for each policy that was looked at:
//!
//! ```text
//! RateLimit-Policy: "tenant";q=500;w=60
//! RateLimit: "tenant";r=497;t=42
//! ```

use std::{fmt::Write as _, net::IpAddr, time::Duration};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    accounts::{Caller, tenants::Tier},
    app::App,
    bus::{Quota, Rule, Subject},
    config::LimitsConfig,
    error::Error,
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What was found out about a request's sender, and is told with the answer.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of the key and of the tenant, or of the address.
    quotas: [Option<Quota>; 2],
}

impl Told {
    /// Counts a request whose key is known.
    ///
    /// # Errors
    /// `RateLimited` if it is one too many for the key or for the tenant.
    pub(super) async fn admit_caller(&mut self, app: &App, caller: &Caller) -> Result<(), Error> {
        let config = &app.config.limits;
        // The key first: one that may not ask takes nothing from its tenant.
        let of_key = (Subject::Key(caller.api_key_id), config.key_per_minute);
        let of_tenant = (Subject::Tenant(caller.tenant_id), per_minute(config, caller.tier));
        for (at, (subject, max)) in [of_key, of_tenant].into_iter().enumerate() {
            self.admit(app, at, subject, max).await?;
        }
        Ok(())
    }

    /// Counts a request to a route that needs no key.
    ///
    /// # Errors
    /// `RateLimited` if it is one too many for its address.
    pub(super) async fn admit_address(&mut self, app: &App, headers: &HeaderMap, peer: IpAddr) -> Result<(), Error> {
        let config = &app.config.limits;
        let subject = Subject::address(client_address(headers, peer, config.proxies));
        self.admit(app, 0, subject, config.address_per_minute).await
    }

    async fn admit(&mut self, app: &App, at: usize, subject: Subject, max: u32) -> Result<(), Error> {
        if max == 0 {
            return Ok(());
        }
        let quota = app.limits.admit(subject, Rule::per_minute(max)).await;
        self.quotas[at] = Some(quota);
        quota.retry_after.map_or(Ok(()), |retry_after| Err(Error::RateLimited { retry_after }))
    }

    /// Adds the headers; none if nothing was counted.
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let (mut limits, mut policies) = (String::new(), String::new());
        for quota in self.quotas.iter().flatten() {
            let (name, comma) = (quota.policy, if limits.is_empty() { "" } else { ", " });
            let (max, window) = (quota.rule.max, quota.rule.window.as_secs());
            // A String takes whatever is written to it.
            let _ = write!(policies, "{comma}\"{name}\";q={max};w={window}");
            let _ = write!(limits, "{comma}\"{name}\";r={};t={}", quota.remaining, whole_seconds(quota.frees_in));
        }
        if limits.is_empty() {
            return;
        }
        for (name, value) in [(RATE_LIMIT, limits), (RATE_LIMIT_POLICY, policies)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}

/// What a tenant of that tier may ask in a minute; 0 is no limit.
fn per_minute(config: &LimitsConfig, tier: Tier) -> u32 {
    match tier {
        Tier::Free => config.free_per_minute,
        Tier::Pro => config.pro_per_minute,
        Tier::Enterprise => config.enterprise_per_minute,
    }
}

/// Who asked: `peer`, or what the first of our own `proxies` saw. What stands to the left of that anybody can write there.
fn client_address(headers: &HeaderMap, peer: IpAddr, proxies: usize) -> IpAddr {
    if proxies == 0 {
        return peer;
    }
    let lines: Vec<&str> = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok()).collect();
    let seen = lines.iter().rev().flat_map(|line| line.rsplit(',')).nth(proxies - 1);
    seen.and_then(|address| parse_address(address.trim())).unwrap_or(peer)
}

/// An address as proxies write it: with a port or without, IPv6 in brackets or not.
fn parse_address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    text.trim_matches(['[', ']']).parse().ok().or_else(with_port)
}

/// Rounded up: who comes a moment too early is turned away again.
fn whole_seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_what_our_own_proxies_saw() {
        let peer: IpAddr = "192.0.2.1".parse().unwrap();
        let check = |lines: &[&str], proxies: usize, expected: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
            }
            assert_eq!(client_address(&headers, peer, proxies).to_string(), expected, "{lines:?} {proxies}");
        };
        check(&["198.51.100.7"], 0, "192.0.2.1");
        check(&["203.0.113.9, 198.51.100.7"], 1, "198.51.100.7");
        check(&["203.0.113.9, 198.51.100.7"], 2, "203.0.113.9");
        check(&["203.0.113.9", "198.51.100.7, 10.0.0.1"], 2, "198.51.100.7");
        check(&["198.51.100.7:4711"], 1, "198.51.100.7");
        check(&["[2001:db8::1]:4711"], 1, "2001:db8::1");
        check(&["[2001:db8::1]"], 1, "2001:db8::1");
        // Fewer than there should be, or nonsense: the connection's own.
        check(&["203.0.113.9"], 2, "192.0.2.1");
        check(&["unknown"], 1, "192.0.2.1");
        check(&[], 1, "192.0.2.1");
    }

    #[test]
    fn headers_have_an_item_for_each_policy() {
        let quota = |policy, max, remaining, ms| Quota {
            policy,
            rule: Rule::per_minute(max),
            remaining,
            frees_in: Duration::from_millis(ms),
            retry_after: None,
        };
        let mut headers = HeaderMap::new();
        Told::default().write(&mut headers);
        assert!(headers.is_empty());
        let told = Told { quotas: [Some(quota("key", 10, 0, 41_001)), Some(quota("tenant", 500, 497, 60_000))] };
        told.write(&mut headers);
        assert_eq!(headers[RATE_LIMIT_POLICY], r#""key";q=10;w=60, "tenant";q=500;w=60"#);
        assert_eq!(headers[RATE_LIMIT], r#""key";r=0;t=42, "tenant";r=497;t=60"#);
    }
}
