//! Lists of rows, without those that cannot be read.

use rusqlite::types::{ToSql, ValueRef};
use rusqlite::{Connection, Error, Row};

use super::value::rows;
use crate::store::{Result, unreadable};

/// The first `limit` rows of a query that can be read. The last parameter of `sql`, after `values`, is its `LIMIT`.
pub fn list<T>(
    connection: &Connection,
    table: &str,
    sql: &str,
    values: &[&dyn ToSql],
    limit: usize,
    read: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut asked = limit;
    loop {
        let sql_limit = rows(asked);
        let mut values = values.to_vec();
        values.push(&sql_limit);
        let mut found = statement.query(values.as_slice())?;
        let (mut list, mut passed_over) = (Vec::new(), 0);
        while let Some(row) = found.next()? {
            match read(row) {
                Ok(value) => list.push(value),
                Err(error) if is_of_the_row(&error) => {
                    passed_over += 1;
                    unreadable::pass_over(table, &name(row), &error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Whoever asks for pages takes a short one for the last.
        if passed_over == 0 || list.len() + passed_over < asked || list.len() >= limit {
            list.truncate(limit);
            return Ok(list);
        }
        asked = limit.saturating_add(passed_over);
    }
}

/// Whether it is about what a row holds, rather than about the database.
fn is_of_the_row(error: &Error) -> bool {
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
    )
}

/// Its id, or its first column.
fn name(row: &Row<'_>) -> String {
    match row.get_ref("id").or_else(|_| row.get_ref(0)) {
        Ok(ValueRef::Text(text) | ValueRef::Blob(text)) => String::from_utf8_lossy(text).into_owned(),
        Ok(ValueRef::Integer(number)) => number.to_string(),
        Ok(ValueRef::Null | ValueRef::Real(_)) | Err(_) => "?".to_owned(),
    }
}
