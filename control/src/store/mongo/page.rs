//! Pages of lists that are sorted by a time, ties by `_id`.

use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, DateTime, Document, doc};

use super::fault::Fault;
use crate::store::{Result, StoreError, unreadable};

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

/// Of documents that count as made with their id, sorted from the newest on: the lowest id that is not after the
/// document with that time and id.
pub(super) fn first_not_older(millis: i64, id: ObjectId) -> ObjectId {
    let (second, begun) = (millis.div_euclid(1000), millis.rem_euclid(1000) > 0);
    let made = id.timestamp().timestamp_millis() / 1000;
    if !begun && made == second {
        return id;
    }
    // Ids of that second are older if the document is of a later moment, or has a higher id.
    let first = if begun || made > second { second.saturating_add(1) } else { second };
    let mut bytes = [0; 12];
    let seconds = u32::try_from(first.max(0)).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&seconds.to_be_bytes());
    ObjectId::from_bytes(bytes)
}

/// One condition of several, side by side where they are about different fields: not every server looks for an index
/// behind `$and`.
pub(super) fn all(conditions: Vec<Document>) -> Document {
    let mut together = Document::new();
    let mut rest = Vec::new();
    for condition in conditions {
        if condition.keys().any(|key| together.contains_key(key)) {
            rest.push(condition);
        } else {
            together.extend(condition);
        }
    }
    if !rest.is_empty() {
        let before = together.remove("$and");
        let before = before.iter().filter_map(Bson::as_array).flatten().cloned();
        together.insert("$and", before.chain(rest.into_iter().map(Bson::from)).collect::<Vec<_>>());
    }
    together
}

/// The first `limit` documents of a list that can be read. `find` gives the first ones, readable or not.
pub(super) async fn readable<T, F>(
    collection: &str,
    limit: usize,
    find: impl Fn(i64) -> F,
    read: impl Fn(&Document) -> Result<T>,
) -> Result<Vec<T>>
where
    F: Future<Output = std::result::Result<Vec<Document>, Fault>>,
{
    let mut asked = limit;
    loop {
        let Some(first) = self::limit(asked) else { return Ok(Vec::new()) };
        let found = find(first).await?;
        let mut list: Vec<T> = found.iter().filter_map(|document| one(collection, document, &read)).collect();
        let passed_over = found.len() - list.len();
        // Whoever asks for pages takes a short one for the last.
        if passed_over == 0 || found.len() < asked || list.len() >= limit {
            list.truncate(limit);
            return Ok(list);
        }
        asked = limit.saturating_add(passed_over);
    }
}

/// A document of a list, if it can be read.
pub(super) fn one<T>(collection: &str, document: &Document, read: impl Fn(&Document) -> Result<T>) -> Option<T> {
    let unread = |error: &StoreError| {
        let id = document.get("_id").map_or_else(|| "?".to_owned(), Bson::to_string);
        unreadable::pass_over(collection, &id, error);
    };
    read(document).inspect_err(unread).ok()
}

/// To MongoDB, a limit of none means no limit.
pub(super) fn limit(limit: usize) -> Option<i64> {
    i64::try_from(limit).ok().filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_made_with_its_id_comes_after_the_end_of_a_page_by_time_and_id() {
        let id = |second: u32, rest: u8| {
            let mut bytes = [rest; 12];
            bytes[..4].copy_from_slice(&second.to_be_bytes());
            ObjectId::from_bytes(bytes)
        };
        let ids: Vec<_> = (4..=6).flat_map(|second| [id(second, 0), id(second, 7), id(second, 255)]).collect();
        for end in &ids {
            for millis in [3_999, 4_000, 4_001, 5_000, 5_999, 6_000, 7_000] {
                for other in &ids {
                    let made = other.timestamp().timestamp_millis();
                    let is_after = (made, other) < (millis, end);
                    assert_eq!(*other < first_not_older(millis, *end), is_after, "{other} after {millis} {end}");
                }
            }
        }
        for millis in [i64::MIN, -1, i64::MAX] {
            first_not_older(millis, ids[0]);
        }
    }

    #[test]
    fn conditions_on_one_field_hold_together() {
        let live = doc! { "isLive": true };
        let date = doc! { "startedAt": { "$type": "date" } };
        let earlier = doc! { "$or": [{ "startedAt": 1 }] };
        let states = doc! { "$or": [{ "state": "live" }] };

        assert_eq!(all(vec![live.clone(), date.clone()]), doc! { "isLive": true, "startedAt": { "$type": "date" } });
        let crossed = all(vec![live.clone(), earlier.clone(), states.clone(), live.clone()]);
        assert_eq!(crossed.clone(), doc! { "isLive": true, "$or": [{ "startedAt": 1 }], "$and": [states, &live] });
        assert_eq!(all(vec![crossed, live.clone()]).get_array("$and").expect("there is one").len(), 3, "none is lost");
        assert_eq!(all(Vec::new()), doc! {});
    }
}
