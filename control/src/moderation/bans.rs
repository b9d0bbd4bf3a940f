//! Users kept from the whole service (stream API, section 2.5).

use serde_json::{Value, json};

use super::{Act, Counters, Moderation};
use crate::clock::Timestamp;
use crate::problem::{Code, Problem};
use crate::store::moderation::Ban;
use crate::store::stream::UserId;
use crate::user::Caller;

impl Moderation {
    /// Bans a user, for good or until a time: no start, no watching, no chat, no reports; a live stream of the user
    /// ends. Replaces an earlier ban; one that says the same stays as it is.
    ///
    /// # Errors
    /// `cannot_block_admin` for the caller, `store_unavailable`.
    pub async fn ban(
        &self,
        caller: &Caller,
        user: &UserId,
        reason: String,
        until: Option<Timestamp>,
    ) -> Result<Ban, Problem> {
        if caller.user.id == *user {
            return Err(Problem::new(Code::CannotBlockAdmin, "You cannot ban yourself."));
        }
        let (by, at) = (caller.user.id.clone(), Timestamp::now());
        let ban = Ban { user_id: user.clone(), reason, until, by, at, lifted_at: None };
        let known = self.store().ban(user).await?.filter(|known| known.holds(at));
        let known = known.filter(|known| (&known.reason, known.until) == (&ban.reason, ban.until));
        let changed = known.is_none();
        let ban = known.unwrap_or(ban);
        if changed {
            self.store().set_ban(&ban).await?;
        }
        self.streams().observe_ban(ban.clone());
        let details = json!({ "reason": ban.reason, "until": ban.until });
        let act = Act { action: "user.ban", stream: None, target: Some(user.to_string()), details };
        self.log_if(changed, caller, act).await?;
        Counters::add(&self.counters().bans);
        Ok(ban)
    }

    /// # Errors
    /// `store_unavailable`.
    pub async fn lift_ban(&self, caller: &Caller, user: &UserId) -> Result<(), Problem> {
        let changed = self.store().lift_ban(user, Timestamp::now()).await?;
        if let Some(ban) = self.store().ban(user).await? {
            self.streams().observe_ban(ban);
        }
        let (target, details) = (Some(user.to_string()), Value::Null);
        self.log_if(changed, caller, Act { action: "user.unban", stream: None, target, details }).await
    }
}
