//! Tenants and their API keys: who is asking, and what they may do.
//!
//! Invariant: a key's secret is never stored nor logged; Postgres holds its SHA-256, and comparison takes the same time
//! wherever the first difference is.

pub mod keys;
pub mod tenants;

pub use keys::{Accounts, Caller};
