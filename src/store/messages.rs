//! The table `messages`: what is said in sessions. Numbers are taken by the functions that post and edit.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    StoreError,
    audit_log::Author,
    page::{Key, Page, PageRequest, Start},
    row::{Reader, object_text},
    tx::{Statement, TenantTx},
};
use crate::ctx::{MessageId, SessionId, UserId};

const POST: Statement = Statement {
    name: "messages/post",
    sql: include_str!("sql/messages/post.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT, Type::UUID, Type::TEXT, Type::TEXT, Type::TEXT, Type::TEXT],
};
const EDIT: Statement = Statement {
    name: "messages/edit",
    sql: include_str!("sql/messages/edit.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT, Type::TEXT, Type::UUID, Type::UUID, Type::TEXT],
};
const FIND: Statement =
    Statement { name: "messages/find", sql: include_str!("sql/messages/find.sql"), types: &[Type::UUID, Type::UUID] };
const LIST: Statement = Statement {
    name: "messages/list",
    sql: include_str!("sql/messages/list.sql"),
    types: &[Type::UUID, Type::INT8, Type::INT8],
};
const LIST_NEWEST: Statement = Statement {
    name: "messages/list_newest",
    sql: include_str!("sql/messages/list_newest.sql"),
    types: &[Type::UUID, Type::INT8, Type::INT8, Type::INT8],
};
const SEARCH: Statement = Statement {
    name: "messages/search",
    sql: include_str!("sql/messages/search.sql"),
    types: &[Type::TEXT, Type::TIMESTAMPTZ, Type::UUID, Type::INT8],
};

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRow {
    /// Its id.
    pub id: MessageId,
    /// Whose it is.
    pub session_id: SessionId,
    /// 1, 2, 3 and so on within the session.
    pub seq: u64,
    /// `user`, `assistant`, `agent` or `system`.
    pub role: String,
    /// The person of the tenant who wrote it.
    pub user_id: Option<Uuid>,
    /// Who wrote it, as others see it.
    pub sender: Option<String>,
    /// What it says; empty once it is deleted.
    pub content: String,
    /// The sender's own name of it.
    pub client_id: Option<String>,
    /// A JSON object, as text.
    pub metadata: String,
    /// When it was posted.
    pub timestamp: OffsetDateTime,
    /// Which edit or deletion within the session was its last; 0 for none.
    pub revision: u64,
    /// When it was last edited, or deleted.
    pub edited_at: Option<OffsetDateTime>,
    /// When it was deleted.
    pub deleted_at: Option<OffsetDateTime>,
}

/// A message to post.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    /// Who speaks.
    pub role: Role,
    /// Who wrote it, as others see it, up to 200 characters.
    pub sender: Option<String>,
    /// What it says, 1 to 262,144 bytes.
    pub content: String,
    /// The sender's own name of it, 1 to 128 bytes: what is posted again under it is the same message.
    pub client_id: Option<String>,
    /// What the client hangs on it.
    pub metadata: Map<String, Value>,
}

/// Who speaks in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The visitor, or whoever asks.
    User,
    /// A model.
    Assistant,
    /// A person of the tenant.
    Agent,
    /// The platform.
    System,
}

/// What became of a message that was to be posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Posting {
    /// It has its number now.
    New(Box<MessageRow>),
    /// It was posted before, under the same client id.
    Repeat(MessageId),
    /// The session takes no more.
    SessionEnded,
    /// The tenant has no such session.
    SessionGone,
}

/// Which messages of a session a list has, and in what order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// All of them, the last one first.
    Newest,
    /// Those past a number, in their order.
    After(u64),
}

impl Role {
    /// The word for it in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Agent => "agent",
            Self::System => "system",
        }
    }
}

/// Posts a message, of the person `user_id` if it is one of the tenant's, unless it was posted before or the session takes no
/// more. Waits for those that post to the session at the same time.
///
/// # Errors
/// [`StoreError::Gone`] if the person was deleted.
pub async fn post(
    tx: &mut TenantTx,
    session_id: SessionId,
    user_id: Option<UserId>,
    message: NewMessage,
) -> Result<Posting, StoreError> {
    let (id, metadata, role) = (MessageId::new(), object_text(&message.metadata), message.role.as_str());
    let NewMessage { sender, content, client_id, .. } = message;
    let user_id = user_id.map(|id| id.0);
    let row = tx
        .query_opt(&POST, &[&session_id.0, &id.0, &role, &user_id, &sender, &content, &client_id, &metadata])
        .await
        .map_err(|error| match error.reference_to(&[("messages_tenant_id_user_id_fkey", "user_id")]) {
            StoreError::BrokenReference { .. } => StoreError::Gone { what: "user" },
            error => error,
        })?;
    let Some(row) = row else { return Ok(Posting::SessionGone) };
    let row = Reader::new(&POST, &row);
    let Some(posted_id) = row.get::<Option<Uuid>>("id")?.map(MessageId) else { return Ok(Posting::SessionEnded) };
    if !row.get::<bool>("is_new")? {
        return Ok(Posting::Repeat(posted_id));
    }
    Ok(Posting::New(Box::new(MessageRow {
        id,
        session_id,
        seq: row.count("seq")?,
        role: role.to_owned(),
        user_id,
        sender,
        content,
        client_id,
        metadata,
        timestamp: row.get("timestamp")?,
        revision: 0,
        edited_at: None,
        deleted_at: None,
    })))
}

/// Gives a message another text, or deletes it where there is none, and writes down what it was; false if the session has
/// none of that id, or it is deleted already.
///
/// # Errors
/// If Postgres is away.
pub async fn edit(
    tx: &mut TenantTx,
    session_id: SessionId,
    id: MessageId,
    content: Option<&str>,
    by: Author<'_>,
) -> Result<bool, StoreError> {
    let log_id = Uuid::now_v7();
    let edited =
        tx.query_opt(&EDIT, &[&session_id.0, &id.0, &content, &by.kind, &by.id, &log_id, &by.request_id]).await?;
    Ok(edited.is_some())
}

/// The message of that id, in that session.
///
/// # Errors
/// If Postgres is away.
pub async fn find(tx: &mut TenantTx, session_id: SessionId, id: MessageId) -> Result<Option<MessageRow>, StoreError> {
    tx.query_opt(&FIND, &[&session_id.0, &id.0]).await?.map(|row| read(&FIND, &row)).transpose()
}

/// A page of a session's messages; none if the tenant has no such session.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list(
    tx: &mut TenantTx,
    session_id: SessionId,
    history: History,
    page: &PageRequest,
) -> Result<Option<Page<MessageRow>>, StoreError> {
    let from = page.start.key(|key| match (key, history) {
        (Key::MessageBefore(seq), History::Newest) | (Key::MessageAfter(seq), History::After(_)) => Some(*seq),
        _ => None,
    })?;
    // Numbers have no gap, so an offset is a number.
    let offset = page.start.offset();
    let (statement, rows) = match history {
        History::Newest => {
            let before = from.map_or(i64::MAX, int8);
            (&LIST_NEWEST, tx.query(&LIST_NEWEST, &[&session_id.0, &before, &offset, &page.rows()]).await?)
        }
        History::After(after) => {
            let after = int8(from.unwrap_or(after)).saturating_add(offset);
            (&LIST, tx.query(&LIST, &[&session_id.0, &after, &page.rows()]).await?)
        }
    };
    // A session without any such message has a row all the same, without a message.
    let Some(first) = rows.first() else { return Ok(None) };
    let last_seq = Reader::new(statement, first).count("last_seq")?;
    let total = match (&page.start, history) {
        (Start::After(_), _) => None,
        (Start::Offset(_), History::Newest) => Some(last_seq),
        (Start::Offset(_), History::After(after)) => Some(last_seq.saturating_sub(after)),
    };
    let mut items = Vec::with_capacity(rows.len());
    for row in &rows {
        if Reader::new(statement, row).get::<Option<Uuid>>("id")?.is_some() {
            items.push(read(statement, row)?);
        }
    }
    let key = |row: &MessageRow| match history {
        History::Newest => Key::MessageBefore(row.seq),
        History::After(_) => Key::MessageAfter(row.seq),
    };
    Ok(Some(Page::of(page, items, total, key)))
}

/// A page of the tenant's messages that fulfil `question`, newest first; without a total. Words are stemmed as English;
/// `"phrases"`, `or` and `-exclusions` as search engines take them.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn search(tx: &mut TenantTx, question: &str, page: &PageRequest) -> Result<Page<MessageRow>, StoreError> {
    let (timestamp, id) = page.start.newest(Key::FoundMessage)?;
    let rows = tx.query(&SEARCH, &[&question, &timestamp, &id, &page.rows()]).await?;
    let items = rows.iter().map(|row| read(&SEARCH, row)).collect::<Result<_, _>>()?;
    Ok(Page::of(page, items, None, |row| Key::FoundMessage(row.timestamp, row.id.0)))
}

/// A number past those that Postgres has is past all messages.
fn int8(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

fn read(statement: &Statement, row: &Row) -> Result<MessageRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(MessageRow {
        id: MessageId(row.get("id")?),
        session_id: SessionId(row.get("session_id")?),
        seq: row.count("seq")?,
        role: row.get("role")?,
        user_id: row.get("user_id")?,
        sender: row.get("sender")?,
        content: row.get("content")?,
        client_id: row.get("client_id")?,
        metadata: row.get("metadata")?,
        timestamp: row.get("timestamp")?,
        revision: row.count("revision")?,
        edited_at: row.get("edited_at")?,
        deleted_at: row.get("deleted_at")?,
    })
}
