//! The API's own description against the running server: schemathesis makes up requests from it and judges the answers.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::product::{Product, admin};

/// Requests that are made up for each operation.
const EXAMPLES: &str = "25";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_made_up_request_gets_a_server_error_or_an_answer_that_is_not_documented() {
    let product = Product::start("document", json!({ "logging": { "level": "warn" } })).await;
    let url = product.ports.url();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/.venv/bin/schemathesis");
    assert!(program.exists(), "no schemathesis yet: run `make setup`");
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
    let run = tokio::task::spawn_blocking(move || {
        Command::new(program)
            .args(["run", &format!("{url}/openapi.json"), "--url", &url])
            .args(["--header", &format!("Authorization: Bearer {}", admin("root"))])
            .args(["--checks", checks, "--max-examples", EXAMPLES, "--phases", "examples,fuzzing", "--seed", "1"])
            .args(["--generation-database", "none", "--no-color", "--workers", "2", "--request-timeout", "20"])
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .output()
    });
    let output = run.await.expect("it is waited for").expect("schemathesis starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}
