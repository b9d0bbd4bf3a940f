//! Handles of the workers: which worker hosts which room, and the way of a worker's events to their room.

use std::collections::HashMap;

use sfu::command::{DataChannel, Event, RoomId};
use sfu::io::WorkerHandle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Events that the workers may be ahead of the rooms.
///
/// About a second of the busiest traffic; only data packets and statistics come in numbers.
pub const WORKER_EVENTS_MAX: usize = 65_536;

/// A way for the workers' events. Give the closure to [`sfu::io::Workers::start`] (it is called on worker threads and
/// never waits) and the receiver to [`crate::rooms::Rooms::start`].
pub fn worker_events() -> (impl Fn(RoomId, Event) + Clone + Send + 'static, mpsc::Receiver<(RoomId, Event)>) {
    let (sender, receiver) = mpsc::channel(WORKER_EVENTS_MAX);
    let on_event = move |room, event| {
        if let Err(TrySendError::Full((room, event))) = sender.try_send((room, event))
            && !is_expendable(&event)
        {
            tracing::error!(?room, ?event, "the rooms are too slow for the workers, an event is lost");
        }
    };
    (on_event, receiver)
}

/// Whether the room goes on correctly without it.
fn is_expendable(event: &Event) -> bool {
    match event {
        Event::PublicationStats { .. } | Event::AudioActivity { .. } => true,
        Event::Data { channel, .. } => *channel != DataChannel::Reliable,
        Event::TransportConnected { .. }
        | Event::TransportEnded { .. }
        | Event::ChannelOpen { .. }
        | Event::LayerStarted { .. }
        | Event::TransportExported { .. } => false,
    }
}

/// Tells the dispatch where a room's events go.
pub(crate) enum Route {
    Open { room: RoomId, events: mpsc::Sender<Event> },
    Close { room: RoomId },
}

/// Hands events to their rooms. Routes come first: a room is routed before its first command leaves.
pub(crate) async fn dispatch(mut routes: mpsc::Receiver<Route>, mut events: mpsc::Receiver<(RoomId, Event)>) {
    let mut rooms: HashMap<RoomId, mpsc::Sender<Event>> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            route = routes.recv() => match route {
                Some(Route::Open { room, events }) => {
                    rooms.insert(room, events);
                }
                Some(Route::Close { room }) => {
                    rooms.remove(&room);
                }
                None => return,
            },
            event = events.recv() => match event {
                Some((room, event)) => hand_over(&rooms, room, event).await,
                None => return,
            },
        }
    }
}

/// Waits for a busy room, as what follows may belong to it; the workers themselves never wait.
async fn hand_over(rooms: &HashMap<RoomId, mpsc::Sender<Event>>, room: RoomId, event: Event) {
    let Some(sender) = rooms.get(&room) else { return };
    match sender.try_send(event) {
        Ok(()) | Err(TrySendError::Closed(_)) => {}
        Err(TrySendError::Full(event)) if is_expendable(&event) => {}
        Err(TrySendError::Full(event)) => {
            let _ = sender.send(event).await;
        }
    }
}

/// The worker for the next room: the one with the fewest transports.
pub(crate) fn least_loaded(workers: &[WorkerHandle]) -> Option<&WorkerHandle> {
    workers.iter().min_by_key(|worker| worker.load())
}
