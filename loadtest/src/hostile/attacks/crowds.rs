//! Many signal sockets of those who joined.

use std::io;
use std::time::Duration;

use futures_util::future::join;
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_request::Message as Request;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::doors::{fill, hold};
use crate::hostile::scene::Scene;
use crate::hostile::stranger::{BINARY, Line, frame_head, upgrade};

/// Connections that each hold an unfinished message: 2 GB together.
const HOLDING: usize = 1_000;
/// Bytes of such a message, of which [`HELD`] are sent: close to what LiveKit takes at most.
const MESSAGE: usize = 2_000_000;
const HELD: usize = 1_900_000;
/// Sessions beside one's own.
const BESIDE: usize = 20_000;
/// Members of each of the two rooms who are told of changes: rooms of up to 50 tell everybody.
const BYSTANDERS: usize = 45;
/// Changes that are written at once.
const CHANGES: usize = 10;
/// Between two looks of theirs at what they are told.
const READ_INTERVAL: Duration = Duration::from_millis(5);
/// A speaker who is not read from for so long is followed by another.
const PATIENCE: Duration = Duration::from_secs(1);
/// Sessions that ask and do not read the answers.
const UNREAD: usize = 500;
/// How long each of them asks, before the next one joins.
const ASKING_TIME: Duration = Duration::from_millis(300);
/// Bytes of a request whose answer has it in it. Some servers send back short ones only.
const LONG_REQUEST: usize = 250_000;
const SHORT_REQUEST: usize = 8_000;

/// A signal socket down to its bytes, after the upgrade. `beside`: more of the URL.
async fn enter(scene: &Scene<'_>, line: &mut Line, token: &str, beside: &str) -> io::Result<()> {
    let path = format!("/rtc?access_token={token}&protocol=17&sdk=js&version=2.23.0{beside}");
    let answer = line.ask(upgrade(&scene.target, &path).as_bytes()).await?;
    scene.answered(answer.status);
    if answer.status == 101 { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

/// The same of somebody new in one of the attack's rooms.
async fn enter_anew(scene: &Scene<'_>, line: &mut Line) -> io::Result<()> {
    let token = scene.token(&scene.room(rand::random())).map_err(io::Error::other)?;
    enter(scene, line, &token, "").await
}

/// A request in its frame.
fn frame(request: Request) -> Vec<u8> {
    let bytes = proto::SignalRequest { message: Some(request) }.encode_to_vec();
    [frame_head(BINARY, bytes.len()), bytes].concat()
}

pub(in crate::hostile) async fn messages_never_ended(scene: &Scene<'_>) -> anyhow::Result<()> {
    hold(scene, HOLDING, async |line| {
        enter_anew(scene, line).await?;
        line.stream.write_all(&frame_head(BINARY, MESSAGE)).await?;
        fill(scene, line, HELD).await
    })
    .await;
    Ok(())
}

pub(in crate::hostile) async fn sessions_beside_ones_own(scene: &Scene<'_>) -> anyhow::Result<()> {
    let token = scene.key.token(&scene.room(0), "the-one")?;
    hold(scene, BESIDE, async |line| enter(scene, line, &token, &format!("&publish={}", scene.next())).await).await;
    scene.sessions_of_one();
    Ok(())
}

pub(in crate::hostile) async fn metadata_told_to_all(scene: &Scene<'_>) -> anyhow::Result<()> {
    let change = |number: u64| {
        let metadata = number.to_string();
        frame(Request::UpdateMetadata(proto::UpdateParticipantMetadata { metadata, ..Default::default() }))
    };
    let change = &change;
    let rooms = (0..2).map(|turn| async move {
        let room = scene.room(turn);
        let mut bystanders = Vec::new();
        for _ in 0..BYSTANDERS {
            let mut line = scene.line().await?;
            enter(scene, &mut line, &scene.token(&room)?, "").await?;
            bystanders.push(line);
        }
        // Of each other they have been told.
        bystanders.iter_mut().for_each(|line| _ = line.is_closed());
        let before: u64 = bystanders.iter().map(|line| line.ignored).sum();
        let speak = async {
            while scene.goes_on() {
                let token = scene.key.token_to_change_oneself(&room, &format!("speaker-{}", scene.next()))?;
                let mut speaker = scene.line().await?;
                enter(scene, &mut speaker, &token, "").await?;
                while scene.goes_on() && !speaker.is_closed() {
                    let changes: Vec<u8> = (0..CHANGES).flat_map(|_| change(scene.next())).collect();
                    (0..CHANGES).for_each(|_| scene.sent(changes.len() / CHANGES));
                    if !matches!(timeout(PATIENCE, speaker.stream.write_all(&changes)).await, Ok(Ok(()))) {
                        break;
                    }
                    sleep(READ_INTERVAL).await;
                }
            }
            anyhow::Ok(())
        };
        let hear = async {
            let (mut looks, mut closed) = (interval(READ_INTERVAL), 0);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while scene.goes_on() {
                looks.tick().await;
                closed = bystanders.iter_mut().filter_map(|line| line.is_closed().then_some(())).count();
            }
            closed
        };
        let (spoken, closed) = join(speak, hear).await;
        scene.told(bystanders.iter().map(|line| line.ignored).sum::<u64>() - before);
        scene.note(format!("of {BYSTANDERS} bystanders the server closed {closed}"));
        spoken
    });
    futures_util::future::join_all(rooms).await.into_iter().collect()
}

pub(in crate::hostile) async fn answers_unread(scene: &Scene<'_>) -> anyhow::Result<()> {
    // The token does not allow it, which the answer says.
    let change = |len: usize| {
        let change =
            proto::UpdateParticipantMetadata { metadata: "x".repeat(len), request_id: 1, ..Default::default() };
        frame(Request::UpdateMetadata(change))
    };
    // What is no candidate is sent back as well, and costs less of a budget.
    let candidate_init = "x".repeat(SHORT_REQUEST);
    let trickle = frame(Request::Trickle(proto::TrickleRequest { candidate_init, ..Default::default() }));
    let kinds = [change(LONG_REQUEST), trickle];
    hold(scene, UNREAD, async |line| {
        let request = &kinds[rand::random_range(0..kinds.len())];
        enter_anew(scene, line).await?;
        let asked = timeout(ASKING_TIME, async {
            loop {
                line.stream.write_all(request).await?;
                scene.sent(request.len());
                tokio::task::yield_now().await;
            }
        });
        // Who is not read from any more stays.
        asked.await.unwrap_or(Ok(()))
    })
    .await;
    Ok(())
}
