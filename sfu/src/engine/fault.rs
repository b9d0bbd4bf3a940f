//! After a panic: the transport that was being served is closed, or, if there is none to close, all of them are.
//!
//! A panic is a bug, ours or a library's, and one client's bytes have led to it. Its transport goes, and with it what
//! it publishes; everybody else's media goes on. The shell in [`crate::io`] catches the panic and asks for this.

use std::time::Instant;

use rand::RngExt;

use super::Engine;
use super::serving::{Serving, Stage};
use crate::command::Event;
use crate::id::{RoomId, TransportId};
use crate::key::TransportKey;
use crate::parameters::TransportEnd;
use crate::path::Via;

impl Engine {
    /// From here on a panic is the fault of this transport, or of none.
    pub(super) fn serves(&mut self, key: TransportKey, stage: Stage) {
        self.serving = Some(Serving { key, stage });
    }

    /// Ends the transport that was being served when a call panicked, and tells its room. `None`: none was, so that
    /// [`Engine::restart`] is all that is left.
    pub fn end_served(&mut self) -> Option<(RoomId, TransportId, Stage)> {
        let Serving { key, stage } = self.serving.take()?;
        let hosted = self.transports.get(key)?;
        let (room, transport) = (hosted.room, hosted.id);
        self.stats.panics += 1;
        self.end_transport(key, TransportEnd::InternalError);
        Some((room, transport, stage))
    }

    /// Begins anew with no transport at all, and tells the rooms of those that are gone. Counters go on.
    ///
    /// Returns what was there before, whose destructors may panic like the rest of it.
    pub fn restart(&mut self, now: Instant) -> Engine {
        let mut fresh = Engine::new(self.certificate.clone(), self.config, self.rng.random(), now);
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
        for (_, hosted) in self.transports.iter().filter(|(_, hosted)| hosted.closes_at.is_none()) {
            let end = TransportEnd::InternalError;
            fresh.stats.ended.count(end);
            fresh.events.push_back((hosted.room, Event::TransportEnded { transport: hosted.id, end }));
        }
        std::mem::replace(self, fresh)
    }
}
