//! Everything out of a store, and into another.

use std::collections::BTreeMap;

use control::store::chat::{ChatRange, ChatTotals};
use control::store::moderation::{AuditEntry, ReportStatus};
use control::store::presence::Presence;
use control::store::stream::{Block, Stream};
use control::store::{COLLECTIONS, Exported, SharedStore, StoreError};
use serde_json::Value;

use super::fixture::*;
use super::streams::with_every_field;

/// Something in every collection, with ids of both kinds and ids that look like separators.
pub async fn fill(store: &SharedStore) {
    let full = with_every_field();
    let live = starting("u_live");
    for stream in [&full, &live, &scheduled("u_later", at(5)), &ended("u_live", at(6))] {
        store.create(stream).await.unwrap();
    }
    for n in 0..7 {
        let viewer = Presence { counts: n != 3, ..session(&format!("PA_{n}"), &format!("v{}", n % 4), at(n)) };
        store.presence_join(live.id, &viewer).await.unwrap();
        if n % 3 == 0 {
            store.presence_leave(live.id, &viewer, at(50 + n)).await.unwrap();
        }
    }
    store.presence_join(full.id, &session("PA_0", "v1", at(3))).await.unwrap();
    let messages: Vec<_> = (1..8).map(|seq| message(&live, seq, &format!("v{}", seq % 3))).collect();
    store.chat_reserve(live.id, 100, 0).await.unwrap();
    store.chat_append(&messages).await.unwrap();
    store.chat_append(&[message(&full, 1, "v1")]).await.unwrap();
    store.chat_hide(live.id, &messages[2].message.id, &user("mod")).await.unwrap();
    store.chat_add_reactions(live.id, &BTreeMap::from([("❤️".to_owned(), 431), ("a.b".to_owned(), 1)])).await.unwrap();
    store.chat_trim(live.id, 5).await.unwrap();
    for by in ["a", "b", "c"] {
        let new = report(&live, by, at(8));
        store.file_report(&new).await.unwrap();
        if by == "b" {
            store.update_report(&new.id, ReportStatus::Resolved, Some("note"), &user("mod"), at(9)).await.unwrap();
        }
    }
    for (n, id) in ["6b0211223344556677889900", "a/b", "a", "b"].into_iter().enumerate() {
        store.set_ban(&ban(id, at(n as i64))).await.unwrap();
        let own = Block { reason: Some("rude".to_owned()), ..block(id, at(n as i64)) };
        store.owner_block(&user("a"), &own).await.unwrap();
        store.owner_block(&user("a/b"), &block(id, at(n as i64))).await.unwrap();
    }
    store.lift_ban(&user("a"), at(70)).await.unwrap();
    for when in 0..4 {
        let entry = AuditEntry {
            stream_id: (when == 2).then_some(live.id),
            target: Some("v1".to_owned()),
            details: serde_json::json!({"n": when}),
            ..audit_entry(at(when))
        };
        store.append_audit(&entry).await.unwrap();
    }
}

/// All documents of a collection, read by pages, by what they hold: keys differ between stores.
pub async fn documents(store: &SharedStore, collection: &str, limit: usize) -> Vec<Value> {
    let all = export(store, collection, limit).await;
    let mut documents: Vec<_> = all.into_iter().map(|one| one.document).collect();
    documents.sort_by_key(Value::to_string);
    documents
}

async fn export(store: &SharedStore, collection: &str, limit: usize) -> Vec<Exported> {
    let mut all: Vec<Exported> = Vec::new();
    for _ in 0..1_000 {
        let after = all.last().map(|last| last.key.clone());
        let page = store.export(collection, after.as_deref(), limit).await.unwrap();
        if page.is_empty() {
            return all;
        }
        assert!(page.len() <= limit);
        all.extend(page);
    }
    panic!("{collection} does not end");
}

pub async fn every_document_is_exported_once_whatever_the_page(store: SharedStore) {
    fill(&store).await;
    for (collection, count) in COLLECTIONS.into_iter().zip([4, 8, 6, 2, 3, 4, 8, 4]) {
        let at_once = documents(&store, collection, 1_000).await;

        assert_eq!(at_once.len(), count, "{collection}");
        assert_eq!(documents(&store, collection, 1).await, at_once, "{collection}");
        assert_eq!(documents(&store, collection, 3).await, at_once, "{collection}");
    }
}

pub async fn an_exported_stream_is_its_serialized_form(store: SharedStore) {
    let stream = with_every_field();
    store.create(&stream).await.unwrap();

    let documents = documents(&store, "livestreams", 10).await;

    assert_eq!(documents, [serde_json::to_value(&stream).unwrap()]);
}

/// Into the same store: nothing changes, nothing is there twice.
pub async fn importing_again_changes_nothing(store: SharedStore) {
    fill(&store).await;
    for collection in COLLECTIONS {
        let before = export(&store, collection, 100).await;

        store.import(collection, &before).await.unwrap();

        assert_eq!(export(&store, collection, 100).await, before, "{collection}");
    }
}

pub async fn an_imported_document_replaces_the_one_that_is_there(store: SharedStore) {
    let stream = new_stream(&store).await;
    let newer = Stream { title: Some("newer".to_owned()), rev: 9, flagged: true, ..stream.clone() };
    let document = serde_json::to_value(&newer).unwrap();

    store.import("livestreams", &[Exported { key: stream.id.to_string(), document }]).await.unwrap();

    assert_eq!(read(&store, stream.id).await, newer);
}

pub async fn counting_goes_on_from_imported_documents(store: SharedStore) {
    let stream = new_stream(&store).await;
    let id = stream.id.to_string();
    let (there, gone) = (session("PA_1", "a", at(1)), Presence { left_at: Some(at(5)), ..session("PA_2", "b", at(2)) });
    for session in [&there, &gone] {
        let mut document = serde_json::to_value(session).unwrap();
        document["streamId"] = Value::String(id.clone());
        store.import("presence", &[Exported { key: session.sid.clone(), document }]).await.unwrap();
    }
    let totals = serde_json::json!(
        {"streamId": id, "messages": 40, "chatters": ["a", "b"], "reactions": {"❤️": 2}, "lastSeq": 700}
    );
    store.import("chat_totals", &[Exported { key: id.clone(), document: totals }]).await.unwrap();

    let joined = store.presence_join(stream.id, &session("PA_3", "c", at(9))).await.unwrap().stream;
    assert_eq!((joined.viewers, joined.unique_viewers), (2, 3));
    assert_eq!(store.chat_reserve(stream.id, 10, 0).await.unwrap(), 701);
    store.chat_append(&[message(&stream, 701, "b"), message(&stream, 702, "c")]).await.unwrap();
    let expected =
        ChatTotals { messages: 42, chatters: 3, reactions: BTreeMap::from([("❤️".to_owned(), 2)]), last_seq: 710 };
    assert_eq!(store.chat_totals(stream.id).await.unwrap(), expected);
    assert_eq!(store.chat_messages(stream.id, ChatRange::Newest, 10).await.unwrap().len(), 2);
}

pub async fn what_is_no_document_of_a_collection_is_refused(store: SharedStore) {
    let no_document = Exported { key: "k".to_owned(), document: serde_json::json!({"id": 7}) };
    for collection in COLLECTIONS {
        let result = store.import(collection, std::slice::from_ref(&no_document)).await;
        assert!(matches!(result, Err(StoreError::Failed(_))), "{collection}: {result:?}");
    }
    assert!(matches!(store.import("passwords", &[]).await, Err(StoreError::Failed(_))));
    assert!(matches!(store.export("passwords", None, 1).await, Err(StoreError::Failed(_))));
}
