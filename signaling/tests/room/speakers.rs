//! Speakers and connection quality (docs/livekit.md 7.10, 7.11).

use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use proto::simulate_scenario::Scenario;
use sfu::command::{Event, ReceiveStats};

use crate::sdp::Offer;
use crate::world::{Client, World, s};

fn speakers(messages: &[Response]) -> Vec<(f32, bool)> {
    messages
        .iter()
        .filter_map(|m| if let Response::SpeakersChanged(changed) = m { Some(&changed.speakers) } else { None })
        .flatten()
        .map(|speaker| (speaker.level, speaker.active))
        .collect()
}

/// Alice speaks to Bob; Carol does not listen.
fn conversation(world: &mut World) -> (Client, Client, Client, String) {
    let alice = world.enter_v0("alice");
    let bob = world.enter_v1("bob");
    let carol = crate::world::join("carol", signaling::join::Mode::V1);
    let carol = world.enter(signaling::join::Join { auto_subscribe: false, ..carol });
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.forget();
    (alice, bob, carol, track)
}

#[test]
fn changes_reach_the_speaker_and_its_listeners() {
    let mut world = World::new();
    let (alice, bob, carol, track) = conversation(&mut world);
    let publication = world.session(&alice).publications[track.as_str()].id;
    for (level, active) in [(0.25, true), (0.25, true), (0.0, false)] {
        world.event(Event::AudioActivity { publication, level, active });
    }
    assert_eq!(speakers(&world.take(&alice)), [(0.25, true), (0.0, false)]);
    assert_eq!(speakers(&world.take(&bob)), [(0.25, true), (0.0, false)]);
    assert!(speakers(&world.take(&carol)).is_empty());
}

#[test]
fn a_screen_that_sounds_is_no_speaker() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let request = proto::AddTrackRequest {
        cid: "screen".into(),
        source: proto::TrackSource::ScreenShareAudio as i32,
        ..Default::default()
    };
    world.request(&alice, Request::AddTrack(request));
    world.offer(&alice, 7, &Offer::default().application().audio("screen", 10));
    let track = world.track_published(&alice, "screen").sid;
    let publication = world.session(&alice).publications[track.as_str()].id;
    world.event(Event::AudioActivity { publication, level: 0.5, active: true });
    assert_eq!(speakers(&world.take(&alice)), []);
}

#[test]
fn a_muted_speaker_is_silent() {
    let mut world = World::new();
    let (alice, bob, _, track) = conversation(&mut world);
    let publication = world.session(&alice).publications[track.as_str()].id;
    world.event(Event::AudioActivity { publication, level: 0.5, active: true });
    world.request(&alice, Request::Mute(proto::MuteTrackRequest { sid: track, muted: true }));
    assert_eq!(speakers(&world.take(&bob)), [(0.5, true), (0.0, false)]);
}

#[test]
fn a_simulated_speaker_speaks_as_long_as_asked() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let scenario = Some(Scenario::SpeakerUpdate(3));
    world.request(&alice, Request::Simulate(proto::SimulateScenario { scenario }));
    world.pass(s(2));
    assert_eq!(speakers(world.inbox(&alice)), [(1.0, true)]);
    world.pass(s(1));
    assert_eq!(speakers(world.inbox(&alice)), [(1.0, true), (0.0, false)]);
}

#[test]
fn quality_is_told_when_it_changes() {
    let mut world = World::new();
    let (alice, bob, _, track) = conversation(&mut world);
    let told = |messages: Vec<Response>| -> Vec<proto::ConnectionQuality> {
        let updates = messages
            .into_iter()
            .filter_map(|m| if let Response::ConnectionQuality(update) = m { Some(update.updates) } else { None });
        updates.flatten().map(|update| update.quality()).collect()
    };
    world.pass(s(5));
    assert_eq!(told(world.take(&bob)), [proto::ConnectionQuality::Excellent; 2]);
    world.pass(s(5));
    assert!(told(world.take(&bob)).is_empty());

    let publication = world.session(&alice).publications[track.as_str()].id;
    let stats = ReceiveStats { packets: 80, lost: 20, ..Default::default() };
    world.event(Event::PublicationStats { publication, stats });
    world.scores.clear();
    world.pass(s(5));
    assert_eq!(told(world.take(&bob)), [proto::ConnectionQuality::Poor]);
    let poor = world.scores.iter().filter(|score| score.quality == proto::ConnectionQuality::Poor).count();
    assert_eq!((poor, world.scores.len()), (1, 3), "of all participants, for metrics: {:?}", world.scores);
}
