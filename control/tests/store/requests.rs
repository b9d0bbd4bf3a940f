//! What is known of requests for a while: idempotency keys, limits, webhooks, notes between nodes; and how it goes.

use std::collections::BTreeMap;
use std::time::Duration;

use control::clock::Timestamp;
use control::store::chat::{ChatNote, ChatRange, Relayed};
use control::store::stream::{Stream, StreamId};
use control::store::{Claimed, IdempotencyKey, LEASE_FREE, NodeSign, SharedStore, Taken};
use serde_json::json;

use super::fixture::*;

fn key(of: &str, operation: &'static str, text: &str) -> IdempotencyKey {
    IdempotencyKey { user: user(of), operation, key: text.to_owned() }
}

const DAY_MS: i64 = 24 * 3600 * 1000;

pub async fn the_first_request_with_a_key_is_carried_out(store: SharedStore) {
    let (start, answer) = (key("a", "start", "k"), json!({"streamId": "6b02", "n": [1, null]}));
    let claim =
        async |key: &IdempotencyKey, body: &str, now| store.idempotency_claim(key, body, at(now)).await.unwrap();

    assert_eq!(claim(&start, "body", 0).await, Claimed::New);
    assert_eq!(claim(&start, "body", 1).await, Claimed::Pending);
    assert_eq!(claim(&start, "other", 2).await, Claimed::OtherBody);
    store.idempotency_finish(&start, &answer).await.unwrap();
    assert_eq!(claim(&start, "body", 3).await, Claimed::Finished(answer.clone()));
    assert_eq!(claim(&start, "other", 4).await, Claimed::OtherBody);
    assert_eq!(claim(&start, "body", DAY_MS - 1).await, Claimed::Finished(answer));

    for other in [key("b", "start", "k"), key("a", "scheduled", "k"), key("a", "start", "K")] {
        assert_eq!(claim(&other, "body", 5).await, Claimed::New, "{other:?}");
    }
}

pub async fn a_key_is_free_again_after_a_day(store: SharedStore) {
    let start = key("a", "start", "k");
    store.idempotency_claim(&start, "body", at(0)).await.unwrap();
    store.idempotency_finish(&start, &json!(1)).await.unwrap();

    assert_eq!(store.idempotency_claim(&start, "other", at(DAY_MS + 1)).await.unwrap(), Claimed::New);
    assert_eq!(store.idempotency_claim(&start, "other", at(DAY_MS + 2)).await.unwrap(), Claimed::Pending);
}

pub async fn a_claim_that_was_never_finished_is_given_anew(store: SharedStore) {
    let start = key("a", "start", "k");
    store.idempotency_claim(&start, "body", at(0)).await.unwrap();
    assert_eq!(store.idempotency_claim(&start, "body", at(59_999)).await.unwrap(), Claimed::Pending);

    assert_eq!(store.idempotency_claim(&start, "body", at(60_001)).await.unwrap(), Claimed::New);
    assert_eq!(store.idempotency_claim(&start, "body", at(60_002)).await.unwrap(), Claimed::Pending);
}

pub async fn a_failed_request_gives_its_key_back(store: SharedStore) {
    let start = key("a", "start", "k");
    store.idempotency_claim(&start, "body", at(0)).await.unwrap();
    store.idempotency_release(&start).await.unwrap();
    assert_eq!(store.idempotency_claim(&start, "other", at(1)).await.unwrap(), Claimed::New);

    store.idempotency_finish(&start, &json!("done")).await.unwrap();
    store.idempotency_release(&start).await.unwrap();
    assert_eq!(store.idempotency_claim(&start, "other", at(2)).await.unwrap(), Claimed::Finished(json!("done")));

    store.idempotency_release(&key("a", "start", "unknown")).await.unwrap();
    store.idempotency_finish(&key("a", "start", "unknown"), &json!(1)).await.unwrap();
}

pub async fn of_concurrent_requests_with_a_key_one_is_carried_out(store: SharedStore) {
    let claims = (0..8).map(|_| {
        let store = store.clone();
        async move { store.idempotency_claim(&key("a", "start", "k"), "body", at(0)).await.unwrap() }
    });
    let claimed = together(claims).await;

    assert_eq!(claimed.iter().filter(|claimed| **claimed == Claimed::New).count(), 1);
    assert_eq!(claimed.iter().filter(|claimed| **claimed == Claimed::Pending).count(), 7);
}

async fn take(store: &SharedStore, key: &str, max: u32, now: i64) -> Taken {
    store.limit_take(key, max, Duration::from_millis(100), at(now)).await.unwrap()
}

fn refused(until: i64) -> Taken {
    Taken::Refused { until: at(until) }
}

pub async fn a_limit_slides(store: SharedStore) {
    assert_eq!(take(&store, "k", 3, 0).await, Taken::Granted);
    assert_eq!(take(&store, "k", 3, 40).await, Taken::Granted);
    assert_eq!(take(&store, "k", 3, 80).await, Taken::Granted);
    assert_eq!(take(&store, "k", 3, 99).await, refused(100));
    assert_eq!(take(&store, "other", 3, 99).await, Taken::Granted);
    assert_eq!(take(&store, "k", 3, 100).await, Taken::Granted, "the first unit is free again");
    assert_eq!(take(&store, "k", 3, 101).await, refused(140), "a refusal takes nothing");
    assert_eq!(take(&store, "k", 3, 140).await, Taken::Granted);
    assert_eq!(take(&store, "k", 3, 141).await, refused(180));
    assert_eq!(take(&store, "k", 3, 5_000).await, Taken::Granted);
}

pub async fn a_unit_of_a_clock_that_was_ahead_counts_for_nobody(store: SharedStore) {
    assert_eq!(take(&store, "k", 1, DAY_MS).await, Taken::Granted);
    assert_eq!(take(&store, "k", 1, DAY_MS - 60_000).await, refused(DAY_MS + 100), "clocks of nodes differ as much");

    assert_eq!(take(&store, "k", 1, 0).await, Taken::Granted);
    assert_eq!(take(&store, "k", 1, 50).await, refused(100));
    assert_eq!(take(&store, "k", 1, 100).await, Taken::Granted);
}

pub async fn a_claim_of_a_clock_that_was_ahead_is_given_anew(store: SharedStore) {
    let start = key("a", "start", "k");
    let claim = async |now| store.idempotency_claim(&start, "body", at(now)).await.unwrap();
    assert_eq!(claim(DAY_MS).await, Claimed::New);
    assert_eq!(claim(DAY_MS - 60_000).await, Claimed::Pending, "clocks of nodes differ as much");

    assert_eq!(claim(0).await, Claimed::New);
    store.idempotency_finish(&start, &json!(1)).await.unwrap();
    assert_eq!(claim(-DAY_MS / 2).await, Claimed::Finished(json!(1)), "an answer is as good by any clock");
}

/// What a clock that was ahead noted does not stay until that time comes.
pub async fn upkeep_removes_what_a_clock_that_was_ahead_noted(store: SharedStore) {
    let ahead = 40 * DAY_MS;
    let start = key("a", "start", "k");
    store.idempotency_claim(&start, "body", at(ahead)).await.unwrap();
    store.idempotency_finish(&start, &json!(1)).await.unwrap();
    store.note_webhook("EV_1", at(ahead)).await.unwrap();

    store.expire(at(0), Duration::ZERO).await.unwrap();

    assert_eq!(store.idempotency_claim(&start, "other", at(0)).await.unwrap(), Claimed::New);
    assert!(!store.webhook_handled("EV_1", at(0)).await.unwrap());
}

pub async fn a_limit_that_was_lowered_holds_at_once(store: SharedStore) {
    for now in [0, 10, 20, 30] {
        assert_eq!(take(&store, "k", 4, now).await, Taken::Granted);
    }
    assert_eq!(take(&store, "k", 2, 50).await, refused(120), "the second newest must go first");
    assert_eq!(take(&store, "k", 2, 119).await, refused(120));
    assert_eq!(take(&store, "k", 2, 120).await, Taken::Granted);
    assert_eq!(take(&store, "none", 0, 50).await, refused(150));
}

pub async fn a_unit_that_is_given_back_can_be_taken_again(store: SharedStore) {
    assert_eq!(take(&store, "k", 2, 5).await, Taken::Granted);
    assert_eq!(take(&store, "k", 2, 5).await, Taken::Granted);
    assert_eq!(take(&store, "k", 2, 6).await, refused(105));

    store.limit_give_back("k", at(5)).await.unwrap();
    assert_eq!(take(&store, "k", 2, 7).await, Taken::Granted);
    assert_eq!(take(&store, "k", 2, 8).await, refused(105), "one of two that were taken at the same time came back");

    store.limit_give_back("k", at(999)).await.unwrap();
    store.limit_give_back("unknown", at(5)).await.unwrap();
    assert_eq!(take(&store, "k", 2, 9).await, refused(105));
}

pub async fn a_limit_is_exact_under_concurrency(store: SharedStore) {
    let takes = (0..20).map(|n| {
        let store = store.clone();
        async move { take(&store, "k", 5, n % 3).await }
    });
    let taken = together(takes).await;

    assert_eq!(taken.iter().filter(|taken| **taken == Taken::Granted).count(), 5);
}

pub async fn a_handled_webhook_is_known_for_a_day(store: SharedStore) {
    assert!(!store.webhook_handled("EV_1", at(0)).await.unwrap());
    store.note_webhook("EV_1", at(0)).await.unwrap();
    store.note_webhook("EV_1", at(0)).await.unwrap();

    assert!(store.webhook_handled("EV_1", at(1)).await.unwrap());
    assert!(store.webhook_handled("EV_1", at(DAY_MS - 1)).await.unwrap());
    assert!(!store.webhook_handled("EV_1", at(DAY_MS + 1)).await.unwrap());
    assert!(!store.webhook_handled("EV_2", at(1)).await.unwrap());
}

fn note(stream: &Stream, node: &str, id: &str, when: i64, note: ChatNote) -> Relayed {
    Relayed { id: id.to_owned(), node: node.to_owned(), stream_id: stream.id, at: at(when), note }
}

pub async fn nodes_read_what_others_noted(store: SharedStore) {
    let stream = new_stream(&store).await;
    let deleted = ChatNote::Deleted { id: "m".to_owned(), seq: 4 };
    let notes = [
        note(&stream, "n1", "01A", 1, ChatNote::Message { message: message(&stream, 3, "u").message }),
        note(&stream, "n2", "01C", 2, ChatNote::Cleared { user_id: user("u") }),
        note(&stream, "n1", "01B", 2, ChatNote::Reactions { counts: BTreeMap::from([("❤️".to_owned(), 3)]) }),
        note(&stream, "n1", "01D", 3, deleted),
    ];
    store.relay(&notes).await.unwrap();
    store.relay(&notes[..1]).await.unwrap();
    store.relay(&[]).await.unwrap();
    let [first, cleared, reactions, last] = notes;
    let since = async |signs: &[(&str, i64)], limit| {
        let signs: Vec<_> = signs.iter().map(|(node, when)| sign(node, *when)).collect();
        store.relayed_since(&signs, limit).await.unwrap()
    };

    assert_eq!(since(&[("n1", 0)], 10).await, [first.clone(), reactions.clone(), last.clone()]);
    assert_eq!(since(&[("n2", 0)], 10).await, std::slice::from_ref(&cleared));
    assert_eq!(since(&[("n1", 2), ("n2", 2)], 10).await, [reactions.clone(), cleared.clone(), last.clone()]);
    assert_eq!(since(&[("n1", 3), ("n2", 0)], 10).await, [cleared, last], "of each from a time of its own on");
    assert_eq!(since(&[("n1", 0), ("n2", 0)], 2).await, [first, reactions]);
    assert_eq!(since(&[("n1", 4), ("n2", 3), ("n3", 0)], 2).await, []);
    assert_eq!(since(&[], 2).await, []);
}

fn sign(node: &str, when: i64) -> NodeSign {
    NodeSign { node: node.to_owned(), at: at(when) }
}

pub async fn nodes_hear_what_each_other_one_said_last(store: SharedStore) {
    let announce = async |node: &str, now| store.announce_node(node, at(now)).await.unwrap();

    assert_eq!(announce("n1", 0).await, []);
    assert_eq!(announce("n1", 10).await, []);
    assert_eq!(announce("n2", 50).await, [sign("n1", 10)]);
    assert_eq!(announce("n3", -60_000).await, [sign("n2", 50), sign("n1", 10)]);
    assert_eq!(announce("n1", 155).await, [sign("n2", 50), sign("n3", -60_000)]);
}

/// What is past its time counts as gone whether or not it was removed; what is not past its time is never removed.
pub async fn upkeep_removes_nothing_that_is_still_needed(store: SharedStore) {
    let now = DAY_MS;
    let retention = Duration::from_secs(7 * 24 * 3600);
    let (stream, over) = (new_stream(&store).await, ended("ann", at(now - 1_000)));
    store.create(&over).await.unwrap();
    store.chat_append(&[message(&stream, 1, "u"), message(&over, 1, "u")]).await.unwrap();
    store.idempotency_claim(&key("a", "start", "k"), "body", at(now - 1_000)).await.unwrap();
    store.idempotency_finish(&key("a", "start", "k"), &json!(1)).await.unwrap();
    store.limit_take("k", 1, Duration::from_secs(3600), at(now - 1_000)).await.unwrap();
    store.note_webhook("EV_1", at(now - 1_000)).await.unwrap();
    store.relay(&[note(&stream, "n1", "01A", now - 1_000, ChatNote::Cleared { user_id: user("u") })]).await.unwrap();

    store.expire(at(now), retention).await.unwrap();

    for id in [stream.id, over.id] {
        assert_eq!(store.chat_messages(id, ChatRange::Newest, 10).await.unwrap().len(), 1);
    }
    let claimed = store.idempotency_claim(&key("a", "start", "k"), "body", at(now)).await.unwrap();
    assert_eq!(claimed, Claimed::Finished(json!(1)));
    let taken = store.limit_take("k", 1, Duration::from_secs(3600), at(now)).await.unwrap();
    assert_eq!(taken, refused(now - 1_000 + 3_600_000));
    assert!(store.webhook_handled("EV_1", at(now)).await.unwrap());
    assert_eq!(store.relayed_since(&[sign("n1", 0)], 10).await.unwrap().len(), 1);
}

pub async fn a_retention_beyond_all_time_does_no_harm(store: SharedStore) {
    store.expire(Timestamp::from_millis(0), Duration::MAX).await.unwrap();
    store.expire(at(0), Duration::ZERO).await.unwrap();
}

pub async fn a_room_is_leased_to_the_node_that_renews_it_and_each_change_raises_the_epoch(store: SharedStore) {
    let stream = StreamId::generate();
    let lease = async |node: &str, when| {
        let lease = store.lease_room(stream, node, at(when)).await.unwrap();
        assert_eq!(store.room_lease(stream, at(when)).await.unwrap(), Some(lease.clone()));
        (lease.node.unwrap(), lease.epoch, lease.renewed_at)
    };
    let minute = i64::try_from(LEASE_FREE.as_millis()).unwrap();
    let of = |node: &str, epoch, when| (node.to_owned(), epoch, at(when));
    assert_eq!(store.room_lease(stream, at(0)).await.unwrap(), None);

    assert_eq!(lease("n1", 0).await, of("n1", 1, 0));
    assert_eq!(lease("n2", minute - 1).await, of("n1", 1, 0), "it is another's");
    assert_eq!(lease("n1", minute - 1).await, of("n1", 1, minute - 1), "its own");
    assert_eq!(lease("n2", 2 * minute - 2).await, of("n1", 1, minute - 1));
    assert_eq!(lease("n2", 2 * minute - 1).await, of("n2", 2, 2 * minute - 1), "it was not renewed");
    assert_eq!(lease("n1", 2 * minute).await, of("n2", 2, 2 * minute - 1));
    assert_eq!(lease("n1", 9 * minute).await, of("n1", 3, 9 * minute));
    assert_eq!(lease("n1", 99 * minute).await, of("n1", 3, 99 * minute), "nobody had it between");

    let other = StreamId::generate();
    assert_eq!(store.lease_room(other, "n2", at(0)).await.unwrap().epoch, 1);
    // Of a clock that was far ahead.
    assert_eq!(store.room_lease(stream, at(0)).await.unwrap(), None);
    assert_eq!(store.lease_room(stream, "n2", at(0)).await.unwrap().epoch, 4);
}
