//! Settings of rooms: those that hold for all of a server, and those of one room.

use std::collections::HashMap;
use std::time::Duration;

use livekit_protocol as proto;
use sfu::command::Fingerprint;

use crate::token::Signer;

/// Limits of sizes, in bytes but for tracks; 0 means unlimited (docs/livekit.md 7.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub metadata_bytes_max: usize,
    pub attributes_bytes_max: usize,
    pub name_bytes_max: usize,
    pub room_name_bytes_max: usize,
    /// Tracks published and subscribed on this server, beyond which joins are refused.
    pub node_tracks_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            metadata_bytes_max: 512 * 1024,
            attributes_bytes_max: 64 * 1024,
            name_bytes_max: 256,
            room_name_bytes_max: 256,
            node_tracks_max: 0,
        }
    }
}

/// Settings of all rooms.
#[derive(Clone)]
pub struct RoomsConfig {
    pub auto_create: bool,
    /// 0 means unlimited.
    pub max_participants: u32,
    /// Participants beyond which newcomers are one of an audience ([`crate::presence::Presence::Audience`]); 0 means
    /// never.
    pub audience_threshold: u32,
    /// How long a room waits for its first participant.
    pub empty_timeout: Duration,
    /// How long a room stays after its last participant left.
    pub departure_timeout: Duration,
    /// MIME types in order, without rtx.
    pub enabled_codecs: Vec<String>,
    pub enable_remote_unmute: bool,
    pub limits: Limits,
    pub region: String,
    /// `ND_…`.
    pub node_id: String,
    pub ice_servers: Vec<proto::IceServer>,
    /// Room settings by name, for `roomPreset` and `CreateRoomRequest.room_preset`.
    pub room_configurations: HashMap<String, proto::RoomConfiguration>,
    pub signer: Signer,
    /// Of the workers' DTLS certificate.
    pub fingerprint: Fingerprint,
}

impl RoomsConfig {
    /// As the configuration's defaults have it.
    pub fn new(node_id: String, signer: Signer, fingerprint: Fingerprint) -> Self {
        Self {
            auto_create: true,
            max_participants: 0,
            audience_threshold: 50,
            empty_timeout: Duration::from_secs(300),
            departure_timeout: Duration::from_secs(20),
            enabled_codecs: DEFAULT_CODECS.map(str::to_owned).to_vec(),
            enable_remote_unmute: false,
            limits: Limits::default(),
            region: String::new(),
            node_id,
            ice_servers: Vec::new(),
            room_configurations: HashMap::new(),
            signer,
            fingerprint,
        }
    }
}

/// The codecs that LiveKit enables by default (docs/livekit.md 5.5), without rtx.
pub const DEFAULT_CODECS: [&str; 9] = [
    "audio/PCMU",
    "audio/PCMA",
    "audio/opus",
    "audio/red",
    "video/VP8",
    "video/H264",
    "video/VP9",
    "video/AV1",
    "video/H265",
];

/// Settings of one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomSettings {
    pub empty_timeout: Duration,
    pub departure_timeout: Duration,
    /// 0 means unlimited.
    pub max_participants: u32,
    pub metadata: String,
}

/// Whether a size is over a limit; a limit of 0 means none.
pub(crate) fn exceeds(size: usize, limit: usize) -> bool {
    limit > 0 && size > limit
}
