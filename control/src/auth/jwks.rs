//! The public keys of an identity service (RFC 7517), fetched and kept (stream API, section 2.2).
//!
//! Keys are fetched anew after ten minutes, in the background, and when a token names an unknown one, at most once a
//! minute. While the service is away, or answers with something that is no key set, the keys of the last fetch go on;
//! an empty set takes all of them back. Before the first fetch that succeeded nothing is known of any token that such a
//! key may have signed ([`NeverFetched`]).

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::Client;
use serde_json::Value;
use tokio::sync::watch;
use tracing::{debug, info, warn};
use url::{Host, Url};

use crate::outbound;

/// How long fetched keys are used without a look for newer ones.
const FRESH: Duration = Duration::from_secs(600);

/// Pause between two fetches, whoever asks for them: tokens with invented key ids cost the service next to nothing.
const PAUSE: Duration = Duration::from_secs(60);

/// Pause between the beginnings of two fetches while there are no keys at all.
pub(super) const RETRY: Duration = Duration::from_secs(5);

const TIMEOUT: Duration = Duration::from_secs(5);

/// How long after the beginning of a fetch calls wait for it, as long as none ever succeeded: enough for a service that
/// works, and the most that one which hangs delays a call.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// Pause between two warnings that there are no keys.
const WARN_EVERY: Duration = Duration::from_secs(60);

const BODY_BYTES_MAX: usize = 256 * 1024;

const KEYS_MAX: usize = 64;

/// Shortest modulus of an RSA key that is taken, in bits (RFC 7518, section 3.3).
const RSA_BITS_MIN: usize = 2048;

/// Of the types of keys that are taken.
pub(super) const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// One key, and the one algorithm that its type means.
pub(super) struct Key {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

/// No fetch has succeeded since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NeverFetched;

pub(super) struct Jwks {
    url: Url,
    client: Client,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    keys: Vec<Arc<Key>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
    /// The last one: there is one at a time, and who needs its keys waits for it.
    fetch: Option<Fetch>,
    /// When the last warning said that there are no keys at all.
    warned: Option<Instant>,
    /// Whether the operator was told of an RSA key that is too short.
    told_of_short_rsa: bool,
}

/// What a key set has for us.
struct KeySet {
    keys: Vec<Arc<Key>>,
    /// Bits of an RSA key that was left out because it has too few of them.
    short_rsa: Option<usize>,
}

/// A fetch under way, in a task of its own. Cheap to clone.
#[derive(Clone)]
struct Fetch {
    begun: tokio::time::Instant,
    /// Closed once the fetch is over.
    end: watch::Receiver<()>,
}

impl Fetch {
    fn is_over(&self) -> bool {
        self.end.has_changed().is_err()
    }

    async fn wait(mut self) {
        while self.end.changed().await.is_ok() {}
    }
}

impl Jwks {
    pub(super) fn new(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        if url.scheme() != "https" && !(url.scheme() == "http" && is_loopback(&url)) {
            return Err(
                "it must be https, or http on this machine: who changes the keys on their way is everybody".into()
            );
        }
        let client = outbound::client([&url], |builder| builder.timeout(TIMEOUT)).map_err(|error| error.to_string())?;
        Ok(Self { url, client, known: RwLock::default() })
    }

    /// The keys that may have signed a token with this key id: that one, or all if the token names none.
    ///
    /// # Errors
    /// [`NeverFetched`]
    pub(super) async fn keys(self: &Arc<Self>, id: Option<&str>, now: Instant) -> Result<Vec<Arc<Key>>, NeverFetched> {
        let patience = match self.look_up(id, now) {
            Ok((found, stale)) if !found.is_empty() => {
                if stale {
                    self.fetch_if_due(now);
                }
                return Ok(found);
            }
            Ok(_) => TIMEOUT,
            Err(NeverFetched) => FIRST_WAIT,
        };
        if let Some(fetch) = self.fetch_if_due(now) {
            // After that time the keys count that are known by then.
            let _ = tokio::time::timeout_at(fetch.begun + patience, fetch.wait()).await;
        }
        self.look_up(id, now).map(|(found, _)| found)
    }

    fn look_up(&self, id: Option<&str>, now: Instant) -> Result<(Vec<Arc<Key>>, bool), NeverFetched> {
        let known = self.known.read().expect("no one panics with this lock");
        let fetched = known.fetched.ok_or(NeverFetched)?;
        let keys = known.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).cloned().collect();
        let stale = now.saturating_duration_since(fetched) >= FRESH;
        Ok((keys, stale && known.is_due(now)))
    }

    /// Begins a fetch if it is time for one. The one that is under way then, if any.
    fn fetch_if_due(self: &Arc<Self>, now: Instant) -> Option<Fetch> {
        let mut known = self.known.write().expect("no one panics with this lock");
        known.fetch.take_if(|fetch| fetch.is_over());
        if known.fetch.is_none() && known.is_due(now) {
            let (over, end) = watch::channel(());
            known.tried = Some(now);
            known.fetch = Some(Fetch { begun: tokio::time::Instant::now(), end });
            let this = Arc::clone(self);
            tokio::spawn(async move {
                let fetched = this.fetch().await;
                this.known.write().expect("no one panics with this lock").note(fetched, now);
                drop(over);
            });
        }
        known.fetch.clone()
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let answer = self.client.get(self.url.clone()).send().await.map_err(outbound::reason)?;
        let mut answer = answer.error_for_status().map_err(outbound::reason)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(outbound::reason)? {
            if body.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(format!("more than {BODY_BYTES_MAX} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        read(&body)
    }
}

impl Known {
    /// What came of a fetch that began at `now`.
    fn note(&mut self, fetched: Result<KeySet, String>, now: Instant) {
        match fetched {
            Ok(KeySet { keys, short_rsa }) => {
                if let Some(bits) = short_rsa
                    && !std::mem::replace(&mut self.told_of_short_rsa, true)
                {
                    warn!(
                        bits,
                        "the identity service has an RSA key of less than {RSA_BITS_MIN} bits, which can be broken: the \
                         key is left out and tokens that it signs are refused; let the service take a longer one"
                    );
                }
                if self.warned.take().is_some() {
                    info!(keys = keys.len(), "fetched the keys of the identity service for the first time");
                }
                if keys.is_empty() && !self.keys.is_empty() {
                    warn!(
                        "the identity service has taken all its keys back, or has none of a kind that is known here: \
                         whoever has a token that they signed is signed out"
                    );
                }
                debug!(keys = keys.len(), "fetched the keys of the identity service");
                self.keys = keys;
                self.fetched = Some(now);
            }
            Err(error) if self.fetched.is_some() => {
                warn!(error, "cannot fetch the keys of the identity service; the last ones go on");
            }
            Err(error) if self.warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN_EVERY) => {
                self.warned = Some(now);
                warn!(
                    error,
                    "cannot fetch the keys of the identity service, and there are none yet: nobody whose token they sign \
                     can call until they come; see to JWT_JWKS_URL (auth.jwks_url)"
                );
            }
            Err(error) => debug!(error, "still cannot fetch the keys of the identity service"),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let pause = if self.keys.is_empty() { RETRY } else { PAUSE };
        self.tried.is_none_or(|at| now.saturating_duration_since(at) >= pause)
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Keys of other kinds than ours are left out, as RFC 7517 (section 5) asks for.
fn read(body: &[u8]) -> Result<KeySet, String> {
    // A struct would be read from a list as well.
    let mut set: serde_json::Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| format!("not a key set: {error}"))?;
    let Some(Value::Array(keys)) = set.remove("keys") else {
        return Err("not a key set: it has no list of keys".to_owned());
    };
    let mut short_rsa = None;
    let mut is_long = |jwk: &Jwk| match rsa_bits(jwk) {
        Some(bits) if bits < RSA_BITS_MIN => {
            short_rsa = Some(bits);
            false
        }
        Some(_) | None => true,
    };
    let jwks = keys.into_iter().take(KEYS_MAX).filter_map(|value| serde_json::from_value::<Jwk>(value).ok());
    let keys = jwks.filter(|jwk| is_long(jwk)).filter_map(key).map(Arc::new).collect();
    Ok(KeySet { keys, short_rsa })
}

/// Bits of the modulus, if it is an RSA key.
fn rsa_bits(jwk: &Jwk) -> Option<usize> {
    let AlgorithmParameters::RSA(rsa) = &jwk.algorithm else {
        return None;
    };
    let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).unwrap_or_default();
    let first = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
    let zeros = modulus.get(first).map_or(0, |byte| byte.leading_zeros() as usize);
    Some((modulus.len() - first) * 8 - zeros)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn key(jwk: Jwk) -> Option<Key> {
    if matches!(&jwk.common.public_key_use, Some(use_) if *use_ != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: jwk.common.key_id, algorithm, decoding })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn only_keys_for_signatures_of_known_kinds_are_taken() {
        let set = r#"{"keys": [
            {"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty":"OKP","crv":"Ed25519","kid":"b","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            {"kty":"oct","kid":"c","k":"c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"},
            {"kty":"new-kind","kid":"d"}, 7, {}
        ]}"#;

        let set = read(set.as_bytes()).unwrap();

        assert_eq!(set.keys.iter().map(|key| key.id.as_deref()).collect::<Vec<_>>(), [Some("a")]);
    }

    /// RFC 7518, section 3.3: such a key can be broken, and who breaks it is everybody.
    #[test]
    fn an_rsa_key_has_2048_bits_or_more() {
        let set = |modulus: &[u8]| {
            let key =
                serde_json::json!({ "kty": "RSA", "kid": "a", "n": URL_SAFE_NO_PAD.encode(modulus), "e": "AQAB" });
            read(serde_json::json!({ "keys": [key] }).to_string().as_bytes()).unwrap()
        };

        for long in [&[0x80; 256][..], &[0xff; 512], &[&[0][..], &[0x80; 256]].concat()] {
            assert_eq!((set(long).keys.len(), set(long).short_rsa), (1, None));
        }
        for (short, bits) in [
            (&[0x80; 128][..], 1024),
            (&[0x7f; 256], 2047),
            (&[&[0; 200][..], &[0x80; 128]].concat(), 1024),
            (&[0; 256], 0),
            (&[], 0),
        ] {
            assert_eq!((set(short).keys.len(), set(short).short_rsa), (0, Some(bits)));
        }
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What an operator reads of it, line by line.
    fn told(notes: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .with_max_level(tracing::Level::INFO)
            .finish();
        tracing::subscriber::with_default(log, notes);
        let written = written.0.lock().unwrap();
        String::from_utf8_lossy(&written).lines().map(|line| line.trim().to_owned()).collect()
    }

    fn key_set(ids: &[&str], short_rsa: Option<usize>) -> Result<KeySet, String> {
        let keys = ids.iter().map(|id| {
            let decoding = DecodingKey::from_secret(b"of no use");
            Arc::new(Key { id: Some((*id).to_owned()), algorithm: Algorithm::EdDSA, decoding })
        });
        Ok(KeySet { keys: keys.collect(), short_rsa })
    }

    #[test]
    fn an_operator_is_told_once_a_minute_that_there_are_no_keys_and_when_they_come() {
        let (mut known, start) = (Known::default(), Instant::now());
        let mut at = |seconds: u64, fetched: Result<KeySet, String>| {
            told(|| known.note(fetched, start + Duration::from_secs(seconds)))
        };
        let away = || Err("away".to_owned());

        for (seconds, lines) in [(0, 1), (5, 0), (59, 0), (60, 1), (65, 0), (119, 0), (120, 1)] {
            let told = at(seconds, away());
            assert_eq!(told.len(), lines, "after {seconds} s: {told:?}");
            assert!(told.iter().all(|line| line.starts_with("WARN") && line.contains("JWT_JWKS_URL")), "{told:?}");
        }
        let told = at(125, key_set(&["a"], None));
        assert!(matches!(&told[..], [line] if line.starts_with("INFO") && line.contains("first time")), "{told:?}");
        assert_eq!(at(800, key_set(&["a", "b"], None)), [""; 0], "this is as it should be");
        for seconds in [1_400, 1_460] {
            let told = at(seconds, away());
            assert!(matches!(&told[..], [line] if line.contains("the last ones go on")), "{told:?}");
        }
        assert_eq!(at(1_520, key_set(&["a"], None)), [""; 0]);
    }

    #[test]
    fn an_operator_is_told_once_of_a_short_key_and_each_time_that_all_keys_are_gone() {
        let (mut known, now) = (Known::default(), Instant::now());
        let mut of = |ids: &[&str], short: Option<usize>| told(|| known.note(key_set(ids, short), now));

        assert_eq!(of(&["a"], None), [""; 0]);
        let told = of(&["a"], Some(1024));
        assert!(matches!(&told[..], [line] if line.starts_with("WARN") && line.contains("bits=1024")), "{told:?}");
        assert_eq!(of(&["a"], Some(1024)), [""; 0]);
        for _ in 0..2 {
            let told = of(&[], None);
            assert!(matches!(&told[..], [line] if line.starts_with("WARN") && line.contains("signed out")), "{told:?}");
            assert_eq!(of(&[], None), [""; 0], "they were gone before");
            assert_eq!(of(&["a"], None), [""; 0]);
        }
    }

    #[test]
    fn what_is_no_key_set_is_an_error() {
        for body in ["", "[]", "[[]]", "{}", "<html>", r#"{"keys": 1}"#, r#"{"keys": null}"#, r#"{"error": "x"}"#] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        assert!(Jwks::new("https://id.example/keys").is_ok());
        assert!(Jwks::new("http://127.0.0.1:8080/keys").is_ok());
        assert!(Jwks::new("http://id.example/keys").is_err());
        assert!(Jwks::new("keys").is_err());
    }
}
