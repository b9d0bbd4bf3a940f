//! How messages are put into frames, and what a client's frames mean: binary or JSON, pings, receipts. A state machine.

use bytes::Bytes;
use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;

use crate::id::DescriptionId;
use crate::wire::Outgoing;
use crate::wire_bounds::{self, Cost, Refused};

/// One WebSocket message. Fragments are joined and sizes limited before (2 MiB, docs/livekit.md 1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Binary(Bytes),
    Text(String),
    Ping(Bytes),
    Pong(Bytes),
    /// Normal closure, code 1000.
    Close,
    /// What the client sent is no WebSocket frame, or one beyond the size limit. Nothing follows it.
    Malformed,
}

impl Frame {
    /// Bytes of its payload.
    pub(crate) fn len(&self) -> usize {
        match self {
            Frame::Binary(bytes) | Frame::Ping(bytes) | Frame::Pong(bytes) => bytes.len(),
            Frame::Text(text) => text.len(),
            Frame::Close | Frame::Malformed => 0,
        }
    }
}

/// How messages are put into frames: as the client's last one was, binary before any (docs/livekit.md 3.1).
#[derive(Debug, Default)]
pub struct Framing {
    json: bool,
    /// The receipt that the client owes.
    receipt: Option<DescriptionId>,
}

/// What a frame from a client means.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    /// For the room, and what it costs.
    Request(Box<proto::SignalRequest>, Cost),
    /// Answered at once.
    Reply(Box<Response>),
    /// What was sent until the receipt was asked for has been read.
    Receipt(DescriptionId),
    Nothing,
    /// The client closed the connection.
    End,
    /// It is no message of LiveKit's, or beyond the bounds of its kind, so the connection ends.
    Unreadable(Refused),
}

impl Framing {
    /// Reads a frame. `unix_ms` is the present time.
    pub fn read(&mut self, frame: Frame, unix_ms: i64) -> Incoming {
        let request = match frame {
            Frame::Binary(bytes) => {
                self.json = false;
                wire_bounds::decode_signal(bytes)
            }
            Frame::Text(text) => {
                self.json = true;
                wire_bounds::read_signal(&text)
            }
            Frame::Pong(payload) => return self.read_receipt(&payload),
            Frame::Ping(_) => return Incoming::Nothing,
            Frame::Close => return Incoming::End,
            Frame::Malformed => return Incoming::Unreadable(Refused::Malformed),
        };
        let (request, cost) = match request {
            Ok(read) => read,
            Err(refused) => return Incoming::Unreadable(refused),
        };
        match request.message {
            Some(Request::Ping(_)) => Incoming::Reply(Box::new(Response::Pong(unix_ms))),
            Some(Request::PingReq(ping)) => {
                let pong = proto::Pong { last_ping_timestamp: ping.timestamp, timestamp: unix_ms };
                Incoming::Reply(Box::new(Response::PongResp(pong)))
            }
            // A message of a newer protocol.
            None => Incoming::Nothing,
            Some(_) => Incoming::Request(Box::new(request), cost),
        }
    }

    /// A message as the client wants to read it.
    pub fn write(&self, message: &Outgoing) -> Frame {
        if self.json { Frame::Text(message.json()) } else { Frame::Binary(message.binary()) }
    }

    /// An empty WebSocket ping.
    pub fn ping(&self) -> Frame {
        Frame::Ping(Bytes::new())
    }

    /// A WebSocket ping that asks for a receipt. It is answered once everything before it has been read (RFC 6455,
    /// section 5.5.3), and its payload comes back with the answer.
    pub fn ask_receipt(&mut self, offer: DescriptionId) -> Frame {
        self.receipt = Some(offer);
        Frame::Ping(Bytes::copy_from_slice(&offer.0.to_be_bytes()))
    }

    fn read_receipt(&mut self, payload: &[u8]) -> Incoming {
        let receipt = self.receipt.take_if(|offer| payload == offer.0.to_be_bytes());
        receipt.map_or(Incoming::Nothing, Incoming::Receipt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn ping_req() -> proto::SignalRequest {
        proto::SignalRequest { message: Some(Request::PingReq(proto::Ping { timestamp: 7, rtt: 3 })) }
    }

    #[test]
    fn a_ping_is_answered_with_both_times() {
        let frame = Frame::Binary(ping_req().encode_to_vec().into());
        let pong = proto::Pong { last_ping_timestamp: 7, timestamp: 1_000 };
        assert_eq!(Framing::default().read(frame, 1_000), Incoming::Reply(Box::new(Response::PongResp(pong))));
    }

    #[test]
    fn a_receipt_is_the_pong_that_was_asked_for() {
        let mut framing = Framing::default();
        let Frame::Ping(payload) = framing.ask_receipt(DescriptionId(7)) else { panic!("not a ping") };
        let pong = |payload: &[u8]| Frame::Pong(Bytes::copy_from_slice(payload));
        assert_eq!(framing.read(pong(&[]), 0), Incoming::Nothing);
        assert_eq!(framing.read(pong(&8_u32.to_be_bytes()), 0), Incoming::Nothing);
        assert_eq!(framing.read(pong(&payload), 0), Incoming::Receipt(DescriptionId(7)));
        assert_eq!(framing.read(pong(&payload), 0), Incoming::Nothing);
    }

    #[test]
    fn fields_and_messages_of_newer_protocols_are_passed_over() {
        // Fields 1000 to 1003, which nobody knows: a varint, four bytes with their length, eight bytes, and four.
        let strange: [&[u8]; 4] = [
            &[0xC0, 0x3E, 0x87, 0x07],
            &[0xCA, 0x3E, 0x04, 1, 2, 3, 4],
            &[0xD1, 0x3E, 1, 2, 3, 4, 5, 6, 7, 8],
            &[0xDD, 0x3E, 1, 2, 3, 4],
        ];
        let read = |bytes: Vec<u8>| Framing::default().read(Frame::Binary(bytes.into()), 0);
        assert!(matches!(read([ping_req().encode_to_vec(), strange.concat()].concat()), Incoming::Reply(_)));
        for field in strange {
            assert_eq!(read(field.to_vec()), Incoming::Nothing);
            let cut_off = field[..field.len() - 1].to_vec();
            assert_eq!(read(cut_off), Incoming::Unreadable(Refused::Malformed), "{field:?}");
        }
        let stranger = Frame::Binary(vec![0xCA, 0x3E, 0x01, 0x00].into());
        assert_eq!(Framing::default().read(stranger, 0), Incoming::Nothing);
    }

    #[test]
    fn the_server_answers_in_the_clients_last_framing() {
        let mut framing = Framing::default();
        let message = Outgoing::new(Response::Pong(5));
        assert!(matches!(framing.write(&message), Frame::Binary(_)));

        framing.read(Frame::Text(serde_json::to_string(&ping_req()).unwrap()), 0);
        assert_eq!(framing.write(&message), Frame::Text(r#"{"pong":"5"}"#.into()));

        framing.read(Frame::Binary(ping_req().encode_to_vec().into()), 0);
        assert!(matches!(framing.write(&message), Frame::Binary(_)));
    }

    proptest! {
        #[test]
        fn any_frame_is_read_or_ends_the_connection(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,100}") {
            let mut framing = Framing::default();
            framing.read(Frame::Binary(bytes.into()), 0);
            framing.read(Frame::Text(text), 0);
        }
    }
}
