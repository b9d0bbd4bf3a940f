//! The RTCP that a browser sends and hears (RFC 3550, 4585, 5104; transport-wide feedback).

/// Payload-specific feedback, transport feedback and the reports, by packet type.
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;

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

/// Splits a decrypted compound packet; malformed rests are left out.
pub fn parse(mut compound: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some(head) = compound.first_chunk::<4>() {
        let len = (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1) * 4;
        let Some(packet) = compound.get(..len) else { break };
        if head[0] >> 6 != 2 {
            break;
        }
        packets.extend(parse_one(head[0] & 0x1f, head[1], &packet[4..]));
        compound = &compound[len..];
    }
    packets
}

fn parse_one(count: u8, packet_type: u8, body: &[u8]) -> Option<Packet> {
    Some(match (packet_type, count) {
        (SENDER_REPORT, _) => Packet::SenderReport { ssrc: word(body, 0)?, ntp: long(body, 4)? },
        (TRANSPORT_FEEDBACK, 1) => Packet::Nack { media_ssrc: word(body, 4)?, sequences: nacked(body.get(8..)?) },
        (TRANSPORT_FEEDBACK, 15) => Packet::TransportFeedback,
        (PAYLOAD_FEEDBACK, 1) => Packet::KeyFrameRequest { media_ssrc: word(body, 4)? },
        // A full intra request names its target in the entry, not in the header (RFC 5104, section 4.3.1).
        (PAYLOAD_FEEDBACK, 4) => Packet::KeyFrameRequest { media_ssrc: word(body, 8)? },
        (PAYLOAD_FEEDBACK, 15) if body.get(8..12)? == b"REMB" => {
            let value = word(body, 12)?;
            Packet::Remb { bitrate_bps: u64::from(value & 0x3_ffff) << ((value >> 18) & 0x3f) }
        }
        _ => Packet::Other,
    })
}

fn nacked(entries: &[u8]) -> Vec<u16> {
    let mut sequences = Vec::new();
    for entry in entries.chunks_exact(4) {
        let first = u16::from_be_bytes([entry[0], entry[1]]);
        let mask = u16::from_be_bytes([entry[2], entry[3]]);
        sequences.push(first);
        sequences.extend((0..16).filter(|bit| mask >> bit & 1 == 1).map(|bit| first.wrapping_add(bit + 1)));
    }
    sequences
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// One block of a receiver report (RFC 3550, section 6.4.1).
#[derive(Debug, Clone, Copy, Default)]
pub struct ReportBlock {
    pub ssrc: u32,
    /// Share of packets lost since the last report, in 1/256.
    pub fraction_lost: u8,
    pub lost: u32,
    pub sequence_max: u32,
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time.
    pub last_report: u32,
    /// Time since then in 1/65536 s.
    pub since_last_report: u32,
}

/// Appends a receiver report.
pub fn write_receiver_report(out: &mut Vec<u8>, own_ssrc: u32, blocks: &[ReportBlock]) {
    header(out, blocks.len() as u8, RECEIVER_REPORT, 1 + blocks.len() * 6);
    out.extend_from_slice(&own_ssrc.to_be_bytes());
    for block in blocks {
        out.extend_from_slice(&block.ssrc.to_be_bytes());
        out.extend_from_slice(&(u32::from(block.fraction_lost) << 24 | block.lost.min(0x7f_ffff)).to_be_bytes());
        for value in [block.sequence_max, block.jitter, block.last_report, block.since_last_report] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// Appends a sender report without report blocks, and the CNAME that every compound has.
pub fn write_sender_report(out: &mut Vec<u8>, ssrc: u32, ntp: u64, timestamp: u32, packets: u32, bytes: u32) {
    header(out, 0, SENDER_REPORT, 6);
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&ntp.to_be_bytes());
    for value in [timestamp, packets, bytes] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    write_cname(out, ssrc, b"loadtest");
}

fn write_cname(out: &mut Vec<u8>, ssrc: u32, cname: &[u8; 8]) {
    // SSRC, item header of 2 bytes, 8 bytes of text, 2 bytes of terminating padding.
    header(out, 1, SOURCE_DESCRIPTION, 4);
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&[1, 8]);
    out.extend_from_slice(cname);
    out.extend_from_slice(&[0, 0]);
}

/// Appends a generic NACK for `sequences`, which are in rising order (RFC 4585, section 6.2.1).
pub fn write_nack(out: &mut Vec<u8>, own_ssrc: u32, media_ssrc: u32, sequences: &[u16]) {
    let mut entries: Vec<(u16, u16)> = Vec::new();
    for &sequence in sequences {
        match entries.last_mut() {
            Some((first, mask)) if (1..=16).contains(&sequence.wrapping_sub(*first)) => {
                *mask |= 1 << (sequence.wrapping_sub(*first) - 1);
            }
            _ => entries.push((sequence, 0)),
        }
    }
    feedback_header(out, 1, TRANSPORT_FEEDBACK, own_ssrc, media_ssrc, entries.len());
    for (first, mask) in entries {
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&mask.to_be_bytes());
    }
}

/// Appends a picture loss indication (RFC 4585, section 6.3.1).
pub fn write_picture_loss(out: &mut Vec<u8>, own_ssrc: u32, media_ssrc: u32) {
    feedback_header(out, 1, PAYLOAD_FEEDBACK, own_ssrc, media_ssrc, 0);
}

/// Appends a receiver-estimated maximum bitrate for one stream.
pub fn write_remb(out: &mut Vec<u8>, own_ssrc: u32, media_ssrc: u32, bitrate_bps: u64) {
    feedback_header(out, 15, PAYLOAD_FEEDBACK, own_ssrc, 0, 3);
    let exponent = (64 - bitrate_bps.leading_zeros()).saturating_sub(18);
    let mantissa = (bitrate_bps >> exponent) as u32;
    out.extend_from_slice(b"REMB");
    out.extend_from_slice(&(1 << 24 | exponent << 18 | mantissa).to_be_bytes());
    out.extend_from_slice(&media_ssrc.to_be_bytes());
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
    /// Units of an arrival delta.
    const DELTA_US: u64 = 250;
    /// Units of the reference time, in deltas.
    const REFERENCE: u64 = 256;
    let start = out.len();
    feedback_header(out, 15, TRANSPORT_FEEDBACK, own_ssrc, media_ssrc, 0);
    let base = arrivals.iter().flatten().min().copied().unwrap_or(0) / DELTA_US / REFERENCE;
    out.extend_from_slice(&first.to_be_bytes());
    out.extend_from_slice(&(arrivals.len() as u16).to_be_bytes());
    out.extend_from_slice(&((base as u32) << 8 | u32::from(report)).to_be_bytes());
    let mut deltas = Vec::with_capacity(arrivals.len() * 2);
    let mut at = base * REFERENCE;
    for chunk in arrivals.chunks(7) {
        let mut symbols = 0b11 << 14;
        for (index, arrival) in chunk.iter().enumerate() {
            let Some(arrival_us) = arrival else { continue };
            let ticks = arrival_us / DELTA_US;
            let delta = ticks as i64 - at as i64;
            at = ticks;
            let symbol = if let Ok(small) = u8::try_from(delta) {
                deltas.push(small);
                1
            } else {
                let wide = delta.clamp(i64::from(i16::MIN), i64::from(i16::MAX)) as i16;
                deltas.extend_from_slice(&wide.to_be_bytes());
                2
            };
            symbols |= symbol << (12 - 2 * index);
        }
        out.extend_from_slice(&(symbols as u16).to_be_bytes());
    }
    out.extend_from_slice(&deltas);
    let padding = (4 - (out.len() - start) % 4) % 4;
    if padding > 0 {
        // The last octet of the padding counts it (RFC 3550, section 6.4.1).
        out.resize(out.len() + padding - 1, 0);
        out.push(padding as u8);
        out[start] |= 0x20;
    }
    let words = ((out.len() - start) / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

fn feedback_header(out: &mut Vec<u8>, format: u8, packet_type: u8, own_ssrc: u32, media_ssrc: u32, words: usize) {
    header(out, format, packet_type, 2 + words);
    out.extend_from_slice(&own_ssrc.to_be_bytes());
    out.extend_from_slice(&media_ssrc.to_be_bytes());
}

fn header(out: &mut Vec<u8>, count: u8, packet_type: u8, words: usize) {
    out.extend_from_slice(&[0x80 | count & 0x1f, packet_type]);
    out.extend_from_slice(&(words as u16).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nack_names_each_sequence_once_also_across_the_wrap() {
        let sequences = [65530, 65534, 65535, 0, 3, 40];
        let mut out = Vec::new();
        write_nack(&mut out, 1, 2, &sequences);
        assert_eq!(parse(&out), [Packet::Nack { media_ssrc: 2, sequences: sequences.to_vec() }]);
    }

    #[test]
    fn a_compound_is_split_into_its_packets() {
        let mut out = Vec::new();
        write_sender_report(&mut out, 5, 77, 1, 2, 3);
        write_picture_loss(&mut out, 5, 9);
        write_remb(&mut out, 5, 9, 3_000_000);
        let packets = parse(&out);
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
        assert_eq!(parse(&out), [Packet::TransportFeedback]);
    }
}
