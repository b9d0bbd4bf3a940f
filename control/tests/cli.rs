//! The binary as an operator meets it: what it says when it cannot start, how it starts and how it ends.

#[path = "support/ports.rs"]
mod ports;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

fn onair(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onair"));
    command.args(arguments);
    for name in ["LIVEKIT_KEYS", "LIVEKIT_CONFIG", "LIVEKIT_REGION", "NODE_IP", "UDP_PORT"] {
        command.env_remove(name);
    }
    command
}

fn output(arguments: &[&str]) -> Output {
    onair(arguments).output().unwrap()
}

/// Runs to a failure, and gives what it said.
fn failure(arguments: &[&str]) -> String {
    let output = output(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn success(arguments: &[&str]) -> String {
    let output = output(arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Configuration with ports that nobody else uses.
fn free_ports() -> (u16, String) {
    let [http, media, metrics, udp] = [(); 4].map(|()| ports::free());
    let yaml =
        format!("{{port: {http}, prometheus: {{port: {metrics}}}, rtc: {{tcp_port: {media}, udp_port: {udp}}}}}");
    (http, yaml)
}

/// A server in development mode. It is killed with this value.
struct Running {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Running {
    fn start(yaml: &str) -> Self {
        Self::of(&mut onair(&["--dev", "--config-body", yaml]))
    }

    fn of(command: &mut Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        Self { process, said }
    }

    /// The line that holds `mark`.
    fn line_with(&mut self, mark: &str) -> String {
        let mut line = String::new();
        while !line.contains(mark) {
            line.clear();
            assert_ne!(self.said.read_line(&mut line).unwrap(), 0, "it ended before it said {mark:?}");
        }
        line
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn without_keys_it_says_how_to_make_some() {
    let said = failure(&[]);

    assert!(said.contains("onair generate-keys") && said.contains("LIVEKIT_KEYS") && said.contains("--dev"), "{said}");
}

#[test]
fn a_taken_port_is_named_with_its_setting() {
    let (_, yaml) = free_ports();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = failure(&["--dev", "--config-body", &yaml, "--bind", "127.0.0.1", "--prometheus.port", &port]);

    assert!(said.contains(&port) && said.contains("is taken") && said.contains("set prometheus.port"), "{said}");
}

/// As on a system without the package ca-certificates.
fn without_ca_certificates(arguments: &[&str]) -> Command {
    let mut command = onair(arguments);
    command.env("SSL_CERT_FILE", "/nonexistent/ca.pem").env_remove("SSL_CERT_DIR");
    command
}

#[test]
fn a_system_without_ca_certificates_is_told_so_wherever_https_is_called() {
    let (_, ports) = free_ports();
    for settings in [
        "--auth.jwks_url https://id.invalid/keys",
        "--webhook.api_key devkey --webhook.urls [http://127.0.0.1:1/,https://app.invalid/]",
        "--sfu.mode external --sfu.url wss://sfu.invalid --sfu.api_key other --sfu.api_secret of-the-other-server",
    ] {
        let arguments: Vec<_> =
            ["--dev", "--config-body", &ports].into_iter().chain(settings.split_whitespace()).collect();
        let output = without_ca_certificates(&arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();

        assert_eq!(output.status.code(), Some(1), "{settings}: {said}");
        for part in ["there are no CA certificates on this system", ".invalid", "/nonexistent/ca.pem", "SSL_CERT_FILE"]
        {
            assert!(said.contains(part), "{settings}: {part:?} is not in {said}");
        }
    }
}

#[test]
fn calls_without_https_need_no_ca_certificates() {
    let (_, ports) = free_ports();
    let arguments = ["--dev", "--config-body", &ports, "--webhook.api_key", "devkey"];
    let calls = ["--webhook.urls", "[http://127.0.0.1:1/]", "--auth.jwks_url", "http://127.0.0.1:1/keys"];
    let mut command = without_ca_certificates(&[&arguments[..], &calls].concat());
    let mut server = Running::of(&mut command);

    server.line_with("token for a day");
}

#[test]
fn an_unknown_key_stops_it_unless_told_otherwise() {
    assert!(failure(&["--dev", "--config-body", "prot: 1"]).contains("unknown key prot: did you mean port?"));
    success(&["ports", "--dev", "--disable-strict-config", "--config-body", "prot: 1"]);
}

#[test]
fn a_file_that_is_missing_is_named() {
    assert!(failure(&["--config", "/nonexistent.yaml"]).contains("/nonexistent.yaml"));
}

#[test]
fn generated_keys_can_be_used_at_once() {
    let said = success(&["generate-keys"]);
    let value = |mark: &str| said.lines().find_map(|line| line.strip_prefix(mark)).unwrap().trim().to_owned();
    let keys = format!("{}: {}", value("API Key:"), value("API Secret:"));
    let token = success(&["create-join-token", "--room", "r", "--identity", "i", "--keys", &keys]);

    assert_eq!(token.trim().strip_prefix("Token: ").unwrap().split('.').count(), 3);
}

#[test]
fn it_greets_with_a_token_that_joins_and_ends_well_when_told_to() {
    let (port, yaml) = free_ports();
    let mut server = Running::start(&yaml);
    let token = server.line_with("token for a day").split_whitespace().last().unwrap().to_owned();

    assert!(get(port, &format!("/rtc/validate?access_token={token}")).ends_with("success"));
    assert_eq!(success(&["health", "--dev", "--config-body", &yaml]), "OK\n");
    server.signal("TERM");
    assert_eq!(server.process.wait().unwrap().code(), Some(0));
    assert!(failure(&["health", "--dev", "--config-body", &yaml]).contains("does not answer"));
}

#[test]
fn a_closed_terminal_and_signals_of_nobodys_end_no_server() {
    let (port, yaml) = free_ports();
    let mut server = Running::start(&yaml);
    server.line_with("HTTP and WebSocket");
    for name in ["HUP", "USR1", "USR2"] {
        server.signal(name);
    }

    // Signals are delivered before a process ends by a later one.
    assert!(get(port, "/").ends_with("OK"));
    server.signal("TERM");
    assert_eq!(server.process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_start_that_fails_is_a_json_line_where_the_log_is_json() {
    let (_, yaml) = free_ports();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let arguments =
        ["--dev", "--logging.json", "--config-body", &yaml, "--bind", "127.0.0.1", "--prometheus.port", &port];
    let said = failure(&arguments);

    let lines: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let last = lines.last().unwrap();
    assert_eq!((&last["level"], &last["message"]), (&"ERROR".into(), &"cannot serve".into()));
    assert!(last["cause"].as_str().is_some_and(|cause| cause.contains("is taken")), "{last}");
}

#[test]
fn metrics_are_prometheus_text() {
    let (_, yaml) = free_ports();
    let mut server = Running::start(&yaml);
    let line = server.line_with("metrics");
    let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
    let answer = get(port, "/metrics");

    assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
    for name in ["livekit_room_total", "livekit_participant_total", "livekit_track_published_total"] {
        assert!(answer.contains(&format!("\n{name}{{node_id=\"ND_")), "{name} is not in {answer}");
    }
}
