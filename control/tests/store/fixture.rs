//! Records to write, and tasks that write them at the same time.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::atomic::{AtomicU64, Ordering};

use control::clock::Timestamp;
use control::store::SharedStore;
use control::store::chat::{ChatMessage, ChatRole, StoredMessage};
use control::store::moderation::{AuditEntry, Ban, Report, ReportReason, ReportStatus};
use control::store::presence::Presence;
use control::store::stream::{Block, EndReason, Stream, StreamId, StreamState, Transition, UserId};

/// Each rule has a store of its own, so times can be small: milliseconds after the beginning of 2026.
pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000 + millis)
}

pub fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

/// A text that no other call gives.
pub fn unique(prefix: &str) -> String {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}{}", CALLS.fetch_add(1, Ordering::Relaxed))
}

/// An id of a record other than a stream.
pub fn object_id() -> String {
    StreamId::generate().to_string()
}

/// A stream that has just started, in a room of its own.
pub fn starting(owner: &str) -> Stream {
    Stream { room_name: unique("live_"), started_at: Some(at(0)), rev: 0, ..Stream::new(user(owner), at(0)) }
}

pub fn scheduled(owner: &str, for_when: Timestamp) -> Stream {
    Stream {
        room_name: String::new(),
        state: StreamState::Scheduled,
        scheduled_for: Some(for_when),
        started_at: None,
        ..starting(owner)
    }
}

pub fn ended(owner: &str, when: Timestamp) -> Stream {
    Stream { state: StreamState::Ended, end_reason: Some(EndReason::Stopped), ended_at: Some(when), ..starting(owner) }
}

/// Created, and started.
pub async fn new_stream(store: &SharedStore) -> Stream {
    let stream = starting(&unique("owner-"));
    store.create(&stream).await.unwrap();
    stream
}

pub async fn read(store: &SharedStore, id: StreamId) -> Stream {
    store.stream(id).await.unwrap().expect("the stream is there")
}

pub fn end(when: Timestamp) -> Transition {
    Transition {
        from: StreamState::LIVE.to_vec(),
        to: StreamState::Ended,
        at: when,
        end_reason: Some(EndReason::Stopped),
        room_sid: None,
    }
}

pub fn to(state: StreamState, from: &[StreamState], when: Timestamp) -> Transition {
    Transition { from: from.to_vec(), to: state, at: when, end_reason: None, room_sid: None }
}

pub fn block(id: &str, when: Timestamp) -> Block {
    Block { user_id: user(id), blocked_at: when, by: user("admin"), reason: None }
}

/// A viewer's session.
pub fn session(sid: &str, of: &str, joined_at: Timestamp) -> Presence {
    Presence {
        sid: sid.to_owned(),
        identity: format!("{of}:{sid}"),
        user_id: user(of),
        counts: true,
        joined_at,
        left_at: None,
    }
}

pub fn message(stream: &Stream, seq: i64, by: &str) -> StoredMessage {
    StoredMessage {
        stream_id: stream.id,
        message: ChatMessage {
            id: format!("{seq:08}-{}", unique("m")),
            seq,
            text: format!("message {seq}"),
            user_id: user(by),
            name: by.to_owned(),
            role: ChatRole::User,
            sent_at: at(seq),
            client_id: None,
            reply_to: None,
        },
        hidden_by: None,
    }
}

pub fn ban(of: &str, when: Timestamp) -> Ban {
    Ban { user_id: user(of), reason: "spam".to_owned(), until: None, by: user("admin"), at: when, lifted_at: None }
}

/// A line of the audit log about a ban. Later ones have higher ids.
pub fn audit_entry(when: Timestamp) -> AuditEntry {
    AuditEntry {
        id: object_id(),
        at: when,
        actor: user("admin"),
        action: "user.ban".to_owned(),
        stream_id: None,
        target: None,
        details: serde_json::Value::Null,
        request_id: None,
    }
}

pub fn report(stream: &Stream, by: &str, when: Timestamp) -> Report {
    Report {
        id: object_id(),
        stream_id: stream.id,
        reporter: user(by),
        reason: ReportReason::Spam,
        details: None,
        message_id: None,
        user_id: None,
        status: ReportStatus::Open,
        note: None,
        resolved_by: None,
        created_at: when,
        updated_at: when,
    }
}

/// Runs all at the same time, each in a task of its own; what they give, in their order.
pub async fn together<F, T>(tasks: impl IntoIterator<Item = F>) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let running: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in running {
        results.push(task.await.expect("no task panics"));
    }
    results
}
