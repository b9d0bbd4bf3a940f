//! What a participant sends over its socket, up to where a room takes it. Shared by the fuzz target `signal` and the
//! test that replays its corpus.

use livekit_protocol as proto;
use prost::Message as _;
use signaling::framing::{Frame, Framing, Incoming};
use signaling::wire::Outgoing;

/// Reads the bytes as a binary and as a text message. What was understood must survive being written and read again.
/// Returns how many of the two were for a room.
pub fn read(input: &[u8]) -> usize {
    let text = String::from_utf8_lossy(input).into_owned();
    let frames = [Frame::Binary(input.to_vec().into()), Frame::Text(text)];
    frames.into_iter().filter(|frame| is_for_a_room(frame.clone())).count()
}

fn is_for_a_room(frame: Frame) -> bool {
    let mut framing = Framing::default();
    match framing.read(frame, 1_000) {
        Incoming::Request(request, _) => {
            let again = proto::SignalRequest::decode(request.encode_to_vec().as_slice());
            assert_eq!(again.as_ref(), Ok(&*request));
            true
        }
        Incoming::Reply(reply) => {
            assert!(!matches!(framing.write(&Outgoing::new(*reply)), Frame::Close | Frame::Malformed));
            false
        }
        Incoming::Receipt(_) | Incoming::Nothing | Incoming::End | Incoming::Unreadable(_) => false,
    }
}
