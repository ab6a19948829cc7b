//! The table `users`: people of a tenant. Hashes of passwords are written by tenants and read by the service role only,
//! which logs people in.

use time::OffsetDateTime;
use tokio_postgres::{Row, types::Type};

use super::{
    Store, StoreError,
    page::{Key, Page, PageRequest},
    row::Reader,
    tx::{ServiceTx, Statement, TenantTx},
};
use crate::ctx::{TenantId, UserId};

const INSERT: Statement = Statement {
    name: "users/insert",
    sql: include_str!("sql/users/insert.sql"),
    types: &[Type::UUID, Type::TEXT, Type::TEXT, Type::TEXT, Type::TEXT],
};
const FIND: Statement = Statement { name: "users/find", sql: include_str!("sql/users/find.sql"), types: &[Type::UUID] };
const LOCK: Statement = Statement { name: "users/lock", sql: include_str!("sql/users/lock.sql"), types: &[Type::UUID] };
const LOCK_OWNERS: Statement =
    Statement { name: "users/lock_owners", sql: include_str!("sql/users/lock_owners.sql"), types: &[] };
const HAS_OTHER_OWNER: Statement = Statement {
    name: "users/has_other_owner",
    sql: include_str!("sql/users/has_other_owner.sql"),
    types: &[Type::UUID],
};
const LIST: Statement = Statement {
    name: "users/list",
    sql: include_str!("sql/users/list.sql"),
    types: &[Type::TIMESTAMPTZ, Type::UUID, Type::INT8, Type::INT8],
};
const COUNT: Statement = Statement { name: "users/count", sql: include_str!("sql/users/count.sql"), types: &[] };
const UPDATE: Statement = Statement {
    name: "users/update",
    sql: include_str!("sql/users/update.sql"),
    types: &[Type::UUID, Type::TEXT, Type::TEXT],
};
const SET_PASSWORD: Statement = Statement {
    name: "users/set_password",
    sql: include_str!("sql/users/set_password.sql"),
    types: &[Type::UUID, Type::TEXT],
};
const CHANGE_PASSWORD: Statement = Statement {
    name: "users/change_password",
    sql: include_str!("sql/users/change_password.sql"),
    types: &[Type::UUID, Type::UUID, Type::TEXT, Type::TEXT],
};
const DELETE: Statement =
    Statement { name: "users/delete", sql: include_str!("sql/users/delete.sql"), types: &[Type::UUID] };
const FIND_TO_LOG_IN: Statement = Statement {
    name: "users/find_to_log_in",
    sql: include_str!("sql/users/find_to_log_in.sql"),
    types: &[Type::TEXT, Type::TEXT],
};
const FIND_PASSWORD: Statement = Statement {
    name: "users/find_password",
    sql: include_str!("sql/users/find_password.sql"),
    types: &[Type::UUID, Type::UUID],
};

/// A person, without the hash of their password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRow {
    /// Their id.
    pub id: UserId,
    /// In lower case, unique within the tenant.
    pub email: String,
    /// As others see them; may be empty.
    pub name: String,
    /// `owner`, `admin`, `agent` or `viewer`.
    pub role: String,
    /// From then on they cannot log in.
    pub disabled_at: Option<OffsetDateTime>,
    /// When they were created.
    pub created_at: OffsetDateTime,
    /// When they were last changed.
    pub updated_at: OffsetDateTime,
}

/// A person to create.
#[derive(Debug)]
pub struct NewUser<'a> {
    /// In lower case.
    pub email: &'a str,
    /// As others see them, up to 200 characters.
    pub name: &'a str,
    /// `owner`, `admin`, `agent` or `viewer`.
    pub role: &'a str,
    /// The hash of their password; none for who cannot log in yet.
    pub password_hash: Option<&'a str>,
}

/// Somebody who may be logging in.
#[derive(Debug)]
pub struct Candidate {
    /// Whose person they are.
    pub tenant_id: TenantId,
    /// The person.
    pub user: UserRow,
    /// The hash of their password; none for who cannot log in yet.
    pub password_hash: Option<String>,
}

/// Creates a person.
///
/// # Errors
/// A unique violation if the tenant has somebody of that address.
pub async fn insert(tx: &mut TenantTx, user: &NewUser<'_>) -> Result<UserRow, StoreError> {
    let NewUser { email, name, role, password_hash } = user;
    let row = tx.query_one(&INSERT, &[&UserId::new().0, email, name, role, password_hash]).await?;
    read(&INSERT, &row)
}

/// The person of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn find(tx: &mut TenantTx, id: UserId) -> Result<Option<UserRow>, StoreError> {
    tx.query_opt(&FIND, &[&id.0]).await?.map(|row| read(&FIND, &row)).transpose()
}

/// The person of that id, whom nobody else changes until the transaction ends.
///
/// # Errors
/// If Postgres is away.
pub async fn lock(tx: &mut TenantTx, id: UserId) -> Result<Option<UserRow>, StoreError> {
    tx.query_opt(&LOCK, &[&id.0]).await?.map(|row| read(&LOCK, &row)).transpose()
}

/// Keeps others from removing an owner of the tenant until the transaction ends. To be called before [`lock`], so that two
/// who remove one each do not wait for one another.
///
/// # Errors
/// If Postgres is away.
pub async fn lock_owners(tx: &mut TenantTx) -> Result<(), StoreError> {
    tx.query(&LOCK_OWNERS, &[]).await?;
    Ok(())
}

/// Whether the tenant has an owner beside the person of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn has_other_owner(tx: &mut TenantTx, id: UserId) -> Result<bool, StoreError> {
    Reader::new(&HAS_OTHER_OWNER, &tx.query_one(&HAS_OTHER_OWNER, &[&id.0]).await?).get("exists")
}

/// A page of the tenant's people, newest first.
///
/// # Errors
/// [`StoreError::ForeignCursor`] for a cursor of another list.
pub async fn list(tx: &mut TenantTx, page: &PageRequest) -> Result<Page<UserRow>, StoreError> {
    page.newest(tx, [&LIST, &COUNT], Key::User, read, |row| (row.created_at, row.id.0)).await
}

/// Gives a person another name and role; none if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn update(tx: &mut TenantTx, id: UserId, name: &str, role: &str) -> Result<Option<UserRow>, StoreError> {
    tx.query_opt(&UPDATE, &[&id.0, &name, &role]).await?.map(|row| read(&UPDATE, &row)).transpose()
}

/// Gives a person another password, whatever theirs was.
///
/// # Errors
/// If Postgres is away.
pub async fn set_password(tx: &mut TenantTx, id: UserId, password_hash: &str) -> Result<(), StoreError> {
    tx.execute(&SET_PASSWORD, &[&id.0, &password_hash]).await?;
    Ok(())
}

/// Gives a person another password, if theirs is still the one of the hash `checked`.
///
/// # Errors
/// If Postgres is away.
pub async fn change_password(
    tx: &mut ServiceTx,
    tenant_id: TenantId,
    id: UserId,
    checked: &str,
    password_hash: &str,
) -> Result<bool, StoreError> {
    Ok(tx.execute(&CHANGE_PASSWORD, &[&tenant_id.0, &id.0, &checked, &password_hash]).await? > 0)
}

/// Deletes a person with their logins; false if the tenant has none of that id.
///
/// # Errors
/// If Postgres is away.
pub async fn delete(tx: &mut TenantTx, id: UserId) -> Result<bool, StoreError> {
    Ok(tx.execute(&DELETE, &[&id.0]).await? > 0)
}

/// Whoever has that address in the tenant of that short name.
///
/// # Errors
/// If Postgres is away.
pub async fn find_to_log_in(store: &Store, tenant: &str, email: &str) -> Result<Option<Candidate>, StoreError> {
    let mut tx = store.service_tx().await?;
    let row = tx.query_opt(&FIND_TO_LOG_IN, &[&tenant, &email]).await?;
    tx.commit().await?;
    let Some(row) = row else { return Ok(None) };
    let user = read(&FIND_TO_LOG_IN, &row)?;
    let row = Reader::new(&FIND_TO_LOG_IN, &row);
    Ok(Some(Candidate { tenant_id: TenantId(row.get("tenant_id")?), user, password_hash: row.get("password_hash")? }))
}

/// The hash of a person's password; none if there is no such person, or they have none.
///
/// # Errors
/// If Postgres is away.
pub async fn find_password(store: &Store, tenant_id: TenantId, id: UserId) -> Result<Option<String>, StoreError> {
    let mut tx = store.service_tx().await?;
    let row = tx.query_opt(&FIND_PASSWORD, &[&tenant_id.0, &id.0]).await?;
    tx.commit().await?;
    Ok(row.map(|row| Reader::new(&FIND_PASSWORD, &row).get("password_hash")).transpose()?.flatten())
}

fn read(statement: &Statement, row: &Row) -> Result<UserRow, StoreError> {
    let row = Reader::new(statement, row);
    Ok(UserRow {
        id: UserId(row.get("id")?),
        email: row.get("email")?,
        name: row.get("name")?,
        role: row.get("role")?,
        disabled_at: row.get("disabled_at")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}
