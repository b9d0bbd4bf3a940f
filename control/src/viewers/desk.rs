//! Queues that keep the order of one room and let different rooms go side by side.
//!
//! A room belongs to one desk, by hash. A desk takes what waits, sorts it by room, and works on these rooms at the same
//! time, each in its order. What finds a full queue is not handled; reconciliation makes up for it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::{Handled, RoomNews};
use crate::store::stream::StreamId;
use crate::streams::{Counters, Inner, Streams};

/// Rooms of different desks never wait for each other.
const DESKS: usize = 16;

/// What may wait at one desk.
const WAITING_MAX: usize = 4_096;

/// What a desk takes up at once.
const TAKEN_MAX: usize = 256;

/// What is to be done for one room.
pub(crate) enum Job {
    News {
        news: Box<RoomNews>,
        reply: Option<oneshot::Sender<Handled>>,
    },
    /// Compare presence with the room.
    Reconcile {
        id: StreamId,
        done: Option<oneshot::Sender<()>>,
    },
    /// A time-out may be over.
    Deadline {
        id: StreamId,
        done: Option<oneshot::Sender<()>>,
    },
}

/// Where jobs are handed in.
pub(crate) struct Desks(Vec<mpsc::Sender<(String, Job)>>);

/// The other ends, until they are served.
pub(crate) struct DeskQueues(Vec<mpsc::Receiver<(String, Job)>>);

impl Desks {
    pub(crate) fn new() -> (Self, DeskQueues) {
        let (senders, receivers) = (0..DESKS).map(|_| mpsc::channel(WAITING_MAX)).unzip();
        (Self(senders), DeskQueues(receivers))
    }

    /// Never waits. False: too many wait already.
    #[must_use]
    pub(crate) fn hand_in(&self, room: &str, job: Job) -> bool {
        let hash = room.bytes().fold(5381_usize, |hash, byte| hash.wrapping_mul(33) ^ usize::from(byte));
        self.0[hash % DESKS].try_send((room.to_owned(), job)).is_ok()
    }
}

impl DeskQueues {
    /// Works until the last handle of `streams` is gone.
    pub(crate) fn serve(self, streams: &Streams) {
        for queue in self.0 {
            tokio::spawn(work(queue, Arc::downgrade(streams.inner())));
        }
    }
}

async fn work(mut queue: mpsc::Receiver<(String, Job)>, inner: Weak<Inner>) {
    let mut taken = Vec::with_capacity(TAKEN_MAX);
    while queue.recv_many(&mut taken, TAKEN_MAX).await > 0 {
        let Some(streams) = inner.upgrade().map(Streams::of_inner) else { return };
        let mut rooms: HashMap<String, Vec<Job>> = HashMap::new();
        for (room, job) in taken.drain(..) {
            rooms.entry(room).or_default().push(job);
        }
        join_all(rooms.into_values().map(|jobs| work_on_room(&streams, jobs))).await;
    }
}

/// In order; but comings and goings of viewers commute, so a run of them goes to the store together.
async fn work_on_room(streams: &Streams, jobs: Vec<Job>) {
    let mut run = Vec::new();
    for job in jobs {
        if let Job::News { news, .. } = &job
            && streams.commutes(news)
        {
            run.push(do_job(streams, job));
            continue;
        }
        finish_run(&mut run).await;
        do_job(streams, job).await;
    }
    finish_run(&mut run).await;
}

async fn finish_run(run: &mut Vec<impl Future<Output = ()>>) {
    join_all(run.drain(..)).await;
}

async fn do_job(streams: &Streams, job: Job) {
    match job {
        Job::News { news, reply } => {
            let handled = streams.handle(&news).await;
            Counters::add(handled.counter(streams.counters()));
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                let _ = reply.send(handled);
            }
        }
        Job::Reconcile { id, done } => {
            streams.reconcile(id).await;
            say(done);
        }
        Job::Deadline { id, done } => {
            streams.check_deadline(id).await;
            say(done);
        }
    }
}

/// Whoever asked may have gone.
fn say(done: Option<oneshot::Sender<()>>) {
    if let Some(done) = done {
        let _ = done.send(());
    }
}
