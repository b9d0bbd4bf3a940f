//! The doors to rooms, against a media server in this process: one suite for the door within the process and the door
//! through the server API. Then streams in rooms of this process, with clients that connect and publish.

#[path = "doors/server.rs"]
mod server;

use std::sync::Arc;
use std::time::Duration;

use control::access::{Access, Admitted};
use control::clock::Timestamp;
use control::config::product;
use control::lifecycle::Lifecycle;
use control::rooms::builtin::Builtin;
use control::rooms::external::External;
use control::rooms::{RoomBackend, RoomInfo, RoomRole, RoomTimes, RoomsError, TokenRequest, TokenSigner};
use control::services::Services;
use control::store::stream::{Block, EndReason, Stream, StreamState, UserId};
use control::streams::{StartRequest, Streams};
use control::user::{Caller, Role, User};
use futures_util::future::join_all;
use server::{KEY, Phone, SECRET, Server, eventually};
use signaling::token::{Keys, Secret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn signer() -> TokenSigner {
    TokenSigner::new(KEY, SECRET, RoomTimes::of(&product::Live::default()))
}

fn user_id(name: &str) -> UserId {
    name.parse().unwrap()
}

fn viewer_token(room: &str, user: &str) -> TokenRequest {
    TokenRequest {
        room: room.into(),
        identity: format!("{user}:12345678"),
        name: Some("Bo".into()),
        user: user_id(user),
        role: RoomRole::Viewer,
        may_publish: false,
        may_publish_data: true,
        life: Duration::from_secs(600),
    }
}

/// Runs a rule at both doors, each with a server of its own.
macro_rules! both_doors {
    ($($rule:ident)*) => {
        mod builtin {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let server = super::Server::start().await;
                let door = super::Builtin::new(server.rooms.clone(), super::signer(), None);
                super::$rule(&door, &server).await;
            })*
        }
        mod external {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let server = super::Server::start().await;
                let door = super::External::new(&server.url(), None, super::signer()).unwrap();
                super::$rule(&door, &server).await;
            })*
        }
    };
}

both_doors! {
    a_room_is_made_listed_and_deleted
    a_room_stays_longer_than_its_stream_waits
    whoever_is_inside_is_listed_and_removed
    a_token_says_what_was_asked_and_no_more
}

async fn a_room_is_made_listed_and_deleted(door: &dyn RoomBackend, _server: &Server) {
    let (room, other) = ("live_ana_1", "live_bo_1");
    let sid = door.create(room).await.unwrap();
    door.create(other).await.unwrap();

    assert!(sid.starts_with("RM_"));
    assert_eq!(door.create(room).await.unwrap(), sid);
    assert_eq!(door.list(&[room.into()]).await.unwrap(), [RoomInfo { name: room.into(), sid }]);
    assert_eq!(door.list(&[]).await.unwrap().len(), 2);
    assert_eq!(door.list(&["live_nobody_1".into()]).await.unwrap(), []);
    door.delete(room).await.unwrap();
    assert_eq!(door.delete(room).await, Err(RoomsError::NotFound));
    let left: Vec<String> = door.list(&[]).await.unwrap().into_iter().map(|room| room.name).collect();
    assert_eq!(left, [other]);
    assert_eq!(door.sessions(room).await.unwrap(), []);
    assert_eq!(door.remove(room, "ana").await, Err(RoomsError::NotFound));
}

async fn a_room_stays_longer_than_its_stream_waits(door: &dyn RoomBackend, server: &Server) {
    let live = product::Live::default();
    door.create("live_ana_1").await.unwrap();
    // And one that a join makes, after a restart of the media server.
    let (token, _) = door.token(&viewer_token("live_bo_1", "cy"), Timestamp::now());
    let phone = server.join(&token).await.unwrap();

    for room in server.rooms.list_rooms(&[]).await {
        assert!(room.empty_timeout > live.start_timeout, "{room:?}");
        assert!(room.departure_timeout > live.reconnect_window, "{room:?}");
    }
    phone.leave().await;
}

async fn whoever_is_inside_is_listed_and_removed(door: &dyn RoomBackend, server: &Server) {
    let room = "live_ana_1";
    door.create(room).await.unwrap();
    let (token, _) = door.token(&viewer_token(room, "auth0:bo"), Timestamp::now());
    let phone = server.join(&token).await.unwrap();
    eventually("the phone is connected", async || {
        door.sessions(room).await.unwrap().iter().any(|session| session.active)
    })
    .await;

    let sessions = door.sessions(room).await.unwrap();
    let [session] = sessions.as_slice() else { panic!("{sessions:?}") };
    assert_eq!(session.identity, "auth0:bo:12345678");
    assert_eq!((session.user.clone(), session.role), (Some(user_id("auth0:bo")), Some(RoomRole::Viewer)));
    assert!(session.sid.starts_with("PA_") && session.standard && !session.hidden && !session.recorder);
    assert!(!session.publishes && session.joined_at > Timestamp::from_millis(1));
    door.remove(room, &session.identity).await.unwrap();
    eventually("the phone was put out", async || phone.end_reason().is_some()).await;
    assert_eq!(door.sessions(room).await.unwrap(), []);
    assert_eq!(door.remove(room, &session.identity).await, Err(RoomsError::NotFound));
}

async fn a_token_says_what_was_asked_and_no_more(door: &dyn RoomBackend, _server: &Server) {
    let keys = Keys::new([(KEY.to_owned(), Secret::new(SECRET))]).unwrap();
    let now = Timestamp::now();

    let (token, expires_at) = door.token(&viewer_token("live_ana_1", "bo"), now);

    let claims = keys.verify(&token, std::time::SystemTime::now()).unwrap();
    let video = claims.video.unwrap();
    assert_eq!((claims.identity.as_str(), claims.name.as_str()), ("bo:12345678", "Bo"));
    assert_eq!((video.room_join, video.room.as_str()), (true, "live_ana_1"));
    assert_eq!((video.can_publish, video.can_subscribe), (Some(false), Some(true)));
    assert_eq!(video.can_publish_data, Some(true));
    assert!(!video.room_admin && !video.room_create && !video.room_list && !video.hidden);
    assert_eq!(claims.attributes["app.userId"], "bo");
    assert_eq!(claims.attributes["app.role"], "viewer");
    assert_eq!(Timestamp::from(claims.expires_at), expires_at);
    assert!(expires_at <= now.plus(Duration::from_secs(600)) && expires_at > now.plus(Duration::from_secs(598)));
    let publisher = TokenRequest {
        identity: "bo".into(),
        role: RoomRole::Publisher,
        may_publish: true,
        ..viewer_token("live_bo_1", "bo")
    };
    let claims = keys.verify(&door.token(&publisher, now).0, std::time::SystemTime::now()).unwrap();
    let video = claims.video.unwrap();
    assert_eq!((claims.identity.as_str(), video.room.as_str(), video.can_publish), ("bo", "live_bo_1", Some(true)));
    assert_eq!((claims.attributes["app.userId"].as_str(), claims.attributes["app.role"].as_str()), ("bo", "publisher"));
    assert_eq!(claims.attributes.len(), 2);
}

#[tokio::test]
async fn apps_are_given_the_configured_address_or_the_one_they_called() {
    let server = Server::start().await;
    let url = |public: Option<&str>| {
        Builtin::new(server.rooms.clone(), signer(), public.map(str::to_owned)).url(Some("http://here:7880"))
    };
    let outside = |public| External::new("http://sfu:7880/", public, signer()).unwrap().url(Some("http://here:7880"));

    assert_eq!(url(None).as_deref(), Some("ws://here:7880"));
    assert_eq!(url(Some("https://live.example/")).as_deref(), Some("wss://live.example"));
    assert_eq!(Builtin::new(server.rooms.clone(), signer(), None).url(None), None);
    assert_eq!(outside(None).as_deref(), Some("ws://sfu:7880"));
    assert_eq!(outside(Some("wss://sfu.example")).as_deref(), Some("wss://sfu.example"));
    assert!(External::new("sfu:7880", None, signer()).is_err());
}

// ---- media servers that do not do what they should

/// Answers every request with these bytes.
async fn answering(answer: Vec<u8>) -> External {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(&answer).await;
            });
        }
    });
    External::new(&url, None, signer()).unwrap()
}

#[tokio::test]
async fn a_media_server_that_is_not_there_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let door = External::new(&format!("http://{free}"), None, signer()).unwrap();

    let error = door.list(&[]).await.unwrap_err();

    assert!(matches!(error, RoomsError::Unavailable(_)), "{error}");
    assert!(!error.to_string().contains(SECRET));
}

#[tokio::test]
async fn an_answer_that_is_none_is_an_error() {
    let head = |status: &str, length: usize| format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n");
    for answer in [
        b"garbage\r\n\r\n".to_vec(),
        format!("{}<html>", head("200 OK", 6)).into_bytes(),
        format!("{}<html>", head("404 Not Found", 6)).into_bytes(),
        format!("{}{{\"code\":\"unauthenticated\"}}", head("401 Unauthorized", 26)).into_bytes(),
        head("301 Moved Permanently\r\nLocation: http://127.0.0.1:1/", 0).into_bytes(),
        [head("200 OK", 40 << 20).into_bytes(), vec![0; 40 << 20]].concat(),
    ] {
        let error = answering(answer.clone()).await.list(&[]).await.unwrap_err();

        assert!(matches!(error, RoomsError::Unavailable(_)), "{error}");
    }
    let refused = format!("{}{{\"code\":\"not_found\"}}", head("404 Not Found", 20)).into_bytes();
    assert_eq!(answering(refused).await.delete("r").await, Err(RoomsError::NotFound));
}

#[tokio::test]
async fn a_media_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = External::new(&format!("http://{}", listener.local_addr().unwrap()), None, signer()).unwrap();

    assert!(matches!(door.create("live_ana_1").await, Err(RoomsError::Unavailable(_))));
}

// ---- streams in rooms of this process

fn user(name: &str) -> User {
    User {
        id: user_id(name),
        role: Role::User,
        name: None,
        picture: None,
        expires_at: Timestamp::now().plus(Duration::from_secs(3600)),
    }
}

struct Stage {
    server: Server,
    access: Access,
    lifecycle: Lifecycle,
    streams: Streams,
    shutdown: CancellationToken,
}

impl Stage {
    async fn set() -> Self {
        Self::set_with(product::Live::default()).await
    }

    async fn set_with(config: product::Live) -> Self {
        let server = Server::start_with(config).await;
        let services = server.services();
        let Services { access, lifecycle, streams, reconciler, .. } = &services;
        let access = access.clone();
        let (lifecycle, streams, reconciler) = (lifecycle.clone(), streams.clone(), reconciler.clone());
        let shutdown = CancellationToken::new();
        tokio::spawn(services.run(shutdown.clone()));
        eventually("it is ready", async || reconciler.is_recovered()).await;
        Self { server, access, lifecycle, streams, shutdown }
    }

    /// As a request of this user is let in.
    fn admit(&self, name: &str) -> Admitted {
        let caller = Caller { user: user(name), request_id: String::new() };
        self.access.admit(self.access.feature().unwrap(), caller).unwrap()
    }

    /// Started, connected and publishing.
    async fn go_live(&self, owner: &str) -> (Arc<Stream>, Phone) {
        let started = self.streams.start(&self.admit(owner), StartRequest::default()).await.unwrap();
        let phone = self.server.join(&started.token).await.unwrap();
        phone.publish().await;
        self.until(&started.stream, |stream| stream.state == StreamState::Live).await;
        (started.stream, phone)
    }

    async fn watch(&self, stream: &Stream, name: &str) -> Phone {
        let watching = self.streams.watch(&self.admit(name), stream.id, None).await.unwrap();
        self.server.join(&watching.token).await.unwrap()
    }

    async fn until(&self, stream: &Stream, holds: impl Fn(&Stream) -> bool) {
        let known = || self.lifecycle.cache().stream(stream.id).expect("it is known");
        eventually("the stream is as expected", async || holds(&known())).await;
        let stored = self.lifecycle.store().stream(stream.id).await.unwrap().unwrap();
        assert!(holds(&stored), "{stored:?}");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn viewers_of_a_room_in_this_process_are_counted_as_they_come_and_go() {
    let stage = Stage::set().await;
    let (stream, _owner) = stage.go_live("ana").await;
    let phone = stage.watch(&stream, "bo").await;
    stage.until(&stream, |stream| stream.viewers == 1).await;
    let laptop = stage.watch(&stream, "bo").await;
    let other = stage.watch(&stream, "cy").await;
    let _preview = stage.watch(&stream, "ana").await;
    stage.until(&stream, |stream| stream.viewers == 2).await;

    phone.leave().await;
    other.leave().await;
    stage.until(&stream, |stream| stream.viewers == 1).await;
    laptop.leave().await;
    stage.until(&stream, |stream| (stream.viewers, stream.peak_viewers, stream.unique_viewers) == (0, 2, 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_may_leave_and_come_back() {
    let stage = Stage::set().await;
    let (stream, owner) = stage.go_live("ana").await;
    owner.leave().await;
    stage.until(&stream, |stream| stream.state == StreamState::Reconnecting).await;

    let resumed = stage.streams.start(&stage.admit("ana"), StartRequest::default()).await.unwrap();
    let _owner = stage.server.join(&resumed.token).await.unwrap();

    assert!(resumed.resumed);
    stage.until(&stream, |stream| stream.state == StreamState::Live).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_user_is_put_out_and_not_let_in_again() {
    let stage = Stage::set().await;
    let (stream, _owner) = stage.go_live("ana").await;
    let token = stage.streams.watch(&stage.admit("bo"), stream.id, None).await.unwrap().token;
    let phone = stage.server.join(&token).await.unwrap();
    let block = Block { user_id: user_id("bo"), blocked_at: Timestamp::now(), by: user_id("ana"), reason: None };
    let outcome = stage.lifecycle.store().block(stream.id, &block).await.unwrap();
    stage.lifecycle.observe(outcome.into_stream());

    eventually("the phone was put out", async || phone.end_reason().is_some()).await;

    assert_eq!(stage.server.refused(&token).await, (403, "you can't watch this stream".into()));
    let other = stage.streams.watch(&stage.admit("cy"), stream.id, None).await.unwrap().token;
    stage.server.join(&other).await.unwrap().leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_viewers_with_tokens_as_many_come_in_as_there_are_places() {
    let stage = Stage::set_with(product::Live { max_viewers: 2, ..product::Live::default() }).await;
    let (stream, _owner) = stage.go_live("ana").await;
    let token = async |name: &str| stage.streams.watch(&stage.admit(name), stream.id, None).await.unwrap().token;
    let mut tokens = Vec::new();
    for name in ["u1", "u2", "u3", "u4", "u5", "u6"] {
        tokens.push(token(name).await);
    }
    let preview = token("ana").await;

    let joined = join_all(tokens.iter().map(|token| stage.server.join(token))).await;

    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for (token, joined) in tokens.iter().zip(joined) {
        match joined {
            Ok(phone) => inside.push((token, phone)),
            Err(_) => outside.push(token),
        }
    }
    assert_eq!((inside.len(), outside.len()), (2, 4));
    stage.until(&stream, |stream| (stream.viewers, stream.peak_viewers) == (2, 2)).await;
    let full = (403, "this stream has no free place: try again later".to_owned());
    assert_eq!(stage.server.refused(outside[0]).await, full);
    let _anew = stage.server.join(inside[0].0).await.expect("who has a place keeps it");
    stage.server.join(&preview).await.expect("its owner takes no place").leave().await;

    inside.pop().expect("two are inside").1.leave().await;
    stage.until(&stream, |stream| stream.viewers == 1).await;
    let _other = stage.server.join(outside[0]).await.expect("a place is free");
    assert_eq!(stage.server.refused(outside[1]).await, full);
}

/// A client that goes away between its admission and its connection: a place for a moment, no viewer, no record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_comes_to_nothing_holds_a_place_for_a_moment_and_leaves_no_record() {
    let stage = Stage::set_with(product::Live { max_viewers: 1, ..product::Live::default() }).await;
    let (stream, _owner) = stage.go_live("ana").await;
    let mut tokens = Vec::new();
    for name in ["bo", "cy", "dan"] {
        tokens.push(stage.streams.watch(&stage.admit(name), stream.id, None).await.unwrap().token);
    }
    let [bo, cy, dan] = tokens.as_slice() else { unreachable!() };

    let unfinished = stage.server.handshake_without_a_key(dan).await;
    assert!(unfinished.starts_with("HTTP/1.1 400"), "{unfinished}");
    // Nor did that take a place.
    let knocking = stage.server.knock(bo).await;
    assert_eq!(stage.server.refused(cy).await.0, 403, "it may still connect");
    drop(knocking);
    eventually("its place is free", async || stage.server.try_knock(cy).await).await;

    eventually("that one is gone as well", async || {
        let sessions = stage.server.rooms.list_participants(&stream.room_name).await;
        sessions.iter().all(|session| session.identity == "ana")
    })
    .await;
    let stored = stage.lifecycle.store().stream(stream.id).await.unwrap().unwrap();
    assert_eq!((stored.viewers, stored.peak_viewers, stored.unique_viewers), (0, 0, 0));
    let records = stage.lifecycle.store().presence_all(stream.id, 100).await.unwrap();
    assert!(records.iter().all(|record| record.identity == "ana"), "{records:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_puts_everybody_out_and_lets_nobody_in() {
    let stage = Stage::set().await;
    let (stream, owner) = stage.go_live("ana").await;
    let token = stage.streams.watch(&stage.admit("bo"), stream.id, None).await.unwrap().token;
    let phone = stage.server.join(&token).await.unwrap();

    stage.streams.stop(&user("ana"), None).await.unwrap();

    eventually("both are out", async || owner.end_reason().is_some() && phone.end_reason().is_some()).await;
    assert_eq!(stage.server.refused(&token).await, (403, "this stream is over".into()));
    eventually("the room is gone", async || stage.server.rooms.list_rooms(&[]).await.is_empty()).await;
    let stored = stage.lifecycle.store().stream(stream.id).await.unwrap().unwrap();
    assert_eq!((stored.end_reason, stored.viewers), (Some(EndReason::Stopped), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_somebody_deletes_ends_its_stream() {
    let stage = Stage::set().await;
    let (stream, _owner) = stage.go_live("ana").await;

    stage.server.rooms.delete_room(&stream.room_name).await.unwrap();

    stage.until(&stream, |stream| stream.end_reason == Some(EndReason::RoomFinished)).await;
}
