//! Messages of chats, and the sums over them.
//!
//! A message is one insertion, and no sum is kept beside it: how many there were is counted, from those that are there
//! and from a number that grows in the same write that says up to where messages are removed (`trimmedTo`). So neither
//! a repeat nor a crash between two writes makes a sum wrong.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mongodb::bson::{Bson, Document, doc};
use mongodb::options::ReturnDocument;

use super::collections::{CHATTERS, MESSAGES, STREAMS, TOTALS};
use super::fault::{Fault, TRIES_MAX, UPKEEP_MAX, collect, contended, run, within};
use super::record::{date, document, forms, has_only, read_user, record, user};
use super::stream_document::integer;
use super::streams::{REMOVED, changed, computed, list, without};
use super::{Mongo, page};
use crate::clock::Timestamp;
use crate::store::chat::{ChatMessage, ChatRange, ChatSettings, ChatStore, ChatTotals, Mute, StoredMessage};
use crate::store::stream::{Outcome, StreamId, UserId};
use crate::store::{Result, StoreError};

fn key(id: StreamId, message_id: &str) -> String {
    format!("{id}/{message_id}")
}

pub(super) fn write(message: &StoredMessage) -> Result<Document> {
    let mut fields = doc! { "_id": key(message.stream_id, &message.message.id) };
    fields.extend(document(message)?);
    Ok(fields)
}

#[async_trait]
impl ChatStore for Mongo {
    async fn chat_reserve(&self, id: StreamId, count: u32, at_least: i64) -> Result<i64> {
        let above = doc! { "$max": [{ "$ifNull": ["$lastSeq", 0_i64] }, at_least] };
        let update = vec![doc! { "$set": { "lastSeq": { "$add": [above, i64::from(count)] } } }];
        for _ in 0..TRIES_MAX {
            let totals = self.of(TOTALS);
            let reserve =
                totals.find_one_and_update(doc! { "_id": id }, update.clone()).return_document(ReturnDocument::After);
            if let Some(after) = run(reserve).await? {
                let last = after.get("lastSeq").and_then(integer);
                let last = last.ok_or_else(|| StoreError::Failed("a chat has lost its last number".into()))?;
                return Ok(last - i64::from(count) + 1);
            }
            self.make_missing(TOTALS, Bson::from(id)).await?;
        }
        Err(contended("the numbers of a chat"))
    }

    async fn chat_append(&self, messages: &[StoredMessage]) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let documents = messages.iter().map(write).collect::<Result<Vec<_>>>()?;
        let ids: Vec<_> = documents.iter().filter_map(|document| document.get("_id").cloned()).collect();
        match run(self.of(MESSAGES).insert_many(documents).ordered(false)).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.only_duplicates() => self.are_all_there(ids, fault).await,
            Err(fault) => Err(fault.into()),
        }
    }

    async fn chat_messages(&self, id: StreamId, range: ChatRange, limit: usize) -> Result<Vec<ChatMessage>> {
        let mut filter = doc! { "streamId": id, "hiddenBy": Bson::Null };
        let order = match range {
            ChatRange::Newest => -1,
            ChatRange::Before(seq) => {
                filter.insert("seq", doc! { "$lt": seq });
                -1
            }
            ChatRange::After(seq) => {
                filter.insert("seq", doc! { "$gt": seq });
                1
            }
        };
        let find = |limit| {
            let (messages, filter) = (self.of(MESSAGES), filter.clone());
            async move { collect(messages.find(filter).sort(doc! { "seq": order }).limit(limit)).await }
        };
        let mut messages: Vec<ChatMessage> = page::readable(MESSAGES, limit, find, record).await?;
        messages.sort_by_key(|message| message.seq);
        Ok(messages)
    }

    async fn chat_message(&self, id: StreamId, message_id: &str) -> Result<Option<StoredMessage>> {
        let found = run(self.of(MESSAGES).find_one(doc! { "_id": key(id, message_id) })).await?;
        found.as_ref().map(record).transpose()
    }

    async fn chat_hide(&self, id: StreamId, message_id: &str, by: &UserId) -> Result<bool> {
        let shown = doc! { "_id": key(id, message_id), "hiddenBy": Bson::Null };
        let hide = doc! { "$set": { "hiddenBy": user(by) } };
        if run(self.of(MESSAGES).update_one(shown, hide)).await?.modified_count > 0 {
            return Ok(true);
        }
        self.chat_message(id, message_id).await?.map(|_| false).ok_or(StoreError::NotFound)
    }

    async fn chat_hide_user(&self, id: StreamId, author: &UserId, by: &UserId) -> Result<u64> {
        let shown = doc! { "streamId": id, "userId": { "$in": forms(author) }, "hiddenBy": Bson::Null };
        let hide = doc! { "$set": { "hiddenBy": user(by) } };
        Ok(run(self.of(MESSAGES).update_many(shown, hide)).await?.modified_count)
    }

    async fn chat_add_reactions(&self, id: StreamId, counts: &BTreeMap<String, u64>) -> Result<()> {
        if counts.is_empty() {
            return Ok(());
        }
        let add: Document =
            counts.iter().map(|(emoji, count)| (format!("reactions.{}", escaped(emoji)), number(*count))).collect();
        for _ in 0..TRIES_MAX {
            let update = self.of(TOTALS);
            let update = update.update_one(doc! { "_id": id }, doc! { "$inc": add.clone() }).upsert(true);
            match run(update).await {
                Ok(_) => return Ok(()),
                Err(fault) if fault.duplicate().is_some() => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(contended("the reactions of a chat"))
    }

    async fn chat_totals(&self, id: StreamId) -> Result<ChatTotals> {
        let totals = self.kept_totals(id).await?;
        let kept = run(self.of(MESSAGES).count_documents(counted(id, totals.trimmed_to))).await?;
        let authors = run(self.of(MESSAGES).distinct("userId", counted(id, totals.trimmed_to))).await?;
        let keys: Vec<_> = authors.iter().filter_map(read_user).map(|user| key(id, user.as_str())).collect();
        let known = run(self.of(CHATTERS).count_documents(doc! { "_id": { "$in": &keys } })).await?;
        let noted = run(self.of(CHATTERS).count_documents(doc! { "streamId": id })).await?;
        Ok(ChatTotals {
            messages: kept + totals.removed,
            chatters: noted + keys.len() as u64 - known.min(keys.len() as u64),
            reactions: totals.reactions,
            last_seq: totals.last_seq,
        })
    }

    async fn chat_trim(&self, id: StreamId, keep: usize) -> Result<u64> {
        let first_gone = self.of(MESSAGES);
        let first_gone = first_gone
            .find_one(doc! { "streamId": id })
            .sort(doc! { "seq": -1 })
            .skip(keep as u64)
            .projection(doc! { "seq": 1 });
        let first_gone = run(first_gone).await?;
        let Some(up_to) = first_gone.and_then(|message| integer(message.get("seq")?)) else { return Ok(0) };
        self.count_as_removed(id, up_to).await?;
        let gone = doc! { "streamId": id, "seq": { "$lte": up_to } };
        let removed = within(UPKEEP_MAX, self.of(MESSAGES).delete_many(gone).into_future()).await?;
        Ok(removed.deleted_count)
    }

    async fn set_chat_settings(&self, id: StreamId, settings: &ChatSettings, at: Timestamp) -> Result<Outcome> {
        let written = document(settings)?;
        let mut same = vec![Bson::Document(written.clone())];
        if *settings == ChatSettings::default() {
            same.push(Bson::Null);
        }
        let condition = doc! { "chatSettings": { "$nin": same } };
        self.change(id, condition, changed(at, doc! { "chatSettings": written })).await
    }

    async fn mute(&self, id: StreamId, mute: &Mute, at: Timestamp) -> Result<Outcome> {
        let these = forms(&mute.user_id);
        let same = doc! { "userId": { "$in": &these }, "until": date(mute.until) };
        let others = doc! { "$filter": {
            "input": list("$mutes"),
            "as": "mute",
            "cond": { "$and": [
                { "$not": [{ "$in": ["$$mute.userId", { "$literal": these }] }] },
                // Expired ones go, so that the list does not grow for ever.
                { "$gt": ["$$mute.until", date(at)] },
            ] },
        } };
        let mutes = doc! { "$concatArrays": [others, [{ "$literal": document(mute)? }]] };
        let update = computed(at, doc! { "mutes": mutes });
        self.change(id, doc! { "mutes": { "$not": { "$elemMatch": same } } }, update).await
    }

    async fn unmute(&self, id: StreamId, user: &UserId, at: Timestamp) -> Result<Outcome> {
        let these = doc! { "userId": { "$in": forms(user) } };
        let update = computed(at, doc! { "mutes": without("$mutes", "$$one.userId", &forms(user)) });
        self.change(id, doc! { "mutes": { "$elemMatch": these } }, update).await
    }

    async fn pin(&self, id: StreamId, message: Option<&ChatMessage>, at: Timestamp) -> Result<Outcome> {
        let (condition, pinned) = match message {
            Some(message) => {
                let written = document(message)?;
                (doc! { "pinned": { "$ne": &written } }, Bson::from(doc! { "$literal": written }))
            }
            None => (doc! { "pinned": { "$ne": Bson::Null } }, Bson::from(REMOVED)),
        };
        self.change(id, condition, computed(at, doc! { "pinned": pinned })).await
    }
}

impl Mongo {
    /// A message that is there already is no failure, but one whose number another message has is.
    async fn are_all_there(&self, ids: Vec<Bson>, fault: Fault) -> Result<()> {
        let distinct: std::collections::BTreeSet<_> = ids.iter().filter_map(Bson::as_str).collect();
        let there = run(self.of(MESSAGES).count_documents(doc! { "_id": { "$in": &ids } })).await?;
        if usize::try_from(there).is_ok_and(|there| there == distinct.len()) { Ok(()) } else { Err(fault.into()) }
    }

    async fn kept_totals(&self, id: StreamId) -> Result<KeptTotals> {
        let found = run(self.of(TOTALS).find_one(doc! { "_id": id })).await?;
        Ok(found.as_ref().map(KeptTotals::read).unwrap_or_default())
    }

    /// Adds the messages up to a number to the kept totals. From then on they are not counted among the stored ones.
    async fn count_as_removed(&self, id: StreamId, up_to: i64) -> Result<()> {
        for _ in 0..TRIES_MAX {
            let before = self.kept_totals(id).await?.trimmed_to;
            if before.is_some_and(|before| before >= up_to) {
                return Ok(());
            }
            let mut gone = counted(id, before);
            gone.insert("$and", vec![doc! { "seq": { "$lte": up_to } }]);
            let authors = run(self.of(MESSAGES).distinct("userId", gone.clone())).await?;
            self.note_chatters(id, authors.iter().filter_map(read_user)).await?;
            let count = run(self.of(MESSAGES).count_documents(gone)).await?;
            let unchanged = doc! { "_id": id, "trimmedTo": before.map_or(Bson::Null, Bson::Int64) };
            let update = doc! { "$set": { "trimmedTo": up_to }, "$inc": { "removed": number(count) } };
            match run(self.of(TOTALS).update_one(unchanged, update).upsert(before.is_none())).await {
                Ok(done) if done.matched_count > 0 || done.upserted_id.is_some() => return Ok(()),
                Ok(_) => {}
                Err(fault) if fault.duplicate().is_some() => {}
                Err(fault) => return Err(fault.into()),
            }
        }
        Err(contended("the totals of a chat"))
    }

    async fn note_chatters(&self, id: StreamId, users: impl Iterator<Item = UserId>) -> Result<()> {
        let chatters: Vec<_> = users.map(|author| chatter(id, &author)).collect();
        if chatters.is_empty() {
            return Ok(());
        }
        let insert = self.of(CHATTERS);
        match within(UPKEEP_MAX, insert.insert_many(chatters).ordered(false).into_future()).await {
            Ok(_) => Ok(()),
            Err(fault) if fault.only_duplicates() => Ok(()),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Removes the messages of streams that ended before a time.
    pub(super) async fn expire_chat(&self, before: Timestamp) -> Result<()> {
        let with_messages = within(UPKEEP_MAX, self.of(MESSAGES).distinct("streamId", doc! {}).into_future()).await?;
        let ended = doc! { "_id": { "$in": with_messages }, "state": "ended", "endedAt": { "$lt": date(before) } };
        let ended = collect(self.of(STREAMS).find(ended).projection(doc! { "_id": 1 })).await?;
        for stream in ended {
            if let Ok(id) = stream.get_object_id("_id") {
                self.chat_trim(id.into(), 0).await?;
            }
        }
        Ok(())
    }

    // ---- for `onair migrate`

    pub(super) async fn chatters(&self, id: StreamId) -> Result<Vec<UserId>> {
        let before = self.kept_totals(id).await?.trimmed_to;
        let authors = run(self.of(MESSAGES).distinct("userId", counted(id, before))).await?;
        let noted = self.of(CHATTERS);
        let noted = run(noted.distinct("userId", doc! { "streamId": id })).await?;
        let mut users: Vec<_> = authors.iter().chain(&noted).filter_map(read_user).collect();
        users.sort();
        users.dedup();
        Ok(users)
    }

    /// Replaces the totals of a stream by those of another store.
    pub(super) async fn replace_totals(&self, id: StreamId, totals: &ChatTotals, chatters: &[UserId]) -> Result<()> {
        let old = self.of(CHATTERS);
        run(old.delete_many(doc! { "streamId": id })).await?;
        self.note_chatters(id, chatters.iter().cloned()).await?;
        let there = run(self.of(MESSAGES).count_documents(counted(id, None))).await?;
        let reactions: Document =
            totals.reactions.iter().map(|(emoji, count)| (escaped(emoji), number(*count))).collect();
        let replacement = doc! {
            "lastSeq": totals.last_seq,
            "removed": number(totals.messages.saturating_sub(there)),
            "reactions": reactions,
        };
        run(self.of(TOTALS).replace_one(doc! { "_id": id }, replacement).upsert(true)).await?;
        Ok(())
    }
}

/// What is kept of the totals, beside what is counted.
#[derive(Debug, Default)]
struct KeptTotals {
    last_seq: i64,
    removed: u64,
    trimmed_to: Option<i64>,
    reactions: BTreeMap<String, u64>,
}

impl KeptTotals {
    fn read(totals: &Document) -> Self {
        let positive = |value: &Bson| u64::try_from(integer(value).unwrap_or(0)).unwrap_or(0);
        let reactions = totals.get_document("reactions").into_iter().flatten();
        Self {
            last_seq: totals.get("lastSeq").and_then(integer).unwrap_or(0),
            removed: totals.get("removed").map_or(0, positive),
            trimmed_to: totals.get("trimmedTo").and_then(integer),
            reactions: reactions.map(|(emoji, count)| (unescaped(emoji), positive(count))).collect(),
        }
    }
}

/// Whether a document is one that is kept of the totals.
pub(super) fn is_totals(document: &Document) -> bool {
    let is_number = |name: &str| document.get(name).is_none_or(|value| integer(value).is_some());
    has_only(document, &["_id", "lastSeq", "removed", "trimmedTo", "reactions"])
        && document.len() > 1
        && ["lastSeq", "removed", "trimmedTo"].into_iter().all(is_number)
        && document.get("reactions").is_none_or(|reactions| reactions.as_document().is_some())
}

/// Whether a document says that somebody wrote in a chat.
pub(super) fn is_chatter(document: &Document) -> bool {
    let expected =
        || Some(chatter(document.get_object_id("streamId").ok()?.into(), &read_user(document.get("userId")?)?));
    expected().is_some_and(|expected| expected == *document)
}

fn chatter(id: StreamId, author: &UserId) -> Document {
    doc! { "_id": key(id, author.as_str()), "streamId": id, "userId": user(author) }
}

/// Messages that no total includes yet.
fn counted(id: StreamId, trimmed_to: Option<i64>) -> Document {
    match trimmed_to {
        Some(trimmed_to) => doc! { "streamId": id, "seq": { "$gt": trimmed_to } },
        None => doc! { "streamId": id },
    }
}

fn number(count: u64) -> Bson {
    Bson::Int64(i64::try_from(count).unwrap_or(i64::MAX))
}

/// A reaction as the name of a field, in which some characters have a meaning of their own.
fn escaped(emoji: &str) -> String {
    let mut name = String::from("_");
    for character in emoji.chars() {
        match character {
            '%' | '.' | '$' | '\0' => name.push_str(&format!("%{:02X}", u32::from(character))),
            other => name.push(other),
        }
    }
    name
}

fn unescaped(name: &str) -> String {
    let mut emoji = name.strip_prefix('_').unwrap_or(name).to_owned();
    // The sign of an escape comes last, or it would make escapes of what was none.
    for (escape, character) in [("%2E", "."), ("%24", "$"), ("%00", "\0"), ("%25", "%")] {
        emoji = emoji.replace(escape, character);
    }
    emoji
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reaction_is_a_name_of_a_field_and_back() {
        for emoji in ["❤️", "", ".", "$set", "a.b", "%2E", "%252E", "100%", "\0", "_"] {
            let name = escaped(emoji);

            assert_eq!(unescaped(&name), emoji);
            assert!(!name.is_empty() && !name.contains(['.', '\0']) && !name.starts_with('$'), "{name}");
        }
    }
}
