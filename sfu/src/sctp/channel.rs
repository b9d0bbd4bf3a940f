//! The three channels of LiveKit: their labels, streams and reliability.

use rtc_datachannel::message::message_channel_open::ChannelType;
use rtc_sctp::{ReliabilityType, StreamId};

use crate::command::{DataChannel, DtlsRole};

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
