//! What holds for the embedded store only: its file outlives the process, whatever ends it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use control::store::chat::ChatRange;
use control::store::embedded::{Durability, Embedded, Options};
use control::store::moderation::AuditEntry;
use control::store::stream::{Stream, StreamFilter, StreamId, StreamOrder, StreamState};
use control::store::{SharedStore, StoreError, unreadable};

use super::fixture::*;
use super::place::Folder;

/// Set for the process that writes until it is killed: the file that it writes to.
const WRITER_VARIABLE: &str = "ONAIR_TEST_STORE_WRITER";
/// Lines that are read before the writer is killed.
const WRITES: usize = 200;

fn open(file: &Path) -> SharedStore {
    Arc::new(Embedded::open(file, &Options::default()).unwrap())
}

#[tokio::test]
async fn what_was_written_is_there_when_the_file_is_opened_again() {
    let folder = Folder::new();
    let written = open(&folder.file());
    let stream = new_stream(&written).await;
    written.chat_append(&[message(&stream, 1, "u")]).await.unwrap();

    for durability in [Durability::Normal, Durability::Full] {
        let store: SharedStore = Arc::new(Embedded::open(&folder.file(), &Options { durability }).unwrap());

        assert_eq!(read(&store, stream.id).await, stream);
        assert_eq!(store.chat_totals(stream.id).await.unwrap().messages, 1);
        store.set_ban(&ban("x", at(1))).await.unwrap();
    }
}

/// What a disk that fails or a hand in the file may leave.
#[tokio::test]
async fn a_row_that_cannot_be_read_hides_no_others_and_cuts_no_page_short() {
    let folder = Folder::new();
    let store = open(&folder.file());
    let mut streams = Vec::new();
    for number in 0..6 {
        let stream = Stream { created_at: at(number), updated_at: at(number), ..starting(&unique("owner-")) };
        store.create(&stream).await.unwrap();
        streams.push(stream);
    }
    let (stream, by) = (&streams[0], user("admin"));
    for number in 1..=3 {
        let name = format!("user-{number}");
        store.presence_join(stream.id, &session(&format!("PA_{number}"), &name, at(number))).await.unwrap();
        store.set_ban(&ban(&name, at(number))).await.unwrap();
        store.owner_block(&by, &block(&name, at(number))).await.unwrap();
        store.chat_append(&[message(stream, number, &name)]).await.unwrap();
        store.file_report(&report(stream, &name, at(number))).await.unwrap();
        store.append_audit(&AuditEntry { actor: user(&name), ..audit_entry(at(number)) }).await.unwrap();
    }
    let before = unreadable::passed_over();
    let raw = rusqlite::Connection::open(folder.file()).unwrap();
    let too_long = "x".repeat(200);
    raw.execute("UPDATE streams SET tags = '[' WHERE id = ?1", [streams[5].id.to_string()]).unwrap();
    raw.execute("UPDATE streams SET viewers = -1 WHERE id = ?1", [streams[3].id.to_string()]).unwrap();
    for (table, column, key) in [
        ("presence", "user_id", "sid = 'PA_2'"),
        ("bans", "user_id", "user_id = 'user-2'"),
        ("owner_blocks", "user_id", "user_id = 'user-2'"),
        ("chat_messages", "name", "user_id = 'user-2'"),
        ("reports", "status", "reporter = 'user-2'"),
        ("audit", "actor", "actor = 'user-2'"),
    ] {
        // Text that is none.
        let sql = format!("UPDATE {table} SET {column} = CAST(x'ff' || ?1 AS TEXT) WHERE {key}");
        assert_eq!(raw.execute(&sql, [&too_long]).unwrap(), 1, "{table}");
    }

    let live = StreamFilter { states: StreamState::LIVE.to_vec(), ..StreamFilter::default() };
    let page = store.streams(&live, StreamOrder::NewestFirst, None, 3).await.unwrap();
    assert_eq!(page.iter().map(|stream| stream.id).collect::<Vec<_>>(), [4, 2, 1].map(|number| streams[number].id));
    assert_eq!(store.streams_changed_since(at(2), 10).await.unwrap().len(), 3, "and the one that counts");
    assert_eq!(store.presence_open(stream.id).await.unwrap().len(), 2);
    assert_eq!(store.presence_all(stream.id, 2).await.unwrap().len(), 2);
    assert_eq!(store.bans_changed_since(at(0), 2).await.unwrap().len(), 2);
    assert_eq!(store.owner_blocks(&by, 2).await.unwrap().len(), 2);
    assert_eq!(store.chat_messages(stream.id, ChatRange::Newest, 2).await.unwrap().len(), 2);
    assert_eq!(store.reports(None, None, None, 2).await.unwrap().len(), 2);
    assert_eq!(store.audit(None, None, 2).await.unwrap().len(), 2);
    assert!(unreadable::passed_over() >= before + 8);
    assert!(matches!(store.stream(streams[5].id).await, Err(StoreError::Failed(_))), "who asks for it is told");
    assert!(store.export("livestreams", None, 10).await.is_err(), "and nothing is copied without it");
}

#[tokio::test]
async fn a_store_in_memory_follows_the_same_rules() {
    let store: SharedStore = Arc::new(Embedded::in_memory().unwrap());
    super::presence::concurrent_events_in_any_order_end_at_the_true_numbers(store.clone()).await;
    super::chat::every_field_of_a_message_is_kept(store.clone()).await;
    assert!(!store.is_shared());
}

#[test]
fn a_new_file_is_private_and_its_folder_is_made() {
    let folder = Folder::new();
    let file = folder.file().with_file_name("deeper").join("onair.db");

    Embedded::open(&file, &Options::default()).unwrap();

    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn what_is_no_database_is_refused_with_its_path() {
    let folder = Folder::new();
    let file = folder.file();
    std::fs::write(&file, "certainly no database, and long enough that it cannot be mistaken for one. ".repeat(20))
        .unwrap();

    let Err(StoreError::Unavailable(text)) = Embedded::open(&file, &Options::default()) else {
        panic!("it was opened")
    };

    assert!(text.contains(&file.display().to_string()), "{text}");
}

#[tokio::test]
async fn chat_of_streams_that_ended_long_ago_is_removed() {
    let folder = Folder::new();
    let store = open(&folder.file());
    let retention = std::time::Duration::from_millis(1_000);
    let (live, old, recent) = (starting("a"), ended("b", at(100)), ended("c", at(5_000)));
    for stream in [&live, &old, &recent] {
        store.create(stream).await.unwrap();
        let messages: Vec<_> = (1..2_500).map(|seq| message(stream, seq, "u")).collect();
        store.chat_append(&messages).await.unwrap();
    }
    store.limit_take("k", 1, retention, at(0)).await.unwrap();
    store.note_webhook("EV_1", at(0)).await.unwrap();

    store.expire(at(5_500), retention).await.unwrap();

    for (stream, left) in [(&live, 2_499), (&old, 0), (&recent, 2_499)] {
        let range = control::store::chat::ChatRange::Newest;
        assert_eq!(store.chat_messages(stream.id, range, 5_000).await.unwrap().len(), left);
        assert_eq!(store.chat_totals(stream.id).await.unwrap().messages, 2_499);
    }
}

/// The writer of the next test: says what the store reported as done, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_it_is_killed_if_it_is_asked_to() {
    let Some(file) = std::env::var_os(WRITER_VARIABLE).map(PathBuf::from) else { return };
    let store = open(&file);
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        async move {
            for n in 0..1_000_000 {
                let stream = new_stream(&store).await;
                store.presence_join(stream.id, &session("PA_1", "viewer", at(n))).await.unwrap();
                store.chat_append(&[message(&stream, 1, "viewer")]).await.unwrap();
                store.set_ban(&ban(stream.owner_id.as_str(), at(n))).await.unwrap();
                store.file_report(&report(&stream, "viewer", at(n))).await.unwrap();
                let mut out = std::io::stdout().lock();
                // Nobody reads any more: the test is over.
                if writeln!(out, "written {writer} {}", stream.id).and_then(|()| out.flush()).is_err() {
                    return;
                }
            }
        }
    });
    together(writers).await;
}

#[tokio::test]
async fn what_was_reported_as_done_outlives_a_kill() {
    let folder = Folder::new();
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::embedded::writes_until_it_is_killed_if_it_is_asked_to", "--nocapture"])
        .env(WRITER_VARIABLE, folder.file())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    // The harness's own output may share a line with the first of ours; the kill may cut the last one short.
    let id = |line: String| line.split_once("written ")?.1.get(2..)?.parse::<StreamId>().ok();
    let mut reported: Vec<_> = lines.by_ref().filter_map(id).take(WRITES).collect();
    writer.kill().unwrap();
    writer.wait().unwrap();
    reported.extend(lines.filter_map(id));

    let store = open(&folder.file());
    assert!(reported.len() >= WRITES);
    for id in reported {
        let stream = read(&store, id).await;
        assert_eq!((stream.viewers, stream.peak_viewers, stream.unique_viewers), (1, 1, 1));
        assert_eq!(store.presence_open(id).await.unwrap().len(), 1);
        assert_eq!(store.chat_totals(id).await.unwrap().messages, 1);
        assert!(store.ban(&stream.owner_id).await.unwrap().is_some());
        assert_eq!(store.reports(None, Some(id), None, 10).await.unwrap().len(), 1);
    }
}

#[test]
fn a_database_of_another_application_is_left_as_it_is() {
    let folder = Folder::new();
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.execute_batch("CREATE TABLE streams (name TEXT); INSERT INTO streams VALUES ('mine')").unwrap();
    drop(other);
    let before = std::fs::read(folder.file()).unwrap();

    let refused = Embedded::open(&folder.file(), &Options::default()).map(drop);

    assert!(
        matches!(&refused, Err(StoreError::Unavailable(text)) if text.contains("another application")),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(folder.file()).unwrap(), before);
    for text in ["notes of mine, which are no database at all", "x"] {
        std::fs::write(folder.file(), text).unwrap();
        assert!(Embedded::open(&folder.file(), &Options::default()).is_err(), "{text}");
        assert_eq!(std::fs::read_to_string(folder.file()).unwrap(), text);
    }
}

#[tokio::test]
async fn a_ping_shows_that_a_page_can_be_written_and_costs_one_now_and_then() {
    let folder = Folder::new();
    let store = open(&folder.file());
    let log = || std::fs::metadata(folder.file().with_file_name("onair.db-wal")).unwrap().len();
    let before = log();

    store.ping().await.unwrap();
    let after = log();
    for _ in 0..3 {
        store.ping().await.unwrap();
    }

    assert!(after > before, "{before} bytes before, {after} after");
    assert_eq!(log(), after);
}

#[tokio::test]
async fn a_store_that_is_settled_is_one_file() {
    let folder = Folder::new();
    let (file, copy) = (folder.file(), folder.file().with_file_name("copy.db"));
    let store = open(&file);
    let stream = new_stream(&store).await;

    store.settle().await.unwrap();
    std::fs::copy(&file, &copy).unwrap();

    assert_eq!(read(&open(&copy), stream.id).await, stream);
}

#[tokio::test]
async fn a_file_that_is_not_where_it_was_is_no_store() {
    let folder = Folder::new();
    let (file, away) = (folder.file(), folder.file().with_file_name("away"));
    let store = open(&file);

    std::fs::rename(&file, &away).unwrap();
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(text)) if text.contains("gone")));
    std::fs::copy(&away, &file).unwrap();
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(text)) if text.contains("another file")));
    std::fs::rename(&away, &file).unwrap();
    store.ping().await.unwrap();
}
