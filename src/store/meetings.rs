//! The tables `meetings` and `meeting_participants`.

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};
use uuid::Uuid;

use super::{
    StoreError,
    page::{Key, Page, PageRequest},
    row::{Reader, object_text},
    tx::{Statement, TenantTx},
};
use crate::ctx::{MeetingId, ParticipantId};

const INSERT: Statement = Statement {
    name: "meetings/insert",
    sql: include_str!("sql/meetings/insert.sql"),
    types: &[Type::UUID, Type::TEXT, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ, Type::TEXT],
};
const FIND: Statement =
    Statement { name: "meetings/find", sql: include_str!("sql/meetings/find.sql"), types: &[Type::UUID] };
const LOCK: Statement =
    Statement { name: "meetings/lock", sql: include_str!("sql/meetings/lock.sql"), types: &[Type::UUID] };
const LIST: Statement = Statement {
    name: "meetings/list",
    sql: include_str!("sql/meetings/list.sql"),
    types: &[Type::TIMESTAMPTZ, Type::UUID, Type::INT8, Type::INT8],
};
const COUNT: Statement = Statement { name: "meetings/count", sql: include_str!("sql/meetings/count.sql"), types: &[] };
const UPDATE: Statement = Statement {
    name: "meetings/update",
    sql: include_str!("sql/meetings/update.sql"),
    types: &[Type::UUID, Type::TEXT, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ, Type::TEXT],
};
const END: Statement =
    Statement { name: "meetings/end", sql: include_str!("sql/meetings/end.sql"), types: &[Type::UUID] };
const DELETE: Statement =
    Statement { name: "meetings/delete", sql: include_str!("sql/meetings/delete.sql"), types: &[Type::UUID] };
const INSERT_PARTICIPANT: Statement = Statement {
    name: "participants/insert",
    sql: include_str!("sql/participants/insert.sql"),
    types: &[Type::UUID, Type::UUID, Type::UUID, Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ],
};
const LIST_PARTICIPANTS: Statement = Statement {
    name: "participants/list",
    sql: include_str!("sql/participants/list.sql"),
    types: &[Type::UUID, Type::UUID, Type::INT8, Type::INT8],
};
const COUNT_PARTICIPANTS: Statement =
    Statement { name: "participants/count", sql: include_str!("sql/participants/count.sql"), types: &[Type::UUID] };
const UPDATE_PARTICIPANT: Statement = Statement {
    name: "participants/update",
    sql: include_str!("sql/participants/update.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ],
};
const DELETE_PARTICIPANT: Statement = Statement {
    name: "participants/delete",
    sql: include_str!("sql/participants/delete.sql"),
    types: &[Type::UUID, Type::UUID],
};

/// A meeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeetingRow {
    /// Its id.
    pub id: MeetingId,
    /// What it is about.
    pub title: String,
    /// When it starts.
    pub starts_at: OffsetDateTime,
    /// When it is planned to end; none for an open end.
    pub ends_at: Option<OffsetDateTime>,
    /// When it really ended.
    pub ended_at: Option<OffsetDateTime>,
    /// A JSON object, as text.
    pub metadata: String,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

/// A meeting to create.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMeeting {
    /// What it is about, 1 to 500 characters.
    pub title: String,
    /// When it starts.
    pub starts_at: OffsetDateTime,
    /// Not before it starts.
    pub ends_at: Option<OffsetDateTime>,
    /// What the client hangs on it.
    pub metadata: Map<String, Value>,
}

/// Somebody in a meeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParticipantRow {
    /// Their id, of this meeting.
    pub id: ParticipantId,
    /// The person of the tenant; none for a guest.
    pub user_id: Option<Uuid>,
    /// As others see them; may be empty.
    pub name: String,
    /// `host` or `participant`.
    pub role: String,
    /// When they came.
    pub joined_at: Option<OffsetDateTime>,
    /// When they went.
    pub left_at: Option<OffsetDateTime>,
    /// When they were added.
    pub created_at: OffsetDateTime,
}

/// What to write of a participant; of one that is there, what is none stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParticipantFields {
    /// As others see them, up to 200 characters.
    pub name: Option<String>,
    /// What they are in the meeting.
    pub role: Option<ParticipantRole>,
    /// When they came.
    pub joined_at: Option<OffsetDateTime>,
    /// When they went.
    pub left_at: Option<OffsetDateTime>,
}

/// What somebody is in a meeting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ParticipantRole {
    /// Leads it.
    Host,
    /// Takes part.
    #[default]
    Participant,
}

impl ParticipantRole {
    /// The word for it in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Participant => "participant",
        }
    }
}

/// Creates a meeting.
///
/// # Errors
/// If Postgres is away.
pub async fn insert(tx: &mut TenantTx, meeting: &NewMeeting) -> Result<MeetingRow, StoreError> {
    let NewMeeting { title, starts_at, ends_at, metadata } = meeting;
    let metadata = object_text(metadata);
    let row = tx.query_one(&INSERT, &[&MeetingId::new().0, title, starts_at, ends_at, &metadata]).await?;
    read(&INSERT, &row)
}

/// The meeting of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn find(tx: &mut TenantTx, id: MeetingId) -> Result<Option<MeetingRow>, StoreError> {
    tx.query_opt(&FIND, &[&id.0]).await?.map(|row| read(&FIND, &row)).transpose()
}

/// The meeting of that id, which nobody else changes until the transaction ends.
///
/// # Errors
/// If Postgres is away.
pub async fn lock(tx: &mut TenantTx, id: MeetingId) -> Result<Option<MeetingRow>, StoreError> {
    tx.query_opt(&LOCK, &[&id.0]).await?.map(|row| read(&LOCK, &row)).transpose()
}

/// A page of the tenant's meetings, the latest start first.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list(tx: &mut TenantTx, page: &PageRequest) -> Result<Page<MeetingRow>, StoreError> {
    page.newest(tx, [&LIST, &COUNT], Key::Meeting, read, |row| (row.starts_at, row.id.0)).await
}

/// Gives a meeting another title, times and metadata; none if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn update(tx: &mut TenantTx, id: MeetingId, meeting: &NewMeeting) -> Result<Option<MeetingRow>, StoreError> {
    let NewMeeting { title, starts_at, ends_at, metadata } = meeting;
    let row = tx.query_opt(&UPDATE, &[&id.0, title, starts_at, ends_at, &object_text(metadata)]).await?;
    row.map(|row| read(&UPDATE, &row)).transpose()
}

/// Ends a meeting, if it has not ended before; none if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn end(tx: &mut TenantTx, id: MeetingId) -> Result<Option<MeetingRow>, StoreError> {
    tx.query_opt(&END, &[&id.0]).await?.map(|row| read(&END, &row)).transpose()
}

/// Deletes a meeting with its participants; false if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn delete(tx: &mut TenantTx, id: MeetingId) -> Result<bool, StoreError> {
    Ok(tx.execute(&DELETE, &[&id.0]).await? > 0)
}

/// Adds somebody to a meeting: a person of the tenant, or a guest.
///
/// # Errors
/// [`StoreError::Gone`] if the tenant has no such meeting, [`StoreError::BrokenReference`] if it has no such person; a unique
/// violation if the person is in the meeting already.
pub async fn insert_participant(
    tx: &mut TenantTx,
    meeting_id: MeetingId,
    user_id: Option<Uuid>,
    fields: &ParticipantFields,
) -> Result<ParticipantRow, StoreError> {
    let id = ParticipantId::new().0;
    let name = fields.name.as_deref().unwrap_or_default();
    let role = fields.role.unwrap_or_default().as_str();
    let row = tx
        .query_one(
            &INSERT_PARTICIPANT,
            &[&meeting_id.0, &id, &user_id, &name, &role, &fields.joined_at, &fields.left_at],
        )
        .await
        .map_err(|error| {
            let error = error.reference_to(&[
                ("meeting_participants_tenant_id_user_id_fkey", "user_id"),
                ("meeting_participants_tenant_id_meeting_id_fkey", "meeting_id"),
            ]);
            match error {
                StoreError::BrokenReference { field: "meeting_id" } => StoreError::Gone { what: "meeting" },
                error => error,
            }
        })?;
    read_participant(&INSERT_PARTICIPANT, &row)
}

/// A page of a meeting's participants, in the order in which they were added; none if the tenant has no such meeting.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list_participants(
    tx: &mut TenantTx,
    meeting_id: MeetingId,
    page: &PageRequest,
) -> Result<Option<Page<ParticipantRow>>, StoreError> {
    let after = page.start.key(|key| match key {
        Key::Participant(id) => Some(*id),
        _ => None,
    })?;
    let after = after.unwrap_or(Uuid::nil());
    let rows = tx.query(&LIST_PARTICIPANTS, &[&meeting_id.0, &after, &page.start.offset(), &page.rows()]).await?;
    if rows.is_empty() && find(tx, meeting_id).await?.is_none() {
        return Ok(None);
    }
    let items = rows.iter().map(|row| read_participant(&LIST_PARTICIPANTS, row)).collect::<Result<_, _>>()?;
    let total = page.total(tx, &COUNT_PARTICIPANTS, &[&meeting_id.0]).await?;
    Ok(Some(Page::of(page, items, total, |row| Key::Participant(row.id.0))))
}

/// Writes what `fields` has of a participant; none if the meeting has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn update_participant(
    tx: &mut TenantTx,
    meeting_id: MeetingId,
    id: ParticipantId,
    fields: &ParticipantFields,
) -> Result<Option<ParticipantRow>, StoreError> {
    let ParticipantFields { name, role, joined_at, left_at } = fields;
    let role = role.map(ParticipantRole::as_str);
    let row = tx.query_opt(&UPDATE_PARTICIPANT, &[&meeting_id.0, &id.0, name, &role, joined_at, left_at]).await?;
    row.map(|row| read_participant(&UPDATE_PARTICIPANT, &row)).transpose()
}

/// Takes somebody out of a meeting; false if it has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn delete_participant(
    tx: &mut TenantTx,
    meeting_id: MeetingId,
    id: ParticipantId,
) -> Result<bool, StoreError> {
    Ok(tx.execute(&DELETE_PARTICIPANT, &[&meeting_id.0, &id.0]).await? > 0)
}

fn read(statement: &Statement, row: &Row) -> Result<MeetingRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(MeetingRow {
        id: MeetingId(row.get("id")?),
        title: row.get("title")?,
        starts_at: row.get("starts_at")?,
        ends_at: row.get("ends_at")?,
        ended_at: row.get("ended_at")?,
        metadata: row.get("metadata")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

fn read_participant(statement: &Statement, row: &Row) -> Result<ParticipantRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(ParticipantRow {
        id: ParticipantId(row.get("id")?),
        user_id: row.get("user_id")?,
        name: row.get("name")?,
        role: row.get("role")?,
        joined_at: row.get("joined_at")?,
        left_at: row.get("left_at")?,
        created_at: row.get("created_at")?,
    })
}
