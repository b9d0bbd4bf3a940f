//! Who may know whom: what `cargo tree` says of the crates must be what ARCHITECTURE.md says, and files form no
//! circles.

#[path = "layers/files.rs"]
mod files;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use self::files::Files;

/// Lines of a file of the server, its tests included.
const LINES_MAX: usize = 700;

/// Names of all crates that one reaches in a normal build.
fn reached_from(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // With features unified over the workspace, everything reaches everything.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names of crates are text");
    let names = text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
    names.filter(|name| name != package).collect()
}

fn ours(reached: &BTreeSet<String>) -> Vec<&str> {
    let ours = ["bench", "loadtest", "onair", "onair-sfu", "onair-shared", "onair-signaling"];
    reached.iter().map(String::as_str).filter(|name| ours.contains(name)).collect()
}

#[test]
fn the_media_engine_has_no_runtime_and_no_protocol_of_signalling() {
    let reached = reached_from("onair-sfu");

    assert_eq!(ours(&reached), ["onair-shared"]);
    for stranger in ["tokio", "axum", "hyper", "prost", "livekit-protocol", "serde_json", "jsonwebtoken"] {
        assert!(!reached.contains(stranger), "onair-sfu reaches {stranger}");
    }
}

#[test]
fn signalling_does_not_know_the_binary_around_it() {
    assert_eq!(ours(&reached_from("onair-signaling")), ["onair-sfu", "onair-shared"]);
    assert_eq!(ours(&reached_from("onair-shared")), Vec::<&str>::new());
}

/// A mistake that both sides shared would never show.
#[test]
fn the_load_tester_shares_no_code_with_the_server() {
    assert_eq!(ours(&reached_from("loadtest")), Vec::<&str>::new());
}

/// Files that can only be read together are one file in several parts: see ARCHITECTURE.md, "Code map".
#[test]
fn no_three_files_name_each_other_in_a_circle() {
    let circles: Vec<String> = crates().iter().flat_map(Files::circles).collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    let long: Vec<String> = crates().iter().flat_map(|files| files.longer_than(LINES_MAX)).collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// The crates of the server.
fn crates() -> Vec<Files> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above");
    ["shared", "sfu", "signaling", "control"]
        .iter()
        .map(|name| Files::of(&folder.join(name).join("src/lib.rs")))
        .collect()
}
