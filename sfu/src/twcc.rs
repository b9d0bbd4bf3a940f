//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01).
//!
//! [`TransportCc`] reads what a subscriber says about the packets we sent; [`recorder::TwccRecorder`] remembers when a
//! publisher's packets arrived and writes the same for it. What follows from either is decided in congestion control.

pub mod recorder;

use crate::rtp::{u16_at, u32_at};

/// Resolution of arrival times on the wire.
const TICK_US: u64 = 250;
/// Symbols of a status vector chunk, by the width of a symbol.
const ONE_BIT_SYMBOLS: usize = 14;
const TWO_BIT_SYMBOLS: usize = 7;

/// What a status chunk says of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    NotReceived = 0,
    /// Delta of one byte, 0 to 63.75 ms.
    SmallDelta = 1,
    /// Delta of two bytes, signed: -8.192 to 8.191 s.
    LargeDelta = 2,
}

impl Symbol {
    /// The fourth value is reserved.
    fn from_bits(bits: u16) -> Option<Self> {
        match bits & 3 {
            0 => Some(Self::NotReceived),
            1 => Some(Self::SmallDelta),
            2 => Some(Self::LargeDelta),
            _ => None,
        }
    }

    fn delta_len(self) -> usize {
        self as usize
    }
}

/// One decoded status chunk.
#[derive(Debug, Clone, Copy)]
enum Chunk {
    Run { symbol: Symbol, len: usize },
    OneBit(u16),
    TwoBit(u16),
}

impl Chunk {
    fn parse(word: u16) -> Option<Self> {
        match (word & 0x8000, word & 0x4000) {
            (0, _) => Some(Self::Run { symbol: Symbol::from_bits(word >> 13)?, len: usize::from(word & 0x1FFF) }),
            (_, 0) => Some(Self::OneBit(word)),
            // The reserved symbol has both of its bits set.
            _ => (word & word >> 1 & 0x1555 == 0).then_some(Self::TwoBit(word)),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Run { len, .. } => len,
            Self::OneBit(_) => ONE_BIT_SYMBOLS,
            Self::TwoBit(_) => TWO_BIT_SYMBOLS,
        }
    }

    /// One of its [`len`](Self::len).
    fn symbol(self, at: usize) -> Option<Symbol> {
        match self {
            Self::Run { symbol, .. } => Some(symbol),
            Self::OneBit(word) => Symbol::from_bits(word >> (ONE_BIT_SYMBOLS - 1).checked_sub(at)? & 1),
            Self::TwoBit(word) => Symbol::from_bits(word >> (2 * (TWO_BIT_SYMBOLS - 1).checked_sub(at)?)),
        }
    }

    /// Bytes of deltas that belong to its first `len` symbols.
    fn deltas_len(self, len: usize) -> usize {
        match self {
            Self::Run { symbol, .. } => symbol.delta_len() * len,
            vector @ (Self::OneBit(_) | Self::TwoBit(_)) => {
                (0..len).filter_map(|at| vector.symbol(at)).map(Symbol::delta_len).sum()
            }
        }
    }
}

/// Feedback about packets base..base + count, complete in itself: every status has its chunk and every delta its bytes.
#[derive(Debug, Clone)]
pub struct TransportCc<'a> {
    /// SSRC of who reports.
    pub sender: u32,
    /// SSRC of a stream of the report; it is about all streams.
    pub media: u32,
    /// Transport-wide sequence number of the first packet.
    pub base_sequence: u16,
    /// How many packets it tells of, from the base number on.
    pub status_count: u16,
    /// In 64 ms, 24 bits, signed and wrapping: only differences mean something.
    pub reference_time: i32,
    /// Counts feedback packets, so that a lost one is noticed.
    pub feedback_count: u8,
    chunks: &'a [[u8; 2]],
    deltas: &'a [u8],
}

impl<'a> TransportCc<'a> {
    /// `fci`: what follows the two SSRCs. `None` if it is cut off or has a reserved status.
    pub(crate) fn parse(sender: u32, media: u32, fci: &'a [u8]) -> Option<Self> {
        let status_count = u16_at(fci, 2)?;
        let word = u32_at(fci, 4)?;
        let rest = fci.get(8..)?;
        let mut missing = usize::from(status_count);
        let (mut chunks_len, mut deltas_len) = (0, 0);
        while missing > 0 {
            let chunk = Chunk::parse(u16_at(rest, chunks_len)?)?;
            chunks_len += 2;
            let len = chunk.len().min(missing);
            deltas_len += chunk.deltas_len(len);
            missing -= len;
        }
        let (chunks, deltas) = rest.split_at_checked(chunks_len)?;
        Some(Self {
            sender,
            media,
            base_sequence: u16_at(fci, 0)?,
            status_count,
            reference_time: word as i32 >> 8,
            feedback_count: word as u8,
            chunks: chunks.as_chunks().0,
            deltas: deltas.get(..deltas_len)?,
        })
    }

    /// Status of each packet in order of sequence numbers.
    pub fn statuses(&self) -> Statuses<'a> {
        Statuses {
            chunks: self.chunks.iter(),
            chunk: None,
            at: 0,
            deltas: self.deltas,
            sequence: self.base_sequence,
            missing: self.status_count,
            arrival_us: i64::from(self.reference_time) * 64_000,
        }
    }
}

/// What the receiver says of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketStatus {
    /// Transport-wide sequence number.
    pub sequence: u16,
    /// On the receiver's clock, in µs from an origin of its own; `None`: not received.
    pub arrival_us: Option<i64>,
}

/// Statuses of one feedback packet.
#[derive(Debug, Clone)]
pub struct Statuses<'a> {
    chunks: std::slice::Iter<'a, [u8; 2]>,
    chunk: Option<Chunk>,
    /// Next symbol of the chunk.
    at: usize,
    deltas: &'a [u8],
    sequence: u16,
    missing: u16,
    arrival_us: i64,
}

impl Statuses<'_> {
    fn next_symbol(&mut self) -> Option<Symbol> {
        loop {
            if let Some(symbol) = self.chunk.filter(|chunk| self.at < chunk.len()).and_then(|c| c.symbol(self.at)) {
                self.at += 1;
                return Some(symbol);
            }
            self.chunk = Some(Chunk::parse(u16::from_be_bytes(*self.chunks.next()?))?);
            self.at = 0;
        }
    }

    /// In ticks.
    fn next_delta(&mut self, symbol: Symbol) -> Option<i64> {
        let (delta, rest) = match (symbol, self.deltas) {
            (Symbol::SmallDelta, [delta, rest @ ..]) => (i64::from(*delta), rest),
            (Symbol::LargeDelta, [high, low, rest @ ..]) => (i64::from(i16::from_be_bytes([*high, *low])), rest),
            _ => return None,
        };
        self.deltas = rest;
        Some(delta)
    }
}

impl Iterator for Statuses<'_> {
    type Item = PacketStatus;

    fn next(&mut self) -> Option<PacketStatus> {
        self.missing = self.missing.checked_sub(1)?;
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let symbol = self.next_symbol()?;
        if symbol == Symbol::NotReceived {
            return Some(PacketStatus { sequence, arrival_us: None });
        }
        self.arrival_us += self.next_delta(symbol)? * TICK_US as i64;
        Some(PacketStatus { sequence, arrival_us: Some(self.arrival_us) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_status_is_refused() {
        let fci = |chunk: [u8; 2]| [0, 1, 0, 1, 0, 0, 0, 0, chunk[0], chunk[1], 9, 9].to_vec();
        assert!(TransportCc::parse(1, 2, &fci([0x20, 1])).is_some());
        assert!(TransportCc::parse(1, 2, &fci([0x60, 1])).is_none());
        assert!(TransportCc::parse(1, 2, &fci([0xF0, 0])).is_none());
    }

    #[test]
    fn missing_chunks_or_deltas_are_refused() {
        assert!(TransportCc::parse(1, 2, &[0, 1, 0, 2, 0, 0, 0, 0, 0x20, 1, 9]).is_none());
        assert!(TransportCc::parse(1, 2, &[0, 1, 0, 2, 0, 0, 0, 0, 0x20, 2, 9]).is_none());
        assert!(TransportCc::parse(1, 2, &[0, 1, 0, 2, 0, 0, 0, 0, 0x20, 2, 9, 9]).is_some());
    }
}
