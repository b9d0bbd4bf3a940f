//! Handshake messages of a server, what it says and what it reads of the client's, and those that both sides say (RFC
//! 5246 section 7.4, RFC 8422, RFC 5764).

use ring::agreement;

use super::alert::Alert;
use super::keys::Randoms;
use super::record::VERSION;
use super::wire::{Reader, Writer, u16_list};
use super::x509::SignatureScheme;
use crate::keying::SrtpProfile;

/// Says what an empty renegotiation_info says (RFC 5746, section 3.3).
const EMPTY_RENEGOTIATION_INFO_SCSV: u16 = 0x00FF;
pub(super) const NULL_COMPRESSION: u8 = 0;
pub(super) const UNCOMPRESSED_POINT: u8 = 0;
pub(super) const NAMED_CURVE: u8 = 3;
pub(super) const ECDSA_SIGN: u8 = 64;
const RSA_SIGN: u8 = 1;

pub(super) const EXTENSION_SUPPORTED_GROUPS: u16 = 10;
pub(super) const EXTENSION_EC_POINT_FORMATS: u16 = 11;
pub(super) const EXTENSION_SIGNATURE_ALGORITHMS: u16 = 13;
pub(super) const EXTENSION_USE_SRTP: u16 = 14;
pub(super) const EXTENSION_EXTENDED_MASTER_SECRET: u16 = 23;
const EXTENSION_SUPPORTED_VERSIONS: u16 = 43;
pub(super) const EXTENSION_RENEGOTIATION_INFO: u16 = 0xFF01;

/// A cipher suite (RFC 5289), by the key of the server's certificate. Both encrypt with AES-128-GCM and hash with
/// SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Suite {
    /// TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256: ours as a server. Every implementation of WebRTC has it (RFC 8827,
    /// section 6.5).
    Ecdsa,
    /// TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, for servers with an RSA key.
    Rsa,
}

impl Suite {
    /// In the order in which we offer them.
    pub(super) const ALL: [Self; 2] = [Self::Ecdsa, Self::Rsa];

    pub(super) fn to_wire(self) -> u16 {
        match self {
            Self::Ecdsa => 0xC02B,
            Self::Rsa => 0xC02F,
        }
    }

    pub(super) fn from_wire(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.to_wire() == id)
    }
}

/// How keys are agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    X25519,
    Secp256r1,
}

impl Group {
    /// The cheaper first.
    pub(super) const PREFERENCE: [Self; 2] = [Self::X25519, Self::Secp256r1];

    pub(super) fn from_wire(id: u16) -> Option<Self> {
        Self::PREFERENCE.into_iter().find(|group| group.to_wire() == id)
    }

    pub(super) fn to_wire(self) -> u16 {
        match self {
            Self::X25519 => 29,
            Self::Secp256r1 => 23,
        }
    }

    pub(super) fn algorithm(self) -> &'static agreement::Algorithm {
        match self {
            Self::X25519 => &agreement::X25519,
            Self::Secp256r1 => &agreement::ECDH_P256,
        }
    }
}

/// A ClientHello that we can answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ClientHello {
    pub random: [u8; 32],
    pub profile: SrtpProfile,
    pub group: Group,
    knows_renegotiation_info: bool,
    has_point_formats: bool,
}

/// What the extensions of a ClientHello say.
#[derive(Default)]
struct Extensions {
    profile: Option<SrtpProfile>,
    group: Option<Group>,
    verifies_ecdsa: bool,
    has_extended_master_secret: bool,
    has_renegotiation_info: bool,
    has_point_formats: bool,
}

impl ClientHello {
    /// Reads it, and chooses.
    ///
    /// # Errors
    ///
    /// The alert to answer with, when it is malformed or offers nothing that we take.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Alert> {
        let mut reader = Reader(body);
        let [major, minor] = reader.take_array().ok_or(Alert::DecodeError)?;
        // Versions count downwards. A client of 1.3 says 1.2 here.
        if major != 0xFE || minor > 0xFD {
            return Err(Alert::ProtocolVersion);
        }
        let hello = ClientHelloFields::read(&mut reader).ok_or(Alert::DecodeError)?;
        let mut suites = u16_list(hello.suites).ok_or(Alert::DecodeError)?;
        if !suites.clone().any(|suite| suite == Suite::Ecdsa.to_wire())
            || !hello.compressions.contains(&NULL_COMPRESSION)
        {
            return Err(Alert::HandshakeFailure);
        }
        let extensions = Extensions::parse(hello.extensions)?;
        // Every implementation of WebRTC has these; without the extended master secret the keys would not be bound to
        // the certificates (RFC 7627).
        if !extensions.has_extended_master_secret || !extensions.verifies_ecdsa {
            return Err(Alert::HandshakeFailure);
        }
        Ok(Self {
            random: hello.random,
            profile: extensions.profile.ok_or(Alert::HandshakeFailure)?,
            group: extensions.group.ok_or(Alert::HandshakeFailure)?,
            knows_renegotiation_info: extensions.has_renegotiation_info
                || suites.any(|suite| suite == EMPTY_RENEGOTIATION_INFO_SCSV),
            has_point_formats: extensions.has_point_formats,
        })
    }
}

/// What follows the version in a ClientHello.
struct ClientHelloFields<'a> {
    random: [u8; 32],
    suites: &'a [u8],
    compressions: &'a [u8],
    extensions: &'a [u8],
}

impl<'a> ClientHelloFields<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let random = reader.take_array()?;
        // No session is resumed. No cookie was given out: a connectivity check has proved the client's address.
        let _session_id = reader.take_u8_vector()?;
        let _cookie = reader.take_u8_vector()?;
        let suites = reader.take_u16_vector()?;
        let compressions = reader.take_u8_vector()?;
        let extensions = if reader.is_empty() { &[] } else { reader.take_u16_vector()? };
        reader.is_empty().then_some(Self { random, suites, compressions, extensions })
    }
}

impl Extensions {
    fn parse(bytes: &[u8]) -> Result<Self, Alert> {
        let mut extensions = Self::default();
        let mut reader = Reader(bytes);
        while !reader.is_empty() {
            let kind = reader.take_u16().ok_or(Alert::DecodeError)?;
            let body = reader.take_u16_vector().ok_or(Alert::DecodeError)?;
            extensions.note(kind, Reader(body))?;
        }
        Ok(extensions)
    }

    fn note(&mut self, kind: u16, mut body: Reader<'_>) -> Result<(), Alert> {
        match kind {
            EXTENSION_SUPPORTED_GROUPS => {
                let offered = whole_list(body)?;
                self.group = Group::PREFERENCE.into_iter().find(|group| offered.any_is(group.to_wire()));
            }
            EXTENSION_SIGNATURE_ALGORITHMS => {
                self.verifies_ecdsa = whole_list(body)?.any_is(SignatureScheme::EcdsaSha256.to_wire());
            }
            EXTENSION_USE_SRTP => {
                // A master key identifier may follow. We use none.
                let offered = body.take_u16_vector().and_then(u16_list).ok_or(Alert::DecodeError)?;
                self.profile = SrtpProfile::PREFERENCE
                    .into_iter()
                    .find(|profile| offered.clone().any(|id| SrtpProfile::from_wire(id) == Some(*profile)));
            }
            EXTENSION_EC_POINT_FORMATS => {
                let formats = body.take_u8_vector().ok_or(Alert::DecodeError)?;
                if !formats.contains(&UNCOMPRESSED_POINT) {
                    return Err(Alert::IllegalParameter);
                }
                self.has_point_formats = true;
            }
            EXTENSION_EXTENDED_MASTER_SECRET => self.has_extended_master_secret = true,
            EXTENSION_RENEGOTIATION_INFO => {
                // Anything else would continue a session that we do not have.
                if body.0 != [0] {
                    return Err(Alert::HandshakeFailure);
                }
                self.has_renegotiation_info = true;
            }
            EXTENSION_SUPPORTED_VERSIONS => {
                let mut versions = body.take_u8_vector().and_then(u16_list).ok_or(Alert::DecodeError)?;
                if !versions.any(|version| version == VERSION) {
                    return Err(Alert::ProtocolVersion);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The list of numbers that an extension consists of.
fn whole_list(mut body: Reader<'_>) -> Result<Offered<'_>, Alert> {
    let numbers = body.take_u16_vector().filter(|numbers| numbers.len() % 2 == 0 && body.is_empty());
    numbers.map(Offered).ok_or(Alert::DecodeError)
}

struct Offered<'a>(&'a [u8]);

impl Offered<'_> {
    fn any_is(&self, number: u16) -> bool {
        self.0.as_chunks::<2>().0.contains(&number.to_be_bytes())
    }
}

/// Our choice among what the client offers.
pub(super) fn server_hello(hello: &ClientHello, random: &[u8; 32]) -> Vec<u8> {
    let mut extensions = Vec::with_capacity(32);
    let mut extend = |kind: u16, body: &[u8]| {
        extensions.put_u16(kind);
        extensions.put_u16_vector(body);
    };
    if hello.knows_renegotiation_info {
        extend(EXTENSION_RENEGOTIATION_INFO, &[0]);
    }
    if hello.has_point_formats {
        extend(EXTENSION_EC_POINT_FORMATS, &[1, UNCOMPRESSED_POINT]);
    }
    extend(EXTENSION_EXTENDED_MASTER_SECRET, &[]);
    let [profile_high, profile_low] = hello.profile.to_wire().to_be_bytes();
    extend(EXTENSION_USE_SRTP, &[0, 2, profile_high, profile_low, 0]);

    let mut body = Vec::with_capacity(80);
    body.put_u16(VERSION);
    body.extend_from_slice(random);
    body.put_u8_vector(&[]); // No session id: this session cannot be resumed.
    body.put_u16(Suite::Ecdsa.to_wire());
    body.push(NULL_COMPRESSION);
    body.put_u16_vector(&extensions);
    body
}

/// A chain of one certificate.
pub(super) fn certificate(der: &[u8]) -> Vec<u8> {
    let mut chain = Vec::with_capacity(3 + der.len());
    chain.put_u24_vector(der);
    let mut body = Vec::with_capacity(3 + chain.len());
    body.put_u24_vector(&chain);
    body
}

/// The parameters of a ServerKeyExchange.
pub(super) fn key_exchange_params(group: Group, public_key: &[u8]) -> Vec<u8> {
    let mut params = vec![NAMED_CURVE];
    params.put_u16(group.to_wire());
    params.put_u8_vector(public_key);
    params
}

/// What the signature in a ServerKeyExchange covers.
pub(super) fn signed_params(randoms: &Randoms, params: &[u8]) -> Vec<u8> {
    [&randoms.client[..], &randoms.server, params].concat()
}

pub(super) fn server_key_exchange(params: &[u8], signature: &[u8]) -> Vec<u8> {
    let mut body = params.to_vec();
    body.put_u16(SignatureScheme::EcdsaSha256.to_wire());
    body.put_u16_vector(signature);
    body
}

/// Asks for a certificate of any issuer.
pub(super) fn certificate_request() -> Vec<u8> {
    let mut schemes = Vec::new();
    SignatureScheme::ALL.into_iter().for_each(|scheme| schemes.put_u16(scheme.to_wire()));
    let mut body = Vec::new();
    body.put_u8_vector(&[ECDSA_SIGN, RSA_SIGN]);
    body.put_u16_vector(&schemes);
    body.put_u16_vector(&[]);
    body
}

/// The peer's own certificate, the first of its chain.
pub(super) fn parse_certificate(body: &[u8]) -> Result<&[u8], Alert> {
    let mut reader = Reader(body);
    let mut chain = reader.take_u24_vector().filter(|_| reader.is_empty()).map(Reader).ok_or(Alert::DecodeError)?;
    if chain.is_empty() {
        return Err(Alert::HandshakeFailure);
    }
    chain.take_u24_vector().ok_or(Alert::DecodeError)
}

/// The client's public key.
pub(super) fn parse_client_key_exchange(body: &[u8]) -> Result<&[u8], Alert> {
    let mut reader = Reader(body);
    reader.take_u8_vector().filter(|_| reader.is_empty()).ok_or(Alert::DecodeError)
}

/// How the client signed, and the signature.
pub(super) fn parse_certificate_verify(body: &[u8]) -> Result<(SignatureScheme, &[u8]), Alert> {
    let mut reader = Reader(body);
    let scheme = reader.take_u16().ok_or(Alert::DecodeError)?;
    let signature = reader.take_u16_vector().filter(|_| reader.is_empty()).ok_or(Alert::DecodeError)?;
    Ok((SignatureScheme::from_wire(scheme).ok_or(Alert::IllegalParameter)?, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello of version 1.2 with these extensions.
    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend_from_slice(&[9; 32]);
        body.put_u8_vector(&[]);
        body.put_u8_vector(&[]);
        body.put_u16_vector(&[0x13, 0x01, 0xC0, 0x2B]);
        body.put_u8_vector(&[NULL_COMPRESSION]);
        let mut all = Vec::new();
        for (kind, extension) in extensions {
            all.put_u16(*kind);
            all.put_u16_vector(extension);
        }
        body.put_u16_vector(&all);
        body
    }

    const GROUPS: (u16, &[u8]) = (EXTENSION_SUPPORTED_GROUPS, &[0, 6, 0x11, 0xEC, 0, 23, 0, 29]);
    const SCHEMES: (u16, &[u8]) = (EXTENSION_SIGNATURE_ALGORITHMS, &[0, 4, 8, 4, 4, 3]);
    const PROFILES: (u16, &[u8]) = (EXTENSION_USE_SRTP, &[0, 6, 0, 1, 0, 8, 0, 7, 0]);
    const EXTENDED: (u16, &[u8]) = (EXTENSION_EXTENDED_MASTER_SECRET, &[]);

    #[test]
    fn of_what_is_offered_the_cheapest_is_chosen() {
        let hello = ClientHello::parse(&hello(&[GROUPS, SCHEMES, PROFILES, EXTENDED])).unwrap();
        assert_eq!((hello.group, hello.profile), (Group::X25519, SrtpProfile::AeadAes128Gcm));
        assert_eq!((hello.knows_renegotiation_info, hello.has_point_formats), (false, false));
    }

    #[test]
    fn a_client_of_1_3_is_taken_if_it_knows_1_2() {
        let both: (u16, &[u8]) = (EXTENSION_SUPPORTED_VERSIONS, &[4, 0xFE, 0xFC, 0xFE, 0xFD]);
        assert!(ClientHello::parse(&hello(&[GROUPS, SCHEMES, PROFILES, EXTENDED, both])).is_ok());
        let newer: (u16, &[u8]) = (EXTENSION_SUPPORTED_VERSIONS, &[2, 0xFE, 0xFC]);
        let result = ClientHello::parse(&hello(&[GROUPS, SCHEMES, PROFILES, EXTENDED, newer]));
        assert_eq!(result, Err(Alert::ProtocolVersion));
        let mut old = hello(&[GROUPS, SCHEMES, PROFILES, EXTENDED]);
        old[1] = 0xFF;
        assert_eq!(ClientHello::parse(&old), Err(Alert::ProtocolVersion));
    }

    #[test]
    fn every_extension_that_security_rests_on_is_required() {
        let needed = [GROUPS, SCHEMES, PROFILES, EXTENDED];
        for left_out in 0..needed.len() {
            let rest: Vec<_> = needed.into_iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, e)| e).collect();
            assert_eq!(ClientHello::parse(&hello(&rest)), Err(Alert::HandshakeFailure), "{left_out}");
        }
    }

    /// The same, with these cipher suites and these ways to compress.
    fn hello_with(suites: &[u8], compressions: &[u8]) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend_from_slice(&[9; 32]);
        body.put_u8_vector(&[]);
        body.put_u8_vector(&[]);
        body.put_u16_vector(suites);
        body.put_u8_vector(compressions);
        let extensions = &hello(&[GROUPS, SCHEMES, PROFILES, EXTENDED]);
        body.extend_from_slice(&extensions[hello(&[]).len() - 2..]);
        body
    }

    #[test]
    fn our_suite_without_compression_has_to_be_offered() {
        for (suites, compressions, is_taken) in [
            (&[0xC0, 0x2B][..], &[NULL_COMPRESSION][..], true),
            (&[0x13, 0x01, 0xC0, 0x2B, 0x00, 0x9C], &[1, NULL_COMPRESSION], true),
            (&[0x13, 0x01, 0x00, 0x9C], &[NULL_COMPRESSION], false),
            // Our certificate's key is none of RSA.
            (&[0xC0, 0x2F], &[NULL_COMPRESSION], false),
            (&[], &[NULL_COMPRESSION], false),
            (&[0xC0, 0x2B], &[1], false),
        ] {
            let result = ClientHello::parse(&hello_with(suites, compressions)).map(|_| ());
            let expected = if is_taken { Ok(()) } else { Err(Alert::HandshakeFailure) };
            assert_eq!(result, expected, "{suites:x?} {compressions:?}");
        }
    }

    #[test]
    fn a_client_that_knows_of_secure_renegotiation_says_so_by_extension_or_by_suite() {
        let knows = |hello: &[u8]| ClientHello::parse(hello).map(|hello| hello.knows_renegotiation_info);
        let empty: (u16, &[u8]) = (EXTENSION_RENEGOTIATION_INFO, &[0]);
        assert_eq!(knows(&hello(&[GROUPS, SCHEMES, PROFILES, EXTENDED])), Ok(false));
        assert_eq!(knows(&hello(&[GROUPS, SCHEMES, PROFILES, EXTENDED, empty])), Ok(true));
        assert_eq!(knows(&hello_with(&[0xC0, 0x2B, 0x00, 0xFF], &[NULL_COMPRESSION])), Ok(true));
        assert_eq!(knows(&hello_with(&[0x00, 0xFF, 0xC0, 0x2B], &[NULL_COMPRESSION])), Ok(true));
    }

    #[test]
    fn a_renegotiation_is_refused() {
        let continued: (u16, &[u8]) = (EXTENSION_RENEGOTIATION_INFO, &[12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let result = ClientHello::parse(&hello(&[GROUPS, SCHEMES, PROFILES, EXTENDED, continued]));
        assert_eq!(result, Err(Alert::HandshakeFailure));
    }

    #[test]
    fn a_cut_hello_is_malformed_and_never_taken() {
        let whole = hello(&[GROUPS, SCHEMES, PROFILES, EXTENDED]);
        for length in 0..whole.len() {
            assert!(ClientHello::parse(&whole[..length]).is_err(), "{length}");
        }
    }
}
