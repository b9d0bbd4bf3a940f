//! Fan-out: publication by publication, subscriber by subscriber, each one's packets in a run.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use shared::media::MediaKind;

use super::Engine;
use super::hosted::Hosted;
use super::serving::{Serving, Stage};
use crate::history::StoredPacket;
use crate::id::{SubscriptionId, TransportId};
use crate::key::{Keyed, PublicationKey, SubscriptionKey};
use crate::local::LocalQueue;
use crate::publication::{LayerState, PACKET_OVERHEAD, Publication, ROUND};
use crate::run::{SendArena, Transmit};
use crate::section::LayerId;
use crate::stats::Stats;
use crate::subscription::{Playout, Sink, Subscription};

/// Packets of the past sent to one subscriber in a turn: a few dozen milliseconds of a fast link.
const CATCH_UP_BURST: u64 = 48;

/// A subscriber that lags behind by this many times what it may has lost touch: it starts again with a key frame.
const RESTART_LAGS: usize = 6;

/// Subscribers from which on it pays to wait for the rest of a frame.
const AUDIENCE_WORTH_WAITING: usize = 24;

/// Packets of one kind of media that are sent before a worker receives again: less than a millisecond's work. A frame
/// to a thousand subscribers takes ten milliseconds, which neither audio nor other rooms should wait for.
const SLICE: u64 = 512;

/// How long the beginning of a frame may wait for its end when many subscribers watch: one long run is cheaper than two
/// short ones.
const FRAME_WAIT: Duration = Duration::from_millis(1);

/// Where packets leave, and what counts them: what fan-out touches beside publications and subscriptions.
struct Exits<'a, T: Transmit> {
    now: Instant,
    send_time: u32,
    transports: &'a mut Keyed<TransportId, Hosted>,
    local: &'a mut LocalQueue,
    stats: &'a mut Stats,
    out: &'a mut SendArena<T>,
}

impl<T: Transmit> Exits<'_, T> {
    /// Whether packets can leave there now.
    fn is_open(&self, sink: Sink) -> bool {
        match sink {
            Sink::Transport(key) => self.transports[key].downlink.is_open(),
            Sink::Local => true,
        }
    }

    /// Bytes that may leave there now; `None`: as many as there are.
    fn allowance(&mut self, sink: Sink) -> Option<usize> {
        match sink {
            Sink::Transport(key) => self.transports[key].downlink.allowance(self.now),
            Sink::Local => None,
        }
    }

    /// Bytes that a subscriber may lag behind; `None`: as many as it likes.
    fn lag_max(&self, sink: Sink) -> Option<usize> {
        match sink {
            Sink::Transport(key) => self.transports[key].downlink.lag_max(),
            Sink::Local => None,
        }
    }

    /// Sends a subscriber's packets. Where they cannot leave yet it starts afresh when they can.
    fn send(&mut self, subscription: &mut Subscription, packets: &[StoredPacket<'_>]) {
        let times = (self.now, self.send_time);
        match subscription.sink {
            Sink::Transport(key) => {
                if !self.transports[key].downlink.send(times, subscription, packets, self.stats, self.out) {
                    subscription.restart();
                }
            }
            Sink::Local => self.local.send(times, subscription, packets, self.stats),
        }
    }
}

impl Engine {
    /// Sends on a part of what has arrived, audio first, and tells when to be called again: `None` if nothing is left.
    ///
    /// Publications take turns. Between two calls the caller receives, so that what arrives meanwhile gets its turn.
    pub fn forward<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) -> Option<Instant> {
        let mut again: Option<Instant> = None;
        for kind in [MediaKind::Audio, MediaKind::Video] {
            // Each kind has a share of its own, so that no flood of one keeps the other from flowing.
            let until = self.stats.rtp_sent + SLICE;
            for _ in 0..self.backlog.of(kind).len() {
                if self.stats.rtp_sent >= until {
                    again = Some(now);
                    break;
                }
                let Some(key) = self.backlog.of(kind).pop_front() else { break };
                if let Some(later) = self.serve(now, key, until, out) {
                    self.backlog.of(kind).push_back(key);
                    again = Some(again.map_or(later, |again| again.min(later)));
                }
            }
        }
        again
    }

    /// Gives a publication its turn. If something is left, tells when it should have the next.
    fn serve<T: Transmit>(
        &mut self,
        now: Instant,
        key: PublicationKey,
        until: u64,
        out: &mut SendArena<T>,
    ) -> Option<Instant> {
        let publication = self.publications.get(key)?;
        self.serving = Serving::of(publication.origin, Stage::Forwarding);
        let since = publication.pending_since.unwrap_or(now);
        if awaits_rest_of_frame(publication) && now < since + FRAME_WAIT {
            return Some(since + FRAME_WAIT);
        }
        let finished = self.fan_out(now, key, until, out);
        let publication = &mut self.publications[key];
        publication.pending_since = (!finished).then_some(now);
        (!finished).then_some(now)
    }

    /// Fans out a round of what is pending in each layer, or goes on with it, until so many packets have been sent in
    /// all. `true`: everybody has everything.
    fn fan_out<T: Transmit>(&mut self, now: Instant, key: PublicationKey, until: u64, out: &mut SendArena<T>) -> bool {
        let send_time = self.send_time(now);
        let Self { publications, subscriptions, transports, local, stats, starting, .. } = self;
        let mut exits = Exits { now, send_time, transports, local, stats, out };
        let publication = &mut publications[key];
        for layer in 0..publication.layers.len() {
            if publication.muted {
                publication.layers[layer].drop_pending();
            }
            if publication.layers[layer].is_overrun() {
                skip_pending(publication, layer, subscriptions, exits.stats);
            }
            if !publication.layers[layer].begin_round() {
                continue;
            }
            let served = fan_out_round(publication, layer, until, (subscriptions, starting), &mut exits);
            let state = &mut publication.layers[layer];
            state.served = served;
            if served < publication.subscriptions.len() {
                return false;
            }
            state.round.clear();
        }
        publication.layers.iter().all(|layer| layer.pending.is_empty())
    }

    /// Moves subscriptions on that are still catching up or have not started, whether or not anything arrives.
    pub(super) fn advance_starting<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        let send_time = self.send_time(now);
        let Self { starting, subscriptions, publications, transports, local, stats, serving, .. } = self;
        let mut exits = Exits { now, send_time, transports, local, stats, out };
        starting.retain(|key| {
            let Some(subscription) = subscriptions.get_mut(*key) else { return false };
            let publication = &publications[subscription.publication];
            *serving = Serving::of(publication.origin, Stage::Forwarding);
            let index = subscription.layer();
            let Some(layer) = publication.layers.get(usize::from(index)) else { return false };
            if !publication.muted {
                start_late(subscription, index, layer, &exits);
                catch_up(subscription, index, layer, &mut exits);
            }
            subscription.is_looked_after = subscription.is_starting();
            subscription.is_looked_after
        });
    }

    /// Answers a NACK from the layer's shared history (RFC 4585, RFC 4588).
    pub(super) fn retransmit<T: Transmit>(
        &mut self,
        now: Instant,
        key: SubscriptionKey,
        sequence: u16,
        out: &mut SendArena<T>,
    ) {
        let send_time = self.send_time(now);
        let subscription = &mut self.subscriptions[key];
        self.stats.nacks_received += 1;
        let Some(source) = subscription.lost_packet(sequence) else { return };
        let publication = &self.publications[subscription.publication];
        let layer = publication.layers.get(usize::from(source.segment.layer));
        let packet = layer.and_then(|layer| layer.history.as_ref()?.find(source.sequence));
        let Some(packet) = packet.filter(|packet| !packet.info.hidden) else {
            self.stats.nacks_missed += 1;
            return;
        };
        // Only a client sends NACKs: a queue loses nothing on the way.
        let Sink::Transport(transport) = subscription.sink else { return };
        let downlink = &mut self.transports[transport].downlink;
        let transport_cc = subscription.transport_cc(downlink.has_video);
        let Some(outgoing) = subscription.retransmission(&packet, source, transport_cc) else { return };
        downlink.resend((now, send_time), subscription, (&packet, &outgoing), &mut self.stats, out);
    }
}

/// Lets the audience of a layer leave out what it would get too late, and start again with the next key frame, or with
/// the next packet of audio. It sees no gap in the numbers, so that it does not ask for what was left out.
fn skip_pending(
    publication: &mut Publication,
    index: usize,
    subscriptions: &mut Keyed<SubscriptionId, Subscription>,
    stats: &mut Stats,
) {
    let layer = &mut publication.layers[index];
    stats.losses.overrun += layer.pending.len() as u64 * publication.subscriptions.len() as u64;
    layer.drop_pending();
    for &key in &publication.subscriptions {
        let subscription = &mut subscriptions[key];
        if subscription.playout().layer().is_some_and(|layer| usize::from(layer.spatial) == index) {
            subscription.restart();
        }
    }
    if publication.section.kind == MediaKind::Video {
        layer.want_keyframe();
    }
}

/// Whether what is pending is the beginning of a frame that many watch, and nobody has had any of it: the rest is about
/// to arrive.
fn awaits_rest_of_frame(publication: &Publication) -> bool {
    publication.section.kind == MediaKind::Video
        && publication.subscriptions.len() >= AUDIENCE_WORTH_WAITING
        && publication.layers.iter().all(|layer| layer.round.is_empty())
        && publication.layers.iter().any(LayerState::is_within_frame)
}

/// Shows the round of a layer to its subscribers, from the first on that has not had it, until so many packets have
/// been sent in all. Returns how many have had it.
fn fan_out_round<T: Transmit>(
    publication: &Publication,
    index: usize,
    until: u64,
    (subscriptions, starting): (&mut Keyed<SubscriptionId, Subscription>, &mut Vec<SubscriptionKey>),
    exits: &mut Exits<'_, T>,
) -> usize {
    let layer = &publication.layers[index];
    let packets: ArrayVec<StoredPacket<'_>, ROUND> =
        layer.round.iter().filter_map(|sequence| layer.history.as_deref()?.find(*sequence)).collect();
    let mut served = layer.served;
    for &key in publication.subscriptions.iter().skip(served) {
        if exits.stats.rtp_sent >= until {
            break;
        }
        served += 1;
        let subscription = &mut subscriptions[key];
        start_late(subscription, index as u8, layer, exits);
        if !catch_up(subscription, index as u8, layer, exits)
            && let Some(packets) = subscription.share(exits.now, index as u8, &packets)
        {
            send_paced(subscription, packets, exits);
            if subscription.is_starting() && !std::mem::replace(&mut subscription.is_looked_after, true) {
                starting.push(key);
            }
            catch_up(subscription, index as u8, layer, exits);
        }
    }
    served
}

/// Sends what has arrived, as far as the client's way has room for it; what is left it gets as the past, at the pace of
/// its way.
fn send_paced<T: Transmit>(subscription: &mut Subscription, packets: &[StoredPacket<'_>], exits: &mut Exits<'_, T>) {
    let bytes: usize = packets.iter().map(|packet| packet.payload.len() + PACKET_OVERHEAD).sum();
    let reached = subscription.reached();
    let allowance = match subscription.kind() {
        MediaKind::Audio => None,
        MediaKind::Video => exits.allowance(subscription.sink),
    };
    if allowance.is_none_or(|allowance| bytes <= allowance) {
        return exits.send(subscription, packets);
    }
    // Those that are late belong to what has been sent.
    for packet in packets.iter().filter(|packet| packet.info.sequence <= reached) {
        exits.send(subscription, std::slice::from_ref(packet));
    }
    subscription.fall_behind(reached + 1);
}

/// Lets a subscription that waits for its first key frame start with the last one, if history still holds it: so it
/// does not wait for the publisher, and the publisher does not make a key frame for each new subscription.
fn start_late<T: Transmit>(subscription: &mut Subscription, index: u8, layer: &LayerState, exits: &Exits<'_, T>) {
    if !subscription.may_start_late()
        || subscription.is_paused()
        || subscription.layer() != index
        || !exits.is_open(subscription.sink)
    {
        return;
    }
    let (Some(keyframe), Some(history)) = (layer.late_start(subscription.late_bytes_max), layer.history.as_deref())
    else {
        return;
    };
    if let (Some(first), Some(newest)) = (history.find(keyframe), history.find(layer.highest())) {
        subscription.start_late(exits.now, &first.info, newest.info.timestamp);
    }
}

/// Sends a subscription that catches up with this layer the next part of what it missed. `false`: it does not.
fn catch_up<T: Transmit>(
    subscription: &mut Subscription,
    index: u8,
    layer: &LayerState,
    exits: &mut Exits<'_, T>,
) -> bool {
    let Playout::CatchingUp { layer: LayerId { spatial, .. }, next } = subscription.playout() else { return false };
    let Some(history) = layer.history.as_deref().filter(|_| spatial == index) else { return false };
    if subscription.is_paused() {
        subscription.go_live(0);
        return true;
    }
    let allowance = exits.allowance(subscription.sink);
    if let Some(lag_max) = exits.lag_max(subscription.sink) {
        match history.bytes_from(next) {
            Some(lag) if lag > lag_max * RESTART_LAGS => {
                subscription.restart();
                return true;
            }
            Some(lag) if lag > lag_max => subscription.thin_out(),
            Some(_) | None => {}
        }
    }
    let (mut end, mut bytes) = (next, 0);
    let mut packets: ArrayVec<StoredPacket<'_>, ROUND> = ArrayVec::new();
    while end <= layer.highest() && end < next + CATCH_UP_BURST && allowance.is_none_or(|allowance| bytes < allowance) {
        if let Some(packet) = history.find(end) {
            bytes += packet.payload.len() + PACKET_OVERHEAD;
            packets.push(packet);
        }
        end += 1;
    }
    exits.stats.rtp_caught_up += packets.len() as u64;
    exits.send(subscription, &packets);
    match end > layer.highest() {
        true => subscription.go_live(layer.received()),
        false => subscription.caught_up_to(end),
    }
    true
}
