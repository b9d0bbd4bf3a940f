//! Names of rooms (stream API, section 1, rule 6): unique, and fit for a Socket.IO namespace, where `,` and `?` have a
//! meaning of their own.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::store::stream::UserId;

/// What all our rooms begin with.
pub(crate) const PREFIX: &str = "live_";

/// Longest user id that a name shows, in bytes.
const OWNER_BYTES_MAX: usize = 64;

/// How much of a hash stands for a user id that a name cannot show: 132 bits.
const HASH_CHARS: usize = 22;

/// `live_<owner>_<epoch-ms>`.
pub(crate) fn room_name(owner: &UserId, at: Timestamp) -> String {
    format!("{PREFIX}{}_{}", owner_part(owner.as_str()), at.millis())
}

/// When a room was named, if it has a name like these: what follows the last `_` are 13 digits, which milliseconds
/// since 1970 have from 2001 to 2286.
pub(crate) fn named_at(room: &str) -> Option<Timestamp> {
    let (owner, at) = room.strip_prefix(PREFIX)?.rsplit_once('_')?;
    let is_time = at.len() == 13 && at.bytes().all(|byte| byte.is_ascii_digit());
    (is_time && !owner.is_empty()).then(|| at.parse().ok().map(Timestamp::from_millis)).flatten()
}

fn owner_part(owner: &str) -> String {
    let plain = owner.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain && owner.len() <= OWNER_BYTES_MAX {
        return owner.to_owned();
    }
    let mut hash = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(owner));
    hash.truncate(HASH_CHARS);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(owner: &str) -> String {
        room_name(&owner.parse().unwrap(), Timestamp::from_millis(1_767_323_045_678))
    }

    #[test]
    fn a_name_shows_the_owner_and_the_time() {
        assert_eq!(name("6b02aa-x"), "live_6b02aa-x_1767323045678");
        for owner in ["6b02aa-x", "u_42"] {
            assert_eq!(named_at(&name(owner)), Some(Timestamp::from_millis(1_767_323_045_678)));
        }
    }

    #[test]
    fn rooms_of_others_may_begin_like_a_streams() {
        for room in
            ["live_", "live_show_2026", "live_1767323045678", "live__1767323045678", "live_a_176732304567x", "x"]
        {
            assert_eq!(named_at(room), None, "{room}");
        }
    }

    #[test]
    fn an_owner_whom_a_namespace_cannot_name_is_hashed() {
        for owner in ["a,b", "a?b", "a/b", "a b", "u_42", "ä", &"x".repeat(65)] {
            let name = name(owner);
            let part = name.strip_prefix(PREFIX).unwrap().strip_suffix("_1767323045678").unwrap();

            assert_eq!(part.len(), HASH_CHARS, "{owner}");
            assert!(part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{part}");
        }
        assert_ne!(name("a,b"), name("a?b"));
        // The beginning of the SHA-256 of `u_42`.
        assert_eq!(name("u_42"), "live_r8LSn1uhnXQcH3d-swmJy0_1767323045678");
        let longest = "x".repeat(64);
        assert_eq!(name(&longest), format!("live_{longest}_1767323045678"));
    }
}
