//! What is derived from the key exchange, all with the PRF of SHA-256 (RFC 5246, section 5).

use ring::{digest, hmac};
use zeroize::Zeroizing;

use super::record::{Opener, Sealer};
use crate::keying::{KeyingMaterial, SrtpProfile};
use crate::parameters::DtlsRole;

/// Label of the SRTP keying material (RFC 5764, section 4.2).
const EXPORTER_LABEL: &[u8] = b"EXTRACTOR-dtls_srtp";
/// Length of the check in a Finished message, in bytes.
pub(super) const VERIFY_DATA_LENGTH: usize = 12;

/// The random numbers of both sides.
#[derive(Clone, Copy)]
pub(super) struct Randoms {
    pub client: [u8; 32],
    pub server: [u8; 32],
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// Fills `out` with pseudorandom bytes that depend on all of the input.
fn prf(secret: &[u8], label: &[u8], seed: &[&[u8]], out: &mut [u8]) {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let with_seed = |mut context: hmac::Context| {
        context.update(label);
        seed.iter().for_each(|part| context.update(part));
        context.sign()
    };
    let mut chained = with_seed(hmac::Context::with_key(&key));
    for chunk in out.chunks_mut(32) {
        let mut context = hmac::Context::with_key(&key);
        context.update(chained.as_ref());
        let block = with_seed(context);
        chunk.iter_mut().zip(block.as_ref()).for_each(|(to, from)| *to = *from);
        chained = hmac::sign(&key, chained.as_ref());
    }
}

/// The secret that all keys come from. Wiped when dropped.
pub(super) struct MasterSecret(Zeroizing<[u8; 48]>);

impl MasterSecret {
    /// The extended master secret: bound to the handshake so far, not only to its random numbers (RFC 7627).
    pub(super) fn new(shared: &[u8], session_hash: &[u8; 32]) -> Self {
        let mut secret = Zeroizing::new([0; 48]);
        prf(shared, b"extended master secret", &[session_hash], secret.as_mut());
        Self(secret)
    }

    /// The record keys of both directions (RFC 5246, section 6.3), as they serve in this role.
    pub(super) fn record_keys(&self, randoms: &Randoms, role: DtlsRole) -> (Opener, Sealer) {
        let mut block = Zeroizing::new([0; 2 * 16 + 2 * 4]);
        prf(self.0.as_ref(), b"key expansion", &[&randoms.server, &randoms.client], block.as_mut());
        let (mut client_key, mut server_key) = (Zeroizing::new([0; 16]), Zeroizing::new([0; 16]));
        let (mut client_salt, mut server_salt) = ([0; 4], [0; 4]);
        let parts: [&mut [u8]; 4] = [client_key.as_mut(), server_key.as_mut(), &mut client_salt, &mut server_salt];
        let mut bytes = block.iter();
        parts.into_iter().flatten().zip(&mut bytes).for_each(|(to, from)| *to = *from);
        match role {
            DtlsRole::Server => (Opener::new(&client_key, client_salt), Sealer::new(&server_key, server_salt)),
            DtlsRole::Client => (Opener::new(&server_key, server_salt), Sealer::new(&client_key, client_salt)),
        }
    }

    /// The check in the Finished message of the client or the server, over the messages before it (RFC 5246, section
    /// 7.4.9).
    pub(super) fn verify_data(&self, side: DtlsRole, transcript: &[u8]) -> [u8; VERIFY_DATA_LENGTH] {
        let label: &[u8] = match side {
            DtlsRole::Client => b"client finished",
            DtlsRole::Server => b"server finished",
        };
        let mut check = [0; VERIFY_DATA_LENGTH];
        prf(self.0.as_ref(), label, &[&sha256(transcript)], &mut check);
        check
    }

    /// The SRTP keys (RFC 5705 without a context, RFC 5764 section 4.2), as they serve in this role.
    pub(super) fn srtp_keys(&self, profile: SrtpProfile, randoms: &Randoms, role: DtlsRole) -> Option<KeyingMaterial> {
        let mut exported = Zeroizing::new([0; 2 * (32 + 14)]);
        let (used, _) = exported.split_at_mut_checked(2 * (profile.key_length() + profile.salt_length()))?;
        prf(self.0.as_ref(), EXPORTER_LABEL, &[&randoms.client, &randoms.server], used);
        KeyingMaterial::split(profile, used, role)
    }
}

/// Compares without leaking where the difference is.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answer for SHA-256 that circulates among implementers of TLS 1.2; the standard has none.
    #[test]
    fn the_prf_gives_the_known_answer() {
        let secret = [0x9b, 0xbe, 0x43, 0x6b, 0xa9, 0x40, 0xf0, 0x17, 0xb1, 0x76, 0x52, 0x84, 0x9a, 0x71, 0xdb, 0x35];
        let seed = [0xa0, 0xba, 0x9f, 0x93, 0x6c, 0xda, 0x31, 0x18, 0x27, 0xa6, 0xf7, 0x96, 0xff, 0xd5, 0x19, 0x8c];
        let mut out = [0; 100];
        prf(&secret, b"test label", &[&seed], &mut out);
        assert_eq!(out[..8], [0xe3, 0xf2, 0x29, 0xba, 0x72, 0x7b, 0xe1, 0x7b]);
        assert_eq!(out[92..], [0x10, 0xff, 0xf7, 0x01, 0x87, 0x34, 0x7b, 0x66]);
    }
}
