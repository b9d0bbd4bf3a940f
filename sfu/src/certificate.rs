//! The DTLS certificate of this process.

use std::fmt;
use std::sync::Arc;

use ring::digest;
use ring::error::Unspecified;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, Signature};

use crate::dtls::der::{
    BIT_STRING, GENERALIZED_TIME, INTEGER, OBJECT_ID, OID_COMMON_NAME, OID_EC, OID_ECDSA_WITH_SHA256, OID_P256,
    SEQUENCE, SET, UTC_TIME, UTF8_STRING, VERSION, element,
};
use crate::parameters::Fingerprint;

/// Made once at start, shared by all workers. Cheap to clone.
#[derive(Clone)]
pub struct Certificate {
    /// What descriptions name it by.
    pub fingerprint: Fingerprint,
    own: Arc<Own>,
}

struct Own {
    der: Vec<u8>,
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Certificate {
    /// A new self-signed ECDSA P-256 certificate.
    ///
    /// # Panics
    ///
    /// Only when the operating system gives no random bytes.
    pub fn generate() -> Self {
        const WHY: &str = "a P-256 key can be made and used as long as the system gives random bytes";
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect(WHY);
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).expect(WHY);
        let serial: [u8; 15] = ring::rand::generate(&random).expect(WHY).expose();
        let to_be_signed = to_be_signed(serial, key.public_key().as_ref());
        let signature = key.sign(&random, &to_be_signed).expect(WHY);
        let der = element(SEQUENCE, &[&to_be_signed, &ecdsa_with_sha256(), &bit_string(signature.as_ref())]);
        Self { fingerprint: fingerprint_of(&der), own: Arc::new(Own { der, key, random }) }
    }

    pub(crate) fn der(&self) -> &[u8] {
        &self.own.der
    }

    /// ECDSA with SHA-256, in DER.
    ///
    /// # Errors
    ///
    /// Only when the operating system gives no random bytes.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Signature, Unspecified> {
        self.own.key.sign(&self.own.random, message)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate in DER (RFC 8122, section 5).
pub(crate) fn fingerprint_of(certificate: &[u8]) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    Fingerprint(bytes)
}

/// A TBSCertificate (RFC 5280, section 4.1) of version 3 without extensions.
///
/// It says nothing about who we are, and has no end (section 4.1.2.5): its fingerprint in the SDP is what counts.
fn to_be_signed(mut serial: [u8; 15], public_key: &[u8]) -> Vec<u8> {
    // Positive, and in its shortest form.
    serial[0] = serial[0] & 0x7F | 0x40;
    let common_name = element(SEQUENCE, &[&element(OBJECT_ID, &[OID_COMMON_NAME]), &element(UTF8_STRING, &[b"onair"])]);
    let name = element(SEQUENCE, &[&element(SET, &[&common_name])]);
    let validity = element(
        SEQUENCE,
        &[&element(UTC_TIME, &[b"000101000000Z"]), &element(GENERALIZED_TIME, &[b"99991231235959Z"])],
    );
    let algorithm = element(SEQUENCE, &[&element(OBJECT_ID, &[OID_EC]), &element(OBJECT_ID, &[OID_P256])]);
    let key_info = element(SEQUENCE, &[&algorithm, &bit_string(public_key)]);
    element(
        SEQUENCE,
        &[
            &element(VERSION, &[&element(INTEGER, &[&[2]])]),
            &element(INTEGER, &[&serial]),
            &ecdsa_with_sha256(),
            &name,
            &validity,
            &name,
            &key_info,
        ],
    )
}

fn ecdsa_with_sha256() -> Vec<u8> {
    element(SEQUENCE, &[&element(OBJECT_ID, &[OID_ECDSA_WITH_SHA256])])
}

fn bit_string(bytes: &[u8]) -> Vec<u8> {
    element(BIT_STRING, &[&[0], bytes])
}
