//! The task of one room: receives what clients send, stores it, and broadcasts it.
//!
//! Messages that arrived together are stored with one write and broadcast after it. While the store is away they go to
//! the [queue on disk](super::spool) instead.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::store::chat::{ChatMessage, ChatNote, ChatRange, StoredMessage};
use crate::store::stream::{Stream, StreamId, UserId};
use crate::store::{SharedStore, StoreError};

use super::counters::{Counters, add, subtract};
use super::gateway::{Arrival, Client, Gateway, Input, Reply, What};
use super::limits::Limits;
use super::refusal::Refusal;
use super::relay::Relay;
use super::room::{Draft, Now, Out, Room, SocketKey};
use super::spool::Spool;
use super::wire::{Accepted, Done, Event};

/// Events read from a queue at once.
const TURN: usize = 256;

/// [`UPKEEP`] of a new room, and while nodes do not all know of each other yet.
const UPKEEP_AT_FIRST: Duration = Duration::from_millis(500);

/// Clients from which on a room is large: its broadcasts are collected for [`COLLECT`] and sent together.
const LARGE: usize = 200;

/// Shortest time between two broadcasts to a large room. With it a busy chat costs a third, and nobody notices the
/// delay.
const COLLECT: Duration = Duration::from_millis(100);

/// How often it is tried again to send the state of the room to clients whose outboxes had no room for it.
const STATE_RETRY: Duration = Duration::from_millis(200);

/// Time after a failure of the store in which it is not asked again.
const AWAY: Duration = Duration::from_secs(1);

/// How often is done what need not be done at once: storing sums of reactions, trimming the messages that are kept.
const UPKEEP: Duration = Duration::from_secs(5);

/// What rooms have in common.
pub(crate) struct Shared {
    pub gateway: Gateway,
    pub store: SharedStore,
    pub spool: Arc<Spool>,
    pub relay: Relay,
    pub limits: Arc<Limits>,
    pub emoji: Arc<[String]>,
    pub persist: bool,
    pub counters: Arc<Counters>,
}

/// A request of this process to a room.
#[derive(Debug)]
pub(crate) enum Order {
    Deleted {
        id: String,
        seq: i64,
    },
    Cleared {
        user: UserId,
    },
    Banned {
        user: UserId,
    },
    /// Of another node.
    Note(ChatNote),
    /// The process ends; the stream goes on elsewhere.
    Stop,
}

/// The receiving ends of a room's channels.
pub(crate) struct Channels {
    /// Newest copy of the stream.
    pub stream: watch::Receiver<Arc<Stream>>,
    pub arrivals: mpsc::UnboundedReceiver<Arrival>,
    pub inputs: mpsc::Receiver<Input>,
    pub orders: mpsc::Receiver<Order>,
}

pub(crate) struct RoomTask {
    shared: Arc<Shared>,
    id: StreamId,
    path: String,
    room: Room,
    clients: HashMap<SocketKey, Client>,
    /// Clients whose disconnection did not fit into their full queues: it is tried again.
    leaving: Vec<Client>,
    /// Clients that could not be sent the state of the room yet, and when it is tried again.
    newcomers: Vec<Newcomer>,
    retry_states_at: Instant,
    /// Totals and messages of the store have been read.
    loaded: bool,
    upkeep_at: Instant,
    /// Messages sent since the store was trimmed.
    untrimmed: usize,
    /// The store failed a moment ago: it is not asked again before.
    away_until: Option<Instant>,
    /// Events for all clients of a large room, in order, and when they are sent.
    collected: Vec<Event>,
    send_at: Instant,
}

/// Whether the room goes on.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    Continue,
    End,
}

/// A message on its way: where it came from, and where the answer goes.
struct Pending {
    client: Client,
    reply: Reply,
    draft: Draft,
}

/// A client that has no state yet.
struct Newcomer {
    client: Client,
    last_seq: Option<i64>,
    /// Of the state, when it was last made; 0: not yet.
    bytes: u64,
}

impl RoomTask {
    pub fn new(shared: Arc<Shared>, stream: Arc<Stream>, path: String) -> Self {
        let room = Room::new(Arc::clone(&stream), Arc::clone(&shared.limits), Arc::clone(&shared.emoji));
        Self {
            shared,
            id: stream.id,
            path,
            room,
            clients: HashMap::new(),
            leaving: Vec::new(),
            newcomers: Vec::new(),
            retry_states_at: Instant::now(),
            loaded: false,
            upkeep_at: Instant::now() + UPKEEP_AT_FIRST,
            untrimmed: 0,
            away_until: None,
            collected: Vec::new(),
            send_at: Instant::now(),
        }
    }

    /// Runs until the stream is over and all clients are disconnected.
    pub async fn run(mut self, mut channels: Channels) {
        add(&self.shared.counters.rooms, 1);
        debug!(stream = %self.id, "chat opened");
        self.load().await;
        while self.step(&mut channels).await == Flow::Continue {}
        self.relay_reactions();
        self.keep_reactions().await;
        self.trim();
        channels.arrivals.close();
        while let Ok(arrival) = channels.arrivals.try_recv() {
            if let Arrival::Joined(client, _) = arrival {
                client.disconnect();
            }
        }
        subtract(&self.shared.counters.rooms, 1);
        debug!(stream = %self.id, "chat closed");
    }

    /// Handles what comes next.
    async fn step(&mut self, channels: &mut Channels) -> Flow {
        let (mut arrivals, mut inputs) = (Vec::new(), Vec::new());
        let wake_at = self.wake_at();
        tokio::select! {
            biased;
            changed = channels.stream.changed() => {
                // Without a sender the chat itself is gone.
                if changed.is_err() {
                    return Flow::End;
                }
                let stream = Arc::clone(&channels.stream.borrow_and_update());
                let out = self.room.on_stream(stream, Now::new());
                return self.carry_out(out).await;
            }
            Some(order) = channels.orders.recv() => return self.apply(order).await,
            count = channels.arrivals.recv_many(&mut arrivals, TURN), if !channels.arrivals.is_closed() => {
                if count > 0 {
                    return self.admit(arrivals).await;
                }
            }
            count = channels.inputs.recv_many(&mut inputs, TURN), if !channels.inputs.is_closed() => {
                if count > 0 {
                    self.take(inputs).await;
                }
            }
            () = tokio::time::sleep_until(wake_at.into()) => {}
        }
        let out = self.room.on_time(Now::new());
        if out.iter().any(|out| matches!(out, Out::All(Event::Reactions { .. }))) {
            self.relay_reactions();
        }
        if Instant::now() >= self.upkeep_at {
            self.upkeep().await;
        }
        let course = self.carry_out(out).await;
        if !self.newcomers.is_empty() && Instant::now() >= self.retry_states_at {
            self.retry_states().await;
        }
        if Instant::now() >= self.send_at {
            self.send_collected().await;
        }
        course
    }

    /// When the task wakes up without an input.
    fn wake_at(&self) -> Instant {
        let send_at = (!self.collected.is_empty()).then_some(self.send_at);
        let retry_states_at = (!self.newcomers.is_empty()).then_some(self.retry_states_at);
        let deadlines = [self.room.deadline(), send_at, retry_states_at, Some(self.upkeep_at)];
        deadlines.into_iter().flatten().min().unwrap_or(self.upkeep_at)
    }

    async fn send_collected(&mut self) {
        if self.collected.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.collected);
        self.shared.gateway.broadcast_together(&self.path, &events).await;
        self.send_at = Instant::now() + COLLECT;
    }

    // ---- what the store has from before

    async fn load(&mut self) {
        let store = &self.shared.store;
        let newest = self.shared.limits.history_max;
        // Before the store is read: what is stored meanwhile would be in neither otherwise.
        let waiting = self.shared.spool.of_stream(self.id);
        let load = async {
            let totals = store.chat_totals(self.id).await?;
            let messages = match self.shared.persist {
                true => Some(store.chat_messages(self.id, ChatRange::Newest, newest).await?),
                false => None,
            };
            Ok((totals, messages))
        };
        match self.with_timeout(load).await {
            Ok((totals, stored)) => {
                match stored {
                    Some(stored) => self.room.load(totals, with_waiting(stored, waiting)),
                    None => self.room.load_nothing(totals),
                }
                self.loaded = true;
            }
            Err(cause) => warn!(stream = %self.id, %cause, "cannot read the chat's history; it is tried again"),
        }
    }

    /// Sends messages of other nodes for which there was no note, since the nodes did not know of each other yet.
    async fn backfill(&mut self) {
        let newest = self.shared.limits.history_max;
        let stored = self.with_timeout(self.shared.store.chat_messages(self.id, ChatRange::Newest, newest)).await;
        if let Ok(stored) = stored {
            let out = self.room.backfill(stored, Now::new());
            self.carry_out(out).await;
        }
    }

    /// Whether the store failed a moment ago, so that asking it would only delay the room.
    fn is_store_away(&self) -> bool {
        self.shared.spool.is_waiting() || self.away_until.is_some_and(|until| until > Instant::now())
    }

    async fn with_timeout<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let patience = self.shared.limits.store_patience;
        let late = || StoreError::Unavailable(format!("no answer within {patience:?}"));
        tokio::time::timeout(patience, work).await.unwrap_or_else(|_| Err(late()))
    }

    // ---- members

    async fn admit(&mut self, arrivals: Vec<Arrival>) -> Flow {
        // Newcomers are sent the history, which has the collected messages: they must not be sent them twice.
        self.send_collected().await;
        for arrival in arrivals {
            match arrival {
                Arrival::Joined(client, last_seq) => {
                    self.clients.insert(client.key(), client.clone());
                    self.send_state(Newcomer { client, last_seq, bytes: 0 }).await;
                }
                Arrival::Left(key) => {
                    self.clients.remove(&key);
                    self.room.on_leave(key);
                    self.leaving.retain(|client| client.key() != key);
                    self.newcomers.retain(|newcomer| newcomer.client.key() != key);
                }
            }
        }
        Flow::Continue
    }

    /// Sends a newcomer the state of the room, at once or when its outbox has room for that.
    async fn send_state(&mut self, newcomer: Newcomer) {
        let Newcomer { client, last_seq, bytes: before } = newcomer;
        let (key, member) = (client.key(), client.member().clone());
        // A ban between the client's admission and now did not disconnect it, as the room did not know it yet.
        if self.shared.gateway.is_banned(&member.user) {
            return self.disconnect(key, None);
        }
        match self.room.on_join(key, member, last_seq, Now::new()) {
            Out::One(_, state) => {
                let bytes = state.bytes();
                if client.send_long(&state, bytes) {
                    return client.enter_audience();
                }
                if before == 0 {
                    add(&self.shared.counters.states_held, 1);
                }
                // Until it has the state it is sent nothing else.
                self.room.on_leave(key);
                self.newcomers.push(Newcomer { client, last_seq, bytes });
                self.retry_states_at = Instant::now() + STATE_RETRY;
            }
            other @ (Out::All(_) | Out::Disconnect(..) | Out::Close(_)) => {
                self.carry_out(vec![other]).await;
            }
        }
    }

    async fn retry_states(&mut self) {
        self.retry_states_at = Instant::now() + STATE_RETRY;
        // Newcomers are sent the history, which has the collected messages: they must not be sent them twice.
        self.send_collected().await;
        for newcomer in std::mem::take(&mut self.newcomers) {
            // Tested with the length that the state had before, since making it anew costs much.
            if newcomer.client.has_room(newcomer.bytes) {
                self.send_state(newcomer).await;
            } else {
                self.newcomers.push(newcomer);
            }
        }
    }

    fn disconnect(&mut self, key: SocketKey, event: Option<&Event>) {
        let Some(client) = self.clients.remove(&key) else {
            return;
        };
        self.room.on_leave(key);
        if let Some(event) = event {
            client.send(event);
        }
        if !client.disconnect() {
            self.leaving.push(client);
        }
    }

    // ---- what clients send

    async fn take(&mut self, inputs: Vec<Input>) {
        let now = Now::new();
        let mut pending = Vec::new();
        let mut out = Vec::new();
        // Held until the answers are given, so that a client has no more events under way than its queue has slots.
        let mut slots = Vec::with_capacity(inputs.len());
        for input in inputs {
            let (client, what, reply, slot) = input.into_parts();
            slots.push(slot);
            match what {
                What::Message(message) => match self.room.on_message(client.member(), message, now) {
                    Ok(draft) => pending.push(Pending { client, reply, draft }),
                    Err(refusal) => client.refuse(reply, &refusal),
                },
                What::Reaction(emoji) => match self.room.on_reaction(client.member(), &emoji, now) {
                    Ok(single) => {
                        add(&self.shared.counters.reactions, 1);
                        out.extend(single);
                        client.accept(reply, &Done { ok: true });
                    }
                    Err(Some(refusal)) => client.refuse(reply, &refusal),
                    Err(None) => {
                        add(&self.shared.counters.reactions_dropped, 1);
                        client.accept(reply, &Done { ok: true });
                    }
                },
            }
        }
        if !pending.is_empty() {
            out.extend(self.send(pending).await);
        }
        self.carry_out(out).await;
    }

    /// Numbers and stores messages, and answers their senders. Returns what is to be broadcast.
    async fn send(&mut self, pending: Vec<Pending>) -> Vec<Out> {
        let alone = self.shared.relay.is_alone();
        self.reserve(pending.len(), alone).await;
        let (mut answers, mut drafts) = (Vec::with_capacity(pending.len()), Vec::with_capacity(pending.len()));
        for Pending { client, reply, draft } in pending {
            answers.push((client, reply));
            drafts.push(draft);
        }
        let messages = self.room.number(drafts, alone);
        let kept = match messages {
            Some(messages) if self.keep(&messages).await => messages,
            _ => {
                for (client, reply) in answers {
                    self.room.on_unsent(client.member());
                    client.refuse(reply, &Refusal::not_kept());
                }
                return Vec::new();
            }
        };
        add(&self.shared.counters.messages, kept.len() as u64);
        self.untrimmed += kept.len();
        for ((client, reply), message) in answers.into_iter().zip(&kept) {
            let ChatMessage { id, seq, sent_at, .. } = &**message;
            client.accept(reply, &Accepted { ok: true, id, seq: *seq, sent_at: *sent_at });
        }
        if !alone {
            let notes = kept.iter().map(|message| ChatNote::Message { message: ChatMessage::clone(message) });
            self.shared.relay.publish(self.id, notes);
        }
        self.room.on_sent(&kept, alone, Now::new())
    }

    /// Gets numbers if there are too few. Alone in blocks; beside others as many as needed, since theirs come between.
    async fn reserve(&mut self, count: usize, alone: bool) {
        if !alone {
            self.room.numbers.drop_rest();
        }
        if !self.room.numbers.missing(count) {
            return;
        }
        let needed = u32::try_from(count).unwrap_or(u32::MAX);
        let count = if alone { needed.max(self.shared.limits.block) } else { needed };
        let above = self.room.last_number().max(self.shared.spool.last_seq(self.id));
        if self.is_store_away() && self.room.numbers.is_known() {
            return;
        }
        let reserved = self.with_timeout(self.shared.store.chat_reserve(self.id, count, above)).await;
        match reserved {
            Ok(first) => self.room.numbers.reserved(first, count),
            Err(cause) => {
                debug!(stream = %self.id, %cause, "no numbers from the store");
                self.away_until = Some(Instant::now() + AWAY);
            }
        }
    }

    /// True: the messages outlive the process, or need not.
    async fn keep(&self, messages: &[Arc<ChatMessage>]) -> bool {
        if !self.shared.persist {
            return true;
        }
        let stored = |message: &Arc<ChatMessage>| StoredMessage {
            stream_id: self.id,
            message: ChatMessage::clone(message),
            hidden_by: None,
        };
        let stored: Vec<_> = messages.iter().map(stored).collect();
        let spool = &self.shared.spool;
        // Messages whose numbers the store did not give out go to the queue, which makes the numbers known to the
        // store.
        if !spool.is_waiting() && !self.room.numbers.is_on_its_own() {
            match self.with_timeout(self.shared.store.chat_append(&stored)).await {
                Ok(()) => return true,
                // Also after `Failed`: the queue finds out what can never be stored.
                Err(cause) => {
                    if let Some(left_out) = self.shared.counters.not_kept_log.admit(Instant::now()) {
                        warn!(stream = %self.id, %cause, left_out, "chat messages go to the queue on disk");
                    }
                }
            }
        }
        spool.push(stored).await.is_ok()
    }

    // ---- what this process and other nodes ask

    async fn apply(&mut self, order: Order) -> Flow {
        let out = match order {
            Order::Deleted { id, seq } => {
                self.shared.relay.publish(self.id, [ChatNote::Deleted { id: id.clone(), seq }]);
                vec![self.room.on_deleted(id, seq)]
            }
            Order::Cleared { user } => {
                self.shared.relay.publish(self.id, [ChatNote::Cleared { user_id: user.clone() }]);
                vec![self.room.on_cleared(user)]
            }
            Order::Banned { user } => self.room.on_ban(&user),
            Order::Note(note) => {
                add(&self.shared.counters.relayed, 1);
                let late = |()| add(&self.shared.counters.relayed_late, 1);
                self.room.on_note(note, Now::new()).map_err(late).unwrap_or_default()
            }
            Order::Stop => return Flow::End,
        };
        self.carry_out(out).await
    }

    async fn carry_out(&mut self, out: Vec<Out>) -> Flow {
        for out in out {
            match out {
                // An event must not overtake those that were collected.
                Out::All(event) if self.clients.len() >= LARGE || !self.collected.is_empty() => {
                    self.collected.push(event);
                }
                Out::All(event) => self.shared.gateway.broadcast(&self.path, &event).await,
                Out::One(key, event) => {
                    if let Some(client) = self.clients.get(&key) {
                        client.send(&event);
                    }
                }
                Out::Disconnect(key, event) => self.disconnect(key, event.as_ref()),
                Out::Close(event) => {
                    info!(stream = %self.id, sockets = self.clients.len(), "chat ends with its stream");
                    self.send_collected().await;
                    self.shared.gateway.broadcast(&self.path, &event).await;
                    self.shared.gateway.close(&self.path).await;
                    return Flow::End;
                }
            }
        }
        Flow::Continue
    }

    // ---- upkeep

    async fn upkeep(&mut self) {
        let has_newcomer = self.shared.relay.has_newcomer();
        self.upkeep_at = Instant::now() + if has_newcomer { UPKEEP_AT_FIRST } else { UPKEEP };
        self.leaving.retain(|client| !client.disconnect());
        if self.is_store_away() {
            return;
        }
        if !self.loaded {
            self.load().await;
        }
        if has_newcomer {
            self.backfill().await;
        }
        self.keep_reactions().await;
        if self.untrimmed >= self.shared.limits.kept / 2 {
            self.trim();
        }
    }

    /// Sends the reactions counted here to other nodes.
    fn relay_reactions(&mut self) {
        let unrelayed = self.room.reactions().take_unrelayed();
        if !unrelayed.is_empty() {
            self.shared.relay.publish(self.id, [ChatNote::Reactions { counts: unrelayed }]);
        }
    }

    async fn keep_reactions(&mut self) {
        let unsaved: BTreeMap<_, _> = self.room.reactions().take_unsaved();
        if unsaved.is_empty() || !self.shared.persist {
            return;
        }
        let kept = self.with_timeout(self.shared.store.chat_add_reactions(self.id, &unsaved)).await;
        if let Err(cause) = kept {
            debug!(stream = %self.id, %cause, "reactions wait for the store");
            self.room.reactions().put_back(unsaved);
        }
    }

    /// Removes all but the newest messages from the store, without waiting for it.
    fn trim(&mut self) {
        if std::mem::take(&mut self.untrimmed) == 0 || !self.shared.persist {
            return;
        }
        let (store, id, keep) = (Arc::clone(&self.shared.store), self.id, self.shared.limits.kept);
        tokio::spawn(async move {
            if let Err(cause) = store.chat_trim(id, keep).await {
                debug!(stream = %id, %cause, "old chat messages stay for now");
            }
        });
    }
}

/// Messages of the store and those that wait to be stored, in the order of their numbers.
fn with_waiting(mut stored: Vec<ChatMessage>, waiting: Vec<ChatMessage>) -> Vec<ChatMessage> {
    let known: HashSet<String> = stored.iter().map(|message| message.id.clone()).collect();
    stored.extend(waiting.into_iter().filter(|message| !known.contains(&message.id)));
    stored.sort_by_key(|message| message.seq);
    stored
}
