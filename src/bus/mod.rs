//! What instances share for a short time: limits of requests, and the way to Redis, where there is one.
//!
//! [`limits`] decides whether a caller may go on. [`window`] is how one instance counts; [`redis`] is how several count
//! together. Which of the two it is, is settled once, at the start: without `redis.url` an instance counts alone.
//!
//! Invariant: nothing is true only here. What is lost with Redis or with the process is at most a minute's counts, and no
//! request waits for a Redis that is away.

pub mod limits;
pub mod redis;
mod window;

pub use limits::{Limits, Quota, Rule, Subject};
pub use redis::Redis;
