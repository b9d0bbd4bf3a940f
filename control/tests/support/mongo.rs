//! A server of MongoDB's protocol for tests: a SecantusDB of our own, or the one that `MONGODB_URI` names.
//!
//! A test has a database of its own. Without any server it fails and says what to do: it is never left out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mongodb::bson::oid::ObjectId;

use crate::ports;

/// Names the server to test against, such as a real MongoDB. Its databases `onair_test_…` are left behind.
const URI_VARIABLE: &str = "MONGODB_URI";

/// Longest time from the start of the process until it listens. It takes 2 s on an idle machine.
const START_MAX: Duration = Duration::from_secs(60);

/// What the server says when it listens, before its address.
const LISTENS: &str = "listening on 127.0.0.1:";

/// Servers that the tests of a process share, as each has work for one core.
const SHARED: usize = 2;

/// The URI of a server that other tests of this process use too. Each call may name another one.
pub fn shared_uri() -> String {
    static SERVERS: [OnceLock<MongoServer>; SHARED] = [const { OnceLock::new() }; SHARED];
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::env::var(URI_VARIABLE).unwrap_or_else(|_| {
        let next = NEXT.fetch_add(1, Ordering::Relaxed) % SHARED;
        SERVERS[next].get_or_init(MongoServer::start).uri()
    })
}

/// A name that no other test gives to its database.
pub fn fresh_database() -> String {
    format!("onair_test_{}", ObjectId::new())
}

/// A server of a test's own, with its data in a directory. Both go with this value, and with the process.
pub struct MongoServer {
    directory: PathBuf,
    port: u16,
    process: Option<Child>,
    arguments: Vec<String>,
}

impl MongoServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more arguments for the server.
    pub fn start_with(arguments: &[&str]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("mongo-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&directory).expect("the directory for test files is writable");
        let mut server = Self {
            directory,
            port: ports::free(),
            process: None,
            arguments: arguments.iter().map(ToString::to_string).collect(),
        };
        server.start_again();
        server
    }

    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/", self.port)
    }

    /// Ends it without a chance to tidy up, as `kill -9` does.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child can be killed");
            process.wait().expect("a child can be waited for");
        }
    }

    /// Starts it on its port and its data, and waits until it listens.
    pub fn start_again(&mut self) {
        self.stop();
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let log = File::create(self.log()).expect("the directory was made");
        let spawned = Command::new(clients.join(".venv/bin/python"))
            .arg(clients.join("mongo.py"))
            .arg(self.port.to_string())
            .arg(&self.directory)
            .args(&self.arguments)
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let process = spawned.unwrap_or_else(|error| {
            panic!("no server of MongoDB's protocol here ({error}): run `make setup`, or set {URI_VARIABLE}")
        });
        self.process = Some(process);
        self.port = self.wait_until_it_listens();
    }

    /// Stops its threads where they are: connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.signal("STOP");
        // The signal is on its way until each thread has stopped, and some may still answer.
        let threads = format!("/proc/{}/task", self.process.as_ref().expect("it runs").id());
        let has_stopped = |thread: &fs::DirEntry| {
            // pid (name) state …
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 't']))
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_dir(&threads).expect("it is there").flatten().all(|thread| has_stopped(&thread)) {
            assert!(Instant::now() < deadline, "it does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.process.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} was not sent");
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn wait_until_it_listens(&mut self) -> u16 {
        let begin = Instant::now();
        loop {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let port = log.lines().find_map(|line| line.split_once(LISTENS)?.1.trim().parse().ok());
            if let Some(port) = port {
                return port;
            }
            let exited = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            let advice = "run `make setup` if something is missing";
            assert!(exited.is_none(), "the MongoDB of the tests ended, {exited:?}; {advice}:\n{log}");
            assert!(
                begin.elapsed() < START_MAX,
                "the MongoDB of the tests does not listen after {START_MAX:?}:\n{log}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for MongoServer {
    fn drop(&mut self) {
        self.stop();
        // What is left over is in the directory of test files.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
