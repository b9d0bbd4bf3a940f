//! Configuration: defaults < file < environment < flags. Key names are LiveKit's where LiveKit has the feature.
//!
//! The tree of the default [`Config`] is the list of known keys, so a key cannot be forgotten here or in
//! `config/onair.yaml`, which documents each. Unknown keys are errors, unless the operator says otherwise; what LiveKit
//! has and Onair does not, [`livekit`] knows.

mod audio;
mod keys;
mod livekit;
pub mod load;
pub mod product;
mod remarks;
#[cfg(test)]
mod tests;
mod tree;
mod values;

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use signaling::token::Secret;

use crate::webhook_sender::Webhook;

pub use audio::Audio;
pub use values::{Addresses, Hidden, KeyPairs, PortRange, bind_address};

use remarks::Remarks;

/// API key of `--dev`. Public.
pub const DEV_KEY: &str = "devkey";
/// Its secret. Public.
pub const DEV_SECRET: &str = "secret";
/// UDP port of `--dev`.
const DEV_UDP_PORT: u16 = 7882;

/// Everything that an operator may set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    pub port: u16,
    /// Empty or `::`: all.
    #[serde(deserialize_with = "values::bind_addresses")]
    pub bind_addresses: Vec<IpAddr>,
    pub keys: KeyPairs,
    pub key_file: String,
    pub region: String,
    pub development: bool,
    /// Seconds.
    pub drain_timeout: u64,
    pub log_level: Option<Level>,
    pub logging: Logging,
    pub prometheus_port: u16,
    pub prometheus: Prometheus,
    pub rtc: Rtc,
    pub audio: Audio,
    pub room: Room,
    pub limit: Limit,
    pub webhook: Webhook,
    pub live: product::Live,
    pub chat: product::Chat,
    pub auth: product::Auth,
    pub http: product::Http,
    pub store: product::Store,
    pub sfu: product::Sfu,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    pub level: Level,
    pub json: bool,
    /// Whether addresses of clients are written.
    pub addresses: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[serde(alias = "TRACE")]
    Trace,
    #[serde(alias = "DEBUG")]
    Debug,
    #[serde(alias = "INFO")]
    Info,
    #[serde(alias = "WARN", alias = "warning")]
    Warn,
    #[serde(alias = "ERROR")]
    Error,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prometheus {
    pub port: u16,
    pub username: String,
    pub password: Hidden,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rtc {
    pub udp_port: PortRange,
    pub port_range_start: u16,
    pub port_range_end: u16,
    pub tcp_port: u16,
    pub node_ip: Addresses,
    pub stun_servers: Vec<String>,
    pub workers: usize,
    /// Bits a second; 0 means none.
    pub datachannel_slow_threshold: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Room {
    pub auto_create: bool,
    pub enabled_codecs: Vec<EnabledCodec>,
    pub max_participants: u32,
    /// In a room of more participants, newcomers are told to those only who publish or administer; 0 means never.
    pub audience_threshold: u32,
    /// Seconds.
    pub empty_timeout: u32,
    /// Seconds.
    pub departure_timeout: u32,
    pub enable_remote_unmute: bool,
    /// By name, as protobuf's JSON has them.
    pub room_configurations: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnabledCodec {
    pub mime: String,
    /// Accepted for LiveKit's sake.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fmtp_line: String,
}

/// Sizes in bytes, unless they are numbers; 0 means unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    pub max_metadata_size: usize,
    pub max_attributes_size: usize,
    pub max_participant_name_length: usize,
    pub max_room_name_length: usize,
    /// Of a message that a client sends over its WebSocket.
    pub signal_message_size_limit: usize,
    /// Of a call of the server APIs.
    pub max_api_request_body_size: usize,
    /// Tracks that the server takes and gives. LiveKit's own files may have -1, which means unlimited too.
    pub num_tracks: i64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 7880,
            bind_addresses: Vec::new(),
            keys: KeyPairs::default(),
            key_file: String::new(),
            region: String::new(),
            development: false,
            drain_timeout: 10,
            log_level: None,
            logging: Logging::default(),
            prometheus_port: 0,
            prometheus: Prometheus::default(),
            rtc: Rtc::default(),
            audio: Audio::default(),
            room: Room::default(),
            limit: Limit::default(),
            webhook: Webhook::default(),
            live: product::Live::default(),
            chat: product::Chat::default(),
            auth: product::Auth::default(),
            http: product::Http::default(),
            store: product::Store::default(),
            sfu: product::Sfu::default(),
        }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self { level: Level::Info, json: false, addresses: true }
    }
}

impl Default for Rtc {
    fn default() -> Self {
        Self {
            udp_port: PortRange::default(),
            port_range_start: 50_000,
            port_range_end: 60_000,
            tcp_port: 7881,
            node_ip: Addresses::default(),
            stun_servers: Vec::new(),
            workers: 0,
            datachannel_slow_threshold: 0,
        }
    }
}

impl Default for Room {
    fn default() -> Self {
        let codec = |mime: &&str| EnabledCodec { mime: (*mime).to_owned(), fmtp_line: String::new() };
        Self {
            auto_create: true,
            enabled_codecs: signaling::settings::DEFAULT_CODECS.iter().map(codec).collect(),
            max_participants: 0,
            audience_threshold: 50,
            empty_timeout: 300,
            departure_timeout: 20,
            enable_remote_unmute: false,
            room_configurations: BTreeMap::new(),
        }
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            max_metadata_size: 512 << 10,
            max_attributes_size: 64 << 10,
            max_participant_name_length: 256,
            max_room_name_length: 256,
            signal_message_size_limit: signaling::http::Sizes::default().signal_message_max,
            max_api_request_body_size: signaling::http::Sizes::default().request_body_max,
            num_tracks: 0,
        }
    }
}

impl Config {
    pub fn log_level(&self) -> Level {
        self.log_level.unwrap_or(self.logging.level)
    }

    /// 0: none.
    pub fn prometheus_port(&self) -> u16 {
        if self.prometheus.port != 0 { self.prometheus.port } else { self.prometheus_port }
    }

    /// UDP ports of the workers: `rtc.udp_port` if set, else the range.
    pub fn udp_ports(&self) -> PortRange {
        if self.rtc.udp_port.is_set() {
            return self.rtc.udp_port;
        }
        PortRange { first: self.rtc.port_range_start, last: self.rtc.port_range_end }
    }

    /// MIME types in order, as we spell them. Retransmissions come with their codecs and are not listed.
    ///
    /// # Errors
    /// A codec that this server does not know.
    pub fn codecs(&self) -> anyhow::Result<Vec<String>> {
        let mut codecs = Vec::new();
        for EnabledCodec { mime, .. } in &self.room.enabled_codecs {
            if mime.eq_ignore_ascii_case("video/rtx") {
                continue;
            }
            let known = signaling::settings::DEFAULT_CODECS.iter().find(|known| known.eq_ignore_ascii_case(mime));
            let Some(known) = known else {
                let list = signaling::settings::DEFAULT_CODECS.join(", ");
                bail!("room.enabled_codecs: unknown codec {mime:?}; known are {list}");
            };
            codecs.push((*known).to_owned());
        }
        Ok(codecs)
    }

    /// The secret of an API key.
    pub fn secret(&self, key: &str) -> Option<&Secret> {
        self.keys.0.iter().find(|(name, _)| name == key).map(|(_, secret)| secret)
    }

    /// Names and secrets of all keys that open rooms: this server's, and that of an external one.
    pub fn secrets_of_rooms(&self) -> Vec<(String, String)> {
        let own = self.keys.0.iter().map(|(name, secret)| (name.clone(), text_of(secret)));
        own.chain(self.sfu.key()).collect()
    }

    /// Name and secret of the key that signs the tokens of streams. `None`: there are no keys.
    pub fn key_of_streams(&self) -> Option<(String, String)> {
        self.sfu.key().or_else(|| self.keys.0.first().map(|(name, secret)| (name.clone(), text_of(secret))))
    }

    /// What does not go together.
    fn check(&self, remarks: &mut Remarks) {
        let PortRange { first, last } = self.udp_ports();
        if first > last || first == 0 {
            remarks.refuse(format!(
                "the UDP port range {first}-{last} is empty: set rtc.udp_port, or rtc.port_range_start ≤ rtc.port_range_end"
            ));
        }
        if self.prometheus.username.is_empty() != self.prometheus.password.0.is_empty() {
            remarks.refuse("prometheus.username and prometheus.password belong together: set both or none");
        }
        if !self.webhook.urls.is_empty() && self.secret(&self.webhook.api_key).is_none() {
            remarks.refuse("webhook.urls need webhook.api_key, which must be one of keys: it signs the events");
        }
        for checked in [self.audio.check(), self.codecs().map(drop)] {
            if let Err(error) = checked {
                remarks.refuse(format!("{error:#}"));
            }
        }
        product::check(self, remarks);
    }
}

fn text_of(secret: &Secret) -> String {
    String::from_utf8_lossy(secret.bytes()).into_owned()
}
