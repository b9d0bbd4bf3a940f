//! From start to end (stream API, sections 3, 4, 7, 9 and 11).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use control::config::product;
use control::problem::Code;
use control::store::SharedStore;
use control::store::moderation::Ban;
use control::store::stream::{Block, Edit, EndReason, Stream, StreamState, Visibility};
use control::streams::{OnConflict, ScheduleRequest, StartRequest};
use control::text::{CoverUrl, Schemes, Tags, Title};
use control::user::{Role, User};

use crate::door::FakeDoor;
use crate::world::{World, admin, both, code, eventually, id, user};

fn title(text: &str) -> Title {
    text.parse().unwrap()
}

fn tags(tags: &[&str]) -> Tags {
    Tags::read(tags).unwrap()
}

fn cover(url: &str) -> CoverUrl {
    CoverUrl::if_given(url, Schemes::Https).unwrap().unwrap()
}

fn keyed(key: &str, digest: &str) -> StartRequest {
    StartRequest { idempotency_key: Some(key.into()), body_digest: digest.into(), ..StartRequest::default() }
}

fn planned(world: &World, minutes: u64) -> ScheduleRequest {
    ScheduleRequest {
        title: title("Soon"),
        tags: tags(&["pet"]),
        cover_url: None,
        scheduled_for: world.clock.now().plus(Duration::from_secs(minutes * 60)),
        visibility: Visibility::Public,
        idempotency_key: None,
        body_digest: String::new(),
        refusal: None,
    }
}

pub fn ban(world: &World, user: &str) -> Ban {
    Ban {
        user_id: id(user),
        reason: "spam".into(),
        until: None,
        by: id("root"),
        at: world.clock.now(),
        lifted_at: None,
    }
}

// ---- start

pub async fn a_start_makes_a_stream_a_room_and_a_publishers_token(store: SharedStore) {
    let world = World::new(store);
    let url = "https://cdn.example/cover.jpg".to_owned();
    let request = StartRequest {
        title: Some(title("Hi")),
        tags: tags(&["pet"]),
        cover_url: Some(cover(&url)),
        ..StartRequest::default()
    };

    let started = world.start_as(&user("ana"), request).await.unwrap();

    let stream = &started.stream;
    assert_eq!((stream.state, stream.is_live(), stream.title.as_deref()), (StreamState::Starting, true, Some("Hi")));
    assert_eq!((&stream.tags[..], stream.cover_url.as_ref()), (&["pet".to_owned()][..], Some(&url)));
    assert_eq!(stream.room_name, format!("live_ana_{}", world.clock.now().millis()));
    assert_eq!(stream.owner_profile.name.as_deref(), Some("ANA"));
    assert!(world.door.has(&stream.room_name) && stream.room_sid.is_some());
    assert_eq!(started.token, format!("ana in {} as publisher, publishes true, sends data true", stream.room_name));
    assert_eq!(started.token_expires_at, world.clock.now().plus(Duration::from_secs(3600)));
    assert!(started.created && !started.resumed);
    assert_eq!(world.lifecycle.cache().of_room(&stream.room_name).unwrap().id, stream.id);
}

pub async fn who_is_live_resumes_is_rejected_or_replaces(store: SharedStore) {
    let world = World::new(store);
    let first = world.live("ana").await;

    let again = world.try_start("ana").await.unwrap();
    assert!(again.resumed && !again.created);
    assert_eq!((again.stream.id, again.stream.state), (first.id, StreamState::Live));
    assert_eq!(code(world.try_start_on("ana", OnConflict::Reject).await), Code::Conflict);
    let second = world.try_start_on("ana", OnConflict::Replace).await.unwrap();

    assert!(second.created && second.stream.id != first.id);
    assert_eq!(world.stored(first.id).await.end_reason, Some(EndReason::Replaced));
    eventually("the old room is gone", async || !world.door.has(&first.room_name)).await;
    assert!(world.door.has(&second.stream.room_name));
}

pub async fn what_is_resumed_stays_as_it_was_and_costs_no_start(store: SharedStore) {
    let world = World::with(store, product::Live { starts_per_hour: 2, ..product::Live::default() });
    let titled = |text: &str, on_conflict| StartRequest {
        title: Some(title(text)),
        tags: tags(&["pet"]),
        on_conflict,
        ..StartRequest::default()
    };
    let start = async |title, on_conflict| world.start_as(&user("ana"), titled(title, on_conflict)).await;
    let first = start("first", OnConflict::Resume).await.unwrap().stream;

    for _ in 0..3 {
        let again = start("other", OnConflict::Resume).await.unwrap();
        assert_eq!((again.stream.id, again.stream.title.as_deref()), (first.id, Some("first")));
    }
    // One that is replaced is a new start, and one that is refused replaces nothing.
    let second = start("second", OnConflict::Replace).await.unwrap().stream;
    assert_eq!(code(start("third", OnConflict::Replace).await), Code::RateLimited);
    assert_eq!(world.state(&second).await, StreamState::Starting);
}

pub async fn a_name_that_is_taken_is_raised_by_a_millisecond_five_times(store: SharedStore) {
    let world = World::new(store);
    let now = world.clock.now();
    let name = |owner: &str, later: i64| format!("live_{owner}_{}", now.millis() + later);
    let take = async |name: String| {
        let other = Stream {
            room_name: name.clone(),
            state: StreamState::Ended,
            ended_at: Some(now),
            ..Stream::new(id("somebody"), now)
        };
        world.lifecycle.store().create(&other).await.unwrap();
    };
    for later in 0..5 {
        take(name("ana", later)).await;
    }
    for later in 0..6 {
        take(name("bo", later)).await;
    }

    assert_eq!(world.start("ana").await.room_name, name("ana", 5));
    assert_eq!(code(world.try_start("bo").await), Code::Conflict);
}

pub async fn of_two_starts_at_once_one_creates_and_one_resumes(store: SharedStore) {
    let world = World::new(store);
    let other = world.node();
    for (a, b, owner) in [(&world, &world, "ana"), (&world, &other, "bo")] {
        let (first, second) = both(a.try_start(owner), b.try_start(owner)).await;
        let (first, second) = (first.unwrap(), second.unwrap());

        assert_eq!(first.stream.id, second.stream.id, "{owner}");
        assert!(first.created ^ second.created, "{owner}");
    }
}

pub async fn a_user_starts_five_streams_an_hour(store: SharedStore) {
    let config = product::Live { start_cooldown: 0, ..product::Live::default() };
    let world = World::with(store, config);
    for _ in 0..5 {
        world.start("ana").await;
        world.streams.stop(&user("ana"), None).await.unwrap();
        world.clock.advance(60);
    }

    // Nor has another process, or the next one, forgotten.
    for node in [&world, &world.node()] {
        let refused = node.try_start("ana").await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::RateLimited, Some(Duration::from_secs(3600 - 5 * 60))));
    }
    assert!(world.try_start("bo").await.is_ok());
    let root = User { role: Role::Admin, ..user("ana") };
    assert!(world.start_as(&root, StartRequest::default()).await.is_ok());
    world.streams.stop(&user("ana"), None).await.unwrap();
    world.clock.advance(3600 - 5 * 60);
    assert!(world.try_start("ana").await.is_ok());
}

pub async fn a_pause_follows_the_end_of_a_stream(store: SharedStore) {
    let world = World::new(store);
    world.start("ana").await;
    world.clock.advance(10);
    world.streams.stop(&user("ana"), None).await.unwrap();
    world.clock.advance(5);

    for node in [&world, &world.node()] {
        let refused = node.try_start("ana").await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after), (Code::StartCooldown, Some(Duration::from_secs(25))));
    }
    world.clock.advance(25);
    assert!(world.try_start("ana").await.is_ok());
}

/// An hour or forty days: nobody waits longer than the settings say.
pub async fn a_clock_that_was_ahead_keeps_nobody_from_starting(store: SharedStore) {
    let world = World::new(store);
    for ahead in [3_600, 40 * 24 * 3_600] {
        world.clock.advance(ahead);
        for _ in 0..5 {
            world.start("ana").await;
            world.streams.stop(&user("ana"), None).await.unwrap();
            world.clock.advance(60);
        }
        assert_eq!(world.try_start("ana").await.unwrap_err().code, Code::RateLimited);
        world.clock.set_back(ahead + 300);

        world.start("ana").await;
        world.streams.stop(&user("ana"), None).await.unwrap();
        world.clock.advance(2 * 3_600);
    }
}

pub async fn a_stream_whose_clock_was_ahead_ends_by_time(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    let publisher = world.publisher("ana");
    world.enter(&stream, &publisher).await;
    world.tell("track_published", &stream, Some(&publisher)).await;
    world.clock.advance(40 * 24 * 3_600);
    world.leave(&stream, &publisher).await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting);
    world.clock.set_back(40 * 24 * 3_600);
    world.pass(59).await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting, "its owner has the whole window");
    world.pass(2).await;

    eventually("the window is over", async || world.state(&stream).await == StreamState::Ended).await;
}

pub async fn a_stream_that_is_replaced_asks_for_no_pause(store: SharedStore) {
    let world = World::new(store);
    world.live("ana").await;
    world.streams.stop(&user("ana"), None).await.unwrap();
    let root = User { role: Role::Admin, ..user("ana") };
    world.start_as(&root, StartRequest::default()).await.unwrap();

    // Without a live stream the first one's end would ask for a pause.
    assert!(world.try_start_on("ana", OnConflict::Replace).await.unwrap().created);
}

pub async fn a_replacement_that_failed_can_be_tried_again_at_once(store: SharedStore) {
    let world = World::new(store);
    let first = world.live("ana").await;
    world.clock.advance(10);
    world.door.set_away(true);
    let failed = world.try_start_on("ana", OnConflict::Replace).await.unwrap_err();
    assert_eq!(failed.code, Code::SfuUnavailable);
    assert_eq!(world.stored(first.id).await.end_reason, Some(EndReason::Replaced));

    world.door.set_away(false);
    world.clock.advance(2);

    assert!(world.try_start_on("ana", OnConflict::Replace).await.unwrap().created);
}

pub async fn a_stream_that_never_began_asks_for_no_pause(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    world.pass(59).await;
    world.settle(&stream).await;
    assert_eq!(world.state(&stream).await, StreamState::Starting);
    world.pass(1).await;
    eventually("the start times out", async || world.state(&stream).await == StreamState::Ended).await;

    assert_eq!(world.stored(stream.id).await.end_reason, Some(EndReason::NeverStarted));
    assert!(world.try_start("ana").await.is_ok());
}

pub async fn a_start_without_a_media_server_counts_for_nothing(store: SharedStore) {
    let world = World::with(store, product::Live { starts_per_hour: 1, ..product::Live::default() });
    world.door.set_away(true);
    for _ in 0..3 {
        let refused = world.try_start("ana").await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after.is_some()), (Code::SfuUnavailable, true));
    }
    assert!(world.lifecycle.store().live_stream_of(&id("ana")).await.unwrap().is_none());
    let ended = world.lifecycle.store().last_ended_of(&id("ana")).await.unwrap().unwrap();
    assert_eq!(ended.end_reason, Some(EndReason::ServerLost));

    world.door.set_away(false);
    assert!(world.try_start("ana").await.unwrap().created);
}

pub async fn a_start_with_a_known_key_answers_as_the_first(store: SharedStore) {
    let world = World::new(store);
    let first = world.start_as(&user("ana"), keyed("k", "body")).await.unwrap();
    world.clock.advance(5);
    let second = world.start_as(&user("ana"), keyed("k", "body")).await.unwrap();

    assert_eq!((second.stream.id, second.created, second.resumed), (first.stream.id, true, false));
    assert!(second.token_expires_at > first.token_expires_at);
    assert_eq!(code(world.start_as(&user("ana"), keyed("k", "another body")).await), Code::IdempotencyKeyReused);
    assert!(world.start_as(&user("bo"), keyed("k", "another body")).await.is_ok());
}

pub async fn the_key_of_a_start_that_failed_can_be_used_again(store: SharedStore) {
    let world = World::new(store);
    world.door.set_away(true);
    assert_eq!(code(world.start_as(&user("ana"), keyed("k", "body")).await), Code::SfuUnavailable);
    world.door.set_away(false);

    assert!(world.start_as(&user("ana"), keyed("k", "body")).await.unwrap().created);
}

pub async fn the_owners_own_list_is_copied_at_each_start(store: SharedStore) {
    let world = World::new(store);
    let block = Block { user_id: id("bo"), blocked_at: world.clock.now(), by: id("ana"), reason: None };
    world.lifecycle.store().owner_block(&id("ana"), &block).await.unwrap();

    let stream = world.start("ana").await;

    assert!(stream.blocks(&id("bo")));
    assert_eq!(code(world.watch_as(&user("bo"), stream.id, None).await), Code::Blocked);
    // Also one that was planned before.
    world.streams.stop(&user("ana"), None).await.unwrap();
    let planned_stream = world.schedule_as(&user("ana"), planned(&world, 20)).await.unwrap();
    let later = Block { user_id: id("cy"), ..block };
    world.lifecycle.store().owner_block(&id("ana"), &later).await.unwrap();
    world.clock.advance(60);
    let start = StartRequest { stream_id: Some(planned_stream.id), ..StartRequest::default() };
    let started = world.start_as(&user("ana"), start).await.unwrap().stream;
    assert!(started.blocks(&id("bo")) && started.blocks(&id("cy")));
}

pub async fn a_banned_user_neither_starts_nor_watches_nor_goes_on(store: SharedStore) {
    let world = World::new(store);
    let (stream, other) = (world.live("ana").await, world.live("bo").await);
    world.enter(&other, &world.viewer("ana")).await;
    let ban = ban(&world, "ana");
    world.lifecycle.store().set_ban(&ban).await.unwrap();
    world.lifecycle.observe_ban(ban.clone());

    eventually("the stream is over", async || world.state(&stream).await == StreamState::Ended).await;
    assert_eq!(world.stored(stream.id).await.end_reason, Some(EndReason::Banned));
    eventually("the sessions are out", async || world.door.identities(&other.room_name) == ["bo"]).await;
    assert_eq!(code(world.try_start("ana").await), Code::Banned);
    assert_eq!(code(world.watch_as(&user("ana"), other.id, None).await), Code::Banned);
    assert_eq!(code(world.schedule_as(&user("ana"), planned(&world, 60)).await), Code::Banned);
    let lifted = Ban { lifted_at: Some(world.clock.now()), ..ban };
    world.lifecycle.store().lift_ban(&id("ana"), world.clock.now()).await.unwrap();
    world.lifecycle.observe_ban(lifted);
    assert!(world.watch_as(&user("ana"), other.id, None).await.is_ok());
}

pub async fn a_ban_that_another_node_wrote_refuses_a_start_before_it_is_known_here(store: SharedStore) {
    let world = World::new(store);
    let until = Some(world.clock.now().plus(Duration::from_secs(1)));
    world.lifecycle.store().set_ban(&ban(&world, "ana")).await.unwrap();
    world.lifecycle.store().set_ban(&Ban { until, ..ban(&world, "bo") }).await.unwrap();
    world.clock.advance(1);
    assert!(world.admit(&user("ana")).is_ok(), "this node does not know the ban");

    assert_eq!(code(world.try_start("ana").await), Code::Banned);
    assert_eq!(code(world.admit(&user("ana"))), Code::Banned);
    assert!(world.try_start("bo").await.unwrap().created, "this ban is over");
}

pub async fn a_ban_holds_until_its_time(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("bo").await;
    let ban = Ban { until: Some(world.clock.now().plus(Duration::from_secs(60))), ..ban(&world, "ana") };
    world.lifecycle.store().set_ban(&ban).await.unwrap();
    world.lifecycle.observe_ban(ban);

    world.clock.advance(59);
    assert_eq!(code(world.watch_as(&user("ana"), stream.id, None).await), Code::Banned);
    assert_eq!(code(world.try_start("ana").await), Code::Banned);
    world.clock.advance(1);
    assert!(world.watch_as(&user("ana"), stream.id, None).await.is_ok());
    assert!(world.try_start("ana").await.unwrap().created);
}

pub async fn with_the_flag_off_nothing_starts_and_all_can_be_ended(store: SharedStore) {
    let world = World::new(store.clone());
    let stream = world.live("ana").await;
    let off = World::with(store, product::Live { enabled: false, ..product::Live::default() });
    off.reconciler.recover().await.unwrap();

    assert_eq!(code(off.try_start("bo").await), Code::FeatureDisabled);
    assert_eq!(code(off.watch_as(&user("bo"), stream.id, None).await), Code::FeatureDisabled);
    assert_eq!(code(off.schedule_as(&user("bo"), planned(&off, 60)).await), Code::FeatureDisabled);
    assert_eq!(code(off.edit_as(&user("ana"), stream.id, Edit::default()).await), Code::FeatureDisabled);
    assert!(!off.streams.stop(&user("ana"), None).await.unwrap().already_ended);
}

// ---- the owner comes and goes

pub async fn the_owners_first_track_makes_a_stream_live(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    let publisher = world.publisher("ana");

    world.enter(&stream, &publisher).await;
    assert_eq!(world.state(&stream).await, StreamState::Starting);
    world.tell("track_published", &stream, Some(&world.viewer("bo"))).await;
    assert_eq!(world.state(&stream).await, StreamState::Starting);
    world.tell("track_published", &stream, Some(&publisher)).await;
    assert_eq!(world.state(&stream).await, StreamState::Live);
    world.tell("track_unpublished", &stream, Some(&publisher)).await;

    assert_eq!(world.state(&stream).await, StreamState::Live);
}

pub async fn an_owner_who_is_back_within_the_window_is_live_again(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    let (first, second) = (world.publisher("ana"), world.publisher("ana"));
    world.enter(&stream, &first).await;
    world.tell("track_published", &stream, Some(&first)).await;

    world.leave(&stream, &first).await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting);
    for late in ["participant_joined", "track_published"] {
        world.tell(late, &stream, Some(&first)).await;
        assert_eq!(world.state(&stream).await, StreamState::Reconnecting, "{late}");
    }
    world.pass(59).await;
    world.enter(&stream, &second).await;
    assert_eq!(world.state(&stream).await, StreamState::Live);
    // What is told late of the first session changes nothing.
    world.tell("participant_joined", &stream, Some(&first)).await;
    world.tell("participant_left", &stream, Some(&first)).await;
    world.pass(61).await;

    assert_eq!(world.state(&stream).await, StreamState::Live);
}

/// Events come several times, and late.
pub async fn a_join_of_the_owner_that_is_told_again_brings_back_only_an_owner_who_is_there(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    let publisher = world.publisher("ana");
    world.enter(&stream, &publisher).await;
    world.tell("track_published", &stream, Some(&publisher)).await;
    // The media server did not answer for a while.
    world.door.set_away(true);
    world.compare().await;
    world.compare().await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting);
    world.door.set_away(false);
    world.tell("participant_joined", &stream, Some(&publisher)).await;
    assert_eq!(world.state(&stream).await, StreamState::Live, "it never left");

    world.enter(&stream, &world.viewer("bo")).await;
    world.leave(&stream, &publisher).await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting);
    world.tell("participant_joined", &stream, Some(&publisher)).await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting, "whoever else is inside");
}

pub async fn a_new_session_whose_join_comes_before_the_old_leave_never_shows(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    let (first, second) = (world.publisher("ana"), world.publisher("ana"));
    world.enter(&stream, &first).await;
    world.tell("track_published", &stream, Some(&first)).await;

    world.enter(&stream, &second).await;
    world.leave(&stream, &first).await;

    assert_eq!(world.state(&stream).await, StreamState::Live);
}

pub async fn an_owner_who_does_not_come_back_ends_the_stream_whoever_watches(store: SharedStore) {
    let world = World::new(store);
    let stream = world.start("ana").await;
    let publisher = world.publisher("ana");
    world.enter(&stream, &publisher).await;
    world.tell("track_published", &stream, Some(&publisher)).await;
    world.enter(&stream, &world.viewer("bo")).await;
    world.enter(&stream, &world.viewer("ana")).await;

    world.leave(&stream, &publisher).await;
    world.pass(59).await;
    world.settle(&stream).await;
    assert_eq!(world.state(&stream).await, StreamState::Reconnecting);
    world.pass(1).await;
    eventually("the window is over", async || world.state(&stream).await == StreamState::Ended).await;

    let stored = world.stored(stream.id).await;
    assert_eq!((stored.end_reason, stored.viewers), (Some(EndReason::PublisherTimeout), 0));
    eventually("the room is gone", async || !world.door.has(&stream.room_name)).await;
}

pub async fn a_stream_has_a_longest_duration(store: SharedStore) {
    let world = World::with(store, product::Live { max_duration: 100, ..product::Live::default() });
    let stream = world.live("ana").await;
    world.pass(99).await;
    world.settle(&stream).await;
    assert_eq!(world.state(&stream).await, StreamState::Live);
    world.pass(1).await;
    eventually("the time is over", async || world.state(&stream).await == StreamState::Ended).await;

    assert_eq!(world.stored(stream.id).await.end_reason, Some(EndReason::MaxDuration));
}

pub async fn without_a_longest_duration_a_stream_goes_on(store: SharedStore) {
    let world = World::with(store, product::Live { max_duration: 0, ..product::Live::default() });
    let stream = world.start("ana").await;
    let publisher = world.publisher("ana");
    world.enter(&stream, &publisher).await;
    world.tell("track_published", &stream, Some(&publisher)).await;

    world.clock.advance(400 * 24 * 3_600);
    for _ in 0..3 {
        world.compare().await;
    }

    assert_eq!(world.state(&stream).await, StreamState::Live);
}

// ---- ends

pub async fn stopping_twice_tells_of_the_first_end(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;

    let first = world.streams.stop(&user("ana"), Some(stream.id)).await.unwrap();
    world.clock.advance(10);
    let second = world.streams.stop(&user("ana"), Some(stream.id)).await.unwrap();

    assert!(!first.already_ended && second.already_ended);
    assert_eq!((first.stream.end_reason, second.stream.ended_at), (Some(EndReason::Stopped), first.stream.ended_at));
    assert_eq!(code(world.streams.stop(&user("ana"), None).await), Code::StreamNotFound);
    eventually("the room is gone", async || !world.door.has(&stream.room_name)).await;
    assert_eq!(world.lifecycle.counters().ended(EndReason::Stopped), 1);
}

pub async fn only_the_owner_stops_and_only_an_administrator_ends(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let bo = control::user::Caller { user: user("bo"), request_id: String::new() };

    assert_eq!(code(world.streams.stop(&user("bo"), Some(stream.id)).await), Code::NotOwner);
    assert_eq!(code(world.streams.end(&bo, stream.id).await), Code::Forbidden);
    let ended = world.streams.end(&admin("root"), stream.id).await.unwrap();
    assert_eq!((ended.already_ended, ended.stream.end_reason), (false, Some(EndReason::EndedByAdmin)));
    assert!(world.streams.end(&admin("root"), stream.id).await.unwrap().already_ended);
    let unknown = control::store::stream::StreamId::generate();

    assert_eq!(code(world.streams.end(&admin("root"), unknown).await), Code::StreamNotFound);
}

pub async fn an_administrator_ends_a_stream_in_any_live_state(store: SharedStore) {
    let world = World::new(store);
    let (starting, live, left) = (world.start("ana").await, world.live("bo").await, world.start("cy").await);
    let publisher = world.publisher("cy");
    world.enter(&left, &publisher).await;
    world.tell("track_published", &left, Some(&publisher)).await;
    world.leave(&left, &publisher).await;

    for (stream, state) in
        [(starting, StreamState::Starting), (live, StreamState::Live), (left, StreamState::Reconnecting)]
    {
        assert_eq!(world.state(&stream).await, state);
        let ended = world.streams.end(&admin("root"), stream.id).await.unwrap();
        world.clock.advance(10);
        let again = world.streams.end(&admin("root"), stream.id).await.unwrap();
        assert_eq!((ended.already_ended, again.already_ended), (false, true), "{state:?}");
        assert_eq!(again.stream.ended_at, ended.stream.ended_at);
        assert_eq!(world.stored(stream.id).await.end_reason, Some(EndReason::EndedByAdmin), "{state:?}");
    }
    let scheduled = world.schedule_as(&user("ana"), planned(&world, 60)).await.unwrap();
    assert_eq!(code(world.streams.end(&admin("root"), scheduled.id).await), Code::Conflict);
}

pub async fn an_end_holds_also_when_the_media_server_is_away(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    world.door.set_away(true);
    assert!(!world.streams.stop(&user("ana"), None).await.unwrap().already_ended);
    world.door.set_away(false);

    assert_eq!(world.state(&stream).await, StreamState::Ended);
}

/// A full disk must keep nobody on the air.
pub async fn an_end_holds_where_the_store_takes_nothing_and_is_stored_later(store: SharedStore) {
    let world = World::new(store);
    for fault in [Fault::Full, Fault::Away] {
        let stream = world.live("ana").await;
        world.enter(&stream, &world.viewer("bo")).await;
        let decided_at = world.clock.now();
        fault.set(&world, true);
        for _ in 0..2 {
            let refused = world.streams.stop(&user("ana"), Some(stream.id)).await.expect_err("it is not stored");
            assert_eq!(refused.code, Code::StoreUnavailable);
            assert!(refused.detail.contains("ended on this server"), "{refused}");
        }

        eventually("its room is gone", async || !world.door.has(&stream.room_name)).await;
        let known = world.lifecycle.cache().stream(stream.id).unwrap();
        assert_eq!((known.is_live(), known.end_reason, known.viewers), (false, Some(EndReason::Stopped), 0));
        assert_eq!(code(world.watch_as(&user("bo"), stream.id, None).await), Code::StreamEnded);
        assert_eq!(code(world.try_start("ana").await), Code::StoreUnavailable, "it is not resumed");
        world.pass(60).await;
        assert_eq!(world.lifecycle.cache().live_count(), 0);

        fault.set(&world, false);
        eventually("it is stored", async || {
            world.pass(1).await;
            !world.stored(stream.id).await.is_live()
        })
        .await;
        let stored = world.stored(stream.id).await;
        assert_eq!((stored.end_reason, stored.ended_at), (Some(EndReason::Stopped), Some(decided_at)));
        assert!(world.streams.stop(&user("ana"), Some(stream.id)).await.unwrap().already_ended);
        world.clock.advance(60);
    }
}

/// The next call stores it as well.
pub async fn an_end_that_was_not_stored_is_by_the_same_call_again(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    world.store.set_full(true);
    let ended = world.streams.end(&admin("root"), stream.id).await.unwrap();
    assert!(ended.unstored.is_some_and(|unstored| unstored.is_new));
    let again = world.streams.end(&admin("root"), stream.id).await.unwrap();
    assert!(again.unstored.is_some_and(|unstored| !unstored.is_new));
    world.store.set_full(false);

    let ended = world.streams.end(&admin("other"), stream.id).await.unwrap();
    assert_eq!((ended.already_ended, ended.unstored), (true, None));
    let stored = world.stored(stream.id).await;
    assert_eq!(stored.end_reason, Some(EndReason::EndedByAdmin));
    assert_eq!(*world.lifecycle.cache().stream(stream.id).unwrap(), stored);
}

/// A process that ends before it could store an end forgets it, and so does nobody else know of it.
pub async fn what_the_store_does_not_take_holds_on_one_node_and_as_long_as_its_process_runs(store: SharedStore) {
    let world = World::new(store);
    let other = world.node();
    let stream = world.live("ana").await;
    world.store.set_full(true);
    assert_eq!(code(world.streams.stop(&user("ana"), Some(stream.id)).await), Code::StoreUnavailable);

    assert_eq!(code(world.watch_as(&user("bo"), stream.id, None).await), Code::StreamEnded);
    assert!(other.watch_as(&user("bo"), stream.id, None).await.is_ok());

    drop(world);
    other.store.set_full(false);
    let next = other.node();
    next.reconciler.recover().await.unwrap();
    assert!(next.stored(stream.id).await.is_live());
    assert!(next.watch_as(&user("bo"), stream.id, None).await.is_ok());
}

/// What is wrong with a store.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Full,
    Away,
}

impl Fault {
    fn set(self, world: &World, is: bool) {
        match self {
            Fault::Full => world.store.set_full(is),
            Fault::Away => world.store.set_away(is),
        }
    }
}

// ---- watch

pub async fn a_viewers_token_lets_one_user_in_on_several_devices(store: SharedStore) {
    let world = World::with(store, product::Live { viewer_data: false, ..product::Live::default() });
    let stream = world.live("ana").await;

    let first = world.watch_as(&user("bo"), stream.id, Some("http://here")).await.unwrap();
    let second = world.watch_as(&user("bo"), stream.id, None).await.unwrap();

    assert!(first.token.starts_with("bo:"), "{}", first.token);
    assert!(first.token.ends_with("as viewer, publishes false, sends data false"), "{}", first.token);
    assert_ne!(first.token, second.token);
    assert_eq!(first.token_expires_at, world.clock.now().plus(Duration::from_secs(600)));
    assert_eq!(first.url, "http://here");
    assert!(world.watch_as(&user("ana"), stream.id, None).await.is_ok());
    assert_eq!(world.viewers(&stream).await, 0);
}

pub async fn who_may_not_watch_is_told_why(store: SharedStore) {
    let world = World::with(store, product::Live { max_viewers: 1, ..product::Live::default() });
    let stream = world.live("ana").await;
    world.enter(&stream, &world.viewer("cy")).await;
    world.block(&stream, "bo").await;
    let watch = async |name: &str| code(world.watch_as(&user(name), stream.id, None).await);

    assert_eq!(watch("bo").await, Code::Blocked);
    assert_eq!(watch("dan").await, Code::StreamFull);
    assert!(world.watch_as(&user("cy"), stream.id, None).await.is_ok(), "who is counted takes no other place");
    world.store.set_away(true);
    assert_eq!(watch("cy").await, Code::StreamFull, "nobody can tell");
    world.store.set_away(false);
    world.streams.stop(&user("ana"), None).await.unwrap();
    assert_eq!(watch("dan").await, Code::StreamEnded);
    let unknown = control::store::stream::StreamId::generate();
    assert_eq!(code(world.watch_as(&user("dan"), unknown, None).await), Code::StreamNotFound);
}

pub async fn who_watches_a_stream_of_another_node_finds_it_known_here(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let next = world.node();
    next.watch_as(&user("bo"), stream.id, None).await.unwrap();

    // And with it its chat, without waiting for the next look at what others changed.
    assert_eq!(next.lifecycle.cache().of_room(&stream.room_name).map(|known| known.id), Some(stream.id));
    world.streams.stop(&user("ana"), None).await.unwrap();
    let late = world.node();
    assert_eq!(code(late.watch_as(&user("bo"), stream.id, None).await), Code::StreamEnded);
    assert!(late.lifecycle.cache().stream(stream.id).is_none(), "those that are over are not collected");
}

pub async fn a_block_puts_all_sessions_of_the_user_out(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    for name in ["bo", "bo", "cy"] {
        world.enter(&stream, &world.viewer(name)).await;
    }

    world.block(&stream, "bo").await;

    eventually("only the others are inside", async || {
        let inside = world.door.identities(&stream.room_name);
        inside.len() == 2 && !inside.iter().any(|identity| identity.starts_with("bo:"))
    })
    .await;
}

/// Not only by the next comparison of its turn, which is half a minute away.
pub async fn a_block_that_the_media_server_did_not_take_is_tried_again_at_once(store: SharedStore) {
    type Set = fn(&FakeDoor, bool);
    for (owner, outage) in [("ana", FakeDoor::set_away as Set), ("eve", FakeDoor::set_refusing)] {
        let world = World::new(store.clone());
        let stream = world.live(owner).await;
        world.enter(&stream, &world.viewer("bo")).await;
        let counters = world.lifecycle.counters();
        let compared =
            || counters.reconciliations.load(Ordering::SeqCst) + counters.reconciliations_failed.load(Ordering::SeqCst);
        outage(&world.door, true);
        world.block(&stream, "bo").await;

        // No time passes.
        let before = compared();
        eventually("the room is asked for", async || {
            world.reconciler.tick();
            compared() > before
        })
        .await;
        outage(&world.door, false);
        world.compare().await;
        eventually("the blocked user is out", async || {
            world.door.identities(&stream.room_name) == [stream.owner_id.to_string()]
        })
        .await;
    }
}

// ---- planned ones

pub async fn a_planned_stream_starts_from_half_an_hour_before(store: SharedStore) {
    let world = World::new(store);
    let planned_stream = world.schedule_as(&user("ana"), planned(&world, 60)).await.unwrap();
    let start = StartRequest { stream_id: Some(planned_stream.id), ..StartRequest::default() };
    assert_eq!((planned_stream.state, planned_stream.is_live()), (StreamState::Scheduled, false));

    world.clock.advance(30 * 60 - 1);
    let early = world.start_as(&user("ana"), start.clone()).await.unwrap_err();
    assert_eq!(early.code, Code::NotStartable);
    let (time, from) = (planned_stream.scheduled_for.unwrap().to_string(), "from 30 minutes before");
    assert!(early.detail.contains(&time) && early.detail.contains(from), "{}", early.detail);
    world.clock.advance(1);
    assert_eq!(code(world.start_as(&user("bo"), start.clone()).await), Code::StreamNotFound);
    let started = world.start_as(&user("ana"), start.clone()).await.unwrap();

    assert_eq!((started.stream.id, started.stream.state), (planned_stream.id, StreamState::Starting));
    assert_eq!(started.stream.title.as_deref(), Some("Soon"));
    assert!(started.created && world.door.has(&started.stream.room_name));
    assert_eq!(code(world.cancel_as(&user("ana"), planned_stream.id).await), Code::Conflict);
    world.streams.stop(&user("ana"), None).await.unwrap();
    assert_eq!(code(world.start_as(&user("ana"), start).await), Code::NotStartable);
}

/// What the start does not name stays.
pub async fn a_planned_stream_is_shown_as_planned_and_then_as_its_start_says(store: SharedStore) {
    let world = World::new(store);
    let planned = ScheduleRequest {
        cover_url: Some(cover("https://cdn.example/planned.jpg")),
        visibility: Visibility::Private,
        ..planned(&world, 20)
    };
    let shown = |stream: &Stream| (stream.title.clone(), stream.tags.clone(), stream.cover_url.clone());
    let as_planned: (Option<String>, Vec<String>, Option<String>) =
        (Some(planned.title.clone().into()), planned.tags.clone().into(), planned.cover_url.clone().map(String::from));
    let now = "https://cdn.example/now.jpg";
    let starts = [
        (StartRequest::default(), as_planned.clone()),
        (
            StartRequest { title: Some(title("Now")), ..StartRequest::default() },
            (Some("Now".to_owned()), as_planned.1.clone(), as_planned.2.clone()),
        ),
        (
            StartRequest { tags: tags(&["dog"]), ..StartRequest::default() },
            (as_planned.0.clone(), vec!["dog".to_owned()], as_planned.2.clone()),
        ),
        (
            StartRequest { cover_url: Some(cover(now)), ..StartRequest::default() },
            (as_planned.0.clone(), as_planned.1.clone(), Some(now.to_owned())),
        ),
    ];

    for (number, (start, expected)) in starts.into_iter().enumerate() {
        let owner = user(&format!("owner-{number}"));
        let id = world.schedule_as(&owner, planned.clone()).await.unwrap().id;
        let stored = world.stored(id).await;
        assert_eq!((shown(&stored), stored.visibility), (as_planned.clone(), Visibility::Private));
        assert_eq!((stored.scheduled_for, &stored.owner_profile), (Some(planned.scheduled_for), &owner.profile()));

        let started = world.start_as(&owner, StartRequest { stream_id: Some(id), ..start }).await.unwrap();
        assert_eq!((shown(&started.stream), shown(&world.stored(id).await)), (expected.clone(), expected));
    }
}

/// Each user once, blocked since the first of them.
pub async fn blocks_of_a_planned_stream_and_of_the_owners_list_hold_together(store: SharedStore) {
    let world = World::new(store);
    let planned_stream = world.schedule_as(&user("ana"), planned(&world, 20)).await.unwrap();
    let (first, owner) = (world.clock.now(), id("ana"));
    let block =
        |name: &str| Block { user_id: id(name), blocked_at: world.clock.now(), by: owner.clone(), reason: None };
    world.block(&planned_stream, "dan").await;
    world.block(&planned_stream, "bo").await;
    world.lifecycle.store().owner_block(&owner, &block("eve")).await.unwrap();
    world.clock.advance(60);
    world.lifecycle.store().owner_block(&owner, &block("bo")).await.unwrap();
    world.lifecycle.store().owner_block(&owner, &block("cy")).await.unwrap();
    let later = world.clock.now();

    let start = StartRequest { stream_id: Some(planned_stream.id), ..StartRequest::default() };
    world.start_as(&user("ana"), start).await.unwrap();

    let stored = world.stored(planned_stream.id).await;
    let blocks: Vec<_> = stored.blocks.iter().map(|block| (block.user_id.as_str(), block.blocked_at)).collect();
    assert_eq!(blocks, [("bo", first), ("cy", later), ("dan", first), ("eve", first)]);
    for blocked in ["bo", "cy", "dan", "eve"] {
        assert!(stored.blocks(&id(blocked)), "{blocked}");
    }
}

pub async fn a_planned_stream_starts_until_two_hours_after(store: SharedStore) {
    let world = World::new(store);
    let plan = async |owner: &str| world.schedule_as(&user(owner), planned(&world, 60)).await.unwrap().id;
    let (in_time, late) = (plan("ana").await, plan("bo").await);
    let start = async |owner: &str, id| {
        world.start_as(&user(owner), StartRequest { stream_id: Some(id), ..StartRequest::default() }).await
    };

    world.clock.advance(3 * 3600 - 1);
    assert_eq!(start("ana", in_time).await.unwrap().stream.id, in_time);
    world.clock.advance(1);
    assert_eq!(code(start("bo", late).await), Code::NotStartable);
}

pub async fn a_planned_stream_is_cancelled_by_its_owner_or_by_time(store: SharedStore) {
    let world = World::new(store);
    let first = world.schedule_as(&user("ana"), planned(&world, 60)).await.unwrap();
    let hidden = ScheduleRequest { visibility: Visibility::Private, ..planned(&world, 60) };
    let second = world.schedule_as(&user("ana"), hidden).await.unwrap();

    assert_eq!(code(world.cancel_as(&user("bo"), first.id).await), Code::NotOwner);
    assert_eq!(code(world.cancel_as(&user("bo"), second.id).await), Code::StreamNotFound);
    for _ in 0..2 {
        assert_eq!(world.cancel_as(&user("ana"), first.id).await.unwrap().state, StreamState::Cancelled);
    }
    let start = StartRequest { stream_id: Some(second.id), ..StartRequest::default() };
    world.clock.advance(3 * 3600);
    assert_eq!(code(world.start_as(&user("ana"), start).await), Code::NotStartable);
}

pub async fn a_user_plans_at_most_twenty_streams(store: SharedStore) {
    let world = World::new(store);
    for _ in 0..20 {
        world.schedule_as(&user("ana"), planned(&world, 60)).await.unwrap();
    }

    assert_eq!(code(world.schedule_as(&user("ana"), planned(&world, 60)).await), Code::Conflict);
    assert!(world.schedule_as(&user("bo"), planned(&world, 60)).await.is_ok());
}

pub async fn what_is_shown_is_changed_by_the_owner_until_the_end(store: SharedStore) {
    let world = World::new(store);
    let stream = world.live("ana").await;
    let edit = Edit { title: Some(Some("New".into())), ..Edit::default() };

    assert_eq!(code(world.edit_as(&user("bo"), stream.id, edit.clone()).await), Code::NotOwner);
    let edited: Arc<_> = world.edit_as(&user("ana"), stream.id, edit.clone()).await.unwrap();
    assert_eq!(edited.title.as_deref(), Some("New"));
    assert_eq!(world.lifecycle.cache().stream(stream.id).unwrap().title.as_deref(), Some("New"));
    world.streams.stop(&user("ana"), None).await.unwrap();

    assert_eq!(code(world.edit_as(&user("ana"), stream.id, edit).await), Code::StreamEnded);
}
