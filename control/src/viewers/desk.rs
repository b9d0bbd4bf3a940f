//! Queues that keep the order of one room and let different rooms go side by side.
//!
//! A room belongs to one desk, by hash. A desk sorts what comes by room, and works on its rooms at the same time, each
//! in its order: a room whose media server does not answer keeps no other one waiting. What finds a full queue is not
//! handled; reconciliation makes up for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Weak};

use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Handled, Parts, Viewers};
use crate::lifecycle::Counters;
use crate::rooms::event::Event;

/// Side by side on several cores.
const DESKS: usize = 16;

/// What may wait at one desk before it is sorted, and again as much after.
const WAITING_MAX: usize = 4_096;

/// What a desk takes up at once.
const TAKEN_MAX: usize = 256;

/// Comings and goings of viewers that are with the store at the same time, of all desks: enough to keep the connections
/// to a database busy. An operation's time runs while it waits for a connection, so that a large audience which comes
/// at once would make a store that is slow look like one that is away.
const COUNTED_AT_ONCE: usize = 64;

/// What is to be done for one room.
pub(super) enum Job {
    Event {
        event: Box<Event>,
        reply: Option<oneshot::Sender<Handled>>,
    },
    /// Whatever else is done in the order of the room's events.
    Work(BoxFuture<'static, ()>),
}

/// Where jobs are handed in.
pub(super) struct Desks(Vec<mpsc::Sender<(String, Job)>>);

/// The other ends, until they are served.
pub(super) struct DeskQueues(Vec<mpsc::Receiver<(String, Job)>>);

impl Desks {
    pub(super) fn new() -> (Self, DeskQueues) {
        let (senders, receivers) = (0..DESKS).map(|_| mpsc::channel(WAITING_MAX)).unzip();
        (Self(senders), DeskQueues(receivers))
    }

    /// Never waits. False: too many wait already.
    #[must_use]
    pub(super) fn hand_in(&self, room: &str, job: Job) -> bool {
        let hash = room.bytes().fold(5381_usize, |hash, byte| hash.wrapping_mul(33) ^ usize::from(byte));
        self.0[hash % DESKS].try_send((room.to_owned(), job)).is_ok()
    }
}

impl DeskQueues {
    /// Works until the last handle of `viewers` is gone.
    pub(super) fn serve(self, viewers: &Arc<Parts>) {
        let places = Arc::new(Semaphore::new(COUNTED_AT_ONCE));
        for queue in self.0 {
            tokio::spawn(work(queue, Arc::downgrade(viewers), Arc::clone(&places)));
        }
    }
}

async fn work(mut queue: mpsc::Receiver<(String, Job)>, viewers: Weak<Parts>, places: Arc<Semaphore>) {
    let places = &*places;
    let mut taken = Vec::with_capacity(TAKEN_MAX);
    // What waits for each room that is worked on.
    let mut waiting: HashMap<String, Vec<Job>> = HashMap::new();
    let mut waiting_count = 0;
    let mut at_work = FuturesUnordered::new();
    loop {
        tokio::select! {
            count = queue.recv_many(&mut taken, TAKEN_MAX), if waiting_count < WAITING_MAX => {
                if count == 0 {
                    return;
                }
            }
            Some(room) = at_work.next() => {
                if waiting.get(&room).is_some_and(Vec::is_empty) {
                    waiting.remove(&room);
                    continue;
                }
                let jobs = waiting.get_mut(&room).map(std::mem::take).unwrap_or_default();
                waiting_count -= jobs.len();
                let Some(viewers) = viewers.upgrade().map(Viewers) else { return };
                at_work.push(work_on_room(viewers, room, jobs, places));
            }
        }
        let mut fresh: HashMap<String, Vec<Job>> = HashMap::new();
        for (room, job) in taken.drain(..) {
            match waiting.get_mut(&room) {
                Some(jobs) => {
                    jobs.push(job);
                    waiting_count += 1;
                }
                None => fresh.entry(room).or_default().push(job),
            }
        }
        for (room, jobs) in fresh {
            let Some(viewers) = viewers.upgrade().map(Viewers) else { return };
            waiting.insert(room.clone(), Vec::new());
            at_work.push(work_on_room(viewers, room, jobs, places));
        }
    }
}

/// In order; but comings and goings of viewers commute, so a run of them goes to the store together. Gives the room
/// back.
async fn work_on_room(viewers: Viewers, room: String, jobs: Vec<Job>, places: &Semaphore) -> String {
    let viewers = &viewers;
    let mut run = Vec::new();
    for job in jobs {
        if let Job::Event { event, .. } = &job
            && viewers.commutes(event)
        {
            run.push(do_job(viewers, job));
            continue;
        }
        finish_run(&mut run, places).await;
        do_job(viewers, job).await;
    }
    finish_run(&mut run, places).await;
    room
}

async fn finish_run(run: &mut Vec<impl Future<Output = ()>>, places: &Semaphore) {
    join_all(run.drain(..).map(async |job| {
        let _place = places.acquire().await.expect("it is never closed");
        job.await;
    }))
    .await;
}

async fn do_job(viewers: &Viewers, job: Job) {
    match job {
        Job::Event { event, reply } => {
            let handled = viewers.handle(&event).await;
            Counters::add(handled.counter(viewers.counters()));
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                let _ = reply.send(handled);
            }
        }
        Job::Work(work) => work.await,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn of_all_rooms_a_few_viewers_are_counted_at_a_time() {
        let (places, under_way, most) = (Semaphore::new(COUNTED_AT_ONCE), Cell::new(0), Cell::new(0));
        let job = async || {
            under_way.set(under_way.get() + 1);
            most.set(most.get().max(under_way.get()));
            tokio::task::yield_now().await;
            under_way.set(under_way.get() - 1);
        };
        let (mut one, mut other): (Vec<_>, Vec<_>) =
            ((0..200).map(|_| job()).collect(), (0..200).map(|_| job()).collect());

        tokio::join!(finish_run(&mut one, &places), finish_run(&mut other, &places));

        assert_eq!((most.get(), under_way.get()), (COUNTED_AT_ONCE, 0));
    }
}
