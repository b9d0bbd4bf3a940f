//! What became of what publishers sent, by their own numbers: those that a server writes say nothing of what it left
//! out.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::client::PublishedTrack;
use crate::marks::{Mark, Marks};
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
    /// Never came, beyond what its subscriber's kernel dropped and was not recovered, or was thrown away on purpose.
    pub source_lost: u64,
    /// Of the stream that lacks most beyond that, 0 to 1: of the source, or in the window.
    pub worst_stream_missing: f64,
    /// Packets published since everybody received, times subscribers; unknown with simulcast, where each gets one
    /// layer.
    pub window_expected: Option<u64>,
    pub window_received: u64,
    /// As above, of all streams, with the drops in the window alone.
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

    /// Packets of all layers of a track.
    fn sent(&self, track: &str, sent: &Sent) -> u64 {
        let ssrcs = self.0.get(track).into_iter().flatten();
        ssrcs.filter_map(|ssrc| sent.get(ssrc)).map(|sender| sender.counts.packets).sum()
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

/// What publishers sent, by SSRC.
type Sent = HashMap<u32, SenderStats>;

/// Compares both ends.
pub(crate) fn compare(marks: &Marks, published: &Published, audience: Audience) -> DeliveryReport {
    let Audience { subscribers, rooms, tracks, is_simulcast } = audience;
    let mut report = DeliveryReport {
        streams_wanted: tracks * subscribers,
        streams_alive: marks.last.streams().filter(|stream| is_alive(stream, marks.end.at_ns)).count(),
        window_received: marks.last.received().saturating_sub(marks.start.received()),
        ..DeliveryReport::default()
    };
    report.add_sources(&marks.last, published);
    if !is_simulcast {
        let sent = marks.last.sent().packets.saturating_sub(marks.start.sent().packets);
        report.add_window(marks, published, sent * subscribers as u64 / rooms as u64);
    }
    report
}

impl DeliveryReport {
    /// Adds the streams whose payloads were decrypted.
    fn add_sources(&mut self, last: &Mark, published: &Published) {
        let sent = sent(last);
        for stats in last.transports().filter(|stats| stats.verifies) {
            let forgiven = forgiven(None, stats);
            let mut missing = 0;
            for stream in &stats.streams {
                let (expected, received) = (expected_of(stream, published, &sent), stream.source.received);
                self.source_expected += expected;
                self.source_received += received;
                self.note_stream(expected, received + forgiven);
                missing += expected.saturating_sub(received);
            }
            self.source_lost += missing.saturating_sub(forgiven);
        }
    }

    /// Adds what all streams lack of `expected` packets since everybody received.
    fn add_window(&mut self, marks: &Marks, published: &Published, expected: u64) {
        let (sent_before, sent) = (sent(&marks.start), sent(&marks.last));
        let before: HashMap<u32, &TransportStats> =
            marks.start.subscribers.transports.iter().map(|(id, stats)| (*id, stats)).collect();
        let (mut lost, mut explained) = (0, 0);
        for (id, stats) in &marks.last.subscribers.transports {
            let before = before.get(id).copied();
            let forgiven = forgiven(before, stats);
            let (mut expected, mut received) = (0, 0);
            for (track, track_received) in received_by_track(before, stats) {
                let track_expected = published.sent(track, &sent).saturating_sub(published.sent(track, &sent_before));
                self.note_stream(track_expected, track_received + forgiven);
                expected += track_expected;
                received += track_received;
            }
            let missing: u64 = expected.saturating_sub(received);
            // What a subscriber's own kernel dropped explains no more than what this subscriber lacks.
            explained += missing.min(forgiven);
            lost += missing.saturating_sub(forgiven);
        }
        // Streams that never came are in the sum of all alone.
        let missing = expected.saturating_sub(self.window_received);
        self.window_lost = lost.max(missing.saturating_sub(explained));
        self.window_expected = Some(expected);
    }

    fn note_stream(&mut self, expected: u64, accounted: u64) {
        let missing = expected.saturating_sub(accounted) as f64 / expected.max(1) as f64;
        self.worst_stream_missing = self.worst_stream_missing.max(missing);
    }
}

fn sent(mark: &Mark) -> Sent {
    mark.senders().map(|sender| (sender.ssrc, *sender)).collect()
}

/// Packets received since `before`; a track whose SSRC changes has several streams.
fn received_by_track<'a>(before: Option<&TransportStats>, stats: &'a TransportStats) -> BTreeMap<&'a str, u64> {
    let streams_before = before.map_or(&[][..], |before| &before.streams);
    let mut received = BTreeMap::new();
    for stream in &stats.streams {
        let Some(track) = stream.track.as_deref() else { continue };
        let same = streams_before.iter().find(|before| before.ssrc == stream.ssrc);
        let received_before = same.map_or(0, |before| before.counts.received);
        *received.entry(track).or_default() += stream.counts.received.saturating_sub(received_before);
    }
    received
}

fn is_alive(stream: &StreamStats, end_ns: u64) -> bool {
    stream.newest_packet_ns.is_some_and(|newest| newest + ALIVE_NS >= end_ns)
}

/// Packets since `before` that this process may lack on its own account.
fn forgiven(before: Option<&TransportStats>, stats: &TransportStats) -> u64 {
    let dropped = |stats: &TransportStats| stats.kernel_drops + stats.lost_on_purpose;
    let recovered = |stats: &TransportStats| stats.streams.iter().map(|stream| stream.counts.recovered).sum::<u64>();
    let dropped = dropped(stats).saturating_sub(before.map_or(0, dropped));
    dropped.saturating_sub(recovered(stats).saturating_sub(before.map_or(0, recovered)))
}

/// Packets that its publisher has sent since the first that came. Where a track is not known, what is missing at its
/// end cannot be told.
fn expected_of(stream: &StreamStats, published: &Published, sent: &Sent) -> u64 {
    let Some(run) = stream.source.run else { return 0 };
    let ssrcs = stream.track.as_deref().and_then(|track| published.0.get(track));
    let layers = ssrcs.into_iter().flatten().filter_map(|ssrc| sent.get(ssrc));
    let sent = layers.filter(|sender| sender.layer == run.layer).map(|sender| sender.counts.packets).max();
    let end = sent.unwrap_or(0).max(u64::from(run.last) + 1);
    stream.source.expected_before + end - u64::from(run.first)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::media::Snapshot;
    use crate::receiver::{MediaKind, StreamCounts};
    use crate::sender::SenderCounts;
    use crate::transport::{SourceRun, SourceStats};
    use crate::usage::ProcessUsage;

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
    fn published() -> (Published, Sent) {
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
        assert_eq!(forgiven(None, &stats), 30);
        stats.streams[0].counts.recovered = 25;
        assert_eq!(forgiven(None, &stats), 5);
    }

    /// A subscriber of a track that is sent 500 packets before the window and 1,000 in it.
    struct Viewer {
        /// Packets since the first one, at the start of the window and in the end.
        received: [u64; 2],
        kernel_drops: [u64; 2],
        verifies: bool,
    }

    /// One that gets everything.
    const VIEWER: Viewer = Viewer { received: [500, 1_500], kernel_drops: [0, 0], verifies: false };

    impl Viewer {
        fn stats(&self, moment: usize) -> TransportStats {
            let mut stream = stream(self.received[moment], 0, 1_499);
            stream.counts.received = self.received[moment];
            TransportStats {
                streams: if stream.counts.received == 0 { Vec::new() } else { vec![stream] },
                kernel_drops: self.kernel_drops[moment],
                verifies: self.verifies,
                ..TransportStats::default()
            }
        }
    }

    fn delivery(viewers: &[Viewer]) -> DeliveryReport {
        delivery_of(viewers, false)
    }

    fn delivery_of(viewers: &[Viewer], is_simulcast: bool) -> DeliveryReport {
        let mark = |packets, moment| {
            let counts = SenderCounts { packets, ..SenderCounts::default() };
            let senders = vec![SenderStats { ssrc: 12, layer: 2, counts }];
            let publisher = TransportStats { senders, ..TransportStats::default() };
            let subscribers = viewers.iter().map(|viewer| viewer.stats(moment));
            Mark {
                at: Instant::now(),
                at_ns: 5_000_000_000,
                subscribers: Snapshot { transports: (0..).zip(subscribers).collect(), ..Snapshot::default() },
                publishers: Snapshot { transports: vec![(0, publisher)], ..Snapshot::default() },
                server: None,
                machine: (0, 0),
                client: ProcessUsage::default(),
            }
        };
        let marks = Marks { before: mark(0, 0), start: mark(500, 0), end: mark(1_500, 1), last: mark(1_500, 1) };
        let mut published = Published::default();
        published.add(PublishedTrack { sid: "TR_V".into(), ssrcs: vec![12] });
        compare(&marks, &published, Audience { subscribers: viewers.len(), rooms: 1, tracks: 1, is_simulcast })
    }

    #[test]
    fn drops_in_the_window_are_forgiven_and_those_during_the_joins_are_not() {
        let in_window = delivery(&[VIEWER, Viewer { received: [500, 1_470], kernel_drops: [50, 80], ..VIEWER }]);
        assert_eq!((in_window.window_expected, in_window.window_received), (Some(2_000), 1_970));
        assert_eq!(in_window.window_lost, 0);
        let joins = delivery(&[VIEWER, Viewer { received: [500, 1_470], kernel_drops: [50, 50], ..VIEWER }]);
        assert_eq!(joins.window_lost, 30);
    }

    #[test]
    fn the_drops_of_one_viewer_do_not_forgive_the_loss_of_another() {
        for verifies in [false, true] {
            let lacks = Viewer { received: [500, 1_470], verifies, ..VIEWER };
            let report = delivery(&[lacks, Viewer { kernel_drops: [0, 90], verifies, ..VIEWER }]);
            assert_eq!((report.window_lost, report.source_lost), (30, if verifies { 30 } else { 0 }));
        }
    }

    #[test]
    fn what_one_viewer_got_from_before_the_window_does_not_make_up_for_the_loss_of_another() {
        let report =
            delivery(&[Viewer { received: [470, 1_500], ..VIEWER }, Viewer { received: [500, 1_470], ..VIEWER }]);
        assert_eq!((report.window_received, report.window_lost), (2_000, 30));
    }

    #[test]
    fn a_stream_that_never_came_is_lost() {
        let report = delivery(&[VIEWER, Viewer { received: [0, 0], kernel_drops: [0, 90], ..VIEWER }]);
        assert_eq!((report.window_expected, report.window_lost), (Some(2_000), 1_000));
    }

    #[test]
    fn the_worst_stream_is_that_which_lacks_most_beyond_its_own_drops() {
        // In the window of 1,000 packets, or of all 1,500 of the source.
        for (is_simulcast, packets) in [(false, 1_000.0), (true, 1_500.0)] {
            let worst = |viewers: &[Viewer]| delivery_of(viewers, is_simulcast).worst_stream_missing * packets;
            let dropped = || Viewer { received: [500, 1_200], kernel_drops: [0, 290], verifies: true };
            assert_eq!(worst(&[VIEWER, dropped()]).round(), 10.0);
            let lacks = Viewer { received: [500, 1_350], verifies: true, ..VIEWER };
            assert_eq!(worst(&[lacks, dropped()]).round(), 150.0);
        }
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
