//! A conversation with a negotiation in each role, of which a client's side is given bytes.

use sfu::command::{Candidate, CandidateProtocol, Fingerprint, IceCredentials, ReceiveSection, SendSection};
use shared::id::TrackSid;
use shared::media::{Codec, MediaKind};
use signaling::negotiation::{LocalTransport, Negotiation, OutgoingTrack, ReceiveSettings, Role};

/// Takes the bytes as offer and as answer, several times over, and checks what comes of it.
///
/// # Panics
/// Something that we would write or give to a worker is malformed.
pub fn hold(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    for role in [Role::Publisher, Role::Single] {
        take_offers(role, &text);
    }
    take_answers(&text);
}

fn negotiation(role: Role) -> Negotiation {
    let ice = IceCredentials { ufrag: "ours".into(), password: "twenty-two-characters-or-more".into() };
    let address = "192.0.2.1:7882".parse().expect("it is an address");
    let candidates = vec![Candidate { address, protocol: CandidateProtocol::Udp }];
    Negotiation::new(role, LocalTransport { ice, fingerprint: Fingerprint([7; 32]), candidates }, &[])
}

fn tracks() -> Vec<OutgoingTrack> {
    let codecs = [Codec::Red, Codec::Vp8, Codec::H264 { packetization_mode: 1, profile: [0x42, 0xe0] }];
    let track = |(index, codec): (usize, Codec)| {
        let track: TrackSid = format!("TR_{index}").parse().expect("it has the prefix");
        OutgoingTrack {
            stream_id: format!("PA_x|{track}"),
            kind: codec.kind(),
            codec,
            stereo: index == 0,
            strips_trailers: false,
            track,
        }
    };
    codecs.into_iter().enumerate().map(track).collect()
}

fn take_offers(role: Role, text: &str) {
    let mut negotiation = negotiation(role);
    for round in 0..3 {
        let Ok(diff) = negotiation.read_offer(text) else {
            assert_eq!(round, 0, "a description that was read once can be read again");
            return;
        };
        assert!(round == 0 || (diff.ended.is_empty() && diff.lost.is_empty() && !diff.ice_restart));
        for section in diff.sending.iter().chain(&diff.changed).take(8) {
            if let Ok(section) = negotiation.receive(&section.mid, &ReceiveSettings::default()) {
                check_received(&section);
            }
        }
        for track in tracks() {
            if let Ok(section) = negotiation.bind(&track) {
                check_sent(&section, track.kind);
            }
        }
        let answer = negotiation.write_answer().expect("there is an offer");
        check_lines(&answer.sdp);
        assert_eq!(count(&answer.sdp, "m="), text.split('\n').filter(|line| line.starts_with("m=")).count());
    }
}

fn take_answers(text: &str) {
    let mut negotiation = negotiation(Role::Subscriber);
    negotiation.write_offer();
    for _ in 0..3 {
        if let Ok(diff) = negotiation.read_answer(text) {
            for (_, section) in &diff.accepted {
                let is_audio = section.codecs.iter().any(|entry| entry.codec.kind() == MediaKind::Audio);
                check_sent(section, if is_audio { MediaKind::Audio } else { MediaKind::Video });
            }
        }
        for track in tracks() {
            if let Ok(section) = negotiation.bind(&track) {
                check_sent(&section, track.kind);
            }
        }
        let offer = negotiation.write_offer();
        check_lines(&offer.sdp);
    }
}

fn check_received(section: &ReceiveSection) {
    assert!(!section.codecs.is_empty() && !section.mid.is_empty());
    assert!((1..=sfu::command::LAYERS_MAX).contains(&section.layers.len()));
    assert!(section.codecs.iter().all(|entry| entry.codec.kind() == section.kind && entry.payload_type < 128));
}

fn check_sent(section: &SendSection, kind: MediaKind) {
    assert!(!section.codecs.is_empty() && !section.mid.is_empty() && section.ssrc.0 != 0);
    assert!(section.rtx_ssrc.is_none_or(|rtx| rtx != section.ssrc && rtx.0 != 0));
    assert!(section.codecs.iter().all(|entry| entry.codec.kind() == kind && entry.payload_type < 128));
}

fn check_lines(sdp: &str) {
    assert!(sdp.ends_with("\r\n"));
    for line in sdp.trim_end_matches("\r\n").split("\r\n") {
        assert!(line.as_bytes().get(1) == Some(&b'='), "{line:?}");
        assert!(line.bytes().all(|byte| byte >= b' ' || byte == b'\t'), "{line:?}");
    }
}

fn count(sdp: &str, prefix: &str) -> usize {
    sdp.lines().filter(|line| line.starts_with(prefix)).count()
}
