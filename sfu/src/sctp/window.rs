//! Reliable messages that nobody has taken yet, and the receive window that they leave open (RFC 9260, section 6.2).
//!
//! `rtc-sctp` is read at once, so its acknowledgements offer all of its buffer. What waits here is taken off them on
//! their way out: a client that sends faster than its messages are taken waits, and nothing of it is lost. A client may
//! always have one packet on its way, however little is offered, and most send the next as soon as that is
//! acknowledged. So what comes while the window is closed is parked, unacknowledged. It is taken in when half of the
//! window is free, and acknowledged at once, which tells of the window; until then the client has neither lost it nor
//! more to send.

use std::collections::VecDeque;

use bytes::Bytes;

use super::inspect::{acknowledgement_in, data_in, number};
use super::limits::RECEIVE_WINDOW;

/// Bytes that a message or a packet takes beside its payload, at most.
const OVERHEAD: usize = 128;
/// Bytes of packets that are parked at most: as much as may be on its way when the window closes.
const PARKED_MAX: usize = RECEIVE_WINDOW as usize;
/// Where a SACK has its window, behind the cumulative number.
const WINDOW_AT: usize = 4;
/// In a DATA chunk's flags: to be acknowledged at once (RFC 7053).
const IMMEDIATE: u8 = 0x08;

/// Payloads or packets, oldest first, with what they take.
#[derive(Default)]
struct Queue {
    items: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, item: Bytes) {
        self.bytes += item.len() + OVERHEAD;
        self.items.push_back(item);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let item = self.items.pop_front()?;
        self.bytes -= item.len() + OVERHEAD;
        Some(item)
    }
}

#[derive(Default)]
pub(super) struct ReceiveWindow {
    waiting: Queue,
    parked: Queue,
}

impl ReceiveWindow {
    pub(super) fn push(&mut self, payload: Bytes) {
        self.waiting.push(payload);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.waiting.pop()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.items.is_empty()
    }

    /// Whether this packet is to be parked: it holds data, and the window is closed.
    pub(super) fn parks(&self, packet: &[u8]) -> bool {
        self.is_closed() && data_in(packet).is_some()
    }

    fn is_closed(&self) -> bool {
        self.is_full() || !self.parked.items.is_empty()
    }

    fn is_full(&self) -> bool {
        self.waiting.bytes >= RECEIVE_WINDOW as usize
    }

    /// Keeps a packet with data for later. `false`: the client has sent far beyond the window, and this is dropped.
    pub(super) fn park(&mut self, packet: &Bytes) -> bool {
        let fits = self.parked.bytes < PARKED_MAX;
        if fits {
            self.parked.push(with_immediate_acknowledgement(packet));
        }
        fits
    }

    /// Whether parked packets are to be taken in, as far as [`Self::unpark`] gives them.
    pub(super) fn reopens(&self) -> bool {
        !self.parked.items.is_empty() && self.waiting.bytes <= RECEIVE_WINDOW as usize / 2
    }

    pub(super) fn unpark(&mut self) -> Option<Bytes> {
        if self.is_full() { None } else { self.parked.pop() }
    }

    /// The association is gone, and its packets; what it has received stays.
    pub(super) fn forget_association(&mut self) {
        self.parked = Queue::default();
    }

    /// Corrects the window of an acknowledgement; other packets stay as they are.
    pub(super) fn apply(&self, packet: Bytes) -> Bytes {
        let Some(at) = acknowledgement_in(&packet).map(|at| at + WINDOW_AT).filter(|_| !self.is_empty()) else {
            return packet;
        };
        let Some(offered) = number(&packet, at) else { return packet };
        let left = offered.saturating_sub(u32::try_from(self.waiting.bytes).unwrap_or(u32::MAX));
        with_checksum(&packet, |packet| packet[at..at + 4].copy_from_slice(&left.to_be_bytes()))
    }
}

/// So that the window that is offered with it is not held back until another packet comes (RFC 9260, section 6.2).
fn with_immediate_acknowledgement(packet: &Bytes) -> Bytes {
    match data_in(packet) {
        Some(at) => with_checksum(packet, |packet| packet[at + 1] |= IMMEDIATE),
        None => packet.clone(),
    }
}

/// A changed packet, with its checksum (RFC 9260, section 6.8): of the packet with zeros in its place.
fn with_checksum(packet: &[u8], change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut packet = packet.to_vec();
    change(&mut packet);
    packet[8..12].fill(0);
    let checksum = crc32c::crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with a SACK that offers so much.
    fn acknowledgement(window: u32) -> Bytes {
        let mut packet = vec![0; 12];
        packet.extend([3, 0, 0, 16]);
        packet.extend([7u32, window, 0].map(u32::to_be_bytes).concat());
        packet.into()
    }

    /// A packet with a DATA chunk, behind a heartbeat.
    fn data() -> Bytes {
        let mut packet = vec![0; 12];
        packet.extend([4, 0, 0, 4, 0, 3, 0, 17]);
        packet.extend([0; 16]);
        packet.into()
    }

    fn offer(packet: &[u8]) -> u32 {
        number(packet, acknowledgement_in(packet).expect("an acknowledgement") + WINDOW_AT).expect("a window")
    }

    #[test]
    fn what_waits_is_taken_off_the_window() {
        let mut window = ReceiveWindow::default();
        assert_eq!(window.apply(acknowledgement(RECEIVE_WINDOW)), acknowledgement(RECEIVE_WINDOW));
        window.push(Bytes::from(vec![0; 60_000]));
        let packet = window.apply(acknowledgement(RECEIVE_WINDOW));
        assert_eq!(offer(&packet), RECEIVE_WINDOW - 60_000 - OVERHEAD as u32);
        assert_eq!(offer(&window.apply(acknowledgement(10))), 0);
        assert_eq!(window.apply(data()), data());
    }

    #[test]
    fn what_comes_while_the_window_is_closed_is_parked_until_half_of_it_is_free() {
        let mut window = ReceiveWindow::default();
        while !window.is_closed() {
            window.push(Bytes::from(vec![0; 10_000]));
        }
        assert!(window.park(&data()) && window.park(&data()));
        while !window.reopens() {
            assert!(window.is_closed());
            window.pop().expect("half of it is free before it is empty");
        }
        assert!((RECEIVE_WINDOW as usize / 2).abs_diff(window.waiting.bytes) <= 10_000 + OVERHEAD);
        let packet = window.unpark().expect("the first");
        assert_eq!((packet[16], packet[17], packet.len()), (0, 3 | IMMEDIATE, data().len()));
        assert!(window.is_closed() && window.unpark().is_some());
        assert!(!window.is_closed() && window.unpark().is_none());
    }

    #[test]
    fn messages_and_packets_of_a_byte_are_as_few_as_what_they_take() {
        let mut window = ReceiveWindow::default();
        while !window.is_closed() {
            window.push(Bytes::from_static(b"x"));
        }
        while window.park(&data()) {}
        assert_eq!(window.waiting.items.len(), (RECEIVE_WINDOW as usize).div_ceil(OVERHEAD + 1));
        assert_eq!(window.parked.items.len(), PARKED_MAX.div_ceil(OVERHEAD + data().len()));
    }
}
