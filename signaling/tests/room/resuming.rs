//! Resuming on a new socket (docs/livekit.md 3.8).

use livekit_protocol as proto;
use prost::Message as _;
use proto::leave_request::Action;
use proto::participant_info::State;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use proto::simulate_scenario::Scenario;
use sfu::command::{Command, DataChannel, Event, TransportEnd};
use signaling::join::{Join, Mode};

use crate::sdp::Offer;
use crate::world::{World, leaves, names, resume, s, updates};

fn offer_of(messages: &[Response]) -> Option<&proto::SessionDescription> {
    messages.iter().find_map(|m| if let Response::Offer(offer) = m { Some(offer) } else { None })
}

#[test]
fn a_v0_resume_is_welcomed_in_order_and_offered_an_ice_restart() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let sid = world.sid(&bob);
    let before = world.session(&bob).subscriber.as_ref().unwrap().last_offer.unwrap();
    world.lose_socket(&bob);
    world.pass(s(1));
    world.forget();

    let again = world.join(resume("bob", Mode::V0, sid.as_str()));
    let messages = world.take(&again);
    assert_eq!(names(&messages), ["reconnect", "update", "room_update", "token", "offer"]);
    let everybody: Vec<_> = updates(&messages).into_iter().map(|info| info.identity).collect();
    assert_eq!(everybody.len(), 2);
    assert!(everybody.contains(&"bob".to_owned()));
    let offer = offer_of(&messages).unwrap();
    assert_eq!(offer.id, before.0 + 1);
    assert!(
        world
            .commands
            .iter()
            .any(|command| matches!(command, Command::RestartIce { local, .. } if offer.sdp.contains(&local.ufrag)))
    );
    assert_eq!(world.sid(&again), sid);
    assert!(world.take(&alice).is_empty());
}

#[test]
fn a_v1_resume_waits_for_the_clients_offer() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    let sid = world.sid(&bob);
    world.forget();
    let again = world.join(resume("bob", Mode::V1, sid.as_str()));
    assert!(world.closed.contains(&bob.connection));
    assert_eq!(names(&world.take(&again)), ["reconnect", "update", "room_update", "token"]);

    world.offer(&again, 5, &Offer::v1().restarted("anew"));
    let restarted = world.commands.iter().find_map(|command| match command {
        Command::RestartIce { local, .. } => Some(local.ufrag.clone()),
        _ => None,
    });
    let messages = world.take(&again);
    let Some(Response::Answer(answer)) = messages.last() else { panic!("no answer") };
    assert!(answer.sdp.contains(&restarted.unwrap()));
}

#[test]
fn a_late_close_of_the_old_socket_does_not_hurt_the_new_one() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    let again = world.join(resume("bob", Mode::V1, ""));
    world.lose_socket(&bob);
    world.offer(&again, 5, &Offer::v1());
    assert!(names(&world.take(&again)).contains(&"answer"));
}

#[test]
fn who_cannot_resume_is_told_to_start_over() {
    let mut world = World::new();
    world.enter_v1("alice");
    for join in
        [resume("bob", Mode::V1, "PA_unknown"), resume("alice", Mode::V1, "PA_other"), resume("alice", Mode::V0, "")]
    {
        let client = world.join(join);
        let messages = world.take(&client);
        assert_eq!(names(&messages), ["leave"]);
        let leave = &leaves(&messages)[0];
        assert_eq!(leave.reason(), proto::DisconnectReason::StateMismatch);
        assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
        assert!(leave.can_reconnect);
        assert!(world.closed.contains(&client.connection));
    }
    assert!(world.room.session("alice").is_some());
}

#[test]
fn a_session_whose_media_is_gone_cannot_resume() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    let transport = world.session(&bob).publisher.id;
    world.event(Event::TransportEnded { transport, end: TransportEnd::ConsentLost });
    let again = world.join(resume("bob", Mode::V1, ""));
    assert_eq!(names(&world.take(&again)), ["leave"]);
    assert!(world.room.session("bob").is_none());
}

#[test]
fn the_last_reliable_sequence_is_told() {
    use prost::Message;
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    let transport = world.session(&bob).publisher.id;
    let packet = proto::DataPacket { sequence: 42, ..Default::default() };
    let payload = packet.encode_to_vec().into();
    world.event(Event::Data { transport, channel: sfu::command::DataChannel::Reliable, payload });
    let again = world.join(resume("bob", Mode::V1, ""));
    let messages = world.take(&again);
    let Response::Reconnect(reconnect) = &messages[0] else { panic!("no reconnect first") };
    assert_eq!(reconnect.last_message_seq, 42);
}

/// All that clients look at of one who is gone.
#[test]
fn who_left_while_a_client_was_away_is_told_by_name_reason_and_version() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    let bob = world.enter_v1("bob");
    let sid = world.sid(&alice).to_string();
    let version = world.room.view().members[sid.as_str()].info.version;
    world.lose_socket(&bob);
    let reason = proto::DisconnectReason::UserUnavailable;
    world.request(&alice, Request::Leave(proto::LeaveRequest { reason: reason as i32, ..Default::default() }));
    let again = world.join(resume("bob", Mode::V1, ""));
    let gone: Vec<_> = updates(&world.take(&again)).into_iter().filter(|info| info.identity == "alice").collect();
    let expected = proto::ParticipantInfo {
        sid,
        identity: "alice".into(),
        state: proto::participant_info::State::Disconnected as i32,
        // Its track ended, and so did it.
        version: version + 2,
        disconnect_reason: reason as i32,
        ..Default::default()
    };
    assert_eq!(gone, [expected]);
}

/// In a large room one of the audience is known by what it says, to everybody or to a few, until it leaves; when it
/// comes back it is a stranger again.
#[test]
fn one_whom_a_client_knew_by_its_data_and_who_left_meanwhile_is_told_to_be_gone() {
    for (to, comes_back) in [("", false), ("", true), ("bob", false), ("bob", true)] {
        let mut world = World::with(|config, _| config.audience_threshold = 1);
        world.enter_v1("alice");
        let [bob, carol] = ["bob", "carol"].map(|identity| world.enter_v1(identity));
        let sid = world.sid(&carol).to_string();
        let packet = proto::DataPacket {
            destination_identities: Some(to.to_owned()).filter(|to| !to.is_empty()).into_iter().collect(),
            value: Some(proto::data_packet::Value::User(proto::UserPacket::default())),
            ..Default::default()
        };
        let (channel, payload) = (DataChannel::Reliable, packet.encode_to_vec().into());
        world.event(Event::Data { transport: world.session(&carol).publisher.id, channel, payload });
        assert_eq!(updates(&world.take(&bob))[0].sid, sid, "she is made known");

        world.lose_socket(&bob);
        world.request(&carol, Request::Leave(proto::LeaveRequest::default()));
        // So late that what she said is not said again to who comes.
        world.pass(s(10));
        if comes_back {
            world.enter_v1("carol");
        }
        let again = world.join(resume("bob", Mode::V1, ""));
        let told = updates(&world.take(&again)).into_iter().filter(|info| info.identity == "carol");
        let told: Vec<_> = told.map(|info| (info.sid.clone(), info.state())).collect();
        assert_eq!(told, [(sid, State::Disconnected)], "to {to:?}, comes back: {comes_back}");
    }
}

/// LiveKit remembers as many.
#[test]
fn of_those_who_left_the_last_128_are_remembered() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    let identities: Vec<String> = (0..129).map(|number| format!("guest {number}")).collect();
    for identity in &identities {
        let guest = world.enter_v1(identity);
        world.request(&guest, Request::Leave(proto::LeaveRequest::default()));
    }
    world.lose_socket(&bob);
    let again = world.join(resume("bob", Mode::V1, ""));
    let told: Vec<_> = updates(&world.take(&again)).into_iter().map(|info| info.identity).collect();
    assert_eq!(told[..128], identities[1..]);
    assert_eq!(told[128..], ["bob"]);
}

#[test]
fn a_sync_state_with_an_unknown_track_makes_the_client_start_over() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    let published = |sid: &str| proto::TrackPublishedResponse {
        cid: String::new(),
        track: Some(proto::TrackInfo { sid: sid.into(), ..Default::default() }),
    };
    let state =
        |sid: &str| Request::SyncState(proto::SyncState { publish_tracks: vec![published(sid)], ..Default::default() });
    world.forget();
    world.request(&alice, state(&track));
    assert!(leaves(world.inbox(&alice)).is_empty());
    world.request(&alice, state("TR_unknown"));
    assert_eq!(leaves(&world.take(&alice))[0].reason(), proto::DisconnectReason::StateMismatch);
}

#[test]
fn a_sync_state_may_name_a_track_without_media_yet_and_no_data_track() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, Request::AddTrack(proto::AddTrackRequest { cid: "mic".into(), ..Default::default() }));
    let track = world.track_published(&alice, "mic");
    let published = proto::TrackPublishedResponse { cid: "mic".into(), track: Some(track) };
    let state = proto::SyncState { publish_tracks: vec![published], ..Default::default() };
    world.forget();
    world.request(&alice, Request::SyncState(state));
    assert!(leaves(world.inbox(&alice)).is_empty());
    let state = proto::SyncState { publish_data_tracks: vec![Default::default()], ..Default::default() };
    world.request(&alice, Request::SyncState(state));
    let leave = &leaves(&world.take(&alice))[0];
    assert_eq!((leave.reason(), leave.action()), (proto::DisconnectReason::StateMismatch, Action::Reconnect));
}

#[test]
fn a_track_that_a_sync_state_says_is_off_is_off() {
    let mut world = World::new();
    let (alice, bob) = (world.enter_v0("alice"), world.enter_v1("bob"));
    let offer = Offer::default().application().audio("mic", 10);
    let mic = world.publish_audio(&alice, "mic", &offer);
    let cam = world.publish_camera(&alice, "cam", &offer.simulcast("cam", &["q", "h", "f"]));
    world.pass(s(1));
    world.offer(&bob, 2, &Offer::v1());
    let again = world.join(resume("bob", Mode::V1, ""));
    world.forget();
    let state = proto::SyncState { track_sids_disabled: vec![cam.clone()], ..Default::default() };
    world.request(&again, Request::SyncState(state));
    let session = world.session(&again);
    let set: Vec<_> = world
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::SetSubscription { subscription, paused, .. } => Some((*subscription, *paused)),
            _ => None,
        })
        .collect();
    assert_eq!(set, [(session.subscriptions[cam.as_str()].id, true)]);
    assert!(session.subscriptions.contains_key(mic.as_str()) && !session.settings.contains_key(mic.as_str()));
}

#[test]
fn a_sync_state_in_the_join_request_counts() {
    let mut world = World::new();
    let (alice, bob) = (world.enter_v0("alice"), world.enter_v1("bob"));
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    let subscription = proto::UpdateSubscription { track_sids: vec![track], subscribe: false, ..Default::default() };
    let state = proto::SyncState { subscription: Some(subscription), ..Default::default() };
    assert_eq!(world.session(&bob).subscriptions.len(), 1);
    let again = world.join(Join { sync_state: Some(state), ..resume("bob", Mode::V1, "") });
    assert!(world.session(&again).subscriptions.is_empty());
}

#[test]
fn simulated_disconnects_close_the_resumed_socket() {
    for (scenario, expected) in [
        (Scenario::DisconnectSignalOnResume(true), vec!["reconnect", "update", "room_update", "token"]),
        (Scenario::DisconnectSignalOnResumeNoMessages(true), vec![]),
    ] {
        let mut world = World::new();
        let bob = world.enter_v1("bob");
        world.request(&bob, Request::Simulate(proto::SimulateScenario { scenario: Some(scenario) }));
        let second = world.join(resume("bob", Mode::V1, ""));
        assert_eq!(names(&world.take(&second)), expected);
        assert!(world.closed.contains(&second.connection));
        let third = world.join(resume("bob", Mode::V1, ""));
        assert!(!world.closed.contains(&third.connection));
    }
}
