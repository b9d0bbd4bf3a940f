//! Messages of WebSockets while they arrive. Each has a bound of its own, but a client can hold many of them half sent,
//! for ever: so large ones have a time to come to their end, and a bound in bytes, of each address and of all together.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::http::client::ClientKey;

/// What a message may hold without being counted, in bytes. Most are smaller: offers of a dozen sections among them.
pub const MESSAGE_BYTES_FREE: usize = 32 << 10;
/// Bytes of larger messages that are not at their end, of one address. Those near by have no address of their own.
pub const ADDRESS_BYTES_MAX: usize = 16 << 20;
/// The same of all.
pub const MESSAGES_BYTES_MAX: usize = 64 << 20;
/// How long a larger message may take.
pub const MESSAGE_PATIENCE: Duration = Duration::from_secs(30);

/// What has arrived of unfinished messages.
#[derive(Debug, Default)]
pub struct Messages {
    held: Mutex<Held>,
    /// Connections that were ended: beyond the bounds, or too slow.
    pub over_budget: AtomicU64,
    pub slow: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    addresses: HashMap<ClientKey, usize>,
}

/// Why a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    Busy,
    Slow,
}

/// What one connection has of it; given back when it is dropped.
pub struct Unfinished {
    messages: Arc<Messages>,
    /// Absent: near by.
    address: Option<ClientKey>,
    patience: Duration,
    frames: Frames,
    counted: usize,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Unfinished {
    pub fn new(messages: Arc<Messages>, address: Option<ClientKey>, patience: Duration) -> Self {
        Self { messages, address, patience, frames: Frames::default(), counted: 0, deadline: None }
    }

    /// Notes what was read.
    ///
    /// # Errors
    /// Why the connection is to end.
    pub fn on_read(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<(), Refused> {
        self.frames.read(bytes);
        let held = self.frames.message;
        if held <= MESSAGE_BYTES_FREE {
            self.forget();
            return Ok(());
        }
        if held > self.counted && !self.take(held - self.counted) {
            self.messages.over_budget.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::Busy);
        }
        // A message may have ended and another one begun with the same bytes.
        self.give_back(self.counted.saturating_sub(held));
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        if deadline.as_mut().poll(context).is_ready() {
            self.messages.slow.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::Slow);
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.deadline = None;
        self.give_back(self.counted);
    }

    fn take(&mut self, bytes: usize) -> bool {
        let mut held = self.messages.held.lock().expect("no one panics with this lock");
        let of_address = self.address.and_then(|address| held.addresses.get(&address)).copied().unwrap_or_default();
        if held.all + bytes > MESSAGES_BYTES_MAX || of_address + bytes > ADDRESS_BYTES_MAX {
            return false;
        }
        held.all += bytes;
        if let Some(address) = self.address {
            held.addresses.insert(address, of_address + bytes);
        }
        self.counted += bytes;
        true
    }

    fn give_back(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut held = self.messages.held.lock().expect("no one panics with this lock");
        self.counted -= bytes;
        held.all -= bytes;
        let Some(address) = self.address else { return };
        if let Some(of_address) = held.addresses.get_mut(&address) {
            *of_address -= bytes;
            if *of_address == 0 {
                held.addresses.remove(&address);
            }
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.give_back(self.counted);
    }
}

/// Where a stream of WebSocket frames is (RFC 6455, section 5.2). Who sends frames that are none is ended by who reads
/// them.
#[derive(Debug, Default)]
struct Frames {
    /// Of the frame's header, as far as it has come.
    header: [u8; 14],
    header_len: usize,
    /// Of its payload, what is still to come.
    payload: u64,
    /// Of the message that is not at its end, what has come. Control frames are no part of it.
    message: usize,
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload == 0 {
                self.header[self.header_len] = *first;
                self.header_len += 1;
                bytes = rest;
                match self.length() {
                    Some(0) => self.end_frame(),
                    Some(length) => self.payload = length,
                    None => {}
                }
                continue;
            }
            let read = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
            bytes = &bytes[read..];
            self.payload -= read as u64;
            if !self.is_control() {
                self.message += read;
            }
            if self.payload == 0 {
                self.end_frame();
            }
        }
    }

    /// Of the payload, once the header is complete.
    fn length(&self) -> Option<u64> {
        let [_, second, ..] = self.header;
        let extended: usize = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        (self.header_len >= 2 && self.header_len == 2 + extended + mask).then(|| match extended {
            0 => u64::from(second & 0x7f),
            _ => self.header[2..2 + extended].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        })
    }

    fn is_control(&self) -> bool {
        self.header[0] & 0x08 != 0
    }

    fn end_frame(&mut self) {
        let ends_message = self.header[0] & 0x80 != 0 && !self.is_control();
        if ends_message {
            self.message = 0;
        }
        self.header_len = 0;
        self.payload = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A frame with a mask of zeros. `first`: FIN and opcode.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload {
            0..126 => frame.push(0x80 | payload as u8),
            126..65_536 => frame.extend([&[0xfe][..], &(payload as u16).to_be_bytes()].concat()),
            _ => frame.extend([&[0xff][..], &(payload as u64).to_be_bytes()].concat()),
        }
        frame.extend([0; 4]);
        frame.resize(frame.len() + payload, 0);
        frame
    }

    const TEXT: u8 = 0x81;
    const BEGUN: u8 = 0x02;
    const CONTINUED: u8 = 0x00;
    const LAST: u8 = 0x80;
    const PING: u8 = 0x89;

    proptest::proptest! {
        /// In whatever pieces they come, finished messages hold nothing, and unfinished ones what has come of them.
        #[test]
        fn what_is_held_is_what_has_come_of_the_message(piece in 1..5_000_usize, large in 1..200_000_usize) {
            let mut frames = Frames::default();
            let finished = [frame(TEXT, 0), frame(PING, 100), frame(TEXT, 125), frame(TEXT, large), frame(BEGUN, 70_000)];
            for bytes in finished.concat().chunks(piece) {
                frames.read(bytes);
            }
            proptest::prop_assert_eq!(frames.message, 70_000);
            for bytes in [frame(PING, 7), frame(CONTINUED, 126)].concat().chunks(piece) {
                frames.read(bytes);
            }
            proptest::prop_assert_eq!(frames.message, 70_126);
            let last = frame(LAST, large);
            frames.read(&last[..last.len() - 1]);
            proptest::prop_assert_eq!(frames.message, 70_126 + large - 1);
            frames.read(&[0]);
            proptest::prop_assert_eq!(frames.message, 0);
        }
    }

    /// A connection that has sent a frame but for its last byte.
    fn half_sent(messages: &Arc<Messages>, address: Option<&str>, bytes: usize) -> Result<Unfinished, Refused> {
        let address = address.map(|address| address.parse::<std::net::IpAddr>().unwrap().into());
        let mut unfinished = Unfinished::new(Arc::clone(messages), address, MESSAGE_PATIENCE);
        let frame = frame(TEXT, bytes + 1);
        unfinished.on_read(&frame[..frame.len() - 1], &mut Context::from_waker(Waker::noop()))?;
        Ok(unfinished)
    }

    #[tokio::test]
    async fn messages_that_never_end_take_the_share_of_their_address_and_no_more() {
        let messages = Arc::new(Messages::default());
        let half = |address, bytes| half_sent(&messages, address, bytes);
        let mut held: Vec<_> = (0..16).map(|_| half(Some("192.0.2.1"), 1 << 20).expect("its share")).collect();
        assert_eq!(half(Some("192.0.2.1"), 1 << 20).err(), Some(Refused::Busy));
        held.push(half(Some("192.0.2.1"), MESSAGE_BYTES_FREE).expect("a small one is always read"));
        held.extend((0..48).map(|_| half(None, 1 << 20).expect("those near by have no share")));
        assert_eq!(half(Some("192.0.2.2"), 1 << 20).err(), Some(Refused::Busy), "all together have a bound");
        assert_eq!(messages.over_budget.load(Ordering::Relaxed), 2);

        held[0].on_read(&[0], &mut Context::from_waker(Waker::noop())).unwrap();
        held.push(half(Some("192.0.2.2"), 1 << 20).expect("a message that ended makes room"));
        drop(held);
        let held = messages.held.lock().unwrap();
        assert_eq!((held.all, held.addresses.len()), (0, 0), "all is given back");
    }
}
