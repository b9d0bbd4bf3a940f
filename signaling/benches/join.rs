//! The parts of a join: token, request, description, room.
//!
//! Hot loops. At a low rate of joins each part costs two or three times as much, for caches are cold.

#[path = "../tests/support/joins.rs"]
mod joins;

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use divan::Bencher;
use joins::keys;
use livekit_protocol as proto;
use prost::Message as _;
use sfu::command::{Candidate, CandidateProtocol, Event, Fingerprint, IceCredentials, RoomId};
use signaling::join::{self, ClientHints, Join, JoinInput, Mode, Parameters, Purpose};
use signaling::negotiation::{LocalTransport, Negotiation, Role};
use signaling::room::timer::Now;
use signaling::room::{Host, Room, RoomEffect};
use signaling::settings::{DEFAULT_CODECS, RoomSettings, RoomsConfig};
use signaling::token::{Grants, VideoGrant};

/// What Chromium offers when it joins.
const OFFER: &str = include_str!("../tests/data/v1-chromium-01-offer.sdp");
/// Viewers of the room that is joined; they begin anew then.
const VIEWERS: usize = 1_000;

fn main() {
    divan::main();
}

fn grants(identity: &str) -> Grants {
    let video = VideoGrant { room_join: true, room: "room".into(), can_publish: Some(false), ..VideoGrant::default() };
    Grants { name: "A viewer".into(), video, ..joins::grants(identity) }
}

fn config() -> RoomsConfig {
    RoomsConfig::new("ND_bench".into(), keys().signer(), Fingerprint([7; 32]))
}

fn candidates() -> Vec<Candidate> {
    vec![Candidate { address: "192.0.2.1:7882".parse().unwrap(), protocol: CandidateProtocol::Udp }]
}

fn credentials() -> IceCredentials {
    IceCredentials { ufrag: "00abcdefghijklmn".into(), password: "p".repeat(32) }
}

fn offer() -> proto::SessionDescription {
    proto::SessionDescription { r#type: "offer".into(), sdp: OFFER.into(), id: 1, ..Default::default() }
}

fn client() -> proto::ClientInfo {
    proto::ClientInfo { sdk: 1, version: "2.15.0".into(), protocol: 16, browser: "chrome".into(), ..Default::default() }
}

fn join_of(number: usize) -> Join {
    let identity = format!("viewer {number}");
    Join {
        grants: grants(&identity),
        client: client(),
        protocol_version: 16,
        adaptive_stream: true,
        publisher_offer: Some(offer()),
        ..joins::join(&identity, Mode::V1)
    }
}

fn room() -> Room {
    let host = Host { candidates: candidates(), new_credentials: Box::new(credentials) };
    let config = config();
    let settings = RoomSettings {
        empty_timeout: config.empty_timeout,
        departure_timeout: config.departure_timeout,
        max_participants: 0,
        metadata: String::new(),
    };
    Room::open(now(), RoomId(1), "room".parse().unwrap(), settings, host, Arc::new(config))
}

fn now() -> Now {
    Now { at: Instant::now(), wall: SystemTime::now() }
}

#[divan::bench]
fn token_verify(bencher: Bencher) {
    let keys = keys();
    let token = keys.signer().refresh(&grants("viewer"), SystemTime::now());
    bencher.bench(|| keys.verify(black_box(&token), SystemTime::now()).unwrap());
}

#[divan::bench]
fn token_refresh(bencher: Bencher) {
    let (signer, grants) = (keys().signer(), grants("viewer"));
    bencher.bench(|| signer.refresh(black_box(&grants), SystemTime::now()));
}

#[divan::bench]
fn request_read(bencher: Bencher) {
    let keys = keys();
    let token = keys.signer().refresh(&grants("viewer"), SystemTime::now());
    let claims = keys.verify(&token, SystemTime::now()).unwrap();
    let request = proto::JoinRequest {
        client_info: Some(client()),
        connection_settings: Some(proto::ConnectionSettings { auto_subscribe: true, ..Default::default() }),
        publisher_offer: Some(offer()),
        ..Default::default()
    };
    let wrapped = proto::WrappedJoinRequest { join_request: request.encode_to_vec(), ..Default::default() };
    let text = BASE64_URL_SAFE.encode(wrapped.encode_to_vec());
    let parameters = Parameters(vec![("join_request".into(), text)]);
    let hints = ClientHints::default();
    bencher.bench(|| {
        let (mode, purpose) = (Mode::V1, Purpose::Connect);
        join::read(JoinInput { mode, purpose, claims: Some(&claims), parameters: &parameters, hints: &hints }).unwrap()
    });
}

#[divan::bench]
fn description_answer(bencher: Bencher) {
    let local = LocalTransport { ice: credentials(), fingerprint: Fingerprint([7; 32]), candidates: candidates() };
    let codecs = DEFAULT_CODECS.map(str::to_owned);
    bencher.bench(|| {
        let mut negotiation = Negotiation::new(Role::Single, local.clone(), &codecs);
        negotiation.read_offer(black_box(OFFER)).unwrap();
        negotiation.write_answer().unwrap()
    });
}

/// Admission, messages and their encoding, and the news that the transport is connected.
#[divan::bench]
fn room_join(bencher: Bencher) {
    let state = RefCell::new((room(), 0));
    bencher
        .with_inputs(|| {
            let (room, number) = &mut *state.borrow_mut();
            if *number % VIEWERS == 0 {
                *room = self::room();
            }
            *number += 1;
            join_of(*number)
        })
        .bench_local_values(|join| {
            let (room, _) = &mut *state.borrow_mut();
            room.join(now(), join).unwrap();
            let opened = carry_out(room);
            if let Some(transport) = opened {
                room.on_event(now(), Event::TransportConnected { transport });
            }
            carry_out(room);
            room.on_deadline(now());
            carry_out(room);
        });
}

/// Encodes what is sent, and says which transport was opened.
fn carry_out(room: &mut Room) -> Option<sfu::command::TransportId> {
    let mut opened = None;
    for effect in room.take_effects() {
        match effect {
            RoomEffect::Send { message, .. } => drop(black_box(message.binary())),
            RoomEffect::Command(sfu::command::Command::OpenTransport { transport, .. }) => opened = Some(transport),
            other => drop(black_box(other)),
        }
    }
    opened
}
