//! `Idempotency-Key`: a request that creates something is done once, however often it is sent, and answered each time.
//!
//! Dispatch asks here for every row that creates; handlers know nothing of it. The work goes on in a task of its own, so a
//! client that goes away and comes back with the same key finds its answer.

use std::sync::Arc;

use futures_util::FutureExt as _;
use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Answer, Route, guarded};
use crate::{
    app::App,
    ctx::Ctx,
    error::Error,
    http::{Body, Request, Response, problem},
    repeats::{self, Ask, Settled, Standing},
};

/// The header that names a request that is to be done once.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer was given before.
pub(super) const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 255;

/// A handler that knows who asks.
type Handler = for<'a> fn(&'a Ctx, &'a App, Request) -> Answer<'a>;

/// The key of a request to a row that creates something.
///
/// # Errors
/// `Invalid` if it is not 1 to 255 visible characters of ASCII, or there are several.
pub(super) fn key(creates: bool, headers: &HeaderMap) -> Result<Option<String>, Error> {
    if !creates {
        return Ok(None);
    }
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let fits = |key: &&str| (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    match line.to_str().ok().filter(fits) {
        Some(key) if lines.next().is_none() => Ok(Some(key.to_owned())),
        _ => Err(Error::invalid_field("Idempotency-Key", "must be one key of 1 to 255 visible characters of ASCII")),
    }
}

/// Does `request` unless it was done before, and answers as then. `place` is held until it is done, whether or not anybody
/// waits for it.
pub(super) async fn once(
    app: &Arc<App>,
    mut ctx: Ctx,
    route: &'static Route,
    handler: Handler,
    request: Request,
    key: String,
    place: OwnedSemaphorePermit,
) -> Result<Response, Error> {
    let (request, body) = request.read().await?;
    let name = format!("{} {}", route.method, route.pattern);
    let ask = Ask { key: &key, route: &name, target: request.path_and_query(), body: &body };
    match app.repeats.claim(&ctx, &ask).await? {
        Standing::Done(answer) => return Ok(repeated(answer)),
        Standing::New(claim) => ctx.claim = Some(claim),
    }
    let (tell, told) = oneshot::channel();
    let app = app.clone();
    let tasks = app.tasks.clone();
    tasks.spawn(async move {
        let outcome = guarded(ctx.deadline, handler(&ctx, &app, request).boxed()).await;
        let (outcome, settled) = settled(&ctx, route, outcome);
        app.repeats.settle(&ctx, &settled).await;
        drop(place);
        // Nobody may be there any more to hear it.
        let _ = tell.send(outcome);
    });
    told.await.unwrap_or_else(|_| Err(Error::Internal(anyhow::anyhow!("a task ended without an answer"))))
}

/// What is told now, and what is kept of it. An error that is the client's doing is an answer as any other.
fn settled(ctx: &Ctx, route: &Route, outcome: Result<Response, Error>) -> (Result<Response, Error>, Settled) {
    let response = match outcome {
        Ok(response) => response,
        Err(error) if is_worth_another_try(error.meaning().status) => return (Err(error), Settled::Failed),
        Err(error) => problem::respond(&error, &ctx.request_id),
    };
    let status = response.status();
    let settled = match response.body() {
        _ if is_worth_another_try(status.as_u16()) => Settled::Failed,
        _ if status.is_success() && (route.docs)().shows_secret => Settled::Unkept,
        Body::Streamed(_) => Settled::Unkept,
        Body::Full(body) => {
            let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let content_type = content_type.unwrap_or_default().to_owned();
            Settled::Answered(repeats::Answer { status: status.as_u16(), content_type, body: body.clone() })
        }
    };
    (Ok(response), settled)
}

fn is_worth_another_try(status: u16) -> bool {
    status >= 500 || status == 429
}

/// An answer as it was given before.
fn repeated(answer: repeats::Answer) -> Response {
    let mut response = Response::new(Body::Full(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(&answer.content_type)
        && !content_type.is_empty()
    {
        headers.insert(CONTENT_TYPE, content_type);
    }
    headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word_of_bounded_length() {
        let read = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(line).unwrap());
            }
            key(true, &headers)
        };
        assert_eq!(read(&[]).unwrap(), None);
        let longest = "k".repeat(KEY_BYTES_MAX);
        for good in ["k", "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"", "!~", &longest] {
            assert_eq!(read(&[good.as_bytes()]).unwrap().as_deref(), Some(good));
        }
        let too_long = "k".repeat(KEY_BYTES_MAX + 1);
        for bad in
            [&[b"".as_slice()][..], &[b"a b"], &["é".as_bytes()], &[b"a\tb"], &[too_long.as_bytes()], &[b"a", b"a"]]
        {
            assert!(matches!(read(bad), Err(Error::Invalid { .. })), "{bad:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("a b"));
        assert_eq!(key(false, &headers).unwrap(), None);
    }
}
