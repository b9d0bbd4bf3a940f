//! Why the store did not do what it was asked for.

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// There is no such document.
    #[error("not found")]
    NotFound,
    /// It cannot be reached, or not in time. The text is for the log, never for clients.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// It answered with something that has no place here: a mistake of ours, or damaged data.
    #[error("the store failed: {0}")]
    Failed(String),
}

pub type Result<T, E = StoreError> = std::result::Result<T, E>;
