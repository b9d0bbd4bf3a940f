//! A room full of simulated clients, against the whole server on real sockets: everybody gets every packet.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/ports.rs"]
mod ports;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use control::app::App;
use control::config::Config;
use control::config::load::{Flags, Sources, load};
use loadtest::report::FREEZE_FAULT;
use loadtest::sdp::Setup;
use loadtest::signal::Protocol;
use loadtest::{Options, Report};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::task::JoinHandle;

/// One test at a time: the load of another one would show as its own.
static MACHINE: Mutex<()> = Mutex::const_new(());

const SUBSCRIBERS: usize = 20;
const STREAMS: usize = 4;

/// A server in this process, with two workers.
struct Server {
    url: String,
    metrics: String,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    _machine: MutexGuard<'static, ()>,
}

fn config() -> Config {
    let [metrics, tcp, udp] = [(); 3].map(|()| ports::free());
    let yaml = format!(
        "{{port: 0, bind_addresses: [127.0.0.1], prometheus: {{port: {metrics}}}, \
         rtc: {{workers: 2, tcp_port: {tcp}, udp_port: {udp}, node_ip: 127.0.0.1}}}}"
    );
    let flags = Flags { dev: true, ..Flags::default() };
    load(Sources { yaml: Some(yaml), flags, strict: true, ..Sources::default() }).unwrap().config
}

impl Server {
    async fn start() -> Self {
        let machine = MACHINE.lock().await;
        let app = App::start(config()).await.unwrap();
        let url = format!("ws://{}", app.http_addresses()[0]);
        let metrics = app.metrics_addresses()[0].to_string();
        let (stop, stopping) = oneshot::channel();
        let run = app.run(async move { drop(stopping.await) }, std::future::pending());
        let running = tokio::spawn(async move {
            run.await.unwrap();
        });
        Self { url, metrics, stop, running, _machine: machine }
    }

    async fn load(&self, change: impl FnOnce(&mut Options)) -> Report {
        let mut options = Options {
            url: self.url.clone(),
            video_publishers: STREAMS / 2,
            audio_publishers: STREAMS / 2,
            subscribers: SUBSCRIBERS,
            num_per_second: 20.0,
            duration: Duration::from_secs(4),
            // Every subscriber authenticates what it gets.
            verify: 1.0,
            metrics_url: Some(format!("http://{}/metrics", self.metrics)),
            quiet: true,
            ..Options::default()
        };
        change(&mut options);
        loadtest::run(options).await.unwrap()
    }

    /// The metrics page, once the workers have shown their last counts.
    async fn metrics(&self) -> Metrics {
        tokio::time::sleep(Duration::from_millis(600)).await;
        let mut stream = TcpStream::connect(&self.metrics).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: onair\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        Metrics(page)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }
}

struct Metrics(String);

impl Metrics {
    /// The sum over the rows of a metric that have this label.
    fn sum(&self, name: &str, label: &str) -> f64 {
        let rows = self.0.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
        rows.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

/// What makes the load tester's exit status a failure. On a busy machine video stands still, which is no fault of the
/// server.
fn faults(report: &Report) -> Vec<&String> {
    report.faults.iter().filter(|fault| !fault.starts_with(FREEZE_FAULT)).collect()
}

/// What holds of a room in which nothing goes wrong.
fn nothing_is_missing(report: &Report, metrics: &Metrics) {
    assert!(report.is_complete(), "{report}");
    assert_eq!(report.subscribers, SUBSCRIBERS, "{report}");
    assert!(report.packets_received > 1_000 * SUBSCRIBERS as u64, "{report}");
    assert_eq!(report.packets_lost, 0, "{report}");
    assert!(report.server_drops.as_ref().is_some_and(|drops| drops.is_empty()), "{report}");
    assert_eq!(report.verification.forged, 0, "{report}");
    assert!(faults(report).is_empty(), "{report}");
    assert_eq!(report.delivery.streams_alive, report.delivery.streams_wanted, "{report}");
    assert_eq!(report.lost_share, 0.0, "{report}");
    assert_eq!(report.delivery.source_lost, 0, "{report}");
    assert!(report.delivery.source_expected > 1_000 * SUBSCRIBERS as u64, "{report}");
    assert!(report.srtp_profile.contains("GCM"), "{report}");

    assert_eq!(metrics.sum("onair_handshakes_total", "AES128_CM"), 0.0);
    assert!(metrics.sum("onair_handshakes_total", "AEAD_AES_128_GCM") >= (SUBSCRIBERS + STREAMS / 2) as f64);
    let run = metrics.sum("onair_rtp_sent_total", "") / metrics.sum("onair_runs_sent_total", "");
    assert!(run > 1.0, "packets leave in runs, of {run} on average");
    assert_eq!(metrics.sum("onair_joins_total", "refused"), 0.0);
    for refused in ["srtp_authentication", "srtp_replay", "unknown_payload_type", "send_failed"] {
        assert_eq!(metrics.sum("onair_discards_total", refused), 0.0, "{refused}\n{}", metrics.0);
    }
}

async fn everybody_gets_every_packet(protocol: Protocol, setup: Setup) {
    let server = Server::start().await;
    let report = server.load(|options| (options.protocol, options.setup) = (protocol, setup)).await;
    nothing_is_missing(&report, &server.metrics().await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_every_packet_over_one_peer_connection() {
    everybody_gets_every_packet(Protocol::V1, Setup::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_every_packet_over_two_peer_connections() {
    everybody_gets_every_packet(Protocol::V0, Setup::Active).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_every_packet_with_the_server_as_dtls_client() {
    everybody_gets_every_packet(Protocol::V0, Setup::Passive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_gcm_get_aes_cm() {
    let server = Server::start().await;
    let report = server.load(|options| {
        options.srtp = loadtest::options::SrtpOffer::Cm;
        options.subscribers = 4;
        options.duration = Duration::from_secs(2);
    });
    let report = report.await;
    assert!(report.is_complete(), "{report}");
    assert_eq!((report.packets_lost, report.verification.forged), (0, 0), "{report}");
    assert!(server.metrics().await.sum("onair_handshakes_total", "AES128_CM") >= 4.0);
    server.stop().await;
}

/// Publishers leave packets out and subscribers throw some away, each by itself: all of them come again.
#[tokio::test(flavor = "multi_thread")]
async fn lost_video_is_asked_for_and_comes_again() {
    let server = Server::start().await;
    let report = server.load(|options| {
        options.audio_publishers = 0;
        options.loss_up = 0.02;
        options.loss_down = 0.02;
    });
    let report = report.await;
    let metrics = server.metrics().await;
    assert!(report.is_complete(), "{report}");
    assert!(report.packets_dropped_on_purpose > 100 && report.packets_recovered > 100, "{report}");
    // A retransmission may get lost as well, a few times over, and the last ones have no time left.
    assert!(report.packets_missing * 1_000 <= report.packets_expected, "{report}");
    assert!(metrics.sum("onair_nacks_sent_total", "") > 0.0, "the publishers are asked");
    assert!(report.publishers.retransmitted > 0, "{report}");
    assert!(metrics.sum("onair_rtp_retransmitted_total", "") >= report.packets_recovered as f64 / 2.0, "{report}");
    server.stop().await;
}

/// A server as a process, that can be frozen.
struct Process(Child);

impl Process {
    fn start(config: &str) -> Self {
        let mut command = Command::new(binary::path());
        command.args(["--dev", "--config-body", config]).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("the server starts"))
    }

    fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success(), "the server lives");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended just now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that stands still again and again finds more than can be sent in time: what its audience lacks, it counts.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_itself_dropped_stands_beside_what_is_missing() {
    let _machine = MACHINE.lock().await;
    let [http, metrics, tcp, udp] = [(); 4].map(|()| ports::free());
    let server = Process::start(&format!(
        "{{port: {http}, bind_addresses: [127.0.0.1], logging: {{level: error}}, \
         prometheus: {{port: {metrics}, username: us, password: secret}}, \
         rtc: {{workers: 1, tcp_port: {tcp}, udp_port: {udp}, node_ip: 127.0.0.1}}}}"
    ));
    while TcpStream::connect(("127.0.0.1", http)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let load = loadtest::run(Options {
        url: format!("ws://127.0.0.1:{http}"),
        metrics_url: Some(format!("http://us:secret@127.0.0.1:{metrics}/metrics")),
        video_publishers: 0,
        // The history of audio, beyond which nothing may wait, is that of a quarter of a second.
        audio_packets_per_second: 500,
        subscribers: 4,
        num_per_second: 20.0,
        duration: Duration::from_secs(3),
        verify: 1.0,
        quiet: true,
        ..Options::default()
    });
    let freezing = async {
        loop {
            server.signal("STOP");
            tokio::time::sleep(Duration::from_millis(500)).await;
            server.signal("CONT");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let report = tokio::select! {
        report = load => report.unwrap(),
        () = freezing => unreachable!("it goes on until the load has ended"),
    };
    let drops = report.server_drops.as_ref().expect("the server was asked");
    assert!(drops.get("overrun").is_some_and(|count| *count > 0), "{report}");
    assert!(report.delivery.source_lost > 0, "{report}");
    assert!(!faults(&report).is_empty(), "{report}");
    assert!(report.to_string().contains("  dropped by server  overrun "), "{report}");
}
