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
