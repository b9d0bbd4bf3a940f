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
