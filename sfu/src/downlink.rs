//! The way from us to one transport: sealed packets of media in runs, and RTCP.
//!
//! What a subscription gets is decided in [`crate::subscription`]; here it leaves, under transport-wide sequence numbers
//! where the client wants them. The estimate that comes of their feedback, its allocation and pacing belong here.

mod sent;

use std::time::Instant;

use arrayvec::ArrayVec;

use self::sent::SentRuns;
use crate::demux::Discard;
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
}

impl Downlink {
    /// One that is not connected yet.
    pub(crate) fn new(ssrc: u32) -> Self {
        Self { path: None, cipher: None, ssrc, has_video: false, sent: None }
    }

    /// Whether packets can leave: there are a path and keys.
    pub(crate) fn is_open(&self) -> bool {
        self.path.is_some() && self.cipher.is_some()
    }

    /// Whether the client has shown, by a DTLS handshake and by answering checks of ours since, that it receives there.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.cipher.is_some() && self.path == Some(*path)
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
                (pushed, last) = (pushed + 1, length);
            }
            if let Some(sent) = &mut numbers {
                sent.push(now, &path, segment, last);
            }
            stats.runs_sent += 1;
            from += pushed.max(1);
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

    /// What the client says of the packets that left under transport-wide numbers.
    pub(crate) fn accept_feedback(&mut self, now: Instant, report: &TransportCc<'_>, stats: &mut Stats) {
        let Some(sent) = &mut self.sent else { return stats.count(Discard::FeedbackUnsent) };
        let round_trip = sent.accept(now, report, stats, |_| {});
        stats.feedback_received += u64::from(round_trip.is_some());
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
