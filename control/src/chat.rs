//! Chat beside a stream, over Socket.IO (stream API, section 8).
//!
//! Every live stream has a room: a [task] around a [state machine](room). [`Chat::observe`] is called with each change
//! of a stream, and opens, updates or closes its room.

mod admission;
mod connections;
mod counters;
mod gateway;
mod limits;
mod moderation;
mod outbox;
mod refusal;
mod relay;
mod room;
mod spool;
mod task;
mod wire;
pub(crate) mod words;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use axum::Router;
use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::debug;

use crate::access::Access;
use crate::clock::Timestamp;
use crate::cluster::Cluster;
use crate::config::product::{self, GuestAccess};
use crate::http::client::Proxies;
use crate::http::origins::Origins;
use crate::store::SharedStore;
use crate::store::chat::ChatNote;
use crate::store::stream::{Stream, StreamId, UserId};
use crate::stream_cache::{Change, StreamCache};

pub use admission::Verify;
pub use counters::Counters;
pub use limits::{Limits, Rate};
pub use moderation::{ChatModeration, HistoryPage, Observe, SettingsChange};
pub use outbox::UnreadLimits;
pub use refusal::{ConnectRefusal, RefusalCode};
pub(crate) use spool::FILE_NAME as QUEUE_FILE;

use admission::{Admission, Quotas};
use connections::ConnectionGuard;
use gateway::{Gateway, RoomInputs};
use outbox::Outboxes;
use relay::Relay;
use spool::Spool;
use task::{Channels, Order, RoomTask, Shared};

/// Requests of this process that wait for one room.
const ORDERS_MAX: usize = 1024;

/// What the chat needs.
pub struct Parts {
    pub config: product::Chat,
    /// Outside development `Write` is refused by the configuration.
    pub guest: GuestAccess,
    /// `FEATURE_GO_LIVE`: off, nobody new connects.
    pub enabled: bool,
    /// Pages that may connect, beside this server's own.
    pub origins: Origins,
    pub limits: Limits,
    pub store: SharedStore,
    pub cache: StreamCache,
    pub verify: Verify,
    pub proxies: Proxies,
    /// Where messages that wait for the store are kept while it is away. Absent: in memory.
    pub directory: Option<PathBuf>,
    /// The nodes on the same store.
    pub cluster: Cluster,
}

/// Handle; cheap to clone. The default one has no rooms and does nothing.
#[derive(Clone, Default)]
pub struct Chat(Option<Arc<Inner>>);

struct Inner {
    shared: Arc<Shared>,
    connections: ConnectionGuard,
    origins: Origins,
    rooms: Rooms,
    /// Ends with this value.
    _tasks: JoinSet<()>,
}

type Rooms = Arc<RwLock<HashMap<StreamId, Handle>>>;

/// The channels into a room.
struct Handle {
    stream: watch::Sender<Arc<Stream>>,
    orders: mpsc::Sender<Order>,
    /// The sender is dropped when the room is closed.
    closed: watch::Receiver<()>,
}

impl Chat {
    /// Starts the chat's own tasks; needs a runtime.
    ///
    /// # Errors
    /// The queue in `directory` cannot be opened.
    pub fn start(parts: Parts) -> std::io::Result<Self> {
        let Parts { config, guest, enabled, origins, limits, store, cache, verify, proxies, directory, cluster } =
            parts;
        let (counters, limits) = (Arc::new(Counters::default()), Arc::new(limits));
        let (max, per_address) = (config.max_connections, config.max_connections_per_ip);
        let outboxes = Outboxes::new(limits.unread.clone(), Arc::clone(&counters));
        let connections =
            ConnectionGuard::new(origins.clone(), max, per_address, proxies, Arc::clone(&counters), outboxes);
        let admission = Admission {
            verify,
            access: Access::new(cache.clone(), enabled, Arc::new(Timestamp::now)),
            cache,
            guest,
            per_user: limits.sockets_per_user,
            per_connection: limits.namespaces_per_connection,
            users: Quotas::default(),
            connections: Quotas::default(),
        };
        let spool = Arc::new(Spool::open(directory.as_deref(), limits.queued, Arc::clone(&counters))?);
        let (relay, relay_task) = Relay::new(cluster, Arc::clone(&store));
        let rooms = Rooms::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&spool).run(Arc::clone(&store)));
        let (notes_in, notes) = mpsc::channel(ORDERS_MAX);
        tasks.spawn(relay_task.run(notes_in));
        tasks.spawn(relay_in(notes, Arc::clone(&rooms)));
        let gateway = Gateway::new(Arc::clone(&limits), Arc::clone(&counters), admission);
        let emoji = config.reactions.into();
        let shared = Shared { gateway, store, spool, relay, limits, emoji, persist: config.persist, counters };
        Ok(Self(Some(Arc::new(Inner { shared: Arc::new(shared), connections, origins, rooms, _tasks: tasks }))))
    }

    /// Serves `/socket.io/`.
    pub fn router(&self) -> Router {
        match &self.0 {
            Some(inner) => inner.shared.gateway.router(inner.connections.clone(), &inner.origins),
            None => Router::new(),
        }
    }

    /// What the chat counts, for metrics.
    pub fn counters(&self) -> Arc<Counters> {
        self.0.as_ref().map_or_else(Arc::default, |inner| Arc::clone(&inner.shared.counters))
    }

    /// Opens, updates or closes the chat of a stream that changed. Never waits; called in the order of the changes.
    pub fn observe(&self, change: &Change) {
        let Some(inner) = &self.0 else {
            return;
        };
        let stream = &change.after;
        let mut rooms = inner.rooms.write().expect("no one panics with this lock");
        match rooms.get(&stream.id) {
            Some(room) => {
                room.stream.send_replace(Arc::clone(stream));
            }
            None if stream.is_live() => {
                rooms.insert(stream.id, inner.open(stream));
            }
            None => {}
        }
    }

    /// Waits until the chat of that stream is closed on this node and all clients are disconnected.
    pub async fn closed(&self, stream: StreamId) {
        let closed = self.0.as_ref().and_then(|inner| {
            let rooms = inner.rooms.read().expect("no one panics with this lock");
            rooms.get(&stream).map(|room| room.closed.clone())
        });
        if let Some(mut closed) = closed {
            // Nothing is ever sent: this fails when the room is closed.
            while closed.changed().await.is_ok() {}
        }
    }

    /// Disconnects all sockets of a user who was banned.
    pub fn disconnect_user(&self, user: &UserId) {
        let Some(inner) = &self.0 else {
            return;
        };
        let rooms = inner.rooms.read().expect("no one panics with this lock");
        for room in rooms.values() {
            let (orders, order) = (room.orders.clone(), Order::Banned { user: user.clone() });
            if let Err(mpsc::error::TrySendError::Full(order)) = orders.try_send(order) {
                tokio::spawn(async move { orders.send(order).await });
            }
        }
    }

    /// Sends clients the event that a message was deleted.
    pub async fn deleted(&self, stream: StreamId, id: String, seq: i64) {
        self.order(stream, Order::Deleted { id, seq }).await;
    }

    /// Sends clients the event that all messages of a user were deleted.
    pub async fn cleared(&self, stream: StreamId, user: UserId) {
        self.order(stream, Order::Cleared { user }).await;
    }

    async fn order(&self, stream: StreamId, order: Order) {
        if let Some(inner) = &self.0 {
            send_order(&inner.rooms, stream, order).await;
        }
    }

    /// Ends all connections and the tasks of all rooms, while streams go on. Clients reconnect by themselves.
    pub async fn shut_down(&self) {
        let Some(inner) = &self.0 else {
            return;
        };
        inner.shared.gateway.shut().await;
        let closing: Vec<_> = {
            let rooms = inner.rooms.read().expect("no one panics with this lock");
            rooms.iter().map(|(id, room)| (*id, room.orders.clone())).collect()
        };
        // Concurrently, since each may wait for the store.
        let closing = closing.into_iter().map(async |(id, orders)| {
            if orders.send(Order::Stop).await.is_ok() {
                self.closed(id).await;
            }
        });
        join_all(closing).await;
    }
}

impl Inner {
    fn open(&self, stream: &Arc<Stream>) -> Handle {
        let path = format!("/live:{}", stream.room_name);
        let (stream_sender, stream_receiver) = watch::channel(Arc::clone(stream));
        let (arrivals_in, arrivals) = mpsc::unbounded_channel();
        let (inputs_in, inputs) = mpsc::channel(self.shared.limits.waiting_per_room);
        let (orders_in, orders) = mpsc::channel(ORDERS_MAX);
        let (done, closed) = watch::channel(());
        self.shared.gateway.open(&path, RoomInputs { stream: stream.id, arrivals: arrivals_in, inputs: inputs_in });
        let task = RoomTask::new(Arc::clone(&self.shared), Arc::clone(stream), path);
        let channels = Channels { stream: stream_receiver, arrivals, inputs, orders };
        let (rooms, id) = (Arc::clone(&self.rooms), stream.id);
        tokio::spawn(async move {
            task.run(channels).await;
            rooms.write().expect("no one panics with this lock").remove(&id);
            drop(done);
        });
        Handle { stream: stream_sender, orders: orders_in, closed }
    }
}

async fn send_order(rooms: &Rooms, stream: StreamId, order: Order) {
    let orders = rooms.read().expect("no one panics with this lock").get(&stream).map(|room| room.orders.clone());
    if let Some(orders) = orders
        && orders.send(order).await.is_err()
    {
        debug!(%stream, "the chat is closed already");
    }
}

/// Passes notes of other nodes to their rooms.
async fn relay_in(mut notes: mpsc::Receiver<(StreamId, ChatNote)>, rooms: Rooms) {
    while let Some((stream, note)) = notes.recv().await {
        send_order(&rooms, stream, Order::Note(note)).await;
    }
}
