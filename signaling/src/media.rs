//! Handles of the workers: events → rooms, which worker hosts which room.

use sfu::command::{Event, RoomId};
use tokio::sync::mpsc;

/// Events that one worker may be ahead of its rooms.
///
/// About a second of a worker's busiest traffic; only data packets and statistics come in numbers.
pub const WORKER_EVENTS_MAX: usize = 65_536;

/// A way for the workers' events. Give the closure to [`sfu::io::Workers::start`] (it is called on worker threads and
/// never waits) and the receiver to [`crate::rooms::Rooms::start`].
pub fn worker_events() -> (impl Fn(RoomId, Event) + Clone + Send + 'static, mpsc::Receiver<(RoomId, Event)>) {
    let (sender, receiver) = mpsc::channel(WORKER_EVENTS_MAX);
    let on_event = move |room, event| {
        let _ = sender.try_send((room, event));
    };
    (on_event, receiver)
}
