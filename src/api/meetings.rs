//! `/v1/meetings`: create, list, read, change, end, delete, and who is in one.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{fields, lists};
use crate::{
    app::App,
    chat::{
        MeetingRow, NewMeeting, ParticipantFields, ParticipantRole, ParticipantRow,
        meetings::{MeetingPatch, NAME_CHARS_MAX, TITLE_CHARS_MAX},
    },
    ctx::{Ctx, MeetingId, ParticipantId},
    error::Error,
    http::{
        Request, Response,
        json::{given, raw as raw_json},
        respond,
    },
    metadata,
};

/// A meeting to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MeetingDraft {
    /// What it is about, 1 to 500 characters.
    #[schema(min_length = 1, max_length = 500)]
    title: String,
    /// When it starts; now, if nothing is said.
    #[schema(format = DateTime)]
    starts_at: Option<String>,
    /// When it is planned to end, not before it starts; an open end, if nothing is said.
    #[schema(format = DateTime)]
    ends_at: Option<String>,
    /// Whatever you want to keep with it.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// What to change of a meeting; at least one field.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MeetingPatchDraft {
    /// What it is about, 1 to 500 characters.
    #[schema(min_length = 1, max_length = 500)]
    title: Option<String>,
    /// When it starts.
    #[schema(format = DateTime)]
    starts_at: Option<String>,
    /// When it is planned to end; null for an open end.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, format = DateTime)]
    ends_at: Option<Option<String>>,
    /// Merged into the meeting's metadata as RFC 7396 says.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// A meeting.
#[derive(Debug, Serialize, ToSchema)]
pub struct MeetingView {
    id: Uuid,
    title: String,
    #[serde(with = "time::serde::rfc3339")]
    starts_at: OffsetDateTime,
    /// When it is planned to end; null for an open end.
    #[serde(with = "time::serde::rfc3339::option")]
    ends_at: Option<OffsetDateTime>,
    /// When it really ended; null while it has not.
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
    #[serde(serialize_with = "raw_json")]
    #[schema(value_type = Object)]
    metadata: String,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

/// Somebody to add to a meeting.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParticipantDraft {
    /// A person of yours; a guest, if nothing is said.
    user_id: Option<Uuid>,
    /// As others see them, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// `participant`, if nothing is said.
    role: Option<ParticipantRoleDraft>,
    /// When they came.
    #[schema(format = DateTime)]
    joined_at: Option<String>,
    /// When they went.
    #[schema(format = DateTime)]
    left_at: Option<String>,
}

/// What to change of a participant; at least one field.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParticipantPatchDraft {
    /// As others see them, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    role: Option<ParticipantRoleDraft>,
    /// When they came.
    #[schema(format = DateTime)]
    joined_at: Option<String>,
    /// When they went.
    #[schema(format = DateTime)]
    left_at: Option<String>,
}

/// `host` leads the meeting, `participant` takes part.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum ParticipantRoleDraft {
    Host,
    Participant,
}

/// Somebody in a meeting.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParticipantView {
    id: Uuid,
    /// The person of yours; null for a guest.
    user_id: Option<Uuid>,
    /// As others see them; may be empty.
    name: String,
    /// `host` or `participant`.
    role: String,
    #[serde(with = "time::serde::rfc3339::option")]
    joined_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    left_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<MeetingRow> for MeetingView {
    fn from(row: MeetingRow) -> Self {
        Self {
            id: row.id.0,
            title: row.title,
            starts_at: row.starts_at,
            ends_at: row.ends_at,
            ended_at: row.ended_at,
            metadata: row.metadata,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl From<ParticipantRow> for ParticipantView {
    fn from(row: ParticipantRow) -> Self {
        Self {
            id: row.id.0,
            user_id: row.user_id,
            name: row.name,
            role: row.role,
            joined_at: row.joined_at,
            left_at: row.left_at,
            created_at: row.created_at,
        }
    }
}

impl From<ParticipantRoleDraft> for ParticipantRole {
    fn from(role: ParticipantRoleDraft) -> Self {
        match role {
            ParticipantRoleDraft::Host => Self::Host,
            ParticipantRoleDraft::Participant => Self::Participant,
        }
    }
}

/// `POST /v1/meetings`
pub async fn create_meeting(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let draft: MeetingDraft = req.json(&app.compute).await?;
    fields::chars("title", Some(&draft.title), TITLE_CHARS_MAX)?;
    metadata::check("metadata", &draft.metadata)?;
    let meeting = NewMeeting {
        title: draft.title,
        starts_at: fields::time("starts_at", draft.starts_at.as_deref())?.unwrap_or_else(OffsetDateTime::now_utc),
        ends_at: fields::time("ends_at", draft.ends_at.as_deref())?,
        metadata: draft.metadata,
    };
    let meeting = app.chat.create_meeting(ctx, &meeting).await?;
    respond::created(&MeetingView::from(meeting))
}

/// `GET /v1/meetings`
pub async fn list_meetings(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let meetings = app.chat.list_meetings(ctx, &page).await?;
    lists::respond(&page, meetings.map(MeetingView::from))
}

/// `GET /v1/meetings/{meeting_id}`
pub async fn get_meeting(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let meeting = app.chat.find_meeting(ctx, meeting_id(&req)?).await?;
    respond::ok(&MeetingView::from(meeting))
}

/// `PATCH /v1/meetings/{meeting_id}`
pub async fn update_meeting(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = meeting_id(&req)?;
    let draft: MeetingPatchDraft = req.json(&app.compute).await?;
    fields::chars("title", draft.title.as_deref(), TITLE_CHARS_MAX)?;
    if let Some(metadata) = &draft.metadata {
        metadata::check("metadata", metadata)?;
    }
    let patch = MeetingPatch {
        title: draft.title,
        starts_at: fields::time("starts_at", draft.starts_at.as_deref())?,
        ends_at: draft.ends_at.map(|ends_at| fields::time("ends_at", ends_at.as_deref())).transpose()?,
        metadata: draft.metadata,
    };
    if patch == MeetingPatch::default() {
        return Err(fields::empty_patch());
    }
    let meeting = app.chat.patch_meeting(ctx, id, patch).await?;
    respond::ok(&MeetingView::from(meeting))
}

/// `POST /v1/meetings/{meeting_id}/end`
pub async fn end_meeting(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let meeting = app.chat.end_meeting(ctx, meeting_id(&req)?).await?;
    respond::ok(&MeetingView::from(meeting))
}

/// `DELETE /v1/meetings/{meeting_id}`
pub async fn delete_meeting(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    app.chat.delete_meeting(ctx, meeting_id(&req)?).await?;
    Ok(respond::no_content())
}

/// `POST /v1/meetings/{meeting_id}/participants`
pub async fn create_participant(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let meeting_id = meeting_id(&req)?;
    let ParticipantDraft { user_id, name, role, joined_at, left_at } = req.json(&app.compute).await?;
    let fields = participant_fields(ParticipantPatchDraft { name, role, joined_at, left_at })?;
    let participant = app.chat.add_participant(ctx, meeting_id, user_id, &fields).await?;
    respond::created(&ParticipantView::from(participant))
}

/// `GET /v1/meetings/{meeting_id}/participants`
pub async fn list_participants(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let participants = app.chat.list_participants(ctx, meeting_id(&req)?, &page).await?;
    lists::respond(&page, participants.map(ParticipantView::from))
}

/// `PATCH /v1/meetings/{meeting_id}/participants/{participant_id}`
pub async fn update_participant(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let (meeting_id, id) = (meeting_id(&req)?, participant_id(&req)?);
    let fields = participant_fields(req.json(&app.compute).await?)?;
    if fields == ParticipantFields::default() {
        return Err(fields::empty_patch());
    }
    let participant = app.chat.update_participant(ctx, meeting_id, id, &fields).await?;
    respond::ok(&ParticipantView::from(participant))
}

/// `DELETE /v1/meetings/{meeting_id}/participants/{participant_id}`
pub async fn delete_participant(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    app.chat.remove_participant(ctx, meeting_id(&req)?, participant_id(&req)?).await?;
    Ok(respond::no_content())
}

fn participant_fields(draft: ParticipantPatchDraft) -> Result<ParticipantFields, Error> {
    fields::chars("name", draft.name.as_deref(), NAME_CHARS_MAX)?;
    Ok(ParticipantFields {
        name: draft.name,
        role: draft.role.map(ParticipantRole::from),
        joined_at: fields::time("joined_at", draft.joined_at.as_deref())?,
        left_at: fields::time("left_at", draft.left_at.as_deref())?,
    })
}

fn meeting_id(req: &Request) -> Result<MeetingId, Error> {
    req.path_uuid("meeting_id").map(MeetingId).ok_or(Error::NotFound { what: "meeting" })
}

fn participant_id(req: &Request) -> Result<ParticipantId, Error> {
    req.path_uuid("participant_id").map(ParticipantId).ok_or(Error::NotFound { what: "participant" })
}

pub(super) mod docs_of {
    use super::{
        super::{
            lists,
            openapi::{Docs, Gives},
        },
        MeetingDraft, MeetingPatchDraft, MeetingView, ParticipantDraft, ParticipantPatchDraft, ParticipantView,
    };
    use crate::error::Error;

    pub(in crate::api) fn create_meeting() -> Docs {
        Docs::new("Create a meeting", Gives::json::<MeetingView>(201, "The meeting.")).takes_json::<MeetingDraft>()
    }

    pub(in crate::api) fn list_meetings() -> Docs {
        Docs::new("List meetings", Gives::page::<MeetingView>("A page, the latest start first.")).query(lists::QUERY)
    }

    pub(in crate::api) fn get_meeting() -> Docs {
        Docs::new("Read a meeting", Gives::json::<MeetingView>(200, "The meeting."))
    }

    pub(in crate::api) fn update_meeting() -> Docs {
        Docs::new("Change a meeting", Gives::json::<MeetingView>(200, "The meeting as it is now."))
            .takes_json::<MeetingPatchDraft>()
    }

    pub(in crate::api) fn end_meeting() -> Docs {
        Docs::new("End a meeting", Gives::json::<MeetingView>(200, "The meeting, which has ended."))
            .about("One that has ended keeps the time of its end. Its sessions go on until they are ended.")
    }

    pub(in crate::api) fn delete_meeting() -> Docs {
        Docs::new("Delete a meeting", Gives::nothing(204, "It is gone with its participants; its sessions stay."))
    }

    pub(in crate::api) fn create_participant() -> Docs {
        Docs::new("Add somebody to a meeting", Gives::json::<ParticipantView>(201, "The participant."))
            .about("A person of yours is in a meeting once; guests are not told apart.")
            .takes_json::<ParticipantDraft>()
            .fails(Error::Conflict { detail: String::new() })
    }

    pub(in crate::api) fn list_participants() -> Docs {
        let gives = Gives::page::<ParticipantView>("A page, in the order in which they were added.");
        Docs::new("List who is in a meeting", gives).query(lists::QUERY)
    }

    pub(in crate::api) fn update_participant() -> Docs {
        Docs::new("Change a participant", Gives::json::<ParticipantView>(200, "The participant as they are now."))
            .takes_json::<ParticipantPatchDraft>()
    }

    pub(in crate::api) fn delete_participant() -> Docs {
        Docs::new("Take somebody out of a meeting", Gives::nothing(204, "They are out of it."))
    }
}
