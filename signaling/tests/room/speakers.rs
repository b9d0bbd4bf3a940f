//! Speakers and connection quality (docs/livekit.md 7.10, 7.11).

use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use proto::simulate_scenario::Scenario;
use sfu::command::{Event, ReceiveStats};
use signaling::join::Mode;

use crate::sdp::Offer;
use crate::world::{Client, World, resume, s};

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
fn a_participant_is_as_loud_as_its_loudest_microphone() {
    let mut world = World::new();
    let (alice, bob, _, first) = conversation(&mut world);
    let second =
        world.publish_audio(&alice, "second", &Offer::default().application().audio("mic", 10).audio("second", 20));
    world.forget();
    let [first, second] = [first, second].map(|track| world.session(&alice).publications[track.as_str()].id);
    for (publication, level) in
        [(first, 0.25), (second, 0.5), (first, 0.375), (second, 0.125), (first, f32::NAN), (first, 7.0)]
    {
        world.event(Event::AudioActivity { publication, level, active: true });
    }
    let told: Vec<_> = speakers(&world.take(&bob)).into_iter().map(|(level, _)| level).collect();
    assert_eq!(told, [0.25, 0.5, 0.375, 0.125, 1.0]);
    world.event(Event::AudioActivity { publication: first, level: 1.0, active: false });
    assert_eq!(speakers(&world.take(&bob)), [(0.125, true)]);
}

#[test]
fn a_newcomer_hears_who_is_speaking_once_for_each_speaker() {
    let mut world = World::new();
    let (alice, _, carol, first) = conversation(&mut world);
    let second =
        world.publish_audio(&alice, "second", &Offer::default().application().audio("mic", 10).audio("second", 20));
    let publication = world.session(&alice).publications[first.as_str()].id;
    world.event(Event::AudioActivity { publication, level: 0.5, active: true });
    world.forget();
    for (track, heard) in [(first, &[(0.5, true)][..]), (second, &[])] {
        let update = proto::UpdateSubscription { track_sids: vec![track], subscribe: true, ..Default::default() };
        world.request(&carol, Request::Subscription(update));
        assert_eq!(speakers(&world.take(&carol)), heard);
    }
    let dave = world.enter_v1("dave");
    world.event(Event::AudioActivity { publication, level: 0.0, active: false });
    assert_eq!(speakers(&world.take(&dave)), [(0.0, false)]);
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
fn a_simulated_speaker_speaks_a_minute_at_most() {
    let mut world = World::new();
    let alice = world.enter_v1("alice");
    let scenario = Some(Scenario::SpeakerUpdate(3_600));
    world.request(&alice, Request::Simulate(proto::SimulateScenario { scenario }));
    world.pass(s(59));
    assert_eq!(speakers(world.inbox(&alice)), [(1.0, true)]);
    world.pass(s(1));
    assert_eq!(speakers(world.inbox(&alice)), [(1.0, true), (0.0, false)]);
}

#[test]
fn what_a_muted_track_loses_is_no_bad_connection() {
    let mut world = World::new();
    let (alice, _, _, track) = conversation(&mut world);
    let publication = world.session(&alice).publications[track.as_str()].id;
    let stats = ReceiveStats { packets: 80, lost: 20, ..Default::default() };
    world.event(Event::PublicationStats { publication, stats });
    world.request(&alice, Request::Mute(proto::MuteTrackRequest { sid: track, muted: true }));
    world.event(Event::PublicationStats { publication, stats });
    world.scores.clear();
    world.pass(s(5));
    assert!(
        world.scores.iter().all(|score| score.quality == proto::ConnectionQuality::Excellent),
        "{:?}",
        world.scores
    );
}

#[test]
fn each_is_told_of_itself_and_of_whom_it_hears_once_with_the_score() {
    let mut world = World::new();
    let (alice, bob, carol, _) = conversation(&mut world);
    let offer = Offer::default().application().audio("mic", 10).audio("second", 20);
    let second = world.publish_audio(&alice, "second", &offer);
    let publication = world.session(&alice).publications[second.as_str()].id;
    let stats = ReceiveStats { packets: 95, lost: 5, ..Default::default() };
    world.event(Event::PublicationStats { publication, stats });
    world.forget();
    world.pass(s(5));
    let sids = [&alice, &bob, &carol].map(|client| world.sid(client).to_string());
    let info = |sid: &str, quality: proto::ConnectionQuality, score| proto::ConnectionQualityInfo {
        participant_sid: sid.into(),
        quality: quality as i32,
        score,
    };
    let of_alice = info(&sids[0], proto::ConnectionQuality::Good, 1.0 + 3.5 * 0.6);
    let best = |sid: &str| info(sid, proto::ConnectionQuality::Excellent, 4.5);
    for (client, mut expected) in
        [(&alice, vec![of_alice.clone()]), (&bob, vec![of_alice, best(&sids[1])]), (&carol, vec![best(&sids[2])])]
    {
        expected.sort_by(|a, b| a.participant_sid.cmp(&b.participant_sid));
        let told = world.take(client).into_iter();
        let told: Vec<_> = told
            .filter_map(|m| if let Response::ConnectionQuality(update) = m { Some(update.updates) } else { None })
            .collect();
        assert_eq!(told, [expected], "{}", client.identity);
    }
}

#[test]
fn quality_is_told_five_seconds_after_the_first_came_and_every_five_seconds() {
    let mut world = World::new();
    world.enter_v1("alice");
    let mut told = Vec::new();
    for second in 1..=15 {
        world.pass(s(1));
        if !std::mem::take(&mut world.scores).is_empty() {
            told.push(second);
        }
    }
    assert_eq!(told, [5, 10, 15]);
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

/// Its SDK may have been started anew, or have missed a message while it was away.
#[test]
fn who_resumes_is_told_all_qualities_again() {
    let mut world = World::new();
    let (_, bob, ..) = conversation(&mut world);
    let told = |messages: Vec<Response>| -> usize {
        let updates = messages.into_iter();
        let updates = updates
            .filter_map(|m| if let Response::ConnectionQuality(update) = m { Some(update.updates) } else { None });
        updates.flatten().count()
    };
    world.pass(s(5));
    assert_eq!(told(world.take(&bob)), 2);
    let again = world.join(resume("bob", Mode::V1, ""));
    world.pass(s(5));
    assert_eq!(told(world.take(&again)), 2, "its own and that of whom it hears");
    world.pass(s(5));
    assert_eq!(told(world.take(&again)), 0);
}
