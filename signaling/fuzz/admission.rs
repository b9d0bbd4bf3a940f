//! What a stranger sends before it is let in: a token, and a wish to join. Shared by the fuzz target `admission` and
//! the test that replays its corpus.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use signaling::join::{self, ClientHints, JoinInput, Mode, NAME_BYTES_MAX, Parameters, Purpose};
use signaling::token::{Claims, Keys, Secret, SipGrant, VideoGrant};

/// Gives the input to every reader of such bytes. A panic is a failure, and so is a join that breaks its promises.
/// Returns how many of the requests were good.
pub fn ask(input: &[u8]) -> usize {
    let mut good = 0;
    let text = String::from_utf8_lossy(input);
    let keys = Keys::new([("key".to_owned(), Secret::new("secret"))]).expect("one key is enough");
    assert!(keys.verify(&text, now()).is_err(), "nobody guesses a signature");
    let claims = claims();
    let hints = ClientHints { user_agent: text.clone().into_owned(), address: String::new() };
    for mode in [Mode::V0, Mode::V1] {
        for parameters in [one("join_request", &text), one("join_request", &base64_url(input)), pairs(&text)] {
            for purpose in [Purpose::Connect, Purpose::Validate] {
                let input = JoinInput { mode, purpose, claims: Some(&claims), parameters: &parameters, hints: &hints };
                if let Ok(join) = join::read(input) {
                    assert!(join.grants.identity.as_str().len() <= NAME_BYTES_MAX);
                    assert_eq!(join.grants.video.room, "room");
                    good += 1;
                }
            }
        }
    }
    good
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn claims() -> Claims {
    Claims {
        api_key: "key".into(),
        identity: "alice".into(),
        name: String::new(),
        metadata: String::new(),
        attributes: HashMap::new(),
        kind: Default::default(),
        kind_details: Vec::new(),
        video: Some(VideoGrant {
            room_join: true,
            room: "room".into(),
            can_update_own_metadata: Some(true),
            ..VideoGrant::default()
        }),
        sip: SipGrant::default(),
        room_preset: String::new(),
        room_config: None,
        expires_at: now(),
        not_before: None,
    }
}

fn one(name: &str, value: &str) -> Parameters {
    Parameters(vec![(name.into(), value.into())])
}

/// One parameter a line.
fn pairs(text: &str) -> Parameters {
    Parameters(text.lines().filter_map(|line| line.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect())
}

/// RFC 4648, section 5, so that the fuzzer reaches what lies behind it.
fn base64_url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, &byte| group << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = (group >> (18 - 6 * place)) as usize & 63;
            text.push(if place > chunk.len() { '=' } else { char::from(ALPHABET[digit]) });
        }
    }
    text
}
