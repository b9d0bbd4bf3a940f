//! The signal socket of somebody who joined.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_request::Message as Request;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use super::random_bytes;
use crate::hostile::peer::{description, well};
use crate::hostile::scene::Scene;
use crate::hostile::stranger::upgrade;
use crate::ice::Credentials;
use crate::receiver::MediaKind;
use crate::sdp::{self, LocalSection, LocalTransport};
use crate::session::random_text;
use crate::signal::{JoinCall, Protocol, SignalSocket};

/// Largest message that LiveKit takes by default, less a little for the heads of its parts.
const MESSAGE: usize = (2 << 20) - 64;
const SIDS: usize = 60_000;
const SECTIONS: usize = 500;
/// A server that reads nothing for this long has stopped the attacker.
const PATIENCE: Duration = Duration::from_secs(5);
/// Attackers at a time, where each waits for the server.
const ATTACKERS: usize = 4;
/// Participants who never read.
const DEAF: usize = 20;

/// Sends message after message, made anew for each transport.
async fn messages(
    scene: &Scene<'_>,
    message: impl Fn(&LocalTransport, u64) -> Vec<u8>,
    pause: Duration,
) -> anyhow::Result<()> {
    let mut peer = well(scene, None, 0).await?;
    while scene.goes_on() {
        let number = scene.next();
        let bytes = message(&peer.local, number);
        scene.sent(bytes.len());
        if let Err(error) = peer.send_signal(bytes, scene.left(PATIENCE)).await {
            if !scene.goes_on() {
                break;
            }
            scene.note(format!("{error:#}"));
            peer.hang_up();
        }
        peer.pump().await;
        peer.drive(scene.left(pause)).await;
        peer = well(scene, Some(peer), number).await?;
    }
    Ok(())
}

/// A field of protobuf that has a length: a message, a text or bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    out
}

/// `count` empty messages of a repeated field, two bytes each.
pub(super) fn empty_elements(number: u8, count: usize) -> Vec<u8> {
    [number << 3 | 2, 0].repeat(count)
}

pub(in crate::hostile) async fn sync_state(scene: &Scene<'_>) -> anyhow::Result<()> {
    // SyncState is field 12 of a request, its tracks are field 3.
    let message = field(12, &empty_elements(3, MESSAGE / 2));
    messages(scene, |_, _| message.clone(), Duration::ZERO).await
}

/// Sids that no message before had.
fn sids(message: u64) -> Vec<String> {
    (0..SIDS).map(|number| format!("TR_{message:06x}{number:06}")).collect()
}

fn request(message: Request) -> Vec<u8> {
    proto::SignalRequest { message: Some(message) }.encode_to_vec()
}

pub(in crate::hostile) async fn subscription_sids(scene: &Scene<'_>) -> anyhow::Result<()> {
    let wish = |_: &LocalTransport, number: u64| {
        let (track_sids, subscribe) = (sids(number), number.is_multiple_of(2));
        request(Request::Subscription(proto::UpdateSubscription { track_sids, subscribe, ..Default::default() }))
    };
    messages(scene, wish, Duration::ZERO).await
}

pub(in crate::hostile) async fn track_settings(scene: &Scene<'_>) -> anyhow::Result<()> {
    let wish = |_: &LocalTransport, number: u64| {
        let (track_sids, disabled) = (sids(number), number.is_multiple_of(2));
        request(Request::TrackSetting(proto::UpdateTrackSettings { track_sids, disabled, ..Default::default() }))
    };
    messages(scene, wish, Duration::ZERO).await
}

pub(in crate::hostile) async fn add_track(scene: &Scene<'_>) -> anyhow::Result<()> {
    let long = "x".repeat(250_000);
    let add = |_: &LocalTransport, number: u64| {
        let layer = proto::VideoLayer { width: number as u32, ..Default::default() };
        request(Request::AddTrack(proto::AddTrackRequest {
            cid: format!("{number}-{long}"),
            name: long.clone(),
            stream: long.clone(),
            r#type: proto::TrackType::Video.into(),
            layers: vec![layer; 100],
            ..Default::default()
        }))
    };
    messages(scene, add, Duration::ZERO).await
}

pub(in crate::hostile) async fn trickle(scene: &Scene<'_>) -> anyhow::Result<()> {
    let long = "x".repeat(100_000);
    let candidate = |_: &LocalTransport, number: u64| {
        let line = format!("candidate:{number} 1 udp 1 10.0.{}.{} 9 typ host", number / 250 % 250, number % 250);
        let candidate_init = format!(r#"{{"candidate":"{line} {long}","sdpMid":"0","sdpMLineIndex":0}}"#);
        request(Request::Trickle(proto::TrickleRequest { candidate_init, target: 0, r#final: false }))
    };
    messages(scene, candidate, Duration::ZERO).await
}

/// Offers of many lines of one kind, or of one line that is long.
pub(in crate::hostile) async fn offer_lines(scene: &Scene<'_>) -> anyhow::Result<()> {
    const LINES: usize = 40_000;
    let kinds: [fn(usize) -> String; 8] = [
        |number| format!("a=candidate:{number} 1 udp 1 10.0.0.1 {} typ host\r\n", 1 + number % 65_000),
        |number| format!("a=ssrc:{number} cname:x\r\na=ssrc-group:FID {number} {}\r\n", number + 1),
        |number| format!("a=rid:r{number} send\r\n"),
        |number| format!("a=extmap:{} urn:x:{number}\r\n", 1 + number % 255),
        |number| format!("a=rtpmap:{} VP8/90000\r\na=fmtp:{} apt={}\r\n", number % 128, number % 128, number % 127),
        |number| format!("a=mid:{number}\r\n"),
        |number| format!("a=group:BUNDLE {number}\r\n"),
        |_| "a=fingerprint:sha-256 00:11:22\r\na=ice-ufrag:xxxx\r\na=ice-pwd:yyyyyyyyyyyyyyyyyyyyyyyy\r\n".to_owned(),
    ];
    let sections = [LocalSection::Receive(MediaKind::Audio), LocalSection::Receive(MediaKind::Video)];
    let offer = |transport: &LocalTransport, number: u64| {
        let id = 2 + number as u32;
        let mut sdp = sdp::offer(transport, id, &sections);
        let kind = number as usize % (kinds.len() + 1);
        match kinds.get(kind) {
            Some(line) => sdp.extend((0..LINES).map(line)),
            None => sdp.push_str(&format!("a=simulcast:send {}\r\n", "r1;".repeat(LINES))),
        }
        request(Request::Offer(description(sdp, id)))
    };
    messages(scene, offer, Duration::ZERO).await
}

/// Offers with other credentials each time.
pub(in crate::hostile) async fn ice_restarts(scene: &Scene<'_>) -> anyhow::Result<()> {
    let sections = [LocalSection::Receive(MediaKind::Audio), LocalSection::Receive(MediaKind::Video)];
    let sections = [&sections[..], &[LocalSection::Application]].concat();
    let offer = |transport: &LocalTransport, number: u64| {
        let (id, mut transport) = (2 + number as u32, transport.clone());
        transport.credentials = Credentials { ufrag: random_text(8), password: random_text(24) };
        request(Request::Offer(description(sdp::offer(&transport, id, &sections), id)))
    };
    messages(scene, offer, Duration::ZERO).await
}

pub(in crate::hostile) async fn permissions(scene: &Scene<'_>) -> anyhow::Result<()> {
    let of = |number: usize| proto::TrackPermission {
        participant_identity: format!("nobody-{number}"),
        track_sids: vec![format!("TR_hostile{number:06}")],
        ..Default::default()
    };
    let track_permissions = (0..SIDS / 2).map(of).collect();
    let permission = proto::SubscriptionPermission { track_permissions, ..Default::default() };
    let message = request(Request::SubscriptionPermission(permission));
    messages(scene, |_, _| message.clone(), Duration::ZERO).await
}

pub(in crate::hostile) async fn offer_sections(scene: &Scene<'_>) -> anyhow::Result<()> {
    let sections = vec![LocalSection::Receive(MediaKind::Video); SECTIONS];
    let offer = |transport: &LocalTransport, number: u64| {
        // The offer of the join was the first.
        let id = 2 + number as u32;
        request(Request::Offer(description(sdp::offer(transport, id, &sections), id)))
    };
    messages(scene, offer, Duration::ZERO).await
}

pub(in crate::hostile) async fn flood(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mute = proto::MuteTrackRequest { sid: "TR_hostile".into(), muted: true };
    let change = proto::UpdateParticipantMetadata { metadata: "x".repeat(1_000), ..Default::default() };
    let subscription = proto::UpdateSubscription { track_sids: vec!["TR_hostile".into()], ..Default::default() };
    let add = proto::AddTrackRequest { cid: "cid".into(), name: "x".repeat(200), ..Default::default() };
    let kinds = [
        request(Request::Mute(mute)),
        request(Request::UpdateMetadata(change)),
        request(Request::Subscription(subscription)),
        request(Request::AddTrack(add)),
        request(Request::PingReq(proto::Ping::default())),
        request(Request::Simulate(proto::SimulateScenario {
            scenario: Some(proto::simulate_scenario::Scenario::SpeakerUpdate(1)),
        })),
    ];
    messages(scene, |_, number| kinds[number as usize % kinds.len()].clone(), Duration::ZERO).await
}

pub(in crate::hostile) async fn noise(scene: &Scene<'_>) -> anyhow::Result<()> {
    let noise = |_: &LocalTransport, number: u64| match number % 3 {
        0 => random_bytes(rand::random_range(0..2_000)),
        // A known field with random content.
        1 => field(rand::random_range(1..16), &random_bytes(rand::random_range(0..2_000))),
        // Messages in messages, to the bottom of the stack.
        _ => (0..2_000).fold(Vec::new(), |inner: Vec<u8>, _| field(3, &inner)),
    };
    messages(scene, noise, Duration::from_millis(1)).await
}

pub(in crate::hostile) async fn endless_frame(scene: &Scene<'_>) -> anyhow::Result<()> {
    let attackers = (0..ATTACKERS as u64).map(|turn| async move {
        let mut line = scene.line().await?;
        let token = scene.token(&scene.room(turn))?;
        let path = format!("/rtc?access_token={token}&protocol=17&sdk=js&version=2.23.0");
        let answer = line.ask(upgrade(&scene.target, &path).as_bytes()).await?;
        scene.answered(answer.status);
        // A binary frame with a mask of zeros: one that claims 2^60 bytes, or fragments of 64 KiB of which none is
        // last.
        let (endless, body) = (turn % 2 == 0, vec![0; 64 << 10]);
        let mut head = vec![if endless { 0x82 } else { 0x02 }, 0xff];
        head.extend(if endless { 1_u64 << 60 } else { body.len() as u64 }.to_be_bytes());
        head.extend([0; 4]);
        let written = async {
            line.stream.write_all(&head).await?;
            loop {
                line.stream.write_all(&body).await?;
                scene.sent(body.len());
                if !endless {
                    // Continuation.
                    head[0] = 0;
                    line.stream.write_all(&head).await?;
                }
            }
        };
        let ended: Result<anyhow::Result<()>, _> = timeout(scene.left(Duration::MAX), written).await;
        if ended.is_ok() {
            scene.refused();
        }
        anyhow::Ok(())
    });
    join_all(attackers).await.into_iter().collect()
}

async fn join(scene: &Scene<'_>, token: &str) -> anyhow::Result<SignalSocket> {
    let call = JoinCall {
        url: &scene.options.url,
        token,
        protocol: Protocol::V0,
        auto_subscribe: true,
        offer: proto::SessionDescription::default(),
        from: scene.options.from,
    };
    let joined = timeout(PATIENCE, SignalSocket::connect(call)).await.context("a join took too long")?;
    scene.answered(if joined.is_ok() { 101 } else { 403 });
    joined
}

pub(in crate::hostile) async fn deaf(scene: &Scene<'_>) -> anyhow::Result<()> {
    let room = scene.room(0);
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        deaf.push(join(scene, &scene.token(&room)?).await?);
    }
    // What the room has to tell all of them.
    let mut speaker = join(scene, &scene.token(&room)?).await?;
    while scene.goes_on() {
        let add = proto::AddTrackRequest {
            cid: format!("cid-{}", scene.next()),
            name: "x".repeat(1_000),
            r#type: proto::TrackType::Audio.into(),
            ..Default::default()
        };
        scene.sent(add.encoded_len());
        if timeout(PATIENCE, speaker.send(Request::AddTrack(add))).await.is_err() {
            scene.note("the server reads no more");
            break;
        }
        // A member who comes and goes is told to all.
        let member = join(scene, &scene.token(&room)?).await;
        while let Ok(Ok(Some(_))) = timeout(Duration::ZERO, speaker.receive()).await {}
        drop(member);
    }
    sleep(scene.left(Duration::MAX)).await;
    drop(deaf);
    Ok(())
}

pub(in crate::hostile) async fn joins_of_one_identity(scene: &Scene<'_>) -> anyhow::Result<()> {
    let attackers = (0..2 * ATTACKERS as u64).map(|turn| async move {
        let token = scene.key.token(&scene.room(turn), "the-one")?;
        while scene.goes_on() {
            scene.sent(0);
            // Refused or not, the next one follows at once.
            drop(join(scene, &token).await);
            tokio::task::yield_now().await;
        }
        anyhow::Ok(())
    });
    join_all(attackers).await.into_iter().collect()
}
