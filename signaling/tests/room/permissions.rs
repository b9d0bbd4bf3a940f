//! Changes of permission and what is not supported (docs/livekit.md 7.7, 6.6, 6.7, 8.2).

use livekit_protocol as proto;
use proto::request_response::Reason;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::Command;
use signaling::rooms::ApiError;

use crate::sdp::Offer;
use crate::world::{Client, World, ms, names, request_responses, s, updates};

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
    world.call(|room, now| room.update_participant(now, request)).unwrap();
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
fn the_right_to_subscribe_can_go_and_come_back() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.pass(s(1));
    world.answer(&bob);
    permit(&mut world, &bob, |permission| permission.can_subscribe = false);
    assert!(world.session(&bob).subscriptions.is_empty());
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
    world.request(&alice, trickle(r#"{"candidate":"","sdpMid":"0"}"#));
    assert!(world.take(&alice).is_empty());
    world.request(&alice, trickle("nonsense"));
    assert_eq!(request_responses(&world.take(&alice))[0].reason(), Reason::UnclassifiedError);
}
