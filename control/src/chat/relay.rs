//! Notes about chats between nodes on one store: written to the store, from where the other nodes poll them several
//! times a second.
//!
//! While there is no other node ([`Cluster`]), nothing is written or read. A reader remembers for each node up to which
//! time, by that node's own clock, it has read: clocks of two machines are not compared.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::debug;

use crate::clock::Timestamp;
use crate::cluster::{Cluster, Member};
use crate::store::chat::{ChatNote, Relayed};
use crate::store::stream::StreamId;
use crate::store::{NodeSign, SharedStore, StoreError};

/// Time between two polls for notes of other nodes.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How far back each poll goes before what was read last: a write may be seen later than one of a later time.
const OVERLAP: Duration = Duration::from_secs(5);

/// Notes read at once.
const PAGE: usize = 1000;

/// Notes written at once, which have one time: fewer than are read at once, or a poll would never get beyond that time.
const WRITTEN: usize = PAGE / 2;

/// Notes that wait to be written, also while the store is away. Further ones are dropped: clients of other nodes find
/// the messages in the history.
const UNWRITTEN_MAX: usize = 10_000;

/// Handle; cheap to clone.
#[derive(Clone)]
pub(crate) struct Relay {
    cluster: Cluster,
    unwritten: mpsc::Sender<(StreamId, ChatNote)>,
}

/// The task behind it.
pub(crate) struct RelayTask {
    cluster: Cluster,
    members: watch::Receiver<Arc<[Member]>>,
    store: SharedStore,
    unwritten: mpsc::Receiver<(StreamId, ChatNote)>,
    /// Taken from `unwritten`, and kept until the store has them.
    outbox: VecDeque<Relayed>,
    /// Notes of one time are read in the order of their ids.
    ids: ulid::Generator,
    written_at: Timestamp,
    seen: Seen,
    /// Up to when the notes of each node are read, by its clock.
    read: HashMap<String, Timestamp>,
}

impl Relay {
    pub fn new(cluster: Cluster, store: SharedStore) -> (Self, RelayTask) {
        let (sender, unwritten) = mpsc::channel(UNWRITTEN_MAX);
        let task = RelayTask {
            members: cluster.members(),
            cluster: cluster.clone(),
            store,
            unwritten,
            outbox: VecDeque::new(),
            ids: ulid::Generator::new(),
            written_at: Timestamp::default(),
            seen: Seen::default(),
            read: HashMap::new(),
        };
        (Self { cluster, unwritten: sender }, task)
    }

    /// Whether no other node uses the store now.
    pub fn is_alone(&self) -> bool {
        self.cluster.is_alone()
    }

    /// Whether a node joined lately: notes that were published before it was seen may have been missed.
    pub fn has_newcomer(&self) -> bool {
        self.cluster.has_newcomer()
    }

    /// Sends notes to the other nodes, if there are any. Never waits.
    pub fn publish(&self, stream: StreamId, notes: impl IntoIterator<Item = ChatNote>) {
        if self.is_alone() {
            return;
        }
        for note in notes {
            if self.unwritten.try_send((stream, note)).is_err() {
                debug!("a note for other nodes is dropped: the store is too slow");
            }
        }
    }
}

impl RelayTask {
    /// Runs for ever, and sends each note of other nodes to `inlet` once. Returns at once if no other process can use
    /// the store.
    pub async fn run(mut self, inlet: mpsc::Sender<(StreamId, ChatNote)>) {
        if !self.store.is_shared() {
            return;
        }
        let mut fresh = Vec::new();
        // A sleep in each turn would start anew with every note, and never end while notes keep coming.
        let mut polls = tokio::time::interval(POLL_INTERVAL);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                count = self.unwritten.recv_many(&mut fresh, PAGE) => {
                    if count == 0 {
                        return;
                    }
                    // What could not be written before is tried again with the next poll, not with every note.
                    let is_first = self.outbox.is_empty();
                    self.enqueue(&mut fresh);
                    if is_first {
                        self.write().await;
                    }
                }
                _ = polls.tick() => {
                    self.write().await;
                    self.note_members();
                    if !self.cluster.is_alone() {
                        self.poll(&inlet).await;
                    }
                }
            }
        }
    }

    /// Updates which nodes are read, each from the time of the sign of life by which it was first seen.
    fn note_members(&mut self) {
        let members = self.members.borrow_and_update();
        let known: HashSet<&str> = members.iter().map(|member| member.node.as_str()).collect();
        self.read.retain(|node, _| known.contains(node.as_str()));
        for Member { node, at, .. } in members.iter().filter(|member| member.is_alive) {
            let read = self.read.entry(node.clone()).or_insert(*at);
            // Its clock was ahead and was set back: its new notes have earlier times than those that were read.
            if read.is_far_ahead(*at) {
                *read = *at;
            }
        }
    }

    fn enqueue(&mut self, fresh: &mut Vec<(StreamId, ChatNote)>) {
        let at = Timestamp::now();
        for (stream_id, note) in fresh.drain(..) {
            if self.outbox.len() >= UNWRITTEN_MAX {
                debug!("a note for other nodes is dropped: the store is away");
                continue;
            }
            let id = self.ids.generate().unwrap_or_else(ulid::Overflow::commit_overflow_increment);
            let (id, node) = (id.to_string(), self.cluster.node().to_owned());
            self.outbox.push_back(Relayed { id, node, stream_id, at, note });
        }
    }

    /// Writes the notes that wait, until the store fails. A note may be written twice, with the same id.
    async fn write(&mut self) {
        while !self.outbox.is_empty() {
            let count = self.outbox.len().min(WRITTEN);
            // Not the time at which a note was made: others may have read beyond that.
            let at = Timestamp::now().max(self.written_at.plus(Duration::from_millis(1)));
            self.written_at = at;
            let notes: Vec<_> = self.outbox.iter().take(count).map(|note| Relayed { at, ..note.clone() }).collect();
            match self.store.relay(&notes).await {
                Ok(()) => {}
                Err(cause @ StoreError::Unavailable(_)) => {
                    return debug!(%cause, notes = self.outbox.len(), "notes for other nodes wait for the store");
                }
                Err(cause @ (StoreError::NotFound | StoreError::Failed(_))) => {
                    debug!(%cause, notes = count, "notes for other nodes are given up");
                }
            }
            self.outbox.drain(..count);
        }
    }

    async fn poll(&mut self, inlet: &mpsc::Sender<(StreamId, ChatNote)>) {
        let alive =
            |node: &str| self.read.get(node).map(|at| NodeSign { node: node.to_owned(), at: at.minus(OVERLAP) });
        let members = Arc::clone(&self.members.borrow());
        let alive = members.iter().filter(|member| member.is_alive).filter_map(|member| alive(&member.node));
        let since: Vec<_> = alive.collect();
        match self.store.relayed_since(&since, PAGE).await {
            Ok(notes) if notes.len() < PAGE => self.deliver(notes, inlet).await,
            Ok(_) => self.poll_each(&since, inlet).await,
            Err(cause) => debug!(%cause, "cannot poll notes of other nodes"),
        }
    }

    /// Notes of one time from several nodes may be more than are read at once; those of one node are not.
    async fn poll_each(&mut self, since: &[NodeSign], inlet: &mpsc::Sender<(StreamId, ChatNote)>) {
        for sign in since {
            match self.store.relayed_since(std::slice::from_ref(sign), PAGE).await {
                Ok(notes) => self.deliver(notes, inlet).await,
                Err(cause) => debug!(%cause, "cannot poll notes of another node"),
            }
        }
    }

    async fn deliver(&mut self, notes: Vec<Relayed>, inlet: &mpsc::Sender<(StreamId, ChatNote)>) {
        // After a full page the next poll starts where it ended, without overlap, or it would read the same page again.
        let is_full = notes.len() == PAGE;
        for note in &notes {
            if let Some(read) = self.read.get_mut(&note.node) {
                *read = if is_full { note.at.plus(OVERLAP) } else { note.at.max(*read) };
            }
        }
        for note in notes {
            if self.seen.is_new(note.id) && inlet.send((note.stream_id, note.note)).await.is_err() {
                return;
            }
        }
    }
}

/// Ids of notes that were delivered lately: polls overlap.
#[derive(Default)]
struct Seen {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    const MAX: usize = 20_000;

    fn is_new(&mut self, id: String) -> bool {
        if !self.ids.insert(id.clone()) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;
    use crate::store::stream::UserId;

    fn task(node: &str, store: &SharedStore) -> RelayTask {
        Relay::new(Cluster::new(node.into(), Arc::clone(store)), Arc::clone(store)).1
    }

    #[tokio::test]
    async fn however_much_waited_is_heard_to_its_end_and_in_the_order_in_which_it_was_told() {
        let store: SharedStore = Arc::new(Embedded::in_memory().unwrap());
        let (mut one, mut other) = (task("one", &store), task("other", &store));
        for task in [&mut one, &mut other] {
            task.cluster.look().await.unwrap();
            task.note_members();
        }
        let users: Vec<UserId> = (0..2 * PAGE + PAGE / 2).map(|n| format!("u{n}").parse().unwrap()).collect();
        let stream = StreamId::generate();
        one.enqueue(&mut users.iter().map(|user| (stream, ChatNote::Cleared { user_id: user.clone() })).collect());
        one.write().await;

        let (inlet, mut notes) = mpsc::channel(UNWRITTEN_MAX);
        for _ in 0..10 {
            other.poll(&inlet).await;
        }
        drop(inlet);
        let mut heard = Vec::new();
        while let Some((_, ChatNote::Cleared { user_id })) = notes.recv().await {
            heard.push(user_id);
        }
        assert_eq!(heard.len(), users.len());
        assert_eq!(heard, users);
    }

    #[test]
    fn a_note_is_delivered_once() {
        let mut seen = Seen::default();

        assert!(seen.is_new("a".into()));
        assert!(!seen.is_new("a".into()));
        for n in 0..Seen::MAX {
            assert!(seen.is_new(n.to_string()));
        }
        assert_eq!(seen.ids.len(), Seen::MAX);
    }
}
