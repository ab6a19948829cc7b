//! Leases of a limit: one script, which runs in one round trip and on one key.

use std::{sync::LazyLock, time::Duration};

use ::redis::{ErrorKind, Script, ServerErrorKind};

use super::{Redis, RedisError};
use crate::bus::window::STEPS;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lease.lua")));
/// A key is kept for up to so much longer than it is needed, so that not all of them end at once.
const TTL_JITTER_MS: u64 = 10_000;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::bus) struct Ask {
    /// The limit's window.
    pub(in crate::bus) window: Duration,
    /// The limit.
    pub(in crate::bus) max: u32,
    /// Requests wanted; as many as are left may be fewer.
    pub(in crate::bus) wanted: u32,
    /// Requests let through that Redis has not counted.
    pub(in crate::bus) unreported: u32,
    /// Requests of an earlier lease that were not made.
    pub(in crate::bus) returned: u32,
    /// The step of that lease.
    pub(in crate::bus) returned_step: u64,
    /// All that this instance let through in the window, with what it still holds.
    pub(in crate::bus) own: u32,
    /// The epoch of the last lease; 0 if there was none.
    pub(in crate::bus) epoch: u64,
}

/// What is given.
#[derive(Debug, Clone, Copy)]
pub(in crate::bus) struct Given {
    /// Requests that may be let through: they are counted.
    pub(in crate::bus) granted: u32,
    /// What is left of the limit after that.
    pub(in crate::bus) left: u32,
    /// When some are counted no more.
    pub(in crate::bus) frees_in: Duration,
    /// How many instances asked for leases on it in the window, this one among them.
    pub(in crate::bus) instances: u32,
    /// Names the memory that these counts are in.
    pub(in crate::bus) epoch: u64,
    /// The step under way.
    pub(in crate::bus) step: u64,
}

impl Redis {
    /// Asks for a lease on the limit that is counted under `key`.
    ///
    /// # Errors
    /// If Redis is away, or refuses to run the script. What was asked for may have been counted all the same.
    pub(in crate::bus) async fn lease(&self, key: &str, ask: &Ask) -> Result<Given, RedisError> {
        let run = |name: &str, script: &str| {
            let mut command = ::redis::cmd(name);
            command.arg(script).arg(1).arg(key).arg((ask.window / STEPS).as_millis().max(1) as u64).arg(STEPS);
            command.arg(ask.max).arg(ask.wanted).arg(ask.unreported).arg(ask.returned).arg(ask.returned_step);
            command.arg(ask.own).arg(ask.epoch);
            // An f64 of Lua's holds these numbers exactly.
            command.arg(rand::random_range(1..1_u64 << 52)).arg(rand::random_range(0..TTL_JITTER_MS));
            command.arg(self.instance);
            command
        };
        let answer = match self.query(&run("EVALSHA", SCRIPT.get_hash())).await {
            // Scripts are forgotten by a restart, by SCRIPT FLUSH and by a replica that takes over.
            Err(RedisError::Failed(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.query(&run("EVAL", include_str!("lease.lua"))).await?
            }
            answer => answer?,
        };
        let (granted, left, frees_in_ms, instances, epoch, step): (u32, u32, u64, u32, u64, u64) =
            ::redis::from_redis_value(answer).map_err(|error| RedisError::Failed(error.into()))?;
        Ok(Given { granted, left, frees_in: Duration::from_millis(frees_in_ms), instances, epoch, step })
    }
}
