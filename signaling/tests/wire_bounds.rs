//! Messages that cost more than they look like: they are refused before the memory is spent.

#[path = "../../sfu/tests/support/allocations.rs"]
mod allocations;
#[path = "support/joins.rs"]
mod joins;

use std::hint::black_box;
use std::io::Write as _;
use std::time::SystemTime;

use allocations::memory_of;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use livekit_protocol as proto;
use prost::Message;
use proto::signal_request::Message as Request;
use signaling::framing::{Frame, Framing, Incoming};
use signaling::join::{self, ClientHints, Join, JoinError, JoinInput, Mode, Parameters, Purpose};
use signaling::protobuf_json::Described;
use signaling::wire_bounds::{
    self, API, Bounds, DATA_PACKET, DESCRIPTION, JSON_VALUES_MAX, Refused, SIDS, SMALL, SYNC_STATE, Source,
};

/// A field that holds `count` empty messages within others: the numbers of the fields, outermost first.
fn empty_elements(path: &[u8], count: usize) -> Vec<u8> {
    let [outer @ .., element] = path else { panic!("no field") };
    let mut bytes = [element << 3 | 2, 0].repeat(count);
    for number in outer.iter().rev() {
        let mut around = vec![number << 3 | 2];
        prost::encode_length_delimiter(bytes.len(), &mut around).unwrap();
        around.append(&mut bytes);
        bytes = around;
    }
    bytes
}

fn request(message: Request) -> Vec<u8> {
    proto::SignalRequest { message: Some(message) }.encode_to_vec()
}

fn sids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("TR_VC{number:012}")).collect()
}

/// Reads frames once, so that what is made once is there.
fn warmed_up() -> Framing {
    let mut framing = Framing::default();
    let mute = Request::Mute(proto::MuteTrackRequest::default());
    framing.read(Frame::Binary(request(mute.clone()).into()), 0);
    framing.read(Frame::Text(serde_json::to_string(&proto::SignalRequest { message: Some(mute) }).unwrap()), 0);
    framing
}

/// What refusing a message may cost: an error, and what is said of it.
const REFUSAL_BYTES_MAX: usize = 16 << 10;

#[test]
fn lists_of_empty_elements_are_refused_before_memory_is_spent() {
    let mut framing = warmed_up();
    let lists = [
        ("SyncState.publish_tracks", empty_elements(&[12, 3], 500_000)),
        ("SyncState.data_channels", empty_elements(&[12, 4], 500_000)),
        ("AddTrackRequest.layers", empty_elements(&[4, 9], 30_000)),
        ("AddTrackRequest.simulcast_codecs.layers", empty_elements(&[4, 10, 4], 30_000)),
        ("UpdateSubscription.participant_tracks", empty_elements(&[6, 3], 200_000)),
        ("UpdateTrackSettings.track_sids", empty_elements(&[7, 1], 200_000)),
        ("SubscriptionPermission.track_permissions", empty_elements(&[11, 2], 200_000)),
        ("UpdateParticipantMetadata.attributes", empty_elements(&[15, 3], 400_000)),
        ("SessionDescription.mid_to_track_id", empty_elements(&[1, 4], 400_000)),
    ];
    for (name, bytes) in lists {
        let frame = Frame::Binary(bytes.into());
        let (read, peak, _) = memory_of(|| framing.read(frame, 0));
        println!("{name}: {read:?}, {peak} bytes");
        assert!(matches!(read, Incoming::Unreadable(_)), "{name}");
        assert!(peak < REFUSAL_BYTES_MAX, "{name}: {peak} bytes");
    }
}

#[test]
fn a_text_frame_of_many_values_is_refused_before_it_is_parsed() {
    let mut framing = warmed_up();
    let many = format!(r#"{{"syncState":{{"publishTracks":[{}{{}}]}}}}"#, "{},".repeat(600_000));
    let deep = "[".repeat(100) + &"]".repeat(100);
    for (text, reason) in
        [(many, Refused::Elements(JSON_VALUES_MAX)), (format!(r#"{{"syncState":{deep}}}"#), Refused::Depth)]
    {
        let (read, peak, _) = memory_of(|| framing.read(Frame::Text(text), 0));
        assert_eq!(read, Incoming::Unreadable(reason));
        assert!(peak < REFUSAL_BYTES_MAX, "{peak} bytes");
    }
    // Few enough to be parsed, too many for their kind.
    let sids = serde_json::to_string(&sids(20_000)).unwrap();
    let read = framing.read(Frame::Text(format!(r#"{{"subscription":{{"trackSids":{sids}}}}}"#)), 0);
    assert_eq!(read, Incoming::Unreadable(Refused::Elements(SIDS.elements)));
    let read = framing.read(Frame::Text("{nonsense".into()), 0);
    assert_eq!(read, Incoming::Unreadable(Refused::Malformed));
}

#[test]
#[expect(deprecated, reason = "clients still send fields that newer ones have other names for")]
fn what_real_clients_send_in_large_rooms_is_within_bounds() {
    let description = |sections: usize| proto::SessionDescription {
        r#type: "offer".into(),
        sdp: "x".repeat(1 << 20),
        id: 1,
        mid_to_track_id: (0..sections).map(|mid| (mid.to_string(), format!("TR_VC{mid:012}"))).collect(),
    };
    let subscription = |tracks: usize| proto::UpdateSubscription {
        subscribe: true,
        participant_tracks: sids(tracks)
            .chunks(2)
            .map(|sids| proto::ParticipantTracks {
                participant_sid: "PA_123456789012".into(),
                track_sids: sids.to_vec(),
            })
            .collect(),
        ..Default::default()
    };
    let listed = |number: usize| proto::TrackPermission {
        participant_identity: format!("somebody with a long name {number}"),
        all_tracks: true,
        ..Default::default()
    };
    let track = |number: usize| proto::TrackPublishedResponse {
        cid: format!("cid {number}"),
        track: Some(proto::TrackInfo {
            layers: vec![proto::VideoLayer::default(); 3],
            codecs: vec![proto::SimulcastCodecInfo { layers: vec![Default::default(); 3], ..Default::default() }; 2],
            ..Default::default()
        }),
    };
    let sync_state = proto::SyncState {
        answer: Some(proto::SessionDescription { sdp: "x".repeat(600 << 10), ..description(500) }),
        offer: Some(proto::SessionDescription { sdp: "x".repeat(600 << 10), ..description(500) }),
        subscription: Some(subscription(2_000)),
        publish_tracks: (0..64).map(track).collect(),
        track_sids_disabled: sids(2_000),
        datachannel_receive_states: vec![Default::default(); 1_000],
        ..Default::default()
    };
    let requests = [
        Request::Offer(description(500)),
        Request::Subscription(subscription(4_000)),
        Request::TrackSetting(proto::UpdateTrackSettings { track_sids: sids(4_000), ..Default::default() }),
        Request::SubscriptionPermission(proto::SubscriptionPermission {
            track_permissions: (0..4_000).map(listed).collect(),
            ..Default::default()
        }),
        Request::SyncState(sync_state),
    ];
    let mut framing = Framing::default();
    for message in requests {
        let read = framing.read(Frame::Binary(request(message).into()), 0);
        let Incoming::Request(read, cost) = read else { panic!("{read:?}") };
        println!("{cost:?}: {:.40}", format!("{read:?}"));
    }
}

/// Decodes, and compares what it took with what was foretold.
fn is_foretold<M: Described>(message: &M, bounds: &Bounds) {
    let bytes = message.encode_to_vec();
    let cost = wire_bounds::measure::<M>(&bytes, bounds).expect("it is within bounds");
    let (decoded, _, left) = memory_of(|| Box::new(M::decode(bytes.as_slice()).unwrap()));
    black_box(&decoded);
    println!("{}: {} bytes on the wire, {left} in memory, {cost:?}", M::NAME, bytes.len());
    assert!(left <= cost.memory, "{left} > {}", cost.memory);
    assert!(cost.memory < 4 * left + 4_096, "{} for {left}", cost.memory);
}

/// Also that of lists and maps that have just grown.
#[test]
fn the_memory_of_a_message_is_foretold() {
    let signal = |message| proto::SignalRequest { message: Some(message) };
    let empty_tracks = proto::SyncState { publish_tracks: vec![Default::default(); 2_049], ..Default::default() };
    is_foretold(&signal(Request::SyncState(empty_tracks)), &SYNC_STATE);
    let settings = proto::UpdateTrackSettings { track_sids: sids(4_097), ..Default::default() };
    is_foretold(&signal(Request::TrackSetting(settings)), &SIDS);
    let attributes = (0..1_793).map(|number| (format!("key {number}"), "value".to_owned())).collect();
    let profile = proto::UpdateParticipantMetadata { attributes, ..Default::default() };
    is_foretold(&signal(Request::UpdateMetadata(profile)), &API);
    let offer = proto::SessionDescription { sdp: "x".repeat(100_000), ..Default::default() };
    is_foretold(&signal(Request::Offer(offer)), &DESCRIPTION);
    is_foretold(&signal(Request::AddTrack(proto::AddTrackRequest::default())), &SMALL);
    let samples = vec![proto::MetricSample::default(); 1_025];
    let series = proto::TimeSeriesMetric { samples, ..Default::default() };
    let metrics = proto::MetricsBatch { time_series: vec![series; 3], ..Default::default() };
    let value = Some(proto::data_packet::Value::Metrics(metrics));
    is_foretold(&proto::DataPacket { value, ..Default::default() }, &DATA_PACKET);
    let add_track_requests = vec![proto::AddTrackRequest::default(); 1_025];
    is_foretold(&proto::JoinRequest { add_track_requests, ..Default::default() }, &wire_bounds::JOIN);
}

/// What is at its bounds is read, and what is beyond any of them is not.
#[test]
fn each_bound_is_the_last_that_is_allowed() {
    let message = proto::ListRoomsRequest { names: vec!["name".into(); 10] };
    let bytes = message.encode_to_vec();
    let cost = wire_bounds::measure::<proto::ListRoomsRequest>(&bytes, &API).unwrap();
    assert_eq!(cost.elements, 10);
    let at = Bounds { bytes: bytes.len(), elements: 10, memory: cost.memory };
    let read =
        |bounds: Bounds| wire_bounds::decode::<proto::ListRoomsRequest>(Source::Api, bytes.clone().into(), &bounds);
    assert_eq!(read(at), Ok(message));
    assert_eq!(read(Bounds { bytes: at.bytes - 1, ..at }), Err(Refused::Bytes(at.bytes - 1)));
    assert_eq!(read(Bounds { elements: 9, ..at }), Err(Refused::Elements(9)));
    assert_eq!(read(Bounds { memory: at.memory - 1, ..at }), Err(Refused::Memory(at.memory - 1)));
}

#[test]
fn a_request_is_as_long_as_its_kind_allows() {
    let mut framing = warmed_up();
    let mut is_read = |length: usize| {
        let cid = "x".repeat(length);
        let add_track = request(Request::AddTrack(proto::AddTrackRequest { cid, ..Default::default() }));
        let size = add_track.len();
        (size, matches!(framing.read(Frame::Binary(add_track.into()), 0), Incoming::Request(..)))
    };
    let around = is_read(60_000).0 - 60_000;
    assert_eq!(is_read(SMALL.bytes - around), (SMALL.bytes, true));
    assert_eq!(is_read(SMALL.bytes - around + 1), (SMALL.bytes + 1, false));
}

#[test]
fn what_is_refused_is_counted_by_its_source_and_its_bound() {
    // Of a source that no other test here has refused for that.
    let count = |bound: &str| {
        let all = wire_bounds::refused();
        all.filter(|(source, of, _)| (*source, *of) == ("data", bound)).map(|(.., count)| count).sum::<u64>()
    };
    let names = proto::ListRoomsRequest { names: vec!["name".into(); 10] }.encode_to_vec();
    let refuse = |bounds: Bounds| {
        assert!(wire_bounds::decode::<proto::ListRoomsRequest>(Source::Data, names.clone().into(), &bounds).is_err());
    };
    let before = ["bytes", "memory"].map(count);
    refuse(Bounds { bytes: 3, ..API });
    refuse(Bounds { memory: 3, ..API });
    refuse(Bounds { memory: 4, ..API });
    assert_eq!(["bytes", "memory"].map(count), [before[0] + 1, before[1] + 2]);
    let garbage = vec![0xff; 9].into();
    assert!(wire_bounds::decode::<proto::ListRoomsRequest>(Source::Data, garbage, &API).is_err());
    assert_eq!(["bytes", "memory"].map(count), [before[0] + 1, before[1] + 2], "what is malformed costs nothing");
}

#[test]
fn bodies_and_data_packets_of_many_elements_are_refused_before_memory_is_spent() {
    let (read, peak, _) = memory_of(|| {
        let bytes = empty_elements(&[1], 5 << 20).into();
        wire_bounds::decode::<proto::ListRoomsRequest>(Source::Api, bytes, &API).is_err()
    });
    assert!(read && peak < (10 << 20) + REFUSAL_BYTES_MAX, "{peak} bytes for a body of 10 MiB");
    // Speakers.
    let packet = empty_elements(&[3, 1], 30_000).into();
    let (read, peak, _) =
        memory_of(|| wire_bounds::decode::<proto::DataPacket>(Source::Data, packet, &DATA_PACKET).is_err());
    assert!(read && peak < REFUSAL_BYTES_MAX, "{peak} bytes");
}

fn read_join(join_request: &[u8]) -> Result<Join, JoinError> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(join_request).unwrap();
    let compression = proto::wrapped_join_request::Compression::Gzip as i32;
    let wrapped = proto::WrappedJoinRequest { compression, join_request: encoder.finish().unwrap() };
    let encoded = BASE64_URL_SAFE.encode(wrapped.encode_to_vec());
    let (parameters, hints) = (Parameters(vec![("join_request".into(), encoded)]), ClientHints::default());
    let (keys, now) = (joins::keys(), SystemTime::now());
    let claims = keys.verify(&keys.signer().refresh(&joins::grants("alice"), now), now).unwrap();
    let input = JoinInput {
        mode: Mode::V1,
        purpose: Purpose::Validate,
        claims: Some(&claims),
        parameters: &parameters,
        hints: &hints,
    };
    join::read(input)
}

#[test]
fn a_small_join_request_cannot_unpack_into_much_memory() {
    read_join(&[]).unwrap();
    for path in [&[5][..], &[10, 3], &[4]] {
        let packed = empty_elements(path, 500_000);
        let (read, peak, _) = memory_of(|| read_join(&packed));
        assert_eq!(read.err(), Some(JoinError::JoinRequestTooLarge), "{path:?}");
        // The text as it is unpacked, and the room that it grows into.
        assert!(peak < 4 << 20, "{path:?}: {peak} bytes");
    }
    let tracks = vec![proto::AddTrackRequest::default(); 200];
    let request = proto::JoinRequest { add_track_requests: tracks, ..Default::default() };
    assert_eq!(read_join(&request.encode_to_vec()).err(), Some(JoinError::JoinRequestTooLarge));
}
