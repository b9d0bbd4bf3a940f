//! Fields of protobufs as they stand in the bytes (protobuf encoding, "Message Structure"), undecoded.

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// One field as it stands in the bytes.
pub(crate) struct Part<'a> {
    pub number: u32,
    wire_type: WireType,
    /// With its key.
    pub raw: &'a [u8],
    /// Where the value starts in `raw`; for length-delimited ones, behind the length.
    value_at: usize,
}

impl<'a> Part<'a> {
    /// Takes the next field off `rest`. `None`: it is none. Groups count as none: nothing of LiveKit's has any.
    pub(crate) fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let start = *rest;
        let mut at = start;
        let (number, wire_type) = decode_key(&mut at).ok()?;
        let mut value_at = start.len() - at.len();
        let size = match wire_type {
            WireType::Varint => {
                decode_varint(&mut at).ok()?;
                let size = start.len() - at.len() - value_at;
                at = start.get(value_at..)?;
                size
            }
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => {
                let size = usize::try_from(decode_varint(&mut at).ok()?).ok()?;
                value_at = start.len() - at.len();
                size
            }
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        if size > at.len() {
            return None;
        }
        let (raw, left) = start.split_at(value_at + size);
        *rest = left;
        Some(Self { number, wire_type, raw, value_at })
    }

    /// Of a length-delimited one.
    pub(crate) fn payload(&self) -> Option<&'a [u8]> {
        (self.wire_type == WireType::LengthDelimited).then(|| self.raw.get(self.value_at..)).flatten()
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Nothing stands for an empty text.
pub(crate) fn put_text(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, number, text.as_bytes());
    }
}
