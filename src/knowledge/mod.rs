//! Knowledge: documents in, ranked chunks out.
//!
//! A document is extracted ([`extract`]), split ([`chunking`]), encoded ([`encoders`]) and written in one transaction
//! ([`documents`]).
//! Postgres is the truth; [`sync`] carries what was committed, by whomever, into an in-process index per knowledge base
//! ([`loaded`]), which [`search`] asks. A knowledge base that is not loaded is answered by Postgres itself.
//!
//! Invariant: an index is reached only by [`loaded::BaseKey`], which holds the tenant; row security does not reach into
//! process memory, so the key's type does.

pub mod bases;
pub mod by_filter;
pub mod chunking;
pub mod documents;
pub mod encoders;
pub mod endpoint;
pub mod extract;
pub mod generations;
pub mod loaded;
pub mod recall;
pub mod rerank;
pub mod search;
pub mod snapshots;
pub mod sync;

use std::sync::Arc;

use self::{encoders::Encoders, rerank::Reranker};
use crate::{compute::Compute, config::RetrievalConfig, store::Store};

/// What the use cases take and give as the store has it, so that callers need not know of the store.
pub use crate::store::{
    chunks::ChunkRow,
    documents::DocumentRow,
    generations::GenerationRow,
    page::{Page, PageRequest, Start},
    search::{FallbackHit, FallbackNeighbour},
};
pub use loaded::{Base, BaseKey, LoadedBases};

/// The knowledge room: what its use cases share. Built once.
pub struct Knowledge {
    store: Arc<Store>,
    encoders: Arc<Encoders>,
    /// None if the server has none.
    reranker: Option<Reranker>,
    builder: Arc<generations::Builder>,
    compute: Arc<Compute>,
    loaded: Arc<LoadedBases>,
    sync: Arc<sync::Sync>,
    config: RetrievalConfig,
}

impl Knowledge {
    /// A room over `store`; `loaded` is shared with the sync that fills it.
    pub fn new(
        store: Arc<Store>,
        encoders: Arc<Encoders>,
        builder: Arc<generations::Builder>,
        compute: Arc<Compute>,
        loaded: Arc<LoadedBases>,
        sync: Arc<sync::Sync>,
        config: RetrievalConfig,
    ) -> Self {
        Self { store, encoders, reranker: None, builder, compute, loaded, sync, config }
    }

    /// The room with `reranker` for searches that ask for one.
    pub fn with_reranker(self, reranker: Option<Reranker>) -> Self {
        Self { reranker, ..self }
    }

    /// How much of what was to be found graphs have found lately.
    pub fn recall(&self) -> &recall::RecallWatch {
        self.sync.recall()
    }

    /// Has `key`, which is being searched, loaded, or brought up to `version` if it is; Postgres answers until it is there.
    fn load_in_background(&self, key: BaseKey, version: u64) {
        let _ = self.sync.ensure_for_search(key, version);
    }

    /// The knowledge bases at hand in this process.
    pub fn loaded(&self) -> &Arc<LoadedBases> {
        &self.loaded
    }
}
