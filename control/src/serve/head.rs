//! The stream of a connection, watched while the head of a request arrives: nobody is known yet, so its time is short
//! and its bytes are counted with those of all others. Once it is a WebSocket, its messages are watched
//! ([`super::message`]), and a client that does not read is not read from: each of its pings would be answered into
//! memory.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::counters::Counters;
use super::message::{Refused, Unfinished};

/// Bytes of unfinished heads of all connections.
pub const HEADS_BYTES_MAX: usize = 32 << 20;

/// What a client gets whose connection is not served, without a look at what it sends.
pub const BUSY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

const HEAD: u8 = 0;
const REQUEST: u8 = 1;
const IDLE: u8 = 2;
const UPGRADED: u8 = 3;

/// What a connection is at.
#[derive(Debug, Default)]
pub struct Progress {
    /// One of the above.
    state: AtomicU8,
    /// Of the head so far, part of [`Counters::head_bytes`].
    bytes: AtomicUsize,
    /// Read after the end of the head: its body, and whatever follows.
    beyond: AtomicUsize,
    /// Bytes of the next head that were read along with the last request, and are not counted yet.
    early: AtomicUsize,
}

impl Progress {
    /// Whether it waits for a request, the first or the next.
    pub fn waits(&self) -> bool {
        matches!(self.state.load(Ordering::Relaxed), HEAD | IDLE)
    }

    /// The request can be handled.
    pub fn head_is_read(&self) {
        let early = self.early.swap(0, Ordering::Relaxed);
        if early > 0 {
            // These bytes came along with the last request. How many of them follow the head is not known.
            self.beyond.store(early, Ordering::Relaxed);
        }
        self.state.store(REQUEST, Ordering::Relaxed);
    }

    /// It was answered; `body`: bytes of its body, if that is known.
    pub fn is_answered(&self, body: Option<u64>) {
        let body = body.map_or(usize::MAX, |body| usize::try_from(body).unwrap_or(usize::MAX));
        let early = self.beyond.swap(0, Ordering::Relaxed).saturating_sub(body);
        self.early.store(early, Ordering::Relaxed);
        self.state.store(if early > 0 { HEAD } else { IDLE }, Ordering::Relaxed);
    }

    /// What follows is no HTTP.
    pub fn is_upgraded(&self) {
        self.state.store(UPGRADED, Ordering::Relaxed);
    }
}

/// Hears how much was written to a client.
pub trait Delivered: Send + Sync {
    /// False: the client takes so little that its connection is to end.
    fn delivered(&self, bytes: usize) -> bool;
}

/// Who is told how much is written to the client of a connection: whoever took its last request. It is among the
/// extensions of each request.
#[derive(Clone, Default)]
pub struct Delivery(Arc<Mutex<Option<Weak<dyn Delivered>>>>);

impl Delivery {
    pub fn report_to(&self, hearer: Option<Weak<dyn Delivered>>) {
        *self.0.lock().expect("no one panics with this lock") = hearer;
    }

    fn note(&self, bytes: usize) -> bool {
        let hearer = self.0.lock().expect("no one panics with this lock").clone();
        hearer.and_then(|hearer| hearer.upgrade()).is_none_or(|hearer| hearer.delivered(bytes))
    }
}

/// A connection's stream.
pub struct Watched {
    stream: TcpStream,
    /// Absent once what follows is no HTTP.
    watch: Option<Watch>,
    /// Of what follows then.
    unfinished: Unfinished,
    /// The client did not take what was last written.
    blocked: bool,
    /// Who waits for it to take more, so as to read or to write.
    reader: Option<Waker>,
    writer: Option<Waker>,
    delivery: Delivery,
}

struct Watch {
    progress: Arc<Progress>,
    counters: Arc<Counters>,
    patience: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Of the head that arrives, the last line so far.
    line: Line,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Text,
    Empty,
    /// It was the last.
    Ended,
}

impl Watched {
    pub fn new(
        stream: TcpStream,
        progress: Arc<Progress>,
        counters: Arc<Counters>,
        patience: Duration,
        unfinished: Unfinished,
        delivery: Delivery,
    ) -> Self {
        let deadline = Some(Box::pin(sleep(patience)));
        let watch = Some(Watch { progress, counters, patience, deadline, line: Line::Text });
        Self { stream, watch, unfinished, blocked: false, reader: None, writer: None, delivery }
    }

    /// Waits until the client takes what is written. The socket wakes only who asked last, so that the others are woken
    /// from here.
    fn poll_unblocked(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.blocked {
            self.reader = Some(context.waker().clone());
            // An error shows when it is read.
            if self.stream.poll_write_ready(context).is_pending() {
                return Poll::Pending;
            }
            self.unblock();
        }
        Poll::Ready(())
    }

    fn note_write(&mut self, written: Poll<io::Result<usize>>, context: &Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_pending() {
            self.blocked = true;
            self.writer = Some(context.waker().clone());
        } else {
            self.unblock();
        }
        match written {
            Poll::Ready(Ok(bytes)) if !self.delivery.note(bytes) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            written @ (Poll::Ready(_) | Poll::Pending) => written,
        }
    }

    fn unblock(&mut self) {
        if self.blocked {
            self.blocked = false;
            [self.reader.take(), self.writer.take()].into_iter().flatten().for_each(Waker::wake);
        }
    }
}

impl Watch {
    /// Notes what was read; an error ends the connection.
    fn on_read(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Result<(), io::ErrorKind> {
        if !bytes.is_empty() && self.progress.state.load(Ordering::Relaxed) == IDLE {
            self.progress.state.store(HEAD, Ordering::Relaxed);
            self.line = Line::Text;
        }
        if self.progress.state.load(Ordering::Relaxed) != HEAD {
            self.deadline = None;
            self.progress.beyond.fetch_add(bytes.len(), Ordering::Relaxed);
            self.forget();
            return Ok(());
        }
        let early = self.progress.early.swap(0, Ordering::Relaxed);
        if early > 0 {
            // What its last line has is not known: rather too much is taken for the next head than too little.
            self.line = Line::Empty;
        }
        self.look_for_the_end(bytes);
        let read = bytes.len() + early;
        self.progress.bytes.fetch_add(read, Ordering::Relaxed);
        if self.counters.head_bytes.fetch_add(read, Ordering::Relaxed) + read > HEADS_BYTES_MAX {
            self.counters.over_budget.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::OutOfMemory);
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        if deadline.as_mut().poll(context).is_ready() {
            self.counters.slow_heads.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::TimedOut);
        }
        Ok(())
    }

    /// Notes how much was read after the empty line that ends the head.
    fn look_for_the_end(&mut self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            self.line = match (byte, self.line) {
                (_, Line::Ended) => {
                    self.progress.beyond.fetch_add(bytes.len() - at, Ordering::Relaxed);
                    return;
                }
                (b'\n', Line::Empty) => Line::Ended,
                (b'\n', Line::Text) => Line::Empty,
                (b'\r', line) => line,
                _ => Line::Text,
            };
        }
    }

    fn forget(&self) {
        let bytes = self.progress.bytes.swap(0, Ordering::Relaxed);
        if bytes > 0 {
            self.counters.head_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.forget();
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.watch.is_none() && this.poll_unblocked(context).is_pending() {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        let is_upgraded = |watch: &Watch| watch.progress.state.load(Ordering::Relaxed) == UPGRADED;
        if let Some(watch) = this.watch.take_if(|watch| is_upgraded(watch))
            && watch.progress.beyond.load(Ordering::Relaxed) > 0
        {
            // It has sent frames before it was told that it may (RFC 6455, section 4.1), which nobody has watched.
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let Some(watch) = &mut this.watch else {
            return match this.unfinished.on_read(&buffer.filled()[before..], context) {
                Ok(()) => polled,
                Err(Refused::Busy) => Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())),
                Err(Refused::Slow) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            };
        };
        match watch.on_read(&buffer.filled()[before..], context) {
            Ok(()) => polled,
            Err(kind) => {
                if kind == io::ErrorKind::OutOfMemory {
                    // As much of it as the socket takes: the connection ends.
                    let _ = this.stream.try_write(BUSY);
                }
                Poll::Ready(Err(kind.into()))
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.note_write(written, context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.note_write(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection is at after these bytes were read and the request was answered.
    fn state_after(bytes: &[u8], body: Option<u64>) -> (u8, usize) {
        let (progress, counters) = (Arc::new(Progress::default()), Arc::new(Counters::default()));
        let patience = Duration::from_secs(3600);
        let mut watch = Watch { progress: Arc::clone(&progress), counters, patience, deadline: None, line: Line::Text };
        for read in bytes.chunks(7) {
            watch.on_read(read, &mut Context::from_waker(Waker::noop())).unwrap();
        }
        progress.head_is_read();
        progress.is_answered(body);
        (progress.state.load(Ordering::Relaxed), progress.early.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn what_was_read_beyond_a_request_belongs_to_the_next_head() {
        assert_eq!(state_after(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(0)), (IDLE, 0));
        assert_eq!(state_after(b"GET / HTTP/1.1\nHost: a\n\nGET", Some(0)), (HEAD, 3));
        let with_body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n\r\n\r\n\r\n\r\n";
        assert_eq!(state_after(with_body, Some(8)), (IDLE, 0));
        assert_eq!(state_after(with_body, Some(6)), (HEAD, 2));
        assert_eq!(state_after(with_body, None), (IDLE, 0));
    }
}
