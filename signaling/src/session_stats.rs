//! Numbers of rooms, sessions and tracks that are no mere counts of now, for metrics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use livekit_protocol as proto;
use shared::histogram::{Histogram, SharedHistogram};

use crate::event::{RoomEvent, RoomHappening};
use crate::quality::Score;

/// Bounds of LiveKit's metrics, or close to them.
const JOIN_MS: [f64; 12] = [1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4];
const START_MS: [f64; 10] = [100.0, 200.0, 300.0, 500.0, 750.0, 1e3, 2e3, 3e3, 5e3, 1e4];
const SESSION_MS: [f64; 11] = [1e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6, 7.2e6, 1.44e7];
const ROOM_SECONDS: [f64; 10] = [5.0, 10.0, 60.0, 300.0, 600.0, 1.8e3, 3.6e3, 7.2e3, 1.8e4, 3.6e4];
const QUALITY_RATING: [f64; 3] = [0.0, 1.0, 2.0];
const QUALITY_SCORE: [f64; 10] = [1.0, 2.0, 2.5, 3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5];
const CALL_MS: [f64; 13] = [5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4];

/// Since the process started.
#[derive(Debug)]
pub struct SessionStats {
    /// From the request to the first message.
    pub join_ms: SharedHistogram,
    /// From the join until media flows.
    pub start_ms: SharedHistogram,
    /// From the join to the leave.
    pub session_ms: SharedHistogram,
    pub room_seconds: SharedHistogram,
    /// Of connections, by the numbers of `ConnectionQuality`: poor is 0, good 1, excellent 2, lost 3.
    pub quality_rating: SharedHistogram,
    /// Of connections, 1 to 4.5.
    pub quality_score: SharedHistogram,
    /// Participants whose media came up, and those who left before.
    pub active: AtomicU64,
    pub aborted: AtomicU64,
    /// By kind, in the order of [`KINDS`]: now, and so far.
    pub tracks: [AtomicU64; 3],
    pub tracks_published: [AtomicU64; 3],
    /// Tracks beyond the bounds of their participant or of the room.
    pub tracks_refused: AtomicU64,
    /// Signal messages of clients, and to them.
    pub requests: AtomicU64,
    pub responses: AtomicU64,
    calls: Mutex<BTreeMap<ApiCall, Histogram>>,
}

/// Which call of the server API was answered how. There are as many as methods and statuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiCall {
    pub service: String,
    pub method: String,
    pub status: u16,
}

impl Default for SessionStats {
    fn default() -> Self {
        Self {
            join_ms: SharedHistogram::new(&JOIN_MS),
            start_ms: SharedHistogram::new(&START_MS),
            session_ms: SharedHistogram::new(&SESSION_MS),
            room_seconds: SharedHistogram::new(&ROOM_SECONDS),
            quality_rating: SharedHistogram::new(&QUALITY_RATING),
            quality_score: SharedHistogram::new(&QUALITY_SCORE),
            active: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            tracks: Default::default(),
            tracks_published: Default::default(),
            tracks_refused: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            responses: AtomicU64::new(0),
            calls: Mutex::default(),
        }
    }
}

/// Kinds of tracks, in the order in which they are counted.
pub const KINDS: [proto::TrackType; 3] = [proto::TrackType::Audio, proto::TrackType::Video, proto::TrackType::Data];

impl SessionStats {
    /// Counts what happened in a room.
    pub(crate) fn note(&self, event: &RoomEvent) {
        match &event.what {
            RoomHappening::RoomStarted { .. } => {}
            RoomHappening::RoomFinished { room } => {
                self.room_seconds.observe(since(room.creation_time_ms, event.at).as_secs_f64());
            }
            RoomHappening::ParticipantJoined { participant, .. } => {
                self.active.fetch_add(1, Ordering::Relaxed);
                self.start_ms.observe(milliseconds(since(participant.joined_at_ms, event.at)));
            }
            RoomHappening::ParticipantLeft { participant, .. } => {
                self.session_ms.observe(milliseconds(since(participant.joined_at_ms, event.at)));
            }
            RoomHappening::ParticipantConnectionAborted { .. } => {
                self.aborted.fetch_add(1, Ordering::Relaxed);
            }
            RoomHappening::TrackPublished { track, .. } => {
                let kind = kind_of(track);
                self.tracks[kind].fetch_add(1, Ordering::Relaxed);
                self.tracks_published[kind].fetch_add(1, Ordering::Relaxed);
            }
            RoomHappening::TrackUnpublished { track, .. } => {
                self.tracks[kind_of(track)].fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts how good connections are.
    pub(crate) fn judge(&self, scores: &[Score]) {
        for Score { quality, score } in scores {
            self.quality_rating.observe(f64::from(*quality as i32));
            self.quality_score.observe(f64::from(*score));
        }
    }

    pub(crate) fn answered(&self, call: ApiCall, took: Duration) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.entry(call).or_insert(Histogram::new(&CALL_MS)).observe(milliseconds(took));
    }

    /// Calls of the server API so far.
    pub fn calls(&self) -> Vec<(ApiCall, Histogram)> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().map(|(call, took)| (call.clone(), *took)).collect()
    }
}

/// Its place in [`KINDS`], which are all that there are.
fn kind_of(track: &proto::TrackInfo) -> usize {
    KINDS.iter().position(|kind| *kind == track.r#type()).unwrap_or_default()
}

pub(crate) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn since(unix_ms: i64, now: SystemTime) -> Duration {
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(unix_ms).unwrap_or_default());
    now.duration_since(since).unwrap_or_default()
}
