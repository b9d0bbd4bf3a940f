//! Ids that a room mints.

use sfu::command::{PublicationId, RoomId, SubscriptionId, TransportId};

use crate::id::ConnectionId;

/// Mints ids that no other room mints: the room's number stands in the upper half.
pub(super) struct Ids {
    room: RoomId,
    last: u32,
    last_connection: u64,
}

impl Ids {
    pub(super) fn new(room: RoomId) -> Self {
        Self { room, last: 0, last_connection: 0 }
    }

    fn next(&mut self) -> u64 {
        self.last = self.last.wrapping_add(1);
        self.room.0 << 32 | u64::from(self.last)
    }

    pub(super) fn transport(&mut self) -> TransportId {
        TransportId(self.next())
    }

    pub(super) fn publication(&mut self) -> PublicationId {
        PublicationId(self.next())
    }

    pub(super) fn subscription(&mut self) -> SubscriptionId {
        SubscriptionId(self.next())
    }

    pub(super) fn connection(&mut self) -> ConnectionId {
        self.last_connection += 1;
        ConnectionId(self.last_connection)
    }
}
