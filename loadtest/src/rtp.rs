//! The RTP header, read in clear and written.
//!
//! SRTP encrypts the payload but not the header (RFC 3711, section 3.1), so losses are counted without a key.
//! Header extensions are in the one-byte form of RFC 8285, which is all that the offers of this crate ask for.

/// Bytes of the fixed header.
const FIXED_LEN: usize = 12;

/// Profile of one-byte header extensions (RFC 8285, section 4.2).
const ONE_BYTE_PROFILE: u16 = 0xBEDE;

/// The fields of a received header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub payload_type: u8,
    pub marker: bool,
    pub padded: bool,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    /// Where the payload begins.
    pub len: usize,
    /// Where the one-byte extensions begin and end; empty without any.
    extensions: (usize, usize),
}

impl Header {
    /// Parses the header of `packet`; `None` if it is not RTP version 2 or is cut short.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let fixed = packet.first_chunk::<FIXED_LEN>()?;
        if fixed[0] >> 6 != 2 {
            return None;
        }
        let mut len = FIXED_LEN + usize::from(fixed[0] & 0x0f) * 4;
        let mut extensions = (len, len);
        if fixed[0] & 0x10 != 0 {
            let head = packet.get(len..len + 4)?;
            let words = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let start = len + 4;
            len = start + words * 4;
            if u16::from_be_bytes([head[0], head[1]]) == ONE_BYTE_PROFILE {
                extensions = (start, len);
            }
        }
        if packet.len() < len {
            return None;
        }
        Some(Self {
            payload_type: fixed[1] & 0x7f,
            marker: fixed[1] & 0x80 != 0,
            padded: fixed[0] & 0x20 != 0,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            len,
            extensions,
        })
    }

    /// The value of the one-byte extension `id` in the packet this header was parsed from.
    pub fn extension<'a>(&self, packet: &'a [u8], id: u8) -> Option<&'a [u8]> {
        let mut rest = packet.get(self.extensions.0..self.extensions.1)?;
        while let Some((&head, tail)) = rest.split_first() {
            if head == 0 {
                rest = tail;
                continue;
            }
            let len = usize::from(head & 0x0f) + 1;
            let value = tail.get(..len)?;
            if head >> 4 == id {
                return Some(value);
            }
            rest = &tail[len..];
        }
        None
    }
}

/// What a header to send contains.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    pub payload_type: u8,
    pub marker: bool,
    pub sequence: u16,
    pub timestamp: u32,
    pub ssrc: u32,
    /// Ids of 1 to 14 with values of 1 to 16 bytes.
    pub extensions: &'a [(u8, &'a [u8])],
}

impl Outgoing<'_> {
    /// Appends the header to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let extended = !self.extensions.is_empty();
        out.push(0x80 | if extended { 0x10 } else { 0 });
        out.push(self.payload_type & 0x7f | if self.marker { 0x80 } else { 0 });
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        if extended {
            self.write_extensions(out);
        }
    }

    fn write_extensions(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&ONE_BYTE_PROFILE.to_be_bytes());
        let length_at = out.len();
        out.extend_from_slice(&[0, 0]);
        let start = out.len();
        for (id, value) in self.extensions {
            debug_assert!((1..=14).contains(id) && (1..=16).contains(&value.len()));
            out.push(id << 4 | (value.len() - 1) as u8);
            out.extend_from_slice(value);
        }
        while !(out.len() - start).is_multiple_of(4) {
            out.push(0);
        }
        let words = ((out.len() - start) / 4) as u16;
        out[length_at..length_at + 2].copy_from_slice(&words.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Vec<u8> {
        let mut packet = Vec::new();
        Outgoing {
            payload_type: 96,
            marker: true,
            sequence: 65535,
            timestamp: 9,
            ssrc: 0xDEAD_BEEF,
            extensions: &[(4, b"7"), (3, &[1, 2])],
        }
        .write(&mut packet);
        packet.extend_from_slice(b"payload");
        packet
    }

    #[test]
    fn a_written_header_is_read_back() {
        let packet = packet();
        let header = Header::parse(&packet).unwrap();
        assert_eq!((header.payload_type, header.marker, header.sequence), (96, true, 65535));
        assert_eq!((header.timestamp, header.ssrc), (9, 0xDEAD_BEEF));
        assert_eq!(&packet[header.len..], b"payload");
        assert_eq!(header.extension(&packet, 4), Some(&b"7"[..]));
        assert_eq!(header.extension(&packet, 3), Some(&[1, 2][..]));
        assert_eq!(header.extension(&packet, 5), None);
    }

    #[test]
    fn a_cut_header_is_refused_at_every_length() {
        let packet = packet();
        let whole = Header::parse(&packet).unwrap().len;
        for len in 0..whole {
            assert_eq!(Header::parse(&packet[..len]), None);
        }
    }
}
