//! Rooms seen from outside: RoomService on living rooms, and joins over a WebSocket.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_response::Message as Response;
use serde_json::{Value, json};
use signaling::rooms::JOINS_BURST;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::server::{Server, granting, join_token, token};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(server: &Server, path: &str) -> Result<Socket, (u16, String)> {
    match tokio_tungstenite::connect_async(format!("ws://{}{path}", server.address)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => {
            let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
            let (status, body) = (answer.status().as_u16(), answer.into_body().unwrap_or_default());
            let text = String::from_utf8(body).unwrap();
            // A place is free again within a second.
            assert_eq!(retry_after.as_deref(), text.contains("too often").then_some("1"), "{text}");
            Err((status, text))
        }
        Err(error) => panic!("{error}"),
    }
}

async fn join(server: &Server, token: &str) -> Result<Socket, (u16, String)> {
    connect(server, &format!("/rtc?protocol=17&sdk=js&access_token={token}")).await
}

/// The next signal message; pings are passed over.
async fn next(socket: &mut Socket) -> Response {
    loop {
        if let Message::Binary(bytes) = socket.next().await.expect("the socket is open").unwrap() {
            return proto::SignalResponse::decode(bytes).unwrap().message.unwrap();
        }
    }
}

/// Reads until the server closes; its last signal message.
async fn last(socket: &mut Socket) -> Response {
    let mut last = None;
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            last = proto::SignalResponse::decode(bytes).unwrap().message;
        }
    }
    last.expect("a message came")
}

/// The server closes, and counts why.
async fn assert_ends_unreadable(server: &Server, mut socket: Socket) {
    while let Some(Ok(_)) = socket.next().await {}
    let ended = || server.counters.ended_unreadable.load(std::sync::atomic::Ordering::Relaxed);
    for _ in 0..1_000 {
        if ended() > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ended(), 1);
}

fn creator() -> String {
    granting(json!({ "roomCreate": true, "roomList": true, "roomAdmin": true, "room": "hr" }))
}

#[tokio::test]
async fn the_first_message_of_a_join_is_the_join_response() {
    let server = Server::start().await;
    let mut socket = join(&server, &join_token("hr")).await.unwrap();

    let Response::Join(joined) = next(&mut socket).await else { panic!("no join response") };
    assert_eq!(joined.room.unwrap().name, "hr");
    let participant = joined.participant.unwrap();
    assert_eq!(participant.identity, "alice");
    assert!(participant.sid.starts_with("PA_"));
}

#[tokio::test]
async fn the_token_may_come_in_the_header_and_the_path_with_two_slashes() {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let server = Server::start().await;
    let mut request = format!("ws://{}//rtc?protocol=17", server.address).into_client_request().unwrap();
    let bearer = http::HeaderValue::try_from(format!("Bearer {}", join_token("hr"))).unwrap();
    request.headers_mut().insert("Authorization", bearer);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();

    assert!(matches!(next(&mut socket).await, Response::Join(_)));
}

#[tokio::test]
async fn a_client_is_known_by_what_it_says_and_by_its_request() {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let server = Server::start().await;
    let mut events = server.rooms.events();
    let path = format!("/rtc?protocol=17&sdk=js&version=2.16.0&access_token={}", join_token("hr"));
    let mut request = format!("ws://{}{path}", server.address).into_client_request().unwrap();
    let agent = "Mozilla/5.0 (X11; Linux x86_64; rv:142.0) Gecko/20100101 Firefox/142.0";
    request.headers_mut().insert("User-Agent", http::HeaderValue::from_static(agent));
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    drop(socket);

    let client = loop {
        let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap();
        if let Some(client) = event.client {
            break client;
        }
    };
    let expected = proto::ClientInfo {
        sdk: proto::client_info::Sdk::Js as i32,
        version: "2.16.0".into(),
        protocol: 17,
        os: "Linux".into(),
        browser: "Firefox".into(),
        browser_version: "142.0".into(),
        address: "127.0.0.1".into(),
        ..Default::default()
    };
    assert_eq!(client, expected);
}

#[tokio::test]
async fn a_room_is_created_with_names_and_metadata_within_the_limits() {
    let server = Server::start_with(|config| {
        config.limits.room_name_bytes_max = 4;
        config.limits.metadata_bytes_max = 4;
    })
    .await;
    let create = |name: &'static str, metadata: &'static str| {
        let (server, body) = (&server, json!({ "name": name, "metadata": metadata }));
        async move { server.call("RoomService/CreateRoom", &creator(), &body).await }
    };
    assert_eq!(create("four", "four").await.json()["metadata"], json!("four"));
    for (name, metadata, text) in [
        ("longer", "", "room name length exceeds limits"),
        ("hr", "longer", "metadata size exceeds limits"),
        ("", "", "room name cannot be empty"),
    ] {
        let answer = create(name, metadata).await;
        assert_eq!(answer.status, 400, "{text}");
        let expected = json!({ "code": "invalid_argument", "msg": format!("twirp error unknown: {text}") });
        assert_eq!(answer.json(), expected);
    }
}

/// What a request leaves out is that of its preset, and what that leaves out the server's.
#[tokio::test]
async fn a_room_has_the_settings_of_its_request_its_preset_and_the_server() {
    let server = Server::start_with(|config| {
        let preset = proto::RoomConfiguration {
            empty_timeout: 40,
            max_participants: 4,
            metadata: "of the preset".into(),
            ..Default::default()
        };
        config.room_configurations = [("small".to_owned(), preset)].into();
        config.max_participants = 9;
    })
    .await;
    let settings = |room: &Value| {
        let numbers = ["empty_timeout", "departure_timeout", "max_participants"].map(|key| room[key].as_u64().unwrap());
        (numbers, room["metadata"].as_str().unwrap().to_owned())
    };
    for (body, expected) in [
        (json!({ "name": "plain" }), ([300, 20, 9], "")),
        (json!({ "name": "preset", "roomPreset": "small" }), ([40, 20, 4], "of the preset")),
        (
            json!({ "name": "own", "roomPreset": "small", "emptyTimeout": 1, "departureTimeout": 2, "maxParticipants": 3,
                "metadata": "own" }),
            ([1, 2, 3], "own"),
        ),
    ] {
        let created = server.call("RoomService/CreateRoom", &creator(), &body).await.json();
        assert_eq!(settings(&created), (expected.0, expected.1.to_owned()), "{body}");
    }
    let unknown = json!({ "name": "other", "roomPreset": "large" });
    let unknown = server.call("RoomService/CreateRoom", &creator(), &unknown).await;
    assert_eq!(unknown.code(), (400, "invalid_argument".into()));

    // So has one that a join makes.
    let video = |room: &str| json!({ "roomJoin": true, "room": room });
    for (claims, expected) in [
        (json!({ "video": video("joined"), "roomPreset": "small" }), ([40, 20, 4], "of the preset")),
        (
            json!({ "video": video("configured"), "roomPreset": "small", "roomConfig": { "departureTimeout": 5 } }),
            ([300, 5, 9], ""),
        ),
    ] {
        let mut socket = join(&server, &token(claims)).await.unwrap();
        let Response::Join(joined) = next(&mut socket).await else { panic!("no join response") };
        let room = joined.room.unwrap();
        let numbers = [room.empty_timeout, room.departure_timeout, room.max_participants];
        assert_eq!((numbers.map(u64::from), room.metadata.as_str()), expected);
    }
}

#[tokio::test]
async fn a_full_room_answers_the_upgrade_with_500_and_validation_with_success() {
    let server = Server::start().await;
    let body = json!({ "name": "hr", "maxParticipants": 1 });
    assert_eq!(server.call("RoomService/CreateRoom", &creator(), &body).await.status, 200);
    let _alice = join(&server, &join_token("hr")).await.unwrap();
    let bob = token(json!({ "sub": "bob", "video": { "roomJoin": true, "room": "hr" } }));

    assert_eq!(join(&server, &bob).await.err(), Some((500, "connection closed by media".into())));
    assert_eq!(server.get(&format!("/rtc/validate?access_token={bob}")).await.status, 200);
}

#[tokio::test]
async fn a_room_that_joining_may_not_create_answers_the_upgrade_with_404() {
    let server = Server::start_with(|config| config.auto_create = false).await;
    let missing = (404, "requested room does not exist".to_owned());
    assert_eq!(join(&server, &join_token("hr")).await.err(), Some(missing));

    server.call("RoomService/CreateRoom", &creator(), &json!({ "name": "hr" })).await;
    assert!(join(&server, &join_token("hr")).await.is_ok());
    let validated = server.get(&format!("/rtc/validate?access_token={}", join_token("hr"))).await;
    assert_eq!(validated.status, 200);
}

#[tokio::test]
async fn a_resume_of_a_stranger_is_upgraded_and_told_to_reconnect() {
    let server = Server::start().await;
    let path = format!("/rtc?protocol=17&reconnect=1&sid=PA_x&access_token={}", join_token("hr"));
    let mut socket = connect(&server, &path).await.unwrap();

    let Response::Leave(leave) = last(&mut socket).await else { panic!("no leave") };
    assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
    assert_eq!(leave.reason(), proto::DisconnectReason::StateMismatch);
}

#[tokio::test]
async fn a_message_over_two_mebibytes_ends_the_connection() {
    let server = Server::start().await;
    let mut socket = join(&server, &join_token("hr")).await.unwrap();
    let _ = socket.send(Message::Binary(vec![0; (2 << 20) + 1].into())).await;

    assert_ends_unreadable(&server, socket).await;
}

#[tokio::test]
async fn a_message_of_nonsense_ends_the_connection() {
    let server = Server::start().await;
    let mut socket = join(&server, &join_token("hr")).await.unwrap();
    socket.send(Message::Binary(vec![0xff; 8].into())).await.unwrap();

    assert_ends_unreadable(&server, socket).await;
}

#[tokio::test]
async fn a_created_room_is_listed_with_its_settings_until_it_is_deleted() {
    let server = Server::start().await;
    let body = json!({ "name": "hr", "emptyTimeout": 30, "metadata": "m", "max_participants": "5", "x": null });
    let created = server.call("RoomService/CreateRoom", &creator(), &body).await.json();
    assert!(created["sid"].as_str().unwrap().starts_with("RM_"));
    let settings = ["empty_timeout", "departure_timeout", "max_participants"].map(|key| created[key].clone());
    assert_eq!(settings, [json!(30), json!(20), json!(5)]);
    assert_eq!((&created["metadata"], &created["num_participants"]), (&json!("m"), &json!(0)));
    assert_eq!(created["creation_time"].as_str().map(|text| text.parse::<u64>().is_ok()), Some(true));

    let again = server.call("RoomService/CreateRoom", &creator(), &json!({ "name": "hr", "metadata": "other" })).await;
    assert_eq!(again.json()["metadata"], json!("m"));
    let listed = server.call("RoomService/ListRooms", &creator(), &json!({ "names": ["hr", "none"] })).await.json();
    assert_eq!(listed["rooms"].as_array().map(Vec::len), Some(1));

    let delete = || async { server.call("RoomService/DeleteRoom", &creator(), &json!({ "room": "hr" })).await };
    assert_eq!(delete().await.said(), (200, "{}".into()));
    let missing = json!({ "code": "not_found", "msg": "twirp error unknown: requested room does not exist" });
    assert_eq!(delete().await.json(), missing);
}

#[tokio::test]
async fn a_participant_is_shown_changed_and_removed_by_the_server_api() {
    let server = Server::start().await;
    let mut socket = join(&server, &join_token("hr")).await.unwrap();
    let call = |method: &'static str, mut body: Value| {
        body["room"] = json!("hr");
        let server = &server;
        async move { server.call(&format!("RoomService/{method}"), &creator(), &body).await }
    };

    let listed = call("ListParticipants", json!({})).await.json();
    assert_eq!(listed["participants"][0]["identity"], json!("alice"));
    let found = call("GetParticipant", json!({ "identity": "alice" })).await.json();
    assert_eq!((&found["state"], &found["permission"]["can_publish"]), (&json!("JOINED"), &json!(true)));
    let changed = json!({ "identity": "alice", "name": "Alice", "attributes": { "a": "1" } });
    let changed = call("UpdateParticipant", changed).await.json();
    assert_eq!((&changed["name"], &changed["attributes"]), (&json!("Alice"), &json!({ "a": "1" })));
    assert_eq!(call("UpdateRoomMetadata", json!({ "metadata": "m2" })).await.json()["metadata"], json!("m2"));

    assert_eq!(call("RemoveParticipant", json!({ "identity": "alice" })).await.said(), (200, "{}".into()));
    let Response::Leave(leave) = last(&mut socket).await else { panic!("no leave") };
    assert_eq!(leave.reason(), proto::DisconnectReason::ParticipantRemoved);
    let missing = json!({ "code": "not_found", "msg": "twirp error unknown: participant does not exist" });
    assert_eq!(call("RemoveParticipant", json!({ "identity": "alice" })).await.json(), missing);
}

#[tokio::test]
async fn tracks_that_are_not_there_and_unmuting_are_answered_as_livekit_does() {
    let server = Server::start().await;
    let _socket = join(&server, &join_token("hr")).await.unwrap();
    let mute = |muted: bool| {
        let body = json!({ "room": "hr", "identity": "alice", "trackSid": "TR_none", "muted": muted });
        let server = &server;
        async move { server.call("RoomService/MutePublishedTrack", &creator(), &body).await }
    };

    assert_eq!(mute(true).await.json(), json!({ "track": null }));
    let refused = json!({ "code": "failed_precondition", "msg": "twirp error unknown: remote unmute not enabled" });
    assert_eq!(mute(false).await.json(), refused);
}

#[tokio::test]
async fn requests_to_a_room_that_is_missing_are_not_found() {
    let server = Server::start().await;
    for method in ["UpdateRoomMetadata", "SendData", "MutePublishedTrack", "UpdateSubscriptions"] {
        let body = json!({ "room": "hr", "identity": "alice", "muted": true });
        let answer = server.call(&format!("RoomService/{method}"), &creator(), &body).await;
        assert_eq!(answer.code(), (404, "not_found".into()), "{method}");
    }
}

/// A token in many hands: each join replaces the one before.
#[tokio::test]
async fn one_identity_joins_a_room_so_many_times_at_once_and_others_beside_it() {
    let server = Server::start().await;
    let join_token =
        |identity: &str, room: &str| token(json!({ "sub": identity, "video": { "roomJoin": true, "room": room } }));
    let token = join_token("many", "r");
    let all: Vec<_> = futures_util::future::join_all((0..4 * JOINS_BURST).map(|_| join(&server, &token))).await;
    let joined = all.iter().filter(|answer| answer.is_ok()).count();
    let refusals: Vec<_> = all.iter().filter_map(|answer| answer.as_ref().err()).collect();

    assert!(joined >= JOINS_BURST as usize, "{joined}");
    assert!(!refusals.is_empty());
    assert!(refusals.iter().all(|refusal| **refusal == (503, "this identity joins too often".into())), "{refusals:?}");
    let counted = server.counters.joins_too_often.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(counted, refusals.len() as u64);
    let beside: Vec<_> = (0..20).map(|number| format!("{token}&publish={number}")).collect();
    let beside = futures_util::future::join_all(beside.iter().map(|token| join(&server, token))).await;
    assert!(beside.iter().any(Result::is_err), "sessions beside its own are joins of the same identity");
    join(&server, &join_token("another", "r")).await.expect("another identity joins");
    join(&server, &join_token("many", "r2")).await.expect("another room is joined");
}
