//! What a message would cost, measured on the wire before anything of it is decoded.
//!
//! An empty message that is repeated takes two bytes of a protobuf and some hundred of memory, and rooms work for every
//! track that a request names. So each message is walked through first, by its descriptor and without an allocation,
//! and refused if it has more elements than its kind may have, or would take more memory. Fields that the descriptors
//! do not name cost nothing: the decoder passes over them. JSON is looked through in the same way before it is parsed.

pub(crate) mod json;
pub(crate) mod refused;

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use livekit_protocol as proto;
use prost::Message as _;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use crate::negotiation::{SDP_BYTES_MAX, SECTIONS_MAX};
use crate::protobuf_json::{self, Described, ReadError};
use crate::wire_format::Part;
pub use json::{JSON_DEPTH_MAX, JSON_VALUES_MAX};
pub use refused::{DEPTH_MAX, Refused, Source, refused};

/// What a message may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// On the wire.
    pub bytes: usize,
    /// Of all repeated fields and maps within it, at any depth.
    pub elements: usize,
    /// Bytes once it is decoded, see [`Cost::memory`].
    pub memory: usize,
}

/// Most memory that one message of a client takes: twice the longest description, and all sids that it may name.
const MEMORY_MAX: usize = 4 << 20;

/// Requests about one track, or of a few fields.
pub const SMALL: Bounds = Bounds { bytes: 64 << 10, elements: 128, memory: MEMORY_MAX };
/// An offer or answer: its text, and the track of each section.
pub const DESCRIPTION: Bounds =
    Bounds { bytes: SDP_BYTES_MAX + (64 << 10), elements: 2 * SECTIONS_MAX, memory: MEMORY_MAX };
/// Lists of tracks. A room of 4,000 tracks names each, and their publishers.
pub const SIDS: Bounds = Bounds { bytes: 512 << 10, elements: 8_192, memory: MEMORY_MAX };
/// Attributes are bounded by `limit.max_attributes_size`, metadata by `limit.max_metadata_size`.
pub const PROFILE: Bounds = Bounds { bytes: 2 << 20, elements: 8_192, memory: MEMORY_MAX };
/// All that a client knows when it resumes: both descriptions, and its lists.
pub const SYNC_STATE: Bounds = Bounds { bytes: 2 << 20, elements: 16_384, memory: MEMORY_MAX };
/// The first request on `/rtc/v1`, which may hold a SyncState.
pub const JOIN: Bounds = Bounds { bytes: JOIN_REQUEST_BYTES_MAX, ..SYNC_STATE };
/// Longest join request, in bytes, encoded as well as unpacked.
pub const JOIN_REQUEST_BYTES_MAX: usize = 1 << 20;
/// A packet of a data channel.
pub const DATA_PACKET: Bounds = Bounds { bytes: 64 << 10, elements: 4_096, memory: 2 << 20 };
/// A request to the server APIs, whose length is `limit.max_api_request_body_size`.
pub const API: Bounds = Bounds { bytes: usize::MAX, elements: 64 << 10, memory: 32 << 20 };

/// By the field of `SignalRequest` that a message stands in.
fn bounds_of(field: u32) -> Bounds {
    match field {
        // Offer, Answer.
        1 | 2 => DESCRIPTION,
        // UpdateSubscription, UpdateTrackSettings, SubscriptionPermission, UpdateDataSubscription.
        6 | 7 | 11 | 21 => SIDS,
        12 => SYNC_STATE,
        // UpdateParticipantMetadata; StoreDataBlobRequest, which is answered that there are none.
        15 | 22 => PROFILE,
        _ => SMALL,
    }
}

/// What a message costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Of all repeated fields and maps.
    pub elements: usize,
    /// Bytes once it is decoded, a little more rather than less: text, and elements with the growth of what holds them.
    pub memory: usize,
}

/// Decodes a message that is within bounds.
///
/// # Errors
/// [`Refused`], which was counted.
pub fn decode<M: Described>(source: Source, bytes: Bytes, bounds: &Bounds) -> Result<M, Refused> {
    measure::<M>(&bytes, bounds).map_err(|refused| refused.count(source))?;
    M::decode(bytes).map_err(|_| Refused::Malformed)
}

/// Decodes a client's message, if it is within the bounds of its kind, and says what it costs.
///
/// # Errors
/// [`Refused`], which was counted.
pub fn decode_signal(bytes: Bytes) -> Result<(proto::SignalRequest, Cost), Refused> {
    let cost = measure_signal(&bytes).map_err(|refused| refused.count(Source::Signal))?;
    let request = proto::SignalRequest::decode(bytes).map_err(|_| Refused::Malformed)?;
    Ok((request, cost))
}

/// As [`decode_signal`], of JSON.
///
/// # Errors
/// [`Refused`], which was counted.
pub fn read_signal(json: &str) -> Result<(proto::SignalRequest, Cost), Refused> {
    let request: proto::SignalRequest = read_json(Source::Signal, json.as_bytes()).map_err(|error| match error {
        ReadError::Refused(refused) => refused,
        ReadError::NotJson
        | ReadError::NotAnObject
        | ReadError::NotWhole { .. }
        | ReadError::OutOfRange { .. }
        | ReadError::Twice { .. }
        | ReadError::Other(_) => Refused::Malformed,
    })?;
    let cost = measure_signal(&request.encode_to_vec()).map_err(|refused| refused.count(Source::Signal))?;
    Ok((request, cost))
}

/// Reads a message from JSON, if that is within bounds.
///
/// # Errors
/// [`ReadError`] says what is wrong with it, and where. One that was refused was counted.
pub fn read_json<M: Described>(source: Source, json: &[u8]) -> Result<M, ReadError> {
    protobuf_json::read(json).inspect_err(|error| {
        if let ReadError::Refused(refused) = error {
            refused.count(source);
        }
    })
}

/// What a message would cost.
///
/// # Errors
/// The first bound that it breaks, as soon as it does.
pub fn measure<M: Described>(bytes: &[u8], bounds: &Bounds) -> Result<Cost, Refused> {
    let mut walk = Walk { shapes: &SHAPES.shapes, bounds: *bounds, cost: Cost::default() };
    walk.message(SHAPES.of::<M>(), bytes)?;
    Ok(walk.cost)
}

fn measure_signal(bytes: &[u8]) -> Result<Cost, Refused> {
    let shape = SHAPES.of::<proto::SignalRequest>();
    let mut walk = Walk { shapes: &SHAPES.shapes, bounds: SMALL, cost: Cost::default() };
    let mut rest = bytes;
    while !rest.is_empty() {
        let part = Part::read(&mut rest).ok_or(Refused::Malformed)?;
        walk.bounds = bounds_of(part.number);
        if part.raw.len() > walk.bounds.bytes {
            return Err(Refused::Bytes(walk.bounds.bytes));
        }
        walk.part(shape, &part, DEPTH_MAX)?;
    }
    walk.cost.memory += SHAPES.shapes[shape].size;
    Ok(walk.cost)
}

/// A message that is being measured.
struct Walk<'a> {
    shapes: &'a [Shape],
    bounds: Bounds,
    cost: Cost,
}

impl Walk<'_> {
    fn message(&mut self, shape: usize, bytes: &[u8]) -> Result<(), Refused> {
        if bytes.len() > self.bounds.bytes {
            return Err(Refused::Bytes(self.bounds.bytes));
        }
        self.cost.memory += self.shapes[shape].size;
        self.fields(shape, bytes, DEPTH_MAX)
    }

    /// `depth`: how much deeper it may go.
    fn fields(&mut self, shape: usize, bytes: &[u8], depth: usize) -> Result<(), Refused> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = Part::read(&mut rest).ok_or(Refused::Malformed)?;
            self.part(shape, &part, depth)?;
        }
        Ok(())
    }

    fn part(&mut self, shape: usize, part: &Part<'_>, depth: usize) -> Result<(), Refused> {
        let Some(field) = self.shapes[shape].field(part.number) else { return Ok(()) };
        let payload = part.payload();
        if let Some(size) = field.element {
            let elements = payload.map_or(1, |payload| field.value.elements(payload));
            self.cost.elements += elements;
            self.cost.memory += elements.saturating_mul(size);
        }
        if let (Value::Text, Some(text)) = (field.value, payload) {
            self.cost.memory += text.len() + ALLOCATION;
        }
        if self.cost.elements > self.bounds.elements {
            return Err(Refused::Elements(self.bounds.elements));
        }
        if self.cost.memory > self.bounds.memory {
            return Err(Refused::Memory(self.bounds.memory));
        }
        match (field.value, payload, depth.checked_sub(1)) {
            (Value::Message(inner), Some(payload), Some(depth)) => self.fields(inner, payload, depth),
            (Value::Message(_), Some(_), None) => Err(Refused::Depth),
            _ => Ok(()),
        }
    }
}

/// What an allocation takes beside what was asked for.
const ALLOCATION: usize = 16;
/// A vector doubles when it is full.
const VECTOR_GROWTH: usize = 2;
/// A map does so as well, and leaves an eighth free.
const MAP_GROWTH: usize = 3;
/// `String` and `Vec`; `HashMap`; any number, or what tells that a value is there.
const VECTOR: usize = size_of::<Vec<u8>>();
const MAP: usize = size_of::<HashMap<u8, u8>>();
const WORD: usize = size_of::<u64>();

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| Shapes::of_pool(protobuf_json::pool()));

/// All messages of the protocol, as far as their cost goes.
struct Shapes {
    by_name: HashMap<String, usize>,
    shapes: Vec<Shape>,
}

#[derive(Debug)]
struct Shape {
    /// By number, in order.
    fields: Vec<Field>,
    /// Bytes of the decoded struct itself.
    size: usize,
}

#[derive(Debug, Clone, Copy)]
struct Field {
    number: u32,
    value: Value,
    /// Of a repeated field or a map: bytes of one element where it is kept.
    element: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Value {
    /// By its place among the shapes.
    Message(usize),
    Text,
    Varint,
    Fixed32,
    Fixed64,
}

impl Value {
    /// How many elements a length-delimited part of a repeated field has; numbers may be packed.
    fn elements(self, payload: &[u8]) -> usize {
        match self {
            Value::Message(_) | Value::Text => 1,
            Value::Varint => payload.iter().filter(|byte| **byte < 0x80).count(),
            Value::Fixed32 => payload.len() / 4,
            Value::Fixed64 => payload.len() / 8,
        }
    }
}

impl Shape {
    fn field(&self, number: u32) -> Option<Field> {
        let at = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
        Some(self.fields[at])
    }
}

impl Shapes {
    fn of<M: Described>(&self) -> usize {
        *self.by_name.get(M::NAME).expect("the descriptors name every readable message")
    }

    fn of_pool(pool: &DescriptorPool) -> Self {
        let messages: Vec<MessageDescriptor> = pool.all_messages().collect();
        let by_name: HashMap<String, usize> =
            messages.iter().enumerate().map(|(at, message)| (message.full_name().to_owned(), at)).collect();
        let shapes = messages.iter().map(|message| Shape::of(message, &by_name)).collect();
        Self { by_name, shapes }
    }
}

impl Shape {
    fn of(message: &MessageDescriptor, by_name: &HashMap<String, usize>) -> Self {
        let field = |field: FieldDescriptor| {
            let kind = field.kind();
            let growth = if field.is_map() { MAP_GROWTH } else { VECTOR_GROWTH };
            let element = (field.is_list() || field.is_map()).then(|| growth * size_of_value(&kind, &mut Vec::new()));
            let value = match kind {
                Kind::Message(inner) => Value::Message(by_name[inner.full_name()]),
                Kind::String | Kind::Bytes => Value::Text,
                Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => Value::Fixed32,
                Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => Value::Fixed64,
                Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Sint32 | Kind::Sint64 => Value::Varint,
                Kind::Bool | Kind::Enum(_) => Value::Varint,
            };
            Field { number: field.number(), value, element }
        };
        let mut fields: Vec<Field> = message.fields().map(field).collect();
        fields.sort_by_key(|field| field.number);
        Self { fields, size: size_of_message(message, &mut Vec::new()) }
    }
}

/// Bytes of the struct that `prost` makes of a message: the messages in it stand within, the largest of each oneof as
/// well. `within`: the messages around it; one that holds itself is boxed.
fn size_of_message(message: &MessageDescriptor, within: &mut Vec<MessageDescriptor>) -> usize {
    if within.contains(message) {
        return WORD;
    }
    within.push(message.clone());
    let of_fields: usize = message
        .fields()
        .filter(|field| field.containing_oneof().is_none())
        .map(|field| size_of_field(&field, within))
        .sum();
    let of_oneofs: usize = message
        .oneofs()
        .map(|oneof| WORD + oneof.fields().map(|field| size_of_field(&field, within)).max().unwrap_or(0))
        .sum();
    within.pop();
    of_fields + of_oneofs
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn size_of_field(field: &FieldDescriptor, within: &mut Vec<MessageDescriptor>) -> usize {
    match field.kind() {
        _ if field.is_map() => MAP,
        _ if field.is_list() => VECTOR,
        kind @ Kind::Message(_) => WORD + size_of_value(&kind, within),
        kind => size_of_value(&kind, within),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn size_of_value(kind: &Kind, within: &mut Vec<MessageDescriptor>) -> usize {
    match kind {
        Kind::Message(message) => size_of_message(message, within),
        Kind::String | Kind::Bytes => VECTOR,
        _ => WORD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_each_kind_are_those_of_its_name() {
        let request = protobuf_json::pool().get_message_by_name("livekit.SignalRequest").unwrap();
        let named = |name: &str| bounds_of(request.get_field_by_name(name).unwrap().number());

        assert_eq!([named("offer"), named("answer")], [DESCRIPTION; 2]);
        let lists = ["subscription", "track_setting", "subscription_permission", "update_data_subscription"];
        assert_eq!(lists.map(named), [SIDS; 4]);
        assert_eq!((named("sync_state"), named("update_metadata")), (SYNC_STATE, PROFILE));
        assert_eq!([named("add_track"), named("trickle"), named("mute"), named("leave")], [SMALL; 4]);
    }

    #[test]
    fn packed_numbers_are_counted_one_by_one() {
        // Of one byte, of two, and of ten.
        for number in [1, 128, -1] {
            let packed = proto::UpdateLocalAudioTrack { features: vec![number; 100], ..Default::default() };
            let request = proto::signal_request::Message::UpdateAudioTrack(packed);
            let bytes = proto::SignalRequest { message: Some(request) }.encode_to_vec();
            assert_eq!(measure_signal(&bytes).unwrap().elements, 100, "{number}");
        }
    }

    #[test]
    fn packed_numbers_of_a_fixed_size_are_counted_by_it() {
        let bytes = [0; 48];
        assert_eq!((Value::Fixed32.elements(&bytes), Value::Fixed64.elements(&bytes)), (12, 6));
        assert_eq!((Value::Text.elements(&bytes), Value::Message(0).elements(&bytes)), (1, 1));
    }

    /// The layers of a track in a list of tracks in a state in a request.
    #[test]
    fn messages_nest_as_deep_as_they_may() {
        let track = proto::TrackInfo { codecs: vec![proto::SimulcastCodecInfo::default()], ..Default::default() };
        let published = proto::TrackPublishedResponse { track: Some(track), ..Default::default() };
        let state = proto::SyncState { publish_tracks: vec![published], ..Default::default() };
        let request = proto::signal_request::Message::SyncState(state);
        let bytes = proto::SignalRequest { message: Some(request) }.encode_to_vec();
        let measured = |depth| {
            let mut walk = Walk { shapes: &SHAPES.shapes, bounds: SYNC_STATE, cost: Cost::default() };
            walk.fields(SHAPES.of::<proto::SignalRequest>(), &bytes, depth)
        };
        assert_eq!(measured(4), Ok(()));
        assert_eq!(measured(3), Err(Refused::Depth));
    }
}
