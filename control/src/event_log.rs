//! Who comes to and goes from the rooms of this process, in the log.
//!
//! A line each for rooms and participants, with the stream that a room belongs to; what tracks do is for debugging.

use std::time::SystemTime;

use livekit_protocol as proto;
use signaling::event::{RoomEvent, RoomHappening};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tracing::field::display;
use tracing::{debug, info, warn};

use crate::stream_cache::StreamCache;

/// Logs until the rooms are gone. `cache` knows whose rooms they are.
pub async fn run(mut events: broadcast::Receiver<RoomEvent>, cache: StreamCache) {
    loop {
        match events.recv().await {
            Ok(event) => log(&event, &cache),
            Err(RecvError::Lagged(count)) => warn!(count, "events of rooms came too fast to be logged"),
            Err(RecvError::Closed) => return,
        }
    }
}

fn log(event: &RoomEvent, cache: &StreamCache) {
    let room = event.room.as_str();
    let stream = cache.of_room(room).map(|stream| display(stream.id));
    match &event.what {
        RoomHappening::RoomStarted { .. } => info!(room, room_sid = %event.room_sid, stream, "room started"),
        RoomHappening::RoomFinished { .. } => info!(room, room_sid = %event.room_sid, stream, "room finished"),
        RoomHappening::ParticipantJoined { participant, .. } => {
            let Who { participant, sid, address, sdk } = who(event, participant);
            info!(participant, sid, room, stream, address, sdk, "participant joined");
        }
        RoomHappening::ParticipantLeft { participant: info, .. } => {
            let Who { participant, sid, address, .. } = who(event, info);
            let (reason, seconds) =
                (info.disconnect_reason().as_str_name(), seconds_since(info.joined_at_ms, event.at));
            info!(participant, sid, room, stream, address, reason, seconds, "participant left");
        }
        RoomHappening::ParticipantConnectionAborted { participant: info, .. } => {
            let Who { participant, sid, address, sdk } = who(event, info);
            let reason = info.disconnect_reason().as_str_name();
            info!(participant, sid, room, stream, address, sdk, reason, "participant did not get through");
        }
        RoomHappening::TrackPublished { participant, track, .. } => {
            debug!(participant = participant.identity, room, stream, track = track.sid, "track published");
        }
        RoomHappening::TrackUnpublished { participant, track, .. } => {
            debug!(participant = participant.identity, room, stream, track = track.sid, "track unpublished");
        }
    }
}

/// What a line says of a participant.
struct Who<'a> {
    participant: &'a str,
    sid: &'a str,
    address: Option<&'a str>,
    sdk: Option<&'static str>,
}

fn who<'a>(event: &'a RoomEvent, info: &'a proto::ParticipantInfo) -> Who<'a> {
    let client = event.client.as_ref();
    Who {
        participant: &info.identity,
        sid: &info.sid,
        address: client.map(|client| client.address.as_str()).filter(|address| !address.is_empty()),
        sdk: client.map(|client| client.sdk().as_str_name()),
    }
}

fn seconds_since(unix_ms: i64, now: SystemTime) -> u64 {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let since = now.saturating_sub(u128::try_from(unix_ms).unwrap_or_default());
    u64::try_from(since / 1000).unwrap_or(u64::MAX)
}
