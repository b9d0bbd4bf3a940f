//! The order in which frames are decoded (libwebrtc's `frame_buffer.cc`), and a decoder that notices what it should not
//! have been given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::assembly::Frame;
use super::picture::{BUFFERS, PictureId};
use super::references::Referring;
use super::unwrap::Unwrapper;

/// Frames that wait for others, as libwebrtc's `kMaxFramesBuffered`.
const WAITING_MAX: usize = 800;
/// Decoded frames that are remembered.
const DECODED_MAX: usize = 8_192;

/// What a decoder would show as garbage, or refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecoderError {
    /// The frame refers to a picture that the decoder does not have.
    MissingReference,
    /// The frame consists of packets of several pictures.
    Mixed,
    TimestampBackwards,
    PictureIdBackwards,
}

/// A frame that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub at: Duration,
    /// Since its capture.
    pub delay: Duration,
    pub layer: u8,
    pub height: u16,
    pub temporal: u8,
    pub is_key: bool,
    pub bytes: usize,
    /// Extended, of its last packet.
    pub last_sequence: i64,
}

pub struct Decoder {
    waiting: BTreeMap<i64, Referring>,
    decoded: BTreeSet<i64>,
    last: Option<i64>,
    picture_ids: Unwrapper,
    /// Of the newest frame that came: picture id, extended, and timestamp.
    newest: Option<(i64, u32)>,
    buffers: [Option<PictureId>; BUFFERS],
    pub errors: Vec<(Duration, DecoderError)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            decoded: BTreeSet::new(),
            last: None,
            picture_ids: Unwrapper::new(15),
            newest: None,
            buffers: [None; BUFFERS],
            errors: Vec::new(),
        }
    }
}

impl Decoder {
    /// A whole frame came, maybe late: its picture id and its timestamp must agree on how late.
    pub fn check_order(&mut self, now: Duration, frame: &Frame) {
        let id = self.picture_ids.unwrap(frame.numbers.picture_id.into());
        let (newest, timestamp) = *self.newest.get_or_insert((id - 1, frame.timestamp.wrapping_sub(1)));
        match (id > newest, is_ahead(frame.timestamp, timestamp)) {
            (true, true) => self.newest = Some((id, frame.timestamp)),
            (false, false) => {}
            (true, false) => self.errors.push((now, DecoderError::TimestampBackwards)),
            (false, true) => self.errors.push((now, DecoderError::PictureIdBackwards)),
        }
    }

    /// Takes a frame, unless it is too late.
    pub fn insert(&mut self, frame: Referring) {
        if self.last.is_some_and(|last| frame.id <= last) {
            return;
        }
        self.waiting.insert(frame.id, frame);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.clear();
        }
    }

    /// The first frame that could be decoded now.
    pub fn next_decodable(&self) -> Option<&Frame> {
        self.decodable().next().map(|frame| &frame.frame)
    }

    /// Whether there is another one after it.
    pub fn has_later_one(&self) -> bool {
        self.decodable().nth(1).is_some()
    }

    fn decodable(&self) -> impl Iterator<Item = &Referring> {
        self.waiting.values().filter(|frame| frame.references.iter().all(|id| self.decoded.contains(id)))
    }

    /// Passes the next decodable frame over.
    pub fn skip(&mut self) {
        self.take_next();
    }

    fn take_next(&mut self) -> Option<Referring> {
        let id = self.decodable().next()?.id;
        let frame = self.waiting.remove(&id)?;
        self.waiting = self.waiting.split_off(&id);
        self.last = Some(id);
        Some(frame)
    }

    /// Decodes the next decodable frame. What is older will not be any more.
    pub fn decode(&mut self, now: Duration) -> Option<(Shown, Frame)> {
        let Referring { id, frame, .. } = self.take_next()?;
        let picture = &frame.picture;
        if !frame.is_sound {
            self.errors.push((now, DecoderError::Mixed));
        }
        if picture.reads.iter().zip(&self.buffers).any(|(read, has)| read.is_some() && read != has) {
            self.errors.push((now, DecoderError::MissingReference));
        }
        for (buffer, _) in self.buffers.iter_mut().zip(picture.writes).filter(|(_, writes)| *writes) {
            *buffer = Some(picture.id);
        }
        self.decoded.insert(id);
        while self.decoded.len() > DECODED_MAX {
            self.decoded.pop_first();
        }
        let shown = Shown {
            at: now,
            delay: now.saturating_sub(picture.captured),
            layer: picture.layer,
            height: picture.height,
            temporal: picture.temporal,
            is_key: picture.is_key,
            bytes: frame.bytes,
            last_sequence: frame.last_sequence,
        };
        Some((shown, frame))
    }
}

fn is_ahead(timestamp: u32, of: u32) -> bool {
    timestamp.wrapping_sub(of).cast_signed() > 0
}
