//! Histograms and totals of rooms, sessions and tracks since the process started, for metrics.

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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proto::ConnectionQuality;

    use super::*;

    const BEGAN_MS: i64 = 1_800_000_000_000;

    fn participant() -> proto::ParticipantInfo {
        proto::ParticipantInfo { joined_at_ms: BEGAN_MS, ..Default::default() }
    }

    fn room() -> proto::Room {
        proto::Room { creation_time_ms: BEGAN_MS, ..Default::default() }
    }

    /// What happened so long after the room began, and everybody joined.
    fn after(milliseconds: u64, what: RoomHappening) -> RoomEvent {
        let at = UNIX_EPOCH + Duration::from_millis(BEGAN_MS.cast_unsigned() + milliseconds);
        let (room, room_sid) = ("room".parse().unwrap(), "RM_x".parse().unwrap());
        RoomEvent { room, room_sid, number: 1, at, client: None, what }
    }

    fn seen(histogram: &SharedHistogram) -> (u64, f64) {
        let histogram = histogram.snapshot();
        (histogram.count(), histogram.sum())
    }

    fn numbers<const N: usize>(counters: &[AtomicU64; N]) -> [u64; N] {
        counters.each_ref().map(|counter| counter.load(Ordering::Relaxed))
    }

    #[test]
    fn times_of_sessions_are_in_milliseconds_and_of_rooms_in_seconds() {
        let stats = SessionStats::default();
        let (room, participant) = (room(), participant());
        stats.note(&after(0, RoomHappening::RoomStarted { room: room.clone() }));
        let joined = RoomHappening::ParticipantJoined { room: room.clone(), participant: participant.clone() };
        stats.note(&after(250, joined));
        let left = RoomHappening::ParticipantLeft { room: room.clone(), participant: participant.clone() };
        stats.note(&after(61_500, left));
        stats.note(&after(90_500, RoomHappening::RoomFinished { room: room.clone() }));
        assert_eq!(seen(&stats.start_ms), (1, 250.0));
        assert_eq!(seen(&stats.session_ms), (1, 61_500.0));
        assert_eq!(seen(&stats.room_seconds), (1, 90.5));
        assert_eq!(stats.active.load(Ordering::Relaxed), 1);
        assert_eq!(stats.aborted.load(Ordering::Relaxed), 0);

        stats.note(&after(99, RoomHappening::ParticipantConnectionAborted { room, participant }));
        assert_eq!(stats.aborted.load(Ordering::Relaxed), 1);
        assert_eq!(seen(&stats.session_ms).0, 1, "it never was one");
    }

    #[test]
    fn tracks_are_counted_by_kind_now_and_so_far() {
        let stats = SessionStats::default();
        let track = |kind: proto::TrackType| proto::TrackInfo { r#type: kind as i32, ..Default::default() };
        let published = |kind| {
            let (room, participant, track) = (room(), participant(), track(kind));
            stats.note(&after(0, RoomHappening::TrackPublished { room, participant, track }));
        };
        KINDS.into_iter().for_each(published);
        [proto::TrackType::Video, proto::TrackType::Video].into_iter().for_each(published);
        let (room, participant, track) = (room(), participant(), track(proto::TrackType::Video));
        stats.note(&after(0, RoomHappening::TrackUnpublished { room, participant, track }));
        assert_eq!(numbers(&stats.tracks), [1, 2, 1]);
        assert_eq!(numbers(&stats.tracks_published), [1, 3, 1]);
    }

    #[test]
    fn connections_are_judged_by_the_numbers_of_their_quality() {
        let stats = SessionStats::default();
        let score = |quality, score| Score { quality, score };
        stats.judge(&[score(ConnectionQuality::Excellent, 4.5), score(ConnectionQuality::Lost, 1.0)]);
        assert_eq!(seen(&stats.quality_rating), (2, 2.0 + 3.0));
        assert_eq!(seen(&stats.quality_score), (2, 4.5 + 1.0));
    }

    #[test]
    fn calls_are_counted_by_method_and_status_and_timed_in_milliseconds() {
        let stats = SessionStats::default();
        let call = |status| ApiCall { service: "RoomService".into(), method: "ListRooms".into(), status };
        stats.answered(call(200), Duration::from_millis(4));
        stats.answered(call(200), Duration::from_millis(8));
        stats.answered(call(401), Duration::from_millis(1));
        let told: Vec<_> =
            stats.calls().into_iter().map(|(call, took)| (call.status, took.count(), took.sum())).collect();
        assert_eq!(told, [(200, 2, 12.0), (401, 1, 1.0)]);
    }
}
