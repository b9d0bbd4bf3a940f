//! Recently received packets of one layer, shared by all its subscribers.
//!
//! Every packet is copied in once, decrypted; fan-out and retransmission (RFC 4585, RFC 4588) read from here. A
//! subscriber keeps only how its numbers map to the source's, so memory does not grow with subscribers times history.

use crate::codec::Vp8Descriptor;

/// What the forwarding path knows of a packet besides its payload.
#[derive(Debug, Clone, Copy)]
pub struct PacketInfo {
    /// Extended sequence number of the source.
    pub sequence: u64,
    /// Packets of the layer that had arrived before.
    pub arrival: u64,
    /// Of the media clock.
    pub timestamp: u32,
    /// As the publisher sent it.
    pub payload_type: u8,
    /// Whether it ends a frame, or begins a talk spurt.
    pub marker: bool,
    /// A decoder can start here.
    pub keyframe_start: bool,
    /// The audio level extension's byte (RFC 6464).
    pub audio_level: Option<u8>,
    /// What its descriptor says, if the codec is VP8.
    pub vp8: Option<Vp8Descriptor>,
    /// Whether it is left out for all subscribers, or lost and left out.
    pub hidden: bool,
}

impl PacketInfo {
    /// Its temporal layer, 0 where its codec's header tells none: only VP8's is read.
    pub fn temporal(&self) -> u8 {
        self.vp8.and_then(|vp8| vp8.temporal).map_or(0, |(temporal, _)| temporal)
    }
}

/// A packet as history gives it back.
#[derive(Debug, Clone, Copy)]
pub struct StoredPacket<'a> {
    /// What is known beside the payload.
    pub info: PacketInfo,
    /// The dependency descriptor extension; empty if there was none.
    pub dependency_descriptor: &'a [u8],
    /// Decrypted.
    pub payload: &'a [u8],
}

#[derive(Clone, Copy)]
struct Slot {
    info: PacketInfo,
    /// Bytes ever written before this packet's.
    position: u64,
    descriptor_length: u16,
    payload_length: u16,
}

/// A ring of packets in a ring of bytes: whichever is full first forgets the oldest.
pub struct History {
    slots: Box<[Option<Slot>]>,
    bytes: Box<[u8]>,
    /// Bytes ever written, gaps at the ring's end included.
    written: u64,
}

impl History {
    /// For video: 512 packets or 512 KiB, about two seconds of 2 Mbit/s.
    pub fn for_video() -> Self {
        Self::new(512, 512 << 10)
    }

    /// For audio: 128 packets or 32 KiB, about two and a half seconds.
    pub fn for_audio() -> Self {
        Self::new(128, 32 << 10)
    }

    fn new(packets: usize, bytes: usize) -> Self {
        Self { slots: vec![None; packets].into(), bytes: vec![0; bytes].into(), written: 0 }
    }

    /// Packets that it holds at most.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn slot_of(&self, sequence: u64) -> usize {
        // The remainder is below the number of slots.
        (sequence % self.slots.len() as u64) as usize
    }

    /// Keeps a packet. `false`: it is here already, or it is older than what the ring holds.
    pub fn keep(&mut self, info: PacketInfo, dependency_descriptor: &[u8], payload: &[u8]) -> bool {
        let at = self.slot_of(info.sequence);
        if self.slots[at].is_some_and(|slot| slot.info.sequence >= info.sequence) {
            return false;
        }
        let length = dependency_descriptor.len() + payload.len();
        let (Ok(descriptor_length), Ok(payload_length)) =
            (u16::try_from(dependency_descriptor.len()), u16::try_from(payload.len()))
        else {
            return false;
        };
        if length > self.bytes.len() / 4 {
            return false;
        }
        let capacity = self.bytes.len() as u64;
        let mut start = (self.written % capacity) as usize;
        if start + length > self.bytes.len() {
            self.written += (self.bytes.len() - start) as u64;
            start = 0;
        }
        let split = start + dependency_descriptor.len();
        self.bytes[start..split].copy_from_slice(dependency_descriptor);
        self.bytes[split..start + length].copy_from_slice(payload);
        self.slots[at] = Some(Slot { info, position: self.written, descriptor_length, payload_length });
        self.written += length as u64;
        true
    }

    /// Notes that a packet that has not arrived is left out. `false`: it has arrived, or its place is taken.
    pub fn hide(&mut self, info: PacketInfo) -> bool {
        self.keep(PacketInfo { hidden: true, ..info }, &[], &[])
    }

    /// The packet with this extended sequence number, if it is still here.
    pub fn find(&self, sequence: u64) -> Option<StoredPacket<'_>> {
        let slot = self.slots[self.slot_of(sequence)].as_ref()?;
        let capacity = self.bytes.len() as u64;
        if slot.info.sequence != sequence || self.written - slot.position > capacity {
            return None;
        }
        let start = (slot.position % capacity) as usize;
        let split = start + usize::from(slot.descriptor_length);
        Some(StoredPacket {
            info: slot.info,
            dependency_descriptor: &self.bytes[start..split],
            payload: &self.bytes[split..split + usize::from(slot.payload_length)],
        })
    }

    /// Bytes that have been kept since this packet, with it; `None`: it is not here any more.
    pub fn bytes_from(&self, sequence: u64) -> Option<usize> {
        let slot = self.slots[self.slot_of(sequence)].as_ref().filter(|slot| slot.info.sequence == sequence)?;
        let bytes = self.written - slot.position;
        (bytes <= self.bytes.len() as u64).then_some(bytes as usize)
    }

    /// Whether a packet with this extended sequence number is still here.
    pub fn contains(&self, sequence: u64) -> bool {
        self.find(sequence).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(sequence: u64) -> PacketInfo {
        PacketInfo {
            sequence,
            arrival: 0,
            timestamp: 0,
            payload_type: 96,
            marker: false,
            keyframe_start: false,
            audio_level: None,
            vp8: None,
            hidden: false,
        }
    }

    #[test]
    fn a_packet_is_found_until_the_ring_has_come_round() {
        let mut history = History::new(8, 4096);
        for n in 0..20u64 {
            assert!(history.keep(info(n), &[n as u8], &[n as u8; 100]));
        }
        assert!(history.find(11).is_none());
        for n in 12..20u64 {
            let found = history.find(n).expect("kept");
            assert_eq!((found.dependency_descriptor, found.payload), (&[n as u8][..], &[n as u8; 100][..]));
        }
    }

    #[test]
    fn a_full_history_of_packets_of_the_mean_size_is_there_whole() {
        for (kind, mut history, packets, bytes) in
            [("video", History::for_video(), 512, 1024), ("audio", History::for_audio(), 128, 256)]
        {
            for n in 0..packets * 2 {
                assert!(history.keep(info(n), &[], &vec![n as u8; bytes]), "packet {n} of {kind}");
            }
            let held = (0..packets * 2).filter(|n| history.contains(*n)).count() as u64;
            assert_eq!(held, packets, "packets of {bytes} bytes that the history of {kind} holds");
            assert!(history.contains(packets), "the oldest of them is of {kind}");
        }
    }

    #[test]
    fn a_packet_whose_bytes_were_overwritten_is_gone() {
        let mut history = History::new(64, 4096);
        for n in 0..20u64 {
            assert!(history.keep(info(n), &[], &[n as u8; 1000]));
        }
        assert!(history.find(10).is_none());
        assert_eq!(history.find(19).expect("kept").payload, [19; 1000]);
        for n in 0..20 {
            if let Some(found) = history.find(n) {
                assert!(found.payload.iter().all(|byte| u64::from(*byte) == n));
            }
        }
    }

    #[test]
    fn a_packet_is_kept_once_and_never_replaces_a_newer_one() {
        let mut history = History::new(8, 4096);
        assert!(history.keep(info(9), &[], &[1]));
        assert!(!history.keep(info(9), &[], &[2]));
        assert!(!history.keep(info(1), &[], &[2]));
        assert_eq!(history.find(9).expect("kept").payload, [1]);
    }
}
