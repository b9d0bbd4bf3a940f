//! The negotiation against recorded offers and answers of real clients, and what the reference answered them.
//!
//! `data/<recording>-<number>-offer.sdp` and `…-answer.sdp` are a client's, `…-reference-….sdp` the reference's.

#[path = "negotiation/reading.rs"]
mod reading;
#[path = "negotiation/view.rs"]
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use livekit_protocol as proto;
use sfu::command::{
    Candidate, CandidateProtocol, DtlsRole, ExtensionIds, Fingerprint, IceCredentials, Mid, ReceiveSection, Rid,
    SendSection,
};
use shared::id::TrackSid;
use shared::media::{Codec, MediaKind};
use signaling::negotiation::{
    BindError, LocalTransport, Negotiation, OfferDiff, OutgoingTrack, ReceiveSettings, Role, SendingSection,
};
use signaling::quirks::Quirks;
use view::{SectionView, View, assert_well_formed, recorded, recorded_names};

const TRANSPORT_CC: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

fn credentials(ufrag: &str) -> IceCredentials {
    IceCredentials { ufrag: ufrag.into(), password: format!("{ufrag}-and-eighteen-more-characters") }
}

fn negotiation(role: Role) -> Negotiation {
    let local = LocalTransport {
        ice: credentials("first"),
        fingerprint: Fingerprint([0xab; 32]),
        candidates: vec![
            Candidate { address: "192.0.2.1:7882".parse().unwrap(), protocol: CandidateProtocol::Udp },
            Candidate { address: "[2001:db8::1]:7882".parse().unwrap(), protocol: CandidateProtocol::Udp },
            Candidate { address: "192.0.2.1:7881".parse().unwrap(), protocol: CandidateProtocol::TcpPassive },
        ],
    };
    Negotiation::new(role, local, &[])
}

/// The negotiation with the client of a recording.
fn negotiation_of(recording: &str, role: Role) -> Negotiation {
    let mut client = proto::ClientInfo { sdk: proto::client_info::Sdk::Js as i32, ..Default::default() };
    client.os = "Linux".into();
    client.browser = if recording.contains("firefox") { "Firefox" } else { "Chrome" }.into();
    negotiation(role).for_client(Quirks::of(&client, 16))
}

fn mid(text: &str) -> Mid {
    Mid::from(text).unwrap()
}

fn rids(texts: &[&str]) -> Vec<Rid> {
    texts.iter().map(|text| Rid::from(text).unwrap()).collect()
}

fn preferring(mime: &str) -> ReceiveSettings {
    ReceiveSettings { preferred_mime: Some(mime.into()), ..ReceiveSettings::default() }
}

fn track(sid: &str, codec: Codec) -> OutgoingTrack {
    let sid: TrackSid = sid.parse().unwrap();
    OutgoingTrack {
        stream_id: format!("PA_x|{sid}"),
        kind: codec.kind(),
        codec,
        stereo: false,
        strips_trailers: false,
        track: sid,
    }
}

/// Publishes whatever the client sends, videos as they prefer VP8, and answers.
fn answer_all(negotiation: &mut Negotiation, offer: &str) -> (OfferDiff, HashMap<Mid, ReceiveSection>, View) {
    let diff = negotiation.read_offer(&recorded(offer)).unwrap();
    let settings = preferring("video/vp8");
    let published = diff.sending.iter().chain(&diff.changed);
    let published = published.map(|section| (section.mid, negotiation.receive(&section.mid, &settings).unwrap()));
    let published = published.collect();
    let answer = negotiation.write_answer().unwrap();
    assert_well_formed(&answer.sdp, "passive");
    (diff, published, View::of(&answer.sdp))
}

/// Ours says of each section what the reference says, up to the differences that are meant.
fn assert_like_reference(ours: &View, reference: &str) {
    let reference = View::of(&recorded(reference));
    assert_eq!(ours.bundle(), reference.bundle());
    assert_eq!(ours.sections.len(), reference.sections.len());
    for (ours, theirs) in ours.sections.iter().zip(&reference.sections) {
        assert_eq!((ours.mid(), &ours.media), (theirs.mid(), &theirs.media));
        assert_eq!(ours.direction(), theirs.direction(), "section {}", ours.mid());
        if ours.is_media() {
            assert_media_like_reference(ours, theirs);
        }
    }
}

fn assert_media_like_reference(ours: &SectionView, theirs: &SectionView) {
    let section = ours.mid();
    assert_eq!(ours.codec_names(), theirs.codec_names(), "section {section}");
    assert_eq!(ours.codecs()[0].0, theirs.codecs()[0].0, "section {section}");
    assert_eq!(ours.values("rid"), theirs.values("rid"));
    assert_eq!(ours.value("simulcast"), theirs.value("simulcast"));
    assert_eq!(ours.values("ssrc").len(), theirs.values("ssrc").len());
    let mut extensions = ours.extensions();
    if ours.media == "audio" {
        // One transport-wide space counts audio too; the reference leaves it out.
        extensions.remove(TRANSPORT_CC);
    }
    if theirs.direction() == "recvonly" {
        assert_eq!(extensions, theirs.extensions(), "section {section}");
    } else {
        let theirs = theirs.extensions();
        assert!(extensions.iter().all(|(uri, id)| theirs.get(uri) == Some(id)), "section {section}");
    }
    if theirs.direction() == "recvonly" && ours.media == "video" {
        let mut theirs = theirs.feedback(&theirs.formats[0]);
        // Of a client that sends we tell the bandwidth by transport-cc alone.
        theirs.remove("goog-remb");
        assert_eq!(ours.feedback(&ours.formats[0]), theirs, "section {section}");
    }
}

/// The recorded clients offer no transport-wide numbers for audio any more once the reference has refused them; our
/// answers do not.
fn assert_only_audio_changed(diff: &OfferDiff) {
    assert!(diff.changed.iter().all(|section| section.kind == MediaKind::Audio), "{:?}", diff.changed);
}

#[test]
fn every_recorded_offer_is_answered() {
    let names = recorded_names("-offer");
    assert!(names.len() > 30);
    for name in names {
        let role = if name.starts_with("v0") { Role::Publisher } else { Role::Single };
        let offer = View::of(&recorded(&name));
        let (_, _, answer) = answer_all(&mut negotiation_of(&name, role), &name);

        let order = |view: &View| view.sections.iter().map(|section| section.mid().to_owned()).collect::<Vec<_>>();
        assert_eq!(order(&answer), order(&offer), "{name}");
        for (offered, answered) in offer.sections.iter().zip(&answer.sections) {
            let names: BTreeMap<&str, &str> =
                offered.values("rtpmap").iter().filter_map(|v| v.split_once(' ')).collect();
            for rtpmap in answered.values("rtpmap") {
                let (payload_type, encoding) = rtpmap.split_once(' ').unwrap();
                assert_eq!(names.get(payload_type).copied(), Some(encoding), "{name}: the client's payload types");
            }
            let ids = offered.extensions();
            assert!(
                answered.extensions().iter().all(|(uri, id)| ids.get(uri) == Some(id)),
                "{name}: its extension ids"
            );
        }
    }
}

#[test]
fn publishing_is_answered_as_the_reference_does_it() {
    let flows = [
        (Role::Publisher, "v0-python", &[(6, 8), (9, 10), (11, 12), (17, 18)][..]),
        (Role::Publisher, "v0-chromium", &[(5, 6), (7, 8)]),
        (Role::Publisher, "v0-firefox", &[(5, 6), (7, 8)]),
        (Role::Single, "v1-chromium", &[(1, 2), (5, 6), (7, 8)]),
        (Role::Single, "v1-firefox", &[(1, 2), (3, 4), (5, 6)]),
        (Role::Single, "v1-python", &[(1, 2), (5, 6), (7, 8), (13, 14)]),
    ];
    for (role, recording, exchanges) in flows {
        let mut negotiation = negotiation_of(recording, role);
        for (offer, reference) in exchanges {
            let (_, _, answer) = answer_all(&mut negotiation, &format!("{recording}-{offer:02}-offer"));
            assert_like_reference(&answer, &format!("{recording}-{reference:02}-reference-answer"));
        }
    }
}

#[test]
fn a_simulcast_camera_is_received_by_rid_from_low_to_high() {
    let mut negotiation = negotiation(Role::Publisher);
    answer_all(&mut negotiation, "v0-python-06-offer");
    let diff = negotiation.read_offer(&recorded("v0-python-09-offer")).unwrap();
    let [SendingSection { mid: video, kind: MediaKind::Video, stream_id, track_id, rids: sent, ssrcs }] =
        &*diff.sending
    else {
        panic!("{diff:?}");
    };
    assert_eq!((stream_id.as_str(), track_id.as_str()), ("-", "6c3b6972-51b4-4d26-8122-fbf13134ef59"));
    assert_eq!((sent.clone(), ssrcs.len()), (rids(&["h", "q"]), 0));

    let settings = ReceiveSettings { rids_by_quality: rids(&["q", "h"]), ..ReceiveSettings::default() };
    let section = negotiation.receive(video, &settings).unwrap();
    let layers: Vec<_> = section.layers.iter().map(|layer| layer.rid.unwrap().to_string()).collect();
    assert_eq!(layers, ["q", "h"]);
    assert_eq!((section.codecs.len(), section.codecs[0].payload_type, section.codecs[0].rtx), (1, 96, None));
    assert!(section.nack);
    let ids = section.extensions;
    assert_eq!((ids.mid, ids.rid, ids.repaired_rid), (Some(9), Some(10), Some(11)));
    assert_eq!((ids.transport_cc, ids.dependency_descriptor, ids.abs_send_time), (Some(4), Some(13), None));
}

#[test]
fn what_add_track_orders_otherwise_wins_over_livekits_names() {
    let mut negotiation = negotiation(Role::Publisher);
    let diff = negotiation.read_offer(&recorded("v0-chromium-05-offer")).unwrap();
    let settings = ReceiveSettings { rids_by_quality: rids(&["f", "h", "q"]), ..ReceiveSettings::default() };
    let section = negotiation.receive(&diff.sending[0].mid, &settings).unwrap();
    let layers: Vec<_> = section.layers.iter().map(|layer| layer.rid.unwrap().to_string()).collect();
    assert_eq!(layers, ["f", "h", "q"]);
}

#[test]
fn a_microphone_is_received_as_red_unless_that_is_disabled() {
    let mut negotiation = negotiation(Role::Publisher);
    let (_, published, answer) = answer_all(&mut negotiation, "v0-python-11-offer");
    let section = &published[&mid("2")];
    assert_eq!(section.codecs[0].codec, Codec::Red);
    assert_eq!(section.layers[0].ssrc.map(|ssrc| ssrc.0), Some(3_304_068_411));
    assert_eq!(section.extensions.audio_level, Some(12));
    assert_eq!(section.extensions.transport_cc, Some(4));
    let audio = answer.section("2");
    assert_eq!(audio.formats, ["63", "111", "0", "8"]);
    assert_eq!(audio.payload("fmtp", "111"), Some("minptime=10;useinbandfec=1;usedtx=1"));
    assert!(audio.feedback("111").contains("transport-cc"));

    negotiation.read_offer(&recorded("v0-python-11-offer")).unwrap();
    let settings = ReceiveSettings { disable_red: true, disable_dtx: true, stereo: true, ..ReceiveSettings::default() };
    negotiation.receive(&mid("2"), &settings).unwrap();
    let answer = View::of(&negotiation.write_answer().unwrap().sdp);
    assert_eq!(answer.section("2").formats, ["111", "0", "8"]);
    let fmtp = answer.section("2").payload("fmtp", "111").unwrap();
    assert_eq!(fmtp, "minptime=10;useinbandfec=1;stereo=1;maxaveragebitrate=510000");
}

#[test]
fn the_codec_that_add_track_names_comes_first() {
    for (mime, expected, payload_type) in [
        ("video/vp9", Codec::Vp9 { profile: 0 }, 98),
        ("AV1", Codec::Av1 { profile: 0 }, 45),
        ("video/H264", Codec::H264 { packetization_mode: 1, profile: [0x42, 0xe0] }, 108),
        ("video/vp8", Codec::Vp8, 96),
    ] {
        let mut negotiation = negotiation(Role::Single);
        let diff = negotiation.read_offer(&recorded("v1-chromium-svc-05-offer")).unwrap();
        let section = negotiation.receive(&diff.sending[0].mid, &preferring(mime)).unwrap();
        assert_eq!((section.codecs[0].codec, section.codecs[0].payload_type), (expected, payload_type));
        assert!(section.codecs[0].rtx.is_some());
        assert_eq!(section.layers.len(), 1);
        assert_eq!(
            section.layers[0].ssrc.zip(section.layers[0].rtx_ssrc).map(|(a, b)| (a.0, b.0)),
            Some((2_846_634_636, 1_139_307_450))
        );
        let answer = negotiation.write_answer().unwrap();
        assert_well_formed(&answer.sdp, "passive");
        assert_eq!(View::of(&answer.sdp).section("7").formats[0], payload_type.to_string());
    }
}

/// The video of a browser that tells its layers apart by their SSRCs, with these lines about them.
fn published_with_ssrcs(lines: &[&str]) -> Vec<(u32, Option<u32>)> {
    let offer = recorded("v1-chromium-svc-05-offer");
    let (own, without): (Vec<&str>, Vec<&str>) = offer.lines().partition(|line| line.starts_with("a=ssrc"));
    assert!(own.len() == 5 && without.last().is_some());
    let text = without.iter().chain(lines).map(|line| format!("{line}\r\n")).collect::<String>();
    let mut negotiation = negotiation(Role::Single);
    let diff = negotiation.read_offer(&text).unwrap();
    let section = negotiation.receive(&diff.sending[0].mid, &preferring("video/vp8")).unwrap();
    assert!(section.layers.iter().all(|layer| layer.rid.is_none()));
    section
        .layers
        .iter()
        .map(|layer| (layer.ssrc.map_or(0, |ssrc| ssrc.0), layer.rtx_ssrc.map(|ssrc| ssrc.0)))
        .collect()
}

#[test]
fn layers_and_retransmissions_are_known_by_the_groups_of_their_ssrcs() {
    let [ten, eleven, twelve, twenty, thirty] =
        ["10", "11", "12", "20", "30"].map(|ssrc| format!("a=ssrc:{ssrc} cname:c"));
    let all: Vec<&str> = [&ten, &eleven, &twelve, &twenty, &thirty].map(String::as_str).to_vec();
    let with = |groups: &[&'static str]| [&all[..], groups].concat();
    for (lines, layers) in [
        (vec![], &[(0, None)][..]),
        (vec![ten.as_str()], &[(10, None)]),
        (with(&["a=ssrc-group:FID 10 20"]), &[(10, Some(20))]),
        (with(&["a=ssrc-group:FID 10"]), &[(10, None)]),
        // Whichever is declared first.
        (vec![&twenty, &ten, "a=ssrc-group:FID 10 20"], &[(10, Some(20))]),
        (vec![&thirty, &ten, "a=ssrc-group:FEC-FR 10 30"], &[(10, None)]),
        (vec![&thirty, &ten, "a=ssrc-group:FEC 10 30"], &[(10, None)]),
        (vec![&thirty, &ten, "a=ssrc-group:OTHER 10 30"], &[(30, None)]),
        (
            with(&["a=ssrc-group:FID 11 20", "a=ssrc-group:SIM 10 11 12", "a=ssrc-group:SIM 12 30"]),
            &[(10, None), (11, Some(20)), (12, None)],
        ),
        (with(&["a=ssrc-group:SIM 10 11", "a=ssrc-group:SIM 12 30"]), &[(10, None), (11, None)]),
        (with(&["a=ssrc-group:SIM 12 11 10 30"]), &[(12, None), (11, None), (10, None)]),
        (with(&["a=ssrc-group:SIM 12"]), &[(10, None)]),
    ] {
        assert_eq!(published_with_ssrcs(&lines), layers, "{lines:?}");
    }
}

#[test]
fn ssrcs_of_a_section_are_bounded() {
    let lines: Vec<String> = (1..=19).map(|ssrc| format!("a=ssrc:{ssrc} cname:c")).collect();
    let fec: Vec<String> = (1..=17).map(|ssrc| format!("a=ssrc-group:FEC {} {ssrc}", ssrc + 1)).collect();
    let lines: Vec<&str> = lines.iter().chain(&fec).map(String::as_str).collect();
    assert_eq!(published_with_ssrcs(&lines), [(18, None)], "what follows is not looked at");
    let groups = ["a=ssrc-group:FEC 1 18"];
    assert_eq!(published_with_ssrcs(&[&lines[..], &groups].concat()), [(0, None)]);
    let empty = vec!["a=ssrc-group:OTHER 1 2"; 1];
    assert_eq!(published_with_ssrcs(&[&lines[..], &empty, &groups].concat()), [(18, None)]);
}

#[test]
fn an_svc_offer_is_answered_as_the_reference_does_it() {
    let mut negotiation = negotiation(Role::Single);
    let diff = negotiation.read_offer(&recorded("v1-chromium-svc-05-offer")).unwrap();
    negotiation.receive(&diff.sending[0].mid, &preferring("video/vp9")).unwrap();
    let answer = View::of(&negotiation.write_answer().unwrap().sdp);
    assert_like_reference(&answer, "v1-chromium-svc-06-reference-answer");
    assert_eq!(answer.section("7").payload("fmtp", "98"), Some("profile-id=0;x-google-start-bitrate=1000"));
}

#[test]
fn only_codecs_enabled_in_the_room_are_answered() {
    let local = LocalTransport { ice: credentials("only"), fingerprint: Fingerprint([1; 32]), candidates: Vec::new() };
    let mut negotiation = Negotiation::new(Role::Single, local, &["audio/opus".into(), "video/vp8".into()]);
    negotiation.read_offer(&recorded("v1-chromium-01-offer")).unwrap();
    let answer = View::of(&negotiation.write_answer().unwrap().sdp);
    assert_eq!(answer.section("0").formats, ["111"]);
    assert_eq!(answer.section("3").formats, ["96", "97"]);
    assert_eq!(negotiation.bind(&track("TR_red", Codec::Red)).unwrap().codecs[0].codec, Codec::Opus);
    assert_eq!(negotiation.bind(&track("TR_9", Codec::Vp9 { profile: 0 })), Err(BindError::CodecUnsupported));
}

#[test]
fn a_firefox_on_linux_gets_only_the_preferred_video_codec() {
    let mut negotiation = negotiation_of("v0-firefox", Role::Publisher);
    let (_, published, answer) = answer_all(&mut negotiation, "v0-firefox-05-offer");
    assert_eq!(answer.section("1").formats, ["120", "124"]);
    assert_eq!(published[&mid("1")].layers.len(), 3);
    assert_eq!(published[&mid("1")].layers[0].ssrc, None, "rids tell layers apart, not the order of SSRC lines");
}

#[test]
fn what_is_not_published_is_answered_inactive_with_its_rids() {
    let mut negotiation = negotiation(Role::Publisher);
    negotiation.read_offer(&recorded("v0-chromium-05-offer")).unwrap();
    let answer = negotiation.write_answer().unwrap();
    assert_well_formed(&answer.sdp, "passive");
    let answer = View::of(&answer.sdp);
    assert_eq!(answer.section("1").direction(), "inactive");
    assert_eq!(answer.section("1").value("simulcast"), "recv q;h;f");

    let diff = negotiation.read_offer(&recorded("v0-chromium-07-offer")).unwrap();
    assert_eq!(diff.sending.len(), 2, "it is reported until it is published");
}

#[test]
fn a_client_that_stops_sending_ends_its_publication() {
    for (recording, publishes, ends, section) in [("v0-python", 11, 17, "1"), ("v1-python", 7, 13, "7")] {
        let role = if recording == "v0-python" { Role::Publisher } else { Role::Single };
        let mut negotiation = negotiation(role);
        answer_all(&mut negotiation, &format!("{recording}-{publishes:02}-offer"));
        let (diff, _, answer) = answer_all(&mut negotiation, &format!("{recording}-{ends:02}-offer"));

        assert_eq!(diff.ended, [mid(section)]);
        assert!(diff.sending.is_empty());
        assert_only_audio_changed(&diff);
        assert_eq!(answer.section(section).direction(), "inactive");
        assert_eq!(negotiation.free_sections(MediaKind::Video), if role == Role::Single { 3 } else { 0 });
    }
}

#[test]
fn a_stopped_or_vanished_section_ends_its_publication() {
    let offer = recorded("v0-python-11-offer");
    let stopped = offer.replace("m=video 9 ", "m=video 0 ").replace("BUNDLE 0 1 2", "BUNDLE 0 2");
    let start = offer.find("m=video").unwrap();
    let end = offer.find("m=audio").unwrap();
    let vanished = (offer[..start].to_owned() + &offer[end..]).replace("BUNDLE 0 1 2", "BUNDLE 0 2");
    for next in [stopped, vanished] {
        let mut negotiation = negotiation(Role::Publisher);
        answer_all(&mut negotiation, "v0-python-11-offer");
        let diff = negotiation.read_offer(&next).unwrap();
        assert_eq!(diff.ended, [mid("1")]);
        let answer = negotiation.write_answer().unwrap();
        assert_well_formed(&answer.sdp, "passive");
        assert!(!View::of(&answer.sdp).bundle().contains(&"1"));
    }
}

#[test]
fn other_layers_or_ssrcs_are_reported_as_a_change_and_the_same_are_not() {
    let mut negotiation = negotiation(Role::Publisher);
    let (_, before, _) = answer_all(&mut negotiation, "v0-chromium-07-offer");
    let offer = recorded("v0-chromium-07-offer");
    assert!(negotiation.read_offer(&offer).unwrap().changed.is_empty());
    let paused = offer.replace("send q;h;f", "send q;h;~f");
    assert!(negotiation.read_offer(&paused).unwrap().changed.is_empty());

    let fewer = offer.replace("send q;h;f", "send q;h");
    let diff = negotiation.read_offer(&fewer).unwrap();
    assert_eq!(diff.changed.iter().map(|section| section.mid).collect::<Vec<_>>(), [mid("1")]);
    let section = negotiation.receive(&mid("1"), &preferring("video/vp8")).unwrap();
    assert_eq!((section.layers.len(), before[&mid("1")].layers.len()), (2, 3));

    let ssrc = before[&mid("2")].layers[0].ssrc.unwrap().0.to_string();
    let diff = negotiation.read_offer(&fewer.replace(&ssrc, "77")).unwrap();
    assert_eq!(diff.changed.iter().map(|section| section.mid).collect::<Vec<_>>(), [mid("2")]);
}

#[test]
fn a_track_of_v1_is_shown_in_the_lowest_free_slot_of_its_kind() {
    let mut negotiation = negotiation(Role::Single);
    negotiation.read_offer(&recorded("v1-chromium-09-offer")).unwrap();
    let audio = negotiation.bind(&track("TR_a", Codec::Red)).unwrap();
    let video = negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
    assert_eq!((audio.mid, video.mid), (mid("0"), mid("3")));
    assert_eq!(negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap(), video, "a shown track keeps its section");
    let answer = negotiation.write_answer().unwrap();

    assert_well_formed(&answer.sdp, "passive");
    let view = View::of(&answer.sdp);
    assert_like_reference(&view, "v1-chromium-10-reference-answer");
    let expected = [("0", "TR_a"), ("3", "TR_v")].map(|(mid, track)| (mid.to_owned(), track.to_owned()));
    assert_eq!(answer.mid_to_track_id, HashMap::from(expected));
    assert_shown(view.section("0"), &audio, "PA_x|TR_a", "TR_a");
    assert_shown(view.section("3"), &video, "PA_x|TR_v", "TR_v");
    assert_eq!((video.extensions.abs_send_time, video.extensions.dependency_descriptor), (Some(2), Some(12)));
    assert_eq!((audio.extensions.audio_level, audio.extensions.mid), (Some(1), None));
    assert_eq!(
        view.section("3").feedback("96").into_iter().collect::<Vec<_>>(),
        ["ccm fir", "goog-remb", "nack", "nack pli", "transport-cc"]
    );
    assert_eq!(view.section("0").values("rtcp-fb"), ["111 transport-cc"]);
}

/// The ids of transport-wide numbers that a client of v1 is sent audio and video with, and whether our answer asks it for
/// feedback on them.
fn numbering_of_v1(recording: &str, offer: &str) -> [(Option<u8>, bool); 2] {
    let mut negotiation = negotiation_of(recording, Role::Single);
    negotiation.read_offer(offer).unwrap();
    let audio = negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    let video = negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
    assert!(video.extensions.abs_send_time.is_some());
    let answer = negotiation.write_answer().unwrap();
    assert_well_formed(&answer.sdp, "passive");
    let view = View::of(&answer.sdp);
    [audio, video].map(|section| {
        let answered = view.section(section.mid.as_str());
        let feedback = answered.feedback(&answered.formats[0]);
        assert_eq!(feedback.contains("goog-remb"), answered.media == "video");
        (section.extensions.transport_cc, feedback.contains("transport-cc"))
    })
}

fn without(text: &str, part: &str) -> String {
    text.lines().filter(|line| !line.contains(part)).map(|line| format!("{line}\r\n")).collect()
}

#[test]
fn clients_of_v1_report_on_numbered_packets_if_they_know_numbers_and_feedback() {
    for (recording, id) in [("v1-chromium", 3), ("v1-firefox", 7), ("v1-python", 3)] {
        let offer = recorded(&format!("{recording}-01-offer"));
        assert_eq!(numbering_of_v1(recording, &offer), [(Some(id), true); 2], "{recording}");
        assert_eq!(numbering_of_v1(recording, &without(&offer, TRANSPORT_CC)), [(None, false); 2], "{recording}");
        let silent = without(&offer, " transport-cc");
        assert_eq!(numbering_of_v1(recording, &silent), [(None, false); 2], "{recording}");
    }
}

/// What a client of v0 answers, section by section: it takes the numbers, and it knows the feedback.
fn numbering_of_v0(audio: [bool; 2], video: [bool; 2]) -> (Negotiation, [Option<u8>; 2]) {
    let mut negotiation = begun();
    negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
    negotiation.write_offer();
    let mut answer = String::new();
    let mut knows = [false; 2];
    for line in recorded("v0-firefox-14-answer").lines() {
        knows = match line.get(..7) {
            Some("m=audio") => audio,
            Some("m=video") => video,
            _ => knows,
        };
        answer += &format!("{line}\r\n");
        if line.starts_with("a=rtpmap:") && knows[1] {
            let payload_type = line.split([':', ' ']).nth(1).unwrap();
            answer += &format!("a=rtcp-fb:{payload_type} transport-cc\r\n");
        }
        if line.starts_with("a=mid:") && knows[0] {
            answer += &format!("a=extmap:4 {TRANSPORT_CC}\r\n");
        }
    }
    let accepted = negotiation.read_answer(&answer).unwrap().accepted;
    let ids = [0, 1].map(|at: usize| accepted[at].1.extensions.transport_cc);
    (negotiation, ids)
}

#[test]
fn clients_of_v0_report_on_numbered_packets_if_they_know_numbers_and_feedback() {
    let (both, numbers, feedback) = ([true; 2], [true, false], [false, true]);
    for (audio, video, ids) in [
        (both, both, [Some(4), Some(4)]),
        (numbers, both, [None, Some(4)]),
        (feedback, both, [None, Some(4)]),
        (both, numbers, [Some(4), None]),
        (both, feedback, [Some(4), None]),
    ] {
        assert_eq!(numbering_of_v0(audio, video).1, ids, "{audio:?} {video:?}");
    }
}

#[test]
fn numbers_that_a_client_refused_in_one_kind_are_offered_in_the_other_alone() {
    for (audio, video) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut negotiation, _) = numbering_of_v0([audio, true], [video, true]);
        negotiation.bind(&track("TR_b", Codec::Opus)).unwrap();
        negotiation.bind(&track("TR_w", Codec::Vp8)).unwrap();
        let offer = negotiation.write_offer();
        assert_well_formed(&offer.sdp, "actpass");
        let view = View::of(&offer.sdp);
        for (mid, offered) in [("1", audio), ("2", video), ("3", audio), ("4", video)] {
            let section = view.section(mid);
            let feedback = section.feedback(&section.formats[0]);
            let expected = (offered, offered, section.media == "video");
            let found = section.extensions().contains_key(TRANSPORT_CC);
            assert_eq!((found, feedback.contains("transport-cc"), feedback.contains("goog-remb")), expected);
        }
    }
}

/// A Chromium leaves out of later sections what earlier ones of the kind were not answered, and then finds its own
/// simulcast offer faulty.
#[test]
fn slots_agree_on_the_extensions_that_publishing_will_need() {
    let mut negotiation = negotiation(Role::Single);
    let (_, _, answer) = answer_all(&mut negotiation, "v1-chromium-01-offer");
    let reference = View::of(&recorded("v1-chromium-02-reference-answer"));
    assert_eq!(answer.section("3").extensions(), reference.section("3").extensions());
    assert!(answer.section("0").extensions().contains_key(TRANSPORT_CC));
}

/// Of the line `o=` (RFC 9429, section 5.2.2): the version rises by one with each description.
fn id_and_version(view: &View) -> (u64, u64) {
    let words: Vec<u64> = view.session[1].split(' ').skip(1).take(2).map(|word| word.parse().unwrap()).collect();
    (words[0], words[1])
}

/// The lines by which clients know a stream (docs/livekit.md 5.3).
fn assert_shown(section: &SectionView, send: &SendSection, stream: &str, track: &str) {
    assert_eq!(section.value("msid"), format!("{stream} {track}"));
    assert_eq!(&*send.cname, stream);
    let mut expected = Vec::new();
    for ssrc in [Some(send.ssrc), send.rtx_ssrc].into_iter().flatten().map(|ssrc| ssrc.0) {
        expected.push(format!("{ssrc} cname:{stream}"));
        expected.push(format!("{ssrc} msid:{stream} {track}"));
        expected.push(format!("{ssrc} mslabel:{stream}"));
        expected.push(format!("{ssrc} label:{track}"));
    }
    assert_eq!(section.values("ssrc"), expected);
    match send.rtx_ssrc {
        Some(rtx) => assert_eq!(section.value("ssrc-group"), format!("FID {} {}", send.ssrc.0, rtx.0)),
        None => assert!(section.values("ssrc-group").is_empty()),
    }
    let listed: Vec<String> = send
        .codecs
        .iter()
        .flat_map(|codec| [Some(codec.payload_type), codec.rtx])
        .flatten()
        .map(|payload_type| payload_type.to_string())
        .collect();
    assert_eq!(section.formats, listed, "the worker sends what is negotiated");
}

#[test]
fn bindings_of_v1_outlast_offers_and_freed_slots_are_inactive_until_used_again() {
    let mut negotiation = negotiation(Role::Single);
    negotiation.read_offer(&recorded("v1-chromium-09-offer")).unwrap();
    let audio = negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    let video = negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
    negotiation.write_answer().unwrap();

    let diff = negotiation.read_offer(&recorded("v1-chromium-11-offer")).unwrap();
    assert!(
        diff.lost.is_empty()
            && diff.rebound.is_empty()
            && diff.fingerprint.is_none()
            && diff.remote.is_none()
            && !diff.ice_restart
    );
    let answer = negotiation.write_answer().unwrap();
    assert_eq!(answer.mid_to_track_id.len(), 2);
    assert_shown(View::of(&answer.sdp).section("0"), &audio, "PA_x|TR_a", "TR_a");

    negotiation.release(&"TR_v".parse().unwrap());
    negotiation.read_offer(&recorded("v1-chromium-13-offer")).unwrap();
    let answer = negotiation.write_answer().unwrap();
    let view = View::of(&answer.sdp);
    assert_eq!(view.section("3").direction(), "inactive");
    assert!(view.section("3").values("msid").is_empty() && view.section("3").values("ssrc").is_empty());
    assert_eq!(view.section("4").direction(), "sendonly");
    assert_eq!(answer.mid_to_track_id.len(), 1);

    let again = negotiation.bind(&track("TR_w", Codec::Vp8)).unwrap();
    assert_eq!(again.mid, mid("3"));
    assert!(again.ssrc != video.ssrc && Some(again.ssrc) != video.rtx_ssrc);
    negotiation.read_offer(&recorded("v1-chromium-13-offer")).unwrap();
    let view = View::of(&negotiation.write_answer().unwrap().sdp);
    assert_eq!(view.section("3").direction(), "sendonly");
    assert_shown(view.section("3"), &again, "PA_x|TR_w", "TR_w");
}

#[test]
fn without_a_free_slot_nothing_is_bound_until_the_client_offers_more() {
    let mut negotiation = negotiation(Role::Single);
    assert_eq!(negotiation.bind(&track("TR_v", Codec::Vp8)), Err(BindError::NoFreeSection));
    negotiation.read_offer(&recorded("v1-chromium-full-15-offer")).unwrap();
    for (used, sid) in ["TR_1", "TR_2", "TR_3"].into_iter().enumerate() {
        assert_eq!(negotiation.free_sections(MediaKind::Video), 3 - used);
        negotiation.bind(&track(sid, Codec::Vp8)).unwrap();
    }
    assert_eq!(negotiation.bind(&track("TR_4", Codec::Vp8)), Err(BindError::NoFreeSection));
    negotiation.write_answer().unwrap();

    negotiation.read_offer(&recorded("v1-chromium-full-17-offer")).unwrap();
    assert_eq!(negotiation.bind(&track("TR_4", Codec::Vp8)).unwrap().mid, mid("7"));
}

#[test]
fn what_is_shown_has_no_ssrc_of_the_clients() {
    let mut negotiation = negotiation(Role::Single);
    negotiation.read_offer(&recorded("v1-chromium-svc-05-offer")).unwrap();
    for (ssrc, track) in [(2_846_634_636_u32, track("TR_a", Codec::Opus)), (1_139_307_450, track("TR_v", Codec::Vp8))] {
        let mut written = serde_json::to_value(&negotiation).unwrap();
        written["ssrcs"]["next"] = ssrc.into();
        let mut negotiation: Negotiation = serde_json::from_value(written).unwrap();
        let section = negotiation.bind(&track).unwrap();
        assert!(section.ssrc.0 != ssrc && section.rtx_ssrc.is_none_or(|rtx| rtx.0 != ssrc));
    }
}

#[test]
fn a_codec_that_the_client_lacks_is_not_bound() {
    let mut negotiation = negotiation(Role::Single);
    negotiation.read_offer(&recorded("v1-firefox-07-offer")).unwrap();
    let h264 = Codec::H264 { packetization_mode: 1, profile: [0x42, 0xe0] };
    assert_eq!(negotiation.bind(&track("TR_h", h264)), Err(BindError::CodecUnsupported));
    assert!(negotiation.bind(&track("TR_8", Codec::Vp8)).is_ok());
    let red = negotiation.bind(&track("TR_red", Codec::Red)).unwrap();
    assert!(red.codecs.iter().all(|codec| codec.codec != Codec::Red) && red.codecs[0].codec == Codec::Opus);
}

#[test]
fn a_slot_that_the_client_stops_loses_its_track() {
    let mut negotiation = negotiation(Role::Single);
    let offer = recorded("v1-chromium-09-offer");
    negotiation.read_offer(&offer).unwrap();
    negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    negotiation.write_answer().unwrap();
    let diff = negotiation.read_offer(&offer.replacen("a=recvonly", "a=inactive", 1)).unwrap();
    assert_eq!(diff.lost, ["TR_a".parse::<TrackSid>().unwrap()]);
    assert!(negotiation.write_answer().unwrap().mid_to_track_id.is_empty());
}

#[test]
fn a_resume_of_v1_restarts_ice_and_changes_nothing_else() {
    let mut negotiation = negotiation(Role::Single);
    negotiation.read_offer(&recorded("v1-chromium-resume-12-offer")).unwrap();
    let audio = negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    let video = negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
    let before = View::of(&negotiation.write_answer().unwrap().sdp);

    let diff = negotiation.read_offer(&recorded("v1-chromium-resume-16-offer")).unwrap();
    assert!(diff.ice_restart && diff.remote.is_some() && diff.fingerprint.is_none());
    negotiation.restart_ice(credentials("second"));
    let answer = negotiation.write_answer().unwrap();
    let view = View::of(&answer.sdp);
    assert_like_reference(&view, "v1-chromium-resume-17-reference-answer");
    assert_eq!(view.section("0").value("ice-ufrag"), "second");
    assert_eq!(before.section("0").value("ice-ufrag"), "first");
    assert_shown(view.section("0"), &audio, "PA_x|TR_a", "TR_a");
    assert_shown(view.section("3"), &video, "PA_x|TR_v", "TR_v");
    let ((id, version), (next_id, next_version)) = (id_and_version(&before), id_and_version(&view));
    assert_eq!((next_id, next_version), (id, version + 1));
    assert!(id < 1 << 63);
}

#[test]
fn a_resuming_publisher_keeps_its_publications() {
    for (role, recording, before, after, reference) in [
        (Role::Publisher, "v0-chromium-resume", &[5, 7][..], 24, 25),
        (Role::Single, "v1-chromium-resume", &[5, 7], 20, 21),
    ] {
        let mut negotiation = negotiation(role);
        for number in before {
            answer_all(&mut negotiation, &format!("{recording}-{number:02}-offer"));
        }
        let (diff, _, answer) = answer_all(&mut negotiation, &format!("{recording}-{after:02}-offer"));
        assert!(diff.ice_restart && diff.ended.is_empty() && diff.sending.is_empty());
        assert_only_audio_changed(&diff);
        assert_like_reference(&answer, &format!("{recording}-{reference:02}-reference-answer"));
    }
}

#[test]
fn the_state_survives_being_written_down() {
    let mut negotiation = negotiation(Role::Single);
    negotiation.read_offer(&recorded("v1-chromium-09-offer")).unwrap();
    negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
    let text = serde_json::to_string(&negotiation).unwrap();
    let mut restored: Negotiation = serde_json::from_str(&text).unwrap();
    assert_eq!(restored.write_answer().unwrap(), negotiation.write_answer().unwrap());
}

#[test]
fn a_refused_description_changes_nothing() {
    let mut negotiation = negotiation(Role::Single);
    let offer = recorded("v1-chromium-09-offer");
    negotiation.read_offer(&offer).unwrap();
    let first = |name: &str, with: &str| offer.replacen(name, with, 1);
    let broken = [
        ("setup", offer.replace("a=setup:actpass", "a=setup:passive")),
        ("setup", offer.replace("a=setup:actpass", "a=setup:holdconn")),
        ("mid", first("a=mid:0\n", "")),
        ("mid", first("a=mid:0\n", "a=mid:seventeen-letters\n")),
        ("twice", first("a=mid:1\n", "a=mid:0\n")),
        ("BUNDLE", first("a=group:BUNDLE 0 1 2 3 4 5 6\n", "")),
        ("BUNDLE", first("a=group:BUNDLE 0 1 2 3 4 5 6\n", "a=group:BUNDLE 0 1 2\n")),
        (
            "ICE",
            offer.lines().filter(|line| !line.starts_with("a=ice-pwd")).map(|line| line.to_owned() + "\n").collect(),
        ),
        (
            "fingerprint",
            offer.lines().filter(|line| !line.starts_with("a=finger")).map(|line| line.to_owned() + "\n").collect(),
        ),
        ("sha-256", offer.replace("a=fingerprint:sha-256", "a=fingerprint:sha-1")),
        ("rtcp-mux", first("a=rtcp-mux\n", "")),
        ("v=0", String::new()),
    ];
    for (reason, text) in broken {
        let error = negotiation.read_offer(&text).unwrap_err();
        assert!(error.to_string().contains(reason), "{reason}: {error}");
    }
    assert_eq!(View::of(&negotiation.write_answer().unwrap().sdp).sections.len(), 7);
    assert!(negotiation.write_answer().is_err(), "an offer is answered once");
}

#[test]
fn sections_that_nobody_serves_are_refused_in_place() {
    let mut offer = recorded("v0-python-11-offer").replace("BUNDLE 0 1 2", "BUNDLE 0 1 2 3");
    offer.push_str("m=text 9 UDP/TLS/RTP/SAVPF 98\na=mid:3\na=rtcp-mux\n");
    let offer = offer.replace("m=video 9 UDP/TLS/RTP/SAVPF 96", "m=video 9 UDP/TLS/RTP/SAVPF 97");
    let mut negotiation = negotiation(Role::Publisher);
    let diff = negotiation.read_offer(&offer).unwrap();
    assert!(negotiation.receive(&diff.sending[0].mid, &ReceiveSettings::default()).is_err(), "no codec in common");
    let answer = negotiation.write_answer().unwrap();
    assert_well_formed(&answer.sdp, "passive");
    let view = View::of(&answer.sdp);
    assert_eq!(view.bundle(), ["0", "2"]);
    assert_eq!(view.section("3").media, "text");
    assert_eq!((view.section("1").port, view.section("3").port), (0, 0));
}

fn begun() -> Negotiation {
    let mut negotiation = negotiation(Role::Subscriber);
    assert!(negotiation.is_offer_due());
    let first = negotiation.write_offer();
    assert_well_formed(&first.sdp, "actpass");
    let view = View::of(&first.sdp);
    assert_eq!(view.sections.len(), 1);
    assert_eq!((view.section("0").media.as_str(), view.section("0").direction()), ("application", "sendrecv"));
    let diff = negotiation.read_answer(&recorded("v0-python-04-answer")).unwrap();
    assert!(diff.dtls.is_some() && diff.remote.is_some());
    assert!(!negotiation.is_offer_due());
    negotiation
}

#[test]
fn the_first_offer_is_this_to_the_letter() {
    let offer = negotiation(Role::Subscriber).write_offer().sdp;
    let (id, version) = id_and_version(&View::of(&offer));
    let fingerprint = ["AB"; 32].join(":");
    let expected = format!(
        "v=0\r\n\
         o=- {id} {version} IN IP4 0.0.0.0\r\n\
         s=-\r\n\
         t=0 0\r\n\
         a=ice-lite\r\n\
         a=msid-semantic:WMS *\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\n\
         a=extmap-allow-mixed\r\n\
         a=group:BUNDLE 0\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n\
         c=IN IP4 0.0.0.0\r\n\
         a=setup:actpass\r\n\
         a=mid:0\r\n\
         a=ice-ufrag:first\r\n\
         a=ice-pwd:first-and-eighteen-more-characters\r\n\
         a=sendrecv\r\n\
         a=sctp-port:5000\r\n\
         a=max-message-size:65535\r\n\
         a=candidate:1 1 udp 2130706431 192.0.2.1 7882 typ host\r\n\
         a=candidate:2 1 udp 2130706431 2001:db8::1 7882 typ host\r\n\
         a=candidate:3 1 tcp 1671430143 192.0.2.1 7881 typ host tcptype passive\r\n\
         a=end-of-candidates\r\n"
    );
    assert_eq!(offer, expected);
}

#[test]
fn a_subscriber_of_v0_is_offered_what_the_reference_offers() {
    let mut negotiation = begun();
    let audio = negotiation.bind(&track("TR_a", Codec::Red)).unwrap();
    assert!(negotiation.is_offer_due());
    let offer = negotiation.write_offer();
    assert_well_formed(&offer.sdp, "actpass");
    assert_offer_like_reference(&View::of(&offer.sdp), "v0-python-13-reference-offer");
    let (id, version) = id_and_version(&View::of(&offer.sdp));
    let diff = negotiation.read_answer(&recorded("v0-python-14-answer")).unwrap();
    assert_eq!((diff.dtls, diff.remote), (None, None), "they are known");
    let extensions = ExtensionIds { transport_cc: None, ..audio.extensions };
    assert_eq!(audio.extensions.transport_cc, Some(4));
    // As it was recorded, it answers the reference, which offers no numbers.
    assert_eq!(diff.accepted, [("TR_a".parse().unwrap(), SendSection { extensions, ..audio })]);

    let video = negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
    let offer = negotiation.write_offer();
    let view = View::of(&offer.sdp);
    assert_well_formed(&offer.sdp, "actpass");
    assert_offer_like_reference(&view, "v0-python-15-reference-offer");
    assert_eq!(id_and_version(&view), (id, version + 1));
    assert_shown(view.section("2"), &video, "PA_x|TR_v", "TR_v");
    let expected = [("1", "TR_a"), ("2", "TR_v")].map(|(mid, track)| (mid.to_owned(), track.to_owned()));
    assert_eq!(offer.mid_to_track_id, HashMap::from(expected));

    let diff = negotiation.read_answer(&recorded("v0-python-16-answer")).unwrap();
    let [(sid, accepted)] = &*diff.accepted else { panic!("{diff:?}") };
    assert_eq!(sid.as_str(), "TR_v");
    assert_eq!((accepted.ssrc, accepted.rtx_ssrc), (video.ssrc, video.rtx_ssrc));
    assert_eq!(accepted.codecs.iter().map(|codec| codec.payload_type).collect::<Vec<_>>(), [96, 98, 100, 125, 108, 35]);
    assert_eq!((accepted.extensions.abs_send_time, accepted.extensions.dependency_descriptor), (Some(3), Some(1)));
}

fn assert_offer_like_reference(ours: &View, reference: &str) {
    let reference = View::of(&recorded(reference));
    assert_eq!(ours.bundle(), reference.bundle());
    for (ours, theirs) in ours.sections.iter().zip(&reference.sections).filter(|(ours, _)| ours.is_media()) {
        assert_eq!(ours.formats, theirs.formats);
        assert_eq!(ours.codec_names(), theirs.codec_names());
        for payload_type in &ours.formats {
            assert_eq!(ours.payload("rtpmap", payload_type), theirs.payload("rtpmap", payload_type));
            if !ours.codecs()[0].0.starts_with("av1") {
                let (ours, theirs) = (ours.payload("fmtp", payload_type), theirs.payload("fmtp", payload_type));
                // Once answered, the reference repeats the client's parameters.
                assert!(ours == theirs || ours.is_none(), "{payload_type}: {ours:?} {theirs:?}");
            }
            if ours.media == "video" {
                assert_eq!(remaining_feedback(ours, payload_type), theirs.feedback(payload_type));
            }
        }
        assert_eq!(ours.direction(), theirs.direction());
        assert_eq!(ours.values("ssrc").len(), theirs.values("ssrc").len());
        let theirs = theirs.extensions();
        let mut extensions = ours.extensions();
        extensions.remove(TRANSPORT_CC);
        assert!(extensions.iter().all(|(uri, id)| theirs.get(uri) == Some(id)));
    }
}

/// Without that on numbered packets.
fn remaining_feedback<'a>(section: &'a SectionView, payload_type: &str) -> BTreeSet<&'a str> {
    let mut feedback = section.feedback(payload_type);
    feedback.remove("transport-cc");
    feedback
}

#[test]
fn a_freed_section_of_v0_is_recvonly_and_used_again_with_new_ssrcs() {
    let mut negotiation = begun();
    negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    let first = negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
    negotiation.write_offer();
    negotiation.read_answer(&recorded("v0-python-16-answer")).unwrap();

    negotiation.release(&"TR_v".parse().unwrap());
    let offer = negotiation.write_offer();
    let view = View::of(&offer.sdp);
    assert_offer_like_reference(&view, "v0-python-19-reference-offer");
    assert_eq!(view.section("2").direction(), "recvonly");
    assert!(view.section("2").values("msid").is_empty() && !offer.mid_to_track_id.contains_key("2"));
    negotiation.read_answer(&recorded("v0-python-20-answer")).unwrap();

    let again = negotiation.bind(&track("TR_w", Codec::Vp8)).unwrap();
    assert_eq!(again.mid, mid("2"));
    assert!(again.ssrc != first.ssrc && again.rtx_ssrc != first.rtx_ssrc);
    assert!(again.codecs.iter().all(|codec| codec.codec != Codec::H265), "the client refused it");
    let view = View::of(&negotiation.write_offer().sdp);
    assert_eq!((view.sections.len(), view.section("2").direction()), (3, "sendrecv"));
}

#[test]
fn the_first_offer_has_no_media_even_if_there_are_tracks() {
    let mut negotiation = negotiation(Role::Subscriber);
    negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    let first = negotiation.write_offer();
    assert_eq!(View::of(&first.sdp).sections.len(), 1);
    assert!(first.mid_to_track_id.is_empty() && negotiation.is_offer_due());
    assert!(negotiation.read_answer(&recorded("v0-python-04-answer")).unwrap().accepted.is_empty());
    assert_eq!(View::of(&negotiation.write_offer().sdp).sections.len(), 2);
    assert!(!negotiation.is_offer_due());
}

#[test]
fn a_track_bound_or_released_while_an_offer_is_out_is_for_the_next() {
    let mut negotiation = begun();
    negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    negotiation.write_offer();
    negotiation.release(&"TR_a".parse().unwrap());
    negotiation.bind(&track("TR_b", Codec::Opus)).unwrap();
    let diff = negotiation.read_answer(&recorded("v0-python-14-answer")).unwrap();
    assert!(diff.accepted.is_empty() && diff.refused.is_empty());
    assert!(negotiation.is_offer_due());
    let offer = View::of(&negotiation.write_offer().sdp);
    assert_eq!((offer.section("1").direction(), offer.section("2").direction()), ("recvonly", "sendrecv"));

    let answer = recorded("v0-python-14-answer").replace("BUNDLE 0 1", "BUNDLE 0 1 2");
    let (rest, audio) = answer.split_once("m=audio").unwrap();
    let released = audio.replace("a=recvonly", "a=inactive");
    let shown = audio.replace("a=mid:1", "a=mid:2");
    let diff = negotiation.read_answer(&format!("{rest}m=audio{released}m=audio{shown}")).unwrap();
    assert_eq!(diff.accepted[0].0.as_str(), "TR_b");
    assert_eq!(negotiation.bind(&track("TR_c", Codec::Opus)).unwrap().mid, mid("1"), "it is free now");
}

#[test]
fn a_refused_section_is_reported_and_free() {
    let answer = recorded("v0-python-14-answer");
    for refusal in [answer.replace("a=recvonly", "a=inactive"), answer.replace("m=audio 9 ", "m=audio 0 ")] {
        let mut negotiation = begun();
        negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
        negotiation.write_offer();
        let diff = negotiation.read_answer(&refusal).unwrap();
        assert_eq!(diff.refused, ["TR_a".parse::<TrackSid>().unwrap()]);
        assert!(diff.accepted.is_empty());
        let next = negotiation.write_offer();
        assert_well_formed(&next.sdp, "actpass");
        assert!(next.mid_to_track_id.is_empty());
        let is_stopped = refusal.contains("m=audio 0 ");
        assert_eq!(View::of(&next.sdp).section("1").port == 0, is_stopped, "what the client stopped stays stopped");
    }
}

#[test]
fn a_codec_that_the_client_refused_is_neither_offered_nor_bound_again() {
    let mut negotiation = begun();
    negotiation.bind(&track("TR_a", Codec::Red)).unwrap();
    negotiation.bind(&track("TR_v", Codec::Vp8)).unwrap();
    negotiation.write_offer();
    let diff = negotiation.read_answer(&recorded("v0-firefox-14-answer")).unwrap();
    assert_eq!(diff.accepted.len(), 2);
    let audio = &diff.accepted[0].1;
    assert!(audio.codecs.iter().all(|codec| codec.codec != Codec::Red), "a Firefox takes Opus for RED");
    assert_eq!(diff.accepted[1].1.extensions.dependency_descriptor, None);

    let h264 = Codec::H264 { packetization_mode: 1, profile: [0x42, 0xe0] };
    assert_eq!(negotiation.bind(&track("TR_h", h264)), Err(BindError::CodecUnsupported));
    let view = View::of(&negotiation.write_offer().sdp);
    assert_eq!(view.section("1").formats, ["111", "0", "8"]);
    assert_eq!(view.section("2").formats, ["96", "97", "98", "99", "35", "36"]);
    let extensions: Vec<_> = view.section("2").extensions().into_values().collect();
    assert_eq!(extensions, [3], "it took the send time, and not the dependency descriptor");
}

#[test]
fn a_resume_of_v0_repeats_every_section_with_new_credentials() {
    let mut negotiation = begun();
    let audio = negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    negotiation.write_offer();
    negotiation.restart_ice(credentials("second"));
    assert!(negotiation.is_offer_due());
    let offer = negotiation.write_offer();
    let view = View::of(&offer.sdp);
    assert_eq!(view.section("1").value("ice-ufrag"), "second");
    assert_shown(view.section("1"), &audio, "PA_x|TR_a", "TR_a");
    let answer = recorded("v0-python-14-answer");
    let ufrag = answer.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).unwrap();
    let diff = negotiation.read_answer(&answer.replace(ufrag, "another")).unwrap();
    assert_eq!(diff.remote.map(|remote| remote.ufrag), Some("another".into()), "the client restarts too");
    assert_eq!(diff.accepted.len(), 1);
    assert!(negotiation.read_answer(&answer).is_err(), "an offer is answered once");
}

#[test]
fn an_answer_of_other_sections_is_refused_and_the_offer_stays_open() {
    let mut negotiation = begun();
    negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
    negotiation.write_offer();
    let answer = recorded("v0-python-14-answer");
    let error = negotiation.read_answer(&recorded("v0-python-04-answer")).unwrap_err();
    assert_eq!(error.to_string(), "unusable SDP: 1 sections answer our 2");
    let renamed = answer.replace("a=mid:1", "a=mid:x").replace("BUNDLE 0 1", "BUNDLE 0 x");
    assert!(negotiation.read_answer(&renamed).is_err());
    assert!(negotiation.read_answer(&answer).is_ok());
}

/// Pion answers so to an ICE-lite offer. The association that an answer begins keeps its roles (RFC 8842, section 4).
#[test]
fn an_answer_chooses_the_dtls_role_and_later_ones_keep_it() {
    let passive = |name: &str| recorded(name).replace("a=setup:active", "a=setup:passive");
    for is_passive in [true, false] {
        let answer = |name: &str, is_passive: bool| if is_passive { passive(name) } else { recorded(name) };
        let mut negotiation = negotiation(Role::Subscriber);
        assert!(negotiation.write_offer().sdp.contains("a=setup:actpass"));
        let diff = negotiation.read_answer(&answer("v0-python-04-answer", is_passive)).unwrap();
        let (_, role) = diff.dtls.unwrap();
        assert_eq!(role, if is_passive { DtlsRole::Client } else { DtlsRole::Server });

        negotiation.bind(&track("TR_a", Codec::Opus)).unwrap();
        assert!(negotiation.write_offer().sdp.contains("a=setup:actpass"));
        let error = negotiation.read_answer(&answer("v0-python-14-answer", !is_passive)).unwrap_err();
        assert!(error.to_string().contains("setup"), "{error}");
        let mixed = answer("v0-python-14-answer", is_passive).replacen("a=setup:passive", "a=setup:active", 1);
        assert_eq!(negotiation.read_answer(&mixed).is_err(), is_passive, "sections of one transport agree");
        if is_passive {
            let diff = negotiation.read_answer(&passive("v0-python-14-answer")).unwrap();
            assert_eq!((diff.dtls, diff.accepted.len()), (None, 1));
        }
    }
    for setup in ["actpass", "holdconn", "either"] {
        let mut negotiation = negotiation(Role::Subscriber);
        negotiation.write_offer();
        let answer = recorded("v0-python-04-answer").replace("a=setup:active", &format!("a=setup:{setup}"));
        assert!(negotiation.read_answer(&answer).unwrap_err().to_string().contains(setup));
    }
}
