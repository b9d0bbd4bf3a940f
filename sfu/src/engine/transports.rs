//! Transports: opened, connected, ended, and what follows from each of their inputs.

use std::cmp::Reverse;
use std::time::Instant;

use rand::RngExt;
use tracing::debug;

use super::Engine;
use super::budget::Budget;
use super::hosted::Hosted;
use super::load::Sender;
use super::subscriptions::provide_start;
use crate::command::Event;
use crate::demux::Discard;
use crate::downlink::Downlink;
use crate::id::{RoomId, TransportId};
use crate::key::{PublicationKey, TransportKey};
use crate::keying::KeyingMaterial;
use crate::parameters::{ChannelOpener, IceCredentials, TransportEnd};
use crate::path::{Path, Via};
use crate::publication::{Origin, Publication};
use crate::run::{SendArena, Transmit};
use crate::section::ExtensionIds;
use crate::srtp::{SrtpReceiver, SrtpSender};
use crate::transport::{Transport, TransportOutput};

impl Engine {
    pub(super) fn open_transport(
        &mut self,
        now: Instant,
        id: TransportId,
        room: RoomId,
        local: IceCredentials,
        opener: ChannelOpener,
    ) {
        if self.transport_keys.contains_key(&id) {
            self.stats.count(Discard::StaleCommand);
            return;
        }
        let ufrag = local.ufrag.clone();
        let mut transport = Box::new(Transport::new(id, local, opener, &self.certificate, self.rng.random()));
        transport.set_datachannel_slow_threshold(self.config.datachannel_slow_threshold);
        let key = self.transports.insert(Hosted {
            id,
            room,
            transport,
            downlink: Downlink::new(self.rng.random()),
            receiver: None,
            paths: Vec::new(),
            ufrags: vec![ufrag.clone()],
            publications: Vec::new(),
            streams: Vec::new(),
            receive_extensions: ExtensionIds::default(),
            twcc: None,
            subscriptions: Vec::new(),
            scheduled: None,
            closes_at: None,
            data_backlog: 0,
            data: Sender::default(),
            budget: Budget::new(now),
        });
        self.transport_keys.insert(id, key);
        self.ufrags.insert(ufrag, key);
    }

    pub(super) fn restart_ice(&mut self, transport: TransportId, local: IceCredentials) {
        let Some(key) = self.transport_key(transport) else { return };
        let Hosted { transport, ufrags, .. } = &mut self.transports[key];
        ufrags.push(local.ufrag.clone());
        self.ufrags.insert(local.ufrag.clone(), key);
        transport.restart_ice(local);
        ufrags.retain(|ufrag| {
            let serves = transport.local_ufrags().any(|known| known == ufrag);
            if !serves {
                self.ufrags.remove(ufrag);
            }
            serves
        });
    }

    pub(super) fn take_keys(&mut self, key: TransportKey, keys: &KeyingMaterial) {
        let hosted = &mut self.transports[key];
        self.stats.handshakes.count(keys.profile);
        hosted.downlink.cipher = Some(SrtpSender::new(keys.profile, &keys.send_key, &keys.send_salt));
        hosted.receiver = Some(Box::new(SrtpReceiver::new(keys.profile, &keys.receive_key, &keys.receive_salt)));
        // Subscriptions made before the handshake was done have waited for this.
        for &subscription in &hosted.subscriptions {
            let subscription = &self.subscriptions[subscription];
            provide_start(subscription, &mut self.publications[subscription.publication]);
        }
    }

    pub(super) fn close_now<T: Transmit>(&mut self, now: Instant, key: TransportKey, out: &mut SendArena<T>) {
        self.transports[key].transport.close(now);
        self.flush_transport(key, out);
        self.remove_transport(key);
    }

    /// Keeps only the association, until then.
    pub(super) fn close_later(&mut self, key: TransportKey, at: Instant) {
        self.remove_media_of(key);
        let hosted = &mut self.transports[key];
        hosted.closes_at = Some(at);
        self.transport_keys.remove(&hosted.id);
        self.schedule(key);
    }

    pub(super) fn remove_media_of(&mut self, key: TransportKey) {
        for publication in std::mem::take(&mut self.transports[key].publications) {
            self.remove_publication(publication);
        }
        for subscription in std::mem::take(&mut self.transports[key].subscriptions) {
            self.remove_subscription(subscription);
        }
    }

    /// Forgets a transport and all that hangs on it.
    pub(super) fn remove_transport(&mut self, key: TransportKey) {
        self.remove_media_of(key);
        let Some(hosted) = self.transports.remove(key) else { return };
        self.transport_keys.remove(&hosted.id);
        self.data.backlog -= hosted.data_backlog;
        for path in hosted.paths {
            self.forget_path(key, path);
        }
        for ufrag in hosted.ufrags {
            self.ufrags.remove(&ufrag);
        }
    }

    /// A transport no longer uses a path.
    pub(super) fn forget_path(&mut self, key: TransportKey, path: Path) {
        if self.paths.get(&path) == Some(&key) {
            self.paths.remove(&path);
            if let Via::Tcp(connection) = path.via {
                self.unused_connections.push(connection);
            }
        }
    }

    pub(super) fn close_room<T: Transmit>(&mut self, now: Instant, room: RoomId, out: &mut SendArena<T>) {
        let is_open = |hosted: &Hosted| hosted.room == room && hosted.closes_at.is_none();
        let keys: Vec<TransportKey> =
            self.transports.iter().filter(|(_, hosted)| is_open(hosted)).map(|(key, _)| key).collect();
        for key in keys {
            self.close_now(now, key, out);
        }
        let is_local = |publication: &Publication| publication.origin == Origin::Local(room);
        let keys: Vec<PublicationKey> =
            self.publications.iter().filter(|(_, one)| is_local(one)).map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.remove_publication(key));
        self.forget_data_of(room);
    }

    /// Collects what an input led to in a transport: datagrams, outputs, a new deadline. May remove it.
    pub(super) fn after_transport<T: Transmit>(&mut self, now: Instant, key: TransportKey, out: &mut SendArena<T>) {
        let mut ended = None;
        loop {
            self.flush_transport(key, out);
            let hosted = &mut self.transports[key];
            let Some(output) = hosted.transport.poll_output() else { break };
            let (transport, room, closes) = (hosted.id, hosted.room, hosted.closes_at.is_some());
            match output {
                TransportOutput::Ended(end) => ended = Some(end),
                // Nobody is there to hear of it.
                TransportOutput::Connected(_) | TransportOutput::ChannelOpen(_) | TransportOutput::Data(..)
                    if closes => {}
                TransportOutput::Connected(keys) => {
                    debug!(?transport, profile = ?keys.profile, "connected");
                    self.take_keys(key, &keys);
                    self.events.push_back((room, Event::TransportConnected { transport }));
                }
                TransportOutput::ChannelOpen(channel) => {
                    self.events.push_back((room, Event::ChannelOpen { transport, channel }));
                }
                TransportOutput::Data(channel, payload) => self.on_lossy_data(now, key, channel, payload),
            }
        }
        if self.transports[key].transport.has_reliable() {
            self.on_reliable_data(now, key);
            self.flush_transport(key, out);
        }
        let refused = self.transports[key].transport.take_data_discards().total();
        if refused > 0 {
            debug!(transport = ?self.transports[key].id, refused, "data channel messages refused");
            self.stats.add(Discard::DataRefused, refused);
        }
        let hosted = &mut self.transports[key];
        let backlog = hosted.transport.data_backlog();
        self.data.backlog = self.data.backlog + backlog - std::mem::replace(&mut hosted.data_backlog, backlog);
        if let Some(end) = ended {
            self.on_last_data(now, key);
            self.end_transport(key, end);
            return;
        }
        self.schedule(key);
    }

    pub(super) fn end_transport(&mut self, key: TransportKey, end: TransportEnd) {
        let (transport, room) = (self.transports[key].id, self.transports[key].room);
        debug!(?transport, ?end, "transport ended");
        let closes = self.transports[key].closes_at.is_some();
        self.remove_transport(key);
        if closes {
            return;
        }
        self.stats.ended.count(end);
        self.events.push_back((room, Event::TransportEnded { transport, end }));
    }

    pub(super) fn flush_transport<T: Transmit>(&mut self, key: TransportKey, out: &mut SendArena<T>) {
        let hosted = &mut self.transports[key];
        while let Some((path, check)) = hosted.transport.poll_check() {
            self.stats.path_checks_sent += 1;
            out.single(path, &check);
        }
        let Some(path) = hosted.transport.path() else { return };
        loop {
            self.datagram.clear();
            if !hosted.transport.poll_transmit(&mut self.datagram) {
                break;
            }
            out.single(path, &self.datagram);
        }
        self.stats.handshakes_withheld += hosted.transport.take_withheld();
    }

    /// Sets the transport's timer, if it is due earlier than it was set for.
    pub(super) fn schedule(&mut self, key: TransportKey) {
        let hosted = &mut self.transports[key];
        let Some(due) = hosted.transport.deadline().into_iter().chain(hosted.closes_at).min() else { return };
        if hosted.scheduled.is_none_or(|at| due < at) {
            hosted.scheduled = Some(due);
            self.timers.push(Reverse((due, key)));
        }
    }
}
