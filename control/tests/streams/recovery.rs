//! What was missed is made up for: restarts and outages of the server, the store and the media server (stream API,
//! section 6, rules 6 to 8).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use control::problem::Code;
use control::rooms::Session;
use control::store::SharedStore;
use control::store::embedded::{Embedded, Options};
use control::store::moderation::Ban;
use control::store::stream::{EndReason, StreamState};
use control::streams::ScheduleRequest;
use tokio_util::sync::CancellationToken;

use crate::world::{World, code, eventually, id, user};

/// Nobody else's stream waits for the one that was damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_cannot_be_read_keep_no_server_from_starting() {
    let folder = std::env::temp_dir().join(format!("onair-damaged-{}", std::process::id()));
    let file = folder.join("onair.db");
    let world = World::new(Arc::new(Embedded::open(&file, &Options::default()).unwrap()));
    let (ana, bo) = (world.live("ana").await, world.live("bo").await);
    let (before, bad) = (world.viewer("cy"), world.viewer("dan"));
    world.enter(&ana, &before).await;
    world.enter(&ana, &bad).await;
    for user in ["eve", "fay"] {
        let (by, at) = (id("root"), world.clock.now());
        let ban = Ban { user_id: id(user), reason: "spam".into(), until: None, by, at, lifted_at: None };
        world.lifecycle.store().set_ban(&ban).await.unwrap();
    }
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.execute("UPDATE streams SET chat_settings = '{' WHERE id = ?1", [bo.id.to_string()]).unwrap();
    raw.execute("UPDATE bans SET reason = CAST(x'ff' AS TEXT) WHERE user_id = 'eve'", []).unwrap();
    raw.execute("UPDATE presence SET identity = CAST(x'ff' AS TEXT) WHERE sid = ?1", [&bad.sid]).unwrap();
    let next = world.node();

    next.reconciler.recover().await.unwrap();

    assert!(next.reconciler.is_recovered());
    let live: Vec<_> = next.lifecycle.cache().all().iter().map(|stream| stream.id).collect();
    assert_eq!(live, [ana.id]);
    assert_eq!(code(next.try_start("fay").await), Code::Banned);
    world.door.take_out(&ana.room_name, &before.sid);
    next.compare().await;
    eventually("who is gone is not counted", async || next.viewers(&ana).await == 1).await;
    std::fs::remove_dir_all(folder).unwrap();
}

pub async fn the_next_process_takes_over_and_corrects_what_it_missed(store: SharedStore) {
    let world = World::new(store);
    let (stream, other) = (world.live("ana").await, world.live("bo").await);
    let (stays, goes) = (world.viewer("cy"), world.viewer("dan"));
    world.enter(&stream, &stays).await;
    world.enter(&stream, &goes).await;
    // While nobody listens.
    world.door.take_out(&stream.room_name, &goes.sid);
    world.door.put_in(&stream.room_name, world.viewer("eva"));
    world.door.put_in(&stream.room_name, world.viewer("fay"));
    let owner = world.door.identities(&other.room_name);
    assert_eq!(owner, ["bo"]);
    let next = world.node();
    assert!(!next.reconciler.is_recovered());

    next.reconciler.recover().await.unwrap();

    assert!(next.reconciler.is_recovered());
    assert_eq!(next.lifecycle.cache().live_count(), 2);
    // The first comparison is over; it leaves sessions alone that are new.
    assert_eq!(next.viewers(&stream).await, 2);
    next.compare().await;
    assert_eq!(next.viewers(&stream).await, 3);
    assert_eq!(next.state(&other).await, StreamState::Live);
}

pub async fn ends_that_were_missed_are_made_up_for_before_anybody_is_served(store: SharedStore) {
    let world = World::new(store);
    let (stream, starting) = (world.live("ana").await, world.start("bo").await);
    world.clock.advance(61);
    let next = world.node();

    next.reconciler.recover().await.unwrap();

    assert_eq!(next.state(&stream).await, StreamState::Live);
    assert_eq!(next.stored(starting.id).await.end_reason, Some(EndReason::NeverStarted));
}

pub async fn bans_of_an_earlier_process_hold(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let ban = Ban {
        user_id: id("bo"),
        reason: "spam".into(),
        until: None,
        by: id("root"),
        at: world.clock.now(),
        lifted_at: None,
    };
    world.lifecycle.store().set_ban(&ban).await.unwrap();
    let next = world.node();
    next.reconciler.recover().await.unwrap();

    assert_eq!(code(next.watch_as(&user("bo"), stream.id, None).await), Code::Banned);
}

pub async fn a_room_that_stays_missing_ends_its_stream_when_the_owner_has_had_the_time_to_come_back(
    store: SharedStore,
) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    world.enter(&stream, &world.viewer("bo")).await;
    world.door.lose_all();

    world.compare().await;
    let stored = world.stored(stream.id).await;
    assert_eq!((stored.state, stored.viewers), (StreamState::Reconnecting, 0));
    world.compare().await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting);
    world.pass(21).await;
    eventually("the window is over", async || world.state(&stream).await == StreamState::Ended).await;

    assert_eq!(world.stored(stream.id).await.end_reason, Some(EndReason::ServerLost));
}

pub async fn an_owner_who_resumes_after_a_restart_of_the_media_server_is_live_again(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    world.door.lose_all();
    world.compare().await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting);

    let resumed = world.try_start("ana").await.unwrap();
    assert!(resumed.resumed && world.door.has(&stream.room_name));
    assert_ne!(resumed.stream.room_sid, stream.room_sid);
    world.enter(&resumed.stream, &world.publisher("ana")).await;
    world.compare().await;

    assert_eq!(world.state(&stream).await, StreamState::Live);
}

pub async fn while_the_media_server_is_away_a_stream_waits_for_its_owner(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    world.door.set_away(true);

    world.compare().await;
    assert_eq!(world.state(&stream).await, StreamState::Live);
    world.compare().await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting);
    world.door.set_away(false);
    world.compare().await;

    assert_eq!(world.state(&stream).await, StreamState::Live);
}

pub async fn a_media_server_that_stays_away_ends_its_streams(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    world.door.set_away(true);
    world.compare().await;
    world.compare().await;

    world.pass(61).await;
    eventually("the window is over", async || world.state(&stream).await == StreamState::Ended).await;

    assert_eq!(world.stored(stream.id).await.end_reason, Some(EndReason::ServerLost));
}

pub async fn an_owner_who_is_there_is_live_by_comparison_only_if_something_is_published(store: SharedStore) {
    let world = World::new(store);
    let (silent, heard) = (world.start("ana").await, world.start("bo").await);
    world.door.put_in(&silent.room_name, Session { publishes: false, ..world.publisher("ana") });
    world.door.put_in(&heard.room_name, world.publisher("bo"));

    world.compare().await;

    assert_eq!(world.state(&heard).await, StreamState::Live);
    assert_eq!(world.state(&silent).await, StreamState::Starting);
}

pub async fn an_owner_whose_events_got_lost_is_not_timed_out(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    world.door.put_in(&stream.room_name, world.publisher("ana"));

    // The time-out is due before the next comparison is done.
    world.clock.advance(60);
    world.reconciler.tick();

    eventually("the stream is live", async || world.state(&stream).await == StreamState::Live).await;
}

pub async fn an_owner_who_came_and_sent_nothing_never_began(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    world.door.put_in(&stream.room_name, Session { publishes: false, ..world.publisher("ana") });

    world.clock.advance(60);
    world.reconciler.tick();

    eventually("the stream is over", async || world.state(&stream).await == StreamState::Ended).await;
    assert_eq!(world.stored(stream.id).await.end_reason, Some(EndReason::NeverStarted));
}

pub async fn an_owner_whose_leave_got_lost_is_waited_for(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    let publisher = world.publisher("ana");
    world.enter(&stream, &publisher).await;
    world.tell("track_published", &stream, Some(&publisher)).await;

    world.door.take_out(&stream.room_name, &publisher.sid);
    world.compare().await;

    assert_eq!(world.state(&stream).await, StreamState::Reconnecting);
}

pub async fn rooms_of_streams_that_are_over_are_deleted_and_those_of_others_are_not(store: SharedStore) {
    let world = World::new(store);
    let (stream, live) = (world.live("ana").await, world.live("bo").await);
    world.door.set_away(true);
    world.streams.stop(&user("ana"), None).await.unwrap();
    eventually("the deletion failed", async || world.door.has(&stream.room_name)).await;
    world.door.set_away(false);
    for name in ["meeting", "live_somebody_1"] {
        world.door.make(name);
    }
    world.clock.advance(60);
    let shutdown = CancellationToken::new();
    let next = world.hasty_node();
    let running = next.run(&shutdown);

    eventually("the room is gone", async || !next.door.has(&stream.room_name)).await;

    assert!(["meeting", "live_somebody_1", &live.room_name].iter().all(|name| next.door.has(name)));
    shutdown.cancel();
    running.await.unwrap();
}

pub async fn planned_streams_that_nobody_started_are_cancelled(store: SharedStore) {
    let world = World::new(store);
    let request = |seconds: u64| ScheduleRequest {
        title: "Soon".parse().unwrap(),
        tags: control::text::Tags::default(),
        cover_url: None,
        scheduled_for: world.clock.now().plus(std::time::Duration::from_secs(seconds)),
        visibility: control::store::stream::Visibility::Public,
        idempotency_key: None,
        body_digest: String::new(),
        refusal: None,
    };
    // More than are looked at in one go.
    let mut late = Vec::new();
    for owner in 0..6 {
        for _ in 0..20 {
            late.push(world.schedule_as(&user(&format!("owner-{owner}")), request(3600)).await.unwrap());
        }
    }
    let soon = world.schedule_as(&user("ana"), request(3601)).await.unwrap();
    let ended = world.live("bo").await;
    world.streams.stop(&user("bo"), None).await.unwrap();
    world.clock.advance(3 * 3600);
    let shutdown = CancellationToken::new();
    let next = world.hasty_node();
    let running = next.run(&shutdown);

    for late in &late {
        eventually("the late one is cancelled", async || world.state(late).await == StreamState::Cancelled).await;
    }
    world.door.make(&ended.room_name);
    eventually("what else is tidied up goes on", async || !world.door.has(&ended.room_name)).await;

    shutdown.cancel();
    running.await.unwrap();
    assert_eq!(next.lifecycle.counters().cancelled.load(Ordering::SeqCst), 120);
    assert_eq!(world.state(&soon).await, StreamState::Scheduled);
}

pub async fn without_the_store_streams_go_on_and_all_is_made_up_for(store: SharedStore) {
    let world = World::new(store);
    let (stream, waits) = (world.live("ana").await, world.start("bo").await);
    let viewer = world.viewer("cy");
    world.enter(&stream, &viewer).await;
    world.store.set_away(true);

    assert_eq!(code(world.try_start("dan").await), Code::StoreUnavailable);
    assert!(world.watch_as(&user("eva"), stream.id, None).await.is_ok());
    assert!(world.streams.stream(stream.id).await.is_ok());
    world.door.take_out(&stream.room_name, &viewer.sid);
    let told = world.send(&world.event("participant_left", &stream, Some(&viewer))).await.unwrap_err();
    assert_eq!((told.code, told.retry_after.is_some()), (Code::StoreUnavailable, true));
    world.door.put_in(&stream.room_name, world.viewer("eva"));
    world.door.put_in(&stream.room_name, world.viewer("fay"));
    world.pass(600).await;
    assert_eq!(world.lifecycle.cache().live_count(), 2);
    world.store.set_away(false);

    let live = || world.lifecycle.cache();
    eventually("what was missed is made up for", async || {
        world.pass(1).await;
        live().stream(stream.id).is_some_and(|stream| stream.viewers == 2)
            && live().stream(waits.id).is_some_and(|stream| stream.state == StreamState::Ended)
    })
    .await;
    assert_eq!(world.stored(waits.id).await.end_reason, Some(EndReason::NeverStarted));
    assert!(world.lifecycle.counters().events_deferred.load(Ordering::SeqCst) > 0);
}

pub async fn a_room_of_another_process_is_not_missed_until_that_process_is_gone(store: SharedStore) {
    let world = World::sharing(store);
    let stream = world.live("ana").await;
    world.reconciler.recover().await.unwrap();
    let other = world.node_with_rooms_of_its_own();
    other.reconciler.recover().await.unwrap();

    other.compare().await;
    other.compare().await;
    assert_eq!(other.state(&stream).await, StreamState::Live);
    // Its lease and its sign of life run out.
    other.clock.advance(121);
    other.compare().await;
    assert_eq!(other.state(&stream).await, StreamState::Reconnecting);
    other.compare().await;
    other.pass(61).await;
    eventually("the window is over", async || other.state(&stream).await == StreamState::Ended).await;

    assert_eq!(other.stored(stream.id).await.end_reason, Some(EndReason::ServerLost));
}

/// Nobody else has rooms: not the process before this one, whose rooms went with it.
pub async fn a_process_without_others_misses_the_rooms_of_the_one_before_it_at_once(store: SharedStore) {
    let world = World::alone(store);
    let stream = world.live("ana").await;
    world.reconciler.recover().await.unwrap();
    let next = world.node_with_rooms_of_its_own();

    next.reconciler.recover().await.unwrap();

    assert_eq!(next.state(&stream).await, StreamState::Reconnecting);
}

/// All processes ask the same media server.
pub async fn a_room_elsewhere_that_is_gone_is_missed_whoever_saw_it_last(store: SharedStore) {
    let world = World::sharing(store);
    world.door.set_elsewhere();
    let stream = world.live("ana").await;
    world.reconciler.recover().await.unwrap();
    world.door.lose_all();
    let next = world.node();

    next.reconciler.recover().await.unwrap();

    assert_eq!(next.state(&stream).await, StreamState::Reconnecting);
}

pub async fn a_room_of_another_process_is_not_missed_though_its_clock_lags(store: SharedStore) {
    let world = World::sharing(store);
    let stream = world.live("ana").await;
    world.reconciler.recover().await.unwrap();
    let ahead = world.node_with_rooms_of_its_own_and_a_clock_ahead(30);
    ahead.reconciler.recover().await.unwrap();

    ahead.compare().await;
    ahead.compare().await;

    assert_eq!(ahead.state(&stream).await, StreamState::Live);
}

pub async fn what_a_node_changed_whose_clock_was_ahead_hides_no_later_change(store: SharedStore) {
    let world = World::sharing(store);
    let ahead = world.node_with_rooms_of_its_own_and_a_clock_ahead(24 * 3600);
    let other = world.node();
    let shutdown = CancellationToken::new();
    let running = other.run(&shutdown);
    eventually("the other node is ready", async || other.reconciler.is_recovered()).await;
    let known = |id| other.lifecycle.cache().stream(id);
    let first = ahead.start("bo").await;
    eventually("it knows the stream of tomorrow", async || known(first.id).is_some()).await;

    let stream = world.start("ana").await;
    eventually("it knows the stream of now", async || known(stream.id).is_some()).await;

    shutdown.cancel();
    running.await.unwrap();
}

pub async fn what_one_node_changes_another_sees(store: SharedStore) {
    let world = World::sharing(store);
    let other = world.node();
    let shutdown = CancellationToken::new();
    let running = other.run(&shutdown);
    eventually("the other node is ready", async || other.reconciler.is_recovered()).await;

    let stream = world.live("ana").await;
    let known = || other.lifecycle.cache().stream(stream.id);
    eventually("it knows the stream", async || known().is_some_and(|stream| stream.is_live())).await;
    world.block(&stream, "bo").await;
    eventually("it knows the block", async || known().is_some_and(|stream| stream.blocks(&id("bo")))).await;
    world.streams.stop(&user("ana"), None).await.unwrap();
    eventually("it knows the end", async || known().is_some_and(|stream| !stream.is_live())).await;
    let is_banned = || other.lifecycle.cache().ban(&id("cy"), world.clock.now()).is_some();
    world.lifecycle.store().set_ban(&crate::life::ban(&world, "cy")).await.unwrap();
    eventually("it knows the ban", async || is_banned()).await;
    world.lifecycle.store().lift_ban(&id("cy"), world.clock.now()).await.unwrap();
    eventually("it knows that the ban is lifted", async || !is_banned()).await;

    shutdown.cancel();
    running.await.unwrap();
}
