//! Lists: `limit` 1 to 100 (default 50), and either `offset` with a total, or an opaque `cursor` that stays fast at any
//! depth.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    openapi::{QueryKind, QueryParameter},
    query::number,
};
use crate::{
    error::Error,
    http::{Request, Response, respond as answer},
    knowledge::{Page, PageRequest, Start},
};

/// Items of a page if nothing is said.
const LIMIT_DEFAULT: u64 = 50;
/// Most items of a page.
const LIMIT_MAX: u64 = 100;
/// Deepest offset: past it a cursor is the way.
const OFFSET_MAX: u64 = 100_000;

/// What the query string of a list may have.
pub const QUERY: &[QueryParameter] = &[LIMIT, OFFSET, CURSOR];
/// How long a page is.
pub const LIMIT: QueryParameter = QueryParameter {
    name: "limit",
    about: "Most items of the page; 50 if nothing is said.",
    kind: QueryKind::Number { min: 1, max: LIMIT_MAX },
};
/// Where a page starts, by counting.
pub const OFFSET: QueryParameter = QueryParameter {
    name: "offset",
    about: "Items to pass over. The answer has a `total`. Not with `cursor`.",
    kind: QueryKind::Number { min: 0, max: OFFSET_MAX },
};
/// Where a page starts, after another.
pub const CURSOR: QueryParameter = QueryParameter {
    name: "cursor",
    about: "`next_cursor` of the page before, with the same other parameters: as fast at any depth, and without a `total`.",
    kind: QueryKind::Text,
};

/// A page as clients see it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PageView<T> {
    /// What was asked for, in the list's order.
    items: Vec<T>,
    /// How many there are in all; only with `offset`, since a cursor does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<u64>,
    /// The limit that was applied.
    limit: u64,
    /// The offset that was applied, if the page was found by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// Give this as `cursor` for the next page; none on the last.
    next_cursor: Option<String>,
}

/// The page that the query string asks for.
///
/// # Errors
/// `Invalid` for a limit or offset out of range, both `offset` and `cursor`, or a cursor that is not ours.
pub fn page_request(req: &Request) -> Result<PageRequest, Error> {
    let limit = number(req, "limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT_DEFAULT);
    let offset = number(req, "offset", 0, OFFSET_MAX)?;
    let start = match (req.query("cursor"), offset) {
        (Some(_), Some(_)) => return Err(Error::invalid_field("cursor", "goes without offset")),
        (Some(cursor), None) => Start::after_cursor(cursor).ok_or_else(|| {
            Error::invalid_field("cursor", "is not one that this server gave; start again without it")
        })?,
        (None, offset) => Start::Offset(offset.unwrap_or(0)),
    };
    Ok(PageRequest { limit, start })
}

/// `page` as an answer.
///
/// # Errors
/// If an item cannot be written as JSON.
pub fn respond<T: Serialize>(request: &PageRequest, page: Page<T>) -> Result<Response, Error> {
    answer::ok(&PageView {
        items: page.items,
        total: page.total,
        limit: request.limit,
        // A list that does not count has no offsets either.
        offset: match request.start {
            Start::Offset(offset) => page.total.map(|_| offset),
            Start::After(_) => None,
        },
        next_cursor: page.next_cursor,
    })
}
