//! Viewers of a large room are not announced to each other.
//!
//! Telling everybody of everybody costs messages and bytes by the square of a room's size. So in a room of more than
//! `room.audience_threshold` participants a newcomer is one of the audience ([`Presence::Audience`]): only those hear of
//! it who publish, administer, or are agents or recorders ([`HearsOf::Everybody`]), in batches, and whom it sends data
//! to, before the data. It is announced to everybody, once and for good, when it publishes, sends data to everybody, or
//! is changed by the server API. Who was announced when the room was small stays so.

use std::sync::Arc;

use livekit_protocol as proto;
use shared::id::ParticipantSid;

use super::broadcast::{BATCH_INTERVAL, Urgency, names_another};
use super::timer::{Now, Timer};
use super::view::{Change, Presence};
use super::{PROTOCOL_IDENTITY_REPLACED, Room};
use crate::participant::{ACQUAINTED_MAX, HearsOf, SessionState};
use crate::session::ConnectionId;
use crate::wire::{self, Others};

impl Room {
    /// How a newcomer comes in. `replaced`: its earlier session, which those who know of it believe to be still there.
    pub(super) fn presence_of_newcomer(&self, state: &SessionState, replaced: Option<Presence>) -> Presence {
        let threshold = self.config.audience_threshold as usize;
        let is_large = threshold > 0 && self.participants.len() >= threshold;
        let is_known = replaced == Some(Presence::Announced);
        match is_large && !is_known && !state.is_in_charge() {
            true => Presence::Audience,
            false => Presence::Announced,
        }
    }

    /// One of the audience becomes known to everybody. To tell them is left to the caller.
    fn introduce(&mut self, sid: &ParticipantSid) {
        self.change(Change::Announced { sid: sid.clone() });
        if let Some(participant) = self.participants.get_mut(sid) {
            participant.state.acquainted.clear();
        }
    }

    fn is_audience(&self, sid: &ParticipantSid) -> bool {
        self.view.member(sid).is_some_and(|member| member.presence == Presence::Audience)
    }

    /// Those who get data should know whom it is from. `to`: everybody if `None`.
    pub(super) fn introduce_sender(&mut self, now: Now, sid: &ParticipantSid, to: Option<&[ParticipantSid]>) {
        let hidden = self.view.member(sid).is_none_or(|member| member.hidden);
        if hidden || !self.is_audience(sid) {
            return;
        }
        match to {
            Some(addressees) => self.acquaint(now, sid, addressees),
            None => self.introduce_to_all(now, sid),
        }
    }

    /// Who publishes is known to everybody from now on, and hears of everybody. The caller announces it.
    pub(super) fn introduce_publisher(&mut self, sid: &ParticipantSid) {
        if self.is_audience(sid) {
            self.introduce(sid);
        }
        self.hear_of_everybody(sid);
    }

    /// Tells everybody of one of the audience, if it is one.
    pub(super) fn introduce_to_all(&mut self, now: Now, sid: &ParticipantSid) {
        if self.is_audience(sid) {
            self.introduce(sid);
            self.announce(now, sid, Urgency::Now);
        }
    }

    /// Tells some of one of the audience.
    fn acquaint(&mut self, now: Now, sid: &ParticipantSid, others: &[ParticipantSid]) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let acquainted = &mut participant.state.acquainted;
        let new: Vec<_> =
            others.iter().filter(|other| *other != sid && !acquainted.contains(*other)).cloned().collect();
        if acquainted.len() + new.len() > ACQUAINTED_MAX {
            self.introduce_to_all(now, sid);
            return;
        }
        acquainted.extend(new.iter().cloned());
        let Some(member) = self.view.member(sid) else { return };
        let update = wire::update(vec![member.info.clone()]);
        let connections = new.iter().filter_map(|other| self.connection_of(other)).collect();
        self.out.send_all(connections, update);
    }

    /// Tells news of one of the audience to those who know of it, and to itself.
    pub(super) fn announce_audience(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        info: proto::ParticipantInfo,
        urgency: Urgency,
    ) {
        let Some(participant) = self.participants.get(sid) else { return };
        let mut near = self.acquaintances(&participant.state);
        near.extend(participant.live.connection);
        let urgency = if names_another(&self.broadcasts.audience, &info) { Urgency::Now } else { urgency };
        match urgency {
            Urgency::MayWait => {
                let identity = participant.state.grants.identity.clone();
                self.broadcasts.audience.insert(identity, info.clone());
                self.timers.set_if_unset(Timer::Batch, now.at + BATCH_INTERVAL);
            }
            Urgency::Now => {
                self.broadcasts.audience.remove(&participant.state.grants.identity);
                near.extend(self.connections_where(|state| state.hears_of == HearsOf::Everybody));
                near.sort();
                near.dedup();
            }
        }
        self.out.send_all(near, wire::update(vec![info]));
    }

    /// One that comes back at once may have to be made known again: acquaintances are told of the old session's end.
    pub(super) fn announce_audience_departure(
        &mut self,
        now: Now,
        state: &SessionState,
        info: proto::ParticipantInfo,
        replaced: bool,
    ) {
        let mut near = self.acquaintances(state);
        if replaced {
            let old = |state: &SessionState| {
                state.hears_of == HearsOf::Everybody && state.protocol_version < PROTOCOL_IDENTITY_REPLACED
            };
            near.extend(self.connections_where(old));
            near.sort();
            near.dedup();
        } else {
            self.broadcasts.audience.insert(state.grants.identity.clone(), info.clone());
            self.timers.set_if_unset(Timer::Batch, now.at + BATCH_INTERVAL);
        }
        self.out.send_all(near, wire::update(vec![info]));
    }

    fn acquaintances(&self, state: &SessionState) -> Vec<ConnectionId> {
        state.acquainted.iter().filter_map(|sid| self.connection_of(sid)).collect()
    }

    /// From now on a participant hears of the audience too, and first of those who are there.
    pub(super) fn hear_of_everybody(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if std::mem::replace(&mut participant.state.hears_of, HearsOf::Everybody) == HearsOf::Everybody {
            return;
        }
        let connection = participant.live.connection;
        let audience = self.audience();
        let infos: Vec<_> = audience.filter(|(other, _)| *other != sid).map(|(_, info)| info.clone()).collect();
        self.send_updates(connection.as_slice(), infos);
    }

    fn audience(&self) -> impl Iterator<Item = (&ParticipantSid, &proto::ParticipantInfo)> {
        let members = self.view.members.iter();
        let unknown = members.filter(|(_, member)| !member.hidden && member.presence == Presence::Audience);
        unknown.map(|(sid, member)| (sid, &member.info))
    }

    /// A room that has become small again, half the threshold, is one in which all know each other.
    pub(super) fn introduce_the_rest(&mut self) {
        if self.participants.len() > self.config.audience_threshold as usize / 2 {
            return;
        }
        let rest: Vec<_> = self.audience().map(|(sid, info)| (sid.clone(), info.clone())).collect();
        for (sid, info) in &rest {
            self.introduce(sid);
            self.broadcasts.audience.remove(info.identity.as_str());
        }
        self.send_updates(&self.everybody(), rest.into_iter().map(|(_, info)| info));
    }

    /// All whom everybody knows, as newcomers are told.
    pub(super) fn announced(&mut self) -> Arc<Others> {
        let view = &self.view;
        let describe = || {
            let announced = view.members.values().filter(|member| member.is_announced());
            Arc::new(Others::new(announced.map(|member| member.info.clone()).collect()))
        };
        Arc::clone(self.broadcasts.announced.get_or_insert_with(describe))
    }

    /// Forgets the description of the announced if a change concerns it.
    pub(super) fn outdate_announced(&mut self, change: &Change) {
        let concerns = match change {
            Change::Opened { .. } | Change::Metadata { .. } | Change::Recording { .. } | Change::Counts { .. } => false,
            Change::Joined { member, .. } => member.is_announced(),
            // It may be hidden no more.
            Change::Announced { .. } | Change::Permission { .. } => true,
            Change::State { sid, .. }
            | Change::Profile { sid, .. }
            | Change::Track { sid, .. }
            | Change::TrackEnded { sid, .. }
            | Change::Left { sid } => self.view.member(sid).is_some_and(super::view::Member::is_announced),
        };
        if concerns {
            self.broadcasts.announced = None;
        }
    }
}
