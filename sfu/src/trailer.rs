//! LiveKit's packet trailers: what a publisher appends to the last packet of a video frame, behind the codec's bytes.
//!
//! The trailer ends with a byte of its whole length, inverted, and the four bytes `LKTS`
//! (`pkg/sfu/packettrailer` of livekit-server 1.13.5).

const MAGIC: &[u8] = b"LKTS";
/// The length's byte and the magic.
const ENVELOPE: usize = 5;

/// The payload without its trailer, if it has one.
pub fn without_trailer(payload: &[u8]) -> &[u8] {
    let Some([.., inverted]) = payload.strip_suffix(MAGIC) else { return payload };
    let length = usize::from(!inverted);
    match payload.len().checked_sub(length) {
        Some(rest) if length >= ENVELOPE => &payload[..rest],
        Some(_) | None => payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_ends_with_its_length_and_a_mark() {
        let with = |length: u8| [b"frame".as_slice(), b"12345678", &[!length], MAGIC].concat();
        assert_eq!(without_trailer(&with(13)), b"frame");
        assert_eq!(without_trailer(&with(18)), b"");
        for wrong in [0, 4, 19, 255] {
            assert_eq!(without_trailer(&with(wrong)), with(wrong), "{wrong}");
        }
        for other in [&b""[..], b"LKTS", b"LKT", b"a frame"] {
            assert_eq!(without_trailer(other), other);
        }
    }
}
