//! What a simulated payload says of its picture: what a decoder would find in the bitstream, and when it was sent.
//!
//! A publisher writes it behind the payload descriptor of each packet. The engine never reads it, so it is the truth by
//! which the numbers are judged that the engine rewrites.

use std::time::Duration;

/// Reference buffers of a VP8 decoder: last, golden, alternate (RFC 6386, section 9.7).
pub const BUFFERS: usize = 3;
/// Bytes before it that are a frame header's in the first packet of a key frame.
const HEADER_BYTES: usize = 10;
const BYTES: usize = HEADER_BYTES + 34;
/// Shortest payload behind a descriptor.
pub const BYTES_MIN: usize = BYTES;

/// A picture of one layer: unlike any other of its publisher, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PictureId(pub u32);

impl PictureId {
    pub fn new(layer: u8, number: u32) -> Self {
        Self((u32::from(layer) + 1) << 28 | number & 0x0fff_ffff)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Picture {
    pub id: PictureId,
    pub layer: u8,
    pub temporal: u8,
    pub height: u16,
    pub is_key: bool,
    /// What each buffer must hold for it to be decoded; `None`: it does not read that buffer.
    pub reads: [Option<PictureId>; BUFFERS],
    pub writes: [bool; BUFFERS],
    /// When the encoder had it, since the start of the run.
    pub captured: Duration,
    /// When this packet left its publisher for the first time.
    pub sent: Duration,
}

impl Picture {
    /// Appends it, with `length` bytes in all.
    pub fn write(&self, payload: &mut Vec<u8>, length: usize, is_first: bool) {
        let end = payload.len() + length.max(BYTES);
        let header = if self.is_key { [0x10, 0, 0, 0x9d, 1, 0x2a] } else { [0x11; 6] };
        payload.extend(if is_first { header } else { [0x77; 6] });
        payload.extend((self.height * 16 / 9).to_le_bytes());
        payload.extend(self.height.to_le_bytes());
        payload.extend(self.id.0.to_be_bytes());
        payload.extend([self.layer, self.temporal | u8::from(self.is_key) << 7]);
        payload.extend(self.reads.iter().flat_map(|read| read.unwrap_or_default().0.to_be_bytes()));
        let writes = self.writes.iter().zip(0..).map(|(writes, bit)| u8::from(*writes) << bit).sum();
        payload.push(writes);
        payload.extend(micros(self.captured).to_be_bytes()[1..].iter());
        payload.extend(micros(self.sent).to_be_bytes());
        payload.resize(end, 7);
    }

    /// Reads it behind a descriptor.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let mut bytes = payload.get(HEADER_BYTES - 2..BYTES)?.iter().copied();
        let mut number =
            |count: usize| bytes.by_ref().take(count).fold(0u64, |number, byte| number << 8 | u64::from(byte));
        let height = (number(2) as u16).swap_bytes();
        let id = PictureId(number(4) as u32);
        let (layer, temporal) = (number(1) as u8, number(1) as u8);
        let reads = std::array::from_fn(|_| Some(PictureId(number(4) as u32)).filter(|read| read.0 != 0));
        let bits = number(1);
        let (captured, sent) = (number(7), number(8));
        Some(Self {
            id,
            layer,
            temporal: temporal & 0x7f,
            height,
            is_key: temporal & 0x80 != 0,
            reads,
            writes: std::array::from_fn(|bit| bits >> bit & 1 == 1),
            captured: Duration::from_micros(captured),
            sent: Duration::from_micros(sent),
        })
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("within a run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let picture = Picture {
            id: PictureId::new(2, 77),
            layer: 2,
            temporal: 1,
            height: 720,
            is_key: true,
            reads: [Some(PictureId::new(2, 76)), None, Some(PictureId::new(2, 1))],
            writes: [true, false, true],
            captured: Duration::from_micros(123_456),
            sent: Duration::from_micros(200_001),
        };
        for (length, is_first) in [(0, true), (500, false)] {
            let mut payload = Vec::new();
            picture.write(&mut payload, length, is_first);
            assert_eq!(payload.len(), length.max(BYTES_MIN));
            assert_eq!(Picture::read(&payload), Some(picture));
        }
        assert_eq!(Picture::read(&[0; BYTES - 1]), None);
    }
}
