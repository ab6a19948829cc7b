//! Generations: a knowledge base gets another encoder while searches go on with the one it has.
//!
//! [`Builder`] encodes the stored chunks anew beside the present ones, batch by batch, follows what is written meanwhile,
//! switches when nothing is left, and then deletes the old ones. Where it is stands in Postgres, so any server goes on
//! where another was stopped or killed; see [`store::generations`] for what keeps two of them from harm.
//!
//! Invariant: searches and writes use the active generation and its encoder alone, until the switch.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::sleep};
use uuid::Uuid;

use super::{
    Base, BaseKey, Knowledge, LoadedBases,
    encoders::{Encoders, Urgency, text_of},
};
use crate::{
    ctx::{Ctx, KnowledgeBaseId},
    error::Error,
    store::{
        self, Store,
        generations::{Cursor, Due, GenerationRow, GenerationState, Lease, SourceChunk, Switched},
    },
    tasks::Tasks,
};

/// Pause between two looks for work that other servers have left.
const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// After a failure, the pause before anybody tries again.
const FAILED_PAUSE: Duration = Duration::from_secs(5);
/// How long a lease holds without being renewed: so long does work rest when a server was killed.
const LEASE_TIME: Duration = Duration::from_secs(10);
/// Chunks that are encoded and written at once. Writers of the knowledge base wait for some 100 ms of it.
const BATCH_CHUNKS: i64 = 256;
/// Batches before the next generation has its turn.
const TURN_BATCHES: usize = 16;

impl Knowledge {
    /// Has the knowledge base encoded by the encoder of that name; searches go on with the present one until that is done.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such knowledge base; `Invalid` if the server has no such encoder; `Conflict` if the
    /// knowledge base has that encoder already, or another generation is being built.
    pub async fn start_generation(
        &self,
        ctx: &Ctx,
        id: KnowledgeBaseId,
        encoder: &str,
    ) -> Result<GenerationRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let base =
            store::knowledge_bases::find(&mut tx, id).await?.ok_or(Error::NotFound { what: "knowledge base" })?;
        let encoder = self.encoders.named(encoder)?;
        if base.encoder == encoder.fingerprint() {
            return Err(Error::Conflict { detail: "The knowledge base is encoded by that encoder already.".into() });
        }
        let inserted = store::generations::insert(&mut tx, id, encoder.fingerprint(), encoder.dimensions()).await;
        let generation_id = inserted.map_err(|error| match error.is_unique_violation() {
            true => Error::Conflict {
                detail: "A generation is being built already: wait until it is complete, or delete it.".into(),
            },
            false => error.into(),
        })?;
        let all = store::generations::list(&mut tx, id).await?;
        tx.commit().await?;
        self.builder.wake();
        let begun = all.into_iter().find(|generation| generation.id == generation_id);
        begun.ok_or(Error::NotFound { what: "generation" })
    }

    /// The knowledge base's generations, newest first.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such knowledge base.
    pub async fn list_generations(&self, ctx: &Ctx, id: KnowledgeBaseId) -> Result<Vec<GenerationRow>, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        let all = store::generations::list(&mut tx, id).await?;
        // Each knowledge base has the active one at least.
        if all.is_empty() { Err(Error::NotFound { what: "knowledge base" }) } else { Ok(all) }
    }

    /// Gives up a generation that is being built; what is there of it is deleted in the background.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such knowledge base or generation; `Conflict` if it is not being built.
    pub async fn cancel_generation(&self, ctx: &Ctx, id: KnowledgeBaseId, generation_id: Uuid) -> Result<(), Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let all = store::generations::list(&mut tx, id).await?;
        if all.is_empty() {
            return Err(Error::NotFound { what: "knowledge base" });
        }
        if !all.iter().any(|generation| generation.id == generation_id) {
            return Err(Error::NotFound { what: "generation" });
        }
        let is_retired = store::generations::retire(&mut tx, id, generation_id).await?;
        tx.commit().await?;
        if !is_retired {
            return Err(Error::Conflict { detail: "Only a generation that is being built can be given up.".into() });
        }
        self.builder.wake();
        Ok(())
    }
}

/// Builds generations of all tenants, one batch after the other. One per server.
pub struct Builder {
    store: Arc<Store>,
    encoders: Arc<Encoders>,
    loaded: Arc<LoadedBases>,
    tasks: Tasks,
    /// Names this server in leases.
    id: Uuid,
    wake: Notify,
}

/// Whether there is more to do on a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Work,
    Nothing,
}

impl Builder {
    /// A builder that does nothing before [`Builder::run`].
    pub fn new(store: Arc<Store>, encoders: Arc<Encoders>, loaded: Arc<LoadedBases>, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self { store, encoders, loaded, tasks, id: Uuid::now_v7(), wake: Notify::new() })
    }

    /// Has it look for work now.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Does what is to be done until the server stops.
    pub async fn run(self: Arc<Self>) {
        loop {
            let left = tokio::select! {
                left = self.round() => left,
                () = self.tasks.stopping().cancelled() => break,
            };
            match left {
                Ok(Left::Work) => continue,
                Ok(Left::Nothing) => {}
                Err(error) => {
                    tracing::warn!(
                        error = format!("{:#}", anyhow::Error::new(error)),
                        "generations could not be looked at"
                    );
                }
            }
            tokio::select! {
                () = sleep(LOOK_PAUSE) => {}
                () = self.wake.notified() => {}
                () = self.tasks.stopping().cancelled() => break,
            }
        }
        // Another server, or the next start, need not wait for the leases to end.
        let released = async {
            let mut tx = self.store.service_tx().await?;
            store::generations::release_all(&mut tx, self.id).await?;
            tx.commit().await
        };
        if let Err(error) = released.await {
            tracing::debug!(error = format!("{:#}", anyhow::Error::new(error)), "leases were not given back");
        }
    }

    /// A turn for each generation that there is work on.
    async fn round(&self) -> Result<Left, Error> {
        let mut tx = self.store.service_tx().await?;
        let all = store::generations::list_due(&mut tx, &self.encoders.fingerprints(), self.id).await?;
        tx.commit().await?;
        let mut left = Left::Nothing;
        for due in all {
            if !self.renew(&due.lease).await? {
                continue;
            }
            match self.turn(&due).await {
                Ok(Left::Work) => left = Left::Work,
                Ok(Left::Nothing) => {}
                Err(error) => {
                    let detail = match &error {
                        Error::Internal(_) => "Something went wrong in the server; its log says what.".into(),
                        other => other.detail(),
                    };
                    tracing::warn!(
                        knowledge_base_id = %due.lease.knowledge_base_id,
                        generation_id = %due.lease.generation_id,
                        error = format!("{:#}", anyhow::Error::new(error)),
                        "building a generation failed; trying again"
                    );
                    let mut tx = self.store.service_tx().await?;
                    store::generations::release(&mut tx, &due.lease, FAILED_PAUSE, &detail).await?;
                    tx.commit().await?;
                }
            }
        }
        Ok(left)
    }

    async fn turn(&self, due: &Due) -> Result<Left, Error> {
        for _ in 0..TURN_BATCHES {
            let left = match due.state {
                GenerationState::Building => self.build(due).await?,
                GenerationState::Retired => self.drop_old(&due.lease).await?,
                GenerationState::Active => Left::Nothing,
            };
            if left == Left::Nothing {
                return Ok(Left::Nothing);
            }
        }
        // A turn may be long.
        Ok(if self.renew(&due.lease).await? { Left::Work } else { Left::Nothing })
    }

    /// Encodes a batch, or switches if there is none.
    async fn build(&self, due: &Due) -> Result<Left, Error> {
        let lease = &due.lease;
        let mut tx = self.store.service_tx().await?;
        let Some(cursor) = store::generations::cursor(&mut tx, lease).await? else { return Ok(Left::Nothing) };
        let chunks = store::generations::list_chunks(&mut tx, lease, &cursor, BATCH_CHUNKS).await?;
        tx.commit().await?;
        if chunks.is_empty() {
            return self.switch(due, &cursor).await;
        }
        let embeddings = self.encode(due, &chunks).await?;
        let base = self.base_of(lease);
        let _turn = turn_to_write(base.as_ref()).await;
        let mut tx = self.store.service_tx().await?;
        let is_written = store::generations::write(&mut tx, lease, &cursor, &chunks, &embeddings).await?;
        if !is_written {
            return Ok(Left::Nothing);
        }
        tx.commit().await?;
        Ok(Left::Work)
    }

    /// The vectors of those of `chunks` that have a text. The lease is renewed for as long as it takes.
    async fn encode(&self, due: &Due, chunks: &[SourceChunk]) -> Result<Vec<Vec<f32>>, Error> {
        let texts: Vec<String> = chunks
            .iter()
            .filter_map(|chunk| chunk.text.as_ref())
            .map(|(heading, content)| text_of(heading, content))
            .collect();
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let encoder = self.encoders.of(&due.encoder)?;
        let mut encoded = std::pin::pin!(self.encoders.encode_documents(&encoder, texts, Urgency::Background));
        loop {
            tokio::select! {
                encoded = &mut encoded => return encoded,
                () = sleep(LEASE_TIME / 3) => drop(self.renew(&due.lease).await?),
            }
        }
    }

    async fn switch(&self, due: &Due, cursor: &Cursor) -> Result<Left, Error> {
        let lease = &due.lease;
        let base = self.base_of(lease);
        let _turn = turn_to_write(base.as_ref()).await;
        let mut tx = self.store.service_tx().await?;
        match store::generations::switch(&mut tx, lease, cursor).await? {
            Switched::Lost => return Ok(Left::Nothing),
            Switched::NotYet => tx.commit().await?,
            Switched::Yes => {
                tx.commit().await?;
                tracing::info!(
                    knowledge_base_id = %lease.knowledge_base_id,
                    generation_id = %lease.generation_id,
                    encoder = due.encoder,
                    "switched to a new generation"
                );
                // The old one is to be dropped now.
                self.wake();
                return Ok(Left::Nothing);
            }
        }
        Ok(Left::Work)
    }

    async fn drop_old(&self, lease: &Lease) -> Result<Left, Error> {
        let base = self.base_of(lease);
        let _turn = turn_to_write(base.as_ref()).await;
        let mut tx = self.store.service_tx().await?;
        let is_gone = store::generations::drop_some(&mut tx, lease).await?;
        tx.commit().await?;
        Ok(if is_gone { Left::Nothing } else { Left::Work })
    }

    async fn renew(&self, lease: &Lease) -> Result<bool, Error> {
        let mut tx = self.store.service_tx().await?;
        let is_mine = store::generations::lease(&mut tx, lease, LEASE_TIME).await?;
        tx.commit().await?;
        Ok(is_mine)
    }

    fn base_of(&self, lease: &Lease) -> Option<Arc<Base>> {
        self.loaded.find(BaseKey { tenant_id: lease.tenant_id, knowledge_base_id: lease.knowledge_base_id })
    }
}

/// As every writer of this process does, where it is loaded: see [`Base::turn_to_write`].
async fn turn_to_write(base: Option<&Arc<Base>>) -> Option<tokio::sync::MutexGuard<'_, ()>> {
    match base {
        Some(base) => Some(base.turn_to_write().await),
        None => None,
    }
}
