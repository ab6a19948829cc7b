//! Messages: posted once however often they are sent, listed either way, edited and deleted with their history, searched.

use super::{Chat, History, MessageRow, NewMessage, Page, PageRequest};
use crate::{
    ctx::{Ctx, MessageId, SessionId},
    error::Error,
    store::{self, audit_log::Author, messages::Posting},
};

/// Longest message, in bytes.
pub const CONTENT_BYTES_MAX: usize = 262_144;
/// Longest name of a sender, in characters.
pub const SENDER_CHARS_MAX: usize = 200;
/// Longest name that a sender has for a message, in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 128;
/// Longest question of a search, in bytes.
pub const QUESTION_BYTES_MAX: usize = 1_024;

impl Chat {
    /// Posts a message, which is committed under its number then. One that was posted under the same client id before is
    /// given as it is, also where the session has ended since.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such session; `Conflict` if it has ended.
    pub async fn post_message(
        &self,
        ctx: &Ctx,
        session_id: SessionId,
        message: NewMessage,
    ) -> Result<MessageRow, Error> {
        let mut tx = self.store.tenant_single(ctx).await?;
        let posted = match store::messages::post(&mut tx, session_id, ctx.actor.user_id(), message).await? {
            Posting::New(message) => *message,
            Posting::Repeat(id) => {
                store::messages::find(&mut tx, session_id, id).await?.ok_or(Error::NotFound { what: "message" })?
            }
            Posting::SessionEnded => return Err(Error::Conflict { detail: "The session has ended.".into() }),
            Posting::SessionGone => return Err(Error::NotFound { what: "session" }),
        };
        // Done already, but in a request that is done once.
        tx.commit().await?;
        Ok(posted)
    }

    /// A page of a session's messages.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such session; `Invalid` for a cursor of another list.
    pub async fn list_messages(
        &self,
        ctx: &Ctx,
        session_id: SessionId,
        history: History,
        page: &PageRequest,
    ) -> Result<Page<MessageRow>, Error> {
        let mut tx = match history {
            History::Newest => self.store.tenant_list(ctx).await?,
            // Whoever asks what they have missed has heard of it.
            History::After(_) => self.store.tenant_read(ctx).await?,
        };
        let rows = store::messages::list(&mut tx, session_id, history, page).await?;
        rows.ok_or(Error::NotFound { what: "session" })
    }

    /// One message.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such session, or it has no such message.
    pub async fn find_message(&self, ctx: &Ctx, session_id: SessionId, id: MessageId) -> Result<MessageRow, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        let row = store::messages::find(&mut tx, session_id, id).await?.ok_or(Error::NotFound { what: "message" })?;
        Ok(row)
    }

    /// Gives a message another text. The audit log keeps the one that it had.
    ///
    /// # Errors
    /// `NotFound` if there is no such message, or it is deleted.
    pub async fn edit_message(
        &self,
        ctx: &Ctx,
        session_id: SessionId,
        id: MessageId,
        content: &str,
    ) -> Result<MessageRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        if !store::messages::edit(&mut tx, session_id, id, Some(content), Author::of(ctx)).await? {
            return Err(Error::NotFound { what: "message" });
        }
        let row = store::messages::find(&mut tx, session_id, id).await?.ok_or(Error::NotFound { what: "message" })?;
        tx.commit().await?;
        Ok(row)
    }

    /// Deletes a message: its number stays, its text is in the audit log alone.
    ///
    /// # Errors
    /// `NotFound` if there is no such message, or it is deleted already.
    pub async fn delete_message(&self, ctx: &Ctx, session_id: SessionId, id: MessageId) -> Result<(), Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let deleted = store::messages::edit(&mut tx, session_id, id, None, Author::of(ctx)).await?;
        tx.commit().await?;
        if deleted { Ok(()) } else { Err(Error::NotFound { what: "message" }) }
    }

    /// A page of the tenant's messages that fulfil `question`, newest first; without a total.
    ///
    /// # Errors
    /// `Invalid` for a cursor of another list.
    pub async fn search_messages(
        &self,
        ctx: &Ctx,
        question: &str,
        page: &PageRequest,
    ) -> Result<Page<MessageRow>, Error> {
        let mut tx = self.store.tenant_list(ctx).await?;
        let rows = store::messages::search(&mut tx, question, page).await?;
        Ok(rows)
    }
}
