//! Subscribing: who is shown what, and the offers and answers that carry it out (docs/livekit.md 5.1, 5.4, 7.8, 7.9).

use std::collections::HashMap;
use std::time::Duration;

use livekit_protocol as proto;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use proto::signal_response::Message as Response;
use rand::RngExt;
use sfu::command::{Command, SendSection};
use shared::id::{ParticipantSid, TrackSid};
use shared::media::{Codec, MediaKind};

use super::Room;
use super::message::track_sids;
use super::timer::{Now, Timer};
use super::track::kind_of;
use crate::id::{ConnectionId, DescriptionId};
use crate::join::Mode;
use crate::negotiation::{BindError, OutgoingTrack};
use crate::participant::{SessionState, Stage, Subscription, SubscriptionPolicy, TrackSettings, WISHES_MAX};
use crate::quirks::Quirk;
use crate::wire;

/// From a change to the offer that carries it, so that changes come together.
const NEGOTIATION_DELAY: Duration = Duration::from_millis(10);
/// Between two offers, or two requests for one.
const NEGOTIATION_INTERVAL: Duration = Duration::from_millis(150);
/// An offer must be answered after this time (docs/livekit.md 3.10).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Media is sent after this time whether the client has said that it has read our answer or not: something on the way may
/// keep pings from it.
pub const RECEIPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an explicit subscription waits for a track that does not exist (docs/livekit.md 4.3).
const MISSING_TRACK_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests for sections in a row that brought none, until we stop asking.
const REQUESTS_IN_VAIN_MAX: u32 = 3;

impl Room {
    // --- who is shown what ---

    /// Subscribes and unsubscribes until a participant has what it wants and may have.
    pub(super) fn reconcile(&mut self, now: Now, sid: &ParticipantSid) {
        let tracks: Vec<_> = self.tracks.keys().cloned().collect();
        for track in tracks {
            self.reconcile_track(now, sid, &track);
        }
    }

    /// Shows a new track to those who want it. Participants that are still connecting get it when they are ACTIVE.
    pub(super) fn offer_track(&mut self, now: Now, track: &TrackSid) {
        let ready: Vec<_> =
            self.participants.iter().filter(|(_, p)| p.state.active).map(|(sid, _)| sid.clone()).collect();
        for sid in ready {
            self.reconcile_track(now, &sid, track);
        }
    }

    /// Shows the tracks of a participant that is hidden no more.
    pub(super) fn offer_tracks_of(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        for track in participant.state.publications.keys().cloned().collect::<Vec<_>>() {
            self.offer_track(now, &track);
        }
    }

    fn reconcile_track(&mut self, now: Now, sid: &ParticipantSid, track: &TrackSid) {
        let Some(publisher) = self.tracks.get(track).filter(|publisher| *publisher != sid).cloned() else { return };
        let Some(participant) = self.participants.get(sid) else { return };
        let state = &participant.state;
        let wanted =
            state.grants.video.may_subscribe() && state.choices.get(track).copied().unwrap_or(state.auto_subscribe);
        let has = state.subscriptions.contains_key(track);
        match (wanted, self.is_permitted(sid, &publisher, track)) {
            (false, _) => self.unsubscribe(now, sid, track),
            (true, Some(true)) if !has => self.subscribe(now, sid, &publisher, track),
            (true, Some(false)) => self.deny(now, sid, &publisher, track),
            (true, Some(true) | None) => {}
        }
    }

    /// Ends a subscription that the publisher does not permit, and says so once.
    fn deny(&mut self, now: Now, sid: &ParticipantSid, publisher: &ParticipantSid, track: &TrackSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let news = participant.state.denied.insert(track.clone());
        self.unsubscribe(now, sid, track);
        if news {
            let message = wire::subscription_permission(publisher.as_str(), track.as_str(), false);
            self.out.send(self.connection_of(sid), message);
        }
    }

    /// Whether the publisher lets `sid` have the track. `None`: one of them is gone, or the publisher is hidden, so that
    /// nobody could make sense of its tracks.
    fn is_permitted(&self, sid: &ParticipantSid, publisher: &ParticipantSid, track: &TrackSid) -> Option<bool> {
        let subscriber = &self.participants.get(sid)?.state;
        let publisher = &self.participants.get(publisher)?.state;
        if publisher.is_hidden() {
            return None;
        }
        let policy = &publisher.policy;
        Some(subscriber.is_recorder() || policy.permits(&subscriber.grants.identity, sid, track))
    }

    fn subscribe(&mut self, now: Now, sid: &ParticipantSid, publisher: &ParticipantSid, track: &TrackSid) {
        let Some(owner) = self.participants.get(publisher) else { return };
        let Some(publication) = owner.state.publications.get(track) else { return };
        let Some(kind) = kind_of(publication.info.r#type()) else { return };
        let told = owner.live.speaking.told;
        let publication = publication.id;
        let id = self.ids.subscription();
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let hears_speakers = !participant.state.quirks.has(Quirk::NoSpeakersChanged);
        let is_first = |state: &SessionState| !state.subscriptions.values().any(|known| known.publisher == *publisher);
        let hears_it = told > 0.0 && hears_speakers && is_first(&participant.state);
        participant.state.denied.remove(track);
        participant.live.missing.remove(track);
        let subscription = Subscription { id, publication, publisher: publisher.clone(), kind, stage: Stage::Waiting };
        participant.state.subscriptions.insert(track.clone(), subscription);
        let connection = participant.live.connection;
        self.out.send(connection, wire::subscription_permission(publisher.as_str(), track.as_str(), true));
        if hears_it {
            self.out.send(connection, super::speakers::changed(publisher, told));
        }
        if let Some(participant) = self.participants.get_mut(sid) {
            participant.live.requests_in_vain = 0;
            if participant.state.mode == Mode::V0 {
                self.bind(sid, track);
            }
        }
        self.schedule_negotiation(now, sid);
    }

    fn unsubscribe(&mut self, now: Now, sid: &ParticipantSid, track: &TrackSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let Some(subscription) = participant.state.subscriptions.remove(track) else { return };
        match subscription.stage {
            Stage::Waiting | Stage::Refused => return,
            Stage::Bound => {}
            Stage::Live(_) => self.out.command(Command::Unsubscribe { subscription: subscription.id }),
        }
        participant.live.requests_in_vain = 0;
        participant.state.receiving().negotiation.release(track);
        self.schedule_negotiation(now, sid);
    }

    /// The codec of a track changed: where that cannot be within one track, it is shown anew.
    pub(super) fn restart_subscriptions(&mut self, now: Now, track: &TrackSid) {
        let shown = |state: &SessionState| {
            state.quirks.has(Quirk::NoCodecChange)
                && state.subscriptions.get(track).is_some_and(|known| matches!(known.stage, Stage::Live(_)))
        };
        let concerned: Vec<_> =
            self.participants.iter().filter(|(_, p)| shown(&p.state)).map(|(sid, _)| sid.clone()).collect();
        for sid in concerned {
            self.unsubscribe(now, &sid, track);
            self.reconcile_track(now, &sid, track);
        }
    }

    /// A track is gone.
    pub(super) fn end_subscriptions(&mut self, now: Now, track: &TrackSid) {
        self.unsubscribe_all(now, track);
        for participant in self.participants.values_mut() {
            participant.state.denied.remove(track);
            participant.state.choices.remove(track);
            participant.state.settings.remove(track);
        }
    }

    /// Nobody gets a track any more, for now.
    pub(super) fn unsubscribe_all(&mut self, now: Now, track: &TrackSid) {
        let everybody: Vec<_> = self.participants.keys().cloned().collect();
        for sid in everybody {
            self.unsubscribe(now, &sid, track);
        }
    }

    pub(super) fn on_subscription(&mut self, now: Now, sid: &ParticipantSid, request: &proto::UpdateSubscription) {
        self.choose(now, sid, &request.track_sids, &request.participant_tracks, request.subscribe);
    }

    /// Remembers explicit wishes and carries them out.
    pub(super) fn choose(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        sids: &[String],
        participant_tracks: &[proto::ParticipantTracks],
        subscribe: bool,
    ) {
        for track in track_sids(sids, participant_tracks) {
            let exists = self.tracks.contains_key(&track);
            let Some(participant) = self.participants.get_mut(sid) else { return };
            if !participant.state.grants.video.may_subscribe() {
                return;
            }
            if participant.state.choices.len() < WISHES_MAX || participant.state.choices.contains_key(&track) {
                participant.state.choices.insert(track.clone(), subscribe);
            }
            if exists {
                self.reconcile_track(now, sid, &track);
            } else if !subscribe {
                participant.live.missing.remove(&track);
            } else if participant.live.missing.len() < WISHES_MAX {
                let due = now.at + MISSING_TRACK_TIMEOUT;
                participant.live.missing.entry(track).or_insert(due);
                self.timers.set_if_unset(Timer::MissingTracks(sid.clone()), due);
            }
        }
    }

    pub(super) fn give_up_missing(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let connection = participant.live.connection;
        let mut given_up = Vec::new();
        participant.live.missing.retain(|track, due| {
            let keep = *due > now.at;
            if !keep {
                given_up.push(track.clone());
            }
            keep
        });
        let next = participant.live.missing.values().min().copied();
        for track in given_up {
            participant.state.choices.remove(&track);
            self.out.send(connection, subscription_error(&track, proto::SubscriptionError::SeTrackNotfound));
        }
        if let Some(next) = next {
            self.timers.set(Timer::MissingTracks(sid.clone()), next);
        }
    }

    pub(super) fn on_subscription_permission(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        request: proto::SubscriptionPermission,
    ) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let policy = match request.all_participants {
            true => SubscriptionPolicy::Everybody,
            false => SubscriptionPolicy::Listed(request.track_permissions.into()),
        };
        if participant.state.policy == policy {
            return;
        }
        participant.state.policy = policy;
        let tracks: Vec<_> = participant.state.publications.keys().cloned().collect();
        let others: Vec<_> =
            self.participants.iter().filter(|(_, p)| p.state.active).map(|(other, _)| other.clone()).collect();
        for other in &others {
            for track in &tracks {
                self.reconcile_track(now, other, track);
            }
        }
    }

    pub(super) fn on_track_settings(&mut self, sid: &ParticipantSid, request: &proto::UpdateTrackSettings) {
        let settings = TrackSettings::read(request);
        for track in track_sids(&request.track_sids, &[]) {
            let Some(participant) = self.participants.get_mut(sid) else { return };
            let wishes = &mut participant.state.settings;
            if wishes.len() < WISHES_MAX || wishes.contains_key(&track) {
                wishes.insert(track.clone(), settings);
            }
            self.apply_settings(sid, &track);
        }
    }

    /// Tells the worker what of a live subscription is wanted.
    fn apply_settings(&mut self, sid: &ParticipantSid, track: &TrackSid) {
        let Some(state) = self.participants.get(sid).map(|participant| &participant.state) else { return };
        let Some(subscription) = state.subscriptions.get(track) else { return };
        if !matches!(subscription.stage, Stage::Live(_)) {
            return;
        }
        let owner = self.participants.get(&subscription.publisher);
        let Some(publication) = owner.and_then(|owner| owner.state.publications.get(track)) else { return };
        let settings = state.settings_of(track);
        let (subscription, layer_max) = (subscription.id, settings.layer_max(&publication.info.layers));
        self.out.command(Command::SetSubscription { subscription, paused: settings.disabled, layer_max });
    }

    // --- offers and answers ---

    /// Offers (v0) or asks for an offer (v1) soon.
    fn schedule_negotiation(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if participant.state.subscriber.as_ref().is_some_and(|subscriber| subscriber.outstanding) {
            // The answer brings the next offer.
            return;
        }
        let soon = now.at + NEGOTIATION_DELAY;
        let due = participant.live.negotiated_at.map_or(soon, |last| soon.max(last + NEGOTIATION_INTERVAL));
        self.timers.set_if_unset(Timer::Negotiate(sid.clone()), due);
    }

    pub(super) fn negotiate(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        if participant.live.connection.is_none() {
            // A resume brings a new offer anyway.
            return;
        }
        match &participant.state.subscriber {
            // While an offer is outstanding, none is scheduled.
            Some(subscriber) => {
                if !subscriber.ended && subscriber.negotiation.is_offer_due() {
                    self.send_offer(now, sid);
                }
            }
            None => self.ask_for_sections(now, sid),
        }
    }

    /// The first offer of a v0 session holds no media, even if there are tracks.
    pub(super) fn first_offer(&mut self, now: Now, sid: &ParticipantSid) {
        let primary = self.participants.get(sid).is_some_and(|participant| participant.state.subscriber_primary);
        if primary {
            self.send_offer(now, sid);
        }
    }

    fn send_offer(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let Some(subscriber) = &mut participant.state.subscriber else { return };
        let description = subscriber.negotiation.write_offer();
        let id = match &subscriber.last_offer {
            Some(last) => last.0.wrapping_add(1),
            None => rand::rng().random_range(2..=257),
        };
        subscriber.outstanding = true;
        subscriber.last_offer = Some(DescriptionId(id));
        participant.live.negotiated_at = Some(now.at);
        let offer = session_description("offer", description.sdp, id, description.mid_to_track_id);
        self.out.send(participant.live.connection, Response::Offer(offer));
        self.timers.set(Timer::Answer(sid.clone()), now.at + ANSWER_TIMEOUT);
    }

    /// After a resume: the subscriber transport restarts ICE (v0). In v1 the client offers by itself.
    pub(super) fn resume_offer(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let Some(subscriber) = &mut participant.state.subscriber else { return };
        if subscriber.last_offer.is_none() {
            if !participant.state.subscriptions.is_empty() {
                self.schedule_negotiation(now, sid);
            }
            return;
        }
        let local = (self.host.new_credentials)();
        subscriber.local = local.clone();
        subscriber.negotiation.restart_ice(local.clone());
        self.out.command(Command::RestartIce { transport: subscriber.id, local });
        self.timers.clear(&Timer::Negotiate(sid.clone()));
        self.send_offer(now, sid);
    }

    pub(super) fn on_answer(&mut self, now: Now, sid: &ParticipantSid, answer: proto::SessionDescription) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let Some(subscriber) = &mut participant.state.subscriber else { return };
        let expected = subscriber.last_offer.as_ref().map_or(0, |offer| offer.0);
        if answer.r#type != "answer" || !subscriber.outstanding || (answer.id != 0 && answer.id != expected) {
            return;
        }
        let news = match subscriber.negotiation.read_answer(&answer.sdp) {
            Ok(news) => news,
            Err(error) => {
                tracing::info!(participant = %sid, %error, "answer refused");
                self.remove(now, sid, Reason::StateMismatch, Some(Action::Reconnect));
                return;
            }
        };
        subscriber.outstanding = false;
        subscriber.last_answer = Some(DescriptionId(answer.id));
        let transport = subscriber.id;
        self.timers.clear(&Timer::Answer(sid.clone()));
        if let Some((fingerprint, role)) = news.dtls {
            self.out.command(Command::SetFingerprint { transport, fingerprint, role });
        }
        if let Some(remote) = news.remote {
            self.out.command(Command::SetRemoteCredentials { transport, remote });
        }
        for (track, section) in news.accepted {
            self.go_live(sid, &track, section);
        }
        for track in news.refused {
            self.refuse_subscription(sid, &track);
        }
        // The answer may have freed sections.
        self.bind_waiting(sid);
        let participant = self.participants.get(sid);
        let subscriber = participant.and_then(|participant| participant.state.subscriber.as_ref());
        if subscriber.is_some_and(|subscriber| subscriber.negotiation.is_offer_due()) {
            self.schedule_negotiation(now, sid);
        }
    }

    /// Answers the offer that was just read (v0 publisher, v1).
    pub(super) fn answer(&mut self, now: Now, sid: &ParticipantSid, id: u32) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let publisher = &mut participant.state.publisher;
        let description = match publisher.negotiation.write_answer() {
            Ok(description) => description,
            Err(error) => {
                tracing::info!(participant = %sid, %error, "cannot answer");
                self.remove(now, sid, Reason::StateMismatch, Some(Action::Reconnect));
                return;
            }
        };
        publisher.last_answer = Some(DescriptionId(id));
        let answer = session_description("answer", description.sdp, id, description.mid_to_track_id);
        self.out.send(participant.live.connection, Response::Answer(answer));
        self.after_answer(now, sid);
    }

    /// Sends in sections that were just answered, or has the client say when it has read of them.
    pub(super) fn send_in_answered(&mut self, now: Now, sid: &ParticipantSid, sections: Vec<(TrackSid, SendSection)>) {
        let Some(participant) = self.participants.get(sid) else { return };
        let SessionState { quirks, subscriptions, publisher, .. } = &participant.state;
        let waits = |track: &TrackSid| {
            let is_new = subscriptions.get(track).is_some_and(|known| known.stage == Stage::Bound);
            is_new && quirks.has(Quirk::NoEarlyMedia)
        };
        let (waiting, sent): (Vec<_>, Vec<_>) = sections.into_iter().partition(|(track, _)| waits(track));
        if !waiting.is_empty() {
            self.out.ask_receipt(participant.live.connection, publisher.last_offer);
            self.timers.set(Timer::Receipt(sid.clone()), now.at + RECEIPT_TIMEOUT);
        }
        for (track, section) in sent {
            self.go_live(sid, &track, section);
        }
    }

    /// A client has read the answer to this offer of its.
    pub fn on_receipt(&mut self, connection: ConnectionId, offer: DescriptionId) {
        let Some(sid) = self.connections.get(&connection).cloned() else { return };
        let Some(participant) = self.participants.get(&sid) else { return };
        let is_last = participant.state.publisher.last_offer == Some(offer);
        if is_last && self.timers.is_set(&Timer::Receipt(sid.clone())) {
            self.timers.clear(&Timer::Receipt(sid.clone()));
            self.send_in_bound(&sid);
        }
    }

    /// v1: sends in sections that were answered.
    pub(super) fn send_in_bound(&mut self, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        let subscriptions = participant.state.subscriptions.iter();
        let bound = subscriptions.filter(|(_, known)| known.stage == Stage::Bound).map(|(track, _)| track.clone());
        for track in bound.collect::<Vec<_>>() {
            if let Some(Ok(section)) = self.bind(sid, &track) {
                self.go_live(sid, &track, section);
            }
        }
    }

    /// v1: whether sections are still lacking, or nothing waits any more.
    fn after_answer(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if participant.state.mode != Mode::V1 {
            return;
        }
        self.timers.clear(&Timer::Negotiate(sid.clone()));
        let waiting = participant.state.subscriptions.values().any(|known| known.stage == Stage::Waiting);
        if waiting && participant.live.requests_in_vain < REQUESTS_IN_VAIN_MAX {
            self.schedule_negotiation(now, sid);
        }
    }

    /// v1: asks the client for an offer, with as many more sections as are lacking.
    fn ask_for_sections(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        if participant.state.publisher.last_offer.is_none() || participant.state.publisher.ended {
            // Its first offer comes without being asked for.
            return;
        }
        let num_audios = lacking(&participant.state, MediaKind::Audio);
        let num_videos = lacking(&participant.state, MediaKind::Video);
        participant.live.negotiated_at = Some(now.at);
        participant.live.requests_in_vain += 1;
        let requirement = proto::MediaSectionsRequirement { num_audios, num_videos };
        self.out.send(participant.live.connection, Response::MediaSectionsRequirement(requirement));
    }

    /// v1: tracks whose section went away wait for another one.
    pub(super) fn lose_sections(&mut self, sid: &ParticipantSid, lost: &[TrackSid]) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        for track in lost {
            let Some(subscription) = participant.state.subscriptions.get_mut(track) else { continue };
            self.out.command(Command::Unsubscribe { subscription: subscription.id });
            subscription.id = self.ids.subscription();
            subscription.stage = Stage::Waiting;
        }
    }

    /// Puts waiting subscriptions into free sections: in v1 of the offer that is being answered, where they may be sent in
    /// once the answer is out; in v0 of our next offer.
    pub(super) fn bind_waiting(&mut self, sid: &ParticipantSid) -> Vec<(TrackSid, SendSection)> {
        let Some(participant) = self.participants.get(sid) else { return Vec::new() };
        let subscriptions = participant.state.subscriptions.iter();
        let waiting: Vec<(TrackSid, MediaKind)> = subscriptions
            .filter(|(_, known)| known.stage == Stage::Waiting)
            .map(|(track, known)| (track.clone(), known.kind))
            .collect();
        let mut bound = Vec::new();
        let mut without_sections = Vec::new();
        for (track, kind) in waiting {
            if without_sections.contains(&kind) {
                continue;
            }
            match self.bind(sid, &track) {
                Some(Ok(section)) => bound.push((track, section)),
                Some(Err(BindError::NoFreeSection)) => without_sections.push(kind),
                Some(Err(BindError::CodecUnsupported)) | None => {}
            }
        }
        bound
    }

    /// Gives a subscription a section. It may be sent in at once only in v1. `None`: subscription or track is gone.
    fn bind(&mut self, sid: &ParticipantSid, track: &TrackSid) -> Option<Result<SendSection, BindError>> {
        let subscription = self.participants.get(sid)?.state.subscriptions.get(track)?;
        let publisher = self.participants.get(&subscription.publisher)?;
        let publication = publisher.state.publications.get(track)?;
        let quirks = self.participants.get(sid)?.state.quirks;
        let stream_id = match quirks.has(Quirk::PlainStreamId) {
            true => subscription.publisher.to_string(),
            false => format!("{}|{}", subscription.publisher, track),
        };
        let outgoing = OutgoingTrack {
            track: track.clone(),
            kind: subscription.kind,
            stream_id,
            // Redundancy is taken off for those who do not know it.
            codec: if publication.codec == Codec::Red { Codec::Opus } else { publication.codec },
            stereo: publication.info.stereo,
            strips_trailers: !publication.info.packet_trailer_features.is_empty() && quirks.has(Quirk::NoTrailers),
        };
        let participant = self.participants.get_mut(sid)?;
        let result = participant.state.receiving().negotiation.bind(&outgoing);
        match result {
            Ok(_) => {
                participant.live.requests_in_vain = 0;
                participant.state.subscriptions.get_mut(track)?.stage = Stage::Bound;
            }
            Err(BindError::NoFreeSection) => {}
            Err(BindError::CodecUnsupported) => self.refuse_subscription(sid, track),
        }
        Some(result)
    }

    fn refuse_subscription(&mut self, sid: &ParticipantSid, track: &TrackSid) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let connection = participant.live.connection;
        let Some(subscription) = participant.state.subscriptions.get_mut(track) else { return };
        if matches!(subscription.stage, Stage::Live(_)) {
            self.out.command(Command::Unsubscribe { subscription: subscription.id });
        }
        subscription.stage = Stage::Refused;
        self.out.send(connection, subscription_error(track, proto::SubscriptionError::SeCodecUnsupported));
    }

    /// The section is agreed upon: the worker sends.
    pub(super) fn go_live(&mut self, sid: &ParticipantSid, track: &TrackSid, section: SendSection) {
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let hidden = participant.state.is_hidden();
        let transport = participant.state.receiving().id;
        let Some(subscription) = participant.state.subscriptions.get_mut(track) else { return };
        let stage = Stage::Live(section.clone());
        if subscription.stage == stage {
            return;
        }
        let first = !matches!(subscription.stage, Stage::Live(_));
        subscription.stage = stage;
        let (id, publication, publisher) = (subscription.id, subscription.publication, subscription.publisher.clone());
        self.out.command(Command::Subscribe { subscription: id, publication, transport, section });
        self.apply_settings(sid, track);
        if first {
            self.tell_publisher(&publisher, track, hidden);
        }
    }

    /// The first subscriber of a track is news to its publisher.
    fn tell_publisher(&mut self, publisher: &ParticipantSid, track: &TrackSid, hidden: bool) {
        let Some(participant) = self.participants.get_mut(publisher) else { return };
        let connection = participant.live.connection;
        let quirks = participant.state.quirks;
        let Some(publication) = participant.state.publications.get_mut(track) else { return };
        if publication.subscribed_told {
            return;
        }
        if kind_of(publication.info.r#type()) == Some(MediaKind::Video) {
            self.out.send(connection, wire::all_qualities(&publication.info));
        }
        if !hidden {
            publication.subscribed_told = true;
            let message = proto::TrackSubscribed { track_sid: track.to_string() };
            if !quirks.has(Quirk::NoNewerMessages) {
                self.out.send(connection, Response::TrackSubscribed(message));
            }
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

fn subscription_error(track: &TrackSid, error: proto::SubscriptionError) -> Response {
    Response::SubscriptionResponse(proto::SubscriptionResponse { track_sid: track.to_string(), err: error as i32 })
}

/// Sections of a kind that waiting subscriptions need beyond the free ones.
fn lacking(state: &SessionState, kind: MediaKind) -> u32 {
    let waiting =
        state.subscriptions.values().filter(|known| known.kind == kind && known.stage == Stage::Waiting).count();
    let free = state.publisher.negotiation.free_sections(kind);
    u32::try_from(waiting.saturating_sub(free)).unwrap_or(u32::MAX)
}
