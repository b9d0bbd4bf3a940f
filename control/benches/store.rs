//! What the operations cost on which a stream's life depends: on the embedded store, and on MongoDB if `MONGODB_URI`
//! names one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use control::clock::Timestamp;
use control::store::SharedStore;
use control::store::chat::{ChatMessage, ChatRole, StoredMessage};
use control::store::embedded::{Durability, Embedded, Options};
use control::store::mongo::Mongo;
use control::store::presence::Presence;
use control::store::stream::{
    EndReason, OwnerProfile, PageEnd, Stream, StreamFilter, StreamId, StreamOrder, StreamState, UserId,
};
use divan::Bencher;
use divan::counter::ItemsCount;
use futures_util::future::join_all;
use tokio::runtime::Runtime;

const LIVE: i64 = 1_000;
const ENDED: i64 = 10_000;
/// Viewers who are there while others come and go.
const AUDIENCE: u32 = 5_000;
/// Operations under way at once.
const TASKS: usize = 32;
/// Pairs of a join and a leave in one sample.
const PAIRS: usize = 640;
/// Streams on a page.
const PAGE: usize = 20;

fn main() {
    divan::main();
}

/// Which store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Sqlite,
    SqliteFullSync,
    Mongo,
}

fn kinds() -> Vec<Kind> {
    let mongo = std::env::var_os("MONGODB_URI").map(|_| Kind::Mongo);
    [Kind::Sqlite, Kind::SqliteFullSync].into_iter().chain(mongo).collect()
}

/// A store of a benchmark's own, which is gone with this value.
struct Subject {
    runtime: Runtime,
    store: SharedStore,
    kind: Kind,
    name: String,
}

impl Subject {
    fn new(kind: Kind) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
        let name = format!("onair_bench_{}_{}", std::process::id(), next());
        let store = runtime.block_on(open(kind, &name));
        Self { runtime, store, kind, name }
    }

    /// With as many streams as a service of some size has.
    fn filled(kind: Kind) -> Self {
        let subject = Self::new(kind);
        let live = (0..LIVE).map(|n| stream(n, StreamState::Live));
        let streams: Vec<_> = live.chain((0..ENDED).map(|n| stream(n, StreamState::Ended))).collect();
        subject.runtime.block_on(async {
            for some in streams.chunks(TASKS) {
                let created = join_all(some.iter().map(|stream| subject.store.create(stream))).await;
                created.into_iter().for_each(|created| created.expect("the stream is new"));
            }
        });
        subject
    }

    /// The same store with nothing in its caches, as far as they are ours.
    fn cold(&self) -> SharedStore {
        self.runtime.block_on(open(self.kind, &self.name))
    }

    fn page(&self, store: &SharedStore, after: Option<&PageEnd>) -> Vec<Stream> {
        let live = StreamFilter { states: StreamState::LIVE.to_vec(), ..StreamFilter::default() };
        let page = self.runtime.block_on(store.streams(&live, StreamOrder::StartedLast, after, PAGE));
        page.expect("the store answers")
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        match self.kind {
            Kind::Sqlite | Kind::SqliteFullSync => {
                for end in ["", "-wal", "-shm"] {
                    let _ = std::fs::remove_file(format!("{}{end}", file(&self.name).display()));
                }
            }
            Kind::Mongo => self.runtime.block_on(async {
                if let Ok(client) = mongodb::Client::with_uri_str(mongodb_uri()).await {
                    let _ = client.database(&self.name).drop().await;
                }
            }),
        }
    }
}

async fn open(kind: Kind, name: &str) -> SharedStore {
    let embedded = |durability| Embedded::open(&file(name), &Options { durability }).expect("the file can be used");
    match kind {
        Kind::Sqlite => Arc::new(embedded(Durability::Normal)),
        Kind::SqliteFullSync => Arc::new(embedded(Durability::Full)),
        Kind::Mongo => {
            let patience = Duration::from_secs(10);
            Arc::new(Mongo::connect(&mongodb_uri(), Some(name), patience).await.expect("MongoDB answers"))
        }
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.db"))
}

fn mongodb_uri() -> String {
    std::env::var("MONGODB_URI").expect("it was there before")
}

/// A number that was not given before.
fn next() -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    CALLS.fetch_add(1, Ordering::Relaxed)
}

fn user(id: &str) -> UserId {
    id.parse().expect("a short text is an id")
}

fn stream(n: i64, state: StreamState) -> Stream {
    let time = Timestamp::from_millis(1_767_225_600_000 + n * 1_000);
    let over = state == StreamState::Ended;
    Stream {
        owner_profile: OwnerProfile { name: Some("Ana".to_owned()), picture: None },
        room_name: format!("live_{}", next()),
        room_sid: Some("RM_1".to_owned()),
        title: Some("A stream with a title of the usual length".to_owned()),
        cover_url: Some("https://example.com/cover.png".to_owned()),
        tags: vec!["pet".to_owned(), "live".to_owned()],
        state,
        end_reason: over.then_some(EndReason::Stopped),
        started_at: Some(time),
        ended_at: over.then_some(time),
        rev: 0,
        ..Stream::new(user(&format!("owner-{}", next())), time)
    }
}

/// The first page of what is live, from a store that was just opened.
#[divan::bench(args = kinds(), sample_count = 20, sample_size = 1)]
fn first_page_cold(bencher: Bencher, kind: Kind) {
    let subject = Subject::filled(kind);
    bencher.with_inputs(|| subject.cold()).bench_refs(|store| {
        assert_eq!(subject.page(store, None).len(), PAGE);
    });
}

#[divan::bench(args = kinds())]
fn first_page_warm(bencher: Bencher, kind: Kind) {
    let subject = Subject::filled(kind);
    bencher.bench(|| subject.page(&subject.store, None));
}

/// A page in the middle costs what the first one costs.
#[divan::bench(args = kinds())]
fn page_in_the_middle(bencher: Bencher, kind: Kind) {
    let subject = Subject::filled(kind);
    let middle = PageEnd { key: 1_767_225_600_000 + LIVE / 2 * 1_000, id: "f".repeat(24) };
    bencher.bench(|| subject.page(&subject.store, Some(&middle)));
}

/// Sessions that come and go among an audience that stays. Items are pairs of a join and a leave.
#[divan::bench(args = kinds(), sample_count = 20, sample_size = 1)]
fn presence_of_many_at_once(bencher: Bencher, kind: Kind) {
    let (subject, id) = with_audience(kind);
    bencher.counter(ItemsCount::new(PAIRS)).bench(|| {
        subject.runtime.block_on(join_all((0..TASKS).map(|_| {
            let store = subject.store.clone();
            subject.runtime.spawn(async move {
                for _ in 0..PAIRS / TASKS {
                    come_and_go(&store, id).await;
                }
            })
        })))
    });
}

/// The same, one after the other: what one caller waits for a join and a leave.
#[divan::bench(args = kinds(), sample_count = 50)]
fn presence_of_one(bencher: Bencher, kind: Kind) {
    let (subject, id) = with_audience(kind);
    bencher.bench(|| subject.runtime.block_on(come_and_go(&subject.store, id)));
}

fn with_audience(kind: Kind) -> (Subject, StreamId) {
    let subject = Subject::new(kind);
    let stream = stream(0, StreamState::Live);
    let sessions: Vec<_> = (0..AUDIENCE).map(|_| session()).collect();
    subject.runtime.block_on(async {
        subject.store.create(&stream).await.expect("the stream is new");
        for some in sessions.chunks(TASKS) {
            let joined = join_all(some.iter().map(|session| subject.store.presence_join(stream.id, session))).await;
            assert!(joined.into_iter().all(|joined| joined.is_ok()));
        }
    });
    (subject, stream.id)
}

fn session() -> Presence {
    let n = next();
    let (sid, user_id) = (format!("PA_{n}"), user(&format!("viewer-{n}")));
    let identity = format!("{user_id}:12345678");
    Presence { sid, identity, user_id, counts: true, joined_at: Timestamp::now(), left_at: None }
}

async fn come_and_go(store: &SharedStore, id: StreamId) {
    let session = session();
    store.presence_join(id, &session).await.expect("the stream is there");
    let left = store.presence_leave(id, &session, Timestamp::now()).await.expect("the stream is there");
    assert!(left.stream.viewers >= AUDIENCE);
}

/// A message as the chat keeps it: one of a few that are written together.
#[divan::bench(args = kinds())]
fn ten_chat_messages(bencher: Bencher, kind: Kind) {
    let subject = Subject::new(kind);
    let stream = stream(0, StreamState::Live);
    subject.runtime.block_on(subject.store.create(&stream)).expect("the stream is new");
    let messages = || (0..10).map(|_| message(stream.id)).collect::<Vec<_>>();
    bencher
        .with_inputs(messages)
        .input_counter(|messages: &Vec<_>| ItemsCount::of_iter(messages))
        .bench_refs(|messages| subject.runtime.block_on(subject.store.chat_append(messages)).expect("they are new"));
}

fn message(stream_id: StreamId) -> StoredMessage {
    let n = next();
    StoredMessage {
        stream_id,
        message: ChatMessage {
            id: format!("01J{n:023}"),
            seq: i64::try_from(n).expect("there are few"),
            text: "what a lovely dog, is it yours?".to_owned(),
            user_id: user(&format!("viewer-{}", n % 500)),
            name: "Ben".to_owned(),
            role: ChatRole::User,
            sent_at: Timestamp::now(),
            client_id: None,
            reply_to: None,
        },
        hidden_by: None,
    }
}
