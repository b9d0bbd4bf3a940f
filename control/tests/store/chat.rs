//! Chat: numbers that never repeat, messages that are kept once, sums that outlive them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use control::store::chat::{
    ChatMessage, ChatRange, ChatRole, ChatSettings, ChatTotals, Mute, StoredMessage, WordFilter,
};
use control::store::stream::{Stream, StreamId};
use control::store::{SharedStore, StoreError};

use super::fixture::*;

async fn append_numbered(store: &SharedStore, stream: &Stream, count: i64) -> Vec<StoredMessage> {
    let messages: Vec<_> = (1..=count).map(|seq| message(stream, seq, &format!("u{}", seq % 3))).collect();
    store.chat_append(&messages).await.unwrap();
    messages
}

async fn seqs(store: &SharedStore, id: StreamId, range: ChatRange, limit: usize) -> Vec<i64> {
    store.chat_messages(id, range, limit).await.unwrap().iter().map(|message| message.seq).collect()
}

pub async fn every_field_of_a_message_is_kept(store: SharedStore) {
    let stream = new_stream(&store).await;
    let plain = message(&stream, 1, "u_1");
    let full = StoredMessage {
        message: ChatMessage {
            text: "<b>❤️</b> 'quoted' \"twice\"\nline".to_owned(),
            role: ChatRole::Owner,
            client_id: Some("c-1".to_owned()),
            reply_to: Some(plain.message.id.clone()),
            ..message(&stream, 2, "6b0211223344556677889900").message
        },
        hidden_by: Some(user("6b0211223344556677889901")),
        ..plain.clone()
    };
    store.chat_append(&[plain.clone(), full.clone()]).await.unwrap();

    for stored in [plain, full] {
        let id = stored.message.id.clone();
        assert_eq!(store.chat_message(stream.id, &id).await.unwrap(), Some(stored));
    }
    for id in ["nope", "", "' OR 1=1 --"] {
        assert_eq!(store.chat_message(stream.id, id).await.unwrap(), None);
    }
}

pub async fn numbers_are_reserved_from_one_upwards(store: SharedStore) {
    let stream = new_stream(&store).await;

    assert_eq!(store.chat_reserve(stream.id, 100, 0).await.unwrap(), 1);
    assert_eq!(store.chat_reserve(stream.id, 1, 0).await.unwrap(), 101);
    assert_eq!(store.chat_reserve(stream.id, 10, 0).await.unwrap(), 102);
    assert_eq!(store.chat_totals(stream.id).await.unwrap().last_seq, 111);
    assert_eq!(store.chat_reserve(new_stream(&store).await.id, 5, 0).await.unwrap(), 1, "each stream has its own");
}

/// A node that sent messages while the store was away goes on above them.
pub async fn reserved_numbers_are_above_those_that_are_known(store: SharedStore) {
    let stream = new_stream(&store).await;

    assert_eq!(store.chat_reserve(stream.id, 10, 500).await.unwrap(), 501);
    assert_eq!(store.chat_reserve(stream.id, 10, 20).await.unwrap(), 511);
    assert_eq!(store.chat_reserve(stream.id, 10, 900).await.unwrap(), 901);
    assert_eq!(store.chat_totals(stream.id).await.unwrap().last_seq, 910);
}

pub async fn concurrent_reservations_never_overlap(store: SharedStore) {
    let stream = new_stream(&store).await;
    let reservations = (0..24).map(|n: u32| {
        let (store, id, count) = (store.clone(), stream.id, 1 + n % 4);
        async move {
            let first = store.chat_reserve(id, count, 0).await.unwrap();
            (first..first + i64::from(count)).collect::<Vec<_>>()
        }
    });
    let numbers: Vec<i64> = together(reservations).await.concat();

    let distinct: BTreeSet<_> = numbers.iter().copied().collect();
    assert_eq!(distinct, (1..=60).collect());
    assert_eq!(numbers.len(), 60);
}

pub async fn messages_are_read_in_rising_order(store: SharedStore) {
    let stream = new_stream(&store).await;
    append_numbered(&store, &stream, 10).await;
    let other = new_stream(&store).await;
    append_numbered(&store, &other, 3).await;

    for (range, limit, expected) in [
        (ChatRange::Newest, 3, vec![8, 9, 10]),
        (ChatRange::Newest, 100, (1..=10).collect()),
        (ChatRange::Before(8), 3, vec![5, 6, 7]),
        (ChatRange::Before(2), 3, vec![1]),
        (ChatRange::Before(1), 3, vec![]),
        (ChatRange::Before(i64::MIN), 3, vec![]),
        (ChatRange::After(8), 3, vec![9, 10]),
        (ChatRange::After(0), 3, vec![1, 2, 3]),
        (ChatRange::After(10), 3, vec![]),
        (ChatRange::After(i64::MAX), 3, vec![]),
    ] {
        assert_eq!(seqs(&store, stream.id, range, limit).await, expected, "{range:?}");
    }
    assert_eq!(seqs(&store, StreamId::generate(), ChatRange::Newest, 3).await, [0_i64; 0]);
}

pub async fn a_message_is_kept_and_counted_once(store: SharedStore) {
    let stream = new_stream(&store).await;
    let messages = append_numbered(&store, &stream, 4).await;
    let altered = StoredMessage {
        message: ChatMessage { text: "altered".to_owned(), ..messages[0].message.clone() },
        ..messages[0].clone()
    };
    let more = message(&stream, 5, "u9");

    store.chat_append(&[altered, messages[3].clone(), more]).await.unwrap();

    assert_eq!(store.chat_message(stream.id, &messages[0].message.id).await.unwrap().as_ref(), Some(&messages[0]));
    assert_eq!(seqs(&store, stream.id, ChatRange::Newest, 10).await, [1, 2, 3, 4, 5]);
    let totals = store.chat_totals(stream.id).await.unwrap();
    assert_eq!((totals.messages, totals.chatters), (5, 4));
}

pub async fn messages_of_several_streams_are_stored_together(store: SharedStore) {
    let (one, two) = (new_stream(&store).await, new_stream(&store).await);

    store.chat_append(&[message(&one, 1, "a"), message(&two, 1, "a"), message(&one, 2, "b")]).await.unwrap();

    assert_eq!(seqs(&store, one.id, ChatRange::Newest, 10).await, [1, 2]);
    assert_eq!(seqs(&store, two.id, ChatRange::Newest, 10).await, [1]);
    assert_eq!(store.chat_totals(one.id).await.unwrap().chatters, 2);
    assert_eq!(store.chat_totals(two.id).await.unwrap().chatters, 1);
    store.chat_append(&[]).await.unwrap();
}

pub async fn a_hidden_message_is_kept_but_not_read(store: SharedStore) {
    let stream = new_stream(&store).await;
    let messages = append_numbered(&store, &stream, 4).await;
    let (id, first, second) = (messages[1].message.id.clone(), user("mod-1"), user("mod-2"));

    assert!(store.chat_hide(stream.id, &id, &first).await.unwrap());
    assert!(!store.chat_hide(stream.id, &id, &second).await.unwrap());

    let kept = store.chat_message(stream.id, &id).await.unwrap();
    assert_eq!(kept, Some(StoredMessage { hidden_by: Some(first), ..messages[1].clone() }));
    assert_eq!(seqs(&store, stream.id, ChatRange::Newest, 3).await, [1, 3, 4], "a page is full without it");
    assert_eq!(seqs(&store, stream.id, ChatRange::After(1), 1).await, [3]);
    assert_eq!(store.chat_totals(stream.id).await.unwrap().messages, 4);
    let unknown = store.chat_hide(stream.id, "nope", &second).await;
    assert!(matches!(unknown, Err(StoreError::NotFound)), "{unknown:?}");
    let elsewhere = store.chat_hide(new_stream(&store).await.id, &id, &second).await;
    assert!(matches!(elsewhere, Err(StoreError::NotFound)), "{elsewhere:?}");
}

pub async fn all_messages_of_a_user_are_hidden_at_once(store: SharedStore) {
    let (stream, other) = (new_stream(&store).await, new_stream(&store).await);
    let messages = append_numbered(&store, &stream, 9).await;
    append_numbered(&store, &other, 9).await;
    store.chat_hide(stream.id, &messages[0].message.id, &user("first")).await.unwrap();

    assert_eq!(store.chat_hide_user(stream.id, &user("u1"), &user("mod")).await.unwrap(), 2);
    assert_eq!(store.chat_hide_user(stream.id, &user("u1"), &user("mod")).await.unwrap(), 0);

    assert_eq!(seqs(&store, stream.id, ChatRange::Newest, 10).await, [2, 3, 5, 6, 8, 9]);
    assert_eq!(seqs(&store, other.id, ChatRange::Newest, 10).await.len(), 9);
    let first = store.chat_message(stream.id, &messages[0].message.id).await.unwrap().unwrap();
    assert_eq!(first.hidden_by, Some(user("first")));
}

pub async fn only_the_newest_messages_are_kept_and_the_totals_stay(store: SharedStore) {
    let (stream, other) = (new_stream(&store).await, new_stream(&store).await);
    let messages = append_numbered(&store, &stream, 10).await;
    append_numbered(&store, &other, 3).await;
    store.chat_reserve(stream.id, 10, 0).await.unwrap();
    store.chat_hide(stream.id, &messages[8].message.id, &user("mod")).await.unwrap();
    let before = store.chat_totals(stream.id).await.unwrap();

    assert_eq!(store.chat_trim(stream.id, 20).await.unwrap(), 0);
    assert_eq!(store.chat_trim(stream.id, 4).await.unwrap(), 6);
    assert_eq!(store.chat_trim(stream.id, 4).await.unwrap(), 0);

    assert_eq!(seqs(&store, stream.id, ChatRange::Newest, 10).await, [7, 8, 10], "the hidden one is the fourth");
    assert_eq!(seqs(&store, other.id, ChatRange::Newest, 10).await, [1, 2, 3]);
    assert_eq!(store.chat_totals(stream.id).await.unwrap(), before);
    store.chat_append(&[message(&stream, 11, "u1")]).await.unwrap();
    let after = store.chat_totals(stream.id).await.unwrap();
    assert_eq!((after.messages, after.chatters), (11, 3), "a user who was trimmed away is no new one");
    assert_eq!(store.chat_trim(stream.id, 0).await.unwrap(), 5);
}

pub async fn messages_of_streams_that_ended_before_the_retention_are_removed(store: SharedStore) {
    let retention = Duration::from_secs(7 * 24 * 3600);
    let now = 10 * 24 * 3600 * 1000;
    let long_ago = now - 7 * 24 * 3600 * 1000;
    let (live, old, recent) = (new_stream(&store).await, ended("b", at(long_ago - 1)), ended("c", at(long_ago)));
    for stream in [&old, &recent] {
        store.create(stream).await.unwrap();
    }
    for stream in [&live, &old, &recent] {
        append_numbered(&store, stream, 3).await;
    }

    store.expire(at(now), retention).await.unwrap();

    for (stream, left) in [(&live, 3), (&old, 0), (&recent, 3)] {
        assert_eq!(seqs(&store, stream.id, ChatRange::Newest, 10).await.len(), left);
        assert_eq!(store.chat_totals(stream.id).await.unwrap().messages, 3);
    }
}

pub async fn reactions_add_up(store: SharedStore) {
    let stream = new_stream(&store).await;
    assert_eq!(store.chat_totals(stream.id).await.unwrap(), ChatTotals::default());
    let counts = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
        pairs.iter().map(|(emoji, count)| ((*emoji).to_owned(), *count)).collect()
    };

    store.chat_add_reactions(stream.id, &counts(&[("❤️", 12), ("🔥", 1)])).await.unwrap();
    store.chat_add_reactions(stream.id, &counts(&[])).await.unwrap();
    store.chat_add_reactions(stream.id, &counts(&[("❤️", 3), ("a.b", 1), ("$x", 2)])).await.unwrap();

    let expected = counts(&[("❤️", 15), ("🔥", 1), ("a.b", 1), ("$x", 2)]);
    assert_eq!(store.chat_totals(stream.id).await.unwrap().reactions, expected);
}

pub async fn concurrent_reactions_and_messages_are_all_counted(store: SharedStore) {
    let stream = new_stream(&store).await;
    let writes = (0..12).map(|n| {
        let (store, id, own) = (store.clone(), stream.id, message(&stream, n, &format!("u{}", n % 5)));
        async move {
            store.chat_add_reactions(id, &BTreeMap::from([("❤️".to_owned(), 2)])).await.unwrap();
            store.chat_append(&[own]).await.unwrap();
        }
    });
    together(writes).await;

    let totals = store.chat_totals(stream.id).await.unwrap();
    assert_eq!((totals.messages, totals.chatters, totals.reactions["❤️"]), (12, 5, 24));
}

pub async fn settings_mutes_and_pin_are_the_streams_own(store: SharedStore) {
    let stream = new_stream(&store).await;
    let settings = ChatSettings { slow_mode_seconds: 30, filter: WordFilter::Mask, ..ChatSettings::default() };
    let mute = |id: &str, until: i64| Mute { user_id: user(id), until: at(until) };
    let pinned = message(&stream, 3, "u").message;

    store.set_chat_settings(stream.id, &settings, at(1)).await.unwrap();
    store.mute(stream.id, &mute("z", 9_000), at(2)).await.unwrap();
    store.mute(stream.id, &mute("a", 9_000), at(3)).await.unwrap();
    store.pin(stream.id, Some(&pinned), at(4)).await.unwrap();
    let longer = store.mute(stream.id, &mute("z", 9_500), at(5)).await.unwrap();

    assert!(longer.changed());
    let known = read(&store, stream.id).await;
    assert_eq!(known.mutes, [mute("a", 9_000), mute("z", 9_500)]);
    assert_eq!((&known.chat_settings, known.pinned.as_ref()), (&settings, Some(&pinned)));
    let unmuted = store.unmute(stream.id, &user("a"), at(6)).await.unwrap().into_stream();
    assert_eq!(unmuted.mutes, [mute("z", 9_500)]);
    let unpinned = store.pin(stream.id, None, at(7)).await.unwrap().into_stream();
    assert_eq!(unpinned, Stream { pinned: None, rev: 7, updated_at: at(7), ..unmuted });
    assert_eq!(read(&store, new_stream(&store).await.id).await.chat_settings, ChatSettings::default());
}
