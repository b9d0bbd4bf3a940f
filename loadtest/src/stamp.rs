//! What every synthetic packet carries: its number at the source and the time it left.
//!
//! The stamp is the tail of the RTP payload, because the head belongs to the codec and is rewritten on the way
//! (VP8 picture ids, RFC 7741). Retransmissions (RFC 4588) keep it too.

/// Bytes of a stamp.
pub const STAMP_LEN: usize = 16;

/// Followed by the layer.
const MAGIC: [u8; 3] = *b"\xa5LT";

/// Identifies one packet of one published track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which layer of the track it is, by [`crate::trace::Layer::index`].
    pub layer: u8,
    /// Counts the packets of the layer from 0.
    pub number: u32,
    /// `CLOCK_MONOTONIC` in nanoseconds when the packet was handed to the socket.
    pub sent_ns: u64,
}

impl Stamp {
    /// Writes the stamp into the last bytes of `payload`; a shorter payload stays as it is.
    pub fn write(self, payload: &mut [u8]) {
        let Some(tail) = payload.last_chunk_mut::<STAMP_LEN>() else { return };
        tail[..3].copy_from_slice(&MAGIC);
        tail[3] = self.layer;
        tail[4..8].copy_from_slice(&self.number.to_be_bytes());
        tail[8..].copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    /// Reads the stamp of a decrypted payload; `None` if it is not one of ours.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (magic, rest) = payload.last_chunk::<STAMP_LEN>()?.split_first_chunk::<3>()?;
        let (&layer, rest) = rest.split_first()?;
        let (number, sent_ns) = rest.split_first_chunk::<4>()?;
        (*magic == MAGIC).then_some(Self {
            layer,
            number: u32::from_be_bytes(*number),
            sent_ns: u64::from_be_bytes(sent_ns.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_a_changed_head() {
        let stamp = Stamp { layer: 2, number: 7, sent_ns: 123_456_789_012 };
        let mut payload = vec![0; 40];
        stamp.write(&mut payload);
        payload.insert(0, 9);
        assert_eq!(Stamp::read(&payload), Some(stamp));
    }

    #[test]
    fn foreign_and_short_payloads_have_no_stamp() {
        assert_eq!(Stamp::read(&[0; 40]), None);
        assert_eq!(Stamp::read(&[0; 3]), None);
    }
}
