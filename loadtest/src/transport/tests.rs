use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::trace::Pattern;

/// Two transports that stand for a publisher and a subscriber without a server between them.
struct Pair {
    ends: [Transport; 2],
    addresses: [SocketAddr; 2],
    now: Instant,
    start: Instant,
    delays: Delays,
    events: [Vec<TransportEvent>; 2],
    /// Counts media packets from the publisher; those for which it gives `true` are lost.
    lose: fn(u32) -> bool,
    media: u32,
}

fn credentials(name: &str) -> Credentials {
    Credentials { ufrag: name.into(), password: format!("{name}-password-of-enough-letters") }
}

impl Pair {
    fn new(verify: bool, lose: fn(u32) -> bool) -> Self {
        let now = Instant::now();
        let profiles = [SrtpProfile::Aes128CmSha1, SrtpProfile::Aes128Gcm];
        let identities = [Identity::generate(&profiles).unwrap(), Identity::generate(&profiles).unwrap()];
        let addresses = [SocketAddr::from(([127, 0, 0, 1], 1_000)), SocketAddr::from(([127, 0, 0, 1], 2_000))];
        let options = |channels: Vec<String>| TransportOptions { verify, channels, ..TransportOptions::default() };
        let mut ends = [
            Transport::new(identities[0].clone(), credentials("one"), options(vec!["_reliable".into()]), now),
            Transport::new(identities[1].clone(), credentials("two"), options(vec![]), now),
        ];
        for (index, role) in [DtlsRole::Client, DtlsRole::Server].into_iter().enumerate() {
            let other = 1 - index;
            let remote = Remote {
                credentials: credentials(["one", "two"][other]),
                fingerprint: identities[other].fingerprint.to_string(),
                role,
                ice_role: if index == 0 { IceRole::Controlling } else { IceRole::Controlled },
            };
            ends[index].set_remote(remote, now);
            ends[index].add_candidate(addresses[other], now);
        }
        ends[1].set_reception(Reception {
            payloads: vec![(96, PayloadKind::Video(VideoCodec::Vp8)), (97, PayloadKind::Retransmission)],
            streams: vec![ExpectedStream { kind: MediaKind::Video, ssrc: 5, rtx_ssrc: Some(6), track: "TR_V".into() }],
            transport_sequence_extension: Some(3),
            remb: false,
        });
        let events = [Vec::new(), Vec::new()];
        Self { ends, addresses, now, start: now, delays: Delays::default(), events, lose, media: 0 }
    }

    fn publish(&mut self) {
        let encoding = Encoding {
            payload_type: 96,
            ssrc: 5,
            rtx: Some((97, 6)),
            mid: "0".into(),
            rid: None,
            rid_extension: None,
            repaired_rid_extension: None,
            mid_extension: Some(4),
            transport_sequence_extension: Some(3),
            audio_level_extension: None,
        };
        let pattern = Pattern::Steady { packets_per_second: 220, payload_len: 1_100 };
        self.ends[0].publish(Source::Video { codec: VideoCodec::Vp8, pattern }, encoding, self.now);
    }

    /// Runs both ends for `time`, 5 ms at a step.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(5);
            for transport in &mut self.ends {
                if transport.deadline().is_some_and(|deadline| deadline <= self.now) {
                    transport.on_timeout(self.now);
                }
            }
            while self.deliver(0) | self.deliver(1) {}
        }
    }

    fn deliver(&mut self, from: usize) -> bool {
        let datagrams = self.ends[from].take_out();
        let any = !datagrams.is_empty();
        let now_ns = crate::clock::monotonic_ns() + (self.now - self.start).as_nanos() as u64;
        for (to, datagram) in datagrams {
            assert_eq!(to, self.addresses[1 - from]);
            if self.is_lost(from, &datagram) {
                continue;
            }
            let (now, delays) = (self.now, &mut self.delays);
            self.ends[1 - from].on_datagram(self.addresses[from], &datagram, now, now_ns, delays);
        }
        self.events[from].extend(self.ends[from].take_events());
        any
    }

    fn is_lost(&mut self, from: usize, datagram: &[u8]) -> bool {
        let is_media = from == 0 && datagram[0] & 0xc0 == 0x80 && datagram[1] & 0x7f == 96;
        self.media += u32::from(is_media);
        is_media && (self.lose)(self.media)
    }
}

#[test]
fn two_transports_connect_and_count_every_packet() {
    let mut pair = Pair::new(true, |_| false);
    pair.publish();
    pair.run(Duration::from_secs(2));
    for events in &pair.events {
        assert!(events.contains(&TransportEvent::Connected(SrtpProfile::Aes128CmSha1)), "{events:?}");
    }
    let (sent, received) = (pair.ends[0].stats(), pair.ends[1].stats());
    let stream = &received.streams[0];
    assert!(sent.senders[0].counts.packets > 400);
    assert_eq!(stream.counts.received, sent.senders[0].counts.packets);
    assert_eq!(stream.counts.expected, sent.senders[0].counts.packets);
    let run = SourceRun { layer: 2, first: 0, last: stream.counts.expected as u32 - 1 };
    assert_eq!((stream.source.run, stream.source.received), (Some(run), stream.counts.received));
    assert_eq!(stream.track.as_deref(), Some("TR_V"));
    assert!(stream.first_key_frame_ns.is_some() && received.sender_reports > 0);
    assert!(sent.feedback_received > 20, "{}", sent.feedback_received);
    assert_eq!((received.verified, received.forged), (stream.counts.received, 0));
    assert!(!pair.delays.video.is_empty());
}

#[test]
fn lost_packets_come_again_over_rtx_also_without_verification() {
    let mut pair = Pair::new(false, |number| number % 10 == 7);
    pair.publish();
    pair.run(Duration::from_secs(2));
    let (sent, received) = (pair.ends[0].stats(), pair.ends[1].stats());
    let counts = received.streams[0].counts;
    assert!(counts.recovered > 30, "{counts:?}");
    // The newest loss may still be unnoticed.
    assert!(counts.expected - counts.received <= 1, "{counts:?}");
    assert_eq!(counts.duplicates, 0);
    assert_eq!(sent.senders[0].counts.retransmitted, counts.recovered);
}

#[test]
fn a_stream_that_lost_its_key_frame_asks_for_another() {
    let mut pair = Pair::new(false, |number| number < 10);
    pair.ends[1]
        .set_reception(Reception { payloads: vec![(96, PayloadKind::Video(VideoCodec::Vp8))], ..Reception::default() });
    pair.publish();
    pair.run(Duration::from_secs(2));
    let (sent, received) = (pair.ends[0].stats(), pair.ends[1].stats());
    assert_eq!(received.key_frame_requests_sent, 1);
    assert_eq!((sent.senders[0].counts.key_frame_requests, sent.senders[0].counts.key_frames), (1, 2));
    assert!(received.streams[0].first_key_frame_ns.is_some());
}

#[test]
fn data_goes_both_ways() {
    let mut pair = Pair::new(false, |_| false);
    pair.run(Duration::from_secs(1));
    let now = pair.now;
    assert!(pair.ends[0].send_data("_reliable", b"hello", now));
    pair.run(Duration::from_millis(20));
    let message = ChannelEvent::Message("_reliable".into(), Bytes::from_static(b"hello"));
    assert!(pair.events[1].contains(&TransportEvent::Channel(message)));
    assert!(!pair.ends[1].send_data("_lossy", b"", now));
}

#[test]
fn garbage_changes_nothing() {
    let mut pair = Pair::new(true, |_| false);
    pair.publish();
    pair.run(Duration::from_secs(1));
    let before = pair.ends[1].stats().streams[0].counts;
    for first in 0..=255_u8 {
        for len in [0, 1, 2, 12, 40, 300] {
            let mut datagram = vec![first; len];
            if let Some(byte) = datagram.get_mut(1) {
                *byte = first.wrapping_mul(7);
            }
            let (from, now) = (pair.addresses[0], pair.now);
            pair.ends[1].on_datagram(from, &datagram, now, 0, &mut pair.delays);
        }
    }
    pair.run(Duration::from_secs(1));
    let stream = &pair.ends[1].stats().streams[0];
    assert_eq!(stream.ssrc, 5);
    assert!(stream.counts.received > before.received + 200);
}
