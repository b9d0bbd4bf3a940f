//! Who goes: connections and transports that end, participants who leave or are removed, and the end of the room.

use std::time::Duration;

use livekit_protocol as proto;
use proto::DisconnectReason as Reason;
use proto::leave_request::Action;
use proto::participant_info::State;
use sfu::command::{ChannelOpener, Command, TransportEnd, TransportId};
use shared::id::ParticipantSid;

use super::context::Context;
use super::effects::RoomEffect;
use super::timer::{Now, Timer};
use super::view::{Change, Member};
use super::{LEAVE_TIME, REJOIN_TIMEOUT, Room};
use crate::event::RoomHappening;
use crate::id::ConnectionId;
use crate::participant::{Participant, SessionState};
use crate::wire;

impl Room {
    /// The socket of a session is gone. Media may go on; the session waits for a resume then.
    pub fn on_connection_closed(&mut self, now: Now, connection: ConnectionId) {
        let Some(sid) = self.context.connections.remove(&connection) else { return };
        let Some((participant, context)) = self.participant_mut(&sid) else { return };
        if participant.transient.connection == Some(connection) {
            participant.transient.connection = None;
            context.timers.clear(&Timer::Answer(sid.clone()));
            if !participant.state.active {
                self.remove(now, &sid, Reason::SignalClose, None);
            }
        }
    }

    pub(super) fn on_transport_ended(&mut self, now: Now, id: TransportId, end: TransportEnd) {
        let Some((participant, context)) = self.of_transport(id) else { return };
        let sid = participant.state.sid.clone();
        let primary = participant.state.primary().id == id;
        let Some(transport) = participant.state.transport_mut(id) else { return };
        let used = transport.connected || transport.last_answer.is_some();
        tracing::debug!(participant = %sid, ?end, primary, used, "transport ended");
        if !used && !primary {
            participant.reopen_transport(context, id);
            return;
        }
        transport.connected = false;
        transport.ended = true;
        if participant.state.active {
            participant.lose(now, context, end);
        } else {
            self.remove(now, &sid, Reason::JoinFailure, Some(Action::Disconnect));
        }
    }

    /// Ends a participant. `leave`: the action of the Leave that is sent to it; without one its socket is closed and
    /// nothing is sent.
    pub(super) fn remove(&mut self, now: Now, sid: &ParticipantSid, reason: Reason, leave: Option<Action>) {
        self.remove_session(now, sid, reason, leave, false);
    }

    /// `comes_back`: the others see the participant in a new session at once.
    pub(super) fn remove_session(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        reason: Reason,
        leave: Option<Action>,
        comes_back: bool,
    ) {
        let Some(mut participant) = self.participants.remove(sid) else { return };
        if let Some(action) = leave {
            participant.send(&mut self.context, wire::leave(reason, action));
        }
        participant.detach(&mut self.context);
        self.end_tracks(now, &mut participant);
        let context = &mut self.context;
        let after = if leave.is_some() { LEAVE_TIME } else { Duration::ZERO };
        for transport in participant.state.transports() {
            context.transports.remove(&transport.id);
            context.out.command(Command::CloseTransport { transport: transport.id, after });
        }
        context.identities.remove(&participant.state.grants.identity);
        context.timers.clear_participant(sid);
        context.change(Change::State { sid: sid.clone(), state: State::Disconnected });
        let Some(member) = context.view.member(sid).cloned() else { return };
        context.change(Change::Left { sid: sid.clone() });
        self.report_departure(now, &participant.state, member, reason, comes_back);
        self.announce_audience_if_small();
        self.stop_recording(now);
        self.counts_changed(now);
        if self.context.view.independent() == 0 {
            let due = now.at + self.context.settings.departure_timeout;
            self.context.timers.set_if_unset(Timer::Empty, due);
        }
    }

    /// Reports that a participant is gone: as an event, and to the others.
    fn report_departure(
        &mut self,
        now: Now,
        state: &SessionState,
        mut member: Member,
        reason: Reason,
        comes_back: bool,
    ) {
        member.info.disconnect_reason = reason as i32;
        let room = self.context.view.room.clone();
        let participant = member.info.clone();
        let what = match state.active {
            true => RoomHappening::ParticipantLeft { room, participant },
            false => RoomHappening::ParticipantConnectionAborted { room, participant },
        };
        self.context.emit_of(now, Some(state.client.clone()), what);
        if !member.hidden {
            self.announce_departure(now, state, member, comes_back);
        }
    }

    fn stop_recording(&mut self, now: Now) {
        if !self.context.view.room.active_recording {
            return;
        }
        let recording = self.participants.values().any(|participant| participant.state.is_recorder());
        if !recording {
            self.context.change(Change::Recording { active: false });
            self.send_room_update(now);
        }
    }

    /// Ends the room for everybody.
    pub fn close(&mut self, now: Now, reason: Reason) {
        if self.closed {
            return;
        }
        self.remove_everybody(now, reason, Some(Action::Disconnect));
        let room = self.context.view.room.clone();
        self.context.emit(now, RoomHappening::RoomFinished { room });
        self.end();
    }

    /// Ends the room here because the server stops. Everybody is told to come back, and finds the room anew on the
    /// server that is started next; so its members are reported to have left, and the room is not reported to have
    /// finished.
    pub fn suspend(&mut self, now: Now) {
        if self.closed {
            return;
        }
        let connections =
            self.participants.values().filter_map(|participant| participant.transient.connection).collect();
        self.context.out.send_all(connections, wire::leave(Reason::ServerShutdown, Action::Reconnect));
        // Nobody is told of the others' departure: who comes back meets them again.
        self.participants.values_mut().for_each(|participant| participant.detach(&mut self.context));
        self.remove_everybody(now, Reason::ServerShutdown, Some(Action::Reconnect));
        self.end();
    }

    fn remove_everybody(&mut self, now: Now, reason: Reason, leave: Option<Action>) {
        for sid in self.participants.keys().cloned().collect::<Vec<_>>() {
            self.remove(now, &sid, reason, leave);
        }
    }

    fn end(&mut self) {
        self.context.out.command(Command::CloseRoom { room: self.context.id });
        self.closed = true;
        self.context.out.push(RoomEffect::Closed);
    }
}

impl Participant {
    /// A transport that no description has used yet expired: the client may still come to it.
    fn reopen_transport(&mut self, context: &mut Context, old: TransportId) {
        let opener = match self.state.publisher.id == old {
            true => ChannelOpener::Client,
            false => ChannelOpener::Server,
        };
        let sid = self.state.sid.clone();
        let Some(transport) = self.state.transport_mut(old) else { return };
        let new = context.ids.transport();
        transport.id = new;
        let local = transport.local.clone();
        context.transports.remove(&old);
        context.transports.insert(new, sid);
        context.out.command(Command::OpenTransport { transport: new, room: context.id, local, opener });
    }

    /// Media is gone, and the worker has forgotten the transport: the client is asked to join anew, and has a moment
    /// for it before the others are told that it left. One that closed its side itself is about to leave, or to join
    /// anew.
    fn lose(&mut self, now: Now, context: &mut Context, end: TransportEnd) {
        if self.transient.lost {
            return;
        }
        self.transient.lost = true;
        let deliberate = end == TransportEnd::ClosedByPeer;
        if !deliberate {
            self.send(context, wire::leave(Reason::ConnectionTimeout, Action::Reconnect));
            self.detach(context);
        }
        context.timers.set(Timer::Rejoin(self.state.sid.clone()), now.at + REJOIN_TIMEOUT);
    }

    /// Closes its socket; the session remains.
    pub(super) fn detach(&mut self, context: &mut Context) {
        if let Some(old) = self.transient.connection.take() {
            context.connections.remove(&old);
            context.out.push(RoomEffect::CloseConnection(old));
        }
    }
}
