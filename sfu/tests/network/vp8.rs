//! VP8 as Chrome sends it: three temporal layers, and the payload descriptor (RFC 7741) that tells of them.

use super::picture::{BUFFERS, Picture, PictureId};

const LAST: usize = 0;
const GOLDEN: usize = 1;

/// One place of the pattern.
struct Place {
    temporal: u8,
    /// Refers to the base layer only: a receiver can begin with this temporal layer here.
    is_sync: bool,
    reads: [bool; BUFFERS],
    writes: [bool; BUFFERS],
}

const fn place(temporal: u8, is_sync: bool, reads: [bool; BUFFERS], writes: [bool; BUFFERS]) -> Place {
    Place { temporal, is_sync, reads, writes }
}

const NONE: [bool; BUFFERS] = [false; BUFFERS];
const ALL: [bool; BUFFERS] = [true; BUFFERS];
/// The alternate buffer keeps the key frame, to which all refer.
const BASE: [bool; BUFFERS] = [true, false, true];

/// libwebrtc's `default_temporal_layers.cc`, three layers: T0 T2 T1 T2, twice. T2 updates no buffer.
const PATTERN: [Place; 8] = [
    place(0, false, BASE, [true, false, false]),
    place(2, true, BASE, NONE),
    place(1, true, BASE, [false, true, false]),
    place(2, false, ALL, NONE),
    place(0, false, BASE, [true, false, false]),
    place(2, false, ALL, NONE),
    place(1, false, ALL, [false, true, false]),
    place(2, false, ALL, NONE),
];

/// Share of the bits of a whole stream that one picture of a temporal layer gets, in units of the mean picture: the
/// layers have 40, 60 and 100 % of the bitrate.
pub const WEIGHTS: [f64; 3] = [1.6, 0.8, 0.8];

/// The numbers and buffers of one layer's encoder.
#[derive(Debug)]
pub struct Encoder {
    layer: u8,
    height: u16,
    place: usize,
    number: u32,
    picture_id: u16,
    tl0_pic_idx: u8,
    keyidx: u8,
    buffers: [PictureId; BUFFERS],
}

/// A picture with its descriptor: that of its first packet.
#[derive(Debug, Clone, Copy)]
pub struct Encoded {
    pub picture: Picture,
    descriptor: [u8; 6],
}

impl Encoder {
    /// `start`: from which its numbers follow, so that no two layers have the same.
    pub fn new(layer: u8, height: u16, start: u16) -> Self {
        Self {
            layer,
            height,
            place: 0,
            number: 0,
            picture_id: start & 0x7fff,
            tl0_pic_idx: start as u8,
            keyidx: 0,
            buffers: [PictureId::default(); BUFFERS],
        }
    }

    /// Temporal layer of the next picture, if it is no key frame.
    pub fn next_temporal(&self) -> u8 {
        PATTERN[self.place].temporal
    }

    /// The next picture. A key frame begins the pattern anew.
    pub fn encode(&mut self, captured: std::time::Duration, is_key: bool) -> Encoded {
        if is_key {
            self.place = 0;
            self.keyidx = (self.keyidx + 1) & 0x1f;
        }
        let place = &PATTERN[self.place];
        self.place = (self.place + 1) % PATTERN.len();
        self.number += 1;
        self.picture_id = (self.picture_id + 1) & 0x7fff;
        self.tl0_pic_idx = self.tl0_pic_idx.wrapping_add(u8::from(place.temporal == 0));
        let id = PictureId::new(self.layer, self.number);
        let reads = std::array::from_fn(|at| (place.reads[at] && !is_key).then_some(self.buffers[at]));
        let writes = if is_key { ALL } else { place.writes };
        for (buffer, _) in self.buffers.iter_mut().zip(writes).filter(|(_, writes)| *writes) {
            *buffer = id;
        }
        let picture = Picture {
            id,
            layer: self.layer,
            temporal: place.temporal,
            height: self.height,
            is_key,
            reads,
            writes,
            captured,
            sent: captured,
        };
        Encoded { picture, descriptor: self.descriptor(place, is_key) }
    }

    /// With picture id of 15 bits, TL0PICIDX, TID and KEYIDX.
    fn descriptor(&self, place: &Place, is_key: bool) -> [u8; 6] {
        let is_unused = if place.temporal == 2 { 0x20 } else { 0 };
        let [high, low] = self.picture_id.to_be_bytes();
        let is_sync = if place.is_sync || is_key { 0x20 } else { 0 };
        [0x90 | is_unused, 0xf0, 0x80 | high, low, self.tl0_pic_idx, place.temporal << 6 | is_sync | self.keyidx]
    }
}

/// Of a payload with the descriptor of [`Encoder::encode`].
pub fn temporal_layer(payload: &[u8]) -> u8 {
    payload[5] >> 6
}

impl Encoded {
    /// A payload of the picture: its n-th packet, sent then.
    pub fn payload(&self, number: usize, length: usize, sent: std::time::Duration) -> Vec<u8> {
        let mut payload = Vec::with_capacity(length + 64);
        payload.extend(self.descriptor);
        if number > 0 {
            payload[0] &= !0x10;
        }
        Picture { sent, ..self.picture }.write(&mut payload, length.saturating_sub(6), number == 0);
        payload
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_pattern_is_chromes_and_a_key_frame_begins_it_anew() {
        let mut encoder = Encoder::new(0, 180, 7);
        let temporal: Vec<u8> = (0..10).map(|n| encoder.encode(Duration::ZERO, n == 0).picture.temporal).collect();
        assert_eq!(temporal, [0, 2, 1, 2, 0, 2, 1, 2, 0, 2]);
        assert_eq!(encoder.encode(Duration::ZERO, true).picture.temporal, 0);
        assert_eq!(encoder.encode(Duration::ZERO, false).picture.temporal, 2);
    }

    #[test]
    fn pictures_refer_to_the_last_of_each_buffer() {
        let mut encoder = Encoder::new(1, 360, 7);
        let pictures: Vec<_> = (0..7).map(|n| encoder.encode(Duration::ZERO, n == 0).picture).collect();
        assert_eq!(pictures[0].reads, [None; 3]);
        assert_eq!(pictures[4].reads[LAST], Some(pictures[0].id), "T0 refers to T0");
        assert_eq!(pictures[6].reads[GOLDEN], Some(pictures[2].id), "T1 refers to T1");
        assert!(pictures.iter().skip(1).all(|picture| picture.reads[2] == Some(pictures[0].id)));
    }
}
