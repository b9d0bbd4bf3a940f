//! Passive ICE-TCP (RFC 6544): datagrams framed by a 16-bit length (RFC 4571).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that a worker keeps.
pub const CONNECTIONS_MAX: usize = 4096;
/// Unsent bytes of a connection beyond which its packets are dropped: about a second of video.
const UNSENT_MAX: usize = 512 << 10;
/// Frames are datagrams: no sender of media makes longer ones.
const FRAME_MAX: usize = 16 << 10;
/// Silence after which a connection is closed; consent checks come every few seconds.
const IDLE_MAX: Duration = Duration::from_secs(30);

pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

/// A client's connection.
pub struct Connection {
    stream: TcpStream,
    pub remote: SocketAddr,
    received: Vec<u8>,
    unsent: Vec<u8>,
    last_read: Instant,
    /// It has been seen to carry a transport of this worker.
    pub settled: bool,
}

/// What reading came to.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    Open,
    Closed,
}

impl Connection {
    pub fn new(now: Instant, stream: TcpStream, remote: SocketAddr, received: Vec<u8>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Media does not wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        Ok(Self { stream, remote, received, unsent: Vec::new(), last_read: now, settled: false })
    }

    pub fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Reads what is there, without waiting, up to a bound a call.
    pub fn read(&mut self, now: Instant) -> ReadOutcome {
        let mut chunk = [0; 16 << 10];
        for _ in 0..8 {
            match self.stream.read(&mut chunk) {
                Ok(0) => return ReadOutcome::Closed,
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    self.last_read = now;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return ReadOutcome::Closed,
            }
        }
        ReadOutcome::Open
    }

    /// The next whole frame. An error: what follows is no frame that we take.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let Some(frame) = self.peek_frame()?.map(<[u8]>::to_vec) else { return Ok(None) };
        self.received.drain(..2 + frame.len());
        Ok(Some(frame))
    }

    /// The first whole frame, left in place. An error as of [`Connection::next_frame`].
    pub fn peek_frame(&self) -> Result<Option<&[u8]>, ()> {
        let [high, low, rest @ ..] = &self.received[..] else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length > FRAME_MAX {
            return Err(());
        }
        Ok(rest.get(..length))
    }

    /// Queues a frame. `false`: too much is unsent, it is dropped.
    pub fn queue(&mut self, frame: &[u8]) -> bool {
        let Ok(length) = u16::try_from(frame.len()) else { return false };
        if self.unsent.len() + frame.len() > UNSENT_MAX {
            return false;
        }
        self.unsent.extend_from_slice(&length.to_be_bytes());
        self.unsent.extend_from_slice(frame);
        true
    }

    /// Writes as much as the socket takes. `Ok(true)`: some is left.
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    pub fn is_idle(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_read) > IDLE_MAX
    }

    /// Gives the connection away, with what was read and not used.
    pub fn into_parts(self) -> (TcpStream, SocketAddr, Vec<u8>) {
        (self.stream, self.remote, self.received)
    }
}

/// The connections of a worker. A slot is the connection's number in its path.
pub type Connections = Slab<Connection>;
