//! Decisions that hold on this node although the store did not take them, so that a stream can be stopped and a user
//! removed also while the disk is full. They are stored as soon as the store takes them. They are lost if the process
//! ends before, so the answer to the caller says that they are not stored.

use super::Lifecycle;
use crate::problem::Problem;
use crate::store::StoreError;
use crate::store::moderation::Ban;
use crate::store::stream::{StreamId, UserId};
use crate::stream_cache::{Decision, Hold};

/// A decision that holds on this node and is not stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Unstored {
    /// False: the same decision was held before.
    pub is_new: bool,
    pub problem: Problem,
}

impl Lifecycle {
    /// Holds a decision on this node that the store refused with `error`, and carries out what follows.
    ///
    /// # Errors
    /// `error`, if the decision concerns no live stream or too many are held.
    pub(crate) fn hold(&self, decision: Decision, error: StoreError) -> Result<Unstored, Problem> {
        if matches!(error, StoreError::NotFound) {
            return Err(error.into());
        }
        let chat = &self.0.chat;
        let held = self.0.cache.hold(decision.clone(), |change| {
            chat.observe(change);
            change.clone()
        });
        let is_new = match held {
            Hold::Not => return Err(error.into()),
            Hold::Known => false,
            Hold::New(change) => {
                tracing::error!(%error, ?decision, "a decision holds, and cannot be stored: see to the store");
                if let Some(change) = change {
                    self.follow(&change);
                }
                if let Decision::Ban(ban) = decision.clone() {
                    self.observe_ban(ban);
                }
                true
            }
        };
        Ok(Unstored { is_new, problem: Problem { detail: detail(&decision).into(), ..error.into() } })
    }

    /// Tries to store the decisions that are held, before a caller's own. A failure is ignored, as the caller's may be
    /// stored all the same.
    pub(crate) async fn store_held_first(&self) {
        // Logged when the decision was made, and the caller's own write fails for the same reason.
        let _ = self.store_held().await;
    }

    /// Stores the decisions that are held.
    ///
    /// # Errors
    /// The store is still away.
    pub(crate) async fn store_held(&self) -> Result<(), StoreError> {
        if self.0.cache.held_count() == 0 {
            return Ok(());
        }
        let _turn = self.0.storing_held.lock().await;
        for decision in self.0.cache.held() {
            match self.store_one(&decision).await {
                Ok(()) => tracing::info!(?decision, "a decision that was held is stored"),
                Err(error @ StoreError::Unavailable(_)) => return Err(error),
                Err(error @ (StoreError::NotFound | StoreError::Failed(_))) => {
                    tracing::error!(%error, ?decision, "a decision that was held is given up");
                }
            }
            self.0.cache.release(&decision);
        }
        Ok(())
    }

    async fn store_one(&self, decision: &Decision) -> Result<(), StoreError> {
        match decision {
            Decision::End(id, end) => self.store_end(*id, end).await.map(drop),
            Decision::Block(id, block) => {
                let outcome = self.0.store.block(*id, block).await?;
                self.observe(outcome.into_stream());
                Ok(())
            }
            Decision::Ban(ban) => self.0.store.set_ban(ban).await,
        }
    }

    /// Lifts a block, also one that is held. False: there was none.
    pub(crate) async fn unblock(&self, id: StreamId, user: &UserId) -> Result<bool, StoreError> {
        let _turn = self.0.storing_held.lock().await;
        let outcome = self.0.store.unblock(id, user, self.now()).await?;
        let was_stored = outcome.changed();
        self.observe(outcome.into_stream());
        let chat = &self.0.chat;
        let was_held = self.0.cache.release_block(id, user, |change| chat.observe(change)).is_some();
        Ok(was_stored || was_held)
    }

    /// Lifts a ban, also one that is held. False: there was none.
    pub(crate) async fn lift_ban(&self, user: &UserId) -> Result<bool, StoreError> {
        let _turn = self.0.storing_held.lock().await;
        let now = self.now();
        let was_stored = self.0.store.lift_ban(user, now).await?;
        let stored = self.0.store.ban(user).await?;
        let was_held = self.0.cache.release_ban(user);
        let known = self.0.cache.ban(user, now);
        // The store knows nothing of a ban that was never stored.
        let lifted = stored.or_else(|| known.map(|ban| Ban { lifted_at: Some(now), ..ban }));
        if let Some(ban) = lifted {
            self.observe_ban(ban);
        }
        Ok(was_stored || was_held)
    }

    /// Tries to store the decisions that are held, in a task of its own. Called every second.
    pub(crate) fn try_held_again(&self) {
        let now = self.now();
        if self.0.cache.held_count() == 0 || self.0.agenda.store_is_away(now) || self.0.storing_held.try_lock().is_err()
        {
            return;
        }
        let lifecycle = self.clone();
        self.spawn(async move {
            if let Err(error) = lifecycle.store_held().await {
                lifecycle.0.agenda.store_failed(&error, lifecycle.now());
            }
        });
    }
}

fn detail(decision: &Decision) -> &'static str {
    match decision {
        Decision::End(..) => {
            "The stream is ended on this server, room and chat, but the database does not take it: it is stored as soon \
             as the database does, unless the server stops before. Repeat the call until it is granted."
        }
        Decision::Block(..) => {
            "The user is put out and kept out on this server, but the database does not take it: it is stored as soon as \
             the database does, unless the server stops before. Repeat the call until it is granted."
        }
        Decision::Ban(_) => {
            "The user is banned on this server, but the database does not take it: it is stored as soon as the database \
             does, unless the server stops before. Repeat the call until it is granted."
        }
    }
}
