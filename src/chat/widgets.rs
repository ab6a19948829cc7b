//! Widgets: created with a key to embed and a secret to sign with, listed, changed, deleted.

use std::time::Duration;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::{Chat, NewWidget, Page, PageRequest, SecretKind, WidgetRow};
use crate::{
    ctx::{Ctx, WidgetId},
    error::Error,
    metadata,
    secrets::random_digits,
    store::{
        self,
        audit_log::{self, Change},
    },
};

/// Longest name of a widget, in characters.
pub const NAME_CHARS_MAX: usize = 200;
/// Most origins of a widget.
pub const ORIGINS_MAX: usize = 100;
/// What an embed key starts with.
const EMBED_KEY_PREFIX: &str = "wk_";
const EMBED_KEY_BYTES: usize = 16;
/// What an identity secret starts with.
const SECRET_PREFIX: &str = "ws_";
const SECRET_BYTES: usize = 32;

/// A widget to create.
#[derive(Debug, Clone, PartialEq)]
pub struct WidgetDraft {
    /// 1 to 200 characters.
    pub name: String,
    /// As browsers send them, each fulfilling [`crate::origins::is_pattern`], at most 100.
    pub allowed_origins: Vec<String>,
    /// Whether a visitor has to come with a signed identity.
    pub is_identity_required: bool,
    /// What the widget's code asks for.
    pub settings: Map<String, Value>,
}

/// What to change of a widget; what is none stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WidgetPatch {
    /// 1 to 200 characters.
    pub name: Option<String>,
    /// All of them, as in [`WidgetDraft`].
    pub allowed_origins: Option<Vec<String>>,
    /// Whether a visitor has to come with a signed identity.
    pub is_identity_required: Option<bool>,
    /// Merged into its settings as RFC 7396 says.
    pub settings: Option<Map<String, Value>>,
    /// Whether no visitor comes in any more.
    pub is_disabled: Option<bool>,
}

/// A widget that was just created: the only time that its secret is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct CreatedWidget {
    /// As Postgres has it.
    pub row: WidgetRow,
    /// What the site's server signs identities with: the bytes of this text.
    pub identity_secret: String,
}

impl Chat {
    /// Creates a widget with a key and a secret of its own.
    ///
    /// # Errors
    /// If Postgres is away, or the operating system has no randomness to give.
    pub async fn create_widget(&self, ctx: &Ctx, draft: WidgetDraft) -> Result<CreatedWidget, Error> {
        let identity_secret = format!("{SECRET_PREFIX}{}", random_digits::<SECRET_BYTES>()?);
        let widget = NewWidget {
            name: draft.name,
            embed_key: format!("{EMBED_KEY_PREFIX}{}", random_digits::<EMBED_KEY_BYTES>()?),
            allowed_origins: draft.allowed_origins,
            is_identity_required: draft.is_identity_required,
            identity_secret: identity_secret.clone().into_bytes(),
            settings: draft.settings,
        };
        let mut tx = self.store.tenant_tx(ctx).await?;
        let row = store::widgets::insert(&mut tx, &widget).await?;
        audit_log::note(&mut tx, ctx, "widget.create", row.id.0, &Change::to(told(&row))).await?;
        tx.commit().await?;
        Ok(CreatedWidget { row, identity_secret })
    }

    /// A page of the tenant's widgets, newest first.
    ///
    /// # Errors
    /// `Invalid` for a cursor of another list.
    pub async fn list_widgets(&self, ctx: &Ctx, page: &PageRequest) -> Result<Page<WidgetRow>, Error> {
        let mut tx = self.store.tenant_list(ctx).await?;
        let rows = store::widgets::list(&mut tx, page).await?;
        Ok(rows)
    }

    /// One widget.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn find_widget(&self, ctx: &Ctx, id: WidgetId) -> Result<WidgetRow, Error> {
        let mut tx = self.store.tenant_read(ctx).await?;
        let row = store::widgets::find(&mut tx, id).await?.ok_or(Error::NotFound { what: "widget" })?;
        Ok(row)
    }

    /// Changes what `patch` says.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id; `Invalid` if its settings would become too large; `Conflict` if it is to
    /// ask for identities and has no secret.
    pub async fn patch_widget(&self, ctx: &Ctx, id: WidgetId, patch: WidgetPatch) -> Result<WidgetRow, Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let present = store::widgets::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "widget" })?;
        let settings = metadata::patched("settings", &present.settings, patch.settings.as_ref())?;
        let before = told(&present);
        let wanted = WidgetRow {
            name: patch.name.unwrap_or(present.name),
            allowed_origins: patch.allowed_origins.unwrap_or(present.allowed_origins),
            is_identity_required: patch.is_identity_required.unwrap_or(present.is_identity_required),
            disabled_at: match patch.is_disabled {
                None => present.disabled_at,
                Some(true) => Some(present.disabled_at.unwrap_or_else(OffsetDateTime::now_utc)),
                Some(false) => None,
            },
            ..present
        };
        let row =
            store::widgets::update(&mut tx, &wanted, &settings).await?.ok_or(Error::NotFound { what: "widget" })?;
        audit_log::note(&mut tx, ctx, "widget.update", id.0, &Change::between(before, told(&row))).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Makes a secret anew; the one before holds for `overlap` more. Gives the text of one that the site's server signs with,
    /// which is the only time that it is shown.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn rotate_widget_secret(
        &self,
        ctx: &Ctx,
        id: WidgetId,
        kind: SecretKind,
        overlap: Duration,
    ) -> Result<(WidgetRow, Option<String>), Error> {
        let text = format!("{SECRET_PREFIX}{}", random_digits::<SECRET_BYTES>()?);
        let mut tx = self.store.tenant_tx(ctx).await?;
        if !store::widgets::rotate_secret(&mut tx, id, kind, text.as_bytes(), overlap).await? {
            return Err(Error::NotFound { what: "widget" });
        }
        let row = store::widgets::find(&mut tx, id).await?.ok_or(Error::NotFound { what: "widget" })?;
        let (action, shown) = match kind {
            SecretKind::Identity => ("widget.rotate_identity", Some(text)),
            SecretKind::Signing => ("widget.rotate_signing", None),
        };
        audit_log::note(&mut tx, ctx, action, id.0, &Change::default()).await?;
        tx.commit().await?;
        Ok((row, shown))
    }

    /// Deletes a widget; its sessions stay.
    ///
    /// # Errors
    /// `NotFound` if the tenant has none of that id.
    pub async fn delete_widget(&self, ctx: &Ctx, id: WidgetId) -> Result<(), Error> {
        let mut tx = self.store.tenant_tx(ctx).await?;
        let present = store::widgets::lock(&mut tx, id).await?.ok_or(Error::NotFound { what: "widget" })?;
        store::widgets::delete(&mut tx, id).await?;
        audit_log::note(&mut tx, ctx, "widget.delete", id.0, &Change::from(told(&present))).await?;
        Ok(tx.commit().await?)
    }
}

/// What the audit log says of a widget.
fn told(row: &WidgetRow) -> Value {
    json!({
        "name": row.name,
        "allowed_origins": row.allowed_origins,
        "is_identity_required": row.is_identity_required,
        "settings": metadata::value(&row.settings),
        "is_disabled": row.disabled_at.is_some(),
    })
}
