//! The table `audit_log`: who changed what. Entries are written by the statements that make the changes.

use uuid::Uuid;

use crate::ctx::Ctx;

/// What an entry says of whoever made the change.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    /// `user`, `api_key`, `visitor`, `operator` or `server`.
    pub kind: &'static str,
    /// The person's or the key's.
    pub id: Uuid,
    /// The request that asked for it.
    pub request_id: &'a str,
}

impl<'a> Author<'a> {
    /// Whoever asked.
    pub fn of(ctx: &'a Ctx) -> Self {
        Self { kind: "api_key", id: ctx.api_key_id.0, request_id: ctx.request_id.as_str() }
    }
}
