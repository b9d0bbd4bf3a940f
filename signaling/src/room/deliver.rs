//! Data packets: who may send them, and to whom they go (docs/livekit.md 6.2, 6.3).

use bytes::Bytes;
use livekit_protocol as proto;
use proto::data_packet::Value;
use proto::participant_info::Kind;
use sfu::command::{Command, DataChannel, TransportId};
use shared::id::{ParticipantIdentity, ParticipantSid};

use super::Room;
use super::data::{self, Routing};
use super::timer::Now;
use crate::participant::SessionState;
use crate::wire_bounds::{self, Source};

/// Destinations of one packet that are looked at.
const DESTINATIONS_MAX: usize = 1_024;

impl Room {
    pub(super) fn on_data(&mut self, now: Now, transport: TransportId, channel: DataChannel, payload: Bytes) {
        let reliable = match channel {
            DataChannel::Reliable => true,
            DataChannel::Lossy => false,
            DataChannel::DataTrack => return,
        };
        let Some(sid) = self.context.transports.get(&transport) else { return };
        let Some(participant) = self.participants.get_mut(sid) else { return };
        let state = &mut participant.state;
        if !state.grants.video.may_publish_data() {
            return;
        }
        let packet = wire_bounds::decode(Source::Data, payload.clone(), &wire_bounds::DATA_PACKET);
        let Ok(packet): Result<proto::DataPacket, _> = packet else {
            tracing::debug!(participant = %sid, "undecodable data packet");
            return;
        };
        if !may_send(state, &packet) || is_old(state, &packet, reliable) || self.data.is_repeated(nonce(&packet)) {
            return;
        }
        let mut destinations = data::destinations(&packet);
        destinations.truncate(DESTINATIONS_MAX);
        let named = speaks_for_others(state, &packet);
        let hidden = state.is_hidden();
        let identity = match &named {
            Some(named) => named.as_str(),
            None if hidden => "",
            None => state.grants.identity.as_str(),
        };
        let routing = Routing {
            reliable,
            identity,
            sid: state.sid.as_str(),
            destinations: &destinations,
            generated: named.is_some(),
        };
        let Some(routed) = data::route(&payload, &routing) else { return };
        let sid = state.sid.clone();
        self.deliver(now, Some((&sid, transport)), &destinations, &user_destination_sids(&packet), reliable, routed);
    }

    /// Sends a packet to its destinations, or to all but its sender, who has sent it on this transport.
    fn deliver(
        &mut self,
        now: Now,
        from: Option<(&ParticipantSid, TransportId)>,
        destinations: &[String],
        destination_sids: &[String],
        reliable: bool,
        payload: Bytes,
    ) {
        let sender = from.map(|(sid, _)| sid);
        let addressees = self.addressees(destinations, destination_sids);
        if let Some(sender) = sender {
            self.announce_sender(now, sender, addressees.as_deref());
        }
        let transports: Vec<_> = match &addressees {
            Some(sids) => sids.iter().filter_map(|sid| self.receiver(sid, sender, reliable)).collect(),
            None => self.participants.keys().filter_map(|sid| self.receiver(sid, sender, reliable)).collect(),
        };
        if reliable {
            let known = destinations.iter().filter_map(|identity| identity.parse::<ParticipantIdentity>().ok());
            let known: Vec<_> = known.collect();
            // Who is named by sid is here, or will never be.
            if addressees.is_none() || !known.is_empty() {
                self.data.keep(now.at, sender.cloned(), known, payload.clone());
            }
        }
        if !transports.is_empty() {
            let channel = if reliable { DataChannel::Reliable } else { DataChannel::Lossy };
            let from = from.map(|(_, transport)| transport);
            self.context.out.command(Command::SendData { from, transports, channel, payload });
        }
    }

    /// Who is meant, of those who are here. `None`: everybody.
    fn addressees(&self, destinations: &[String], destination_sids: &[String]) -> Option<Vec<ParticipantSid>> {
        if destinations.is_empty() && destination_sids.is_empty() {
            return None;
        }
        let by_identity = destinations.iter().filter_map(|identity| self.context.identities.get(identity.as_str()));
        let by_sid = destination_sids.iter().filter_map(|sid| self.participants.get_key_value(sid.as_str()));
        let mut sids: Vec<_> = by_identity.chain(by_sid.map(|(sid, _)| sid)).cloned().collect();
        sids.sort();
        sids.dedup();
        Some(sids)
    }

    /// Where a participant takes this packet. The worker keeps reliable ones until the channel is open.
    fn receiver(&self, sid: &ParticipantSid, sender: Option<&ParticipantSid>, reliable: bool) -> Option<TransportId> {
        let state = &self.participants.get(sid)?.state;
        (Some(sid) != sender && (reliable || state.active)).then(|| state.data_transport())
    }

    /// What was said just before somebody came: agents send data as soon as a participant appears.
    pub(super) fn replay_data(&mut self, now: Now, sid: &ParticipantSid) {
        let Some(participant) = self.participants.get(sid) else { return };
        let identity = &participant.state.grants.identity;
        let transport = participant.state.data_transport();
        let mut senders = Vec::new();
        for recent in self.data.recent(now.at) {
            let meant = recent.destinations.is_empty() || recent.destinations.contains(identity);
            if meant {
                senders.extend(recent.sender.clone());
                self.context.out.command(Command::SendData {
                    from: None,
                    transports: vec![transport],
                    channel: DataChannel::Reliable,
                    payload: recent.payload.clone(),
                });
            }
        }
        for sender in senders {
            self.announce_sender(now, &sender, Some(std::slice::from_ref(sid)));
        }
    }

    /// A packet from the server API.
    pub fn send_data(&mut self, now: Now, request: &proto::SendDataRequest) {
        if self.data.is_repeated(&request.nonce) {
            return;
        }
        let reliable = request.kind() == proto::data_packet::Kind::Reliable;
        let payload = data::server_packet(request, &request.destination_identities);
        let sids = request.destination_sids.clone();
        self.deliver(now, None, &request.destination_identities, &sids, reliable, payload);
    }
}

/// Whether a participant may send packets of this type. Types we do not know pass.
fn may_send(state: &SessionState, packet: &proto::DataPacket) -> bool {
    match &packet.value {
        Some(Value::Transcription(_)) => state.is_agent(),
        // Metrics go to nobody, as nobody subscribes to them; speakers are for protocol versions before 3.
        Some(Value::Metrics(_) | Value::Speaker(_)) => false,
        Some(_) | None => true,
    }
}

/// Whether a reliable packet was received before; notes it otherwise.
fn is_old(state: &mut SessionState, packet: &proto::DataPacket, reliable: bool) -> bool {
    if !reliable || packet.sequence == 0 {
        return false;
    }
    if packet.sequence <= state.last_reliable {
        return true;
    }
    state.last_reliable = packet.sequence;
    false
}

fn nonce(packet: &proto::DataPacket) -> &[u8] {
    match &packet.value {
        Some(Value::User(user)) => &user.nonce,
        _ => &[],
    }
}

fn user_destination_sids(packet: &proto::DataPacket) -> Vec<String> {
    match &packet.value {
        Some(Value::User(user)) => user.destination_sids.iter().take(DESTINATIONS_MAX).cloned().collect(),
        _ => Vec::new(),
    }
}

/// In whose name an agent sends chat and text streams, if in another's.
fn speaks_for_others(state: &SessionState, packet: &proto::DataPacket) -> Option<String> {
    use proto::data_stream::header::ContentHeader;
    let is_text = match &packet.value {
        Some(Value::ChatMessage(_)) => true,
        Some(Value::StreamHeader(header)) => matches!(header.content_header, Some(ContentHeader::TextHeader(_))),
        _ => false,
    };
    let named = &packet.participant_identity;
    let other = !named.is_empty() && named.as_str() != state.grants.identity.as_str();
    (state.grants.kind == Kind::Agent && is_text && other).then(|| named.clone())
}
