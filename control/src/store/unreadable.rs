//! Rows and documents of lists that cannot be read, damaged or written by somebody else. They are passed over, so that
//! one of them hides no others and keeps no server from starting.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use shared::log_limit::LogLimit;

static PASSED_OVER: AtomicU64 = AtomicU64::new(0);
static LOG: LogLimit = LogLimit::new();

/// Says which one it is, so that an operator can mend or remove it.
pub(super) fn pass_over(collection: &str, id: &str, error: &dyn Display) {
    PASSED_OVER.fetch_add(1, Ordering::Relaxed);
    if let Some(left_out) = LOG.admit(Instant::now()) {
        tracing::error!(collection, id, %error, left_out, "this cannot be read, and is passed over: mend or remove it");
    }
}

/// How often one was met in this process, for metrics.
pub fn passed_over() -> u64 {
    PASSED_OVER.load(Ordering::Relaxed)
}
