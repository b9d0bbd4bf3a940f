//! Which server the tests start.

use std::io::Write;
use std::sync::Once;

/// Names another server to test, such as livekit-server or another build of this one.
const VARIABLE: &str = "ONAIR_TEST_BINARY";

/// The path of the server to start: the one that was built with the tests, or the one that the environment names, which
/// is said once, past what the test runner captures: whoever forgot the variable would take its results for those of
/// the code.
pub fn path() -> String {
    let Ok(other) = std::env::var(VARIABLE) else { return env!("CARGO_BIN_EXE_onair").into() };
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let _ =
            writeln!(std::io::stderr(), "note: {VARIABLE} is set: these tests are of {other}, not of what was built");
    });
    other
}
