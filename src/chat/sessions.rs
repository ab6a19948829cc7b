//! Sessions: started, listed, changed, ended, deleted with all their messages.

use serde_json::{Map, Value};

use super::{Chat, NewSession, Page, PageRequest, SessionFilter, SessionRow};
use crate::{
    ctx::{Ctx, SessionId},
    error::Error,
    metadata,
    store::{self, audit_log::Author},
};

/// Longest name that a site has for its visitor, in bytes.
pub const VISITOR_ID_BYTES_MAX: usize = 255;
/// Longest name of a visitor, in characters.
pub const VISITOR_NAME_CHARS_MAX: usize = 200;

/// What to change of a session; what is none stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SessionPatch {
    /// The visitor's name, which may become none.
    pub visitor_name: Option<Option<String>>,
    /// Merged into its metadata as RFC 7396 says.
    pub metadata: Option<Map<String, Value>>,
}

impl Chat {
    /// Starts a session.
    ///
    /// # Errors
    /// `Invalid` if the tenant has no such widget or meeting.
    pub async fn create_session(&self, ctx: &Ctx, session: &NewSession) -> Result<SessionRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let row = store::sessions::insert(&mut tx, session).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// A page of the tenant's sessions that fulfil `filter`, newest first.
    ///
    /// # Errors
    /// `Invalid` for a cursor of another list.
    pub async fn list_sessions(
        &self,
        ctx: &Ctx,
        filter: &SessionFilter,
        page: &PageRequest,
    ) -> Result<Page<SessionRow>, Error> {
        let mut tx = self.store.tenant_list(ctx).await?;
        let rows = store::sessions::list(&mut tx, filter, page).await?;
        Ok(rows)
    }

    /// One session.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn find_session(&self, ctx: &Ctx, id: SessionId) -> Result<SessionRow, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        let row = store::sessions::find(&mut tx, id).await?.ok_or(Error::NotFound { what: "session" })?;
        Ok(row)
    }

    /// Changes what `patch` says.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id; `Invalid` if its metadata would become too large.
    pub async fn patch_session(&self, ctx: &Ctx, id: SessionId, patch: SessionPatch) -> Result<SessionRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let present = store::sessions::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "session" })?;
        let metadata = metadata::patched("metadata", &present.metadata, patch.metadata.as_ref())?;
        let visitor_name = patch.visitor_name.unwrap_or(present.visitor_name);
        let row = store::sessions::update(&mut tx, id, visitor_name.as_deref(), &metadata).await?;
        tx.commit().await?;
        row.ok_or(Error::NotFound { what: "session" })
    }

    /// Ends a session: it takes no message any more. One that has ended stays as it is.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn end_session(&self, ctx: &Ctx, id: SessionId) -> Result<SessionRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let row = store::sessions::end(&mut tx, id).await?.ok_or(Error::NotFound { what: "session" })?;
        tx.commit().await?;
        Ok(row)
    }

    /// Deletes a session with its messages. The audit log has that it was, and how many there were.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn delete_session(&self, ctx: &Ctx, id: SessionId) -> Result<(), Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let deleted = store::sessions::delete(&mut tx, id, Author::of(ctx)).await?;
        tx.commit().await?;
        if deleted { Ok(()) } else { Err(Error::NotFound { what: "session" }) }
    }
}
