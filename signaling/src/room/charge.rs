//! Who pays for what the others are told ([`crate::budget`]).
//!
//! What a request or an event of a participant makes the room tell the others is charged to its connection, by what the
//! average one of them was told.

use shared::id::ParticipantSid;

use super::timer::Now;
use super::{Room, RoomEffect};
use crate::budget::{Debt, Told};

impl Room {
    /// Does something that a participant causes, and charges it for what others are told because of it, beyond what was
    /// paid.
    pub(super) fn charging(&mut self, now: Now, sid: &ParticipantSid, paid: usize, act: impl FnOnce(&mut Self)) {
        let connection = self.connection_of(sid);
        let others = self.participants.len().saturating_sub(1);
        self.out.told = Some((connection, Told::default()));
        act(self);
        let Some((_, told)) = self.out.told.take() else { return };
        let cost = told.cost(others);
        if let Some(participant) = self.participants.get_mut(sid) {
            participant.live.debt.add(now.at, cost);
        }
        if let Some(connection) = connection
            && cost > paid
        {
            self.out.push(RoomEffect::Charge { connection, cost: cost - paid });
        }
    }

    /// What is not paid for yet comes off the budget of the connection that begins.
    pub(super) fn take_over_debt(&mut self, now: Now, sid: &ParticipantSid, debt: Debt) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        participant.live.debt = debt;
        let cost = debt.cost(now.at);
        if let Some(connection) = participant.live.connection
            && cost > 0
        {
            self.out.push(RoomEffect::Charge { connection, cost });
        }
    }
}
