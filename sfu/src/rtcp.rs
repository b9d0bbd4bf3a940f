//! RTCP: compound packets read in place, and the few packets we send (RFC 3550, 4585, 5104,
//! draft-alvestrand-rmcat-remb).
//!
//! Reading is lenient to what it does not know ([`Feedback::Other`]) and strict about bounds: once a length field leads
//! outside the datagram, nothing after it is believed. Feedback for congestion control is in [`crate::twcc`].

use crate::rtp::{u16_at, u32_at};
use crate::twcc::TransportCc;

/// Packet types (RFC 3550, section 12.1; RFC 4585, section 6.1).
pub mod packet_type {
    /// SR.
    pub const SENDER_REPORT: u8 = 200;
    /// RR.
    pub const RECEIVER_REPORT: u8 = 201;
    /// SDES.
    pub const SOURCE_DESCRIPTION: u8 = 202;
    /// BYE.
    pub const BYE: u8 = 203;
    /// RTPFB.
    pub const TRANSPORT_FEEDBACK: u8 = 205;
    /// PSFB.
    pub const PAYLOAD_FEEDBACK: u8 = 206;
}

/// Formats of transport layer feedback.
const FMT_NACK: u8 = 1;
pub(crate) const FMT_TRANSPORT_CC: u8 = 15;
/// Formats of payload-specific feedback.
const FMT_PLI: u8 = 1;
const FMT_FIR: u8 = 4;
const FMT_APPLICATION: u8 = 15;

const HEADER_LEN: usize = 4;
const SENDER_INFO_LEN: usize = 20;
const BLOCK_LEN: usize = 24;
/// The count field of a header has five bits.
const BLOCKS_MAX: usize = 31;
/// Pairs of one NACK, so that it stays well inside a datagram: up to 4,352 lost packets.
const NACK_PAIRS_MAX: usize = 256;

/// Why a part of a compound packet was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtcpError {
    /// Another version, or a length or padding that leads outside: the rest of the compound is not read.
    #[error("RTCP packet is cut off, badly padded, or not version 2")]
    Framing,
    /// A body too short for its type; the packets after it are still read.
    #[error("RTCP packet of type {0} is malformed")]
    Malformed(u8),
}

/// One packet of a compound.
#[derive(Debug, Clone)]
pub enum Feedback<'a> {
    /// What a sender sent, and what it received (RFC 3550, section 6.4.1).
    SenderReport(SenderReport, ReportBlocks<'a>),
    /// What somebody received (RFC 3550, section 6.4.2).
    ReceiverReport {
        /// Who reports.
        ssrc: u32,
        /// A block a stream.
        blocks: ReportBlocks<'a>,
    },
    /// Lost packets of a stream (RFC 4585, section 6.2.1).
    Nack {
        /// Who asks.
        sender: u32,
        /// SSRC of the stream.
        media: u32,
        /// The sequence numbers.
        pairs: NackPairs<'a>,
    },
    /// A picture was lost (RFC 4585, section 6.3.1).
    Pli {
        /// SSRC of the stream.
        media: u32,
    },
    /// Key frames are needed (RFC 5104, section 4.3.1).
    Fir {
        /// Who asks.
        sender: u32,
        /// A request a stream.
        entries: FirEntries<'a>,
    },
    /// Arrival times of packets by their transport-wide numbers.
    TransportCc(TransportCc<'a>),
    /// Highest bitrate that the receiver thinks it can take (draft-alvestrand-rmcat-remb).
    Remb {
        /// In bits a second.
        bitrate_bps: u64,
        /// The streams that it is for, together.
        ssrcs: Ssrcs<'a>,
    },
    /// These streams end.
    Bye(Ssrcs<'a>),
    /// Packet type of something well-formed that we do not use.
    Other(u8),
}

/// Sender info of a sender report (RFC 3550, section 6.4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SenderReport {
    /// The sender's.
    pub ssrc: u32,
    /// Seconds since 1900 in the upper half, fraction of a second in the lower.
    pub ntp: u64,
    /// The same moment on the stream's RTP clock.
    pub rtp: u32,
    /// Packets sent until now.
    pub packets: u32,
    /// Payload octets, headers and padding not counted.
    pub octets: u32,
}

/// What a receiver says of one stream (RFC 3550, section 6.4.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// SSRC of the stream.
    pub ssrc: u32,
    /// Loss since the last report, in 1/256.
    pub fraction_lost: u8,
    /// 24 bits, signed: duplicates make it negative. Clamped when written.
    pub cumulative_lost: i32,
    /// Extended highest sequence number.
    pub highest_sequence: u32,
    /// In ticks of the stream's RTP clock.
    pub jitter: u32,
    /// Middle 32 bits of the last sender report's NTP time; 0 if there was none.
    pub last_sr: u32,
    /// In 1/65536 s.
    pub delay_since_last_sr: u32,
}

/// One request of a FIR (RFC 5104, section 4.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirEntry {
    /// SSRC of the stream.
    pub media: u32,
    /// Repeated with the same number, it is the same request.
    pub sequence: u8,
}

/// Reads a compound packet, reduced-size ones (RFC 5506) included. After [`RtcpError::Framing`] it ends.
pub fn parse(compound: &[u8]) -> Packets<'_> {
    Packets { rest: compound }
}

/// Packets of a compound, in order.
#[derive(Debug, Clone)]
pub struct Packets<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Packets<'a> {
    type Item = Result<Feedback<'a>, RtcpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match split_packet(self.rest) {
            Some((header, body, rest)) => {
                self.rest = rest;
                Some(parse_body(header, body).ok_or(RtcpError::Malformed(header.packet_type)))
            }
            None => {
                self.rest = &[];
                Some(Err(RtcpError::Framing))
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Header {
    /// Count of blocks or sources, or the feedback format.
    count: u8,
    packet_type: u8,
}

/// Header, body without padding, and what follows of the first packet.
fn split_packet(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let first = *bytes.first()?;
    if first >> 6 != 2 {
        return None;
    }
    let header = Header { count: first & 0x1F, packet_type: *bytes.get(1)? };
    let len = HEADER_LEN + 4 * usize::from(u16_at(bytes, 2)?);
    let (packet, rest) = bytes.split_at_checked(len)?;
    let body = packet.get(HEADER_LEN..)?;
    Some((header, if first & 0x20 != 0 { without_padding(body)? } else { body }, rest))
}

/// The last byte counts the padding, itself included (RFC 3550, section 6.4.1).
fn without_padding(body: &[u8]) -> Option<&[u8]> {
    let padding = usize::from(*body.last()?);
    let len = body.len().checked_sub(padding).filter(|_| padding > 0)?;
    body.get(..len)
}

fn parse_body(header: Header, body: &[u8]) -> Option<Feedback<'_>> {
    match (header.packet_type, header.count) {
        (packet_type::SENDER_REPORT, count) => {
            let report = parse_sender_info(body)?;
            Some(Feedback::SenderReport(report, ReportBlocks::of(body.get(4 + SENDER_INFO_LEN..)?, count)?))
        }
        (packet_type::RECEIVER_REPORT, count) => {
            let blocks = ReportBlocks::of(body.get(4..)?, count)?;
            Some(Feedback::ReceiverReport { ssrc: u32_at(body, 0)?, blocks })
        }
        (packet_type::BYE, count) => Some(Feedback::Bye(Ssrcs::of(body.get(..4 * usize::from(count))?))),
        (packet_type::TRANSPORT_FEEDBACK, FMT_NACK) => {
            let (sender, media, fci) = split_feedback(body)?;
            Some(Feedback::Nack { sender, media, pairs: NackPairs::of(fci)? })
        }
        (packet_type::TRANSPORT_FEEDBACK, FMT_TRANSPORT_CC) => {
            let (sender, media, fci) = split_feedback(body)?;
            Some(Feedback::TransportCc(TransportCc::parse(sender, media, fci)?))
        }
        (packet_type::PAYLOAD_FEEDBACK, FMT_PLI) => Some(Feedback::Pli { media: split_feedback(body)?.1 }),
        (packet_type::PAYLOAD_FEEDBACK, FMT_FIR) => {
            let (sender, _, fci) = split_feedback(body)?;
            Some(Feedback::Fir { sender, entries: FirEntries::of(fci)? })
        }
        (packet_type::PAYLOAD_FEEDBACK, FMT_APPLICATION) => parse_application(split_feedback(body)?.2),
        (other, _) => Some(Feedback::Other(other)),
    }
}

fn parse_sender_info(body: &[u8]) -> Option<SenderReport> {
    Some(SenderReport {
        ssrc: u32_at(body, 0)?,
        ntp: u64::from(u32_at(body, 4)?) << 32 | u64::from(u32_at(body, 8)?),
        rtp: u32_at(body, 12)?,
        packets: u32_at(body, 16)?,
        octets: u32_at(body, 20)?,
    })
}

/// Sender, media source and feedback control information (RFC 4585, section 6.1).
fn split_feedback(body: &[u8]) -> Option<(u32, u32, &[u8])> {
    Some((u32_at(body, 0)?, u32_at(body, 4)?, body.get(8..)?))
}

/// REMB, or another application's message. A bitrate beyond 64 bits is taken as the highest.
fn parse_application(fci: &[u8]) -> Option<Feedback<'_>> {
    let Some(rest) = fci.strip_prefix(b"REMB") else {
        return Some(Feedback::Other(packet_type::PAYLOAD_FEEDBACK));
    };
    let word = u32_at(rest, 0)?;
    let count = (word >> 24) as usize;
    let exponent = word >> 18 & 0x3F;
    let mantissa = u64::from(word & 0x3_FFFF);
    let bitrate_bps = if mantissa.leading_zeros() >= exponent { mantissa << exponent } else { u64::MAX };
    Some(Feedback::Remb { bitrate_bps, ssrcs: Ssrcs::of(rest.get(4..4 + 4 * count)?) })
}

/// Report blocks of a sender or receiver report.
#[derive(Debug, Clone)]
pub struct ReportBlocks<'a>(std::slice::Iter<'a, [u8; BLOCK_LEN]>);

impl<'a> ReportBlocks<'a> {
    /// Profile-specific extensions after the last block are ignored (RFC 3550, section 6.4.3).
    fn of(bytes: &'a [u8], count: u8) -> Option<Self> {
        Some(Self(bytes.as_chunks().0.get(..usize::from(count))?.iter()))
    }
}

impl Iterator for ReportBlocks<'_> {
    type Item = ReportBlock;

    fn next(&mut self) -> Option<ReportBlock> {
        let block = self.0.next()?;
        // Shifted up and down again to extend the sign of 24 bits.
        let cumulative = u32_at(block, 4)? << 8;
        Some(ReportBlock {
            ssrc: u32_at(block, 0)?,
            fraction_lost: block[4],
            cumulative_lost: cumulative as i32 >> 8,
            highest_sequence: u32_at(block, 8)?,
            jitter: u32_at(block, 12)?,
            last_sr: u32_at(block, 16)?,
            delay_since_last_sr: u32_at(block, 20)?,
        })
    }
}

/// Lost sequence numbers of a NACK, one by one (RFC 4585, section 6.2.1). A sender may name a number twice.
#[derive(Debug, Clone)]
pub struct NackPairs<'a> {
    pairs: std::slice::Iter<'a, [u8; 4]>,
    /// Number that the lowest bit of `following` stands for.
    next: u16,
    /// 17 bits: the pair's own number, then those of its bitmask.
    following: u32,
}

impl<'a> NackPairs<'a> {
    fn of(fci: &'a [u8]) -> Option<Self> {
        match fci.as_chunks() {
            (pairs, []) => Some(Self { pairs: pairs.iter(), next: 0, following: 0 }),
            _ => None,
        }
    }
}

impl Iterator for NackPairs<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.following == 0 {
            let [p0, p1, m0, m1] = *self.pairs.next()?;
            self.next = u16::from_be_bytes([p0, p1]);
            self.following = u32::from(u16::from_be_bytes([m0, m1])) << 1 | 1;
        }
        let skip = self.following.trailing_zeros();
        let lost = self.next.wrapping_add(skip as u16);
        self.following >>= skip + 1;
        self.next = lost.wrapping_add(1);
        Some(lost)
    }
}

/// Requests of a FIR.
#[derive(Debug, Clone)]
pub struct FirEntries<'a>(std::slice::Iter<'a, [u8; 8]>);

impl<'a> FirEntries<'a> {
    fn of(fci: &'a [u8]) -> Option<Self> {
        match fci.as_chunks() {
            (entries, []) => Some(Self(entries.iter())),
            _ => None,
        }
    }
}

impl Iterator for FirEntries<'_> {
    type Item = FirEntry;

    fn next(&mut self) -> Option<FirEntry> {
        let [m0, m1, m2, m3, sequence, ..] = *self.0.next()?;
        Some(FirEntry { media: u32::from_be_bytes([m0, m1, m2, m3]), sequence })
    }
}

/// A list of SSRCs.
#[derive(Debug, Clone)]
pub struct Ssrcs<'a>(std::slice::Iter<'a, [u8; 4]>);

impl<'a> Ssrcs<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0.iter())
    }
}

impl Iterator for Ssrcs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0.next().map(|word| u32::from_be_bytes(*word))
    }
}

/// Appends one packet: `write_body` appends what follows the header, which is padded with zeros to whole words.
pub(crate) fn write_packet(out: &mut Vec<u8>, count: u8, packet_type: u8, write_body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0x80 | count & 0x1F, packet_type, 0, 0]);
    write_body(out);
    let len = (out.len() - start).next_multiple_of(4);
    out.resize(start + len, 0);
    let words = u16::try_from(len / 4 - 1).expect("every writer here bounds its body far below 256 KiB");
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

fn put_u32(out: &mut Vec<u8>, word: u32) {
    out.extend_from_slice(&word.to_be_bytes());
}

/// Appends a sender report. Blocks beyond 31 do not fit and are left out.
pub fn write_sender_report(out: &mut Vec<u8>, report: &SenderReport, blocks: &[ReportBlock]) {
    let blocks = &blocks[..blocks.len().min(BLOCKS_MAX)];
    write_packet(out, blocks.len() as u8, packet_type::SENDER_REPORT, |out| {
        put_u32(out, report.ssrc);
        out.extend_from_slice(&report.ntp.to_be_bytes());
        put_u32(out, report.rtp);
        put_u32(out, report.packets);
        put_u32(out, report.octets);
        blocks.iter().for_each(|block| write_block(out, block));
    });
}

/// Appends a receiver report. Blocks beyond 31 do not fit and are left out.
pub fn write_receiver_report(out: &mut Vec<u8>, ssrc: u32, blocks: &[ReportBlock]) {
    let blocks = &blocks[..blocks.len().min(BLOCKS_MAX)];
    write_packet(out, blocks.len() as u8, packet_type::RECEIVER_REPORT, |out| {
        put_u32(out, ssrc);
        blocks.iter().for_each(|block| write_block(out, block));
    });
}

fn write_block(out: &mut Vec<u8>, block: &ReportBlock) {
    let lost = block.cumulative_lost.clamp(-0x80_0000, 0x7F_FFFF) as u32 & 0xFF_FFFF;
    put_u32(out, block.ssrc);
    put_u32(out, u32::from(block.fraction_lost) << 24 | lost);
    put_u32(out, block.highest_sequence);
    put_u32(out, block.jitter);
    put_u32(out, block.last_sr);
    put_u32(out, block.delay_since_last_sr);
}

/// Appends a source description with the CNAME only (RFC 3550, section 6.5.1), cut to 255 bytes.
pub fn write_sdes_cname(out: &mut Vec<u8>, ssrc: u32, cname: &str) {
    const ITEM_CNAME: u8 = 1;
    let cname = &cname[..cname.floor_char_boundary(255)];
    write_packet(out, 1, packet_type::SOURCE_DESCRIPTION, |out| {
        put_u32(out, ssrc);
        out.extend_from_slice(&[ITEM_CNAME, cname.len() as u8]);
        out.extend_from_slice(cname.as_bytes());
        // At least one zero ends the list of items; padding to a whole word may add more.
        out.push(0);
    });
}

/// Appends a NACK for lost sequence numbers, which must be ascending (across the wrap). Appends nothing if there are
/// none, and leaves out what 256 pairs cannot name.
pub fn write_nack(out: &mut Vec<u8>, sender: u32, media: u32, lost: impl Iterator<Item = u16>) {
    let mut lost = lost.peekable();
    if lost.peek().is_none() {
        return;
    }
    write_packet(out, FMT_NACK, packet_type::TRANSPORT_FEEDBACK, |out| {
        put_u32(out, sender);
        put_u32(out, media);
        for _ in 0..NACK_PAIRS_MAX {
            let Some(first) = lost.next() else { break };
            let mut following = 0u16;
            while let Some(next) = lost.next_if(|next| next.wrapping_sub(first) <= 16) {
                // The same number again adds nothing.
                following |= 1u16.checked_shl(u32::from(next.wrapping_sub(first)).wrapping_sub(1)).unwrap_or(0);
            }
            out.extend_from_slice(&first.to_be_bytes());
            out.extend_from_slice(&following.to_be_bytes());
        }
    });
}

/// Appends a picture loss indication (RFC 4585, section 6.3.1).
pub fn write_pli(out: &mut Vec<u8>, sender: u32, media: u32) {
    write_packet(out, FMT_PLI, packet_type::PAYLOAD_FEEDBACK, |out| {
        put_u32(out, sender);
        put_u32(out, media);
    });
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rtc_rtcp::goodbye::Goodbye;
    use rtc_rtcp::packet::Packet;
    use rtc_rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
    use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
    use rtc_rtcp::payload_feedbacks::receiver_estimated_maximum_bitrate::ReceiverEstimatedMaximumBitrate;
    use rtc_rtcp::reception_report::ReceptionReport;
    use rtc_rtcp::source_description::{SdesType, SourceDescription};
    use rtc_rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;
    use rtc_shared::marshal::Marshal;

    use super::*;

    type OracleSr = rtc_rtcp::sender_report::SenderReport;
    type OracleRr = rtc_rtcp::receiver_report::ReceiverReport;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    /// The oracle's view of what we wrote, which must be a single packet of this type.
    fn oracle<T: Packet + Clone + 'static>(bytes: &[u8]) -> T {
        let packets = rtc_rtcp::packet::unmarshal(&mut &bytes[..]).expect("the oracle reads it");
        assert_eq!(packets.len(), 1);
        packets[0].as_any().downcast_ref::<T>().expect("of this type").clone()
    }

    fn only(bytes: &[u8]) -> Feedback<'_> {
        let mut packets = parse(bytes);
        let first = packets.next().expect("one packet").expect("well-formed");
        assert!(packets.next().is_none());
        first
    }

    fn same(ours: &ReportBlock, theirs: &ReceptionReport) -> bool {
        ours.ssrc == theirs.ssrc
            && ours.fraction_lost == theirs.fraction_lost
            && ours.cumulative_lost as u32 & 0xFF_FFFF == theirs.total_lost
            && ours.highest_sequence == theirs.last_sequence_number
            && ours.jitter == theirs.jitter
            && ours.last_sr == theirs.last_sender_report
            && ours.delay_since_last_sr == theirs.delay
    }

    prop_compose! {
        fn block()(words: [u32; 5], fraction_lost: u8, cumulative_lost in -0x80_0000i32..0x80_0000) -> ReportBlock {
            let [ssrc, highest_sequence, jitter, last_sr, delay_since_last_sr] = words;
            ReportBlock { ssrc, fraction_lost, cumulative_lost, highest_sequence, jitter, last_sr, delay_since_last_sr }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
            crate::fuzzing::rtcp(&bytes);
        }

        /// Random bytes rarely get past the header: here it is right, and the body is not.
        #[test]
        fn any_body_is_read_without_a_panic(count in 0u8..32, packet_type in 199u8..210, body in vec(any::<u8>(), 0..120)) {
            crate::fuzzing::rtcp(&written(|out| write_packet(out, count, packet_type, |out| out.extend(&body))));
        }

        #[test]
        fn sender_reports_mean_the_same_to_the_oracle(words: [u32; 4], ntp: u64, blocks in vec(block(), 0..31)) {
            let report = SenderReport { ssrc: words[0], ntp, rtp: words[1], packets: words[2], octets: words[3] };
            let bytes = written(|out| write_sender_report(out, &report, &blocks));
            let theirs: OracleSr = oracle(&bytes);
            prop_assert_eq!(
                (theirs.ssrc, theirs.ntp_time, theirs.rtp_time, theirs.packet_count, theirs.octet_count),
                (report.ssrc, ntp, report.rtp, report.packets, report.octets)
            );
            prop_assert_eq!(theirs.reports.len(), blocks.len());
            prop_assert!(blocks.iter().zip(&theirs.reports).all(|(a, b)| same(a, b)));
            let Feedback::SenderReport(read, read_blocks) = only(&bytes) else { panic!("a sender report") };
            prop_assert_eq!(read, report);
            prop_assert_eq!(read_blocks.collect::<Vec<_>>(), blocks);
        }

        #[test]
        fn receiver_reports_mean_the_same_to_the_oracle(ssrc: u32, blocks in vec(block(), 0..31)) {
            let bytes = written(|out| write_receiver_report(out, ssrc, &blocks));
            let theirs: OracleRr = oracle(&bytes);
            prop_assert_eq!(theirs.ssrc, ssrc);
            prop_assert!(blocks.iter().zip(&theirs.reports).all(|(a, b)| same(a, b)));
            let Feedback::ReceiverReport { ssrc: read, blocks: read_blocks } = only(&bytes) else { panic!("a report") };
            prop_assert_eq!(read, ssrc);
            prop_assert_eq!(read_blocks.collect::<Vec<_>>(), blocks);
        }

        #[test]
        fn nacks_name_the_same_numbers_to_the_oracle(first: u16, steps in vec(1u16..40, 0..200)) {
            let mut number = first;
            let lost: Vec<u16> = steps.iter().map(|step| { number = number.wrapping_add(*step); number }).collect();
            let bytes = written(|out| write_nack(out, 1, 2, lost.iter().copied()));
            if lost.is_empty() {
                prop_assert!(bytes.is_empty());
                return Ok(());
            }
            let theirs: TransportLayerNack = oracle(&bytes);
            prop_assert_eq!((theirs.sender_ssrc, theirs.media_ssrc), (1, 2));
            prop_assert_eq!(&theirs.nacks.iter().flat_map(|pair| pair.packet_list()).collect::<Vec<_>>(), &lost);
            let Feedback::Nack { sender: 1, media: 2, pairs } = only(&bytes) else { panic!("a NACK") };
            prop_assert_eq!(pairs.collect::<Vec<_>>(), lost);
        }

        /// What the oracle writes, we read as it was meant.
        #[test]
        fn bitrates_of_the_oracle_are_read(bitrate in 1_000f32..1e12, ssrcs in vec(any::<u32>(), 0..20)) {
            let remb = ReceiverEstimatedMaximumBitrate { sender_ssrc: 1, bitrate, ssrcs: ssrcs.clone() };
            let bytes = rtc_rtcp::packet::marshal(&[Box::new(remb)]).unwrap();
            let Feedback::Remb { bitrate_bps, ssrcs: read } = only(&bytes) else { panic!("a REMB") };
            // Eighteen bits of mantissa.
            prop_assert!((bitrate_bps as f64 / f64::from(bitrate) - 1.0).abs() < 1e-5);
            prop_assert_eq!(read.collect::<Vec<_>>(), ssrcs);
        }
    }

    #[test]
    fn a_cname_reaches_the_oracle_whatever_its_length() {
        for length in [0, 1, 2, 3, 4, 5, 254, 255] {
            let cname = "c".repeat(length);
            let theirs: SourceDescription = oracle(&written(|out| write_sdes_cname(out, 7, &cname)));
            assert_eq!(theirs.chunks[0].source, 7);
            assert_eq!(theirs.chunks[0].items[0].sdes_type, SdesType::SdesCname);
            assert_eq!(theirs.chunks[0].items[0].text, cname);
        }
        let bytes = written(|out| write_sdes_cname(out, 7, &"ä".repeat(200)));
        assert_eq!(oracle::<SourceDescription>(&bytes).chunks[0].items[0].text.len(), 254);
    }

    #[test]
    fn keyframe_requests_and_byes_mean_the_same_to_the_oracle() {
        let bytes = written(|out| write_pli(out, 1, 2));
        let theirs: PictureLossIndication = oracle(&bytes);
        assert_eq!((theirs.sender_ssrc, theirs.media_ssrc), (1, 2));
        assert!(matches!(only(&bytes), Feedback::Pli { media: 2 }));

        let entry = |ssrc, sequence_number| FirEntry { ssrc, sequence_number };
        let fir = FullIntraRequest { sender_ssrc: 1, media_ssrc: 0, fir: vec![entry(2, 3), entry(4, 255)] };
        let bytes = fir.marshal().unwrap();
        let Feedback::Fir { sender: 1, entries } = only(&bytes) else { panic!("a FIR") };
        let entries: Vec<_> = entries.map(|entry| (entry.media, entry.sequence)).collect();
        assert_eq!(entries, [(2, 3), (4, 255)]);

        let bytes = Goodbye { sources: vec![9, 8], reason: "bye".into() }.marshal().unwrap();
        let Feedback::Bye(ssrcs) = only(&bytes) else { panic!("a BYE") };
        assert_eq!(ssrcs.collect::<Vec<_>>(), [9, 8]);
    }

    #[test]
    fn a_compound_is_read_in_order_and_unknown_packets_are_named() {
        let bytes = written(|out| {
            write_receiver_report(out, 1, &[]);
            write_sdes_cname(out, 1, "c");
            write_packet(out, 2, 207, |out| put_u32(out, 1));
            write_pli(out, 1, 2);
        });
        let read: Vec<_> = parse(&bytes).map(Result::unwrap).collect();
        assert!(matches!(
            read[..],
            [
                Feedback::ReceiverReport { ssrc: 1, .. },
                Feedback::Other(packet_type::SOURCE_DESCRIPTION),
                Feedback::Other(207),
                Feedback::Pli { media: 2 }
            ]
        ));
    }

    #[test]
    fn a_malformed_body_does_not_hide_what_follows() {
        let bytes = written(|out| {
            write_packet(out, 1, packet_type::RECEIVER_REPORT, |out| put_u32(out, 1));
            write_pli(out, 1, 2);
        });
        let read: Vec<_> = parse(&bytes).collect();
        assert!(matches!(read[..], [Err(RtcpError::Malformed(201)), Ok(Feedback::Pli { media: 2 })]));
    }

    #[test]
    fn after_a_length_that_leads_outside_nothing_is_read() {
        let mut bytes = written(|out| write_pli(out, 1, 2));
        bytes.extend([0x81, 206, 0, 3, 0, 0, 0, 0]);
        let read: Vec<_> = parse(&bytes).collect();
        assert!(matches!(read[..], [Ok(Feedback::Pli { media: 2 }), Err(RtcpError::Framing)]));
    }

    #[test]
    fn padding_is_cut_off() {
        let padded = [0xA1, 203, 0, 2, 0, 0, 0, 9, 0, 0, 0, 4];
        assert!(matches!(only(&padded), Feedback::Bye(ssrcs) if ssrcs.clone().eq([9])));
        for nonsense in [0, 9] {
            let mut bytes = padded;
            bytes[11] = nonsense;
            assert!(matches!(parse(&bytes).next(), Some(Err(RtcpError::Framing))));
        }
    }

    #[test]
    fn a_bitrate_beyond_64_bits_is_the_highest() {
        let bytes = written(|out| {
            write_packet(out, FMT_APPLICATION, packet_type::PAYLOAD_FEEDBACK, |out| {
                out.extend([0; 8]);
                out.extend(b"REMB");
                out.extend([0, 0xFF, 0xFF, 0xFF]);
            });
        });
        assert!(matches!(only(&bytes), Feedback::Remb { bitrate_bps: u64::MAX, .. }));
    }

    #[test]
    fn a_nack_stops_at_what_a_datagram_holds() {
        let bytes = written(|out| write_nack(out, 1, 2, (0..u16::MAX).step_by(17)));
        let Feedback::Nack { pairs, .. } = only(&bytes) else { panic!("a NACK") };
        assert_eq!(pairs.count(), NACK_PAIRS_MAX);
    }
}
