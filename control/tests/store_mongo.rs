//! What the store on MongoDB does beyond the rules of all stores (`store.rs`): databases of applications that were
//! there before, outages, and several processes on one database.

#[path = "store/fixture.rs"]
mod fixture;
#[path = "support/mongo.rs"]
mod mongo;
#[path = "support/ports.rs"]
mod ports;

use std::sync::Arc;
use std::time::Duration;

use control::store::chat::Mute;
use control::store::moderation::AuditEntry;
use control::store::mongo::Mongo;
use control::store::presence::Presence;
use control::store::stream::{
    Block, Edit, EndReason, Outcome, OwnerProfile, PageEnd, StartScheduled, Stream, StreamFilter, StreamId,
    StreamOrder, StreamState, Transition,
};
use control::store::{
    ChatStore as _, CreateError, LEASE, ModerationStore as _, NodeStore as _, PresenceStore as _, RequestStore as _,
    Store as _, StoreError, StreamStore as _, Taken, unreadable,
};
use fixture::{at, audit_entry, ban, block, user};
use futures_util::TryStreamExt;
use mongo::{MongoServer, fresh_database, shared_uri};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, Collection, Database, IndexModel};

/// Longest wait for a database that was just started.
const CONNECT_MAX: Duration = Duration::from_secs(30);

/// Longest time of an operation against a database that is away, on a busy machine.
const FAILURE_MAX: Duration = Duration::from_secs(60);

async fn connect(uri: &str, database: &str) -> Mongo {
    Mongo::connect(uri, Some(database), CONNECT_MAX).await.expect("the database is there")
}

/// A database as an application before us sees it.
async fn raw(uri: &str, database: &str) -> Database {
    Client::with_uri_str(uri).await.expect("it is a URI").database(database)
}

fn date(millis: i64) -> DateTime {
    DateTime::from_millis(at(millis).millis())
}

fn starting(owner: &str, room: &str) -> Stream {
    Stream { room_name: room.to_owned(), ..fixture::starting(owner) }
}

fn session(sid: &str, of: &str) -> Presence {
    fixture::session(sid, of, at(1))
}

fn live() -> StreamFilter {
    StreamFilter { states: StreamState::LIVE.to_vec(), ..StreamFilter::default() }
}

// ---- databases of applications that were there before

/// As mongoose writes it.
fn document_of_the_seed(owner: ObjectId, room: &str, is_live: bool, started: i64) -> Document {
    doc! {
        "_id": ObjectId::new(), "ownerId": owner, "roomName": room, "title": "Walk", "isLive": is_live,
        "startedAt": date(started), "viewers": 2, "tags": ["pet", "live"], "blockedUserIds": [],
        "createdAt": date(started), "updatedAt": date(started), "__v": 0,
    }
}

async fn index_of_the_seed(streams: &Collection<Document>, name: &str, keys: Document, unique: bool) {
    let options = IndexOptions::builder().name(name.to_owned()).unique(unique.then_some(true)).build();
    let index = IndexModel::builder().keys(keys).options(options).build();
    streams.create_index(index).await.expect("the index is made");
}

async fn index_names(streams: &Collection<Document>) -> Vec<String> {
    streams.list_index_names().await.expect("the collection is there")
}

fn id_of(document: &Document) -> StreamId {
    StreamId::from(document.get_object_id("_id").expect("it has one"))
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_the_seeds_application_are_read_listed_and_changed() {
    let (uri, name) = (shared_uri(), fresh_database());
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let owner = ObjectId::new();
    let (running, over) =
        (document_of_the_seed(owner, "live_a_2", true, 2), document_of_the_seed(owner, "live_a_1", false, 1));
    streams.insert_many([&running, &over]).await.expect("they are written");
    let store = connect(&uri, &name).await;

    let listed = store.streams(&live(), StreamOrder::StartedLast, None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|stream| stream.id).collect::<Vec<_>>(), [id_of(&running)]);
    assert_eq!((listed[0].state, listed[0].viewers, listed[0].rev), (StreamState::Live, 2, 0));
    assert_eq!(listed[0].owner_id.as_str(), owner.to_hex());
    let ended = store.stream(id_of(&over)).await.unwrap().expect("it is there");
    assert_eq!(ended.state, StreamState::Ended);
    assert_eq!(store.stream_of_room("live_a_2").await.unwrap().map(|stream| stream.id), Some(id_of(&running)));

    let blocked = ObjectId::new().to_hex();
    let block = Block { user_id: user(&blocked), blocked_at: at(3), by: user(&owner.to_hex()), reason: None };
    assert!(store.block(id_of(&running), &block).await.unwrap().changed());
    let joined = store.presence_join(id_of(&running), &session("PA_1", "ann")).await.unwrap();
    assert_eq!((joined.stream.viewers, joined.stream.peak_viewers), (1, 2));
    let end = Transition {
        from: vec![StreamState::Live],
        to: StreamState::Ended,
        at: at(9),
        end_reason: Some(EndReason::Stopped),
        room_sid: Some("RM_1".into()),
    };
    assert!(store.transition(id_of(&running), &end).await.unwrap().changed());

    let written = streams.find_one(doc! { "_id": id_of(&running) }).await.unwrap().expect("it is there");
    assert_eq!(written.get("isLive"), Some(&Bson::Boolean(false)));
    assert_eq!(written.get("endedAt"), Some(&Bson::DateTime(date(9))));
    let blocked_ids = written.get_array("blockedUserIds").expect("it has some");
    assert_eq!(blocked_ids[0].as_object_id().map(|id| id.to_hex()), Some(blocked));
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_indexes_under_other_names_are_accepted_and_do_their_work() {
    let (uri, name) = (shared_uri(), fresh_database());
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    index_of_the_seed(&streams, "isLive_1_startedAt_-1", doc! { "isLive": 1, "startedAt": -1 }, false).await;
    index_of_the_seed(&streams, "by_owner", doc! { "ownerId": 1, "isLive": 1 }, false).await;
    index_of_the_seed(&streams, "rooms", doc! { "roomName": 1 }, true).await;

    let store = connect(&uri, &name).await;
    let again = connect(&uri, &name).await;

    let names = index_names(&streams).await;
    assert!(names.contains(&"rooms".to_owned()) && !names.contains(&"roomName_1".to_owned()), "{names:?}");
    store.create(&starting("ann", "live_ann_1")).await.unwrap();
    assert!(matches!(again.create(&starting("bob", "live_ann_1")).await, Err(CreateError::RoomTaken)));
    assert!(matches!(again.create(&starting("ann", "live_ann_2")).await, Err(CreateError::OwnerAlreadyLive)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_live_streams_that_an_owner_left_behind_the_newest_goes_on() {
    let (uri, name) = (shared_uri(), fresh_database());
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let owner = ObjectId::new();
    let documents: Vec<_> =
        (1..=3).map(|number| document_of_the_seed(owner, &format!("live_a_{number}"), true, number)).collect();
    streams.insert_many(&documents).await.expect("they are written");

    let store = connect(&uri, &name).await;

    let listed = store.streams(&live(), StreamOrder::StartedLast, None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|stream| stream.id).collect::<Vec<_>>(), [id_of(&documents[2])]);
    let older = store.stream(id_of(&documents[0])).await.unwrap().expect("it is there");
    assert_eq!((older.state, older.end_reason), (StreamState::Ended, Some(EndReason::ServerLost)));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_live_streams_of_one_owner_are_merged_at_the_start_whatever_the_spelling() {
    let (uri, name) = (shared_uri(), fresh_database());
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let owner = ObjectId::new();
    let (older, newer) =
        (document_of_the_seed(owner, "live_a_1", true, 1), document_of_the_seed(owner, "live_a_2", true, 2));
    let mut spelt = older.clone();
    spelt.insert("ownerId", owner.to_hex());
    streams.insert_many([&spelt, &newer]).await.expect("they are written");

    let store = connect(&uri, &name).await;

    let listed = store.streams(&live(), StreamOrder::StartedLast, None, 10).await.unwrap();
    assert_eq!(listed.iter().map(|stream| stream.id).collect::<Vec<_>>(), [id_of(&newer)]);
    let ended = store.stream(id_of(&older)).await.unwrap().expect("it is there");
    assert_eq!((ended.state, ended.end_reason), (StreamState::Ended, Some(EndReason::ServerLost)));
    assert_eq!((ended.viewers, ended.peak_viewers), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_stream_competes_with_a_live_one_of_the_same_owner_in_another_spelling() {
    let (uri, name) = (shared_uri(), fresh_database());
    let store = connect(&uri, &name).await;
    let owner = ObjectId::new();
    let planned = Stream { state: StreamState::Scheduled, ..starting(&owner.to_hex(), "") };
    store.create(&planned).await.unwrap();
    let mut document = document_of_the_seed(owner, "live_a_1", true, 1);
    document.insert("ownerId", owner.to_hex());
    raw(&uri, &name).await.collection::<Document>("livestreams").insert_one(&document).await.expect("it is written");

    let start = StartScheduled {
        room_name: "live_a_2".into(),
        owner_profile: OwnerProfile::default(),
        blocks: Vec::new(),
        at: at(5),
    };
    let refused = store.start_scheduled(planned.id, &start).await;

    assert!(matches!(refused, Err(CreateError::OwnerAlreadyLive)), "{refused:?}");
}

/// Documents that are no streams, since no user can be their owner, or they have no room.
fn documents_that_are_no_streams() -> Vec<Document> {
    let mut all = Vec::new();
    for owner in [Some(Bson::Int32(7)), Some(Bson::Int32(7)), Some(Bson::from("")), Some(Bson::Null), None] {
        let mut document = document_of_the_seed(ObjectId::new(), "x", true, 50);
        document.remove("ownerId");
        document.remove("roomName");
        if let Some(owner) = owner {
            document.insert("ownerId", owner);
        }
        all.push(document);
    }
    // Of no room. A unique index would let none but one of each be there.
    for room in ["", ""] {
        let mut document = document_of_the_seed(ObjectId::new(), room, true, 50);
        document.insert("isLive", all.len() % 2 == 0);
        all.push(document);
    }
    let mut odd_id = document_of_the_seed(ObjectId::new(), "live_odd", true, 60);
    odd_id.insert("_id", "text");
    all.push(odd_id);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_no_streams_are_passed_over_in_every_path_and_left_as_they_are() {
    let (uri, name) = (shared_uri(), fresh_database());
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let odd = documents_that_are_no_streams();
    let real = document_of_the_seed(ObjectId::new(), "live_a_1", true, 1);
    streams.insert_many(odd.iter().chain([&real])).await.expect("they are written");

    let store = connect(&uri, &name).await;

    let page = store.streams(&live(), StreamOrder::StartedLast, None, 1).await.unwrap();
    assert_eq!(page.iter().map(|stream| stream.id).collect::<Vec<_>>(), [id_of(&real)], "a page is full");
    assert_eq!(store.streams_changed_since(at(0), 1).await.unwrap().len(), 1);
    let end = Transition {
        from: StreamState::LIVE.to_vec(),
        to: StreamState::Ended,
        at: at(9),
        end_reason: None,
        room_sid: None,
    };
    for document in odd.iter().filter(|document| document.get_object_id("_id").is_ok()) {
        let id = id_of(document);
        assert_eq!(store.stream(id).await.unwrap(), None);
        let refused = store.transition(id, &end).await;
        assert!(matches!(refused, Err(StoreError::NotFound)), "{refused:?}");
        assert!(matches!(store.set_flagged(id, at(1)).await, Err(StoreError::NotFound)));
        assert!(matches!(store.presence_join(id, &session("PA_1", "ann")).await, Err(StoreError::NotFound)));
    }
    assert_eq!(store.stream_of_room("live_odd").await.unwrap(), None);
    let all = StreamFilter::default();
    assert_eq!(store.streams(&all, StreamOrder::NewestFirst, None, 10).await.unwrap().len(), 1);
    for limit in [1, 100] {
        let carried = store.export("livestreams", None, limit).await.unwrap();
        assert_eq!(carried.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), [id_of(&real).to_string()]);
    }
    let found: Vec<Document> = streams.find(doc! { "startedAt": date(50) }).await.unwrap().try_collect().await.unwrap();
    assert_eq!(found.len(), 7);
    assert!(found.iter().all(|document| odd.contains(document)), "{found:?}");
    store.create(&starting("ann", "live_ann_1")).await.unwrap();
    assert!(matches!(store.create(&starting("ann", "live_ann_2")).await, Err(CreateError::OwnerAlreadyLive)));
    assert!(matches!(store.create(&starting("bob", "live_ann_1")).await, Err(CreateError::RoomTaken)));
    connect(&uri, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_be_read_hide_no_others_and_cut_no_page_short() {
    let (uri, name) = (shared_uri(), fresh_database());
    let store = connect(&uri, &name).await;
    let mut streams = Vec::new();
    for number in 0..4 {
        let stream =
            Stream { created_at: at(number), ..starting(&format!("owner-{number}"), &format!("live_{number}")) };
        store.create(&stream).await.unwrap();
        streams.push(stream);
    }
    let by = user("admin");
    for number in 1..=3 {
        let of = format!("user-{number}");
        let joined = fixture::session(&format!("PA_{number}"), &of, at(number));
        store.presence_join(streams[0].id, &joined).await.unwrap();
        store.set_ban(&ban(&of, at(number))).await.unwrap();
        store.owner_block(&by, &block(&of, at(number))).await.unwrap();
        store.append_audit(&AuditEntry { actor: user(&of), ..audit_entry(at(number)) }).await.unwrap();
    }
    let database = raw(&uri, &name).await;
    let damage = async |collection: &str, which: Document, field: &str| {
        let collection = database.collection::<Document>(collection);
        let written = collection.update_one(which, doc! { "$set": { field: "x".repeat(200) } }).await.unwrap();
        assert_eq!(written.modified_count, 1);
    };
    damage("livestreams", doc! { "_id": streams[3].id }, "ownerId").await;
    for (collection, field) in [
        ("onair_presence", "userId"),
        ("onair_bans", "userId"),
        ("onair_owner_blocks", "userId"),
        ("onair_audit", "actor"),
    ] {
        damage(collection, doc! { field: "user-2" }, field).await;
    }
    let before = unreadable::passed_over();

    let page = store.streams(&live(), StreamOrder::NewestFirst, None, 2).await.unwrap();
    assert_eq!(page.iter().map(|stream| stream.id).collect::<Vec<_>>(), [streams[2].id, streams[1].id]);
    assert_eq!(store.presence_open(streams[0].id).await.unwrap().len(), 2);
    assert_eq!(store.presence_all(streams[0].id, 2).await.unwrap().len(), 2);
    assert_eq!(store.bans_changed_since(at(0), 2).await.unwrap().len(), 2);
    assert_eq!(store.owner_blocks(&by, 2).await.unwrap().len(), 2);
    assert_eq!(store.audit(None, None, 2).await.unwrap().len(), 2);
    assert!(unreadable::passed_over() >= before + 6);
    connect(&uri, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_without_a_date_is_taken_over_like_every_other() {
    let (uri, name) = (shared_uri(), fresh_database());
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let mut documents: Vec<Document> =
        (1..=4).map(|n| document_of_the_seed(ObjectId::new(), &format!("live_{n}"), true, n)).collect();
    documents[0].remove("createdAt");
    documents[1].insert("createdAt", "2024-05-01");
    documents[2].insert("createdAt", Bson::Null);
    for (number, document) in documents.iter_mut().enumerate() {
        document.insert("ownerId", format!("owner-{number}"));
    }
    streams.insert_many(&documents).await.expect("they are written");

    let store = connect(&uri, &name).await;

    let page = store.streams(&live(), StreamOrder::NewestFirst, None, 10).await.unwrap();
    assert_eq!(page.len(), 4);
}

/// Whether live or over: it is read with the date of its id, and so it is listed by that, and stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn streams_without_a_date_are_listed_among_the_others_by_their_ids() {
    let (uri, name) = (shared_uri(), fresh_database());
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let mut documents = Vec::new();
    for n in 0..24_u32 {
        let mut bytes = [u8::try_from(n).unwrap(); 12];
        bytes[..4].copy_from_slice(&(u32::try_from(at(0).millis() / 1000).unwrap() + n / 2).to_be_bytes());
        let mut document = document_of_the_seed(ObjectId::new(), &format!("live_{n}"), n % 3 == 0, i64::from(n));
        document.insert("_id", ObjectId::from_bytes(bytes));
        document.insert("ownerId", format!("owner-{n}"));
        match n % 4 {
            0 => document.insert("createdAt", date(i64::from(n / 2) * 1000)),
            1 => document.insert("createdAt", "2024-05-01"),
            2 => document.insert("createdAt", Bson::Null),
            _ => document.remove("createdAt"),
        };
        documents.push(document);
    }
    streams.insert_many(&documents).await.expect("they are written");

    let store = connect(&uri, &name).await;

    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.streams(&StreamFilter::default(), StreamOrder::NewestFirst, after.as_ref(), 5).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(PageEnd { key: last.created_at.millis(), id: last.id.to_string() });
        listed.extend(page.iter().map(|stream| stream.id));
    }
    let expected: Vec<_> = documents.iter().rev().map(id_of).collect();
    assert_eq!(listed, expected);
    for document in &documents {
        let left = streams.find_one(doc! { "_id": document.get("_id") }).await.unwrap();
        assert_eq!(left.as_ref(), Some(document));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_documents_of_one_room_stop_the_start_with_their_names_and_what_to_do() {
    let (uri, name) = (shared_uri(), fresh_database());
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let documents: Vec<_> = ["live_a", "live_b", "live_b"]
        .map(|room| document_of_the_seed(ObjectId::new(), room, false, 1))
        .into_iter()
        .collect();
    streams.insert_many(&documents).await.expect("they are written");

    let refused = Mongo::connect(&uri, Some(&name), CONNECT_MAX).await;

    let Err(StoreError::Failed(text)) = refused else { panic!("it was taken: {refused:?}") };
    for part in [&id_of(&documents[1]).to_string(), &id_of(&documents[2]).to_string(), "live_b", "roomName", "remove"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains(&id_of(&documents[0]).to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_and_oddly_typed_fields_are_as_good_as_absent_to_reads_and_to_writes() {
    let (uri, name) = (shared_uri(), fresh_database());
    let store = connect(&uri, &name).await;
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let fields = [
        "title",
        "coverUrl",
        "tags",
        "blockedUserIds",
        "blocks",
        "mutes",
        "rev",
        "viewers",
        "peakViewers",
        "roomSid",
        "chatSettings",
        "pinned",
        "state",
        "stateSince",
        "endedAt",
        "flagged",
        "visibility",
        "ownerProfile",
    ];
    for (number, odd) in
        [Bson::Null, Bson::from(""), Bson::from("odd"), Bson::from(vec![1_i32]), Bson::from(doc! { "a": 1 })]
            .into_iter()
            .enumerate()
    {
        let number = i64::try_from(number).unwrap();
        let mut document = document_of_the_seed(ObjectId::new(), &format!("live_{number}"), true, number);
        for field in fields.iter().filter(|field| !(**field == "title" && odd == Bson::from("odd"))) {
            document.insert(*field, odd.clone());
        }
        streams.insert_one(&document).await.expect("it is written");
        let id = id_of(&document);

        let read = store.stream(id).await.unwrap().expect("it is a stream");
        assert_eq!(
            (read.state, read.title.as_deref().filter(|title| *title != "Walk")),
            (StreamState::Live, None),
            "{odd}"
        );
        assert!(read.blocks.is_empty() && read.tags.is_empty() && read.mutes.is_empty() && read.pinned.is_none());
        let block = Block { user_id: user("eve"), blocked_at: at(3), by: user("ann"), reason: None };
        assert!(store.block(id, &block).await.unwrap().changed(), "{odd}");
        assert!(
            store.mute(id, &Mute { user_id: user("eve"), until: at(90_000) }, at(4)).await.unwrap().changed(),
            "{odd}"
        );
        assert!(store.set_flagged(id, at(5)).await.unwrap().changed(), "{odd}");
        assert!(store.note_room(id, "RM_1", at(6)).await.unwrap().changed(), "{odd}");
        let edit = Edit { title: Some(Some("$title".into())), tags: Some(vec!["$pet".into()]), cover_url: Some(None) };
        assert!(store.edit(id, &edit, &[StreamState::Live], at(7)).await.unwrap().changed(), "{odd}");
        let joined = store.presence_join(id, &session("PA_1", "bob")).await.unwrap().stream;
        assert_eq!((joined.viewers, joined.peak_viewers), (1, 1), "{odd}");
        assert_eq!((joined.blocks.len(), joined.mutes.len(), joined.flagged), (1, 1, true), "{odd}");
        assert_eq!((joined.title.as_deref(), joined.tags), (Some("$title"), vec!["$pet".to_owned()]), "{odd}");
        assert!(joined.rev >= 6, "{odd}: {}", joined.rev);
        assert!(store.unblock(id, &user("eve"), at(8)).await.unwrap().changed(), "{odd}");
        assert!(store.unmute(id, &user("eve"), at(8)).await.unwrap().changed(), "{odd}");
        let end = Transition {
            from: StreamState::LIVE.to_vec(),
            to: StreamState::Ended,
            at: at(9),
            end_reason: Some(EndReason::Stopped),
            room_sid: Some("RM_1".into()),
        };
        let Outcome::Changed(ended) = store.transition(id, &end).await.unwrap() else { panic!("{odd}") };
        assert_eq!((ended.state, ended.viewers, ended.peak_viewers), (StreamState::Ended, 0, 1), "{odd}");
        assert!(ended.blocks.is_empty() && ended.mutes.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_application_ends_by_its_own_field_is_over() {
    let (uri, name) = (shared_uri(), fresh_database());
    let store = connect(&uri, &name).await;
    let stream = Stream { state: StreamState::Live, ..starting("ann", "live_ann_1") };
    store.create(&stream).await.unwrap();
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let ends = doc! { "$set": { "isLive": false, "endedAt": date(4), "updatedAt": date(4) } };
    streams.update_one(doc! { "_id": stream.id }, ends).await.unwrap();

    let read = store.stream(stream.id).await.unwrap().expect("it is there");
    assert_eq!((read.state, read.ended_at), (StreamState::Ended, Some(at(4))));
    assert_eq!(store.live_stream_of(&user("ann")).await.unwrap(), None);
    assert_eq!(store.last_ended_of(&user("ann")).await.unwrap().map(|last| last.id), Some(stream.id));
    let back = Transition {
        from: StreamState::LIVE.to_vec(),
        to: StreamState::Reconnecting,
        at: at(9),
        end_reason: None,
        room_sid: None,
    };
    assert!(!store.transition(stream.id, &back).await.unwrap().changed(), "what is over stays over");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_in_the_way_is_an_error_that_says_what_to_do() {
    let (uri, name) = (shared_uri(), fresh_database());
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    index_of_the_seed(&streams, "roomName_1", doc! { "roomName": 1 }, false).await;

    let refused = Mongo::connect(&uri, Some(&name), CONNECT_MAX).await;

    let Err(StoreError::Failed(text)) = refused else { panic!("it was taken: {refused:?}") };
    assert!(text.contains("roomName_1") && text.contains("drop it"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_written_as_a_string_is_the_same_owner() {
    let (uri, name) = (shared_uri(), fresh_database());
    let store = connect(&uri, &name).await;
    let streams = raw(&uri, &name).await.collection::<Document>("livestreams");
    let owner = ObjectId::new();
    let mut document = document_of_the_seed(owner, "live_a_1", true, 1);
    document.insert("ownerId", owner.to_hex());
    streams.insert_one(&document).await.expect("it is written");

    let found = store.live_stream_of(&user(&owner.to_hex())).await.unwrap();
    assert_eq!(found.map(|stream| stream.id), Some(id_of(&document)));
    let second = store.create(&starting(&owner.to_hex(), "live_a_2")).await;
    assert!(matches!(second, Err(CreateError::OwnerAlreadyLive)), "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_streams_without_rooms_get_along_with_the_unique_index_of_rooms() {
    let (uri, name) = (shared_uri(), fresh_database());
    let store = connect(&uri, &name).await;
    for _ in 0..2 {
        let stream = Stream { state: StreamState::Scheduled, ..starting("ann", "") };
        store.create(&stream).await.unwrap();
        assert_eq!(store.stream(stream.id).await.unwrap(), Some(stream.clone()));
        assert_eq!(store.stream_of_room(&format!("scheduled_{}", stream.id)).await.unwrap(), None);
    }
    assert_eq!(store.stream_of_room("").await.unwrap(), None);
}

// ---- several processes

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_that_start_a_stream_of_one_owner_one_succeeds() {
    let (uri, name) = (shared_uri(), fresh_database());
    let stores = [Arc::new(connect(&uri, &name).await), Arc::new(connect(&uri, &name).await)];
    let starts: Vec<_> = (0..8)
        .map(|number| {
            let store = Arc::clone(&stores[number % 2]);
            tokio::spawn(async move { store.create(&starting("ann", &format!("live_ann_{number}"))).await })
        })
        .collect();

    let mut granted = 0;
    for start in starts {
        match start.await.unwrap() {
            Ok(()) => granted += 1,
            Err(CreateError::OwnerAlreadyLive) => {}
            Err(other) => panic!("{other}"),
        }
    }

    assert_eq!(granted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_count_one_stream_end_at_the_true_number() {
    let (uri, name) = (shared_uri(), fresh_database());
    let stores = [Arc::new(connect(&uri, &name).await), Arc::new(connect(&uri, &name).await)];
    let stream = starting("ann", "live_ann_1");
    stores[0].create(&stream).await.unwrap();
    let id = stream.id;
    // Of 40 users each comes to either process; every fourth leaves again, by the other one.
    let tasks: Vec<_> = (0..80)
        .map(|number| {
            let (joined, left) = (Arc::clone(&stores[number % 2]), Arc::clone(&stores[(number + 1) % 2]));
            tokio::spawn(async move {
                let session = session(&format!("PA_{number}"), &format!("user-{}", number / 2));
                joined.presence_join(id, &session).await.unwrap();
                if (number / 2) % 4 == 0 {
                    left.presence_leave(id, &session, at(5)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }

    let counted = stores[0].stream(id).await.unwrap().expect("it is there");
    assert_eq!((counted.viewers, counted.unique_viewers), (30, 40));
    assert!((30..=40).contains(&counted.peak_viewers), "{}", counted.peak_viewers);
}

// ---- outages

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_an_error_in_time_and_works_once_it_is_back() {
    let mut server = MongoServer::start();
    let store = connect(&server.uri(), "onair").await;
    let stream = starting("ann", "live_ann_1");
    store.create(&stream).await.unwrap();

    server.stop();
    assert_unavailable(&store, &stream).await;
    server.start_again();
    assert_works_again(&store, &stream).await;

    server.freeze();
    assert_unavailable(&store, &stream).await;
    server.thaw();
    assert_works_again(&store, &stream).await;
}

async fn assert_unavailable(store: &Mongo, stream: &Stream) {
    let bobs = starting("bob", "live_bob_1");
    let in_time = async {
        tokio::join!(store.set_flagged(stream.id, at(1)), store.stream(stream.id), store.ping(), store.create(&bobs))
    };
    let (write, read, ping, create) =
        tokio::time::timeout(FAILURE_MAX, in_time).await.expect("operations give up in time");
    assert!(matches!(write, Err(StoreError::Unavailable(_))), "{write:?}");
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(matches!(ping, Err(StoreError::Unavailable(_))), "{ping:?}");
    assert!(matches!(create, Err(CreateError::Store(StoreError::Unavailable(_)))), "{create:?}");
}

async fn assert_works_again(store: &Mongo, stream: &Stream) {
    let back = async {
        while store.ping().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(FAILURE_MAX, back).await.expect("the driver finds it again");
    assert!(store.stream(stream.id).await.unwrap().is_some());
    let edit = Block { user_id: user(&ObjectId::new().to_hex()), blocked_at: at(2), by: user("ann"), reason: None };
    assert!(matches!(store.block(stream.id, &edit).await.unwrap(), Outcome::Changed(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_kill_of_the_database() {
    let mut server = MongoServer::start();
    let store = Arc::new(connect(&server.uri(), "onair").await);
    let (acknowledged, mut known) = tokio::sync::mpsc::unbounded_channel();
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0.. {
                let stream = starting(&format!("owner-{number}"), &format!("live_{number}"));
                let ban = ban(&format!("owner-{number}"), at(number));
                let written = store.create(&stream).await.is_ok() && store.set_ban(&ban).await.is_ok();
                if !written || acknowledged.send((stream.id, stream.owner_id)).is_err() {
                    break;
                }
            }
        })
    };
    let mut written = Vec::new();
    while written.len() < 50 {
        written.push(known.recv().await.expect("the writer writes"));
    }
    server.stop();
    writer.await.unwrap();
    while let Some(one) = known.recv().await {
        written.push(one);
    }
    server.start_again();

    let store = connect(&server.uri(), "onair").await;
    for (id, owner) in written {
        assert!(store.stream(id).await.unwrap().is_some(), "{id} is lost");
        assert!(store.ban(&owner).await.unwrap().is_some(), "the ban of {owner} is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_never_answers_is_an_error_that_says_what_to_do_and_no_secret() {
    // A port of ours on which nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().expect("there are sockets");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("loopback has free ports");
    let port = socket.local_addr().expect("it is bound").port();
    let uri = format!("mongodb://user:secret@127.0.0.1:{port}/");

    let refused = Mongo::connect(&uri, None, Duration::ZERO).await;

    let Err(StoreError::Unavailable(text)) = refused else { panic!("it was taken: {refused:?}") };
    assert!(text.contains(&port.to_string()) && text.contains("Start it") && !text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_the_one_of_the_uri_if_none_is_named() {
    let (uri, name) = (shared_uri(), fresh_database());
    let with_name = format!("{}/{name}", uri.trim_end_matches('/'));
    let store = Mongo::connect(&with_name, None, CONNECT_MAX).await.unwrap();
    store.create(&starting("ann", "live_ann_1")).await.unwrap();

    let found = raw(&uri, &name).await.collection::<Document>("livestreams").find(doc! {}).await.unwrap();
    assert_eq!(found.try_collect::<Vec<_>>().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_us_is_an_error_at_once_that_says_what_to_do_and_no_secret() {
    let server = MongoServer::start_with(&["--auth"]);
    let with_user = server.uri().replace("mongodb://", "mongodb://somebody:secret@");

    for uri in [server.uri(), with_user] {
        let refused = Mongo::connect(&uri, Some("onair"), CONNECT_MAX).await;

        let Err(StoreError::Failed(text)) = refused else { panic!("it was taken: {refused:?}") };
        assert!(text.contains("password") && !text.contains("secret"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_no_replica_set_will_do() {
    let server = MongoServer::start_with(&["--standalone"]);
    let store = connect(&server.uri(), "onair").await;
    let stream = starting("ann", "live_ann_1");
    store.create(&stream).await.unwrap();

    let joined = store.presence_join(stream.id, &session("PA_1", "bob")).await.unwrap();
    assert_eq!((joined.stream.viewers, joined.changed), (1, true));
    let left = store.presence_leave(stream.id, &session("PA_1", "bob"), at(2)).await.unwrap();
    assert_eq!((left.stream.viewers, left.stream.peak_viewers), (0, 1));
}

// ---- nodes of an earlier version beside

/// They note that they see a room, and ask who does, as units of a limit.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_an_earlier_version_and_this_one_hear_of_each_others_rooms() {
    let (uri, name) = (shared_uri(), fresh_database());
    let store = connect(&uri, &name).await;
    let (ours, theirs) = (StreamId::generate(), StreamId::generate());
    let key = |stream: StreamId| format!("host:{stream}");

    store.limit_take(&key(theirs), 1_024, LEASE, at(0)).await.unwrap();
    let lease = store.room_lease(theirs, at(1)).await.unwrap().expect("it is hosted");
    assert_eq!((lease.node.as_deref(), lease.epoch, lease.renewed_at), (None, 0, at(0)));
    assert_eq!(store.lease_room(theirs, "n1", at(2)).await.unwrap().epoch, 1);
    store.limit_take(&key(theirs), 1_024, LEASE, at(3)).await.unwrap();
    assert_eq!(store.room_lease(theirs, at(4)).await.unwrap().unwrap().renewed_at, at(3), "it was seen there as well");

    store.lease_room(ours, "n1", at(0)).await.unwrap();
    let leases = raw(&uri, &name).await.collection::<Document>("onair_limits");
    let lease = leases.find_one(doc! { "_id": key(ours) }).await.unwrap().expect("it is stored");
    assert!(!lease.contains_key("granted"), "{lease}");
    let look = async |when| store.limit_take(&key(ours), 1, LEASE, at(when)).await.unwrap();
    assert!(matches!(look(119_999).await, Taken::Refused { .. }));
    assert_eq!(look(120_000).await, Taken::Granted);
    store.limit_give_back(&key(ours), at(120_000)).await.unwrap();
    assert_eq!(store.lease_room(ours, "n1", at(120_001)).await.unwrap().epoch, 1);
}
