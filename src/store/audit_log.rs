//! The table `audit_log`: who changed what. Edits and deletions of messages and sessions are written down by the statements
//! that make them, everything else by [`note`] in the transaction of the change.

use std::net::IpAddr;

use serde_json::Value;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::{
    StoreError,
    tx::{Statement, Tx},
};
use crate::ctx::{Actor, Ctx, TenantId};

const INSERT: Statement = Statement {
    name: "audit_log/insert",
    sql: include_str!("sql/audit_log/insert.sql"),
    types: &[
        Type::UUID,
        Type::UUID,
        Type::TEXT,
        Type::UUID,
        Type::TEXT,
        Type::UUID,
        Type::TEXT,
        Type::INET,
        Type::TEXT,
        Type::TEXT,
    ],
};

/// What an entry says of whoever made the change.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    /// `user`, `api_key`, `visitor`, `operator` or `server`.
    pub kind: &'static str,
    /// The person's or the key's.
    pub id: Option<Uuid>,
    /// The request that asked for it.
    pub request_id: &'a str,
    /// Where they were.
    pub address: Option<IpAddr>,
}

impl<'a> Author<'a> {
    /// Whoever asked.
    pub fn of(ctx: &'a Ctx) -> Self {
        let (kind, id) = match ctx.actor {
            Actor::ApiKey(id) => ("api_key", Some(id.0)),
            Actor::User(id, _) => ("user", Some(id.0)),
            Actor::Visitor(id) => ("visitor", Some(id.0)),
            Actor::Operator => ("operator", None),
        };
        Self { kind, id, request_id: ctx.request_id.as_str(), address: ctx.address }
    }
}

/// What was done to a thing. Neither side has secrets.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// What it was; none for one that is new.
    pub before: Option<Value>,
    /// What it became; none for one that is gone.
    pub after: Option<Value>,
}

impl Change {
    /// It is new.
    pub fn to(after: Value) -> Self {
        Self { before: None, after: Some(after) }
    }

    /// It was one thing and is another.
    pub fn between(before: Value, after: Value) -> Self {
        Self { before: Some(before), after: Some(after) }
    }

    /// It is gone.
    pub fn from(before: Value) -> Self {
        Self { before: Some(before), after: None }
    }
}

/// Writes an entry of what whoever asks did. See [`insert`].
///
/// # Errors
/// If Postgres is away.
pub async fn note(
    tx: &mut Tx,
    ctx: &Ctx,
    action: &'static str,
    resource_id: Uuid,
    change: &Change,
) -> Result<(), StoreError> {
    insert(tx, ctx.tenant_id, Author::of(ctx), action, resource_id, change).await
}

/// Writes an entry, which is there once the transaction is committed. `action` is such as `widget.create`.
///
/// # Errors
/// If Postgres is away.
pub async fn insert(
    tx: &mut Tx,
    tenant_id: TenantId,
    by: Author<'_>,
    action: &'static str,
    resource_id: Uuid,
    change: &Change,
) -> Result<(), StoreError> {
    let text = |value: &Option<Value>| value.as_ref().map(Value::to_string);
    let (id, before, after) = (Uuid::now_v7(), text(&change.before), text(&change.after));
    tx.execute(
        &INSERT,
        &[&tenant_id.0, &id, &by.kind, &by.id, &action, &resource_id, &by.request_id, &by.address, &before, &after],
    )
    .await?;
    Ok(())
}
