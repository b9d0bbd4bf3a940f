//! The chat (stream API, section 8) over real sockets: judged by the unmodified `socket.io-client`, and, where many
//! clients or bad ones are needed, by a raw client of our own.

#[path = "support/away.rs"]
mod away;
#[path = "chat/nodes.rs"]
mod nodes;
#[path = "chat/raw.rs"]
mod raw;
#[path = "chat/rules.rs"]
mod rules;
#[path = "chat/server.rs"]
mod server;
#[path = "chat/traps.rs"]
mod traps;
