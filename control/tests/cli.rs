//! The binary as an operator meets it: what it says when it cannot start, how it starts and how it ends.

#[path = "support/ports.rs"]
mod ports;
#[path = "cli/store.rs"]
mod store;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

/// Longest wait for an answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn onair(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onair"));
    command.args(arguments);
    without_settings(command)
}

/// As [`onair`], within a limit that `ulimit` sets.
fn onair_within(limit: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_onair")]);
    command.args(arguments);
    without_settings(command)
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("LIVEKIT_") || ["NODE_IP", "UDP_PORT", "FEATURE_GO_LIVE"].contains(&&*text) {
            command.env_remove(name);
        }
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
        Self::start_with(&[], yaml)
    }

    fn start_with(arguments: &[&str], yaml: &str) -> Self {
        Self::of(&mut onair(&[&["--dev", "--config-body", yaml], arguments].concat()))
    }

    /// One whose log is read at its end, so a short one.
    fn start_logging(arguments: &[&str], yaml: &str) -> Self {
        let arguments = [&["--dev", "--config-body", yaml, "--log_level", "warn"], arguments].concat();
        Self::spawn(&mut onair(&arguments), Stdio::piped())
    }

    fn of(command: &mut Command) -> Self {
        Self::spawn(command, Stdio::null())
    }

    fn spawn(command: &mut Command, log: Stdio) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        Self { process, said }
    }

    /// Ends it, and gives what it logged.
    fn log_to_the_end(&mut self) -> String {
        self.process.kill().unwrap();
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
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
    get_with(port, path, "Host: 127.0.0.1\r\n")
}

fn get_with(port: u16, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of a counter on a page of metrics.
fn counter(page: &str, name: &str) -> u64 {
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit(' ').next().unwrap().trim().parse().unwrap()
}

#[test]
fn a_server_that_runs_out_of_files_still_answers_and_takes_everybody_in_afterwards() {
    let [http, media, metrics, udp] = [(); 4].map(|()| ports::free());
    let yaml = format!(
        "{{port: {http}, bind_addresses: [127.0.0.1], prometheus: {{port: {metrics}}}, \
         rtc: {{tcp_port: {media}, udp_port: {udp}, node_ip: 127.0.0.1, workers: 1}}}}"
    );
    let mut server = Running::of(&mut onair_within("-n 100", &["--dev", "--config-body", &yaml]));
    server.line_with("token for a day");
    let connect = |port: u16| {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let ran_out = |page: &str| {
        ["onair_http_accept_pauses_total", "onair_accept_pauses_total"].map(|name| counter(page, name) > 0)
    };
    // When connections are accepted is the server's affair: once more, if it was quicker or slower than we.
    let ran_out = (0..10).any(|_| {
        let _silent: Vec<_> = (0..300).map(|_| connect(http)).collect();
        let mut known = connect(http);
        known.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        known.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let waiting: Vec<_> = (0..16).map(|_| connect(media)).collect();
        drop((_silent, known));
        for mut connection in waiting {
            // The end comes to those who say nothing, once they were accepted.
            assert!(matches!(connection.read(&mut [0]), Ok(0)), "it was never accepted");
        }
        ran_out(&get(metrics, "/metrics")) == [true, true]
    });

    assert!(ran_out);
    assert!(get(http, "/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn without_keys_it_says_how_to_make_some() {
    let said = failure(&[]);

    assert!(said.contains("onair generate-keys") && said.contains("LIVEKIT_KEYS") && said.contains("--dev"), "{said}");
}

#[test]
fn a_secret_that_can_be_guessed_stops_the_start_outside_of_development() {
    let (_, yaml) = free_ports();
    let keys = "{devkey: secret, APIshort: 0123456789012345678901234567890, APIlong: 01234567890123456789012345678901}";
    let said = failure(&["--keys", keys, "--bind", "127.0.0.1", "--config-body", &yaml, "--sfu.mode", "only"]);

    assert!(said.contains("devkey") && said.contains("APIshort") && !said.contains("APIlong"), "{said}");
    assert!(said.contains("32 bytes") && said.contains("onair generate-keys") && said.contains("--dev"), "{said}");
    assert!(!said.contains("0123456789"), "{said}");
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
fn generated_keys_can_be_pasted() {
    let said = success(&["generate-keys"]);
    let (_, yaml) = said.split_once("# for the configuration file\n").unwrap();
    let (yaml, environment) = yaml.split_once("# or for the environment\n").unwrap();
    let arguments = ["create-join-token", "--room", "r", "--identity", "i"];

    assert!(success(&[&arguments[..], &["--config-body", yaml]].concat()).starts_with("Token: "));
    let line = environment.trim().strip_prefix("LIVEKIT_KEYS=\"").unwrap().strip_suffix('"').unwrap();
    let output = onair(&arguments).env("LIVEKIT_KEYS", line).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_reader_that_has_read_enough_is_no_fault() {
    for arguments in [&["ports", "--dev"][..], &["generate-keys"], &["--help"], &["ports", "--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = onair(arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();

        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}: {output:?}");
    }
}

#[test]
fn a_flag_sets_any_key_wherever_it_stands() {
    let said = success(&["ports", "--dev", "--port", "8080", "--rtc.udp_port", "9000-9001", "--prometheus_port=9100"]);
    assert!(["TCP 8080 ", "UDP 9000-9001 ", "TCP 9100 "].iter().all(|line| said.contains(line)), "{said}");
    assert!(failure(&["--port", "many"]).contains("port: "));
    assert!(failure(&["--foo.bar", "1"]).contains("unknown key foo"));
}

#[test]
fn help_of_a_subcommand_is_about_that_subcommand() {
    let said = success(&["create-join-token", "--help"]);

    assert!(said.contains("--room") && said.contains("--identity") && said.contains("--recorder"), "{said}");
    assert!(!said.contains("--config-body") && !said.contains("--udp-port"), "{said}");
    assert!(success(&["--help"]).contains("--config-body"));
}

#[test]
fn a_udp_port_serves_one_process() {
    let (_, yaml) = free_ports();
    let mut first = Running::start(&yaml);
    first.line_with("media");
    let port = yaml.rsplit_once("udp_port: ").unwrap().1.trim_end_matches('}').to_owned();
    let (_, other) = free_ports();
    let said = failure(&["--dev", "--config-body", &other, "--rtc.udp_port", &port]);

    assert!(said.contains(&format!("UDP port {port} is taken")) && said.contains("rtc.udp_port"), "{said}");
}

#[test]
fn the_greeting_tells_where_media_goes() {
    let (_, yaml) = free_ports();
    let mut server = Running::start(&format!("{}, node_ip: 203.0.113.9}}}}", yaml.trim_end_matches("}}")));

    let line = server.line_with("media");
    assert!(line.trim_end().ends_with(" of 203.0.113.9"), "{line}");
}

#[test]
fn who_listens_beyond_loopback_gets_a_url_for_its_neighbours() {
    let (port, yaml) = free_ports();
    let mut server = Running::start_with(&["--bind", ""], &yaml);
    let url = server.line_with("URL").split_whitespace().last().unwrap().to_owned();
    let host = url.strip_prefix("ws://").unwrap().strip_suffix(&format!(":{port}")).unwrap().to_owned();

    let address: std::net::IpAddr = host.trim_matches(['[', ']']).parse().unwrap();
    let is_own = std::net::UdpSocket::bind((address, 0)).is_ok();
    assert!(is_own && !address.is_unspecified(), "{url}");
    assert!(TcpStream::connect((address, port)).is_ok(), "{url}");
}

/// A proxy on the same machine may pass on nothing of the client, not even the host that it called.
#[test]
fn without_a_password_metrics_are_not_beside_the_api() {
    let (port, yaml) = free_ports();
    let yaml = format!("{{bind_addresses: [127.0.0.1], sfu: {{mode: only}}, {}", yaml.trim_start_matches('{'));
    let (key, password) = ("API: the-media-server-signs-with-this-0123456789", "--prometheus.password=pass-word");
    let arguments = ["--config-body", &yaml, "--keys", key];
    let by_proxy = format!("Host: 127.0.0.1:{port}\r\nConnection: close\r\n");
    let status = |headers: &str| get_with(port, "/metrics", headers).split(' ').nth(1).unwrap().to_owned();

    let mut server = Running::of(&mut onair(&arguments));
    server.line_with("media");
    assert_eq!(status(&by_proxy), "404");
    drop(server);
    let mut server = Running::of(&mut onair(&[&arguments[..], &["--prometheus.username=scraper", password]].concat()));
    server.line_with("media");
    assert_eq!(status(&by_proxy), "401");
    assert_eq!(status(&format!("{by_proxy}Authorization: Basic c2NyYXBlcjpwYXNzLXdvcmQ=\r\n")), "200");
}

/// Development mode, and a proxy on the same machine.
#[test]
fn whom_a_proxy_serves_sees_no_metrics() {
    let (port, yaml) = free_ports();
    let mut server = Running::start(&yaml);
    server.line_with("media");
    let status = |headers: &str| get_with(port, "/metrics", headers).split(' ').nth(1).unwrap().to_owned();

    assert_eq!(status("Host: 127.0.0.1\r\n"), "200");
    assert_eq!(status("Host: localhost:7880\r\n"), "200");
    for headers in [
        "Host: live.example\r\nX-Forwarded-For: 203.0.113.5\r\nX-Forwarded-Proto: https\r\n",
        "Host: 127.0.0.1\r\nX-Forwarded-For: 203.0.113.5\r\n",
        "Host: 127.0.0.1\r\nForwarded: for=203.0.113.5;proto=https\r\n",
        "Host: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n",
        // One that says nothing of its clients.
        "Host: live.example\r\n",
    ] {
        assert_eq!(status(headers), "404", "{headers}");
    }
}

#[test]
fn a_proxy_that_is_not_set_up_is_pointed_out_once() {
    let (port, yaml) = free_ports();
    let mut server = Running::start_logging(&["--http.trusted_proxies", "192.0.2.1"], &yaml);
    server.line_with("media");
    for _ in 0..3 {
        get_with(port, "/healthz", "Host: live.example\r\nX-Forwarded-For: 203.0.113.5\r\n");
        get_with(port, "/healthz", "Host: live.example\r\n");
    }
    let log = server.log_to_the_end();

    assert_eq!(log.matches("http.trusted_proxies").count(), 1, "{log}");
    assert_eq!(log.matches("does not say for whom it calls").count(), 1, "{log}");
    assert!(!log.contains("203.0.113.5"), "{log}");
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
