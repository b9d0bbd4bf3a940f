//! The load as a process on its own core, and the figures of its report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Contender;
use super::server::pinned;

/// What a load test takes beyond its joins and its measured time: starting, settling, leaving.
const REST_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);
/// How the load tester's fault of freezes begins, the only one that a busy machine alone brings about.
const FREEZE_FAULT: &str = "video stood still";
/// Tells the load tester where a server's metrics are.
const METRICS_URL: &str = "LIVEKIT_METRICS_URL";

/// The load, the same for both servers.
#[derive(Debug, Clone)]
pub struct Load {
    /// The load tester.
    pub program: PathBuf,
    pub subscribers: usize,
    pub duration: Duration,
    pub joins_per_second: f64,
    /// More arguments for it.
    pub arguments: Vec<String>,
    pub api_key: String,
    pub api_secret: String,
}

/// What one server showed under one load. Missing: the load did not report it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    pub cpu_us_per_packet: Option<f64>,
    pub cpu_ms_per_join: Option<f64>,
    pub rss_kib_per_subscriber: Option<f64>,
    pub join_ms_p95: Option<f64>,
    pub first_packet_ms_p50: Option<f64>,
    pub first_packet_ms_p95: Option<f64>,
    pub first_keyframe_ms_p95: Option<f64>,
    pub delay_ms_p50: Option<f64>,
    pub delay_ms_p99: Option<f64>,
    pub audio_delay_ms_p99: Option<f64>,
    pub video_delay_ms_p99: Option<f64>,
    /// Of what was published, beyond what the kernel dropped at the subscribers' sockets.
    pub loss_percent: Option<f64>,
    pub kernel_drops_percent: Option<f64>,
    /// What the server says it dropped, by reason; only of a server whose metrics are read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_drops: Option<BTreeMap<String, u64>>,
    /// Why that is not known, though it was to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_drops_unknown: Option<String>,
    /// Of the load itself, to see that it was not the bottleneck.
    pub client_cpu_us_per_packet: Option<f64>,
    pub client_cores: Option<f64>,
    pub subscribers: Option<f64>,
    pub protocol: String,
    pub srtp_profile: String,
    /// Whether everybody joined and had every track to the end.
    pub complete: bool,
    /// What went wrong, in the load's words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// The load lacked CPU: its delays and losses may be its own.
    pub saturated: bool,
}

impl Metrics {
    /// Whether the figures are those of a server that did its work. Freezes do not count: they tell of the machine.
    pub(super) fn is_sound(&self) -> bool {
        self.complete && self.faults.iter().all(|fault| fault.starts_with(FREEZE_FAULT))
    }

    fn read(report: &Value, is_success: bool) -> Self {
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_f64);
        let text = |pointer: &str| report.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned();
        let expected = number("/packets_expected").filter(|expected| *expected > 0.0);
        let share = |pointer: &str| Some(number(pointer)? / expected? * 100.0);
        Self {
            cpu_us_per_packet: number("/server/cpu_us_per_packet"),
            cpu_ms_per_join: number("/server/cpu_ms_per_join"),
            rss_kib_per_subscriber: number("/server/rss_bytes_per_subscriber").map(|bytes| bytes / 1_024.0),
            join_ms_p95: number("/join_ms/p95"),
            first_packet_ms_p50: number("/first_packet_ms/p50"),
            first_packet_ms_p95: number("/first_packet_ms/p95"),
            first_keyframe_ms_p95: number("/first_keyframe_ms/p95"),
            delay_ms_p50: number("/delay_ms/p50"),
            delay_ms_p99: number("/delay_ms/p99"),
            audio_delay_ms_p99: number("/delay_by_kind_ms/audio/p99"),
            video_delay_ms_p99: number("/delay_by_kind_ms/video/p99"),
            loss_percent: number("/lost_share").map(|share| share * 100.0),
            kernel_drops_percent: share("/kernel_drops"),
            server_drops: report.get("server_drops").and_then(|drops| BTreeMap::deserialize(drops).ok()),
            server_drops_unknown: report.get("server_drops_unknown").and_then(Value::as_str).map(str::to_owned),
            client_cpu_us_per_packet: number("/client_cpu_us_per_packet"),
            client_cores: number("/machine/client_cores"),
            subscribers: number("/subscribers"),
            protocol: text("/protocol"),
            srtp_profile: text("/srtp_profile"),
            complete: report["complete"].as_bool().unwrap_or(is_success),
            faults: report.get("faults").and_then(|faults| Vec::deserialize(faults).ok()).unwrap_or_default(),
            saturated: report["client_saturated"].as_bool().unwrap_or(false),
        }
    }
}

impl Load {
    /// Loads the contender's server, the process `pid`, from `core`.
    ///
    /// A command of the contender's own stands for the load tester. In it `{url}`, `{pid}`, `{subscribers}`,
    /// `{seconds}` and `{json}` are replaced; it writes its report, with the load tester's keys, to the last one.
    pub(super) fn run(&self, contender: &Contender, pid: u32, core: usize) -> anyhow::Result<Metrics> {
        let json = std::env::temp_dir().join(format!("bench-load-{}-{pid}.json", std::process::id()));
        let mut process = match &contender.load {
            Some(template) => self.own_command(template, &contender.url, pid, &json.to_string_lossy()),
            None => self.load_tester(contender, pid, &json.to_string_lossy()),
        };
        let is_success = self.wait(pinned(core, &mut process))?;
        // The load has said on the standard error why.
        let text = std::fs::read_to_string(&json).context("the load test left no report")?;
        // A file left behind does no harm.
        let _ = std::fs::remove_file(&json);
        let report = serde_json::from_str(&text).context("the load test's report is no JSON")?;
        Ok(Metrics::read(&report, is_success))
    }

    fn load_tester(&self, contender: &Contender, pid: u32, json: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--quiet", "--url", &contender.url, "--json", json]);
        command.args(["--server-pid", &pid.to_string()]);
        command.args(["--subscribers", &self.subscribers.to_string()]);
        command.args(["--duration", &format!("{}ms", self.duration.as_millis())]);
        command.args(["--num-per-second", &self.joins_per_second.to_string()]);
        command.args(["--video-packets-per-second", &crate::stream::VIDEO_RATE.to_string()]);
        command.args(&self.arguments);
        // Not as arguments, which everybody on the machine can read.
        command.env("LIVEKIT_API_KEY", &self.api_key).env("LIVEKIT_API_SECRET", &self.api_secret);
        match &contender.metrics_url {
            Some(url) => command.env(METRICS_URL, url),
            None => command.env_remove(METRICS_URL),
        };
        command
    }

    fn own_command(&self, template: &str, url: &str, pid: u32, json: &str) -> Command {
        let text = template
            .replace("{url}", url)
            .replace("{pid}", &pid.to_string())
            .replace("{subscribers}", &self.subscribers.to_string())
            .replace("{seconds}", &self.duration.as_secs().to_string())
            .replace("{json}", json);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("exec {text}"));
        command
    }

    /// Whether it ended well.
    fn wait(&self, command: &mut Command) -> anyhow::Result<bool> {
        let joins = Duration::from_secs_f64(self.subscribers as f64 / self.joins_per_second.max(0.1));
        let limit = Instant::now() + joins + self.duration + REST_MAX;
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {name} (build it with: cargo build --release -p loadtest)"))?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status.success());
            }
            if Instant::now() > limit {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                bail!("the load test did not end in time");
            }
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_figures_and_what_it_lacks_stays_open() {
        let report = serde_json::json!({
            "packets_expected": 1_000, "lost_share": 0.005, "server_drops": { "overrun": 5 }, "complete": true, "client_saturated": true, "delay_ms": { "p99": 1.5 },
            "server": { "cpu_us_per_packet": 2.5, "rss_bytes_per_subscriber": 2_048.0 }, "protocol": "v1",
        });
        let metrics = Metrics::read(&report, false);
        assert_eq!(metrics.cpu_us_per_packet, Some(2.5));
        assert_eq!(metrics.rss_kib_per_subscriber, Some(2.0));
        assert_eq!(metrics.loss_percent, Some(0.5));
        assert_eq!(metrics.server_drops, Some(BTreeMap::from([("overrun".to_owned(), 5)])));
        assert_eq!(metrics.first_packet_ms_p50, None);
        assert_eq!((metrics.protocol.as_str(), metrics.complete, metrics.saturated), ("v1", true, true));
        assert_eq!(metrics.faults, [""; 0]);
    }

    #[test]
    fn faults_other_than_freezes_make_a_round_unsound() {
        let read = |faults: &[String]| {
            let report = loadtest::Report { faults: faults.to_vec(), complete: true, ..Default::default() };
            Metrics::read(&serde_json::to_value(report).unwrap(), false)
        };
        let freeze = format!("{} for 2.000 % of the time", loadtest::report::FREEZE_FAULT);
        let loss = "0.200 % of what was published never came".to_owned();
        assert!(read(&[]).is_sound() && read(std::slice::from_ref(&freeze)).is_sound());
        let both = read(&[freeze.clone(), loss.clone()]);
        assert_eq!(both.faults, [freeze, loss]);
        assert!(!both.is_sound());
        assert!(!Metrics { complete: false, ..read(&[]) }.is_sound());
    }

    #[test]
    fn a_load_of_ones_own_is_told_where_to_go_and_to_write() {
        let load = Load {
            program: "loadtest".into(),
            subscribers: 7,
            duration: Duration::from_secs(3),
            joins_per_second: 1.0,
            arguments: Vec::new(),
            api_key: "key".into(),
            api_secret: "secret".into(),
        };
        let script = r#"printf '{"subscribers": {subscribers}, "server": {"cpu_us_per_packet": {seconds}}}' > {json}"#;
        let command = format!("sh -c '{}'", script.replace('\'', r"'\''"));
        let contender = Contender {
            name: "own".into(),
            command: String::new(),
            url: "ws://127.0.0.1:1".into(),
            load: Some(command),
            metrics_url: None,
        };
        let metrics = load.run(&contender, 1, 0).unwrap();
        assert_eq!((metrics.subscribers, metrics.cpu_us_per_packet), (Some(7.0), Some(3.0)));
    }
}
