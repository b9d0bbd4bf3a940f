//! Names, metadata and attributes (docs/livekit.md 4.5, 8.2).

use std::collections::HashMap;

use livekit_protocol as proto;
use proto::request_response::Reason;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use signaling::join::{Join, Mode};
use signaling::room::error::ApiError;
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
    let long = |length: usize| proto::UpdateParticipantMetadata { metadata: "m".repeat(length), ..update(9) };
    let echo = proto::request_response::Request::UpdateMetadata(long(ECHO_BYTES_MAX / 2));
    let longest = ECHO_BYTES_MAX - (echo.encoded_len() - ECHO_BYTES_MAX / 2);
    for (length, echoed) in [(longest, true), (longest + 1, false)] {
        let request = long(length);
        world.request(&alice, Request::UpdateMetadata(request));
        let response = &request_responses(&world.take(&alice))[0];
        assert_eq!((response.request_id, response.request.is_some()), (9, echoed));
    }
}

#[test]
fn each_limit_has_its_text() {
    let update = |name: &str, metadata: &str, attribute: &str| proto::UpdateParticipantMetadata {
        name: name.into(),
        metadata: metadata.into(),
        // Five bytes and those of the attribute.
        attributes: HashMap::from([("k".into(), "v".into()), ("key".into(), attribute.into())]),
        request_id: 9,
    };
    let long = "longer than all limits";
    for (limit, update, answer) in [
        (10, update("ten bytes!", "ten bytes!", "value"), (Reason::Ok, "")),
        (10, update("eleven byte", "", ""), (Reason::LimitExceeded, "exceeds name length limit")),
        (10, update("short", "eleven byte", ""), (Reason::LimitExceeded, "exceeds metadata size limit")),
        (10, update("short", "", "values"), (Reason::LimitExceeded, "exceeds attributes size limit")),
        (0, update(long, long, long), (Reason::Ok, "")),
    ] {
        let mut world = World::with(|config, _| {
            config.limits.name_bytes_max = limit;
            config.limits.metadata_bytes_max = limit;
            config.limits.attributes_bytes_max = limit;
        });
        let mut request = may_update("alice");
        request.grants.attributes.clear();
        let alice = world.enter(request);
        world.request(&alice, Request::UpdateMetadata(update.clone()));
        let response = &request_responses(&world.take(&alice))[0];
        assert_eq!((response.reason(), response.message.as_str()), answer, "{update:?}");
        let is_changed = world.session(&alice).grants.name == update.name;
        assert_eq!(is_changed, answer.0 == Reason::Ok, "a part of a change is none");
    }
}

#[test]
fn what_changes_nothing_is_answered_and_told_to_nobody() {
    let mut world = World::new();
    let alice = world.enter(may_update("alice"));
    let bob = world.enter_v1("bob");
    let same = proto::UpdateParticipantMetadata {
        attributes: HashMap::from([("old".into(), "1".into()), ("never there".into(), String::new())]),
        request_id: 9,
        ..Default::default()
    };
    world.request(&alice, Request::UpdateMetadata(same));
    assert_eq!(names(&world.take(&alice)), ["request_response"]);
    assert!(world.take(&bob).is_empty());
}

#[test]
fn a_change_keeps_what_it_leaves_out() {
    let mut world = World::new();
    let mut request = may_update("alice");
    request.grants.name = "Alice".into();
    request.grants.metadata = "from the token".into();
    let alice = world.enter(request);
    let bob = world.enter_v1("bob");
    let told = |world: &mut World, update: proto::UpdateParticipantMetadata| {
        world.request(&alice, Request::UpdateMetadata(update));
        let info = updates(&world.take(&bob)).pop().unwrap();
        (info.name, info.metadata)
    };
    let update = proto::UpdateParticipantMetadata { name: "Alicia".into(), ..Default::default() };
    assert_eq!(told(&mut world, update), ("Alicia".into(), "from the token".into()));
    let update = proto::UpdateParticipantMetadata { metadata: "new".into(), ..Default::default() };
    assert_eq!(told(&mut world, update), ("Alicia".into(), "new".into()));
}

#[test]
fn room_metadata_reaches_everybody_within_the_limit() {
    let mut world = World::with(|config, _| config.limits.metadata_bytes_max = 5);
    let alice = world.enter_v1("alice");
    let room = world.call(|room, _| room.update_metadata("hello")).unwrap();
    assert_eq!(room.metadata, "hello");
    let Some(Response::RoomUpdate(update)) = world.take(&alice).pop() else { panic!("no room update") };
    assert_eq!(update.room.unwrap().metadata, "hello");

    let refused = world.call(|room, _| room.update_metadata("hello!"));
    assert_eq!(refused, Err(ApiError::InvalidArgument("metadata size exceeds limits".into())));
    assert!(world.take(&alice).is_empty());
}
