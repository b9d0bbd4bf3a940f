//! The chat (stream API, section 8) over real sockets: judged by the unmodified `socket.io-client`, and, where many
//! clients or bad ones are needed, by a raw client of our own.

#[path = "support/mongo.rs"]
#[expect(dead_code, reason = "tests of outages of MongoDB itself are elsewhere")]
mod mongo;
#[path = "chat/nodes.rs"]
mod nodes;
#[path = "support/ports.rs"]
mod ports;
#[path = "chat/raw.rs"]
mod raw;
#[path = "chat/rules.rs"]
mod rules;
#[path = "chat/server.rs"]
mod server;
#[path = "support/stores.rs"]
mod stores;
#[path = "support/switched_store.rs"]
mod switched_store;
#[path = "chat/traps.rs"]
mod traps;
