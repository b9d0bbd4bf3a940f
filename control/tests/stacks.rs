//! Every WebRTC stack that is to be had publishes to and views from the built binary, on `/rtc` and `/rtc/v1`.
//!
//! What each does is the table of `docs/clients.md`, which these tests hold to. They judge both ends: media counts
//! where it was received. `ONAIR_TEST_BINARY=livekit-server cargo test -p onair --test stacks` runs them against
//! LiveKit's server. A stack that is not on this machine is skipped, which is said on the terminal.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/late.rs"]
mod late;
#[path = "support/ports.rs"]
mod ports;
#[expect(dead_code, reason = "scripts of LiveKit's SDKs are run elsewhere")]
#[path = "support/script.rs"]
mod script;
#[path = "support/server.rs"]
mod server;
#[path = "support/stack.rs"]
mod stack;
#[path = "support/table.rs"]
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use script::{assert_made, directory};
use stack::{Client, Mode, Program, skip, stands, views_early_media};

const LIBWEBRTC: &str = "libwebrtc";

/// A client that speaks both modes.
fn client(name: &'static str, stack: &'static str, program: Program) -> Client {
    Client { name, stack, modes: &[Mode::V0, Mode::V1], program, views_without_resume: &[], without_topics: false }
}

#[test]
fn the_python_sdk_publishes_and_views() {
    stands(&client("Python SDK", LIBWEBRTC, Program::Python(".venv", &["stack_python.py"])));
}

#[test]
fn chromium_publishes_and_views() {
    let program = Program::Node(&["stack_browser.mjs", "--browser", "chromium"]);
    stands(&client("livekit-client in Chromium", LIBWEBRTC, program));
}

#[test]
fn firefox_publishes_and_views() {
    let name = "livekit-client in Firefox";
    let firefox = std::env::var("FIREFOX").unwrap_or_else(|_| "firefox-esr".into());
    if !runs(&firefox, "--version") {
        return skip(name, &format!("{firefox} is not installed"));
    }
    stands(&client(name, "Firefox", Program::Node(&["stack_browser.mjs", "--browser", "firefox"])));
}

#[test]
fn aiortc_publishes_and_views() {
    stands(&client("aiortc", "aiortc", Program::Python(".venv", &["stack_aiortc.py"])));
}

#[test]
fn libdatachannel_publishes_and_views() {
    stands(&client("libdatachannel", "libdatachannel", Program::Node(&["stack_libdatachannel.mjs"])));
}

#[test]
fn webrtc_rs_publishes_and_views() {
    let program = Path::new(env!("CARGO_BIN_EXE_onair")).with_file_name("examples").join("stack_webrtc_rs");
    // Cargo builds it with all tests, but not where this file alone is asked for.
    let made_from = Command::new(&program).arg("made-from").stdin(Stdio::null()).output().ok().map(|run| run.stdout);
    let now = concat!(include_str!("clients/stack_webrtc_rs.rs"), include_str!("../../Cargo.lock"));
    let is_new = made_from.is_some_and(|made_from| made_from == now.as_bytes());
    assert!(is_new, "it is missing or older than its source: run `cargo build -p onair --example stack_webrtc_rs`");
    stands(&client("webrtc-rs", "webrtc-rs", Program::Built(program)));
}

#[test]
fn pion_publishes_and_views() {
    if let Some(client) = pion() {
        stands(&Client { views_without_resume: &[Mode::V1], ..client });
    }
}

#[test]
fn pion_views_media_that_comes_before_its_description() {
    if let Some(client) = pion() {
        views_early_media(&client, Mode::V1);
    }
}

fn pion() -> Option<Client> {
    let program: PathBuf = directory().join("pion/client");
    if !program.exists() {
        skip("Go SDK", "`make setup` found no Go to build it with");
        return None;
    }
    let sources = ["pion/go.mod", "pion/go.sum", "pion/client.go", "pion/main.go", "pion/media.go"];
    assert_made("the programs on Pion", "pion/made-from", &sources);
    Some(client("Go SDK", "Pion", Program::Built(program)))
}

fn runs(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
