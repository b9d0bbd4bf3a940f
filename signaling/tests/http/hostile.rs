//! What participants send over a WebSocket and should not: it ends their connection, is counted, and nobody else
//! notices.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use serde_json::json;
use signaling::http::Sizes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::server::{Server, token};

/// Long enough for any answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A participant by its socket alone.
struct Participant(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Participant {
    async fn join(server: &Server, identity: &str) -> Self {
        let token = token(json!({ "sub": identity, "video": { "roomJoin": true, "room": "r" } }));
        let url = format!("ws://{}/rtc?protocol=17&access_token={token}", server.address);
        let mut participant = Self(connect_async(url).await.unwrap().0);
        participant.first(|message| matches!(message, Response::Join(_))).await;
        participant
    }

    async fn request(&mut self, message: Request) {
        let request = proto::SignalRequest { message: Some(message) };
        self.0.send(Message::Binary(request.encode_to_vec().into())).await.unwrap();
    }

    /// The next message of a sort; none if the server closes before.
    async fn first_of(&mut self, wanted: impl Fn(&Response) -> bool) -> Option<Response> {
        loop {
            match tokio::time::timeout(PATIENCE, self.0.next()).await.expect("the server says something") {
                Some(Ok(Message::Binary(bytes))) => {
                    let message = proto::SignalResponse::decode(bytes).unwrap().message.unwrap();
                    if wanted(&message) {
                        return Some(message);
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    async fn first(&mut self, wanted: impl Fn(&Response) -> bool) -> Response {
        self.first_of(wanted).await.expect("it comes before the end")
    }

    async fn is_closed(&mut self) -> bool {
        self.first_of(|_| false).await.is_none()
    }

    /// It is still served.
    async fn is_well(&mut self) {
        self.request(Request::PingReq(proto::Ping { timestamp: 7, rtt: 0 })).await;
        self.first(|message| matches!(message, Response::PongResp(_))).await;
    }
}

async fn counted(counter: &AtomicU64, expected: u64) {
    let done = async {
        while counter.load(Ordering::Relaxed) < expected {
            tokio::task::yield_now().await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, done).await;
    assert_eq!(counter.load(Ordering::Relaxed), expected);
}

#[tokio::test]
async fn messages_that_nobody_can_read_end_their_connection_alone() {
    let server = Server::start().await;
    let mut honest = Participant::join(&server, "honest").await;
    let bad = [
        Message::Binary(vec![0xFF; 100].into()),
        Message::Text("{\"offer\":".into()),
        Message::Text("[]".into()),
        Message::Binary(vec![0; Sizes::default().signal_message_max + 1].into()),
        // A SyncState of 50,000 tracks.
        Message::Binary([&[0x62, 0xA0, 0x8D, 0x06][..], &[0x1A, 0].repeat(50_000)].concat().into()),
    ];
    let count = bad.len() as u64;
    for message in bad {
        let mut hostile = Participant::join(&server, "hostile").await;
        // The server may close before it has read all of a long one.
        let _ = hostile.0.send(message).await;
        assert!(hostile.is_closed().await);
    }
    counted(&server.counters.ended_unreadable, count).await;
    honest.is_well().await;
}

#[tokio::test]
async fn bytes_that_are_no_websocket_frames_end_their_connection_alone() {
    let server = Server::start().await;
    let mut honest = Participant::join(&server, "honest").await;
    // Reserved bits, a reserved opcode, no mask, text that is no text.
    let bad = [&[0xFF; 64][..], &[0x8B, 0x80, 0, 0, 0, 0], &[0x82, 0x01, 0x00], &[0x81, 0x81, 0, 0, 0, 0, 0xFF]];
    for bytes in bad {
        let mut hostile = Participant::join(&server, "hostile").await;
        let MaybeTlsStream::Plain(stream) = hostile.0.get_mut() else { panic!("not encrypted") };
        stream.write_all(bytes).await.unwrap();
        assert!(hostile.is_closed().await, "{bytes:x?}");
    }
    counted(&server.counters.ended_unreadable, bad.len() as u64).await;
    honest.is_well().await;
}

#[tokio::test]
async fn a_broken_description_is_answered_by_a_leave_with_the_reason() {
    let server = Server::start().await;
    let mut honest = Participant::join(&server, "honest").await;
    for sdp in ["", "nonsense", "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"] {
        let mut hostile = Participant::join(&server, "hostile").await;
        let offer = proto::SessionDescription { r#type: "offer".into(), sdp: sdp.into(), ..Default::default() };
        hostile.request(Request::Offer(offer)).await;
        let Response::Leave(leave) = hostile.first(|message| matches!(message, Response::Leave(_))).await else {
            unreachable!()
        };
        assert_eq!(leave.reason(), proto::DisconnectReason::StateMismatch);
        assert!(hostile.is_closed().await);
    }
    counted(&server.counters.ended_in_mismatch, 3).await;
    honest.is_well().await;
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_is_no_hostile_one() {
    let server = Server::start().await;
    for _ in 0..3 {
        drop(Participant::join(&server, "hasty").await);
    }
    counted(&server.counters.ended_by_client, 3).await;
    assert_eq!(server.counters.ended_unreadable.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn bad_tokens_are_refused_and_counted() {
    let server = Server::start().await;
    for token in ["nonsense", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."] {
        assert_eq!(server.get(&format!("/rtc/validate?access_token={token}")).await.status, 401, "{token}");
    }
    counted(&server.counters.tokens_refused, 3).await;
}
