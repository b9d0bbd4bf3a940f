//! Users kept from one stream, or from all of an owner's (stream API, sections 7.1 to 7.4).

use serde_json::{Value, json};

use super::{Act, BLOCKS_MAX, Counters, Moderation};
use crate::problem::{Code, Problem};
use crate::store::stream::{Block, StreamId, UserId};
use crate::stream_cache::Decision;
use crate::user::{Caller, User};

/// Bytes of all reasons in one list. A stream is read and written as a whole: each viewer who comes would pay for
/// megabytes of them.
const REASONS_BYTES_MAX: usize = 256 * 1024;

impl Moderation {
    /// Keeps a user from a stream, at once. The first block of a user stays as it is.
    ///
    /// # Errors
    /// `stream_not_found`, `not_owner`, `cannot_block_owner`, `cannot_block_admin`, `conflict` when the list is full,
    /// `store_unavailable`.
    pub async fn block(
        &self,
        caller: &Caller,
        id: StreamId,
        user: &UserId,
        reason: Option<String>,
    ) -> Result<Block, Problem> {
        self.lifecycle().store_held_first().await;
        let stream = self.moderated(&caller.user, id).await?;
        if stream.owner_id == *user {
            return Err(Problem::new(Code::CannotBlockOwner, "The owner of a stream cannot be blocked from it."));
        }
        self.refuse_admin(&caller.user, user)?;
        if !stream.blocks(user) {
            require_space(&stream.blocks, reason.as_deref())?;
        }
        let block = Block { user_id: user.clone(), blocked_at: self.now(), by: caller.user.id.clone(), reason };
        let outcome = match self.store().block(id, &block).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let details = json!({ "reason": block.reason });
                let unstored = self.lifecycle().hold(Decision::Block(id, block), error)?;
                let target = Some(user.to_string());
                let act = Act { action: "user.block", stream: Some(id), target, details };
                return Err(self.unstored(unstored, caller, act));
            }
        };
        let changed = outcome.changed();
        let stream = outcome.into_stream();
        let kept = stream.blocks.iter().find(|kept| kept.user_id == *user).cloned().unwrap_or(block);
        self.lifecycle().observe(stream);
        self.log_about(caller, "user.block", id, user, json!({ "reason": kept.reason }), changed).await?;
        Counters::add(&self.counters().blocks);
        Ok(kept)
    }

    /// Lets a user watch a stream again.
    ///
    /// # Errors
    /// `stream_not_found`, `not_owner`, `store_unavailable`.
    pub async fn unblock(&self, caller: &Caller, id: StreamId, user: &UserId) -> Result<(), Problem> {
        self.moderated(&caller.user, id).await?;
        let changed = self.lifecycle().unblock(id, user).await?;
        self.log_about(caller, "user.unblock", id, user, Value::Null, changed).await
    }

    /// Takes an administrator off the list who was blocked before it was known here that this user is one. From then on
    /// the room and the chat admit the administrator too.
    ///
    /// # Errors
    /// `stream_not_found`, `store_unavailable`.
    pub async fn spare_admin(&self, caller: &Caller, id: StreamId) -> Result<(), Problem> {
        let stream = self.0.streams.stream(id).await?;
        if !caller.user.is_admin() || !stream.blocks(&caller.user.id) {
            return Ok(());
        }
        self.unblock(caller, id, &caller.user.id).await
    }

    /// # Errors
    /// `stream_not_found`, `not_owner`, `store_unavailable`.
    pub async fn blocks(&self, user: &User, id: StreamId) -> Result<Vec<Block>, Problem> {
        Ok(self.moderated(user, id).await?.blocks)
    }

    /// Puts a user on the caller's own list, which each of the caller's streams takes over when it starts.
    ///
    /// # Errors
    /// `cannot_block_owner` for the caller, `cannot_block_admin`, `conflict` when the list is full,
    /// `store_unavailable`.
    pub async fn own_block(&self, caller: &Caller, user: &UserId, reason: Option<String>) -> Result<Block, Problem> {
        let owner = &caller.user.id;
        if owner == user {
            return Err(Problem::new(Code::CannotBlockOwner, "You cannot block yourself."));
        }
        self.refuse_admin(&caller.user, user)?;
        let list = self.store().owner_blocks(owner, BLOCKS_MAX).await?;
        let known = list.iter().find(|known| known.user_id == *user).cloned();
        let (block, changed) = match known {
            Some(known) => (known, false),
            None => {
                require_space(&list, reason.as_deref())?;
                let by = owner.clone();
                let block = Block { user_id: user.clone(), blocked_at: self.now(), by, reason };
                let changed = self.store().owner_block(owner, &block).await?;
                (block, changed)
            }
        };
        let details = json!({ "reason": block.reason });
        let act = Act { action: "owner.block", stream: None, target: Some(user.to_string()), details };
        self.log_if(changed, caller, act).await?;
        Ok(block)
    }

    /// Takes a user off the caller's own list.
    ///
    /// # Errors
    /// `store_unavailable`.
    pub async fn own_unblock(&self, caller: &Caller, user: &UserId) -> Result<(), Problem> {
        let changed = self.store().owner_unblock(&caller.user.id, user).await?;
        let (target, details) = (Some(user.to_string()), Value::Null);
        self.log_if(changed, caller, Act { action: "owner.unblock", stream: None, target, details }).await
    }

    /// # Errors
    /// `store_unavailable`.
    pub async fn own_blocks(&self, user: &User) -> Result<Vec<Block>, Problem> {
        Ok(self.store().owner_blocks(&user.id, BLOCKS_MAX).await?)
    }

    fn refuse_admin(&self, caller: &User, user: &UserId) -> Result<(), Problem> {
        if self.is_admin(caller, user) {
            return Err(Problem::new(Code::CannotBlockAdmin, "Administrators cannot be blocked."));
        }
        Ok(())
    }

    async fn log_about(
        &self,
        caller: &Caller,
        action: &'static str,
        stream: StreamId,
        user: &UserId,
        details: Value,
        changed: bool,
    ) -> Result<(), Problem> {
        let act = Act { action, stream: Some(stream), target: Some(user.to_string()), details };
        self.log_if(changed, caller, act).await
    }
}

fn require_space(list: &[Block], reason: Option<&str>) -> Result<(), Problem> {
    if list.len() >= BLOCKS_MAX {
        let detail = format!("The list is full: it has {BLOCKS_MAX} entries. Remove some first.");
        return Err(Problem::new(Code::Conflict, detail));
    }
    let Some(reason) = reason else { return Ok(()) };
    let known: usize = list.iter().filter_map(|block| block.reason.as_ref()).map(String::len).sum();
    if known + reason.len() > REASONS_BYTES_MAX {
        let detail = "The list has no space for more reasons; leave the reason out, or remove some entries first.";
        return Err(Problem::new(Code::Conflict, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn list(length: usize, reason: Option<&str>) -> Vec<Block> {
        let block = |n| Block {
            user_id: format!("u{n}").parse().unwrap(),
            blocked_at: Timestamp::from_millis(1),
            by: "owner".parse().unwrap(),
            reason: reason.map(str::to_owned),
        };
        (0..length).map(block).collect()
    }

    #[test]
    fn a_list_has_five_thousand_entries_and_its_reasons_256_kib() {
        let code = |list: &[Block], reason: Option<&str>| require_space(list, reason).map_err(|problem| problem.code);

        assert_eq!(code(&list(4_999, None), Some("rude")), Ok(()));
        assert_eq!(code(&list(5_000, None), None), Err(Code::Conflict));
        let nearly = list(255, Some(&"x".repeat(1_024)));
        assert_eq!(code(&nearly, Some(&"x".repeat(1_024))), Ok(()));
        assert_eq!(code(&nearly, Some(&"x".repeat(1_025))), Err(Code::Conflict));
        assert_eq!(code(&list(300, Some(&"x".repeat(1_024))), None), Ok(()));
    }
}
