//! After a panic: the transport that was being served is closed, or, if there is none to close, all of them are.
//!
//! A panic is a bug, ours or a library's, and one client's bytes have led to it. Its transport goes, and with it what it
//! publishes; everybody else's media goes on. The shell in [`crate::io`] catches the panic and asks for this.

use std::time::Instant;

use super::Engine;
use crate::command::{Event, RoomId, TransportEnd, TransportId};
use crate::key::TransportKey;
use crate::transport::Via;

/// What an engine is at while it serves one transport, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    ConnectivityCheck,
    /// Handshake, and SCTP inside of it.
    Dtls,
    Rtp,
    Rtcp,
    Command,
    Timer,
    /// Sending on what the transport publishes.
    Forwarding,
    /// Periodic feedback and reports about what the transport publishes.
    Feedback,
}

/// The transport that is being served, by its slot, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Serving {
    pub(super) slot: TransportKey,
    pub(super) stage: Stage,
}

impl Engine {
    /// From here on a panic is the fault of this transport, or of none.
    pub(super) fn serves(&mut self, slot: TransportKey, stage: Stage) {
        self.serving = Some(Serving { slot, stage });
    }

    /// Ends the transport that was being served when a call panicked, and tells its room. `None`: none was, so that
    /// [`Engine::restart`] is all that is left.
    pub fn end_served(&mut self) -> Option<(RoomId, TransportId, Stage)> {
        let Serving { slot, stage } = self.serving.take()?;
        let peer = self.peers.get(slot)?;
        let (room, transport) = (peer.room, peer.id);
        self.stats.panics += 1;
        self.end_transport(slot, TransportEnd::InternalError);
        Some((room, transport, stage))
    }

    /// Begins anew with no transport at all, and tells the rooms of those that are gone. Counters go on.
    ///
    /// Returns what was there before, whose destructors may panic like the rest of it.
    pub fn restart(&mut self, now: Instant) -> Engine {
        let mut fresh = Engine::new(self.certificate.clone(), self.config, now);
        fresh.stats = std::mem::take(&mut self.stats);
        fresh.stats.panics += 1;
        fresh.stats.restarts += 1;
        fresh.events = std::mem::take(&mut self.events);
        let connections = self.paths.keys().filter_map(|path| match path.via {
            Via::Tcp(connection) => Some(connection),
            Via::Udp(_) => None,
        });
        fresh.unused_connections.extend(connections);
        // Of those that are closing their rooms know already.
        for (_, peer) in self.peers.iter().filter(|(_, peer)| peer.closes_at.is_none()) {
            let end = TransportEnd::InternalError;
            fresh.stats.ended.count(end);
            fresh.events.push_back((peer.room, Event::TransportEnded { transport: peer.id, end }));
        }
        std::mem::replace(self, fresh)
    }
}
