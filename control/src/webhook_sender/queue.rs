//! Which event goes next: those of one room in order and one at a time, rooms beside one another.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Bytes;
use shared::id::RoomName;
use tokio::time::Instant;

/// Events that wait for one URL, and their bytes. Beyond either the room with the most bytes loses its oldest: the
/// newest tell more of how things stand, and no room costs another its events.
pub(super) const WAITING_MAX: usize = 1_000;
pub(super) const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What an event weighs beside its body.
const OVERHEAD: usize = 512;

/// Events on the way to one URL at a time.
const UNDER_WAY_MAX: usize = 16;

/// One event, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parcel {
    pub room: RoomName,
    /// Of the event, for the log.
    pub name: &'static str,
    pub body: Bytes,
    pub since: Instant,
}

impl Parcel {
    /// Of its memory, in bytes.
    fn weight(&self) -> usize {
        self.body.len() + OVERHEAD
    }
}

/// The events for one URL.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Parcel>,
    /// Weight of those.
    bytes: usize,
    /// Rooms that have one on the way.
    busy: HashSet<RoomName>,
}

impl Queue {
    /// Returns how many had to go.
    pub fn push(&mut self, parcel: Parcel) -> usize {
        self.bytes += parcel.weight();
        self.waiting.push_back(parcel);
        let before = self.waiting.len();
        while self.waiting.len() > WAITING_MAX || (self.bytes > WAITING_BYTES_MAX && self.waiting.len() > 1) {
            self.drop_one();
        }
        before - self.waiting.len()
    }

    fn drop_one(&mut self) {
        let mut weights: HashMap<&RoomName, usize> = HashMap::new();
        for parcel in &self.waiting {
            *weights.entry(&parcel.room).or_default() += parcel.weight();
        }
        let heaviest = weights.values().max().copied();
        // The oldest of the rooms that weigh as much.
        let position = self.waiting.iter().position(|parcel| weights.get(&parcel.room).copied() == heaviest);
        if let Some(parcel) = position.and_then(|position| self.waiting.remove(position)) {
            self.bytes -= parcel.weight();
        }
    }

    /// The oldest whose room has none on the way. The caller owes a [`Queue::settled`].
    pub fn next(&mut self) -> Option<Parcel> {
        if self.busy.len() >= UNDER_WAY_MAX {
            return None;
        }
        let position = self.waiting.iter().position(|parcel| !self.busy.contains(&parcel.room))?;
        let parcel = self.waiting.remove(position)?;
        self.bytes -= parcel.weight();
        self.busy.insert(parcel.room.clone());
        Some(parcel)
    }

    /// The room's event was delivered or given up.
    pub fn settled(&mut self, room: &RoomName) {
        self.busy.remove(room);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(room: &str, body: &str) -> Parcel {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Parcel { room: room.parse().unwrap(), name: "room_started", body, since: Instant::now() }
    }

    fn body(parcel: Option<Parcel>) -> String {
        parcel.map_or_else(String::new, |parcel| String::from_utf8_lossy(&parcel.body).into_owned())
    }

    #[test]
    fn a_rooms_events_go_one_after_the_other_and_do_not_hold_up_other_rooms() {
        let mut queue = Queue::default();
        for (room, text) in [("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3")] {
            queue.push(parcel(room, text));
        }

        assert_eq!(body(queue.next()), "a1");
        assert_eq!(body(queue.next()), "b1");
        assert_eq!(body(queue.next()), "");
        queue.settled(&"a".parse().unwrap());
        assert_eq!(body(queue.next()), "a2");
    }

    #[test]
    fn the_oldest_goes_when_too_many_wait() {
        let mut queue = Queue::default();
        for number in 0..WAITING_MAX {
            assert_eq!(queue.push(parcel("a", &number.to_string())), 0);
        }

        assert_eq!(queue.push(parcel("a", "last")), 1);
        assert_eq!(body(queue.next()), "1");
    }

    #[test]
    fn a_room_of_large_events_loses_its_own_and_memory_is_bounded() {
        let mut queue = Queue::default();
        queue.push(parcel("quiet", "quiet"));
        let large = "x".repeat(500_000);
        let dropped: usize = (0..200).map(|_| queue.push(parcel("loud", &large))).sum();
        queue.push(parcel("late", "late"));

        let waiting: Vec<_> = queue.waiting.iter().map(|parcel| parcel.room.as_str()).collect();
        let bytes: usize = queue.waiting.iter().map(|parcel| parcel.body.len()).sum();
        assert!(
            bytes <= WAITING_BYTES_MAX && waiting.len() + dropped == 202,
            "{bytes} bytes, {} events",
            waiting.len()
        );
        assert_eq!((waiting.first(), waiting.last()), (Some(&"quiet"), Some(&"late")));

        while let Some(parcel) = queue.next() {
            queue.settled(&parcel.room);
        }
        assert_eq!(queue.bytes, 0);
        let enormous = "x".repeat(WAITING_BYTES_MAX);
        assert_eq!(queue.push(parcel("a", &enormous)), 0, "alone it is taken");
    }

    #[test]
    fn so_many_are_on_the_way_at_most() {
        let mut queue = Queue::default();
        for number in 0..2 * UNDER_WAY_MAX {
            queue.push(parcel(&format!("room-{number}"), "x"));
        }

        assert_eq!(std::iter::from_fn(|| queue.next()).count(), UNDER_WAY_MAX);
    }
}
