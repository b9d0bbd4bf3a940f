//! Why an event or a connection was not accepted, in the words of the contract (stream API, 8.1.5 and 8.2).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::problem::STORE_RETRY;

macro_rules! codes {
    ($(#[$doc:meta])* $type:ident { $($name:ident $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $type { $($name,)* }

        impl $type {
            pub const ALL: &[$type] = &[$($type::$name,)*];

            pub fn name(self) -> &'static str {
                match self { $($type::$name => $text,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

codes! {
    /// Why a client may not connect: the whole message of its `connect_error`.
    ConnectRefusal {
        Unauthenticated "unauthenticated";
        TokenExpired "token_expired";
        Blocked "blocked";
        Banned "banned";
        StreamNotLive "stream_not_live";
        FeatureDisabled "feature_disabled";
        TooManyConnections "too_many_connections";
        ServerBusy "server_busy";
    }
}

codes! {
    /// Why an event was refused.
    RefusalCode {
        ValidationFailed "validation_failed";
        RateLimited "rate_limited";
        DuplicateMessage "duplicate_message";
        SlowMode "slow_mode";
        Muted "muted";
        Blocked "blocked";
        ChatDisabled "chat_disabled";
        Filtered "filtered";
        StreamNotLive "stream_not_live";
        Unauthenticated "unauthenticated";
        TokenExpired "token_expired";
        ServerBusy "server_busy";
        StoreUnavailable "store_unavailable";
    }
}

/// The `error` of an acknowledgement, or the payload of `chat:error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refusal {
    #[serde(serialize_with = "by_name")]
    pub code: RefusalCode,
    /// For people.
    pub message: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

fn by_name<S: serde::Serializer>(code: &RefusalCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.name())
}

impl Refusal {
    pub fn new(code: RefusalCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None }
    }

    pub fn after(self, wait: Duration) -> Self {
        let millis = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        Self { retry_after_ms: Some(millis), ..self }
    }

    pub fn malformed() -> Self {
        Self::new(RefusalCode::ValidationFailed, "The event is not known, or its payload has another shape.")
    }

    pub fn too_large(bytes_max: usize) -> Self {
        Self::new(RefusalCode::ValidationFailed, format!("An event has at most {bytes_max} bytes."))
    }

    pub fn busy() -> Self {
        Self::new(RefusalCode::ServerBusy, "Too much is being written here; try again in a moment.")
            .after(Duration::from_secs(1))
    }

    /// Neither the store nor the queue in front of it takes a message.
    pub fn not_kept() -> Self {
        let message = "Messages cannot be stored at the moment, so this one was not sent; try again in a moment.";
        Self::new(RefusalCode::StoreUnavailable, message).after(STORE_RETRY)
    }

    pub fn over() -> Self {
        Self::new(RefusalCode::StreamNotLive, "The stream is over.")
    }
}
