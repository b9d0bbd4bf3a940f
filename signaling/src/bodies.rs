//! Bodies of calls of the server APIs while they arrive: bounded in bytes, of all together and of each address, since a
//! body that never ends is held for half a minute.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

/// How long a body may take to arrive. Server SDKs give up on a whole call after 10 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of unfinished bodies of one address: a few of the largest.
const ADDRESS_BYTES_MAX: usize = 32 << 20;
/// Bytes of unfinished bodies of all addresses together.
const ALL_BYTES_MAX: usize = 128 << 20;

/// What has arrived of unfinished bodies.
#[derive(Debug, Default)]
pub struct Bodies(Mutex<Arrived>);

#[derive(Debug, Default)]
struct Arrived {
    all: usize,
    addresses: HashMap<String, usize>,
}

/// Why a body was not read to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyError {
    /// Longer than allowed, or cut off.
    TooLarge,
    TooSlow,
    /// Other bodies take what there is.
    Busy,
}

impl Bodies {
    /// Reads a body of at most so many bytes that comes from `address`.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn read(&self, address: &str, body: Body, bytes_max: usize) -> Result<Bytes, BodyError> {
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(BodyError::TooLarge);
        }
        let mut share = Share { bodies: self, address, bytes: 0 };
        tokio::time::timeout(PATIENCE, share.read(body, bytes_max)).await.unwrap_or(Err(BodyError::TooSlow))
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.0.lock().expect("no one panics with this lock")
    }
}

/// What one body has of it; given back when it is dropped.
struct Share<'a> {
    bodies: &'a Bodies,
    address: &'a str,
    bytes: usize,
}

impl Share<'_> {
    async fn read(&mut self, body: Body, bytes_max: usize) -> Result<Bytes, BodyError> {
        let mut read = BytesMut::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| BodyError::TooLarge)?;
            if read.len() + chunk.len() > bytes_max {
                return Err(BodyError::TooLarge);
            }
            self.take(chunk.len())?;
            read.extend_from_slice(&chunk);
        }
        Ok(read.freeze())
    }

    fn take(&mut self, bytes: usize) -> Result<(), BodyError> {
        let mut arrived = self.bodies.arrived();
        let of_address = arrived.addresses.get(self.address).copied().unwrap_or_default();
        if of_address + bytes > ADDRESS_BYTES_MAX || arrived.all + bytes > ALL_BYTES_MAX {
            return Err(BodyError::Busy);
        }
        arrived.addresses.insert(self.address.to_owned(), of_address + bytes);
        arrived.all += bytes;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut arrived = self.bodies.arrived();
        arrived.all -= self.bytes;
        if let Some(bytes) = arrived.addresses.get_mut(self.address) {
            *bytes -= self.bytes;
            if *bytes == 0 {
                arrived.addresses.remove(self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt as _, stream};

    use super::*;

    const MAX: usize = 10 << 20;

    /// So many bytes, and no end.
    fn unfinished(bytes: usize) -> Body {
        let start = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![0; bytes]))]);
        Body::from_stream(start.chain(stream::pending()))
    }

    #[tokio::test]
    async fn bodies_that_never_end_take_the_share_of_their_address_and_no_more() {
        let bodies = Bodies::default();
        {
            let mut held: Vec<_> = (0..3).map(|_| Box::pin(bodies.read("a", unfinished(MAX), MAX))).collect();
            assert!(held.iter_mut().all(|body| body.now_or_never().is_none()));
            assert_eq!(bodies.read("a", unfinished(MAX), MAX).await, Err(BodyError::Busy));
            assert_eq!(bodies.read("a", Body::from("short"), MAX).await, Ok("short".into()));
            assert_eq!(bodies.read("b", Body::from(vec![1; MAX]), MAX).await.map(|body| body.len()), Ok(MAX));
            drop(held.remove(0));
            assert!(bodies.read("a", unfinished(MAX), MAX).now_or_never().is_none());
        }
        let arrived = bodies.arrived();
        assert_eq!((arrived.all, arrived.addresses.len()), (0, 0), "all is given back");
    }

    #[tokio::test]
    async fn all_that_there_is_may_be_taken_to_the_last_byte() {
        let bodies = Bodies::default();
        let shares: Vec<_> = (0..ALL_BYTES_MAX / ADDRESS_BYTES_MAX).map(|number| number.to_string()).collect();
        let whole = || unfinished(ADDRESS_BYTES_MAX);
        let mut held: Vec<_> = shares.iter().map(|of| Box::pin(bodies.read(of, whole(), ADDRESS_BYTES_MAX))).collect();
        let (last, others) = held.split_last_mut().unwrap();
        assert!(others.iter_mut().all(|body| body.now_or_never().is_none()));
        assert_eq!(bodies.read("0", unfinished(1), MAX).now_or_never(), Some(Err(BodyError::Busy)), "of its address");
        assert!(last.now_or_never().is_none());
        assert_eq!(bodies.read("another", unfinished(1), MAX).now_or_never(), Some(Err(BodyError::Busy)), "of all");
        drop(held);
        assert_eq!(bodies.read("a", Body::from(vec![0; 10]), 10).await.map(|body| body.len()), Ok(10));
        let in_two =
            Body::from_stream(stream::iter([5, 5].map(|bytes| Ok::<_, std::io::Error>(Bytes::from(vec![0; bytes])))));
        assert_eq!(bodies.read("a", in_two, 10).await.map(|body| body.len()), Ok(10));
    }

    #[tokio::test]
    async fn all_addresses_together_have_a_bound_and_each_body_its_own() {
        let bodies = Bodies::default();
        let addresses: Vec<_> = (0..ALL_BYTES_MAX / MAX).map(|number| number.to_string()).collect();
        let mut held: Vec<_> = addresses.iter().map(|of| Box::pin(bodies.read(of, unfinished(MAX), MAX))).collect();
        assert!(held.iter_mut().all(|body| body.now_or_never().is_none()));
        assert_eq!(bodies.read("last", unfinished(MAX), MAX).await, Err(BodyError::Busy));
        drop(held);

        let mut body = pin!(bodies.read("last", unfinished(MAX), MAX));
        assert!(body.as_mut().now_or_never().is_none());
        assert_eq!(bodies.read("a", Body::from(vec![0; 11]), 10).await, Err(BodyError::TooLarge));
        assert_eq!(bodies.read("a", unfinished(11), 10).await, Err(BodyError::TooLarge));
    }
}
