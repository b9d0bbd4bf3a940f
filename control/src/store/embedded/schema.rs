//! Tables and indexes, and how a file of an older version becomes one of this version.
//!
//! `PRAGMA user_version` counts the steps of [`STEPS`] that a file has been through. A step that has been released is
//! never edited: what changes later is a step of its own.

use rusqlite::Connection;

use super::value::rows;
use crate::store::{Result, StoreError};

/// Each leads from one version to the next.
const STEPS: [&str; 1] = [include_str!("schema/1.sql")];

/// Makes sure that nobody else's tables are in a file. Nothing is written.
///
/// # Errors
/// [`StoreError::Failed`] if it is the database of another application; else what SQLite says.
pub fn check_ours(connection: &Connection) -> Result<()> {
    let count =
        "SELECT COUNT(*), COUNT(*) FILTER (WHERE type = 'table' AND name = 'presence_totals') FROM sqlite_schema";
    let (all, ours): (i64, i64) = connection.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if all > 0 && ours == 0 {
        return Err(StoreError::Failed("it is the database of another application, and left as it is".into()));
    }
    Ok(())
}

/// Brings a file to the newest version.
///
/// # Errors
/// [`StoreError::Failed`] if the file was written by a newer server; else what SQLite says.
pub fn bring_up_to_date(connection: &mut Connection) -> Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(steps) = usize::try_from(version).ok().and_then(|version| STEPS.get(version..)) else {
        return Err(StoreError::Failed(format!(
            "the database has version {version}, this server knows versions up to {}: use a newer server",
            STEPS.len()
        )));
    };
    for step in steps {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", rows(STEPS.len()))?;
    transaction.commit()?;
    Ok(())
}

/// Writes the page that the version is on, with what is there.
///
/// # Errors
/// What SQLite says.
pub fn write_again(connection: &Connection) -> Result<()> {
    Ok(connection.pragma_update(None, "user_version", rows(STEPS.len()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_newer_server_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", rows(STEPS.len() + 1)).unwrap();

        assert!(matches!(bring_up_to_date(&mut connection), Err(StoreError::Failed(_))));
    }

    #[test]
    fn a_file_of_this_version_stays_as_it_is() {
        let mut connection = Connection::open_in_memory().unwrap();

        bring_up_to_date(&mut connection).unwrap();
        bring_up_to_date(&mut connection).unwrap();
    }
}
