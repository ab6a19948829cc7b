//! `/v1/widgets`: create, list, read, change, delete.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{fields, lists};
use crate::{
    app::App,
    chat::{
        SecretKind, WidgetRow,
        widgets::{self, CreatedWidget, NAME_CHARS_MAX, ORIGINS_MAX, WidgetPatch},
    },
    ctx::{Ctx, WidgetId},
    error::Error,
    http::{Request, Response, json::raw as raw_json, respond},
    metadata,
    origins::is_pattern,
};

/// How long a secret that is replaced holds on if nothing is said, in seconds.
const OVERLAP_SECONDS_DEFAULT: u64 = 86_400;
/// Longest that it may, in seconds.
const OVERLAP_SECONDS_MAX: u64 = 30 * 86_400;

/// A widget to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WidgetDraft {
    /// For your own people, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    name: String,
    /// The sites that may show it, as browsers send their origin: scheme, host, and the port only where it is not the
    /// scheme's own; or all hosts below a domain, as `*.example.com` after the scheme, which is https then; at most 100.
    /// None allows none.
    #[serde(default)]
    #[schema(max_items = 100)]
    allowed_origins: Vec<String>,
    /// Whether a visitor has to come with an identity that the site's own server has signed.
    #[serde(default)]
    is_identity_required: bool,
    /// Whatever the widget's code needs to know.
    #[serde(default)]
    #[schema(value_type = Object)]
    settings: Map<String, Value>,
}

/// What to change of a widget; at least one field.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WidgetPatchDraft {
    /// For your own people, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// All sites that may show it, in place of those before.
    #[schema(max_items = 100)]
    allowed_origins: Option<Vec<String>>,
    /// Whether a visitor has to come with a signed identity.
    is_identity_required: Option<bool>,
    /// Merged into the widget's settings as RFC 7396 says.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
    /// Whether no visitor comes in any more.
    is_disabled: Option<bool>,
}

/// Which secret to make anew.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRotationDraft {
    /// `identity`, which the site's server signs with, or `signing`, which visitors' tokens are signed with.
    secret: String,
    /// How long the one before holds too, from 0 to 2,592,000; a day if nothing is said.
    #[schema(maximum = 2_592_000)]
    overlap_seconds: Option<u64>,
}

/// A widget.
#[derive(Debug, Serialize, ToSchema)]
pub struct WidgetView {
    id: Uuid,
    name: String,
    /// What the pages of the site name it by; no secret.
    embed_key: String,
    allowed_origins: Vec<String>,
    is_identity_required: bool,
    /// What the site's server signs identities with: the bytes of this text. Shown once, when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity_secret: Option<String>,
    #[serde(serialize_with = "raw_json")]
    #[schema(value_type = Object)]
    settings: String,
    /// From then on no visitor comes in; null while they do.
    #[serde(with = "time::serde::rfc3339::option")]
    disabled_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated_at: OffsetDateTime,
}

impl From<WidgetRow> for WidgetView {
    fn from(row: WidgetRow) -> Self {
        Self {
            id: row.id.0,
            name: row.name,
            embed_key: row.embed_key,
            allowed_origins: row.allowed_origins,
            is_identity_required: row.is_identity_required,
            identity_secret: None,
            settings: row.settings,
            disabled_at: row.disabled_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl From<CreatedWidget> for WidgetView {
    fn from(widget: CreatedWidget) -> Self {
        Self { identity_secret: Some(widget.identity_secret), ..widget.row.into() }
    }
}

/// `POST /v1/widgets`
pub async fn create_widget(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let draft: WidgetDraft = req.json(&app.compute).await?;
    fields::chars("name", Some(&draft.name), NAME_CHARS_MAX)?;
    check_origins(&draft.allowed_origins)?;
    metadata::check("settings", &draft.settings)?;
    let draft = widgets::WidgetDraft {
        name: draft.name,
        allowed_origins: draft.allowed_origins,
        is_identity_required: draft.is_identity_required,
        settings: draft.settings,
    };
    let widget = app.chat.create_widget(ctx, draft).await?;
    respond::created(&WidgetView::from(widget))
}

/// `GET /v1/widgets`
pub async fn list_widgets(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let page = lists::page_request(&req)?;
    let widgets = app.chat.list_widgets(ctx, &page).await?;
    lists::respond(&page, widgets.map(WidgetView::from))
}

/// `GET /v1/widgets/{widget_id}`
pub async fn get_widget(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let widget = app.chat.find_widget(ctx, widget_id(&req)?).await?;
    respond::ok(&WidgetView::from(widget))
}

/// `PATCH /v1/widgets/{widget_id}`
pub async fn update_widget(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = widget_id(&req)?;
    let draft: WidgetPatchDraft = req.json(&app.compute).await?;
    fields::chars("name", draft.name.as_deref(), NAME_CHARS_MAX)?;
    check_origins(draft.allowed_origins.as_deref().unwrap_or_default())?;
    if let Some(settings) = &draft.settings {
        metadata::check("settings", settings)?;
    }
    let patch = WidgetPatch {
        name: draft.name,
        allowed_origins: draft.allowed_origins,
        is_identity_required: draft.is_identity_required,
        settings: draft.settings,
        is_disabled: draft.is_disabled,
    };
    if patch == WidgetPatch::default() {
        return Err(fields::empty_patch());
    }
    let widget = app.chat.patch_widget(ctx, id, patch).await?;
    app.accounts.forget_widget(ctx.tenant_id, id).await;
    respond::ok(&WidgetView::from(widget))
}

/// `POST /v1/widgets/{widget_id}/rotate-secret`
pub async fn rotate_secret(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = widget_id(&req)?;
    let draft: SecretRotationDraft = req.json(&app.compute).await?;
    let kind = match draft.secret.as_str() {
        "identity" => SecretKind::Identity,
        "signing" => SecretKind::Signing,
        _ => return Err(Error::invalid_field("secret", "must be identity or signing")),
    };
    let overlap = draft.overlap_seconds.unwrap_or(OVERLAP_SECONDS_DEFAULT);
    if overlap > OVERLAP_SECONDS_MAX {
        let told = format!("must be a whole number from 0 to {OVERLAP_SECONDS_MAX}");
        return Err(Error::invalid_field("overlap_seconds", told));
    }
    let (row, identity_secret) = app.chat.rotate_widget_secret(ctx, id, kind, Duration::from_secs(overlap)).await?;
    app.accounts.forget_widget(ctx.tenant_id, id).await;
    respond::created(&WidgetView { identity_secret, ..row.into() })
}

/// `DELETE /v1/widgets/{widget_id}`
pub async fn delete_widget(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let id = widget_id(&req)?;
    app.chat.delete_widget(ctx, id).await?;
    app.accounts.forget_widget(ctx.tenant_id, id).await;
    Ok(respond::no_content())
}

fn check_origins(origins: &[String]) -> Result<(), Error> {
    if origins.len() > ORIGINS_MAX {
        return Err(Error::invalid_field("allowed_origins", format!("may have at most {ORIGINS_MAX} items")));
    }
    match origins.iter().position(|origin| !is_pattern(origin)) {
        None => Ok(()),
        Some(at) => Err(Error::invalid_field(
            format!("allowed_origins[{at}]"),
            "must be an origin as browsers send it, such as https://example.com: no path, and the port only where it is \
             not the scheme's own; or all hosts below a domain, such as https://*.example.com",
        )),
    }
}

pub(super) fn widget_id(req: &Request) -> Result<WidgetId, Error> {
    req.path_uuid("widget_id").map(WidgetId).ok_or(Error::NotFound { what: "widget" })
}

pub(super) mod docs_of {
    use super::{
        super::{
            lists,
            openapi::{Docs, Gives},
        },
        SecretRotationDraft, WidgetDraft, WidgetPatchDraft, WidgetView,
    };
    use crate::error::Error;

    pub(in crate::api) fn create_widget() -> Docs {
        Docs::new("Create a widget", Gives::json::<WidgetView>(201, "The widget, with its secret."))
            .takes_json::<WidgetDraft>()
            .shows_secret()
    }

    pub(in crate::api) fn list_widgets() -> Docs {
        Docs::new("List widgets", Gives::page::<WidgetView>("A page, newest first.")).query(lists::QUERY)
    }

    pub(in crate::api) fn get_widget() -> Docs {
        Docs::new("Read a widget", Gives::json::<WidgetView>(200, "The widget, without its secret."))
    }

    pub(in crate::api) fn update_widget() -> Docs {
        Docs::new("Change a widget", Gives::json::<WidgetView>(200, "The widget as it is now."))
            .takes_json::<WidgetPatchDraft>()
            .fails(Error::Conflict { detail: String::new() })
    }

    pub(in crate::api) fn rotate_secret() -> Docs {
        let gives =
            Gives::json::<WidgetView>(201, "The widget; with the new secret if the site's server signs with it.");
        Docs::new("Replace a secret of a widget", gives)
            .about("The one before holds on for a time, in which to put the new one in its place; any older ones end.")
            .takes_json::<SecretRotationDraft>()
            .shows_secret()
    }

    pub(in crate::api) fn delete_widget() -> Docs {
        Docs::new("Delete a widget", Gives::nothing(204, "It is gone; its sessions stay."))
    }
}
