//! Knowledge bases: created with one of the server's encoders for their first generation, listed, deleted with all they hold.

use std::time::Duration;

use tertulia_index::Analyzer;
use tokio::time::{Instant, timeout_at};

use super::{BaseKey, Knowledge, loaded::Readiness};
use crate::{
    ctx::{Ctx, KnowledgeBaseId},
    error::Error,
    store::{
        self,
        knowledge_bases::KnowledgeBaseRow,
        page::{Page, PageRequest},
    },
};

/// Longest that [`Knowledge::warm_base`] waits.
const WARM_WAIT_MAX: Duration = Duration::from_secs(20);
/// What a wait leaves of the request's time, to answer in.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// A knowledge base and how far this process has it.
#[derive(Debug)]
pub struct BaseStatus {
    /// As Postgres has it.
    pub row: KnowledgeBaseRow,
    /// Whether this process answers from memory.
    pub readiness: Readiness,
    /// The share of its chunks that is read, 0 to 1, while it loads.
    pub progress: Option<f64>,
    /// Versions that this process is behind; none while it does not answer from memory.
    pub lag: Option<u64>,
    /// Bytes that it takes in this process, or that are set aside for it.
    pub memory_bytes: usize,
}

impl Knowledge {
    /// Creates an empty knowledge base whose chunks the encoder of that name encodes, or the static one if none is named.
    /// `analyzer`: the language of its words.
    ///
    /// # Errors
    /// `Conflict` if the tenant has one of that name; `Invalid` if the server has no such encoder.
    pub async fn create_base(
        &self,
        ctx: &Ctx,
        name: &str,
        analyzer: Analyzer,
        encoder: Option<&str>,
    ) -> Result<BaseStatus, Error> {
        let encoder = encoder.map_or_else(|| Ok(self.encoders.standard()), |encoder| self.encoders.named(encoder))?;
        let mut tx = self.store.tenant_tx(ctx).await?;
        let (fingerprint, dimensions) = (encoder.fingerprint(), encoder.dimensions());
        let inserted = store::knowledge_bases::insert(&mut tx, name, analyzer, fingerprint, dimensions).await;
        let row = inserted.map_err(|error| match error.is_unique_violation() {
            // Its ids are new, so it is the name.
            true => Error::Conflict { detail: format!("There is a knowledge base named {name} already.") },
            false => error.into(),
        })?;
        tx.commit().await?;
        Ok(self.with_status(ctx, row))
    }

    /// A page of the tenant's knowledge bases, newest first.
    ///
    /// # Errors
    /// `Unavailable` if Postgres is away.
    pub async fn list_bases(&self, ctx: &Ctx, page: &PageRequest) -> Result<Page<BaseStatus>, Error> {
        let mut tx = self.store.tenant_list(ctx).await?;
        let rows = store::knowledge_bases::list(&mut tx, page).await?;
        Ok(rows.map(|row| self.with_status(ctx, row)))
    }

    /// One knowledge base.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn find_base(&self, ctx: &Ctx, id: KnowledgeBaseId) -> Result<BaseStatus, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        let row = store::knowledge_bases::find(&mut tx, id).await?.ok_or(Error::NotFound { what: "knowledge base" })?;
        Ok(self.with_status(ctx, row))
    }

    /// Deletes a knowledge base with its documents and chunks, here at once and elsewhere with the next sync.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn delete_base(&self, ctx: &Ctx, id: KnowledgeBaseId) -> Result<(), Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let deleted = store::knowledge_bases::delete(&mut tx, id).await?;
        tx.commit().await?;
        if !deleted {
            return Err(Error::NotFound { what: "knowledge base" });
        }
        if let Some(base) = self.loaded.find(BaseKey::of(ctx, id)) {
            base.withdraw(Readiness::NotLoaded);
            base.wake(0);
        }
        Ok(())
    }

    /// Has the knowledge base loaded as a search would, and waits, but not for long, until it is known whether memory
    /// answers for it.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn warm_base(&self, ctx: &Ctx, id: KnowledgeBaseId) -> Result<BaseStatus, Error> {
        let row = self.find_base(ctx, id).await?.row;
        let base = self.sync.ensure_for_search(BaseKey::of(ctx, id), row.version);
        let now = Instant::now();
        let left = ctx.deadline.saturating_duration_since(now);
        let until = now + WARM_WAIT_MAX.min(left.saturating_sub(ANSWER_TIME.min(left / 2)));
        // Whether it came in time is what the status says.
        let _ = timeout_at(until, base.decided(row.version)).await;
        self.find_base(ctx, id).await
    }

    fn with_status(&self, ctx: &Ctx, row: KnowledgeBaseRow) -> BaseStatus {
        let Some(base) = self.loaded.find(BaseKey::of(ctx, row.id)) else {
            return BaseStatus { row, readiness: Readiness::NotLoaded, progress: None, lag: None, memory_bytes: 0 };
        };
        let readiness = base.readiness();
        BaseStatus {
            readiness,
            progress: (readiness == Readiness::Loading).then(|| base.progress()),
            lag: (readiness == Readiness::Ready).then(|| row.version.saturating_sub(base.version())),
            memory_bytes: base.memory_bytes(),
            row,
        }
    }
}
