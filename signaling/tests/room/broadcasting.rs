//! Who hears when (docs/livekit.md 7.3).

use livekit_protocol as proto;
use proto::participant_info::State;
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
