//! Queues of jobs: those of one room are run in their order, those of different rooms concurrently.
//!
//! Each room belongs to one of a few queues, by the hash of its name. The task of a queue sorts its jobs by room and
//! runs one after the other in each room, so that a media server which does not answer about one room delays no other
//! room. A job that finds its queue full is dropped; reconciliation makes up for it.

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

/// Queues, each with a task of its own: enough to use several cores.
const QUEUES: usize = 16;

/// Jobs that wait in one queue before they are sorted by room, and again as many after.
const WAITING_MAX: usize = 4_096;

/// Jobs that a task takes from its queue at once.
const BATCH_MAX: usize = 256;

/// Joins and departures of viewers that are written to the store at the same time, from all queues: enough to keep the
/// connections to a database busy. The time limit of an operation also runs while it waits for a connection, so that
/// without this bound a large audience which joins at once would make a slow store look like one that is away.
const COUNTED_AT_ONCE: usize = 64;

/// One piece of work for one room.
pub(super) enum Job {
    Event {
        event: Box<Event>,
        reply: Option<oneshot::Sender<Handled>>,
    },
    /// Any other work that keeps its place among the events of the room.
    Work(BoxFuture<'static, ()>),
}

/// The sending ends of all queues.
pub(super) struct Queues(Vec<mpsc::Sender<(String, Job)>>);

/// The receiving ends, until their tasks are started.
pub(super) struct QueueReceivers(Vec<mpsc::Receiver<(String, Job)>>);

impl Queues {
    pub(super) fn new() -> (Self, QueueReceivers) {
        let (senders, receivers) = (0..QUEUES).map(|_| mpsc::channel(WAITING_MAX)).unzip();
        (Self(senders), QueueReceivers(receivers))
    }

    /// Never waits. False: the queue of the room is full.
    #[must_use]
    pub(super) fn push(&self, room: &str, job: Job) -> bool {
        let hash = room.bytes().fold(5381_usize, |hash, byte| hash.wrapping_mul(33) ^ usize::from(byte));
        self.0[hash % QUEUES].try_send((room.to_owned(), job)).is_ok()
    }
}

impl QueueReceivers {
    /// Starts the tasks, which run until the last handle of `viewers` is dropped.
    pub(super) fn serve(self, viewers: &Arc<Parts>) {
        let places = Arc::new(Semaphore::new(COUNTED_AT_ONCE));
        for queue in self.0 {
            tokio::spawn(work(queue, Arc::downgrade(viewers), Arc::clone(&places)));
        }
    }
}

async fn work(mut queue: mpsc::Receiver<(String, Job)>, viewers: Weak<Parts>, places: Arc<Semaphore>) {
    let places = &*places;
    let mut taken = Vec::with_capacity(BATCH_MAX);
    // Jobs that came for a room while others of it are being run, for each room of which any are.
    let mut waiting: HashMap<String, Vec<Job>> = HashMap::new();
    let mut waiting_count = 0;
    let mut processing = FuturesUnordered::new();
    loop {
        tokio::select! {
            count = queue.recv_many(&mut taken, BATCH_MAX), if waiting_count < WAITING_MAX => {
                if count == 0 {
                    return;
                }
            }
            Some(room) = processing.next() => {
                if waiting.get(&room).is_some_and(Vec::is_empty) {
                    waiting.remove(&room);
                    continue;
                }
                let jobs = waiting.get_mut(&room).map(std::mem::take).unwrap_or_default();
                waiting_count -= jobs.len();
                let Some(viewers) = viewers.upgrade().map(Viewers) else { return };
                processing.push(process_room(viewers, room, jobs, places));
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
            processing.push(process_room(viewers, room, jobs, places));
        }
    }
}

/// Runs the jobs of a room in their order. Joins and departures of viewers commute, so consecutive ones are run
/// concurrently. Returns the room.
async fn process_room(viewers: Viewers, room: String, jobs: Vec<Job>, places: &Semaphore) -> String {
    let viewers = &viewers;
    let mut run = Vec::new();
    for job in jobs {
        if let Job::Event { event, .. } = &job
            && viewers.commutes(event)
        {
            run.push(run_job(viewers, job));
            continue;
        }
        finish_run(&mut run, places).await;
        run_job(viewers, job).await;
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

async fn run_job(viewers: &Viewers, job: Job) {
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
