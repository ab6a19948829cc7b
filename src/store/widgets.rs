//! The table `widgets`: where visitors start sessions.

use std::time::Duration;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};

use super::{
    Store, StoreError,
    page::{Key, Page, PageRequest},
    row::{Reader, object_text},
    tx::{Statement, TenantTx},
};
use crate::ctx::{TenantId, WidgetId};

const INSERT: Statement = Statement {
    name: "widgets/insert",
    sql: include_str!("sql/widgets/insert.sql"),
    types: &[Type::UUID, Type::TEXT, Type::TEXT, Type::TEXT_ARRAY, Type::BOOL, Type::BYTEA, Type::TEXT],
};
const FIND: Statement =
    Statement { name: "widgets/find", sql: include_str!("sql/widgets/find.sql"), types: &[Type::UUID] };
const LOCK: Statement =
    Statement { name: "widgets/lock", sql: include_str!("sql/widgets/lock.sql"), types: &[Type::UUID] };
const LIST: Statement = Statement {
    name: "widgets/list",
    sql: include_str!("sql/widgets/list.sql"),
    types: &[Type::TIMESTAMPTZ, Type::UUID, Type::INT8, Type::INT8],
};
const COUNT: Statement = Statement { name: "widgets/count", sql: include_str!("sql/widgets/count.sql"), types: &[] };
const UPDATE: Statement = Statement {
    name: "widgets/update",
    sql: include_str!("sql/widgets/update.sql"),
    types: &[Type::UUID, Type::TEXT, Type::TEXT_ARRAY, Type::BOOL, Type::TEXT, Type::TIMESTAMPTZ],
};
const ROTATE_SECRET: Statement = Statement {
    name: "widgets/rotate_secret",
    sql: include_str!("sql/widgets/rotate_secret.sql"),
    types: &[Type::UUID, Type::TEXT, Type::BYTEA, Type::FLOAT8],
};
const FIND_SECRETS: Statement = Statement {
    name: "widgets/find_secrets",
    sql: include_str!("sql/widgets/find_secrets.sql"),
    types: &[Type::UUID, Type::UUID],
};
const FIND_BY_EMBED_KEY: Statement = Statement {
    name: "widgets/find_by_embed_key",
    sql: include_str!("sql/widgets/find_by_embed_key.sql"),
    types: &[Type::TEXT],
};
const HAS_ORIGIN: Statement = Statement {
    name: "widgets/has_origin",
    sql: include_str!("sql/widgets/has_origin.sql"),
    types: &[Type::TEXT_ARRAY, Type::UUID],
};
const DELETE: Statement =
    Statement { name: "widgets/delete", sql: include_str!("sql/widgets/delete.sql"), types: &[Type::UUID] };

/// A widget, without its secret.
#[derive(Debug, Clone, PartialEq)]
pub struct WidgetRow {
    /// Its id.
    pub id: WidgetId,
    /// For the tenant's people.
    pub name: String,
    /// What the pages of the site name it by; no secret.
    pub embed_key: String,
    /// Scheme, host and port of each site that may show it.
    pub allowed_origins: Vec<String>,
    /// Whether a visitor has to come with a signed identity.
    pub is_identity_required: bool,
    /// What the widget's code asks for, a JSON object, as text.
    pub settings: String,
    /// From then on no visitor comes in.
    pub disabled_at: Option<OffsetDateTime>,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

/// What a widget's visitors are checked with; only the service role reads it.
#[derive(Clone)]
pub struct WidgetSecrets {
    /// Whose it is.
    pub tenant_id: TenantId,
    /// What the tenant pays for, as a word.
    pub tier: String,
    /// Its id.
    pub id: WidgetId,
    /// Scheme, host and port of each site that may show it, or patterns of them.
    pub allowed_origins: Vec<String>,
    /// Whether a visitor has to come with a signed identity.
    pub is_identity_required: bool,
    /// Whether no visitor comes in any more.
    pub is_disabled: bool,
    /// What the site's server signs identities with.
    pub identity: Secrets,
    /// What visitors' tokens are signed with.
    pub signing: Secrets,
}

/// A secret that may be changing.
#[derive(Clone)]
pub struct Secrets {
    /// The current one, then the one before it.
    pub all: Vec<Vec<u8>>,
    /// Until when that one holds too.
    pub overlap_until: Option<OffsetDateTime>,
}

/// Which of a widget's secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// What the site's server signs identities with.
    Identity,
    /// What visitors' tokens are signed with.
    Signing,
}

/// A widget to create.
#[derive(Debug, Clone, PartialEq)]
pub struct NewWidget {
    /// For the tenant's people, 1 to 200 characters.
    pub name: String,
    /// What the pages of the site name it by, unique over all tenants.
    pub embed_key: String,
    /// At most 100.
    pub allowed_origins: Vec<String>,
    /// Whether a visitor has to come with a signed identity.
    pub is_identity_required: bool,
    /// What the site's server signs identities with.
    pub identity_secret: Vec<u8>,
    /// What the widget's code asks for.
    pub settings: Map<String, Value>,
}

/// Creates a widget.
///
/// # Errors
/// If Postgres is away.
pub async fn insert(tx: &mut TenantTx, widget: &NewWidget) -> Result<WidgetRow, StoreError> {
    let (id, settings) = (WidgetId::new().0, object_text(&widget.settings));
    let NewWidget { name, embed_key, allowed_origins, is_identity_required, identity_secret, .. } = widget;
    let row = tx
        .query_one(&INSERT, &[&id, name, embed_key, allowed_origins, is_identity_required, identity_secret, &settings])
        .await?;
    read(&INSERT, &row)
}

/// The widget of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn find(tx: &mut TenantTx, id: WidgetId) -> Result<Option<WidgetRow>, StoreError> {
    tx.query_opt(&FIND, &[&id.0]).await?.map(|row| read(&FIND, &row)).transpose()
}

/// The widget of that id, which nobody else changes until the transaction ends.
///
/// # Errors
/// If Postgres is away.
pub async fn lock(tx: &mut TenantTx, id: WidgetId) -> Result<Option<WidgetRow>, StoreError> {
    tx.query_opt(&LOCK, &[&id.0]).await?.map(|row| read(&LOCK, &row)).transpose()
}

/// A page of the tenant's widgets, newest first.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list(tx: &mut TenantTx, page: &PageRequest) -> Result<Page<WidgetRow>, StoreError> {
    page.newest(tx, [&LIST, &COUNT], Key::Widget, read, |row| (row.created_at, row.id.0)).await
}

/// Makes the widget what `row` says, but for what never changes; none if the tenant has none of that id.
///
/// # Errors
/// [`StoreError::NoIdentitySecret`] if it is to ask for identities and has no secret, as one that was not created here.
pub async fn update(
    tx: &mut TenantTx,
    row: &WidgetRow,
    settings: &Map<String, Value>,
) -> Result<Option<WidgetRow>, StoreError> {
    let WidgetRow { id, name, allowed_origins, is_identity_required, disabled_at, .. } = row;
    let settings = object_text(settings);
    let updated = tx
        .query_opt(&UPDATE, &[&id.0, name, allowed_origins, is_identity_required, &settings, disabled_at])
        .await
        .map_err(StoreError::without_identity_secret)?;
    updated.map(|row| read(&UPDATE, &row)).transpose()
}

/// Deletes a widget; false if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn delete(tx: &mut TenantTx, id: WidgetId) -> Result<bool, StoreError> {
    Ok(tx.execute(&DELETE, &[&id.0]).await? > 0)
}

/// Puts `secret` in the place of the current one, which holds for `overlap` more; false if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn rotate_secret(
    tx: &mut TenantTx,
    id: WidgetId,
    kind: SecretKind,
    secret: &[u8],
    overlap: Duration,
) -> Result<bool, StoreError> {
    let kind = match kind {
        SecretKind::Identity => "identity",
        SecretKind::Signing => "signing",
    };
    let row = tx.query_one(&ROTATE_SECRET, &[&id.0, &kind, &secret, &overlap.as_secs_f64()]).await?;
    Reader::new(&ROTATE_SECRET, &row).get("is_found")
}

/// What the visitors of a widget are checked with.
///
/// # Errors
/// If Postgres is away.
pub async fn find_secrets(
    store: &Store,
    tenant_id: TenantId,
    id: WidgetId,
) -> Result<Option<WidgetSecrets>, StoreError> {
    let mut tx = store.service_tx().await?;
    let row = tx.query_opt(&FIND_SECRETS, &[&tenant_id.0, &id.0]).await?;
    tx.commit().await?;
    row.map(|row| read_secrets(&FIND_SECRETS, &row)).transpose()
}

/// What the visitors of the widget with that embed key are checked with, whosever it is.
///
/// # Errors
/// If Postgres is away.
pub async fn find_by_embed_key(store: &Store, embed_key: &str) -> Result<Option<WidgetSecrets>, StoreError> {
    let mut tx = store.service_tx().await?;
    let row = tx.query_opt(&FIND_BY_EMBED_KEY, &[&embed_key]).await?;
    tx.commit().await?;
    row.map(|row| read_secrets(&FIND_BY_EMBED_KEY, &row)).transpose()
}

/// Whether some widget of any tenant, or that one, allows one of these patterns.
///
/// # Errors
/// If Postgres is away.
pub async fn has_origin(store: &Store, patterns: &[String], id: Option<WidgetId>) -> Result<bool, StoreError> {
    let mut tx = store.service_tx().await?;
    let row = tx.query_one(&HAS_ORIGIN, &[&patterns, &id.map(|id| id.0)]).await?;
    tx.commit().await?;
    Reader::new(&HAS_ORIGIN, &row).get("is_known")
}

fn read_secrets(statement: &Statement, row: &Row) -> Result<WidgetSecrets, StoreError> {
    let row = Reader::new(statement, row);
    Ok(WidgetSecrets {
        tenant_id: TenantId(row.get("tenant_id")?),
        tier: row.get("tier")?,
        id: WidgetId(row.get("id")?),
        allowed_origins: row.get("allowed_origins")?,
        is_identity_required: row.get("is_identity_required")?,
        is_disabled: row.get("is_disabled")?,
        identity: Secrets { all: row.get("identity_secrets")?, overlap_until: row.get("identity_overlap_until")? },
        signing: Secrets { all: row.get("signing_secrets")?, overlap_until: row.get("signing_overlap_until")? },
    })
}

fn read(statement: &Statement, row: &Row) -> Result<WidgetRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(WidgetRow {
        id: WidgetId(row.get("id")?),
        name: row.get("name")?,
        embed_key: row.get("embed_key")?,
        allowed_origins: row.get("allowed_origins")?,
        is_identity_required: row.get("is_identity_required")?,
        settings: row.get("settings")?,
        disabled_at: row.get("disabled_at")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}
