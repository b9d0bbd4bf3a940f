//! What happens in rooms, as others hear of it: webhooks, metrics, the product above.

use std::time::SystemTime;

use livekit_protocol as proto;
use shared::id::{RoomName, RoomSid};

/// One thing that happened in a room. Numbers of one room have no gaps and start at 1.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomEvent {
    pub room: RoomName,
    pub room_sid: RoomSid,
    pub number: u64,
    pub at: SystemTime,
    /// The participant's client; absent in events of rooms and tracks.
    pub client: Option<proto::ClientInfo>,
    pub what: RoomHappening,
}

/// Kinds of [`RoomEvent`], after LiveKit's webhooks (docs/livekit.md 9).
#[derive(Debug, Clone, PartialEq)]
pub enum RoomHappening {
    RoomStarted {
        room: proto::Room,
    },
    /// The last event of a room.
    RoomFinished {
        room: proto::Room,
    },
    /// A participant became ACTIVE.
    ParticipantJoined {
        room: proto::Room,
        participant: proto::ParticipantInfo,
    },
    /// One that had been ACTIVE left.
    ParticipantLeft {
        room: proto::Room,
        participant: proto::ParticipantInfo,
    },
    /// One left that never was ACTIVE.
    ParticipantConnectionAborted {
        room: proto::Room,
        participant: proto::ParticipantInfo,
    },
    TrackPublished {
        room: proto::Room,
        participant: proto::ParticipantInfo,
        track: proto::TrackInfo,
    },
    TrackUnpublished {
        room: proto::Room,
        participant: proto::ParticipantInfo,
        track: proto::TrackInfo,
    },
}
