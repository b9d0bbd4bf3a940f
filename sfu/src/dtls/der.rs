//! The little of DER (X.690) that certificates need.

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OBJECT_ID: u8 = 0x06;
pub(crate) const UTF8_STRING: u8 = 0x0C;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
/// The explicit tag of a certificate's version.
pub(crate) const VERSION: u8 = 0xA0;

pub(crate) const OID_RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];
pub(crate) const OID_EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
pub(crate) const OID_P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
pub(crate) const OID_P384: &[u8] = &[0x2B, 0x81, 0x04, 0x00, 0x22];
pub(crate) const OID_ECDSA_WITH_SHA256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04, 0x03, 0x02];
pub(crate) const OID_COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Takes elements off the front of DER (X.690).
pub(crate) struct Der<'a>(pub &'a [u8]);

impl<'a> Der<'a> {
    /// The contents of the next element, which must have this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&[found, length], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match length {
            0..=0x7F => (usize::from(length), rest),
            0x81 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
            0x82 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?,
            // No certificate in a handshake is so long.
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        (found == tag).then_some(contents)
    }

    /// Skips an element if it is there; `None` if it is malformed.
    pub(crate) fn take_optional(&mut self, tag: u8) -> Option<()> {
        match self.0.first() {
            Some(found) if *found == tag => self.take(tag).map(|_| ()),
            _ => Some(()),
        }
    }
}

/// An element that holds `contents`, one after the other.
///
/// # Panics
///
/// When they are longer than 64 KiB, which nothing of ours is.
pub(crate) fn element(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
    let contents = contents.concat();
    let mut out = vec![tag];
    match u16::try_from(contents.len()).expect("an element of ours is short").to_be_bytes() {
        [0, length @ 0..=0x7F] => out.push(length),
        [0, length] => out.extend_from_slice(&[0x81, length]),
        [high, low] => out.extend_from_slice(&[0x82, high, low]),
    }
    out.extend_from_slice(&contents);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate of version 1 does not say so (RFC 5280, section 4.1).
    #[test]
    fn an_element_that_may_be_left_out_is_skipped_if_it_is_there() {
        let (version, serial) = (element(0xA0, &[&element(2, &[&[2]])]), element(2, &[&[5]]));
        for bytes in [[&version[..], &serial].concat(), serial] {
            let mut der = Der(&bytes);
            assert_eq!(der.take_optional(0xA0), Some(()));
            assert_eq!(der.take(2), Some(&[5][..]));
            assert_eq!(der.take_optional(0xA0), Some(()), "nothing is left");
        }
        assert_eq!(Der(&[0xA0, 5, 1]).take_optional(0xA0), None, "longer than what is there");
    }
}
