//! What the packet path costs: step by step, against the kernel's floor, and against other servers.
//!
//! - [`broadcast`]: an engine with one publisher and many subscribers, without sockets
//! - [`floor`]: the least that sending the same packets costs on this machine, this minute
//! - [`compare`]: two servers in turns under the same load
//! - [`page`]: the tables of the page, from committed results
//! - [`profile`]: where a worker's time goes
//!
//! `benches/path.rs` measures the single steps.

pub mod broadcast;
pub mod clock;
pub mod compare;
pub mod floor;
pub mod machine;
pub mod page;
pub mod profile;
pub mod receivers;
pub mod runs;
pub mod stream;
pub mod summary;
