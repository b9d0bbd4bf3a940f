//! The way from us to one transport: sealed packets of media in runs, and RTCP.
//!
//! What a subscription gets is decided in [`crate::subscription`]; here it leaves, under transport-wide sequence numbers
//! where the client wants them. The estimate that comes of their feedback, its allocation and pacing belong here.

mod allocator;
mod pacer;
mod sent;

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

pub(crate) use self::allocator::{Allocation, RisePause, TRACKS_MAX, Track, allocate};
use self::pacer::Pacer;
use self::sent::SentRuns;
use crate::demux::Discard;
use crate::estimate::{Estimator, Probe};
use crate::history::StoredPacket;
use crate::path::Path;
use crate::publication::ROUND;
use crate::rtcp;
use crate::run::{PADDING_MAX, SendArena, Transmit, plan_run};
use crate::section::Ssrc;
use crate::srtp::SrtpSender;
use crate::stats::Stats;
use crate::subscription::{Outgoing, Refusal, Stamp, Subscription};
use crate::twcc::TransportCc;

/// Bytes of IP and UDP around a datagram.
const WIRE_HEADERS: usize = 28;

/// A queue that is no longer leaves by itself.
const QUEUE_SHORT: Duration = Duration::from_millis(40);
/// How fast a longer one is to leave, if nothing else were sent, and the share of the estimate that is sent at least.
const QUEUE_DRAIN: Duration = Duration::from_millis(400);
const DRAIN_SHARE_MIN: f64 = 0.6;

/// Who gets less than this share of what its way carries, and wants no more, need not be paced.
const WIDE_PERCENT: u64 = 80;
/// How much faster than the estimate packets may leave: a key frame takes a moment longer to arrive, but does not overflow
/// the queue in front of the narrowest part of the way.
const PACE: f64 = 1.5;
/// The same before anything is known of the way.
const PACE_START: f64 = 3.0;
/// How long packets may wait for the pace before pictures of upper temporal layers are left out.
const LAG_MAX: Duration = Duration::from_millis(150);

/// What a transport's outgoing packets share.
pub(crate) struct Downlink {
    /// Where it is reached: a copy of what ICE knows, for the hot path.
    pub(crate) path: Option<Path>,
    /// Since the handshake.
    pub(crate) cipher: Option<SrtpSender>,
    /// Our SSRC in RTCP to it.
    pub(crate) ssrc: u32,
    /// Whether it gets video, so that audio bears transport-wide numbers too.
    pub(crate) has_video: bool,
    /// What left under transport-wide numbers, from the first such packet on.
    sent: Option<Box<SentRuns>>,
    /// What its way carries, once something is to be known of it.
    estimator: Option<Box<Estimator>>,
    /// Whether it has told what arrived.
    is_heard: bool,
    pacer: Pacer,
    /// When it may get more.
    pub(crate) rise: RisePause,
    /// What it was last given; `None`: as much as there is, since nothing is known of its way.
    pub(crate) allocation: Option<Allocation>,
}

impl Downlink {
    /// One that is not connected yet.
    pub(crate) fn new(ssrc: u32) -> Self {
        Self {
            path: None,
            cipher: None,
            ssrc,
            has_video: false,
            sent: None,
            estimator: None,
            is_heard: false,
            pacer: Pacer::default(),
            rise: RisePause::default(),
            allocation: None,
        }
    }

    /// Whether packets can leave: there are a path and keys.
    pub(crate) fn is_open(&self) -> bool {
        self.path.is_some() && self.cipher.is_some()
    }

    /// Whether the client has shown, by a DTLS handshake and by answering checks of ours since, that it receives there.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.cipher.is_some() && self.path == Some(*path)
    }

    /// Bits a second that may be sent to it, as far as is known; `None`: the client tells nothing of its way.
    ///
    /// While packets wait on the way it is less than the way carries, so that they leave.
    pub(crate) fn budget_bps(&self) -> Option<u64> {
        let estimator = self.estimator.as_ref()?;
        let waiting = estimator.queue().saturating_sub(QUEUE_SHORT).as_secs_f64();
        let share = 1.0 - (waiting / QUEUE_DRAIN.as_secs_f64()).min(1.0 - DRAIN_SHARE_MIN);
        Some((estimator.bps() as f64 * share) as u64)
    }

    /// From now on its way is estimated: it has agreed to tell what arrives.
    pub(crate) fn expect_feedback(&mut self, now: Instant) {
        self.estimator.get_or_insert_with(|| Box::new(Estimator::new(now)));
    }

    /// This is what it gets from now on.
    pub(crate) fn set_allocation(&mut self, allocation: Allocation) {
        self.allocation = Some(allocation);
        if let Some(estimator) = &mut self.estimator {
            estimator.set_demand(allocation.wanted, allocation.next);
        }
    }

    /// Bytes of video that may leave now; `None`: as many as there are.
    ///
    /// Who has all that it wants, with room to spare, gets whole frames at once; so nobody else's packets are copied
    /// or held for the sake of those whose way is narrow.
    pub(crate) fn allowance(&mut self, now: Instant) -> Option<usize> {
        let (estimator, allocation) = (self.estimator.as_ref()?, self.allocation?);
        let is_wide = allocation.next.is_none() && allocation.bps < estimator.bps() * WIDE_PERCENT / 100;
        if is_wide && estimator.queue() < QUEUE_SHORT {
            return None;
        }
        let pace = if self.is_heard { PACE } else { PACE_START };
        self.pacer.refill(now, estimator.bps() as f64 * pace / 8.0);
        Some(self.pacer.bytes())
    }

    /// Bytes of video that may wait for the pace; `None`: as many as there are.
    pub(crate) fn lag_max(&self) -> Option<usize> {
        let bps = self.estimator.as_ref()?.bps();
        self.allocation?;
        Some((bps as f64 / 8.0 * LAG_MAX.as_secs_f64()) as usize)
    }

    /// Rewrites, copies and seals a subscription's packets into runs of the arena. `false`: they cannot leave yet.
    pub(crate) fn send<T: Transmit>(
        &mut self,
        (now, send_time): (Instant, u32),
        subscription: &mut Subscription,
        packets: &[StoredPacket<'_>],
        stats: &mut Stats,
        out: &mut SendArena<T>,
    ) -> bool {
        let (Some(path), Some(cipher)) = (self.path, &self.cipher) else { return false };
        let overhead = cipher.rtp_overhead();
        let transport_cc = subscription.transport_cc(self.has_video);
        let mut chosen: ArrayVec<(usize, Outgoing), ROUND> = ArrayVec::new();
        let mut sizes: ArrayVec<usize, ROUND> = ArrayVec::new();
        for (index, packet) in packets.iter().enumerate() {
            if let Some(outgoing) = subscription.forward(now, packet, transport_cc) {
                sizes.push(outgoing.length + overhead);
                chosen.push((index, outgoing));
            }
        }
        let mut numbers = numbers(&mut self.sent, now, transport_cc);
        let mut bytes = 0;
        let mut from = 0;
        while from < chosen.len() {
            let (count, segment) = plan_run(&sizes[from..]);
            let mut run = out.run(path, segment);
            let (mut pushed, mut last) = (0, 0);
            for (position, (index, outgoing)) in chosen[from..from + count].iter().enumerate() {
                if !run.takes_more() {
                    break;
                }
                let packet = &packets[*index];
                let short = segment - sizes[from + position];
                let padding = if position + 1 < count && short <= PADDING_MAX { short } else { 0 };
                let space = run.space(sizes[from + position] + padding);
                let number = numbers.as_mut().map_or(0, |sent| sent.number());
                let written = subscription.write(space, packet, outgoing, padding, Stamp { send_time, number });
                let length = cipher.seal_rtp(space, written.header, written.length, written.ssrc, written.index);
                run.push(length);
                subscription.sent(written.length - written.header - padding);
                stats.rtp_sent += 1;
                stats.bytes_sent += length as u64;
                bytes += length + WIRE_HEADERS;
                (pushed, last) = (pushed + 1, length);
            }
            if let Some(sent) = &mut numbers {
                sent.push(now, &path, segment, last);
            }
            stats.runs_sent += 1;
            from += pushed.max(1);
        }
        if let Some(estimator) = self.estimator.as_mut().filter(|_| bytes > 0) {
            self.pacer.spend(bytes);
            estimator.on_sent(now, u32::try_from(bytes).unwrap_or(u32::MAX));
        }
        true
    }

    /// Seals a retransmission of one packet into the arena (RFC 4588), if it can leave and the budget has room for it.
    pub(crate) fn resend<T: Transmit>(
        &mut self,
        (now, send_time): (Instant, u32),
        subscription: &mut Subscription,
        (packet, outgoing): (&StoredPacket<'_>, &Outgoing),
        stats: &mut Stats,
        out: &mut SendArena<T>,
    ) {
        let (Some(path), Some(cipher)) = (self.path, &self.cipher) else { return };
        let sealed = outgoing.length + cipher.rtp_overhead();
        let copies = match subscription.rtx_budget.admit(now, outgoing.number, sealed) {
            Ok(copies) => copies,
            Err(Refusal::Budget) => return stats.nacks_over_budget += 1,
            Err(Refusal::Repeat) => return stats.nacks_repeated += 1,
        };
        let mut numbers = numbers(&mut self.sent, now, outgoing.transport_cc);
        for _ in 0..copies {
            let mut run = out.run(path, sealed);
            let space = run.space(sealed);
            let stamp = Stamp { send_time, number: numbers.as_mut().map_or(0, |sent| sent.number()) };
            let Some(written) = subscription.write_retransmission(space, packet, outgoing, stamp) else { return };
            let length = cipher.seal_rtp(space, written.header, written.length, written.ssrc, written.index);
            debug_assert_eq!(length, sealed, "the room that was asked for");
            run.push(length);
            if let Some(sent) = &mut numbers {
                sent.push(now, &path, length, length);
            }
            stats.rtp_retransmitted += 1;
            stats.bytes_retransmitted += length as u64;
        }
    }

    /// Seals a packet that the client may have into the arena, again, to see whether its way carries more. Bytes that
    /// have left.
    pub(crate) fn send_probe<T: Transmit>(
        &mut self,
        (now, send_time): (Instant, u32),
        subscription: &mut Subscription,
        (packet, outgoing): (&StoredPacket<'_>, &Outgoing),
        stats: &mut Stats,
        out: &mut SendArena<T>,
    ) -> usize {
        let (Some(path), Some(cipher)) = (self.path, &self.cipher) else { return 0 };
        let Some(sent) = numbers(&mut self.sent, now, outgoing.transport_cc) else { return 0 };
        let sealed = outgoing.length + cipher.rtp_overhead();
        let mut run = out.run(path, sealed);
        let space = run.space(sealed);
        let stamp = Stamp { send_time, number: sent.number() };
        let Some(written) = subscription.write_retransmission(space, packet, outgoing, stamp) else { return 0 };
        let length = cipher.seal_rtp(space, written.header, written.length, written.ssrc, written.index);
        run.push(length);
        sent.push(now, &path, length, length);
        stats.rtp_probes += 1;
        stats.bytes_probes += length as u64;
        if let Some(estimator) = &mut self.estimator {
            self.pacer.spend(length + WIRE_HEADERS);
            estimator.on_sent(now, u32::try_from(length + WIRE_HEADERS).unwrap_or(u32::MAX));
        }
        length + WIRE_HEADERS
    }

    /// Bytes that should leave now to see whether the way carries more; `None`: there is nothing to find out.
    pub(crate) fn probe(&mut self, now: Instant) -> Option<Probe> {
        let now_us = self.sent.as_ref()?.micros(now);
        self.estimator.as_mut()?.probe(now, now_us)
    }

    /// What time brings.
    pub(crate) fn on_tick(&mut self, now: Instant) {
        if let Some(estimator) = &mut self.estimator {
            estimator.on_tick(now);
        }
    }

    /// The client's own estimate (REMB).
    pub(crate) fn accept_remb(&mut self, now: Instant, bps: u64) {
        self.estimator.get_or_insert_with(|| Box::new(Estimator::new(now))).on_remb(now, bps);
    }

    /// What the client says of the packets that left under transport-wide numbers.
    pub(crate) fn accept_feedback(&mut self, now: Instant, report: &TransportCc<'_>, stats: &mut Stats) {
        let Some(sent) = &mut self.sent else { return stats.count(Discard::FeedbackUnsent) };
        let estimator = self.estimator.get_or_insert_with(|| Box::new(Estimator::new(now)));
        estimator.begin_report(now);
        let Some(round_trip) = sent.accept(now, report, stats, |run| estimator.on_run(run)) else { return };
        stats.feedback_received += 1;
        self.is_heard = true;
        estimator.end_report(now, round_trip);
    }

    /// Asks the client for packets and a key frame of a stream that it sends, as far as there is something to ask for.
    /// `packet` is a buffer to write to.
    pub(crate) fn request<T: Transmit>(
        &mut self,
        ssrc: Ssrc,
        lost: &[u16],
        keyframe: bool,
        packet: &mut Vec<u8>,
        out: &mut SendArena<T>,
    ) {
        packet.clear();
        rtcp::write_nack(packet, self.ssrc, ssrc.0, lost.iter().copied());
        if keyframe {
            rtcp::write_pli(packet, self.ssrc, ssrc.0);
        }
        self.send_rtcp(packet, out);
    }

    /// Seals and queues the compound RTCP packet in `packet`, if there is one and it can leave.
    pub(crate) fn send_rtcp<T: Transmit>(&mut self, packet: &mut Vec<u8>, out: &mut SendArena<T>) {
        if packet.is_empty() {
            return;
        }
        if let (Some(path), Some(cipher)) = (self.path, &mut self.cipher) {
            cipher.seal_rtcp(packet);
            out.single(path, packet);
        }
    }
}

/// What gives packets their transport-wide numbers, if they bear any.
fn numbers(sent: &mut Option<Box<SentRuns>>, now: Instant, transport_cc: Option<u8>) -> Option<&mut SentRuns> {
    transport_cc.map(|_| &mut **sent.get_or_insert_with(|| Box::new(SentRuns::new(now))))
}
