//! `/rtc` and `/rtc/v1` requests → [`Join`].

use livekit_protocol as proto;
use serde::{Deserialize, Serialize};

use crate::token::Grants;

/// Which connection model the client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Two peer connections.
    V0,
    /// One peer connection; only the client offers.
    V1,
}

/// A resume of an earlier session.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconnect {
    /// May be empty.
    pub participant_sid: String,
    pub reason: proto::ReconnectReason,
}

/// A checked request to join a room.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    pub mode: Mode,
    /// With the client's own metadata and attributes applied, if the token permits them.
    pub grants: Grants,
    pub client: proto::ClientInfo,
    pub protocol_version: u32,
    pub auto_subscribe: bool,
    pub adaptive_stream: bool,
    pub reconnect: Option<Reconnect>,
    pub add_tracks: Vec<proto::AddTrackRequest>,
    pub publisher_offer: Option<proto::SessionDescription>,
    pub sync_state: Option<proto::SyncState>,
}
