//! What goes in and out of an engine without a transport: packets of subscriptions that somebody in this process takes,
//! and requests to publications that somebody in this process feeds.
//!
//! Packets are RTP and RTCP in clear and are told apart as on one port (RFC 5761). So what one engine gives out another
//! can be fed.

use std::collections::VecDeque;
use std::time::Instant;

use crate::history::StoredPacket;
use crate::id::{PublicationId, SubscriptionId};
use crate::stats::Stats;
use crate::subscription::{Stamp, Subscription};

/// Outputs that wait to be taken, at most: a turn gives each kind of media some 500 packets. Further ones are dropped,
/// and counted as overrun.
pub const LOCAL_OUTPUTS_MAX: usize = 4_096;

/// What an engine gives to its own process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalOutput {
    /// RTP or RTCP of a subscription.
    Packet {
        /// The subscription whose packet it is.
        subscription: SubscriptionId,
        /// In clear.
        packet: Vec<u8>,
    },
    /// Somebody needs a key frame of a publication that this process feeds.
    KeyframeWanted {
        /// The publication.
        publication: PublicationId,
        /// Index into its layers.
        layer: u8,
    },
}

/// Outputs that wait to be taken.
#[derive(Default)]
pub(crate) struct LocalQueue {
    outputs: VecDeque<LocalOutput>,
}

impl LocalQueue {
    pub(crate) fn pop(&mut self) -> Option<LocalOutput> {
        self.outputs.pop_front()
    }

    /// Rewrites and queues a subscription's packets.
    pub(crate) fn send(
        &mut self,
        (now, send_time): (Instant, u32),
        subscription: &mut Subscription,
        packets: &[StoredPacket<'_>],
        stats: &mut Stats,
    ) {
        for packet in packets {
            let Some(outgoing) = subscription.forward(now, packet, None) else { continue };
            let mut bytes = vec![0; outgoing.length];
            let written = subscription.write(&mut bytes, packet, &outgoing, 0, Stamp { send_time, number: 0 });
            subscription.sent(written.length - written.header);
            if self.push_packet(subscription.id, bytes) {
                stats.rtp_sent += 1;
                stats.bytes_sent += outgoing.length as u64;
            } else {
                stats.losses.overrun += 1;
            }
        }
    }

    /// Queues a compound RTCP packet of a subscription.
    pub(crate) fn send_rtcp(&mut self, subscription: SubscriptionId, packet: &[u8]) {
        self.push_packet(subscription, packet.to_vec());
    }

    /// Asks who feeds a publication for a key frame.
    pub(crate) fn request_keyframe(&mut self, publication: PublicationId, layer: u8) {
        self.push(LocalOutput::KeyframeWanted { publication, layer });
    }

    fn push_packet(&mut self, subscription: SubscriptionId, packet: Vec<u8>) -> bool {
        self.push(LocalOutput::Packet { subscription, packet })
    }

    /// `false`: there is no room.
    fn push(&mut self, output: LocalOutput) -> bool {
        let fits = self.outputs.len() < LOCAL_OUTPUTS_MAX;
        if fits {
            self.outputs.push_back(output);
        }
        fits
    }
}
