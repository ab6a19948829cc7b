//! `/v1/sessions`: start, list, read, change, end, delete.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{fields, lists, query};
use crate::{
    app::App,
    chat::{
        NewSession, SessionFilter, SessionRow,
        sessions::{SessionPatch, VISITOR_ID_BYTES_MAX, VISITOR_NAME_CHARS_MAX},
    },
    ctx::{Actor, Ctx, MeetingId, SessionId, WidgetId},
    error::Error,
    http::{
        Request, Response,
        json::{given, raw as raw_json},
        respond,
    },
    metadata,
};

/// A session to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionDraft {
    /// The widget that it starts in; not with `meeting_id`.
    widget_id: Option<Uuid>,
    /// The meeting that it is the conversation of.
    meeting_id: Option<Uuid>,
    /// Your own name of the visitor, 1 to 255 bytes.
    #[schema(min_length = 1, max_length = 255)]
    visitor_id: Option<String>,
    /// As others see the visitor, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    visitor_name: Option<String>,
    /// Whatever you want to keep with it; a visitor does not see it.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// What to change of a session; at least one field.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionPatchDraft {
    /// As others see the visitor, 1 to 200 characters; null for none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    visitor_name: Option<Option<String>>,
    /// Merged into the session's metadata as RFC 7396 says: a null removes its key, an object is merged, anything else
    /// replaces.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// A session.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionView {
    id: Uuid,
    widget_id: Option<Uuid>,
    meeting_id: Option<Uuid>,
    visitor_id: Option<String>,
    visitor_name: Option<String>,
    /// Whether the site's own server has signed for the visitor.
    is_verified: bool,
    #[serde(serialize_with = "raw_json")]
    #[schema(value_type = Object)]
    metadata: String,
    /// The number of its last message, and how many it has: they are numbered without a gap.
    last_seq: u64,
    /// How often its messages were edited or deleted.
    last_revision: u64,
    #[serde(with = "time::serde::rfc3339::option")]
    last_message_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
    /// From then on it takes no message; null while it goes on.
    #[serde(with = "time::serde::rfc3339::option")]
    ended_at: Option<OffsetDateTime>,
}

impl From<SessionRow> for SessionView {
    fn from(row: SessionRow) -> Self {
        Self {
            id: row.id.0,
            widget_id: row.widget_id.map(|id| id.0),
            meeting_id: row.meeting_id.map(|id| id.0),
            visitor_id: row.visitor_id,
            visitor_name: row.visitor_name,
            is_verified: row.is_verified,
            metadata: row.metadata,
            last_seq: row.last_seq,
            last_revision: row.last_revision,
            last_message_at: row.last_message_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
            ended_at: row.ended_at,
        }
    }
}

/// `POST /v1/sessions`
pub async fn create_session(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let draft: SessionDraft = req.json(&app.compute).await?;
    if draft.widget_id.is_some() && draft.meeting_id.is_some() {
        return Err(Error::invalid_field("meeting_id", "goes without widget_id"));
    }
    fields::bytes("visitor_id", draft.visitor_id.as_deref(), VISITOR_ID_BYTES_MAX)?;
    fields::chars("visitor_name", draft.visitor_name.as_deref(), VISITOR_NAME_CHARS_MAX)?;
    metadata::check("metadata", &draft.metadata)?;
    let session = NewSession {
        id: SessionId::new(),
        widget_id: draft.widget_id.map(WidgetId),
        meeting_id: draft.meeting_id.map(MeetingId),
        visitor_id: draft.visitor_id,
        visitor_name: draft.visitor_name,
        is_verified: false,
        metadata: draft.metadata,
    };
    let session = app.chat.create_session(ctx, &session).await?;
    respond::created(&SessionView::from(session))
}

/// `GET /v1/sessions`
pub async fn list_sessions(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let visitor_id = req.query("visitor_id");
    fields::bytes("visitor_id", visitor_id, VISITOR_ID_BYTES_MAX)?;
    let filter = SessionFilter {
        widget_id: query::id(&req, "widget_id", WidgetId)?,
        meeting_id: query::id(&req, "meeting_id", MeetingId)?,
        visitor_id: visitor_id.map(str::to_owned),
        active: query::boolean(&req, "active")?,
        created_after: query::time(&req, "created_after")?,
        created_before: query::time(&req, "created_before")?,
    };
    let sessions = app.chat.list_sessions(ctx, &filter, &page).await?;
    lists::respond(&page, sessions.map(SessionView::from))
}

/// `GET /v1/sessions/{session_id}`
pub async fn get_session(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let session = app.chat.find_session(ctx, session_id(&req)?).await?;
    respond::ok(&SessionView::from(as_seen_by(ctx, session)))
}

/// `PATCH /v1/sessions/{session_id}`
pub async fn update_session(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = session_id(&req)?;
    let draft: SessionPatchDraft = req.json(&app.compute).await?;
    if draft.visitor_name.is_none() && draft.metadata.is_none() {
        return Err(Error::invalid("The patch is empty; it must have visitor_name, metadata or both."));
    }
    fields::chars("visitor_name", draft.visitor_name.as_ref().and_then(Option::as_deref), VISITOR_NAME_CHARS_MAX)?;
    if let Some(metadata) = &draft.metadata {
        metadata::check("metadata", metadata)?;
    }
    let patch = SessionPatch { visitor_name: draft.visitor_name, metadata: draft.metadata };
    let session = app.chat.patch_session(ctx, id, patch).await?;
    respond::ok(&SessionView::from(session))
}

/// `POST /v1/sessions/{session_id}/end`
pub async fn end_session(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let session = app.chat.end_session(ctx, session_id(&req)?).await?;
    respond::ok(&SessionView::from(as_seen_by(ctx, session)))
}

/// `DELETE /v1/sessions/{session_id}`
pub async fn delete_session(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    app.chat.delete_session(ctx, session_id(&req)?).await?;
    Ok(respond::no_content())
}

/// A session as whoever asks may see it: what the tenant keeps with it is not for its visitor.
pub(super) fn as_seen_by(ctx: &Ctx, session: SessionRow) -> SessionRow {
    match ctx.actor {
        Actor::Visitor(_) => SessionRow { metadata: "{}".into(), ..session },
        _ => session,
    }
}

pub(super) fn session_id(req: &Request) -> Result<SessionId, Error> {
    // An id that is none names nothing that could be there.
    req.path_uuid("session_id").map(SessionId).ok_or(Error::NotFound { what: "session" })
}

pub(super) mod docs_of {
    use super::{
        super::{
            lists::{CURSOR, LIMIT, OFFSET},
            openapi::{Docs, Gives, QueryKind, QueryParameter},
        },
        SessionDraft, SessionPatchDraft, SessionView,
    };

    const LIST_QUERY: &[QueryParameter] = &[
        LIMIT,
        OFFSET,
        CURSOR,
        QueryParameter { name: "widget_id", about: "Those that started in this widget.", kind: QueryKind::Id },
        QueryParameter { name: "meeting_id", about: "Those of this meeting.", kind: QueryKind::Id },
        QueryParameter { name: "visitor_id", about: "Those of this visitor.", kind: QueryKind::Text },
        QueryParameter {
            name: "active",
            about: "Those that go on (`true`), or that have ended (`false`).",
            kind: QueryKind::Boolean,
        },
        QueryParameter { name: "created_after", about: "Those that started then or later.", kind: QueryKind::Time },
        QueryParameter { name: "created_before", about: "Those that started earlier.", kind: QueryKind::Time },
    ];

    pub(in crate::api) fn create_session() -> Docs {
        Docs::new("Start a session", Gives::json::<SessionView>(201, "The session.")).takes_json::<SessionDraft>()
    }

    pub(in crate::api) fn list_sessions() -> Docs {
        Docs::new("List sessions", Gives::page::<SessionView>("A page, newest first.")).query(LIST_QUERY)
    }

    pub(in crate::api) fn get_session() -> Docs {
        Docs::new("Read a session", Gives::json::<SessionView>(200, "The session."))
    }

    pub(in crate::api) fn update_session() -> Docs {
        Docs::new("Change a session", Gives::json::<SessionView>(200, "The session as it is now."))
            .takes_json::<SessionPatchDraft>()
    }

    pub(in crate::api) fn end_session() -> Docs {
        let about = "It takes no message any more. One that has ended keeps the time of its end.";
        Docs::new("End a session", Gives::json::<SessionView>(200, "The session, which has ended.")).about(about)
    }

    pub(in crate::api) fn delete_session() -> Docs {
        let gives = Gives::nothing(204, "It is gone, and so are its messages.");
        Docs::new("Delete a session", gives)
            .about("The audit log keeps that it was deleted, by whom, and no word of it.")
    }
}
