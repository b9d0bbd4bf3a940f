//! The shell around the engines: threads, sockets, the clock. The only part with `unsafe`.

use std::net::IpAddr;

use crate::certificate::Certificate;
use crate::command::{Candidate, Command, Event, IceCredentials, RoomId};

/// Which UDP ports the workers listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UdpPorts {
    /// One port for all workers, `SO_REUSEPORT`.
    Single(u16),
    /// Each worker takes one port of its own from this range, both ends included.
    Range(u16, u16),
}

#[derive(Clone)]
pub struct Config {
    /// Worker threads; 0 means one a core.
    pub workers: usize,
    /// Addresses to bind; empty means all.
    pub bind: Vec<IpAddr>,
    /// Addresses to name in candidates; empty means those of the interfaces (loopback only if nothing else or in dev).
    pub advertise: Vec<IpAddr>,
    pub udp: UdpPorts,
    /// Port of passive ICE-TCP; `None` switches it off.
    pub tcp_port: Option<u16>,
    pub certificate: Certificate,
}

/// The worker threads.
pub struct Workers {}

/// A way to one worker. Cheap to clone.
#[derive(Clone)]
pub struct WorkerHandle {}

/// The worker's command queue is full, or the worker is gone: try again shortly, or give up on `Gone`.
#[derive(Debug)]
pub enum SendError {
    Full(Command),
    Gone,
}

impl Workers {
    /// Binds the sockets and starts the threads. `on_event` is called on worker threads and must not block.
    pub fn start(
        _config: Config,
        _on_event: impl Fn(RoomId, Event) + Clone + Send + 'static,
    ) -> std::io::Result<Workers> {
        Ok(Workers {})
    }

    pub fn handles(&self) -> &[WorkerHandle] {
        &[]
    }

    /// Counters of all workers, summed: name (Prometheus style, without prefix), help, value.
    pub fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        Vec::new()
    }

    /// Stops and joins the threads.
    pub fn stop(self) {}
}

impl WorkerHandle {
    /// Queues a command without waiting.
    pub fn try_send(&self, _command: Command) -> Result<(), SendError> {
        Err(SendError::Gone)
    }

    /// New ICE credentials for a transport of this worker; the ufrag names the worker, so that any socket can hand a
    /// stray datagram over.
    pub fn new_credentials(&self) -> IceCredentials {
        IceCredentials { ufrag: String::new(), password: String::new() }
    }

    /// Where clients reach this worker.
    pub fn candidates(&self) -> Vec<Candidate> {
        Vec::new()
    }

    /// Transports now hosted: what placement goes by.
    pub fn load(&self) -> usize {
        0
    }
}
