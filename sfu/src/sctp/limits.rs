//! Limits that several parts keep.

/// Receive window, in bytes: the most a client can make us hold for reassembly, and for who takes its messages.
pub(super) const RECEIVE_WINDOW: u32 = 256 * 1024;
/// Streams that may exist at once: three channels, and room for some of other labels. `rtc-sctp` sets no limit, so a
/// client that goes beyond loses its association.
pub(super) const STREAMS_MAX: usize = 32;
/// Longest message in either direction, in bytes: what our SDP says in `a=max-message-size`.
pub const MESSAGE_BYTES_MAX: usize = 65_535;
