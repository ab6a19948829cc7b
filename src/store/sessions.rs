//! The table `sessions`: conversations.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    StoreError,
    audit_log::Author,
    page::{Key, Page, PageRequest},
    row::{Reader, object_text},
    tx::{Statement, TenantTx},
};
use crate::ctx::{MeetingId, SessionId, WidgetId};

const INSERT: Statement = Statement {
    name: "sessions/insert",
    sql: include_str!("sql/sessions/insert.sql"),
    types: &[Type::UUID, Type::UUID, Type::UUID, Type::TEXT, Type::TEXT, Type::BOOL, Type::TEXT],
};
const FIND: Statement =
    Statement { name: "sessions/find", sql: include_str!("sql/sessions/find.sql"), types: &[Type::UUID] };
const LIST: Statement = Statement {
    name: "sessions/list",
    sql: include_str!("sql/sessions/list.sql"),
    types: &[
        Type::UUID,
        Type::UUID,
        Type::TEXT,
        Type::BOOL,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
        Type::UUID,
        Type::INT8,
        Type::INT8,
    ],
};
const COUNT: Statement = Statement {
    name: "sessions/count",
    sql: include_str!("sql/sessions/count.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT, Type::BOOL, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ],
};
const LOCK: Statement =
    Statement { name: "sessions/lock", sql: include_str!("sql/sessions/lock.sql"), types: &[Type::UUID] };
const UPDATE: Statement = Statement {
    name: "sessions/update",
    sql: include_str!("sql/sessions/update.sql"),
    types: &[Type::UUID, Type::TEXT, Type::TEXT],
};
const END: Statement =
    Statement { name: "sessions/end", sql: include_str!("sql/sessions/end.sql"), types: &[Type::UUID] };
const DELETE: Statement = Statement {
    name: "sessions/delete",
    sql: include_str!("sql/sessions/delete.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT, Type::UUID, Type::TEXT],
};

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Its id.
    pub id: SessionId,
    /// The widget that it started in.
    pub widget_id: Option<WidgetId>,
    /// The meeting that it is the conversation of.
    pub meeting_id: Option<MeetingId>,
    /// The site's own name of its visitor.
    pub visitor_id: Option<String>,
    /// As others see the visitor.
    pub visitor_name: Option<String>,
    /// Whether the site's server has signed for the visitor.
    pub is_verified: bool,
    /// A JSON object, as text.
    pub metadata: String,
    /// The number of its last message, and how many there are.
    pub last_seq: u64,
    /// How often its messages were edited or deleted.
    pub last_revision: u64,
    /// When its last message was posted.
    pub last_message_at: Option<OffsetDateTime>,
    /// When it started.
    pub created_at: OffsetDateTime,
    /// When it was last changed, but for its messages.
    pub updated_at: OffsetDateTime,
    /// When it ended; none while it goes on.
    pub ended_at: Option<OffsetDateTime>,
}

/// A session to start.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSession {
    /// A new one.
    pub id: SessionId,
    /// The widget that it starts in; not with a meeting.
    pub widget_id: Option<WidgetId>,
    /// The meeting that it is the conversation of.
    pub meeting_id: Option<MeetingId>,
    /// The site's own name of its visitor, 1 to 255 bytes.
    pub visitor_id: Option<String>,
    /// As others see the visitor, up to 200 characters.
    pub visitor_name: Option<String>,
    /// Whether the site's server has signed for the visitor.
    pub is_verified: bool,
    /// What the client hangs on it.
    pub metadata: Map<String, Value>,
}

/// Which sessions a list has: those that fulfil each condition that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Started in this widget.
    pub widget_id: Option<WidgetId>,
    /// Of this meeting.
    pub meeting_id: Option<MeetingId>,
    /// Of this visitor.
    pub visitor_id: Option<String>,
    /// Whether they go on.
    pub active: Option<bool>,
    /// Started then or later.
    pub created_after: Option<OffsetDateTime>,
    /// Started earlier.
    pub created_before: Option<OffsetDateTime>,
}

/// Starts a session.
///
/// # Errors
/// [`StoreError::BrokenReference`] if the tenant has no such widget or meeting.
pub async fn insert(tx: &mut TenantTx, session: &NewSession) -> Result<SessionRow, StoreError> {
    let id = session.id.0;
    let widget_id = session.widget_id.map(|id| id.0);
    let meeting_id = session.meeting_id.map(|id| id.0);
    let metadata = object_text(&session.metadata);
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
        [&id, &widget_id, &meeting_id, &session.visitor_id, &session.visitor_name, &session.is_verified, &metadata];
    let row = tx.query_one(&INSERT, &params).await.map_err(|error| {
        error.reference_to(&[
            ("sessions_tenant_id_widget_id_fkey", "widget_id"),
            ("sessions_tenant_id_meeting_id_fkey", "meeting_id"),
        ])
    })?;
    read(&INSERT, &row)
}

/// The session of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn find(tx: &mut TenantTx, id: SessionId) -> Result<Option<SessionRow>, StoreError> {
    tx.query_opt(&FIND, &[&id.0]).await?.map(|row| read(&FIND, &row)).transpose()
}

/// A page of the tenant's sessions that fulfil `filter`, newest first.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list(
    tx: &mut TenantTx,
    filter: &SessionFilter,
    page: &PageRequest,
) -> Result<Page<SessionRow>, StoreError> {
    let (created_at, id) = page.start.newest(Key::Session)?;
    let widget_id = filter.widget_id.map(|id| id.0);
    let meeting_id = filter.meeting_id.map(|id| id.0);
    let SessionFilter { visitor_id, active, created_after, created_before, .. } = filter;
    let (offset, rows) = (page.start.offset(), page.rows());
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 10] =
        [&widget_id, &meeting_id, visitor_id, active, created_after, created_before, &created_at, &id, &offset, &rows];
    let rows = tx.query(&LIST, &params).await?;
    let items = rows.iter().map(|row| read(&LIST, row)).collect::<Result<_, _>>()?;
    let total = page.total(tx, &COUNT, &params[..6]).await?;
    Ok(Page::of(page, items, total, |row| Key::Session(row.created_at, row.id.0)))
}

/// The session of that id, which nobody else changes until the transaction ends.
///
/// # Errors
/// If Postgres is away.
pub async fn lock(tx: &mut TenantTx, id: SessionId) -> Result<Option<SessionRow>, StoreError> {
    tx.query_opt(&LOCK, &[&id.0]).await?.map(|row| read(&LOCK, &row)).transpose()
}

/// Gives a session another visitor's name and metadata; none if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn update(
    tx: &mut TenantTx,
    id: SessionId,
    visitor_name: Option<&str>,
    metadata: &Map<String, Value>,
) -> Result<Option<SessionRow>, StoreError> {
    let row = tx.query_opt(&UPDATE, &[&id.0, &visitor_name, &object_text(metadata)]).await?;
    row.map(|row| read(&UPDATE, &row)).transpose()
}

/// Ends a session, if it has not ended before; none if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn end(tx: &mut TenantTx, id: SessionId) -> Result<Option<SessionRow>, StoreError> {
    tx.query_opt(&END, &[&id.0]).await?.map(|row| read(&END, &row)).transpose()
}

/// Deletes a session with its messages, and writes down that it was; false if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn delete(tx: &mut TenantTx, id: SessionId, by: Author<'_>) -> Result<bool, StoreError> {
    Ok(tx.execute(&DELETE, &[&id.0, &Uuid::now_v7(), &by.kind, &by.id, &by.request_id]).await? > 0)
}

fn read(statement: &Statement, row: &Row) -> Result<SessionRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(SessionRow {
        id: SessionId(row.get("id")?),
        widget_id: row.get::<Option<Uuid>>("widget_id")?.map(WidgetId),
        meeting_id: row.get::<Option<Uuid>>("meeting_id")?.map(MeetingId),
        visitor_id: row.get("visitor_id")?,
        visitor_name: row.get("visitor_name")?,
        is_verified: row.get("is_verified")?,
        metadata: row.get("metadata")?,
        last_seq: row.count("last_seq")?,
        last_revision: row.count("last_revision")?,
        last_message_at: row.get("last_message_at")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
        ended_at: row.get("ended_at")?,
    })
}
