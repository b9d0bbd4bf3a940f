//! Viewers are counted exactly (stream API, section 6).

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use control::config::product;
use control::rooms::Session;
use control::store::SharedStore;
use control::store::stream::{EndReason, Stream, StreamState};
use control::viewers::Handled;
use livekit_protocol as proto;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use signaling::event::RoomHappening;
use tokio_util::sync::CancellationToken;

use crate::world::{World, both, eventually, id, participant, signed, user};

pub async fn a_join_that_is_told_twice_counts_once(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let viewer = world.viewer("bo");
    let event = world.event("participant_joined", &stream, Some(&viewer));

    assert_eq!(world.send(&event).await, Ok(Handled::Applied));
    assert_eq!(world.send(&event).await, Ok(Handled::Repeated));
    // Also when the note of the first one was lost.
    world.tell("participant_joined", &stream, Some(&viewer)).await;

    let stored = world.stored(stream.id).await;
    assert_eq!((stored.viewers, stored.peak_viewers, stored.unique_viewers), (1, 1, 1));
    assert_eq!(world.lifecycle.cache().stream(stream.id).unwrap().viewers, 1);
}

pub async fn a_leave_before_its_join_leaves_nobody(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let viewer = world.viewer("bo");

    world.tell("participant_left", &stream, Some(&viewer)).await;
    assert_eq!(world.viewers(&stream).await, 0);
    world.tell("participant_joined", &stream, Some(&viewer)).await;

    assert_eq!(world.viewers(&stream).await, 0);
}

pub async fn one_user_on_two_devices_is_one_viewer(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let (phone, laptop) = (world.viewer("bo"), world.viewer("bo"));

    world.enter(&stream, &phone).await;
    world.enter(&stream, &laptop).await;
    assert_eq!(world.viewers(&stream).await, 1);
    world.leave(&stream, &phone).await;
    assert_eq!(world.viewers(&stream).await, 1);
    world.leave(&stream, &laptop).await;
    assert_eq!(world.viewers(&stream).await, 0);

    assert_eq!(world.stored(stream.id).await.peak_viewers, 1);
}

pub async fn a_join_that_never_completed_is_no_viewer(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;

    for _ in 0..20 {
        world.tell("participant_connection_aborted", &stream, Some(&world.viewer("bo"))).await;
    }

    let stored = world.stored(stream.id).await;
    assert_eq!((stored.viewers, stored.unique_viewers), (0, 0));
    let records = world.lifecycle.store().presence_all(stream.id, 100).await.unwrap();
    assert!(records.iter().all(|record| record.identity == "ana"), "it leaves no record: {records:?}");
}

/// A media server's proxy, or an old one, may leave times out; how long somebody watched is reckoned from them.
pub async fn what_a_sender_says_no_time_of_happened_when_it_was_told(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let viewer = world.viewer("bo");
    world.door.put_in(&stream.room_name, viewer.clone());
    let tell = async |event: &str| {
        let mut event = world.event(event, &stream, Some(&viewer));
        event.as_object_mut().unwrap().remove("createdAt");
        for time in ["joinedAt", "joinedAtMs"] {
            event["participant"].as_object_mut().unwrap().remove(time);
        }
        world.send(&event).await.unwrap();
    };
    world.clock.advance(10);
    let came = world.clock.now();
    tell("participant_joined").await;
    world.clock.advance(25);
    tell("participant_left").await;

    let records = world.lifecycle.store().presence_all(stream.id, 100).await.unwrap();
    let record = records.iter().find(|record| record.sid == viewer.sid).unwrap();
    assert_eq!((record.joined_at, record.left_at), (came, Some(came.plus(Duration::from_secs(25)))));
}

pub async fn only_people_who_watch_are_counted(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let plain = |name: &str| world.viewer(name);
    let others = [
        plain("ana"),
        Session { hidden: true, ..plain("hidden") },
        Session { recorder: true, ..plain("recorder") },
        Session { standard: false, ..plain("agent") },
        Session { role: None, ..plain("unknown") },
        Session { role: world.publisher("x").role, ..plain("guest-star") },
    ];
    for session in &others {
        world.enter(&stream, session).await;
    }
    assert_eq!(world.viewers(&stream).await, 0);

    world.enter(&stream, &plain("bo")).await;
    world.compare().await;

    let stored = world.stored(stream.id).await;
    assert_eq!((stored.viewers, stored.unique_viewers), (1, 1));
}

pub async fn a_leave_that_got_lost_is_made_up_for(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let viewer = world.viewer("bo");
    world.enter(&stream, &viewer).await;

    world.door.take_out(&stream.room_name, &viewer.sid);
    world.compare().await;

    assert_eq!(world.viewers(&stream).await, 0);
    assert_eq!(world.state(&stream).await, StreamState::Live);
}

pub async fn a_leave_that_got_lost_is_made_up_for_after_a_clock_was_ahead(store: SharedStore) {
    let world = World::new(store);
    world.clock.advance(40 * 24 * 3_600);
    let stream = world.live("ana").await;
    let viewer = world.viewer("bo");
    world.enter(&stream, &viewer).await;
    world.clock.set_back(40 * 24 * 3_600);

    world.door.take_out(&stream.room_name, &viewer.sid);
    world.compare().await;

    assert_eq!(world.viewers(&stream).await, 0);
}

pub async fn a_join_that_got_lost_is_made_up_for(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;

    world.door.put_in(&stream.room_name, world.viewer("bo"));
    world.compare().await;

    assert_eq!(world.viewers(&stream).await, 1);
}

pub async fn a_session_whose_event_may_be_on_its_way_is_left_alone(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    // The comparison is 40 s later.
    let aged = |seconds: u64, name: &str| Session {
        joined_at: world.clock.now().plus(Duration::from_secs(40 - seconds)),
        ..world.viewer(name)
    };
    let (nine, ten) = (aged(9, "told-9"), aged(10, "told-10"));
    for told_and_not_inside in [&nine, &ten] {
        world.tell("participant_joined", &stream, Some(told_and_not_inside)).await;
    }
    for inside_and_not_told in [aged(9, "inside-9"), aged(10, "inside-10")] {
        world.door.put_in(&stream.room_name, inside_and_not_told);
    }
    let open = async || {
        let open = world.lifecycle.store().presence_open(stream.id).await.unwrap();
        open.iter().filter(|one| one.counts).map(|one| one.user_id.to_string()).collect::<HashSet<_>>()
    };

    world.compare().await;
    assert_eq!(open().await, ["told-9", "inside-10"].map(str::to_owned).into());
    world.compare().await;
    assert_eq!(open().await, ["inside-9", "inside-10"].map(str::to_owned).into());
}

/// Whatever became of the event of the join.
pub async fn a_blocked_user_who_is_found_inside_is_put_out(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let is_out = async || world.door.identities(&stream.room_name) == [stream.owner_id.to_string()];
    world.enter(&stream, &world.viewer("bo")).await;
    world.block(&stream, "bo").await;
    eventually("the block has put out who was there", is_out).await;

    world.door.put_in(&stream.room_name, world.viewer("bo"));
    world.compare().await;

    eventually("who came since is out", is_out).await;
}

pub async fn who_is_connecting_is_not_counted_yet(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;

    world.door.put_in(&stream.room_name, Session { active: false, ..world.viewer("bo") });
    world.compare().await;

    assert_eq!(world.viewers(&stream).await, 0);
}

/// Of another media server, which lets everybody in who has a token.
pub async fn viewers_beyond_the_places_are_put_out_of_a_room_elsewhere(store: SharedStore) {
    let world = World::with(store, product::Live { max_viewers: 2, ..product::Live::default() });
    world.door.set_elsewhere();
    let stream = world.live("ana").await;
    let inside = || world.door.identities(&stream.room_name);
    let mut stay = inside();
    let uncounted = Session { hidden: true, ..world.viewer("hidden") };
    for session in [world.viewer("bo"), world.viewer("cy"), world.viewer("bo"), uncounted] {
        world.clock.advance(1);
        world.enter(&stream, &Session { joined_at: world.clock.now(), ..session.clone() }).await;
        stay.push(session.identity);
    }

    for name in ["dan", "eve"] {
        world.clock.advance(1);
        world.enter(&stream, &world.viewer(name)).await;
        eventually("who came last is out", async || inside() == stay).await;
        // Nobody told of its leave.
        world.compare().await;
        assert_eq!((world.viewers(&stream).await, inside()), (2, stay.clone()));
    }
    // Whoever leaves makes room.
    let cy = stay.iter().find(|identity| identity.starts_with("cy:")).unwrap().clone();
    world.leave(&stream, &Session { sid: cy["cy:".len()..].to_owned(), ..world.viewer("cy") }).await;
    let fay = world.viewer("fay");
    world.enter(&stream, &fay).await;
    world.compare().await;
    stay.retain(|identity| *identity != cy);
    stay.push(fay.identity);
    assert_eq!((world.viewers(&stream).await, inside()), (2, stay));
}

/// Rooms of this process ask at the door, and others' viewers are none of its own.
pub async fn nobody_is_put_out_of_rooms_of_this_process_or_where_places_are_not_limited(store: SharedStore) {
    for (max_viewers, is_elsewhere) in [(1, false), (0, true)] {
        let world = World::with(store.clone(), product::Live { max_viewers, ..product::Live::default() });
        if is_elsewhere {
            world.door.set_elsewhere();
        }
        let stream = world.live(&format!("owner-{max_viewers}")).await;
        for name in ["bo", "cy"] {
            world.enter(&stream, &world.viewer(name)).await;
        }
        world.compare().await;

        assert_eq!(world.viewers(&stream).await, 2, "of {max_viewers}");
        assert_eq!(world.door.identities(&stream.room_name).len(), 3, "of {max_viewers}");
    }
}

pub async fn what_happens_in_rooms_of_this_process_is_counted(store: SharedStore) {
    let world = World::new(store);
    let shutdown = CancellationToken::new();
    let running = world.run(&shutdown);
    eventually("it is ready", async || world.reconciler.is_recovered()).await;
    let stream = world.start("ana").await;
    let (room, sid) = (stream.room_name.clone(), stream.room_sid.clone().unwrap());
    let in_room = || proto::Room { name: room.clone(), sid: sid.clone(), ..Default::default() };
    let of = |session: &Session| -> proto::ParticipantInfo { serde_json::from_value(participant(session)).unwrap() };
    let joined = |session: &Session| {
        world.door.put_in(&room, session.clone());
        RoomHappening::ParticipantJoined { room: in_room(), participant: of(session) }
    };
    let left = |session: &Session| {
        world.door.take_out(&room, &session.sid);
        RoomHappening::ParticipantLeft { room: in_room(), participant: of(session) }
    };
    let aborted =
        |session: &Session| RoomHappening::ParticipantConnectionAborted { room: in_room(), participant: of(session) };
    let (owner, bo, cy) = (world.publisher("ana"), world.viewer("bo"), world.viewer("cy"));
    let published = || RoomHappening::TrackPublished {
        room: in_room(),
        participant: of(&owner),
        track: proto::TrackInfo::default(),
    };
    let counts = |state: StreamState, viewers: u32| {
        let (world, stream) = (&world, &stream);
        eventually("the stream is as its room", async move || {
            let stored = world.stored(stream.id).await;
            (stored.state, stored.viewers) == (state, viewers)
        })
    };

    world.door.happen(&room, &sid, RoomHappening::RoomStarted { room: in_room() });
    world.door.happen(&room, &sid, joined(&owner));
    world.door.happen(&room, &sid, published());
    counts(StreamState::Live, 0).await;
    // Of a room that is no stream's, whatever is in it.
    world.door.happen("meeting", &sid, joined(&cy));
    world.door.take_out(&room, &cy.sid);
    world.door.happen(&room, &sid, aborted(&cy));
    world.door.happen(&room, &sid, joined(&bo));
    counts(StreamState::Live, 1).await;
    world.door.happen(&room, &sid, left(&bo));
    world.door.happen(&room, &sid, left(&owner));
    counts(StreamState::Reconnecting, 0).await;
    world.door.happen(&room, &sid, RoomHappening::RoomFinished { room: in_room() });
    counts(StreamState::Ended, 0).await;

    let stored = world.stored(stream.id).await;
    assert_eq!((stored.end_reason, stored.unique_viewers), (Some(EndReason::RoomFinished), 1));
    shutdown.cancel();
    running.await.unwrap();
}

pub async fn the_end_of_an_older_room_does_nothing(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let mut late = world.event("room_finished", &stream, None);
    late["room"]["sid"] = "RM_older".into();

    world.send(&late).await.unwrap();
    assert_eq!(world.state(&stream).await, StreamState::Live);
    world.tell("room_finished", &stream, None).await;

    let stored = world.stored(stream.id).await;
    assert_eq!((stored.state, stored.end_reason), (StreamState::Ended, Some(EndReason::RoomFinished)));
}

/// Section 5.3 asks for the noted room, and an event that names none is of no room in particular.
pub async fn the_end_of_a_room_without_a_sid_has_the_room_looked_for(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    for sid in [Value::Null, "".into()] {
        let mut nameless = world.event("room_finished", &stream, None);
        nameless["room"]["sid"] = sid;
        assert_eq!(world.send(&nameless).await, Ok(Handled::Applied));
        world.compare().await;
        assert_eq!(world.state(&stream).await, StreamState::Live);
    }

    let asked = world.lifecycle.counters().reconciliations.load(Ordering::SeqCst);
    world.send(&json!({ "event": "room_finished", "room": { "name": stream.room_name } })).await.unwrap();
    world.reconciler.tick();
    eventually("the room is looked for at once", async || {
        world.lifecycle.counters().reconciliations.load(Ordering::SeqCst) > asked
    })
    .await;
    assert_eq!(world.state(&stream).await, StreamState::Live);
}

pub async fn the_start_of_a_room_changes_no_state(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    let before = world.stored(stream.id).await;
    assert_eq!(before.state, StreamState::Starting);

    assert_eq!(world.tell("room_started", &stream, None).await, Handled::Applied);

    assert_eq!(world.stored(stream.id).await, before);
}

pub async fn a_late_start_of_an_older_room_does_not_displace_the_newer_one(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let noted = world.stored(stream.id).await.room_sid;
    let mut late = world.event("room_started", &stream, None);
    late["room"]["sid"] = "RM_older".into();

    world.send(&late).await.unwrap();

    assert_eq!(world.stored(stream.id).await.room_sid, noted);
}

pub async fn an_event_after_the_end_counts_nobody_and_reopens_nothing(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    world.enter(&stream, &world.viewer("bo")).await;
    world.streams.stop(&user("ana"), None).await.unwrap();

    world.tell("participant_joined", &stream, Some(&world.viewer("cy"))).await;
    world.tell("participant_joined", &stream, Some(&world.publisher("ana"))).await;
    world.tell("track_published", &stream, Some(&world.publisher("ana"))).await;

    let stored = world.stored(stream.id).await;
    assert_eq!((stored.state, stored.viewers, stored.peak_viewers), (StreamState::Ended, 0, 1));
}

pub async fn events_of_other_rooms_are_none_of_our_business(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    for (event, room) in [
        ("participant_joined", "live_nobody_1"),
        ("room_finished", "meeting"),
        ("egress_started", stream.room_name.as_str()),
    ] {
        let mut body = world.event(event, &stream, Some(&world.viewer("bo")));
        body["room"]["name"] = room.into();

        assert_eq!(world.send(&body).await, Ok(Handled::NotOurs), "{event} of {room}");
    }
    assert_eq!(world.viewers(&stream).await, 0);
    assert_eq!(world.lifecycle.counters().events_not_ours.load(Ordering::SeqCst), 3);
}

/// Twelve streams, 20 users with several sessions each; every event comes one to three times, in any order.
pub async fn a_thousand_events_in_any_order_end_at_the_true_number(store: SharedStore) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    eprintln!("SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new(store);
    let mut streams = Vec::new();
    for owner in 0..12 {
        streams.push(world.live(&format!("owner-{owner}")).await);
    }
    let (mut events, mut inside) = (Vec::new(), HashMap::<usize, HashSet<String>>::new());
    for _ in 0..330 {
        let (index, name) = (rng.random_range(0..streams.len()), format!("user-{}", rng.random_range(0..20)));
        let session = world.viewer(&name);
        let stays = rng.random_bool(0.3);
        let kinds = if stays { &["participant_joined"][..] } else { &["participant_joined", "participant_left"] };
        for kind in kinds {
            let event = world.event(kind, &streams[index], Some(&session));
            events.extend(vec![event; rng.random_range(1..=3)]);
        }
        if stays {
            inside.entry(index).or_default().insert(name);
        }
    }
    events.shuffle(&mut rng);
    assert!(events.len() > 1_000);
    futures_util::future::join_all(events.iter().map(|event| world.send(event)))
        .await
        .into_iter()
        .for_each(|handled| assert!(handled.is_ok(), "{handled:?}"));

    for (index, stream) in streams.iter().enumerate() {
        let expected = inside.get(&index).map_or(0, HashSet::len);
        let stored = world.stored(stream.id).await;
        assert_eq!(usize::try_from(stored.viewers).unwrap(), expected, "stream {index}");
        assert!(stored.peak_viewers >= stored.viewers);
        assert_eq!(world.lifecycle.cache().stream(stream.id).unwrap().viewers, stored.viewers);
    }
}

pub async fn two_nodes_that_handle_the_same_event_count_it_once(store: SharedStore) {
    let world = World::new(store);
    let other = world.node();
    let stream = world.live("ana").await;
    let sessions: Vec<Session> = (0..20).map(|number| world.viewer(&format!("user-{number}"))).collect();
    for session in &sessions {
        let event = world.event("participant_joined", &stream, Some(session));
        let (a, b) = both(world.send(&event), other.send(&event)).await;
        assert!(a.is_ok() && b.is_ok());
    }
    let half = sessions.len() / 2;
    for session in &sessions[half..] {
        let event = world.event("participant_left", &stream, Some(session));
        let (a, b) = both(other.send(&event), world.send(&event)).await;
        assert!(a.is_ok() && b.is_ok());
    }

    let stored = world.stored(stream.id).await;
    assert_eq!((stored.viewers, stored.peak_viewers, stored.unique_viewers), (10, 20, 20));
}

pub async fn a_blocked_user_who_comes_in_is_put_out(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    world.block(&stream, "bo").await;

    world.enter(&stream, &world.viewer("bo")).await;

    crate::world::eventually("the blocked user is out", async || {
        world.door.identities(&stream.room_name) == [stream.owner_id.to_string()]
    })
    .await;
    assert!(world.stored(stream.id).await.blocks(&id("bo")));
}

/// With a token of before the ban, that is.
pub async fn a_banned_user_who_comes_in_is_put_out(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    world.enter(&stream, &world.viewer("bo")).await;
    let ban = crate::life::ban(&world, "bo");
    world.lifecycle.store().set_ban(&ban).await.unwrap();
    world.lifecycle.observe_ban(ban);
    crate::world::eventually("the ban has put out who was there", async || {
        world.door.identities(&stream.room_name) == [stream.owner_id.to_string()]
    })
    .await;

    world.enter(&stream, &world.viewer("bo")).await;

    crate::world::eventually("the banned user is out", async || {
        world.door.identities(&stream.room_name) == [stream.owner_id.to_string()]
    })
    .await;
}

/// More than may wait at a time, one batch after the other.
pub async fn events_that_were_handled_make_room_for_others(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    for _ in 0..3 {
        let handled = tokio::time::timeout(Duration::from_secs(20), tell_many(&world, &stream, 3_000)).await;
        assert_eq!(handled.expect("they are handled"), 3_000, "none found a full queue");
    }
}

/// Whoever tells them is to tell them again.
pub async fn events_beyond_those_that_may_wait_are_turned_away(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let deferred = || world.lifecycle.counters().events_deferred.load(Ordering::SeqCst);
    world.door.set_silent(&stream.room_name);
    world.clock.advance(40);
    world.reconciler.tick();
    let answered = async {
        eventually("some are turned away", async || deferred() > 0).await;
        world.door.set_silent("");
    };

    let (handled, ()) = tokio::join!(tell_many(&world, &stream, 10_000), answered);

    assert!(handled >= 4_000, "{handled} waited");
    assert_eq!(handled + usize::try_from(deferred()).unwrap(), 10_000);
    assert_eq!(tell_many(&world, &stream, 1_000).await, 1_000, "later there is room again");
}

/// Tells so many events at once that change nothing, and are not kept as they have no id; how many were applied.
async fn tell_many(world: &World, stream: &Stream, count: usize) -> usize {
    let mut event = world.event("track_unpublished", stream, None);
    event.as_object_mut().unwrap().remove("id");
    let body = event.to_string();
    let hash = world.webhooks.check_token(&signed(body.as_bytes(), world.clock.now())).unwrap();
    let all = (0..count).map(|_| world.webhooks.receive(&hash, body.as_bytes()));
    futures_util::future::join_all(all).await.into_iter().filter(|handled| *handled == Ok(Handled::Applied)).count()
}

/// Of more rooms than anything is spread over: some share all they can with the silent one.
pub async fn a_room_that_does_not_answer_keeps_no_other_one_waiting(store: SharedStore) {
    let world = World::new(store);
    let silent = world.live("silent").await;
    let mut others = Vec::new();
    for number in 0..64 {
        others.push(world.live(&format!("owner-{number}")).await);
    }
    world.door.set_silent(&silent.room_name);
    let compared = world.compare();
    let told = async {
        for stream in &others {
            let viewer = world.viewer("ben");
            world.door.put_in(&stream.room_name, viewer.clone());
            assert_eq!(world.tell("participant_joined", stream, Some(&viewer)).await, Handled::Applied);
        }
    };

    let told = async {
        let in_time = tokio::time::timeout(Duration::from_secs(20), told).await;
        world.door.set_silent("");
        in_time
    };
    let ((), in_time) = tokio::join!(compared, told);
    assert!(in_time.is_ok(), "events of other rooms waited");
    for stream in &others {
        assert_eq!(world.viewers(stream).await, 1);
    }
}
