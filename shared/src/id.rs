//! Identifiers of LiveKit's surface: parsed once, compared cheaply.
//!
//! A sid is a prefix and twelve characters of an alphabet without look-alikes, as LiveKit's are.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rand::RngExt;
use serde::{Deserialize, Serialize};

/// LiveKit's base57: digits and letters without `0 1 I O l`.
const SID_ALPHABET: &[u8] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const SID_LENGTH: usize = 12;

/// Longest accepted id from outside, in bytes; LiveKit's limit for names is 256.
const ID_BYTES_MAX: usize = 256;

fn random_text(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| SID_ALPHABET[rng.random_range(0..SID_ALPHABET.len())] as char).collect()
}

/// Text that is not an id of the wanted sort.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {sort}: {text:?}")]
pub struct NotAnId {
    sort: &'static str,
    text: String,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $sort:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NotAnId;
            fn try_from(text: String) -> Result<Self, NotAnId> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.as_ref().to_owned()
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

macro_rules! chosen_id {
    ($(#[$doc:meta])* $name:ident, $sort:literal) => {
        text_id!($(#[$doc])* $name, $sort);
        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                if text.is_empty() || text.len() > ID_BYTES_MAX {
                    return Err(NotAnId { sort: $sort, text: text.chars().take(32).collect() });
                }
                Ok(Self(text.into()))
            }
        }
    };
}

macro_rules! sid {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $sort:literal) => {
        text_id!($(#[$doc])* $name, $sort);
        impl $name {
            pub const PREFIX: &'static str = $prefix;

            /// A new random sid.
            pub fn generate() -> Self {
                Self(format!("{}{}", $prefix, random_text(SID_LENGTH)).into())
            }
        }
        impl FromStr for $name {
            type Err = NotAnId;
            fn from_str(text: &str) -> Result<Self, NotAnId> {
                match text.strip_prefix($prefix) {
                    Some(rest) if !rest.is_empty() && text.len() <= ID_BYTES_MAX => Ok(Self(text.into())),
                    _ => Err(NotAnId { sort: $sort, text: text.chars().take(32).collect() }),
                }
            }
        }
    };
}

chosen_id!(
    /// A room's name as the token gives it, 1 to 256 bytes.
    RoomName, "room name"
);
chosen_id!(
    /// Who a participant is, unique in its room, 1 to 256 bytes.
    ParticipantIdentity, "participant identity"
);
sid!(RoomSid, "RM_", "room sid");
sid!(ParticipantSid, "PA_", "participant sid");
sid!(TrackSid, "TR_", "track sid");
sid!(NodeId, "ND_", "node id");

impl TrackSid {
    /// A new track sid with LiveKit's two cosmetic marker letters, such as `VC` for a camera.
    pub fn generate_marked(marker: &str) -> Self {
        Self(format!("{}{}{}", Self::PREFIX, marker, random_text(SID_LENGTH)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_needs_its_prefix_and_something_after_it() {
        assert!("TR_x".parse::<TrackSid>().is_ok());
        assert!("TR_".parse::<TrackSid>().is_err());
        assert!("PA_x".parse::<TrackSid>().is_err());
    }

    #[test]
    fn a_new_sid_has_twelve_characters_after_its_prefix() {
        assert_eq!(ParticipantSid::generate().as_str().len(), 15);
        assert_eq!(TrackSid::generate_marked("VC").as_str().len(), 17);
    }

    #[test]
    fn names_have_1_to_256_bytes() {
        assert!("".parse::<RoomName>().is_err());
        assert!("x".repeat(256).parse::<RoomName>().is_ok());
        assert!("x".repeat(257).parse::<RoomName>().is_err());
    }
}
