//! Pages of lists that are sorted by a time, ties by `_id`.

use mongodb::bson::{Bson, DateTime, Document, doc};

pub(super) fn sort(field: &str, rising: bool) -> Document {
    let order = if rising { 1 } else { -1 };
    doc! { field: order, "_id": order }
}

/// What comes after the document with that time and id.
pub(super) fn after(field: &str, rising: bool, millis: i64, id: Bson) -> Document {
    let beyond = if rising { "$gt" } else { "$lt" };
    let time = DateTime::from_millis(millis);
    doc! { "$or": [{ field: { beyond: time } }, { field: time, "_id": { beyond: id } }] }
}

/// To MongoDB, a limit of none means no limit.
pub(super) fn limit(limit: usize) -> Option<i64> {
    i64::try_from(limit).ok().filter(|limit| *limit > 0)
}
