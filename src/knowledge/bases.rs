//! Knowledge bases: created with one of the server's encoders for their first generation, listed, deleted with all they hold.

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

/// A knowledge base and how far this process has it.
#[derive(Debug)]
pub struct BaseStatus {
    /// As Postgres has it.
    pub row: KnowledgeBaseRow,
    /// Whether this process answers from memory.
    pub readiness: Readiness,
    /// Versions that this process is behind; none while it is not loaded.
    pub lag: Option<u64>,
}

impl Knowledge {
    /// Creates an empty knowledge base whose chunks the encoder of that name encodes, or the static one if none is named.
    ///
    /// # Errors
    /// `Conflict` if the tenant has one of that name; `Invalid` if the server has no such encoder.
    pub async fn create_base(&self, ctx: &Ctx, name: &str, encoder: Option<&str>) -> Result<BaseStatus, Error> {
        let encoder = encoder.map_or_else(|| Ok(self.encoders.standard()), |encoder| self.encoders.named(encoder))?;
        let mut tx = self.store.tenant_tx(ctx).await?;
        let row = store::knowledge_bases::insert(&mut tx, name, encoder.fingerprint(), encoder.dimensions()).await?;
        tx.commit().await?;
        Ok(self.with_status(ctx, row))
    }

    /// A page of the tenant's knowledge bases, newest first.
    ///
    /// # Errors
    /// `Unavailable` if Postgres is away.
    pub async fn list_bases(&self, ctx: &Ctx, page: &PageRequest) -> Result<Page<BaseStatus>, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let rows = store::knowledge_bases::list(&mut tx, page).await?;
        tx.commit().await?;
        Ok(rows.map(|row| self.with_status(ctx, row)))
    }

    /// One knowledge base.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn find_base(&self, ctx: &Ctx, id: KnowledgeBaseId) -> Result<BaseStatus, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let row = store::knowledge_bases::find(&mut tx, id).await?.ok_or(Error::NotFound { what: "knowledge base" })?;
        tx.commit().await?;
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

    fn with_status(&self, ctx: &Ctx, row: KnowledgeBaseRow) -> BaseStatus {
        let base = self.loaded.find(BaseKey::of(ctx, row.id));
        BaseStatus {
            readiness: base.as_ref().map_or(Readiness::NotLoaded, |base| base.readiness()),
            lag: base.filter(|base| base.readiness() == Readiness::Ready).map(|base| base.lag()),
            row,
        }
    }
}
