//! The public key of a certificate (RFC 5280, section 4.1), and what it has signed.
//!
//! Nothing else of a certificate matters: that it is the right one is shown by its fingerprint (RFC 5763, section 5).

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};

use super::der::{BIT_STRING, Der, INTEGER, OBJECT_ID, OID_EC, OID_P256, OID_P384, OID_RSA, SEQUENCE, VERSION};

/// A signature algorithm of TLS (RFC 8446, section 4.2.3), by the values that have the same meaning in TLS 1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureScheme {
    /// In TLS 1.2 the curve is that of the certificate.
    EcdsaSha256,
    EcdsaSha384,
    RsaPssSha256,
    RsaPkcs1Sha256,
}

impl SignatureScheme {
    /// All that we verify, in the order in which we ask for them.
    pub(super) const ALL: [Self; 4] = [Self::EcdsaSha256, Self::EcdsaSha384, Self::RsaPssSha256, Self::RsaPkcs1Sha256];

    pub(super) fn to_wire(self) -> u16 {
        match self {
            Self::EcdsaSha256 => 0x0403,
            Self::EcdsaSha384 => 0x0503,
            Self::RsaPssSha256 => 0x0804,
            Self::RsaPkcs1Sha256 => 0x0401,
        }
    }

    pub(super) fn from_wire(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.to_wire() == id)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    P256,
    P384,
    Rsa,
}

/// The key of a peer's certificate.
#[derive(Debug)]
pub(super) struct PublicKey {
    kind: KeyKind,
    bytes: Box<[u8]>,
}

impl PublicKey {
    /// `None` if the certificate is malformed, or its key is of a kind that we do not verify.
    pub(super) fn of_certificate(certificate: &[u8]) -> Option<Self> {
        let mut outer = Der(certificate);
        let mut to_be_signed = Der(Der(outer.take(SEQUENCE)?).take(SEQUENCE)?);
        if !outer.0.is_empty() {
            return None;
        }
        to_be_signed.take_optional(VERSION)?;
        to_be_signed.take(INTEGER)?; // serial number
        for _signature_issuer_validity_subject in 0..4 {
            to_be_signed.take(SEQUENCE)?;
        }
        Self::of_info(to_be_signed.take(SEQUENCE)?)
    }

    /// Reads a SubjectPublicKeyInfo.
    fn of_info(info: &[u8]) -> Option<Self> {
        let mut info = Der(info);
        let mut algorithm = Der(info.take(SEQUENCE)?);
        let (&unused_bits, bytes) = info.take(BIT_STRING)?.split_first()?;
        let kind = match algorithm.take(OBJECT_ID)? {
            OID_RSA => KeyKind::Rsa,
            OID_EC => match algorithm.take(OBJECT_ID)? {
                OID_P256 => KeyKind::P256,
                OID_P384 => KeyKind::P384,
                _ => return None,
            },
            _ => return None,
        };
        (unused_bits == 0).then(|| Self { kind, bytes: bytes.into() })
    }

    pub(super) fn is_rsa(&self) -> bool {
        self.kind == KeyKind::Rsa
    }

    /// Whether the owner of this key has signed `message`.
    pub(super) fn has_signed(&self, scheme: SignatureScheme, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match (self.kind, scheme) {
            (KeyKind::P256, SignatureScheme::EcdsaSha256) => &ECDSA_P256_SHA256_ASN1,
            (KeyKind::P256, SignatureScheme::EcdsaSha384) => &ECDSA_P256_SHA384_ASN1,
            (KeyKind::P384, SignatureScheme::EcdsaSha256) => &ECDSA_P384_SHA256_ASN1,
            (KeyKind::P384, SignatureScheme::EcdsaSha384) => &ECDSA_P384_SHA384_ASN1,
            (KeyKind::Rsa, SignatureScheme::RsaPssSha256) => &RSA_PSS_2048_8192_SHA256,
            (KeyKind::Rsa, SignatureScheme::RsaPkcs1Sha256) => &RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::P256 | KeyKind::P384, SignatureScheme::RsaPssSha256 | SignatureScheme::RsaPkcs1Sha256)
            | (KeyKind::Rsa, SignatureScheme::EcdsaSha256 | SignatureScheme::EcdsaSha384) => return false,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::Certificate;

    #[test]
    fn the_key_of_our_own_certificate_is_found_and_verifies_what_it_signs() {
        let certificate = Certificate::generate();
        let key = PublicKey::of_certificate(certificate.der()).unwrap();
        assert_eq!((key.kind, key.bytes.len()), (KeyKind::P256, 65));
        let signature = certificate.sign(b"message").unwrap();
        assert!(key.has_signed(SignatureScheme::EcdsaSha256, b"message", signature.as_ref()));
        assert!(!key.has_signed(SignatureScheme::EcdsaSha256, b"massage", signature.as_ref()));
        assert!(!key.has_signed(SignatureScheme::EcdsaSha384, b"message", signature.as_ref()));
        assert!(!key.has_signed(SignatureScheme::RsaPkcs1Sha256, b"message", signature.as_ref()));
    }

    #[test]
    fn a_cut_certificate_has_no_key() {
        let certificate = Certificate::generate();
        for length in 0..certificate.der().len() {
            assert!(PublicKey::of_certificate(&certificate.der()[..length]).is_none());
        }
    }
}
