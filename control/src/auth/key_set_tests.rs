//! Section 2.2: tokens signed with keys of an identity service.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::{AuthError, Authenticator, KEYS_TRIED_MAX, Reason};
use crate::clock::Timestamp;
use crate::config::product;

/// Longest wait for a fetch in the background, in polls of a millisecond.
const POLLS_MAX: usize = 20_000;

/// An identity service: what it answers, when, and how often it was asked.
struct Service {
    address: SocketAddr,
    answer: Arc<Mutex<(StatusCode, String)>>,
    answers_now: Arc<watch::Sender<bool>>,
    asked: Arc<AtomicUsize>,
    /// Requests that ended without an answer.
    given_up: Arc<AtomicUsize>,
}

/// Counts a request that ends without an answer.
struct Unanswered(Arc<AtomicUsize>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service {
    async fn with(keys: &[&Key]) -> Self {
        let answer = Arc::new(Mutex::new((StatusCode::OK, String::new())));
        let (asked, given_up) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let answers_now = Arc::new(watch::Sender::new(true));
        let (given, counted) = (Arc::clone(&answer), Arc::clone(&asked));
        let (ended, open) = (Arc::clone(&given_up), Arc::clone(&answers_now));
        let give = get(move || async move {
            counted.fetch_add(1, Ordering::SeqCst);
            let unanswered = Unanswered(ended);
            open.subscribe().wait_for(|open| *open).await.unwrap();
            std::mem::forget(unanswered);
            given.lock().unwrap().clone()
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/keys", give)).await.unwrap() });
        let service = Self { address, answer, answers_now, asked, given_up };
        service.has(keys);
        service
    }

    fn has(&self, keys: &[&Key]) {
        let keys: Vec<_> = keys.iter().map(|key| key.public()).collect();
        self.answers(StatusCode::OK, json!({ "keys": keys }).to_string());
    }

    fn answers(&self, status: StatusCode, body: String) {
        *self.answer.lock().unwrap() = (status, body);
    }

    /// From now on requests wait, or are answered again.
    fn hangs(&self, hangs: bool) {
        self.answers_now.send_replace(!hangs);
    }

    fn given_up(&self) -> usize {
        self.given_up.load(Ordering::SeqCst)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Asks it as anybody may.
    async fn is_asked(&self) {
        let mut socket = tokio::net::TcpStream::connect(self.address).await.unwrap();
        socket.write_all(b"GET /keys HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        socket.read_to_end(&mut Vec::new()).await.unwrap();
    }

    fn verifier(&self) -> Verifier {
        let url = format!("http://{}/keys", self.address);
        let config = product::Auth { jwks_url: url, ..product::Auth::default() };
        Verifier { authenticator: Authenticator::new(&config, &[]).unwrap(), now: Instant::now() }
    }
}

/// An authenticator, and the time of which the test says how it goes.
struct Verifier {
    authenticator: Authenticator,
    now: Instant,
}

impl Verifier {
    async fn verify(&self, token: &str) -> Result<String, AuthError> {
        self.authenticator
            .verify_at(token, Timestamp::now(), self.now, KEYS_TRIED_MAX)
            .await
            .map(|user| user.id.to_string())
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

/// Waits until something holds that happens by itself.
async fn eventually(holds: impl AsyncFn() -> bool) {
    for _ in 0..POLLS_MAX {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never happened");
}

struct Key {
    id: &'static str,
    algorithm: Algorithm,
    private: EncodingKey,
}

impl Key {
    fn public(&self) -> Value {
        let mut public = serde_json::to_value(Jwk::from_encoding_key(&self.private, self.algorithm).unwrap()).unwrap();
        public["kid"] = json!(self.id);
        public["use"] = json!("sig");
        public
    }

    fn sign(&self, id: Option<&str>) -> String {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, &claims(), &self.private).unwrap()
    }

    fn token(&self) -> String {
        self.sign(Some(self.id))
    }
}

fn claims() -> Value {
    json!({ "sub": "u1", "exp": Timestamp::now().millis() / 1000 + 36_000 })
}

fn rsa() -> Key {
    let private = EncodingKey::from_rsa_pem(include_bytes!("keys/rsa.pem")).unwrap();
    Key { id: "rsa", algorithm: Algorithm::RS256, private }
}

fn ec() -> Key {
    let private = EncodingKey::from_ec_pem(include_bytes!("keys/ec.pem")).unwrap();
    Key { id: "ec", algorithm: Algorithm::ES256, private }
}

fn ed() -> Key {
    let private = EncodingKey::from_ed_pem(include_bytes!("keys/ed25519.pem")).unwrap();
    Key { id: "ed", algorithm: Algorithm::EdDSA, private }
}

fn next() -> Key {
    let private = EncodingKey::from_ed_pem(include_bytes!("keys/ed25519-next.pem")).unwrap();
    Key { id: "next", algorithm: Algorithm::EdDSA, private }
}

/// RS256, ES256 and EdDSA, each with the key that the token names, or with any if it names none.
#[tokio::test]
async fn tokens_of_three_kinds_are_verified() {
    let keys = [rsa(), ec(), ed()];
    let service = Service::with(&[&keys[0], &keys[1], &keys[2]]).await;
    let verifier = service.verifier();

    for key in &keys {
        assert_eq!(verifier.verify(&key.token()).await.as_deref(), Ok("u1"), "{}", key.id);
        assert_eq!(verifier.verify(&key.sign(None)).await.as_deref(), Ok("u1"), "{}", key.id);
    }
    // Signed by another key than the one that is named.
    for (key, id, reason) in [(&keys[0], "ec", Reason::Key), (&next(), "ed", Reason::Signature)] {
        assert_eq!(verifier.verify(&key.sign(Some(id))).await, Err(reason.into()));
    }
    assert_eq!(service.asked(), 1);
}

/// A public key never serves as a shared secret, whatever the token says of its algorithm.
#[tokio::test]
async fn a_public_key_is_no_secret() {
    let service = Service::with(&[&rsa()]).await;
    let verifier = service.verifier();
    let public = rsa().public();

    for secret in [public.to_string(), public["n"].as_str().unwrap().to_owned()] {
        let header = Header { kid: Some("rsa".to_owned()), ..Header::new(Algorithm::HS256) };
        let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(secret.as_bytes())).unwrap();
        assert_eq!(verifier.verify(&token).await, Err(Reason::Key.into()));
    }
}

/// The algorithm of a key is that of its type: an RSA key signs RS256 and nothing else.
#[tokio::test]
async fn a_key_has_one_algorithm() {
    let service = Service::with(&[&rsa()]).await;
    let other = Key { algorithm: Algorithm::RS512, ..rsa() };

    assert_eq!(service.verifier().verify(&other.token()).await, Err(Reason::Key.into()));
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_once_a_minute() {
    let service = Service::with(&[&ed()]).await;
    let mut verifier = service.verifier();
    assert!(verifier.verify(&ed().token()).await.is_ok());
    service.has(&[&ed(), &next()]);

    for _ in 0..20 {
        assert!(verifier.verify(&next().token()).await.is_err());
    }
    assert_eq!(service.asked(), 1);
    verifier.wait(60);
    assert!(verifier.verify(&next().token()).await.is_ok());
    assert!(verifier.verify(&ed().token()).await.is_ok());
    assert_eq!(service.asked(), 2);
}

#[tokio::test]
async fn keys_are_looked_up_again_after_ten_minutes() {
    let service = Service::with(&[&ed()]).await;
    let mut verifier = service.verifier();
    assert!(verifier.verify(&ed().token()).await.is_ok());
    service.has(&[&next()]);

    verifier.wait(599);
    assert!(verifier.verify(&ed().token()).await.is_ok());
    // A look in the background would have come before this one.
    service.is_asked().await;
    assert_eq!(service.asked(), 2);
    verifier.wait(1);
    // This one still goes by the old keys, and asks for the new ones.
    assert!(verifier.verify(&ed().token()).await.is_ok());
    eventually(async || verifier.verify(&ed().token()).await.is_err()).await;
    assert!(verifier.verify(&next().token()).await.is_ok());
}

#[tokio::test]
async fn the_last_keys_go_on_while_the_service_is_away() {
    let service = Service::with(&[&ed()]).await;
    let mut verifier = service.verifier();
    assert!(verifier.verify(&ed().token()).await.is_ok());

    let refusals = [
        (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
        (StatusCode::OK, "nonsense".to_owned()),
        (StatusCode::OK, format!("{{\"keys\": [], \"padding\": \"{}\"}}", "x".repeat(300 * 1024))),
    ];
    for (n, (status, body)) in refusals.into_iter().enumerate() {
        service.answers(status, body);
        verifier.wait(700);
        assert!(verifier.verify(&ed().token()).await.is_ok());
        eventually(async || service.asked() >= n + 2).await;
        assert!(verifier.verify(&ed().token()).await.is_ok());
    }
}

/// Whoever answers for a service that is broken rarely says so with a status.
#[tokio::test]
async fn an_answer_without_a_key_set_takes_no_key_back_and_an_empty_set_takes_all() {
    let service = Service::with(&[&ed()]).await;
    let mut verifier = service.verifier();
    assert!(verifier.verify(&ed().token()).await.is_ok());

    for body in ["{}", "[[]]", r#"{"keys": null}"#, r#"{"error": "try later"}"#, "<html>"] {
        service.answers(StatusCode::OK, body.to_owned());
        verifier.wait(700);
        // An unknown key waits for the fetch.
        assert!(verifier.verify(&next().token()).await.is_err(), "{body}");
        assert_eq!(verifier.verify(&ed().token()).await.as_deref(), Ok("u1"), "{body}");
    }
    service.has(&[]);
    verifier.wait(700);
    assert!(verifier.verify(&next().token()).await.is_err());
    assert_eq!(verifier.verify(&ed().token()).await, Err(Reason::Key.into()));
}

/// Without any keys, the service is asked again soon, but not by each token. Until it answers nothing is known of the
/// tokens that its keys sign: their users are not signed out.
#[tokio::test]
async fn a_service_that_is_away_at_first_is_asked_again_soon_and_signs_nobody_out() {
    let service = Service::with(&[&ed()]).await;
    let mut verifier = service.verifier();
    service.answers(StatusCode::BAD_GATEWAY, String::new());

    for key in [ed(), ec(), rsa()] {
        assert_eq!(verifier.verify(&key.token()).await, Err(AuthError::KeysUnavailable), "{}", key.id);
        assert_eq!(verifier.verify(&key.sign(None)).await, Err(AuthError::KeysUnavailable), "{}", key.id);
    }
    assert_eq!(service.asked(), 1);
    service.has(&[&ed()]);
    verifier.wait(5);
    assert!(verifier.verify(&ed().token()).await.is_ok());
    assert_eq!(verifier.verify(&ec().token()).await, Err(Reason::Key.into()));
}

/// No key of a set could help these.
#[tokio::test]
async fn tokens_that_no_key_of_the_set_could_sign_are_refused_whether_there_are_keys_or_not() {
    let service = Service::with(&[]).await;
    let verifier = service.verifier();
    service.answers(StatusCode::BAD_GATEWAY, String::new());
    let other = Key { algorithm: Algorithm::RS512, ..rsa() };
    let shared = EncodingKey::from_secret(&[7; 32]);
    let by_a_secret = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &shared).unwrap();

    for token in [other.token(), by_a_secret] {
        assert_eq!(verifier.verify(&token).await, Err(Reason::Key.into()));
    }
    assert_eq!(verifier.verify("x").await, Err(Reason::Malformed.into()));
    assert_eq!(service.asked(), 0);
}

/// All wait for the first fetch together, and not until it is given up.
#[tokio::test]
async fn a_service_that_hangs_holds_up_the_first_calls_for_a_moment_and_no_later_ones() {
    let service = Service::with(&[&ed()]).await;
    let verifier = service.verifier();
    service.hangs(true);

    for _ in 0..20 {
        assert_eq!(verifier.verify(&ed().token()).await, Err(AuthError::KeysUnavailable));
    }
    assert_eq!((service.asked(), service.given_up()), (1, 0), "the first fetch is still under way");
    service.hangs(false);
    eventually(async || verifier.verify(&ed().token()).await.is_ok()).await;
    assert_eq!(service.asked(), 1);
}

/// A caller that goes away, as HTTP clients do, takes nothing from those who wait with it.
#[tokio::test]
async fn who_stops_waiting_for_keys_does_not_end_their_fetch() {
    let service = Service::with(&[&ed()]).await;
    let verifier = service.verifier();
    service.hangs(true);
    let token = ed().token();

    let gone = async { eventually(async || service.asked() == 1).await };
    tokio::select! {
        _ = verifier.verify(&token) => panic!("there are no keys"),
        () = gone => {}
    }
    service.hangs(false);
    assert!(verifier.verify(&token).await.is_ok());
    assert_eq!((service.asked(), service.given_up()), (1, 0));
}

/// Each key that is tried costs as much as a valid token, and forged ones are free.
#[tokio::test]
async fn a_token_that_names_no_key_is_tried_with_four_keys_at_most() {
    let keys: Vec<Key> = ["a", "b", "c", "d", "e"].into_iter().map(|id| Key { id, ..ec() }).collect();
    let keys_of: Vec<&Key> = keys.iter().collect();
    let (four, five) = (Service::with(&keys_of[..4]).await, Service::with(&keys_of).await);
    let (four, five) = (four.verifier(), five.verifier());

    assert!(four.verify(&keys[0].sign(None)).await.is_ok());
    assert_eq!(five.verify(&keys[0].sign(None)).await, Err(Reason::Key.into()));
    assert!(five.verify(&keys[0].token()).await.is_ok(), "one that names its key is tried with that one");
    for (token, expected) in [(keys[0].sign(None), false), (keys[0].token(), true)] {
        let verified = four.authenticator.verify_with_one_key(&token, Timestamp::now()).await;
        assert_eq!(verified.is_ok(), expected, "{verified:?}");
    }
}
