//! VP8 payload descriptor (RFC 7741, section 4.2).

/// Bits of the mandatory first byte.
const EXTENDED: u8 = 0x80;
const NON_REFERENCE: u8 = 0x20;
const PARTITION_START: u8 = 0x10;
const PARTITION_INDEX: u8 = 0x07;
/// Bits of the extension byte.
const HAS_PICTURE_ID: u8 = 0x80;
const HAS_TL0_PIC_IDX: u8 = 0x40;
const HAS_TID: u8 = 0x20;
const HAS_KEYIDX: u8 = 0x10;
/// Set in the first byte of a picture id of 15 bits.
const LONG_PICTURE_ID: u8 = 0x80;
/// Clear in the first byte of a key frame (RFC 7741, section 4.3).
const INTER_FRAME: u8 = 0x01;

/// What the descriptor of one packet says. `None`: the field is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vp8Descriptor {
    /// Whether the packet starts the first partition, and so the frame.
    pub first: bool,
    /// Whether no other frame refers to this one.
    pub non_reference: bool,
    /// Value, and whether it has 15 bits instead of 7.
    pub picture_id: Option<(u16, bool)>,
    /// Index of the last frame of the base temporal layer, modulo 2^8.
    pub tl0_pic_idx: Option<u8>,
    /// Temporal layer, and whether a receiver can switch up to it here (layer sync).
    pub temporal: Option<(u8, bool)>,
    /// Counts key frames, 5 bits.
    pub keyidx: Option<u8>,
    /// Bytes before the VP8 payload proper.
    pub header_len: usize,
}

impl Vp8Descriptor {
    /// `None` if the payload ends inside the descriptor.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut bytes = payload.iter().copied();
        let first = bytes.next()?;
        let mut descriptor = Self {
            first: first & PARTITION_START != 0 && first & PARTITION_INDEX == 0,
            non_reference: first & NON_REFERENCE != 0,
            ..Self::default()
        };
        let extension = if first & EXTENDED != 0 { bytes.next()? } else { 0 };
        if extension & HAS_PICTURE_ID != 0 {
            let high = bytes.next()?;
            descriptor.picture_id = Some(match high & LONG_PICTURE_ID {
                0 => (u16::from(high), false),
                _ => (u16::from_be_bytes([high & !LONG_PICTURE_ID, bytes.next()?]), true),
            });
        }
        if extension & HAS_TL0_PIC_IDX != 0 {
            descriptor.tl0_pic_idx = Some(bytes.next()?);
        }
        if extension & (HAS_TID | HAS_KEYIDX) != 0 {
            let byte = bytes.next()?;
            descriptor.temporal = (extension & HAS_TID != 0).then_some((byte >> 6, byte & 0x20 != 0));
            descriptor.keyidx = (extension & HAS_KEYIDX != 0).then_some(byte & 0x1F);
        }
        descriptor.header_len = payload.len() - bytes.len();
        Some(descriptor)
    }
}

/// Overwrites the fields that `descriptor` says the payload has, in place. A picture id keeps its width, 7 or 15 bits;
/// of `keyidx` 5 bits count. The descriptor must be that of this payload; bytes outside the payload are never touched.
pub fn rewrite_vp8(descriptor: &Vp8Descriptor, payload: &mut [u8], picture_id: u16, tl0: u8, keyidx: u8) {
    let mut bytes = payload.iter_mut().skip(2);
    match descriptor.picture_id {
        Some((_, true)) => {
            let [high, low] = picture_id.to_be_bytes();
            bytes.next().into_iter().for_each(|byte| *byte = high | LONG_PICTURE_ID);
            bytes.next().into_iter().for_each(|byte| *byte = low);
        }
        Some((_, false)) => bytes.next().into_iter().for_each(|byte| *byte = picture_id as u8 & !LONG_PICTURE_ID),
        None => {}
    }
    if descriptor.tl0_pic_idx.is_some() {
        bytes.next().into_iter().for_each(|byte| *byte = tl0);
    }
    if descriptor.keyidx.is_some() {
        bytes.next().into_iter().for_each(|byte| *byte = *byte & 0xE0 | keyidx & 0x1F);
    }
}

/// First packet of the first partition, of a frame that refers to no other.
pub fn is_keyframe_start(payload: &[u8]) -> bool {
    Vp8Descriptor::parse(payload)
        .filter(|descriptor| descriptor.first)
        .and_then(|descriptor| payload.get(descriptor.header_len))
        .is_some_and(|byte| byte & INTER_FRAME == 0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rtc_rtp::codec::vp8::Vp8Packet;
    use rtc_rtp::packetizer::Depacketizer;

    use super::*;

    #[test]
    fn the_shortest_descriptor_is_one_byte() {
        let descriptor = Vp8Descriptor::parse(&[0x10, 0]).unwrap();
        assert_eq!(descriptor, Vp8Descriptor { first: true, header_len: 1, ..Vp8Descriptor::default() });
    }

    #[test]
    fn all_fields_are_read_in_their_order() {
        let payload = [0xB0, 0xF0, 0x92, 0x34, 0x56, 0xA3, 0x00];
        let descriptor = Vp8Descriptor::parse(&payload).unwrap();
        let expected = Vp8Descriptor {
            first: true,
            non_reference: true,
            picture_id: Some((0x1234, true)),
            tl0_pic_idx: Some(0x56),
            temporal: Some((2, true)),
            keyidx: Some(3),
            header_len: 6,
        };
        assert_eq!(descriptor, expected);
    }

    #[test]
    fn a_descriptor_cut_off_anywhere_is_refused() {
        let payload = [0x90, 0xF0, 0x92, 0x34, 0x56, 0xA3];
        for len in 0..payload.len() {
            assert_eq!(Vp8Descriptor::parse(&payload[..len]), None);
        }
        assert!(Vp8Descriptor::parse(&payload).is_some());
    }

    #[test]
    fn rewriting_keeps_widths_and_the_temporal_layer() {
        let rewritten = |mut payload: Vec<u8>| {
            let descriptor = Vp8Descriptor::parse(&payload).unwrap();
            rewrite_vp8(&descriptor, &mut payload, 0x7ABC, 0x11, 0xFE);
            payload
        };
        let long = rewritten(vec![0x90, 0xF0, 0x80, 0, 0, 0xA3, 9]);
        assert_eq!(long, [0x90, 0xF0, 0xFA, 0xBC, 0x11, 0xBE, 9]);
        let short = rewritten(vec![0x90, 0xF0, 0x00, 0, 0xA3, 9]);
        assert_eq!(short, [0x90, 0xF0, 0x3C, 0x11, 0xBE, 9]);
        let without_keyidx = rewritten(vec![0x90, 0x20, 0xA3, 9]);
        assert_eq!(without_keyidx, [0x90, 0x20, 0xA3, 9]);
        let without_extension = rewritten(vec![0x10, 9, 9, 9]);
        assert_eq!(without_extension, [0x10, 9, 9, 9]);
    }

    #[test]
    fn only_the_first_packet_of_a_key_frame_is_a_start() {
        assert!(is_keyframe_start(&[0x10, 0x00]));
        assert!(is_keyframe_start(&[0x90, 0x80, 0x81, 0x23, 0x10]));
        assert!(!is_keyframe_start(&[0x10, 0x01]), "an inter frame");
        assert!(!is_keyframe_start(&[0x00, 0x00]), "a later packet");
        assert!(!is_keyframe_start(&[0x11, 0x00]), "a later partition");
        assert!(!is_keyframe_start(&[0x10]), "no frame header");
    }

    proptest! {
        #[test]
        fn the_descriptor_means_the_same_to_the_oracle(mut payload in vec(any::<u8>(), 8..40), extended: bool) {
            payload[0] = payload[0] & 0x7F | u8::from(extended) << 7;
            let mut theirs = Vp8Packet::default();
            let rest = theirs.depacketize(&Bytes::from(payload.clone())).unwrap();
            let ours = Vp8Descriptor::parse(&payload).unwrap();
            prop_assert_eq!(&payload[ours.header_len..], &rest[..]);
            prop_assert_eq!(ours.first, theirs.s == 1 && theirs.pid == 0);
            prop_assert_eq!(ours.non_reference, theirs.n == 1);
            prop_assert_eq!(ours.picture_id.map(|(id, _)| id), (theirs.i == 1).then_some(theirs.picture_id));
            prop_assert_eq!(ours.tl0_pic_idx, (theirs.l == 1).then_some(theirs.tl0_pic_idx));
            prop_assert_eq!(ours.temporal, (theirs.t == 1).then_some((theirs.tid, theirs.y == 1)));
            prop_assert_eq!(ours.keyidx, (theirs.k == 1).then_some(theirs.key_idx));
        }

        /// What was rewritten is read back, and nothing else has changed.
        #[test]
        fn a_rewritten_descriptor_reads_as_written(
            mut payload in vec(any::<u8>(), 8..40), picture_id in 0u16..0x8000, tl0: u8, keyidx in 0u8..32,
        ) {
            let before = Vp8Descriptor::parse(&payload).unwrap();
            rewrite_vp8(&before, &mut payload, picture_id, tl0, keyidx);
            let id = |long| if long { picture_id } else { picture_id & 0x7F };
            let expected = Vp8Descriptor {
                picture_id: before.picture_id.map(|(_, long)| (id(long), long)),
                tl0_pic_idx: before.tl0_pic_idx.map(|_| tl0),
                keyidx: before.keyidx.map(|_| keyidx),
                ..before
            };
            prop_assert_eq!(Vp8Descriptor::parse(&payload), Some(expected));
        }
    }
}
