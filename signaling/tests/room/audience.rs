//! Viewers of a large room are not announced to each other.

use std::collections::BTreeSet;

use livekit_protocol as proto;
use prost::Message;
use proto::data_packet::Value;
use proto::participant_info::State;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::command::{DataChannel, Event};
use signaling::join::{Join, Mode};
use signaling::presence::Presence;

use crate::sdp::Offer;
use crate::world::{Client, World, join, offer, resume, s, updates};

/// A publisher, who is announced, and an early viewer, in a room that is large from its third participant on.
struct Stage {
    world: World,
    host: Client,
    early: Client,
}

fn stage() -> Stage {
    let mut world = World::with(|config, _| config.audience_threshold = 2);
    let host = world.enter_v1("host");
    world.publish_audio(&host, "mic", &Offer::v1().audio("mic", 10));
    let early = world.enter_v1("early");
    world.pass(s(3));
    world.forget();
    Stage { world, host, early }
}

fn view(world: &mut World, identity: &str) -> Client {
    let client = world.join(Join { publisher_offer: Some(offer(1, &Offer::v1())), ..join(identity, Mode::V1) });
    world.connect(&client);
    client
}

fn others(messages: &[Response]) -> BTreeSet<String> {
    let Some(Response::Join(join)) = messages.first() else { panic!("no JoinResponse") };
    join.other_participants.iter().map(|info| info.identity.clone()).collect()
}

fn told(world: &mut World, client: &Client) -> Vec<(String, State)> {
    updates(&world.take(client)).into_iter().map(|info| (info.identity.clone(), info.state())).collect()
}

fn named(list: &[(&str, State)]) -> Vec<(String, State)> {
    list.iter().map(|(identity, state)| ((*identity).to_owned(), *state)).collect()
}

fn leave(world: &mut World, client: &Client) {
    world.request(client, Request::Leave(proto::LeaveRequest::default()));
}

fn say(world: &mut World, client: &Client, destinations: &[&str]) {
    let packet = proto::DataPacket {
        value: Some(Value::User(proto::UserPacket { payload: b"hello".to_vec(), ..Default::default() })),
        destination_identities: destinations.iter().map(|identity| (*identity).to_owned()).collect(),
        ..Default::default()
    };
    let transport = world.session(client).data_transport();
    world.event(Event::Data { transport, channel: DataChannel::Lossy, payload: packet.encode_to_vec().into() });
}

#[test]
fn a_viewer_of_a_large_room_is_told_to_publishers_only() {
    let Stage { mut world, host, early } = stage();
    let bob = view(&mut world, "bob");
    let carol = view(&mut world, "carol");
    assert!(told(&mut world, &host).is_empty());
    world.pass(s(3));

    assert_eq!(told(&mut world, &host), named(&[("bob", State::Active), ("carol", State::Active)]));
    assert!(told(&mut world, &early).is_empty());
    assert_eq!(told(&mut world, &bob), named(&[("bob", State::Joined), ("bob", State::Active)]));
    assert_eq!(others(&world.take(&carol)), BTreeSet::from(["host".to_owned()]));

    leave(&mut world, &bob);
    world.pass(s(3));
    assert_eq!(told(&mut world, &host), named(&[("bob", State::Disconnected)]));
    assert!(told(&mut world, &early).is_empty());
    assert!(told(&mut world, &carol).is_empty());
}

#[test]
fn who_was_announced_and_comes_back_to_a_small_room_is_told_of_all_others() {
    let mut world = World::new();
    let host = world.enter_v1("host");
    world.publish_audio(&host, "mic", &Offer::v1().audio("mic", 10));
    world.enter_v1("early");
    let back = view(&mut world, "host");
    assert_eq!(others(&world.take(&back)), BTreeSet::from(["early".to_owned()]));
}

#[test]
fn viewers_are_counted_all_the_same() {
    let Stage { mut world, early, .. } = stage();
    view(&mut world, "bob");
    view(&mut world, "carol");
    world.pass(s(10));
    let messages = world.take(&early);
    let mut counts = messages.iter().filter_map(|message| match message {
        Response::RoomUpdate(update) => update.room.as_ref().map(|room| room.num_participants),
        _ => None,
    });
    assert_eq!(counts.next_back(), Some(4));
}

#[test]
fn who_was_announced_is_missed_by_everybody() {
    let Stage { mut world, host, early } = stage();
    let bob = view(&mut world, "bob");
    world.forget();
    leave(&mut world, &host);
    world.pass(s(3));
    for client in [&early, &bob] {
        assert!(told(&mut world, client).contains(&("host".to_owned(), State::Disconnected)));
    }
}

#[test]
fn who_came_early_is_told_of_its_like_and_a_stranger_to_the_audience() {
    let mut world = World::with(|config, _| config.audience_threshold = 3);
    let host = world.enter_v1("host");
    world.publish_audio(&host, "mic", &Offer::v1().audio("mic", 10));
    let alice = view(&mut world, "alice");
    let early = view(&mut world, "early");
    let bob = view(&mut world, "bob");
    assert_eq!(others(&world.take(&bob)), BTreeSet::from(["host".to_owned()]));
    assert!(told(&mut world, &alice).contains(&("early".to_owned(), State::Active)));
    world.pass(s(3));
    world.forget();

    say(&mut world, &early, &["alice"]);
    say(&mut world, &early, &["bob"]);
    assert!(told(&mut world, &alice).is_empty());
    assert_eq!(told(&mut world, &bob), named(&[("early", State::Active)]));

    leave(&mut world, &early);
    for client in [&host, &alice, &bob] {
        assert_eq!(told(&mut world, client), named(&[("early", State::Disconnected)]));
    }
    leave(&mut world, &alice);
    for client in [&host, &bob] {
        let seen = told(&mut world, client);
        assert_eq!(seen.contains(&("alice".to_owned(), State::Disconnected)), client == &host);
    }
}

#[test]
fn an_early_viewer_who_speaks_to_everybody_is_announced_where_some_do_not_know_it() {
    let Stage { mut world, early, .. } = stage();
    say(&mut world, &early, &[]);
    assert_eq!(world.room.view().members[&world.sid(&early)].presence, Presence::Early);
    let bob = view(&mut world, "bob");
    world.forget();
    say(&mut world, &early, &[]);
    assert_eq!(told(&mut world, &bob), named(&[("early", State::Active)]));
    assert_eq!(world.room.view().members[&world.sid(&early)].presence, Presence::Announced);
}

#[test]
fn who_publishes_is_announced_once_and_hears_of_everybody() {
    let Stage { mut world, host, early } = stage();
    let bob = view(&mut world, "bob");
    view(&mut world, "carol");
    world.forget();
    world.publish_audio(&bob, "mic", &Offer::v1().audio("mic", 20));
    let seen = updates(&world.take(&early));
    assert_eq!((seen.len(), seen[0].identity.as_str(), seen[0].tracks.len()), (1, "bob", 1));
    let (last, strangers) =
        told(&mut world, &bob).split_last().map(|(last, rest)| (last.clone(), rest.to_vec())).unwrap();
    assert_eq!(last, ("bob".to_owned(), State::Active));
    let strangers: BTreeSet<_> = strangers.into_iter().map(|(identity, _)| identity).collect();
    assert_eq!(strangers, ["carol", "early"].map(str::to_owned).into());
    world.pass(s(3));
    world.forget();

    world.offer(&bob, 9, &Offer::v1().audio("mic", 20).stopped(7));
    leave(&mut world, &bob);
    world.pass(s(3));
    for client in [&host, &early] {
        assert_eq!(told(&mut world, client).last(), Some(&("bob".to_owned(), State::Disconnected)));
    }
}

#[test]
fn who_publishes_hears_of_everybody_but_the_hidden() {
    let Stage { mut world, .. } = stage();
    let bob = view(&mut world, "bob");
    let mut ghost = join("the-ghost", Mode::V1);
    ghost.grants.video.hidden = true;
    world.enter(ghost);
    world.forget();
    world.publish_audio(&bob, "mic", &Offer::v1().audio("mic", 20));
    let told: BTreeSet<_> = told(&mut world, &bob).into_iter().map(|(identity, _)| identity).collect();
    assert_eq!(told, ["bob", "early"].map(str::to_owned).into());
}

#[test]
fn who_speaks_to_everybody_is_announced_before() {
    let Stage { mut world, host, early } = stage();
    let bob = view(&mut world, "bob");
    world.forget();
    say(&mut world, &bob, &[]);
    for client in [&host, &early] {
        assert_eq!(told(&mut world, client), named(&[("bob", State::Active)]));
    }
    say(&mut world, &bob, &[]);
    world.pass(s(3));
    assert!(told(&mut world, &early).is_empty());
    let carol = view(&mut world, "carol");
    assert!(others(&world.take(&carol)).contains("bob"));
}

#[test]
fn who_is_spoken_to_knows_the_speaker_until_it_leaves() {
    let Stage { mut world, host, early } = stage();
    let bob = view(&mut world, "bob");
    let carol = view(&mut world, "carol");
    world.forget();
    say(&mut world, &bob, &["carol"]);
    say(&mut world, &bob, &["carol"]);
    assert_eq!(told(&mut world, &carol), named(&[("bob", State::Active)]));
    assert!(told(&mut world, &early).is_empty());

    let sid = world.sid(&carol).to_string();
    let carol = world.join(resume("carol", Mode::V1, &sid));
    let known: BTreeSet<_> = told(&mut world, &carol).into_iter().map(|(identity, _)| identity).collect();
    assert_eq!(known, ["bob", "carol", "host"].map(str::to_owned).into());

    leave(&mut world, &bob);
    assert_eq!(told(&mut world, &carol), named(&[("bob", State::Disconnected)]));
    world.pass(s(3));
    assert!(told(&mut world, &early).is_empty());
    assert!(told(&mut world, &host).contains(&("bob".to_owned(), State::Disconnected)));
}

#[test]
fn who_speaks_to_many_is_announced() {
    let Stage { mut world, early, .. } = stage();
    let bob = view(&mut world, "bob");
    let crowd: Vec<String> =
        (0..=signaling::participant::ANNOUNCED_TO_MAX).map(|number| format!("v{number}")).collect();
    for identity in &crowd {
        view(&mut world, identity);
    }
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
    let (last, few) = crowd.split_last().unwrap();
    world.forget();
    say(&mut world, &bob, few);
    say(&mut world, &bob, &few[..10]);
    assert!(told(&mut world, &early).is_empty());
    say(&mut world, &bob, &[last]);
    assert_eq!(told(&mut world, &early), named(&[("bob", State::Active)]));
}

#[test]
fn who_speaks_to_itself_and_to_those_who_know_it_is_told_to_nobody_anew() {
    let Stage { mut world, host, early } = stage();
    let bob = view(&mut world, "bob");
    world.pass(s(3));
    world.forget();
    say(&mut world, &early, &["host", "early"]);
    say(&mut world, &bob, &["bob"]);
    assert!(
        told(&mut world, &host).is_empty() && told(&mut world, &early).is_empty() && told(&mut world, &bob).is_empty()
    );
}

#[test]
fn whom_the_server_api_changes_is_announced() {
    let Stage { mut world, early, .. } = stage();
    let bob = view(&mut world, "bob");
    world.forget();
    let request =
        proto::UpdateParticipantRequest { identity: "bob".into(), name: "Robert".into(), ..Default::default() };
    world.update_participant(request).unwrap();
    let seen = updates(&world.take(&early));
    assert_eq!((seen.len(), seen[0].name.as_str()), (1, "Robert"));
    assert_eq!(world.room.view().members[&world.sid(&bob)].presence, Presence::Announced);
}

#[test]
fn administrators_and_agents_are_announced_and_hear_of_everybody() {
    let Stage { mut world, early, .. } = stage();
    view(&mut world, "bob");
    world.forget();
    let mut admin = join("admin", Mode::V1);
    admin.grants.video.room_admin = true;
    let mut agent = join("agent", Mode::V1);
    agent.grants.kind = proto::participant_info::Kind::Agent;
    for request in [admin, agent] {
        let client = world.join(request);
        assert!(others(&world.take(&client)).contains("bob"));
        assert_eq!(told(&mut world, &early).len(), 1);
    }
}

#[test]
fn a_hidden_recorder_is_announced_to_nobody() {
    let Stage { mut world, .. } = stage();
    let mut recorder = join("the-recorder", Mode::V1);
    recorder.grants.video.recorder = true;
    recorder.grants.video.hidden = true;
    let recorder = world.join(recorder);
    assert_eq!(world.room.view().members[&world.sid(&recorder)].presence, Presence::Announced);
    let bob = view(&mut world, "bob");
    assert_eq!(others(&world.take(&bob)), BTreeSet::from(["host".to_owned()]));
    // Nor to one who is hidden itself, and is told of the same as other viewers.
    let mut ghost = join("the-ghost", Mode::V1);
    ghost.grants.video.hidden = true;
    let ghost = world.join(ghost);
    assert_eq!(others(&world.take(&ghost)), BTreeSet::from(["host".to_owned()]));
}

#[test]
fn a_resume_is_told_of_the_announced() {
    let Stage { mut world, .. } = stage();
    let bob = view(&mut world, "bob");
    view(&mut world, "carol");
    let sid = world.sid(&bob).to_string();
    let bob = world.join(resume("bob", Mode::V1, &sid));
    let known: BTreeSet<_> = told(&mut world, &bob).into_iter().map(|(identity, _)| identity).collect();
    assert_eq!(known, ["bob", "host"].map(str::to_owned).into());
}

#[test]
fn who_is_announced_and_comes_back_is_not_told_of_itself_as_of_another() {
    let Stage { mut world, .. } = stage();
    let bob = view(&mut world, "bob");
    say(&mut world, &bob, &[]);
    world.forget();
    let again = view(&mut world, "bob");
    assert_eq!(others(&world.take(&again)), BTreeSet::from(["host".to_owned()]));
}

#[test]
fn who_came_early_comes_back_as_such() {
    let Stage { mut world, host, early } = stage();
    view(&mut world, "bob");
    world.forget();
    let again = view(&mut world, "early");
    world.pass(s(3));
    let seen = updates(&world.take(&host));
    let early_now = seen.iter().rfind(|info| info.identity == "early").unwrap();
    assert_eq!(early_now.sid, world.sid(&again).as_str());
    assert!(world.closed.contains(&early.connection));
    assert_eq!(world.room.view().members[&world.sid(&again)].presence, Presence::Early);
}

#[test]
fn a_room_that_becomes_small_is_made_known_to_itself() {
    let mut world = World::with(|config, _| config.audience_threshold = 6);
    let mut first: Vec<_> = (0..6).map(|number| view(&mut world, &format!("first{number}"))).collect();
    let bob = view(&mut world, "bob");
    let carol = view(&mut world, "carol");
    let mut hidden = join("the-ghost", Mode::V1);
    hidden.grants.video.hidden = true;
    let ghost = world.enter(hidden);
    assert_eq!(world.room.view().members[&world.sid(&ghost)].presence, Presence::Audience);
    let last = first.pop().unwrap();
    world.forget();
    for client in &first {
        leave(&mut world, client);
    }
    // Four are more than half of the threshold.
    assert!(told(&mut world, &bob).is_empty() && told(&mut world, &carol).is_empty());
    leave(&mut world, &last);
    let told: Vec<_> = [&bob, &carol].map(|client| told(&mut world, client)).to_vec();
    assert!(told[0].contains(&("carol".to_owned(), State::Active)));
    assert!(told[1].contains(&("bob".to_owned(), State::Active)));
    assert!(!told.concat().iter().any(|(identity, _)| identity == "the-ghost"));
}

#[test]
fn those_of_a_room_that_became_small_hear_of_who_comes_then_and_publishers_of_everybody_as_before() {
    let mut world = World::with(|config, _| config.audience_threshold = 6);
    let host = world.enter_v1("host");
    world.publish_audio(&host, "mic", &Offer::v1().audio("mic", 10));
    let first: Vec<_> = (0..5).map(|number| view(&mut world, &format!("first{number}"))).collect();
    let bob = view(&mut world, "bob");
    for client in &first {
        leave(&mut world, client);
    }
    world.forget();
    view(&mut world, "dave");
    assert!(told(&mut world, &bob).contains(&("dave".to_owned(), State::Active)));
    // And large again.
    for number in 0..3 {
        view(&mut world, &format!("second{number}"));
    }
    world.pass(s(3));
    world.forget();
    view(&mut world, "late");
    world.pass(s(3));
    assert_eq!(told(&mut world, &host), named(&[("late", State::Active)]));
    assert!(told(&mut world, &bob).is_empty());
}

#[test]
fn a_threshold_of_nothing_is_none() {
    let mut world = World::with(|config, _| config.audience_threshold = 0);
    let first = view(&mut world, "first");
    for number in 0..120 {
        view(&mut world, &format!("v{number}"));
    }
    world.pass(s(3));
    let known: BTreeSet<_> = told(&mut world, &first).into_iter().map(|(identity, _)| identity).collect();
    assert_eq!(known.len(), 121);
}

#[test]
fn a_room_below_the_threshold_is_as_it_was() {
    let mut world = World::new();
    let clients: Vec<_> = (0..50).map(|number| view(&mut world, &format!("v{number}"))).collect();
    world.pass(s(3));
    let last = others(&world.take(&clients[49]));
    assert_eq!(last.len(), 49);
    assert!(told(&mut world, &clients[0]).iter().any(|(identity, _)| identity == "v49"));
}

/// What viewers were sent in a storm of joins and ten seconds after it, each in the mean.
struct Storm {
    messages: usize,
    bytes: usize,
    host_knows: usize,
}

fn storm(viewers: u32) -> Storm {
    let mut world = World::new();
    let host = world.enter_v1("host");
    world.publish_audio(&host, "mic", &Offer::v1().audio("mic", 10));
    let clients: Vec<_> = (0..viewers)
        .map(|number| {
            world.pass(s(5) / viewers);
            view(&mut world, &format!("viewer {number:04}"))
        })
        .collect();
    world.pass(s(10));
    let host_knows: BTreeSet<_> = told(&mut world, &host).into_iter().map(|(identity, _)| identity).collect();
    let inboxes: Vec<_> = clients.iter().map(|client| world.take(client)).collect();
    let size = |message: &Response| proto::SignalResponse { message: Some(message.clone()) }.encoded_len();
    Storm {
        messages: inboxes.iter().map(Vec::len).sum::<usize>() / inboxes.len(),
        bytes: inboxes.iter().flatten().map(size).sum::<usize>() / inboxes.len(),
        host_knows: host_knows.len(),
    }
}

#[test]
fn what_joins_cost_a_viewer_does_not_grow_with_the_room() {
    let small = storm(20);
    for viewers in [200, 2_000] {
        let large = storm(viewers);
        let (before, after) = (small.messages, large.messages);
        assert!(after * 10 <= before * 11, "{after} messages each to {viewers} viewers, {before} to 20");
        let (before, after) = (small.bytes, large.bytes);
        assert!(after * 10 <= before * 11, "{after} bytes each to {viewers} viewers, {before} to 20");
        // Itself and everybody else.
        assert_eq!(large.host_knows, viewers as usize + 1);
    }
}
