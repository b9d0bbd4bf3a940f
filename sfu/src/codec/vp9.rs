//! VP9 payload descriptor (RFC 9628, section 4.2).

/// Bits of the mandatory first byte.
const HAS_PICTURE_ID: u8 = 0x80;
const INTER_PICTURE: u8 = 0x40;
const HAS_LAYERS: u8 = 0x20;
const FLEXIBLE: u8 = 0x10;
const BEGIN: u8 = 0x08;
const END: u8 = 0x04;
const HAS_STRUCTURE: u8 = 0x02;
const NOT_FOR_UPPER: u8 = 0x01;
/// A picture refers to at most three others.
const REFERENCES_MAX: usize = 3;

/// What the descriptor of one packet says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vp9Descriptor {
    /// Value, and whether it has 15 bits instead of 7.
    pub picture_id: Option<(u16, bool)>,
    /// Whether the frame refers to earlier pictures. A frame that does not may still refer to a lower spatial layer of
    /// its own picture.
    pub inter_picture_predicted: bool,
    /// Whether frames name those that they refer to.
    pub flexible: bool,
    /// Whether the packet starts, or ends, a frame: one spatial layer of a picture.
    pub begin: bool,
    /// Whether the packet ends a frame of its spatial layer.
    pub end: bool,
    /// Whether no higher spatial layer refers to this frame.
    pub not_for_upper: bool,
    /// 0 without layer indices.
    pub spatial: u8,
    /// 0 without layer indices.
    pub temporal: u8,
    /// Whether a receiver can switch up to this temporal layer here.
    pub switching_up_point: bool,
    /// Whether the frame refers to the next lower spatial layer of its picture.
    pub inter_layer_predicted: bool,
    /// In non-flexible mode with layer indices only.
    pub tl0_pic_idx: Option<u8>,
    /// From the scalability structure, when the packet has one: number of spatial layers.
    pub spatial_layers: Option<u8>,
    /// Bytes before the VP9 payload proper.
    pub header_len: usize,
}

impl Vp9Descriptor {
    /// `None` if the payload ends inside the descriptor, or it names more than three references.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let mut bytes = payload.iter();
        let first = *bytes.next()?;
        let mut descriptor = Self {
            inter_picture_predicted: first & INTER_PICTURE != 0,
            flexible: first & FLEXIBLE != 0,
            begin: first & BEGIN != 0,
            end: first & END != 0,
            not_for_upper: first & NOT_FOR_UPPER != 0,
            ..Self::default()
        };
        if first & HAS_PICTURE_ID != 0 {
            descriptor.picture_id = Some(read_picture_id(&mut bytes)?);
        }
        if first & HAS_LAYERS != 0 {
            descriptor.read_layers(&mut bytes)?;
        }
        if descriptor.flexible && descriptor.inter_picture_predicted {
            skip_references(&mut bytes)?;
        }
        if first & HAS_STRUCTURE != 0 {
            descriptor.spatial_layers = Some(read_structure(&mut bytes)?);
        }
        descriptor.header_len = payload.len() - bytes.len();
        Some(descriptor)
    }

    fn read_layers(&mut self, bytes: &mut std::slice::Iter<u8>) -> Option<()> {
        let byte = *bytes.next()?;
        self.temporal = byte >> 5;
        self.switching_up_point = byte & 0x10 != 0;
        self.spatial = byte >> 1 & 7;
        self.inter_layer_predicted = byte & 1 != 0;
        if !self.flexible {
            self.tl0_pic_idx = Some(*bytes.next()?);
        }
        Some(())
    }
}

fn read_picture_id(bytes: &mut std::slice::Iter<u8>) -> Option<(u16, bool)> {
    let high = *bytes.next()?;
    match high & 0x80 {
        0 => Some((u16::from(high), false)),
        _ => Some((u16::from_be_bytes([high & 0x7F, *bytes.next()?]), true)),
    }
}

/// Differences to the referred pictures; the lowest bit of each says whether another follows.
fn skip_references(bytes: &mut std::slice::Iter<u8>) -> Option<()> {
    for _ in 0..REFERENCES_MAX {
        if bytes.next()? & 1 == 0 {
            return Some(());
        }
    }
    None
}

/// Skips a scalability structure and returns its number of spatial layers.
fn read_structure(bytes: &mut std::slice::Iter<u8>) -> Option<u8> {
    let byte = *bytes.next()?;
    let layers = (byte >> 5) + 1;
    let (has_resolutions, has_pictures) = (byte & 0x10 != 0, byte & 0x08 != 0);
    if has_resolutions {
        skip(bytes, 4 * usize::from(layers))?;
    }
    let pictures = if has_pictures { *bytes.next()? } else { 0 };
    for _ in 0..pictures {
        let references = bytes.next()? >> 2 & 3;
        skip(bytes, usize::from(references))?;
    }
    Some(layers)
}

fn skip(bytes: &mut std::slice::Iter<u8>, count: usize) -> Option<()> {
    *bytes = bytes.as_slice().get(count..)?.iter();
    Some(())
}

/// First packet of the lowest spatial layer of a picture that refers to no earlier one.
pub fn is_keyframe_start(payload: &[u8]) -> bool {
    // Something must follow the descriptor.
    Vp9Descriptor::parse(payload).is_some_and(|descriptor| {
        let Vp9Descriptor { inter_picture_predicted, begin, spatial, header_len, .. } = descriptor;
        begin && !inter_picture_predicted && spatial == 0 && header_len < payload.len()
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rtc_rtp::codec::vp9::Vp9Packet;
    use rtc_rtp::packetizer::Depacketizer;

    use super::*;

    #[test]
    fn layers_and_ids_are_read() {
        // I, L, B, E; picture id 0x1234; temporal 2, switching up, spatial 1, inter-layer; TL0PICIDX 7.
        let descriptor = Vp9Descriptor::parse(&[0xAC, 0x92, 0x34, 0x53, 7, 0xFF]).unwrap();
        assert_eq!(descriptor.picture_id, Some((0x1234, true)));
        assert_eq!((descriptor.spatial, descriptor.temporal, descriptor.tl0_pic_idx), (1, 2, Some(7)));
        assert!(descriptor.begin && descriptor.end && descriptor.switching_up_point);
        assert!(descriptor.inter_layer_predicted && !descriptor.inter_picture_predicted);
        assert_eq!(descriptor.header_len, 5);
    }

    #[test]
    fn a_fourth_reference_is_refused() {
        assert_eq!(Vp9Descriptor::parse(&[0x50, 3, 5, 6, 0xFF]).unwrap().header_len, 4);
        assert_eq!(Vp9Descriptor::parse(&[0x50, 3, 5, 7, 6, 0xFF]), None);
    }

    #[test]
    fn a_structure_tells_the_number_of_spatial_layers() {
        // Two layers, with resolutions and one picture with two references.
        let payload = [0x0A, 0x38, 1, 64, 0, 180, 2, 128, 1, 104, 1, 0x08, 1, 2, 0xFF];
        let descriptor = Vp9Descriptor::parse(&payload).unwrap();
        assert_eq!((descriptor.spatial_layers, descriptor.header_len), (Some(2), 14));
        (0..14).for_each(|len| assert_eq!(Vp9Descriptor::parse(&payload[..len]), None));
    }

    #[test]
    fn a_structure_has_the_parts_that_it_says() {
        for (structure, layers) in [
            (&[0x00][..], 1),
            (&[0xE7], 8),
            // Resolutions of three layers.
            (&[0x50, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 3),
            // Pictures: none, and three of three, no and one reference. Reserved bits may be set.
            (&[0x08, 0], 1),
            (&[0x08, 3, 0xFC | 3, 1, 2, 3, 0xF0, 0x04, 1], 1),
        ] {
            let payload = [&[0x0A][..], structure, &[0xFF]].concat();
            let descriptor = Vp9Descriptor::parse(&payload).unwrap();
            assert_eq!((descriptor.spatial_layers, descriptor.header_len), (Some(layers), 1 + structure.len()));
        }
    }

    #[test]
    fn only_the_lowest_layer_of_a_picture_without_references_is_a_start() {
        assert!(is_keyframe_start(&[0x08, 0xFF]));
        assert!(is_keyframe_start(&[0x28, 0x00, 0, 0xFF]));
        assert!(!is_keyframe_start(&[0x28, 0x02, 0, 0xFF]), "spatial layer 1");
        assert!(!is_keyframe_start(&[0x48, 0xFF]), "an inter picture");
        assert!(!is_keyframe_start(&[0x00, 0xFF]), "a later packet");
        assert!(!is_keyframe_start(&[0x08]), "no payload");
    }

    proptest! {
        #[test]
        fn the_descriptor_means_the_same_to_the_oracle(mut payload in vec(any::<u8>(), 1..60)) {
            // Structures excepted: the oracle takes reserved bits of theirs for the G bit.
            payload[0] &= !HAS_STRUCTURE;
            let mut theirs = Vp9Packet::default();
            let Ok(rest) = theirs.depacketize(&Bytes::from(payload.clone())) else { return Ok(()) };
            let Some(ours) = Vp9Descriptor::parse(&payload) else { panic!("the oracle accepts it") };
            prop_assert_eq!(&payload[ours.header_len..], &rest[..]);
            prop_assert_eq!(ours.picture_id.map(|(id, _)| id), theirs.i.then_some(theirs.picture_id));
            prop_assert_eq!((ours.begin, ours.end, ours.flexible), (theirs.b, theirs.e, theirs.f));
            prop_assert_eq!((ours.inter_picture_predicted, ours.not_for_upper), (theirs.p, theirs.z));
            prop_assert_eq!((ours.spatial, ours.temporal), (theirs.sid, theirs.tid));
            prop_assert_eq!((ours.switching_up_point, ours.inter_layer_predicted), (theirs.u, theirs.d));
            prop_assert_eq!(ours.tl0_pic_idx, (theirs.l && !theirs.f).then_some(theirs.tl0picidx));
        }
    }
}
