//! What is read of a client's description, line by line, and what is passed over.

use shared::media::{Codec, MediaKind};
use signaling::negotiation::{Negotiation, OfferDiff, ReceiveSettings, Role, SendingSection};

use crate::view::{View, assert_well_formed};
use crate::{mid, negotiation, rids, track};

const PASSWORD: &str = "twenty-two characters!";
const FINGERPRINT: &str =
    "AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB";
const VP8: &str = "a=rtpmap:96 VP8/90000";

/// An offer whose sections are bundled, with these lines before them and in each.
fn offer_with(session: &[&str], sections: &[&[&str]]) -> String {
    let mids = sections.iter().flat_map(|lines| lines.iter()).filter_map(|line| line.strip_prefix("a=mid:"));
    let group = mids.fold("a=group:BUNDLE".to_owned(), |group, mid| group + " " + mid);
    let lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", &group].into_iter();
    let lines = lines.chain(session.iter().copied()).chain(sections.iter().flat_map(|lines| lines.iter().copied()));
    lines.map(|line| format!("{line}\r\n")).collect()
}

/// With a transport as it should be.
fn offer(sections: &[&[&str]]) -> String {
    let (password, fingerprint) = (format!("a=ice-pwd:{PASSWORD}"), format!("a=fingerprint:sha-256 {FINGERPRINT}"));
    offer_with(&["a=ice-ufrag:clnt", &password, &fingerprint, "a=setup:actpass"], sections)
}

/// A video in VP8 with these further lines.
fn video(lines: &[&'static str]) -> Vec<&'static str> {
    [&["m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0", "a=rtcp-mux", VP8][..], lines].concat()
}

fn read(text: &str) -> (Negotiation, OfferDiff) {
    let mut negotiation = negotiation(Role::Publisher);
    let diff = negotiation.read_offer(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (negotiation, diff)
}

fn sending(lines: &[&'static str]) -> SendingSection {
    let (_, mut diff) = read(&offer(&[&video(lines)]));
    assert_eq!(diff.sending.len(), 1, "{lines:?}");
    diff.sending.remove(0)
}

fn answer(text: &str) -> View {
    let (mut negotiation, _) = read(text);
    let answer = negotiation.write_answer().unwrap();
    assert_well_formed(&answer.sdp, "passive");
    View::of(&answer.sdp)
}

fn is_read(text: &str) -> bool {
    negotiation(Role::Publisher).read_offer(text).is_ok()
}

/// RFC 8839, section 5.4.
#[test]
fn ice_credentials_have_a_length() {
    let with = |ufrag: usize, password: usize| {
        let (ufrag, password) =
            (format!("a=ice-ufrag:{}", "u".repeat(ufrag)), format!("a=ice-pwd:{}", "p".repeat(password)));
        let fingerprint = format!("a=fingerprint:sha-256 {FINGERPRINT}");
        is_read(&offer_with(&[&ufrag, &password, &fingerprint], &[&video(&[])]))
    };
    assert!(with(4, 22) && with(256, 256));
    assert!(!with(3, 22) && !with(257, 22) && !with(4, 21) && !with(4, 257));
}

#[test]
fn a_certificate_is_known_by_its_first_sha_256_fingerprint() {
    let with = |values: &[&str]| {
        let lines: Vec<String> = values.iter().map(|value| format!("a=fingerprint:{value}")).collect();
        let password = format!("a=ice-pwd:{PASSWORD}");
        let mut session = vec!["a=ice-ufrag:clnt", &password];
        session.extend(lines.iter().map(String::as_str));
        let diff = negotiation(Role::Publisher).read_offer(&offer_with(&session, &[&video(&[])]));
        diff.ok().and_then(|diff| diff.fingerprint).map(|fingerprint| fingerprint.0)
    };
    let of = |digits: &str| format!("sha-256 {digits}");
    let ours = of(FINGERPRINT);
    assert_eq!(with(&[&ours]), Some([0xab; 32]));
    assert_eq!(with(&[&ours.to_lowercase()]), Some([0xab; 32]));
    assert_eq!(with(&["SHA-1 AB:AB", &ours, &of("00")]), Some([0xab; 32]));
    for broken in [
        of(&FINGERPRINT[3..]),
        of(&format!("{FINGERPRINT}:AB")),
        of(&FINGERPRINT.replacen("AB", "A", 1)),
        of(&FINGERPRINT.replacen("AB", "XY", 1)),
        "sha-256".to_owned(),
        "sha-1 AB:AB".to_owned(),
    ] {
        assert_eq!(with(&[&broken]), None, "{broken}");
    }
}

#[test]
fn a_mid_is_a_token_of_sixteen_bytes_at_most() {
    let with = |mid: &str| {
        let line = format!("a=mid:{mid}");
        is_read(&offer(&[&["m=video 9 UDP/TLS/RTP/SAVPF 96", &line, "a=rtcp-mux", VP8]]))
    };
    assert!(with("sixteen-letters!") && with("0"));
    assert!(!with("seventeen-letters") && !with("two words") && !with("n\u{fc}ll"));
}

/// RFC 8853: rids that are declared for sending, in the order of `a=simulcast`.
#[test]
fn layers_are_named_by_the_rids_that_are_sent() {
    for (lines, expected) in [
        (vec!["a=rid:q send", "a=rid:f send"], &["q", "f"][..]),
        (vec!["a=rid:q send", "a=rid:f send pt=96", "a=simulcast:send f;q"], &["f", "q"]),
        (vec!["a=rid:q send", "a=rid:h send", "a=simulcast:recv x send ~h;q"], &["h", "q"]),
        (vec!["a=rid:q send", "a=rid:h send", "a=rid:f send", "a=simulcast:send q,h;f;q;other"], &["q", "f"]),
        (vec!["a=rid:q send", "a=rid:q send", "a=rid:r recv", "a=rid:s"], &["q"]),
        (vec!["a=rid:a.b send", "a=rid: send", "a=rid:a-b_C9 send"], &["a-b_C9"]),
        (vec!["a=rid:q send", "a=simulcast:recv q"], &["q"]),
        (vec![], &[]),
    ] {
        assert_eq!(sending(&lines).rids, rids(expected), "{lines:?}");
    }
    let many = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let lines = many.map(|rid| format!("a=rid:{rid} send"));
    let lines: Vec<&str> =
        [&["m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0", "a=rtcp-mux", VP8][..], &lines.each_ref().map(String::as_str)]
            .concat();
    let (_, diff) = read(&offer(&[&lines]));
    assert_eq!(diff.sending[0].rids, rids(&many[..8]));
}

/// LiveKit's names, and those of WHIP and OBS.
#[test]
fn layers_are_followed_from_the_lowest_to_the_highest_by_their_names() {
    for (order, expected) in [
        ("f;q;h", ["q", "h", "f"]),
        ("0;1;2", ["2", "1", "0"]),
        ("zero;f;q", ["q", "f", "zero"]),
        ("first;second;third", ["first", "second", "third"]),
    ] {
        let lines: Vec<String> = order.split(';').map(|rid| format!("a=rid:{rid} send")).collect();
        let simulcast = format!("a=simulcast:send {order}");
        let mut section = vec!["m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0", "a=rtcp-mux", VP8, &simulcast];
        section.extend(lines.iter().map(String::as_str));
        let (mut negotiation, _) = read(&offer(&[&section]));
        let section = negotiation.receive(&mid("0"), &ReceiveSettings::default()).unwrap();
        let layers: Vec<_> = section.layers.iter().map(|layer| layer.rid.unwrap().to_string()).collect();
        assert_eq!(layers, expected, "{order}");
    }
}

#[test]
fn bandwidth_is_told_by_transport_cc_where_packets_have_its_extension() {
    const TRANSPORT_CC: &str = "a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
    const MID: &str = "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid";
    for (lines, told) in
        [(vec![TRANSPORT_CC, MID], true), (vec![TRANSPORT_CC], true), (vec![MID], false), (vec![], false)]
    {
        let (mut negotiation, _) = read(&offer(&[&video(&[&["a=rtcp-fb:96 transport-cc"][..], &lines].concat())]));
        negotiation.receive(&mid("0"), &ReceiveSettings::default()).unwrap();
        let view = View::of(&negotiation.write_answer().unwrap().sdp);
        assert_eq!(view.section("0").feedback("96").contains("transport-cc"), told, "{lines:?}");
    }
}

/// RFC 8830, or the older `a=ssrc:… msid:`.
#[test]
fn a_track_has_the_names_of_its_msid() {
    for (lines, stream, track) in [
        (vec!["a=msid:stream track", "a=ssrc:1 msid:other names"], "stream", "track"),
        (vec!["a=ssrc:1 cname:c", "a=ssrc:1 msid:stream track"], "stream", "track"),
        (vec!["a=msid:stream"], "stream", ""),
        (vec!["a=ssrc:1"], "", ""),
    ] {
        let section = sending(&lines);
        assert_eq!((section.stream_id.as_str(), section.track_id.as_str()), (stream, track), "{lines:?}");
    }
    // Of what is longer than 256 bytes the beginning, in whole characters.
    for (id, kept) in [("x".repeat(256), 256), ("x".repeat(257), 256), (format!("{}\u{fc}", "x".repeat(255)), 255)] {
        let msid = format!("a=msid:{id} {id}");
        let lines = ["m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0", "a=rtcp-mux", VP8, &msid];
        let (_, diff) = read(&offer(&[&lines]));
        assert_eq!((diff.sending[0].stream_id.as_str(), diff.sending[0].track_id.as_str()), (&id[..kept], &id[..kept]));
    }
}

#[test]
fn a_direction_is_that_of_the_section_else_of_the_session_else_both() {
    let sends = |session: &[&str], lines: &[&'static str]| {
        let (password, fingerprint) = (format!("a=ice-pwd:{PASSWORD}"), format!("a=fingerprint:sha-256 {FINGERPRINT}"));
        let session = [&["a=ice-ufrag:clnt", &password, &fingerprint][..], session].concat();
        !read(&offer_with(&session, &[&video(lines)])).1.sending.is_empty()
    };
    assert!(sends(&[], &[]) && sends(&[], &["a=sendonly"]) && sends(&[], &["a=sendrecv"]));
    assert!(!sends(&[], &["a=recvonly"]) && !sends(&[], &["a=inactive"]));
    assert!(!sends(&["a=recvonly"], &[]) && sends(&["a=recvonly"], &["a=sendonly"]));
    assert!(sends(&["a=inactive"], &["a=sendrecv"]) && !sends(&["a=sendrecv"], &["a=recvonly"]));
    assert!(!sends(&["a=inactive"], &[]) && !sends(&["a=sendonly"], &["a=inactive"]));
}

/// RFC 8285: ids of one-byte headers; what the client only reads is not sent by it.
#[test]
fn extensions_are_taken_that_the_client_may_send() {
    const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
    const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
    let taken = |lines: &[String]| {
        let own: Vec<&str> = lines.iter().map(String::as_str).collect();
        let lines = [&["m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0", "a=rtcp-mux", VP8][..], &own].concat();
        let (mut negotiation, _) = read(&offer(&[&lines]));
        let extensions = negotiation.receive(&mid("0"), &ReceiveSettings::default()).unwrap().extensions;
        (extensions.mid, extensions.rid)
    };
    let extmap = |id: &str, uri: &str| format!("a=extmap:{id} {uri}");
    for (lines, expected) in [
        (vec![extmap("1", MID), extmap("14", RID)], (Some(1), Some(14))),
        (vec![extmap("0", MID), extmap("15", RID)], (None, None)),
        (vec![extmap("1/sendrecv", MID), extmap("2/sendonly", RID)], (Some(1), Some(2))),
        (vec![extmap("1/recvonly", MID), extmap("2/inactive", RID)], (None, None)),
        (vec![extmap("1/sideways", MID), extmap("x", RID)], (None, None)),
        // An id and an extension stand for each other once, also one that is not used.
        (vec![extmap("1/inactive", MID), extmap("2", MID), extmap("1", RID)], (None, None)),
        (vec![extmap("1", MID), extmap("1", RID), extmap("2", MID), extmap("3", RID)], (Some(1), Some(3))),
        (vec![extmap("1", "urn:of:tomorrow"), extmap("1", RID)], (None, Some(1))),
    ] {
        assert_eq!(taken(&lines), expected, "{lines:?}");
    }
}

#[test]
fn extensions_are_sent_that_the_client_reads() {
    for (direction, id) in
        [("", Some(3)), ("/sendrecv", Some(3)), ("/recvonly", Some(3)), ("/sendonly", None), ("/inactive", None)]
    {
        let extmap = format!("a=extmap:3{direction} http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time");
        let lines = ["m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:0", "a=rtcp-mux", VP8, &extmap, "a=recvonly"];
        let mut negotiation = negotiation(Role::Single);
        negotiation.read_offer(&offer(&[&lines])).unwrap();
        let section = negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
        assert_eq!(section.extensions.abs_send_time, id, "{direction}");
    }
}

#[test]
fn payload_types_are_those_of_rtp_each_once() {
    let codecs = |formats: &str, lines: &[&str]| {
        let media = format!("m=audio 9 UDP/TLS/RTP/SAVPF {formats}");
        let lines = [&[media.as_str(), "a=mid:0", "a=rtcp-mux"][..], lines].concat();
        let (mut negotiation, _) = read(&offer(&[&lines]));
        let section = negotiation.receive(&mid("0"), &ReceiveSettings::default());
        section
            .map_or_else(|_| Vec::new(), |section| section.codecs.iter().map(|c| (c.payload_type, c.codec)).collect())
    };
    // Without an rtpmap RFC 3551 says what they are.
    assert_eq!(codecs("0 8 9", &[]), [(0, Codec::Pcmu), (8, Codec::Pcma)]);
    for (number, taken) in [("63", true), ("64", false), ("95", false), ("96", true), ("127", true), ("128", false)] {
        let opus = format!("a=rtpmap:{number} opus/48000/2");
        assert_eq!(!codecs(number, &[&opus]).is_empty(), taken, "{number}");
    }
    let twice = ["a=rtpmap:96 opus/48000/2", "a=rtpmap:97 PCMU/8000", "a=rtpmap:96 PCMA/8000"];
    assert_eq!(codecs("96 97 96", &twice), [(96, Codec::Opus), (97, Codec::Pcmu)]);
    // RED packs the Opus that is there.
    let red = ["a=rtpmap:96 opus/48000/2", "a=rtpmap:97 red/48000/2", "a=fmtp:97 96/96"];
    assert_eq!(codecs("96 97", &red), [(97, Codec::Red), (96, Codec::Opus)]);
    assert_eq!(codecs("97", &red[1..]), []);
    assert_eq!(codecs("96 97", &[&red[..2], &["a=fmtp:97 98/98"]].concat()), [(96, Codec::Opus)]);
}

#[test]
fn feedback_may_be_said_of_all_payload_types() {
    let lines = [
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98",
        "a=mid:0",
        "a=rtcp-mux",
        VP8,
        "a=rtpmap:97 rtx/90000",
        "a=fmtp:97 apt=96",
        "a=fmtp:97 apt=98",
        "a=rtpmap:98 VP9/90000",
        "a=rtcp-fb:* nack",
        "a=rtcp-fb:96 nack",
        "a=rtcp-fb:96 ccm fir",
        "a=rtcp-fb:* nack",
        "a=rtcp-fb:* of tomorrow",
    ];
    let (mut negotiation, _) = read(&offer(&[&lines]));
    let section = negotiation.receive(&mid("0"), &ReceiveSettings::default()).unwrap();
    let rtx: Vec<_> = section.codecs.iter().map(|codec| (codec.payload_type, codec.rtx)).collect();
    assert_eq!((section.nack, rtx), (true, vec![(96, Some(97)), (98, None)]));
    let view = View::of(&negotiation.write_answer().unwrap().sdp);
    assert_eq!(view.section("0").values("rtcp-fb"), ["96 nack", "96 ccm fir", "98 nack"]);
}

#[test]
fn of_many_codecs_forty_are_looked_at() {
    // H.264 in forty variants that nobody is known to decode, and VP8 after them.
    let numbers: Vec<u8> = (20..61).collect();
    let formats: Vec<String> = numbers.iter().map(u8::to_string).collect();
    let media = |count: usize| format!("m=video 9 UDP/TLS/RTP/SAVPF {} 96", formats[..count].join(" "));
    let lines = numbers.iter().flat_map(|number| {
        [format!("a=rtpmap:{number} H264/90000"), format!("a=fmtp:{number} profile-level-id=64001f")]
    });
    let lines: Vec<String> = lines.collect();
    for (count, taken) in [(39, true), (40, false)] {
        let media = media(count);
        let mut section = vec![media.as_str(), "a=mid:0", "a=rtcp-mux", VP8];
        section.extend(lines.iter().map(String::as_str));
        let (mut negotiation, _) = read(&offer(&[&section]));
        let section = negotiation.receive(&mid("0"), &ReceiveSettings::default()).unwrap();
        assert_eq!(section.codecs.iter().any(|codec| codec.codec == Codec::Vp8), taken, "after {count}");
    }
}

#[test]
fn a_section_is_served_as_its_first_line_says() {
    let data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel";
    let refused = |media: &str, lines: &[&str]| {
        let section =
            [&[media, "a=mid:1", "a=rtcp-mux", "a=rtpmap:96 VP8/90000", "a=rtpmap:111 opus/48000/2"][..], lines]
                .concat();
        let text = offer(&[&[data, "a=mid:0", "a=sctp-port:5000"], &section]);
        // What is not in use has no place in the bundle.
        View::of(&read(&text).0.write_answer().unwrap().sdp).sections[1].port == 0
    };
    for (media, lines, expected) in [
        ("m=video 9 UDP/TLS/RTP/SAVPF 96", &[][..], false),
        ("m=audio 9 TCP/DTLS/RTP/SAVPF 111", &[], false),
        ("m=video 0 UDP/TLS/RTP/SAVPF 96", &[], true),
        ("m=video 0 UDP/TLS/RTP/SAVPF 96", &["a=bundle-only"], false),
        ("m=video 9 RTP/AVP 96", &[], true),
        ("m=text 9 UDP/TLS/RTP/SAVPF 96", &[], true),
        ("m=application 9 UDP/DTLS/SCTP 5000", &[], true),
        ("m=application 9 DTLS/SCTP webrtc-datachannel", &[], true),
        // There is one association of data channels.
        (data, &[], true),
    ] {
        assert_eq!(refused(media, lines), expected, "{media} {lines:?}");
    }
}

/// RFC 3264, section 6: it repeats the offer's line with port 0.
#[test]
fn what_is_refused_is_answered_in_its_own_words() {
    let data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel";
    for (section, expected) in [
        (
            &["m=text 9 UDP/TLS/RTP/SAVPF 98 t140", "a=mid:text"][..],
            &["m=text 0 UDP/TLS/RTP/SAVPF 98 t140", "c=IN IP4 0.0.0.0", "a=mid:text", "a=inactive"][..],
        ),
        (&["m=image 9 udptl t38"], &["m=image 0 udptl t38", "c=IN IP4 0.0.0.0", "a=inactive"]),
    ] {
        let (mut negotiation, _) = read(&offer(&[&[data, "a=mid:0"], section]));
        let answer = negotiation.write_answer().unwrap().sdp;
        let lines: Vec<&str> = answer.lines().skip_while(|line| !line.starts_with(&expected[0][..6])).collect();
        assert_eq!(lines, expected);
    }
}

#[test]
fn a_single_section_needs_no_bundle_and_several_do() {
    let unbundled = |text: String| {
        text.lines().filter(|line| !line.starts_with("a=group")).map(|line| format!("{line}\r\n")).collect::<String>()
    };
    let one = unbundled(offer(&[&video(&[])]));
    let (mut negotiation, _) = read(&one);
    assert!(!negotiation.write_answer().unwrap().sdp.contains("a=group"));
    assert_eq!(answer(&offer(&[&video(&[])])).bundle(), ["0"]);
    let second = ["m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:1", "a=rtcp-mux"];
    assert!(is_read(&offer(&[&video(&[]), &second])));
    assert!(!is_read(&unbundled(offer(&[&video(&[]), &second]))));
    // One that is not in use may stand outside.
    let stopped = ["m=audio 0 UDP/TLS/RTP/SAVPF 0", "a=mid:1"];
    assert!(is_read(&offer(&[&video(&[]), &stopped]).replace("BUNDLE 0 1", "BUNDLE 0")));
    assert!(is_read(&unbundled(offer(&[&video(&[]), &stopped]))));
    assert!(!is_read(&offer(&[&stopped])), "nothing is in use");
}

#[test]
fn mixed_extensions_are_allowed_to_those_who_allow_them() {
    let allows = |view: &View| view.session.iter().any(|line| line == "a=extmap-allow-mixed");
    assert!(!allows(&answer(&offer(&[&video(&[])]))));
    assert!(allows(&answer(&offer(&[&video(&["a=extmap-allow-mixed"])]))));
}

#[test]
fn kinds_of_sections_are_told_apart() {
    let audio = ["m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:1", "a=rtcp-mux"];
    let data = ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:2"];
    let (_, diff) = read(&offer(&[&video(&[]), &audio, &data]));
    let kinds: Vec<_> = diff.sending.iter().map(|section| (section.mid, section.kind)).collect();
    assert_eq!(kinds, [(mid("0"), MediaKind::Video), (mid("1"), MediaKind::Audio)]);
    assert!(diff.has_application);
    assert!(!read(&offer(&[&video(&[])])).1.has_application);
}
