//! Publishing (livekit-surface 4.4).

use livekit_protocol as proto;
use proto::request_response::Reason;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::Command;
use signaling::event::RoomHappening;

use crate::sdp::Offer;
use crate::world::{World, camera, join, names, request_responses, updates};
use signaling::join::Mode;
use signaling::participant::{PUBLICATIONS_MAX, ROOM_TRACKS_MAX, TRACK_BYTES_MAX};

const RIDS: &[&str] = &["q", "h", "f"];

fn microphone(cid: &str) -> Request {
    let source = proto::TrackSource::Microphone as i32;
    Request::AddTrack(proto::AddTrackRequest { cid: cid.into(), source, ..Default::default() })
}

fn published_sections(world: &World) -> usize {
    world.commands.iter().filter(|command| matches!(command, Command::Publish { .. })).count()
}

#[test]
fn a_track_with_declared_ssrc_is_told_before_its_answer() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));

    let messages = world.take(&alice);
    assert_eq!(names(&messages)[..3], ["track_published", "update", "answer"]);
    let track = &updates(&messages)[0].tracks[0];
    assert!(track.sid.starts_with("TR_AM"));
    assert_eq!((track.mime_type.as_str(), track.mid.as_str(), track.stream.as_str()), ("audio/opus", "1", "camera"));
    assert!(track.version.is_some());
    assert!(updates(&world.take(&bob))[0].is_publisher);
    assert!(matches!(world.events.last().unwrap().what, RoomHappening::TrackPublished { .. }));
}

#[test]
fn simulcast_is_told_with_its_first_packet_and_each_layer_with_its_own() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.offer(&alice, 1, &Offer::default().application().simulcast("cam", RIDS));
    assert!(updates(&world.take(&bob)).is_empty());
    let track = world.track_published(&alice, "cam");
    #[expect(deprecated, reason = "older clients read it")]
    let simulcast = track.simulcast;
    assert!(simulcast && track.mid.is_empty() && track.version.is_none());
    assert_eq!(track.mime_type, "video/vp8");

    world.start_layer(&alice, &track.sid, 1);
    world.start_layer(&alice, &track.sid, 0);
    let seen = updates(&world.take(&bob));
    assert_eq!(seen.len(), 2);
    let track = &seen[1].tracks[0];
    assert_eq!(track.mime_type, "video/VP8");
    let layers = &track.codecs[0].layers;
    let described: Vec<_> = layers.iter().map(|layer| (layer.rid.as_str(), layer.spatial_layer, layer.ssrc)).collect();
    assert_eq!(described, [("q", 0, 1_000), ("h", 1, 1_001), ("f", 2, 0)]);
}

#[test]
fn a_first_packet_that_tells_nothing_new_is_not_told() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.forget();
    let publication = world.session(&alice).publications[track.as_str()].id;
    let (ssrc, codec) = (sfu::command::Ssrc(10), shared::media::Codec::Opus);
    world.event(sfu::command::Event::LayerStarted { publication, layer: 0, ssrc, codec });
    assert!(world.take(&alice).is_empty());
}

#[test]
fn media_and_add_track_find_each_other_in_either_order() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.offer(&alice, 1, &Offer::default().application().audio("mic", 10));
    assert_eq!(published_sections(&world), 0);
    world.request(&alice, microphone("mic"));
    assert_eq!(published_sections(&world), 1);
    assert_eq!(updates(&world.take(&alice))[0].tracks.len(), 1);
}

#[test]
fn a_browser_with_other_track_ids_gets_the_first_pending_track_of_the_kind() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.request(&alice, microphone("mic"));
    let offer = Offer::default().application().audio("{other}", 10).video("{another}", 20);
    world.offer(&alice, 1, &offer);
    let tracks = updates(&world.take(&alice)).pop().unwrap().tracks;
    let sources: Vec<_> = tracks.iter().map(|track| track.source()).collect();
    assert_eq!(sources, [proto::TrackSource::Microphone, proto::TrackSource::Camera]);
}

/// As libwebrtc names a track that is published again.
#[test]
fn a_track_with_another_name_is_not_taken_for_one_that_was_given_up_before() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().application().audio("mic", 10);
    world.request(&alice, Request::AddTrack(camera("abandoned")));
    world.publish_audio(&alice, "mic", &offer);
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.offer(&alice, 2, &offer.video("{another}", 20));

    let session = world.session(&alice);
    assert!(session.publications.values().any(|publication| publication.cid == "cam"));
    assert_eq!(session.pending.iter().map(|p| p.request.cid.as_str()).collect::<Vec<_>>(), ["abandoned"]);
}

#[test]
fn a_name_in_the_sdp_goes_before_the_order_of_requests() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, microphone("first"));
    world.request(&alice, microphone("second"));
    world.offer(&alice, 1, &Offer::default().application().audio("second", 10).audio("first", 20));
    let mids: Vec<_> =
        world.session(&alice).publications.values().map(|p| (p.cid.clone(), p.mid.to_string())).collect();
    assert!(mids.contains(&("second".into(), "1".into())) && mids.contains(&("first".into(), "2".into())));
}

#[test]
fn a_section_that_stops_sending_ends_its_track() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let offer = Offer::default().application().audio("mic", 10);
    let track = world.publish_audio(&alice, "mic", &offer);
    world.forget();

    world.offer(&alice, 2, &offer.stopped(1));
    assert!(updates(&world.take(&bob))[0].tracks.is_empty());
    assert!(world.commands.iter().any(|command| matches!(command, Command::Unpublish { .. })));
    let event = world.events.last().unwrap();
    assert!(matches!(&event.what, RoomHappening::TrackUnpublished { track: ended, .. } if ended.sid == track));
}

#[test]
fn a_mute_is_told_to_everybody_once() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.forget();

    let mute = Request::Mute(proto::MuteTrackRequest { sid: track, muted: true });
    world.request(&alice, mute.clone());
    assert!(updates(&world.take(&alice))[0].tracks[0].muted);
    assert!(updates(&world.take(&bob))[0].tracks[0].muted);
    assert!(matches!(world.commands[..], [Command::SetMuted { muted: true, .. }]));
    world.request(&alice, mute);
    assert!(world.take(&alice).is_empty() && world.take(&bob).is_empty());
}

#[test]
fn a_simulcast_camera_muted_from_birth_is_invisible_until_it_sends() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.request(&alice, Request::AddTrack(proto::AddTrackRequest { muted: true, ..camera("cam") }));
    world.offer(&alice, 1, &Offer::default().application().simulcast("cam", RIDS));
    let track = world.track_published(&alice, "cam").sid;
    let mute = |muted| Request::Mute(proto::MuteTrackRequest { sid: track.clone(), muted });
    world.request(&alice, mute(true));
    world.request(&alice, mute(false));
    assert!(request_responses(world.inbox(&alice)).is_empty());
    assert!(updates(world.inbox(&bob)).is_empty());
    world.start_layer(&alice, &track, 0);
    assert!(!updates(&world.take(&bob))[0].tracks[0].muted);
}

#[test]
fn what_cannot_be_published_is_refused_with_the_request() {
    let mut world = World::new();
    let mut request = join("alice", Mode::V0);
    request.grants.video.can_publish_sources = vec![proto::TrackSource::Microphone];
    let alice = world.enter(request);
    world.request(&alice, Request::AddTrack(camera("cam")));
    let data = proto::AddTrackRequest {
        cid: "data".into(),
        r#type: proto::TrackType::Data as i32,
        source: proto::TrackSource::Microphone as i32,
        ..Default::default()
    };
    world.request(&alice, Request::AddTrack(data));
    let microphone = proto::TrackSource::Microphone as i32;
    world.request(&alice, Request::AddTrack(proto::AddTrackRequest { source: microphone, ..camera("mic") }));
    world.request(&alice, Request::Mute(proto::MuteTrackRequest { sid: "TR_none".into(), muted: true }));

    let refused = request_responses(&world.take(&alice));
    let reasons: Vec<_> = refused.iter().map(|response| response.reason()).collect();
    assert_eq!(reasons, [Reason::NotAllowed, Reason::UnsupportedType, Reason::NotAllowed, Reason::NotFound]);
    assert!(refused.iter().all(|response| response.request.is_some()));
}

#[test]
fn a_cid_in_use_waits_until_the_earlier_track_ends() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().application().audio("mic", 10);
    world.publish_audio(&alice, "mic", &offer);
    world.forget();
    world.request(&alice, microphone("mic"));
    assert_eq!(request_responses(&world.take(&alice))[0].reason(), Reason::Queued);
    world.offer(&alice, 2, &offer.stopped(1));
    assert!(names(&world.take(&alice)).contains(&"track_published"));
}

fn told_sids(messages: &[Response], cid: &str) -> Vec<String> {
    let published = messages.iter().filter_map(|message| match message {
        Response::TrackPublished(published) if published.cid == cid => published.track.as_ref(),
        _ => None,
    });
    published.map(|track| track.sid.clone()).collect()
}

#[test]
fn a_request_whose_media_never_came_makes_way_for_the_next_one_with_its_cid() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    for _ in 0..3 {
        world.request(&alice, microphone("mic"));
        // Unpublished before its section was ever offered.
        world.offer(&alice, 1, &Offer::default().application());
    }
    let messages = world.inbox(&alice).to_vec();
    assert!(request_responses(&messages).is_empty());
    let sids = told_sids(&messages, "mic");
    assert_eq!(sids.len(), 3);
    assert_eq!((world.session(&alice).pending.len(), world.session(&alice).queued.len()), (1, 0));

    world.offer(&alice, 2, &Offer::default().application().audio("mic", 10));
    assert_eq!(world.session(&alice).publications.keys().map(|sid| sid.as_str()).collect::<Vec<_>>(), [&sids[2]]);
    assert!(world.session(&alice).pending.is_empty());
    assert_eq!(updates(&world.take(&bob)).last().unwrap().tracks[0].sid, sids[2]);
}

#[test]
fn a_camera_that_never_sent_makes_way_for_the_next_one_with_its_cid() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let offer = Offer::default().application().simulcast("cam", RIDS);
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.offer(&alice, 1, &offer);
    world.request(&alice, Request::AddTrack(camera("cam")));
    assert!(request_responses(world.inbox(&alice)).is_empty());
    let sids = told_sids(world.inbox(&alice), "cam");
    assert_eq!(sids.len(), 2);
    let ended = world.commands.iter().filter(|command| matches!(command, Command::Unpublish { .. })).count();
    assert_eq!(ended, 1);

    // In the same section or in another one.
    for (id, offer) in [(2, offer.clone()), (3, offer.stopped(1).simulcast("cam", RIDS))] {
        world.offer(&alice, id, &offer);
        assert_eq!(world.session(&alice).publications.len(), 1, "{id}");
        if id == 2 {
            assert!(world.session(&alice).publications.contains_key(sids[1].as_str()));
            world.request(&alice, Request::AddTrack(camera("cam")));
        }
    }
    let last = told_sids(world.inbox(&alice), "cam").pop().unwrap();
    world.start_layer(&alice, &last, 0);
    assert_eq!(updates(&world.take(&bob)).last().unwrap().tracks.len(), 1);
}

#[test]
fn of_requests_that_wait_for_a_cid_the_last_one_counts() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().application().audio("mic", 10);
    world.publish_audio(&alice, "mic", &offer);
    for name in ["first", "second", "third", "fourth", "fifth"] {
        let source = proto::TrackSource::Microphone as i32;
        let request = proto::AddTrackRequest { cid: "mic".into(), name: name.into(), source, ..Default::default() };
        world.request(&alice, Request::AddTrack(request));
    }
    let refused = request_responses(world.inbox(&alice));
    assert!(refused.iter().all(|response| response.reason() == Reason::Queued), "{refused:?}");
    assert_eq!(world.session(&alice).queued.len(), 1);
    world.offer(&alice, 2, &offer.stopped(1));
    assert_eq!(world.track_published(&alice, "mic").name, "fifth");
    assert!(world.session(&alice).queued.is_empty());
}

#[test]
fn every_request_that_waits_goes_on_when_its_cid_is_free() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().application().audio("mic", 10).audio("other", 20);
    world.publish_audio(&alice, "mic", &offer);
    world.publish_audio(&alice, "other", &offer);
    for cid in ["mic", "other"] {
        world.request(&alice, microphone(cid));
    }
    world.offer(&alice, 2, &offer.stopped(1).stopped(2));
    assert!(world.session(&alice).queued.is_empty());
    assert_eq!(world.session(&alice).pending.len(), 2);
}

mod abandoned {
    //! Publishing and unpublishing in any order.

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// However often a track was published and given up, at whatever moment: published once more it is there, and nothing
        /// waits for it.
        #[test]
        fn a_track_can_always_be_published_again(
            simulcast: bool,
            steps in proptest::collection::vec((0..4u8, 0..2usize), 0..30),
        ) {
            let mut world = World::new();
            let alice = world.enter_v0("alice");
            let cids = ["one", "two"];
            let mut sends = [false; 2];
            let request = |cid: &str| if simulcast { Request::AddTrack(camera(cid)) } else { microphone(cid) };
            let offer = |sends: [bool; 2]| {
                let mut offer = Offer::default().application();
                for (at, cid) in cids.into_iter().enumerate() {
                    offer = if simulcast { offer.simulcast(cid, RIDS) } else { offer.audio(cid, 10 + at as u32) };
                    if !sends[at] {
                        offer = offer.stopped(at + 1);
                    }
                }
                offer
            };
            let mut id = 0;
            for (step, which) in steps {
                match step {
                    0 => world.request(&alice, request(cids[which])),
                    1 => sends[which] = true,
                    2 => sends[which] = false,
                    _ => {
                        id += 1;
                        world.offer(&alice, id, &offer(sends));
                    }
                }
            }
            // Given up for good, and published again.
            world.offer(&alice, id + 1, &offer([false; 2]));
            world.take(&alice);
            world.request(&alice, request("one"));
            let sid = world.track_published(&alice, "one").sid;
            world.offer(&alice, id + 2, &offer([true, false]));
            prop_assert!(world.session(&alice).publications.contains_key(sid.as_str()));
            prop_assert!(world.session(&alice).queued.is_empty());
        }
    }
}

#[test]
fn announced_tracks_are_bounded() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    for number in 0..21 {
        world.request(&alice, microphone(&format!("mic{number}")));
    }
    let refused = request_responses(&world.take(&alice));
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].reason(), Reason::LimitExceeded);
}

#[test]
fn an_own_track_named_again_for_a_backup_codec_is_described_again() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.offer(&alice, 1, &Offer::default().application().video("cam", 10));
    let track = world.track_published(&alice, "cam").sid;
    world.forget();
    let again = proto::AddTrackRequest { cid: "backup".into(), sid: track.clone(), ..camera("backup") };
    world.request(&alice, Request::AddTrack(again));
    assert_eq!(world.track_published(&alice, "backup").sid, track);
}

#[test]
fn an_unreadable_offer_makes_the_client_start_over() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = proto::SessionDescription { r#type: "offer".into(), sdp: "nonsense".into(), ..Default::default() };
    world.request(&alice, Request::Offer(offer));
    let Some(Response::Leave(leave)) = world.take(&alice).pop() else { panic!("no leave") };
    assert_eq!(leave.reason(), proto::DisconnectReason::StateMismatch);
    assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
}

/// A participant with as many tracks as it and the room may have; how many these are.
fn publish_all(world: &mut World, name: &str) -> (crate::world::Client, usize) {
    let client = world.enter(signaling::join::Join { auto_subscribe: false, ..join(name, Mode::V0) });
    let mut offer = Offer::default();
    for number in 0..PUBLICATIONS_MAX {
        let cid = format!("{name}{number}");
        world.request(&client, microphone(&cid));
        offer = offer.audio(&cid, 10 + number as u32);
        if number % 16 == 15 {
            world.offer(&client, number as u32, &offer);
        }
    }
    (client.clone(), world.session(&client).publications.len())
}

#[test]
fn a_room_has_so_many_tracks_and_who_announces_more_is_told() {
    let mut world = World::new();
    // It is announced before the room is full, and offered when it is.
    let late = world.enter_v0("late");
    world.request(&late, microphone("late"));
    let (mut published, mut last) = (0, None);
    while published < ROOM_TRACKS_MAX {
        let (client, count) = publish_all(&mut world, &format!("p{published}"));
        published += count;
        last = Some(client);
        world.take(&late);
    }
    assert_eq!(published, ROOM_TRACKS_MAX);
    assert_eq!(world.room.track_count(), ROOM_TRACKS_MAX);
    let refused = world.tracks_refused;

    let offer = Offer::default().audio("late", 10);
    world.offer(&late, 1, &offer);
    world.request(&late, microphone("more"));
    let answers = request_responses(&world.take(&late));
    let reasons: Vec<_> = answers.iter().map(|answer| (answer.reason(), answer.message.as_str())).collect();
    assert_eq!(reasons, [(Reason::LimitExceeded, "too many tracks in the room"); 2]);
    assert_eq!(world.tracks_refused, refused + 2);

    // Whoever leaves makes room.
    world.lose_socket(&last.unwrap());
    world.call(|room, now| room.remove_participant(now, "p0").unwrap());
    world.request(&late, microphone("late"));
    world.offer(&late, 2, &offer);
    assert_eq!(world.session(&late).publications.len(), 1);
}

#[test]
fn a_track_with_a_long_description_is_refused() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let named = |length: usize| {
        let (cid, name) = (format!("cid{length}"), "n".repeat(length));
        Request::AddTrack(proto::AddTrackRequest { cid, name, ..Default::default() })
    };
    world.request(&alice, named(256));
    world.request(&alice, named(TRACK_BYTES_MAX));
    let reasons: Vec<_> = request_responses(&world.take(&alice)).iter().map(|answer| answer.reason()).collect();
    assert_eq!(reasons, [Reason::LimitExceeded]);
    assert_eq!(world.session(&alice).pending.len(), 1);
}
