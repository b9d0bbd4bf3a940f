//! Start of a key frame in H.264 payloads (RFC 6184), packetization modes 0 and 1.

/// NAL unit types (ITU-T H.264, table 7-1) and packet types (RFC 6184, table 1).
const IDR_SLICE: u8 = 5;
const SEQUENCE_PARAMETERS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// A sequence parameter set, or else the first slice of an IDR picture: alone, aggregated, or the start of a fragment.
pub fn is_keyframe_start(payload: &[u8]) -> bool {
    match payload {
        [indicator, header, body @ ..] if indicator & 0x1F == FU_A => {
            let start = header & 0x80 != 0;
            start && starts_picture(header & 0x1F, body)
        }
        [indicator, units @ ..] if indicator & 0x1F == STAP_A => any_starts_picture(units),
        [header, body @ ..] => starts_picture(header & 0x1F, body),
        [] => false,
    }
}

/// The units of a STAP-A: two bytes of length before each.
fn any_starts_picture(mut units: &[u8]) -> bool {
    while let [high, low, rest @ ..] = units {
        let Some((unit, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))) else {
            return false;
        };
        if let [header, body @ ..] = unit
            && starts_picture(header & 0x1F, body)
        {
            return true;
        }
        units = rest;
    }
    false
}

fn starts_picture(unit_type: u8, body: &[u8]) -> bool {
    match unit_type {
        SEQUENCE_PARAMETERS => true,
        // `first_mb_in_slice` leads the slice header; ue(v) 0 is a single set bit. Later slices of the picture are no
        // place to start.
        IDR_SLICE => body.first().is_some_and(|byte| byte & 0x80 != 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_sets_and_the_first_slice_of_an_idr_picture_are_starts() {
        assert!(is_keyframe_start(&[0x67, 0x42]));
        assert!(is_keyframe_start(&[0x65, 0x88]));
        assert!(!is_keyframe_start(&[0x65, 0x40]), "a later slice");
        assert!(!is_keyframe_start(&[0x41, 0x9A]), "an inter picture");
        assert!(!is_keyframe_start(&[0x68, 0xCE]), "picture parameters alone");
        assert!(!is_keyframe_start(&[]));
    }

    #[test]
    fn an_aggregate_with_a_start_is_one() {
        assert!(is_keyframe_start(&[0x78, 0, 2, 0x67, 0x42, 0, 2, 0x68, 0xCE]));
        assert!(is_keyframe_start(&[0x78, 0, 2, 0x09, 0xF0, 0, 2, 0x65, 0x88]));
        assert!(!is_keyframe_start(&[0x78, 0, 2, 0x06, 0x05, 0, 2, 0x41, 0x9A]));
        assert!(!is_keyframe_start(&[0x78, 0, 9, 0x67, 0x42]), "cut off");
        assert!(!is_keyframe_start(&[0x78, 0, 0, 0, 0, 0]), "empty units");
    }

    #[test]
    fn only_the_first_fragment_is_a_start() {
        assert!(is_keyframe_start(&[0x7C, 0x85, 0x88]));
        assert!(!is_keyframe_start(&[0x7C, 0x05, 0x88]));
        assert!(!is_keyframe_start(&[0x7C, 0x45, 0x88]));
        assert!(!is_keyframe_start(&[0x7C, 0x81, 0x88]), "an inter picture");
        assert!(!is_keyframe_start(&[0x7C]));
    }
}
