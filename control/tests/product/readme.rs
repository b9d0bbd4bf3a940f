//! README.md's commands and snippets, as somebody pastes them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::product::{PATIENCE, Product, token};

const README: &str = include_str!("../../../README.md");
const MAKEFILE: &str = include_str!("../../../Makefile");

/// The section whose commands are for a server that runs.
const TRIAL: &str = "## Try it";

/// Where that section expects the server.
const EXPECTED: &str = "localhost:7880";

/// The code blocks in one language, in order.
fn blocks(text: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("\n```{language}\n");
    let block = |rest: &'static str| rest.split_once("\n```\n").expect("a block that begins also ends").0;
    text.split(&fence).skip(1).map(block).collect()
}

fn trial() -> &'static str {
    let text = README.split_once(TRIAL).expect("the section is there").1;
    text.split("\n## ").next().expect("a split has a first part")
}

/// Leads calls of the address in README.md to the server of the test.
fn curl_that_calls(server: &Product, directory: &Path) {
    let port = server.ports.http;
    let path = std::env::var("PATH").expect("programs are found by it");
    let script = format!("#!/bin/sh\nPATH='{path}' exec curl --connect-to {EXPECTED}:127.0.0.1:{port} \"$@\"\n");
    fs::create_dir_all(directory).expect("the directory for test files is writable");
    fs::write(directory.join("curl"), script).expect("so are files in it");
    fs::set_permissions(directory.join("curl"), fs::Permissions::from_mode(0o755)).expect("it is ours");
}

/// What `program` said. It is ended when it takes too long.
async fn output_of(program: &str, set_up: impl FnOnce(&mut Command) + Send + 'static) -> Output {
    let mut command = Command::new("timeout");
    command.args([&PATIENCE.as_secs().to_string(), program]).stdin(Stdio::null());
    set_up(&mut command);
    let running = tokio::task::spawn_blocking(move || command.output());
    running.await.expect("it does not panic").expect("every Linux has timeout, of coreutils")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commands_of_the_readme_work_when_they_are_pasted() {
    let server = Product::start("readme-commands", json!({})).await;
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("readme-tools-{}", std::process::id()));
    curl_that_calls(&server, &tools);
    let commands: Vec<_> = blocks(trial(), "sh").into_iter().filter(|block| !block.starts_with("make ")).collect();
    assert_eq!(commands.len(), 2, "one block that starts a stream, one that stops it");

    // `set -e` finds the command that fails; nothing else is added to what a reader would paste.
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").expect("programs are found by it"));
    let set_up = move |shell: &mut Command| {
        shell.args(["-e", "-c", &commands.join("\n")]).env_clear().env("PATH", path);
    };
    let output = output_of("sh", set_up).await;
    let _ = fs::remove_dir_all(&tools);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "it needs curl and jq, which `make setup` installs: {said}");
    let answers: Vec<Value> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}: {}{said}", String::from_utf8_lossy(&output.stdout)));

    let [started, active, watched, stopped] = answers.as_slice() else { panic!("four answers, not {answers:#?}") };
    assert_eq!(started["url"], format!("ws://{EXPECTED}"));
    let listed = &active["streams"][0];
    assert_eq!((&listed["streamId"], &listed["state"]), (&started["streamId"], &json!("starting")), "{active}");
    assert_eq!((&watched["roomName"], &watched["title"]), (&started["roomName"], &json!("My stream")), "{watched}");
    assert!(started["token"].is_string() && watched["token"].is_string() && started["token"] != watched["token"]);
    assert_eq!((&stopped["stream"]["state"], &stopped["alreadyEnded"]), (&json!("ended"), &json!(false)), "{stopped}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chat_of_the_readme_takes_the_users_token() {
    let server = Product::start("readme-chat", json!({})).await;
    let stream = server.go_live("ana").await;
    let snippet = blocks(trial(), "js").into_iter().find(|block| block.contains("chat:message"));
    let snippet = snippet.expect("it shows the chat").replace(EXPECTED, &format!("127.0.0.1:{}", server.ports.http));
    let (room, user) = (&stream["roomName"], json!(token("ben")));

    // Both come back to whom they are from; a refusal comes as one of the last two.
    let script = format!(
        "const roomName = {room}, userToken = {user};\n{snippet}\n\
         let waiting = 2;\n\
         for (const sent of ['chat:message', 'reaction']) socket.once(sent, () => --waiting || process.exit(0));\n\
         const refused = ({{ message, error }}) => {{ console.error(message, error); process.exit(1); }};\n\
         for (const refusal of ['connect_error', 'chat:error']) socket.on(refusal, refused);"
    );
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let set_up = move |node: &mut Command| {
        node.args(["--input-type=module", "--eval", &script]).current_dir(clients);
    };
    let output = output_of("node", set_up).await;

    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Hello!"), "{output:?}");
}

#[test]
fn the_readme_names_only_verbs_that_make_has() {
    let lines = blocks(README, "sh").into_iter().flat_map(str::lines);
    let verbs: Vec<_> = lines.filter_map(|line| line.strip_prefix("make ")?.split([' ', '#']).next()).collect();

    assert!(verbs.len() > 3, "{verbs:?}");
    for verb in verbs {
        assert!(MAKEFILE.contains(&format!("\n{verb}:")), "make {verb}");
    }
}

#[test]
fn the_links_of_the_readme_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace");
    for page in ["README.md", "deploy/README.md", "docs/from-express.md"] {
        let text = fs::read_to_string(root.join(page)).expect("the page is there");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { root.join(page) } else { root.join(page).with_file_name(file) };
            let found = fs::read_to_string(&path).unwrap_or_else(|error| {
                assert!(path.is_dir(), "{page}: {target}: {error}");
                String::new()
            });
            let headings = found.lines().filter(|line| line.starts_with('#'));
            let mut anchors = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"));
            assert!(heading.is_empty() || anchors.any(|anchor| anchor == heading), "{page}: {target}");
        }
    }
}
