//! Socket.IO: the only file that names the library (stream API, 8.1 and 8.2).
//!
//! What the library requires of this file:
//!
//! - A namespace is opened when its stream starts, never because a client asks for it.
//! - Handlers are synchronous. The reader of a connection runs them in order, and they only put an event into the queue
//!   of its room.
//! - The library sends nothing when a namespace is deleted, so all clients are disconnected before.
//! - A client joins the group that is broadcast to after it has been sent the state, so that no event precedes that.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{Method, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use socketioxide::adapter::LocalAdapter;
use socketioxide::extract::{AckSender, SocketRef, TryData};
use socketioxide::handler::{ConnectHandler as _, FromMessageParts};
use socketioxide::layer::SocketIoLayer;
use socketioxide::socket::Socket;
use socketioxide::{BroadcastError, ParserConfig, SocketIo};
use socketioxide_core::Value;
use tokio::sync::mpsc;
use tower::Layer as _;
use tower_http::cors::CorsLayer;
use tracing::field::display;
use tracing::{debug, info};

use crate::auth::AuthError;
use crate::http::origins::Origins;
use crate::store::chat::ChatRole;
use crate::store::stream::{StreamId, UserId};

use super::admission::{Admission, NotAdmitted, Place};
use super::connections::{ConnectionGuard, Pass, check_connection};
use super::counters::{Counters, add, subtract};
use super::limits::{Faults, Limits};
use super::outbox::Outbox;
use super::refusal::{ConnectRefusal, Refusal};
use super::room::{Member, SocketKey};
use super::wire::{Auth, Done, Event, MessageIn, Refused};

/// Where connections are made.
const PATH: &str = "/socket.io";

/// The group of clients that have been sent the state of their room.
const AUDIENCE: &str = "audience";

/// Parts of a large audience. Events that are sent together are sent to one part after the other: all of them are
/// queued for a client before its writer runs, which then writes once. A write costs more than its bytes.
const PARTS: u64 = 64;

/// Longest wait for connections to end.
const SHUT_MAX: Duration = Duration::from_secs(2);

/// Sockets of all rooms.
#[derive(Clone)]
pub(crate) struct Gateway {
    io: SocketIo,
    layer: SocketIoLayer,
    limits: Arc<Limits>,
    counters: Arc<Counters>,
    admission: Arc<Admission>,
}

/// What clients of a room send into it.
pub(crate) struct RoomInputs {
    pub stream: StreamId,
    /// Unbounded, but each socket sends one of each kind, and the number of sockets is bounded.
    pub arrivals: mpsc::UnboundedSender<Arrival>,
    pub inputs: mpsc::Sender<Input>,
}

pub(crate) enum Arrival {
    /// With the number of the last message that the client has, if it comes back.
    Joined(Client, Option<i64>),
    Left(SocketKey),
}

/// An event of a client.
pub(crate) struct Input {
    client: Client,
    what: What,
    reply: Reply,
    slot: QueueSlot,
}

impl Input {
    pub fn into_parts(self) -> (Client, What, Reply, QueueSlot) {
        (self.client, self.what, self.reply, self.slot)
    }
}

pub(crate) enum What {
    Message(MessageIn),
    Reaction(String),
}

/// One socket: a client in a namespace.
#[derive(Clone)]
pub(crate) struct Client {
    socket: SocketRef,
    state: Arc<ClientState>,
}

struct ClientState {
    key: SocketKey,
    member: Member,
    /// Events in the queue of the room.
    waiting: AtomicU32,
    faults: Mutex<Faults>,
    /// We disconnected it: nothing more is accepted from it.
    gone: AtomicBool,
    places: Mutex<Vec<Place>>,
    /// Of its connection.
    outbox: Option<Arc<Outbox>>,
    limits: Arc<Limits>,
    counters: Arc<Counters>,
}

/// Where the answer to one event is sent, if the client asked for one.
pub(crate) struct Reply(Option<AckSender>);

/// A slot in the queue of the room, free again when this is dropped.
pub(crate) struct QueueSlot(Arc<ClientState>);

impl Gateway {
    pub fn new(limits: Arc<Limits>, counters: Arc<Counters>, admission: Admission) -> Self {
        let parser = ParserConfig::common()
            .max_incoming_binaries(0)
            .max_incoming_binary_buf_size(limits.packet_bytes)
            .packet_completion_timeout(Duration::from_secs(2));
        let (layer, io) = SocketIo::builder()
            .req_path(PATH)
            .ping_interval(limits.ping_interval)
            .ping_timeout(limits.ping_timeout)
            .connect_timeout(limits.connect_timeout)
            .max_payload(limits.frame_bytes as u64)
            .ws_max_message_size(limits.frame_bytes)
            .ws_max_frame_size(limits.frame_bytes)
            .max_buffer_size(limits.unsent_packets)
            .with_parser(parser)
            .build_layer();
        Self { io, layer, limits, counters, admission: Arc::new(admission) }
    }

    /// Serves the path of Socket.IO. `origins`: of pages that may call from elsewhere.
    /// To be called once.
    pub fn router(&self, connections: ConnectionGuard, origins: &Origins) -> Router {
        // Made once: every service that the layer makes has sessions of its own.
        let service = self.layer.layer(Router::new());
        Router::new()
            .route_service(PATH, service.clone())
            .route_service(&format!("{PATH}/"), service)
            .route_layer(axum::middleware::from_fn_with_state(connections, check_connection))
            .route_layer(cors(origins))
    }

    /// Opens the namespace of a room.
    pub fn open(&self, path: &str, inputs: RoomInputs) {
        let inputs = Arc::new(inputs);
        let (gateway, stream) = (self.clone(), inputs.stream);
        let admit = move |socket: SocketRef, TryData(auth): TryData<Auth>| {
            let gateway = gateway.clone();
            async move {
                let admitted = gateway.admit(&socket, stream, auth.ok()).await;
                admitted.map_err(|refused| gateway.refused(&socket, stream, refused))
            }
        };
        let joined = move |socket: SocketRef, TryData(auth): TryData<Auth>| {
            inputs.on_connect(socket, auth.ok().and_then(|auth| auth.last_seq));
            ready(())
        };
        self.io.ns(path.to_owned(), joined.with(admit));
    }

    async fn admit(&self, socket: &SocketRef, stream: StreamId, auth: Option<Auth>) -> Result<(), NotAdmitted> {
        let pass = socket.req_parts().extensions.get::<Pass>();
        if pass.is_some_and(Pass::is_over) {
            return Err(ConnectRefusal::TooManyConnections.into());
        }
        if pass.is_some_and(Pass::is_spent) {
            return Err(ConnectRefusal::ServerBusy.into());
        }
        let auth = auth.ok_or(ConnectRefusal::Unauthenticated)?;
        let admitted = self.admission.admit(stream, socket.id.as_str(), auth.token).await;
        let admitted = admitted.inspect_err(|refused| {
            // Without keys no signature was checked; and who waits for them is let in on the same connection later.
            if refused.token != Some(AuthError::KeysUnavailable) {
                pass.into_iter().for_each(Pass::count_refusal);
            }
        })?;
        static NEXT_KEY: AtomicU64 = AtomicU64::new(1);
        socket.extensions.insert(Arc::new(ClientState {
            key: SocketKey(NEXT_KEY.fetch_add(1, Ordering::Relaxed)),
            member: admitted.member,
            waiting: AtomicU32::new(0),
            faults: Mutex::default(),
            gone: AtomicBool::new(false),
            places: Mutex::new(admitted.places),
            outbox: pass.map(Pass::outbox),
            limits: Arc::clone(&self.limits),
            counters: Arc::clone(&self.counters),
        }));
        Ok(())
    }

    /// The code that the client is sent; logs a refused token.
    fn refused(&self, socket: &SocketRef, stream: StreamId, refused: NotAdmitted) -> ConnectRefusal {
        let NotAdmitted { code, token } = refused;
        self.counters.count_not_connected(code);
        if !matches!(code, ConnectRefusal::Unauthenticated | ConnectRefusal::TokenExpired) {
            return code;
        }
        let reason = token.map_or(code.name(), AuthError::reason);
        if let Some(left_out) = self.counters.unauthenticated_log.admit(Instant::now()) {
            let address = socket.req_parts().extensions.get::<Pass>().map(|pass| display(pass.address()));
            info!(reason, stream = %stream, chat = socket.ns(), address, left_out, "authentication failed");
        }
        code
    }

    pub fn is_banned(&self, user: &UserId) -> bool {
        self.admission.is_banned(user)
    }

    /// Sends to all who have got the state of the room.
    pub async fn broadcast(&self, path: &str, event: &Event) {
        self.send_to(path, AUDIENCE.into(), event).await;
    }

    /// Sends several events to a large audience, and yields to other tasks between its parts.
    pub async fn broadcast_together(&self, path: &str, events: &[Event]) {
        for part in 0..PARTS {
            for event in events {
                self.send_to(path, part_name(part), event).await;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn send_to(&self, path: &str, group: Cow<'static, str>, event: &Event) {
        let Some(namespace) = self.io.of(path) else {
            return;
        };
        match namespace.within(group).emit(event.name(), event).await {
            Ok(()) => {}
            // Clients that read too slowly lose the event; all others are sent it.
            Err(BroadcastError::Socket(lost)) => add(&self.counters.deliveries_lost, lost.len() as u64),
            Err(error) => debug!(%error, event = event.name(), "not sent"),
        }
    }

    /// Disconnects everybody, and closes the namespace.
    pub async fn close(&self, path: &str) {
        if let Some(namespace) = self.io.of(path)
            && let Err(error) = namespace.disconnect().await
        {
            debug!(%error, "clients that read too slowly were not sent that the room is closed");
        }
        self.io.delete_ns(path);
    }

    /// Ends all connections, except those whose clients read too slowly for it: they end with the process.
    pub async fn shut(&self) {
        let _ = tokio::time::timeout(SHUT_MAX, self.io.close()).await;
    }
}

fn part_name(part: u64) -> Cow<'static, str> {
    Cow::Owned(format!("part-{part}"))
}

fn cors(origins: &Origins) -> CorsLayer {
    let methods = [Method::GET, Method::POST];
    CorsLayer::new().allow_origin(origins.cors()).allow_methods(methods).allow_headers([header::CONTENT_TYPE])
}

impl RoomInputs {
    /// A client has connected.
    fn on_connect(self: &Arc<Self>, socket: SocketRef, last_seq: Option<i64>) {
        let Some(state) = socket.extensions.get::<Arc<ClientState>>() else {
            let _ = socket.disconnect();
            return;
        };
        add(&state.counters.sockets, 1);
        let client = Client { socket: socket.clone(), state };
        self.listen(&socket);
        if self.arrivals.send(Arrival::Joined(client.clone(), last_seq)).is_err() {
            client.disconnect();
        }
        // It may have disconnected before the handler of that was set.
        if !socket.connected() {
            self.on_disconnect(&client);
        }
    }

    fn listen(self: &Arc<Self>, socket: &SocketRef) {
        let room = Arc::clone(self);
        socket.on("chat:message", move |sent: Sent<MessageIn>| {
            room.take(sent, What::Message);
            ready(())
        });
        let room = Arc::clone(self);
        socket.on("reaction", move |sent: Sent<String>| {
            room.take_reaction(sent);
            ready(())
        });
        let room = Arc::clone(self);
        socket.on_fallback(move |sent: Sent<serde::de::IgnoredAny>| {
            room.take(Sent { data: None, ..sent }, |_| What::Reaction(String::new()));
            ready(())
        });
        let room = Arc::clone(self);
        socket.on_disconnect(move |socket: SocketRef| {
            if let Some(state) = socket.extensions.get::<Arc<ClientState>>() {
                room.on_disconnect(&Client { socket, state });
            }
            ready(())
        });
    }

    /// Reactions that find no free slot are dropped and answered as if they were counted.
    fn take_reaction(&self, sent: Sent<String>) {
        let Some(state) = sent.socket.extensions.get::<Arc<ClientState>>() else {
            return;
        };
        if sent.data.is_some() && state.waiting.load(Ordering::Relaxed) >= state.limits.waiting_per_socket {
            add(&state.counters.reactions_dropped, 1);
            let client = Client { socket: sent.socket, state };
            return client.accept(sent.reply, &Done { ok: true });
        }
        self.take(sent, What::Reaction);
    }

    /// Puts an event into the queue of the room.
    fn take<T>(&self, sent: Sent<T>, what: impl FnOnce(T) -> What) {
        let Sent { socket, data, bytes, reply } = sent;
        let Some(state) = socket.extensions.get::<Arc<ClientState>>() else {
            return;
        };
        let client = Client { socket, state };
        if client.state.gone.load(Ordering::Relaxed) {
            return;
        }
        if bytes > client.state.limits.packet_bytes {
            return client.refuse(reply, &Refusal::too_large(client.state.limits.packet_bytes));
        }
        let Some(data) = data else {
            return client.refuse(reply, &Refusal::malformed());
        };
        let Some(slot) = client.slot() else {
            return client.refuse(reply, &Refusal::busy());
        };
        let input = Input { client, what: what(data), reply, slot };
        match self.inputs.try_send(input) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(input)) => input.client.refuse(input.reply, &Refusal::busy()),
            Err(mpsc::error::TrySendError::Closed(input)) => input.client.refuse(input.reply, &Refusal::over()),
        }
    }

    fn on_disconnect(&self, client: &Client) {
        let state = &client.state;
        if std::mem::take(&mut *state.places.lock().expect("no one panics with this lock")).is_empty() {
            return;
        }
        subtract(&state.counters.sockets, 1);
        // This fails only if the room is closed, and then it has no members any more.
        let _ = self.arrivals.send(Arrival::Left(state.key));
    }
}

impl Client {
    pub fn key(&self) -> SocketKey {
        self.state.key
    }

    pub fn member(&self) -> &Member {
        &self.state.member
    }

    fn slot(&self) -> Option<QueueSlot> {
        let before = self.state.waiting.fetch_add(1, Ordering::Relaxed);
        let slot = QueueSlot(Arc::clone(&self.state));
        (before < self.state.limits.waiting_per_socket).then_some(slot)
    }

    /// Sends a long event to this client alone. False: too much waits for it or for others, and nothing is sent.
    pub fn send_long(&self, event: &Event, bytes: u64) -> bool {
        let Some(outbox) = &self.state.outbox else {
            self.send(event);
            return true;
        };
        if !outbox.offer(bytes, self.is_guest(), Instant::now()) {
            return false;
        }
        if !self.send(event) {
            outbox.withdraw(bytes);
        }
        true
    }

    /// Whether so many bytes could wait for it now.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.state.outbox.as_ref().is_none_or(|outbox| outbox.has_room(bytes, self.is_guest()))
    }

    fn is_guest(&self) -> bool {
        self.state.member.role == ChatRole::Guest
    }

    /// From now on the client is sent what is broadcast.
    pub fn enter_audience(&self) {
        self.socket.join(vec![AUDIENCE.into(), part_name(self.state.key.0 % PARTS)]);
    }

    /// False: the client reads too slowly, and the event is lost.
    pub fn send(&self, event: &Event) -> bool {
        let sent = self.socket.emit(event.name(), event).is_ok();
        if !sent {
            add(&self.state.counters.deliveries_lost, 1);
        }
        sent
    }

    /// Answers that an event was accepted.
    pub fn accept(&self, reply: Reply, answer: &impl Serialize) {
        if let Some(ack) = reply.0
            && ack.send(answer).is_err()
        {
            add(&self.state.counters.deliveries_lost, 1);
        }
    }

    /// Answers that an event was refused, and closes the socket when that happens too often.
    pub fn refuse(&self, reply: Reply, refusal: &Refusal) {
        let state = &self.state;
        if state.gone.load(Ordering::Relaxed) {
            return;
        }
        state.counters.count_refused(refusal.code);
        match reply.0 {
            Some(ack) => {
                let _ = ack.send(&Refused { ok: false, error: refusal });
            }
            None => drop(self.send(&Event::Error(refusal.clone()))),
        }
        let mut faults = state.faults.lock().expect("no one panics with this lock");
        if faults.add(state.limits.faults, Instant::now()) {
            drop(faults);
            add(&state.counters.closed_for_faults, 1);
            self.disconnect();
        }
    }

    /// Disconnects the client. False: it reads too slowly for that, and the caller has to try again.
    pub fn disconnect(&self) -> bool {
        self.state.gone.store(true, Ordering::Relaxed);
        self.socket.leave_all();
        self.socket.clone().disconnect().is_ok()
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An event as it arrived. `data` is absent if it is malformed or too large.
struct Sent<T> {
    socket: SocketRef,
    data: Option<T>,
    /// Length of the event.
    bytes: usize,
    reply: Reply,
}

impl<T: DeserializeOwned> FromMessageParts<LocalAdapter> for Sent<T> {
    type Error = Infallible;

    fn from_message_parts(socket: &Arc<Socket>, value: &mut Value, ack: &Option<i64>) -> Result<Self, Infallible> {
        let bytes = match value {
            Value::Str(text, _) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
        };
        let sender = AckSender::from_message_parts(socket, value, ack)?;
        let reply = Reply(ack.is_some().then_some(sender));
        let is_small =
            socket.extensions.get::<Arc<ClientState>>().is_some_and(|state| bytes <= state.limits.packet_bytes);
        let data = if is_small {
            let TryData(data) = TryData::<T>::from_message_parts(socket, value, ack)?;
            data.ok()
        } else {
            None
        };
        Ok(Self { socket: SocketRef::from(Arc::clone(socket)), data, bytes, reply })
    }
}
