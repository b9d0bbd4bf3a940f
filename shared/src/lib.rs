//! Names that two floors of Onair must agree on. Types only, no behaviour of a floor.

pub mod id;
pub mod media;
