//! Which event goes next: those of one room in order and one at a time, rooms beside one another.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;
use shared::id::RoomName;
use tokio::time::Instant;

/// Events that wait for one URL; beyond that the oldest is dropped, since the newest tell more of how things stand.
pub(super) const WAITING_MAX: usize = 1_000;

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

/// The events for one URL.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Parcel>,
    /// Rooms that have one on the way.
    busy: HashSet<RoomName>,
}

impl Queue {
    /// Returns the one that had to go.
    pub fn push(&mut self, parcel: Parcel) -> Option<Parcel> {
        self.waiting.push_back(parcel);
        if self.waiting.len() > WAITING_MAX { self.waiting.pop_front() } else { None }
    }

    /// The oldest whose room has none on the way. The caller owes a [`Queue::settled`].
    pub fn next(&mut self) -> Option<Parcel> {
        if self.busy.len() >= UNDER_WAY_MAX {
            return None;
        }
        let position = self.waiting.iter().position(|parcel| !self.busy.contains(&parcel.room))?;
        let parcel = self.waiting.remove(position)?;
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
            assert_eq!(queue.push(parcel("a", &number.to_string())), None);
        }

        assert_eq!(body(queue.push(parcel("a", "last"))), "0");
        assert_eq!(body(queue.next()), "1");
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
