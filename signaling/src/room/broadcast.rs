//! Who hears when of changes of a participant (livekit-surface 7.3).
//!
//! In a small room everybody hears of everything at once. In a large one news about listeners is collected and sent every
//! three seconds, the last of each identity; what publishers do is always told at once. Who joins a still larger one is
//! told to few, see [`super::audience`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use livekit_protocol as proto;
use shared::id::{ParticipantIdentity, ParticipantSid};

use super::timer::{Now, Timer};
use super::view::{Change, Member, Presence};
use super::{PROTOCOL_IDENTITY_REPLACED, Room};
use crate::participant::{HearsOf, SessionState};
use crate::session::ConnectionId;
use crate::wire::{self, Others};

/// Up to so many participants hear of everything at once.
const SMALL_ROOM_MAX: usize = 50;
/// Between collected updates.
pub(super) const BATCH_INTERVAL: Duration = Duration::from_secs(3);
/// Between updates of the participant counts.
const COUNTS_INTERVAL: Duration = Duration::from_secs(5);
/// News of one update message; larger batches are split (LiveKit keeps near 128 KiB).
const UPDATE_BYTES_MAX: usize = 128 * 1024;

/// How long a change may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    Now,
    /// If it is about a listener in a large room.
    MayWait,
}

/// What waits to be sent to many, and what is kept for those who will ask.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    /// For everybody.
    batch: Batch,
    /// For those who hear of the audience too.
    pub(super) audience: Batch,
    /// All who are announced, as newcomers are told, until one of them changes.
    pub(super) announced: Option<Arc<Others>>,
    counts_at: Option<Instant>,
}

pub(super) type Batch = BTreeMap<ParticipantIdentity, proto::ParticipantInfo>;

/// Whether an earlier session of the same participant waits in a batch. It must not be passed over in silence: clients
/// may know it.
pub(super) fn names_another(batch: &Batch, info: &proto::ParticipantInfo) -> bool {
    batch.get(info.identity.as_str()).is_some_and(|waiting| waiting.sid != info.sid)
}

impl Room {
    /// Sends a participant's present state to everybody, itself included. Of hidden ones only they themselves hear.
    pub(super) fn announce(&mut self, now: Now, sid: &ParticipantSid, urgency: Urgency) {
        let Some(member) = self.view.member(sid) else { return };
        let (info, hidden, presence) = (member.info.clone(), member.hidden, member.presence);
        if hidden {
            self.out.send(self.connection_of(sid), wire::update(vec![info]));
            return;
        }
        if presence == Presence::Audience {
            self.announce_audience(now, sid, info, urgency);
            return;
        }
        let Some(participant) = self.participants.get(sid) else { return };
        let identity = participant.state.grants.identity.clone();
        self.broadcasts.audience.remove(&identity);
        let rejoined = names_another(&self.broadcasts.batch, &info);
        if urgency == Urgency::MayWait && !rejoined && self.may_wait(&info) {
            self.out.send(participant.live.connection, wire::update(vec![info.clone()]));
            self.enqueue(now, identity, info);
            return;
        }
        self.broadcasts.batch.remove(&identity);
        let everybody = self.everybody();
        self.out.send_all(everybody, wire::update(vec![info]));
    }

    /// Tells the others that somebody left. Clients that know a rejoin by its new sid are not told of the old one.
    pub(super) fn announce_departure(&mut self, now: Now, state: &SessionState, gone: Member, replaced: bool) {
        let identity = state.grants.identity.clone();
        let info = gone.info;
        if gone.presence == Presence::Audience {
            self.announce_audience_departure(now, state, info, replaced);
        } else if replaced {
            let old = self.connections_where(|state| state.protocol_version < PROTOCOL_IDENTITY_REPLACED);
            self.out.send_all(old, wire::update(vec![info]));
        } else if self.may_wait(&info) {
            self.enqueue(now, identity, info);
        } else {
            self.broadcasts.batch.remove(&identity);
            let everybody = self.everybody();
            self.out.send_all(everybody, wire::update(vec![info]));
        }
    }

    fn may_wait(&self, info: &proto::ParticipantInfo) -> bool {
        !info.is_publisher && self.participants.len() > SMALL_ROOM_MAX
    }

    fn enqueue(&mut self, now: Now, identity: ParticipantIdentity, info: proto::ParticipantInfo) {
        self.broadcasts.batch.insert(identity, info);
        self.timers.set_if_unset(Timer::Batch, now.at + BATCH_INTERVAL);
    }

    /// Departures of the announced come first: whoever comes back may be one of the audience.
    pub(super) fn flush_batch(&mut self) {
        let batch = std::mem::take(&mut self.broadcasts.batch);
        self.send_updates(&self.everybody(), batch.into_values());
        let audience = std::mem::take(&mut self.broadcasts.audience);
        let hearing = self.connections_where(|state| state.hears_of == HearsOf::Everybody);
        self.send_updates(&hearing, audience.into_values());
    }

    /// In as few messages as their size allows.
    pub(super) fn send_updates(
        &mut self,
        to: &[ConnectionId],
        participants: impl IntoIterator<Item = proto::ParticipantInfo>,
    ) {
        use prost::Message;
        let mut part = Vec::new();
        let mut size = 0;
        for info in participants {
            let more = info.encoded_len();
            if size + more > UPDATE_BYTES_MAX && !part.is_empty() {
                self.out.send_all(to.to_vec(), wire::update(std::mem::take(&mut part)));
                size = 0;
            }
            size += more;
            part.push(info);
        }
        if !part.is_empty() {
            self.out.send_all(to.to_vec(), wire::update(part));
        }
    }

    pub(super) fn everybody(&self) -> Vec<ConnectionId> {
        self.connections_where(|_| true)
    }

    pub(super) fn connections_where(&self, wanted: impl Fn(&SessionState) -> bool) -> Vec<ConnectionId> {
        self.participants
            .values()
            .filter(|participant| wanted(&participant.state))
            .filter_map(|participant| participant.live.connection)
            .collect()
    }

    /// Participant counts are told with a delay, so that a crowd does not cause a flood.
    pub(super) fn counts_changed(&mut self, now: Now) {
        let small = self.participants.len() <= SMALL_ROOM_MAX;
        let earliest = now.at + if small { Duration::from_millis(100) } else { COUNTS_INTERVAL };
        let due = self.broadcasts.counts_at.map_or(earliest, |last| earliest.max(last + COUNTS_INTERVAL));
        self.timers.set_if_unset(Timer::Counts, due);
    }

    pub(super) fn send_counts(&mut self, now: Now) {
        let participants = u32::try_from(self.view.independent()).unwrap_or(u32::MAX);
        let publishers = u32::try_from(self.view.publishers()).unwrap_or(u32::MAX);
        let room = &self.view.room;
        if (room.num_participants, room.num_publishers) != (participants, publishers) {
            self.change(Change::Counts { participants, publishers });
            self.send_room_update(now);
        }
    }

    pub(super) fn send_room_update(&mut self, now: Now) {
        self.broadcasts.counts_at = Some(now.at);
        let everybody = self.everybody();
        self.out.send_all(everybody, wire::room_update(&self.view.room));
    }
}
