//! Handles of the workers: which worker hosts which room, and the way of a worker's events to their room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use sfu::command::{Event, RoomId};
use sfu::io::WorkerHandle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Events that the workers may be ahead of the rooms.
///
/// About a second of the busiest traffic; only data packets and statistics come in numbers.
pub const WORKER_EVENTS_MAX: usize = 65_536;

/// Data messages that were dropped because somebody sent more than rooms can carry.
static DATA_DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many data messages were dropped on the way to rooms, in this process.
///
/// It takes a participant that sends without regard for what the room's others can take; what it sends otherwise fills
/// the memory, or keeps the events of other rooms waiting.
pub fn data_dropped() -> u64 {
    DATA_DROPPED.load(Ordering::Relaxed)
}

/// A way for the workers' events. Give the closure to [`sfu::io::Workers::start`] (it is called on worker threads and
/// never waits) and the receiver to [`crate::rooms::Rooms::start`].
pub fn worker_events() -> (impl Fn(RoomId, Event) + Clone + Send + 'static, mpsc::Receiver<(RoomId, Event)>) {
    let (sender, receiver) = mpsc::channel(WORKER_EVENTS_MAX);
    let on_event = move |room, event| {
        if !concerns_rooms(&event) {
            return;
        }
        if matches!(event, Event::Data { .. }) && !has_room_for_data(&sender) {
            drop_data(room);
            return;
        }
        if let Err(TrySendError::Full((room, event))) = sender.try_send((room, event))
            && !is_expendable(&event)
        {
            tracing::error!(?room, ?event, "the rooms are too slow for the workers, an event is lost");
        }
    };
    (on_event, receiver)
}

/// Whether a room does anything with it. What none does, wakes none.
fn concerns_rooms(event: &Event) -> bool {
    match event {
        // The worker keeps reliable data until the channel is open.
        Event::ChannelOpen { .. } => false,
        Event::TransportConnected { .. }
        | Event::TransportEnded { .. }
        | Event::Data { .. }
        | Event::LayerStarted { .. }
        | Event::AudioActivity { .. }
        | Event::PublicationStats { .. }
        | Event::TransportExported { .. } => true,
    }
}

/// A quarter of a queue is kept for what is not data, so that a flood of it delays nobody's media.
fn has_room_for_data<T>(queue: &mpsc::Sender<T>) -> bool {
    queue.capacity() > queue.max_capacity() / 4
}

fn drop_data(room: RoomId) {
    // Once for each power of two, so that the log is not flooded in turn.
    let dropped = DATA_DROPPED.fetch_add(1, Ordering::Relaxed) + 1;
    if dropped.is_power_of_two() {
        tracing::warn!(?room, dropped, "data messages come faster than the room takes them; some are dropped");
    }
}

/// Whether the room goes on correctly without it.
fn is_expendable(event: &Event) -> bool {
    match event {
        Event::PublicationStats { .. } | Event::AudioActivity { .. } | Event::Data { .. } => true,
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
    if matches!(event, Event::Data { .. }) && !has_room_for_data(sender) {
        drop_data(room);
        return;
    }
    match sender.try_send(event) {
        Ok(()) | Err(TrySendError::Closed(_)) => {}
        Err(TrySendError::Full(event)) if is_expendable(&event) => {}
        Err(TrySendError::Full(event)) => {
            let _ = sender.send(event).await;
        }
    }
}

/// The worker for the next room: of those that run the one with the fewest transports.
pub(crate) fn least_loaded(workers: &[WorkerHandle]) -> Option<&WorkerHandle> {
    workers.iter().filter(|worker| worker.is_running()).min_by_key(|worker| worker.load())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sfu::command::{DataChannel, TransportEnd, TransportId};

    use super::*;

    fn data() -> Event {
        Event::Data { transport: TransportId(1), channel: DataChannel::Reliable, payload: Bytes::from_static(b"x") }
    }

    fn ended() -> Event {
        Event::TransportEnded { transport: TransportId(2), end: TransportEnd::ClosedByPeer }
    }

    #[test]
    fn a_flood_of_data_leaves_space_for_what_rooms_must_know() {
        let (on_event, mut events) = worker_events();
        let before = data_dropped();
        for _ in 0..WORKER_EVENTS_MAX {
            on_event(RoomId(1), data());
        }
        on_event(RoomId(2), ended());

        assert!(data_dropped() - before >= (WORKER_EVENTS_MAX / 4) as u64);
        let mut last = None;
        while let Ok(event) = events.try_recv() {
            last = Some(event);
        }
        assert!(matches!(last, Some((RoomId(2), Event::TransportEnded { .. }))));
    }

    #[tokio::test]
    async fn a_room_that_takes_no_data_delays_no_other_room() {
        let (flooded, mut flooded_events) = mpsc::channel(8);
        let (other, mut other_events) = mpsc::channel(8);
        let rooms = HashMap::from([(RoomId(1), flooded), (RoomId(2), other)]);
        for _ in 0..100 {
            hand_over(&rooms, RoomId(1), data()).await;
        }
        hand_over(&rooms, RoomId(1), ended()).await;
        hand_over(&rooms, RoomId(2), ended()).await;

        assert!(other_events.try_recv().is_ok());
        let mut taken = Vec::new();
        while let Ok(event) = flooded_events.try_recv() {
            taken.push(event);
        }
        assert_eq!(taken.len(), 7);
        assert!(matches!(taken.last(), Some(Event::TransportEnded { .. })));
    }
}
