//! `/v1/api-keys`: create, list, read, rotate, revoke.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{fields, lists};
use crate::{
    accounts::{
        ApiKeyRow,
        keys::{CreatedKey, KeyDraft, NAME_CHARS_MAX, OVERLAP_MAX},
    },
    app::App,
    ctx::{ApiKeyId, Ctx, Scope, Scopes},
    error::Error,
    http::{Request, Response, respond},
};

/// How long a key holds on beside the one that replaces it, if nothing is said.
const OVERLAP_DEFAULT: Duration = Duration::from_secs(86_400);

/// A key to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyDraft {
    /// What it is for, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// What it may do, such as `sessions:read`; at least one, and none that you lack.
    #[schema(min_items = 1)]
    scopes: Vec<String>,
    /// When it ceases to hold; never, if nothing is said.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// How to replace a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationDraft {
    /// How long the old one holds on, 0 to 2,592,000 seconds (30 days); 86,400 (a day), if nothing is said.
    #[schema(minimum = 0, maximum = 2_592_000)]
    overlap_seconds: Option<u64>,
    /// When the new one ceases to hold. If nothing is said, it lasts as long as the old one did when it was new.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

/// A key.
#[derive(Serialize, ToSchema)]
pub struct ApiKeyView {
    id: Uuid,
    /// The part of its text that is no secret.
    public_id: String,
    /// What to send as `Authorization: Bearer …`. Shown once, when the key is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// What it is for; may be empty.
    name: String,
    scopes: Vec<String>,
    /// When it ceases to hold; null for never.
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    revoked_at: Option<OffsetDateTime>,
    /// To within half an hour; null if it never was.
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_at: Option<OffsetDateTime>,
    /// The key that it replaces.
    replaces_id: Option<Uuid>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<ApiKeyRow> for ApiKeyView {
    fn from(row: ApiKeyRow) -> Self {
        Self {
            id: row.id.0,
            public_id: row.public_id,
            key: None,
            name: row.name,
            scopes: row.scopes,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
            replaces_id: row.replaces_id.map(|id| id.0),
            created_at: row.created_at,
        }
    }
}

impl From<CreatedKey> for ApiKeyView {
    fn from(created: CreatedKey) -> Self {
        Self { key: Some(created.text), ..created.row.into() }
    }
}

/// `POST /v1/api-keys`
pub async fn create_api_key(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let draft: ApiKeyDraft = req.json(&app.compute).await?;
    fields::chars("name", draft.name.as_deref(), NAME_CHARS_MAX)?;
    let draft = KeyDraft {
        name: draft.name.unwrap_or_default(),
        scopes: scopes(&draft.scopes)?,
        expires_at: expiry(draft.expires_at.as_deref())?,
    };
    let created = app.accounts.create_key(ctx, &draft).await?;
    respond::created(&ApiKeyView::from(created))
}

/// `GET /v1/api-keys`
pub async fn list_api_keys(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let keys = app.accounts.list_keys(ctx, &page).await?;
    lists::respond(&page, keys.map(ApiKeyView::from))
}

/// `GET /v1/api-keys/{api_key_id}`
pub async fn get_api_key(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let key = app.accounts.find_key(ctx, api_key_id(&req)?).await?;
    respond::ok(&ApiKeyView::from(key))
}

/// `DELETE /v1/api-keys/{api_key_id}`
pub async fn revoke_api_key(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    app.accounts.revoke_key(ctx, api_key_id(&req)?).await?;
    Ok(respond::no_content())
}

/// `POST /v1/api-keys/{api_key_id}/rotate`
pub async fn rotate_api_key(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = api_key_id(&req)?;
    let draft: RotationDraft = req.json(&app.compute).await?;
    let overlap = draft.overlap_seconds.map_or(OVERLAP_DEFAULT, Duration::from_secs);
    if overlap > OVERLAP_MAX {
        let told = format!("must be a whole number from 0 to {}", OVERLAP_MAX.as_secs());
        return Err(Error::invalid_field("overlap_seconds", told));
    }
    let expires_at = expiry(draft.expires_at.as_deref())?;
    let created = app.accounts.rotate_key(ctx, id, overlap, expires_at).await?;
    respond::created(&ApiKeyView::from(created))
}

fn scopes(words: &[String]) -> Result<Scopes, Error> {
    let known = || format!("must be some of {}", Scope::ALL.map(Scope::as_str).join(", "));
    if words.is_empty() {
        return Err(Error::invalid_field("scopes", known()));
    }
    let scope = |(at, word): (usize, &String)| {
        Scope::parse(word).ok_or_else(|| Error::invalid_field(format!("scopes[{at}]"), known()))
    };
    words.iter().enumerate().map(scope).collect()
}

fn expiry(text: Option<&str>) -> Result<Option<OffsetDateTime>, Error> {
    match fields::time("expires_at", text)? {
        Some(at) if at <= OffsetDateTime::now_utc() => Err(Error::invalid_field("expires_at", "must be in the future")),
        at => Ok(at),
    }
}

fn api_key_id(req: &Request) -> Result<ApiKeyId, Error> {
    req.path_uuid("api_key_id").map(ApiKeyId).ok_or(Error::NotFound { what: "API key" })
}

pub(super) mod docs_of {
    use super::{
        super::{
            lists,
            openapi::{Docs, Gives},
        },
        ApiKeyDraft, ApiKeyView, RotationDraft,
    };
    use crate::error::Error;

    pub(in crate::api) fn create_api_key() -> Docs {
        Docs::new("Create an API key", Gives::json::<ApiKeyView>(201, "The key, with its text."))
            .takes_json::<ApiKeyDraft>()
            .shows_secret()
    }

    pub(in crate::api) fn list_api_keys() -> Docs {
        let gives = Gives::page::<ApiKeyView>("A page, newest first; those too that hold no more.");
        Docs::new("List API keys", gives).query(lists::QUERY)
    }

    pub(in crate::api) fn get_api_key() -> Docs {
        Docs::new("Read an API key", Gives::json::<ApiKeyView>(200, "The key, without its text."))
    }

    pub(in crate::api) fn revoke_api_key() -> Docs {
        Docs::new("Revoke an API key", Gives::nothing(204, "It holds no more, anywhere; it stays in the list."))
    }

    pub(in crate::api) fn rotate_api_key() -> Docs {
        Docs::new("Replace an API key", Gives::json::<ApiKeyView>(201, "The new key, with its text."))
            .about(
                "It has the same name and may do the same. The old one holds on for a time, in which to put the new one in \
                 its place. A key is replaced once; then the new one is.",
            )
            .takes_json::<RotationDraft>()
            .shows_secret()
            .fails(Error::Conflict { detail: String::new() })
    }
}
