//! Programs of other WebRTC stacks, two in a room, by the command line that `tests/clients/README.md` sets down.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::late;
use crate::script::{Keeper, Run, assert_made, directory};
use crate::server::{API_KEY, API_SECRET, Server};
use crate::table::{Row, Seen};

/// After how many seconds a program gives up: far above what it takes, as others load the machine.
const SECONDS: &str = "150";
/// How much later than media descriptions come where they are late.
const LATE: Duration = Duration::from_millis(300);
/// Far above what joining takes.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// How long a token of a test is good for, in seconds.
const TOKEN_SECONDS: u64 = 3600;

/// How a client is connected: two peer connections on `/rtc`, or one on `/rtc/v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    V0,
    V1,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::V0 => "v0",
            Self::V1 => "v1",
        }
    }
}

/// One row of the table: a program, and what it speaks.
pub struct Client {
    /// As the table names it.
    pub name: &'static str,
    /// Whose WebRTC it is.
    pub stack: &'static str,
    pub modes: &'static [Mode],
    pub program: Program,
    /// Where it is not asked to resume as a viewer: no media would come to it any more, from LiveKit's server either.
    pub views_without_resume: &'static [Mode],
    /// Whether its SDK is older than topics of data messages.
    pub without_topics: bool,
}

/// What is started.
pub enum Program {
    /// A script for the Python of a virtual environment, by its folder in `tests/clients`.
    Python(&'static str, &'static [&'static str]),
    /// A script for node.
    Node(&'static [&'static str]),
    /// A program that was built.
    Built(PathBuf),
}

impl Program {
    fn command(&self) -> Command {
        match self {
            Self::Python(".venv", _) => assert_made("the Python packages", ".venv/made-from", &["requirements.txt"]),
            Self::Node(_) => assert_made("the npm packages", "node_modules/made-from", &["package-lock.json"]),
            Self::Python(..) | Self::Built(_) => {}
        }
        let mut command = match self {
            Self::Python(environment, _) => Command::new(directory().join(environment).join("bin/python")),
            Self::Node(_) => Command::new("node"),
            Self::Built(path) => Command::new(path),
        };
        match self {
            Self::Python(_, arguments) | Self::Node(arguments) => command.args(*arguments),
            Self::Built(_) => &mut command,
        };
        command.current_dir(directory());
        command
    }
}

/// The other end: the SDK whose decoder reads the numbers of frames. It leaves its own resume out, which is slow.
fn partner(without_topics: bool) -> Program {
    Program::Python(
        ".venv",
        if without_topics {
            &["stack_python.py", "--no-resume", "--no-topics"]
        } else {
            &["stack_python.py", "--no-resume"]
        },
    )
}

/// Has the client publish for the other end and view what that publishes, in each mode, and looks it up in the table.
///
/// # Panics
///
/// When it did less than the table says of it, with all that both programs and the server said.
pub fn stands(client: &Client) {
    let mut row = Row::new(client.name, client.stack);
    let mut failures = Vec::new();
    for &mode in client.modes {
        let server = Server::start(&format!("stack-{}-{}", client.name.replace(' ', "-"), mode.name()));
        let rooms = Rooms { viewers_url: server.url(), server: &server, mode };
        let other = partner(client.without_topics);
        let (published, viewed) = thread::scope(|scope| {
            let published = scope.spawn(|| rooms.pair("publish", &[], &client.program, &other));
            let more: &[_] = if client.views_without_resume.contains(&mode) { &["--no-resume"] } else { &[] };
            let viewed = rooms.pair("view", more, &other, &client.program);
            (published.join().expect("it does not panic"), viewed)
        });
        row.saw(mode, Seen::of(&published.publisher, &published.viewer, &viewed.viewer));
        row.version = version(&published.publisher).or(row.version);
        for pair in [published, viewed].into_iter().filter(|pair| !pair.passed()) {
            failures.push(format!("{}\n--- the server logged\n{}", pair.said, server.log_tail()));
        }
    }
    row.is_as_committed(&failures.join("\n"));
}

/// Has the client view over a connection on which each description of ours comes after the media that it is of.
///
/// # Panics
///
/// When it is shown nothing.
pub fn views_early_media(client: &Client, mode: Mode) {
    let server = Server::start(&format!("early-{}-{}", client.name.replace(' ', "-"), mode.name()));
    let viewers_url = late::way_to(&server.url(), LATE);
    let rooms = Rooms { viewers_url, server: &server, mode };
    let pair = thread::scope(|scope| {
        let viewer = scope.spawn(|| rooms.run("view", "early", &["--no-resume"], &client.program));
        // What is there when it comes stands in its first answer, without which it is not connected.
        await_joined(&server, "view");
        let publisher = rooms.run("publish", "early", &[], &partner(client.without_topics));
        rooms.judge("early", &publisher, &viewer.join().expect("it does not panic"))
    });
    assert!(pair.passed(), "{}\n--- the server logged\n{}", pair.said, server.log_tail());
}

/// Waits until the log says that a participant is there.
fn await_joined(server: &Server, identity: &str) {
    let begin = Instant::now();
    let is_joined = |line: &str| line.contains("participant joined") && line.contains(identity);
    while !server.log_tail().lines().any(is_joined) {
        assert!(begin.elapsed() < JOIN_MAX, "{identity} has not joined:\n{}", server.log_tail());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Says on the terminal that a client is not here, and goes on: a bare machine passes without it.
pub fn skip(name: &str, why: &str) {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    // Not by `eprintln!`, which the test harness keeps to itself.
    let _ = std::io::Write::write_all(
        &mut std::io::stderr(),
        format!("clients: SKIPPED {name}, {count} skipped so far: {why}\n").as_bytes(),
    );
}

fn version(report: &Value) -> Option<String> {
    report["detail"]["version"].as_str().map(str::to_owned)
}

/// Where pairs meet.
struct Rooms<'a> {
    server: &'a Server,
    /// Where viewers reach it.
    viewers_url: String,
    mode: Mode,
}

/// What two programs reported.
struct Pair {
    publisher: Value,
    viewer: Value,
    said: String,
}

impl Pair {
    fn passed(&self) -> bool {
        self.publisher["ok"] == true && self.viewer["ok"] == true
    }
}

impl Rooms<'_> {
    /// One publishes, the other one views, with more arguments; `name` is that of their room.
    fn pair(&self, name: &str, more: &[&str], publisher: &Program, viewer: &Program) -> Pair {
        let (publisher, viewer) = thread::scope(|scope| {
            let publisher = scope.spawn(|| self.run("publish", name, &[], publisher));
            let viewer = self.run("view", name, more, viewer);
            (publisher.join().expect("it does not panic"), viewer)
        });
        self.judge(name, &publisher, &viewer)
    }

    /// What they said in this room.
    fn judge(&self, room: &str, publisher: &[String], viewer: &[String]) -> Pair {
        let said = [("publisher", publisher), ("viewer", viewer)]
            .map(|(role, output)| format!("--- {room}, {}: the {role} said\n{}", self.mode.name(), output.join("\n")));
        Pair { publisher: report(publisher), viewer: report(viewer), said: said.join("\n") }
    }

    fn run(&self, role: &str, room: &str, more: &[&str], program: &Program) -> Vec<String> {
        let url = if role == "view" { &self.viewers_url } else { &self.server.url() };
        let mut command = program.command();
        command.args([role, "--url", url, "--token", &token(room, role)]);
        command.args(["--mode", self.mode.name(), "--seconds", SECONDS]).args(more);
        let mut run = Run::start(command);
        // Its report says more than its exit status.
        if let Err(failure) = run.finish(&mut Nobody) {
            run.output.insert(0, failure);
        }
        std::mem::take(&mut run.output)
    }
}

/// The last line that is a report; nothing at all if there is none.
fn report(output: &[String]) -> Value {
    output.iter().rev().find_map(|line| serde_json::from_str(line).ok().filter(Value::is_object)).unwrap_or_default()
}

/// For programs that ask nothing of the test.
struct Nobody;

impl Keeper for Nobody {
    fn serve(&mut self, request: &str) -> Result<(), String> {
        Err(format!("it asked for {request:?}"))
    }

    fn log_tail(&self) -> String {
        String::new()
    }
}

fn token(room: &str, identity: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
    let claims = json!({
        "iss": API_KEY, "sub": identity, "name": identity, "nbf": now.saturating_sub(60), "exp": now + TOKEN_SECONDS,
        "video": { "roomJoin": true, "room": room },
    });
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(API_SECRET.as_bytes()))
        .expect("plain claims can be signed")
}
