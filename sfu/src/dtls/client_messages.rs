//! Handshake messages of a client: what it says, and what it reads of the server's (RFC 5246 section 7.4, RFC 6347
//! section 4.2, RFC 8422, RFC 5764). Those that both sides say are in [`super::messages`].

use super::alert::Alert;
use super::messages::{
    ECDSA_SIGN, EXTENSION_EC_POINT_FORMATS, EXTENSION_EXTENDED_MASTER_SECRET, EXTENSION_RENEGOTIATION_INFO,
    EXTENSION_SIGNATURE_ALGORITHMS, EXTENSION_SUPPORTED_GROUPS, EXTENSION_USE_SRTP, Group, NAMED_CURVE,
    NULL_COMPRESSION, Suite, UNCOMPRESSED_POINT,
};
use super::record::VERSION;
use super::wire::{Reader, Writer, u16_list};
use super::x509::SignatureScheme;
use crate::keying::SrtpProfile;

/// What we offer: every suite, group and profile that we take from a client too, and RSA certificates besides.
pub(super) fn client_hello(random: &[u8; 32], cookie: &[u8]) -> Vec<u8> {
    let mut extensions = Vec::with_capacity(80);
    let mut extend = |kind: u16, body: &[u8]| {
        extensions.put_u16(kind);
        extensions.put_u16_vector(body);
    };
    extend(EXTENSION_RENEGOTIATION_INFO, &[0]);
    extend(EXTENSION_EXTENDED_MASTER_SECRET, &[]);
    extend(EXTENSION_SUPPORTED_GROUPS, &list(Group::PREFERENCE.map(Group::to_wire)));
    extend(EXTENSION_EC_POINT_FORMATS, &[1, UNCOMPRESSED_POINT]);
    extend(EXTENSION_SIGNATURE_ALGORITHMS, &list(SignatureScheme::ALL.map(SignatureScheme::to_wire)));
    let mut profiles = list(SrtpProfile::PREFERENCE.map(SrtpProfile::to_wire));
    profiles.put_u8_vector(&[]); // No master key identifier.
    extend(EXTENSION_USE_SRTP, &profiles);

    let mut body = Vec::with_capacity(160);
    body.put_u16(VERSION);
    body.extend_from_slice(random);
    body.put_u8_vector(&[]); // No session is resumed.
    body.put_u8_vector(cookie);
    body.extend_from_slice(&list(Suite::ALL.map(Suite::to_wire)));
    body.put_u8_vector(&[NULL_COMPRESSION]);
    body.put_u16_vector(&extensions);
    body
}

/// Numbers behind their length.
fn list<const N: usize>(numbers: [u16; N]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * N);
    numbers.into_iter().for_each(|number| bytes.put_u16(number));
    let mut list = Vec::with_capacity(2 + bytes.len());
    list.put_u16_vector(&bytes);
    list
}

pub(super) fn client_key_exchange(public_key: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(1 + public_key.len());
    body.put_u8_vector(public_key);
    body
}

pub(super) fn certificate_verify(signature: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + signature.len());
    body.put_u16(SignatureScheme::EcdsaSha256.to_wire());
    body.put_u16_vector(signature);
    body
}

/// The cookie. The version beside it says nothing (RFC 6347, section 4.2.1).
pub(super) fn parse_hello_verify_request(body: &[u8]) -> Result<&[u8], Alert> {
    let mut reader = Reader(body);
    let _version = reader.take_u16().ok_or(Alert::DecodeError)?;
    reader.take_u8_vector().filter(|_| reader.is_empty()).ok_or(Alert::DecodeError)
}

/// The server's choice among what we offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerHello {
    pub random: [u8; 32],
    pub suite: Suite,
    pub profile: SrtpProfile,
}

impl ServerHello {
    /// # Errors
    ///
    /// The alert to answer with, when it is malformed or is no choice among what we offer.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Alert> {
        let mut reader = Reader(body);
        if reader.take_u16().ok_or(Alert::DecodeError)? != VERSION {
            return Err(Alert::ProtocolVersion);
        }
        let fields = ServerHelloFields::read(&mut reader).ok_or(Alert::DecodeError)?;
        let suite = Suite::from_wire(fields.suite).ok_or(Alert::IllegalParameter)?;
        if fields.compression != NULL_COMPRESSION {
            return Err(Alert::IllegalParameter);
        }
        let mut extensions = Extensions::default();
        extensions.read(fields.extensions)?;
        // As in the other role: without it the keys would not be bound to the certificates (RFC 7627).
        if !extensions.has_extended_master_secret {
            return Err(Alert::HandshakeFailure);
        }
        Ok(Self { random: fields.random, suite, profile: extensions.profile.ok_or(Alert::HandshakeFailure)? })
    }
}

/// What follows the version in a ServerHello.
struct ServerHelloFields<'a> {
    random: [u8; 32],
    suite: u16,
    compression: u8,
    extensions: &'a [u8],
}

impl<'a> ServerHelloFields<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let random = reader.take_array()?;
        // The name of a session that we will not resume.
        let _session_id = reader.take_u8_vector()?;
        let suite = reader.take_u16()?;
        let compression = reader.take_u8()?;
        let extensions = if reader.is_empty() { &[] } else { reader.take_u16_vector()? };
        reader.is_empty().then_some(Self { random, suite, compression, extensions })
    }
}

/// What the extensions of a ServerHello say.
#[derive(Default)]
struct Extensions {
    profile: Option<SrtpProfile>,
    has_extended_master_secret: bool,
}

impl Extensions {
    fn read(&mut self, bytes: &[u8]) -> Result<(), Alert> {
        let mut reader = Reader(bytes);
        while !reader.is_empty() {
            let kind = reader.take_u16().ok_or(Alert::DecodeError)?;
            let body = reader.take_u16_vector().ok_or(Alert::DecodeError)?;
            self.note(kind, body)?;
        }
        Ok(())
    }

    fn note(&mut self, kind: u16, body: &[u8]) -> Result<(), Alert> {
        match kind {
            EXTENSION_USE_SRTP => self.profile = Some(chosen_profile(body)?),
            EXTENSION_EXTENDED_MASTER_SECRET => self.has_extended_master_secret = true,
            // Anything else would continue a session that we do not have.
            EXTENSION_RENEGOTIATION_INFO if body != [0] => return Err(Alert::HandshakeFailure),
            EXTENSION_RENEGOTIATION_INFO
            | EXTENSION_EC_POINT_FORMATS
            | EXTENSION_SUPPORTED_GROUPS
            | EXTENSION_SIGNATURE_ALGORITHMS => {}
            // A server answers what was offered and nothing else (RFC 5246, section 7.4.1.4).
            _ => return Err(Alert::UnsupportedExtension),
        }
        Ok(())
    }
}

/// One profile of ours, and no master key identifier, since we sent none (RFC 5764, section 4.1.1).
fn chosen_profile(body: &[u8]) -> Result<SrtpProfile, Alert> {
    let mut reader = Reader(body);
    let profiles = reader.take_u16_vector().ok_or(Alert::DecodeError)?;
    let identifier = reader.take_u8_vector().filter(|_| reader.is_empty()).ok_or(Alert::DecodeError)?;
    let mut profiles = u16_list(profiles).ok_or(Alert::DecodeError)?;
    match (profiles.next().and_then(SrtpProfile::from_wire), profiles.next(), identifier) {
        (Some(profile), None, []) => Ok(profile),
        _ => Err(Alert::IllegalParameter),
    }
}

/// The server's half of the key exchange, and its signature of that.
#[derive(Debug)]
pub(super) struct ServerKeyExchange<'a> {
    pub group: Group,
    pub public_key: &'a [u8],
    /// What is signed, besides the random numbers.
    pub params: &'a [u8],
    pub scheme: SignatureScheme,
    pub signature: &'a [u8],
}

impl<'a> ServerKeyExchange<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Alert> {
        let mut reader = Reader(body);
        if reader.take_u8().ok_or(Alert::DecodeError)? != NAMED_CURVE {
            return Err(Alert::IllegalParameter);
        }
        let group = reader.take_u16().ok_or(Alert::DecodeError)?;
        let group = Group::from_wire(group).ok_or(Alert::IllegalParameter)?;
        let public_key = reader.take_u8_vector().ok_or(Alert::DecodeError)?;
        let (params, _) = body.split_at_checked(body.len() - reader.0.len()).ok_or(Alert::DecodeError)?;
        let scheme = reader.take_u16().ok_or(Alert::DecodeError)?;
        let signature = reader.take_u16_vector().filter(|_| reader.is_empty()).ok_or(Alert::DecodeError)?;
        let scheme = SignatureScheme::from_wire(scheme).ok_or(Alert::IllegalParameter)?;
        Ok(Self { group, public_key, params, scheme, signature })
    }
}

/// Whether the server takes a certificate like ours. Which issuers it names does not matter (RFC 8827, section 6.5).
pub(super) fn check_certificate_request(body: &[u8]) -> Result<(), Alert> {
    let mut reader = Reader(body);
    let kinds = reader.take_u8_vector().ok_or(Alert::DecodeError)?;
    let schemes = reader.take_u16_vector().and_then(u16_list).ok_or(Alert::DecodeError)?;
    let _issuers = reader.take_u16_vector().filter(|_| reader.is_empty()).ok_or(Alert::DecodeError)?;
    let takes_ours =
        kinds.contains(&ECDSA_SIGN) && { schemes }.any(|scheme| scheme == SignatureScheme::EcdsaSha256.to_wire());
    if takes_ours { Ok(()) } else { Err(Alert::HandshakeFailure) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::messages;

    const PROFILE: (u16, &[u8]) = (EXTENSION_USE_SRTP, &[0, 2, 0, 7, 0]);
    const EXTENDED: (u16, &[u8]) = (EXTENSION_EXTENDED_MASTER_SECRET, &[]);

    /// A ServerHello of version 1.2 with these extensions.
    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend_from_slice(&[9; 32]);
        body.put_u8_vector(&[1, 2, 3]);
        body.put_u16(0xC02F);
        body.push(NULL_COMPRESSION);
        let mut all = Vec::new();
        for (kind, extension) in extensions {
            all.put_u16(*kind);
            all.put_u16_vector(extension);
        }
        body.put_u16_vector(&all);
        body
    }

    #[test]
    fn our_own_server_understands_our_hello_and_the_other_way_round() {
        let offered = messages::ClientHello::parse(&client_hello(&[7; 32], b"cookie")).unwrap();
        assert_eq!((offered.random, offered.group), ([7; 32], Group::X25519));
        assert_eq!(offered.profile, SrtpProfile::AeadAes128Gcm);
        let answer = ServerHello::parse(&messages::server_hello(&offered, &[8; 32])).unwrap();
        assert_eq!(answer, ServerHello { random: [8; 32], suite: Suite::Ecdsa, profile: SrtpProfile::AeadAes128Gcm });
        assert_eq!(check_certificate_request(&messages::certificate_request()), Ok(()));
    }

    #[test]
    fn a_server_must_bind_the_keys_to_the_certificates_and_choose_one_profile() {
        let chosen = ServerHello { random: [9; 32], suite: Suite::Rsa, profile: SrtpProfile::AeadAes128Gcm };
        assert_eq!(ServerHello::parse(&hello(&[PROFILE, EXTENDED])), Ok(chosen));
        assert_eq!(ServerHello::parse(&hello(&[PROFILE])), Err(Alert::HandshakeFailure));
        assert_eq!(ServerHello::parse(&hello(&[EXTENDED])), Err(Alert::HandshakeFailure));
        for profiles in [&[0, 4, 0, 7, 0, 8, 0][..], &[0, 2, 0, 2, 0], &[0, 0, 0], &[0, 2, 0, 7, 1, 1]] {
            let result = ServerHello::parse(&hello(&[(EXTENSION_USE_SRTP, profiles), EXTENDED]));
            assert_eq!(result, Err(Alert::IllegalParameter), "{profiles:?}");
        }
    }

    #[test]
    fn a_server_answers_only_what_was_offered() {
        let ticket: (u16, &[u8]) = (35, &[]);
        assert_eq!(ServerHello::parse(&hello(&[PROFILE, EXTENDED, ticket])), Err(Alert::UnsupportedExtension));
        let mut other_suite = hello(&[PROFILE, EXTENDED]);
        other_suite[39] = 0x30;
        assert_eq!(ServerHello::parse(&other_suite), Err(Alert::IllegalParameter));
        let mut older = hello(&[PROFILE, EXTENDED]);
        older[1] = 0xFF;
        assert_eq!(ServerHello::parse(&older), Err(Alert::ProtocolVersion));
        let continued: (u16, &[u8]) = (EXTENSION_RENEGOTIATION_INFO, &[1, 7]);
        assert_eq!(ServerHello::parse(&hello(&[PROFILE, EXTENDED, continued])), Err(Alert::HandshakeFailure));
    }

    #[test]
    fn a_cut_message_is_malformed_and_never_taken() {
        let whole = hello(&[PROFILE, EXTENDED]);
        for length in 0..whole.len() {
            assert!(ServerHello::parse(&whole[..length]).is_err(), "{length}");
        }
        let params = messages::key_exchange_params(Group::X25519, &[4; 32]);
        let whole = messages::server_key_exchange(&params, &[5; 70]);
        assert_eq!(ServerKeyExchange::parse(&whole).unwrap().params, params);
        for length in 0..whole.len() {
            assert!(ServerKeyExchange::parse(&whole[..length]).is_err(), "{length}");
        }
        let whole = messages::certificate_request();
        for length in 0..whole.len() {
            assert!(check_certificate_request(&whole[..length]).is_err(), "{length}");
        }
        assert_eq!(parse_hello_verify_request(&[0xFE, 0xFF, 2, 7, 7]), Ok(&[7, 7][..]));
        assert_eq!(parse_hello_verify_request(&[0xFE, 0xFF, 2, 7]), Err(Alert::DecodeError));
    }

    #[test]
    fn a_server_that_asks_for_no_ecdsa_certificate_is_refused() {
        let rsa_alone = [1, 1, 0, 2, 4, 1, 0, 0];
        assert_eq!(check_certificate_request(&rsa_alone), Err(Alert::HandshakeFailure));
        let ecdsa_with_sha384 = [1, 64, 0, 2, 5, 3, 0, 0];
        assert_eq!(check_certificate_request(&ecdsa_with_sha384), Err(Alert::HandshakeFailure));
    }
}
