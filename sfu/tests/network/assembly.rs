//! From packets to frames, as libwebrtc's `packet_buffer.cc` does for VP8: a frame is what lies without a hole between a
//! packet that starts a frame and the next marker.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rtc_rtp::codec::vp8::Vp8Packet;
use rtc_rtp::packetizer::Depacketizer;

use super::picture::Picture;
use super::unwrap::Unwrapper;
use crate::media::Rtp;

/// libwebrtc's `kPacketBufferMaxSize`.
const PACKETS_MAX: usize = 2_048;

/// What the descriptor of a frame's first packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    pub picture_id: u16,
    pub tl0_pic_idx: u8,
    pub temporal: u8,
    pub is_sync: bool,
}

/// A whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub numbers: Numbers,
    pub timestamp: u32,
    pub picture: Picture,
    /// Of the last packet, extended.
    pub last_sequence: i64,
    pub bytes: usize,
    pub complete_at: Duration,
    /// All its packets are of one picture.
    pub is_sound: bool,
    /// One of its packets had to be sent again.
    pub is_repeated: bool,
}

struct Part {
    timestamp: u32,
    marker: bool,
    is_first: bool,
    numbers: Numbers,
    picture: Picture,
    bytes: usize,
    is_repeat: bool,
}

pub struct Assembly {
    sequence: Unwrapper,
    parts: BTreeMap<i64, Part>,
    /// Lower numbers are of frames that have been decoded, or passed over.
    cleared_to: i64,
}

impl Default for Assembly {
    fn default() -> Self {
        Self { sequence: Unwrapper::new(16), parts: BTreeMap::new(), cleared_to: 0 }
    }
}

/// What came of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assembled {
    Incomplete,
    Frame(Frame),
    /// Too much is unfinished: all was thrown away.
    Overflow,
}

impl Assembly {
    /// The packet's number, extended.
    pub fn sequence(&mut self, packet: &Rtp) -> i64 {
        self.sequence.unwrap(packet.sequence.into())
    }

    pub fn insert(&mut self, now: Duration, sequence: i64, packet: &Rtp, is_repeat: bool) -> Assembled {
        let Some(part) = Part::of(packet, is_repeat).filter(|_| sequence >= self.cleared_to) else {
            return Assembled::Incomplete;
        };
        if self.parts.len() >= PACKETS_MAX {
            self.parts.clear();
            return Assembled::Overflow;
        }
        self.parts.entry(sequence).or_insert(part);
        self.frame_around(now, sequence).map_or(Assembled::Incomplete, Assembled::Frame)
    }

    fn frame_around(&mut self, now: Duration, sequence: i64) -> Option<Frame> {
        let timestamp = self.parts[&sequence].timestamp;
        let part = |sequence: i64| self.parts.get(&sequence).filter(|part| part.timestamp == timestamp);
        let mut backwards = (0..).map_while(|back| Some((sequence - back, part(sequence - back)?.is_first)));
        let first = backwards.find(|(_, is_first)| *is_first)?.0;
        let mut forwards = (sequence..).map_while(|at| Some((at, part(at)?.marker)));
        let last = forwards.find(|(_, marker)| *marker)?.0;
        let parts: Vec<Part> = (first..=last).filter_map(|at| self.parts.remove(&at)).collect();
        let start = &parts[0];
        Some(Frame {
            numbers: start.numbers,
            timestamp,
            picture: start.picture,
            last_sequence: last,
            bytes: parts.iter().map(|part| part.bytes).sum(),
            complete_at: now,
            is_repeated: parts.iter().any(|part| part.is_repeat),
            is_sound: parts.iter().all(|part| part.picture.id == start.picture.id),
        })
    }

    /// Forgets what is older than a frame that has been decoded.
    pub fn clear_to(&mut self, sequence: i64) {
        self.cleared_to = self.cleared_to.max(sequence + 1);
        self.parts = self.parts.split_off(&self.cleared_to);
    }
}

impl Part {
    fn of(packet: &Rtp, is_repeat: bool) -> Option<Self> {
        let mut descriptor = Vp8Packet::default();
        let payload = descriptor.depacketize(&Bytes::copy_from_slice(&packet.payload)).ok()?;
        Some(Self {
            timestamp: packet.timestamp,
            marker: packet.marker,
            is_first: descriptor.s == 1 && descriptor.pid == 0,
            numbers: Numbers {
                picture_id: descriptor.picture_id,
                tl0_pic_idx: descriptor.tl0_pic_idx,
                temporal: descriptor.tid,
                is_sync: descriptor.y == 1,
            },
            picture: Picture::read(&payload)?,
            bytes: packet.payload.len(),
            is_repeat,
        })
    }
}
