//! Fan-out: publication by publication, subscriber by subscriber, each one's packets in a run.

use std::time::Instant;

use arrayvec::ArrayVec;
use shared::media::MediaKind;
use slab::Slab;

use super::{Engine, Peer};
use crate::history::StoredPacket;
use crate::publication::{LayerState, Publication};
use crate::run::{PADDING_MAX, SendArena, Transmit, plan_run};
use crate::srtp::OVERHEAD_MAX;
use crate::stats::Stats;
use crate::subscription::{HEADER_MAX, Outgoing, Subscription};

/// Packets of a layer that are fanned out together; more in one turn are taken in several rounds.
const ROUND: usize = 64;

/// Packets of the past sent to one subscriber in a turn: a few dozen milliseconds of a fast link.
const CATCH_UP_BURST: u64 = 48;

/// Subscribers from which on it pays to wait for the rest of a frame.
const AUDIENCE_WORTH_WAITING: usize = 24;

impl Engine {
    /// Whether the news are the beginning of a frame that many watch: the rest is about to arrive, and a longer run is
    /// cheaper than two short ones.
    pub fn waits_for_more(&self) -> bool {
        !self.news.is_empty()
            && self.news.iter().all(|slot| {
                let publication = &self.publications[*slot];
                publication.section.kind == MediaKind::Video
                    && publication.subscriptions.len() >= AUDIENCE_WORTH_WAITING
                    && publication.layers.iter().any(|layer| {
                        let last = layer.news.last().and_then(|news| layer.history.as_ref()?.find(*news));
                        last.is_some_and(|packet| !packet.info.marker)
                    })
            })
    }

    /// Sends on everything that arrived since the last call.
    pub fn forward<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        let send_time = self.send_time(now);
        let mut news = std::mem::take(&mut self.news);
        for slot in news.drain(..) {
            let publication = &mut self.publications[slot];
            publication.has_news = false;
            for index in 0..publication.layers.len() {
                let news = std::mem::take(&mut publication.layers[index].news);
                for round in news.chunks(ROUND) {
                    if publication.muted {
                        continue;
                    }
                    fan_out(
                        now,
                        publication,
                        index,
                        round,
                        &mut self.subscriptions,
                        &self.peers,
                        &mut self.stats,
                        send_time,
                        out,
                    );
                }
                let layer = &mut publication.layers[index];
                layer.news = news;
                layer.news.clear();
            }
        }
        self.news = news;
    }

    /// Moves subscriptions on that have not met the present, whether or not anything arrives.
    pub(super) fn advance_starting<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        let send_time = self.send_time(now);
        let Self { starting, subscriptions, publications, peers, stats, .. } = self;
        starting.retain(|slot| {
            let Some(subscription) = subscriptions.get_mut(*slot) else { return false };
            let publication = &publications[subscription.publication];
            let index = subscription.current.unwrap_or(subscription.wanted);
            let Some(layer) = publication.layers.get(usize::from(index)) else { return false };
            let peer = &peers[subscription.transport];
            if !publication.muted
                && (subscription.catch_up.is_some() || start_late(now, subscription, index, layer, peer))
            {
                catch_up(now, subscription, layer, peer, stats, send_time, out);
            }
            subscription.current.is_none() || subscription.catch_up.is_some()
        });
    }

    /// Answers a NACK from the layer's shared history (RFC 4585, RFC 4588).
    pub(super) fn retransmit<T: Transmit>(&mut self, now: Instant, slot: usize, sequence: u16, out: &mut SendArena<T>) {
        let send_time = self.send_time(now);
        let subscription = &mut self.subscriptions[slot];
        self.stats.nacks_received += 1;
        let Some((stretch, source, number)) = subscription.lost_packet(sequence) else { return };
        let publication = &self.publications[subscription.publication];
        let Some(packet) =
            publication.layers.get(usize::from(stretch.layer)).and_then(|layer| layer.history.as_ref()?.find(source))
        else {
            self.stats.nacks_missed += 1;
            return;
        };
        let peer = &self.peers[subscription.transport];
        let (Some(path), Some(cipher)) = (peer.path, &peer.sender) else { return };
        let Some(outgoing) = subscription.retransmission(&packet, stretch, number) else { return };
        if !subscription.may_retransmit(now) {
            self.stats.nacks_over_budget += 1;
            return;
        }
        let sealed = outgoing.length + cipher.rtp_overhead();
        let mut run = out.run(path, sealed);
        let space = run.space(HEADER_MAX + packet.payload.len() + 2 + OVERHEAD_MAX);
        let Some(written) = subscription.write_retransmission(space, &packet, &outgoing, send_time) else { return };
        let length = cipher.seal_rtp(space, written.header, written.length, written.ssrc, written.index);
        run.push(length);
        self.stats.rtp_retransmitted += 1;
    }
}

/// Shows one round of a layer's news to all its subscribers.
#[allow(clippy::too_many_arguments, reason = "the parts of the engine that the hot path touches, borrowed apart")]
fn fan_out<T: Transmit>(
    now: Instant,
    publication: &Publication,
    layer: usize,
    round: &[u64],
    subscriptions: &mut Slab<Subscription>,
    peers: &Slab<Peer>,
    stats: &mut Stats,
    send_time: u32,
    out: &mut SendArena<T>,
) {
    let Some(history) = publication.layers[layer].history.as_deref() else { return };
    let packets: ArrayVec<StoredPacket<'_>, ROUND> =
        round.iter().filter_map(|sequence| history.find(*sequence)).collect();
    for &slot in &publication.subscriptions {
        let subscription = &mut subscriptions[slot];
        let peer = &peers[subscription.transport];
        if start_late(now, subscription, layer as u8, &publication.layers[layer], peer)
            || (subscription.catch_up.is_some() && subscription.current == Some(layer as u8))
        {
            catch_up(now, subscription, &publication.layers[layer], peer, stats, send_time, out);
            continue;
        }
        if let Some(packets) = share(now, subscription, layer as u8, &packets) {
            send_share(now, subscription, packets, peer, stats, send_time, out);
        }
    }
}

/// Lets a subscription that waits for its first key frame start with the last one, if history still holds it: neither
/// it waits for the publisher, nor the publisher makes a key frame for each that comes.
fn start_late(now: Instant, subscription: &mut Subscription, index: u8, layer: &LayerState, peer: &Peer) -> bool {
    if subscription.paused || !subscription.may_start_late(index) || peer.path.is_none() || peer.sender.is_none() {
        return false;
    }
    let (Some(keyframe), Some(history)) = (layer.late_start(), layer.history.as_deref()) else { return false };
    let (Some(first), Some(newest)) = (history.find(keyframe), history.find(layer.highest())) else { return false };
    subscription.start_late(now, index, &first.info, newest.info.timestamp);
    true
}

/// Sends a subscription the next part of what it missed, until it has met the present.
fn catch_up<T: Transmit>(
    now: Instant,
    subscription: &mut Subscription,
    layer: &LayerState,
    peer: &Peer,
    stats: &mut Stats,
    send_time: u32,
    out: &mut SendArena<T>,
) {
    let (Some(next), Some(history)) = (subscription.catch_up, layer.history.as_deref()) else { return };
    if subscription.paused {
        subscription.catch_up = None;
        return;
    }
    let end = (next + CATCH_UP_BURST).min(layer.highest() + 1);
    let packets: ArrayVec<StoredPacket<'_>, ROUND> = (next..end).filter_map(|number| history.find(number)).collect();
    subscription.catch_up = (end <= layer.highest()).then_some(end);
    stats.rtp_caught_up += packets.len() as u64;
    send_share(now, subscription, &packets, peer, stats, send_time, out);
}

/// The packets of this layer that a subscription gets: none, all, or from the one on that it starts with.
fn share<'a, 'p>(
    now: Instant,
    subscription: &mut Subscription,
    layer: u8,
    packets: &'a [StoredPacket<'p>],
) -> Option<&'a [StoredPacket<'p>]> {
    if subscription.paused {
        return None;
    }
    if subscription.current == Some(layer) {
        return Some(packets);
    }
    let start = packets.iter().position(|packet| subscription.starts_with(layer, &packet.info))?;
    subscription.start(now, layer, &packets[start].info);
    Some(&packets[start..])
}

/// Rewrites, copies and seals a subscriber's packets into runs of the arena.
fn send_share<T: Transmit>(
    now: Instant,
    subscription: &mut Subscription,
    packets: &[StoredPacket<'_>],
    peer: &Peer,
    stats: &mut Stats,
    send_time: u32,
    out: &mut SendArena<T>,
) {
    let (Some(path), Some(cipher)) = (peer.path, &peer.sender) else {
        // Not connected yet: it starts afresh when it is.
        subscription.current = None;
        return;
    };
    let overhead = cipher.rtp_overhead();
    let mut chosen: ArrayVec<(usize, Outgoing), ROUND> = ArrayVec::new();
    let mut sizes: ArrayVec<usize, ROUND> = ArrayVec::new();
    for (index, packet) in packets.iter().enumerate() {
        if let Some(outgoing) = subscription.forward(packet) {
            sizes.push(outgoing.length + overhead);
            chosen.push((index, outgoing));
        }
    }
    let mut from = 0;
    while from < chosen.len() {
        let (count, segment) = plan_run(&sizes[from..]);
        let mut run = out.run(path, segment);
        let mut pushed = 0;
        for (position, (index, outgoing)) in chosen[from..from + count].iter().enumerate() {
            if !run.takes_more() {
                break;
            }
            let packet = &packets[*index];
            let short = segment - sizes[from + position];
            let padding = if position + 1 < count && short <= PADDING_MAX { short } else { 0 };
            let space = run.space(HEADER_MAX + packet.payload.len() + padding + OVERHEAD_MAX);
            let written = subscription.write(space, packet, outgoing, padding, send_time);
            let length = cipher.seal_rtp(space, written.header, written.length, written.ssrc, written.index);
            run.push(length);
            subscription.sent(now, &packet.info, packet.payload.len());
            stats.rtp_sent += 1;
            stats.bytes_sent += length as u64;
            pushed += 1;
        }
        stats.runs_sent += 1;
        from += pushed.max(1);
    }
}
