//! Which connections are open, and who makes room when there are too many.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::task::AbortHandle;

use super::head::Progress;
use crate::http::client::{ClientKey, Proxies};

/// Connections of one listener that are not (or not yet) WebSockets, of those far away and of those near by: on this
/// machine, or trusted proxies. Each sort has its own, so that health checks and proxies get through a crowd.
pub const CONNECTIONS_MAX: usize = 4096;

/// Why a connection is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its address has its share.
    Share,
    /// All are at work on requests.
    Full,
}

/// The connections of a listener. Cheap to clone.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// By age.
    open: BTreeMap<u64, Open>,
    next: u64,
    near: usize,
    of_address: HashMap<ClientKey, u32>,
}

struct Open {
    address: ClientKey,
    near: bool,
    progress: Arc<Progress>,
    task: Option<AbortHandle>,
}

/// A connection, until it is dropped.
pub struct Place {
    connections: Connections,
    id: u64,
}

impl Connections {
    /// Admits a connection. Where there are too many, the one that has waited longest for a request makes room: its
    /// client has had the time to send one.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn enter(
        &self,
        peer: SocketAddr,
        progress: &Arc<Progress>,
        proxies: &Proxies,
        per_address: u32,
    ) -> Result<Place, Refused> {
        let address = ClientKey::from(peer.ip());
        let near = proxies.is_near(peer.ip());
        let mut table = self.0.lock().expect("no one panics with this lock");
        if !near && per_address != 0 && table.of_address.get(&address).is_some_and(|count| *count >= per_address) {
            return Err(Refused::Share);
        }
        if table.count(near) >= CONNECTIONS_MAX {
            let oldest = table.open.iter().find(|(_, open)| open.near == near && open.progress.waits());
            let oldest = oldest.map(|(id, _)| *id).ok_or(Refused::Full)?;
            if let Some(task) = table.remove(oldest).and_then(|open| open.task) {
                task.abort();
            }
        }
        let id = table.next;
        table.next += 1;
        table.near += usize::from(near);
        *table.of_address.entry(address).or_default() += 1;
        table.open.insert(id, Open { address, near, progress: Arc::clone(progress), task: None });
        Ok(Place { connections: self.clone(), id })
    }

    /// Ends the connection that has waited longest for a request, so that its descriptor is free. `false`: none waits.
    pub fn end_oldest(&self) -> bool {
        let mut table = self.0.lock().expect("no one panics with this lock");
        let oldest = table.open.iter().find(|(_, open)| open.progress.waits()).map(|(id, _)| *id);
        let task = oldest.and_then(|id| table.remove(id)).and_then(|open| open.task);
        task.as_ref().inspect(|task| task.abort()).is_some()
    }

    /// Tells by what a connection is ended.
    pub fn runs_as(&self, id: u64, task: AbortHandle) {
        if let Some(open) = self.0.lock().expect("no one panics with this lock").open.get_mut(&id) {
            open.task = Some(task);
        }
    }
}

impl Table {
    fn count(&self, near: bool) -> usize {
        if near { self.near } else { self.open.len() - self.near }
    }

    fn remove(&mut self, id: u64) -> Option<Open> {
        let open = self.open.remove(&id)?;
        self.near -= usize::from(open.near);
        match self.of_address.get_mut(&open.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.of_address.remove(&open.address);
            }
        }
        Some(open)
    }
}

impl Place {
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It may have made room for another one already.
        let _ = self.connections.0.lock().expect("no one panics with this lock").remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies() -> Proxies {
        Proxies::new(&["192.0.2.0/24".to_owned()]).unwrap()
    }

    fn enter(connections: &Connections, peer: &str, progress: &Arc<Progress>) -> Result<Place, Refused> {
        connections.enter(SocketAddr::new(peer.parse().unwrap(), 1), progress, &proxies(), 3)
    }

    #[test]
    fn an_address_has_its_share_and_those_near_by_are_not_counted() {
        let (connections, progress) = (Connections::default(), Arc::new(Progress::default()));
        let mut places: Vec<_> =
            (0..3).map(|_| enter(&connections, "198.51.100.7", &progress).unwrap_or_else(|_| panic!("room"))).collect();

        assert_eq!(enter(&connections, "198.51.100.7", &progress).err(), Some(Refused::Share));
        places.extend(enter(&connections, "198.51.100.8", &progress));
        for near in ["127.0.0.1", "192.0.2.9", "::1"] {
            places.extend((0..10).map(|_| enter(&connections, near, &progress).unwrap_or_else(|_| panic!("{near}"))));
        }
        places.remove(0);
        places.extend(enter(&connections, "198.51.100.7", &progress));
        assert_eq!(places.len(), 34);
        drop(places);
        let table = connections.0.lock().unwrap();
        assert!(table.open.is_empty() && table.of_address.is_empty() && table.near == 0);
    }

    #[test]
    fn of_too_many_the_oldest_without_a_request_makes_room_and_a_crowd_far_away_takes_none_from_those_near_by() {
        let connections = Connections::default();
        let address = |number: usize| format!("203.0.{}.{}", number / 200, number % 200);
        let busy = Arc::new(Progress::default());
        busy.head_is_read();
        let waiting = Arc::new(Progress::default());
        let first = enter(&connections, "198.51.100.1", &busy).unwrap_or_else(|_| panic!("room"));
        let second = enter(&connections, "198.51.100.2", &waiting).unwrap_or_else(|_| panic!("room"));
        let mut rest: Vec<_> = (2..CONNECTIONS_MAX).map(|n| enter(&connections, &address(n), &busy)).collect();
        assert!(rest.iter().all(Result::is_ok));

        rest.push(enter(&connections, "198.51.100.3", &busy));
        assert!(rest.last().unwrap().is_ok());
        let is_open = |place: &Place| connections.0.lock().unwrap().open.contains_key(&place.id);
        assert!(is_open(&first) && !is_open(&second));
        assert_eq!(enter(&connections, "198.51.100.4", &busy).err(), Some(Refused::Full));
        assert!(enter(&connections, "127.0.0.1", &busy).is_ok());
    }
}
