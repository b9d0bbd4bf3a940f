//! The DTLS certificate of this process, and the handshake settings that go with it.

use std::fmt;
use std::sync::Arc;

use ring::digest;
use rtc_crypto::providers::RingProvider;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;

use crate::command::Fingerprint;
use crate::dtls::SrtpProfile;

/// Largest handshake fragment, in bytes: with its headers it fits the 1,200 bytes that every path carries.
const HANDSHAKE_MTU: usize = 1_150;

/// Made once at start, shared by all workers. Cheap to clone.
#[derive(Clone)]
pub struct Certificate {
    pub fingerprint: Fingerprint,
    settings: Arc<[(SrtpProfile, Arc<HandshakeConfig>); 3]>,
}

impl Certificate {
    /// A new self-signed ECDSA P-256 certificate.
    ///
    /// # Panics
    ///
    /// Only when the operating system gives no random bytes.
    pub fn generate() -> Self {
        let provider = Arc::new(RingProvider::new());
        let certificate = rtc_dtls::crypto::Certificate::generate_self_signed(
            vec!["onair".to_owned()],
            rtc_crypto::RTCCryptoProvider::crypto(provider.as_ref()),
        )
        .expect("a P-256 key can be made as long as the system gives random bytes");
        let leaf = certificate.certificate.first().expect("a generated certificate has a leaf");
        let fingerprint = fingerprint_of(leaf);

        let settings = SrtpProfile::PREFERENCE.map(|profile| {
            let config = ConfigBuilder::default()
                .with_crypto_provider(provider.clone())
                .with_certificates(vec![certificate.clone()])
                .with_srtp_protection_profiles(vec![wire_profile(profile)])
                // The certificate is checked against the SDP's fingerprint (RFC 5763, section 5), not against an
                // authority. Its possession is proved by CertificateVerify all the same.
                .with_client_auth(ClientAuthType::RequireAnyClientCert)
                .with_insecure_skip_verify(true)
                .with_extended_master_secret(ExtendedMasterSecretType::Require)
                .with_mtu(HANDSHAKE_MTU)
                .build(false, None)
                .expect("these settings suit a P-256 certificate");
            (profile, Arc::new(config))
        });
        Self { fingerprint, settings: Arc::new(settings) }
    }

    /// Settings of a handshake that can only end in this profile.
    pub(crate) fn settings_for(&self, profile: SrtpProfile) -> Arc<HandshakeConfig> {
        let [first, second, third] = self.settings.as_ref();
        let (_, config) = [second, third].into_iter().find(|(candidate, _)| *candidate == profile).unwrap_or(first);
        config.clone()
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

fn wire_profile(profile: SrtpProfile) -> SrtpProtectionProfile {
    match profile {
        SrtpProfile::AeadAes128Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
        SrtpProfile::AeadAes256Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
        SrtpProfile::Aes128CmSha1_80 => SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
    }
}
