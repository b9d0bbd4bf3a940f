//! How many rooms, participants, tracks and sessions there are, for metrics and for a drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::event::RoomEvent;
use crate::quality::Score;
use crate::session_stats::SessionStats;

/// For metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub rooms: usize,
    pub participants: usize,
    pub tracks: usize,
}

/// Sums over all rooms, for [`Counts`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    rooms: AtomicUsize,
    participants: AtomicUsize,
    tracks: AtomicUsize,
    sessions: AtomicUsize,
    stats: Arc<SessionStats>,
}

impl Counters {
    pub(crate) fn now(&self) -> Counts {
        Counts {
            rooms: self.rooms.load(Ordering::Relaxed),
            participants: self.participants.load(Ordering::Relaxed),
            tracks: self.tracks.load(Ordering::Relaxed),
        }
    }

    /// Whether there are rooms, or sessions that have not ended.
    pub(crate) fn is_anybody_left(&self) -> bool {
        self.rooms.load(Ordering::Relaxed) + self.sessions.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn stats(&self) -> &SessionStats {
        &self.stats
    }
}

/// One room's part of the sums; taken out again when it is dropped.
pub struct CountedRoom {
    counters: Arc<Counters>,
    participants: usize,
    tracks: usize,
}

impl CountedRoom {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        counters.rooms.fetch_add(1, Ordering::Relaxed);
        Self { counters: Arc::clone(counters), participants: 0, tracks: 0 }
    }

    pub(crate) fn note(&self, event: &RoomEvent) {
        self.counters.stats.note(event);
    }

    pub(crate) fn note_refused_track(&self) {
        self.counters.stats.tracks_refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn judge(&self, scores: &[Score]) {
        self.counters.stats.judge(scores);
    }

    pub(crate) fn set(&mut self, participants: usize, tracks: usize) {
        self.counters.participants.fetch_add(participants, Ordering::Relaxed);
        self.counters.participants.fetch_sub(self.participants, Ordering::Relaxed);
        self.counters.tracks.fetch_add(tracks, Ordering::Relaxed);
        self.counters.tracks.fetch_sub(self.tracks, Ordering::Relaxed);
        (self.participants, self.tracks) = (participants, tracks);
    }
}

impl Drop for CountedRoom {
    fn drop(&mut self) {
        self.set(0, 0);
        self.counters.rooms.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a session as long as it exists, so that a drain waits until its last messages are sent.
pub(crate) struct CountedSession(Arc<Counters>);

impl CountedSession {
    pub(crate) fn new(counters: &Arc<Counters>) -> Self {
        counters.sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }

    pub(crate) fn stats(&self) -> &Arc<SessionStats> {
        &self.0.stats
    }

    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        Self::new(&Arc::default())
    }
}

impl Drop for CountedSession {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use livekit_protocol::ConnectionQuality;

    use super::*;

    #[test]
    fn what_rooms_count_is_in_the_sums_of_all_as_long_as_they_are_there() {
        let counters: Arc<Counters> = Arc::default();
        let sums = || {
            let of = |sum: &AtomicUsize| sum.load(Ordering::Relaxed);
            (of(&counters.rooms), of(&counters.participants), of(&counters.tracks))
        };
        let (mut first, mut second) = (CountedRoom::new(&counters), CountedRoom::new(&counters));
        first.set(5, 3);
        second.set(2, 1);
        assert_eq!(sums(), (2, 7, 4));
        first.set(4, 7);
        assert_eq!(sums(), (2, 6, 8));
        drop(first);
        assert_eq!(sums(), (1, 2, 1));

        second.judge(&[Score { quality: ConnectionQuality::Good, score: 3.0 }]);
        second.note_refused_track();
        drop(second);
        assert_eq!(sums(), (0, 0, 0));
        let stats = &counters.stats;
        assert_eq!(stats.quality_rating.snapshot().count(), 1, "what happened stays");
        assert_eq!(stats.tracks_refused.load(Ordering::Relaxed), 1);
    }
}
