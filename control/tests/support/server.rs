//! A server process of our own on free ports of loopback: started, killed, started again, told to end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{binary, ports};

/// The only API key that the server knows.
pub const API_KEY: &str = "devkey";

/// Its secret, long enough for clients that warn of short ones.
pub const API_SECRET: &str = "a-secret-for-tests-of-clients-only-0123456789";

/// Longest time from the start of the process to its first `OK`.
const START_MAX: Duration = Duration::from_secs(15);

/// Longest time from SIGTERM to the exit: the default drain deadline of 10 s, and as much again for a busy machine.
const DRAIN_MAX: Duration = Duration::from_secs(20);

/// How much of the server's log a failure shows: lines from its end, and characters of each.
const LOG_LINES: usize = 150;
const LOG_COLUMNS: usize = 400;

/// A server under test. It dies with this value.
pub struct Server {
    ports: Ports,
    log: PathBuf,
    process: Option<Child>,
}

struct Ports {
    http: u16,
    tcp: u16,
    udp: u16,
}

impl Server {
    /// Starts a server on free ports, whose log goes into a file of the given name.
    pub fn start(name: &str) -> Self {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.server.log"));
        File::create(&log).expect("the directory for test files is writable");
        // Of an earlier run.
        let _ = std::fs::remove_dir_all(log.with_extension("store"));
        let mut server = Self { ports: Ports::free(), log, process: None };
        server.start_again();
        server
    }

    /// The URL that clients join.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.ports.http)
    }

    /// The end of the server's log, long lines cut.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        tail.iter().map(|line| line.chars().take(LOG_COLUMNS).collect::<String>() + "\n").collect()
    }

    /// Starts it on the ports it had, and waits until it answers.
    pub fn start_again(&mut self) {
        let binary = binary::path();
        let log = File::options().append(true).open(&self.log).expect("the log was made");
        let process = Command::new(&binary)
            .args(["--keys", &format!("{API_KEY}: {API_SECRET}"), "--bind", "127.0.0.1"])
            .args(["--config-body", &self.ports.config()])
            .env("LIVEKIT_STORE_PATH", self.log.with_extension("store"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{binary} does not start: {error}"));
        self.process = Some(process);
        let begin = Instant::now();
        while self.health().is_err() {
            assert!(begin.elapsed() < START_MAX, "no OK within {START_MAX:?}:\n{}", self.log_tail());
            let exited = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            assert!(exited.is_none(), "the server ended at its start, {exited:?}:\n{}", self.log_tail());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it without a word to anybody.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child can be killed");
            process.wait().expect("a child can be waited for");
        }
    }

    /// Tells it to end (SIGTERM), and waits for its exit.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the server runs");
        signal("TERM", &process.id().to_string());
        let begin = Instant::now();
        loop {
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                return status;
            }
            if begin.elapsed() > DRAIN_MAX {
                process.kill().expect("a child can be killed");
                process.wait().expect("a child can be waited for");
                panic!("still running {DRAIN_MAX:?} after SIGTERM:\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn health(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.ports.http))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Ports {
    fn free() -> Self {
        Self { http: ports::free(), tcp: ports::free(), udp: ports::free() }
    }

    /// Understood by Onair and by livekit-server.
    fn config(&self) -> String {
        let Self { http, tcp, udp } = self;
        format!(
            "port: {http}\nrtc:\n  tcp_port: {tcp}\n  udp_port: {udp}\n  node_ip: 127.0.0.1\nlogging:\n  level: info\n"
        )
    }
}

/// Sends a signal by its name to a process, or to a group of them when the id starts with `-`.
pub fn signal(name: &str, id: &str) {
    // The group may be gone already, which is what was wanted.
    let _ = Command::new("sh").args(["-c", "kill -s \"$0\" -- \"$1\"", name, id]).stderr(Stdio::null()).status();
}
