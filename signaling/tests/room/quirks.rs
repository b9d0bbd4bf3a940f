//! What clients of particular SDKs, versions, browsers and protocol versions are told otherwise (`signaling::quirks`).

use livekit_protocol as proto;
use proto::client_info::Sdk;
use proto::participant_info::State;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::{Command, Event, TransportEnd};
use shared::media::Codec;
use signaling::join::{Join, Mode};

use crate::sdp::Offer;
use crate::world::{Client, World, join, leaves, ms, names, request_responses, resume, s, updates};

fn of(identity: &str, sdk: Sdk, version: &str, protocol: u32) -> Join {
    let client = proto::ClientInfo { sdk: sdk as i32, version: version.into(), ..Default::default() };
    Join { client, protocol_version: protocol, ..join(identity, Mode::V0) }
}

/// A present JavaScript SDK in `Name/version` on a system.
fn browser(identity: &str, browser: &str, system: &str) -> Join {
    let (name, version) = browser.split_once('/').unwrap();
    let mut join = of(identity, Sdk::Js, "2.16.0", 16);
    join.client.browser = name.into();
    join.client.browser_version = version.into();
    join.client.os = system.into();
    join
}

fn last_offer(world: &World, client: &Client) -> String {
    let offers = world.inbox(client).iter().rev();
    let mut found = offers.filter_map(|m| if let Response::Offer(offer) = m { Some(offer.sdp.clone()) } else { None });
    found.next().expect("an offer")
}

fn last_answer(world: &World, client: &Client) -> String {
    let answers = world.inbox(client).iter().rev();
    let mut found =
        answers.filter_map(|m| if let Response::Answer(answer) = m { Some(answer.sdp.clone()) } else { None });
    found.next().expect("an answer")
}

/// Codecs of the video sections of a description, each once.
fn video_codecs(sdp: &str) -> Vec<&str> {
    let mut codecs = Vec::new();
    let mut is_video = false;
    for line in sdp.lines() {
        if let Some(section) = line.strip_prefix("m=") {
            is_video = section.starts_with("video");
        }
        let name = line.strip_prefix("a=rtpmap:").and_then(|rest| rest.split(' ').nth(1)?.strip_suffix("/90000"));
        if let Some(name) = name.filter(|name| is_video && *name != "rtx" && !codecs.contains(name)) {
            codecs.push(name);
        }
    }
    codecs
}

#[test]
fn an_old_rust_core_is_sent_nothing_that_it_cannot_decode() {
    for (protocol, told) in [(9, false), (10, true)] {
        let mut world = World::new();
        let alice = world.enter(of("alice", Sdk::Rust, "0.11.1", protocol));
        let bob = world.enter_v0("bob");
        world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
        world.pass(ms(200));
        world.answer(&bob);
        assert_eq!(names(&world.take(&alice)).contains(&"track_subscribed"), told, "protocol {protocol}");
        // A refusal, and a success.
        world.request(&alice, Request::Mute(proto::MuteTrackRequest { sid: "TR_none".into(), muted: true }));
        let metadata = proto::UpdateParticipantMetadata { metadata: "new".into(), request_id: 1, ..Default::default() };
        world.request(&alice, Request::UpdateMetadata(metadata));
        assert_eq!(!request_responses(&world.take(&alice)).is_empty(), told, "protocol {protocol}");
    }
}

#[test]
fn success_is_told_from_protocol_15_on() {
    for (protocol, told) in [(14, false), (15, true)] {
        let mut world = World::new();
        let mut request = of("alice", Sdk::Js, "2.0.0", protocol);
        request.grants.video.can_update_own_metadata = Some(true);
        let alice = world.enter(request);
        let metadata = proto::UpdateParticipantMetadata { metadata: "new".into(), request_id: 1, ..Default::default() };
        world.request(&alice, Request::UpdateMetadata(metadata));
        assert_eq!(names(&world.take(&alice)).contains(&"request_response"), told, "protocol {protocol}");
    }
}

#[test]
fn an_old_javascript_client_is_resumed_without_a_reconnect_response() {
    for (version, told) in [("1.6.2", false), ("1.6.3", true)] {
        let mut world = World::new();
        let bob = world.enter(of("bob", Sdk::Js, version, 9));
        world.lose_socket(&bob);
        let again = Join { reconnect: resume("bob", Mode::V0, "").reconnect, ..of("bob", Sdk::Js, version, 9) };
        let again = world.join(again);
        let messages = names(&world.take(&again));
        assert_eq!(messages.contains(&"reconnect"), told, "{version}");
        assert_eq!(messages[usize::from(told)..], ["update", "room_update", "token", "offer"]);
    }
}

#[test]
fn who_left_meanwhile_is_told_after_a_resume_from_protocol_9_on() {
    for (protocol, told) in [(8, false), (9, true)] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        let carol = world.enter_v0("carol");
        let bob = world.enter(of("bob", Sdk::Js, "1.7.0", protocol));
        world.lose_socket(&bob);
        for who in [&alice, &carol] {
            world.request(who, Request::Leave(proto::LeaveRequest::default()));
        }
        world.enter_v0("carol");
        let again = Join { reconnect: resume("bob", Mode::V0, "").reconnect, ..of("bob", Sdk::Js, "1.7.0", protocol) };
        let again = world.join(again);
        let gone: Vec<_> = updates(&world.take(&again))
            .into_iter()
            .filter(|info| info.state() == State::Disconnected)
            .map(|info| info.identity)
            .collect();
        assert_eq!(gone, if told { vec!["alice"] } else { vec![] }, "protocol {protocol}");
    }
}

#[test]
fn a_lost_connection_is_a_poor_one_before_protocol_11_and_none_before_5() {
    use proto::ConnectionQuality::{Lost, Poor};
    for (protocol, expected) in [(11, Some(Lost)), (10, Some(Poor)), (4, None)] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
        let bob = world.enter(of("bob", Sdk::Js, "1.7.0", protocol));
        world.pass(ms(5_100));
        world.take(&bob);
        let transport = world.session(&alice).primary().id;
        world.event(Event::TransportEnded { transport, end: TransportEnd::ConsentLost });
        world.pass(ms(4_990));
        let told = world.take(&bob).into_iter().rev().find_map(|message| match message {
            Response::ConnectionQuality(update) => Some(update.updates[0].quality()),
            _ => None,
        });
        assert_eq!(told, expected, "protocol {protocol}");
    }
}

#[test]
fn changes_of_speakers_are_told_from_protocol_3_on() {
    for (protocol, told) in [(2, false), (3, true)] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
        let bob = world.enter(of("bob", Sdk::Js, "0.9.0", protocol));
        world.connect(&bob);
        let publication = world.session(&alice).publications[track.as_str()].id;
        world.event(Event::AudioActivity { publication, level: 0.5, active: true });
        assert_eq!(names(&world.take(&bob)).contains(&"speakers"), told, "protocol {protocol}");
    }
}

#[test]
fn the_subscriber_transport_is_the_primary_one_from_protocol_3_on() {
    for (protocol, primary) in [(2, false), (3, true)] {
        let mut world = World::new();
        let bob = world.join(of("bob", Sdk::Js, "0.9.0", protocol));
        let Response::Join(response) = &world.inbox(&bob)[0] else { panic!("no JoinResponse") };
        assert_eq!(response.subscriber_primary, primary);
    }
}

#[test]
fn a_forbidden_track_is_muted_for_clients_before_protocol_7() {
    for (protocol, expected) in [(6, "mute"), (7, "track_unpublished")] {
        let mut world = World::new();
        let alice = world.enter(of("alice", Sdk::Js, "1.0.0", protocol));
        world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
        world.forget();
        let permission = proto::ParticipantPermission { can_subscribe: true, ..Default::default() };
        let request = proto::UpdateParticipantRequest {
            identity: "alice".into(),
            permission: Some(permission),
            ..Default::default()
        };
        world.update_participant(request).unwrap();
        let messages = names(&world.take(&alice));
        assert!(messages.contains(&expected), "protocol {protocol}: {messages:?}");
    }
}

#[test]
fn a_rejoin_is_a_departure_to_clients_before_protocol_12() {
    for (protocol, told) in [(11, true), (12, false)] {
        let mut world = World::new();
        world.enter_v0("alice");
        let bob = world.enter(of("bob", Sdk::Js, "1.9.0", protocol));
        world.join(join("alice", Mode::V0));
        let gone = updates(&world.take(&bob)).iter().any(|info| info.state() == State::Disconnected);
        assert_eq!(gone, told, "protocol {protocol}");
    }
}

#[test]
fn streams_are_named_by_publisher_and_track_from_protocol_1_on() {
    for (protocol, packed) in [(0, false), (1, true)] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
        let bob = world.join(of("bob", Sdk::Js, "0.1.0", protocol));
        world.connect(&bob);
        world.answer(&bob);
        world.pass(s(1));
        // Its publisher transport is primary, so that its first offer brings the application alone.
        world.answer(&bob);
        world.pass(s(1));
        let sid = world.sid(&alice);
        let stream = if packed { format!("{sid}|{track}") } else { sid.to_string() };
        assert!(last_offer(&world, &bob).contains(&format!("a=msid:{stream} {track}\r\n")), "protocol {protocol}");
    }
}

/// How many audio sections Bob is offered after he watched three tracks one after the other.
fn sections_after_three(request: Join) -> usize {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let mut offer = Offer::default().application();
    let mut tracks = Vec::new();
    for cid in ["one", "two", "three"] {
        offer = offer.audio(cid, 10 + tracks.len() as u32);
        tracks.push(world.publish_audio(&alice, cid, &offer));
    }
    let bob = world.enter(Join { auto_subscribe: false, ..request });
    for track in tracks {
        for subscribe in [true, false] {
            let request =
                proto::UpdateSubscription { track_sids: vec![track.clone()], subscribe, ..Default::default() };
            world.request(&bob, Request::Subscription(request));
            world.pass(s(1));
            world.answer(&bob);
        }
    }
    last_offer(&world, &bob).matches("m=audio").count()
}

#[test]
fn sections_are_used_again_but_for_safari_and_before_protocol_4() {
    assert_eq!(sections_after_three(browser("bob", "Chrome/140", "Linux")), 1);
    assert_eq!(sections_after_three(browser("bob", "Safari/17.4", "Mac OS X")), 3);
    assert_eq!(sections_after_three(of("bob", Sdk::Js, "0.9.0", 3)), 3);
    assert_eq!(sections_after_three(of("bob", Sdk::Js, "1.0.0", 4)), 1);
}

#[test]
fn browsers_are_offered_what_they_can_play() {
    let cases = [
        ("Chrome/140", true, true),
        ("Firefox/140", false, true),
        ("Firefox Mobile/140", false, true),
        ("Safari/17.4", false, false),
    ];
    for (name, red, av1) in cases {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        let offer = Offer::default().application().audio("mic", 10);
        world.publish_audio(&alice, "mic", &offer);
        world.publish_camera(&alice, "cam", &offer.simulcast("cam", &["q", "h", "f"]));
        let bob = world.enter(browser("bob", name, "Mac OS X"));
        world.pass(s(1));
        let offer = last_offer(&world, &bob);
        assert_eq!((offer.contains("red/48000"), offer.contains("AV1/90000")), (red, av1), "{name}");
        assert!(offer.contains("VP9/90000"));
    }
}

#[test]
fn browsers_publish_what_they_do_well() {
    let cases = [
        ("Chrome/140", "Linux", vec!["VP9", "VP8", "H264", "AV1"]),
        ("Firefox/140", "Windows", vec!["VP9", "VP8", "H264", "AV1"]),
        // It would not take the first one: only what AddTrack names is left.
        ("Firefox/140", "Linux", vec!["VP9"]),
        ("Firefox Mobile/140", "Android", vec!["VP9"]),
        ("Safari/18.3", "Mac OS X", vec!["VP9", "VP8", "H264"]),
        ("Safari/18.4", "Mac OS X", vec!["VP8", "H264"]),
    ];
    for (name, system, expected) in cases {
        let mut world = World::new();
        let alice = world.join(browser("alice", name, system));
        let Response::Join(response) = &world.inbox(&alice)[0] else { panic!("no JoinResponse") };
        let enabled: Vec<_> = response.enabled_publish_codecs.iter().map(|codec| codec.mime.clone()).collect();
        let request = proto::AddTrackRequest {
            cid: "cam".into(),
            r#type: proto::TrackType::Video as i32,
            simulcast_codecs: vec![proto::SimulcastCodec {
                codec: "vp9".into(),
                cid: "cam".into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        world.request(&alice, Request::AddTrack(request));
        world.offer(&alice, 1, &Offer::default().application().browser_video("cam", 10));
        let answer = last_answer(&world, &alice);
        let answered = video_codecs(&answer);
        assert_eq!(answered, expected, "{name} on {system}");
        assert!(answered.iter().all(|name| enabled.contains(&format!("video/{name}"))), "{answered:?} of {enabled:?}");
    }
}

#[test]
fn a_firefox_on_linux_is_answered_no_h264() {
    let mut world = World::new();
    let alice = world.enter(browser("alice", "Firefox/140", "Linux"));
    world.request(
        &alice,
        Request::AddTrack(proto::AddTrackRequest {
            cid: "cam".into(),
            r#type: proto::TrackType::Video as i32,
            ..Default::default()
        }),
    );
    world.offer(&alice, 1, &Offer::default().application().browser_video("cam", 10));
    assert_eq!(video_codecs(&last_answer(&world, &alice)), ["VP8", "VP9", "AV1"]);
}

#[test]
fn a_video_of_the_go_sdk_is_shown_with_its_first_packet() {
    for (sdk, at_once) in [(Sdk::Go, false), (Sdk::Js, true)] {
        let mut world = World::new();
        let alice = world.enter(of("alice", sdk, "2.19.0", 16));
        let bob = world.enter_v0("bob");
        let request =
            proto::AddTrackRequest { cid: "cam".into(), r#type: proto::TrackType::Video as i32, ..Default::default() };
        world.request(&alice, Request::AddTrack(request));
        world.offer(&alice, 1, &Offer::default().application().video("cam", 10));
        assert_eq!(!updates(world.inbox(&bob)).is_empty(), at_once, "{sdk:?}");
        let track = world.track_published(&alice, "cam").sid;
        world.start_layer(&alice, &track, 0);
        assert_eq!(updates(&world.take(&bob)).last().unwrap().tracks[0].sid, track);
    }
}

#[test]
fn a_change_of_codec_starts_a_subscription_over_where_a_track_has_one_codec() {
    for (sdk, over) in [(Sdk::Go, true), (Sdk::Unknown, true), (Sdk::Js, false)] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        let request =
            proto::AddTrackRequest { cid: "cam".into(), r#type: proto::TrackType::Video as i32, ..Default::default() };
        world.request(&alice, Request::AddTrack(request));
        world.offer(&alice, 1, &Offer::default().application().browser_video("cam", 10));
        let track = world.track_published(&alice, "cam").sid;
        world.start_layer(&alice, &track, 0);
        let bob = world.enter(of("bob", sdk, "2.19.0", 16));
        world.pass(s(1));
        world.answer(&bob);
        world.forget();

        // The same codec again changes nothing.
        world.start_layer(&alice, &track, 0);
        assert!(world.commands.is_empty(), "{sdk:?}");
        let publication = world.session(&alice).publications[track.as_str()].id;
        let (ssrc, codec) = (sfu::command::Ssrc(10), Codec::H264 { packetization_mode: 1, profile: [0x42, 0xe0] });
        world.event(Event::LayerStarted { publication, layer: 0, ssrc, codec });
        let ended = world.commands.iter().any(|command| matches!(command, Command::Unsubscribe { .. }));
        assert_eq!(ended, over, "{sdk:?}");
        for _ in 0..3 {
            world.pass(s(1));
            world.answer(&bob);
        }
        let again = world.commands.iter().any(|command| matches!(command, Command::Subscribe { .. }));
        assert_eq!(again, over, "{sdk:?}");
    }
}

#[test]
fn packet_trailers_are_taken_off_for_those_who_cannot() {
    use proto::client_info::Capability::CapPacketTrailer;
    for (announced, capable, stripped) in [(true, false, true), (true, true, false), (false, false, false)] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        let features = if announced { vec![proto::PacketTrailerFeature::PtfUserTimestamp as i32] } else { vec![] };
        let request = proto::AddTrackRequest {
            cid: "cam".into(),
            r#type: proto::TrackType::Video as i32,
            packet_trailer_features: features,
            ..Default::default()
        };
        world.request(&alice, Request::AddTrack(request));
        world.offer(&alice, 1, &Offer::default().application().video("cam", 10));
        let mut request = of("bob", Sdk::Js, "2.20.0", 17);
        request.client.capabilities.extend(capable.then_some(CapPacketTrailer as i32));
        let bob = world.enter(request);
        world.pass(s(1));
        world.answer(&bob);
        let strips = world.commands.iter().find_map(|command| match command {
            Command::Subscribe { section, .. } => Some(section.strips_trailers),
            _ => None,
        });
        assert_eq!(strips, Some(stripped));
    }
}

#[test]
fn a_leave_reads_alike_in_every_protocol_version() {
    for protocol in [8, 12, 13, 17] {
        let mut world = World::new();
        let alice = world.enter(of("alice", Sdk::Js, "1.0.0", protocol));
        world.request(&alice, Request::Answer(proto::SessionDescription::default()));
        world.offer(&alice, 1, &Offer::default());
        let leave = leaves(&world.take(&alice)).pop().expect("an unreadable offer is answered by a Leave");
        assert!(leave.can_reconnect && leave.regions.is_none());
        assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
    }
}

/// The Go SDK and another one in v1, connected, and a track that both have answered sections for.
fn a_track_for_two_on_one_connection() -> (World, Client, Client) {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let [go, js] = [("go", Sdk::Go), ("js", Sdk::Js)].map(|(identity, sdk)| {
        let Join { client, .. } = of(identity, sdk, "2.19.0", 17);
        world.enter(Join { client, ..join(identity, Mode::V1) })
    });
    world.pass(s(1));
    world.forget();
    world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.pass(ms(10));
    for client in [&go, &js] {
        world.offer(client, 2, &Offer::v1());
    }
    (world, go, js)
}

fn is_sent_to(world: &World, client: &Client) -> bool {
    let receiving = world.session(client).publisher.id;
    world
        .commands
        .iter()
        .any(|command| matches!(command, Command::Subscribe { transport, .. } if *transport == receiving))
}

#[test]
fn media_waits_until_a_client_that_would_lose_it_has_read_the_answer() {
    let (mut world, go, js) = a_track_for_two_on_one_connection();
    assert_eq!((is_sent_to(&world, &go), is_sent_to(&world, &js)), (false, true));
    assert_eq!(world.receipts, [(go.connection, signaling::id::DescriptionId(2))]);
    world.receive(&go, 1);
    assert!(!is_sent_to(&world, &go), "it has read of an older one alone");
    world.receive(&go, 2);
    assert!(is_sent_to(&world, &go));
    world.forget();
    world.receive(&go, 2);
    world.pass(s(5));
    assert!(!is_sent_to(&world, &go), "it is sent already");
}

#[test]
fn media_does_not_wait_for_ever_for_a_receipt() {
    let (mut world, go, _) = a_track_for_two_on_one_connection();
    world.pass(ms(1_900));
    assert!(!is_sent_to(&world, &go));
    world.pass(ms(100));
    assert!(is_sent_to(&world, &go));
}

#[test]
fn a_track_that_is_unsubscribed_before_the_receipt_is_not_sent() {
    let (mut world, go, _) = a_track_for_two_on_one_connection();
    let track = world.session(&go).subscriptions.keys().next().unwrap().to_string();
    let request = proto::UpdateSubscription { track_sids: vec![track], subscribe: false, ..Default::default() };
    world.request(&go, Request::Subscription(request));
    world.receive(&go, 2);
    world.pass(s(5));
    assert!(!is_sent_to(&world, &go));
}
