//! Twirp: routes, encodings, grants, errors.

use std::time::Duration;

use livekit_protocol as proto;
use prost::Message as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::server::{Request, Server, granting, token};

#[tokio::test]
async fn a_request_without_handler_says_why() {
    let server = Server::start().await;
    let list = "/twirp/livekit.RoomService/ListRooms";
    let cases = [
        (
            ("GET", list, "application/json"),
            r#"unsupported method "GET" (only POST is allowed)"#,
            "GET /twirp/livekit.RoomService/ListRooms",
        ),
        (
            ("POST", "/twirp/livekit.RoomService/NoSuch", "application/json"),
            r#"no handler for path "/twirp/livekit.RoomService/NoSuch""#,
            "POST /twirp/livekit.RoomService/NoSuch",
        ),
        (
            ("POST", list, "text/plain"),
            r#"unexpected Content-Type: "text/plain""#,
            "POST /twirp/livekit.RoomService/ListRooms",
        ),
    ];
    for ((method, path, content_type), message, route) in cases {
        let headers = [("Content-Type", content_type)];
        let answer = server.send(Request { method, path, headers: &headers, body: b"{}" }).await;

        assert_eq!(answer.status, 404);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let expected = json!({ "code": "bad_route", "msg": message, "meta": { "twirp_invalid_route": route } });
        assert_eq!(answer.json(), expected);
    }
}

#[tokio::test]
async fn what_cannot_be_decoded_is_malformed_in_both_encodings() {
    let server = Server::start().await;
    let path = "/twirp/livekit.RoomService/CreateRoom";
    for (content_type, body, message) in [
        ("application/json", &b"{not json"[..], "the json request could not be decoded"),
        ("application/protobuf", &[0xff; 3][..], "the protobuf request could not be decoded"),
    ] {
        let authorization = format!("Bearer {}", granting(json!({ "roomCreate": true })));
        let headers = [("Content-Type", content_type), ("Authorization", &authorization)];
        let answer = server.send(Request { method: "POST", path, headers: &headers, body }).await;

        assert_eq!(answer.status, 400);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json(), json!({ "code": "malformed", "msg": message }));
    }
}

#[tokio::test]
async fn a_number_is_read_in_any_spelling_and_one_with_a_fraction_refused_by_name() {
    let server = Server::start().await;
    let token = granting(json!({ "roomCreate": true }));
    let create = async |body: &str| {
        let headers = [("Content-Type", "application/json"), ("Authorization", &format!("Bearer {token}"))];
        let path = "/twirp/livekit.RoomService/CreateRoom";
        server.send(Request { method: "POST", path, headers: &headers, body: body.as_bytes() }).await
    };
    for (number, spelling) in ["60", "60.0", "6e1", r#""60""#, r#""6e1""#].into_iter().enumerate() {
        let body = format!(r#"{{"name":"spelled-{number}","empty_timeout":{spelling}}}"#);
        let answer = create(&body).await;
        assert_eq!((answer.status, &answer.json()["empty_timeout"]), (200, &json!(60)), "{spelling}");
    }
    let answer = create(r#"{"name":"a","emptyTimeout":60.5}"#).await;
    assert_eq!(answer.status, 400);
    let cause = "emptyTimeout: 60.5 is not a whole number";
    let message = "the json request could not be decoded";
    assert_eq!(answer.json(), json!({ "code": "malformed", "msg": message, "meta": { "cause": cause } }));
}

#[tokio::test]
async fn every_method_is_denied_without_its_grant() {
    let server = Server::start().await;
    let methods = [
        "RoomService/CreateRoom",
        "RoomService/ListRooms",
        "RoomService/DeleteRoom",
        "RoomService/ListParticipants",
        "RoomService/GetParticipant",
        "RoomService/RemoveParticipant",
        "RoomService/MutePublishedTrack",
        "RoomService/UpdateParticipant",
        "RoomService/UpdateSubscriptions",
        "RoomService/SendData",
        "RoomService/UpdateRoomMetadata",
        "RoomService/ForwardParticipant",
        "RoomService/MoveParticipant",
        "RoomService/PerformRpc",
        "AgentDispatchService/CreateDispatch",
        "AgentDispatchService/DeleteDispatch",
        "AgentDispatchService/ListDispatch",
        "Egress/ListEgress",
        "Ingress/ListIngress",
        "SIP/ListSIPTrunk",
        "SIP/CreateSIPParticipant",
    ];
    let of_another_room = granting(json!({ "roomAdmin": true, "room": "other" }));
    for method in methods {
        for token in ["", &token(json!({})), &of_another_room] {
            let answer = server.call(method, token, &json!({ "room": "hr" })).await;
            assert_eq!(answer.status, 401, "{method}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(answer.json(), json!({ "code": "unauthenticated", "msg": "permissions denied" }), "{method}");
        }
    }
}

/// The head of a request with ten million bytes to come, and the status of the answer before any of them.
async fn status_before_the_body(server: &Server, method: &str, token: &str) -> Option<String> {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /twirp/livekit.{method} HTTP/1.1\r\nHost: a\r\nContent-Type: application/protobuf\r\n\
         Authorization: Bearer {token}\r\nContent-Length: 10000000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    // Less than the server waits for a body.
    tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut answer)).await.ok()?.ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_request_is_not_read_for_those_who_may_not_call_its_method() {
    let server = Server::start().await;
    let admin = granting(json!({ "roomAdmin": true, "room": "r" }));
    for (method, token) in [
        ("RoomService/CreateRoom", String::new()),
        ("RoomService/CreateRoom", admin.clone()),
        ("RoomService/SendData", granting(json!({ "roomCreate": true, "roomList": true }))),
        ("RoomService/MoveParticipant", admin.clone()),
        ("Egress/ListEgress", admin),
        ("SIP/CreateSIPParticipant", token(json!({ "sip": { "admin": true } }))),
    ] {
        let status = status_before_the_body(&server, method, &token).await;
        assert_eq!(status.as_deref(), Some("HTTP/1.1 401"), "{method}");
    }
}

#[tokio::test]
async fn what_the_server_does_not_have_is_unimplemented_for_those_who_may() {
    let server = Server::start().await;
    let admin = json!({ "roomAdmin": true, "room": "hr", "destinationRoom": "hr2" });
    let cases = [
        ("AgentDispatchService/ListDispatch", granting(admin.clone())),
        ("Egress/StartRoomCompositeEgress", granting(json!({ "roomRecord": true }))),
        ("Ingress/CreateIngress", granting(json!({ "ingressAdmin": true }))),
        ("SIP/ListSIPInboundTrunk", token(json!({ "sip": { "admin": true } }))),
        ("SIP/TransferSIPParticipant", token(json!({ "sip": { "call": true } }))),
        ("RoomService/MoveParticipant", granting(admin.clone())),
    ];
    for (method, token) in cases {
        let body = json!({ "room": "hr", "destinationRoom": "hr2" });
        assert_eq!(server.call(method, &token, &body).await.code(), (501, "unimplemented".into()), "{method}");
    }
}

#[tokio::test]
async fn calls_are_counted_by_service_method_and_status_and_what_is_no_method_is_not() {
    let server = Server::start().await;
    let lists = granting(json!({ "roomList": true }));
    for (method, token, status) in [
        ("RoomService/ListRooms", lists.as_str(), 200),
        ("RoomService/ListRooms", "", 401),
        ("RoomService/ListRooms", lists.as_str(), 200),
        ("Egress/ListEgress", lists.as_str(), 401),
        ("RoomService/NoSuch", lists.as_str(), 404),
    ] {
        assert_eq!(server.call(method, token, &json!({})).await.status, status, "{method}");
    }
    let calls = server.rooms.stats().calls();
    let calls: Vec<_> =
        calls.iter().map(|(call, took)| (&*call.service, &*call.method, call.status, took.count())).collect();
    let expected =
        [("Egress", "ListEgress", 401, 1), ("RoomService", "ListRooms", 200, 2), ("RoomService", "ListRooms", 401, 1)];
    assert_eq!(calls, expected);
    let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((counted(&server.counters.api_answered), counted(&server.counters.api_refused)), (2, 3));
}

#[tokio::test]
async fn a_participant_cannot_be_moved_to_where_it_is() {
    let token = granting(json!({ "roomAdmin": true, "room": "hr", "destinationRoom": "hr" }));
    let body = json!({ "room": "hr", "identity": "bob", "destination_room": "hr" });
    let answer = Server::start().await.call("RoomService/ForwardParticipant", &token, &body).await;

    assert_eq!(answer.code(), (400, "invalid_argument".into()));
}

/// By service and what a token has to grant; each other grant is none.
#[tokio::test]
async fn each_service_that_is_absent_has_its_methods_and_its_grant() {
    let server = Server::start().await;
    let admin = granting(json!({ "roomAdmin": true, "room": "hr" }));
    let grants = [
        ("room admin", admin),
        ("record", granting(json!({ "roomRecord": true }))),
        ("ingress", granting(json!({ "ingressAdmin": true }))),
        ("SIP admin", token(json!({ "sub": "", "sip": { "admin": true } }))),
        ("SIP call", token(json!({ "sub": "", "sip": { "call": true } }))),
    ];
    let services = [
        ("AgentDispatchService", "room admin", "CreateDispatch DeleteDispatch ListDispatch"),
        (
            "Egress",
            "record",
            "StartEgress StartRoomCompositeEgress StartWebEgress StartParticipantEgress StartTrackCompositeEgress \
             StartTrackEgress UpdateLayout UpdateStream ListEgress StopEgress",
        ),
        ("Ingress", "ingress", "CreateIngress UpdateIngress ListIngress DeleteIngress"),
        (
            "SIP",
            "SIP admin",
            "ListSIPTrunk CreateSIPInboundTrunk UpdateSIPInboundTrunk GetSIPInboundTrunk ListSIPInboundTrunk \
             CreateSIPOutboundTrunk UpdateSIPOutboundTrunk GetSIPOutboundTrunk ListSIPOutboundTrunk DeleteSIPTrunk \
             CreateSIPDispatchRule UpdateSIPDispatchRule ListSIPDispatchRule DeleteSIPDispatchRule CreateSIPTrunk",
        ),
        ("SIP", "SIP call", "CreateSIPParticipant TransferSIPParticipant"),
    ];
    for (service, granted, methods) in services {
        for method in methods.split_whitespace() {
            for (name, token) in &grants {
                let answer = server.call(&format!("{service}/{method}"), token, &json!({ "room": "hr" })).await;
                let expected = if *name == granted { (501, "unimplemented") } else { (401, "unauthenticated") };
                assert_eq!(answer.code(), (expected.0, expected.1.into()), "{method} with {name}");
            }
        }
        let unknown = server.call(&format!("{service}/NoSuch"), &grants[0].1, &json!({})).await;
        assert_eq!(unknown.code(), (404, "bad_route".into()), "{service}");
    }
    // Of another room.
    let other = server.call("AgentDispatchService/ListDispatch", &grants[0].1, &json!({ "room": "other" })).await;
    assert_eq!(other.code(), (401, "unauthenticated".into()));
}

#[tokio::test]
async fn moving_and_forwarding_are_unimplemented_where_the_token_names_both_rooms_and_denied_elsewhere() {
    let server = Server::start().await;
    let token = |room: &str, destination: &str| {
        granting(json!({ "roomAdmin": true, "room": room, "destinationRoom": destination }))
    };
    for method in ["ForwardParticipant", "MoveParticipant"] {
        for (token, destination, expected) in [
            (token("hr", "hr2"), "hr2", (501, "unimplemented")),
            (token("hr", "hr"), "hr", (400, "invalid_argument")),
            (token("hr", "hr2"), "hr3", (401, "unauthenticated")),
            (token("other", "hr2"), "hr2", (401, "unauthenticated")),
            (token("hr", ""), "", (401, "unauthenticated")),
            (token("hr", "hr2"), "", (401, "unauthenticated")),
        ] {
            let body = json!({ "room": "hr", "identity": "bob", "destinationRoom": destination });
            let answer = server.call(&format!("RoomService/{method}"), &token, &body).await;
            assert_eq!(answer.code(), (expected.0, expected.1.into()), "{method} to {destination:?}");
        }
    }
}

#[tokio::test]
async fn a_call_of_the_server_needs_somebody_to_call() {
    let server = Server::start().await;
    let admin = granting(json!({ "roomAdmin": true, "room": "hr" }));
    for (identity, expected) in [("", (400, "invalid_argument")), ("bob", (501, "unimplemented"))] {
        let body = json!({ "room": "hr", "destinationIdentity": identity });
        let answer = server.call("RoomService/PerformRpc", &admin, &body).await;
        assert_eq!(answer.code(), (expected.0, expected.1.into()));
    }
}

#[tokio::test]
async fn a_nonce_has_sixteen_bytes_or_is_absent() {
    use base64::Engine as _;
    let server = Server::start().await;
    let admin = granting(json!({ "roomAdmin": true, "roomCreate": true, "room": "hr" }));
    server.call("RoomService/CreateRoom", &admin, &json!({ "name": "hr" })).await;
    for (length, accepted) in [(0, true), (15, false), (16, true), (17, false)] {
        let nonce = base64::prelude::BASE64_STANDARD.encode(vec![7; length]);
        let answer = server.call("RoomService/SendData", &admin, &json!({ "room": "hr", "nonce": nonce })).await;
        if accepted {
            assert_eq!(answer.said(), (200, "{}".into()), "{length}");
        } else {
            let message = format!("nonce should be 16-bytes or not present, got: {length}");
            assert_eq!(answer.json(), json!({ "code": "invalid_argument", "msg": message }));
        }
    }
}

#[tokio::test]
async fn an_answer_comes_in_the_encoding_of_the_request() {
    let server = Server::start().await;
    let authorization = format!("Bearer {}", granting(json!({ "roomList": true })));
    let path = "/twirp/livekit.RoomService/ListRooms";
    for content_type in ["application/json", "application/json; charset=utf-8"] {
        let headers = [("Content-Type", content_type), ("Authorization", authorization.as_str())];
        let answer = server.send(Request { method: "POST", path, headers: &headers, body: b"{}" }).await;
        assert_eq!((answer.status, answer.json()), (200, json!({ "rooms": [] })));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let headers = [("Content-Type", "application/protobuf"), ("Authorization", authorization.as_str())];
    let answer = server.send(Request { method: "POST", path, headers: &headers, body: b"" }).await;
    assert_eq!(answer.header("content-type"), Some("application/protobuf"));
    assert_eq!(proto::ListRoomsResponse::decode(answer.body.as_slice()), Ok(proto::ListRoomsResponse::default()));
}

#[tokio::test]
async fn a_room_that_does_not_exist_has_no_participants() {
    let admin = granting(json!({ "roomAdmin": true, "room": "nope" }));
    let answer = Server::start().await.call("RoomService/ListParticipants", &admin, &json!({ "room": "nope" })).await;

    assert_eq!((answer.status, answer.json()), (200, json!({ "participants": [] })));
}

/// LiveKit compares the names, and so lets a token without a room pass for requests without one. There is no such room.
#[tokio::test]
async fn a_token_without_a_room_acts_on_none() {
    let server = Server::start().await;
    let create = granting(json!({ "roomCreate": true, "roomList": true }));
    assert_eq!(server.call("RoomService/CreateRoom", &create, &json!({ "name": "hr" })).await.status, 200);
    let destination = json!({ "roomAdmin": true, "destinationRoom": "hr" });
    for video in [json!({ "roomAdmin": true }), json!({ "roomAdmin": true, "room": "" }), destination] {
        let admin = granting(video);
        for (method, expected) in [
            ("GetParticipant", (404, "not_found")),
            ("RemoveParticipant", (404, "not_found")),
            ("MutePublishedTrack", (404, "not_found")),
            ("UpdateParticipant", (404, "not_found")),
            ("UpdateSubscriptions", (404, "not_found")),
            ("SendData", (404, "not_found")),
            ("UpdateRoomMetadata", (404, "not_found")),
            ("PerformRpc", (400, "invalid_argument")),
        ] {
            for body in [json!({}), json!({ "room": "", "identity": "", "metadata": "changed" })] {
                let body = match method {
                    "UpdateRoomMetadata" | "UpdateParticipant" => body,
                    _ => json!({ "room": "" }),
                };
                let answer = server.call(&format!("RoomService/{method}"), &admin, &body).await;
                assert_eq!(answer.code(), (expected.0, expected.1.into()), "{method}");
            }
        }
        let listed = server.call("RoomService/ListParticipants", &admin, &json!({})).await;
        assert_eq!((listed.status, listed.json()), (200, json!({ "participants": [] })));
        // Not of a room that has a name.
        let named = server.call("RoomService/UpdateRoomMetadata", &admin, &json!({ "room": "hr" })).await;
        assert_eq!(named.code(), (401, "unauthenticated".into()));
    }
    assert_eq!(
        server.call("RoomService/CreateRoom", &create, &json!({})).await.code(),
        (400, "invalid_argument".into())
    );
    assert_eq!(server.call("RoomService/DeleteRoom", &create, &json!({})).await.code(), (404, "not_found".into()));
    // A list of no name is not the list of all.
    let listed = server.call("RoomService/ListRooms", &create, &json!({ "names": [""] })).await;
    assert_eq!((listed.status, listed.json()), (200, json!({ "rooms": [] })));
    let listed = server.call("RoomService/ListRooms", &create, &json!({})).await;
    assert_eq!(
        (listed.json()["rooms"].as_array().map(Vec::len), &listed.json()["rooms"][0]["metadata"]),
        (Some(1), &json!(""))
    );
}
