//! A viewer whose tracks change faster than their sections are negotiated (docs/livekit.md 5.4).
//!
//! A client announces a track when its section begins to be sent in. A section in which one track follows another
//! without a description between them in which nothing is sent hides the second (WebRTC, section 4.4.1.6,
//! `[[FiredDirection]]`).

use std::collections::{BTreeMap, BTreeSet};

use livekit_protocol as proto;
use proptest::prelude::*;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use shared::id::TrackSid;
use signaling::join::{Join, Mode};
use signaling::participant::Stage;

use crate::sdp::Offer;
use crate::world::{Client, World, join, ms, resume, s};

/// Sections of one description that show a track.
fn shown(message: &Response) -> Option<&std::collections::HashMap<String, String>> {
    match message {
        Response::Offer(description) | Response::Answer(description) => Some(&description.mid_to_track_id),
        _ => None,
    }
}

fn subscribe(track: &str, subscribe: bool) -> Request {
    Request::Subscription(proto::UpdateSubscription { track_sids: vec![track.into()], subscribe, ..Default::default() })
}

/// What a viewer makes of our descriptions.
#[derive(Default)]
struct Announced {
    /// Track by mid, as the last description showed it.
    sections: BTreeMap<String, String>,
    /// Tracks that were announced and are still shown.
    tracks: BTreeSet<String>,
    seen: usize,
}

impl Announced {
    /// Reads the descriptions that came since the last call.
    fn read(&mut self, world: &World, viewer: &Client) {
        let all: Vec<_> = world.inbox(viewer).iter().filter_map(shown).cloned().collect();
        for description in &all[self.seen.min(all.len())..] {
            for (mid, track) in description {
                let before = self.sections.get(mid);
                assert!(before.is_none_or(|before| before == track), "{mid} goes from {before:?} to {track} unseen");
            }
            self.sections = description.clone().into_iter().collect();
            self.tracks = self.sections.values().cloned().collect();
        }
        self.seen = all.len();
    }
}

/// A world with microphones of Alice, whose sids are returned, and Bob, who watches all in `mode`.
fn watching(mode: Mode, microphones: u32, auto_subscribe: bool) -> (World, Client, Vec<String>, Client, Announced) {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let mut offer = Offer::default().application();
    let mut tracks = Vec::new();
    for number in 0..microphones {
        let cid = format!("mic{number}");
        offer = offer.audio(&cid, 10 + number);
        tracks.push(world.publish_audio(&alice, &cid, &offer));
    }
    let publisher_offer = (mode == Mode::V1).then(|| crate::world::offer(1, &Offer::v1()));
    let bob = world.join(Join { auto_subscribe, publisher_offer, ..join("bob", mode) });
    let mut announced = Announced::default();
    settle(&mut world, &bob, mode, &mut announced);
    world.connect(&bob);
    settle(&mut world, &bob, mode, &mut announced);
    (world, alice, tracks, bob, announced)
}

/// The viewer answers, or offers as it is asked, until nothing is to be said.
fn settle(world: &mut World, viewer: &Client, mode: Mode, announced: &mut Announced) {
    for _ in 0..6 {
        world.pass(ms(200));
        announced.read(world, viewer);
        respond(world, viewer, mode);
        announced.read(world, viewer);
    }
}

/// Answers our last offer (v0), or makes the offer that was asked for (v1).
fn respond(world: &mut World, viewer: &Client, mode: Mode) {
    if mode == Mode::V0 {
        world.answer(viewer);
        return;
    }
    let (mut audios, mut asked) = (3, false);
    let mut answered = 1;
    for message in world.inbox(viewer) {
        match message {
            Response::MediaSectionsRequirement(requirement) => {
                audios += requirement.num_audios as usize;
                asked = true;
            }
            Response::Answer(answer) => {
                answered = answer.id;
                asked = false;
            }
            _ => {}
        }
    }
    if asked {
        let offer = Offer::v1().receiving_audio(audios - 3);
        world.offer(viewer, answered + 1, &offer);
    }
}

fn live(world: &World, viewer: &Client) -> BTreeSet<String> {
    let subscriptions = world.session(viewer).subscriptions.iter();
    subscriptions
        .filter(|(_, known)| matches!(known.stage, Stage::Sending(_)))
        .map(|(sid, _)| sid.to_string())
        .collect()
}

fn set(tracks: &[&String]) -> BTreeSet<String> {
    tracks.iter().map(|track| (*track).clone()).collect()
}

#[test]
fn a_swap_of_two_subscriptions_is_announced() {
    for mode in [Mode::V0, Mode::V1] {
        let (mut world, _, tracks, bob, mut announced) = watching(mode, 2, false);
        world.request(&bob, subscribe(&tracks[0], true));
        settle(&mut world, &bob, mode, &mut announced);
        assert_eq!(announced.tracks, set(&[&tracks[0]]));

        world.request(&bob, subscribe(&tracks[0], false));
        world.request(&bob, subscribe(&tracks[1], true));
        settle(&mut world, &bob, mode, &mut announced);
        assert_eq!(announced.tracks, set(&[&tracks[1]]), "{mode:?}");
        assert_eq!(live(&world, &bob), set(&[&tracks[1]]));
    }
}

#[test]
fn a_swap_by_the_server_api_is_announced() {
    for mode in [Mode::V0, Mode::V1] {
        let (mut world, _, tracks, bob, mut announced) = watching(mode, 2, false);
        world.request(&bob, subscribe(&tracks[0], true));
        settle(&mut world, &bob, mode, &mut announced);

        for (track, subscribe) in [(&tracks[0], false), (&tracks[1], true)] {
            let request = proto::UpdateSubscriptionsRequest {
                identity: "bob".into(),
                track_sids: vec![track.clone()],
                subscribe,
                ..Default::default()
            };
            world.call(|room, now| room.update_subscriptions(now, &request)).unwrap();
        }
        settle(&mut world, &bob, mode, &mut announced);
        assert_eq!(announced.tracks, set(&[&tracks[1]]), "{mode:?}");
    }
}

#[test]
fn a_track_that_follows_an_unpublished_one_at_once_is_announced() {
    for mode in [Mode::V0, Mode::V1] {
        let (mut world, alice, tracks, bob, mut announced) = watching(mode, 1, true);
        assert_eq!(announced.tracks, set(&[&tracks[0]]));
        let stopped = Offer::default().application().audio("mic0", 10).stopped(1);
        world.offer(&alice, 6, &stopped);
        let next = world.publish_audio(&alice, "next", &stopped.audio("next", 11));
        settle(&mut world, &bob, mode, &mut announced);
        assert_eq!(announced.tracks, set(&[&next]), "{mode:?}");
    }
}

#[test]
fn a_section_is_free_once_its_release_is_answered() {
    let (mut world, _, tracks, bob, mut announced) = watching(Mode::V0, 2, false);
    world.request(&bob, subscribe(&tracks[0], true));
    settle(&mut world, &bob, Mode::V0, &mut announced);
    let mid = announced.sections.keys().next().cloned();

    world.request(&bob, subscribe(&tracks[0], false));
    settle(&mut world, &bob, Mode::V0, &mut announced);
    world.request(&bob, subscribe(&tracks[1], true));
    settle(&mut world, &bob, Mode::V0, &mut announced);
    assert_eq!(announced.sections.keys().next().cloned(), mid);
}

#[test]
fn a_release_that_was_offered_but_not_answered_frees_nothing() {
    let (mut world, _, tracks, bob, mut announced) = watching(Mode::V0, 2, false);
    world.request(&bob, subscribe(&tracks[0], true));
    settle(&mut world, &bob, Mode::V0, &mut announced);
    world.request(&bob, subscribe(&tracks[0], false));
    world.pass(ms(200));
    // The offer of the release is lost with the socket; that of the resume shows the next track already.
    world.request(&bob, subscribe(&tracks[1], true));
    world.lose_socket(&bob);
    let again = world.join(resume("bob", Mode::V0, ""));
    let mut resumed = Announced { sections: announced.sections.clone(), ..Announced::default() };
    settle(&mut world, &again, Mode::V0, &mut resumed);
    assert_eq!(resumed.tracks, set(&[&tracks[1]]));
}

#[test]
fn sections_are_bounded_and_what_finds_none_is_shown_as_soon_as_one_is_free() {
    // The application's section is one of the 512 that a description may have.
    const MICROPHONES_SHOWN: usize = 511;
    let mut world = World::new();
    let mut tracks = Vec::new();
    for publisher in 0..8 {
        let publisher = Join { auto_subscribe: false, ..join(&format!("publisher{publisher}"), Mode::V0) };
        let publisher = world.enter(publisher);
        let mut offer = Offer::default().application();
        for number in 0..64 {
            offer = offer.audio(&format!("mic{number}"), 10 + number);
            let source = proto::TrackSource::Microphone as i32;
            let cid = format!("mic{number}");
            world.request(&publisher, Request::AddTrack(proto::AddTrackRequest { cid, source, ..Default::default() }));
            if number % 16 == 15 {
                world.offer(&publisher, number, &offer);
            }
        }
        tracks.extend(world.session(&publisher).publications.keys().map(TrackSid::to_string));
    }
    world.forget();
    let bob = world.join(join("bob", Mode::V0));
    world.connect(&bob);
    for _ in 0..3 {
        world.answer(&bob);
        world.pass(s(1));
    }
    let shown = live(&world, &bob);
    assert_eq!((tracks.len(), shown.len()), (512, MICROPHONES_SHOWN));

    let given_up = shown.first().unwrap().clone();
    world.request(&bob, subscribe(&given_up, false));
    for _ in 0..3 {
        world.pass(s(1));
        world.answer(&bob);
    }
    let now = live(&world, &bob);
    assert!(now.len() == MICROPHONES_SHOWN && !now.contains(&given_up));
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe(usize, bool),
    Respond,
    Pass(u64),
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, any::<bool>()).prop_map(|(track, on)| Step::Subscribe(track, on)),
        2 => Just(Step::Respond),
        2 => prop_oneof![Just(5u64), Just(15), Just(160)].prop_map(Step::Pass),
        1 => Just(Step::Resume),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is subscribed and unsubscribed when, each track that is shown at last was announced. A track has at
    /// most three sections: as it was answered, as it is offered, and as it will be.
    #[test]
    fn no_track_takes_the_section_of_another_unseen(v0: bool, steps in proptest::collection::vec(step(), 1..60)) {
        let mode = if v0 { Mode::V0 } else { Mode::V1 };
        let (mut world, _, tracks, mut bob, mut announced) = watching(mode, 4, false);
        let mut wanted = BTreeSet::new();
        for step in steps {
            match step {
                Step::Subscribe(track, on) => {
                    world.request(&bob, subscribe(&tracks[track], on));
                    if on { wanted.insert(tracks[track].clone()); } else { wanted.remove(&tracks[track]); }
                }
                Step::Respond => {
                    announced.read(&world, &bob);
                    respond(&mut world, &bob, mode);
                }
                Step::Pass(time) => world.pass(ms(time)),
                Step::Resume if mode == Mode::V0 => {
                    // What was sent and not answered may not have arrived.
                    world.lose_socket(&bob);
                    bob = world.join(resume("bob", mode, ""));
                    announced.seen = 0;
                }
                Step::Resume => {}
            }
        }
        settle(&mut world, &bob, mode, &mut announced);
        prop_assert_eq!(&announced.tracks, &wanted);
        prop_assert_eq!(live(&world, &bob), wanted);
        if mode == Mode::V0 {
            let sdp = world.inbox(&bob).iter().rev().find_map(|message| match message {
                Response::Offer(offer) => Some(offer.sdp.clone()),
                _ => None,
            });
            prop_assert!(sdp.unwrap_or_default().matches("m=audio").count() <= 3 * tracks.len());
        }
    }
}
