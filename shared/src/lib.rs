//! Names that two floors of Onair must agree on, and what both do alike. No behaviour of a floor.

pub mod histogram;
pub mod id;
pub mod log_limit;
pub mod media;
pub mod rate;
