//! What data channels drop on arrival.

/// What was dropped of what a client sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DataDiscards {
    /// Messages longer than [`super::MESSAGE_BYTES_MAX`].
    pub too_long: u64,
    /// Messages on streams that are none of our channels.
    pub unknown_channel: u64,
    /// Messages beyond what is kept unfetched.
    pub overflow: u64,
    /// Packets and DCEP messages that make no sense.
    pub malformed: u64,
    /// Packets with data far beyond the receive window. What is reliable is sent again.
    pub beyond_window: u64,
}

impl DataDiscards {
    /// All of them.
    pub fn total(self) -> u64 {
        let Self { too_long, unknown_channel, overflow, malformed, beyond_window } = self;
        too_long + unknown_channel + overflow + malformed + beyond_window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_dropped_is_among_the_total() {
        let all =
            DataDiscards { too_long: 1, unknown_channel: 10, overflow: 100, malformed: 1_000, beyond_window: 10_000 };
        assert_eq!(all.total(), 11_111);
        assert_eq!(DataDiscards::default().total(), 0);
    }
}
