//! See `seedcache::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| seedcache::fuzzing::run("index_rows", bytes));
