//! Ways on which datagrams reach a client.

use std::net::SocketAddr;

/// What carries a client's datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// By the index of our socket.
    Udp(u8),
    /// ICE-TCP (RFC 6544), by the index of the connection.
    Tcp(u32),
}

/// A way to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// The client's address.
    pub remote: SocketAddr,
    /// What carries datagrams there.
    pub via: Via,
}
