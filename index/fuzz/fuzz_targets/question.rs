//! Any text as a question, in the language of phrases and exclusions.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| tertulia_index::fuzzing::question(text));
