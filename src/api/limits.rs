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
    ctx::Actor,
    error::Error,
};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What was found out about a request's sender, and is told with the answer.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of the key and of the tenant, or of the address.
    quotas: [Option<Quota>; 2],
}

impl Told {
    /// Counts a request whose key or login is known. A login has the limit of its tenant alone.
    ///
    /// # Errors
    /// `RateLimited` if it is one too many for the key or for the tenant.
    pub(super) async fn admit_caller(&mut self, app: &App, caller: &Caller) -> Result<(), Error> {
        let config = &app.config.limits;
        // The key first: one that may not ask takes nothing from its tenant.
        if let Actor::ApiKey(id) = caller.actor {
            self.admit(app, 0, Subject::Key(id), config.key_per_minute).await?;
        }
        self.admit(app, 1, Subject::Tenant(caller.tenant_id), per_minute(config, caller.tier)).await
    }

    /// Counts a request to a route that needs no key, or one whose key or login was refused.
    ///
    /// # Errors
    /// `RateLimited` if it is one too many for its address.
    pub(super) async fn admit_address(&mut self, app: &App, address: IpAddr) -> Result<(), Error> {
        self.admit(app, 0, Subject::address(address), app.config.limits.address_per_minute).await
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

/// Rounded up: who comes a moment too early is turned away again.
fn whole_seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1_000) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

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
