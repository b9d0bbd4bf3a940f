//! Users kept from the whole service (stream API, section 2.5).

use serde_json::{Value, json};

use super::{Act, Counters, Moderation};
use crate::clock::Timestamp;
use crate::problem::{Code, Problem};
use crate::store::StoreError;
use crate::store::moderation::Ban;
use crate::store::stream::UserId;
use crate::stream_cache::Decision;
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
        let (by, at) = (caller.user.id.clone(), self.now());
        let ban = Ban { user_id: user.clone(), reason, until, by, at, lifted_at: None };
        self.lifecycle().store_held_first().await;
        let (ban, changed) = match self.write_ban(&ban).await {
            Ok(written) => written,
            Err(error) => {
                let act = ban_of(&ban);
                let unstored = self.lifecycle().hold(Decision::Ban(ban), error)?;
                return Err(self.unstored(unstored, caller, act));
            }
        };
        self.lifecycle().observe_ban(ban.clone());
        self.log_if(changed, caller, ban_of(&ban)).await?;
        Counters::add(&self.counters().bans);
        Ok(ban)
    }

    /// The ban that holds from now on, and whether it is another one than before.
    async fn write_ban(&self, ban: &Ban) -> Result<(Ban, bool), StoreError> {
        let known = self.store().ban(&ban.user_id).await?.filter(|known| known.holds(ban.at));
        if let Some(known) = known.filter(|known| (&known.reason, known.until) == (&ban.reason, ban.until)) {
            return Ok((known, false));
        }
        self.store().set_ban(ban).await?;
        Ok((ban.clone(), true))
    }

    /// # Errors
    /// `store_unavailable`.
    pub async fn lift_ban(&self, caller: &Caller, user: &UserId) -> Result<(), Problem> {
        let changed = self.lifecycle().lift_ban(user).await?;
        let (target, details) = (Some(user.to_string()), Value::Null);
        self.log_if(changed, caller, Act { action: "user.unban", stream: None, target, details }).await
    }
}

fn ban_of(ban: &Ban) -> Act {
    let details = json!({ "reason": ban.reason, "until": ban.until });
    Act { action: "user.ban", stream: None, target: Some(ban.user_id.to_string()), details }
}
