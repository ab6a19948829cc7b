//! `/v1/widgets/{widget_id}/visitors` and `/v1/sessions/{session_id}/refresh`: tokens of visitors.

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, ORIGIN},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    fields,
    sessions::{SessionView, session_id},
    widgets::widget_id,
};
use crate::{
    accounts::{
        users::EMAIL_BYTES_MAX,
        visitors::{self, Visitor},
    },
    app::App,
    chat::sessions::{VISITOR_ID_BYTES_MAX, VISITOR_NAME_CHARS_MAX},
    ctx::{Arrival, Ctx},
    error::Error,
    http::{Request, Response, respond},
};

/// Longest embed key, signature or time, in bytes.
const WORD_BYTES_MAX: usize = 64;

/// A visitor who comes in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VisitorDraft {
    /// The widget's.
    #[schema(min_length = 1, max_length = 64)]
    embed_key: String,
    /// What the page calls the visitor, 1 to 255 bytes; nobody has signed it. Not with `identity`.
    #[schema(min_length = 1, max_length = 255)]
    visitor_id: Option<String>,
    /// As others see the visitor, 1 to 200 characters. Not with `identity`.
    #[schema(min_length = 1, max_length = 200)]
    visitor_name: Option<String>,
    /// What the site's own server has signed.
    identity: Option<IdentityDraft>,
}

/// Who the visitor is, by the word of the site's own server.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentityDraft {
    /// The site's own name of the visitor, 1 to 255 bytes.
    #[schema(min_length = 1, max_length = 255)]
    id: String,
    /// As others see the visitor, 1 to 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// The visitor's address.
    #[schema(min_length = 1, max_length = 254)]
    email: Option<String>,
    /// When this ceases to hold, as RFC 3339 writes it.
    #[schema(min_length = 1, max_length = 64)]
    expires_at: String,
    /// HMAC-SHA-256 under the widget's identity secret, in hexadecimal digits, of six lines without a break at the end:
    /// `tertulia identity 1`, the widget's id, then `id`, `name`, `email` and `expires_at` as they are sent, empty where
    /// they are not.
    #[schema(min_length = 64, max_length = 64)]
    signature: String,
}

/// A visitor's token.
#[derive(Serialize, ToSchema)]
pub struct VisitorView {
    /// What to send as `Authorization: Bearer …`; it opens this session and nothing else.
    token: String,
    /// When it ceases to hold.
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
    session: SessionView,
}

impl From<Visitor> for VisitorView {
    fn from(visitor: Visitor) -> Self {
        Self { token: visitor.token, expires_at: visitor.expires_at, session: visitor.session.into() }
    }
}

/// `POST /v1/widgets/{widget_id}/visitors`
pub async fn create_visitor(arrival: &Arrival, app: &App, req: Request) -> Result<Response, Error> {
    let widget_id = widget_id(&req)?;
    let origin = origin(req.headers()).map(str::to_owned);
    let draft: VisitorDraft = req.json(&app.compute).await?;
    fields::bytes("embed_key", Some(&draft.embed_key), WORD_BYTES_MAX)?;
    fields::bytes("visitor_id", draft.visitor_id.as_deref(), VISITOR_ID_BYTES_MAX)?;
    fields::chars("visitor_name", draft.visitor_name.as_deref(), VISITOR_NAME_CHARS_MAX)?;
    if draft.identity.is_some() && (draft.visitor_id.is_some() || draft.visitor_name.is_some()) {
        return Err(Error::invalid_field("identity", "goes without visitor_id and visitor_name"));
    }
    let draft = visitors::VisitorDraft {
        embed_key: draft.embed_key,
        visitor_id: draft.visitor_id,
        visitor_name: draft.visitor_name,
        identity: draft.identity.map(identity).transpose()?,
    };
    let visitor = app.accounts.admit_visitor(arrival, widget_id, origin.as_deref(), draft).await?;
    respond::created(&VisitorView::from(visitor))
}

/// `POST /v1/sessions/{session_id}/refresh`
pub async fn refresh_visitor(ctx: &Ctx, app: &App, req: Request) -> Result<Response, Error> {
    let session_id = session_id(&req)?;
    let authorization = req.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let mut visitor = app.accounts.refresh_visitor(ctx, session_id, authorization).await?;
    visitor.session = super::sessions::as_seen_by(ctx, visitor.session);
    respond::ok(&VisitorView::from(visitor))
}

/// The origin of the page that asks; none if several are said.
pub(super) fn origin(headers: &HeaderMap) -> Option<&str> {
    let mut lines = headers.get_all(ORIGIN).iter();
    let origin = lines.next()?.to_str().ok()?;
    lines.next().is_none().then_some(origin)
}

fn identity(draft: IdentityDraft) -> Result<visitors::Identity, Error> {
    fields::bytes("identity.id", Some(&draft.id), VISITOR_ID_BYTES_MAX)?;
    fields::chars("identity.name", draft.name.as_deref(), VISITOR_NAME_CHARS_MAX)?;
    fields::bytes("identity.email", draft.email.as_deref(), EMAIL_BYTES_MAX)?;
    fields::bytes("identity.expires_at", Some(&draft.expires_at), WORD_BYTES_MAX)?;
    fields::bytes("identity.signature", Some(&draft.signature), WORD_BYTES_MAX)?;
    let IdentityDraft { id, name, email, expires_at, signature } = draft;
    Ok(visitors::Identity { id, name, email, expires_at, signature })
}

pub(super) mod docs_of {
    use super::{
        super::openapi::{Docs, Gives},
        VisitorDraft, VisitorView,
    };
    use crate::error::Error;

    pub(in crate::api) fn create_visitor() -> Docs {
        let gives = Gives::json::<VisitorView>(201, "The visitor's session, with a token for it.");
        Docs::new("Let a visitor in", gives)
            .about(
                "Asked by a page that shows the widget: its `Origin` has to be one of the widget's. The token opens this \
                 session, and nothing else, to this page.",
            )
            .takes_json::<VisitorDraft>()
            .fails(Error::Forbidden { detail: String::new() })
    }

    pub(in crate::api) fn refresh_visitor() -> Docs {
        let gives = Gives::json::<VisitorView>(200, "The session, with a token that holds for longer.");
        Docs::new("Exchange a visitor's token", gives)
            .about("For the visitor of the session, while their token holds and the session goes on.")
            .fails(Error::Conflict { detail: String::new() })
    }
}
