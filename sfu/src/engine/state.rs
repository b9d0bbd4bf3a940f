//! What a session needs to go on elsewhere, as plain data that can be written down and read back (ARCHITECTURE.md,
//! invariant 13). Keys never leave.

use std::time::Instant;

use super::Engine;
use super::hosted::Stream;
use crate::command::{Command, Event};
use crate::id::TransportId;
use crate::parameters::{ChannelOpener, IceCredentials};
use crate::run::{SendArena, Transmit};
use crate::snapshot::{PublicationState, SubscriptionState, TransportState};

impl Engine {
    pub(super) fn export(&mut self, transport: TransportId) {
        let room = self.transport_keys.get(&transport).map(|key| self.transports[*key].room);
        let state = self.state_of(transport).map(Box::new);
        if let Some(room) = room {
            self.events.push_back((room, Event::TransportExported { transport, state }));
        }
    }

    /// The state of a transport now.
    pub fn state_of(&self, transport: TransportId) -> Option<TransportState> {
        let hosted = &self.transports[*self.transport_keys.get(&transport)?];
        let publications = hosted.publications.iter().map(|key| {
            let publication = &self.publications[*key];
            PublicationState {
                publication: publication.id,
                section: publication.section.clone(),
                muted: publication.muted,
                layers: publication
                    .layers
                    .iter()
                    .map(|layer| layer.ssrc.map(|ssrc| (ssrc, layer.highest())).filter(|(_, highest)| *highest > 0))
                    .collect(),
            }
        });
        let subscriptions = hosted.subscriptions.iter().map(|key| {
            let subscription = &self.subscriptions[*key];
            SubscriptionState {
                subscription: subscription.id,
                publication: self.publications[subscription.publication].id,
                section: subscription.section.clone(),
                paused: subscription.is_paused(),
                layer_max: subscription.layer_max,
                rewriter: subscription.rewriter.clone(),
                rtx_next: subscription.rtx_next(),
            }
        });
        Some(TransportState {
            transport,
            room: hosted.room,
            fingerprint: hosted.transport.fingerprint(),
            remote: hosted.transport.remote_credentials().cloned(),
            role: hosted.transport.dtls_role(),
            publications: publications.collect(),
            subscriptions: subscriptions.collect(),
        })
    }

    /// Takes a transport up where another engine left it; only ICE and DTLS start anew. What it subscribes to must have
    /// been published here before.
    pub fn restore<T: Transmit>(
        &mut self,
        now: Instant,
        state: TransportState,
        local: IceCredentials,
        opener: ChannelOpener,
        out: &mut SendArena<T>,
    ) {
        let transport = state.transport;
        self.handle(now, Command::OpenTransport { transport, room: state.room, local, opener }, out);
        if let Some(fingerprint) = state.fingerprint {
            self.handle(now, Command::SetFingerprint { transport, fingerprint, role: state.role }, out);
        }
        if let Some(remote) = state.remote {
            self.handle(now, Command::SetRemoteCredentials { transport, remote }, out);
        }
        for publication in state.publications {
            self.restore_publication(transport, publication);
        }
        for from in state.subscriptions {
            let (subscription, publication, section) = (from.subscription, from.publication, from.section);
            self.subscribe(now, subscription, publication, transport, section);
            if let Some(&key) = self.subscription_keys.get(&subscription) {
                self.subscriptions[key].resume_at(from.rewriter, from.rtx_next);
                self.set_subscription(now, subscription, from.paused, from.layer_max);
            }
        }
    }

    fn restore_publication(&mut self, transport: TransportId, from: PublicationState) {
        self.publish(from.publication, transport, from.section);
        self.set_muted(from.publication, from.muted);
        let (Some(&key), Some(&hosted)) =
            (self.publication_keys.get(&from.publication), self.transport_keys.get(&transport))
        else {
            return;
        };
        for (index, layer) in from.layers.into_iter().enumerate() {
            let (Some((ssrc, highest)), Some(state)) = (layer, self.publications[key].layers.get_mut(index)) else {
                continue;
            };
            state.resume_at(ssrc, highest);
            let stream = Stream { publication: key, layer: index as u8, rtx: false };
            let streams = &mut self.transports[hosted].streams;
            streams.retain(|(known, _)| *known != ssrc.0);
            streams.push((ssrc.0, stream));
        }
    }
}
