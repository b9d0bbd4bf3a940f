//! Start of a key frame in H.265 payloads (RFC 7798), without DONL fields.

/// NAL unit types (ITU-T H.265, table 7-1) and packet types (RFC 7798, section 4.4).
const IRAP_FIRST: u8 = 16;
const IRAP_LAST: u8 = 21;
const VIDEO_PARAMETERS: u8 = 32;
const SEQUENCE_PARAMETERS: u8 = 33;
const AGGREGATION: u8 = 48;
const FRAGMENTATION: u8 = 49;
/// Every unit starts with a header of two bytes.
const UNIT_HEADER_LEN: usize = 2;

/// A video or sequence parameter set, or else the first slice of a random access picture: alone, aggregated, or the
/// start of a fragment.
pub fn is_keyframe_start(payload: &[u8]) -> bool {
    let Some((header, body)) = payload.split_first_chunk::<UNIT_HEADER_LEN>() else { return false };
    match (unit_type(header[0]), body) {
        (AGGREGATION, units) => any_starts_picture(units),
        (FRAGMENTATION, [fragment, body @ ..]) => fragment & 0x80 != 0 && starts_picture(fragment & 0x3F, body),
        (unit_type, body) => starts_picture(unit_type, body),
    }
}

fn unit_type(header: u8) -> u8 {
    header >> 1 & 0x3F
}

/// The units of an aggregation packet: two bytes of length before each.
fn any_starts_picture(mut units: &[u8]) -> bool {
    while let [high, low, rest @ ..] = units {
        let Some((unit, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))) else {
            return false;
        };
        if let [header, _, body @ ..] = unit
            && starts_picture(unit_type(*header), body)
        {
            return true;
        }
        units = rest;
    }
    false
}

fn starts_picture(unit_type: u8, body: &[u8]) -> bool {
    match unit_type {
        VIDEO_PARAMETERS | SEQUENCE_PARAMETERS => true,
        // The slice header starts with `first_slice_segment_in_pic_flag`.
        IRAP_FIRST..=IRAP_LAST => body.first().is_some_and(|byte| byte & 0x80 != 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameter_sets_and_the_first_slice_of_a_random_access_picture_are_starts() {
        assert!(is_keyframe_start(&[0x40, 1, 0x0C]), "video parameters");
        assert!(is_keyframe_start(&[0x42, 1, 0x01]), "sequence parameters");
        assert!(is_keyframe_start(&[0x26, 1, 0x80]), "IDR");
        assert!(!is_keyframe_start(&[0x26, 1, 0x40]), "a later slice");
        assert!(!is_keyframe_start(&[0x02, 1, 0x80]), "an inter picture");
        assert!(!is_keyframe_start(&[0x42]));
    }

    #[test]
    fn aggregates_and_first_fragments_can_be_starts() {
        assert!(is_keyframe_start(&[0x60, 1, 0, 3, 0x40, 1, 0x0C, 0, 3, 0x42, 1, 1]));
        assert!(!is_keyframe_start(&[0x60, 1, 0, 3, 0x44, 1, 0x0C]));
        assert!(is_keyframe_start(&[0x62, 1, 0x80 | 19, 0x80]));
        assert!(!is_keyframe_start(&[0x62, 1, 19, 0x80]));
    }
}
