//! Bytes as a message of a participant.

#![no_main]

#[path = "../signal.rs"]
mod signal;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    signal::read(input);
});
