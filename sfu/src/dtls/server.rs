//! What a DTLS server says and hears: two flights of ours (RFC 5246, section 7.3).

use std::time::Instant;

use ring::agreement::EphemeralPrivateKey;
use ring::error::Unspecified;
use ring::rand::{SystemRandom, generate};

use super::alert::Alert;
use super::conversation::{Conversation, Established, Exchange, Secured, Step, Trouble};
use super::flight::Transmits;
use super::keys::{Randoms, same};
use super::messages::{self, ClientHello};
use super::reassembly::Kind;
use super::session::Session;
use super::x509::PublicKey;
use crate::certificate::fingerprint_of;
use crate::parameters::{DtlsRole, Fingerprint};

/// The client's message that is due next, and what it needs.
pub(super) enum Due {
    ClientHello,
    Certificate(Exchange),
    ClientKeyExchange(Exchange, Fingerprint, PublicKey),
    CertificateVerify(Box<Secured>, Fingerprint, PublicKey),
    Finished(Box<Secured>, Fingerprint),
    /// Everything is over.
    Nothing,
}

impl Due {
    pub(super) fn secured(&mut self) -> Option<&mut Secured> {
        match self {
            Self::CertificateVerify(secured, ..) | Self::Finished(secured, _) => Some(secured),
            Self::ClientHello | Self::Certificate(_) | Self::ClientKeyExchange(..) | Self::Nothing => None,
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
            (Self::ClientHello, Kind::ClientHello) => {
                let exchange = answer(conversation, body)?;
                conversation.flight.begin(now, None, transmits);
                Self::Certificate(exchange)
            }
            (Self::Certificate(exchange), Kind::Certificate) => {
                let certificate = messages::parse_certificate(body)?;
                let key = PublicKey::of_certificate(certificate).ok_or(Alert::UnsupportedCertificate)?;
                Self::ClientKeyExchange(exchange, fingerprint_of(certificate), key)
            }
            (Self::ClientKeyExchange(exchange, peer, key), Kind::ClientKeyExchange) => {
                let public_key = messages::parse_client_key_exchange(body)?;
                let secured = exchange.complete(DtlsRole::Server, public_key, &conversation.transcript)?;
                Self::CertificateVerify(Box::new(secured), peer, key)
            }
            (Self::CertificateVerify(secured, peer, key), Kind::CertificateVerify) => {
                let (scheme, signature) = messages::parse_certificate_verify(body)?;
                let (signed, _) = conversation.transcript.split_at(before);
                if !key.has_signed(scheme, signed, signature) {
                    return Err(Alert::DecryptError.into());
                }
                Self::Finished(secured, peer)
            }
            (Self::Finished(secured, peer), Kind::Finished) => {
                let established = finish(conversation, now, *secured, peer, body, before, transmits)?;
                return Ok(Step::Established(Box::new(established)));
            }
            _ => return Err(Alert::UnexpectedMessage.into()),
        };
        Ok(Step::Due(due))
    }
}

/// Answers a ClientHello: writes our flight up to ServerHelloDone.
fn answer(conversation: &mut Conversation, hello: &[u8]) -> Result<Exchange, Alert> {
    let hello = ClientHello::parse(hello)?;
    let random = SystemRandom::new();
    let internal = |_: Unspecified| Alert::InternalError;
    let secret = EphemeralPrivateKey::generate(hello.group.algorithm(), &random).map_err(internal)?;
    let public_key = secret.compute_public_key().map_err(internal)?;
    let server: [u8; 32] = generate(&random).map_err(internal)?.expose();
    let randoms = Randoms { client: hello.random, server };
    let params = messages::key_exchange_params(hello.group, public_key.as_ref());
    let certificate = conversation.certificate.clone();
    let signature = certificate.sign(&messages::signed_params(&randoms, &params)).map_err(internal)?;

    conversation.say(Kind::ServerHello, &messages::server_hello(&hello, &server));
    conversation.say(Kind::Certificate, &messages::certificate(certificate.der()));
    conversation.say(Kind::ServerKeyExchange, &messages::server_key_exchange(&params, signature.as_ref()));
    conversation.say(Kind::CertificateRequest, &messages::certificate_request());
    conversation.say(Kind::ServerHelloDone, &[]);
    Ok(Exchange { profile: hello.profile, randoms, secret })
}

/// Checks the client's Finished, and answers with ours.
fn finish(
    conversation: &mut Conversation,
    now: Instant,
    secured: Secured,
    peer: Fingerprint,
    check: &[u8],
    before: usize,
    transmits: &mut Transmits,
) -> Result<Established, Trouble> {
    let (checked, _) = conversation.transcript.split_at(before);
    if !same(check, &secured.master.verify_data(DtlsRole::Client, checked)) {
        return Err(Alert::DecryptError.into());
    }
    let keys =
        secured.master.srtp_keys(secured.profile, &secured.randoms, DtlsRole::Server).ok_or(Alert::InternalError)?;
    let own_check = secured.master.verify_data(DtlsRole::Server, &conversation.transcript);
    let finished = conversation.next_message(Kind::Finished, &own_check);
    let mut session = Session::new(secured.opener, secured.sealer);
    session.finish(now, finished, conversation.flight.next_record(), transmits);
    Ok(Established { peer, keys, session })
}
