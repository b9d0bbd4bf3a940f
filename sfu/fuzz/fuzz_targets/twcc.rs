//! Transport-wide feedback, read and written.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sfu::fuzzing::twcc(bytes));
