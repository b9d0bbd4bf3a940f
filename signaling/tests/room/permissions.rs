//! Changes of permission and what is not supported (docs/livekit.md 7.7, 6.6, 6.7, 8.2).

use livekit_protocol as proto;
use proto::request_response::Reason;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::Command;
use signaling::room::error::ApiError;

use crate::sdp::Offer;
use crate::world::{Client, World, camera, ms, names, request_responses, s, updates};

fn permit(world: &mut World, client: &Client, change: impl FnOnce(&mut proto::ParticipantPermission)) {
    let mut permission = proto::ParticipantPermission {
        can_subscribe: true,
        can_publish: true,
        can_publish_data: true,
        ..Default::default()
    };
    change(&mut permission);
    let request = proto::UpdateParticipantRequest {
        identity: client.identity.clone(),
        permission: Some(permission),
        ..Default::default()
    };
    world.update_participant(request).unwrap();
}

#[test]
fn tracks_that_are_no_longer_allowed_end() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.forget();
    permit(&mut world, &alice, |permission| permission.can_publish = false);

    let messages = world.take(&alice);
    assert_eq!(names(&messages).first(), Some(&"track_unpublished"));
    assert_eq!(names(&messages).last(), Some(&"token"));
    let Response::TrackUnpublished(ended) = &messages[0] else { panic!() };
    assert_eq!(ended.track_sid, track);
    let info = updates(&world.take(&bob)).pop().unwrap();
    assert!(info.tracks.is_empty() && !info.permission.unwrap().can_publish);
}

#[test]
fn of_all_tracks_those_end_whose_source_is_no_longer_allowed() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let offer = Offer::default().application().audio("mic", 10);
    let mic = world.publish_audio(&alice, "mic", &offer);
    let cam = world.publish_camera(&alice, "cam", &offer.simulcast("cam", &["q", "h", "f"]));
    let mut announce = |cid: &str, source: proto::TrackSource| {
        let request = proto::AddTrackRequest { cid: cid.into(), source: source as i32, ..camera(cid) };
        world.request(&alice, Request::AddTrack(request));
        world.track_published(&alice, cid).sid
    };
    let waiting = [announce("second", proto::TrackSource::Camera), announce("screen", proto::TrackSource::ScreenShare)];
    world.forget();
    let sources = [proto::TrackSource::Microphone, proto::TrackSource::ScreenShare];
    permit(&mut world, &alice, |permission| {
        permission.can_publish_sources = sources.map(|source| source as i32).to_vec()
    });

    let ended: Vec<_> = world
        .inbox(&alice)
        .iter()
        .filter_map(|m| if let Response::TrackUnpublished(ended) = m { Some(ended.track_sid.as_str()) } else { None })
        .collect();
    assert_eq!(ended, [cam.as_str(), waiting[0].as_str()]);
    let session = world.session(&alice);
    assert_eq!(session.publications.keys().map(|sid| sid.as_str()).collect::<Vec<_>>(), [&mic]);
    assert_eq!(session.pending.iter().map(|pending| pending.sid.as_str()).collect::<Vec<_>>(), [&waiting[1]]);
}

#[test]
fn a_permission_that_is_as_it_was_changes_and_tells_nothing() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    permit(&mut world, &alice, |_| {});
    world.forget();
    permit(&mut world, &alice, |_| {});
    assert!(world.take(&alice).is_empty());
}

/// All of them at once, as everybody and the next token have them.
#[test]
#[expect(deprecated, reason = "server SDKs may still set them")]
fn a_permission_replaces_all_that_there_were() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.forget();
    let permission = proto::ParticipantPermission {
        can_subscribe: true,
        can_publish: true,
        can_publish_data: false,
        can_publish_sources: vec![proto::TrackSource::ScreenShareAudio as i32],
        hidden: false,
        recorder: false,
        can_update_metadata: true,
        agent: true,
        can_subscribe_metrics: true,
        can_manage_agent_session: true,
    };
    permit(&mut world, &alice, |wanted| wanted.clone_from(&permission));
    assert_eq!(updates(&world.take(&bob)).pop().unwrap().permission, Some(permission.clone()));
    assert_eq!(world.session(&alice).grants.video.permission(), permission);
}

#[test]
fn the_right_to_subscribe_can_go_and_come_back() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.pass(s(1));
    world.answer(&bob);
    permit(&mut world, &bob, |permission| permission.can_subscribe = false);
    assert!(world.session(&bob).subscriptions.is_empty(), "what it may not have ends");
    assert!(world.commands.iter().any(|command| matches!(command, Command::Unsubscribe { .. })), "the worker stops");
    permit(&mut world, &bob, |_| {});
    assert_eq!(world.session(&bob).subscriptions.len(), 1);
    world.forget();
    world.pass(ms(300));
    assert!(names(&world.take(&bob)).contains(&"offer"));
}

#[test]
fn remote_unmute_must_be_enabled() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.forget();
    let mute = |world: &mut World, track: &str, muted| {
        let track = track.to_owned();
        world.call(move |room, now| room.mute_published_track(now, "alice", &track, muted))
    };
    assert!(mute(&mut world, &track, true).unwrap().unwrap().muted);
    assert_eq!(names(&world.take(&alice)), ["mute", "update"]);
    assert!(matches!(mute(&mut world, &track, false), Err(ApiError::FailedPrecondition(_))));
    assert_eq!(mute(&mut world, "TR_unknown", true), Ok(None));
    assert!(world.take(&alice).is_empty(), "it is asked for nothing that it does not have");
}

#[test]
fn data_tracks_and_blobs_are_refused_clearly() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let data_track = proto::PublishDataTrackRequest { pub_handle: 1, name: "d".into(), ..Default::default() };
    world.request(&alice, Request::PublishDataTrackRequest(data_track));
    world.request(&alice, Request::StoreDataBlobRequest(proto::StoreDataBlobRequest { request_id: 5, blob: None }));
    let responses = request_responses(&world.take(&alice));
    assert!(responses.iter().all(|response| response.reason() == Reason::NotAllowed));
    assert_eq!(responses[0].message, "data tracks are not supported");
    assert!(responses[0].request.is_some());
    assert_eq!(responses[1].request_id, 5);
}

#[test]
fn a_candidate_that_is_no_json_is_refused_and_others_are_ignored() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let trickle =
        |text: &str| Request::Trickle(proto::TrickleRequest { candidate_init: text.into(), ..Default::default() });
    world.forget();
    let address = "candidate:1 1 udp 2113937151 192.0.2.7 54400 typ host generation 0 ufrag clnt network-cost 999";
    for candidate in [address, ""] {
        let candidate = serde_json::json!({ "candidate": candidate, "sdpMid": "0", "sdpMLineIndex": 0 });
        world.request(&alice, trickle(&candidate.to_string()));
        assert!(world.take(&alice).is_empty(), "{candidate}");
        assert!(world.commands.is_empty(), "{candidate}: {:?}", world.commands);
    }
    world.request(&alice, trickle("nonsense"));
    assert_eq!(request_responses(&world.take(&alice))[0].reason(), Reason::UnclassifiedError);
}
