//! Leaving, being removed, and the end of rooms (docs/livekit.md 3.10, 7.6).

use livekit_protocol as proto;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use proto::participant_info::State;
use proto::signal_request::Message as Request;
use proto::simulate_scenario::Scenario;
use sfu::command::{Command, Event, TransportEnd};
use signaling::event::RoomHappening;
use signaling::join::{Join, Mode};
use signaling::room::LEAVE_TIME;

use crate::sdp::Offer;
use crate::world::{Client, World, join, leaves, names, s, updates};

fn leave(reason: Reason) -> Request {
    Request::Leave(proto::LeaveRequest { reason: reason as i32, ..Default::default() })
}

fn simulate(world: &mut World, client: &Client, scenario: Scenario) {
    world.request(client, Request::Simulate(proto::SimulateScenario { scenario: Some(scenario) }));
}

#[test]
fn who_leaves_is_gone_at_once_and_is_answered() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    let offer = Offer::default().application().audio("mic", 10);
    world.publish_audio(&bob, "mic", &offer);
    world.forget();

    world.request(&bob, leave(Reason::UserRejected));
    let answer = &leaves(&world.take(&bob))[0];
    assert_eq!((answer.reason(), answer.action()), (Reason::UserRejected, Action::Disconnect));
    assert!(world.closed.contains(&bob.connection));
    let gone = updates(&world.take(&alice)).pop().unwrap();
    assert_eq!((gone.state(), gone.disconnect_reason()), (State::Disconnected, Reason::UserRejected));
    assert!(gone.tracks.is_empty() && gone.is_publisher);
    let closed = world.commands.iter().filter(|command| matches!(command, Command::CloseTransport { .. })).count();
    assert_eq!(closed, 2);
    let last: Vec<_> = world.events.iter().rev().take(2).map(|event| &event.what).collect();
    assert!(matches!(last[0], RoomHappening::ParticipantLeft { .. }));
    assert!(matches!(last[1], RoomHappening::TrackUnpublished { .. }));
}

/// For how long each transport is still open that was closed.
fn closed_after(world: &World) -> Vec<std::time::Duration> {
    let commands = world.commands.iter();
    let after = commands.filter_map(|command| match command {
        Command::CloseTransport { after, .. } => Some(*after),
        _ => None,
    });
    after.collect()
}

#[test]
fn who_is_told_to_leave_has_time_to_read_it_before_its_transports_close() {
    type End = fn(&mut World);
    let ends: [(&str, End); 3] = [
        ("removed", |world| world.call(|room, now| room.remove_participant(now, "alice")).unwrap()),
        ("room deleted", |world| world.call(|room, now| room.close(now, Reason::RoomDeleted))),
        ("replaced", |world| {
            world.join(join("alice", Mode::V0));
        }),
    ];
    for (name, end) in ends {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        end(&mut world);
        assert_eq!(leaves(&world.take(&alice)).len(), 1, "{name}");
        assert_eq!(closed_after(&world), [LEAVE_TIME; 2], "{name}");
    }
}

#[test]
fn who_is_let_go_without_a_word_loses_its_transports_at_once() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    simulate(&mut world, &alice, Scenario::NodeFailure(true));
    assert_eq!(closed_after(&world), [std::time::Duration::ZERO]);
}

#[test]
fn a_reason_that_is_not_the_clients_to_give_is_replaced() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, leave(Reason::RoomDeleted));
    assert_eq!(leaves(&world.take(&alice))[0].reason(), Reason::ClientInitiated);
}

#[test]
fn a_socket_lost_before_media_connected_ends_the_participant() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.join(join("bob", Mode::V1));
    world.forget();
    world.lose_socket(&bob);
    assert_eq!(updates(&world.take(&alice))[0].disconnect_reason(), Reason::SignalClose);
}

#[test]
fn a_participant_stays_without_socket_until_its_media_fails_and_five_seconds_more() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v1("bob");
    world.lose_socket(&bob);
    world.pass(s(100));
    assert!(world.room.session("bob").is_some());

    let transport = world.session(&bob).publisher.id;
    world.event(Event::TransportEnded { transport, end: TransportEnd::ConsentLost });
    world.pass(s(4));
    assert!(world.room.session("bob").is_some());
    world.forget();
    world.pass(s(1));
    assert!(world.room.session("bob").is_none());
    assert_eq!(updates(&world.take(&alice))[0].disconnect_reason(), Reason::ConnectionTimeout);
}

#[test]
fn who_loses_media_is_asked_to_join_anew() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    let transport = world.session(&bob).publisher.id;
    world.event(Event::TransportEnded { transport, end: TransportEnd::ConsentLost });
    let leave = &leaves(&world.take(&bob))[0];
    assert_eq!((leave.reason(), leave.action()), (Reason::ConnectionTimeout, Action::Reconnect));
    assert!(world.closed.contains(&bob.connection));
}

/// It is opened again only if nobody has used it.
#[test]
fn a_publisher_transport_that_fails_after_it_was_answered_makes_the_client_join_anew() {
    let mut world = World::new();
    let alice = world.join(join("alice", Mode::V0));
    world.answer(&alice);
    let session = world.session(&alice);
    let (publisher, subscriber) = (session.publisher.id, session.subscriber.as_ref().unwrap().id);
    world.event(Event::TransportConnected { transport: subscriber });
    world.offer(&alice, 1, &Offer::default().application());
    world.forget();
    world.event(Event::TransportEnded { transport: publisher, end: TransportEnd::HandshakeFailed });
    let leave = &leaves(&world.take(&alice))[0];
    assert_eq!((leave.reason(), leave.action()), (Reason::ConnectionTimeout, Action::Reconnect));
    assert!(!world.commands.iter().any(|command| matches!(command, Command::OpenTransport { .. })));
}

#[test]
fn a_primary_transport_that_nobody_has_used_ends_the_join() {
    let mut world = World::new();
    let alice = world.join(join("alice", Mode::V0));
    let transport = world.session(&alice).subscriber.as_ref().unwrap().id;
    world.event(Event::TransportEnded { transport, end: TransportEnd::HandshakeFailed });
    let leave = &leaves(&world.take(&alice))[0];
    assert_eq!((leave.reason(), leave.action()), (Reason::JoinFailure, Action::Disconnect));
    assert!(world.room.session("alice").is_none());
}

#[test]
fn both_transports_that_fail_are_one_loss() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let transports: Vec<_> = world.session(&alice).transports().map(|transport| transport.id).collect();
    for transport in transports {
        world.event(Event::TransportEnded { transport, end: TransportEnd::ConsentLost });
        world.pass(s(3));
    }
    assert_eq!(leaves(&world.take(&alice)).len(), 1);
    // Five seconds after the first of them.
    assert!(world.room.session("alice").is_none());
}

#[test]
fn a_leave_counts_although_the_client_closed_its_transport_before() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v1("bob");
    let transport = world.session(&bob).publisher.id;
    world.event(Event::TransportEnded { transport, end: TransportEnd::ClosedByPeer });
    assert!(leaves(world.inbox(&bob)).is_empty());
    world.request(&bob, leave(Reason::ClientInitiated));
    assert_eq!(updates(&world.take(&alice))[0].disconnect_reason(), Reason::ClientInitiated);
    assert_eq!(leaves(&world.take(&bob))[0].reason(), Reason::ClientInitiated);
}

#[test]
fn who_closed_its_transport_and_says_nothing_is_gone_after_five_seconds() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    let transport = world.session(&bob).publisher.id;
    world.event(Event::TransportEnded { transport, end: TransportEnd::ClosedByPeer });
    world.lose_socket(&bob);
    world.pass(s(4));
    assert!(world.room.session("bob").is_some());
    world.pass(s(1));
    assert!(world.room.session("bob").is_none());
}

#[test]
fn a_deleted_room_says_so_and_ends_with_its_last_event() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.call(|room, now| room.close(now, Reason::RoomDeleted));

    assert_eq!(leaves(&world.take(&alice))[0].reason(), Reason::RoomDeleted);
    assert!(world.finished);
    assert!(matches!(world.commands.last(), Some(Command::CloseRoom { .. })));
    assert!(matches!(world.events.last().unwrap().what, RoomHappening::RoomFinished { .. }));
    let numbers: Vec<_> = world.events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (1..=world.events.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_room_nobody_comes_to_closes_after_its_empty_timeout() {
    let mut world = World::new();
    world.pass(s(299));
    assert!(!world.finished);
    world.pass(s(1));
    assert!(world.finished);
}

#[test]
fn a_room_closes_after_its_departure_timeout_unless_somebody_comes_back() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.request(&alice, leave(Reason::ClientInitiated));
    world.pass(s(19));
    let alice = world.enter_v0("alice");
    world.pass(s(100));
    assert!(!world.finished);

    world.request(&alice, leave(Reason::ClientInitiated));
    world.pass(s(20));
    assert!(world.finished);
}

#[test]
fn an_agent_does_not_keep_a_room_open() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let mut request = join("agent", Mode::V1);
    request.grants.kind = proto::participant_info::Kind::Agent;
    let agent = world.enter(Join { publisher_offer: None, ..request });
    world.request(&alice, leave(Reason::ClientInitiated));
    world.forget();
    world.pass(s(20));
    assert!(world.finished);
    assert_eq!(leaves(&world.take(&agent))[0].reason(), Reason::RoomClosed);
}

#[test]
fn a_simulated_node_failure_closes_the_socket_without_a_word() {
    for scenario in [Scenario::NodeFailure(true), Scenario::Migration(true)] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        simulate(&mut world, &alice, scenario);
        assert!(leaves(&world.take(&alice)).is_empty());
        assert!(world.closed.contains(&alice.connection));
        assert!(world.room.session("alice").is_none());
    }
}

#[test]
fn a_simulated_server_leave_is_a_shutdown() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    simulate(&mut world, &alice, Scenario::ServerLeave(true));
    assert_eq!(leaves(&world.take(&alice))[0].reason(), Reason::ServerShutdown);
}

#[test]
fn the_server_api_removes_a_participant() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.call(|room, now| room.remove_participant(now, "alice")).unwrap();
    assert_eq!(leaves(&world.take(&alice))[0].reason(), Reason::ParticipantRemoved);
    assert!(world.call(|room, now| room.remove_participant(now, "alice")).is_err());
}

#[test]
fn counts_follow_within_five_seconds() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    world.enter_v0("bob");
    world.pass(s(6));
    assert!(names(&world.take(&alice)).contains(&"room_update"));
    assert_eq!(world.room.view().room.num_participants, 2);
}

#[test]
fn a_room_whose_server_stops_asks_everybody_to_come_back_and_is_not_finished() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v1("bob");
    world.forget();
    world.call(|room, now| room.suspend(now));

    for client in [&alice, &bob] {
        let inbox = world.take(client);
        let leave = &leaves(&inbox)[0];
        assert_eq!((leave.reason(), leave.action()), (Reason::ServerShutdown, Action::Reconnect));
        assert!(leave.can_reconnect, "older clients read this field");
        assert!(updates(&inbox).is_empty(), "those who come back meet the others again");
        assert!(world.closed.contains(&client.connection));
    }
    let left = |event: &&signaling::event::RoomEvent| matches!(event.what, RoomHappening::ParticipantLeft { .. });
    assert_eq!(world.events.iter().filter(left).count(), 2);
    assert!(!world.events.iter().any(|event| matches!(event.what, RoomHappening::RoomFinished { .. })));
    assert!(world.finished);
    assert!(matches!(world.commands.last(), Some(Command::CloseRoom { .. })));
}
