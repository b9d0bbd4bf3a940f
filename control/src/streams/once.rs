//! Requests with an idempotency key are carried out once (stream API, section 1.3).

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Timestamp;
use crate::problem::{Code, Problem};
use crate::store::stream::UserId;
use crate::store::{Claimed, IdempotencyKey, SharedStore};

/// What a request with a key finds.
pub(super) enum Turn<T> {
    /// It is the first: carry it out, then call [`Once::close`].
    First(Once),
    /// The first one answered this.
    Repeat(T),
}

/// A claimed key, or nothing for requests without one.
pub(super) struct Once(Option<IdempotencyKey>);

impl Once {
    /// # Errors
    /// Another body with this key, or the first request is still under way.
    pub(super) async fn open<T: DeserializeOwned>(
        store: &SharedStore,
        user: &UserId,
        operation: &'static str,
        (key, body_digest): (Option<String>, &str),
        now: Timestamp,
    ) -> Result<Turn<T>, Problem> {
        let Some(key) = key else {
            return Ok(Turn::First(Once(None)));
        };
        let key = IdempotencyKey { user: user.clone(), operation, key };
        match store.idempotency_claim(&key, body_digest, now).await? {
            Claimed::New => Ok(Turn::First(Once(Some(key)))),
            Claimed::Finished(answer) => match serde_json::from_value(answer) {
                Ok(answer) => Ok(Turn::Repeat(answer)),
                Err(_) => Ok(Turn::First(Once(None))),
            },
            Claimed::Pending => Err(Problem::new(
                Code::Conflict,
                "A request with this Idempotency-Key is under way; repeat it in a moment to get its answer.",
            )),
            Claimed::OtherBody => Err(Problem::new(
                Code::IdempotencyKeyReused,
                "This Idempotency-Key was used with another body; take a new key.",
            )),
        }
    }

    /// Notes the answer, or frees the key of a request that failed. The request itself is decided already: when the
    /// store is away now, a repeat finds the key free after a minute.
    pub(super) async fn close<T, A: Serialize>(
        self,
        store: &SharedStore,
        result: &Result<T, Problem>,
        answer: impl FnOnce(&T) -> A,
    ) {
        let Some(key) = self.0 else { return };
        let noted = match result {
            Ok(result) => match serde_json::to_value(answer(result)) {
                Ok(value) => store.idempotency_finish(&key, &value).await,
                Err(_) => store.idempotency_release(&key).await,
            },
            Err(_) => store.idempotency_release(&key).await,
        };
        if let Err(error) = noted {
            tracing::warn!(%error, operation = key.operation, "an idempotency key stays claimed for a minute");
        }
    }
}
