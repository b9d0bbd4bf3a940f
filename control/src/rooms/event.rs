//! What happens in rooms, whoever tells: this process's own rooms, or the webhooks of another server.

use livekit_protocol as proto;
use signaling::event::{RoomEvent, RoomHappening};

use super::session::{Session, session_of};
use crate::clock::Timestamp;

/// One thing that happened in a room.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// For recognising repeats. Absent: this process's own, which are not repeated.
    pub event_id: Option<String>,
    pub room: String,
    /// May be empty.
    pub room_sid: String,
    pub at: Timestamp,
    pub kind: EventKind,
}

/// What concerns streams.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
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

impl EventKind {
    /// As LiveKit names its webhooks.
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::RoomStarted => "room_started",
            EventKind::RoomFinished => "room_finished",
            EventKind::Joined(_) => "participant_joined",
            EventKind::Left(_) => "participant_left",
            EventKind::Aborted(_) => "participant_connection_aborted",
            EventKind::TrackPublished(_) => "track_published",
            EventKind::TrackUnpublished => "track_unpublished",
            EventKind::Other => "other",
        }
    }

    /// The identity of whom it is about.
    pub fn participant(&self) -> Option<&str> {
        match self {
            EventKind::Joined(session) | EventKind::Left(session) | EventKind::Aborted(session) => {
                Some(&session.identity)
            }
            EventKind::TrackPublished(publisher) => Some(&publisher.identity),
            EventKind::RoomStarted | EventKind::RoomFinished | EventKind::TrackUnpublished | EventKind::Other => None,
        }
    }
}

/// Who published, as far as events of tracks tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publisher {
    pub identity: String,
}

impl From<RoomEvent> for Event {
    fn from(event: RoomEvent) -> Self {
        let kind = match &event.what {
            RoomHappening::RoomStarted { .. } => EventKind::RoomStarted,
            RoomHappening::RoomFinished { .. } => EventKind::RoomFinished,
            RoomHappening::ParticipantJoined { participant, .. } => EventKind::Joined(session_of(participant)),
            RoomHappening::ParticipantLeft { participant, .. } => EventKind::Left(session_of(participant)),
            RoomHappening::ParticipantConnectionAborted { participant, .. } => {
                EventKind::Aborted(session_of(participant))
            }
            RoomHappening::TrackPublished { participant, .. } => EventKind::TrackPublished(publisher(participant)),
            RoomHappening::TrackUnpublished { .. } => EventKind::TrackUnpublished,
        };
        Event {
            event_id: None,
            room: event.room.as_str().to_owned(),
            room_sid: event.room_sid.to_string(),
            at: event.at.into(),
            kind,
        }
    }
}

fn publisher(participant: &proto::ParticipantInfo) -> Publisher {
    Publisher { identity: participant.identity.clone() }
}
