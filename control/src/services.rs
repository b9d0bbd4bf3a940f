//! The services of the product that live streams consist of, and which depends on which: requests ([`Streams`]) and the
//! counting of viewers ([`Viewers`]) on changes and their effects ([`Lifecycle`]); the [`Reconciler`] on all of them.

use std::sync::Arc;
use std::time::Duration;

use signaling::event::RoomEvent;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::agenda::Agenda;
use crate::chat::Chat;
use crate::clock::{Clock, Timestamp};
use crate::cluster::Cluster;
use crate::config::product;
use crate::lifecycle::Lifecycle;
use crate::reconcile::Reconciler;
use crate::rooms::RoomBackend;
use crate::store::SharedStore;
use crate::stream_cache::StreamCache;
use crate::streams::Streams;
use crate::viewers::Viewers;

/// How long effects that are under way are waited for at the end.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// What the services are made of.
pub struct Parts {
    pub config: product::Live,
    pub store: SharedStore,
    pub cache: StreamCache,
    pub rooms: Arc<dyn RoomBackend>,
    pub chat: Chat,
    /// The nodes on the same store.
    pub cluster: Cluster,
}

/// All of them.
pub struct Services {
    pub access: Access,
    pub lifecycle: Lifecycle,
    pub streams: Streams,
    pub viewers: Viewers,
    pub reconciler: Reconciler,
    cluster: Cluster,
    /// Of rooms in this process, from the start on.
    events: Option<broadcast::Receiver<RoomEvent>>,
}

impl Services {
    /// Must be called inside a tokio runtime.
    pub fn new(parts: Parts) -> Self {
        Self::with_clock(parts, Arc::new(Timestamp::now))
    }

    /// As [`Services::new`], at times that a test chooses.
    pub fn with_clock(parts: Parts, clock: Clock) -> Self {
        let Parts { config, store, cache, rooms, chat, cluster } = parts;
        let access = Access::new(cache.clone(), config.enabled, Arc::clone(&clock));
        let (events, agenda) = (rooms.events(), Agenda::default());
        let interval = config.reconcile_interval();
        let lifecycle = Lifecycle::new((store, cache), (Arc::clone(&rooms), chat), agenda.clone(), interval, clock);
        let streams = Streams::new(config.clone(), lifecycle.clone(), Arc::clone(&rooms));
        let viewers = Viewers::new(lifecycle.clone(), Arc::clone(&rooms), agenda.clone(), config.max_viewers);
        let below = (lifecycle.clone(), streams.clone(), viewers.clone());
        let reconciler = Reconciler::new(config, below, rooms, agenda, cluster.clone());
        Self { access, lifecycle, streams, viewers, reconciler, cluster, events }
    }

    /// Takes in what happens in the rooms of this process, corrects streams and looks for other nodes, until
    /// `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let Self { lifecycle, viewers, reconciler, cluster, events, .. } = self;
        let listening = async {
            if let Some(events) = events {
                viewers.listen(events, shutdown.clone()).await;
            }
        };
        tokio::join!(listening, reconciler.run(shutdown.clone()), cluster.run(shutdown.clone()));
        let _ = tokio::time::timeout(END_PATIENCE, lifecycle.settle()).await;
    }
}
