//! The API's own description against the running server: schemathesis makes up requests from it and judges the answers.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::kept::Kept;
use crate::product::{Product, admin, token};
use crate::socket::user;

on_every_store! {
    no_made_up_request_gets_a_server_error_or_an_answer_that_is_not_documented
    no_made_up_request_about_a_live_stream_gets_an_answer_that_is_not_documented
}

/// Requests that are made up for each operation.
const EXAMPLES: &str = "25";

/// What an answer must not be: an error of the server, or one of another status, type or shape than the document says.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// Makes up requests and fails with the first answers that are not as documented.
async fn judge(product: &Product, name: &str, known: &Value, selection: &[&str]) {
    let url = product.ports.url();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/.venv/bin/schemathesis");
    assert!(program.exists(), "no schemathesis yet: run `make setup`");
    let settings = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("schemathesis-{name}.toml"));
    let parameters =
        known.as_object().expect("it is a map").iter().map(|(name, value)| format!("\"{name}\" = {value}\n"));
    let text = format!("[parameters]\n{}", parameters.collect::<String>());
    std::fs::write(&settings, text).expect("the directory for test files is writable");
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(settings)
        .args(["run", &format!("{url}/openapi.json"), "--url", &url])
        .args(["--header", &format!("Authorization: Bearer {}", admin("root"))])
        .args(["--checks", CHECKS, "--max-examples", EXAMPLES, "--phases", "examples,fuzzing", "--seed", "1"])
        .args(["--generation-database", "none", "--no-color", "--workers", "1", "--request-timeout", "20"])
        .args(selection)
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = run.await.expect("it is waited for").expect("schemathesis starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("Unresolvable references"), "{said}");
}

async fn no_made_up_request_gets_a_server_error_or_an_answer_that_is_not_documented(kept: Kept) {
    let product = kept.product("document", json!({ "logging": { "level": "warn" } })).await;
    judge(&product, &format!("anything-{kept:?}"), &json!({}), &[]).await;
}

/// Beyond the checks that an id exists.
async fn no_made_up_request_about_a_live_stream_gets_an_answer_that_is_not_documented(kept: Kept) {
    let product = kept.product("document-live", json!({ "logging": { "level": "warn" } })).await;
    let started = product.go_live("root").await;
    let room = started["roomName"].as_str().expect("it is told");
    let ack = user(&product, room, &token("bob")).await.ask("chat:message", json!({ "text": "hello" })).await;
    let known = json!({
        "path.id": started["streamId"], "path.messageId": ack.expect("it is answered")["id"], "path.userId": "bob",
    });
    judge(
        &product,
        &format!("live-{kept:?}"),
        &known,
        &["--include-path-regex", r"\{id\}", "--exclude-path-regex", "/end$"],
    )
    .await;
}

#[tokio::test]
async fn everything_that_the_document_refers_to_is_in_it() {
    let product = Product::start("references", json!({})).await;
    let document = product.http().get(format!("{}/openapi.json", product.ports.url())).send().await;
    let document = document.expect("it answers").bytes().await.expect("it has a body");
    let document: Value = serde_json::from_slice(&document).expect("it is JSON");
    let mut missing = Vec::new();
    dangling(&document, &document, &mut missing);
    assert!(missing.is_empty(), "{missing:?}");
}

/// References below `value` that lead nowhere.
fn dangling(document: &Value, value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let target = fields.get("$ref").and_then(Value::as_str);
            found.extend(target.filter(|target| document.pointer(&target[1..]).is_none()).map(str::to_owned));
            fields.values().for_each(|value| dangling(document, value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| dangling(document, value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
