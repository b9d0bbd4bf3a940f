//! Dependency descriptor header extension (RTP Payload Format For AV1, appendix A), read as far as forwarding needs it.
//!
//! It says which frame a packet belongs to and which layer that frame is in, for any codec and without a look at the
//! payload. Frames name a template; the templates come with key frames and must be remembered until the next.

use arrayvec::ArrayVec;

/// Template ids have six bits.
const TEMPLATES_MAX: usize = 64;
/// The count of decode targets has five bits, plus one.
const DECODE_TARGETS_MAX: usize = 32;
/// The specification's bounds of a layer's ids.
const SPATIAL_ID_MAX: u8 = 3;
const TEMPORAL_ID_MAX: u8 = 7;
/// Mandatory fields alone.
const MANDATORY_LEN: usize = 3;

/// The mandatory fields, which need no remembered structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DependencyHeader {
    /// Whether the packet is the first of its frame.
    pub start_of_frame: bool,
    /// Whether it is the last of its frame.
    pub end_of_frame: bool,
    /// Template that the frame is of.
    pub template_id: u8,
    /// Number of the frame, modulo 2^16.
    pub frame_number: u16,
    /// Whether a template structure follows: the frame starts a coded video sequence.
    pub structure_attached: bool,
}

impl DependencyHeader {
    /// `None` if shorter than the mandatory three bytes.
    pub fn parse(extension: &[u8]) -> Option<Self> {
        let [head, high, low, rest @ ..] = extension else { return None };
        Some(Self {
            start_of_frame: head & 0x80 != 0,
            end_of_frame: head & 0x40 != 0,
            template_id: head & 0x3F,
            frame_number: u16::from_be_bytes([*high, *low]),
            structure_attached: rest.first().is_some_and(|flags| flags & 0x80 != 0),
        })
    }
}

/// How one frame matters to one decode target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indication {
    /// Not part of it: withhold.
    NotPresent,
    /// Part of it, and nothing later refers to it.
    Discardable,
    /// Part of it, and a receiver can switch to the target here.
    Switch,
    /// Part of it, and later frames refer to it.
    Required,
}

/// What frames of one template have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Template {
    /// Spatial layer of the frame.
    pub spatial: u8,
    /// Temporal layer of the frame.
    pub temporal: u8,
    /// Two bits a decode target, the first in the lowest place.
    indications: u64,
}

impl Template {
    /// How such a frame matters to a decode target.
    pub fn indication(&self, decode_target: u8) -> Indication {
        indication(self.indications, decode_target)
    }
}

fn indication(packed: u64, decode_target: u8) -> Indication {
    let bits = packed.checked_shr(2 * u32::from(decode_target)).unwrap_or(0);
    match bits & 3 {
        0 => Indication::NotPresent,
        1 => Indication::Discardable,
        2 => Indication::Switch,
        _ => Indication::Required,
    }
}

/// The templates that frames of a coded video sequence refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateStructure {
    /// Id of the first template.
    id_offset: u8,
    /// How many decode targets there are.
    pub decode_targets: u8,
    chains: u8,
    /// The templates, by their ids from the first one on.
    pub templates: ArrayVec<Template, TEMPLATES_MAX>,
    /// Width and height in pixels of each spatial layer, if told.
    pub resolutions: ArrayVec<(u32, u32), { SPATIAL_ID_MAX as usize + 1 }>,
}

impl TemplateStructure {
    /// The template with this id.
    pub fn template(&self, id: u8) -> Option<&Template> {
        let index = id.wrapping_sub(self.id_offset) & 0x3F;
        self.templates.get(usize::from(index))
    }

    /// Highest spatial and highest temporal layer of a decode target; `None` if nothing belongs to it.
    pub fn target_layers(&self, decode_target: u8) -> Option<(u8, u8)> {
        let parts = self.templates.iter().filter(|t| t.indication(decode_target) != Indication::NotPresent);
        parts.map(|t| (t.spatial, t.temporal)).reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
    }
}

/// What the descriptor of one packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DependencyDescriptor {
    /// The mandatory fields.
    pub header: DependencyHeader,
    /// Spatial layer of the frame.
    pub spatial: u8,
    /// Temporal layer of the frame.
    pub temporal: u8,
    /// The frame's own indications if it has some, else those of its template.
    indications: u64,
    /// One bit a decode target, the first in the lowest place. `None`: as before.
    pub active_decode_targets: Option<u32>,
}

impl DependencyDescriptor {
    /// Reads a descriptor, with the templates that `structure` remembers; one that brings templates replaces them.
    ///
    /// `None` if it ends early, breaks a bound of the specification, or names a template that is not known. `structure`
    /// is then left as it was.
    pub fn parse(extension: &[u8], structure: &mut Option<TemplateStructure>) -> Option<Self> {
        let header = DependencyHeader::parse(extension)?;
        let mut bits = Bits { bytes: extension.get(MANDATORY_LEN..)?, at: 0 };
        let flags = if bits.bytes.is_empty() { Flags::default() } else { Flags::read(&mut bits)? };
        let attached = if flags.structure { Some(read_structure(&mut bits)?) } else { None };
        let known = attached.as_ref().or(structure.as_ref())?;
        let template = *known.template(header.template_id)?;
        let active_decode_targets = match (flags.active_targets, flags.structure) {
            (true, _) => Some(read_target_mask(&mut bits, known.decode_targets)?),
            (false, true) => Some(u32::MAX >> (DECODE_TARGETS_MAX as u32 - u32::from(known.decode_targets))),
            (false, false) => None,
        };
        let indications = match flags.custom_indications {
            true => read_indications(&mut bits, known.decode_targets)?,
            false => template.indications,
        };
        let descriptor =
            Self { header, spatial: template.spatial, temporal: template.temporal, indications, active_decode_targets };
        flags.skip_custom_dependencies(&mut bits, known.chains)?;
        if attached.is_some() {
            *structure = attached;
        }
        Some(descriptor)
    }

    /// How the frame matters to a decode target.
    pub fn indication(&self, decode_target: u8) -> Indication {
        indication(self.indications, decode_target)
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    structure: bool,
    active_targets: bool,
    custom_indications: bool,
    custom_references: bool,
    custom_chains: bool,
}

impl Flags {
    fn read(bits: &mut Bits) -> Option<Self> {
        Some(Self {
            structure: bits.flag()?,
            active_targets: bits.flag()?,
            custom_indications: bits.flag()?,
            custom_references: bits.flag()?,
            custom_chains: bits.flag()?,
        })
    }

    /// Frame differences and chain differences of the frame itself: of no use here, but must be complete.
    fn skip_custom_dependencies(&self, bits: &mut Bits, chains: u8) -> Option<()> {
        if self.custom_references {
            loop {
                match bits.take(2)? {
                    0 => break,
                    nibbles => bits.skip(4 * nibbles as usize)?,
                }
            }
        }
        if self.custom_chains { bits.skip(8 * usize::from(chains)) } else { Some(()) }
    }
}

fn read_structure(bits: &mut Bits) -> Option<TemplateStructure> {
    let id_offset = bits.take(6)? as u8;
    let decode_targets = bits.take(5)? as u8 + 1;
    let mut templates = read_layers(bits)?;
    for template in &mut templates {
        template.indications = read_indications(bits, decode_targets)?;
    }
    skip_references(bits, templates.len())?;
    let chains = bits.non_symmetric(u32::from(decode_targets) + 1)? as u8;
    if chains > 0 {
        for _ in 0..decode_targets {
            bits.non_symmetric(u32::from(chains))?;
        }
        bits.skip(4 * usize::from(chains) * templates.len())?;
    }
    let spatial_max = templates.iter().map(|template| template.spatial).max().unwrap_or(0);
    let resolutions = if bits.flag()? { read_resolutions(bits, spatial_max)? } else { ArrayVec::new() };
    Some(TemplateStructure { id_offset, decode_targets, chains, templates, resolutions })
}

/// Layers of the templates: each is in the layer of the one before, the next temporal, or the next spatial one.
fn read_layers(bits: &mut Bits) -> Option<ArrayVec<Template, TEMPLATES_MAX>> {
    let mut templates = ArrayVec::new();
    let mut template = Template { spatial: 0, temporal: 0, indications: 0 };
    loop {
        templates.try_push(template).ok()?;
        match bits.take(2)? {
            0 => {}
            1 => template.temporal += 1,
            2 => {
                template.temporal = 0;
                template.spatial += 1;
            }
            _ => return Some(templates),
        }
        if template.temporal > TEMPORAL_ID_MAX || template.spatial > SPATIAL_ID_MAX {
            return None;
        }
    }
}

/// Packed, the first decode target in the lowest place.
fn read_indications(bits: &mut Bits, decode_targets: u8) -> Option<u64> {
    (0..decode_targets).try_fold(0, |packed, target| Some(packed | u64::from(bits.take(2)?) << (2 * target)))
}

/// The first bit read is that of the last decode target.
fn read_target_mask(bits: &mut Bits, decode_targets: u8) -> Option<u32> {
    bits.take(u32::from(decode_targets))
}

fn skip_references(bits: &mut Bits, templates: usize) -> Option<()> {
    for _ in 0..templates {
        while bits.flag()? {
            bits.skip(4)?;
        }
    }
    Some(())
}

fn read_resolutions(bits: &mut Bits, spatial_max: u8) -> Option<ArrayVec<(u32, u32), { SPATIAL_ID_MAX as usize + 1 }>> {
    (0..=spatial_max).map(|_| Some((bits.take(16)? + 1, bits.take(16)? + 1))).collect()
}

/// Reads bits from the highest of the first byte on.
#[derive(Debug, Clone, Copy)]
struct Bits<'a> {
    bytes: &'a [u8],
    /// In bits.
    at: usize,
}

impl Bits<'_> {
    fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// Up to 32 bits.
    fn take(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value, _| Some(value << 1 | u32::from(self.flag()?)))
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at = self.at.checked_add(count)?;
        (self.at <= 8 * self.bytes.len()).then_some(())
    }

    /// A number below `bound`, in one bit less where that is enough (AV1 specification, section 4.10.7).
    fn non_symmetric(&mut self, bound: u32) -> Option<u32> {
        let width = u32::BITS - bound.leading_zeros();
        let short_codes = (1u32 << width) - bound;
        let value = self.take(width.checked_sub(1)?)?;
        if value < short_codes {
            return Some(value);
        }
        Some((value << 1 | u32::from(self.flag()?)) - short_codes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Writes bits from the highest of the first byte on.
    #[derive(Default)]
    struct BitWriter {
        bytes: Vec<u8>,
        len: usize,
    }

    impl BitWriter {
        fn put(&mut self, value: u32, width: u32) -> &mut Self {
            for bit in (0..width).rev() {
                if self.len.is_multiple_of(8) {
                    self.bytes.push(0);
                }
                *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (7 - self.len % 8);
                self.len += 1;
            }
            self
        }
    }

    fn header(template_id: u32, frame_number: u32) -> BitWriter {
        let mut bits = BitWriter::default();
        bits.put(0b10, 2).put(template_id, 6).put(frame_number, 16);
        bits
    }

    /// Two spatial layers (`L2T1`): templates 3 and 4, two decode targets, one chain, resolutions.
    fn key_frame() -> Vec<u8> {
        let mut bits = header(3, 77);
        bits.put(0b10000, 5).put(3, 6).put(1, 5);
        bits.put(2, 2).put(3, 2);
        bits.put(0b10_10, 4).put(0b00_01, 4);
        // The first template refers to nothing, the second to the frame before.
        bits.put(0, 1).put(1, 1).put(0, 4).put(0, 1);
        // One chain: ns(3) of 1 is `10`; protected by chain 0 takes no bits; a difference for each template.
        bits.put(0b10, 2).put(0, 4).put(1, 4);
        bits.put(1, 1).put(319, 16).put(179, 16).put(639, 16).put(359, 16);
        bits.bytes
    }

    #[test]
    fn templates_come_with_a_key_frame_and_are_remembered() {
        let mut structure = None;
        let key = DependencyDescriptor::parse(&key_frame(), &mut structure).unwrap();
        assert!(key.header.start_of_frame && !key.header.end_of_frame && key.header.structure_attached);
        assert_eq!((key.header.frame_number, key.spatial, key.temporal), (77, 0, 0));
        assert_eq!(key.active_decode_targets, Some(0b11));
        assert_eq!((key.indication(0), key.indication(1)), (Indication::Switch, Indication::Switch));

        let known = structure.clone().unwrap();
        assert_eq!(known.resolutions[..], [(320, 180), (640, 360)]);
        assert_eq!((known.target_layers(0), known.target_layers(1)), (Some((0, 0)), Some((1, 0))));
        assert_eq!(known.target_layers(2), None);

        let upper = DependencyDescriptor::parse(&header(4, 77).bytes, &mut structure).unwrap();
        assert_eq!((upper.spatial, upper.active_decode_targets), (1, None));
        assert_eq!((upper.indication(0), upper.indication(1)), (Indication::NotPresent, Indication::Discardable));
        assert_eq!(structure, Some(known));
    }

    #[test]
    fn a_frame_without_its_templates_is_refused() {
        assert_eq!(DependencyDescriptor::parse(&header(3, 1).bytes, &mut None), None);
        let mut structure = None;
        DependencyDescriptor::parse(&key_frame(), &mut structure).unwrap();
        assert_eq!(DependencyDescriptor::parse(&header(5, 1).bytes, &mut structure), None);
        assert_eq!(DependencyDescriptor::parse(&header(2, 1).bytes, &mut structure), None);
    }

    #[test]
    fn a_structure_cut_off_anywhere_changes_nothing() {
        let bytes = key_frame();
        for len in 4..bytes.len() {
            let mut structure = None;
            assert_eq!(DependencyDescriptor::parse(&bytes[..len], &mut structure), None);
            assert_eq!(structure, None);
        }
    }

    #[test]
    fn a_frame_may_say_its_own_indications_and_active_targets() {
        let mut structure = None;
        DependencyDescriptor::parse(&key_frame(), &mut structure).unwrap();
        let mut bits = header(4, 78);
        // Active targets, indications, references (4 and 8 bits, then the end) and chains of its own.
        bits.put(0b01111, 5).put(0b01, 2).put(0b11_10, 4).put(1, 2).put(0, 4).put(2, 2).put(0, 8).put(0, 2).put(9, 8);
        let own = DependencyDescriptor::parse(&bits.bytes, &mut structure).unwrap();
        assert_eq!(own.active_decode_targets, Some(0b01));
        assert_eq!((own.indication(0), own.indication(1)), (Indication::Required, Indication::Switch));
        assert_eq!(DependencyDescriptor::parse(&bits.bytes[..bits.bytes.len() - 1], &mut structure), None);
    }

    /// A key frame whose templates follow each other by these steps, without references, chains and resolutions.
    fn layers(steps: &[u32]) -> Vec<u8> {
        let mut bits = header(0, 1);
        bits.put(0b10000, 5).put(0, 6).put(0, 5);
        steps.iter().for_each(|step| _ = bits.put(*step, 2));
        bits.put(3, 2);
        (0..=steps.len()).for_each(|_| _ = bits.put(0b10, 2));
        (0..=steps.len()).for_each(|_| _ = bits.put(0, 1));
        bits.put(0, 1).put(0, 1);
        bits.bytes
    }

    #[test]
    fn templates_are_of_the_same_the_next_temporal_or_the_next_spatial_layer() {
        let read = |steps: &[u32]| {
            let mut structure = None;
            DependencyDescriptor::parse(&layers(steps), &mut structure)?;
            let templates = structure?.templates;
            Some(templates.iter().map(|template| (template.spatial, template.temporal)).collect::<Vec<_>>())
        };
        assert_eq!(read(&[0, 1, 2, 1, 1]), Some(vec![(0, 0), (0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]));
        assert_eq!(read(&[1; 7]).map(|templates| templates.len()), Some(8));
        assert_eq!(read(&[1; 8]), None, "a ninth temporal layer");
        assert_eq!(read(&[2; 3]).map(|templates| templates.len()), Some(4));
        assert_eq!(read(&[2; 4]), None, "a fifth spatial layer");
        assert_eq!(read(&[0; 63]).map(|templates| templates.len()), Some(64));
        assert_eq!(read(&[0; 64]), None, "more than ids");
    }

    #[test]
    fn what_protects_targets_is_skipped_for_each_chain_and_template() {
        // Three templates of one layer, two decode targets, two chains.
        let mut bits = header(0, 1);
        bits.put(0b10000, 5).put(0, 6).put(1, 5).put(0, 2).put(0, 2).put(3, 2);
        (0..3).for_each(|_| _ = bits.put(0b1010, 4));
        (0..3).for_each(|_| _ = bits.put(0, 1));
        // ns(3) of 2, a chain for each target, and a difference of four bits for each chain of each template.
        bits.put(0b11, 2).put(0, 1).put(1, 1).put(0xABCDEF, 24);
        bits.put(1, 1).put(319, 16).put(179, 16);
        let mut structure = None;
        assert!(DependencyDescriptor::parse(&bits.bytes, &mut structure).is_some());
        assert_eq!(structure.map(|known| known.resolutions.to_vec()), Some(vec![(320, 180)]));
    }

    #[test]
    fn more_templates_than_ids_are_refused() {
        let mut bits = header(0, 1);
        bits.put(0b10000, 5).put(0, 6).put(0, 5);
        for _ in 0..200 {
            bits.put(0, 2);
        }
        assert_eq!(DependencyDescriptor::parse(&bits.bytes, &mut None), None);
    }

    #[test]
    fn numbers_below_a_bound_take_the_bits_of_the_specification() {
        let read = |bytes: &[u8], bound| {
            let mut bits = Bits { bytes, at: 0 };
            bits.non_symmetric(bound).map(|value| (value, bits.at))
        };
        // AV1's own table for a bound of 5.
        assert_eq!(read(&[0b0000_0000], 5), Some((0, 2)));
        assert_eq!(read(&[0b0100_0000], 5), Some((1, 2)));
        assert_eq!(read(&[0b1000_0000], 5), Some((2, 2)));
        assert_eq!(read(&[0b1100_0000], 5), Some((3, 3)));
        assert_eq!(read(&[0b1110_0000], 5), Some((4, 3)));
        assert_eq!(read(&[], 1), Some((0, 0)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(frames in vec(vec(any::<u8>(), 0..80), 1..6)) {
            let mut structure = None;
            for mut frame in frames {
                if let Some(flags) = frame.get_mut(3) {
                    *flags |= 0x80;
                }
                let _ = DependencyDescriptor::parse(&frame, &mut structure);
            }
        }
    }
}
