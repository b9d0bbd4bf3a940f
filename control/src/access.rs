//! Who may use live streams at all: nobody while the feature flag is off (stream API, section 11), and no banned user
//! (section 2.5).
//!
//! Both are looked at once a request, by whoever lets it in, and only here. What is let in carries the proof,
//! [`FeatureEnabled`] or [`Admitted`]; [`Streams`], [`Moderation`] and [`ChatModeration`] take it as an argument, so
//! that a request that nobody looked at does not compile. The proofs are made
//!
//! - for HTTP by the layer of the routes that end with the flag (`http::admission::check_feature`) and by the
//!   extractors [`Member`] and [`MaybeMember`] of their handlers;
//! - for sockets of the chat by `chat::admission`, before a client joins a namespace.
//!
//! Joins of rooms need none, since they ask nothing of those services: `rooms::builtin::admission` refuses banned users
//! by itself. Webhooks are sent by media servers, not by users.
//!
//! A proof says what this node knew at that moment. A later ban has mechanisms of its own: [`Lifecycle::observe_ban`]
//! ends the user's stream and disconnects the user, `Streams::start` asks the store for bans of other nodes, and a room
//! of the chat looks again before it sends a new client its state.
//!
//! [`Streams`]: crate::streams::Streams
//! [`Moderation`]: crate::moderation::Moderation
//! [`ChatModeration`]: crate::chat::ChatModeration
//! [`Member`]: crate::http::caller::Member
//! [`MaybeMember`]: crate::http::caller::MaybeMember
//! [`Lifecycle::observe_ban`]: crate::lifecycle::Lifecycle::observe_ban

use std::ops::Deref;

use crate::clock::Clock;
use crate::problem::{Code, Problem};
use crate::store::stream::UserId;
use crate::stream_cache::StreamCache;
use crate::user::Caller;

/// Looks at the flag and at bans. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    cache: StreamCache,
    enabled: bool,
    clock: Clock,
}

/// Proof that the feature is switched on. Only [`Access::feature`] makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureEnabled(());

/// Proof that the feature is switched on and its user is not banned. Only [`Access::admit`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted(Caller);

/// Why somebody may not use live streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    FeatureDisabled,
    Banned,
}

impl Access {
    /// `enabled`: the feature flag, `FEATURE_GO_LIVE`.
    pub fn new(cache: StreamCache, enabled: bool, clock: Clock) -> Self {
        Self { cache, enabled, clock }
    }

    /// # Errors
    /// [`Denied::FeatureDisabled`]
    pub fn feature(&self) -> Result<FeatureEnabled, Denied> {
        if !self.enabled {
            return Err(Denied::FeatureDisabled);
        }
        Ok(FeatureEnabled(()))
    }

    /// # Errors
    /// [`Denied::Banned`]
    pub fn admit(&self, _: FeatureEnabled, caller: Caller) -> Result<Admitted, Denied> {
        if self.is_banned(&caller.user.id) {
            return Err(Denied::Banned);
        }
        Ok(Admitted(caller))
    }

    /// Whether a ban of this user is known to this node and holds now.
    pub(crate) fn is_banned(&self, user: &UserId) -> bool {
        self.cache.ban(user, (self.clock)()).is_some()
    }
}

impl Admitted {
    pub fn into_caller(self) -> Caller {
        self.0
    }
}

impl Deref for Admitted {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::FeatureDisabled => Problem::new(Code::FeatureDisabled, "Live streams are switched off here."),
            Denied::Banned => Problem::new(Code::Banned, "You are banned from this service."),
        }
    }
}
