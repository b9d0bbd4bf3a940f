//! What others are told because of one participant is told once where it can be, and charged to that one.

use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use sfu::command::{Event, Ssrc};
use shared::media::Codec;
use signaling::budget::{BURST, FANOUT_BYTE_COST, FANOUT_MESSAGE_COST, MESSAGE_COST, fanout_cost};
use signaling::join::{Join, Mode};

use crate::sdp::Offer;
use crate::world::{Client, World, camera, names, offer, resume, s, updates};

/// As many as may be announced at a time.
const TRACKS: usize = 20;

fn add_microphones(world: &mut World, client: &Client) {
    for number in 0..TRACKS {
        let cid = format!("mic{number}");
        world.request(client, Request::AddTrack(proto::AddTrackRequest { cid, ..Default::default() }));
    }
}

fn microphones() -> Offer {
    let with = |offer: Offer, number: usize| offer.audio(&format!("mic{number}"), 10 + number as u32);
    (0..TRACKS).fold(Offer::default().application(), with)
}

fn stopped(offer: Offer) -> Offer {
    (1..=TRACKS).fold(offer, |offer, mid| offer.stopped(mid))
}

fn permissions(world: &World, client: &Client) -> usize {
    names(world.inbox(client)).iter().filter(|name| **name == "permission").count()
}

fn charged(world: &World, client: &Client) -> usize {
    world.charges.iter().filter(|(connection, _)| *connection == client.connection).map(|(_, cost)| cost).sum()
}

/// Alice with tracks in their sections, and others who see them.
fn alice_publishes(others: usize) -> (World, Client, Vec<Client>) {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let others: Vec<_> = (0..others).map(|number| world.enter_v0(&format!("bob{number}"))).collect();
    add_microphones(&mut world, &alice);
    world.forget();
    world.charges.clear();
    world.offer(&alice, 1, &microphones());
    (world, alice, others)
}

#[test]
fn tracks_that_come_or_end_by_one_offer_are_told_in_one_update() {
    let (mut world, alice, others) = alice_publishes(1);
    let seen = updates(world.inbox(&others[0]));
    assert_eq!(seen.iter().map(|alice| alice.tracks.len()).collect::<Vec<_>>(), [TRACKS]);
    assert_eq!(permissions(&world, &others[0]), TRACKS);
    world.forget();

    world.offer(&alice, 2, &stopped(microphones()));
    let seen = updates(world.inbox(&others[0]));
    assert_eq!(seen.iter().map(|alice| alice.tracks.len()).collect::<Vec<_>>(), [0]);
    assert_eq!(world.rebuilt(), *world.room.view());
}

#[test]
fn what_an_offer_makes_the_others_be_told_is_charged_to_who_made_it() {
    for others in [1, 8] {
        let (world, alice, others) = alice_publishes(others);
        // Of one update and these, one message was paid for with the offer.
        let told = TRACKS * FANOUT_MESSAGE_COST;
        let cost = charged(&world, &alice);
        assert!((told..told + (16 << 10) * FANOUT_BYTE_COST).contains(&cost), "{cost} for {}", others.len());
        assert!(others.iter().all(|other| charged(&world, other) == 0));
    }
}

#[test]
fn what_changes_for_nobody_else_costs_nothing_beside() {
    let (mut world, alice, _) = alice_publishes(1);
    world.charges.clear();
    world.offer(&alice, 2, &microphones());
    world.request(&alice, Request::TrackSetting(proto::UpdateTrackSettings::default()));
    assert_eq!(world.charges, []);
}

#[test]
fn who_permits_and_forbids_its_tracks_pays_for_each_that_others_are_told_of() {
    let (mut world, alice, _) = alice_publishes(3);
    world.charges.clear();
    for round in 0..4 {
        let all_participants = round % 2 == 1;
        let policy = proto::SubscriptionPermission { all_participants, track_permissions: Vec::new() };
        world.request(&alice, Request::SubscriptionPermission(policy));
    }
    assert!(charged(&world, &alice) >= 4 * (TRACKS - 1) * FANOUT_MESSAGE_COST);
}

#[test]
fn large_metadata_costs_with_each_change_that_tells_it() {
    let mut world = World::new();
    let mut request = crate::world::join("alice", Mode::V0);
    request.grants.metadata = "x".repeat(60 << 10);
    let alice = world.enter(request);
    world.enter_v0("bob");
    let track = world.publish_audio(&alice, "mic", &Offer::default().application().audio("mic", 10));
    world.charges.clear();
    world.request(&alice, Request::Mute(proto::MuteTrackRequest { sid: track, muted: true }));
    assert!(charged(&world, &alice) >= (60 << 10) * FANOUT_BYTE_COST);
}

#[test]
fn what_comes_with_a_join_is_charged_too() {
    let mut world = World::new();
    world.enter_v0("bob");
    let microphone = |number| proto::AddTrackRequest { cid: format!("mic{number}"), ..Default::default() };
    let add_tracks = (0..TRACKS).map(microphone).collect();
    let publisher_offer = Some(offer(1, &microphones()));
    let alice = world.join(Join { add_tracks, publisher_offer, ..crate::world::join("alice", Mode::V0) });
    assert!(charged(&world, &alice) >= TRACKS * FANOUT_MESSAGE_COST);
}

#[test]
fn a_new_connection_takes_over_what_is_not_paid_yet() {
    let (mut world, alice, _) = alice_publishes(1);
    let debt = charged(&world, &alice);
    assert!(debt > 0);
    let resumed = Client {
        connection: world.try_join(resume("alice", Mode::V0, world.sid(&alice).as_str())).unwrap(),
        ..alice.clone()
    };
    assert!(charged(&world, &resumed) >= debt);
    // So does one that joins anew.
    let rejoined = world.join(crate::world::join("alice", Mode::V0));
    assert!(charged(&world, &rejoined) >= debt);

    world.pass(s(10));
    let later = world.join(crate::world::join("alice", Mode::V0));
    assert_eq!(charged(&world, &later), 0);
}

#[test]
fn layers_that_start_together_are_told_in_one_update_and_charged() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    let bob = world.enter_v0("bob");
    world.request(&alice, Request::AddTrack(camera("cam")));
    world.offer(&alice, 8, &Offer::default().application().simulcast("cam", &["q", "h", "f"]));
    let track = world.track_published(&alice, "cam").sid;
    world.start_layer(&alice, &track, 0);
    let publication = world.session(&alice).publications[track.as_str()].id;
    world.forget();
    world.charges.clear();

    world.call(|room, now| {
        for layer in [1, 2] {
            let ssrc = Ssrc(1_000 + u32::from(layer));
            room.on_event(now, Event::LayerStarted { publication, layer, ssrc, codec: Codec::Vp8 });
        }
    });
    let seen = updates(world.inbox(&bob));
    let ssrcs: Vec<_> = seen.iter().map(|alice| alice.tracks[0].codecs[0].layers[2].ssrc).collect();
    assert_eq!(ssrcs, [1_002]);
    assert!(charged(&world, &alice) >= FANOUT_MESSAGE_COST);
    assert_eq!(world.rebuilt(), *world.room.view());
}

/// Cameras come up one by one, and each layer with its own update.
#[test]
fn a_publisher_of_twenty_cameras_stays_within_its_budget() {
    let mut world = World::new();
    let alice = world.enter_v0("alice");
    for number in 0..3 {
        world.enter_v0(&format!("bob{number}"));
    }
    let mut spent = 0;
    let mut ask = |world: &mut World, request: Request| {
        spent += request.encoded_len() + MESSAGE_COST + fanout_cost(&request);
        world.request(&alice, request);
    };
    let mut sdp = Offer::default().application();
    for number in 0..TRACKS {
        let cid = format!("cam{number}");
        ask(&mut world, Request::AddTrack(camera(&cid)));
        sdp = sdp.simulcast(&cid, &["q", "h", "f"]);
        ask(&mut world, Request::Offer(offer(1, &sdp)));
        let track = world.track_published(&alice, &cid).sid;
        (0..3).for_each(|layer| world.start_layer(&alice, &track, layer));
    }
    let spent = spent + charged(&world, &alice);
    assert!(spent < usize::try_from(BURST).unwrap(), "{spent}");
}
