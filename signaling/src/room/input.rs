//! What comes into a room from the HTTP side and its sessions, and the way to it.

use std::sync::Arc;

use livekit_protocol as proto;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Room;
use super::timer::Now;
use crate::id::{ConnectionId, DescriptionId};
use crate::join::{Join, JoinError};
use crate::outbox::Outbox;
use crate::wire_bounds::Cost;

/// Requests that wait for a room; their connections stop reading meanwhile.
pub const INPUTS_MAX: usize = 256;

/// A join describes the room, and may offer.
const WORK_OF_A_JOIN: usize = 16 << 10;

/// Something done to a room by the server API.
pub type Call = Box<dyn FnOnce(&mut Room, Now) + Send>;

/// What comes into a room from the HTTP side and its sessions.
pub enum RoomInput {
    Join {
        join: Box<Join>,
        outbox: Outbox,
        reply: oneshot::Sender<Result<ConnectionId, JoinError>>,
        /// Held until the join was handled.
        place: Place,
    },
    Request {
        connection: ConnectionId,
        request: Box<proto::SignalRequest>,
        cost: Cost,
        place: Place,
    },
    /// The client has read what was sent to it until the receipt was asked for.
    Receipt {
        connection: ConnectionId,
        offer: DescriptionId,
    },
    ConnectionClosed {
        connection: ConnectionId,
    },
    Call(Call),
}

impl RoomInput {
    /// How much there is to do, by what asks for it, in bytes.
    pub(super) fn work(&self) -> usize {
        match self {
            RoomInput::Request { cost, .. } => cost.memory,
            RoomInput::Join { .. } => WORK_OF_A_JOIN,
            RoomInput::Receipt { .. } | RoomInput::ConnectionClosed { .. } | RoomInput::Call(_) => 0,
        }
    }
}

/// A way to one room.
#[derive(Clone)]
pub(crate) struct RoomHandle {
    pub(crate) inputs: mpsc::Sender<RoomInput>,
    /// Places for inputs that wait to be handled, of [`PLACE_BYTES`] of memory each.
    places: Arc<Semaphore>,
}

/// The places that an input takes of its connection's share and of the room's; given back when it is dropped.
pub(crate) type Place = [Option<OwnedSemaphorePermit>; 2];

/// Bytes of one place.
const PLACE_BYTES: usize = 1 << 10;

/// Requests that wait for a room, in bytes once decoded; their connections stop reading meanwhile. Four of the largest.
const INPUT_BYTES_MAX: usize = 16 << 20;

/// Of those, what one connection may have waiting beside one request, so that others of its room get their turn.
const SHARE_BYTES_MAX: usize = 1 << 20;

impl RoomHandle {
    pub(crate) fn new() -> (Self, mpsc::Receiver<RoomInput>) {
        let (inputs, receiver) = mpsc::channel(INPUTS_MAX);
        (Self { inputs, places: Arc::new(Semaphore::new(INPUT_BYTES_MAX / PLACE_BYTES)) }, receiver)
    }

    /// One connection's part of what may wait.
    pub(crate) fn share() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(SHARE_BYTES_MAX / PLACE_BYTES))
    }

    /// Waits until there is room for an input of so many bytes.
    pub(crate) async fn place_for(&self, share: &Arc<Semaphore>, bytes: usize) -> Place {
        let places =
            |most: usize| u32::try_from(bytes.min(most).div_ceil(PLACE_BYTES)).expect("the bounds are far below");
        let of_share = Arc::clone(share).acquire_many_owned(places(SHARE_BYTES_MAX)).await.ok();
        let of_room = Arc::clone(&self.places).acquire_many_owned(places(INPUT_BYTES_MAX)).await.ok();
        [of_share, of_room]
    }
}
