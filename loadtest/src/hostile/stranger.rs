//! Connections without a token: HTTP by hand, so that any byte of it can be wrong, late or missing.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial;

/// Longest head of an answer that is read.
const HEAD_MAX: usize = 64 << 10;
/// A connection or an answer that takes longer has failed.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Where the server listens, without TLS.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub host: String,
    pub port: u16,
}

impl Target {
    /// Host and port of a URL.
    ///
    /// # Errors
    ///
    /// When it is no `ws://host:port` or `http://host:port`: bytes that are wrong on purpose go without TLS.
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = url.split_once("://").with_context(|| format!("{url:?} is not like ws://host:port"))?;
        if !matches!(scheme, "ws" | "http") {
            bail!("attacks go without TLS, to ws:// or http://: past the proxy, at the server itself");
        }
        let authority = rest.split('/').next().unwrap_or(rest);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().with_context(|| format!("the port of {url:?}"))?),
            None => (authority, 80),
        };
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port })
    }

    /// Whether it answers HTTP.
    pub(super) async fn answers(&self) -> bool {
        let ask = async { Line::open(self, None).await?.ask(get(self, "/").as_bytes()).await };
        ask.await.is_ok()
    }
}

/// A request for `path` that keeps the connection.
pub(super) fn get(target: &Target, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {}:{}\r\n\r\n", target.host, target.port)
}

/// The head of a POST whose body has `len` bytes; `headers` end with CRLF.
pub(super) fn post_head(target: &Target, path: &str, headers: &str, len: usize) -> String {
    let Target { host, port } = target;
    format!("POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{headers}Content-Length: {len}\r\n\r\n")
}

/// An upgrade to a WebSocket (RFC 6455, section 4.1).
pub(super) fn upgrade(target: &Target, path: &str) -> String {
    let Target { host, port } = target;
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// The whole of a message, by its opcode (RFC 6455, section 5.2).
pub(super) const TEXT: u8 = 0x81;
pub(super) const BINARY: u8 = 0x82;

/// The head of a frame with a mask of zeros, its length in as few bytes as there may be: others are refused.
pub(super) fn frame_head(first: u8, len: usize) -> Vec<u8> {
    let mut head = vec![first];
    match len {
        0..126 => head.push(0x80 | len as u8),
        126..65_536 => head.extend([&[0xfe][..], &(len as u16).to_be_bytes()].concat()),
        _ => head.extend([&[0xff][..], &(len as u64).to_be_bytes()].concat()),
    }
    head.extend([0; 4]);
    head
}

/// An answer to a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// One TCP connection.
pub(super) struct Line {
    pub stream: TcpStream,
    /// Read, but not yet part of an answer.
    pending: Vec<u8>,
    /// Bytes that were read and given to nobody.
    pub ignored: u64,
}

impl Line {
    /// # Errors
    ///
    /// When the server does not take the connection.
    pub(super) async fn open(target: &Target, from: Option<IpAddr>) -> io::Result<Self> {
        Self::open_at(&target.host, target.port, from).await
    }

    /// # Errors
    ///
    /// When nobody takes the connection.
    pub(super) async fn open_at(host: &str, port: u16, from: Option<IpAddr>) -> io::Result<Self> {
        let stream = timeout(ANSWER_MAX, dial::connect(host, port, from)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, pending: Vec::new(), ignored: 0 })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    ///
    /// When the server closes, does not answer in time, or answers with something else than HTTP.
    pub(super) async fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        timeout(ANSWER_MAX, async {
            self.stream.write_all(request).await?;
            self.answer().await
        })
        .await?
    }

    /// Reads an answer.
    ///
    /// # Errors
    ///
    /// When the server closes before its end, or it is no HTTP.
    pub(super) async fn answer(&mut self) -> io::Result<Answer> {
        let head_len = loop {
            if let Some(at) = self.pending.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            if self.pending.len() > HEAD_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.read_more().await?;
        };
        let head = String::from_utf8_lossy(&self.pending[..head_len]).to_ascii_lowercase();
        self.pending.drain(..head_len);
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        let len = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())
            .unwrap_or(0);
        while self.pending.len() < len {
            self.read_more().await?;
        }
        Ok(Answer { status, body: self.pending.drain(..len).collect() })
    }

    async fn read_more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4_096];
        match self.stream.read(&mut buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => {
                self.pending.extend_from_slice(&buffer[..len]);
                Ok(())
            }
        }
    }

    /// Whether the server has closed, by now. Ignores what it sent before.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut buffer = [0; 4_096];
        loop {
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return true,
                Ok(len) => self.ignored += len as u64,
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn a_target_is_host_and_port_and_never_behind_tls() {
        let target = Target::parse("ws://127.0.0.1:7880/rtc").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("127.0.0.1", 7880));
        assert_eq!(Target::parse("http://[::1]:7").unwrap().host, "::1");
        assert!(Target::parse("wss://a.example").is_err() && Target::parse("a.example").is_err());
    }

    #[tokio::test]
    async fn answers_are_read_one_by_one_and_a_close_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&format!("ws://{}", listener.local_addr().unwrap())).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let both = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 404 Not Found\r\n\r\n";
            stream.write_all(both).await.unwrap();
        });
        let mut line = Line::open(&target, None).await.unwrap();
        let first = line.ask(get(&target, "/").as_bytes()).await.unwrap();
        assert_eq!((first.status, first.body.as_slice()), (200, &b"ok"[..]));
        assert_eq!(line.answer().await.unwrap().status, 404);
        server.await.unwrap();
        assert!(line.answer().await.is_err());
        assert!(line.is_closed());
    }
}
