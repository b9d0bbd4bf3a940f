//! What clients are sent (stream API, 8.3), and what they send (8.2).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::clock::Timestamp;
use crate::store::chat::{ChatMessage, ChatRole, ChatSettings};
use crate::store::stream::{EndReason, StreamState, UserId};

use super::refusal::Refusal;

/// `auth` of a connection.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Auth {
    #[serde(default)]
    pub token: Option<String>,
    /// The number of the last message that a returning client has. Anything that is no number is ignored, so that the
    /// client is treated as a newcomer: a refusal would look like one of its token.
    #[serde(default, deserialize_with = "number")]
    pub last_seq: Option<i64>,
}

/// A whole number, also as the text as which browsers store it.
#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Number(number) => number.as_i64(),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    })
}

/// Payload of a client's `chat:message`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MessageIn {
    pub text: String,
    #[serde(default)]
    pub client_id: Option<String>,
    #[serde(default)]
    pub reply_to: Option<String>,
}

/// The acknowledgement of an accepted message.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Accepted<'a> {
    pub ok: bool,
    pub id: &'a str,
    pub seq: i64,
    pub sent_at: Timestamp,
}

/// The acknowledgement of an accepted reaction.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    pub ok: bool,
}

/// The acknowledgement of a refused event.
#[derive(Debug, Serialize)]
pub(crate) struct Refused<'a> {
    pub ok: bool,
    pub error: &'a Refusal,
}

/// Who a client is in this chat.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct You {
    pub user_id: UserId,
    pub role: ChatRole,
    pub can_write: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muted_until: Option<Timestamp>,
}

/// Payload of `chat:state`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State {
    pub you: You,
    pub settings: ChatSettings,
    pub pinned: Option<ChatMessage>,
    pub viewers: u32,
    pub history: Vec<Arc<ChatMessage>>,
    pub last_seq: i64,
    pub gap: bool,
    pub reaction_totals: BTreeMap<String, u64>,
}

/// One event to clients.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Event {
    Message(Arc<ChatMessage>),
    Reaction(String),
    #[serde(rename_all = "camelCase")]
    Reactions {
        window_ms: u64,
        counts: BTreeMap<String, u64>,
        totals: BTreeMap<String, u64>,
    },
    State(Box<State>),
    #[serde(rename_all = "camelCase")]
    Viewers {
        viewers: u32,
        peak_viewers: u32,
    },
    Deleted {
        id: String,
        seq: i64,
    },
    #[serde(rename_all = "camelCase")]
    Cleared {
        user_id: UserId,
    },
    Pinned(Option<ChatMessage>),
    Settings(ChatSettings),
    /// Without a time: the mute was lifted.
    Muted {
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    #[serde(rename_all = "camelCase")]
    Updated {
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        tags: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        cover_url: Option<String>,
    },
    StreamState {
        state: StreamState,
    },
    Blocked {},
    #[serde(rename_all = "camelCase")]
    Ended {
        #[serde(skip_serializing_if = "Option::is_none")]
        end_reason: Option<EndReason>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ended_at: Option<Timestamp>,
    },
    Error(Refusal),
}

impl Event {
    /// Its length as JSON.
    pub fn bytes(&self) -> u64 {
        struct Length(u64);
        impl std::io::Write for Length {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0 += bytes.len() as u64;
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut length = Length(0);
        serde_json::to_writer(&mut length, self).expect("an event is written as JSON");
        length.0
    }

    pub fn name(&self) -> &'static str {
        match self {
            Event::Message(_) => "chat:message",
            Event::Reaction(_) => "reaction",
            Event::Reactions { .. } => "reactions",
            Event::State(_) => "chat:state",
            Event::Viewers { .. } => "viewers",
            Event::Deleted { .. } => "chat:deleted",
            Event::Cleared { .. } => "chat:cleared",
            Event::Pinned(_) => "chat:pinned",
            Event::Settings(_) => "chat:settings",
            Event::Muted { .. } => "chat:muted",
            Event::Updated { .. } => "stream:updated",
            Event::StreamState { .. } => "stream:state",
            Event::Blocked {} => "moderation:blocked",
            Event::Ended { .. } => "stream:ended",
            Event::Error(_) => "chat:error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_number_is_read_leniently() {
        for (written, expected) in
            [("7", Some(7)), ("\"7\"", Some(7)), ("null", None), ("1.5", None), ("1e300", None), ("\"x\"", None)]
        {
            let auth: Auth = serde_json::from_str(&format!(r#"{{"token":"t","lastSeq":{written}}}"#)).unwrap();

            assert_eq!((auth.token.as_deref(), auth.last_seq), (Some("t"), expected), "{written}");
        }
        assert_eq!(serde_json::from_str::<Auth>("{}").unwrap().last_seq, None);
    }
}
