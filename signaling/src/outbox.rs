//! What waits for a client: batches of messages from its room, bounded by their number and their bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::id::DescriptionId;
use crate::wire::Outgoing;

/// Batches of messages that wait for a client. A client that is further behind is disconnected and resumes.
pub const OUTBOX_MAX: usize = 256;

/// Bytes of messages that wait for a client, beyond which no more may be added. A batch is added whole, so that the
/// description of a large room fits.
pub const OUTBOX_BYTES_MAX: usize = 32 << 20;

/// From a room to one of its connections.
#[derive(Debug)]
pub enum Outbound {
    /// In order; what one input to the room caused.
    Messages(Vec<Arc<Outgoing>>),
    /// Ask the client to say when it has read what came before, which ends with the answer to this offer of the
    /// client's.
    AskReceipt(DescriptionId),
    /// Close the socket after what came before.
    Close,
}

impl Outbound {
    fn bytes(&self) -> usize {
        match self {
            Outbound::Messages(messages) => messages.iter().map(|message| message.size()).sum(),
            Outbound::AskReceipt(_) | Outbound::Close => 0,
        }
    }
}

/// A way to a client, for its room.
#[derive(Debug)]
pub struct Outbox {
    batches: mpsc::Sender<Outbound>,
    waiting: Arc<AtomicUsize>,
    owed: Arc<AtomicUsize>,
}

/// What waits for a client.
#[derive(Debug)]
pub(crate) struct Unsent {
    batches: mpsc::Receiver<Outbound>,
    waiting: Arc<AtomicUsize>,
    /// Cost that is still to be taken off the connection's budget.
    owed: Arc<AtomicUsize>,
    /// Of the batch that is being sent.
    bytes: usize,
}

/// The client reads more slowly than messages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutboxFull;

/// Both ends of an empty one.
pub(crate) fn outbox() -> (Outbox, Unsent) {
    let (sender, receiver) = mpsc::channel(OUTBOX_MAX);
    let (waiting, owed): (Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
    let outbox = Outbox { batches: sender, waiting: Arc::clone(&waiting), owed: Arc::clone(&owed) };
    (outbox, Unsent { batches: receiver, waiting, owed, bytes: 0 })
}

impl Outbox {
    pub(crate) fn send(&self, outbound: Outbound) -> Result<(), OutboxFull> {
        if self.waiting.load(Ordering::Relaxed) > OUTBOX_BYTES_MAX {
            return Err(OutboxFull);
        }
        self.waiting.fetch_add(outbound.bytes(), Ordering::Relaxed);
        self.batches.try_send(outbound).map_err(|_| OutboxFull)
    }

    /// Takes the cost of fan-out that it caused off the connection's budget.
    pub(crate) fn charge(&self, cost: usize) {
        self.owed.fetch_add(cost, Ordering::Relaxed);
    }
}

impl Unsent {
    /// The next batch, when the one before was sent. `None`: nothing will follow.
    pub(crate) async fn next(&mut self) -> Option<Outbound> {
        self.waiting.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        let outbound = self.batches.recv().await?;
        self.bytes = outbound.bytes();
        Some(outbound)
    }

    /// Cost to be taken off the connection's budget since the last call.
    pub(crate) fn take_owed(&self) -> usize {
        self.owed.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use livekit_protocol as proto;
    use proto::signal_response::Message as Response;

    use super::*;

    #[test]
    fn an_outbox_is_full_by_its_bytes_before_it_is_by_its_messages() {
        let (outbox, mut unsent) = outbox();
        let message = |length| {
            let offer = proto::SessionDescription { sdp: "x".repeat(length), ..Default::default() };
            Outbound::Messages(vec![Arc::new(Outgoing::new(Response::Offer(offer)))])
        };
        let around = message(1 << 20).bytes() - (1 << 20);
        let mebibyte = || message((1 << 20) - around);
        assert_eq!(mebibyte().bytes(), 1 << 20);
        // As long as there is not more than the bound, one more may come.
        let held = (OUTBOX_BYTES_MAX >> 20) + 1;
        assert!((0..held).all(|_| outbox.send(mebibyte()) == Ok(())));
        assert_eq!(outbox.send(mebibyte()), Err(OutboxFull));

        // What is being sent still counts.
        assert!(unsent.next().now_or_never().is_some());
        assert_eq!(outbox.send(mebibyte()), Err(OutboxFull));
        assert!(unsent.next().now_or_never().is_some());
        assert_eq!(outbox.send(mebibyte()), Ok(()));
        while unsent.next().now_or_never().is_some() {}
        assert_eq!(outbox.waiting.load(Ordering::Relaxed), 0);
    }
}
