//! Embedded retrieval of one knowledge base: text in, ranked chunks out. Knows nothing of HTTP, Postgres or tenants.

#![deny(unsafe_code)]

mod analyze;
mod bits;
mod chunk;
mod filter;
pub mod fuse;
mod kernels;
mod vectors;
mod words;

pub use analyze::Analyzer;
pub use chunk::{Batch, Chunk};
pub use filter::{FILTER_DEPTH_MAX, FILTER_LEAVES_MAX, FILTER_VALUES_MAX, Filter, FilterError};
pub use fuse::Fusion;
