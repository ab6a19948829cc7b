//! What a handler reads: path parameters, query string, headers, and a body on demand.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::{
    HeaderMap,
    body::Incoming,
    header::CONTENT_TYPE,
    http::{Uri, request::Parts},
};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    body::{self, Limits, Place},
    json,
};
use crate::{compute::Compute, error::Error};

/// From this size on JSON is parsed on a compute thread: it would hold up the shard's other sockets.
const INLINE_JSON_BYTES_MAX: usize = 256 * 1_024;

/// A request that found its route.
pub struct Request {
    head: Parts,
    target: Target,
    body: Source,
    limits: Limits,
    place: Place,
}

/// Where a body is.
enum Source {
    /// On its way.
    Incoming(Incoming),
    /// Here, inflated.
    Read(Bytes),
}

impl Request {
    /// The request of `head` and `body` to the route with `pattern`, whose bodies have `limits` and come into `place`.
    ///
    /// # Errors
    /// `Invalid` if the path or the query string is not UTF-8 once decoded, or has a NUL character.
    pub fn new(
        head: Parts,
        body: Incoming,
        pattern: &'static str,
        limits: Limits,
        place: Place,
    ) -> Result<Self, Error> {
        let target = Target::new(pattern, &head.uri)?;
        Ok(Self { head, target, body: Source::Incoming(body), limits, place })
    }

    /// The path parameter `name`, decoded; empty if the pattern has none of that name.
    pub fn path(&self, name: &str) -> &str {
        self.target.parameter(&self.head.uri, name)
    }

    /// The path parameter `name`, if it is a UUID.
    pub fn path_uuid(&self, name: &str) -> Option<Uuid> {
        Uuid::try_parse(self.path(name)).ok()
    }

    /// The value of `name` in the query string, decoded.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.target.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Every name in the query string.
    pub fn query_names(&self) -> impl Iterator<Item = &str> {
        self.target.query.iter().map(|(name, _)| name.as_str())
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// `Content-Type` as it stands, if it is text at all.
    pub fn content_type(&self) -> Option<&str> {
        self.head.headers.get(CONTENT_TYPE)?.to_str().ok()
    }

    /// Path and query string as they were sent.
    pub fn path_and_query(&self) -> &str {
        self.head.uri.path_and_query().map_or("", |target| target.as_str())
    }

    /// The request with its body read, and the body.
    ///
    /// # Errors
    /// As [`body::read`].
    pub async fn read(mut self) -> Result<(Self, Bytes), Error> {
        let bytes = self.take_body().await?;
        Ok((Self { body: Source::Read(bytes.clone()), ..self }, bytes))
    }

    async fn take_body(&mut self) -> Result<Bytes, Error> {
        match std::mem::replace(&mut self.body, Source::Read(Bytes::new())) {
            Source::Incoming(body) => body::read(&self.head.headers, body, self.limits, &mut self.place).await,
            Source::Read(bytes) => Ok(bytes),
        }
    }

    /// The whole body, inflated. Its place is given back once nobody uses it.
    ///
    /// # Errors
    /// As [`body::read`].
    pub async fn bytes(mut self) -> Result<Bytes, Error> {
        let bytes = self.take_body().await?;
        Ok(self.place.keep(bytes))
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// As [`body::read`] and [`json::parse`]; `UnsupportedMediaType` if it says that it is something else; `Unavailable` if
    /// it is large and too much work waits for `compute`.
    pub async fn json<T: DeserializeOwned + Send + 'static>(self, compute: &Compute) -> Result<T, Error> {
        self.json_in_place(compute).await.map(|(value, _)| value)
    }

    /// The body as JSON, and its place, to be held as long as what was in the body is.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub async fn json_in_place<T: DeserializeOwned + Send + 'static>(
        mut self,
        compute: &Compute,
    ) -> Result<(T, Place), Error> {
        if let Some(content_type) = self.head.headers.get(CONTENT_TYPE)
            && !content_type.to_str().is_ok_and(is_json)
        {
            let said = String::from_utf8_lossy(content_type.as_bytes());
            let detail = format!("Content-Type is `{said}`; send application/json.");
            return Err(Error::UnsupportedMediaType { detail });
        }
        let bytes = self.take_body().await?;
        Ok((parse(bytes, compute).await?, self.place))
    }
}

async fn parse<T: DeserializeOwned + Send + 'static>(bytes: Bytes, compute: &Compute) -> Result<T, Error> {
    if bytes.len() <= INLINE_JSON_BYTES_MAX {
        return json::parse(&bytes);
    }
    compute.run(move || json::parse(&bytes)).await?
}

/// Whether a media type is JSON: `application/json` or a type with the suffix `+json`.
pub fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    let has_suffix =
        media_type.len() > 5 && media_type.as_bytes()[media_type.len() - 5..].eq_ignore_ascii_case(b"+json");
    media_type.eq_ignore_ascii_case("application/json") || has_suffix
}

/// A request's path and query string, as its route's pattern reads them.
struct Target {
    pattern: &'static str,
    /// Parameters that had to be decoded. The others are read where they stand.
    decoded: Vec<(&'static str, String)>,
    query: Vec<(String, String)>,
}

impl Target {
    fn new(pattern: &'static str, uri: &Uri) -> Result<Self, Error> {
        let mut decoded = Vec::new();
        if uri.path().contains('%') {
            for (name, segment) in parameters(pattern, uri.path()) {
                let value = decode(segment).map_err(|wrong| Error::invalid_field(name, wrong))?;
                if let Cow::Owned(value) = value {
                    decoded.push((name, value));
                }
            }
        }
        let query = uri.query().map(parse_query).transpose()?.unwrap_or_default();
        Ok(Self { pattern, decoded, query })
    }

    fn parameter<'a>(&'a self, uri: &'a Uri, name: &str) -> &'a str {
        if let Some((_, value)) = self.decoded.iter().find(|(known, _)| *known == name) {
            return value;
        }
        parameters(self.pattern, uri.path()).find(|(known, _)| *known == name).map_or("", |(_, segment)| segment)
    }
}

/// The segments of `path` that stand where `pattern` has `{name}`, by that name.
fn parameters<'a>(pattern: &'static str, path: &'a str) -> impl Iterator<Item = (&'static str, &'a str)> {
    pattern
        .split('/')
        .zip(path.split('/'))
        .filter_map(|(part, segment)| Some((part.strip_prefix('{')?.strip_suffix('}')?, segment)))
}

fn decode(text: &str) -> Result<Cow<'_, str>, &'static str> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "is not UTF-8 once decoded")?;
    if decoded.contains('\0') { Err("has a NUL character (%00)") } else { Ok(decoded) }
}

/// Pairs of an `application/x-www-form-urlencoded` query string. A name given twice is refused: which one counts would be
/// anybody's guess.
fn parse_query(query: &str) -> Result<Vec<(String, String)>, Error> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let plus_is_space = |text: &str| text.replace('+', " ");
        let (raw_name, raw_value) = (plus_is_space(name), plus_is_space(value));
        let name = decode(&raw_name).map_err(|wrong| Error::invalid_field("query string", wrong))?;
        if pairs.iter().any(|(known, _)| *known == name) {
            return Err(Error::invalid_field(name, "is given twice in the query string"));
        }
        let value = decode(&raw_value).map_err(|wrong| Error::invalid_field(name.clone(), wrong))?.into_owned();
        pairs.push((name.into_owned(), value));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: &str = "/v1/knowledge-bases/{knowledge_base_id}/documents/{document}";

    fn target(uri: &str) -> Result<(Target, Uri), Error> {
        let uri: Uri = uri.parse().unwrap();
        Target::new(PATTERN, &uri).map(|target| (target, uri))
    }

    #[test]
    fn path_parameters_are_decoded() {
        let (plain, uri) = target("/v1/knowledge-bases/k1/documents/a.html").unwrap();
        assert_eq!(plain.parameter(&uri, "knowledge_base_id"), "k1");
        assert_eq!(plain.parameter(&uri, "document"), "a.html");
        assert_eq!(plain.parameter(&uri, "chunk"), "");
        assert!(plain.decoded.is_empty());
        let (coded, uri) = target("/v1/knowledge-bases/k1/documents/docs%2Fa%20b+c%C3%A9").unwrap();
        assert_eq!(coded.parameter(&uri, "knowledge_base_id"), "k1");
        assert_eq!(coded.parameter(&uri, "document"), "docs/a b+cé");
    }

    #[test]
    fn what_is_no_utf8_or_has_a_nul_is_refused_by_name() {
        for (uri, field) in [
            ("/v1/knowledge-bases/k1/documents/%ff", "document"),
            ("/v1/knowledge-bases/k%00/documents/a", "knowledge_base_id"),
            ("/v1/knowledge-bases/k/documents/a?title=%C3%28", "title"),
            ("/v1/knowledge-bases/k/documents/a?title=%00", "title"),
            ("/v1/knowledge-bases/k/documents/a?%ff=1", "query string"),
        ] {
            let Err(Error::Invalid { fields, .. }) = target(uri) else { panic!("{uri} was taken") };
            assert_eq!(fields[0].field, field, "{uri}");
        }
    }

    #[test]
    fn a_query_string_is_read_as_forms_write_it() {
        let pairs = |query: &str| parse_query(query).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            pairs("limit=5&title=a+b%2B%26&flag&&empty="),
            [pair("limit", "5"), pair("title", "a b+&"), pair("flag", ""), pair("empty", "")]
        );
        assert_eq!(pairs(""), []);
        assert!(matches!(parse_query("a=1&b=2&a=3"), Err(Error::Invalid { .. })));
    }

    #[tokio::test]
    async fn large_json_is_parsed_on_a_compute_thread() {
        struct Parser(String);
        impl<'de> serde::Deserialize<'de> for Parser {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                serde::de::IgnoredAny::deserialize(deserializer)?;
                Ok(Self(std::thread::current().name().unwrap_or_default().to_owned()))
            }
        }
        let compute = Compute::new(1).unwrap();
        for (bytes, on_compute) in [(INLINE_JSON_BYTES_MAX, false), (INLINE_JSON_BYTES_MAX + 1, true)] {
            let body = format!("{{\"a\": \"{}\"}}", "x".repeat(bytes - 9));
            let Parser(thread) = parse(Bytes::from(body), &compute).await.unwrap();
            assert_eq!(thread.starts_with("compute-"), on_compute, "{bytes} bytes on {thread}");
        }
    }

    #[test]
    fn json_goes_by_several_names() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["text/plain", "application/x-www-form-urlencoded", "", "+json", "application/jsonl"] {
            assert!(!is_json(bad), "{bad}");
        }
    }
}
