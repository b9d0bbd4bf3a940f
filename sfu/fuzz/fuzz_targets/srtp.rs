//! SRTP and SRTCP of strangers, and what we seal.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sfu::fuzzing::srtp(bytes));
