//! `/v1/sessions/{session_id}/messages` and `/v1/messages/search`: post, list, read, edit, delete, search.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{fields, lists, query, sessions::session_id};
use crate::{
    app::App,
    chat::{
        History, MessageRow, NewMessage, Role,
        messages::{CLIENT_ID_BYTES_MAX, CONTENT_BYTES_MAX, QUESTION_BYTES_MAX, SENDER_CHARS_MAX},
    },
    ctx::{Actor, Ctx, MessageId},
    error::Error,
    http::{Request, Response, json::raw as raw_json, respond},
    metadata,
};

/// Largest number to list from: a JSON number that every client holds exactly.
const AFTER_SEQ_MAX: u64 = (1 << 53) - 1;

/// A message to post.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageDraft {
    /// Who speaks.
    role: RoleDraft,
    /// What it says, 1 to 262,144 bytes.
    #[schema(min_length = 1, max_length = 262_144)]
    content: String,
    /// Who wrote it, as others see it, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    sender: Option<String>,
    /// Your own name of it within the session, 1 to 128 bytes: what is posted again under it is the same message, whatever
    /// it says then.
    #[schema(min_length = 1, max_length = 128)]
    client_id: Option<String>,
    /// Whatever you want to keep with it.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// `user` for the visitor, `assistant` for a model, `agent` for a person of yours, `system` for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum RoleDraft {
    User,
    Assistant,
    Agent,
    System,
}

impl From<RoleDraft> for Role {
    fn from(role: RoleDraft) -> Self {
        match role {
            RoleDraft::User => Self::User,
            RoleDraft::Assistant => Self::Assistant,
            RoleDraft::Agent => Self::Agent,
            RoleDraft::System => Self::System,
        }
    }
}

/// Another text for a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageEditDraft {
    /// What it says from now on, 1 to 262,144 bytes.
    #[schema(min_length = 1, max_length = 262_144)]
    content: String,
}

/// A message.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageView {
    id: Uuid,
    session_id: Uuid,
    /// 1, 2, 3 and so on within its session, without a gap.
    seq: u64,
    /// `user`, `assistant`, `agent` or `system`.
    role: String,
    /// The person of yours who wrote it.
    user_id: Option<Uuid>,
    sender: Option<String>,
    /// Empty once it is deleted.
    content: String,
    client_id: Option<String>,
    #[serde(serialize_with = "raw_json")]
    #[schema(value_type = Object)]
    metadata: String,
    /// When it was posted; within a session later ones have later times.
    #[serde(with = "time::serde::rfc3339")]
    timestamp: OffsetDateTime,
    /// Which edit or deletion within its session was its last, counted from 1; 0 for none.
    revision: u64,
    #[serde(with = "time::serde::rfc3339::option")]
    edited_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    deleted_at: Option<OffsetDateTime>,
}

impl From<MessageRow> for MessageView {
    fn from(row: MessageRow) -> Self {
        Self {
            id: row.id.0,
            session_id: row.session_id.0,
            seq: row.seq,
            role: row.role,
            user_id: row.user_id,
            sender: row.sender,
            content: row.content,
            client_id: row.client_id,
            metadata: row.metadata,
            timestamp: row.timestamp,
            revision: row.revision,
            edited_at: row.edited_at,
            deleted_at: row.deleted_at,
        }
    }
}

/// `POST /v1/sessions/{session_id}/messages`
pub async fn create_message(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let session_id = session_id(&req)?;
    let draft: MessageDraft = req.json(&app.compute).await?;
    fields::bytes("content", Some(&draft.content), CONTENT_BYTES_MAX)?;
    fields::chars("sender", draft.sender.as_deref(), SENDER_CHARS_MAX)?;
    fields::bytes("client_id", draft.client_id.as_deref(), CLIENT_ID_BYTES_MAX)?;
    metadata::check("metadata", &draft.metadata)?;
    if let Actor::Visitor(_) = ctx.actor {
        check_visitor(&draft)?;
    }
    let message = NewMessage {
        role: draft.role.into(),
        sender: draft.sender,
        content: draft.content,
        client_id: draft.client_id,
        metadata: draft.metadata,
    };
    let posted = app.chat.post_message(ctx, session_id, message).await?;
    // The same answer to a repeat: whoever sends again has not seen the first one.
    respond::created(&MessageView::from(posted))
}

/// `GET /v1/sessions/{session_id}/messages`
pub async fn list_messages(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let session_id = session_id(&req)?;
    let page = lists::page_request(&req)?;
    let history = query::number(&req, "after_seq", 0, AFTER_SEQ_MAX)?.map_or(History::Newest, History::After);
    let messages = app.chat.list_messages(ctx, session_id, history, &page).await?;
    lists::respond(&page, messages.map(MessageView::from))
}

/// `GET /v1/sessions/{session_id}/messages/{message_id}`
pub async fn get_message(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let message = app.chat.find_message(ctx, session_id(&req)?, message_id(&req)?).await?;
    respond::ok(&MessageView::from(message))
}

/// `PATCH /v1/sessions/{session_id}/messages/{message_id}`
pub async fn edit_message(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let (session_id, id) = (session_id(&req)?, message_id(&req)?);
    let draft: MessageEditDraft = req.json(&app.compute).await?;
    fields::bytes("content", Some(&draft.content), CONTENT_BYTES_MAX)?;
    let message = app.chat.edit_message(ctx, session_id, id, &draft.content).await?;
    respond::ok(&MessageView::from(message))
}

/// `DELETE /v1/sessions/{session_id}/messages/{message_id}`
pub async fn delete_message(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    app.chat.delete_message(ctx, session_id(&req)?, message_id(&req)?).await?;
    Ok(respond::no_content())
}

/// `GET /v1/messages/search`
pub async fn search_messages(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let question = req.query("q").unwrap_or_default();
    if question.trim().is_empty() || question.len() > QUESTION_BYTES_MAX {
        return Err(Error::invalid_field(
            "q",
            format!("must have 1 to {QUESTION_BYTES_MAX} bytes, not all of them blank"),
        ));
    }
    let messages = app.chat.search_messages(ctx, question, &page).await?;
    lists::respond(&page, messages.map(MessageView::from))
}

/// A visitor speaks as nobody else.
fn check_visitor(draft: &MessageDraft) -> Result<(), Error> {
    if draft.role != RoleDraft::User {
        return Err(Error::invalid_field("role", "must be user for a visitor"));
    }
    if draft.sender.is_some() {
        return Err(Error::invalid_field("sender", "is not for visitors: their session has their name"));
    }
    Ok(())
}

fn message_id(req: &Request) -> Result<MessageId, Error> {
    req.path_uuid("message_id").map(MessageId).ok_or(Error::NotFound { what: "message" })
}

pub(super) mod docs_of {
    use super::{
        super::{
            lists::{CURSOR, LIMIT, OFFSET},
            openapi::{Docs, Gives, QueryKind, QueryParameter},
        },
        AFTER_SEQ_MAX, MessageDraft, MessageEditDraft, MessageView,
    };
    use crate::error::Error;

    const LIST_QUERY: &[QueryParameter] = &[
        LIMIT,
        OFFSET,
        CURSOR,
        QueryParameter {
            name: "after_seq",
            about: "Messages past this number, in their order; 0 for the history from its start. If nothing is said, all \
                    of them, the last one first.",
            kind: QueryKind::Number { min: 0, max: AFTER_SEQ_MAX },
        },
    ];
    const SEARCH_QUERY: &[QueryParameter] = &[
        QueryParameter {
            name: "q",
            about: "Words, 1 to 1,024 bytes: all of them have to be there, in any form that English gives them. Also \
                    `\"a phrase\"`, `this or that` and `-without`. It cannot be left out.",
            kind: QueryKind::Text,
        },
        LIMIT,
        CURSOR,
    ];

    pub(in crate::api) fn create_message() -> Docs {
        let about = "It is committed under its number when this answers. Sent again under the same `client_id`, it is not \
                     posted again; the answer is the message as it stands.";
        Docs::new("Post a message", Gives::json::<MessageView>(201, "The message."))
            .about(about)
            .takes_json::<MessageDraft>()
            .fails(Error::Conflict { detail: String::new() })
    }

    pub(in crate::api) fn list_messages() -> Docs {
        let gives = Gives::page::<MessageView>("A page, by number: from the last one backwards, or past `after_seq`.");
        Docs::new("List messages", gives).about("Deleted ones keep their place, without a text.").query(LIST_QUERY)
    }

    pub(in crate::api) fn get_message() -> Docs {
        Docs::new("Read a message", Gives::json::<MessageView>(200, "The message."))
    }

    pub(in crate::api) fn edit_message() -> Docs {
        Docs::new("Edit a message", Gives::json::<MessageView>(200, "The message as it is now."))
            .about("The audit log keeps what it said before.")
            .takes_json::<MessageEditDraft>()
    }

    pub(in crate::api) fn delete_message() -> Docs {
        Docs::new("Delete a message", Gives::nothing(204, "Its text is gone; its number stays."))
            .about("The audit log keeps what it said.")
    }

    pub(in crate::api) fn search_messages() -> Docs {
        let gives = Gives::page::<MessageView>("A page, newest first, without a total.");
        Docs::new("Search in messages", gives).about("Over all of the tenant's sessions.").query(SEARCH_QUERY)
    }
}
