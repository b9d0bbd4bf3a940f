//! The three channels of LiveKit: their labels, streams and reliability.

use rtc_datachannel::message::message_channel_open::ChannelType;
use rtc_sctp::{ReliabilityType, StreamId};

use crate::parameters::{DataChannel, DtlsRole};

pub(super) const CHANNELS: [DataChannel; 3] = [DataChannel::Reliable, DataChannel::Lossy, DataChannel::DataTrack];

/// The label by which clients and servers know a channel.
pub(super) fn label_of(channel: DataChannel) -> &'static str {
    match channel {
        DataChannel::Reliable => "_reliable",
        DataChannel::Lossy => "_lossy",
        DataChannel::DataTrack => "_data_track",
    }
}

/// The stream of a channel that we open.
pub(super) fn stream_of(channel: DataChannel, role: DtlsRole) -> StreamId {
    let even = match channel {
        DataChannel::Reliable => 0,
        DataChannel::Lossy => 2,
        DataChannel::DataTrack => 4,
    };
    match role {
        DtlsRole::Client => even,
        DtlsRole::Server => even + 1,
    }
}

pub(super) fn index_of(channel: DataChannel) -> usize {
    match channel {
        DataChannel::Reliable => 0,
        DataChannel::Lossy => 1,
        DataChannel::DataTrack => 2,
    }
}

/// Whether a channel is unordered, and when it gives up (RFC 8832, section 5.1).
pub(super) fn reliability_of(channel: ChannelType) -> (bool, ReliabilityType) {
    match channel {
        ChannelType::ReliableUnordered => (true, ReliabilityType::Reliable),
        ChannelType::PartialReliableRexmit => (false, ReliabilityType::Rexmit),
        ChannelType::PartialReliableRexmitUnordered => (true, ReliabilityType::Rexmit),
        ChannelType::PartialReliableTimed => (false, ReliabilityType::Timed),
        ChannelType::PartialReliableTimedUnordered => (true, ReliabilityType::Timed),
        _ => (false, ReliabilityType::Reliable),
    }
}

#[cfg(test)]
mod tests {
    use rtc_datachannel::message::Message;
    use rtc_shared::marshal::Unmarshal;

    use super::*;

    /// RFC 8832, section 8.2.2: each kind by its number on the wire.
    #[test]
    fn each_kind_of_channel_gives_up_as_its_opener_says() {
        use ReliabilityType::{Reliable, Rexmit, Timed};
        for (number, unordered, reliability) in [
            (0x00, false, Reliable),
            (0x80, true, Reliable),
            (0x01, false, Rexmit),
            (0x81, true, Rexmit),
            (0x02, false, Timed),
            (0x82, true, Timed),
        ] {
            let head: [u8; 12] = [3, number, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let open = Message::unmarshal(&mut &head[..]).expect("an OPEN without a label");
            let Message::DataChannelOpen(open) = open else { panic!("another message") };
            assert_eq!(reliability_of(open.channel_type), (unordered, reliability), "{number:x}");
        }
    }
}
