//! Who pays for fan-out ([`crate::budget`]).
//!
//! What a request or an event of a participant makes the room send to the others is charged to its connection, by what
//! the average one of them was sent.

use shared::id::ParticipantSid;

use super::context::Context;
use super::timer::Now;
use super::{Room, RoomEffect};
use crate::budget::{Debt, Fanout};
use crate::participant::Participant;

impl Room {
    /// Does something that a participant causes, and charges it for the fan-out beyond what was paid.
    pub(super) fn charging(&mut self, now: Now, sid: &ParticipantSid, paid: usize, act: impl FnOnce(&mut Self)) {
        let connection = self.connection_of(sid);
        let others = self.participants.len().saturating_sub(1);
        self.context.out.fanout = Some((connection, Fanout::default()));
        act(self);
        let Some((_, fanout)) = self.context.out.fanout.take() else { return };
        let cost = fanout.cost(others);
        self.with(sid, |participant, _| participant.transient.debt.add(now.at, cost));
        if let Some(connection) = connection
            && cost > paid
        {
            self.context.out.push(RoomEffect::Charge { connection, cost: cost - paid });
        }
    }
}

impl Participant {
    /// What is not paid for yet comes off the budget of the connection that begins.
    pub(super) fn take_over_debt(&mut self, now: Now, context: &mut Context, debt: Debt) {
        self.transient.debt = debt;
        let cost = debt.cost(now.at);
        if let Some(connection) = self.transient.connection
            && cost > 0
        {
            context.out.push(RoomEffect::Charge { connection, cost });
        }
    }
}
