//! The attacks of `loadtest`'s program `hostile`, for a second each and all of a kind at once, on the whole server as a
//! process: it lives on with all of its workers, keeps its memory, and nobody innocent is thrown out.
//!
//! Delays are not looked at here, since they are the machine's as well; `hostile` itself measures them.

#[path = "support/binary.rs"]
mod binary;
#[path = "support/ports.rs"]
mod ports;

use std::path::Path;
use std::time::Duration;

use loadtest::hostile::{self, Options, Row};
use tokio::sync::Mutex;

/// One server under attack at a time: the load of another one would show as its own.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// Memory that all attacks of a kind together may cost at any moment.
const GROWTH_MAX: u64 = 256 << 20;

/// What may go to an address that a single check has named.
const UNPROVEN_BYTES_MAX: u64 = 4 << 10;

/// Sessions that one token may open in a row of a few seconds.
const SESSIONS_OF_ONE_MAX: u64 = 100;

/// Runs these attacks at once.
async fn attack(name: &str, attacks: &[&str]) -> Row {
    let _machine = MACHINE.lock().await;
    let [http, tcp, udp] = [(); 3].map(|()| ports::free());
    let store = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{name}.store"));
    // Of an earlier run.
    let _ = std::fs::remove_dir_all(&store);
    let config = format!(
        "{{port: {http}, bind_addresses: [127.0.0.1], store: {{path: {}}}, logging: {{level: warn}}, \
         rtc: {{workers: 2, tcp_port: {tcp}, udp_port: {udp}, node_ip: 127.0.0.1}}}}",
        store.display()
    );
    let binary = binary::path();
    let options = Options {
        url: format!("ws://127.0.0.1:{http}"),
        start: Some(format!("{binary} --dev --config-body '{config}'")),
        only: attacks.iter().map(|&attack| attack.to_owned()).collect(),
        together: true,
        duration: Duration::from_secs(1),
        quiet_time: Duration::from_millis(300),
        settle_time: Duration::from_millis(500),
        tcp_port: tcp,
        quiet: true,
        ..Options::default()
    };
    let mut report = hostile::run(options, |_| ()).await.expect("the attacks run");
    let row = report.rows.pop().expect("there is one row");
    let begun = row.attackers.iter().filter(|attacker| attacker.sent + attacker.refused > 0).count();
    // Who comes late to a crowd may find no place.
    assert!(begun > row.attackers.len() / 2, "most did not begin: {:#?}", row.attackers);
    row
}

/// Asserts what does not depend on the pace of the machine.
fn holds(row: &Row) {
    let told = || serde_json::to_string_pretty(row).expect("it can be shown");
    assert!(!row.has_ended, "{}", told());
    assert_eq!(row.afresh.0, row.afresh.1, "a worker takes nobody in\n{}", told());
    assert_eq!(row.attack.lost.len() + row.after.lost.len(), 0, "innocents were thrown out\n{}", told());
    assert!(row.after.packets > 0, "media stands still\n{}", told());
    let (before, peak) = (row.before_bytes.expect("it is a child"), row.peak_bytes.expect("it is a child"));
    assert!(peak.saturating_sub(before) < GROWTH_MAX, "memory rose from {before} to {peak}\n{}", told());
}

#[tokio::test]
async fn nobody_with_a_data_channel_takes_the_server_down() {
    holds(&attack("channels", &["channels"]).await);
}

#[tokio::test]
async fn nobody_with_a_signal_socket_takes_the_server_down() {
    holds(&attack("signalling", &["signalling"]).await);
}

#[tokio::test]
async fn no_crowd_with_signal_sockets_takes_the_server_down() {
    let row = attack("signal-crowds", &["crowds"]).await;
    holds(&row);
    let sessions = row.attackers.iter().filter_map(|attacker| attacker.sessions_of_one).max();
    assert!(sessions.expect("it was tried") < SESSIONS_OF_ONE_MAX, "one token opened {sessions:?} sessions");
}

#[tokio::test]
async fn no_stranger_takes_the_server_down_by_http() {
    let attacks = [
        "validate-gzip",
        "twirp-bodies",
        "request-heads",
        "webhook-bodies",
        "forged-tokens",
        "polling-sessions",
        "chat-packets",
        "http-pipeline",
        "http-noise",
    ];
    holds(&attack("doors", &attacks).await);
}

#[tokio::test]
async fn no_crowd_of_silent_connections_takes_the_server_down() {
    let attacks = ["idle-connections", "slow-heads", "websocket-upgrades", "ice-tcp-silent"];
    holds(&attack("crowds", &attacks).await);
}

#[tokio::test]
async fn nobody_takes_the_server_down_by_the_media_ports() {
    let attacks = [
        "ice-tcp-empty-frames",
        "check-from-elsewhere",
        "checks-from-everywhere",
        "dtls-noise",
        "udp-noise",
        "replay",
        "rtcp-noise",
        "rtp-ssrcs",
    ];
    let row = attack("paths", &attacks).await;
    holds(&row);
    let unproven = row.attackers.iter().filter_map(|attacker| attacker.unproven_bytes).max();
    assert!(
        unproven.expect("it was tried") < UNPROVEN_BYTES_MAX,
        "an address that said nothing got {unproven:?} bytes"
    );
}
