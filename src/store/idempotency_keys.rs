//! The table `idempotency_keys`: requests that are done once, and what was answered.
//!
//! A row is claimed with a lease before the request is done, and marked in the transaction that does it ([`commit`]), which
//! fails if the claim is somebody else's by then. So what was committed is known to have been, also where the server went
//! away before it could write down its answer.

use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio_postgres::types::Type;

use super::{
    StoreError,
    row::Reader,
    tx::{ServiceTx, Statement, TenantTx, Tx},
};
use crate::ctx::Claim;

const CLAIM: Statement = Statement {
    name: "idempotency_keys/claim",
    sql: include_str!("sql/idempotency_keys/claim.sql"),
    types: &[Type::TEXT, Type::TEXT, Type::TEXT, Type::BYTEA, Type::FLOAT8, Type::FLOAT8],
};
const FIND: Statement = Statement {
    name: "idempotency_keys/find",
    sql: include_str!("sql/idempotency_keys/find.sql"),
    types: &[Type::TEXT, Type::TEXT],
};
const COMMIT: Statement = Statement {
    name: "idempotency_keys/commit",
    sql: include_str!("sql/idempotency_keys/commit.sql"),
    types: &[Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ],
};
const ANSWER: Statement = Statement {
    name: "idempotency_keys/answer",
    sql: include_str!("sql/idempotency_keys/answer.sql"),
    types: &[Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ, Type::INT2, Type::TEXT, Type::BYTEA],
};
const CLOSE: Statement = Statement {
    name: "idempotency_keys/close",
    sql: include_str!("sql/idempotency_keys/close.sql"),
    types: &[Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ],
};
const RELEASE: Statement = Statement {
    name: "idempotency_keys/release",
    sql: include_str!("sql/idempotency_keys/release.sql"),
    types: &[Type::TEXT, Type::TEXT, Type::TIMESTAMPTZ],
};
const PRUNE: Statement = Statement {
    name: "idempotency_keys/prune",
    sql: include_str!("sql/idempotency_keys/prune.sql"),
    types: &[Type::INT8],
};

/// Largest body of an answer that is kept, in bytes.
pub const BODY_BYTES_MAX: usize = 1_048_576;
/// Keys that one [`prune`] deletes at most.
const PRUNED_MAX: i64 = 1_000;

/// A request that is to be done once.
#[derive(Debug)]
pub struct NewClaim<'a> {
    /// Who shares its keys: empty for the tenant's keys and people, a visitor's session.
    pub caller: &'a str,
    /// Method and pattern of the route.
    pub route: &'a str,
    /// The hash of the client's key, in hexadecimal digits.
    pub key: &'a str,
    /// Of all that makes it this request.
    pub request_sha256: &'a [u8; 32],
    /// How long it may be under way.
    pub lease: Duration,
    /// How long the key is kept.
    pub kept: Duration,
}

/// An answer, to be repeated byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body; empty without one.
    pub content_type: String,
    /// The body, uncompressed.
    pub body: Bytes,
}

/// A request that somebody claimed before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which request it is.
    pub request_sha256: [u8; 32],
    /// What was answered; none if it is not kept, lost, or yet to come.
    pub answer: Option<Answer>,
    /// Whether it may be under way.
    pub is_leased: bool,
}

/// Claims a key; gives since when it is ours, by its lease. None if it is somebody's.
///
/// # Errors
/// If Postgres is away.
pub async fn claim(tx: &mut TenantTx, claim: &NewClaim<'_>) -> Result<Option<OffsetDateTime>, StoreError> {
    let NewClaim { caller, route, key, .. } = claim;
    let (request, lease, kept): (&[u8], _, _) =
        (claim.request_sha256, claim.lease.as_secs_f64(), claim.kept.as_secs_f64());
    let row = tx.query_opt(&CLAIM, &[caller, route, key, &request, &lease, &kept]).await?;
    row.map(|row| Reader::new(&CLAIM, &row).get("leased_until")).transpose()
}

/// What stands under a key.
///
/// # Errors
/// If Postgres is away.
pub async fn find(tx: &mut TenantTx, caller: &str, key: &str) -> Result<Option<Held>, StoreError> {
    let Some(row) = tx.query_opt(&FIND, &[&caller, &key]).await? else { return Ok(None) };
    let row = Reader::new(&FIND, &row);
    let answer = match row.get::<Option<i16>>("response_status")? {
        Some(status) => Some(Answer {
            status: status.unsigned_abs(),
            content_type: row.get::<Option<_>>("content_type")?.unwrap_or_default(),
            body: row.get::<Vec<u8>>("response_body")?.into(),
        }),
        None => None,
    };
    Ok(Some(Held { request_sha256: row.sha256("request_sha256")?, answer, is_leased: row.get("is_leased")? }))
}

/// Marks, in the transaction that does it, that what was claimed is done.
///
/// # Errors
/// [`StoreError::Superseded`] if the claim is somebody else's: then the transaction must not be committed.
pub(super) async fn commit(tx: &mut Tx, claim: &Claim) -> Result<(), StoreError> {
    let row = tx.query_one(&COMMIT, &[&claim.caller, &claim.key, &claim.leased_until]).await?;
    if Reader::new(&COMMIT, &row).get("may_commit")? { Ok(()) } else { Err(StoreError::Superseded) }
}

/// Writes down what was answered.
///
/// # Errors
/// If Postgres is away.
pub async fn answer(tx: &mut TenantTx, claim: &Claim, answer: &Answer) -> Result<(), StoreError> {
    let (status, body): (_, &[u8]) = (answer.status as i16, &answer.body);
    let Claim { caller, key, leased_until } = claim;
    tx.execute(&ANSWER, &[caller, key, leased_until, &status, &answer.content_type, &body]).await?;
    Ok(())
}

/// Ends a claim of which the answer is not kept: what was claimed is done.
///
/// # Errors
/// If Postgres is away.
pub async fn close(tx: &mut TenantTx, claim: &Claim) -> Result<(), StoreError> {
    tx.execute(&CLOSE, &[&claim.caller, &claim.key, &claim.leased_until]).await?;
    Ok(())
}

/// Gives a key back, unless something was committed under it; says whether it was given back.
///
/// # Errors
/// If Postgres is away.
pub async fn release(tx: &mut TenantTx, claim: &Claim) -> Result<bool, StoreError> {
    Ok(tx.execute(&RELEASE, &[&claim.caller, &claim.key, &claim.leased_until]).await? > 0)
}

/// Deletes some keys that are kept no longer, of all tenants; true if there may be more.
///
/// # Errors
/// If Postgres is away.
pub async fn prune(tx: &mut ServiceTx) -> Result<bool, StoreError> {
    let pruned = tx.execute(&PRUNE, &[&PRUNED_MAX]).await?;
    Ok(i64::try_from(pruned).is_ok_and(|pruned| pruned == PRUNED_MAX))
}
