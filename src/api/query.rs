//! Reading the query string: each kind of parameter, and what is said of one that does not fit.

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use uuid::Uuid;

use crate::{error::Error, http::Request};

/// The whole number `name`, if it is given.
///
/// # Errors
/// `Invalid` if it is none from `min` to `max`.
pub fn number(req: &Request, name: &str, min: u64, max: u64) -> Result<Option<u64>, Error> {
    let told = || format!("must be a whole number from {min} to {max}");
    read(req, name, |text| text.parse().ok().filter(|number| (min..=max).contains(number)), told)
}

/// The id `name`, if it is given.
///
/// # Errors
/// `Invalid` if it is no UUID.
pub fn id<T>(req: &Request, name: &str, id: fn(Uuid) -> T) -> Result<Option<T>, Error> {
    Ok(read(req, name, |text| Uuid::try_parse(text).ok(), || "must be a UUID".into())?.map(id))
}

/// The truth value `name`, if it is given.
///
/// # Errors
/// `Invalid` if it is none.
pub fn boolean(req: &Request, name: &str) -> Result<Option<bool>, Error> {
    read(req, name, |text| text.parse().ok(), || "must be true or false".into())
}

/// The time `name`, if it is given.
///
/// # Errors
/// `Invalid` if it is none.
pub fn time(req: &Request, name: &str) -> Result<Option<OffsetDateTime>, Error> {
    let told = || "must be a time as RFC 3339 writes it, such as 2026-11-28T12:00:00Z; write a `+` as %2B".into();
    read(req, name, time_of, told)
}

/// The time that `text` is, as RFC 3339 writes it. In UTC, so that it stays a time whatever is done with it.
pub fn time_of(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()?.checked_to_offset(UtcOffset::UTC)
}

fn read<T>(
    req: &Request,
    name: &str,
    parse: impl FnOnce(&str) -> Option<T>,
    told: impl FnOnce() -> String,
) -> Result<Option<T>, Error> {
    let Some(text) = req.query(name) else { return Ok(None) };
    parse(text).map(Some).ok_or_else(|| Error::invalid_field(name, told()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_the_rfc_writes_them() {
        let unix = |text: &str| time_of(text).map(OffsetDateTime::unix_timestamp);
        assert_eq!(unix("1970-01-01T00:00:01Z"), Some(1));
        assert_eq!(unix("1970-01-01T02:00:01.5+02:00"), Some(1));
        assert!(unix("0000-01-01T00:00:00Z").is_some() && unix("9999-12-31T23:59:59.999999999Z").is_some());
        for bad in ["", "now", "2026-11-28", "2026-11-28T12:00:00", "2026-02-30T00:00:00Z", "2026-11-28T12:00:00 01:00"]
        {
            assert_eq!(unix(bad), None, "{bad:?}");
        }
        // Beyond the last year there is, once it is in UTC.
        assert_eq!(unix("9999-12-31T23:59:59-23:59"), None);
    }
}
