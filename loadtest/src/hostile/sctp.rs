//! An SCTP association by hand (RFC 9260), so that any of its chunks can be wrong.
//!
//! It opens or accepts an association and acknowledges what comes; everything else is up to who uses it.

/// Ports of data channels (RFC 8841, section 5).
const PORT: u16 = 5_000;
/// Window that we advertise.
const WINDOW: u32 = 1 << 20;
const STREAMS: u16 = 65_535;
/// Length of a chunk's head and of a packet's.
const HEAD: usize = 4;
const COMMON_HEADER: usize = 12;

pub(super) const DATA: u8 = 0;
pub(super) const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
pub(super) const SACK: u8 = 3;
const HEARTBEAT: u8 = 4;
const HEARTBEAT_ACK: u8 = 5;
pub(super) const ABORT: u8 = 6;
pub(super) const ERROR: u8 = 9;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
/// RFC 6525, section 3.1.
pub(super) const RE_CONFIG: u8 = 130;
/// RFC 3758, section 3.2.
pub(super) const FORWARD_TSN: u8 = 192;

const STATE_COOKIE: u16 = 7;
/// RFC 3758, section 3.1, and RFC 5061, section 4.2.7.
const FORWARD_TSN_SUPPORTED: u16 = 0xc000;
const SUPPORTED_EXTENSIONS: u16 = 0x8008;

/// Flags of a DATA chunk that has all of a message, unordered.
pub(super) const WHOLE_UNORDERED: u8 = 0b111;
/// The same for the first fragment alone.
pub(super) const FIRST_UNORDERED: u8 = 0b110;
/// Payload protocols (RFC 8831, section 8).
pub(super) const DCEP: u32 = 50;
pub(super) const BINARY: u32 = 53;

/// One end of an association.
#[derive(Debug, Default)]
pub(super) struct Sctp {
    local_tag: u32,
    remote_tag: u32,
    /// The next of ours.
    pub tsn: u32,
    /// The newest of the peer in order.
    peer_tsn: u32,
    pub is_up: bool,
    /// Packets to send.
    out: Vec<Vec<u8>>,
}

impl Sctp {
    pub(super) fn new() -> Self {
        Self { local_tag: rand::random::<u32>() | 1, tsn: rand::random(), ..Self::default() }
    }

    /// Packets to send, in order.
    pub(super) fn take_out(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.out)
    }

    /// The request sequence number that the peer expects next (RFC 6525, section 4.1).
    pub(super) fn reconfiguration(&self) -> u32 {
        self.tsn
    }

    /// Begins an association.
    pub(super) fn open(&mut self) {
        let init = chunk(INIT, 0, &self.init(&[]));
        // An INIT has no tag to verify yet.
        self.out.push(packet(0, &init));
    }

    /// A packet of this association with these chunks.
    pub(super) fn packet(&self, chunks: &[u8]) -> Vec<u8> {
        packet(self.remote_tag, chunks)
    }

    /// A DATA chunk with the next number, which is used up.
    pub(super) fn data(&mut self, flags: u8, stream: u16, protocol: u32, payload: &[u8]) -> Vec<u8> {
        let tsn = self.tsn;
        self.tsn = tsn.wrapping_add(1);
        data(tsn, flags, stream, protocol, payload)
    }

    fn init(&self, cookie: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend(self.local_tag.to_be_bytes());
        body.extend(WINDOW.to_be_bytes());
        body.extend(STREAMS.to_be_bytes());
        body.extend(STREAMS.to_be_bytes());
        body.extend(self.tsn.to_be_bytes());
        body.extend(parameter(FORWARD_TSN_SUPPORTED, &[]));
        body.extend(parameter(SUPPORTED_EXTENSIONS, &[RE_CONFIG, FORWARD_TSN]));
        if !cookie.is_empty() {
            body.extend(parameter(STATE_COOKIE, cookie));
        }
        body
    }

    /// Handles a packet of the peer.
    pub(super) fn on_packet(&mut self, packet: &[u8]) {
        let Some(mut rest) = packet.get(COMMON_HEADER..) else { return };
        while let Some((&[kind, _, high, low], _)) = rest.split_first_chunk::<HEAD>() {
            let len = usize::from(u16::from_be_bytes([high, low]));
            let Some(body) = rest.get(HEAD..len) else { return };
            self.on_chunk(kind, body);
            rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        }
    }

    fn on_chunk(&mut self, kind: u8, body: &[u8]) {
        match kind {
            INIT => {
                self.on_init(body);
                let init_ack = chunk(INIT_ACK, 0, &self.init(b"a cookie"));
                self.answer(&init_ack);
            }
            INIT_ACK => {
                self.on_init(body);
                let cookie = body.get(16..).and_then(cookie).unwrap_or_default().to_vec();
                self.answer(&chunk(COOKIE_ECHO, 0, &cookie));
            }
            COOKIE_ECHO => {
                self.is_up = true;
                self.answer(&chunk(COOKIE_ACK, 0, &[]));
            }
            COOKIE_ACK => self.is_up = true,
            ABORT => self.is_up = false,
            HEARTBEAT => self.answer(&chunk(HEARTBEAT_ACK, 0, body)),
            DATA => {
                if let Some((tsn, _)) = body.split_first_chunk::<4>() {
                    self.peer_tsn = u32::from_be_bytes(*tsn);
                    let mut sack = self.peer_tsn.to_be_bytes().to_vec();
                    sack.extend(WINDOW.to_be_bytes());
                    sack.extend([0; 4]);
                    self.answer(&chunk(SACK, 0, &sack));
                }
            }
            _ => {}
        }
    }

    fn on_init(&mut self, body: &[u8]) {
        if let Some((tag, _)) = body.split_first_chunk::<4>() {
            self.remote_tag = u32::from_be_bytes(*tag);
        }
        if let Some(tsn) = body.get(12..16).and_then(|bytes| bytes.try_into().ok()) {
            self.peer_tsn = u32::from_be_bytes(tsn).wrapping_sub(1);
        }
    }

    fn answer(&mut self, chunks: &[u8]) {
        self.out.push(self.packet(chunks));
    }
}

/// The state cookie among the parameters of an INIT ACK.
fn cookie(mut parameters: &[u8]) -> Option<&[u8]> {
    while let Some((&[first, second, high, low], _)) = parameters.split_first_chunk::<HEAD>() {
        let len = usize::from(u16::from_be_bytes([high, low]));
        let value = parameters.get(HEAD..len)?;
        if u16::from_be_bytes([first, second]) == STATE_COOKIE {
            return Some(value);
        }
        parameters = parameters.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// A DATA chunk with any number.
pub(super) fn data(tsn: u32, flags: u8, stream: u16, protocol: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = tsn.to_be_bytes().to_vec();
    body.extend(stream.to_be_bytes());
    body.extend(0_u16.to_be_bytes());
    body.extend(protocol.to_be_bytes());
    body.extend(payload);
    chunk(DATA, flags, &body)
}

/// A chunk, or with the same layout a parameter, that says the truth about its length.
pub(super) fn chunk(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    claiming(kind, flags, (HEAD + body.len()) as u16, body)
}

/// A chunk that claims `len` bytes.
pub(super) fn claiming(kind: u8, flags: u8, len: u16, body: &[u8]) -> Vec<u8> {
    let [high, low] = len.to_be_bytes();
    let mut bytes = vec![kind, flags, high, low];
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A parameter or a cause.
pub(super) fn parameter(kind: u16, value: &[u8]) -> Vec<u8> {
    let [first, second] = kind.to_be_bytes();
    chunk(first, second, value)
}

fn packet(tag: u32, chunks: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(COMMON_HEADER + chunks.len());
    bytes.extend(PORT.to_be_bytes());
    bytes.extend(PORT.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(chunks);
    // RFC 9260, appendix A: the checksum goes out with its lowest byte first.
    let checksum = crc32c::crc32c(&bytes).to_le_bytes();
    bytes[8..12].copy_from_slice(&checksum);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(one: &mut Sctp, other: &mut Sctp) {
        for _ in 0..4 {
            one.take_out().iter().for_each(|packet| other.on_packet(packet));
            other.take_out().iter().for_each(|packet| one.on_packet(packet));
        }
    }

    #[test]
    fn two_ends_come_up_and_acknowledge_data() {
        let (mut client, mut server) = (Sctp::new(), Sctp::new());
        client.open();
        exchange(&mut client, &mut server);
        assert!(client.is_up && server.is_up);
        assert_eq!((client.remote_tag, server.remote_tag), (server.local_tag, client.local_tag));

        let sent = client.tsn;
        let data = client.data(WHOLE_UNORDERED, 1, BINARY, b"hello");
        server.on_packet(&client.packet(&data));
        assert_eq!(server.peer_tsn, sent);
        let sack = server.take_out().remove(0);
        assert_eq!((sack[COMMON_HEADER], &sack[16..20]), (SACK, &sent.to_be_bytes()[..]));
    }

    #[test]
    fn a_lying_chunk_keeps_its_claim_and_its_padding() {
        assert_eq!(claiming(ERROR, 0, 65_535, &[1, 2, 3]), [9, 0, 0xff, 0xff, 1, 2, 3, 0]);
        assert_eq!(parameter(0x8008, &[130]), [0x80, 0x08, 0, 5, 130, 0, 0, 0]);
    }
}
