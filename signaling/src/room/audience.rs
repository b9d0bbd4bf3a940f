//! Viewers of a large room are not announced to each other.
//!
//! Updates from everybody to everybody cost messages and bytes by the square of a room's size. So in a room of more
//! than `room.audience_threshold` participants a newcomer is one of the audience ([`Presence::Audience`]). Updates
//! about it go, in batches, to those who publish, administer, or are agents or recorders ([`Interest::Everybody`]), and
//! to those it sends data to, before the data. It is announced to everybody, once and for good, when it publishes,
//! sends data to everybody, or is changed by the server API.
//!
//! Those who joined while the room was small ([`Presence::Early`]) know each other ([`Interest::Early`]); the audience
//! does not know them either. So what a newcomer of a large room is sent does not depend on the room's size.

use livekit_protocol as proto;
use shared::id::ParticipantSid;

use super::Room;
use super::timer::Now;
use super::updates::Urgency;
use super::view::Change;
use crate::id::ConnectionId;
use crate::participant::{ANNOUNCED_TO_MAX, SessionState};
use crate::presence::{Interest, Presence};
use crate::wire;

impl Room {
    /// The presence of a newcomer. `replaced`: that of its earlier session, which others still see.
    pub(super) fn presence_of_newcomer(&self, state: &SessionState, replaced: Option<Presence>) -> Presence {
        match replaced {
            _ if state.is_in_charge() => Presence::Announced,
            Some(known @ (Presence::Announced | Presence::Early)) => known,
            None | Some(Presence::Audience) if self.is_large() => Presence::Audience,
            None | Some(Presence::Audience) => Presence::Early,
        }
    }

    /// About whom a newcomer with this presence is sent updates. In a room that is not large these are all who came
    /// while it was not, also for one whose earlier session was announced.
    pub(super) fn interest_of_newcomer(&self, state: &SessionState, presence: Presence) -> Interest {
        if state.is_in_charge() {
            Interest::Everybody
        } else if presence == Presence::Early || !self.is_large() {
            Interest::Early
        } else {
            Interest::Announced
        }
    }

    /// Whether a newcomer is one of a large audience.
    fn is_large(&self) -> bool {
        let threshold = self.context.config.audience_threshold as usize;
        threshold > 0 && self.participants.len() >= threshold
    }

    /// Notes that a participant is announced to everybody. The caller sends the update.
    fn mark_announced(&mut self, sid: &ParticipantSid) {
        self.context.change(Change::Presence { sid: sid.clone(), presence: Presence::Announced });
        self.with(sid, |participant, _| participant.state.announced_to.clear());
    }

    /// Whether a participant is not hidden, and has not been announced to everybody.
    fn is_unknown_to_some(&self, sid: &ParticipantSid) -> bool {
        let Some(member) = self.context.view.member(sid).filter(|member| !member.hidden) else { return false };
        match member.presence {
            Presence::Announced => false,
            Presence::Early => self.participants.values().any(|other| other.state.interest == Interest::Announced),
            Presence::Audience => true,
        }
    }

    /// Announces a sender to those its data goes to: `to`, or everybody.
    pub(super) fn announce_sender(&mut self, now: Now, sid: &ParticipantSid, to: Option<&[ParticipantSid]>) {
        if !self.is_unknown_to_some(sid) {
            return;
        }
        match to {
            Some(addressees) => self.announce_to(now, sid, addressees),
            None => self.announce_to_all(now, sid),
        }
    }

    /// Notes that a publisher is announced to everybody, and announces everybody to it. The caller sends the update
    /// about the publisher.
    pub(super) fn mark_publisher_announced(&mut self, sid: &ParticipantSid) {
        if self.context.view.member(sid).is_some_and(|member| member.presence != Presence::Announced) {
            self.mark_announced(sid);
        }
        self.widen_interest(sid);
    }

    /// Announces a participant to everybody, unless that was done before.
    pub(super) fn announce_to_all(&mut self, now: Now, sid: &ParticipantSid) {
        if self.is_unknown_to_some(sid) {
            self.mark_announced(sid);
            self.announce(now, sid, Urgency::Now);
        }
    }

    /// Announces a participant to those of `others` who have been sent no update about it.
    fn announce_to(&mut self, now: Now, sid: &ParticipantSid, others: &[ParticipantSid]) {
        let (Some(member), Some(participant)) = (self.context.view.member(sid), self.participants.get(sid)) else {
            return;
        };
        let announced_to = &participant.state.announced_to;
        let is_new = |other: &ParticipantSid| {
            // Updates about an audience are sent in batches, and this one's may not have been sent yet.
            let is_sent = member.presence == Presence::Early
                && self.participants.get(other).is_some_and(|other| other.state.interest.includes(Presence::Early));
            other != sid && !is_sent && !announced_to.contains(other)
        };
        let new: Vec<_> = others.iter().filter(|other| is_new(other)).cloned().collect();
        if announced_to.len() + new.len() > ANNOUNCED_TO_MAX {
            self.announce_to_all(now, sid);
            return;
        }
        let update = wire::update(vec![member.info.clone()]);
        let connections = new.iter().filter_map(|other| self.connection_of(other)).collect();
        self.context.out.send_all(connections, update);
        self.with(sid, |participant, _| participant.state.announced_to.extend(new));
    }

    pub(super) fn connections_announced_to(&self, state: &SessionState) -> Vec<ConnectionId> {
        state.announced_to.iter().filter_map(|sid| self.connection_of(sid)).collect()
    }

    /// Sends a participant updates about everybody from now on, first about members that it was sent none about.
    pub(super) fn widen_interest(&mut self, sid: &ParticipantSid) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        let before = std::mem::replace(&mut participant.state.interest, Interest::Everybody);
        if before == Interest::Everybody {
            return;
        }
        let connection = participant.transient.connection;
        let members = context.view.members.iter();
        let unknown =
            members.filter(|(other, member)| *other != sid && !member.hidden && !member.is_visible_to(before));
        let infos: Vec<_> = unknown.map(|(_, member)| member.info.clone()).collect();
        self.send_updates(connection.as_slice(), infos);
    }

    /// Announces all to each other in a room that has become small again: half the threshold.
    pub(super) fn announce_audience_if_small(&mut self) {
        if self.participants.len() > self.context.config.audience_threshold as usize / 2 {
            return;
        }
        let of_presence = |wanted: Presence| -> Vec<(ParticipantSid, proto::ParticipantInfo)> {
            let members = self.context.view.members.iter();
            let unknown = members.filter(|(_, member)| !member.hidden && member.presence == wanted);
            unknown.map(|(sid, member)| (sid.clone(), member.info.clone())).collect()
        };
        let (early, audience) = (of_presence(Presence::Early), of_presence(Presence::Audience));
        let strangers = self.connections_where(|state| state.interest == Interest::Announced);
        self.send_updates(&strangers, early.into_iter().map(|(_, info)| info));
        for participant in self.participants.values_mut() {
            if participant.state.interest == Interest::Announced {
                participant.state.interest = Interest::Early;
            }
        }
        for (sid, info) in &audience {
            self.context.change(Change::Presence { sid: sid.clone(), presence: Presence::Early });
            self.updates.batch(Presence::Audience).remove(info.identity.as_str());
        }
        self.send_updates(&self.everybody(), audience.into_iter().map(|(_, info)| info));
    }
}
