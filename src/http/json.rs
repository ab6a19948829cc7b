//! JSON bodies. simd-json reads them in one pass; only where that fails is serde_json asked why, to name the place.
//!
//! simd-json rewrites the bytes that it parses, so it gets a copy in a buffer that the thread keeps. It builds its tape without
//! recursion and stops at [`DEPTH_MAX`]; what walks the tape recurses no deeper than that.

use std::cell::RefCell;

use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

use crate::error::Error;

/// Most objects and arrays inside one another.
pub const DEPTH_MAX: usize = 64;
/// Largest body whose buffers a thread keeps for the next one.
const KEPT_BYTES_MAX: usize = 64 * 1_024;

struct Scratch {
    bytes: Vec<u8>,
    buffers: simd_json::Buffers,
}

impl Scratch {
    fn new(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), buffers: simd_json::Buffers::with_max_depth(bytes, DEPTH_MAX) }
    }

    fn parse<T: DeserializeOwned>(&mut self, body: &[u8]) -> simd_json::Result<T> {
        self.bytes.clear();
        self.bytes.extend_from_slice(body);
        simd_json::serde::from_slice_with_buffers(&mut self.bytes, &mut self.buffers)
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new(4_096));
}

/// `body`, which must be one JSON object that fits `T`.
///
/// # Errors
/// `Invalid`, naming the field where there is one: not UTF-8, not JSON, nested deeper than [`DEPTH_MAX`], a NUL character in a
/// string (Postgres cannot hold one), a field that is missing, unknown, given twice or of another type.
pub fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Error> {
    // A struct would also be read from an array, by position; that is nobody's interface.
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(_) => {
            return Err(why_not::<T>(body).err().unwrap_or_else(|| Error::invalid("The body must be a JSON object.")));
        }
        None => return Err(Error::invalid("The body is empty; it must be a JSON object.")),
    }
    // A NUL that is not escaped is no JSON. An escaped one is rare enough to look for its field at leisure.
    if memmem::find(body, br"\u0000").is_some() {
        refuse_nul(body)?;
    }
    let parsed = if body.len() <= KEPT_BYTES_MAX {
        SCRATCH.with_borrow_mut(|scratch| scratch.parse(body))
    } else {
        Scratch::new(body.len()).parse(body)
    };
    // Where the two parsers disagree (a number that only a float can hold, say) serde_json has the last word.
    parsed.or_else(|_| why_not(body))
}

/// Writes text that is JSON already as it is.
///
/// # Errors
/// If it is no JSON.
pub fn raw<S: Serializer>(text: &impl AsRef<str>, serializer: S) -> Result<S::Ok, S::Error> {
    let raw: &RawValue = serde_json::from_str(text.as_ref()).map_err(serde::ser::Error::custom)?;
    raw.serialize(serializer)
}

/// Reads a field that is there, be it null, as `Some`; with `#[serde(default)]`, one that is left out is `None`.
///
/// # Errors
/// If it is of another type.
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Why `body` could not be parsed, by a second, slower look; or the value after all.
fn why_not<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    if let Err(error) = std::str::from_utf8(body) {
        return Err(Error::invalid(format!("The body is not UTF-8: byte {} is wrong.", error.valid_up_to())));
    }
    if is_too_deep(body) {
        return Err(Error::invalid(format!("The body nests objects and arrays deeper than {DEPTH_MAX}.")));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() { misfit(&path, &error.to_string()) } else { not_json(&error) }
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(value)
}

fn not_json(error: &serde_json::Error) -> Error {
    Error::invalid(format!("The body is not JSON: {error}."))
}

/// Serde's words about a field, in a client's terms.
fn misfit(path: &str, message: &str) -> Error {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    let path = if path == "." { "" } else { path };
    // These two are reported at the object, not at the field that it lacks or has twice.
    for (start, told) in [("missing field `", "is missing"), ("duplicate field `", "is given twice (duplicate field)")]
    {
        if let Some(name) = message.strip_prefix(start).and_then(|rest| rest.strip_suffix('`')) {
            return Error::invalid_field(joined(path, name), told);
        }
    }
    match path {
        "" => Error::invalid(format!("The body does not fit: {}.", in_json_terms(message))),
        path => Error::invalid_field(path, in_json_terms(message)),
    }
}

/// `message` without names of Rust types.
fn in_json_terms(message: &str) -> String {
    let mut words = Vec::new();
    let mut rest = message.split(' ').peekable();
    while let Some(word) = rest.next() {
        words.push(match word {
            "struct" | "enum" if rest.next().is_some() => {
                if word == "struct" {
                    "an object"
                } else {
                    "one of its words"
                }
            }
            "map" | "map," => "object,",
            "sequence" | "sequence," => "array,",
            "usize" | "u64" | "u32" => "a whole number",
            "i64" | "i32" => "an integer",
            "f32" | "f64" => "a number",
            word => word,
        });
    }
    words.join(" ")
}

/// Whether objects and arrays nest deeper than [`DEPTH_MAX`]; brackets in strings do not count.
fn is_too_deep(body: &[u8]) -> bool {
    let (mut depth, mut in_string, mut is_escaped) = (0usize, false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// Refuses `body` if a string of it, or a key, has a NUL character. A body that is no JSON passes: parsing it says more.
fn refuse_nul(body: &[u8]) -> Result<(), Error> {
    if is_too_deep(body) {
        return Ok(());
    }
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return Ok(()) };
    match path_of_nul(&value) {
        None => Ok(()),
        Some(path) => Err(Error::invalid_field(path, "has a NUL character (\\u0000), which cannot be stored")),
    }
}

fn path_of_nul(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| Some(joined(&format!("[{at}]"), &path_of_nul(item)?)))
        }
        Value::Object(fields) => fields.iter().find_map(|(key, value)| match key.contains('\0') {
            true => Some(key.escape_debug().to_string()),
            false => Some(joined(key, &path_of_nul(value)?)),
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

/// `rest` within `start`, as JSON paths are written: `a.b[1]`.
fn joined(start: &str, rest: &str) -> String {
    let dot = if start.is_empty() || rest.is_empty() || rest.starts_with('[') { "" } else { "." };
    format!("{start}{dot}{rest}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Draft {
        query: String,
        #[serde(default)]
        top_k: usize,
        #[serde(default)]
        mode: Mode,
        filter: Option<Value>,
        inner: Option<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        names: Vec<String>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        #[default]
        Hybrid,
        Keyword,
    }

    fn draft(body: &str) -> Result<Draft, Error> {
        parse(&Bytes::copy_from_slice(body.as_bytes()))
    }

    /// `body` is refused, with `field` named (none if it is empty) and `told` in the words.
    #[track_caller]
    fn check(body: &str, field: &str, told: &str) {
        let Err(Error::Invalid { detail, fields }) = draft(body) else { panic!("{body} was taken") };
        let named = fields.first().map_or("", |field| field.field.as_str());
        assert_eq!(named, field, "{body}: {detail}");
        assert!(detail.contains(told), "{body}: {detail}");
    }

    #[test]
    fn what_fits_is_read_again_and_again() {
        for n in 0..100 {
            let body =
                format!(r#" {{"query": "é\n{n}", "top_k": {n}, "mode": "keyword", "filter": {{"a": [1.5, null]}}}} "#);
            let draft = draft(&body).unwrap();
            assert_eq!((draft.query, draft.top_k, draft.mode), (format!("é\n{n}"), n, Mode::Keyword));
            assert_eq!(draft.filter.unwrap()["a"][0], 1.5);
        }
        let long = "x".repeat(1_000_000);
        assert_eq!(draft(&format!(r#"{{"query": "{long}"}}"#)).unwrap().query, long);
    }

    #[test]
    fn the_field_at_fault_is_named() {
        check(r#"{"query": 1}"#, "query", "expected a string");
        check(r#"{"query": "a", "top_k": -1}"#, "top_k", "expected a whole number");
        check(r#"{"query": "a", "top_k": 1.5}"#, "top_k", "a whole number");
        check(r#"{"query": "a", "mode": "loud"}"#, "mode", "unknown variant `loud`, expected `hybrid` or `keyword`");
        check(r#"{"query": "a", "inner": {"names": ["a", 7]}}"#, "inner.names[1]", "expected a string");
        check(r#"{"query": "a", "inner": []}"#, "inner", "");
        check(r#"{"top_k": 1}"#, "query", "is missing");
        check(r#"{"query": "a", "inner": {}}"#, "inner.names", "is missing");
        check(r#"{"query": "a", "querry": 1}"#, "querry", "unknown field `querry`, expected one of `query`");
        check(r#"{"query": "a", "query": "b"}"#, "query", "duplicate field");
    }

    #[test]
    fn what_is_no_json_object_is_told_with_its_place() {
        check("", "", "empty");
        check("  \n", "", "empty");
        check("nul", "", "not JSON");
        check("[\"a\"]", "", "object");
        check("\"a\"", "", "object");
        check(r#"{"query": "a"} x"#, "", "not JSON: trailing characters at line 1 column 16");
        check(r#"{"query": "a","#, "", "not JSON: EOF");
        check(r#"{"query": "a" "top_k": 1}"#, "", "line 1 column 15");
        check("{\"query\": \"a\u{1}b\"}", "", "not JSON");
        check(r#"{"query": "\ud800"}"#, "", "not JSON");
    }

    #[test]
    fn bytes_that_are_no_utf8_are_told_with_their_place() {
        for body in [&b"{\"query\": \"\xff\"}"[..], b"\xff{\"query\": \"a\"}", b"{\"query\": \"\xed\xa0\x80\"}"] {
            let error = parse::<Draft>(&Bytes::from_static(body)).unwrap_err();
            assert!(error.detail().contains("not UTF-8: byte"), "{error}");
        }
    }

    #[test]
    fn nesting_has_a_limit() {
        // The body's own object is one level.
        let nested = |levels: usize| {
            format!(r#"{{"query": "[[{{", "filter": {}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
        };
        assert!(draft(&nested(DEPTH_MAX)).is_ok());
        check(&nested(DEPTH_MAX + 1), "", "deeper than 64");
        check(&nested(100), "", "deeper than 64");
        check(&nested(500_000), "", "deeper than 64");
        check(&format!(r#"{{"filter": {}"#, r#"{"a":"#.repeat(100_000)), "", "deeper than 64");
        check(&"[".repeat(500_000), "", "deeper than 64");
    }

    #[test]
    fn nul_characters_are_refused_by_field() {
        check(r#"{"query": "a\u0000b"}"#, "query", "NUL");
        check(r#"{"query": "a", "filter": {"or": [{"k": 1}, {"v": ["x", "\u0000"]}]}}"#, "filter.or[1].v[1]", "NUL");
        check(r#"{"query": "a", "filter": {"k\u0000": 1}}"#, "filter.k\\0", "NUL");
        check("{\"query\": \"a\0b\"}", "", "not JSON");
        // A backslash that is itself escaped, and text that only looks like one.
        assert_eq!(draft(r#"{"query": "a\\u0000"}"#).unwrap().query, "a\\u0000");
    }

    #[test]
    fn a_null_is_told_from_a_field_that_is_left_out() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Patch {
            #[serde(default, deserialize_with = "given")]
            name: Option<Option<String>>,
        }
        let name = |body: &'static str| parse::<Patch>(&Bytes::from_static(body.as_bytes())).unwrap().name;
        assert_eq!(name("{}"), None);
        assert_eq!(name(r#"{"name": null}"#), Some(None));
        assert_eq!(name(r#"{"name": "a"}"#), Some(Some("a".into())));
    }

    #[test]
    fn both_parsers_agree_on_numbers() {
        let number = |text: &str| draft(&format!(r#"{{"query": "a", "filter": {text}}}"#)).map(|it| it.filter.unwrap());
        for text in
            ["0", "-1", "18446744073709551615", "-9223372036854775808", "1e300", "0.1", "1e-400", "123456789.125"]
        {
            assert_eq!(number(text).unwrap().as_f64(), text.parse::<f64>().ok(), "{text}");
        }
        // Too long for 64 bits: only serde_json takes it, as a float.
        assert_eq!(number("184467440737095516150").unwrap().as_f64(), Some(184_467_440_737_095_516_150.0));
        for text in ["01", "+1", ".5", "1.", "NaN", "1e400"] {
            assert!(number(text).is_err(), "{text} was taken");
        }
    }
}
