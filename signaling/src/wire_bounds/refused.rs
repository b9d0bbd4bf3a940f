//! Messages that were not decoded for what they would cost: why, and how many.

use std::sync::atomic::{AtomicU64, Ordering};

/// How deep messages may nest. LiveKit's nest up to seven deep.
pub const DEPTH_MAX: usize = 16;

/// Why a message was not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it cannot be decoded")]
    Malformed,
    #[error("longer than {0} bytes")]
    Bytes(usize),
    #[error("more than {0} elements")]
    Elements(usize),
    #[error("more than {0} bytes of memory")]
    Memory(usize),
    #[error("nested too deep")]
    Depth,
}

/// Where a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Signal,
    Join,
    Api,
    Data,
}

/// Messages refused in this process, by source and by bound, in the order of [`SOURCES`] and [`BOUNDS`].
static REFUSED: [[AtomicU64; 4]; 4] = [const { [const { AtomicU64::new(0) }; 4] }; 4];

const SOURCES: [&str; 4] = ["signal", "join", "api", "data"];

const BOUNDS: [&str; 4] = ["bytes", "elements", "memory", "depth"];

/// How many messages were refused for what they would cost: source, bound, count.
pub fn refused() -> impl Iterator<Item = (&'static str, &'static str, u64)> {
    SOURCES.iter().zip(&REFUSED).flat_map(|(source, counts)| {
        BOUNDS.iter().zip(counts).map(|(bound, count)| (*source, *bound, count.load(Ordering::Relaxed)))
    })
}

impl Refused {
    /// What cannot be decoded is counted where its connection ends.
    pub(crate) fn count(self, source: Source) -> Self {
        let bound = match self {
            Refused::Malformed => return self,
            Refused::Bytes(_) => 0,
            Refused::Elements(_) => 1,
            Refused::Memory(_) => 2,
            Refused::Depth => 3,
        };
        REFUSED[source as usize][bound].fetch_add(1, Ordering::Relaxed);
        self
    }
}
