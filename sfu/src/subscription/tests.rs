use super::*;
use crate::codec::Vp8Descriptor;
use crate::key::Key;
use crate::section::{ExtensionIds, Mid, Ssrc};

const VP8: PayloadCodec = PayloadCodec { payload_type: 96, codec: Codec::Vp8, rtx: Some(97) };

fn subscription(now: Instant) -> Subscription {
    let section = SendSection {
        mid: Mid::new(),
        ssrc: Ssrc(7),
        rtx_ssrc: Some(Ssrc(8)),
        codecs: vec![VP8],
        extensions: ExtensionIds::default(),
        cname: "PA_a".into(),
        strips_trailers: false,
    };
    Subscription::new(now, SubscriptionId(1), Key::NONE, Sink::Local, section, &[VP8], (7, 8))
}

/// Packets by twos are a frame; every other one is of the second temporal layer, every second of these in sync.
fn packet(sequence: u64) -> PacketInfo {
    let (picture, first) = (sequence / 2, sequence.is_multiple_of(2));
    let (picture_id, temporal) = (Some((picture as u16, true)), Some(((picture % 2) as u8, picture % 4 == 3)));
    PacketInfo {
        sequence,
        arrival: sequence,
        timestamp: 3_000 * picture as u32,
        payload_type: 96,
        marker: !first,
        keyframe_start: sequence == 100,
        audio_level: None,
        vp8: Some(Vp8Descriptor { first, picture_id, temporal, ..Vp8Descriptor::default() }),
        hidden: false,
    }
}

#[test]
fn temporal_layers_above_the_wanted_one_are_left_out_without_a_gap() {
    let now = Instant::now();
    let mut subscription = subscription(now);
    subscription.start(now, &packet(100));
    let stored = |sequence| StoredPacket {
        info: packet(sequence),
        dependency_descriptor: &[],
        payload: &[0x90, 0x80, 0x80, 0, 0],
    };
    let mut sent = Vec::new();
    for sequence in 100..160 {
        match sequence {
            120 => subscription.aim(LayerId { spatial: 0, temporal: 0 }),
            140 => subscription.aim(LayerId::whole(0)),
            _ => {}
        }
        sent.extend(subscription.forward(now, &stored(sequence), None).map(|outgoing| (sequence, outgoing)));
    }
    let sources: Vec<_> = sent.iter().map(|(sequence, _)| *sequence).collect();
    // The next sync picture begins with packet 142.
    let base = (120..142).filter(|sequence| sequence / 2 % 2 == 0);
    assert_eq!(sources, (100..120).chain(base).chain(142..160).collect::<Vec<_>>());
    for (count, (sequence, outgoing)) in (0..).zip(&sent) {
        assert_eq!(outgoing.number, sent[0].1.number + count, "{sequence}");
        assert_eq!(u64::from(outgoing.picture.0), 50 + count / 2, "{sequence}");
        let source = subscription.lost_packet(outgoing.number as u16).expect("sent");
        assert_eq!(source.sequence, *sequence);
        let again = subscription.retransmission(&stored(*sequence), source, None).expect("with RTX");
        assert_eq!((again.number, again.picture), (outgoing.number, outgoing.picture));
    }
}

#[test]
fn a_switch_of_layers_waits_for_a_packet_to_start_with_and_less_of_a_layer_does_not() {
    let now = Instant::now();
    let mut subscription = subscription(now);
    subscription.start(now, &packet(100));
    subscription.aim(LayerId { spatial: 0, temporal: 1 });
    assert!(!subscription.awaits_start());
    subscription.aim(LayerId::whole(1));
    assert!(subscription.awaits_start());
    assert_eq!(subscription.layer(), 0, "until then it gets what it got");
    subscription.start(now, &packet(100));
    assert_eq!((subscription.awaits_start(), subscription.layer()), (false, 1));
}
