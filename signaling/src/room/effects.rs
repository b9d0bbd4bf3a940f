//! What a room asks its surroundings to do.

use std::sync::Arc;

use livekit_protocol as proto;
use proto::signal_response::Message as Response;
use sfu::command::Command;

use super::view::RoomDelta;
use crate::budget::Fanout;
use crate::event::RoomEvent;
use crate::id::{ConnectionId, DescriptionId};
use crate::quality::Score;
use crate::wire::Outgoing;

/// What a room asks its surroundings to do, in order.
#[derive(Debug)]
pub enum RoomEffect {
    Command(Command),
    /// One message to one or many connections.
    Send {
        to: Vec<ConnectionId>,
        message: Arc<Outgoing>,
    },
    /// After what was sent to it before: the client is to say when it has read that. With the id of its offer.
    AskReceipt(ConnectionId, DescriptionId),
    /// After what was sent to it before.
    CloseConnection(ConnectionId),
    /// So much comes off its budget, for the fan-out that its participant caused.
    Charge {
        connection: ConnectionId,
        cost: usize,
    },
    Event(Box<RoomEvent>),
    Delta(Box<RoomDelta>),
    /// A participant was refused a track for want of room for it.
    TrackRefused,
    /// How good the connections of all its participants are, every so often.
    Quality(Vec<Score>),
    /// The room is closed; no effect follows.
    Closed,
}

/// Effects of the input that is being handled.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) effects: Vec<RoomEffect>,
    /// Who pays for the fan-out of what is done now, and how much that is.
    pub(super) fanout: Option<(Option<ConnectionId>, Fanout)>,
}

impl Effects {
    pub(super) fn push(&mut self, effect: RoomEffect) {
        self.effects.push(effect);
    }

    pub(super) fn send(&mut self, to: Option<ConnectionId>, message: Response) {
        if let Some(connection) = to {
            self.send_all(vec![connection], message);
        }
    }

    pub(super) fn send_all(&mut self, to: Vec<ConnectionId>, message: Response) {
        if to.is_empty() {
            return;
        }
        let message = Arc::new(Outgoing::new(message));
        if let Some((by, fanout)) = &mut self.fanout {
            let others = to.iter().filter(|connection| Some(**connection) != *by).count();
            fanout.add(others, message.size());
        }
        self.push(RoomEffect::Send { to, message });
    }

    pub(super) fn ask_receipt(&mut self, of: Option<ConnectionId>, offer: Option<DescriptionId>) {
        if let (Some(connection), Some(offer)) = (of, offer) {
            self.push(RoomEffect::AskReceipt(connection, offer));
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        self.push(RoomEffect::Command(command));
    }
}
