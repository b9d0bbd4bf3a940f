//! Drives a [`Session`] over a WebSocket, whichever library speaks it.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use livekit_protocol as proto;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::info;

use crate::budget::fanout_cost;
use crate::framing::{Frame, Incoming};
use crate::outbox::Outbound;
use crate::session::{Session, SessionEnd};
use crate::wire::Outgoing;

/// Between WebSocket pings, which keep middleboxes from forgetting the connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A client that reads nothing for this time is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to answer our close. One that is cut off at once may lose what came before.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl Session {
    /// Exchanges messages until either side ends, and says which. Sends WebSocket pings every 10 s; answering the
    /// client's is left to the library.
    pub async fn run<S, E>(mut self, socket: S) -> SessionEnd
    where
        S: Stream<Item = Result<Frame, E>> + Sink<Frame>,
    {
        let mut socket = pin!(socket);
        let stats = Arc::clone(self.counted.stats());
        let mut ping = tokio::time::interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        let mut end = SessionEnd::Replaced;
        loop {
            self.budget.charge(Instant::now(), self.unsent.take_owed());
            let held_back = self.budget.ready_at().filter(|ready| *ready > Instant::now());
            let frames = tokio::select! {
                biased;
                outbound = self.unsent.next() => match outbound {
                    Some(Outbound::Messages(messages)) => {
                        if let Some(reason) = messages.iter().rev().find_map(|message| leave_reason(message)) {
                            end = SessionEnd::Dismissed(reason);
                        }
                        stats.responses.fetch_add(messages.len() as u64, Ordering::Relaxed);
                        messages.iter().map(|message| self.framing.write(message)).collect()
                    }
                    Some(Outbound::AskReceipt(offer)) => vec![self.framing.ask_receipt(offer)],
                    Some(Outbound::Close) | None => vec![Frame::Close],
                },
                () = until(held_back), if held_back.is_some() => continue,
                incoming = socket.next(), if held_back.is_none() => match incoming {
                    Some(Ok(frame)) => match self.read(frame).await {
                        Answer::Frame(frame) => vec![frame],
                        Answer::Nothing => continue,
                        Answer::End(why) => {
                            end = why;
                            vec![Frame::Close]
                        }
                    },
                    Some(Err(_)) | None => return SessionEnd::Client,
                },
                _ = ping.tick() => vec![self.framing.ping()],
            };
            let last = frames.last() == Some(&Frame::Close);
            let sent = timeout(WRITE_TIMEOUT, write(&mut socket, frames)).await;
            if last {
                break;
            }
            if sent != Ok(true) {
                return SessionEnd::Client;
            }
        }
        drop(self.room);
        let _ = timeout(CLOSE_TIMEOUT, until_closed(&mut socket)).await;
        end
    }

    /// Hands a frame to the room, or answers it at once.
    async fn read(&mut self, frame: Frame) -> Answer {
        let (now, bytes) = (Instant::now(), frame.len());
        let incoming = self.framing.read(frame, unix_ms());
        let beside = match &incoming {
            Incoming::Request(request, cost) => cost.memory + request.message.as_ref().map_or(0, fanout_cost),
            Incoming::Reply(_) | Incoming::Receipt(_) | Incoming::Nothing | Incoming::End | Incoming::Unreadable(_) => {
                0
            }
        };
        self.budget.spend(now, bytes + beside);
        if self.budget.is_abused(now) {
            info!(
                connection = self.room.connection.0,
                "a client that asks for more than it may for too long is let go"
            );
            return Answer::End(SessionEnd::Abusive);
        }
        match incoming {
            Incoming::Request(request, cost) => {
                self.counted.stats().requests.fetch_add(1, Ordering::Relaxed);
                // A closed room still has its Leave in the outbox.
                let _ = self.room.request(request, cost).await;
                Answer::Nothing
            }
            Incoming::Receipt(offer) => {
                let _ = self.room.receipt(offer).await;
                Answer::Nothing
            }
            Incoming::Reply(reply) => Answer::Frame(self.framing.write(&Outgoing::new(*reply))),
            Incoming::Nothing => Answer::Nothing,
            Incoming::End => Answer::End(SessionEnd::Client),
            Incoming::Unreadable(reason) => {
                info!(connection = self.room.connection.0, %reason, "a message that cannot be read ends its connection");
                Answer::End(SessionEnd::Unreadable)
            }
        }
    }
}

/// What follows from a frame of the client.
enum Answer {
    Nothing,
    Frame(Frame),
    End(SessionEnd),
}

fn leave_reason(message: &Outgoing) -> Option<proto::DisconnectReason> {
    message.leave().map(proto::LeaveRequest::reason)
}

/// Whether all were written.
async fn write<S: Sink<Frame>>(socket: &mut Pin<&mut S>, frames: Vec<Frame>) -> bool {
    for frame in frames {
        if socket.feed(frame).await.is_err() {
            return false;
        }
    }
    socket.flush().await.is_ok()
}

async fn until_closed<S, E>(socket: &mut Pin<&mut S>)
where
    S: Stream<Item = Result<Frame, E>>,
{
    while let Some(Ok(frame)) = socket.next().await {
        if frame == Frame::Close {
            return;
        }
    }
}

async fn until(moment: Option<Instant>) {
    if let Some(moment) = moment {
        tokio::time::sleep_until(moment.into()).await;
    }
}

fn unix_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use super::*;
    use crate::budget::BURST;
    use crate::counts::CountedSession;
    use crate::id::ConnectionId;
    use crate::outbox::outbox;
    use crate::room::input::RoomHandle;
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use prost::Message as _;
    use tokio::sync::mpsc;

    /// Frames of the client that a session leaves unread.
    async fn left_unread(spent: usize, charged: usize) -> usize {
        let (room, _inputs) = RoomHandle::new();
        let (outbox, unsent) = outbox();
        outbox.charge(charged);
        let mut session = Session::new(ConnectionId(1), room, unsent, CountedSession::of_nobody());
        session.budget.spend(Instant::now(), spent);
        let (client, frames) = mpsc::channel(8);
        for _ in 0..3 {
            client.try_send(Frame::Pong(Bytes::new())).unwrap();
        }
        let socket = Socket(frames);
        let mut running = pin!(session.run(socket));
        for _ in 0..10 {
            assert_eq!((&mut running).now_or_never(), None);
            tokio::task::yield_now().await;
        }
        8 - client.capacity()
    }

    /// Frames that a client sent; what it is sent is dropped.
    struct Socket(mpsc::Receiver<Frame>);

    impl Stream for Socket {
        type Item = Result<Frame, Infallible>;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0.poll_recv(context).map(|frame| frame.map(Ok))
        }
    }

    impl Sink<Frame> for Socket {
        type Error = Infallible;

        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn start_send(self: Pin<&mut Self>, _: Frame) -> Result<(), Infallible> {
            Ok(())
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
    }

    /// How many frames a session reads of a client that has thousands to send.
    async fn read_at_once(frame: Frame) -> usize {
        const FRAMES: usize = 3_000;
        let (room, mut inputs) = RoomHandle::new();
        tokio::spawn(async move { while inputs.recv().await.is_some() {} });
        let (_outbox, unsent) = outbox();
        let session = Session::new(ConnectionId(1), room, unsent, CountedSession::of_nobody());
        let (client, frames) = mpsc::channel(FRAMES);
        for _ in 0..FRAMES {
            client.try_send(frame.clone()).unwrap();
        }
        let mut running = pin!(session.run(Socket(frames)));
        for _ in 0..2 * FRAMES {
            assert_eq!((&mut running).now_or_never(), None);
            tokio::task::yield_now().await;
        }
        client.capacity()
    }

    /// Of 32 MiB at once; a few come with time.
    #[tokio::test]
    async fn frames_cost_their_bytes_and_requests_what_they_make_others_be_told() {
        let mute = proto::signal_request::Message::Mute(proto::MuteTrackRequest::default());
        let mute = proto::SignalRequest { message: Some(mute) }.encode_to_vec();
        let mutes = read_at_once(Frame::Binary(mute.into())).await;
        assert!((230..1_000).contains(&mutes), "{mutes} of 136 KiB");
        let long = read_at_once(Frame::Pong(vec![0; 120 << 10].into())).await;
        assert!((250..1_000).contains(&long), "{long} of 128 KiB");
        assert_eq!(read_at_once(Frame::Pong(Bytes::new())).await, 3_000);
    }

    #[tokio::test]
    async fn a_connection_without_budget_is_not_read() {
        // In debt for more than a quarter of an hour.
        let much = usize::try_from(BURST).unwrap() * 128;
        assert_eq!(left_unread(0, 0).await, 0);
        assert_eq!(left_unread(much, 0).await, 3);
        assert_eq!(left_unread(0, much).await, 3, "charged by its room");
    }
}
