//! RTCP in both directions, and what the media clock does: ask for lost packets and key frames, report, choose layers.

use std::time::{Duration, Instant};

use shared::media::MediaKind;

use super::Engine;
use super::clock::due;
use super::publications::room_of;
use super::serving::{Serving, Stage};
use crate::command::{Event, STATS_INTERVAL};
use crate::demux::Discard;
use crate::key::{SubscriptionKey, TransportKey};
use crate::publication::Origin;
use crate::rtcp::{self, Feedback, ReportBlock, SenderReport};
use crate::run::{SendArena, Transmit};
use crate::subscription::Sink;

/// The media clock's step: how late a NACK or a key-frame request may be.
const TICK: Duration = Duration::from_millis(20);
/// Transport-wide feedback to publishers; libwebrtc's own is every 50 to 250 ms.
const TWCC_INTERVAL: Duration = Duration::from_millis(50);
const RECEIVER_REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// As the reference's.
const SENDER_REPORT_INTERVAL: Duration = Duration::from_secs(3);
const LAYER_INTERVAL: Duration = Duration::from_millis(200);

/// From the first packet of a key frame until a client can have decoded it, beside the round trip.
const KEYFRAME_TAKES: Duration = Duration::from_millis(100);

/// Packets of one NACK that may stay unanswered for lack of a budget before their subscriber gets a key frame instead,
/// which is about as large.
const UNREPAIRED_MAX: u64 = 64;

/// Anything longer comes from a clock that was set, or from a made-up report.
const ROUND_TRIP_MS_MAX: f64 = 60_000.0;

impl Engine {
    pub(super) fn receive_rtcp<T: Transmit>(
        &mut self,
        now: Instant,
        key: TransportKey,
        datagram: &mut [u8],
        out: &mut SendArena<T>,
    ) -> Result<(), Discard> {
        let receiver = self.transports[key].receiver.as_mut().ok_or(Discard::NoKeys)?;
        let length = receiver.open_rtcp(datagram)?;
        self.stats.rtcp_received += 1;
        for feedback in rtcp::parse(&datagram[..length]) {
            match feedback.map_err(|_| Discard::RtcpMalformed)? {
                Feedback::SenderReport(report, blocks) => {
                    self.accept_sender_report(now, key, report);
                    blocks.for_each(|block| self.accept_report_block(now, key, block));
                }
                Feedback::ReceiverReport { blocks, .. } => {
                    blocks.for_each(|block| self.accept_report_block(now, key, block));
                }
                Feedback::Nack { media, pairs, .. } => {
                    if let Some(subscription) = self.subscription_sending(key, media) {
                        self.retransmit_all(now, subscription, pairs, out);
                    }
                }
                Feedback::Pli { media, .. } => self.on_keyframe_request(now, key, media),
                Feedback::Fir { entries, .. } => {
                    for entry in entries {
                        self.stats.firs_received += 1;
                        self.on_keyframe_request(now, key, entry.media);
                    }
                }
                Feedback::TransportCc(report) => {
                    self.transports[key].downlink.accept_feedback(now, &report, &mut self.stats);
                }
                Feedback::Remb { bitrate_bps, .. } => self.transports[key].downlink.accept_remb(now, bitrate_bps),
                Feedback::Bye(_) | Feedback::Other(_) => {}
            }
        }
        self.follow_estimate(now, key);
        Ok(())
    }

    /// Answers a NACK as far as the budget goes. Who misses far more than that is better served with a key frame.
    fn retransmit_all<T: Transmit>(
        &mut self,
        now: Instant,
        key: SubscriptionKey,
        lost: impl Iterator<Item = u16>,
        out: &mut SendArena<T>,
    ) {
        let before = self.stats.nacks_over_budget;
        lost.for_each(|sequence| self.retransmit(now, key, sequence, out));
        if self.stats.nacks_over_budget - before >= UNREPAIRED_MAX {
            self.want_keyframe_for(key);
        }
    }

    fn accept_sender_report(&mut self, now: Instant, key: TransportKey, report: SenderReport) {
        let streams = &self.transports[key].streams;
        let Some((_, stream)) = streams.iter().find(|(ssrc, stream)| *ssrc == report.ssrc && !stream.rtx) else {
            return;
        };
        if let Some(layer) = self.publications[stream.publication].layers.get_mut(usize::from(stream.layer)) {
            layer.accept_report(now, report);
        }
    }

    /// What a subscriber says of a stream that we send (RFC 3550, section 6.4.1).
    fn accept_report_block(&mut self, now: Instant, key: TransportKey, block: ReportBlock) {
        let Some(subscription) = self.subscription_sending(key, block.ssrc) else { return };
        let subscription = &mut self.subscriptions[subscription];
        let publication = &self.publications[subscription.publication];
        let quality = self.stats.media.sent.of(publication.section.kind);
        quality.lost += subscription.newly_lost(block.cumulative_lost);
        quality.loss_percent.observe(f64::from(block.fraction_lost) * 100.0 / 256.0);
        if let Some(codec) = publication.section.codecs.first() {
            quality.jitter_us.observe(f64::from(block.jitter) * 1e6 / f64::from(codec.codec.clock_rate()));
        }
        let layer = subscription.playout().layer();
        let layer = layer.and_then(|layer| publication.layers.get(usize::from(layer.spatial)));
        if let Some(rtt_ms) = layer.and_then(|layer| round_trip_ms(now, layer.report()?, &block)) {
            quality.rtt_ms.observe(rtt_ms);
            subscription.rtx_budget.on_round_trip(Duration::from_secs_f64(rtt_ms / 1_000.0));
        }
    }

    fn subscription_sending(&self, key: TransportKey, ssrc: u32) -> Option<SubscriptionKey> {
        let subscriptions = &self.transports[key].subscriptions;
        subscriptions.iter().copied().find(|subscription| self.subscriptions[*subscription].section.ssrc.0 == ssrc)
    }

    /// A client's picture loss. It repeats its request, libwebrtc each 200 ms, until it has seen a key frame.
    fn on_keyframe_request(&mut self, now: Instant, key: TransportKey, media: u32) {
        self.stats.keyframe_requests_received += 1;
        let Some(key) = self.subscription_sending(key, media) else { return };
        let subscription = &self.subscriptions[key];
        let layers = &self.publications[subscription.publication].layers;
        let unseen = subscription.rtx_budget.round_trip() + KEYFRAME_TAKES;
        let layer = layers.get(usize::from(subscription.layer()));
        if !layer.is_some_and(|layer| layer.has_fresh_keyframe(now, unseen)) {
            self.want_keyframe_for(key);
        }
    }

    /// The layer that a subscription gets, or waits for, owes it a key frame.
    pub(super) fn want_keyframe_for(&mut self, key: SubscriptionKey) {
        let subscription = &self.subscriptions[key];
        let layer = usize::from(subscription.layer());
        if let Some(layer) = self.publications[subscription.publication].layers.get_mut(layer) {
            layer.want_keyframe();
        }
    }

    /// One step of the media clock.
    pub(super) fn media_tick<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        self.clock.tick = now + TICK;
        self.serving = None;
        self.ask_for_keyframes(now, out);
        self.advance_starting(now, out);
        self.send_probes(now, out);
        if due(&mut self.clock.twcc, now, TWCC_INTERVAL) {
            self.send_transport_feedback(out);
        }
        if due(&mut self.clock.receiver_reports, now, RECEIVER_REPORT_INTERVAL) {
            self.send_receiver_reports(now, out);
        }
        if due(&mut self.clock.layers, now, LAYER_INTERVAL) {
            self.choose_all_layers(now);
            self.send_sender_reports(now, out);
        }
        let audio = self.config.audio.update_interval;
        if !audio.is_zero() && due(&mut self.clock.audio, now, audio) {
            self.update_audio(now);
        }
        if due(&mut self.clock.stats, now, STATS_INTERVAL) {
            self.report_stats();
        }
    }

    /// NACKs to where publications come from, as they are due.
    pub(super) fn ask_for_missing<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        self.clock.nacks = None;
        let Self { incomplete, publications, transports, clock, serving, stats, lost, rtcp, .. } = self;
        incomplete.retain(|key| {
            let Some(publication) = publications.get_mut(*key) else { return false };
            *serving = Serving::of(publication.origin, Stage::Feedback);
            let mut next = None;
            for layer in &mut publication.layers {
                layer.due_nacks(now, lost);
                next = next.into_iter().chain(layer.nacks_due()).min();
                if let (Some(ssrc), Origin::Transport(key), true) =
                    (layer.ssrc, publication.origin, publication.section.nack)
                {
                    stats.nacks_sent += lost.len() as u64;
                    transports[key].downlink.request(ssrc, lost, false, rtcp, out);
                }
            }
            clock.nacks_due(next);
            next.is_some()
        });
    }

    /// Key-frame requests to where publications come from.
    fn ask_for_keyframes<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        for (_, publication) in self.publications.iter_mut() {
            if publication.section.kind != MediaKind::Video || publication.muted {
                continue;
            }
            self.serving = Serving::of(publication.origin, Stage::Feedback);
            for (index, layer) in (0..).zip(&mut publication.layers) {
                let Some(ssrc) = layer.ssrc.filter(|_| layer.keyframe_due(now)) else { continue };
                self.stats.keyframe_requests_sent += 1;
                match publication.origin {
                    Origin::Transport(key) => {
                        self.transports[key].downlink.request(ssrc, &[], true, &mut self.rtcp, out);
                    }
                    Origin::Local(_) => self.local.request_keyframe(publication.id, index),
                }
            }
        }
    }

    /// Transport-wide arrival times, without which libwebrtc's bitrate does not grow.
    fn send_transport_feedback<T: Transmit>(&mut self, out: &mut SendArena<T>) {
        for (key, hosted) in self.transports.iter_mut() {
            self.serving = Some(Serving { key, stage: Stage::Feedback });
            let Some(mut twcc) = hosted.twcc.take() else { continue };
            self.rtcp.clear();
            twcc.write_feedback(&mut self.rtcp);
            hosted.downlink.send_rtcp(&mut self.rtcp, out);
            hosted.twcc = Some(twcc);
        }
    }

    fn send_receiver_reports<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        for (key, hosted) in self.transports.iter_mut() {
            if hosted.publications.is_empty() {
                continue;
            }
            self.serving = Some(Serving { key, stage: Stage::Feedback });
            let mut blocks: arrayvec::ArrayVec<ReportBlock, 31> = arrayvec::ArrayVec::new();
            for key in &hosted.publications {
                for layer in &mut self.publications[*key].layers {
                    if let (false, Some(block)) = (blocks.is_full(), layer.report_block(now)) {
                        blocks.push(block);
                    }
                }
            }
            self.rtcp.clear();
            rtcp::write_receiver_report(&mut self.rtcp, hosted.downlink.ssrc, &blocks);
            hosted.downlink.send_rtcp(&mut self.rtcp, out);
        }
    }

    fn send_sender_reports<T: Transmit>(&mut self, now: Instant, out: &mut SendArena<T>) {
        for (_, subscription) in self.subscriptions.iter_mut() {
            if now < subscription.report_due {
                continue;
            }
            let Some(layer) = subscription.playout().layer() else { continue };
            let publication = &self.publications[subscription.publication];
            self.serving = Serving::of(publication.origin, Stage::Feedback);
            let Some(report) = publication.layers.get(usize::from(layer.spatial)).and_then(|layer| layer.report())
            else {
                continue;
            };
            let Some(report) = subscription.sender_report(now, report) else { continue };
            subscription.report_due = now + SENDER_REPORT_INTERVAL;
            self.rtcp.clear();
            rtcp::write_sender_report(&mut self.rtcp, &report, &[]);
            rtcp::write_sdes_cname(&mut self.rtcp, report.ssrc, &subscription.section.cname);
            match subscription.sink {
                Sink::Transport(key) => self.transports[key].downlink.send_rtcp(&mut self.rtcp, out),
                Sink::Local => self.local.send_rtcp(subscription.id, &self.rtcp),
            }
        }
    }

    fn update_audio(&mut self, now: Instant) {
        for (_, publication) in self.publications.iter_mut() {
            let Some((level, active)) = publication.audio_level.as_mut().and_then(|audio| audio.update(now)) else {
                continue;
            };
            self.serving = Serving::of(publication.origin, Stage::Feedback);
            let Some(room) = room_of(publication.origin, &self.transports) else { continue };
            self.events.push_back((room, Event::AudioActivity { publication: publication.id, level, active }));
        }
    }

    fn report_stats(&mut self) {
        for (_, publication) in self.publications.iter_mut() {
            self.serving = Serving::of(publication.origin, Stage::Feedback);
            let Some(room) = room_of(publication.origin, &self.transports) else { continue };
            let stats = publication.stats();
            self.stats.rtp_bytes_received += stats.bytes;
            self.stats.media.received.of(publication.section.kind).count_received(&stats);
            self.events.push_back((room, Event::PublicationStats { publication: publication.id, stats }));
        }
    }
}

/// Time since our sender report left, less the time for which the subscriber held it. Our reports are on the
/// publisher's clock ([`crate::subscription::Subscription::sender_report`]), so this is measured on it too.
fn round_trip_ms(now: Instant, (theirs, at): &(SenderReport, Instant), block: &ReportBlock) -> Option<f64> {
    if block.last_sr == 0 {
        return None;
    }
    let passed = now.saturating_duration_since(*at);
    let ntp = theirs.ntp.wrapping_add((passed.as_nanos() * (1 << 32) / 1_000_000_000) as u64);
    let trip = ((ntp >> 16) as u32).wrapping_sub(block.last_sr).wrapping_sub(block.delay_since_last_sr);
    let trip_ms = f64::from(trip) * 1000.0 / 65_536.0;
    (trip_ms < ROUND_TRIP_MS_MAX).then_some(trip_ms)
}
