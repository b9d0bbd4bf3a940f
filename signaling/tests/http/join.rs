//! `/rtc` and `/rtc/v1`: what is refused before the upgrade, and that validation says the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use livekit_protocol as proto;
use prost::Message as _;
use serde_json::json;
use signaling::http::Admit;
use signaling::join::JoinError;

use crate::server::{Answer, Request, Server, granting, join_token, token};

const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// Opens a WebSocket that the server is expected to refuse. The `close` makes it end the connection.
async fn refused(server: &Server, path: &str) -> Answer {
    server.send(Request { path, headers: &closing_upgrade(), ..Request::default() }).await
}

fn closing_upgrade() -> [(&'static str, &'static str); 4] {
    UPGRADE.map(|(n, v)| (n, if n == "Connection" { "Upgrade, close" } else { v }))
}

fn v1_query(request: &proto::JoinRequest) -> String {
    let wrapped = proto::WrappedJoinRequest { compression: 0, join_request: request.encode_to_vec() };
    format!("join_request={}", BASE64_URL_SAFE.encode(wrapped.encode_to_vec()))
}

#[tokio::test]
async fn without_an_upgrade_there_is_nothing_at_the_websocket_paths() {
    let server = Server::start().await;
    let query = format!("access_token={}", join_token("r"));

    for path in ["/rtc", "/rtc/v1"] {
        assert_eq!(server.get(&format!("{path}?{query}")).await.said(), (404, String::new()));
    }
}

/// RFC 6455, section 4.4.
#[tokio::test]
async fn an_upgrade_that_is_no_websockets_is_told_what_is_missing() {
    let server = Server::start().await;
    let path = &format!("/rtc?access_token={}", join_token("r"));
    let with = |name: &str, value: Option<&'static str>| {
        let kept = closing_upgrade().into_iter().filter(|(own, _)| *own != name);
        let own = UPGRADE.into_iter().find(|(own, _)| *own == name).map(|(name, _)| name);
        kept.chain(own.zip(value)).collect::<Vec<_>>()
    };
    for version in [Some("8"), None] {
        let headers = &with("Sec-WebSocket-Version", version);
        let answer = server.send(Request { path, headers, ..Request::default() }).await;
        assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, Some("13")), "{version:?}");
    }
    let headers = &with("Sec-WebSocket-Key", None);
    let answer = server.send(Request { path, headers, ..Request::default() }).await;
    assert_eq!(answer.said(), (400, "the header Sec-WebSocket-Key is missing".into()));
    // Its name is read in any case: only then is the token looked at.
    let path = "/rtc";
    for (name, status) in [("WebSocket", 401), ("h2c", 404)] {
        let headers = &with("Upgrade", Some(name));
        assert_eq!(server.send(Request { path, headers, ..Request::default() }).await.status, status, "{name}");
    }
    assert!(server.rooms.list_participants("r").await.is_empty());
}

#[tokio::test]
async fn a_server_that_shuts_down_is_to_be_asked_again() {
    let server = Server::start().await;
    server.rooms.drain(std::time::Duration::ZERO).await;
    let path = format!("/rtc?access_token={}", join_token("r"));
    assert_eq!(refused(&server, &path).await.said(), (503, "the server is shutting down".into()));
    let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counters = &server.counters;
    assert_eq!((counted(&counters.joins_refused), counted(&counters.joins_accepted)), (1, 0));
    assert_eq!((counted(&counters.joins_not_admitted), counted(&counters.joins_too_often)), (0, 0));
}

#[tokio::test]
async fn nobody_joins_by_another_method_than_get() {
    let server = Server::start().await;
    let query = format!("access_token={}", join_token("r"));

    for path in ["/rtc", "/rtc/v1"] {
        for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
            for headers in [&[][..], &closing_upgrade()] {
                let path = &format!("{path}?{query}");
                let answer = server.send(Request { method, path, headers, ..Request::default() }).await;
                assert_eq!((answer.status, answer.header("allow")), (405, Some("GET")), "{method}");
            }
        }
    }
}

#[tokio::test]
async fn connecting_and_validating_refuse_alike() {
    let server = Server::start().await;
    let long = "x".repeat(257);
    let joins =
        |identity: &str, room: &str| token(json!({ "sub": identity, "video": { "roomJoin": true, "room": room } }));
    let cases = [
        (String::new(), 401, "no permissions to access the room"),
        (token(json!({})), 401, "no permissions to access the room"),
        (granting(json!({ "roomCreate": true })), 401, "permissions denied"),
        (joins("", "r"), 400, "identity cannot be empty"),
        (joins(&long, "r"), 400, "participant identity length exceeds limits: max length 256"),
        (joins("alice", ""), 400, "no room name"),
        (joins("alice", &long), 400, "room name length exceeds limits: max length 256"),
    ];
    let join_request = v1_query(&proto::JoinRequest { reconnect: true, ..Default::default() });
    for (token, status, text) in &cases {
        for (path, query) in [("/rtc", "sdk=js"), ("/rtc/v1", join_request.as_str())] {
            let expected = (*status, (*text).to_owned());
            let query = format!("{query}&access_token={token}");
            assert_eq!(server.get(&format!("{path}/validate?{query}")).await.said(), expected, "{path}");
            assert_eq!(refused(&server, &format!("{path}?{query}")).await.said(), expected, "{path}");
        }
    }
}

#[tokio::test]
async fn each_broken_join_request_has_its_text() {
    let server = Server::start().await;
    let token = join_token("r");
    let inner = proto::WrappedJoinRequest { compression: 0, join_request: vec![0xff; 4] };
    let gzip = proto::WrappedJoinRequest { compression: 1, join_request: vec![1, 2, 3] };
    let cases = [
        ("".to_owned(), "join_request is required"),
        ("join_request=!".to_owned(), "cannot base64 decode wrapped join request"),
        (format!("join_request={}", BASE64_URL_SAFE.encode([0xff; 4])), "cannot unmarshal wrapped join request"),
        (format!("join_request={}", BASE64_URL_SAFE.encode(inner.encode_to_vec())), "cannot unmarshal join request"),
        (
            format!("join_request={}", BASE64_URL_SAFE.encode(gzip.encode_to_vec())),
            "cannot read decompressed join request",
        ),
    ];
    for (query, text) in &cases {
        let query = format!("{query}&access_token={token}");
        let expected = (400, (*text).to_owned());
        assert_eq!(server.get(&format!("/rtc/v1/validate?{query}")).await.said(), expected);
        assert_eq!(refused(&server, &format!("/rtc/v1?{query}")).await.said(), expected);
    }
}

#[tokio::test]
async fn permissions_beyond_joining_are_checked_too() {
    let server = Server::start().await;
    let silent = token(json!({ "video": { "roomJoin": true, "room": "r", "canPublish": false } }));
    let attributes = BASE64_URL_SAFE.encode(r#"{"a":"1"}"#);
    let cases = [
        (format!("publish=cam&access_token={silent}"), 401, "no permissions to access the room"),
        (format!("attributes={attributes}&access_token={}", join_token("r")), 401, "no permissions to access the room"),
        (format!("attributes=!&access_token={}", join_token("r")), 400, "cannot decode attributes"),
    ];
    for (query, status, text) in cases {
        assert_eq!(server.get(&format!("/rtc/validate?{query}")).await.said(), (status, text.into()), "{query}");
    }
}

#[tokio::test]
async fn a_good_request_is_valid_also_for_a_resume_of_a_stranger() {
    let server = Server::start().await;
    let token = join_token("r");

    for query in ["sdk=js", "reconnect=1&sid=PA_x", "publish=cam"] {
        let answer = server.get(&format!("/rtc/validate?{query}&access_token={token}")).await;
        assert_eq!(answer.said(), (200, "success".into()), "{query}");
    }
    let join_request = v1_query(&proto::JoinRequest { reconnect: true, ..Default::default() });
    let answer = server.get(&format!("/rtc/v1/validate?{join_request}&access_token={token}")).await;
    assert_eq!(answer.said(), (200, "success".into()));
}

#[tokio::test]
async fn a_room_that_joining_may_not_create_is_missing() {
    let server = Server::start_with(|config| config.auto_create = false).await;
    let path = |token: &str| format!("/rtc/validate?access_token={token}");
    let creator = token(json!({ "video": { "roomJoin": true, "room": "r", "roomCreate": true } }));

    let missing = server.get(&path(&join_token("r"))).await;
    assert_eq!(missing.said(), (404, "requested room does not exist".into()));
    assert_eq!(server.get(&path(&creator)).await.status, 200);
}

#[tokio::test]
async fn whoever_owns_the_rooms_may_refuse_a_good_token_also_for_a_resume() {
    let admit: Admit = Arc::new(|grants| match grants.video.room.as_str() {
        "closed" => Err(JoinError::Forbidden("closed to you".into())),
        "opening" => Err(JoinError::NotYet("opening".into())),
        _ => Ok(()),
    });
    let server = Server::start_admitting(Some(admit), |_| {}).await;
    let token = join_token("closed");
    let forbidden = (403, "closed to you".to_owned());
    let resume = v1_query(&proto::JoinRequest { reconnect: true, ..Default::default() });

    for (path, query) in [("/rtc", "sdk=js"), ("/rtc", "reconnect=1&sid=PA_x"), ("/rtc/v1", resume.as_str())] {
        let query = format!("{query}&access_token={token}");
        assert_eq!(server.get(&format!("{path}/validate?{query}")).await.said(), forbidden, "{path}");
        assert_eq!(refused(&server, &format!("{path}?{query}")).await.said(), forbidden, "{path}");
    }
    let open = server.get(&format!("/rtc/validate?access_token={}", join_token("open"))).await;
    let opening = server.get(&format!("/rtc/validate?access_token={}", join_token("opening"))).await;

    assert_eq!(open.status, 200);
    assert_eq!(opening.said(), (503, "opening".into()));
    assert_eq!(server.counters.joins_not_admitted.load(Ordering::Relaxed), 3);
}
