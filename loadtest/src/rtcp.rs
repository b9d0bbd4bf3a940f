//! The RTCP that a browser sends and hears (RFC 3550, 4585, 5104; transport-wide feedback), on the bytes of `rtc-rtcp`:
//! what a server writes is read by other hands than its own.

use rtc_rtcp::packet::unmarshal;
use rtc_rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
use rtc_rtcp::receiver_report::ReceiverReport;
pub use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::source_description::{SdesType, SourceDescription, SourceDescriptionChunk, SourceDescriptionItem};
use rtc_rtcp::transport_feedbacks::transport_layer_cc::{
    PacketStatusChunk, RecvDelta, StatusChunkTypeTcc, StatusVectorChunk, SymbolSizeTypeTcc, SymbolTypeTcc,
    TransportLayerCc,
};
use rtc_rtcp::transport_feedbacks::transport_layer_nack::{TransportLayerNack, nack_pairs_from_sequence_numbers};
use rtc_shared::marshal::Marshal;

/// Unit of an arrival delta of transport-wide feedback, in microseconds.
const DELTA_US: i64 = 250;
/// Unit of its reference time, in microseconds.
const REFERENCE_US: i64 = 64_000;

/// One packet of a received compound, as far as this crate acts on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// The 32 middle bits of the NTP time are what a receiver report echoes.
    SenderReport {
        ssrc: u32,
        ntp: u64,
    },
    /// Sequence numbers that the receiver asks for again.
    Nack {
        media_ssrc: u32,
        sequences: Vec<u16>,
    },
    /// A picture loss indication or a full intra request.
    KeyFrameRequest {
        media_ssrc: u32,
    },
    /// Transport-wide congestion feedback; only its presence is of interest.
    TransportFeedback,
    /// The highest bitrate that the receiver wants.
    Remb {
        bitrate_bps: u64,
    },
    Other,
}

/// Splits a decrypted compound packet; `None` if it is malformed anywhere.
pub fn parse(mut compound: &[u8]) -> Option<Vec<Packet>> {
    Some(unmarshal(&mut compound).ok()?.iter().map(|packet| of_interest(packet.as_ref())).collect())
}

fn of_interest(packet: &dyn rtc_rtcp::Packet) -> Packet {
    let any = packet.as_any();
    if let Some(report) = any.downcast_ref::<SenderReport>() {
        Packet::SenderReport { ssrc: report.ssrc, ntp: report.ntp_time }
    } else if let Some(nack) = any.downcast_ref::<TransportLayerNack>() {
        let sequences = nack.nacks.iter().flat_map(|pair| pair.packet_list()).collect();
        Packet::Nack { media_ssrc: nack.media_ssrc, sequences }
    } else if let Some(request) = any.downcast_ref::<PictureLossIndication>() {
        Packet::KeyFrameRequest { media_ssrc: request.media_ssrc }
    } else if let Some(request) = any.downcast_ref::<FullIntraRequest>() {
        // It names its target in the entry, not in the header (RFC 5104, section 4.3.1).
        Packet::KeyFrameRequest { media_ssrc: request.fir.first().map_or(request.media_ssrc, |entry| entry.ssrc) }
    } else if let Some(estimate) = any.downcast_ref::<ReceiverEstimatedMaximumBitrate>() {
        Packet::Remb { bitrate_bps: estimate.bitrate as u64 }
    } else if any.is::<TransportLayerCc>() {
        Packet::TransportFeedback
    } else {
        Packet::Other
    }
}

/// Appends a receiver report on at most 31 streams (RFC 3550, section 6.4.2).
pub fn write_receiver_report(out: &mut Vec<u8>, own_ssrc: u32, reports: Vec<ReceptionReport>) {
    append(out, &ReceiverReport { ssrc: own_ssrc, reports, ..ReceiverReport::default() });
}

/// Appends a sender report without report blocks, and the CNAME that every compound has.
pub fn write_sender_report(out: &mut Vec<u8>, ssrc: u32, ntp: u64, timestamp: u32, packets: u32, bytes: u32) {
    append(
        out,
        &SenderReport {
            ssrc,
            ntp_time: ntp,
            rtp_time: timestamp,
            packet_count: packets,
            octet_count: bytes,
            ..SenderReport::default()
        },
    );
    let cname = SourceDescriptionItem { sdes_type: SdesType::SdesCname, text: "loadtest".into() };
    append(out, &SourceDescription { chunks: vec![SourceDescriptionChunk { source: ssrc, items: vec![cname] }] });
}

/// Appends a generic NACK for `sequences`, which are in rising order (RFC 4585, section 6.2.1).
pub fn write_nack(out: &mut Vec<u8>, own_ssrc: u32, media_ssrc: u32, sequences: &[u16]) {
    let nacks = nack_pairs_from_sequence_numbers(sequences);
    append(out, &TransportLayerNack { sender_ssrc: own_ssrc, media_ssrc, nacks });
}

/// Appends a picture loss indication (RFC 4585, section 6.3.1).
pub fn write_picture_loss(out: &mut Vec<u8>, own_ssrc: u32, media_ssrc: u32) {
    append(out, &PictureLossIndication { sender_ssrc: own_ssrc, media_ssrc });
}

/// Appends a receiver-estimated maximum bitrate for one stream.
pub fn write_remb(out: &mut Vec<u8>, own_ssrc: u32, media_ssrc: u32, bitrate_bps: u64) {
    let bitrate = bitrate_bps as f32;
    append(out, &ReceiverEstimatedMaximumBitrate { sender_ssrc: own_ssrc, bitrate, ssrcs: vec![media_ssrc] });
}

/// Appends transport-wide feedback for packets `first..first + arrivals.len()`.
///
/// `arrivals` has the arrival time in microseconds, `None` for a packet that did not come. Bounded by the caller to
/// what a datagram holds. Two-bit status vectors throughout: 7 packets a chunk.
pub fn write_transport_feedback(
    out: &mut Vec<u8>,
    own_ssrc: u32,
    media_ssrc: u32,
    first: u16,
    report: u8,
    arrivals: &[Option<u64>],
) {
    let earliest = arrivals.iter().flatten().min().map_or(0, |&arrival_us| arrival_us.cast_signed());
    let reference = earliest / REFERENCE_US;
    let mut last_us = reference * REFERENCE_US;
    let mut recv_deltas = Vec::new();
    let mut symbol_of = |arrival: Option<u64>| {
        let Some(arrival_us) = arrival else { return SymbolTypeTcc::PacketNotReceived };
        let delta = (arrival_us.cast_signed() - last_us) / DELTA_US;
        let delta = delta.clamp(i64::from(i16::MIN), i64::from(i16::MAX));
        last_us += delta * DELTA_US;
        let symbol = match u8::try_from(delta) {
            Ok(_) => SymbolTypeTcc::PacketReceivedSmallDelta,
            Err(_) => SymbolTypeTcc::PacketReceivedLargeDelta,
        };
        recv_deltas.push(RecvDelta { type_tcc_packet: symbol, delta: delta * DELTA_US });
        symbol
    };
    let chunk_of = |arrivals: &[Option<u64>]| {
        let mut symbol_list: Vec<_> = arrivals.iter().map(|arrival| symbol_of(*arrival)).collect();
        symbol_list.resize(7, SymbolTypeTcc::PacketNotReceived);
        PacketStatusChunk::StatusVectorChunk(StatusVectorChunk {
            type_tcc: StatusChunkTypeTcc::StatusVectorChunk,
            symbol_size: SymbolSizeTypeTcc::TwoBit,
            symbol_list,
        })
    };
    let packet_chunks = arrivals.chunks(7).map(chunk_of).collect();
    append(
        out,
        &TransportLayerCc {
            sender_ssrc: own_ssrc,
            media_ssrc,
            base_sequence_number: first,
            packet_status_count: arrivals.len() as u16,
            reference_time: reference as u32 & 0xff_ffff,
            fb_pkt_count: report,
            packet_chunks,
            recv_deltas,
        },
    );
}

fn append(out: &mut Vec<u8>, packet: &impl Marshal) {
    let start = out.len();
    out.resize(start + packet.marshal_size(), 0);
    packet.marshal_to(&mut out[start..]).expect("all values are within what the packet holds");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nack_names_each_sequence_once_also_across_the_wrap() {
        let sequences = [65530, 65534, 65535, 0, 3, 40];
        let mut out = Vec::new();
        write_nack(&mut out, 1, 2, &sequences);
        assert_eq!(parse(&out).unwrap(), [Packet::Nack { media_ssrc: 2, sequences: sequences.to_vec() }]);
    }

    #[test]
    fn a_compound_is_split_into_its_packets() {
        let mut out = Vec::new();
        write_sender_report(&mut out, 5, 77, 1, 2, 3);
        write_picture_loss(&mut out, 5, 9);
        write_remb(&mut out, 5, 9, 3_000_000);
        let packets = parse(&out).unwrap();
        assert_eq!(packets[0], Packet::SenderReport { ssrc: 5, ntp: 77 });
        assert_eq!(packets[1], Packet::Other);
        assert_eq!(packets[2], Packet::KeyFrameRequest { media_ssrc: 9 });
        let Packet::Remb { bitrate_bps } = packets[3] else { panic!("{packets:?}") };
        assert!((2_990_000..=3_000_000).contains(&bitrate_bps));
    }

    #[test]
    fn cut_compounds_do_not_panic() {
        let mut out = Vec::new();
        write_sender_report(&mut out, 5, 77, 1, 2, 3);
        write_nack(&mut out, 1, 2, &[1, 2, 3]);
        write_transport_feedback(&mut out, 1, 2, 9, 0, &[Some(1_000), None, Some(900_000)]);
        for len in 0..out.len() {
            parse(&out[..len]);
        }
    }

    #[test]
    fn transport_feedback_counts_its_packets_and_fills_its_words() {
        let mut out = Vec::new();
        write_transport_feedback(&mut out, 1, 2, 100, 3, &[Some(64_000), None, Some(64_250), Some(63_000)]);
        assert_eq!(out.len() % 4, 0);
        assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])) * 4 + 4, out.len());
        assert_eq!(u16::from_be_bytes([out[14], out[15]]), 4);
        assert_eq!(parse(&out).unwrap(), [Packet::TransportFeedback]);
    }
}
