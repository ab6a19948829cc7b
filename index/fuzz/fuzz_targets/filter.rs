//! Whatever JSON comes as a filter: it is refused, or comes back as it was, and a search with it ends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tertulia_index::{Filter, fuzzing};

fuzz_target!(|data: &[u8]| {
    let Ok(json) = serde_json::from_slice(data) else { return };
    let Ok(filter) = Filter::from_json(&json) else { return };
    assert_eq!(filter.to_json(), json);
    fuzzing::search(&filter);
});
