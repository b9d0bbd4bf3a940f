//! What happens at the listeners.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};

use shared::log_limit::LogLimit;

use super::message::Messages;

/// What happened at the listeners, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that were not served: their address had its share, or all others were at work.
    pub refused_share: AtomicU64,
    pub refused_full: AtomicU64,
    /// Or few descriptors were left.
    pub refused_descriptors: AtomicU64,
    /// Heads given up: beyond `HEADS_BYTES_MAX`, or too slow.
    pub over_budget: AtomicU64,
    pub slow_heads: AtomicU64,
    /// Times that no connection was accepted for want of file descriptors.
    pub accept_pauses: AtomicU64,
    /// Of unfinished heads, now.
    pub(super) head_bytes: AtomicUsize,
    pub messages: Arc<Messages>,
    pub(super) accept_log: LogLimit,
}
