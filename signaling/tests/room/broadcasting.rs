//! Who hears when (docs/livekit.md 7.3).

use livekit_protocol as proto;
use prost::Message;
use proto::participant_info::State;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use signaling::join::Mode;

use crate::sdp::Offer;
use crate::world::{World, join, ms, s, updates};

#[test]
fn among_few_everybody_hears_at_once() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let bob = world.join(join("bob", Mode::V1));
    world.connect(&bob);
    let states: Vec<_> = updates(&world.take(&alice)).iter().map(|info| info.state()).collect();
    assert_eq!(states, [State::Joined, State::Active]);
}

#[test]
fn ten_are_few_and_eleven_are_not() {
    for (others, told_at_once) in [(9, true), (10, false)] {
        let mut world = World::new();
        let clients: Vec<_> = (0..others).map(|number| world.enter_v1(&format!("listener {number}"))).collect();
        world.pass(s(4));
        world.forget();
        let last = world.join(join("last", Mode::V1));
        assert_eq!(!updates(&world.take(&clients[0])).is_empty(), told_at_once, "beside {others}");
        world.pass(s(4));
        world.forget();
        world.request(&last, Request::Leave(proto::LeaveRequest::default()));
        // One less is left.
        let told = updates(&world.take(&clients[0]));
        assert_eq!(told.len(), 1, "few again, beside {others}");
    }
}

fn counts(messages: &[Response]) -> Vec<u32> {
    let rooms =
        messages.iter().filter_map(|m| if let Response::RoomUpdate(update) = m { update.room.as_ref() } else { None });
    rooms.map(|room| room.num_participants).collect()
}

#[test]
fn counts_are_told_soon_and_then_every_five_seconds() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    world.pass(ms(99));
    assert!(counts(&world.take(&alice)).is_empty());
    world.pass(ms(1));
    assert_eq!(counts(&world.take(&alice)), [1]);

    world.enter_v1("bob");
    world.enter_v1("carol");
    world.pass(ms(4_999));
    assert!(counts(&world.take(&alice)).is_empty());
    world.pass(ms(1));
    assert_eq!(counts(&world.take(&alice)), [3]);
    world.pass(s(60));
    assert!(counts(&world.take(&alice)).is_empty(), "they are what they were");
}

#[test]
fn counts_of_many_are_told_after_five_seconds() {
    let mut world = World::new();
    let clients: Vec<_> = (0..10).map(|number| world.enter_v1(&format!("listener {number}"))).collect();
    world.pass(s(60));
    world.forget();
    world.enter_v1("the eleventh");
    world.pass(ms(4_999));
    assert!(counts(&world.take(&clients[0])).is_empty());
    world.pass(ms(1));
    assert_eq!(counts(&world.take(&clients[0])), [11]);
}

#[test]
fn much_news_is_told_in_messages_of_a_bounded_size() {
    let mut world = World::new();
    let host = world.enter_v1("host");
    world.publish_audio(&host, "mic", &Offer::v1().audio("mic", 10));
    for number in 0..60 {
        world.enter_v1(&format!("early {number}"));
    }
    world.pass(s(4));
    world.forget();
    let metadata = "m".repeat(10_000);
    for number in 0..40 {
        let mut viewer = join(&format!("viewer {number:02}"), Mode::V1);
        viewer.grants.metadata.clone_from(&metadata);
        world.join(viewer);
    }
    world.pass(s(3));
    let told = world.take(&host);
    let parts: Vec<&proto::ParticipantUpdate> =
        told.iter().filter_map(|m| if let Response::Update(update) = m { Some(update) } else { None }).collect();
    let names = parts.iter().flat_map(|part| &part.participants).map(|info| info.identity.clone());
    assert_eq!(names.collect::<Vec<_>>(), (0..40).map(|number| format!("viewer {number:02}")).collect::<Vec<_>>());
    let size = |infos: &[proto::ParticipantInfo]| infos.iter().map(Message::encoded_len).sum::<usize>();
    for pair in parts.windows(2) {
        let (part, next) = (&pair[0].participants, &pair[1].participants);
        let fits = size(part) <= 128 << 10;
        assert!(fits && size(part) + size(&next[..1]) > 128 << 10, "as many as fit: {}", size(part));
    }
    assert!(parts.len() > 2);
}

#[test]
fn among_many_news_of_listeners_comes_every_three_seconds() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    for number in 0..20 {
        world.enter_v1(&format!("listener {number}"));
    }
    world.pass(s(3));
    world.forget();
    let bob = world.join(join("bob", Mode::V1));
    world.connect(&bob);
    assert_eq!(updates(&world.take(&bob)).len(), 2);
    assert!(updates(&world.take(&alice)).is_empty());
    world.pass(s(3));
    let seen = updates(&world.take(&alice));
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].identity.as_str(), seen[0].state()), ("bob", State::Active));

    let offer = Offer::v1().audio("mic", 10);
    world.publish_audio(&bob, "mic", &offer);
    assert_eq!(updates(&world.take(&alice))[0].tracks.len(), 1);
}

/// Not that it left, which waits, and not later than that would have been told.
#[test]
fn who_left_among_many_and_comes_back_is_told_at_once() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    for number in 0..20 {
        world.enter_v1(&format!("listener {number}"));
    }
    let bob = world.enter_v1("bob");
    world.pass(s(4));
    world.forget();
    world.request(&bob, Request::Leave(proto::LeaveRequest::default()));
    assert!(updates(&world.take(&alice)).is_empty());
    let again = world.join(join("bob", Mode::V1));
    let seen = updates(&world.take(&alice));
    assert_eq!((seen.len(), seen[0].sid.as_str()), (1, world.sid(&again).as_str()));
    world.pass(s(3));
    assert!(updates(&world.take(&alice)).is_empty());
}

#[test]
fn a_rejoin_among_many_is_told_at_once() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    for number in 0..20 {
        world.enter_v1(&format!("listener {number}"));
    }
    world.pass(s(4));
    world.forget();
    let bob = world.join(join("bob", Mode::V1));
    world.pass(ms(1));
    let again = world.join(join("bob", Mode::V1));
    let seen = updates(&world.take(&alice));
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].sid, world.sid(&again).as_str());
    assert!(world.closed.contains(&bob.connection));
}
