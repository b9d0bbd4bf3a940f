//! Routing fields of data packets, patched in the bytes (docs/livekit.md 6.2).
//!
//! A decoder drops fields that it does not know, so a packet that was decoded and encoded again would lose what newer
//! clients put in. Only fields that route are taken out and written anew; everything else passes as it came.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use bytes::Bytes;
use livekit_protocol as proto;
use prost::Message;
use sfu::command::{Command, DataChannel, RoomId, TransportId};
use shared::id::{ParticipantIdentity, ParticipantSid};

use crate::wire_format::{Part, put_bytes, put_text, put_varint};

mod field {
    pub(crate) const KIND: u32 = 1;
    pub(crate) const USER: u32 = 2;
    pub(crate) const IDENTITY: u32 = 4;
    pub(crate) const DESTINATIONS: u32 = 5;
    pub(crate) const CHAT: u32 = 9;
    pub(crate) const STREAM_HEADER: u32 = 13;
    pub(crate) const SID: u32 = 17;

    pub(crate) const USER_SID: u32 = 1;
    pub(crate) const USER_IDENTITY: u32 = 5;
    pub(crate) const USER_DESTINATIONS: u32 = 6;

    pub(crate) const CHAT_GENERATED: u32 = 6;
    pub(crate) const HEADER_TEXT: u32 = 9;
    pub(crate) const TEXT_GENERATED: u32 = 5;
}

/// Who a packet comes from, and whom it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing<'a> {
    pub reliable: bool,
    /// Empty for hidden senders.
    pub identity: &'a str,
    pub sid: &'a str,
    /// Written outside and, for user packets, inside; empty leaves both as they are.
    pub destinations: &'a [String],
    /// Marks chat and text streams that an agent sends in somebody's name.
    pub generated: bool,
}

/// The packet with our routing. `None`: not a protobuf message.
pub fn route(packet: &[u8], routing: &Routing<'_>) -> Option<Bytes> {
    let mut out = Vec::with_capacity(packet.len() + routing.identity.len() + routing.sid.len() + 32);
    let mut rest = packet;
    while !rest.is_empty() {
        let part = Part::read(&mut rest)?;
        match part.number {
            field::KIND | field::IDENTITY | field::SID => {}
            field::DESTINATIONS if !routing.destinations.is_empty() => {}
            field::USER => put_bytes(&mut out, field::USER, &route_user(part.payload()?, routing)?),
            field::CHAT if routing.generated => {
                let mut chat = part.payload()?.to_vec();
                put_varint(&mut chat, field::CHAT_GENERATED, 1);
                put_bytes(&mut out, field::CHAT, &chat);
            }
            field::STREAM_HEADER if routing.generated => {
                put_bytes(&mut out, field::STREAM_HEADER, &mark_text_header(part.payload()?)?);
            }
            _ => out.extend_from_slice(part.raw),
        }
    }
    if !routing.reliable {
        put_varint(&mut out, field::KIND, proto::data_packet::Kind::Lossy as u64);
    }
    put_text(&mut out, field::IDENTITY, routing.identity);
    put_text(&mut out, field::SID, routing.sid);
    for destination in routing.destinations {
        put_text(&mut out, field::DESTINATIONS, destination);
    }
    Some(out.into())
}

fn route_user(user: &[u8], routing: &Routing<'_>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(user.len() + 64);
    let mut rest = user;
    while !rest.is_empty() {
        let part = Part::read(&mut rest)?;
        match part.number {
            field::USER_SID | field::USER_IDENTITY => {}
            field::USER_DESTINATIONS if !routing.destinations.is_empty() => {}
            _ => out.extend_from_slice(part.raw),
        }
    }
    // Clients drop a user packet whose sid or identity they do not know, and take one that names nobody.
    if !routing.identity.is_empty() {
        put_text(&mut out, field::USER_SID, routing.sid);
        put_text(&mut out, field::USER_IDENTITY, routing.identity);
    }
    for destination in routing.destinations {
        put_text(&mut out, field::USER_DESTINATIONS, destination);
    }
    Some(out)
}

fn mark_text_header(header: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(header.len() + 8);
    let mut rest = header;
    while !rest.is_empty() {
        let part = Part::read(&mut rest)?;
        if part.number == field::HEADER_TEXT {
            let mut text = part.payload()?.to_vec();
            put_varint(&mut text, field::TEXT_GENERATED, 1);
            put_bytes(&mut out, field::HEADER_TEXT, &text);
        } else {
            out.extend_from_slice(part.raw);
        }
    }
    Some(out)
}

/// Nonces of user packets that are remembered to drop repetitions. Clients choose them, up to a packet long: of each
/// eight bytes are kept.
const NONCES_MAX: usize = 100;
/// How long a reliable packet waits for participants who are just joining.
const REPLAY_TIME: Duration = Duration::from_secs(2);
/// How much waits for them, for a whole room.
const REPLAY_BYTES_MAX: usize = 100 * 1024;

/// A reliable packet kept for joiners.
#[derive(Debug, Clone)]
pub struct Recent {
    at: Instant,
    pub sender: Option<ParticipantSid>,
    /// Empty: everybody.
    pub destinations: Vec<ParticipantIdentity>,
    pub payload: Bytes,
}

/// Data packets a room remembers.
#[derive(Debug, Default)]
pub struct DataMemory {
    /// Their hashes, with a key of this room's: nobody finds another nonce with the same.
    nonces: VecDeque<u64>,
    hashes: RandomState,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
}

impl DataMemory {
    /// Whether a packet with this nonce came before. An empty nonce never did.
    pub fn is_repeated(&mut self, nonce: &[u8]) -> bool {
        if nonce.is_empty() {
            return false;
        }
        let nonce = self.hashes.hash_one(nonce);
        if self.nonces.contains(&nonce) {
            return true;
        }
        if self.nonces.len() == NONCES_MAX {
            self.nonces.pop_front();
        }
        self.nonces.push_back(nonce);
        false
    }

    pub fn keep(
        &mut self,
        now: Instant,
        sender: Option<ParticipantSid>,
        destinations: Vec<ParticipantIdentity>,
        payload: Bytes,
    ) {
        self.recent_bytes += payload.len();
        self.recent.push_back(Recent { at: now, sender, destinations, payload });
        self.forget(now);
    }

    /// What a joiner may have missed, oldest first.
    pub fn recent(&mut self, now: Instant) -> impl Iterator<Item = &Recent> {
        self.forget(now);
        self.recent.iter()
    }

    fn forget(&mut self, now: Instant) {
        while let Some(oldest) = self.recent.front() {
            let old = now.saturating_duration_since(oldest.at) > REPLAY_TIME;
            if !old && self.recent_bytes <= REPLAY_BYTES_MAX {
                break;
            }
            self.recent_bytes -= oldest.payload.len();
            self.recent.pop_front();
        }
    }
}

/// Messages that the room has handled, and has not reported to its worker yet.
#[derive(Debug, Default)]
pub struct Handled(Vec<(TransportId, DataChannel, usize, usize)>);

impl Handled {
    /// A message of so many bytes.
    pub fn add(&mut self, transport: TransportId, channel: DataChannel, length: usize) {
        let known = self.0.iter_mut().find(|(of, on, ..)| (*of, *on) == (transport, channel));
        match known {
            Some((.., messages, bytes)) => {
                *messages += 1;
                *bytes += length;
            }
            None => self.0.push((transport, channel, 1, length)),
        }
    }

    /// Commands that report them to the worker of `room`.
    pub fn drain(&mut self, room: RoomId) -> impl Iterator<Item = Command> {
        self.0.drain(..).map(move |(transport, channel, messages, bytes)| Command::DataTaken {
            room,
            transport,
            channel,
            messages,
            bytes,
        })
    }
}

/// Where a packet wants to go: outer destinations, else those of its user packet.
pub fn destinations(packet: &proto::DataPacket) -> Vec<String> {
    use proto::data_packet::Value;
    if !packet.destination_identities.is_empty() {
        return packet.destination_identities.clone();
    }
    match &packet.value {
        Some(Value::User(user)) => user.destination_identities.clone(),
        _ => Vec::new(),
    }
}

/// A packet that the server sends for an API call.
pub fn server_packet(request: &proto::SendDataRequest, destinations: &[String]) -> Bytes {
    let user = proto::UserPacket {
        payload: request.data.clone(),
        destination_sids: request.destination_sids.clone(),
        destination_identities: destinations.to_vec(),
        topic: request.topic.clone(),
        nonce: request.nonce.clone(),
        ..Default::default()
    };
    let packet = proto::DataPacket {
        kind: request.kind,
        destination_identities: destinations.to_vec(),
        value: Some(proto::data_packet::Value::User(user)),
        ..Default::default()
    };
    packet.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUTING: Routing<'_> =
        Routing { reliable: true, identity: "alice", sid: "PA_a", destinations: &[], generated: false };

    #[test]
    fn fields_we_do_not_know_survive() {
        let mut packet = Vec::new();
        put_text(&mut packet, 4, "mallory");
        put_bytes(&mut packet, 4000, b"from the future");
        put_varint(&mut packet, 16, 7);
        let mut user = Vec::new();
        put_bytes(&mut user, 2, b"payload");
        put_text(&mut user, 5, "mallory");
        put_varint(&mut user, 99, 5);
        put_bytes(&mut packet, field::USER, &user);

        let routed = route(&packet, &ROUTING).unwrap();
        let text = routed.windows(15).any(|window| window == b"from the future");
        assert!(text);
        let decoded = proto::DataPacket::decode(routed.clone()).unwrap();
        assert_eq!(decoded.participant_identity, "alice");
        assert_eq!(decoded.participant_sid, "PA_a");
        assert_eq!(decoded.sequence, 7);
        let Some(proto::data_packet::Value::User(user)) = decoded.value else { panic!("no user packet") };
        {
            assert_eq!(user.participant_identity, "alice");
            assert_eq!(user.participant_sid, "PA_a");
        }
        assert_eq!(user.payload, b"payload");
        assert!(!routed.windows(7).any(|window| window == b"mallory"));
    }

    fn routed(packet: &proto::DataPacket, routing: &Routing<'_>) -> proto::DataPacket {
        proto::DataPacket::decode(route(&packet.encode_to_vec(), routing).unwrap()).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    #[expect(deprecated, reason = "clients of all ages send and read these fields")]
    fn a_packet_arrives_whole_with_our_word_for_who_sent_it_to_whom() {
        use proto::data_packet::{Kind, Value};
        let sent = |identities: &[&str]| proto::DataPacket {
            kind: Kind::Lossy as i32,
            participant_identity: "mallory".into(),
            participant_sid: "PA_mallory".into(),
            destination_identities: names(&["outer"]),
            sequence: 7,
            value: Some(Value::User(proto::UserPacket {
                participant_sid: "PA_mallory".into(),
                participant_identity: "mallory".into(),
                payload: vec![3; 300],
                destination_sids: names(&["PA_b"]),
                destination_identities: names(identities),
                topic: Some("t".into()),
                id: Some("i".into()),
                start_time: Some(1),
                end_time: Some(2),
                nonce: vec![5; 16],
            })),
        };
        let arrived = |kind: Kind, outer: &[&str], inner: &[&str]| {
            let mut packet = sent(inner);
            (packet.kind, packet.destination_identities) = (kind as i32, names(outer));
            (packet.participant_identity, packet.participant_sid) = ("alice".into(), "PA_a".into());
            if let Some(Value::User(user)) = &mut packet.value {
                (user.participant_identity, user.participant_sid) = ("alice".into(), "PA_a".into());
            }
            packet
        };
        // Destinations that are not known stay as they are.
        assert_eq!(routed(&sent(&["inner"]), &ROUTING), arrived(Kind::Reliable, &["outer"], &["inner"]));
        let lossy = Routing { reliable: false, ..ROUTING };
        assert_eq!(routed(&sent(&[]), &lossy), arrived(Kind::Lossy, &["outer"], &[]));
        let known = names(&["bob", "carol"]);
        let known = Routing { destinations: &known, ..ROUTING };
        let (outer, inner) = (["bob", "carol"], ["bob", "carol"]);
        assert_eq!(routed(&sent(&["inner"]), &known), arrived(Kind::Reliable, &outer, &inner));
    }

    #[test]
    fn an_agents_text_in_somebodys_name_is_marked_generated() {
        use proto::data_packet::Value;
        use proto::data_stream::header::ContentHeader;
        use proto::data_stream::{ByteHeader, Header, TextHeader};
        let marked = |value: Value, generated| {
            let packet = proto::DataPacket { value: Some(value), ..Default::default() };
            routed(&packet, &Routing { generated, ..ROUTING }).value.unwrap()
        };
        let chat = |generated| {
            let (id, message) = ("c".to_owned(), "hi".to_owned());
            Value::ChatMessage(proto::ChatMessage { id, message, generated, ..Default::default() })
        };
        let stream = |content| {
            Value::StreamHeader(Header {
                stream_id: "s".into(),
                topic: "t".into(),
                content_header: Some(content),
                ..Default::default()
            })
        };
        let text = |generated| {
            let attached_stream_ids = vec!["other".to_owned()];
            stream(ContentHeader::TextHeader(TextHeader { attached_stream_ids, generated, ..Default::default() }))
        };
        let bytes = || stream(ContentHeader::ByteHeader(ByteHeader { name: "b".into() }));
        for generated in [true, false] {
            assert_eq!(marked(chat(false), generated), chat(generated));
            assert_eq!(marked(text(false), generated), text(generated));
            assert_eq!(marked(bytes(), generated), bytes());
        }
    }

    #[test]
    fn a_nonce_counts_once_among_the_last_hundred() {
        let mut memory = DataMemory::default();
        assert!(!memory.is_repeated(b"one"));
        assert!(memory.is_repeated(b"one"));
        assert!(!memory.is_repeated(b""));
        assert!(!memory.is_repeated(b""));

        for number in 1..NONCES_MAX {
            assert!(!memory.is_repeated(&number.to_be_bytes()));
        }
        assert!(memory.is_repeated(b"one"));
        assert!(!memory.is_repeated(b"another"));
        assert!(!memory.is_repeated(b"one"), "it is forgotten");
    }

    #[test]
    #[expect(deprecated, reason = "backends may still name sids")]
    fn a_packet_of_the_server_api_holds_all_that_was_asked_for() {
        use proto::data_packet::{Kind, Value};
        let request = proto::SendDataRequest {
            room: "room".into(),
            data: b"news".to_vec(),
            kind: Kind::Lossy as i32,
            destination_sids: names(&["PA_b"]),
            destination_identities: names(&["bob"]),
            topic: Some("t".into()),
            nonce: vec![1; 16],
        };
        let user = proto::UserPacket {
            payload: b"news".to_vec(),
            destination_sids: names(&["PA_b"]),
            destination_identities: names(&["bob"]),
            topic: Some("t".into()),
            nonce: vec![1; 16],
            ..Default::default()
        };
        let expected = proto::DataPacket {
            kind: Kind::Lossy as i32,
            destination_identities: names(&["bob"]),
            value: Some(Value::User(user)),
            ..Default::default()
        };
        let packet = server_packet(&request, &request.destination_identities);
        assert_eq!(proto::DataPacket::decode(packet), Ok(expected));
    }

    #[test]
    fn packets_for_joiners_are_bounded_in_time_and_size() {
        let start = Instant::now();
        let mut memory = DataMemory::default();
        for _ in 0..30 {
            memory.keep(start, None, Vec::new(), Bytes::from(vec![0; 10 * 1024]));
        }
        assert_eq!(memory.recent(start).count(), 10);
        assert_eq!(memory.recent(start + REPLAY_TIME).count(), 10);
        assert_eq!(memory.recent(start + REPLAY_TIME + Duration::from_millis(1)).count(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_routed_or_refused(packet in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(routed) = route(&packet, &ROUTING) {
                prop_assert!(routed.len() >= 4);
            }
        }

        #[test]
        fn a_valid_packet_is_never_refused(payload in proptest::collection::vec(any::<u8>(), 0..200), sequence: u32) {
            let user = proto::UserPacket { payload: payload.clone(), ..Default::default() };
            let packet = proto::DataPacket {
                sequence,
                value: Some(proto::data_packet::Value::User(user)),
                ..Default::default()
            };
            let routed = route(&packet.encode_to_vec(), &ROUTING).unwrap();
            let back = proto::DataPacket::decode(routed).unwrap();
            prop_assert_eq!(back.sequence, sequence);
        }
    }
}
