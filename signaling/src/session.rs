//! One client's signalling connection.
//!
//! [`Framing`] is its state machine: binary or JSON, pings. [`crate::socket`] drives it over a WebSocket.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use tokio::sync::{Semaphore, mpsc};

use crate::budget::Budget;
use crate::participant::DescriptionId;
use crate::room::task::RoomInput;
use crate::rooms::{CountedSession, RoomHandle};
use crate::socket::Frame;
use crate::wire::Outgoing;
use crate::wire_bounds::{self, Cost, Refused};

/// Batches of messages that wait for a client. A client that is further behind is disconnected and resumes.
pub const OUTBOX_MAX: usize = 256;

/// Bytes of messages that wait for a client, beyond which no more may be added. Whoever is told of a large room at once
/// is told of it whole.
pub const OUTBOX_BYTES_MAX: usize = 32 << 20;

/// A connection within its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// From a room to one of its connections.
#[derive(Debug)]
pub enum Outbound {
    /// In order; what one input to the room caused.
    Messages(Vec<Arc<Outgoing>>),
    /// Have the client say when it has read what came before, the answer to this offer of its.
    AskReceipt(DescriptionId),
    /// Close the socket after what came before.
    Close,
}

impl Outbound {
    fn bytes(&self) -> usize {
        match self {
            Outbound::Messages(messages) => messages.iter().map(|message| message.size()).sum(),
            Outbound::AskReceipt(_) | Outbound::Close => 0,
        }
    }
}

/// A way to a client, for its room.
#[derive(Debug)]
pub struct Outbox {
    batches: mpsc::Sender<Outbound>,
    waiting: Arc<AtomicUsize>,
    owed: Arc<AtomicUsize>,
}

/// What waits for a client.
#[derive(Debug)]
pub(crate) struct Unsent {
    batches: mpsc::Receiver<Outbound>,
    waiting: Arc<AtomicUsize>,
    /// What comes off the connection's budget and has not yet.
    owed: Arc<AtomicUsize>,
    /// Of the batch that is being sent.
    bytes: usize,
}

/// The client does not keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutboxFull;

/// Both ends of an empty one.
pub(crate) fn outbox() -> (Outbox, Unsent) {
    let (sender, receiver) = mpsc::channel(OUTBOX_MAX);
    let (waiting, owed): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let outbox = Outbox { batches: sender, waiting: Arc::clone(&waiting), owed: Arc::clone(&owed) };
    (outbox, Unsent { batches: receiver, waiting, owed, bytes: 0 })
}

impl Outbox {
    pub(crate) fn send(&self, outbound: Outbound) -> Result<(), OutboxFull> {
        if self.waiting.load(Ordering::Relaxed) > OUTBOX_BYTES_MAX {
            return Err(OutboxFull);
        }
        self.waiting.fetch_add(outbound.bytes(), Ordering::Relaxed);
        self.batches.try_send(outbound).map_err(|_| OutboxFull)
    }

    /// Has the connection pay for what others were told because of it.
    pub(crate) fn charge(&self, cost: usize) {
        self.owed.fetch_add(cost, Ordering::Relaxed);
    }
}

impl Unsent {
    /// The next batch, when the one before was sent. `None`: nothing will follow.
    pub(crate) async fn next(&mut self) -> Option<Outbound> {
        self.waiting.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        let outbound = self.batches.recv().await?;
        self.bytes = outbound.bytes();
        Some(outbound)
    }

    /// What the connection is to pay beside what it has.
    pub(crate) fn take_owed(&self) -> usize {
        self.owed.swap(0, Ordering::Relaxed)
    }
}

/// A joined or resumed connection: what the WebSocket task drives with [`Session::run`]. Dropping it is like losing the
/// socket.
pub struct Session {
    pub(crate) unsent: Unsent,
    pub(crate) room: RoomLink,
    pub(crate) framing: Framing,
    pub(crate) budget: Budget,
    pub(crate) counted: CountedSession,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The client closed it, or it broke.
    Client,
    /// The room let it go, with this reason in its last Leave.
    Dismissed(proto::DisconnectReason),
    /// The room let it go without a word: another connection took its place.
    Replaced,
    /// The client sent what cannot be read.
    Unreadable,
    /// The client asked for more than its budget, and went on.
    Abusive,
}

/// A connection's way into its room.
pub(crate) struct RoomLink {
    pub(crate) connection: ConnectionId,
    room: Option<RoomHandle>,
    share: Arc<Semaphore>,
}

impl Session {
    pub(crate) fn new(connection: ConnectionId, room: RoomHandle, unsent: Unsent, counted: CountedSession) -> Self {
        Self::with(unsent, RoomLink::new(connection, Some(room)), counted)
    }

    fn with(unsent: Unsent, room: RoomLink, counted: CountedSession) -> Self {
        Self { unsent, room, framing: Framing::default(), budget: Budget::new(Instant::now()), counted }
    }

    /// A connection that says one thing and ends: the answer to a resume that cannot be.
    pub(crate) fn of_one_message(message: Response, counted: CountedSession) -> Self {
        let (outbox, unsent) = outbox();
        for outbound in [Outbound::Messages(vec![Arc::new(Outgoing::new(message))]), Outbound::Close] {
            outbox.send(outbound).expect("it holds more than two");
        }
        Self::with(unsent, RoomLink::new(ConnectionId(0), None), counted)
    }
}

impl RoomLink {
    fn new(connection: ConnectionId, room: Option<RoomHandle>) -> Self {
        Self { connection, room, share: RoomHandle::share() }
    }

    /// Waits when the room is busy. `Err`: the room is gone.
    pub(crate) async fn request(&self, request: Box<proto::SignalRequest>, cost: Cost) -> Result<(), RoomGone> {
        let Some(room) = &self.room else { return Ok(()) };
        let place = room.place_for(&self.share, cost.memory).await;
        let input = RoomInput::Request { connection: self.connection, request, cost, place };
        room.inputs.send(input).await.map_err(|_| RoomGone)
    }

    /// Waits when the room is busy. `Err`: the room is gone.
    pub(crate) async fn receipt(&self, offer: DescriptionId) -> Result<(), RoomGone> {
        let Some(room) = &self.room else { return Ok(()) };
        let input = RoomInput::Receipt { connection: self.connection, offer };
        room.inputs.send(input).await.map_err(|_| RoomGone)
    }
}

/// The room was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoomGone;

impl Drop for RoomLink {
    fn drop(&mut self) {
        let Some(RoomHandle { inputs, .. }) = self.room.take() else { return };
        let closed = RoomInput::ConnectionClosed { connection: self.connection };
        if let Err(mpsc::error::TrySendError::Full(closed)) = inputs.try_send(closed)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { inputs.send(closed).await });
        }
    }
}

/// How messages are put into frames: as the client's last one was, binary before any (docs/livekit.md 3.1).
#[derive(Debug, Default)]
pub struct Framing {
    json: bool,
    /// The receipt that the client owes.
    receipt: Option<DescriptionId>,
}

/// What a frame from a client means.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    /// For the room, and what it costs.
    Request(Box<proto::SignalRequest>, Cost),
    /// Answered at once.
    Reply(Box<Response>),
    /// What was sent until the receipt was asked for has been read.
    Receipt(DescriptionId),
    Nothing,
    /// The client closed the connection.
    End,
    /// It is no message of LiveKit's, or beyond the bounds of its kind, so the connection ends.
    Unreadable(Refused),
}

impl Framing {
    /// Reads a frame. `unix_ms` is the present time.
    pub fn read(&mut self, frame: Frame, unix_ms: i64) -> Incoming {
        let request = match frame {
            Frame::Binary(bytes) => {
                self.json = false;
                wire_bounds::decode_signal(bytes)
            }
            Frame::Text(text) => {
                self.json = true;
                wire_bounds::read_signal(&text)
            }
            Frame::Pong(payload) => return self.read_receipt(&payload),
            Frame::Ping(_) => return Incoming::Nothing,
            Frame::Close => return Incoming::End,
            Frame::Malformed => return Incoming::Unreadable(Refused::Malformed),
        };
        let (request, cost) = match request {
            Ok(read) => read,
            Err(refused) => return Incoming::Unreadable(refused),
        };
        match request.message {
            Some(Request::Ping(_)) => Incoming::Reply(Box::new(Response::Pong(unix_ms))),
            Some(Request::PingReq(ping)) => {
                let pong = proto::Pong { last_ping_timestamp: ping.timestamp, timestamp: unix_ms };
                Incoming::Reply(Box::new(Response::PongResp(pong)))
            }
            // A message of a newer protocol.
            None => Incoming::Nothing,
            Some(_) => Incoming::Request(Box::new(request), cost),
        }
    }

    /// A message as the client wants to read it.
    pub fn write(&self, message: &Outgoing) -> Frame {
        if self.json { Frame::Text(message.json()) } else { Frame::Binary(message.binary()) }
    }

    /// An empty WebSocket ping.
    pub fn ping(&self) -> Frame {
        Frame::Ping(Bytes::new())
    }

    /// A WebSocket ping that asks for a receipt. It is answered once everything before it has been read (RFC 6455, section
    /// 5.5.3), and its payload comes back with the answer.
    pub fn ask_receipt(&mut self, offer: DescriptionId) -> Frame {
        self.receipt = Some(offer);
        Frame::Ping(Bytes::copy_from_slice(&offer.0.to_be_bytes()))
    }

    fn read_receipt(&mut self, payload: &[u8]) -> Incoming {
        let receipt = self.receipt.take_if(|offer| payload == offer.0.to_be_bytes());
        receipt.map_or(Incoming::Nothing, Incoming::Receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use prost::Message as _;

    fn ping_req() -> proto::SignalRequest {
        proto::SignalRequest { message: Some(Request::PingReq(proto::Ping { timestamp: 7, rtt: 3 })) }
    }

    #[test]
    fn a_ping_is_answered_with_both_times() {
        let frame = Frame::Binary(ping_req().encode_to_vec().into());
        let pong = proto::Pong { last_ping_timestamp: 7, timestamp: 1_000 };
        assert_eq!(Framing::default().read(frame, 1_000), Incoming::Reply(Box::new(Response::PongResp(pong))));
    }

    #[test]
    fn a_receipt_is_the_pong_that_was_asked_for() {
        let mut framing = Framing::default();
        let Frame::Ping(payload) = framing.ask_receipt(DescriptionId(7)) else { panic!("not a ping") };
        let pong = |payload: &[u8]| Frame::Pong(Bytes::copy_from_slice(payload));
        assert_eq!(framing.read(pong(&[]), 0), Incoming::Nothing);
        assert_eq!(framing.read(pong(&8_u32.to_be_bytes()), 0), Incoming::Nothing);
        assert_eq!(framing.read(pong(&payload), 0), Incoming::Receipt(DescriptionId(7)));
        assert_eq!(framing.read(pong(&payload), 0), Incoming::Nothing);
    }

    #[test]
    fn fields_and_messages_of_newer_protocols_are_passed_over() {
        // Fields 1000 to 1003, which nobody knows: a varint, four bytes with their length, eight bytes, and four.
        let strange: [&[u8]; 4] = [
            &[0xC0, 0x3E, 0x87, 0x07],
            &[0xCA, 0x3E, 0x04, 1, 2, 3, 4],
            &[0xD1, 0x3E, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0xDD, 0x3E, 1, 2, 3, 4],
        ];
        let read = |bytes: Vec<u8>| Framing::default().read(Frame::Binary(bytes.into()), 0);
        assert!(matches!(read([ping_req().encode_to_vec(), strange.concat()].concat()), Incoming::Reply(_)));
        for field in strange {
            assert_eq!(read(field.to_vec()), Incoming::Nothing);
            let cut_off = field[..field.len() - 1].to_vec();
            assert_eq!(read(cut_off), Incoming::Unreadable(Refused::Malformed), "{field:?}");
        }
        let stranger = Frame::Binary(vec![0xCA, 0x3E, 0x01, 0x00].into());
        assert_eq!(Framing::default().read(stranger, 0), Incoming::Nothing);
    }

    #[test]
    fn the_server_answers_in_the_clients_last_framing() {
        let mut framing = Framing::default();
        let message = Outgoing::new(Response::Pong(5));
        assert!(matches!(framing.write(&message), Frame::Binary(_)));

        framing.read(Frame::Text(serde_json::to_string(&ping_req()).unwrap()), 0);
        assert_eq!(framing.write(&message), Frame::Text(r#"{"pong":"5"}"#.into()));

        framing.read(Frame::Binary(ping_req().encode_to_vec().into()), 0);
        assert!(matches!(framing.write(&message), Frame::Binary(_)));
    }

    #[test]
    fn an_outbox_is_full_by_its_bytes_before_it_is_by_its_messages() {
        let (outbox, mut unsent) = outbox();
        let message = |length| {
            let offer = proto::SessionDescription { sdp: "x".repeat(length), ..Default::default() };
            Outbound::Messages(vec![Arc::new(Outgoing::new(Response::Offer(offer)))])
        };
        let around = message(1 << 20).bytes() - (1 << 20);
        let mebibyte = || message((1 << 20) - around);
        assert_eq!(mebibyte().bytes(), 1 << 20);
        // As long as there is not more than the bound, one more may come.
        let held = (OUTBOX_BYTES_MAX >> 20) + 1;
        assert!((0..held).all(|_| outbox.send(mebibyte()) == Ok(())));
        assert_eq!(outbox.send(mebibyte()), Err(OutboxFull));

        // What is being sent still counts.
        assert!(unsent.next().now_or_never().is_some());
        assert_eq!(outbox.send(mebibyte()), Err(OutboxFull));
        assert!(unsent.next().now_or_never().is_some());
        assert_eq!(outbox.send(mebibyte()), Ok(()));
        while unsent.next().now_or_never().is_some() {}
        assert_eq!(outbox.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn requests_wait_for_a_room_that_has_much_to_read() {
        let (room, mut inputs) = RoomHandle::new();
        let links: Vec<_> = (0..6).map(|number| RoomLink::new(ConnectionId(number), Some(room.clone()))).collect();
        let request = |link: &RoomLink, memory: usize| {
            let cost = Cost { elements: 0, memory };
            link.request(Box::new(ping_req()), cost).now_or_never()
        };
        assert!(links.iter().take(4).all(|link| request(link, 4 << 20) == Some(Ok(()))));
        assert_eq!(request(&links[4], 1), None);
        drop(inputs.try_recv().unwrap());
        assert_eq!(request(&links[5], 4 << 20), Some(Ok(())));
        drop(inputs);
        assert_eq!(request(&links[0], 4 << 20), Some(Err(RoomGone)));
    }

    #[test]
    fn a_receipt_goes_to_the_room() {
        let (room, mut inputs) = RoomHandle::new();
        let link = RoomLink::new(ConnectionId(3), Some(room));
        assert_eq!(link.receipt(DescriptionId(7)).now_or_never(), Some(Ok(())));
        let Ok(RoomInput::Receipt { connection, offer }) = inputs.try_recv() else { panic!("no receipt") };
        assert_eq!((connection, offer), (ConnectionId(3), DescriptionId(7)));
        drop(inputs);
        assert_eq!(link.receipt(DescriptionId(8)).now_or_never(), Some(Err(RoomGone)));
    }

    #[test]
    fn a_connection_that_asks_for_much_leaves_others_of_its_room_their_turn() {
        let (room, _inputs) = RoomHandle::new();
        let links = [1, 2].map(|number| RoomLink::new(ConnectionId(number), Some(room.clone())));
        let request = |link: &RoomLink| {
            let cost = Cost { elements: 0, memory: 600 << 10 };
            link.request(Box::new(ping_req()), cost).now_or_never()
        };
        assert_eq!([request(&links[0]), request(&links[0])], [Some(Ok(())), None]);
        assert_eq!(request(&links[1]), Some(Ok(())));
    }

    proptest! {
        #[test]
        fn any_frame_is_read_or_ends_the_connection(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,100}") {
            let mut framing = Framing::default();
            framing.read(Frame::Binary(bytes.into()), 0);
            framing.read(Frame::Text(text), 0);
        }
    }
}
