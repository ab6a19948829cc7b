//! Whatever stands in a segment's file under sound checksums: it is refused, or every search over it ends.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| tertulia_index::fuzzing::segment(data));
