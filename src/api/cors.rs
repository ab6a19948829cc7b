//! What browsers are told about the routes that a widget's pages ask (the CORS protocol of the Fetch standard).
//!
//! A page's origin is given back only if some widget is shown there, or the widget of the path where it has one. That lets
//! its scripts ask and read answers; what it gets is decided by the token. No cookie counts here, so nothing is lent to it.

use hyper::{
    HeaderMap, Method,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, ORIGIN,
        VARY,
    },
    http::request::Parts,
};
use uuid::Uuid;

use super::Path;
use crate::{app::App, ctx::WidgetId};

const ALLOWED_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, idempotency-key, x-request-id");
const EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("idempotency-replayed, ratelimit, ratelimit-policy, retry-after, x-request-id");
/// How long a browser need not ask again, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// A page that asks a route of widgets.
pub(super) struct Page {
    origin: Option<HeaderValue>,
    widget_id: Option<WidgetId>,
    /// Whether it only asks whether it may ask.
    is_preflight: bool,
}

/// The page that sends a request; none if pages do not ask that path.
pub(super) fn page(path: &Path, head: &Parts) -> Option<Page> {
    if !path.serves_visitors {
        return None;
    }
    let segments = path.pattern.split('/').zip(head.uri.path().split('/'));
    let widget_id = segments.into_iter().find(|(part, _)| *part == "{widget_id}");
    Some(Page {
        origin: head.headers.get(ORIGIN).cloned(),
        widget_id: widget_id.and_then(|(_, segment)| Uuid::try_parse(segment).ok()).map(WidgetId),
        is_preflight: head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD),
    })
}

/// Writes what the page's browser has to know.
pub(super) async fn tell(app: &App, path: &Path, page: Page, headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("origin"));
    let Some(origin) = page.origin else { return };
    let Ok(text) = origin.to_str() else { return };
    if !app.accounts.knows_origin(text, page.widget_id).await {
        return;
    }
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if page.is_preflight {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, path.allow.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    } else {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
    }
}
