//! What a DTLS client says and hears: a ClientHello, again with the cookie where one is asked for, and one flight that
//! answers the server's (RFC 5246, section 7.3; RFC 6347, section 4.2.1).

use std::time::Instant;

use ring::agreement::EphemeralPrivateKey;
use ring::error::Unspecified;
use ring::rand::{SystemRandom, generate};

use super::alert::Alert;
use super::client_messages::{self, ServerHello, ServerKeyExchange};
use super::conversation::{Conversation, Established, Exchange, Secured, Step, Trouble};
use super::flight::Transmits;
use super::keys::{Randoms, same};
use super::messages::{self, Group, Suite};
use super::reassembly::Kind;
use super::session::Session;
use super::x509::PublicKey;
use crate::certificate::fingerprint_of;
use crate::keying::SrtpProfile;
use crate::parameters::{DtlsRole, Fingerprint};

/// What is agreed on in the Hellos.
pub(super) struct Agreed {
    profile: SrtpProfile,
    suite: Suite,
    randoms: Randoms,
}

/// The server's half of the key exchange, which its certificate's key has signed.
pub(super) struct Share {
    group: Group,
    public_key: Vec<u8>,
}

/// The server's message that is due next, and what it needs.
pub(super) enum Due {
    /// Our ClientHello, once there is a path.
    Start,
    /// ServerHello, or before it one HelloVerifyRequest.
    ServerHello {
        random: [u8; 32],
        has_cookie: bool,
    },
    Certificate(Agreed),
    ServerKeyExchange(Agreed, Fingerprint, PublicKey),
    CertificateRequest(Agreed, Fingerprint, Share),
    ServerHelloDone(Agreed, Fingerprint, Share),
    Finished(Box<Secured>, Fingerprint),
    /// Everything is over.
    Nothing,
}

impl Due {
    /// Writes the first flight.
    pub(super) fn start(conversation: &mut Conversation) -> Result<Self, Alert> {
        let random: [u8; 32] = generate(&SystemRandom::new()).map_err(|_| Alert::InternalError)?.expose();
        conversation.say(Kind::ClientHello, &client_messages::client_hello(&random, &[]));
        Ok(Self::ServerHello { random, has_cookie: false })
    }

    pub(super) fn secured(&mut self) -> Option<&mut Secured> {
        match self {
            Self::Finished(secured, _) => Some(secured),
            Self::Start
            | Self::ServerHello { .. }
            | Self::Certificate(_)
            | Self::ServerKeyExchange(..)
            | Self::CertificateRequest(..)
            | Self::ServerHelloDone(..)
            | Self::Nothing => None,
        }
    }

    /// Takes the next message; the transcript up to `before` does not have it.
    pub(super) fn on_message(
        self,
        conversation: &mut Conversation,
        now: Instant,
        kind: Kind,
        body: &[u8],
        before: usize,
        transmits: &mut Transmits,
    ) -> Result<Step<Self>, Trouble> {
        let due = match (self, kind) {
            (Self::ServerHello { random, has_cookie: false }, Kind::HelloVerifyRequest) => {
                let cookie = client_messages::parse_hello_verify_request(body)?;
                // Neither the first ClientHello nor the request counts (RFC 6347, section 4.2.1).
                conversation.transcript.clear();
                conversation.flight.clear();
                conversation.say(Kind::ClientHello, &client_messages::client_hello(&random, cookie));
                conversation.flight.begin(now, None, transmits);
                Self::ServerHello { random, has_cookie: true }
            }
            (Self::ServerHello { random, .. }, Kind::ServerHello) => {
                let hello = ServerHello::parse(body)?;
                let randoms = Randoms { client: random, server: hello.random };
                Self::Certificate(Agreed { profile: hello.profile, suite: hello.suite, randoms })
            }
            (Self::Certificate(agreed), Kind::Certificate) => {
                let certificate = messages::parse_certificate(body)?;
                let key = PublicKey::of_certificate(certificate).ok_or(Alert::UnsupportedCertificate)?;
                if key.is_rsa() != (agreed.suite == Suite::Rsa) {
                    return Err(Alert::IllegalParameter.into());
                }
                Self::ServerKeyExchange(agreed, fingerprint_of(certificate), key)
            }
            (Self::ServerKeyExchange(agreed, peer, key), Kind::ServerKeyExchange) => {
                let share = read_share(&agreed, &key, body)?;
                Self::CertificateRequest(agreed, peer, share)
            }
            (Self::CertificateRequest(agreed, peer, share), Kind::CertificateRequest) => {
                client_messages::check_certificate_request(body)?;
                Self::ServerHelloDone(agreed, peer, share)
            }
            (Self::ServerHelloDone(agreed, peer, share), Kind::ServerHelloDone) => {
                if !body.is_empty() {
                    return Err(Alert::DecodeError.into());
                }
                let mut secured = answer(conversation, agreed, &share)?;
                conversation.flight.begin(now, Some(&mut secured.sealer), transmits);
                Self::Finished(Box::new(secured), peer)
            }
            (Self::Finished(secured, peer), Kind::Finished) => {
                let established = finish(conversation, *secured, peer, body, before)?;
                return Ok(Step::Established(Box::new(established)));
            }
            _ => return Err(Alert::UnexpectedMessage.into()),
        };
        Ok(Step::Due(due))
    }
}

/// The server's half of the key exchange, if it is signed.
fn read_share(agreed: &Agreed, key: &PublicKey, body: &[u8]) -> Result<Share, Alert> {
    let ServerKeyExchange { group, public_key, params, scheme, signature } = ServerKeyExchange::parse(body)?;
    if !key.has_signed(scheme, &messages::signed_params(&agreed.randoms, params), signature) {
        return Err(Alert::DecryptError);
    }
    Ok(Share { group, public_key: public_key.to_vec() })
}

/// Answers the server's flight: writes ours, up to Finished.
fn answer(conversation: &mut Conversation, agreed: Agreed, share: &Share) -> Result<Secured, Alert> {
    let internal = |_: Unspecified| Alert::InternalError;
    let secret = EphemeralPrivateKey::generate(share.group.algorithm(), &SystemRandom::new()).map_err(internal)?;
    let public_key = secret.compute_public_key().map_err(internal)?;
    let certificate = conversation.certificate.clone();
    conversation.flight.clear();

    conversation.say(Kind::Certificate, &messages::certificate(certificate.der()));
    conversation.say(Kind::ClientKeyExchange, &client_messages::client_key_exchange(public_key.as_ref()));
    let exchange = Exchange { profile: agreed.profile, randoms: agreed.randoms, secret };
    let secured = exchange.complete(DtlsRole::Client, &share.public_key, &conversation.transcript)?;
    let signature = certificate.sign(&conversation.transcript).map_err(internal)?;
    conversation.say(Kind::CertificateVerify, &client_messages::certificate_verify(signature.as_ref()));
    let check = secured.master.verify_data(DtlsRole::Client, &conversation.transcript);
    let finished = conversation.next_message(Kind::Finished, &check);
    conversation.flight.finished = Some(finished);
    Ok(secured)
}

/// Checks the server's Finished.
fn finish(
    conversation: &Conversation,
    secured: Secured,
    peer: Fingerprint,
    check: &[u8],
    before: usize,
) -> Result<Established, Alert> {
    let (checked, _) = conversation.transcript.split_at(before);
    if !same(check, &secured.master.verify_data(DtlsRole::Server, checked)) {
        return Err(Alert::DecryptError);
    }
    let keys =
        secured.master.srtp_keys(secured.profile, &secured.randoms, DtlsRole::Client).ok_or(Alert::InternalError)?;
    Ok(Established { peer, keys, session: Session::new(secured.opener, secured.sealer) })
}
