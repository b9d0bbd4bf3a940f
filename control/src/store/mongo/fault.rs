//! What can go wrong with an operation, and how long it may take.

use std::future::{Future, IntoFuture};
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::Cursor;
use mongodb::bson::Document;
use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::store::StoreError;

/// Longest time of one operation: a webhook's sender waits, and has to be told to come again.
///
/// Above the time to select a server, so that the driver can try a second one.
pub(super) const OPERATION_MAX: Duration = Duration::from_secs(5);

/// Longest time of what goes over whole collections in the background.
pub(super) const UPKEEP_MAX: Duration = Duration::from_secs(60);

/// How often a write is tried whose condition others keep changing.
pub(super) const TRIES_MAX: usize = 16;

/// The server's code for a second document with a unique key.
const DUPLICATE_KEY: i32 = 11000;

/// Codes of a server that stops, steps down, or did not manage in time: it may do it later.
const PASSING: [i32; 16] = [6, 7, 50, 64, 89, 91, 189, 262, 9001, 10058, 10107, 11600, 11602, 13388, 13435, 13436];

/// Why an operation did not happen, or is not known to have happened.
#[derive(Debug)]
pub(super) enum Fault {
    Driver(Box<Error>),
    /// Not done within that time.
    Late(Duration),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Driver(Box::new(error))
    }
}

impl Fault {
    /// The unique index in the way, if one is.
    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
    pub(super) fn duplicate(&self) -> Option<&str> {
        let Self::Driver(error) = self else { return None };
        match error.kind.as_ref() {
            ErrorKind::Write(WriteFailure::WriteError(write)) if write.code == DUPLICATE_KEY => {
                Some(index_in(&write.message))
            }
            ErrorKind::Command(command) if command.code == DUPLICATE_KEY => Some(index_in(&command.message)),
            _ => None,
        }
    }

    /// Whether an insertion of many failed only for documents whose keys were there already.
    pub(super) fn only_duplicates(&self) -> bool {
        let Self::Driver(error) = self else { return false };
        let ErrorKind::InsertMany(many) = error.kind.as_ref() else { return false };
        let duplicates = |errors: &Vec<_>| {
            errors.iter().all(|error: &mongodb::error::IndexedWriteError| error.code == DUPLICATE_KEY)
        };
        many.write_concern_error.is_none() && many.write_errors.as_ref().is_some_and(duplicates)
    }

    /// The server's code of the error, if it is one of the server.
    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
    pub(super) fn code(&self) -> Option<i32> {
        let Self::Driver(error) = self else { return None };
        match error.kind.as_ref() {
            ErrorKind::Command(command) => Some(command.code),
            ErrorKind::Write(WriteFailure::WriteError(write)) => Some(write.code),
            ErrorKind::Write(WriteFailure::WriteConcernError(concern)) => Some(concern.code),
            _ => None,
        }
    }

    /// In a few words: the driver adds all that it knows of each server.
    pub(super) fn brief(&self) -> String {
        match self {
            Self::Driver(error) => without_topology(&error.kind.to_string()),
            Self::Late(time) => format!("no answer within {time:?}"),
        }
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
    fn is_passing(&self) -> bool {
        let Self::Driver(error) = self else { return true };
        match error.kind.as_ref() {
            ErrorKind::ServerSelection { .. }
            | ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::DnsResolve { .. }
            | ErrorKind::Authentication { .. }
            | ErrorKind::Write(WriteFailure::WriteConcernError(_)) => true,
            _ => {
                error.contains_label(mongodb::error::RETRYABLE_WRITE_ERROR)
                    || self.code().is_some_and(|code| PASSING.contains(&code))
            }
        }
    }
}

/// The name of the index in the server's words: `… index: room_unique dup key: …`.
fn index_in(message: &str) -> &str {
    let after = message.split_once("index: ").map_or("", |(_, after)| after);
    after.split_whitespace().next().unwrap_or_default()
}

/// The driver's text of a server that it does not find, with the first server's reason in place of its description.
fn without_topology(text: &str) -> String {
    let Some((what, topology)) = text.split_once(" Topology: ") else { return text.to_owned() };
    let reason = topology.split_once("Error: Kind: ").and_then(|(_, after)| after.split(", labels").next());
    match reason {
        Some(reason) => format!("{} {reason}", what.trim_end_matches('.').to_owned() + ":"),
        None => what.trim_end_matches('.').to_owned(),
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        let passing = fault.is_passing();
        let text = match fault {
            Fault::Driver(error) => error.kind.to_string(),
            Fault::Late(time) => format!("MongoDB did not answer within {time:?}"),
        };
        if passing { StoreError::Unavailable(text) } else { StoreError::Failed(text) }
    }
}

/// Others were quicker, [`TRIES_MAX`] times in a row.
pub(super) fn contended(what: &str) -> StoreError {
    StoreError::Unavailable(format!("too many changed {what} at once"))
}

/// Carries out one operation, in [`OPERATION_MAX`].
pub(super) async fn run<T>(action: impl IntoFuture<Output = mongodb::error::Result<T>>) -> Result<T, Fault> {
    within(OPERATION_MAX, action.into_future()).await
}

/// Carries out a query, and reads its answer to the end.
pub(super) async fn collect(
    query: impl IntoFuture<Output = mongodb::error::Result<Cursor<Document>>>,
) -> Result<Vec<Document>, Fault> {
    let query = query.into_future();
    within(OPERATION_MAX, async { query.await?.try_collect().await }).await
}

pub(super) async fn within<T>(
    time: Duration,
    action: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(time, action).await {
        Ok(result) => result.map_err(Fault::from),
        Err(_) => Err(Fault::Late(time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_found_in_the_message_of_the_server() {
        let message = r#"E11000 duplicate key error collection: onair.livestreams index: roomName_1 dup key: { roomName: "index: x" }"#;

        assert_eq!(index_in(message), "roomName_1");
        assert_eq!(index_in("something else"), "");
    }

    #[test]
    fn an_operation_that_took_too_long_means_that_the_store_is_away() {
        assert!(matches!(StoreError::from(Fault::Late(OPERATION_MAX)), StoreError::Unavailable(_)));
    }
}
