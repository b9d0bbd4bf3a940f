//! Drives a [`Session`] over a WebSocket, whichever library speaks it.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::time::{MissedTickBehavior, timeout};

use crate::session::{Incoming, Outbound, Session};
use crate::wire::Outgoing;

/// One WebSocket message. Fragments are joined and sizes limited before (2 MiB, livekit-surface 1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Binary(Bytes),
    Text(String),
    Ping(Bytes),
    Pong(Bytes),
    /// Normal closure, code 1000.
    Close,
}

/// Between WebSocket pings, which keep middleboxes from forgetting the connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A client that takes nothing for this time is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

impl Session {
    /// Exchanges messages until either side ends. Sends WebSocket pings every 10 s; answering the client's is left to
    /// the library.
    pub async fn run<S, E>(mut self, socket: S)
    where
        S: Stream<Item = Result<Frame, E>> + Sink<Frame>,
    {
        let mut socket = pin!(socket);
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        loop {
            let frame = tokio::select! {
                biased;
                outbound = self.outbox.recv() => match outbound {
                    Some(Outbound::Message(message)) => self.framing.write(&message),
                    Some(Outbound::Close) | None => Frame::Close,
                },
                incoming = socket.next() => match incoming {
                    Some(Ok(frame)) => match self.framing.read(frame, unix_ms()) {
                        Incoming::Request(request) => {
                            // A closed room still has its Leave in the outbox.
                            let _ = self.room.request(request).await;
                            continue;
                        }
                        Incoming::Reply(reply) => self.framing.write(&Outgoing::new(*reply)),
                        Incoming::Nothing => continue,
                        Incoming::End => Frame::Close,
                    },
                    Some(Err(_)) | None => return,
                },
                _ = ping.tick() => self.framing.ping(),
            };
            let last = frame == Frame::Close;
            let sent = timeout(WRITE_TIMEOUT, socket.send(frame)).await;
            if last || !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    }
}

fn unix_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
