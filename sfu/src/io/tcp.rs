//! Passive ICE-TCP (RFC 6544): datagrams framed by a 16-bit length (RFC 4571).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use super::udp::{Sharing, bind_shared};
use crate::id::TransportId;

/// Connections that a worker keeps.
pub(super) const CONNECTIONS_MAX: usize = 4096;
/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// Unsent bytes of a connection beyond which its packets are dropped: about a second of video.
const UNSENT_MAX: usize = 512 << 10;
/// Frames are datagrams: no sender of media makes longer ones.
const FRAME_MAX: usize = 16 << 10;
/// Silence after which a connection is closed; consent checks come every few seconds.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long a connection may take to an authenticated check.
pub(super) const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames until then: checks that were sent again while the room did not know the client yet.
pub(super) const UNAUTHENTICATED_FRAMES_MAX: u32 = 32;
/// Connections from one address (IPv6: one /64) that have not shown an authenticated check yet. Those that have are not
/// counted: a whole office may be behind one address.
pub(super) const UNAUTHENTICATED_PER_ADDRESS_MAX: u32 = 64;
/// Connections with an authenticated check of one transport. A client uses one; those of a network that it has left
/// stay for [`IDLE_MAX`], or until the transport is closed.
pub(super) const PER_TRANSPORT_MAX: usize = 8;
/// Frames of one connection that a turn takes, so that it leaves time for the others.
pub(super) const FRAMES_A_TURN: usize = 64;
/// Reads in one go, of 16 KiB each. Nothing is read while frames of the last time are left.
const READS_MAX: usize = 4;

pub(super) fn listen(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    bind_shared(&socket, address, sharing)?;
    socket.listen(BACKLOG)?;
    socket.set_reuse_port(true)?;
    Ok(socket.into())
}

/// A client's connection.
pub(super) struct Connection {
    stream: TcpStream,
    pub remote: SocketAddr,
    /// What was read; the frames of it up to `taken` have been taken.
    received: Vec<u8>,
    taken: usize,
    unsent: Vec<u8>,
    opened: Instant,
    last_read: Instant,
    /// It has been seen to name a transport of this worker.
    pub settled: bool,
    /// A check that came over it was valid, for this transport.
    authenticated: Option<TransportId>,
    /// Frames taken before that.
    pub unauthenticated_frames: u32,
}

/// What reading came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReadOutcome {
    Open,
    Closed,
}

/// What stands at the beginning of the unread bytes is no frame that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadFrame {
    TooLong,
    /// An empty frame: no client sends one, and its two bytes cost as much as a datagram.
    Empty,
}

impl Connection {
    /// Whether a check that came over it was valid.
    pub(super) fn is_authenticated(&self) -> bool {
        self.authenticated.is_some()
    }

    pub(super) fn new(now: Instant, stream: TcpStream, remote: SocketAddr, received: Vec<u8>) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Media does not wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        Ok(Self {
            stream,
            remote,
            received,
            taken: 0,
            unsent: Vec::new(),
            opened: now,
            last_read: now,
            settled: false,
            authenticated: None,
            unauthenticated_frames: 0,
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Reads what is there, without waiting, up to a bound a call.
    pub(super) fn read(&mut self, now: Instant) -> ReadOutcome {
        self.received.drain(..self.taken);
        self.taken = 0;
        let mut chunk = [0; 16 << 10];
        for _ in 0..READS_MAX {
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

    /// Takes the next whole frame: where it stands, for [`Connection::frame_mut`].
    ///
    /// # Errors
    /// [`BadFrame`]: nothing that follows can be understood.
    pub(super) fn next_frame(&mut self) -> Result<Option<Range<usize>>, BadFrame> {
        let Some(length) = self.peek_frame()?.map(<[u8]>::len) else { return Ok(None) };
        let start = self.taken + 2;
        self.taken = start + length;
        Ok(Some(start..start + length))
    }

    /// A frame that was taken, until more is read.
    pub(super) fn frame_mut(&mut self, frame: Range<usize>) -> &mut [u8] {
        &mut self.received[frame]
    }

    /// The first whole frame, left in place.
    ///
    /// # Errors
    /// As of [`Connection::next_frame`].
    pub(super) fn peek_frame(&self) -> Result<Option<&[u8]>, BadFrame> {
        let [high, low, rest @ ..] = &self.received[self.taken..] else { return Ok(None) };
        match usize::from(u16::from_be_bytes([*high, *low])) {
            0 => Err(BadFrame::Empty),
            length if length > FRAME_MAX => Err(BadFrame::TooLong),
            length => Ok(rest.get(..length)),
        }
    }

    /// Queues a frame. `false`: too much is unsent, it is dropped.
    pub(super) fn queue(&mut self, frame: &[u8]) -> bool {
        let Ok(length) = u16::try_from(frame.len()) else { return false };
        if self.unsent.len() + frame.len() > UNSENT_MAX {
            return false;
        }
        self.unsent.extend_from_slice(&length.to_be_bytes());
        self.unsent.extend_from_slice(frame);
        true
    }

    /// Writes as much as the socket takes. `Ok(true)`: some is left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        let mut written = 0;
        let outcome = loop {
            if written == self.unsent.len() {
                break Ok(false);
            }
            match self.stream.write(&self.unsent[written..]) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.unsent.drain(..written);
        outcome
    }

    /// Whether it has been silent, or unknown, for too long.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_read) > IDLE_MAX
            || (!self.is_authenticated() && now.saturating_duration_since(self.opened) > AUTHENTICATION_TIMEOUT)
    }

    /// Gives the connection away, with what was read and not used.
    fn into_parts(mut self) -> (TcpStream, SocketAddr, Vec<u8>) {
        self.received.drain(..self.taken);
        (self.stream, self.remote, self.received)
    }
}

/// A connection for as long as it is open: no later one has the same, so that what is meant for a client that is gone
/// reaches nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ConnectionId(pub u32);

/// The lower bits of a [`ConnectionId`] are its slot, those above say which use of the slot it is: a million uses.
const SLOT_BITS: u32 = CONNECTIONS_MAX.ilog2();

impl ConnectionId {
    fn slot(self) -> usize {
        self.0 as usize & (CONNECTIONS_MAX - 1)
    }
}

/// The connections of a worker, [`CONNECTIONS_MAX`] at most.
#[derive(Default)]
pub(super) struct Connections {
    slots: Slab<(ConnectionId, Connection)>,
    uses: u32,
    /// Of the unauthenticated ones, how many each address has; of the others, how many each transport.
    unauthenticated: HashMap<IpAddr, u32>,
    authenticated: HashMap<TransportId, usize>,
}

impl Connections {
    /// Keeps a connection. `None`: there are too many, in all or from its address, and it is closed.
    pub(super) fn insert(&mut self, connection: Connection) -> Option<ConnectionId> {
        let address = prefix_of(connection.remote.ip());
        if self.slots.len() >= CONNECTIONS_MAX
            || self.unauthenticated.get(&address).is_some_and(|count| *count >= UNAUTHENTICATED_PER_ADDRESS_MAX)
        {
            return None;
        }
        *self.unauthenticated.entry(address).or_default() += 1;
        self.uses = self.uses.wrapping_add(1);
        let entry = self.slots.vacant_entry();
        let id = ConnectionId(self.uses << SLOT_BITS | entry.key() as u32);
        entry.insert((id, connection));
        Some(id)
    }

    pub(super) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let (known, connection) = self.slots.get_mut(id.slot())?;
        (*known == id).then_some(connection)
    }

    /// Notes that a valid check has come over it, for this transport. `false`: that has as many already, whatever ICE
    /// credentials it had when they came.
    pub(super) fn authenticate(&mut self, id: ConnectionId, transport: TransportId) -> bool {
        let Some((_, connection)) = self.slots.get_mut(id.slot()).filter(|(known, _)| *known == id) else {
            return true;
        };
        if connection.is_authenticated() {
            return true;
        }
        let others = self.authenticated.entry(transport).or_default();
        if *others >= PER_TRANSPORT_MAX {
            return false;
        }
        *others += 1;
        connection.authenticated = Some(transport);
        let address = prefix_of(connection.remote.ip());
        self.uncount(address);
        true
    }

    pub(super) fn remove(&mut self, id: ConnectionId) -> Option<(TcpStream, SocketAddr, Vec<u8>)> {
        self.get_mut(id)?;
        let (_, connection) = self.slots.remove(id.slot());
        match &connection.authenticated {
            None => self.uncount(prefix_of(connection.remote.ip())),
            Some(transport) => self.uncount_authenticated(*transport),
        }
        Some(connection.into_parts())
    }

    pub(super) fn overdue(&self, now: Instant) -> Vec<ConnectionId> {
        self.slots.iter().filter(|(_, (_, connection))| connection.is_overdue(now)).map(|(_, (id, _))| *id).collect()
    }

    fn uncount_authenticated(&mut self, transport: TransportId) {
        if let Some(count) = self.authenticated.get_mut(&transport) {
            *count -= 1;
            if *count == 0 {
                self.authenticated.remove(&transport);
            }
        }
    }

    fn uncount(&mut self, address: IpAddr) {
        if let Some(count) = self.unauthenticated.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.unauthenticated.remove(&address);
            }
        }
    }
}

/// What stands for one subscriber of an access network: an IPv4 address, or the /64 of an IPv6 one.
fn prefix_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (TcpStream, Connection) {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (stream, remote) = listener.accept().expect("accepts");
        let remote = SocketAddr::new([192, 0, 2, 1].into(), remote.port());
        (client, Connection::new(Instant::now(), stream, remote, Vec::new()).expect("a socket"))
    }

    #[test]
    fn a_crowd_that_knocks_at_once_waits_in_the_queue_of_the_listener() {
        let address = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0));
        let listener = listen(address, Sharing::Nobodys).expect("loopback");
        let address = listener.local_addr().expect("bound");
        let allowed: usize =
            std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux").trim().parse().expect("a number");

        let knock = |_| TcpStream::connect_timeout(&address, Duration::from_secs(10));
        let crowd: io::Result<Vec<_>> = (0..allowed.min(400)).map(knock).collect();

        assert!(crowd.is_ok(), "nobody is turned away: {crowd:?}");
    }

    #[test]
    fn a_slot_used_again_has_another_id() {
        let mut connections = Connections::default();
        let (_client, connection) = pair();
        let first = connections.insert(connection).expect("room");
        connections.remove(first);
        let (_client, connection) = pair();
        let second = connections.insert(connection).expect("room");

        assert_eq!(first.slot(), second.slot());
        assert!(connections.get_mut(first).is_none());
        assert!(connections.get_mut(second).is_some());
    }

    #[test]
    fn an_address_has_a_share_until_its_checks_are_valid() {
        let mut connections = Connections::default();
        let insert = |connections: &mut Connections| connections.insert(pair().1);
        let ids: Vec<_> =
            (0..UNAUTHENTICATED_PER_ADDRESS_MAX).map(|_| insert(&mut connections).expect("room")).collect();
        assert_eq!(insert(&mut connections), None);

        assert!(connections.authenticate(ids[0], TransportId(1)));
        assert!(connections.authenticate(ids[0], TransportId(1)));
        let one_more = insert(&mut connections).expect("a valid check frees its share");
        assert_eq!(insert(&mut connections), None);
        connections.remove(one_more);
        assert!(insert(&mut connections).is_some());
    }

    #[test]
    fn a_transport_has_few_connections_and_takes_none_from_others() {
        let mut connections = Connections::default();
        let mut insert = || connections.insert(pair().1).expect("room");
        let ids: Vec<_> = (0..=PER_TRANSPORT_MAX).map(|_| insert()).collect();
        let (last, ids) = ids.split_last().expect("some");
        assert!(ids.iter().all(|id| connections.authenticate(*id, TransportId(1))));
        assert!(!connections.authenticate(*last, TransportId(1)));
        connections.remove(ids[0]);
        assert!(connections.authenticate(*last, TransportId(1)), "one that is closed makes room");
        let other = connections.insert(pair().1).expect("room");
        assert!(connections.authenticate(other, TransportId(2)));

        for id in ids[1..].iter().chain([last, &other]) {
            connections.remove(*id);
        }
        assert!(connections.authenticated.is_empty() && connections.unauthenticated.is_empty());
    }

    #[test]
    fn addresses_of_one_ipv6_network_share() {
        let prefix = |text: &str| prefix_of(text.parse().expect("an address"));
        assert_eq!(prefix("2001:db8::1"), prefix("2001:db8::ffff:1"));
        assert_ne!(prefix("2001:db8::1"), prefix("2001:db8:0:1::1"));
        assert_eq!(prefix("::ffff:192.0.2.1"), prefix("192.0.2.1"));
    }
}
