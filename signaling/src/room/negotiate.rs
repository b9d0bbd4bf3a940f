//! Offers and answers of a participant's transports (docs/livekit.md 5.1, 5.4).

use std::collections::HashMap;
use std::time::Duration;

use livekit_protocol as proto;
use proto::signal_response::Message as Response;
use rand::RngExt;
use sfu::command::{Command, SendSection};
use shared::id::{ParticipantSid, TrackSid};
use shared::media::MediaKind;

use super::Room;
use super::context::Context;
use super::timer::{Now, Timer};
use crate::id::{ConnectionId, DescriptionId};
use crate::join::Mode;
use crate::negotiation::{BindError, SdpError};
use crate::participant::{Participant, SessionState, Stage, Subscription, Transport};
use crate::quirks::Quirk;

/// From a change to the offer that carries it, so that changes come together.
const NEGOTIATION_DELAY: Duration = Duration::from_millis(10);
/// Between two offers, or two requests for one.
const NEGOTIATION_INTERVAL: Duration = Duration::from_millis(150);
/// An offer must be answered after this time (docs/livekit.md 3.10).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Media is sent after this time whether the client has said that it has read our answer or not: something on the way
/// may keep pings from it.
pub(crate) const RECEIPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests for sections in a row that brought none, until we stop asking.
const REQUESTS_IN_VAIN_MAX: u32 = 3;

impl Room {
    pub(super) fn on_answer(&mut self, now: Now, sid: &ParticipantSid, answer: proto::SessionDescription) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        let Some(subscriber) = &mut participant.state.subscriber else { return };
        let expected = subscriber.last_offer.as_ref().map_or(0, |offer| offer.0);
        if answer.r#type != "answer" || !subscriber.outstanding || (answer.id != 0 && answer.id != expected) {
            return;
        }
        let diff = match subscriber.negotiation.read_answer(&answer.sdp) {
            Ok(diff) => diff,
            Err(error) => return self.refuse_description(now, sid, "answer refused", &error),
        };
        subscriber.outstanding = false;
        subscriber.last_answer = Some(DescriptionId(answer.id));
        let transport = subscriber.id;
        context.timers.clear(&Timer::Answer(sid.clone()));
        if let Some((fingerprint, role)) = diff.dtls {
            context.out.command(Command::SetFingerprint { transport, fingerprint, role });
        }
        if let Some(remote) = diff.remote {
            context.out.command(Command::SetRemoteCredentials { transport, remote });
        }
        for (track, section) in diff.accepted {
            self.start_sending(sid, &track, section);
        }
        self.with(sid, |participant, context| {
            diff.refused.iter().for_each(|track| participant.refuse_subscription(context, track));
        });
        // The answer may have freed sections.
        self.bind_waiting(sid);
        self.with(sid, |participant, context| {
            let subscriber = participant.state.subscriber.as_ref();
            if subscriber.is_some_and(|subscriber| subscriber.negotiation.is_offer_due()) {
                participant.schedule_negotiation(now, context);
            }
        });
    }

    /// A client has read the answer to this offer of its.
    pub fn on_receipt(&mut self, connection: ConnectionId, offer: DescriptionId) {
        let Some(sid) = self.context.connections.get(&connection).cloned() else { return };
        let Some((participant, context)) = self.participant_mut(&sid) else { return };
        let is_last = participant.state.publisher.last_offer == Some(offer);
        let receipt = Timer::Receipt(sid.clone());
        if is_last && context.timers.is_set(&receipt) {
            context.timers.clear(&receipt);
            self.send_in_bound(&sid);
        }
    }

    /// v1: sends in sections that were answered.
    pub(super) fn send_in_bound(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        for (track, publisher, _) in participant.state.subscriptions_at(&Stage::Bound) {
            if let Some(Ok(section)) = self.bind(sid, &publisher, &track) {
                self.start_sending(sid, &track, section);
            }
        }
    }

    /// Puts waiting subscriptions into free sections: in v1 of the offer that is being answered, where they may be sent
    /// in once the answer is out; in v0 of our next offer.
    pub(super) fn bind_waiting(&mut self, sid: &ParticipantSid) -> Vec<(TrackSid, SendSection)> {
        let Some(participant) = self.participants.get(sid) else { return Vec::new() };
        let mut bound = Vec::new();
        let mut without_sections = Vec::new();
        for (track, publisher, kind) in participant.state.subscriptions_at(&Stage::Waiting) {
            if without_sections.contains(&kind) {
                continue;
            }
            match self.bind(sid, &publisher, &track) {
                Some(Ok(section)) => bound.push((track, section)),
                Some(Err(BindError::NoFreeSection)) => without_sections.push(kind),
                Some(Err(BindError::CodecUnsupported)) | None => {}
            }
        }
        bound
    }
}

impl Context {
    pub(super) fn restart_ice(&mut self, transport: &mut Transport) {
        let local = (self.host.new_credentials)();
        transport.local = local.clone();
        transport.negotiation.restart_ice(local.clone());
        self.out.command(Command::RestartIce { transport: transport.id, local });
    }
}

impl SessionState {
    /// Track, publisher and kind of the subscriptions at a stage.
    fn subscriptions_at(&self, stage: &Stage) -> Vec<(TrackSid, ParticipantSid, MediaKind)> {
        let described =
            |(track, known): (&TrackSid, &Subscription)| (track.clone(), known.publisher.clone(), known.kind);
        self.subscriptions.iter().filter(|(_, known)| known.stage == *stage).map(described).collect()
    }

    /// Sections of a kind that waiting subscriptions need beyond the free ones.
    fn lacking(&self, kind: MediaKind) -> u32 {
        let waiting =
            self.subscriptions.values().filter(|known| known.kind == kind && known.stage == Stage::Waiting).count();
        let free = self.publisher.negotiation.free_sections(kind);
        u32::try_from(waiting.saturating_sub(free)).unwrap_or(u32::MAX)
    }
}

impl Participant {
    /// Offers (v0) or asks for an offer (v1) soon.
    pub(super) fn schedule_negotiation(&mut self, now: Now, context: &mut Context) {
        if self.state.subscriber.as_ref().is_some_and(|subscriber| subscriber.outstanding) {
            // The answer brings the next offer.
            return;
        }
        let soon = now.at + NEGOTIATION_DELAY;
        let due = self.transient.negotiated_at.map_or(soon, |last| soon.max(last + NEGOTIATION_INTERVAL));
        context.timers.set_if_unset(Timer::Negotiate(self.state.sid.clone()), due);
    }

    pub(super) fn negotiate(&mut self, now: Now, context: &mut Context) {
        if self.transient.connection.is_none() {
            // A resume brings a new offer anyway.
            return;
        }
        match &self.state.subscriber {
            // While an offer is outstanding, none is scheduled.
            Some(subscriber) => {
                if !subscriber.ended && subscriber.negotiation.is_offer_due() {
                    self.send_offer(now, context);
                }
            }
            None => self.ask_for_sections(now, context),
        }
    }

    /// The first offer of a v0 session holds no media, even if there are tracks.
    pub(super) fn first_offer(&mut self, now: Now, context: &mut Context) {
        if self.state.subscriber_primary {
            self.send_offer(now, context);
        }
    }

    fn send_offer(&mut self, now: Now, context: &mut Context) {
        let Some(subscriber) = &mut self.state.subscriber else { return };
        let description = subscriber.negotiation.write_offer();
        let id = match &subscriber.last_offer {
            Some(last) => last.0.wrapping_add(1),
            None => rand::rng().random_range(2..=257),
        };
        subscriber.outstanding = true;
        subscriber.last_offer = Some(DescriptionId(id));
        self.transient.negotiated_at = Some(now.at);
        let offer = session_description("offer", description.sdp, id, description.mid_to_track_id);
        self.send(context, Response::Offer(offer));
        context.timers.set(Timer::Answer(self.state.sid.clone()), now.at + ANSWER_TIMEOUT);
    }

    /// After a resume: the subscriber transport restarts ICE (v0). In v1 the client offers by itself.
    pub(super) fn resume_offer(&mut self, now: Now, context: &mut Context) {
        let Some(subscriber) = &mut self.state.subscriber else { return };
        if subscriber.last_offer.is_none() {
            if !self.state.subscriptions.is_empty() {
                self.schedule_negotiation(now, context);
            }
            return;
        }
        context.restart_ice(subscriber);
        context.timers.clear(&Timer::Negotiate(self.state.sid.clone()));
        self.send_offer(now, context);
    }

    /// Answers the offer that was just read (v0 publisher, v1).
    pub(super) fn answer(&mut self, now: Now, context: &mut Context, id: u32) -> Result<(), SdpError> {
        let publisher = &mut self.state.publisher;
        let description = publisher.negotiation.write_answer()?;
        publisher.last_answer = Some(DescriptionId(id));
        let answer = session_description("answer", description.sdp, id, description.mid_to_track_id);
        self.send(context, Response::Answer(answer));
        self.after_answer(now, context);
        Ok(())
    }

    /// v1: asks for more sections later if subscriptions still wait for one, and otherwise no more.
    fn after_answer(&mut self, now: Now, context: &mut Context) {
        if self.state.mode != Mode::V1 {
            return;
        }
        context.timers.clear(&Timer::Negotiate(self.state.sid.clone()));
        let waiting = self.state.subscriptions.values().any(|known| known.stage == Stage::Waiting);
        if waiting && self.transient.requests_in_vain < REQUESTS_IN_VAIN_MAX {
            self.schedule_negotiation(now, context);
        }
    }

    /// Returns, of the sections that were just answered, those in which to send now. For the others the client is asked
    /// to say when it has read the answer.
    pub(super) fn sections_to_send_in(
        &self,
        now: Now,
        context: &mut Context,
        sections: Vec<(TrackSid, SendSection)>,
    ) -> Vec<(TrackSid, SendSection)> {
        let SessionState { quirks, subscriptions, publisher, .. } = &self.state;
        let waits = |(track, _): &(TrackSid, SendSection)| {
            let is_new = subscriptions.get(track).is_some_and(|known| known.stage == Stage::Bound);
            is_new && quirks.has(Quirk::NoEarlyMedia)
        };
        let (waiting, sent): (Vec<_>, Vec<_>) = sections.into_iter().partition(waits);
        if !waiting.is_empty() {
            context.out.ask_receipt(self.transient.connection, publisher.last_offer);
            context.timers.set(Timer::Receipt(self.state.sid.clone()), now.at + RECEIPT_TIMEOUT);
        }
        sent
    }

    /// v1: asks the client for an offer, with as many more sections as are lacking.
    fn ask_for_sections(&mut self, now: Now, context: &mut Context) {
        if self.state.publisher.last_offer.is_none() || self.state.publisher.ended {
            // Its first offer comes without being asked for.
            return;
        }
        let num_audios = self.state.lacking(MediaKind::Audio);
        let num_videos = self.state.lacking(MediaKind::Video);
        self.transient.negotiated_at = Some(now.at);
        self.transient.requests_in_vain += 1;
        let requirement = proto::MediaSectionsRequirement { num_audios, num_videos };
        self.send(context, Response::MediaSectionsRequirement(requirement));
    }

    /// v1: tracks whose section went away wait for another one.
    pub(super) fn lose_sections(&mut self, context: &mut Context, lost: &[TrackSid]) {
        for track in lost {
            let Some(subscription) = self.state.subscriptions.get_mut(track) else { continue };
            context.out.command(Command::Unsubscribe { subscription: subscription.id });
            subscription.id = context.ids.subscription();
            subscription.stage = Stage::Waiting;
        }
    }
}

fn session_description(
    kind: &str,
    sdp: String,
    id: u32,
    mid_to_track_id: HashMap<String, String>,
) -> proto::SessionDescription {
    proto::SessionDescription { r#type: kind.into(), sdp, id, mid_to_track_id }
}
