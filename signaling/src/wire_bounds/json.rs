//! What a text of JSON would cost, measured before it is parsed.

use super::refused::{DEPTH_MAX, Refused};

/// How deep values of JSON may nest: a list around each message.
pub const JSON_DEPTH_MAX: usize = 2 * DEPTH_MAX;

/// Values of a JSON text. Parsed, one takes some hundred bytes.
pub const JSON_VALUES_MAX: usize = 64 << 10;

/// Looks through JSON (RFC 8259) for how many values it has and how deep they nest. Whether it is well-formed is left
/// to the parser.
pub(crate) fn measure_json(json: &[u8]) -> Result<(), Refused> {
    let (mut values, mut depth, mut in_text) = (0, 0_usize, false);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_text = !in_text,
            b'\\' if in_text => drop(bytes.next()),
            _ if in_text => {}
            b'{' | b'[' => (values, depth) = (values + 1, depth + 1),
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if values > JSON_VALUES_MAX {
            return Err(Refused::Elements(JSON_VALUES_MAX));
        }
        if depth > JSON_DEPTH_MAX {
            return Err(Refused::Depth);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_json_are_counted_outside_of_texts() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(measure_json(nested(JSON_DEPTH_MAX).as_bytes()), Ok(()));
        assert_eq!(measure_json(nested(JSON_DEPTH_MAX + 1).as_bytes()), Err(Refused::Depth));
        let list = |count: usize| format!("[{}1]", "1,".repeat(count));
        assert_eq!(measure_json(list(JSON_VALUES_MAX - 1).as_bytes()), Ok(()));
        assert_eq!(measure_json(list(JSON_VALUES_MAX).as_bytes()), Err(Refused::Elements(JSON_VALUES_MAX)));
        let text = format!(r#"{{"a":"\"{}"}}"#, ",[{".repeat(JSON_VALUES_MAX));
        assert_eq!(measure_json(text.as_bytes()), Ok(()));
    }
}
