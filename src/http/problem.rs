//! Errors as `application/problem+json` (RFC 9457).

use hyper::{
    StatusCode,
    header::{ACCEPT_ENCODING, ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    negotiate::CODINGS,
    respond::{self, Response},
};
use crate::{
    ctx::RequestId,
    error::{Error, InvalidField},
};

/// `Content-Type` of an error.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
/// What to send instead of nothing (RFC 6750, section 3).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"tertulia\"");

/// An error.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem<'a> {
    /// Address of the description of this kind of error, on this server.
    r#type: String,
    /// The kind of error, for people.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The kind of error, for programs: it never changes.
    code: &'static str,
    /// What is wrong with this request.
    detail: String,
    /// Names this request in the server's log.
    request_id: &'a str,
    /// Parts of the input that do not fit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<ProblemField<'a>>,
}

/// A part of the input that does not fit.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProblemField<'a> {
    /// JSON path, or name of a parameter or header.
    field: &'a str,
    /// What is wrong with it and what would fit.
    message: &'a str,
}

/// Where the kind of error with this `code` is described.
pub fn type_of(code: &str) -> String {
    format!("/docs#error-{code}")
}

/// `error` as an answer.
pub fn respond(error: &Error, request_id: &RequestId) -> Response {
    let meaning = error.meaning();
    let fields: &[InvalidField] = match error {
        Error::Invalid { fields, .. } => fields,
        _ => &[],
    };
    let problem = Problem {
        r#type: type_of(meaning.code),
        title: meaning.title,
        status: meaning.status,
        code: meaning.code,
        detail: error.detail(),
        request_id: request_id.as_str(),
        fields: fields.iter().map(|it| ProblemField { field: &it.field, message: &it.message }).collect(),
    };
    let status = StatusCode::from_u16(meaning.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = respond::json(status, &problem).unwrap_or_default();
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    if let Some(after) = error.retry_after() {
        // Whole seconds, rounded up: a client that comes too early would be turned away again.
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1_000).max(1) as u64));
    }
    match error {
        Error::Unauthenticated | Error::BadCredentials => drop(headers.insert(WWW_AUTHENTICATE, CHALLENGE)),
        Error::UnsupportedCoding { .. } => drop(headers.insert(ACCEPT_ENCODING, CODINGS)),
        Error::MethodNotAllowed { allow } => {
            if let Ok(allow) = HeaderValue::from_str(allow) {
                headers.insert(ALLOW, allow);
            }
        }
        _ => {}
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    async fn written(error: &Error) -> (Response, Value) {
        let (head, body) = respond(error, &RequestId::accept_or_new(Some("r-1"))).into_parts();
        let json = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        (Response::from_parts(head, respond::Body::empty()), json)
    }

    #[tokio::test]
    async fn a_field_that_does_not_fit_is_named() {
        let (response, json) = written(&Error::invalid_field("top_k", "must be 1 to 100")).await;
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let expected = json!({
            "type": "/docs#error-invalid", "title": "Invalid request", "status": 400, "code": "invalid",
            "detail": "top_k: must be 1 to 100", "request_id": "r-1",
            "fields": [{"field": "top_k", "message": "must be 1 to 100"}],
        });
        assert_eq!(json, expected);
    }

    #[tokio::test]
    async fn an_inner_error_is_not_told_to_the_client() {
        let (response, json) = written(&Error::Internal(anyhow::anyhow!("relation \"secret\" does not exist"))).await;
        assert_eq!(response.status(), 500);
        assert!(!json.to_string().contains("secret") && json.get("fields").is_none());
    }

    #[tokio::test]
    async fn headers_say_what_to_do() {
        let header = |error: Error, name| async move { written(&error).await.0.headers().get(name).cloned() };
        assert_eq!(header(Error::Unauthenticated, WWW_AUTHENTICATE).await.unwrap(), CHALLENGE);
        assert_eq!(header(Error::MethodNotAllowed { allow: "GET, HEAD".into() }, ALLOW).await.unwrap(), "GET, HEAD");
        let coding = Error::UnsupportedCoding { detail: String::new() };
        assert_eq!(header(coding, ACCEPT_ENCODING).await.unwrap(), "br, gzip, deflate");
        // RFC 9110, section 12.5.3: a refused media type must not carry it.
        let media_type = Error::UnsupportedMediaType { detail: String::new() };
        assert!(header(media_type, ACCEPT_ENCODING).await.is_none());
        for (wait, told) in [(Duration::from_millis(10), "1"), (Duration::from_millis(1_001), "2")] {
            assert_eq!(header(Error::RateLimited { retry_after: wait }, RETRY_AFTER).await.unwrap(), told);
        }
    }
}
