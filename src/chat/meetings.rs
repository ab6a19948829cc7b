//! Meetings and who is in them.

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{Chat, MeetingRow, NewMeeting, Page, PageRequest, ParticipantFields, ParticipantRow};
use crate::{
    ctx::{Ctx, MeetingId, ParticipantId},
    error::Error,
    metadata,
    store::{
        self,
        audit_log::{self, Change},
    },
};

/// Longest title of a meeting, in characters.
pub const TITLE_CHARS_MAX: usize = 500;
/// Longest name of a participant, in characters.
pub const NAME_CHARS_MAX: usize = 200;

/// What to change of a meeting; what is none stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeetingPatch {
    /// 1 to 500 characters.
    pub title: Option<String>,
    /// When it starts.
    pub starts_at: Option<OffsetDateTime>,
    /// When it is planned to end, which may become open.
    pub ends_at: Option<Option<OffsetDateTime>>,
    /// Merged into its metadata as RFC 7396 says.
    pub metadata: Option<Map<String, Value>>,
}

impl Chat {
    /// Creates a meeting.
    ///
    /// # Errors
    /// `Invalid` if it is to end before it starts.
    pub async fn create_meeting(&self, ctx: &Ctx, meeting: &NewMeeting) -> Result<MeetingRow, Error> {
        check_times(meeting)?;
        let mut tx = self.store.tenant_tx(ctx).await?;
        let row = store::meetings::insert(&mut tx, meeting).await?;
        audit_log::note(&mut tx, ctx, "meeting.create", row.id.0, &Change::to(told(&row))).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// A page of the tenant's meetings, the latest start first.
    ///
    /// # Errors
    /// `Invalid` for a cursor of another list.
    pub async fn list_meetings(&self, ctx: &Ctx, page: &PageRequest) -> Result<Page<MeetingRow>, Error> {
        let mut tx = self.store.tenant_list(ctx).await?;
        let rows = store::meetings::list(&mut tx, page).await?;
        Ok(rows)
    }

    /// One meeting.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn find_meeting(&self, ctx: &Ctx, id: MeetingId) -> Result<MeetingRow, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        let row = store::meetings::find(&mut tx, id).await?.ok_or(Error::NotFound { what: "meeting" })?;
        Ok(row)
    }

    /// Changes what `patch` says.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id; `Invalid` if it would end before it starts, or its metadata would become
    /// too large.
    pub async fn patch_meeting(&self, ctx: &Ctx, id: MeetingId, patch: MeetingPatch) -> Result<MeetingRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let present = store::meetings::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "meeting" })?;
        let before = told(&present);
        let wanted = NewMeeting {
            title: patch.title.unwrap_or(present.title),
            starts_at: patch.starts_at.unwrap_or(present.starts_at),
            ends_at: patch.ends_at.unwrap_or(present.ends_at),
            metadata: metadata::patched("metadata", &present.metadata, patch.metadata.as_ref())?,
        };
        check_times(&wanted)?;
        let row = store::meetings::update(&mut tx, id, &wanted).await?.ok_or(Error::NotFound { what: "meeting" })?;
        audit_log::note(&mut tx, ctx, "meeting.update", id.0, &Change::between(before, told(&row))).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Ends a meeting. One that has ended stays as it is.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn end_meeting(&self, ctx: &Ctx, id: MeetingId) -> Result<MeetingRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let present = store::meetings::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "meeting" })?;
        if present.ended_at.is_some() {
            tx.commit().await?;
            return Ok(present);
        }
        let row = store::meetings::end(&mut tx, id).await?.ok_or(Error::NotFound { what: "meeting" })?;
        audit_log::note(&mut tx, ctx, "meeting.end", id.0, &Change::between(told(&present), told(&row))).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Deletes a meeting with its participants; its sessions stay.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn delete_meeting(&self, ctx: &Ctx, id: MeetingId) -> Result<(), Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let present = store::meetings::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "meeting" })?;
        store::meetings::delete(&mut tx, id).await?;
        audit_log::note(&mut tx, ctx, "meeting.delete", id.0, &Change::from(told(&present))).await?;
        Ok(tx.commit().await?)
    }

    /// Adds somebody to a meeting: a person of the tenant, or a guest.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such meeting; `Invalid` if it has no such person; `Conflict` if the person is in it
    /// already.
    pub async fn add_participant(
        &self,
        ctx: &Ctx,
        meeting_id: MeetingId,
        user_id: Option<Uuid>,
        fields: &ParticipantFields,
    ) -> Result<ParticipantRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let row = store::meetings::insert_participant(&mut tx, meeting_id, user_id, fields).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// A page of a meeting's participants, in the order in which they were added.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such meeting; `Invalid` for a cursor of another list.
    pub async fn list_participants(
        &self,
        ctx: &Ctx,
        meeting_id: MeetingId,
        page: &PageRequest,
    ) -> Result<Page<ParticipantRow>, Error> {
        let mut tx = self.store.tenant_list(ctx).await?;
        let rows = store::meetings::list_participants(&mut tx, meeting_id, page).await?;
        rows.ok_or(Error::NotFound { what: "meeting" })
    }

    /// Writes what `fields` has of a participant.
    ///
    /// # Errors
    /// `NotFound` if there is no such participant.
    pub async fn update_participant(
        &self,
        ctx: &Ctx,
        meeting_id: MeetingId,
        id: ParticipantId,
        fields: &ParticipantFields,
    ) -> Result<ParticipantRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let row = store::meetings::update_participant(&mut tx, meeting_id, id, fields).await?;
        tx.commit().await?;
        row.ok_or(Error::NotFound { what: "participant" })
    }

    /// Takes somebody out of a meeting.
    ///
    /// # Errors
    /// `NotFound` if there is no such participant.
    pub async fn remove_participant(&self, ctx: &Ctx, meeting_id: MeetingId, id: ParticipantId) -> Result<(), Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let deleted = store::meetings::delete_participant(&mut tx, meeting_id, id).await?;
        tx.commit().await?;
        if deleted { Ok(()) } else { Err(Error::NotFound { what: "participant" }) }
    }
}

/// What the audit log says of a meeting.
fn told(row: &MeetingRow) -> Value {
    let time = |at: Option<OffsetDateTime>| at.and_then(|at| at.format(&Rfc3339).ok());
    json!({
        "title": row.title,
        "starts_at": time(Some(row.starts_at)),
        "ends_at": time(row.ends_at),
        "ended_at": time(row.ended_at),
        "metadata": metadata::value(&row.metadata),
    })
}

fn check_times(meeting: &NewMeeting) -> Result<(), Error> {
    match meeting.ends_at {
        Some(ends_at) if ends_at < meeting.starts_at => {
            Err(Error::invalid_field("ends_at", "must not be before starts_at"))
        }
        _ => Ok(()),
    }
}
