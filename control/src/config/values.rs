//! Sorts of values that configurations hold.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_yaml_ng::Value;
use signaling::token::Secret;

/// API keys and their secrets, in the file's order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeyPairs(pub Vec<(String, Secret)>);

impl Serialize for KeyPairs {
    /// Names only: secrets do not leave.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, _)| (name, "…")))
    }
}

impl<'de> Deserialize<'de> for KeyPairs {
    /// Errors quote nothing, since all of it may be a secret.
    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pair = |(name, secret): (Value, Value)| match (scalar_text(&name), scalar_text(&secret)) {
            (Some(name), Some(secret)) => Ok((name, Secret::new(&secret))),
            _ => Err(D::Error::custom("an API key and its secret must be text")),
        };
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(Self::default()),
            Value::Mapping(pairs) => Ok(Self(pairs.into_iter().map(pair).collect::<Result<_, _>>()?)),
            _ => Err(D::Error::custom("expected a map of API keys to secrets, such as `name: secret`")),
        }
    }
}

/// Keys and secrets made of digits alone are text too. Numbers with fractions or exponents are not: they would not come
/// out as they were written.
pub(super) fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        Value::Number(_) | Value::Bool(_) | Value::Null | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
            None
        }
    }
}

/// What is said of something that is on or off; `None` for anything else.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" | "enabled" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" | "disabled" => Some(false),
        _ => None,
    }
}

/// An address to listen on. LiveKit writes all addresses as an empty text.
///
/// # Errors
/// The text is no address.
pub fn bind_address(text: &str) -> Result<IpAddr, String> {
    match text.trim() {
        "" => Ok(Ipv6Addr::UNSPECIFIED.into()),
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        text => text
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .map_err(|_| format!("{text:?} is not an IP address; \"\" means all")),
    }
}

/// A list of [`bind_address`]es.
pub(super) fn bind_addresses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
    let texts: Option<Vec<String>> = Option::deserialize(deserializer)?;
    texts.unwrap_or_default().iter().map(|text| bind_address(text)).collect::<Result<_, _>>().map_err(D::Error::custom)
}

/// Text that is not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "Hidden()" } else { "Hidden(…)" })
    }
}

impl<'de> Deserialize<'de> for Hidden {
    /// Errors do not quote it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        scalar_text(&value).map(Self).ok_or_else(|| D::Error::custom("expected text: write it in quotes"))
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0.is_empty() { "" } else { "…" })
    }
}

/// A port, or `first-last`. 0 means unset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn is_set(self) -> bool {
        self.last != 0
    }

    /// As [`std::str::FromStr`], but unset for an empty text.
    ///
    /// # Errors
    /// What is expected.
    pub fn or_unset(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() { Ok(Self::default()) } else { text.parse() }
    }
}

impl std::str::FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("{text:?} is neither a port nor a range such as 7882-7892")),
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            serializer.serialize_u16(self.first)
        } else {
            serializer.collect_str(&format_args!("{}-{}", self.first, self.last))
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        scalar_text(&value)
            .ok_or("expected a port or a range".to_owned())
            .and_then(|text| text.parse())
            .map_err(D::Error::custom)
    }
}

/// Addresses as LiveKit writes them: one, or two with a comma between. Empty: find them out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses(pub Vec<IpAddr>);

impl std::str::FromStr for Addresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parse = |part: &str| part.parse().map_err(|_| format!("{part:?} is not an IP address"));
        Ok(Self(parts.map(parse).collect::<Result<_, String>>()?))
    }
}

impl Serialize for Addresses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<String> = self.0.iter().map(IpAddr::to_string).collect();
        serializer.serialize_str(&texts.join(","))
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.unwrap_or_default().parse().map_err(D::Error::custom)
    }
}
