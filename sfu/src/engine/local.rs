//! Publications and subscriptions without a transport: fed by this process, and taken by it.
//!
//! Where relays between workers, ingest and recorders are connected. All else about them is as with transports: layers,
//! late starts, mute, key frames; commands name them by the same ids.

use std::time::Instant;

use super::Engine;
use super::hosted::Stream;
use crate::demux::{Discard, PacketKind};
use crate::id::{PublicationId, RoomId, SubscriptionId};
use crate::local::LocalOutput;
use crate::publication::Origin;
use crate::rtcp::{self, Feedback};
use crate::rtp::RtpView;
use crate::section::{ReceiveSection, SendSection, Ssrc};
use crate::subscription::Sink;

impl Engine {
    /// Publishes what [`Engine::feed`] brings, in a room. Repeated, it replaces the section.
    pub fn publish_local(&mut self, room: RoomId, id: PublicationId, section: ReceiveSection) {
        self.add_publication(id, Origin::Local(room), section);
    }

    /// Takes one packet of a layer of such a publication: RTP in clear, or RTCP with sender reports about it. What
    /// cannot be used is counted.
    pub fn feed(&mut self, now: Instant, publication: PublicationId, layer: u8, packet: &[u8]) {
        self.serving = None;
        if let Err(discard) = self.try_feed(now, publication, layer, packet) {
            self.stats.count(discard);
        }
    }

    fn try_feed(&mut self, now: Instant, id: PublicationId, layer: u8, packet: &[u8]) -> Result<(), Discard> {
        let key = *self.publication_keys.get(&id).ok_or(Discard::StaleCommand)?;
        let publication = &mut self.publications[key];
        let Origin::Local(_) = publication.origin else { return Err(Discard::UnknownStream) };
        let state = publication.layers.get_mut(usize::from(layer)).ok_or(Discard::UnknownStream)?;
        match PacketKind::of(packet) {
            Some(PacketKind::Rtp) => {
                let packet = RtpView::parse(packet).ok_or(Discard::RtpMalformed)?;
                self.stats.rtp_received += 1;
                state.ssrc = Some(Ssrc(packet.ssrc()));
                self.accept_packet(now, Stream { publication: key, layer, rtx: false }, &packet)
            }
            Some(PacketKind::Rtcp) => {
                self.stats.rtcp_received += 1;
                for feedback in rtcp::parse(packet) {
                    if let Feedback::SenderReport(report, _) = feedback.map_err(|_| Discard::RtcpMalformed)? {
                        state.accept_report(now, report);
                    }
                }
                Ok(())
            }
            Some(PacketKind::Stun | PacketKind::Dtls) | None => Err(Discard::UnknownProtocol),
        }
    }

    /// Gives the packets of a publication to this process: see [`Engine::poll_local`]. Repeated, it replaces the
    /// section.
    pub fn subscribe_local(
        &mut self,
        now: Instant,
        id: SubscriptionId,
        publication: PublicationId,
        section: SendSection,
    ) {
        self.serving = None;
        self.add_subscription(now, id, publication, Sink::Local, section);
    }

    /// What a PLI of a client does, for a subscription of this process.
    pub fn request_keyframe(&mut self, id: SubscriptionId) {
        match self.subscription_keys.get(&id) {
            Some(&key) => self.want_keyframe_for(key),
            None => self.stats.count(Discard::StaleCommand),
        }
    }

    /// What this process should take; call until `None` after every turn.
    pub fn poll_local(&mut self) -> Option<LocalOutput> {
        self.local.pop()
    }
}
