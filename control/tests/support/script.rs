//! Runs a client's script against a server, and does to the server what the script asks for.
//!
//! A line `@server kill`, `@server start` or `@server terminate` on the script's standard output is such a request;
//! `done` on its standard input is the answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::{API_KEY, API_SECRET, Server, signal};

/// Longest run of one script. The slowest takes half a minute on two idle cores.
const RUN_MAX: Duration = Duration::from_secs(180);

/// Scripts run one at a time: each encodes video, and they judge what arrives in time.
static TURN: Mutex<()> = Mutex::new(());

/// Who does to the server what a script asks for.
pub trait Keeper {
    fn serve(&mut self, request: &str) -> Result<(), String>;

    /// The end of the server's log.
    fn log_tail(&self) -> String;
}

impl Keeper for Server {
    fn serve(&mut self, request: &str) -> Result<(), String> {
        match request {
            "kill" => self.kill(),
            "start" => self.start_again(),
            "terminate" => {
                let status = self.terminate();
                if !status.success() {
                    return Err(format!("the server ended with {status} after SIGTERM"));
                }
            }
            other => return Err(format!("the script asked for {other:?}")),
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        Server::log_tail(self)
    }
}

/// Fails if a part of `tests/clients` is not made from what is there now: a test with an old one would say nothing of
/// the new. `mark` holds what it was made from.
pub fn assert_made(part: &str, mark: &str, sources: &[&str]) {
    let read = |name: &str| std::fs::read(directory().join(name)).ok();
    let now: Option<Vec<u8>> =
        sources.iter().map(|source| read(source)).collect::<Option<Vec<_>>>().map(|all| all.concat());
    assert!(now.is_some() && read(mark) == now, "{part} are missing or older than {sources:?}: run `make setup`");
}

/// A program under `tests/clients` that judges a server with a LiveKit client, and exits with 0 if it stands.
pub struct Script {
    command: Command,
    name: String,
}

impl Script {
    /// A script for the Python SDK.
    pub fn python(file: &str, arguments: &[&str]) -> Self {
        assert_made("the Python packages", ".venv/made-from", &["requirements.txt"]);
        Self::python_of(".venv", file, arguments)
    }

    /// A script for the Python of that virtual environment.
    pub fn python_of(environment: &str, file: &str, arguments: &[&str]) -> Self {
        Self::new(&directory().join(environment).join("bin/python"), file, arguments)
    }

    /// A script for the JavaScript SDKs.
    pub fn node(file: &str, arguments: &[&str]) -> Self {
        assert_made("the npm packages", "node_modules/made-from", &["package-lock.json"]);
        Self::new(Path::new("node"), file, arguments)
    }

    fn new(interpreter: &Path, file: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(interpreter);
        command.arg(directory().join(file)).args(arguments).current_dir(directory());
        command.env("LIVEKIT_API_KEY", API_KEY).env("LIVEKIT_API_SECRET", API_SECRET).env("PYTHONUNBUFFERED", "1");
        let name = [&[file], arguments].concat().join("-").replace(['.', '/'], "-");
        Self { command, name }
    }

    /// Runs it against a server of its own. Fails with its output and the server's log.
    pub fn passes(self) {
        let mut server = Server::start(&self.name);
        let url = server.url();
        self.with("LIVEKIT_URL", &url).passes_on(&mut server);
    }

    /// Sets a variable of its environment.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it against that server.
    pub fn passes_on(self, server: &mut dyn Keeper) {
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut run = Run::start(self.command);
        if let Err(failure) = run.finish(server) {
            panic!(
                "{}: {failure}\n--- the script said\n{}\n--- the server logged\n{}",
                self.name,
                run.output.join("\n"),
                server.log_tail()
            );
        }
    }
}

/// A running script.
pub struct Run {
    process: Child,
    lines: Receiver<String>,
    pub output: Vec<String>,
}

impl Run {
    pub fn start(mut command: Command) -> Self {
        // A group of its own, so that the browsers it starts can be ended with it.
        let spawned =
            command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut process = spawned.unwrap_or_else(|error| {
            panic!("{} does not start ({error}): run `make setup`", command.get_program().display())
        });
        let (sender, lines) = mpsc::channel();
        send_lines(process.stdout.take(), sender.clone());
        send_lines(process.stderr.take(), sender);
        Self { process, lines, output: Vec::new() }
    }

    /// Serves its requests until it ends.
    pub fn finish(&mut self, server: &mut dyn Keeper) -> Result<(), String> {
        let deadline = Instant::now() + RUN_MAX;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let request = line.strip_prefix("@server ").map(str::to_owned);
                    self.output.push(line);
                    if let Some(request) = request {
                        self.serve(&request, server)?;
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(format!("not done within {RUN_MAX:?}")),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.process.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("ended with {status}")) }
    }

    fn serve(&mut self, request: &str, server: &mut dyn Keeper) -> Result<(), String> {
        server.serve(request)?;
        let stdin = self.process.stdin.as_mut().ok_or("the script has no standard input")?;
        stdin.write_all(b"done\n").and_then(|()| stdin.flush()).map_err(|error| format!("no answer possible: {error}"))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        signal("KILL", &format!("-{}", self.process.id()));
        // It was killed at the latest just now.
        let _ = self.process.wait();
    }
}

/// Sends each line of the stream, from a thread that ends with the stream.
fn send_lines(stream: Option<impl Read + Send + 'static>, sender: Sender<String>) {
    let stream = stream.expect("it was piped");
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                break;
            }
        }
    });
}

/// Where the scripts are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}
