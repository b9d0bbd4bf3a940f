//! Subscribing: who is shown what (docs/livekit.md 5.1, 7.8, 7.9). The offers and answers that carry it out are in
//! `room/negotiate.rs`.

use std::time::Duration;

use livekit_protocol as proto;
use proto::signal_response::Message as Response;
use sfu::command::{Command, PublicationId, SendSection, SubscriptionId};
use shared::id::{ParticipantSid, TrackSid};
use shared::media::{Codec, MediaKind};

use super::Room;
use super::context::Context;
use super::message::track_sids;
use super::timer::{Now, Timer};
use super::track::kind_of;
use crate::join::Mode;
use crate::negotiation::{BindError, OutgoingTrack};
use crate::participant::{
    Participant, Publication, SessionState, Stage, Subscription, SubscriptionPolicy, TrackSettings, WISHES_MAX,
};
use crate::quirks::Quirk;
use crate::wire;

/// How long an explicit subscription waits for a track that does not exist (docs/livekit.md 4.3).
const MISSING_TRACK_TIMEOUT: Duration = Duration::from_secs(60);

/// What a subscriber needs to know of a published track.
struct Published {
    publication: PublicationId,
    publisher: ParticipantSid,
    kind: MediaKind,
    codec: Codec,
    stereo: bool,
    has_trailers: bool,
    /// How loud its publisher is, as was sent last.
    loudness: f32,
}

impl Room {
    /// Subscribes and unsubscribes until a participant has what it wants and may have.
    pub(super) fn reconcile(&mut self, now: Now, sid: &ParticipantSid) {
        let tracks: Vec<_> = self.context.tracks.keys().cloned().collect();
        for track in tracks {
            self.reconcile_track(now, sid, &track);
        }
    }

    /// Shows a new track to those who want it. Participants that are still connecting get it when they are ACTIVE.
    pub(super) fn offer_track(&mut self, now: Now, track: &TrackSid) {
        for sid in self.active() {
            self.reconcile_track(now, &sid, track);
        }
    }

    fn active(&self) -> Vec<ParticipantSid> {
        let active = self.participants.iter().filter(|(_, participant)| participant.state.active);
        active.map(|(sid, _)| sid.clone()).collect()
    }

    /// Shows the tracks of a participant that is hidden no more.
    pub(super) fn offer_tracks_of(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        for track in participant.state.publications.keys().cloned().collect::<Vec<_>>() {
            self.offer_track(now, &track);
        }
    }

    fn reconcile_track(&mut self, now: Now, sid: &ParticipantSid, track: &TrackSid) {
        let publisher = self.context.tracks.get(track).filter(|publisher| *publisher != sid);
        let (Some(publisher), Some(subscriber)) = (publisher.cloned(), self.participants.get(sid)) else { return };
        if !subscriber.state.wants(track) {
            self.with(sid, |participant, context| participant.unsubscribe(now, context, track));
            return;
        }
        let has = subscriber.state.subscriptions.contains_key(track);
        match self.participants.get(&publisher).and_then(|owner| owner.state.permits(&subscriber.state, track)) {
            Some(true) if !has => self.subscribe(now, sid, &publisher, track),
            Some(false) => self.with(sid, |participant, context| participant.deny(now, context, &publisher, track)),
            Some(true) | None => {}
        }
    }

    fn published(&self, publisher: &ParticipantSid, track: &TrackSid) -> Option<Published> {
        let owner = self.participants.get(publisher)?;
        let publication = owner.state.publications.get(track)?;
        Some(Published {
            publication: publication.id,
            publisher: publisher.clone(),
            kind: kind_of(publication.info.r#type())?,
            codec: publication.codec,
            stereo: publication.info.stereo,
            has_trailers: !publication.info.packet_trailer_features.is_empty(),
            loudness: owner.transient.speaking.sent,
        })
    }

    fn subscribe(&mut self, now: Now, sid: &ParticipantSid, publisher: &ParticipantSid, track: &TrackSid) {
        let Some(published) = self.published(publisher, track) else { return };
        self.with(sid, |participant, context| {
            participant.subscribe(context, track, &published);
            participant.schedule_negotiation(now, context);
        });
    }

    /// The codec of a track changed: where that cannot be within one track, it is shown anew.
    pub(super) fn restart_subscriptions(&mut self, now: Now, track: &TrackSid) {
        let shown = |state: &SessionState| {
            state.quirks.has(Quirk::NoCodecChange)
                && state.subscriptions.get(track).is_some_and(|known| matches!(known.stage, Stage::Sending(_)))
        };
        let concerned: Vec<_> =
            self.participants.iter().filter(|(_, p)| shown(&p.state)).map(|(sid, _)| sid.clone()).collect();
        for sid in concerned {
            self.with(&sid, |participant, context| participant.unsubscribe(now, context, track));
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
        for participant in self.participants.values_mut() {
            participant.unsubscribe(now, &mut self.context, track);
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
            let Some((participant, context)) = self.participant_mut(sid) else { return };
            if !participant.state.grants.video.may_subscribe() {
                return;
            }
            participant.choose(now, context, &track, subscribe);
            self.reconcile_track(now, sid, &track);
        }
    }

    pub(super) fn on_subscription_permission(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        request: proto::SubscriptionPermission,
    ) {
        let Some((participant, _)) = self.participant_mut(sid) else { return };
        let policy = match request.all_participants {
            true => SubscriptionPolicy::Everybody,
            false => SubscriptionPolicy::Listed(request.track_permissions.into()),
        };
        if participant.state.policy == policy {
            return;
        }
        participant.state.policy = policy;
        for track in participant.state.publications.keys().cloned().collect::<Vec<_>>() {
            for other in self.concerned(&track) {
                self.reconcile_track(now, &other, &track);
            }
        }
    }

    /// Whom a change of a track's policy concerns: who is ACTIVE, and who was shown or denied the track before that.
    fn concerned(&self, track: &TrackSid) -> Vec<ParticipantSid> {
        let is_concerned = |state: &SessionState| {
            state.active || state.subscriptions.contains_key(track) || state.denied.contains(track)
        };
        let concerned = self.participants.iter().filter(|(_, participant)| is_concerned(&participant.state));
        concerned.map(|(sid, _)| sid.clone()).collect()
    }

    pub(super) fn on_track_settings(&mut self, sid: &ParticipantSid, request: &proto::UpdateTrackSettings) {
        let Some((participant, _)) = self.participant_mut(sid) else { return };
        let settings = TrackSettings::read(request);
        let tracks = track_sids(&request.track_sids, &[]);
        let live: Vec<_> = tracks.iter().filter_map(|track| participant.set_up(track, settings)).collect();
        for (track, publisher, subscription, settings) in live {
            let owner = self.participants.get(&publisher);
            if let Some(publication) = owner.and_then(|owner| owner.state.publications.get(&track)) {
                self.context.set_subscription(subscription, settings, publication);
            }
        }
    }

    /// Gives a subscription a section. It may be sent in at once only in v1. `None`: subscription or track is gone.
    pub(super) fn bind(
        &mut self,
        sid: &ParticipantSid,
        publisher: &ParticipantSid,
        track: &TrackSid,
    ) -> Option<Result<SendSection, BindError>> {
        let published = self.published(publisher, track)?;
        let (participant, context) = self.participant_mut(sid)?;
        Some(participant.bind(context, track, &published))
    }

    /// The section is agreed upon: the worker sends.
    pub(super) fn start_sending(&mut self, sid: &ParticipantSid, track: &TrackSid, section: SendSection) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        let Some(started) = participant.send_in(context, track, section) else { return };
        let Some((publisher, context)) = self.participant_mut(&started.publisher) else { return };
        let Some(publication) = publisher.state.publications.get(track) else { return };
        context.set_subscription(started.subscription, started.settings, publication);
        if started.is_first {
            publisher.note_subscriber(context, track, started.is_hidden);
        }
    }
}

impl Context {
    /// Tells the worker what of a live subscription is wanted.
    fn set_subscription(&mut self, subscription: SubscriptionId, settings: TrackSettings, publication: &Publication) {
        let layer_max = settings.layer_max(&publication.info.layers);
        self.out.command(Command::SetSubscription { subscription, paused: settings.disabled, layer_max });
    }
}

/// A subscription in whose section the worker sends from now on.
struct Started {
    subscription: SubscriptionId,
    publisher: ParticipantSid,
    settings: TrackSettings,
    /// It did not before.
    is_first: bool,
    /// Its subscriber is.
    is_hidden: bool,
}

impl SessionState {
    /// Whether it wants this track, and may subscribe.
    fn wants(&self, track: &TrackSid) -> bool {
        self.grants.video.may_subscribe() && self.choices.get(track).copied().unwrap_or(self.auto_subscribe)
    }

    /// Whether this publisher lets a subscriber have the track. `None`: the publisher is hidden, so that nobody could
    /// make sense of its tracks.
    fn permits(&self, subscriber: &SessionState, track: &TrackSid) -> Option<bool> {
        let permits = || self.policy.permits(&subscriber.grants.identity, &subscriber.sid, track);
        (!self.is_hidden()).then(|| subscriber.is_recorder() || permits())
    }
}

impl Participant {
    fn subscribe(&mut self, context: &mut Context, track: &TrackSid, published: &Published) {
        let Published { publication, kind, loudness, .. } = *published;
        let publisher = published.publisher.clone();
        let hears_speakers = !self.state.quirks.has(Quirk::NoSpeakersChanged);
        let is_first = !self.state.subscriptions.values().any(|known| known.publisher == publisher);
        self.state.denied.remove(track);
        self.transient.missing.remove(track);
        self.send(context, wire::subscription_permission(publisher.as_str(), track.as_str(), true));
        if loudness > 0.0 && hears_speakers && is_first {
            self.send(context, super::speakers::changed(&publisher, loudness));
        }
        let id = context.ids.subscription();
        let subscription = Subscription { id, publication, publisher, kind, stage: Stage::Waiting };
        self.state.subscriptions.insert(track.clone(), subscription);
        self.transient.requests_in_vain = 0;
        if self.state.mode == Mode::V0 {
            // Without a free section it waits for one.
            let _ = self.bind(context, track, published);
        }
    }

    fn unsubscribe(&mut self, now: Now, context: &mut Context, track: &TrackSid) {
        let Some(subscription) = self.state.subscriptions.remove(track) else { return };
        match subscription.stage {
            Stage::Waiting | Stage::Refused => return,
            Stage::Bound => {}
            Stage::Sending(_) => context.out.command(Command::Unsubscribe { subscription: subscription.id }),
        }
        self.transient.requests_in_vain = 0;
        self.state.receiving().negotiation.release(track);
        self.schedule_negotiation(now, context);
    }

    /// Ends a subscription that the publisher does not permit, and says so once.
    fn deny(&mut self, now: Now, context: &mut Context, publisher: &ParticipantSid, track: &TrackSid) {
        let is_new = self.state.denied.insert(track.clone());
        self.unsubscribe(now, context, track);
        if is_new {
            self.send(context, wire::subscription_permission(publisher.as_str(), track.as_str(), false));
        }
    }

    /// Remembers an explicit wish, and how long to wait for a track that does not exist.
    fn choose(&mut self, now: Now, context: &mut Context, track: &TrackSid, subscribe: bool) {
        let choices = &mut self.state.choices;
        if choices.len() < WISHES_MAX || choices.contains_key(track) {
            choices.insert(track.clone(), subscribe);
        }
        if context.tracks.contains_key(track) {
            return;
        }
        if !subscribe {
            self.transient.missing.remove(track);
        } else if self.transient.missing.len() < WISHES_MAX {
            let due = now.at + MISSING_TRACK_TIMEOUT;
            self.transient.missing.entry(track.clone()).or_insert(due);
            context.timers.set_if_unset(Timer::MissingTracks(self.state.sid.clone()), due);
        }
    }

    pub(super) fn give_up_missing(&mut self, now: Now, context: &mut Context) {
        let given_up: Vec<_> = self.transient.missing.extract_if(.., |_, due| *due <= now.at).collect();
        for (track, _) in given_up {
            self.state.choices.remove(&track);
            self.send(context, subscription_error(&track, proto::SubscriptionError::SeTrackNotfound));
        }
        if let Some(next) = self.transient.missing.values().min() {
            context.timers.set(Timer::MissingTracks(self.state.sid.clone()), *next);
        }
    }

    /// Remembers what of a track is wanted. Returns what applies to the subscription to it, if that is live.
    fn set_up(
        &mut self,
        track: &TrackSid,
        settings: TrackSettings,
    ) -> Option<(TrackSid, ParticipantSid, SubscriptionId, TrackSettings)> {
        let wishes = &mut self.state.settings;
        if wishes.len() < WISHES_MAX || wishes.contains_key(track) {
            wishes.insert(track.clone(), settings);
        }
        let subscription =
            self.state.subscriptions.get(track).filter(|known| matches!(known.stage, Stage::Sending(_)))?;
        Some((track.clone(), subscription.publisher.clone(), subscription.id, self.state.settings_of(track)))
    }

    fn bind(
        &mut self,
        context: &mut Context,
        track: &TrackSid,
        published: &Published,
    ) -> Result<SendSection, BindError> {
        let quirks = self.state.quirks;
        let stream_id = match quirks.has(Quirk::PlainStreamId) {
            true => published.publisher.to_string(),
            false => format!("{}|{}", published.publisher, track),
        };
        let outgoing = OutgoingTrack {
            track: track.clone(),
            kind: published.kind,
            stream_id,
            // Redundancy is taken off for those who do not know it.
            codec: if published.codec == Codec::Red { Codec::Opus } else { published.codec },
            stereo: published.stereo,
            strips_trailers: published.has_trailers && quirks.has(Quirk::NoTrailers),
        };
        let result = self.state.receiving().negotiation.bind(&outgoing);
        match result {
            Ok(_) => {
                self.transient.requests_in_vain = 0;
                if let Some(subscription) = self.state.subscriptions.get_mut(track) {
                    subscription.stage = Stage::Bound;
                }
            }
            Err(BindError::NoFreeSection) => {}
            Err(BindError::CodecUnsupported) => self.refuse_subscription(context, track),
        }
        result
    }

    pub(super) fn refuse_subscription(&mut self, context: &mut Context, track: &TrackSid) {
        let Some(subscription) = self.state.subscriptions.get_mut(track) else { return };
        if matches!(subscription.stage, Stage::Sending(_)) {
            context.out.command(Command::Unsubscribe { subscription: subscription.id });
        }
        subscription.stage = Stage::Refused;
        self.send(context, subscription_error(track, proto::SubscriptionError::SeCodecUnsupported));
    }

    /// Has the worker send in a section, if it does not send in just this one.
    fn send_in(&mut self, context: &mut Context, track: &TrackSid, section: SendSection) -> Option<Started> {
        let (settings, is_hidden) = (self.state.settings_of(track), self.state.is_hidden());
        let transport = self.state.receiving().id;
        let subscription = self.state.subscriptions.get_mut(track)?;
        let stage = Stage::Sending(section.clone());
        if subscription.stage == stage {
            return None;
        }
        let is_first = !matches!(subscription.stage, Stage::Sending(_));
        subscription.stage = stage;
        let (id, publication, publisher) = (subscription.id, subscription.publication, subscription.publisher.clone());
        context.out.command(Command::Subscribe { subscription: id, publication, transport, section });
        Some(Started { subscription: id, publisher, settings, is_first, is_hidden })
    }

    /// Tells it that one of its tracks has its first subscriber.
    fn note_subscriber(&mut self, context: &mut Context, track: &TrackSid, is_hidden: bool) {
        let (connection, quirks) = (self.transient.connection, self.state.quirks);
        let Some(publication) = self.state.publications.get_mut(track) else { return };
        if publication.subscribed_sent {
            return;
        }
        if kind_of(publication.info.r#type()) == Some(MediaKind::Video) {
            context.out.send(connection, wire::all_qualities(&publication.info));
        }
        if !is_hidden {
            publication.subscribed_sent = true;
            let message = proto::TrackSubscribed { track_sid: track.to_string() };
            if !quirks.has(Quirk::NoNewerMessages) {
                context.out.send(connection, Response::TrackSubscribed(message));
            }
        }
    }
}

fn subscription_error(track: &TrackSid, error: proto::SubscriptionError) -> Response {
    Response::SubscriptionResponse(proto::SubscriptionResponse { track_sid: track.to_string(), err: error as i32 })
}
