//! What became of what publishers sent, by their own numbers: those that a server writes say nothing of what it left out.

use std::collections::HashMap;

use serde::Serialize;

use crate::client::PublishedTrack;
use crate::marks::Marks;
use crate::sender::SenderStats;
use crate::transport::{StreamStats, TransportStats};

/// A stream in which something came so shortly before publishers stopped is alive.
const ALIVE_NS: u64 = 1_000_000_000;

/// What came of what was published.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DeliveryReport {
    /// Tracks of its room times subscribers.
    pub streams_wanted: usize,
    /// Those in which media still came in the last second.
    pub streams_alive: usize,
    /// Of streams whose payloads were decrypted: packets of the source, from the first that came to the last that was
    /// published, in the layers that were shown.
    pub source_expected: u64,
    pub source_received: u64,
    /// Never came, beyond what was dropped by our own kernel and not recovered, or thrown away on purpose.
    pub source_lost: u64,
    /// Of the stream that lacks most, 0 to 1.
    pub worst_stream_missing: f64,
    /// Packets published since everybody received, times subscribers; unknown with simulcast, where each gets one layer.
    pub window_expected: Option<u64>,
    pub window_received: u64,
    /// As above, of all streams.
    pub window_lost: u64,
}

impl DeliveryReport {
    /// Share of what was published that never came, 0 to 1: the worse of what is known.
    pub fn lost_share(&self) -> f64 {
        let share = |lost: u64, expected: u64| if expected == 0 { 0.0 } else { lost as f64 / expected as f64 };
        let by_window = self.window_expected.map_or(0.0, |expected| share(self.window_lost, expected));
        share(self.source_lost, self.source_expected).max(by_window)
    }
}

/// What is published, by sid.
#[derive(Debug, Default)]
pub(crate) struct Published(HashMap<String, Vec<u32>>);

impl Published {
    pub(crate) fn add(&mut self, track: PublishedTrack) {
        self.0.insert(track.sid, track.ssrcs);
    }
}

/// Who should have got what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Audience {
    pub subscribers: usize,
    /// They share publishers and subscribers evenly.
    pub rooms: usize,
    /// Of a room.
    pub tracks: usize,
    pub is_simulcast: bool,
}

/// Compares both ends.
pub(crate) fn compare(marks: &Marks, published: &Published, audience: Audience) -> DeliveryReport {
    let Audience { subscribers, rooms, tracks, is_simulcast } = audience;
    let senders: HashMap<u32, SenderStats> = marks.last.senders().map(|sender| (sender.ssrc, *sender)).collect();
    let alive = marks.last.streams().filter(|stream| is_alive(stream, marks.end.at_ns)).count();
    let sent = marks.last.sent().packets.saturating_sub(marks.start.sent().packets);
    let window_received = marks.last.received().saturating_sub(marks.start.received());
    let mut report = DeliveryReport {
        streams_wanted: tracks * subscribers,
        streams_alive: alive,
        window_expected: (!is_simulcast).then_some(sent * subscribers as u64 / rooms as u64),
        window_received,
        ..DeliveryReport::default()
    };
    let mut forgiven = 0;
    for stats in marks.last.transports().filter(|stats| stats.verifies) {
        forgiven += self::forgiven(stats);
        for stream in &stats.streams {
            let expected = expected_of(stream, published, &senders);
            let missing = expected.saturating_sub(stream.source.received);
            report.source_expected += expected;
            report.source_received += stream.source.received;
            report.source_lost += missing;
            report.worst_stream_missing = report.worst_stream_missing.max(missing as f64 / expected.max(1) as f64);
        }
    }
    report.source_lost = report.source_lost.saturating_sub(forgiven);
    let forgiven: u64 = marks.last.transports().map(self::forgiven).sum();
    let missing = report.window_expected.unwrap_or(0).saturating_sub(window_received);
    report.window_lost = missing.saturating_sub(forgiven);
    report
}

fn is_alive(stream: &StreamStats, end_ns: u64) -> bool {
    stream.newest_packet_ns.is_some_and(|newest| newest + ALIVE_NS >= end_ns)
}

/// Packets that this process may not have on its own account.
fn forgiven(stats: &TransportStats) -> u64 {
    let recovered: u64 = stats.streams.iter().map(|stream| stream.counts.recovered).sum();
    (stats.kernel_drops + stats.lost_on_purpose).saturating_sub(recovered)
}

/// Packets that its publisher has sent since the first that came. Where a track is not known, what is missing at its end
/// cannot be told.
fn expected_of(stream: &StreamStats, published: &Published, senders: &HashMap<u32, SenderStats>) -> u64 {
    let Some(run) = stream.source.run else { return 0 };
    let ssrcs = stream.track.as_deref().and_then(|track| published.0.get(track));
    let layers = ssrcs.into_iter().flatten().filter_map(|ssrc| senders.get(ssrc));
    let sent = layers.filter(|sender| sender.layer == run.layer).map(|sender| sender.counts.packets).max();
    let end = sent.unwrap_or(0).max(u64::from(run.last) + 1);
    stream.source.expected_before + end - u64::from(run.first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receiver::{MediaKind, StreamCounts};
    use crate::sender::SenderCounts;
    use crate::transport::{SourceRun, SourceStats};

    fn stream(received: u64, first: u32, last: u32) -> StreamStats {
        StreamStats {
            kind: MediaKind::Video,
            ssrc: 1,
            track: Some("TR_V".into()),
            counts: StreamCounts::default(),
            playback: crate::playback::PlaybackCounts::default(),
            jitter_ms: 0.0,
            unstamped: 0,
            first_packet_ns: Some(0),
            newest_packet_ns: Some(5_000_000_000),
            first_key_frame_ns: None,
            source: SourceStats { received, expected_before: 0, run: Some(SourceRun { layer: 2, first, last }) },
        }
    }

    /// One track of two layers: 400 packets of the lower one, 1,000 of the upper one.
    fn published() -> (Published, HashMap<u32, SenderStats>) {
        let mut published = Published::default();
        published.add(PublishedTrack { sid: "TR_V".into(), ssrcs: vec![10, 12] });
        let sender = |ssrc, layer, packets| {
            (ssrc, SenderStats { ssrc, layer, counts: SenderCounts { packets, ..SenderCounts::default() } })
        };
        (published, HashMap::from([sender(10, 0, 400), sender(12, 2, 1_000)]))
    }

    #[test]
    fn what_a_server_leaves_out_and_renumbers_is_missing() {
        let (published, senders) = published();
        assert_eq!(expected_of(&stream(600, 200, 999), &published, &senders), 800);
    }

    #[test]
    fn what_follows_the_last_packet_of_a_stream_that_died_is_missing() {
        let (published, senders) = published();
        assert_eq!(expected_of(&stream(100, 200, 299), &published, &senders), 800);
        let dead = stream(100, 200, 299);
        assert!(is_alive(&dead, 5_900_000_000) && !is_alive(&dead, 6_100_000_000));
    }

    #[test]
    fn what_the_kernel_dropped_is_forgiven_unless_it_came_again() {
        let mut stats =
            TransportStats { kernel_drops: 30, streams: vec![stream(1, 0, 0)], ..TransportStats::default() };
        assert_eq!(forgiven(&stats), 30);
        stats.streams[0].counts.recovered = 25;
        assert_eq!(forgiven(&stats), 5);
    }

    #[test]
    fn the_share_that_is_lost_is_the_worse_of_what_is_known() {
        let report = DeliveryReport {
            source_expected: 100,
            source_lost: 25,
            window_expected: Some(1_000),
            window_lost: 500,
            ..DeliveryReport::default()
        };
        assert!((report.lost_share() - 0.5).abs() < 1e-9);
        let simulcast = DeliveryReport { window_expected: None, ..report };
        assert!((simulcast.lost_share() - 0.25).abs() < 1e-9);
    }
}
