//! When updates about participants are sent, and to whom (docs/livekit.md 7.3).
//!
//! In a small room every update is sent at once. Else those about listeners are collected and sent every three seconds,
//! the last of each identity; those about publishers are always sent at once. Updates about newcomers of a large room
//! go to few, see [`super::audience`].

use std::collections::HashSet;
use std::time::Duration;

use livekit_protocol as proto;
use proto::participant_info::State;
use shared::id::{ParticipantIdentity, ParticipantSid};

use super::Room;
use super::timer::{Now, Timer};
use super::updates::{Departed, Urgency, names_another};
use super::view::{Change, Member};
use crate::id::ConnectionId;
use crate::participant::SessionState;
use crate::presence::{Interest, Presence};
use crate::quirks::Quirk;
use crate::wire;

/// Participants of a small room. The reference lets updates about listeners always wait; sent at once in a large room,
/// they cost two messages for each pair of participants.
const FEW: usize = 10;
/// Between collected updates.
const BATCH_INTERVAL: Duration = Duration::from_secs(3);
/// Between updates of the participant counts.
const COUNTS_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes of one update message; larger batches are split (LiveKit keeps near 128 KiB).
const UPDATE_BYTES_MAX: usize = 128 * 1024;

impl Room {
    /// Sends a participant's state to itself, and to those who see it: nobody, if it is hidden.
    pub(super) fn announce(&mut self, now: Now, sid: &ParticipantSid, urgency: Urgency) {
        let (Some(member), Some(participant)) = (self.context.view.member(sid), self.participants.get(sid)) else {
            return;
        };
        let (info, hidden, presence) = (member.info.clone(), member.hidden, member.presence);
        let own = participant.transient.connection;
        if hidden {
            self.context.out.send(own, wire::update(vec![info]));
            return;
        }
        let identity = participant.state.grants.identity.clone();
        let mut to = self.connections_announced_to(&participant.state);
        to.extend(own);
        self.updates.due.remove(sid);
        self.updates.supersede(presence, &identity);
        let rejoined = names_another(self.updates.batch(presence), &info);
        if urgency == Urgency::MayWait && !rejoined && self.may_wait(presence, &info) {
            self.enqueue(now, presence, identity, info.clone());
        } else {
            self.updates.batch(presence).remove(&identity);
            to.extend(self.connections_where(|state| state.interest.includes(presence)));
        }
        self.context.out.send_all(each_once(to), wire::update(vec![info]));
    }

    /// Announces the changes of a participant once the other changes that come with them are known.
    pub(super) fn announce_soon(&mut self, now: Now, sid: &ParticipantSid) {
        self.updates.due.entry(sid.clone()).or_insert(now);
    }

    pub(super) fn announce_due(&mut self) {
        for (sid, now) in std::mem::take(&mut self.updates.due) {
            self.charging(now, &sid, 0, |room| room.announce(now, &sid, Urgency::Now));
        }
    }

    /// Sends the others an update that somebody left; at once to those it was announced to one by one, since one that
    /// comes back may have to be announced to them again. Clients that know a rejoin by its new sid are sent none about
    /// the old one.
    pub(super) fn announce_departure(&mut self, now: Now, state: &SessionState, gone: Member, comes_back: bool) {
        let identity = state.grants.identity.clone();
        let (info, presence) = (gone.info, gone.presence);
        self.updates.remember_departure(presence, state.announced_to.clone(), &info);
        let mut to = self.connections_announced_to(state);
        if comes_back {
            let is_old = |state: &SessionState| state.quirks.has(Quirk::UnawareOfRejoins);
            to.extend(self.connections_where(|state| state.interest.includes(presence) && is_old(state)));
        } else if self.may_wait(presence, &info) {
            self.enqueue(now, presence, identity, info.clone());
        } else {
            self.updates.batch(presence).remove(&identity);
            to.extend(self.connections_where(|state| state.interest.includes(presence)));
        }
        self.context.out.send_all(each_once(to), wire::update(vec![info]));
    }

    /// A member is hidden from now on: to the others it has left, at once, and its tracks with it.
    pub(super) fn disappear(&mut self, now: Now, sid: &ParticipantSid) {
        let (Some(member), Some(participant)) = (self.context.view.member(sid), self.participants.get_mut(sid)) else {
            return;
        };
        let presence = member.presence;
        let info = proto::ParticipantInfo { state: State::Disconnected as i32, ..member.info.clone() };
        let announced_to = std::mem::take(&mut participant.state.announced_to);
        let own = participant.transient.connection;
        let tracks: Vec<_> = participant.state.publications.keys().cloned().collect();
        let mut to = self.connections_where(|state| state.interest.includes(presence));
        to.extend(announced_to.iter().filter_map(|other| self.connection_of(other)));
        to.retain(|connection| Some(*connection) != own);
        self.updates.remember_departure(presence, announced_to, &info);
        self.updates.batch(presence).remove(info.identity.as_str());
        self.context.out.send_all(each_once(to), wire::update(vec![info]));
        for track in tracks {
            self.unsubscribe_all(now, &track);
        }
    }

    /// Members whom a participant with this interest knew and who left or hid lately, for its client that resumes: it
    /// may have missed the update. Those who have come back are not among them, unless they are strangers to it now.
    pub(super) fn departed(&self, sid: &ParticipantSid, interest: Interest) -> Vec<proto::ParticipantInfo> {
        let seen: HashSet<&str> = self.visible_to(sid, interest).map(|info| info.identity.as_str()).collect();
        let was_known = |gone: &&Departed| interest.includes(gone.presence) || gone.announced_to.contains(sid);
        let known = self.updates.departed.iter().filter(was_known).map(|gone| &gone.info);
        known.filter(|info| !seen.contains(info.identity.as_str())).cloned().collect()
    }

    fn may_wait(&self, presence: Presence, info: &proto::ParticipantInfo) -> bool {
        match presence {
            Presence::Announced | Presence::Early => !info.is_publisher && self.participants.len() > FEW,
            Presence::Audience => true,
        }
    }

    fn enqueue(&mut self, now: Now, presence: Presence, identity: ParticipantIdentity, info: proto::ParticipantInfo) {
        self.updates.batch(presence).insert(identity, info);
        self.context.timers.set_if_unset(Timer::Batch, now.at + BATCH_INTERVAL);
    }

    /// Sends the updates that wait, first those that go to more members: who left as announced may have come back as
    /// one of the audience.
    pub(super) fn flush_batch(&mut self) {
        for presence in [Presence::Announced, Presence::Early, Presence::Audience] {
            let batch = std::mem::take(self.updates.batch(presence));
            if !batch.is_empty() {
                let to = self.connections_where(|state| state.interest.includes(presence));
                self.send_updates(&to, batch.into_values());
            }
        }
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
                self.context.out.send_all(to.to_vec(), wire::update(std::mem::take(&mut part)));
                size = 0;
            }
            size += more;
            part.push(info);
        }
        if !part.is_empty() {
            self.context.out.send_all(to.to_vec(), wire::update(part));
        }
    }

    pub(super) fn everybody(&self) -> Vec<ConnectionId> {
        self.connections_where(|_| true)
    }

    pub(super) fn connections_where(&self, wanted: impl Fn(&SessionState) -> bool) -> Vec<ConnectionId> {
        self.participants
            .values()
            .filter(|participant| wanted(&participant.state))
            .filter_map(|participant| participant.transient.connection)
            .collect()
    }

    /// Participant counts are sent with a delay, so that a crowd does not cause a flood.
    pub(super) fn counts_changed(&mut self, now: Now) {
        let small = self.participants.len() <= FEW;
        let earliest = now.at + if small { Duration::from_millis(100) } else { COUNTS_INTERVAL };
        let due = self.updates.counts_at.map_or(earliest, |last| earliest.max(last + COUNTS_INTERVAL));
        self.context.timers.set_if_unset(Timer::Counts, due);
    }

    pub(super) fn send_counts(&mut self, now: Now) {
        let participants = u32::try_from(self.context.view.independent()).unwrap_or(u32::MAX);
        let publishers = u32::try_from(self.context.view.publishers()).unwrap_or(u32::MAX);
        let room = &self.context.view.room;
        if (room.num_participants, room.num_publishers) != (participants, publishers) {
            self.context.change(Change::Counts { participants, publishers });
            self.send_room_update(now);
        }
    }

    pub(super) fn send_room_update(&mut self, now: Now) {
        self.updates.counts_at = Some(now.at);
        let everybody = self.everybody();
        self.context.out.send_all(everybody, wire::room_update(&self.context.view.room));
    }
}

fn each_once(mut connections: Vec<ConnectionId>) -> Vec<ConnectionId> {
    connections.sort_unstable();
    connections.dedup();
    connections
}
