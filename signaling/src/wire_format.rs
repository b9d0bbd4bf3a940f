//! Fields of protobufs as they stand in the bytes (protobuf encoding, "Message Structure"), undecoded.

/// One field as it stands in the bytes.
pub(crate) struct Part<'a> {
    pub number: u64,
    wire_type: u64,
    /// With its key.
    pub raw: &'a [u8],
    /// Where the value starts in `raw`; for length-delimited ones, behind the length.
    value_at: usize,
}

impl<'a> Part<'a> {
    /// Takes the next field off `rest`. `None`: it is none. Groups count as none: nothing of LiveKit's has any.
    pub fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let start = *rest;
        let mut at = start;
        let key = varint(&mut at)?;
        let (number, wire_type) = (key >> 3, key & 7);
        let mut value_at = start.len() - at.len();
        let size = match wire_type {
            0 => {
                let before = at.len();
                varint(&mut at)?;
                let size = before - at.len();
                at = start.get(value_at..)?;
                size
            }
            1 => 8,
            2 => {
                let size = usize::try_from(varint(&mut at)?).ok()?;
                value_at = start.len() - at.len();
                size
            }
            5 => 4,
            _ => return None,
        };
        if number == 0 || size > at.len() {
            return None;
        }
        let (raw, left) = start.split_at(value_at + size);
        *rest = left;
        Some(Self { number, wire_type, raw, value_at })
    }

    /// Of a length-delimited one.
    pub fn payload(&self) -> Option<&'a [u8]> {
        (self.wire_type == 2).then(|| self.raw.get(self.value_at..)).flatten()
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
