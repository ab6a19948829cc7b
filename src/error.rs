//! What went wrong, told by what the caller can do about it, and the one table of what each variant means to a client.
//!
//! Rooms below have narrow enums of their own and convert into this one at their edge. It names no HTTP type:
//! [`Meaning`] holds plain numbers and words, which `http::problem` (and later the socket's `error` frame) write out.

use std::{fmt, time::Duration};

/// A field of the input that does not fit, for the `fields` member of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidField {
    /// Where: a JSON path such as `filter.filters[1].key`, or the name of a parameter or header.
    pub field: String,
    /// What is wrong with it and what would fit.
    pub message: String,
}

/// Every failure that a caller can see.
#[derive(Debug)]
pub enum Error {
    /// It is not there, or it is another tenant's: the two are the same answer.
    NotFound {
        /// What was looked for, such as `knowledge base`.
        what: &'static str,
    },
    /// The path is known, the method is not. `allow` is the value of the `Allow` header.
    MethodNotAllowed {
        /// Methods that the path takes, comma separated.
        allow: String,
    },
    /// The input does not fit; the fields say where.
    Invalid {
        /// One sentence about this occurrence.
        detail: String,
        /// The fields at fault; empty where the whole body is (not JSON, not UTF-8).
        fields: Vec<InvalidField>,
    },
    /// The body has a media type that this route does not take.
    UnsupportedMediaType {
        /// What it is and what would be taken.
        detail: String,
    },
    /// The body has a content coding that this server does not know, or more than one.
    UnsupportedCoding {
        /// What it is and what would be taken.
        detail: String,
    },
    /// The client refuses every form that an answer could have.
    NotAcceptable,
    /// The state of the thing forbids it: a name taken, a change under way.
    Conflict {
        /// What is in the way.
        detail: String,
    },
    /// The same request, by its `Idempotency-Key`, is being done.
    UnderWay {
        /// When to come again.
        retry_after: Duration,
    },
    /// The `Idempotency-Key` stands for another request.
    KeyReused,
    /// No credentials, or none that hold.
    Unauthenticated,
    /// What somebody wanted to log in with is not right. Which part of it is not told.
    BadCredentials,
    /// The caller is known and may not do this.
    Forbidden {
        /// The scope or role that is missing.
        detail: String,
    },
    /// A body, or what it inflates to, is larger than the route takes.
    TooLarge {
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// The body did not arrive in time.
    RequestTimeout,
    /// Too many requests.
    RateLimited {
        /// When to come again.
        retry_after: Duration,
    },
    /// Something below is away or overloaded; it is worth trying again.
    Unavailable {
        /// What the client reads.
        detail: &'static str,
        /// When to come again.
        retry_after: Duration,
        /// What the log reads.
        source: Option<anyhow::Error>,
    },
    /// The request's own deadline passed.
    Deadline,
    /// Our fault. The client reads only the request id; the log has the chain.
    Internal(anyhow::Error),
}

/// A line of the table: what a variant means to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// HTTP status.
    pub status: u16,
    /// The stable code that programs compare.
    pub code: &'static str,
    /// The short title that people read.
    pub title: &'static str,
}

impl Error {
    /// What this means to a client.
    pub fn meaning(&self) -> Meaning {
        let p = |status, code, title| Meaning { status, code, title };
        #[rustfmt::skip]
        let meaning = match self {               // status  code                      title
            Self::NotFound { .. }             => p(404, "not_found",              "Not found"),
            Self::MethodNotAllowed { .. }     => p(405, "method_not_allowed",     "Method not allowed"),
            Self::Invalid { .. }              => p(400, "invalid",                "Invalid request"),
            Self::UnsupportedMediaType { .. } => p(415, "unsupported_media_type", "Unsupported media type"),
            Self::UnsupportedCoding { .. }    => p(415, "unsupported_coding",     "Unsupported content coding"),
            Self::NotAcceptable               => p(406, "not_acceptable",         "Not acceptable"),
            Self::Conflict { .. }             => p(409, "conflict",               "Conflict"),
            Self::UnderWay { .. }             => p(409, "under_way",              "Under way"),
            Self::KeyReused                   => p(422, "key_reused",             "Key used for another request"),
            Self::Unauthenticated             => p(401, "unauthenticated",        "Unauthenticated"),
            Self::BadCredentials              => p(401, "bad_credentials",        "Wrong credentials"),
            Self::Forbidden { .. }            => p(403, "forbidden",              "Forbidden"),
            Self::TooLarge { .. }             => p(413, "too_large",              "Content too large"),
            Self::RequestTimeout              => p(408, "request_timeout",        "Request timeout"),
            Self::RateLimited { .. }          => p(429, "rate_limited",           "Too many requests"),
            Self::Unavailable { .. }          => p(503, "unavailable",            "Temporarily unavailable"),
            Self::Deadline                    => p(504, "deadline",               "Deadline passed"),
            Self::Internal(_)                 => p(500, "internal",               "Internal error"),
        };
        meaning
    }

    /// What the client reads about this occurrence. A 5xx says nothing about our insides.
    pub fn detail(&self) -> String {
        match self {
            Self::NotFound { what } => format!("There is no such {what}."),
            Self::MethodNotAllowed { allow } => format!("This path takes {allow}."),
            Self::Invalid { detail, .. }
            | Self::UnsupportedMediaType { detail }
            | Self::UnsupportedCoding { detail }
            | Self::Conflict { detail }
            | Self::Forbidden { detail } => detail.clone(),
            Self::NotAcceptable => {
                "`Accept-Encoding` refuses the plain form and names none of br, gzip and deflate.".into()
            }
            Self::UnderWay { .. } => {
                "The request with this `Idempotency-Key` is being done; send it again as `Retry-After` says.".into()
            }
            Self::KeyReused => {
                "This `Idempotency-Key` was sent before with another path, query string or body; a new request takes a \
                 new key."
                    .into()
            }
            Self::Unauthenticated => {
                "Send an API key or the token of a login as `Authorization: Bearer …`; this one is missing, unknown, \
                 expired or revoked."
                    .into()
            }
            Self::BadCredentials => "The tenant, the address or the password is not right.".into(),
            Self::TooLarge { limit_bytes } => format!("The body may have at most {limit_bytes} bytes, inflated."),
            Self::RequestTimeout => "The request did not arrive in time; send it again, faster.".into(),
            Self::RateLimited { .. } => "Too many requests; wait as `Retry-After` says.".into(),
            Self::Unavailable { detail, .. } => (*detail).into(),
            Self::Deadline => "The answer was not ready in time; try again.".into(),
            Self::Internal(_) => "Something went wrong on our side; quote the request id when you ask about it.".into(),
        }
    }

    /// When to come again, for the answers where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after }
            | Self::Unavailable { retry_after, .. }
            | Self::UnderWay { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    /// [`Error::Invalid`] about one field.
    pub fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        Self::Invalid { detail: format!("{field}: {message}"), fields: vec![InvalidField { field, message }] }
    }

    /// [`Error::Invalid`] about the whole input.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid { detail: detail.into(), fields: Vec::new() }
    }

    /// [`Error::Unavailable`] for a dependency that did not answer; worth a retry in a second.
    pub fn unavailable(detail: &'static str, source: impl Into<anyhow::Error>) -> Self {
        Self::Unavailable { detail, retry_after: Duration::from_secs(1), source: Some(source.into()) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.meaning().code, self.detail())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Internal(source) | Self::Unavailable { source: Some(source), .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}
