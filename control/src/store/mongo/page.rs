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

/// To MongoDB, a limit of none means no limit.
pub(super) fn limit(limit: usize) -> Option<i64> {
    i64::try_from(limit).ok().filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

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
