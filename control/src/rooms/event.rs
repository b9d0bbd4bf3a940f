//! What happens in rooms, whoever tells: this process's own rooms, or the webhooks of another server.

use livekit_protocol as proto;
use signaling::event::{RoomEvent, RoomHappening};

use super::{Session, session_of};
use crate::clock::Timestamp;

/// One thing that happened in a room.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomNews {
    /// For recognising repeats. Absent: this process's own, which are not repeated.
    pub event_id: Option<String>,
    pub room: String,
    /// May be empty.
    pub room_sid: String,
    pub at: Timestamp,
    pub what: Happening,
}

/// What concerns streams.
#[derive(Debug, Clone, PartialEq)]
pub enum Happening {
    RoomStarted,
    RoomFinished,
    Joined(Session),
    Left(Session),
    /// One left that had not joined.
    Aborted(Session),
    TrackPublished(Publisher),
    TrackUnpublished,
    /// Nothing that concerns streams.
    Other,
}

impl Happening {
    /// As LiveKit names its webhooks.
    pub fn name(&self) -> &'static str {
        match self {
            Happening::RoomStarted => "room_started",
            Happening::RoomFinished => "room_finished",
            Happening::Joined(_) => "participant_joined",
            Happening::Left(_) => "participant_left",
            Happening::Aborted(_) => "participant_connection_aborted",
            Happening::TrackPublished(_) => "track_published",
            Happening::TrackUnpublished => "track_unpublished",
            Happening::Other => "other",
        }
    }

    /// The identity of whom it is about.
    pub fn participant(&self) -> Option<&str> {
        match self {
            Happening::Joined(session) | Happening::Left(session) | Happening::Aborted(session) => {
                Some(&session.identity)
            }
            Happening::TrackPublished(publisher) => Some(&publisher.identity),
            Happening::RoomStarted | Happening::RoomFinished | Happening::TrackUnpublished | Happening::Other => None,
        }
    }
}

/// Who published, as far as events of tracks tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publisher {
    pub identity: String,
}

impl From<RoomEvent> for RoomNews {
    fn from(event: RoomEvent) -> Self {
        let what = match &event.what {
            RoomHappening::RoomStarted { .. } => Happening::RoomStarted,
            RoomHappening::RoomFinished { .. } => Happening::RoomFinished,
            RoomHappening::ParticipantJoined { participant, .. } => Happening::Joined(session_of(participant)),
            RoomHappening::ParticipantLeft { participant, .. } => Happening::Left(session_of(participant)),
            RoomHappening::ParticipantConnectionAborted { participant, .. } => {
                Happening::Aborted(session_of(participant))
            }
            RoomHappening::TrackPublished { participant, .. } => Happening::TrackPublished(publisher(participant)),
            RoomHappening::TrackUnpublished { .. } => Happening::TrackUnpublished,
        };
        RoomNews {
            event_id: None,
            room: event.room.as_str().to_owned(),
            room_sid: event.room_sid.to_string(),
            at: event.at.into(),
            what,
        }
    }
}

fn publisher(participant: &proto::ParticipantInfo) -> Publisher {
    Publisher { identity: participant.identity.clone() }
}
