//! The whole product as a process of its own on free ports of loopback, and calls to it as an app would make them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::script::Keeper;
use crate::server::signal;
use crate::{binary, ports};

/// Of the app's identity service.
pub const JWT_SECRET: &str = "the-identity-service-signs-with-this-0123456789";
/// Of the media server, the product's own or another one.
pub const API_KEY: &str = "devkey";
pub const API_SECRET: &str = "the-media-server-signs-with-this-0123456789";

/// Longest time from the start of the process until it is ready.
const START_MAX: Duration = Duration::from_secs(30);
/// Longest time from SIGTERM to the exit: the default drain deadline of 10 s, and much more for a busy machine.
const STOP_MAX: Duration = Duration::from_secs(40);
/// How long [`eventually`] waits: far above what anything takes, as tests share two cores.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOG_LINES: usize = 120;

const LOG_COLUMNS: usize = 400;

/// A running product. It dies with this value, and its data with it.
pub struct Product {
    pub ports: Ports,
    config: Value,
    environment: Vec<(String, String)>,
    development: bool,
    directory: PathBuf,
    process: Option<Child>,
    http: reqwest::Client,
}

/// Ports that nobody else uses.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub http: u16,
    tcp: u16,
    udp: u16,
    metrics: u16,
}

impl Ports {
    pub fn free() -> Self {
        Self { http: ports::free(), tcp: ports::free(), udp: ports::free(), metrics: ports::free() }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }
}

/// What the product answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: header::HeaderMap,
    /// `null` if it is no JSON.
    pub body: Value,
}

impl Answer {
    /// The code of the problem; empty if there is none.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }

    /// Its body, if the status is that one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{}", self.body);
    }
}

impl Product {
    /// Starts it in development mode with an embedded store on disk; `config` is laid over that.
    pub async fn start(name: &str, config: Value) -> Self {
        Self::start_on(Ports::free(), name, config).await
    }

    pub async fn start_on(ports: Ports, name: &str, config: Value) -> Self {
        let mut product = Self::prepared(ports, name, config);
        product.start_again().await;
        product
    }

    /// One that is not started yet.
    pub fn prepared(ports: Ports, name: &str, config: Value) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("product-{name}-{}", std::process::id()));
        // Of a run before, whose process had the same id.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).expect("the directory for test files is writable");
        let mut all = json!({
            "port": ports.http, "bind_addresses": ["127.0.0.1"], "prometheus_port": ports.metrics,
            "keys": { API_KEY: API_SECRET },
            "rtc": { "tcp_port": ports.tcp, "udp_port": ports.udp, "node_ip": "127.0.0.1", "workers": 1 },
            "logging": { "level": "info" },
            "store": { "path": directory.join("data") },
            "http": { "cors_origins": ["*"], "calls_per_minute": 1_000_000, "anonymous_calls_per_minute": 1_000_000 },
            "live": { "starts_per_hour": 0, "start_cooldown": 0 },
        });
        lay_over(&mut all, config);
        let environment = vec![("JWT_SECRET".to_owned(), JWT_SECRET.to_owned())];
        Self { ports, config: all, environment, development: true, directory, process: None, http: http_client() }
    }

    /// Sets variables of its environment.
    pub fn with(mut self, environment: &[(&str, &str)]) -> Self {
        self.environment.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// As it would be run for others, and without what only development allows.
    pub fn in_production(mut self) -> Self {
        self.development = false;
        self.config["http"]["cors_origins"] = json!([]);
        self
    }

    /// Lays more over its configuration.
    pub fn and(mut self, config: Value) -> Self {
        lay_over(&mut self.config, config);
        self
    }

    /// What it says when it does not start.
    pub async fn refusal(mut self) -> String {
        self.spawn();
        eventually("it ends", async || self.process.as_mut()?.try_wait().ok()?).await;
        self.whole_log()
    }

    /// Starts it on the ports and with the data it had, and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.spawn();
        let begin = Instant::now();
        while !self.is_ready().await {
            assert!(begin.elapsed() < START_MAX, "not ready within {START_MAX:?}:\n{}", self.log_tail());
            let exited = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            assert!(exited.is_none(), "the product ended at its start, {exited:?}:\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).expect("the directory was made");
        let binary = binary::path();
        let process = Command::new(binary)
            .args(self.development.then_some("--dev"))
            .args(["--config-body", &self.config.to_string()])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn();
        self.process = Some(process.expect("the built binary starts"));
    }

    /// A media server alone is ready when it answers at all.
    pub async fn is_ready(&self) -> bool {
        let path = if self.config["sfu"]["mode"] == "only" { "" } else { "readyz" };
        let request = self.http.get(format!("{}/{path}", self.ports.url())).timeout(Duration::from_secs(2));
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child can be killed");
            process.wait().expect("a child can be waited for");
        }
    }

    /// Tells it to end (SIGTERM), and waits for its exit.
    pub fn terminate(&mut self) -> ExitStatus {
        signal("TERM", &self.process_id().to_string());
        self.wait()
    }

    /// Waits for its exit after a signal.
    pub fn wait(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        let begin = Instant::now();
        while begin.elapsed() < STOP_MAX {
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.process = Some(process);
        panic!("still running {STOP_MAX:?} after SIGTERM");
    }

    /// What its configuration says at that path; `null` if nothing.
    pub fn setting(&self, path: &[&str]) -> &Value {
        path.iter().fold(&self.config, |value, name| &value[name])
    }

    pub fn process_id(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Where it keeps what it keeps.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub fn whole_log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log()).unwrap_or_default()).into_owned()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let id = self.process_id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        line.trim().trim_end_matches(" kB").parse().expect("it is a number")
    }

    /// One call of the API. `path` begins after `/api`.
    pub async fn call(&self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let called = self.try_call(method, path, token, body).await;
        called.unwrap_or_else(|error| panic!("{path}: no answer: {error}\n{}", self.log_tail()))
    }

    /// As [`Product::call`], for a product that may be killed.
    pub async fn try_call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.http.request(method, format!("{}/api{path}", self.ports.url()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body.to_string());
        }
        answer(request.send().await?).await
    }

    pub async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.call(Method::GET, path, token, None).await
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.call(Method::POST, path, Some(token), Some(body)).await
    }

    /// Starts a stream of the user: what the app is told.
    pub async fn go_live(&self, user: &str) -> Value {
        let answer = self.post("/live/start", &token(user), json!({ "title": format!("{user} is live") })).await;
        answer.expect(201)
    }

    /// All metrics now.
    pub async fn metrics_page(&self) -> String {
        let page = self.http.get(format!("http://127.0.0.1:{}/metrics", self.ports.metrics)).send().await;
        page.expect("metrics answer").text().await.expect("metrics are text")
    }

    /// The sum of all rows of a metric whose labels contain the text.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let page = self.metrics_page().await;
        let rows = page.lines().filter(|row| {
            let end = row.find(['{', ' ']).unwrap_or(row.len());
            &row[..end] == name && row.contains(label)
        });
        rows.filter_map(|row| row.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }
}

impl Keeper for Product {
    fn serve(&mut self, request: &str) -> Result<(), String> {
        match request {
            "kill" => self.kill(),
            "start" => self.spawn(),
            "terminate" => {
                let status = self.terminate();
                if !status.success() {
                    return Err(format!("the product ended with {status} after SIGTERM"));
                }
            }
            other => return Err(format!("the script asked for {other:?}")),
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = self.whole_log();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_LINES)..];
        tail.iter().map(|line| line.chars().take(LOG_COLUMNS).collect::<String>() + "\n").collect()
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} logged\n{}", self.directory.display(), self.log_tail());
        }
        // It is under the directory for test files in any case.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub async fn answer(response: reqwest::Response) -> reqwest::Result<Answer> {
    let (status, headers) = (response.status(), response.headers().clone());
    let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
    Ok(Answer { status, headers, body })
}

pub fn http_client() -> reqwest::Client {
    // Another test may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
    client.expect("loopback needs no certificates")
}

/// Replaces what `over` names, deep in maps.
fn lay_over(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// Waits until `condition` yields something, and returns it.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A user's token for an hour.
pub fn token(user: &str) -> String {
    signed(&json!({ "sub": user, "exp": now() + 3600, "name": user }))
}

pub fn admin(user: &str) -> String {
    signed(&json!({ "sub": user, "exp": now() + 3600, "role": "admin" }))
}

/// A token of the identity service with exactly these claims.
pub fn signed(claims: &Value) -> String {
    signed_with(Algorithm::HS256, JWT_SECRET, claims)
}

pub fn signed_with(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("HMAC takes any key")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs()
}
