//! The HTTP surface over real sockets on loopback: one file for each group of routes.

#[path = "http/api.rs"]
mod api;
#[path = "http/hostile.rs"]
mod hostile;
#[path = "http/join.rs"]
mod join;
#[path = "support/joins.rs"]
mod joins;
#[path = "http/rooms.rs"]
mod rooms;
#[path = "http/server.rs"]
mod server;
#[path = "http/surface.rs"]
mod surface;
#[path = "support/workers.rs"]
mod workers;
