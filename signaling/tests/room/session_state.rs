//! What a session needs to go on elsewhere is plain data (ARCHITECTURE.md, invariant 13).

use signaling::join::Mode;
use signaling::participant::{SessionState, Stage};

use crate::sdp::Offer;
use crate::world::{World, join, s};

fn reread(state: &SessionState) -> SessionState {
    serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
}

fn assert_same(ours: &SessionState, theirs: &SessionState) {
    assert_eq!(serde_json::to_value(ours).unwrap(), serde_json::to_value(theirs).unwrap());
}

#[test]
fn a_running_session_is_written_down_and_read_back() {
    for mode in [Mode::V0, Mode::V1] {
        let mut world = World::new();
        let alice = world.enter_v0("alice");
        let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
        let mut request = join("bob", mode);
        request.grants.metadata = "kept".into();
        if mode == Mode::V1 {
            request.publisher_offer = Some(crate::world::offer(1, &Offer::v1()));
        }
        let bob = world.enter(request);
        world.pass(s(1));
        world.answer(&bob);

        for client in [&alice, &bob] {
            assert_same(&reread(world.session(client)), world.session(client));
        }
        let state = reread(world.session(&bob));
        assert_eq!(state.grants.metadata, "kept");
        assert!(state.grants.identity.as_str() == "bob" && state.active);
        let subscription = &state.subscriptions[track.as_str()];
        assert!(matches!(&subscription.stage, Stage::Sending(section) if section.ssrc.0 != 0));
        let described = match mode {
            Mode::V0 => state.subscriber.as_ref().unwrap(),
            Mode::V1 => &state.publisher,
        };
        assert!(described.last_offer.is_some() && described.last_answer.is_some());
        let publisher = reread(world.session(&alice));
        assert_eq!(publisher.publications[track.as_str()].section.mid.as_str(), "1");
    }
}

/// A negotiation that was written down goes on as the original does.
#[test]
fn a_negotiation_goes_on_after_it_was_read_back() {
    let mut world = World::new();
    let bob = world.enter_v1("bob");
    let mut original = world.session(&bob).publisher.negotiation.clone();
    let mut copy = reread(world.session(&bob)).publisher.negotiation;
    let offer = Offer::v1().audio("mic", 10).text();
    assert_eq!(original.read_offer(&offer), copy.read_offer(&offer));
    assert_eq!(original.write_answer().unwrap(), copy.write_answer().unwrap());
}
