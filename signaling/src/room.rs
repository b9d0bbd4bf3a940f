//! A room: who is in it, who publishes what, who hears whom.
//!
//! A state machine (ARCHITECTURE.md, invariant 9): inputs and time go in, [`RoomEffect`]s come out. It does no IO and
//! reads no clock. What members may see changes only through [`view::RoomDelta`]s. The task that drives it is in
//! [`task`].

#![expect(deprecated, reason = "clients of all ages send and read fields that newer ones have other names for")]

mod admission;
mod api;
mod audience;
mod broadcast;
mod charge;
mod context;
pub mod data;
mod deliver;
mod departure;
mod effects;
pub mod error;
mod ids;
pub mod input;
mod message;
mod metadata;
mod negotiate;
mod publish;
mod speakers;
mod subscribe;
pub mod task;
pub mod timer;
mod track;
mod updates;
pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use livekit_protocol as proto;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use sfu::command::{Event, PublicationId, RoomId, TransportId};
use shared::id::{ParticipantSid, RoomName};

use crate::event::RoomHappening;
use crate::id::ConnectionId;
use crate::participant::{Participant, SessionState};
use crate::settings::{RoomSettings, RoomsConfig};
use context::Context;
pub use context::Host;
use data::{DataMemory, Handled};
pub use effects::RoomEffect;
use timer::{Now, Timer};
use updates::PendingUpdates;
use view::{Change, RoomView};

/// A participant must be ACTIVE this long after it joined (docs/livekit.md 3.3).
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// A participant that lost its media must have joined anew after this time (docs/livekit.md 3.10).
pub const REJOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Between refresh tokens (docs/livekit.md 2.2).
pub const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Between reports of connection quality (docs/livekit.md 7.11).
pub const QUALITY_INTERVAL: Duration = Duration::from_secs(5);
/// How long the transports of a participant stay open after it was sent a Leave. A client that loses its data channels
/// before it has read the Leave takes them for broken; one that has read it closes them itself.
pub const LEAVE_TIME: Duration = Duration::from_secs(2);

/// A room.
pub struct Room {
    /// Boxed, as the map moves what it holds.
    participants: BTreeMap<ParticipantSid, Box<Participant>>,
    context: Context,
    data: DataMemory,
    data_handled: Handled,
    updates: PendingUpdates,
    closed: bool,
}

impl Room {
    /// Opens a room. It closes by itself when nobody comes.
    pub fn open(
        now: Now,
        id: RoomId,
        name: RoomName,
        settings: RoomSettings,
        host: Host,
        config: Arc<RoomsConfig>,
    ) -> Self {
        let mut context = Context::new(id, name, settings, host, config);
        context.change(Change::Opened { room: Box::new(context.describe(now)) });
        context.emit(now, RoomHappening::RoomStarted { room: context.view.room.clone() });
        context.timers.set(Timer::Empty, now.at + context.settings.empty_timeout);
        Self {
            participants: BTreeMap::new(),
            context,
            data: DataMemory::default(),
            data_handled: Handled::default(),
            updates: PendingUpdates::default(),
            closed: false,
        }
    }

    /// Effects of all inputs since the last call.
    pub fn take_effects(&mut self) -> Vec<RoomEffect> {
        self.announce_due();
        let out = &mut self.context.out;
        out.effects.extend(self.data_handled.drain(self.context.id).map(RoomEffect::Command));
        std::mem::take(&mut out.effects)
    }

    /// The visible state.
    pub fn view(&self) -> &RoomView {
        &self.context.view
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Tracks that others see.
    pub fn track_count(&self) -> usize {
        self.context.tracks.len()
    }

    /// Everything a session needs to go on elsewhere.
    pub fn session(&self, identity: &str) -> Option<&SessionState> {
        let sid = self.context.identities.get(identity)?;
        self.participants.get(sid).map(|participant| &participant.state)
    }

    /// When [`Room::on_deadline`] wants to be called.
    pub fn deadline(&self) -> Option<std::time::Instant> {
        self.context.timers.deadline()
    }

    /// Handles an event of the room's worker.
    pub fn on_event(&mut self, now: Now, event: Event) {
        match event {
            Event::TransportConnected { transport } => self.on_transport_connected(now, transport),
            Event::TransportEnded { transport, end } => self.on_transport_ended(now, transport, end),
            // The worker keeps reliable data until the channel is open, nothing is to be done here.
            Event::ChannelOpen { .. } => {}
            Event::Data { transport, channel, payload } => {
                self.data_handled.add(transport, channel, payload.len());
                self.on_data(now, transport, channel, payload);
            }
            Event::LayerStarted { publication, layer, ssrc, codec } => {
                self.on_layer_started(now, publication, layer, ssrc, codec);
            }
            Event::AudioActivity { publication, level, active } => {
                self.on_audio_activity(publication, if active { level } else { 0.0 });
            }
            Event::PublicationStats { publication, stats } => self.on_stats(publication, stats),
            Event::TransportExported { .. } => {}
        }
    }

    /// Call it when [`Room::deadline`] has come. Earlier calls do nothing.
    pub fn on_deadline(&mut self, now: Now) {
        while let Some(timer) = self.context.timers.pop(now.at) {
            self.on_timer(now, timer);
        }
    }

    fn on_timer(&mut self, now: Now, timer: Timer) {
        match timer {
            Timer::Empty => self.close(now, Reason::RoomClosed),
            Timer::Counts => self.send_counts(now),
            Timer::Quality => self.report_quality(now),
            Timer::Batch => self.flush_batch(),
            Timer::Join(sid) => self.remove(now, &sid, Reason::JoinFailure, Some(Action::Disconnect)),
            Timer::Rejoin(sid) => self.remove(now, &sid, Reason::ConnectionTimeout, Some(Action::Disconnect)),
            Timer::Answer(sid) => self.remove(now, &sid, Reason::StateMismatch, Some(Action::Reconnect)),
            Timer::Receipt(sid) => self.send_in_bound(&sid),
            Timer::Speaker(sid) => self.stop_simulated_speaker(&sid),
            Timer::RefreshToken(sid) => self.with(&sid, |participant, room| participant.send_refresh_token(now, room)),
            Timer::Negotiate(sid) => self.with(&sid, |participant, room| participant.negotiate(now, room)),
            Timer::MissingTracks(sid) => self.with(&sid, |participant, room| participant.give_up_missing(now, room)),
        }
    }

    // --- look-ups: once, where an input or a timer comes in ---

    fn participant_mut(&mut self, sid: &ParticipantSid) -> Option<(&mut Participant, &mut Context)> {
        Some((self.participants.get_mut(sid)?, &mut self.context))
    }

    /// Has a participant do something by itself, if it is still here.
    fn with(&mut self, sid: &ParticipantSid, act: impl FnOnce(&mut Participant, &mut Context)) {
        if let Some((participant, context)) = self.participant_mut(sid) {
            act(participant, context);
        }
    }

    fn of_identity(&mut self, identity: &str) -> Option<(&mut Participant, &mut Context)> {
        let sid = self.context.identities.get(identity)?;
        Some((self.participants.get_mut(sid)?, &mut self.context))
    }

    fn of_transport(&mut self, id: TransportId) -> Option<(&mut Participant, &mut Context)> {
        let sid = self.context.transports.get(&id)?;
        Some((self.participants.get_mut(sid)?, &mut self.context))
    }

    fn of_publication(&mut self, id: PublicationId) -> Option<(&mut Participant, &mut Context)> {
        let sid = self.context.publications.get(&id)?;
        Some((self.participants.get_mut(sid)?, &mut self.context))
    }

    fn connection_of(&self, sid: &ParticipantSid) -> Option<ConnectionId> {
        self.participants.get(sid)?.transient.connection
    }
}
