//! DTLS in both roles, and the SRTP contexts that its keys give (RFC 5764).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow, bail};
use bytes::BytesMut;
use rtc_crypto::RTCCryptoProvider;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile as DtlsProfile;
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error;
use rtc_srtp::config::LABEL_EXTRACTOR_DTLS_SRTP;
use rtc_srtp::context::Context;
use rtc_srtp::protection_profile::ProtectionProfile;
use serde::Serialize;

/// The endpoint tells associations apart by address; it has one only, whichever path its datagrams take.
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

/// Who sends the ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsRole {
    /// The server is `setup:passive`.
    Client,
    /// The server is `setup:active`.
    Server,
}

/// An SRTP protection profile, named as IANA does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum SrtpProfile {
    #[serde(rename = "SRTP_AES128_CM_SHA1_80")]
    Aes128CmSha1,
    #[serde(rename = "SRTP_AEAD_AES_128_GCM")]
    Aes128Gcm,
}

impl SrtpProfile {
    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128CmSha1 => "SRTP_AES128_CM_SHA1_80",
            Self::Aes128Gcm => "SRTP_AEAD_AES_128_GCM",
        }
    }

    fn dtls(self) -> DtlsProfile {
        match self {
            Self::Aes128CmSha1 => DtlsProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
            Self::Aes128Gcm => DtlsProfile::Srtp_Aead_Aes_128_Gcm,
        }
    }

    fn srtp(self) -> ProtectionProfile {
        match self {
            Self::Aes128CmSha1 => ProtectionProfile::Aes128CmHmacSha1_80,
            Self::Aes128Gcm => ProtectionProfile::AeadAes128Gcm,
        }
    }
}

/// The certificate and the offered profiles that all clients of a run share.
///
/// Sharing the key pair saves its generation for each of thousands of clients and changes nothing for the server.
#[derive(Clone)]
pub struct Identity {
    pub provider: Arc<dyn RTCCryptoProvider>,
    certificate: Certificate,
    /// `sha-256` fingerprint as SDP writes it.
    pub fingerprint: Arc<str>,
    profiles: Arc<[SrtpProfile]>,
}

impl Identity {
    /// Generates a self-signed certificate; `profiles` are offered in this order.
    ///
    /// # Errors
    ///
    /// When the crypto provider cannot generate a key.
    pub fn generate(profiles: &[SrtpProfile]) -> anyhow::Result<Self> {
        let provider = rtc_crypto::default_provider().map_err(|error| anyhow!("no crypto provider: {error}"))?;
        let certificate = Certificate::generate_self_signed(vec!["loadtest".to_owned()], provider.crypto())
            .context("generating a certificate")?;
        let der = certificate.certificate.first().context("an empty certificate chain")?;
        let fingerprint = fingerprint(der.as_ref()).into();
        Ok(Self { provider, certificate, fingerprint, profiles: profiles.into() })
    }

    fn config(&self, role: DtlsRole, fingerprint: String) -> anyhow::Result<Arc<HandshakeConfig>> {
        let check = move |chain: &[Vec<u8>], _: &[_]| match chain.first() {
            Some(der) if self::fingerprint(der).eq_ignore_ascii_case(&fingerprint) => Ok(()),
            _ => Err(Error::Other("the server's certificate does not match its fingerprint".to_owned())),
        };
        let config = ConfigBuilder::default()
            .with_crypto_provider(self.provider.clone())
            .with_certificates(vec![self.certificate.clone()])
            .with_srtp_protection_profiles(self.profiles.iter().map(|profile| profile.dtls()).collect())
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(Arc::new(check)))
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .build(role == DtlsRole::Client, None)?;
        Ok(Arc::new(config))
    }
}

fn fingerprint(der: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// The contexts of one association.
pub struct SrtpSession {
    pub profile: SrtpProfile,
    pub outbound: Context,
    pub inbound: Context,
}

/// What the peer's datagrams led to.
pub enum DtlsEvent {
    Established,
    Data(BytesMut),
    Closed,
}

/// One DTLS association.
pub struct Dtls {
    endpoint: Endpoint,
    pub role: DtlsRole,
    config: Arc<HandshakeConfig>,
    provider: Arc<dyn RTCCryptoProvider>,
}

impl Dtls {
    /// Prepares an association that accepts only the certificate with `fingerprint`.
    ///
    /// # Errors
    ///
    /// When the configuration is refused.
    pub fn new(identity: &Identity, role: DtlsRole, fingerprint: String) -> anyhow::Result<Self> {
        let config = identity.config(role, fingerprint)?;
        let server = (role == DtlsRole::Server).then(|| config.clone());
        let endpoint = Endpoint::new(PEER, TransportProtocol::UDP, server);
        Ok(Self { endpoint, role, config, provider: identity.provider.clone() })
    }

    /// Sends the ClientHello if that is ours to do.
    ///
    /// # Errors
    ///
    /// When the handshake cannot begin.
    pub fn start(&mut self, now: Instant) -> anyhow::Result<()> {
        if self.role == DtlsRole::Client {
            self.endpoint.connect(now, PEER, self.config.clone(), None)?;
        }
        Ok(())
    }

    /// Handles one datagram.
    ///
    /// # Errors
    ///
    /// When the association fails, for example because of a wrong certificate.
    pub fn on_datagram(&mut self, now: Instant, datagram: &[u8]) -> anyhow::Result<Vec<DtlsEvent>> {
        let events = self.endpoint.read(now, PEER, None, BytesMut::from(datagram))?;
        Ok(events
            .into_iter()
            .filter_map(|event| match event {
                EndpointEvent::HandshakeComplete => Some(DtlsEvent::Established),
                EndpointEvent::ApplicationData(data) => Some(DtlsEvent::Data(data)),
                EndpointEvent::PeerClosed => Some(DtlsEvent::Closed),
                _ => None,
            })
            .collect())
    }

    /// Encrypts application data.
    ///
    /// # Errors
    ///
    /// Before the handshake is complete or after the association has ended.
    pub fn write(&mut self, now: Instant, data: &[u8]) -> anyhow::Result<()> {
        Ok(self.endpoint.write(now, PEER, data)?)
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.endpoint.poll_transmit().map(|transmit| transmit.message)
    }

    /// When [`Self::on_timeout`] retransmits.
    pub fn deadline(&self) -> Option<Instant> {
        self.endpoint.poll_timeout(&PEER)
    }

    /// Retransmits a flight that was not answered.
    ///
    /// # Errors
    ///
    /// When the handshake has been retried too often.
    pub fn on_timeout(&mut self, now: Instant) -> anyhow::Result<()> {
        match self.deadline() {
            Some(deadline) if deadline <= now => Ok(self.endpoint.handle_timeout(PEER, now)?),
            _ => Ok(()),
        }
    }

    /// Queues the close alert.
    pub fn close(&mut self, now: Instant) {
        // An association that never came up has nobody to tell.
        let _ = self.endpoint.close(now);
    }

    /// Derives the SRTP contexts of an established association.
    ///
    /// # Errors
    ///
    /// When the handshake is not complete, or the server chose a profile that was not offered.
    pub fn srtp(&self) -> anyhow::Result<SrtpSession> {
        let state = self.endpoint.get_connection_state(PEER).context("no association")?;
        let profile = match state.srtp_protection_profile() {
            DtlsProfile::Srtp_Aead_Aes_128_Gcm => SrtpProfile::Aes128Gcm,
            DtlsProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => SrtpProfile::Aes128CmSha1,
            other => bail!("no usable SRTP profile was negotiated: {other:?}"),
        };
        let mut config = rtc_srtp::config::Config { profile: profile.srtp(), ..Default::default() };
        let material = state.export_keying_material(LABEL_EXTRACTOR_DTLS_SRTP, &[], config.keying_material_len())?;
        config.set_session_keys_from_keying_material(material.as_ref(), self.role == DtlsRole::Client)?;
        let keys = &config.keys;
        let context =
            |key: &[u8], salt: &[u8]| Context::new(key, salt, config.profile, None, None, self.provider.crypto());
        Ok(SrtpSession {
            profile,
            outbound: context(&keys.local_master_key, &keys.local_master_salt)?,
            inbound: context(&keys.remote_master_key, &keys.remote_master_salt)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshake(client: &mut Dtls, server: &mut Dtls) -> anyhow::Result<()> {
        let now = Instant::now();
        client.start(now)?;
        for _ in 0..20 {
            while let Some(datagram) = client.poll_transmit() {
                server.on_datagram(now, &datagram)?;
            }
            while let Some(datagram) = server.poll_transmit() {
                client.on_datagram(now, &datagram)?;
            }
        }
        Ok(())
    }

    fn pair(expected_by_client: Option<&str>) -> (Dtls, Dtls) {
        let profiles = [SrtpProfile::Aes128CmSha1, SrtpProfile::Aes128Gcm];
        let (one, other) = (Identity::generate(&profiles).unwrap(), Identity::generate(&profiles[1..]).unwrap());
        let expected = expected_by_client.unwrap_or(&other.fingerprint).to_owned();
        let client = Dtls::new(&one, DtlsRole::Client, expected).unwrap();
        let server = Dtls::new(&other, DtlsRole::Server, one.fingerprint.to_string()).unwrap();
        (client, server)
    }

    #[test]
    fn both_roles_derive_matching_contexts_of_the_common_profile() {
        let (mut client, mut server) = pair(None);
        handshake(&mut client, &mut server).unwrap();
        let (mut ours, mut theirs) = (client.srtp().unwrap(), server.srtp().unwrap());
        assert_eq!((ours.profile, theirs.profile), (SrtpProfile::Aes128Gcm, SrtpProfile::Aes128Gcm));

        let packet = [&[0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9][..], b"hello"].concat();
        let sealed = ours.outbound.encrypt_rtp(&packet).unwrap();
        assert_eq!(theirs.inbound.decrypt_rtp(&sealed).unwrap(), packet);
    }

    #[test]
    fn a_certificate_with_another_fingerprint_is_refused() {
        let (mut client, mut server) = pair(Some("00:11"));
        assert!(handshake(&mut client, &mut server).is_err());
        assert!(client.srtp().is_err());
    }
}
