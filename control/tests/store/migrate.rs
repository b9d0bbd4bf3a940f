//! `onair migrate`: everything arrives, also when it stops on the way.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use control::clock::Timestamp;
use control::migrate::{self, Bookmark, BookmarkError};
use control::store::directory;
use control::store::embedded::{self, Embedded};
use control::store::mongo::Mongo;
use control::store::{COLLECTIONS, NodeStore as _, SharedStore};
use tokio_util::sync::CancellationToken;

use super::fixture::*;
use super::place::Folder;
use super::transfer::{documents, fill};
use crate::mongo::{fresh_database, shared_uri};

/// Messages: more than a batch.
const MANY: i64 = 1_300;

async fn fill_to_overflow(store: &SharedStore) {
    fill(store).await;
    let stream = new_stream(store).await;
    let messages: Vec<_> = (1..=MANY).map(|seq| message(&stream, seq, &format!("u{}", seq % 40))).collect();
    store.chat_append(&messages).await.unwrap();
}

async fn assert_equal(one: &SharedStore, other: &SharedStore) {
    for collection in COLLECTIONS {
        assert_eq!(documents(one, collection, 700).await, documents(other, collection, 900).await, "{collection}");
    }
}

fn in_memory() -> SharedStore {
    Arc::new(Embedded::in_memory().unwrap())
}

/// One of the rules for every store: from the embedded one into `store`, and from there into another.
pub async fn everything_arrives_in_both_directions(store: SharedStore) {
    let folder = Folder::new();
    let (source, back) = (in_memory(), in_memory());
    fill_to_overflow(&source).await;
    for (from, to) in [(&source, &store), (&store, &back)] {
        let mut bookmark = Bookmark::open(&folder.file(), "a").unwrap();
        let mut counts = BTreeMap::new();

        let progress = |collection: &'static str, copied| {
            counts.insert(collection, copied);
        };
        migrate::run(from.as_ref(), to.as_ref(), &mut bookmark, progress).await.unwrap();

        for collection in COLLECTIONS {
            assert_eq!(counts[collection], documents(from, collection, 900).await.len() as u64, "{collection}");
        }
        bookmark.remove().unwrap();
    }
    assert_equal(&source, &store).await;
    assert_equal(&source, &back).await;
}

/// One of the rules for every store.
pub async fn a_migration_may_be_repeated(store: SharedStore) {
    let folder = Folder::new();
    let source = in_memory();
    fill(&source).await;
    for round in 0..2 {
        let mut bookmark = Bookmark::open(&folder.file(), "a").unwrap();
        assert!(bookmark.is_new(), "{round}");
        migrate::run(source.as_ref(), store.as_ref(), &mut bookmark, |_, _| ()).await.unwrap();
        bookmark.remove().unwrap();
    }
    assert_equal(&source, &store).await;
}

/// Runs until one batch is copied, and drops the run while it is at the next. True: it came to its end.
async fn run_for_one_batch(from: &SharedStore, to: &SharedStore, bookmark: &mut Bookmark) -> bool {
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let mut seen = BTreeMap::new();
    let progress = |collection, copied| {
        if seen.insert(collection, copied).is_some() {
            let _ = told.send(());
        }
    };
    tokio::select! {
        biased;
        Some(()) = heard.recv() => false,
        done = migrate::run(from.as_ref(), to.as_ref(), bookmark, progress) => done.map(|()| true).unwrap(),
    }
}

#[tokio::test]
async fn an_interrupted_migration_goes_on_where_it_was() {
    let folder = Folder::new();
    let (source, target) = (in_memory(), in_memory());
    fill_to_overflow(&source).await;
    let mut copied_before = 0;
    for run in 0..100 {
        // As a new process would.
        let mut bookmark = Bookmark::open(&folder.file(), "a").unwrap();
        assert_eq!(bookmark.is_new(), run == 0);
        if run_for_one_batch(&source, &target, &mut bookmark).await {
            assert!(run > 0, "it was never interrupted");
            assert_equal(&source, &target).await;
            return;
        }
        let copied: u64 = COLLECTIONS.map(|collection| bookmark.copied(collection)).iter().sum();
        assert!(copied > copied_before, "it began again instead of going on");
        copied_before = copied;
    }
    panic!("the migration never ends");
}

fn command(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_onair")).arg("migrate").args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn the_command_copies_one_file_into_another() {
    let (one, two) = (Folder::new(), Folder::new());
    let open = |folder: &Folder| -> SharedStore {
        Arc::new(Embedded::open(&folder.file(), &embedded::Options::default()).unwrap())
    };
    let source = open(&one);
    fill(&source).await;
    let (from, to) = (one.file().display().to_string(), two.file().display().to_string());

    let (success, text) = command(&["--from", &from, "--to", &to]);

    assert!(success && text.contains("4 livestreams") && text.contains("Everything is copied"), "{text}");
    assert_equal(&source, &open(&two)).await;
    assert!(!one.file().with_file_name("onair-migrate.json").exists());
}

#[test]
fn the_command_refuses_what_makes_no_sense() {
    let folder = Folder::new();
    let file = folder.file().display().to_string();
    for (arguments, expected) in [
        (vec!["--from", &file, "--to", &file], "the same store"),
        (vec!["--from", &file, "--to", "mongodb://127.0.0.1"], "there is no database"),
        (vec!["--from", &file], "where to?"),
    ] {
        let (success, text) = command(&arguments);

        assert!(!success && text.contains(expected), "{arguments:?}: {text}");
        assert!(!folder.file().exists(), "a database was made by asking for one");
    }
}

#[tokio::test]
async fn what_the_command_writes_is_accepted_as_store_path() {
    let folder = Folder::new();
    let source: SharedStore = Arc::new(Embedded::open(&folder.file(), &embedded::Options::default()).unwrap());
    fill(&source).await;
    let directory = folder.file().with_file_name("not-there-yet");
    let (from, to) = (folder.file().display().to_string(), directory.display().to_string());

    let (success, text) = command(&["--from", &from, "--to", &to]);

    assert!(success, "{text}");
    let written: SharedStore =
        Arc::new(Embedded::open(&directory.join(embedded::FILE), &embedded::Options::default()).unwrap());
    assert_equal(&source, &written).await;
}

#[test]
fn the_command_writes_into_no_file_that_no_server_would_find() {
    let folder = Folder::new();
    drop(Embedded::open(&folder.file(), &embedded::Options::default()).unwrap());
    let other = folder.file().with_file_name("notes.txt");
    std::fs::write(&other, "mine").unwrap();

    let (success, text) =
        command(&["--from", &folder.file().display().to_string(), "--to", &other.display().to_string()]);

    assert!(!success && text.contains("a directory"), "{text}");
    assert_eq!(std::fs::read_to_string(other).unwrap(), "mine");
}

#[test]
fn the_command_refuses_while_a_server_is_at_work_on_either_file() {
    let (one, two) = (Folder::new(), Folder::new());
    drop(Embedded::open(&one.file(), &embedded::Options::default()).unwrap());
    let arguments = ["--from", &one.file().display().to_string(), "--to", &two.file().display().to_string()];
    for served in [&one, &two] {
        // As a server does.
        let _claim = directory::claim(served.file().parent().unwrap()).unwrap();

        let (success, text) = command(&arguments);

        assert!(!success && text.contains("at work") && text.contains("stop it"), "{text}");
    }
    assert!(command(&arguments).0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_refuses_while_a_server_is_at_work_on_the_database() {
    let folder = Folder::new();
    drop(Embedded::open(&folder.file(), &embedded::Options::default()).unwrap());
    let uri = tokio::task::spawn_blocking(shared_uri).await.unwrap();
    let place = format!("{}/{}", uri.trim_end_matches('/'), fresh_database());
    let served = Arc::new(Mongo::connect(&place, None, Duration::from_secs(30)).await.unwrap());
    // As every server does, so that others know of it.
    let (node, stop) = (Arc::clone(&served), CancellationToken::new());
    let stopped = stop.clone();
    let serving = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            node.announce_node("n1", Timestamp::now()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    while !served.is_served().await.unwrap() {}
    let file = folder.file().display().to_string();

    for (from, to) in [(&file, &place), (&place, &file)] {
        let (from, to) = (from.clone(), to.clone());
        let run = tokio::task::spawn_blocking(move || command(&["--from", &from, "--to", &to]));
        let (success, text) = run.await.unwrap();

        assert!(!success && text.contains("at work") && text.contains("stop it"), "{text}");
    }
    stop.cancel();
    serving.await.unwrap();
    assert!(!served.is_served().await.unwrap(), "one that says nothing any more is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_reads_from_no_database_that_holds_nothing_and_leaves_it_as_it_is() {
    let uri = tokio::task::spawn_blocking(shared_uri).await.unwrap();
    let client = mongodb::Client::with_uri_str(&uri).await.unwrap();
    let (mistyped, others, folder) = (fresh_database(), fresh_database(), Folder::new());
    // An application's own, in a database that no server was started on.
    let streams = client.database(&others).collection::<mongodb::bson::Document>("livestreams");
    streams.insert_one(mongodb::bson::doc! { "title": "mine" }).await.unwrap();
    for name in [&mistyped, &others] {
        let (from, to) = (format!("{}/{name}", uri.trim_end_matches('/')), folder.file().display().to_string());

        let run = tokio::task::spawn_blocking(move || command(&["--from", &from, "--to", &to]));
        let (success, text) = run.await.unwrap();

        assert!(!success && text.contains("--from") && text.contains("has no data"), "{text}");
    }
    assert!(!client.list_database_names().await.unwrap().contains(&mistyped), "it was made by asking for it");
    assert_eq!(client.database(&others).list_collection_names().await.unwrap(), ["livestreams"]);
    let made = streams.list_index_names().await.unwrap();
    assert!(made.iter().all(|name| name == "_id_"), "{made:?}");
}

#[test]
fn a_bookmark_of_another_migration_is_left_alone() {
    let folder = Folder::new();
    std::fs::write(folder.file(), r#"{"migration": "b", "collections": {}}"#).unwrap();
    assert!(matches!(Bookmark::open(&folder.file(), "a"), Err(BookmarkError::OtherMigration(_))));

    std::fs::write(folder.file(), "{").unwrap();
    assert!(matches!(Bookmark::open(&folder.file(), "a"), Err(BookmarkError::Damaged(_))));
}
