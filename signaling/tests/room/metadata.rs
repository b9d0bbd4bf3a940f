//! Names, metadata and attributes (livekit-surface 4.5, 8.2).

use std::collections::HashMap;

use livekit_protocol as proto;
use proto::request_response::Reason;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use signaling::join::{Join, Mode};
use signaling::wire::ECHO_BYTES_MAX;

use crate::world::{World, join, names, request_responses, updates};

fn may_update(identity: &str) -> Join {
    let mut request = join(identity, Mode::V1);
    request.grants.video.can_update_own_metadata = Some(true);
    request.grants.attributes = HashMap::from([("old".into(), "1".into()), ("gone".into(), "1".into())]);
    request
}

fn update(id: u32) -> proto::UpdateParticipantMetadata {
    proto::UpdateParticipantMetadata {
        name: "Alice".into(),
        metadata: String::new(),
        attributes: HashMap::from([("new".into(), "2".into()), ("gone".into(), String::new())]),
        request_id: id,
    }
}

#[test]
fn a_change_is_told_then_the_token_renewed_then_the_request_answered() {
    let mut world = World::new();
    let alice = world.enter(may_update("alice"));
    let bob = world.enter_v1("bob");
    world.forget();
    world.request(&alice, Request::UpdateMetadata(update(9)));

    let messages = world.take(&alice);
    assert_eq!(names(&messages), ["update", "token", "request_response"]);
    let response = &request_responses(&messages)[0];
    assert_eq!((response.request_id, response.reason()), (9, Reason::Ok));
    let info = &updates(&world.take(&bob))[0];
    assert_eq!(info.name, "Alice");
    assert_eq!(info.attributes, HashMap::from([("old".into(), "1".into()), ("new".into(), "2".into())]));
}

#[test]
fn an_unpermitted_change_is_refused() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.request(&alice, Request::UpdateMetadata(update(9)));
    let response = &request_responses(&world.take(&alice))[0];
    assert_eq!((response.request_id, response.reason()), (9, Reason::NotAllowed));
    assert_eq!(response.message, "does not have permission to update own metadata");
}

#[test]
fn a_long_request_is_not_sent_back() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    for (length, echoed) in [(ECHO_BYTES_MAX / 2, true), (ECHO_BYTES_MAX + 1, false)] {
        let request = proto::UpdateParticipantMetadata { metadata: "m".repeat(length), ..update(9) };
        world.request(&alice, Request::UpdateMetadata(request));
        let response = &request_responses(&world.take(&alice))[0];
        assert_eq!((response.request_id, response.request.is_some()), (9, echoed));
    }
}

#[test]
fn each_limit_has_its_text() {
    let mut world = World::with(|config, _| {
        config.limits.name_bytes_max = 4;
        config.limits.metadata_bytes_max = 4;
        config.limits.attributes_bytes_max = 12;
    });
    let mut request = may_update("alice");
    request.grants.attributes.clear();
    let alice = world.enter(request);
    let long = "longer than all limits".to_owned();
    for (update, text) in [
        (proto::UpdateParticipantMetadata { name: long.clone(), ..Default::default() }, "exceeds name length limit"),
        (
            proto::UpdateParticipantMetadata { metadata: long.clone(), ..Default::default() },
            "exceeds metadata size limit",
        ),
        (
            proto::UpdateParticipantMetadata {
                attributes: HashMap::from([("k".into(), long.clone())]),
                ..Default::default()
            },
            "exceeds attributes size limit",
        ),
    ] {
        world.request(&alice, Request::UpdateMetadata(update));
        let response = &request_responses(&world.take(&alice))[0];
        assert_eq!((response.reason(), response.message.as_str()), (Reason::LimitExceeded, text));
    }
}

#[test]
fn room_metadata_reaches_everybody() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let room = world.call(|room, now| room.update_metadata(now, "hello")).unwrap();
    assert_eq!(room.metadata, "hello");
    let Some(Response::RoomUpdate(update)) = world.take(&alice).pop() else { panic!("no room update") };
    assert_eq!(update.room.unwrap().metadata, "hello");
}
