//! Bytes as a token, and as a request to join in either form.

#![no_main]

#[path = "../admission.rs"]
mod admission;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    admission::ask(input);
});
