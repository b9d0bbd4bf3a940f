//! A stream's life: created once, changed by conditional writes, ended for good.

use control::store::chat::{ChatSettings, Mute, WordFilter};
use control::store::stream::{
    Edit, EndReason, Outcome, OwnerProfile, StartScheduled, Stream, StreamId, StreamState, Transition, Visibility,
};
use control::store::{CreateError, SharedStore, StoreError};

use super::fixture::*;
use StreamState::{Cancelled, Ended, Live, Reconnecting, Scheduled, Starting};

/// A stream in which every field says something.
pub fn with_every_field() -> Stream {
    let mut pinned = message(&starting("other"), 17, "u_42").message;
    pinned.client_id = Some("c-1".to_owned());
    pinned.reply_to = Some("earlier".to_owned());
    Stream {
        owner_profile: OwnerProfile {
            name: Some("Ana ❤️".to_owned()),
            picture: Some("https://example.com/ana.png".to_owned()),
        },
        room_sid: Some("RM_1".to_owned()),
        title: Some("Grüße \"aus\" 'Köln'\u{1F436}".to_owned()),
        cover_url: Some("https://example.com/cover.png".to_owned()),
        tags: vec!["pet".to_owned(), "live".to_owned()],
        visibility: Visibility::Private,
        scheduled_for: Some(at(1)),
        started_at: Some(at(2)),
        ended_at: Some(at(9_999)),
        end_reason: Some(EndReason::PublisherTimeout),
        state: Ended,
        state_since: at(9_998),
        viewers: 3,
        peak_viewers: 31,
        unique_viewers: 77,
        flagged: true,
        blocks: vec![block("6b0211223344556677889900", at(3)), block("u_666", at(4))],
        mutes: vec![Mute { user_id: user("loud"), until: at(5_000) }],
        chat_settings: ChatSettings {
            enabled: false,
            slow_mode_seconds: 7,
            max_length: 99,
            links_allowed: false,
            emoji_only: true,
            filter: WordFilter::Reject,
        },
        pinned: Some(pinned),
        created_at: at(11),
        updated_at: at(12),
        rev: 42,
        ..starting("6b0211223344556677889901")
    }
}

pub async fn every_field_of_a_stream_is_kept(store: SharedStore) {
    let mut blocked_with_reason = with_every_field();
    blocked_with_reason.blocks[0].reason = Some("shouts".to_owned());
    for stream in
        [with_every_field(), blocked_with_reason, starting("u_1"), scheduled("u_2", at(5)), ended("u_3", at(6))]
    {
        store.create(&stream).await.unwrap();

        assert_eq!(store.stream(stream.id).await.unwrap(), Some(stream));
    }
}

pub async fn what_is_not_there_is_not_found(store: SharedStore) {
    let id = StreamId::generate();
    assert_eq!(store.stream(id).await.unwrap(), None);
    assert_eq!(store.stream_of_room("live_nobody").await.unwrap(), None);
    assert_eq!(store.stream_of_room("").await.unwrap(), None);
    assert_eq!(store.live_stream_of(&user("nobody")).await.unwrap(), None);
    assert_eq!(store.last_ended_of(&user("nobody")).await.unwrap(), None);

    let settings = ChatSettings::default();
    let mute = Mute { user_id: user("u"), until: at(9) };
    for outcome in [
        store.transition(id, &end(at(1))).await,
        store.note_room(id, "RM_1", at(1)).await,
        store.edit(id, &Edit::default(), &[Live], at(1)).await,
        store.set_flagged(id, at(1)).await,
        store.block(id, &block("u", at(1))).await,
        store.unblock(id, &user("u"), at(1)).await,
        store.set_chat_settings(id, &settings, at(1)).await,
        store.mute(id, &mute, at(1)).await,
        store.unmute(id, &user("u"), at(1)).await,
        store.pin(id, None, at(1)).await,
    ] {
        assert!(matches!(outcome, Err(StoreError::NotFound)), "{outcome:?}");
    }
    let started = store.start_scheduled(id, &start("live_x")).await;
    assert!(matches!(started, Err(CreateError::Store(StoreError::NotFound))), "{started:?}");
}

pub async fn creating_a_stream_again_changes_nothing(store: SharedStore) {
    let stream = new_stream(&store).await;
    let changed = store.set_flagged(stream.id, at(5)).await.unwrap().into_stream();

    store.create(&stream).await.unwrap();

    assert_eq!(read(&store, stream.id).await, changed);
}

pub async fn of_concurrent_starts_of_one_owner_one_wins(store: SharedStore) {
    let starts = (0..8).map(|_| {
        let (store, stream) = (store.clone(), starting("ann"));
        async move { store.create(&stream).await }
    });
    let results = together(starts).await;

    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for refused in results.into_iter().filter_map(Result::err) {
        assert!(matches!(refused, CreateError::OwnerAlreadyLive), "{refused:?}");
    }
    assert!(store.live_stream_of(&user("ann")).await.unwrap().is_some());
}

pub async fn a_room_name_is_given_once(store: SharedStore) {
    let first = starting("ann");
    store.create(&first).await.unwrap();
    let same_room = Stream { room_name: first.room_name.clone(), ..starting("bob") };
    assert!(matches!(store.create(&same_room).await, Err(CreateError::RoomTaken)));

    store.transition(first.id, &end(at(5))).await.unwrap();

    assert!(matches!(store.create(&same_room).await, Err(CreateError::RoomTaken)));
    assert_eq!(store.stream_of_room(&first.room_name).await.unwrap().map(|stream| stream.id), Some(first.id));
}

pub async fn streams_without_a_room_do_not_compete_for_one(store: SharedStore) {
    for n in 0..3 {
        store.create(&scheduled("ann", at(n))).await.unwrap();
    }
    assert_eq!(store.count_scheduled(&user("ann")).await.unwrap(), 3);
}

pub async fn an_owner_may_start_again_after_the_end(store: SharedStore) {
    let first = starting("ann");
    store.create(&first).await.unwrap();
    store.transition(first.id, &end(at(5))).await.unwrap();
    assert_eq!(store.live_stream_of(&user("ann")).await.unwrap(), None);

    let second = starting("ann");
    store.create(&second).await.unwrap();

    assert_eq!(store.live_stream_of(&user("ann")).await.unwrap(), Some(second));
}

pub async fn a_transition_sets_what_belongs_to_the_state(store: SharedStore) {
    let stream = new_stream(&store).await;

    let live = store.transition(stream.id, &to(Live, &[Starting], at(10))).await.unwrap();
    let expected = Stream { state: Live, state_since: at(10), updated_at: at(10), rev: 1, ..stream.clone() };
    assert_eq!(live, Outcome::Changed(expected));

    store.presence_join(stream.id, &session("PA_1", "viewer", at(11))).await.unwrap();
    let before = read(&store, stream.id).await;
    let outcome = store.transition(stream.id, &end(at(99))).await.unwrap();
    let ended = Stream {
        state: Ended,
        state_since: at(99),
        ended_at: Some(at(99)),
        end_reason: Some(EndReason::Stopped),
        viewers: 0,
        peak_viewers: 1,
        unique_viewers: 1,
        updated_at: before.updated_at,
        rev: before.rev + 1,
        ..before
    };
    assert_eq!(outcome, Outcome::Changed(ended.clone()));
    assert_eq!(read(&store, stream.id).await, ended);
}

pub async fn a_cancelled_stream_has_no_end(store: SharedStore) {
    let stream = scheduled("ann", at(100));
    store.create(&stream).await.unwrap();

    let outcome = store.transition(stream.id, &to(Cancelled, &[Scheduled], at(50))).await.unwrap();

    let expected = Stream { state: Cancelled, state_since: at(50), updated_at: at(50), rev: 1, ..stream };
    assert_eq!(outcome, Outcome::Changed(expected));
}

pub async fn a_transition_happens_from_the_named_states_only(store: SharedStore) {
    let stream = new_stream(&store).await;

    for from in [vec![], vec![Live], vec![Live, Reconnecting]] {
        let outcome = store.transition(stream.id, &to(Reconnecting, &from, at(10))).await.unwrap();

        assert_eq!(outcome, Outcome::Unchanged(stream.clone()), "{from:?}");
    }
}

pub async fn a_transition_happens_once(store: SharedStore) {
    let stream = new_stream(&store).await;
    let live = store.transition(stream.id, &to(Live, &[Starting, Reconnecting], at(10))).await.unwrap().into_stream();

    let again = store.transition(stream.id, &to(Live, &[Starting, Reconnecting], at(20))).await.unwrap();
    assert_eq!(again, Outcome::Unchanged(live.clone()));
    let in_place = store.transition(stream.id, &to(Live, &StreamState::LIVE, at(30))).await.unwrap();
    assert_eq!(in_place, Outcome::Unchanged(live));
}

pub async fn a_final_state_is_never_left(store: SharedStore) {
    let gone = [ended("ann", at(5)), Stream { state: Cancelled, ..scheduled("bob", at(5)) }];
    let every_state = [Scheduled, Starting, Live, Reconnecting, Ended, Cancelled];
    for stream in gone {
        store.create(&stream).await.unwrap();
        for state in every_state {
            let outcome = store.transition(stream.id, &to(state, &every_state, at(10))).await.unwrap();

            assert_eq!(outcome, Outcome::Unchanged(stream.clone()), "{state:?}");
        }
    }
}

pub async fn of_concurrent_ends_one_wins_and_its_reason_stays(store: SharedStore) {
    let stream = new_stream(&store).await;
    let reasons = [EndReason::Stopped, EndReason::EndedByAdmin, EndReason::RoomFinished, EndReason::MaxDuration];
    let ends = reasons.map(|reason| {
        let (store, id) = (store.clone(), stream.id);
        async move { store.transition(id, &Transition { end_reason: Some(reason), ..end(at(9)) }).await.unwrap() }
    });
    let outcomes = together(ends).await;

    let winners: Vec<_> = outcomes.iter().filter(|outcome| outcome.changed()).collect();
    assert_eq!(winners.len(), 1);
    for outcome in &outcomes {
        assert_eq!(outcome.stream(), winners[0].stream());
    }
}

pub async fn an_end_of_another_room_does_nothing(store: SharedStore) {
    let stream = new_stream(&store).await;
    let in_room = |sid: &str| Transition { room_sid: Some(sid.to_owned()), ..end(at(10)) };
    let noted = store.note_room(stream.id, "RM_new", at(1)).await.unwrap().into_stream();

    let late = store.transition(stream.id, &in_room("RM_old")).await.unwrap();
    assert_eq!(late, Outcome::Unchanged(noted));
    assert!(store.transition(stream.id, &in_room("RM_new")).await.unwrap().changed());
}

pub async fn an_end_of_any_room_holds_while_none_is_noted(store: SharedStore) {
    let stream = new_stream(&store).await;
    let in_room = Transition { room_sid: Some("RM_1".to_owned()), ..end(at(10)) };

    assert!(store.transition(stream.id, &in_room).await.unwrap().changed());
}

pub async fn the_room_of_a_live_stream_is_noted(store: SharedStore) {
    let stream = new_stream(&store).await;

    let noted = store.note_room(stream.id, "RM_1", at(1)).await.unwrap();
    let expected = Stream { room_sid: Some("RM_1".to_owned()), updated_at: at(1), rev: 1, ..stream.clone() };
    assert_eq!(noted, Outcome::Changed(expected.clone()));
    assert_eq!(store.note_room(stream.id, "RM_1", at(2)).await.unwrap(), Outcome::Unchanged(expected));

    let anew = store.note_room(stream.id, "RM_2", at(3)).await.unwrap();
    assert!(anew.changed());
    assert_eq!(anew.stream().room_sid.as_deref(), Some("RM_2"));

    let over = store.transition(stream.id, &end(at(4))).await.unwrap().into_stream();
    assert_eq!(store.note_room(stream.id, "RM_3", at(5)).await.unwrap(), Outcome::Unchanged(over));
}

fn start(room_name: &str) -> StartScheduled {
    StartScheduled {
        room_name: room_name.to_owned(),
        owner_profile: OwnerProfile { name: Some("Ana".to_owned()), picture: None },
        blocks: vec![block("a", at(1)), block("b", at(2))],
        at: at(50),
    }
}

pub async fn a_scheduled_stream_starts(store: SharedStore) {
    let stream = scheduled("ann", at(60));
    store.create(&stream).await.unwrap();

    let started = store.start_scheduled(stream.id, &start("live_ann_1")).await.unwrap();

    let expected = Stream {
        state: Starting,
        state_since: at(50),
        started_at: Some(at(50)),
        room_name: "live_ann_1".to_owned(),
        owner_profile: OwnerProfile { name: Some("Ana".to_owned()), picture: None },
        blocks: vec![block("a", at(1)), block("b", at(2))],
        updated_at: at(50),
        rev: 1,
        ..stream.clone()
    };
    assert_eq!(started, expected);
    assert_eq!(read(&store, stream.id).await, expected);
    assert_eq!(store.count_scheduled(&user("ann")).await.unwrap(), 0);
}

pub async fn of_concurrent_starts_of_a_scheduled_stream_one_wins(store: SharedStore) {
    let stream = scheduled("ann", at(60));
    store.create(&stream).await.unwrap();
    let starts = (0..6).map(|_| {
        let (store, id, room) = (store.clone(), stream.id, unique("live_ann_"));
        async move { store.start_scheduled(id, &start(&room)).await }
    });
    let results = together(starts).await;

    let started = read(&store, stream.id).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for refused in results.into_iter().filter_map(Result::err) {
        assert!(matches!(&refused, CreateError::NotScheduled(now) if **now == started), "{refused:?}");
    }
}

pub async fn a_scheduled_stream_competes_with_a_new_one(store: SharedStore) {
    for round in 0..4 {
        let owner = format!("owner-{round}");
        let stream = scheduled(&owner, at(60));
        store.create(&stream).await.unwrap();
        let (one, other, fresh, room) = (store.clone(), store.clone(), starting(&owner), unique("live_s"));
        let (started, created) = tokio::join!(
            tokio::spawn(async move { one.start_scheduled(stream.id, &start(&room)).await.map(|_| ()) }),
            tokio::spawn(async move { other.create(&fresh).await }),
        );
        let results = [started.unwrap(), created.unwrap()];

        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        assert!(results.iter().any(|result| matches!(result, Err(CreateError::OwnerAlreadyLive))), "{results:?}");
    }
}

pub async fn a_scheduled_stream_that_cannot_start_stays_as_it_is(store: SharedStore) {
    let stream = scheduled("ann", at(60));
    let other = starting("bob");
    store.create(&stream).await.unwrap();
    store.create(&other).await.unwrap();

    let taken = store.start_scheduled(stream.id, &start(&other.room_name)).await;
    assert!(matches!(taken, Err(CreateError::RoomTaken)), "{taken:?}");
    assert_eq!(read(&store, stream.id).await, stream);

    store.transition(stream.id, &to(Cancelled, &[Scheduled], at(40))).await.unwrap();
    let late = store.start_scheduled(stream.id, &start("live_ann_1")).await;
    assert!(matches!(late, Err(CreateError::NotScheduled(now)) if now.state == Cancelled));
}

pub async fn an_edit_changes_what_it_names(store: SharedStore) {
    let stream = new_stream(&store).await;
    let title = Edit { title: Some(Some("new".to_owned())), ..Edit::default() };
    let rest = Edit {
        title: None,
        cover_url: Some(Some("https://example.com/a.png".to_owned())),
        tags: Some(vec!["z".to_owned(), "a".to_owned()]),
    };
    let clear = Edit { title: Some(None), ..Edit::default() };

    let first = store.edit(stream.id, &title, &[Starting], at(1)).await.unwrap().into_stream();
    assert_eq!((first.title.as_deref(), first.cover_url.as_deref(), first.tags.len()), (Some("new"), None, 0));
    let second = store.edit(stream.id, &rest, &[Starting], at(2)).await.unwrap().into_stream();
    assert_eq!(second.title.as_deref(), Some("new"));
    assert_eq!(second.cover_url.as_deref(), Some("https://example.com/a.png"));
    assert_eq!(second.tags, ["z", "a"]);
    let third = store.edit(stream.id, &clear, &[Starting], at(3)).await.unwrap().into_stream();
    assert_eq!(third, Stream { title: None, updated_at: at(3), rev: 3, ..second });
    assert_eq!(read(&store, stream.id).await, third);
}

pub async fn an_edit_happens_in_the_named_states_only(store: SharedStore) {
    let stream = new_stream(&store).await;
    let edit = Edit { title: Some(Some("new".to_owned())), ..Edit::default() };

    assert_eq!(store.edit(stream.id, &edit, &[Scheduled, Live], at(1)).await.unwrap(), Outcome::Unchanged(stream));
}

pub async fn the_last_ended_stream_is_the_one_that_began(store: SharedStore) {
    let never = Stream { end_reason: Some(EndReason::NeverStarted), ..ended("ann", at(300)) };
    let newest = ended("ann", at(200));
    for stream in [ended("ann", at(100)), newest.clone(), never, ended("bob", at(400)), starting("ann")] {
        store.create(&stream).await.unwrap();
    }

    assert_eq!(store.last_ended_of(&user("ann")).await.unwrap(), Some(newest));
}

/// Each is done twice: the first changes the stream, the second finds it as it shall be.
pub async fn rev_rises_with_every_change_and_only_then(store: SharedStore) {
    let stream = new_stream(&store).await;
    let (id, mut known) = (stream.id, stream.clone());
    let edit = Edit { tags: Some(vec!["pet".to_owned()]), ..Edit::default() };
    let settings = ChatSettings { emoji_only: true, ..ChatSettings::default() };
    let mute = Mute { user_id: user("loud"), until: at(5_000) };
    let pinned = message(&stream, 3, "u").message;
    macro_rules! twice {
        ($($write:expr),* $(,)?) => {$(
            let outcome: Outcome = $write.await.unwrap();
            assert!(outcome.changed(), stringify!($write));
            assert_eq!(outcome.stream().rev, known.rev + 1, stringify!($write));
            assert_eq!(read(&store, id).await, *outcome.stream(), stringify!($write));
            known = outcome.into_stream();
            let again: Outcome = $write.await.unwrap();
            assert_eq!(again, Outcome::Unchanged(known.clone()), stringify!($write));
            assert_eq!(read(&store, id).await, known, stringify!($write));
        )*};
    }
    twice!(
        store.note_room(id, "RM_1", at(1)),
        store.transition(id, &to(Live, &[Starting], at(2))),
        store.edit(id, &edit, &[Live], at(3)),
        store.set_flagged(id, at(4)),
        store.block(id, &block("bad", at(5))),
        store.unblock(id, &user("bad"), at(6)),
        store.set_chat_settings(id, &settings, at(7)),
        store.mute(id, &mute, at(8)),
        store.unmute(id, &user("loud"), at(9)),
        store.pin(id, Some(&pinned), at(10)),
        store.pin(id, None, at(11)),
        store.transition(id, &end(at(12))),
    );
    assert_eq!((known.rev, known.updated_at), (12, at(12)));
}

pub async fn concurrent_changes_are_all_there(store: SharedStore) {
    let stream = new_stream(&store).await;
    let blocks = (0..24).map(|n| {
        let (store, id) = (store.clone(), stream.id);
        async move { store.block(id, &block(&format!("user-{n:02}"), at(n))).await.unwrap() }
    });
    let mut revs: Vec<i64> = together(blocks).await.iter().map(|outcome| outcome.stream().rev).collect();
    revs.sort_unstable();

    assert_eq!(revs, (1..=24).collect::<Vec<_>>());
    let known = read(&store, stream.id).await;
    assert_eq!(known.blocks, (0..24).map(|n| block(&format!("user-{n:02}"), at(n))).collect::<Vec<_>>());
}

pub async fn the_time_of_the_last_change_never_falls(store: SharedStore) {
    let stream = new_stream(&store).await;
    store.set_flagged(stream.id, at(100)).await.unwrap();

    let outcome = store.block(stream.id, &block("bad", at(50))).await.unwrap();

    assert!(outcome.changed());
    assert_eq!(outcome.stream().updated_at, at(100));
}

pub async fn a_block_is_entered_once_and_sorted(store: SharedStore) {
    let stream = ended("ann", at(1));
    store.create(&stream).await.unwrap();
    for (id, when) in [("m", 1), ("a", 2), ("z", 3), ("m", 4)] {
        store.block(stream.id, &block(id, at(when))).await.unwrap();
    }

    let known = read(&store, stream.id).await;

    assert_eq!(known.blocks, [block("a", at(2)), block("m", at(1)), block("z", at(3))]);
    assert!(known.blocks(&user("a")) && !known.blocks(&user("b")));
    let left = store.unblock(stream.id, &user("m"), at(5)).await.unwrap().into_stream();
    assert_eq!(left.blocks, [block("a", at(2)), block("z", at(3))]);
}

pub async fn an_owners_own_list_is_kept_apart_from_others(store: SharedStore) {
    let (ann, bob) = (user("ann"), user("bob"));
    let mut with_reason = block("y", at(2));
    with_reason.reason = Some("rude".to_owned());
    assert!(store.owner_block(&ann, &block("z", at(1))).await.unwrap());
    assert!(store.owner_block(&ann, &with_reason).await.unwrap());
    assert!(!store.owner_block(&ann, &block("z", at(9))).await.unwrap());
    assert!(store.owner_block(&bob, &block("z", at(3))).await.unwrap());

    assert_eq!(store.owner_blocks(&ann, 10).await.unwrap(), [with_reason.clone(), block("z", at(1))]);
    assert_eq!(store.owner_blocks(&ann, 1).await.unwrap(), [with_reason.clone()]);
    assert!(store.owner_unblock(&ann, &user("z")).await.unwrap());
    assert!(!store.owner_unblock(&ann, &user("z")).await.unwrap());
    assert_eq!(store.owner_blocks(&ann, 10).await.unwrap(), [with_reason]);
    assert_eq!(store.owner_blocks(&bob, 10).await.unwrap(), [block("z", at(3))]);
}

pub async fn the_store_answers(store: SharedStore) {
    store.ping().await.unwrap();
}
