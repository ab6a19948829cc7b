//! How often somebody may ask: at most [`Rule::max`] times in any [`Rule::window`].
//!
//! An instance alone counts in its own memory, in a [`Window`] that slides. Where there is Redis, it holds the counts of all
//! instances, and each takes small leases from it: some requests that are counted there before they are let through here. So
//! most checks touch no network, and together the instances let through no more than the limit. A lease is good
//! for a twelfth of the window, and what was not used by then is given back with the next; that is the error: in any window
//! at most one lease for each instance comes through too much, or is kept from the others.
//!
//! While Redis is away an instance lets through its part of the limit: the whole, divided by the number of instances that had
//! leases of this caller when it last took one (of a caller that it has no lease of: by their number as it usually is). It
//! remembers what it let through meanwhile, and reports it. If Redis has lost its memory, each instance tells what it has let
//! through in the window under way.
//!
//! Bounds: [`TALLIES_MAX`] callers are remembered of each kind; past it the one that asked least lately is forgotten.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use moka::{policy::EvictionPolicy, sync::Cache};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::{Instant, timeout_at},
};

use super::{
    redis::{
        Redis,
        lease::{Ask, Given},
    },
    window::Window,
};
use crate::{
    ctx::{ApiKeyId, TenantId},
    metrics::Buckets,
    tasks::Tasks,
};

/// Callers that are remembered of each kind: those that proved who they are, and all others.
const TALLIES_MAX: u64 = 50_000;
/// A caller that has not asked for so long is forgotten. No window may be longer.
const TALLY_KEPT_FOR: Duration = Duration::from_secs(3_600);
/// What is leased at once: a hundredth of the limit, and [`LEASE_MIN`] at least.
const LEASE_SHARE: u32 = 100;
const LEASE_MIN: u32 = 2;
/// A lease is good for this part of the window.
const LEASE_TIME_SHARE: u32 = 12;
/// Longest that a request waits for a lease. Then the instance decides alone.
const LEASE_WAIT: Duration = Duration::from_millis(100);
/// Leases that one request waits for, where others are quicker to use them up.
const LEASES_MAX: usize = 4;
/// How long a refusal is repeated without asking Redis again: others may give back what they do not need.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);
/// How long an instance decides alone after a lease failed, before it asks for another.
const ALONE_FOR: Duration = Duration::from_secs(1);

/// At most `max` in any `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How many.
    pub max: u32,
    /// In what time; at most an hour, and always the same for one policy.
    pub window: Duration,
}

impl Rule {
    /// At most `max` in any minute.
    pub fn per_minute(max: u32) -> Self {
        Self { max, window: Duration::from_secs(60) }
    }
}

/// Who is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A tenant, with all its keys.
    Tenant(TenantId),
    /// One key.
    Key(ApiKeyId),
    /// An address; of IPv6 the first 64 bits, as a client has all others to choose from.
    Address(IpAddr),
    /// Anything else, by a policy of that name.
    Text(&'static str, u128),
}

impl Subject {
    /// The client of that address.
    pub fn address(address: IpAddr) -> Self {
        Self::Address(one_client(address))
    }

    /// The client of that address, for the policy of that name.
    pub fn address_by(policy: &'static str, address: IpAddr) -> Self {
        Self::text(policy, &one_client(address).to_string())
    }

    /// What `text` names together with the client of that address, for the policy of that name.
    pub fn text_from(policy: &'static str, text: &str, address: IpAddr) -> Self {
        Self::text(policy, &format!("{text}\0{}", one_client(address)))
    }

    /// What `text` names, for the policy of that name. Only its hash is kept.
    pub fn text(policy: &'static str, text: &str) -> Self {
        let hash = Sha256::digest(text);
        Self::Text(policy, hash.iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte)))
    }

    /// The name of the policy that counts it: in headers, metrics and keys of Redis.
    pub fn policy(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Key(_) => "key",
            Self::Address(_) => "address",
            Self::Text(policy, _) => policy,
        }
    }

    /// The key in Redis.
    fn redis_key(&self) -> String {
        let policy = self.policy();
        match self {
            Self::Tenant(TenantId(id)) | Self::Key(ApiKeyId(id)) => format!("tertulia:limit:{policy}:{id}"),
            Self::Address(address) => format!("tertulia:limit:{policy}:{address}"),
            Self::Text(_, hash) => format!("tertulia:limit:{policy}:{hash:032x}"),
        }
    }
}

/// The address, or all of IPv6 that one client has to choose from.
fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() & !u128::from(u64::MAX)).into()),
        address => address,
    }
}

/// What a caller may still ask, as of now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The policy's name.
    pub policy: &'static str,
    /// The rule.
    pub rule: Rule,
    /// How often it may still ask. Where instances count together this is what was last heard, less what was asked since.
    pub remaining: u32,
    /// How long until some of what it asked is counted no more.
    pub frees_in: Duration,
    /// Set if it was refused: when to come again.
    pub retry_after: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    policy: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseLabels {
    outcome: &'static str,
}

/// What is counted of limits.
#[derive(Debug, Clone)]
pub struct LimitMetrics {
    checks: Family<CheckLabels, Counter>,
    duration: Histogram,
    leases: Family<LeaseLabels, Counter>,
    alone: Counter,
}

impl Default for LimitMetrics {
    fn default() -> Self {
        use prometheus_client::metrics::family::MetricConstructor as _;
        Self {
            checks: Family::default(),
            duration: Buckets.new_metric(),
            leases: Family::default(),
            alone: Counter::default(),
        }
    }
}

impl LimitMetrics {
    /// Exposes them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("rate_limit_checks", "Requests that were counted, by what came of it", self.checks.clone());
        let help = "Time of a check, with the wait for a lease where there was one";
        registry.register_with_unit("rate_limit_check_duration", help, Unit::Seconds, self.duration.clone());
        registry.register("rate_limit_leases", "Leases asked of Redis, by what came of it", self.leases.clone());
        let help = "Checks that this instance decided alone because Redis was away";
        registry.register("rate_limit_checks_alone", help, self.alone.clone());
    }
}

/// Counts callers. One for the whole server.
pub struct Limits {
    /// Tenants and keys: nobody can make them up.
    known: Cache<Subject, Arc<Mutex<Tally>>>,
    /// Addresses and texts: whoever makes many of them up makes the server forget such, and no tenant.
    others: Cache<Subject, Arc<Mutex<Tally>>>,
    redis: Option<Arc<Redis>>,
    tasks: Tasks,
    /// The part of a limit that this instance has when alone, on average of its last leases: an f32's bits.
    usual_share: AtomicU32,
    metrics: LimitMetrics,
}

impl Limits {
    /// Nobody has asked yet. Without `redis` this instance counts alone.
    pub fn new(redis: Option<Arc<Redis>>, tasks: Tasks, metrics: LimitMetrics) -> Arc<Self> {
        let tallies = || {
            Cache::builder()
                .max_capacity(TALLIES_MAX)
                .time_to_idle(TALLY_KEPT_FOR)
                // The default would rather keep who asks often than who is new, who then were never counted.
                .eviction_policy(EvictionPolicy::lru())
                .build()
        };
        let usual_share = AtomicU32::new(1_f32.to_bits());
        Arc::new(Self { known: tallies(), others: tallies(), redis, tasks, usual_share, metrics })
    }

    /// Counts one request of `subject`, and says whether it is let through. One that is refused is not counted.
    ///
    /// In process this takes less than a microsecond; if a lease is needed, a round trip to Redis, and 100 ms at most.
    ///
    /// # Cancel safety
    /// Dropping the future may leave one request counted that was not made.
    pub async fn admit(self: &Arc<Self>, subject: Subject, rule: Rule) -> Quota {
        let started = Instant::now();
        let tally = self.tally(subject, rule, started);
        let mut now = started;
        let mut quota = None;
        let give_up = started + LEASE_WAIT;
        for _ in 0..LEASES_MAX {
            match self.decide(subject, rule, &tally, now) {
                Verdict::Settled(settled) => {
                    quota = Some(settled);
                    break;
                }
                Verdict::Wait(answered) => {
                    let waited = timeout_at(give_up, answered).await;
                    now = Instant::now();
                    if waited.is_err() {
                        break;
                    }
                }
            }
        }
        let quota = quota.unwrap_or_else(|| {
            self.metrics.alone.inc();
            lock(&tally).alone(subject, rule, now, self.usual_share())
        });
        let outcome = if quota.retry_after.is_none() { "allowed" } else { "limited" };
        self.metrics.checks.get_or_create(&CheckLabels { policy: quota.policy, outcome }).inc();
        self.metrics.duration.observe(started.elapsed().as_secs_f64());
        quota
    }

    fn tally(&self, subject: Subject, rule: Rule, now: Instant) -> Arc<Mutex<Tally>> {
        let tallies = match subject {
            Subject::Tenant(_) | Subject::Key(_) => &self.known,
            Subject::Address(_) | Subject::Text(..) => &self.others,
        };
        tallies
            .get(&subject)
            .unwrap_or_else(|| tallies.get_with(subject, || Arc::new(Mutex::new(Tally::new(rule.window, now)))))
    }

    /// Decides, and sees to it that there is a next lease in time.
    fn decide(self: &Arc<Self>, subject: Subject, rule: Rule, shared: &Arc<Mutex<Tally>>, now: Instant) -> Verdict {
        let mut tally = lock(shared);
        let Some(redis) = &self.redis else {
            return Verdict::Settled(tally.count_to(rule.max, subject, rule, now));
        };
        if !redis.is_up() || tally.alone_until.is_some_and(|until| now < until) {
            self.metrics.alone.inc();
            return Verdict::Settled(tally.alone(subject, rule, now, self.usual_share()));
        }
        let spent = tally.spend(subject, rule, now);
        let mut ask = None;
        if spent.wants_lease && tally.asking.is_none() {
            let asking = Asking { tally: shared.clone(), answered: Arc::default() };
            tally.asking = Some(asking.answered.clone());
            ask = Some((tally.ask(rule, now), asking));
        }
        let verdict = match (spent.quota, &tally.asking) {
            (Some(quota), _) => Verdict::Settled(quota),
            (None, Some(answered)) => {
                let answered = answered.clone().notified_owned();
                tally.waiting += 1;
                Verdict::Wait(answered)
            }
            (None, None) => Verdict::Settled(tally.alone(subject, rule, now, self.usual_share())),
        };
        // A task that cannot be started is dropped here and now, and then takes the lock itself.
        drop(tally);
        if let Some((ask, asking)) = ask {
            self.tasks.spawn(self.clone().lease(redis.clone(), subject, rule, ask, asking));
        }
        verdict
    }

    /// Asks Redis for a lease and writes down what comes of it. A task of its own: whoever waits for it may go away.
    async fn lease(self: Arc<Self>, redis: Arc<Redis>, subject: Subject, rule: Rule, ask: Ask, asking: Asking) {
        let given = redis.lease(&subject.redis_key(), &ask).await;
        let now = Instant::now();
        let mut tally = lock(&asking.tally);
        let outcome = match given {
            Ok(given) => {
                let share = tally.take(rule, now, &ask, given);
                let usual = self.usual_share() * 0.75 + share * 0.25;
                self.usual_share.store(usual.to_bits(), Ordering::Relaxed);
                if given.granted > 0 { "granted" } else { "refused" }
            }
            Err(error) => {
                tracing::debug!(error = format!("{:#}", anyhow::Error::new(error)), "no lease");
                tally.alone_until = Some(now + ALONE_FOR);
                "failed"
            }
        };
        drop(tally);
        self.metrics.leases.get_or_create(&LeaseLabels { outcome }).inc();
    }

    fn usual_share(&self) -> f32 {
        f32::from_bits(self.usual_share.load(Ordering::Relaxed))
    }
}

/// What came of a look at a tally.
enum Verdict {
    Settled(Quota),
    /// A lease is under way; look again once it is there.
    Wait(OwnedNotified),
}

/// What a lease allows to decide at once.
struct Spent {
    quota: Option<Quota>,
    wants_lease: bool,
}

/// A lease that was asked for. However the asking ends, whoever waits is told.
struct Asking {
    tally: Arc<Mutex<Tally>>,
    answered: Arc<Notify>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        lock(&self.tally).asking = None;
        self.answered.notify_waiters();
    }
}

/// One caller.
struct Tally {
    /// What was let through here.
    window: Window,
    /// What may be let through without asking.
    credit: u32,
    /// Until when.
    credit_until: Instant,
    /// The step, in Redis's count, at which the last lease was given.
    credit_step: u64,
    /// What was let through without a lease and Redis does not know yet.
    unreported: u32,
    /// Names the memory that Redis had when it was last asked.
    epoch: u64,
    /// What Redis had left for everybody when it was last asked.
    left: u32,
    /// When some of what it counts is counted no more.
    frees_at: Instant,
    /// Set after there was less than was asked for: until when it is of no use to ask again.
    refused_until: Option<Instant>,
    /// This instance's part of the limit when it is alone, as of the last lease.
    share: Option<f32>,
    /// Set after a lease failed.
    alone_until: Option<Instant>,
    /// Requests that began to wait since the last lease was asked for.
    waiting: u32,
    asking: Option<Arc<Notify>>,
}

impl Tally {
    fn new(window: Duration, now: Instant) -> Self {
        Self {
            window: Window::new(window, now),
            credit: 0,
            credit_until: now,
            credit_step: 0,
            unreported: 0,
            epoch: 0,
            left: 0,
            frees_at: now,
            refused_until: None,
            share: None,
            alone_until: None,
            waiting: 0,
            asking: None,
        }
    }

    /// Lets one through if fewer than `max` came through here.
    fn count_to(&mut self, max: u32, subject: Subject, rule: Rule, now: Instant) -> Quota {
        let used = self.window.count(now);
        let is_let_through = used < max;
        if is_let_through {
            self.window.add(1, now);
        }
        let frees_in = self.window.frees_in(now);
        let remaining = max.saturating_sub(used).saturating_sub(1);
        Quota {
            policy: subject.policy(),
            rule,
            remaining,
            frees_in,
            retry_after: (!is_let_through).then_some(frees_in),
        }
    }

    /// As [`Self::count_to`], for an instance among others that cannot ask: up to its part.
    fn alone(&mut self, subject: Subject, rule: Rule, now: Instant, usual_share: f32) -> Quota {
        let share = self.share.unwrap_or(usual_share);
        let part = ((rule.max as f32 * share).ceil() as u32).clamp(1, rule.max);
        let quota = self.count_to(part, subject, rule, now);
        if quota.retry_after.is_none() {
            self.unreported += 1;
        }
        quota
    }

    /// Lets one through on credit, or refuses it if Redis has just done so.
    fn spend(&mut self, subject: Subject, rule: Rule, now: Instant) -> Spent {
        let used = self.window.count(now);
        let is_refused = self.refused_until.is_some_and(|until| now < until);
        let credit = if now < self.credit_until { self.credit } else { 0 };
        let quota = |remaining: u32, retry_after| {
            let frees_in = self.frees_at.saturating_duration_since(now);
            Quota { policy: subject.policy(), rule, remaining, frees_in, retry_after }
        };
        if used >= rule.max {
            let frees_in = self.window.frees_in(now);
            let quota = Quota { policy: subject.policy(), rule, remaining: 0, frees_in, retry_after: Some(frees_in) };
            return Spent { quota: Some(quota), wants_lease: false };
        }
        if credit > 0 {
            let quota = quota(self.left.saturating_add(credit - 1).min(rule.max - used - 1), None);
            self.credit -= 1;
            self.window.add(1, now);
            // Half of a lease is kept for those who come while the next one is under way, unless there is none to be had.
            let wants_lease = self.credit <= lease_size(rule) / 2 && !is_refused;
            return Spent { quota: Some(quota), wants_lease };
        }
        if is_refused {
            let quota = quota(0, Some(self.frees_at.saturating_duration_since(now)));
            return Spent { quota: Some(quota), wants_lease: false };
        }
        Spent { quota: None, wants_lease: true }
    }

    /// What to ask for. Credit that is no longer good is given back.
    fn ask(&mut self, rule: Rule, now: Instant) -> Ask {
        let returned = if now < self.credit_until { 0 } else { std::mem::take(&mut self.credit) };
        // What left the window while this instance was alone counts no more.
        self.unreported = self.unreported.min(self.window.count(now));
        Ask {
            window: rule.window,
            max: rule.max,
            wanted: lease_size(rule).max(std::mem::take(&mut self.waiting)),
            unreported: self.unreported,
            returned,
            returned_step: self.credit_step,
            own: self.window.count(now) + self.credit,
            epoch: self.epoch,
        }
    }

    /// Takes a lease. Gives this instance's part of the limit when it is alone.
    fn take(&mut self, rule: Rule, now: Instant, ask: &Ask, given: Given) -> f32 {
        self.unreported = self.unreported.saturating_sub(ask.unreported);
        self.alone_until = None;
        self.epoch = given.epoch;
        self.left = given.left;
        self.frees_at = now + given.frees_in;
        if given.granted > 0 {
            self.credit += given.granted;
            self.credit_until = now + rule.window / LEASE_TIME_SHARE;
            self.credit_step = given.step;
        }
        // Also what little there is at the end is not asked for again and again.
        let has_less = given.granted < ask.wanted;
        self.refused_until = has_less.then(|| now + given.frees_in.min(REFUSAL_TIME_MAX));
        let share = 1.0 / given.instances.max(1) as f32;
        self.share = Some(share);
        share
    }
}

fn lease_size(rule: Rule) -> u32 {
    (rule.max / LEASE_SHARE).max(LEASE_MIN).min(rule.max)
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    // Counts are changed by code that does not panic half-way.
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { max: 10, window: Duration::from_secs(60) };

    fn alone() -> Arc<Limits> {
        Limits::new(None, Tasks::new(tokio::runtime::Handle::current()), LimitMetrics::default())
    }

    /// How many of `asked` are let through.
    async fn let_through(limits: &Arc<Limits>, subject: Subject, asked: usize) -> usize {
        let mut let_through = 0;
        for _ in 0..asked {
            let_through += usize::from(limits.admit(subject, RULE).await.retry_after.is_none());
        }
        let_through
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_comes_through_and_others_are_untouched() {
        let limits = alone();
        let (one, other) = (Subject::Tenant(TenantId::new()), Subject::Tenant(TenantId::new()));
        let first = limits.admit(one, RULE).await;
        assert_eq!((first.policy, first.remaining, first.retry_after), ("tenant", 9, None));
        assert_eq!(let_through(&limits, one, 20).await, 9);
        let refused = limits.admit(one, RULE).await;
        assert_eq!((refused.remaining, refused.retry_after), (0, Some(Duration::from_secs(61))));
        assert_eq!(let_through(&limits, other, 20).await, 10);

        tokio::time::advance(refused.retry_after.unwrap()).await;
        assert_eq!(let_through(&limits, one, 20).await, 10, "who waits as told is let through");
    }

    #[tokio::test(start_paused = true)]
    async fn policies_and_addresses_are_counted_apart() {
        let limits = alone();
        let address = |text: &str| Subject::address(text.parse().unwrap());
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        let by_name = |text: &str| Subject::address_by("login_address", text.parse().unwrap());
        assert_eq!(by_name("2001:db8::1"), by_name("2001:db8::ffff:1"));
        for subject in [
            address("192.0.2.1"),
            address("192.0.2.2"),
            address("2001:db8::1"),
            address("2001:db8:0:1::1"),
            by_name("2001:db8::1"),
            by_name("2001:db8:0:1::1"),
            Subject::text("login", "ada@example.com"),
            Subject::text("login", "grace@example.com"),
            Subject::text("sign_up", "ada@example.com"),
        ] {
            assert_eq!(let_through(&limits, subject, 11).await, 10, "{subject:?}");
        }
    }

    #[test]
    fn what_left_the_window_while_redis_was_away_is_not_told_of() {
        let mut now = Instant::now();
        let mut tally = Tally::new(RULE.window, now);
        for _ in 0..3 {
            now += 2 * RULE.window;
            for _ in 0..20 {
                tally.alone(Subject::Tenant(TenantId::new()), RULE, now, 1.0);
            }
        }
        assert_eq!(tally.unreported, 3 * RULE.max);
        assert_eq!(tally.ask(RULE, now).unreported, RULE.max);
        assert_eq!(tally.ask(RULE, now + 2 * RULE.window).unreported, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_a_new_caller_is_counted_all_the_same() {
        let limits = alone();
        for n in 0..TALLIES_MAX as u128 + 5_000 {
            limits.admit(Subject::Text("login", n), RULE).await;
        }
        limits.others.run_pending_tasks();
        assert!(limits.others.entry_count() <= TALLIES_MAX, "{}", limits.others.entry_count());
        assert_eq!(let_through(&limits, Subject::Text("login", u128::MAX), 20).await, 10);
    }

    #[tokio::test]
    async fn an_instance_alone_among_others_keeps_to_its_part() {
        let now = Instant::now();
        let subject = Subject::Tenant(TenantId::new());
        let check = |own_share: Option<f32>, usual_share: f32, expected: u32| {
            let mut tally = Tally::new(RULE.window, now);
            tally.share = own_share;
            let quotas = (0..20).map(|_| tally.alone(subject, RULE, now, usual_share));
            assert_eq!(quotas.filter(|quota| quota.retry_after.is_none()).count(), expected as usize);
            assert_eq!(tally.unreported, expected, "what was let through is reported later");
        };
        check(None, 1.0, 10);
        check(None, 0.5, 5);
        check(Some(1.0), 0.5, 10);
        check(Some(0.25), 1.0, 3);
        // Never nothing.
        check(Some(0.01), 1.0, 1);
    }

    #[tokio::test]
    async fn a_lease_is_spent_then_given_back() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let subject = Subject::Tenant(TenantId::new());
        let mut tally = Tally::new(RULE.window, now);
        let spent = tally.spend(subject, RULE, now);
        assert!(spent.quota.is_none() && spent.wants_lease);
        tally.waiting = 3;
        let ask = tally.ask(RULE, now);
        assert_eq!((ask.wanted, ask.own, ask.epoch, tally.waiting), (3, 0, 0, 0));
        let given = Given { granted: 3, left: 4, frees_in: Duration::from_secs(20), instances: 2, epoch: 7, step: 100 };
        assert_eq!(tally.take(RULE, now, &ask, given), 0.5, "there are two");

        let quota = tally.spend(subject, RULE, now).quota.unwrap();
        assert_eq!((quota.remaining, quota.frees_in, quota.retry_after), (6, Duration::from_secs(20), None));
        let ask = tally.ask(RULE, at(4_999));
        assert_eq!((ask.returned, ask.own, ask.epoch), (0, 3, 7));
        // Past its time: what nobody asked for goes back to the step that it was counted in.
        let spent = tally.spend(subject, RULE, at(5_000));
        assert!(spent.quota.is_none() && spent.wants_lease);
        let ask = tally.ask(RULE, at(5_000));
        assert_eq!((ask.returned, ask.returned_step, ask.own), (2, 100, 1));
    }

    #[tokio::test]
    async fn a_refusal_holds_for_a_second() {
        let now = Instant::now();
        let subject = Subject::Tenant(TenantId::new());
        let mut tally = Tally::new(RULE.window, now);
        let ask = tally.ask(RULE, now);
        let given = Given { granted: 0, left: 0, frees_in: Duration::from_secs(20), instances: 1, epoch: 7, step: 100 };
        tally.take(RULE, now, &ask, given);
        let spent = tally.spend(subject, RULE, now + Duration::from_millis(999));
        assert!(!spent.wants_lease);
        assert_eq!(spent.quota.unwrap().retry_after, Some(Duration::from_millis(19_001)));
        assert!(tally.spend(subject, RULE, now + Duration::from_secs(1)).wants_lease);
    }
}
