//! DTLS records of a server.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sfu::fuzzing::dtls_client(bytes));
