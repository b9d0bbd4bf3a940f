//! Reliable messages that nobody has taken yet, and the receive window that they leave open (RFC 9260, section 6.2).
//!
//! `rtc-sctp` is read at once, so its acknowledgements offer all of its buffer. What waits here is taken off them on
//! their way out: a client that sends faster than its messages are taken waits, and nothing of it is lost. When there is
//! room again the last acknowledgement is repeated with it, since a client that waits may have nothing on its way that
//! would be acknowledged.

use std::collections::VecDeque;

use bytes::Bytes;

use super::RECEIVE_WINDOW;
use super::inspect::{acknowledgement_in, number};

/// Bytes that a message takes beside its payload, at most.
const MESSAGE_OVERHEAD: usize = 128;
/// What waits at most, in bytes: two windows, as a window that closes finds another on its way.
const WAITING_MAX: usize = 2 * RECEIVE_WINDOW as usize;
/// Where a SACK has its window, behind the cumulative number.
const WINDOW_AT: usize = 4;

#[derive(Default)]
pub(super) struct ReceiveWindow {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    /// What the last acknowledgement offered.
    offered: u32,
    /// The last acknowledgement, as the association made it, if it offered less than half of the window.
    repeatable: Option<Bytes>,
}

impl ReceiveWindow {
    pub(super) fn push(&mut self, payload: Bytes) {
        self.bytes += payload.len();
        self.waiting.push_back(payload);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let payload = self.waiting.pop_front()?;
        self.bytes -= payload.len();
        Some(payload)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the client has sent so much beyond the window that no more of it is taken in.
    pub(super) fn is_overrun(&self) -> bool {
        self.used() >= WAITING_MAX
    }

    fn used(&self) -> usize {
        self.bytes + self.waiting.len() * MESSAGE_OVERHEAD
    }

    /// What is left of a window that an association offers.
    fn left_of(&self, window: u32) -> u32 {
        window.saturating_sub(u32::try_from(self.used()).unwrap_or(u32::MAX))
    }

    /// The association is gone; what it has received stays.
    pub(super) fn forget_association(&mut self) {
        self.repeatable = None;
    }

    /// Corrects the window of an acknowledgement; other packets stay as they are.
    pub(super) fn apply(&mut self, packet: Bytes) -> Bytes {
        let Some((at, window)) = window_of(&packet) else { return packet };
        self.offered = self.left_of(window);
        self.repeatable = (self.offered < RECEIVE_WINDOW / 2).then(|| Bytes::copy_from_slice(&packet));
        if self.offered == window { packet } else { with_window(&packet, at, self.offered) }
    }

    /// The acknowledgement to be repeated, once there is that much more room (RFC 9260, section 6.2: not for every byte).
    pub(super) fn take_repetition(&mut self) -> Option<Bytes> {
        let (_, window) = window_of(self.repeatable.as_ref()?)?;
        let more = self.left_of(window).saturating_sub(self.offered);
        let enough = more >= RECEIVE_WINDOW / 2 || (self.is_empty() && more > 0);
        enough.then(|| self.repeatable.take()).flatten()
    }
}

/// Where an acknowledgement has its window, and the window.
fn window_of(packet: &[u8]) -> Option<(usize, u32)> {
    let at = acknowledgement_in(packet)? + WINDOW_AT;
    Some((at, number(packet, at)?))
}

fn with_window(packet: &[u8], at: usize, window: u32) -> Bytes {
    let mut packet = packet.to_vec();
    packet[at..at + 4].copy_from_slice(&window.to_be_bytes());
    // The checksum is of the packet with zeros in its place (RFC 9260, section 6.8).
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

    fn offer(packet: &[u8]) -> u32 {
        window_of(packet).expect("an acknowledgement").1
    }

    #[test]
    fn what_waits_is_taken_off_the_window() {
        let mut window = ReceiveWindow::default();
        assert_eq!(window.apply(acknowledgement(RECEIVE_WINDOW)), acknowledgement(RECEIVE_WINDOW));
        window.push(Bytes::from(vec![0; 60_000]));
        let packet = window.apply(acknowledgement(RECEIVE_WINDOW));
        assert_eq!(offer(&packet), RECEIVE_WINDOW - 60_000 - MESSAGE_OVERHEAD as u32);
        assert_eq!(offer(&window.apply(acknowledgement(10))), 0);
        let data = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 20, 0, 0]);
        assert_eq!(window.apply(data.clone()), data);
    }

    #[test]
    fn a_window_that_was_closed_is_offered_again_once_half_of_it_is_free() {
        let mut window = ReceiveWindow::default();
        (0..8).for_each(|_| window.push(Bytes::from(vec![0; 40_000])));
        assert_eq!(offer(&window.apply(acknowledgement(RECEIVE_WINDOW))), 0);
        let mut taken = 0;
        let repeated = loop {
            window.pop().expect("half of it is free before it is empty");
            taken += 1;
            if let Some(packet) = window.take_repetition() {
                break packet;
            }
        };
        assert_eq!(taken, 5);
        assert!(offer(&window.apply(repeated)) >= RECEIVE_WINDOW / 2);
        assert!(window.take_repetition().is_none());
    }

    #[test]
    fn a_window_is_offered_again_though_a_long_message_has_half_of_it() {
        let mut window = ReceiveWindow::default();
        window.push(Bytes::from(vec![0; 100_000]));
        assert_eq!(offer(&window.apply(acknowledgement(100_000))), 0);
        window.pop();
        assert_eq!(offer(&window.take_repetition().expect("offered again")), 100_000);
    }

    #[test]
    fn messages_of_a_byte_are_as_few_as_what_they_take() {
        let mut window = ReceiveWindow::default();
        while !window.is_overrun() {
            window.push(Bytes::from_static(b"x"));
        }
        assert_eq!(window.waiting.len(), WAITING_MAX.div_ceil(MESSAGE_OVERHEAD + 1));
    }
}
