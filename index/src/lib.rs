//! Embedded retrieval of one knowledge base: text in, ranked chunks out. Knows nothing of HTTP, Postgres or tenants.

#![deny(unsafe_code)]

mod analyze;
pub mod answer;
mod bits;
mod chunk;
mod columns;
mod encoder;
mod filter;
pub mod fuse;
// In tests too, so that it builds when nobody fuzzes.
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod graph;
mod highlight;
mod index;
mod kernels;
mod payload;
mod question;
mod recall;
mod search;
mod sections;
mod segment;
mod signs;
mod snapshot;
mod strings;
mod terms;
mod vectors;
mod words;

pub use analyze::Analyzer;
pub use answer::{Options, Recency};
pub use chunk::{Batch, Chunk};
pub use encoder::{Encoder, EncoderError};
pub use filter::{FILTER_DEPTH_MAX, FILTER_LEAVES_MAX, FILTER_VALUES_MAX, Filter, FilterError};
pub use fuse::Fusion;
pub use graph::{GraphBuilt, VectorSearch};
pub use highlight::Highlighter;
pub use index::{ApplyError, GraphStep, Index, Settings};
pub use payload::Row;
pub use question::{CONDITIONS_MAX, Question};
pub use recall::{Recall, RecallReport};
pub use search::{
    Answer, AnswerExplain, FilterExplain, FusionExplain, GraphWatch, Hit, HitExplain, KeywordExplain, LIST_LEN_MIN,
    ListPlace, Mode, Neighbour, Query, SearchError, SegmentExplain, SemanticExplain, Timings,
};
pub use snapshot::{RestoreError, SnapshotError, verify_snapshot};
pub use vectors::VectorWay;
