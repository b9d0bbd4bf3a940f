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
    pub flexible: bool,
    /// Whether the packet starts, or ends, a frame: one spatial layer of a picture.
    pub begin: bool,
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
