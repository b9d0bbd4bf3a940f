//! What holds for all routes: health, CORS, slashes, tokens, sizes.

use serde_json::json;

use crate::server::{Request, Server, granting, join_token, now_s, token, token_signed};

#[tokio::test]
async fn the_root_tells_that_the_server_is_well() {
    let server = Server::start().await;

    assert_eq!(server.get("/").await.said(), (200, "OK".into()));
    let head = server.send(Request { method: "HEAD", ..Request::default() }).await;
    assert_eq!(head.said(), (200, String::new()));
}

#[tokio::test]
async fn a_server_without_its_media_workers_is_not_well() {
    let mut server = Server::start().await;
    server.workers.take().unwrap().stop();
    assert_eq!(server.get("/").await.said(), (406, "Not Ready: a media worker is not running".into()));
}

#[tokio::test]
async fn an_unknown_path_is_a_plain_404() {
    let server = Server::start().await;

    for path in ["/nope", "/settings/regions", "/rtc/", "/twirp/livekit.NoService/X", "/twirp/livekit.RoomService"] {
        let answer = server.get(path).await;
        assert_eq!(answer.said(), (404, "404 page not found\n".into()), "{path}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
}

#[tokio::test]
async fn slashes_at_the_start_of_a_path_count_as_one() {
    let server = Server::start().await;
    let query = format!("access_token={}", join_token("r"));

    assert_eq!(server.get(&format!("//rtc/validate?{query}")).await.status, 200);
    assert_eq!(server.get(&format!("///rtc/v1/validate?{query}")).await.status, 400);
}

#[tokio::test]
async fn errors_too_can_be_read_by_a_page_of_another_origin() {
    let server = Server::start().await;
    let headers = [("Origin", "https://app.example")];

    for path in ["/", "/nope", "/rtc/validate", "/rtc/v1/validate", "/rtc", "/rtc/validate?access_token=x"] {
        let answer = server.send(Request { path, headers: &headers, ..Request::default() }).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example"), "{path}");
        assert_eq!(answer.header("access-control-expose-headers"), Some("*"), "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), None, "{path}");
    }
}

#[tokio::test]
async fn validation_is_open_to_all_origins_even_unasked() {
    let answer = Server::start().await.get("/rtc/validate").await;

    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn a_preflight_gets_back_the_method_and_headers_it_asks_for() {
    let server = Server::start().await;
    let headers = [
        ("Origin", "https://app.example"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ];
    let path = "/twirp/livekit.RoomService/ListRooms";
    let answer = server.send(Request { method: "OPTIONS", path, headers: &headers, body: b"" }).await;

    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,content-type"));
    assert_eq!(answer.header("access-control-max-age"), Some("86400"));
}

#[tokio::test]
async fn what_is_no_preflight_is_answered_by_its_route() {
    let server = Server::start().await;
    let (origin, wanted) = (("Origin", "https://app.example"), ("Access-Control-Request-Method", "POST"));
    for (method, headers) in [("OPTIONS", &[wanted][..]), ("OPTIONS", &[origin]), ("GET", &[origin, wanted])] {
        let answer = server.send(Request { method, path: "/nope", headers, body: b"" }).await;
        assert_eq!((answer.status, answer.header("access-control-allow-methods")), (404, None), "{method} {headers:?}");
    }
}

#[tokio::test]
async fn a_preflight_for_an_unusual_method_gets_nothing() {
    let server = Server::start().await;
    let headers = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "PUT")];
    let answer = server.send(Request { method: "OPTIONS", headers: &headers, ..Request::default() }).await;

    assert_eq!(answer.header("access-control-allow-methods"), None);
}

#[tokio::test]
async fn each_bad_token_has_its_text_on_every_route() {
    let server = Server::start().await;
    let join = json!({ "roomJoin": true, "room": "r" });
    let invalid = |detail: &str| format!("invalid authorization token: {detail}");
    let cases = [
        ("garbage".to_owned(), "invalid authorization token".to_owned()),
        (token(json!({ "iss": "other" })), "invalid API key".to_owned()),
        (
            token_signed("another secret", json!({ "video": join })),
            invalid("token signature is invalid: signature is invalid"),
        ),
        (token(json!({ "exp": now_s() - 120 })), invalid("token has invalid claims: token is expired")),
        (token(json!({ "nbf": now_s() + 120 })), invalid("token has invalid claims: token is not valid yet")),
        (
            token(json!({ "exp": null })),
            invalid("token has invalid claims: token is missing required claim: exp claim is required"),
        ),
        (
            "eyJhbGciOiJub25lIn0.eyJpc3MiOiJrZXkiLCJleHAiOjk5OTk5OTk5OTl9.".to_owned(),
            invalid("token signature is invalid: signing method is not HS256"),
        ),
    ];
    for (token, text) in &cases {
        for path in ["/rtc/validate", "/rtc/v1/validate", "/rtc", "/twirp/livekit.RoomService/ListRooms"] {
            let by_query = server.get(&format!("{path}?access_token={token}")).await;
            assert_eq!(by_query.said(), (401, text.clone()), "{path}");
            let authorization = format!("Bearer {token}");
            let headers = [("Authorization", authorization.as_str())];
            let by_header = server.send(Request { path, headers: &headers, ..Request::default() }).await;
            assert_eq!(by_header.said(), (401, text.clone()), "{path}");
        }
    }
}

#[tokio::test]
async fn the_authorization_header_must_be_a_bearers_and_wins_over_the_query() {
    let server = Server::start().await;
    let path = format!("/rtc/validate?access_token={}", join_token("r"));
    let with = |value: &'static str| [("Authorization", value)];

    let basic = server.send(Request { path: &path, headers: &with("Basic eA=="), ..Request::default() }).await;
    assert_eq!(basic.said(), (401, "invalid authorization header. Must start with Bearer ".into()));
    let garbage = server.send(Request { path: &path, headers: &with("Bearer garbage"), ..Request::default() }).await;
    assert_eq!(garbage.said(), (401, "invalid authorization token".into()));
}

#[tokio::test]
async fn a_token_in_the_query_may_be_written_in_any_way_and_anywhere() {
    let server = Server::start().await;
    let plain = join_token("r");
    let encoded: String = plain.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for query in [
        format!("access_token={plain}"),
        format!("access_token={encoded}"),
        format!("sdk=js&access_token={encoded}&protocol=17"),
        format!("sdk=js&%61ccess_token={plain}"),
    ] {
        assert_eq!(server.get(&format!("/rtc/validate?{query}")).await.said(), (200, "success".into()), "{query}");
    }
    let broken = format!("access_token={plain}%20");
    assert_eq!(server.get(&format!("/rtc/validate?{broken}")).await.status, 401);
}

#[tokio::test]
async fn a_body_over_ten_mebibytes_is_refused() {
    let server = Server::start().await;
    let authorization = format!("Bearer {}", granting(json!({ "roomList": true })));
    let headers = [("Content-Type", "application/json"), ("Authorization", authorization.as_str())];
    let body = vec![b' '; (10 << 20) + 1];
    let path = "/twirp/livekit.RoomService/ListRooms";
    let answer = server.send(Request { method: "POST", path, headers: &headers, body: &body }).await;

    assert_eq!(answer.said(), (413, "request body too large".into()));
}
