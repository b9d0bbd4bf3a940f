//! One client's signalling connection, which [`crate::socket`] drives over a WebSocket.

use std::sync::Arc;
use std::time::Instant;

use livekit_protocol as proto;
use proto::signal_response::Message as Response;
use tokio::sync::{Semaphore, mpsc};

use crate::budget::Budget;
use crate::counts::CountedSession;
use crate::framing::Framing;
use crate::id::{ConnectionId, DescriptionId};
use crate::outbox::{Outbound, Unsent, outbox};
use crate::room::input::{RoomHandle, RoomInput};
use crate::wire::Outgoing;
use crate::wire_bounds::Cost;

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
    /// The room closed it, with this reason in its last Leave.
    Dismissed(proto::DisconnectReason),
    /// The room closed it without a Leave: another connection took its place.
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

    /// A connection with one message, closed after it: the answer to a resume that is not possible.
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proto::signal_request::Message as Request;

    use super::*;

    fn ping_req() -> proto::SignalRequest {
        proto::SignalRequest { message: Some(Request::PingReq(proto::Ping { timestamp: 7, rtt: 3 })) }
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
}
