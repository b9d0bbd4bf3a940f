//! What a run of attacks is told.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::options::parse_duration;

/// Attacks a LiveKit server, one attack after the other, and shows what an innocent room beside them notices.
///
/// Only for servers of your own.
#[derive(Debug, Clone, Parser)]
#[command(name = "hostile", version)]
pub struct Options {
    /// Server to attack.
    #[arg(long, env = "LIVEKIT_URL", default_value = "ws://127.0.0.1:7880")]
    pub url: String,
    #[arg(long, env = "LIVEKIT_API_KEY", default_value = "devkey")]
    pub api_key: String,
    #[arg(long, env = "LIVEKIT_API_SECRET", default_value = "secret", hide_env_values = true)]
    pub api_secret: String,
    /// Names the attacks and ends.
    #[arg(long)]
    pub list: bool,
    /// Only this attack, or all of this kind: a name or a kind of `--list`. May be repeated.
    #[arg(long)]
    pub only: Vec<String>,
    /// All chosen attacks at once, as one row.
    #[arg(long)]
    pub together: bool,
    /// Process of the server, for its memory.
    #[arg(long, conflicts_with = "start")]
    pub pid: Option<u32>,
    /// Command that starts the server, anew for each attack, and stays in the foreground: what one attack breaks is not
    /// counted against the next. Its memory is read, too.
    #[arg(long)]
    pub start: Option<String>,
    /// Time of each attack: `6s`, `500ms`.
    #[arg(long, default_value = "6s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Time before it in which the innocents are measured alone.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub quiet_time: Duration,
    /// From the end of an attack until the server's memory is read again.
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    pub settle_time: Duration,
    /// Innocent rooms. A server spreads rooms over its threads; with as many rooms as threads each of these has one.
    #[arg(long, default_value_t = 2)]
    pub innocent_rooms: usize,
    /// Local address of the attackers' TCP connections, so that a server can tell them from the innocents.
    #[arg(long)]
    pub from: Option<IpAddr>,
    /// Local address of the attackers' media sockets; by default the one on the way to the server.
    #[arg(long)]
    pub media_ip: Option<IpAddr>,
    /// The server's TCP port of media, where its descriptions name none.
    #[arg(long, default_value_t = 7881)]
    pub tcp_port: u16,
    /// Where to write the report.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// No line before each attack.
    #[arg(long)]
    pub quiet: bool,
}

impl Default for Options {
    /// The defaults of the command line.
    fn default() -> Self {
        Self::parse_from(["hostile"])
    }
}
