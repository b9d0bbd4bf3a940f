//! Who may know whom: what `cargo tree` says of the crates must be what ARCHITECTURE.md says.

use std::collections::BTreeSet;
use std::process::Command;

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
