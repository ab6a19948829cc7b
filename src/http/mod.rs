//! Hyper's mechanics without any resource: what a request says, its body within limits, answers, errors, compression.
//!
//! [`request`] is what handlers read, [`body`] brings a body in (bounded in size, inflated size and time), [`json`] parses
//! it, [`respond`] makes answers, [`problem`] writes errors, [`negotiate`] and [`compress`] settle the content coding.
//!
//! Invariant: nothing here allocates more than a route's body limit for a client, whatever the client sends.

pub mod body;
pub mod compress;
pub mod forwarded;
pub mod json;
pub mod negotiate;
pub mod problem;
pub mod request;
pub mod respond;

pub use request::Request;
pub use respond::{Body, Response};
