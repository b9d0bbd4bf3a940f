//! Views on RTP packets in place (RFC 3550), and their header extensions (RFC 8285).
//!
//! Only the header is read until [`RtpView::payload`] is called, so a view of a packet whose payload is still encrypted
//! is fine. Nothing is copied and nothing allocates.

/// Fixed part of the header: RFC 3550, section 5.1.
const FIXED_HEADER_LEN: usize = 12;
const VERSION: u8 = 2;
/// Profile word of one-byte header extensions (RFC 8285, section 4.2).
const ONE_BYTE_PROFILE: u16 = 0xBEDE;
/// Profile word of two-byte header extensions, without its four application bits (RFC 8285, section 4.3).
const TWO_BYTE_PROFILE: u16 = 0x1000;
/// Ends the elements of a one-byte block (RFC 8285, section 4.2).
const ONE_BYTE_STOP_ID: u8 = 15;

/// Big-endian `u16` at `at`, if it is inside.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

/// Big-endian `u32` at `at`, if it is inside.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// Length of the header in bytes, with its CSRCs and extension; `None` if the bytes are not RTP version 2 or end inside
/// the header.
pub fn header_len(packet: &[u8]) -> Option<usize> {
    RtpView::parse(packet).map(|view| view.header_len())
}

/// A borrowed RTP packet whose header is known to be complete.
#[derive(Debug, Clone, Copy)]
pub struct RtpView<'a> {
    packet: &'a [u8],
    fixed: &'a [u8; FIXED_HEADER_LEN],
    header_len: usize,
    extension_profile: u16,
    /// Body of the extension, without its four bytes of profile and length.
    extension: &'a [u8],
}

impl<'a> RtpView<'a> {
    /// `None` if the bytes are not RTP version 2 or end inside the header. The padding is judged by
    /// [`payload`](Self::payload) only, for it may still be encrypted.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let fixed: &[u8; FIXED_HEADER_LEN] = packet.first_chunk()?;
        if fixed[0] >> 6 != VERSION {
            return None;
        }
        let after_csrcs = FIXED_HEADER_LEN + 4 * usize::from(fixed[0] & 0x0F);
        let mut view = Self { packet, fixed, header_len: after_csrcs, extension_profile: 0, extension: &[] };
        if fixed[0] & 0x10 != 0 {
            let start = after_csrcs + 4;
            view.extension_profile = u16_at(packet, after_csrcs)?;
            view.header_len = start + 4 * usize::from(u16_at(packet, after_csrcs + 2)?);
            view.extension = packet.get(start..view.header_len)?;
        }
        (packet.len() >= view.header_len).then_some(view)
    }

    /// Of the header.
    pub fn payload_type(&self) -> u8 {
        self.fixed[1] & 0x7F
    }

    /// Of the header.
    pub fn marker(&self) -> bool {
        self.fixed[1] & 0x80 != 0
    }

    /// Of the header.
    pub fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// In ticks of the codec's clock.
    pub fn timestamp(&self) -> u32 {
        u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]])
    }

    /// Of the header.
    pub fn ssrc(&self) -> u32 {
        u32::from_be_bytes([self.fixed[8], self.fixed[9], self.fixed[10], self.fixed[11]])
    }

    /// In bytes, with CSRCs and extension.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    fn has_padding(&self) -> bool {
        self.fixed[0] & 0x20 != 0
    }

    /// What follows the header, without padding. Empty if the padding is longer than what follows the header or claims
    /// to have no bytes (RFC 3550, section 5.1 counts its last byte in).
    pub fn payload(&self) -> &'a [u8] {
        let body = self.packet.get(self.header_len..).unwrap_or_default();
        if !self.has_padding() {
            return body;
        }
        let padding = usize::from(body.last().copied().unwrap_or(0));
        match body.len().checked_sub(padding) {
            Some(len) if padding > 0 => body.get(..len).unwrap_or_default(),
            _ => &[],
        }
    }

    /// Value of the first header extension element with this id.
    pub fn extension(&self, id: u8) -> Option<&'a [u8]> {
        self.extensions().find_map(|(element, value)| (element == id).then_some(value))
    }

    /// Header extension elements in order, one-byte or two-byte form. Ends at the first that does not fit; empty for
    /// any other profile.
    pub fn extensions(&self) -> Extensions<'a> {
        let form = match self.extension_profile {
            ONE_BYTE_PROFILE => Form::OneByte,
            profile if profile & 0xFFF0 == TWO_BYTE_PROFILE => Form::TwoByte,
            _ => return Extensions { rest: &[], form: Form::OneByte },
        };
        Extensions { rest: self.extension, form }
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    OneByte,
    TwoByte,
}

/// Header extension elements of one packet: id and value.
#[derive(Debug, Clone)]
pub struct Extensions<'a> {
    rest: &'a [u8],
    form: Form,
}

impl<'a> Extensions<'a> {
    /// Id, value and what follows of the element that `rest` starts with.
    fn split_element(&self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let (id, len, body) = match (self.form, self.rest) {
            (Form::OneByte, [head, body @ ..]) if head >> 4 != ONE_BYTE_STOP_ID => (head >> 4, (head & 0x0F) + 1, body),
            (Form::TwoByte, [id, len, body @ ..]) => (*id, *len, body),
            _ => return None,
        };
        let (value, rest) = body.split_at_checked(usize::from(len))?;
        Some((id, value, rest))
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            // A byte of 0 is padding between elements, in both forms.
            while let [0, rest @ ..] = self.rest {
                self.rest = rest;
            }
            let Some((id, value, rest)) = self.split_element() else {
                self.rest = &[];
                return None;
            };
            self.rest = rest;
            // Id 0 with a length is reserved in the one-byte form: skipped as an element.
            if id != 0 {
                return Some((id, value));
            }
        }
    }
}

/// Extends 16-bit sequence numbers so that they never wrap (RFC 3550, appendix A.1).
///
/// Each is taken to be the one nearest to the newest seen, so reordering by less than half the number space is
/// harmless. The first gets 2^32 added: earlier ones that arrive after it then do not go below zero, and the low 32
/// bits are the extended highest sequence number that a receiver report wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExtendedSequence {
    newest: Option<u64>,
}

impl ExtendedSequence {
    const ORIGIN: u64 = 1 << 32;

    /// One that has seen no number.
    pub fn new() -> Self {
        Self::default()
    }

    /// Goes on from an extended number seen before.
    pub fn starting_at(newest: u64) -> Self {
        Self { newest: Some(newest) }
    }

    /// The extended number; its low 16 bits are `sequence`.
    pub fn unwrap(&mut self, sequence: u16) -> u64 {
        let Some(newest) = self.newest else {
            let first = Self::ORIGIN + u64::from(sequence);
            self.newest = Some(first);
            return first;
        };
        let step = sequence.wrapping_sub(newest as u16) as i16;
        // At most 2^15 below a number of at least 2^32: it cannot wrap.
        let extended = newest.wrapping_add_signed(i64::from(step));
        self.newest = Some(newest.max(extended));
        extended
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rtc_rtp::header::Header;
    use rtc_shared::marshal::{Marshal, Unmarshal};

    use super::*;

    fn packet(first: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![first, 0xE0, 0x12, 0x34, 0, 0, 0, 9, 0xDE, 0xAD, 0xBE, 0xEF];
        packet.extend_from_slice(rest);
        packet
    }

    #[test]
    fn the_fixed_header_is_read() {
        let bytes = packet(0x80, b"hello");
        let view = RtpView::parse(&bytes).unwrap();
        assert_eq!(view.payload_type(), 96);
        assert!(view.marker());
        assert_eq!(view.sequence(), 0x1234);
        assert_eq!(view.timestamp(), 9);
        assert_eq!(view.ssrc(), 0xDEADBEEF);
        assert_eq!(view.header_len(), 12);
        assert_eq!(view.payload(), b"hello");
        assert_eq!(view.extensions().count(), 0);
    }

    #[test]
    fn another_version_and_a_truncated_header_are_refused() {
        assert_eq!(header_len(&packet(0x40, &[])), None);
        assert_eq!(header_len(&packet(0x80, &[])[..11]), None);
        assert_eq!(header_len(&packet(0x82, &[0; 7])), None);
        assert_eq!(header_len(&packet(0x82, &[0; 8])), Some(20));
        assert_eq!(header_len(&packet(0x90, &[0xBE, 0xDE, 0])), None);
        assert_eq!(header_len(&packet(0x90, &[0xBE, 0xDE, 0, 1, 0, 0, 0])), None);
        assert_eq!(header_len(&packet(0x90, &[0xBE, 0xDE, 0, 1, 0, 0, 0, 0])), Some(20));
    }

    #[test]
    fn one_byte_elements_end_at_id_15() {
        let bytes = packet(0x90, &[0xBE, 0xDE, 0, 2, 0x11, 0xAA, 0xBB, 0x00, 0x30, 0xCC, 0xF0, 0x20, 7]);
        let view = RtpView::parse(&bytes).unwrap();
        let elements: Vec<_> = view.extensions().collect();
        assert_eq!(elements, [(1, &[0xAA, 0xBB][..]), (3, &[0xCC][..])]);
        assert_eq!(view.extension(3), Some(&[0xCC][..]));
        assert_eq!(view.extension(2), None);
        assert_eq!(view.payload(), [7]);
    }

    #[test]
    fn two_byte_elements_may_be_empty_and_carry_application_bits() {
        let bytes = packet(0x90, &[0x10, 0x05, 0, 2, 200, 0, 0, 1, 3, 1, 2, 3]);
        let elements: Vec<_> = RtpView::parse(&bytes).unwrap().extensions().collect();
        assert_eq!(elements, [(200, &[][..]), (1, &[1, 2, 3][..])]);
    }

    #[test]
    fn an_element_longer_than_its_block_ends_the_list() {
        let bytes = packet(0x90, &[0xBE, 0xDE, 0, 1, 0x10, 0xAA, 0x2F, 0xBB, 1, 2, 3]);
        let elements: Vec<_> = RtpView::parse(&bytes).unwrap().extensions().collect();
        assert_eq!(elements, [(1, &[0xAA][..])]);
    }

    #[test]
    fn padding_is_cut_off_and_nonsense_padding_leaves_no_payload() {
        let payload = |rest| RtpView::parse(&packet(0xA0, rest)).unwrap().payload().to_vec();
        assert_eq!(payload(&[1, 2, 0, 2]), [1, 2]);
        assert_eq!(payload(&[0, 0, 0, 4]), []);
        assert_eq!(payload(&[1, 2, 3, 5]), []);
        assert_eq!(payload(&[1, 2, 3, 0]), []);
        assert_eq!(payload(&[]), []);
    }

    #[test]
    fn numbers_extend_across_the_wrap_in_both_directions() {
        let mut sequence = ExtendedSequence::new();
        let first = sequence.unwrap(65_534);
        assert_eq!(first as u32, 65_534);
        assert_eq!(sequence.unwrap(1), first + 3);
        assert_eq!(sequence.unwrap(65_535), first + 1);

        let mut sequence = ExtendedSequence::new();
        let first = sequence.unwrap(0);
        assert_eq!(sequence.unwrap(65_535), first - 1);
        assert_eq!(sequence.unwrap(1), first + 1);
    }

    fn header_from_parts(one_byte: bool, marker: bool, csrc: Vec<u32>, values: Vec<Vec<u8>>, rest: [u32; 3]) -> Header {
        let mut header = Header {
            version: 2,
            marker,
            payload_type: 96 + (rest[0] % 30) as u8,
            sequence_number: rest[0] as u16,
            timestamp: rest[1],
            ssrc: rest[2],
            csrc,
            extension: !values.is_empty(),
            extension_profile: if one_byte { ONE_BYTE_PROFILE } else { TWO_BYTE_PROFILE },
            ..Header::default()
        };
        for (value, id) in values.into_iter().zip(1..) {
            header.set_extension(id, value.into()).unwrap();
        }
        header
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
            crate::fuzzing::rtp(&bytes);
        }

        /// What the webrtc-rs family writes is read back as it was meant.
        #[test]
        fn we_read_what_the_oracle_writes(
            one_byte: bool,
            marker: bool,
            csrc in vec(any::<u32>(), 0..16),
            values in vec(vec(any::<u8>(), 1..17), 0..14),
            rest: [u32; 3],
        ) {
            let header = header_from_parts(one_byte, marker, csrc, values, rest);
            let bytes = header.marshal().unwrap();
            let view = RtpView::parse(&bytes).unwrap();
            prop_assert_eq!(view.marker(), marker);
            prop_assert_eq!(view.payload_type(), header.payload_type);
            prop_assert_eq!(view.sequence(), header.sequence_number);
            prop_assert_eq!(view.timestamp(), header.timestamp);
            prop_assert_eq!(view.ssrc(), header.ssrc);
            prop_assert_eq!(view.header_len(), bytes.len());
            let read: Vec<_> = view.extensions().map(|(id, value)| (id, value.to_vec())).collect();
            let written: Vec<_> = header.extensions.iter().map(|e| (e.id, e.payload.to_vec())).collect();
            prop_assert_eq!(read, written);
        }

        /// Whatever the oracle accepts, we accept with the same header length.
        #[test]
        fn we_accept_what_the_oracle_accepts(mut bytes in vec(any::<u8>(), 12..80)) {
            bytes[0] = bytes[0] & 0x3F | 0x80;
            if let Ok(header) = Header::unmarshal(&mut &bytes[..]) {
                let view = RtpView::parse(&bytes).expect("the oracle accepted it");
                prop_assert_eq!(view.ssrc(), header.ssrc);
                prop_assert_eq!(view.sequence(), header.sequence_number);
            }
        }

        /// Any order with steps below 2^15 is extended to the true number.
        #[test]
        fn extension_finds_the_true_number(steps in vec(-16_000i64..16_000, 1..300), first: u16) {
            let mut sequence = ExtendedSequence::new();
            let origin = sequence.unwrap(first);
            let mut newest = origin;
            for step in steps {
                let number = newest.wrapping_add_signed(step);
                prop_assert_eq!(sequence.unwrap(number as u16), number);
                newest = newest.max(number);
            }
        }
    }
}
