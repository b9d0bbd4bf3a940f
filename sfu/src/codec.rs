//! What a forwarder must know of a codec's payload: where a decoder can start, and which layer a packet belongs to.
//!
//! Payload descriptors only; the bitstream itself is left to the ends, one file a codec.

pub mod av1;
pub mod dependency;
pub mod h264;
pub mod h265;
pub mod vp8;
pub mod vp9;

use shared::media::Codec;

pub use dependency::{DependencyDescriptor, DependencyHeader, TemplateStructure};
pub use vp8::{Vp8Descriptor, rewrite_vp8};
pub use vp9::Vp9Descriptor;

/// Whether this is the first packet of a key frame, from which a decoder that has seen nothing can start.
///
/// `payload` is without padding. `dependency_descriptor` is the value of that header extension if the packet has one:
/// it settles the question where the payload is encrypted end to end. Every packet of an audio codec is a start.
pub fn is_keyframe_start(codec: Codec, payload: &[u8], dependency_descriptor: Option<&[u8]>) -> bool {
    let announced = || {
        let header = dependency_descriptor.and_then(DependencyHeader::parse);
        header.is_some_and(|header| header.start_of_frame && header.structure_attached)
    };
    match codec {
        Codec::Opus | Codec::Red | Codec::Pcmu | Codec::Pcma => true,
        Codec::Vp8 => announced() || vp8::is_keyframe_start(payload),
        Codec::Vp9 { .. } => announced() || vp9::is_keyframe_start(payload),
        Codec::H264 { .. } => announced() || h264::is_keyframe_start(payload),
        Codec::H265 => announced() || h265::is_keyframe_start(payload),
        Codec::Av1 { .. } => announced() || av1::is_keyframe_start(payload),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_structure_in_the_descriptor_settles_it_without_the_payload() {
        let starts = |descriptor: &[u8]| is_keyframe_start(Codec::Av1 { profile: 0 }, &[0x10, 0x32], Some(descriptor));
        assert!(starts(&[0x80, 0, 1, 0x80]));
        assert!(!starts(&[0x80, 0, 1]), "no structure");
        assert!(!starts(&[0x00, 0, 1, 0x80]), "not the frame's first packet");
    }

    #[test]
    fn every_audio_packet_is_a_start() {
        assert!(is_keyframe_start(Codec::Opus, &[], None));
    }

    /// The payload tells where it is in clear, the descriptor where it is encrypted.
    #[test]
    fn either_the_payload_or_the_descriptor_makes_a_start_whatever_the_codec() {
        let structure: &[u8] = &[0x80, 0, 1, 0x80];
        // With other fields than a structure.
        let none: &[u8] = &[0x80, 0, 1, 0x40];
        for (codec, start, other) in [
            (Codec::Vp8, &[0x10, 0x00][..], &[0x10, 0x01][..]),
            (Codec::Vp9 { profile: 0 }, &[0x0C, 0x18], &[0x48, 0x18]),
            (Codec::H264 { packetization_mode: 1, profile: [0x42, 0xE0] }, &[0x67, 0x42], &[0x41, 0x9A]),
            (Codec::H265, &[0x26, 1, 0x80], &[0x02, 1, 0x80]),
            (Codec::Av1 { profile: 0 }, &[0x18, 0x0A, 1], &[0x10, 0x32, 1]),
        ] {
            assert!(is_keyframe_start(codec, start, None), "{codec:?}: in clear");
            assert!(is_keyframe_start(codec, start, Some(none)), "{codec:?}: with a descriptor that tells nothing");
            assert!(is_keyframe_start(codec, other, Some(structure)), "{codec:?}: encrypted");
            assert!(!is_keyframe_start(codec, other, Some(none)), "{codec:?}: neither");
            assert!(!is_keyframe_start(codec, other, None), "{codec:?}: another frame");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
            crate::fuzzing::codec(&bytes);
            crate::fuzzing::audio(&bytes);
            crate::fuzzing::twcc(&bytes);
        }
    }
}
