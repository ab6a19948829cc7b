//! What fields that clients send are measured by: lengths of texts, and times.

use time::OffsetDateTime;

use super::query::time_of;
use crate::error::Error;

/// Refuses a text that is empty or has more than `max` bytes; one that is left out passes.
///
/// # Errors
/// `Invalid` about `field`.
pub fn bytes(field: &str, text: Option<&str>, max: usize) -> Result<(), Error> {
    within(field, text.map(str::len), max, "bytes")
}

/// As [`bytes`], in characters.
///
/// # Errors
/// `Invalid` about `field`.
pub fn chars(field: &str, text: Option<&str>, max: usize) -> Result<(), Error> {
    within(field, text.map(|text| text.chars().count()), max, "characters")
}

/// The time that a field is, as RFC 3339 writes it; none that is left out.
///
/// # Errors
/// `Invalid` about `field`.
pub fn time(field: &str, text: Option<&str>) -> Result<Option<OffsetDateTime>, Error> {
    let told = "must be a time as RFC 3339 writes it, such as 2026-11-28T12:00:00Z";
    text.map(|text| time_of(text).ok_or_else(|| Error::invalid_field(field, told))).transpose()
}

/// What is said of a patch that changes nothing.
pub fn empty_patch() -> Error {
    Error::invalid("The patch is empty; it must have at least one field.")
}

fn within(field: &str, length: Option<usize>, max: usize, unit: &str) -> Result<(), Error> {
    match length {
        Some(length) if !(1..=max).contains(&length) => {
            Err(Error::invalid_field(field, format!("must have 1 to {max} {unit}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_up_to_its_limit() {
        for (text, fits_bytes, fits_chars) in
            [(None, true, true), (Some(""), false, false), (Some("aéß"), false, true), (Some("abcd"), true, false)]
        {
            assert_eq!(bytes("a", text, 4).is_ok(), fits_bytes, "{text:?}");
            assert_eq!(chars("a", text, 3).is_ok(), fits_chars, "{text:?}");
        }
    }
}
