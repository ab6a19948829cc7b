//! Answers: JSON written once into one buffer, and a body type that boxes only what is streamed.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use hyper::{
    HeaderMap, StatusCode,
    body::{Frame, SizeHint},
    header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH},
};
use serde::Serialize;
use tokio::io::AsyncRead;

use crate::error::Error;

/// An answer.
pub type Response = hyper::Response<Body>;

/// `Content-Type` of JSON.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What an answer's buffer starts with, in bytes: a search's answer is about twice that, most others are less.
const JSON_CAPACITY: usize = 4_096;
/// Most bytes of one frame of a streamed body.
const FRAME_BYTES_MAX: usize = 16 * 1_024;

/// An answer's body.
pub enum Body {
    /// All of it at hand; it may be empty.
    Full(Bytes),
    /// Made while it is sent.
    Streamed(Stream),
}

/// A body that is read from somewhere, a frame at a time.
pub struct Stream {
    reader: Pin<Box<dyn AsyncRead + Send>>,
    is_due_to_yield: bool,
}

impl Body {
    /// Nothing.
    pub const fn empty() -> Self {
        Self::Full(Bytes::new())
    }

    /// A body of what `reader` gives. The task gets to do other things after each frame, since a reader that compresses
    /// never has to wait and would hold up the shard.
    pub fn streamed(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::Streamed(Stream { reader: Box::pin(reader), is_due_to_yield: false })
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Streamed(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if std::mem::take(&mut self.is_due_to_yield) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut buffer = BytesMut::with_capacity(FRAME_BYTES_MAX);
        let read = std::task::ready!(tokio_util::io::poll_read_buf(self.reader.as_mut(), cx, &mut buffer))?;
        self.is_due_to_yield = true;
        Poll::Ready((read > 0).then(|| Ok(Frame::data(buffer.freeze()))))
    }
}

/// 200 with `value` as JSON.
///
/// # Errors
/// If `value` cannot be written as JSON, which is our fault.
pub fn ok(value: &impl Serialize) -> Result<Response, Error> {
    json(StatusCode::OK, value)
}

/// 201 with `value` as JSON.
///
/// # Errors
/// If `value` cannot be written as JSON, which is our fault.
pub fn created(value: &impl Serialize) -> Result<Response, Error> {
    json(StatusCode::CREATED, value)
}

/// 204.
pub fn no_content() -> Response {
    with_status(StatusCode::NO_CONTENT, Body::empty())
}

/// `status` with `value` as JSON.
///
/// # Errors
/// If `value` cannot be written as JSON, which is our fault.
pub fn json(status: StatusCode, value: &impl Serialize) -> Result<Response, Error> {
    let mut buffer = Vec::with_capacity(JSON_CAPACITY);
    serde_json::to_writer(&mut buffer, value).map_err(|error| Error::Internal(error.into()))?;
    let mut response = with_status(status, Body::Full(buffer.into()));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// 200 with a text of the given media type.
pub fn text(content_type: HeaderValue, text: impl Into<Bytes>) -> Response {
    let mut response = with_status(StatusCode::OK, Body::Full(text.into()));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// `response` under the validator `etag`, or 304 if the client has it already (RFC 9110, section 13.1.2). `etag` is a weak
/// one, `W/"…"`: the coded forms of one answer share it.
pub fn unless_known(request_headers: &HeaderMap, etag: &HeaderValue, response: Response) -> Response {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let ours = opaque(etag.to_str().unwrap_or_default());
    let lines = request_headers.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    let is_known = lines.flat_map(|line| line.split(',')).any(|tag| tag.trim() == "*" || opaque(tag) == ours);
    let mut response = if is_known { with_status(StatusCode::NOT_MODIFIED, Body::empty()) } else { response };
    response.headers_mut().insert(ETAG, etag.clone());
    response
}

fn with_status(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::body::Body as _;

    use super::*;

    #[tokio::test]
    async fn a_full_body_is_one_frame_of_known_size() {
        let response = created(&serde_json::json!({"a": 1})).unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        assert_eq!(response.body().size_hint().exact(), Some(7));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), r#"{"a":1}"#);
        assert!(no_content().body().is_end_stream());
    }

    #[tokio::test]
    async fn a_streamed_body_lets_others_run_between_its_frames() {
        let sent = Bytes::from(vec![7; 3 * FRAME_BYTES_MAX]);
        let mut body = Body::streamed(std::io::Cursor::new(sent.clone()));
        let first = body.frame().await.unwrap().unwrap();
        assert!(first.is_data());
        let mut next = Box::pin(body.frame());
        assert!(futures_util::poll!(&mut next).is_pending());
        let second = next.await.unwrap().unwrap().into_data().unwrap();
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(first.into_data().unwrap().len() + second.len() + rest.len(), sent.len());
    }

    #[test]
    fn a_client_that_has_the_answer_gets_304() {
        let etag = HeaderValue::from_static("W/\"abc\"");
        let status = |known: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_str(known).unwrap());
            let response = unless_known(&headers, &etag, text(JSON, "{}"));
            assert_eq!(response.headers()[ETAG], etag);
            response.status().as_u16()
        };
        assert_eq!(status("W/\"abc\""), 304);
        assert_eq!(status("\"x\", \"abc\""), 304);
        assert_eq!(status("*"), 304);
        assert_eq!(status("\"abcd\""), 200);
    }
}
