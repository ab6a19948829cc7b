//! Embedded retrieval of one knowledge base: text in, ranked chunks out. Knows nothing of HTTP, Postgres or tenants.

#![deny(unsafe_code)]

mod analyze;
mod bits;
mod chunk;
mod encoder;
pub mod fuse;
mod kernels;
mod vectors;
mod words;

pub use analyze::Analyzer;
pub use chunk::{Batch, Chunk};
pub use encoder::{Encoder, EncoderError};
pub use fuse::Fusion;
