//! Which temporal layers of a stream a subscriber gets, picture by picture.
//!
//! A picture is sent whole or not at all. Fewer layers can be sent from any picture on; one more only from a picture of
//! that layer on which refers to none but the base layer (layer sync, RFC 7741, section 4.2), since the subscriber has
//! not had the others.

use crate::history::PacketInfo;

/// The highest temporal layer that is sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TemporalCap {
    cap: u8,
    /// The cap of packets before `since`, a number of the source.
    before: u8,
    since: u64,
    /// Number and timestamp of the newest packet that was looked at.
    newest: (u64, u32),
}

impl Default for TemporalCap {
    fn default() -> Self {
        Self { cap: u8::MAX, before: u8::MAX, since: 0, newest: (0, 0) }
    }
}

impl TemporalCap {
    /// Of a stream that begins with this packet of a key frame.
    pub(crate) fn from(cap: u8, packet: &PacketInfo) -> Self {
        Self { cap, before: cap, since: packet.sequence, newest: (packet.sequence, packet.timestamp) }
    }

    /// Whether a packet is sent, if layers up to `wanted` should be.
    pub(crate) fn admits(&mut self, wanted: u8, packet: &PacketInfo) -> bool {
        let Some((temporal, is_sync)) = packet.vp8.and_then(|vp8| vp8.temporal) else { return true };
        if packet.sequence < self.since {
            return temporal <= self.before;
        }
        if packet.sequence > self.newest.0 {
            if packet.timestamp != self.newest.1 && self.cap != wanted {
                self.begin_picture(wanted, temporal, is_sync, packet);
            }
            self.newest = (packet.sequence, packet.timestamp);
        }
        temporal <= self.cap
    }

    fn begin_picture(&mut self, wanted: u8, temporal: u8, is_sync: bool, packet: &PacketInfo) {
        let cap = if wanted < self.cap || packet.keyframe_start {
            wanted
        } else if is_sync && temporal == self.cap + 1 {
            temporal
        } else {
            return;
        };
        *self = Self { cap, before: self.cap, since: packet.sequence, newest: self.newest };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Vp8Descriptor;

    /// Packets of pictures in Chrome's order of temporal layers, three a picture; each eighth picture is a base layer's,
    /// behind which those of the upper layers are sync pictures.
    fn packet(sequence: u64) -> PacketInfo {
        let picture = sequence / 3;
        let temporal = [0, 2, 1, 2][picture as usize % 4];
        let is_sync = temporal > 0 && (picture % 8 < 3 || (temporal == 2 && picture % 8 == 3));
        PacketInfo {
            sequence,
            arrival: sequence,
            timestamp: picture as u32 * 3_000,
            payload_type: 96,
            marker: sequence % 3 == 2,
            keyframe_start: false,
            audio_level: None,
            hidden: false,
            vp8: Some(Vp8Descriptor { temporal: Some((temporal, is_sync)), ..Vp8Descriptor::default() }),
        }
    }

    /// Temporal layers of the pictures that are sent whole; panics at a part of one.
    fn sent(cap: &mut TemporalCap, wanted: u8, pictures: std::ops::Range<u64>) -> Vec<u8> {
        let mut sent = Vec::new();
        for picture in pictures {
            let packets = [0, 1, 2].map(|part| packet(picture * 3 + part));
            let admitted = packets.map(|packet| cap.admits(wanted, &packet));
            assert!(admitted[0] == admitted[1] && admitted[1] == admitted[2], "a part of picture {picture}");
            if admitted[0] {
                sent.push(packets[0].temporal());
            }
        }
        sent
    }

    #[test]
    fn fewer_layers_are_sent_at_once_and_more_from_sync_pictures_on() {
        let mut cap = TemporalCap::from(u8::MAX, &packet(0));
        assert_eq!(sent(&mut cap, u8::MAX, 0..4), [0, 2, 1, 2]);
        assert_eq!(sent(&mut cap, 0, 4..8), [0]);
        assert_eq!(sent(&mut cap, 1, 8..12), [0, 1]);
        assert_eq!(sent(&mut cap, 0, 12..13), [0]);
        // The sync picture of the first layer comes before that of the second which may refer to it.
        assert_eq!(sent(&mut cap, u8::MAX, 13..24), [0, 1, 2, 0, 2, 1, 2]);
    }

    #[test]
    fn a_picture_that_has_begun_is_sent_whole() {
        let mut cap = TemporalCap::from(2, &packet(0));
        assert!(cap.admits(2, &packet(3)));
        assert!(cap.admits(0, &packet(4)) && cap.admits(0, &packet(5)));
        assert!(cap.admits(0, &packet(12)), "the base layer");
        assert!(!cap.admits(0, &packet(15)));
        assert!(cap.admits(0, &packet(4)), "late, of a picture that was sent");
        assert!(!cap.admits(0, &packet(16)), "late, of one that was not");
    }

    #[test]
    fn streams_without_temporal_layers_are_sent_whole() {
        let mut cap = TemporalCap::from(0, &packet(0));
        assert!(cap.admits(0, &PacketInfo { vp8: None, ..packet(3) }));
    }
}
