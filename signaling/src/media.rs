//! Handles of the workers: which worker hosts which room, and the way of a worker's events to their room.

use std::collections::HashMap;
use std::time::Instant;

use sfu::command::{Event, RoomId};
use sfu::engine::{ROOM_DATA_MESSAGES_MAX, WORKER_DATA_MESSAGES_MAX};
use sfu::io::{WORKERS_MAX, WorkerHandle};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// Events other than data that wait for the rooms, of all workers.
///
/// About a second of the busiest traffic; only statistics come in numbers.
pub const WORKER_EVENTS_MAX: usize = 65_536;
/// Worker events other than data that wait for a room.
const EVENTS_MAX: usize = 4_096;
/// Data messages that wait for the rooms: no worker hands over more than its part.
const WORKER_DATA_MAX: usize = WORKERS_MAX * WORKER_DATA_MESSAGES_MAX;

/// A channel for the workers' events. Give the closure to [`sfu::io::Workers::start`] (it is called on worker threads
/// and never waits) and the receiver to [`crate::rooms::Rooms::start`].
pub fn worker_events() -> (impl Fn(RoomId, Event) + Clone + Send + 'static, mpsc::Receiver<(RoomId, Event)>) {
    let (sender, receiver) = mpsc::channel(WORKER_EVENTS_MAX + WORKER_DATA_MAX);
    let on_event = move |room, event| {
        if !concerns_rooms(&event) {
            return;
        }
        if is_expendable(&event) && sender.capacity() <= WORKER_DATA_MAX {
            return;
        }
        if let Err(TrySendError::Full((room, event))) = sender.try_send((room, event)) {
            tracing::error!(?room, ?event, "the rooms are too slow for the workers, an event is lost");
        }
    };
    (on_event, receiver)
}

/// Whether a room does anything with it. Events that none handles are not sent.
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

/// Whether the room goes on correctly without it.
fn is_expendable(event: &Event) -> bool {
    match event {
        Event::PublicationStats { .. } | Event::AudioActivity { .. } => true,
        Event::Data { .. }
        | Event::TransportConnected { .. }
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

/// The queue of a room's events. It has a place for each message of data that may be on the way to a room.
pub(crate) fn room_events() -> (mpsc::Sender<Event>, mpsc::Receiver<Event>) {
    mpsc::channel(EVENTS_MAX + ROOM_DATA_MESSAGES_MAX)
}

/// Waits for a busy room, as what follows may belong to it; the workers themselves never wait.
async fn hand_over(rooms: &HashMap<RoomId, mpsc::Sender<Event>>, room: RoomId, event: Event) {
    let Some(sender) = rooms.get(&room) else { return };
    if is_expendable(&event) && sender.capacity() <= EVENTS_MAX / 4 + ROOM_DATA_MESSAGES_MAX {
        return;
    }
    // A room that is closed needs it no more.
    let _ = sender.send(event).await;
}

/// The worker for the next room: of those that run the one with the fewest transports, and one that stalls only if all
/// do.
pub(crate) fn least_loaded(workers: &[WorkerHandle], now: Instant) -> Option<&WorkerHandle> {
    let running = workers.iter().filter(|worker| worker.is_running());
    running.min_by_key(|worker| (worker.stalled_for(now).is_some(), worker.load()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sfu::command::{Command, DataChannel, PublicationId, ReceiveStats, TransportEnd, TransportId};

    use super::*;

    fn data() -> Event {
        Event::Data { transport: TransportId(1), channel: DataChannel::Reliable, payload: Bytes::from_static(b"x") }
    }

    fn ended() -> Event {
        Event::TransportEnded { transport: TransportId(2), end: TransportEnd::ClosedByPeer }
    }

    fn stats() -> Event {
        Event::PublicationStats { publication: PublicationId(3), stats: ReceiveStats::default() }
    }

    /// So their number bounds their bytes: five megabytes for all workers.
    #[test]
    fn events_other_than_data_hold_nothing_that_a_client_makes_longer() {
        let holds_nothing_of_clients = |event: &Event| match event {
            Event::TransportConnected { transport: TransportId(_) }
            | Event::TransportEnded { transport: TransportId(_), end: _ }
            | Event::ChannelOpen { transport: TransportId(_), channel: _ }
            | Event::LayerStarted { publication: PublicationId(_), layer: _, ssrc: _, codec: _ }
            | Event::AudioActivity { publication: PublicationId(_), level: _, active: _ }
            | Event::PublicationStats { publication: PublicationId(_), stats: ReceiveStats { .. } } => true,
            // One for each time that a room asks.
            Event::TransportExported { transport: TransportId(_), state: _ } => true,
            Event::Data { .. } => false,
        };
        assert!(holds_nothing_of_clients(&stats()) && holds_nothing_of_clients(&ended()));
        assert!(!holds_nothing_of_clients(&data()));
        assert!(size_of::<(RoomId, Event)>() <= 80, "{}", size_of::<(RoomId, Event)>());
    }

    #[test]
    fn a_flood_of_statistics_leaves_space_for_data_and_for_what_rooms_must_know() {
        let (on_event, mut events) = worker_events();
        for _ in 0..2 * WORKER_EVENTS_MAX {
            on_event(RoomId(1), stats());
        }
        assert_eq!(events.len(), WORKER_EVENTS_MAX);
        for _ in 0..WORKER_DATA_MESSAGES_MAX {
            on_event(RoomId(1), data());
        }
        on_event(RoomId(2), ended());
        assert_eq!(events.len(), WORKER_EVENTS_MAX + WORKER_DATA_MESSAGES_MAX + 1);
        let last = std::iter::from_fn(|| events.try_recv().ok()).last();
        assert!(matches!(last, Some((RoomId(2), Event::TransportEnded { .. }))));
    }

    #[test]
    fn a_worker_that_stalls_gets_no_room_while_another_one_is_well() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        let config = sfu::io::Config {
            workers: 2,
            bind: vec![[127, 0, 0, 1].into()],
            advertise: Vec::new(),
            udp: sfu::io::UdpPorts::Single(0),
            tcp_port: None,
            certificate: sfu::certificate::Certificate::generate(),
            engine: sfu::engine::EngineConfig::default(),
        };
        // Whoever has something to tell waits until the sender is dropped.
        let waits = move |_, _| assert!(held.lock().unwrap().recv().is_err(), "nothing is sent");
        let workers = sfu::io::Workers::start(config, waits).unwrap();
        let [first, second] = workers.handles() else { panic!("two workers") };
        let (transport, room, opener) = (TransportId(1), RoomId(1), sfu::command::ChannelOpener::Client);
        for command in [
            Command::OpenTransport { transport, room, local: first.new_credentials(), opener },
            Command::ExportTransport { transport },
        ] {
            first.try_send(command).unwrap();
        }
        // It has one transport, or none for all that is known; the second one gets two.
        for number in [2, 3] {
            let (transport, local) = (TransportId(number), second.new_credentials());
            second.try_send(Command::OpenTransport { transport, room, local, opener }).unwrap();
        }
        let until = |is_so: &dyn Fn() -> bool| {
            let patience = Instant::now() + std::time::Duration::from_secs(60);
            while !is_so() {
                assert!(Instant::now() < patience, "it takes too long");
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        };
        until(&|| second.load() == 2 && first.stalled_for(Instant::now()).is_some());
        let chosen = |now| least_loaded(workers.handles(), now).map(WorkerHandle::load);
        assert_eq!(chosen(Instant::now()), Some(2));
        drop(release);
        until(&|| first.stalled_for(Instant::now()).is_none());
        assert_eq!(chosen(Instant::now()), Some(first.load()));
        workers.stop();
    }

    #[tokio::test]
    async fn a_room_that_takes_nothing_delays_no_other_room() {
        let (stalled, stalled_events) = room_events();
        let (other, mut other_events) = room_events();
        let rooms = HashMap::from([(RoomId(1), stalled), (RoomId(2), other)]);
        for _ in 0..2 * EVENTS_MAX {
            hand_over(&rooms, RoomId(1), stats()).await;
        }
        for _ in 0..ROOM_DATA_MESSAGES_MAX {
            hand_over(&rooms, RoomId(1), data()).await;
        }
        hand_over(&rooms, RoomId(1), ended()).await;
        hand_over(&rooms, RoomId(2), ended()).await;

        assert!(other_events.try_recv().is_ok());
        assert_eq!(stalled_events.len(), EVENTS_MAX / 4 * 3 + ROOM_DATA_MESSAGES_MAX + 1);
    }
}
