//! Metadata: the JSON object that a client may hang on what it stores. What fits, and how a patch changes it.

use serde_json::{Map, Value};

use crate::error::Error;

/// Largest metadata of one thing, in bytes of JSON.
pub const BYTES_MAX: usize = 16_384;
/// Most objects and arrays inside one another in metadata, which is an object itself.
const DEPTH_MAX: usize = 63;
/// Largest magnitude of a number in metadata.
const NUMBER_MAX: f64 = 1.79e308;

/// The size of `metadata`, in bytes of JSON.
pub fn bytes(metadata: &Map<String, Value>) -> usize {
    serde_json::to_string(metadata).map_or(usize::MAX, |text| text.len())
}

/// Metadata that is stored as text.
pub fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// Refuses metadata, or a patch of it, that are too large or that Postgres would refuse.
///
/// # Errors
/// `Invalid` about `field`.
pub fn check(field: &str, metadata: &Map<String, Value>) -> Result<(), Error> {
    if bytes(metadata) > BYTES_MAX {
        return Err(Error::invalid_field(field, format!("may have at most {BYTES_MAX} bytes of JSON")));
    }
    metadata.iter().try_for_each(|(key, value)| check_value(field, key, value, DEPTH_MAX - 1))
}

/// Refuses what Postgres would (`tertulia_is_metadata`, and that it cannot hold a NUL character). JSON bodies have been
/// looked at in part, metadata of the query string not at all.
fn check_value(field: &str, key: &str, value: &Value, depth_left: usize) -> Result<(), Error> {
    let wrong = |told: String| Err(Error::invalid_field(field, told));
    if key.contains('\0') {
        return wrong("has a key with a NUL character (\\u0000), which cannot be stored".into());
    }
    match value {
        Value::String(text) if text.contains('\0') => {
            wrong(format!("has a NUL character (\\u0000) at `{key}`, which cannot be stored"))
        }
        Value::Number(number) if number.as_f64().is_none_or(|number| number.abs() > NUMBER_MAX) => {
            wrong(format!("has a number beyond {NUMBER_MAX:e} at `{key}`"))
        }
        Value::Array(_) | Value::Object(_) if depth_left == 0 => {
            wrong(format!("nests objects and arrays deeper than {DEPTH_MAX}"))
        }
        Value::Array(items) => items.iter().try_for_each(|item| check_value(field, key, item, depth_left - 1)),
        Value::Object(fields) => {
            fields.iter().try_for_each(|(key, value)| check_value(field, key, value, depth_left - 1))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// `target` with `patch` merged into it: RFC 7396, section 2.
pub fn merged(target: &Map<String, Value>, patch: &Map<String, Value>) -> Map<String, Value> {
    let mut target = target.clone();
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.remove(key)),
            Value::Object(inner) => {
                let present = target.get(key).and_then(Value::as_object);
                let value = merged(present.unwrap_or(&Map::new()), inner);
                target.insert(key.clone(), Value::Object(value));
            }
            other => drop(target.insert(key.clone(), other.clone())),
        }
    }
    target
}

/// `present`, a JSON object as text, with `patch` merged into it, if there is one.
///
/// # Errors
/// `Invalid` about `field` if it would become too large.
pub fn patched(field: &str, present: &str, patch: Option<&Map<String, Value>>) -> Result<Map<String, Value>, Error> {
    let present: Map<String, Value> =
        serde_json::from_str(present).map_err(|error| Error::Internal(anyhow::Error::new(error)))?;
    let Some(patch) = patch else { return Ok(present) };
    let metadata = merged(&present, patch);
    if bytes(&metadata) > BYTES_MAX {
        return Err(Error::invalid_field(field, format!("would become larger than {BYTES_MAX} bytes of JSON")));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    /// The examples of RFC 7396, appendix A, of which both sides are objects.
    #[test]
    fn patches_are_merged_as_the_rfc_says() {
        let check = |target, patch, expected| assert_eq!(merged(&object(target), &object(patch)), object(expected));
        check(json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"}));
        check(json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"}));
        check(json!({"a":"b"}), json!({"a":null}), json!({}));
        check(json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"}));
        check(json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"}));
        check(json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]}));
        check(json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}}));
        check(json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]}));
        check(json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1}));
        check(json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}}));
    }

    #[test]
    fn metadata_cannot_grow_beyond_the_limit_by_patches() {
        // `{"a":"…","b":""}`
        let present = |bytes: usize| json!({ "a": "x".repeat(bytes - 15) }).to_string();
        let patch = object(json!({ "b": "" }));
        assert_eq!(bytes(&patched("metadata", &present(BYTES_MAX), Some(&patch)).unwrap()), BYTES_MAX);
        assert_eq!(patched("metadata", &present(BYTES_MAX + 1), Some(&patch)).unwrap_err().meaning().status, 400);
        assert!(patched("metadata", &present(BYTES_MAX + 1), None).is_ok(), "what is there stays");
    }
}
