//! Start of a key frame in AV1 payloads (RTP Payload Format For AV1, section 4.4).

/// Bits of the aggregation header.
const CONTINUES_OBU: u8 = 0x80;
const ELEMENT_COUNT: u8 = 0x30;
const NEW_SEQUENCE: u8 = 0x08;
/// OBU type (AV1 specification, section 6.2.2).
const SEQUENCE_HEADER: u8 = 1;
/// Longest accepted LEB128: five bytes hold 32 bits.
const LEB128_LEN_MAX: usize = 5;

/// First packet of a coded video sequence, or one in which a sequence header starts.
pub fn is_keyframe_start(payload: &[u8]) -> bool {
    match payload {
        // Both bits at once contradict each other: the first packet of a sequence continues nothing.
        [head, elements @ ..] if head & CONTINUES_OBU == 0 && !elements.is_empty() => {
            head & NEW_SEQUENCE != 0 || has_sequence_header(elements, (head & ELEMENT_COUNT) >> 4)
        }
        [head, elements @ ..] => has_sequence_header_after_first(elements, (head & ELEMENT_COUNT) >> 4),
        [] => false,
    }
}

fn has_sequence_header(elements: &[u8], count: u8) -> bool {
    Elements { rest: elements, count, index: 0 }.any(is_sequence_header)
}

/// The first element is the rest of an OBU from the packet before.
fn has_sequence_header_after_first(elements: &[u8], count: u8) -> bool {
    Elements { rest: elements, count, index: 0 }.skip(1).any(is_sequence_header)
}

fn is_sequence_header(element: &[u8]) -> bool {
    element.first().is_some_and(|header| header >> 3 & 0x0F == SEQUENCE_HEADER)
}

/// OBU elements of a packet. Each has its length before it, but the last of a counted list.
struct Elements<'a> {
    rest: &'a [u8],
    /// 1 to 3, or 0: all have a length.
    count: u8,
    index: u8,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.index = self.index.saturating_add(1);
        if self.count != 0 && self.index >= self.count {
            return Some(std::mem::take(&mut self.rest));
        }
        let split = split_leb128(self.rest).and_then(|(len, rest)| rest.split_at_checked(len));
        let (element, rest) = split.unwrap_or_default();
        self.rest = rest;
        split.map(|_| element)
    }
}

/// An unsigned number of seven bits a byte, the lowest first (AV1 specification, section 4.10.5), and what follows.
fn split_leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(LEB128_LEN_MAX).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_sequence_or_a_sequence_header_is_a_start() {
        assert!(is_keyframe_start(&[0x18, 0x0A, 1, 2]), "the N bit");
        assert!(is_keyframe_start(&[0x10, 0x0A, 1, 2]), "one element, a sequence header");
        assert!(!is_keyframe_start(&[0x10, 0x32, 1, 2]), "one element, a frame");
        assert!(is_keyframe_start(&[0x20, 2, 0x2A, 0, 0x0A, 1]), "metadata, then a sequence header");
        assert!(is_keyframe_start(&[0x00, 2, 0x2A, 0, 2, 0x0A, 1]), "with all lengths told");
        assert!(!is_keyframe_start(&[0x00, 2, 0x2A, 0, 3, 0x0A, 1]), "cut off");
        assert!(!is_keyframe_start(&[0x08]), "no payload");
    }

    #[test]
    fn the_rest_of_an_obu_is_not_looked_into() {
        assert!(!is_keyframe_start(&[0x90, 0x0A, 1, 2]));
        assert!(!is_keyframe_start(&[0x98, 0x0A, 1, 2]));
        assert!(is_keyframe_start(&[0xA0, 1, 0x0A, 0x0A, 1]));
    }

    #[test]
    fn lengths_of_several_bytes_are_read() {
        assert_eq!(split_leb128(&[0x80 | 5, 1, 9]), Some((133, &[9][..])));
        assert_eq!(split_leb128(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]), None);
        assert_eq!(split_leb128(&[0x80]), None);
    }
}
