//! The directory of rooms: name → room task. Everything the HTTP side asks of rooms goes through [`Rooms`].

use std::collections::HashMap;
use std::time::Duration;

use livekit_protocol as proto;
use sfu::command::{Event, Fingerprint, RoomId};
use sfu::io::WorkerHandle;
use tokio::sync::{broadcast, mpsc};

use crate::event::RoomEvent;
use crate::join::Join;
use crate::session::Session;
use crate::token::Signer;

/// Why a server API call was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{0}")]
    FailedPrecondition(String),
    #[error("{0}")]
    Unavailable(String),
}

/// Why nobody joined. Tokens and parameters were checked before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("the room is full")]
    RoomFull,
    /// It does not exist, `room.auto_create` is off and the token may not create it.
    #[error("requested room does not exist")]
    RoomMissing,
    #[error("the server is shutting down")]
    ShuttingDown,
    /// Names what exceeds its limit.
    #[error("{0} exceeds its size limit")]
    TooLarge(&'static str),
    #[error("no worker can host the room")]
    Unavailable,
}

/// What may be as large as it says, in bytes; 0 means unlimited (livekit-surface 7.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub metadata_bytes_max: usize,
    pub attributes_bytes_max: usize,
    pub name_bytes_max: usize,
    pub room_name_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            metadata_bytes_max: 512 * 1024,
            attributes_bytes_max: 64 * 1024,
            name_bytes_max: 256,
            room_name_bytes_max: 256,
        }
    }
}

/// Settings of all rooms.
#[derive(Clone)]
pub struct RoomsConfig {
    pub auto_create: bool,
    /// 0 means unlimited.
    pub max_participants: u32,
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

/// The codecs that LiveKit enables by default (livekit-surface 5.5), without rtx.
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

/// For metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub rooms: usize,
    pub participants: usize,
    pub tracks: usize,
}

/// Directory handle; cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    events: broadcast::Sender<RoomEvent>,
}

impl Rooms {
    /// Must be called inside a tokio runtime. `workers` and `events` come from [`crate::media::worker_events`] and
    /// [`sfu::io::Workers`].
    pub fn start(
        config: RoomsConfig,
        workers: Vec<WorkerHandle>,
        worker_events: mpsc::Receiver<(RoomId, Event)>,
    ) -> Rooms {
        let _ = (config, workers, worker_events);
        Rooms { events: broadcast::channel(1024).0 }
    }

    /// Joins or resumes. The session's first message is queued when this returns.
    pub async fn join(&self, _join: Join) -> Result<Session, JoinError> {
        Err(JoinError::Unavailable)
    }

    pub async fn create_room(&self, _request: proto::CreateRoomRequest) -> Result<proto::Room, ApiError> {
        Err(ApiError::Unavailable(String::new()))
    }

    /// All rooms, or those of `names` that exist.
    pub async fn list_rooms(&self, _names: &[String]) -> Vec<proto::Room> {
        Vec::new()
    }

    pub async fn delete_room(&self, _room: &str) -> Result<(), ApiError> {
        Err(ApiError::Unavailable(String::new()))
    }

    /// Includes hidden ones; a missing room gives an empty list.
    pub async fn list_participants(&self, _room: &str) -> Vec<proto::ParticipantInfo> {
        Vec::new()
    }

    pub async fn get_participant(&self, _room: &str, _identity: &str) -> Result<proto::ParticipantInfo, ApiError> {
        Err(ApiError::Unavailable(String::new()))
    }

    pub async fn remove_participant(&self, _room: &str, _identity: &str) -> Result<(), ApiError> {
        Err(ApiError::Unavailable(String::new()))
    }

    /// `None`: the participant has no such track.
    pub async fn mute_published_track(
        &self,
        _room: &str,
        _identity: &str,
        _track_sid: &str,
        _muted: bool,
    ) -> Result<Option<proto::TrackInfo>, ApiError> {
        Err(ApiError::Unavailable(String::new()))
    }

    pub async fn update_participant(
        &self,
        _request: proto::UpdateParticipantRequest,
    ) -> Result<proto::ParticipantInfo, ApiError> {
        Err(ApiError::Unavailable(String::new()))
    }

    pub async fn update_subscriptions(&self, _request: proto::UpdateSubscriptionsRequest) -> Result<(), ApiError> {
        Err(ApiError::Unavailable(String::new()))
    }

    pub async fn send_data(&self, _request: proto::SendDataRequest) -> Result<(), ApiError> {
        Err(ApiError::Unavailable(String::new()))
    }

    pub async fn update_room_metadata(&self, _room: &str, _metadata: &str) -> Result<proto::Room, ApiError> {
        Err(ApiError::Unavailable(String::new()))
    }

    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// Refuses new joins, sends everybody Leave `SERVER_SHUTDOWN`, and returns when all are gone or `deadline` passed.
    pub async fn drain(&self, _deadline: Duration) {}

    /// From now on. A receiver that lags misses the oldest.
    pub fn events(&self) -> broadcast::Receiver<RoomEvent> {
        self.events.subscribe()
    }
}
