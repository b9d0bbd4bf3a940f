//! Sessions over a socket in memory, in rooms with real workers: what the room's own tests cannot see.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Sink, Stream};
use livekit_protocol as proto;
use prost::Message;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sfu::certificate::Certificate;
use sfu::io::Workers;
use signaling::framing::Frame;
use signaling::join::{Join, JoinError, Mode, Reconnect};
use signaling::rooms::Rooms;
use signaling::session::{Session, SessionEnd};
use signaling::settings::RoomsConfig;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

#[path = "support/joins.rs"]
mod joins;
#[path = "support/workers.rs"]
mod workers;

#[path = "room/sdp.rs"]
#[expect(dead_code, reason = "one offer is enough here")]
mod sdp;

/// Long enough for any answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Our end of a socket in memory.
struct Socket {
    incoming: mpsc::Receiver<Frame>,
    outgoing: mpsc::UnboundedSender<Frame>,
}

impl Stream for Socket {
    type Item = Result<Frame, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

impl Sink<Frame> for Socket {
    type Error = ();

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, frame: Frame) -> Result<(), ()> {
        self.outgoing.send(frame).map_err(|_| ())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
        Poll::Ready(Ok(()))
    }
}

/// A client at the other end.
struct Client {
    to: mpsc::Sender<Frame>,
    from: mpsc::UnboundedReceiver<Frame>,
    running: JoinHandle<SessionEnd>,
}

impl Client {
    fn of(session: Session) -> Self {
        let (to, incoming) = mpsc::channel(64);
        let (outgoing, from) = mpsc::unbounded_channel();
        let running = tokio::spawn(session.run(Socket { incoming, outgoing }));
        Self { to, from, running }
    }

    async fn send(&self, message: Request) {
        let request = proto::SignalRequest { message: Some(message) };
        self.to.send(Frame::Binary(request.encode_to_vec().into())).await.unwrap();
    }

    async fn frame(&mut self) -> Frame {
        tokio::time::timeout(PATIENCE, self.from.recv()).await.unwrap().expect("the socket ended")
    }

    async fn message(&mut self) -> Response {
        let Frame::Binary(bytes) = self.frame().await else { panic!("no message") };
        proto::SignalResponse::decode(bytes).unwrap().message.unwrap()
    }

    /// The first message of a kind; others before it are passed over.
    async fn first<T>(&mut self, wanted: impl Fn(Response) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.message().await) {
                return found;
            }
        }
    }

    async fn leave(&mut self) -> proto::LeaveRequest {
        self.first(|message| if let Response::Leave(leave) = message { Some(leave) } else { None }).await
    }
}

struct Server {
    rooms: Rooms,
    _workers: Workers,
}

fn start() -> Server {
    start_with(|_| {})
}

fn start_with(change: impl FnOnce(&mut RoomsConfig)) -> Server {
    let certificate = Certificate::generate();
    let mut config = RoomsConfig::new("ND_test".into(), joins::keys().signer(), certificate.fingerprint);
    change(&mut config);
    let (on_event, events) = signaling::media::worker_events();
    let workers = Workers::start(workers::loopback(certificate), on_event).unwrap();
    Server { rooms: Rooms::start(config, workers.handles().to_vec(), events), _workers: workers }
}

fn join(identity: &str) -> Join {
    joins::join(identity, Mode::V0)
}

#[tokio::test]
async fn a_session_begins_with_join_and_ends_with_leave_and_close() {
    let server = start();
    let mut client = Client::of(server.rooms.join(join("alice")).await.unwrap());
    assert!(matches!(client.message().await, Response::Join(_)));
    assert_eq!(server.rooms.counts().participants, 1);

    client.send(Request::Leave(proto::LeaveRequest::default())).await;
    assert_eq!(client.leave().await.reason(), proto::DisconnectReason::ClientInitiated);
    assert_eq!(client.frame().await, Frame::Close);
    client.to.send(Frame::Close).await.unwrap();
    client.running.await.unwrap();
    assert!(server.rooms.list_participants("room").await.is_empty());
}

#[tokio::test]
async fn pings_are_answered() {
    let server = start();
    let mut client = Client::of(server.rooms.join(join("alice")).await.unwrap());
    client.send(Request::PingReq(proto::Ping { timestamp: 5, rtt: 1 })).await;
    let pong = client.first(|message| if let Response::PongResp(pong) = message { Some(pong) } else { None }).await;
    assert_eq!(pong.last_ping_timestamp, 5);
    client.send(Request::Ping(5)).await;
    client.first(|message| matches!(message, Response::Pong(_)).then_some(())).await;
}

#[tokio::test]
async fn what_cannot_be_read_closes_the_socket() {
    for garbage in [Frame::Binary(vec![0xff; 9].into()), Frame::Text("{nonsense".into())] {
        let server = start();
        let mut client = Client::of(server.rooms.join(join("alice")).await.unwrap());
        client.to.send(garbage).await.unwrap();
        while client.frame().await != Frame::Close {}
    }
}

#[tokio::test]
async fn a_session_that_never_runs_leaves_no_participant() {
    let server = start();
    drop(server.rooms.join(join("alice")).await.unwrap());
    assert!(server.rooms.list_participants("room").await.is_empty());
}

#[tokio::test]
async fn a_resume_where_there_is_no_room_is_told_to_start_over() {
    let server = start();
    let reconnect = Reconnect { participant_sid: String::new(), reason: proto::ReconnectReason::RrUnknown };
    let session = server.rooms.join(Join { reconnect: Some(reconnect), ..join("alice") }).await.unwrap();
    let mut client = Client::of(session);
    let Response::Leave(leave) = client.message().await else { panic!("no leave") };
    assert_eq!(leave.action(), proto::leave_request::Action::Reconnect);
    assert_eq!(client.frame().await, Frame::Close);
    assert_eq!(server.rooms.counts().rooms, 0);
}

#[tokio::test]
async fn a_drain_sends_everybody_away_and_admits_nobody() {
    let server = start();
    let mut client = Client::of(server.rooms.join(join("alice")).await.unwrap());
    let rooms = server.rooms.clone();
    let draining = tokio::spawn(async move { rooms.drain(Duration::from_secs(3_600)).await });
    assert_eq!(client.leave().await.reason(), proto::DisconnectReason::ServerShutdown);
    assert_eq!(client.frame().await, Frame::Close);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!draining.is_finished(), "it waits until the client has had its last words");
    client.to.send(Frame::Close).await.unwrap();
    tokio::time::timeout(PATIENCE, draining).await.expect("it ends when all are gone").unwrap();
    assert_eq!(server.rooms.counts().rooms, 0);
    assert!(matches!(server.rooms.join(join("bob")).await, Err(JoinError::ShuttingDown)));
}

/// So each has its own transports there, two of each client.
#[tokio::test]
async fn rooms_of_one_worker_share_no_ids() {
    let server = start();
    let mut clients = Vec::new();
    for room in ["one", "two", "three"] {
        let mut join = join("alice");
        join.grants.video.room = room.into();
        clients.push(Client::of(server.rooms.join(join).await.unwrap()));
    }
    let patience = std::time::Instant::now() + PATIENCE;
    while server.rooms.workers()[0].load() < 6 {
        assert!(std::time::Instant::now() < patience, "{} transports", server.rooms.workers()[0].load());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One that ends takes nothing from the others.
    server.rooms.delete_room("one").await.unwrap();
    assert_eq!(clients[0].leave().await.reason(), proto::DisconnectReason::RoomDeleted);
    let names: Vec<_> = server.rooms.list_rooms(&[]).await.into_iter().map(|room| room.name).collect();
    assert_eq!(names, ["three", "two"]);
}

#[tokio::test]
async fn a_deleted_room_can_be_joined_anew() {
    let server = start();
    let mut first = Client::of(server.rooms.join(join("alice")).await.unwrap());
    server.rooms.delete_room("room").await.unwrap();
    assert_eq!(first.leave().await.reason(), proto::DisconnectReason::RoomDeleted);
    let mut second = Client::of(server.rooms.join(join("alice")).await.unwrap());
    assert!(matches!(second.message().await, Response::Join(_)));
    // The first one ends after the second has begun.
    while server.rooms.counts().rooms > 1 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        assert_eq!(server.rooms.list_rooms(&[]).await.len(), 1);
    }
}

#[tokio::test]
async fn a_room_that_is_created_is_listed_and_keeps_its_settings() {
    let server = start();
    let request = proto::CreateRoomRequest { name: "room".into(), max_participants: 1, ..Default::default() };
    let created = server.rooms.create_room(request.clone()).await.unwrap();
    let again = server.rooms.create_room(proto::CreateRoomRequest { max_participants: 9, ..request }).await.unwrap();
    assert_eq!((created.sid, 1), (again.sid, again.max_participants));
    assert_eq!(server.rooms.list_rooms(&[]).await.len(), 1);
    assert!(server.rooms.list_rooms(&["other".into()]).await.is_empty());

    let _alice = server.rooms.join(join("alice")).await.unwrap();
    assert!(matches!(server.rooms.join(join("bob")).await, Err(JoinError::RoomFull)));
}

#[tokio::test]
async fn nobody_more_joins_a_server_that_has_all_its_tracks() {
    let server = start_with(|config| config.limits.node_tracks_max = 1);
    let track = proto::AddTrackRequest { cid: "mic".into(), ..Default::default() };
    let sdp = sdp::Offer::default().audio("mic", 10).text();
    let offer = proto::SessionDescription { r#type: "offer".into(), sdp, ..Default::default() };
    let publishing = Join { add_tracks: vec![track], publisher_offer: Some(offer), ..join("alice") };
    let mut alice = Client::of(server.rooms.join(publishing).await.unwrap());
    alice.first(|message| matches!(message, Response::Answer(_)).then_some(())).await;
    assert_eq!(server.rooms.counts().tracks, 1);
    assert!(matches!(server.rooms.join(join("bob")).await, Err(JoinError::NodeFull)));
    // Who is in resumes; this connection ends at once, and its participant and its track with it.
    let reconnect = Reconnect { participant_sid: String::new(), reason: proto::ReconnectReason::RrUnknown };
    assert!(server.rooms.join(Join { reconnect: Some(reconnect), ..join("alice") }).await.is_ok());
    while server.rooms.counts().tracks > 0 {
        tokio::task::yield_now().await;
    }
    assert!(server.rooms.join(join("bob")).await.is_ok());
}

/// More messages than an outbox holds, all before the socket is first read: a newcomer is no slow client.
#[tokio::test]
async fn a_newcomer_may_be_told_a_lot_at_once() {
    let server = start();
    let add_tracks = (0..20)
        .map(|number| proto::AddTrackRequest { cid: format!("track {number}"), ..Default::default() })
        .cycle()
        .take(600)
        .collect();
    let mut client = Client::of(server.rooms.join(Join { add_tracks, ..join("alice") }).await.unwrap());
    let mut answers = 0;
    while answers < 600 {
        match client.message().await {
            Response::TrackPublished(_) | Response::RequestResponse(_) => answers += 1,
            _ => {}
        }
    }
}

/// What it has not taken is not kept for it without end; it resumes when it can read again.
#[tokio::test]
async fn a_client_that_does_not_keep_up_is_let_go() {
    let server = start();
    let session = server.rooms.join(join("slow")).await.unwrap();
    for number in 0..=signaling::outbox::OUTBOX_MAX {
        server.rooms.update_room_metadata("room", &number.to_string()).await.unwrap();
    }
    let mut slow = Client::of(session);
    let mut updates = 0;
    loop {
        match slow.frame().await {
            Frame::Close => break,
            Frame::Binary(bytes) => {
                let message = proto::SignalResponse::decode(bytes).unwrap().message.unwrap();
                updates += usize::from(matches!(message, Response::RoomUpdate(_)));
            }
            _ => {}
        }
    }
    assert!(updates <= signaling::outbox::OUTBOX_MAX, "{updates}");
    slow.to.send(Frame::Close).await.unwrap();
    let end = slow.running.await.unwrap();
    assert_eq!(end, SessionEnd::Replaced, "its connection ends as soon as its outbox is full");
}

/// Counts how often other tasks of the thread are polled.
fn bystander() -> (Arc<AtomicUsize>, JoinHandle<()>) {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&turns);
    let task = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
        }
    });
    (turns, task)
}

/// On one thread: whoever does not yield keeps everybody else waiting.
#[tokio::test]
async fn a_room_that_is_kept_busy_leaves_others_their_turns() {
    const REQUESTS: usize = 60;
    let server = start();
    let mut hostile = Client::of(server.rooms.join(join("hostile")).await.unwrap());
    hostile.first(|message| matches!(message, Response::Join(_)).then_some(())).await;
    let track_sids: Vec<String> = (0..4_000).map(|number| format!("TR_VC{number:012}")).collect();
    // Without an await: all are there before anybody takes one.
    for _ in 0..REQUESTS {
        let settings = proto::UpdateTrackSettings { track_sids: track_sids.clone(), ..Default::default() };
        let request = proto::SignalRequest { message: Some(Request::TrackSetting(settings)) };
        hostile.to.try_send(Frame::Binary(request.encode_to_vec().into())).unwrap();
    }
    let mute = Request::Mute(proto::MuteTrackRequest { sid: "TR_none".into(), muted: true });
    let request = proto::SignalRequest { message: Some(mute) };
    hostile.to.try_send(Frame::Binary(request.encode_to_vec().into())).unwrap();

    let (turns, bystander) = bystander();
    hostile.first(|message| matches!(message, Response::RequestResponse(_)).then_some(())).await;
    bystander.abort();
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns >= REQUESTS, "{turns} turns beside {REQUESTS} requests of 4,000 tracks");
}
