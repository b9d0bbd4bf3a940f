//! One chat room without anything around it, for `benches/chat.rs`: prints its address, serves until it is killed.

use std::net::Ipv4Addr;
use std::sync::Arc;

use control::auth::{AuthError, Reason};
use control::chat::{Chat, Limits, Parts};
use control::clock::Timestamp;
use control::cluster::Cluster;
use control::config::product::{self, GuestAccess};
use control::http::client::Proxies;
use control::http::origins::Origins;
use control::store::SharedStore;
use control::store::embedded::Embedded;
use control::store::stream::{Stream, StreamState};
use control::stream_cache::StreamCache;
use control::user::{Role, User};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let cache = StreamCache::default();
    let store: SharedStore = Arc::new(Embedded::in_memory().map_err(std::io::Error::other)?);
    let parts = Parts {
        config: product::Chat { max_connections_per_ip: 0, ..product::Chat::default() },
        guest: GuestAccess::Read,
        enabled: true,
        origins: Origins::default(),
        limits: Limits::default(),
        cluster: Cluster::new("bench".into(), Arc::clone(&store)),
        store,
        cache: cache.clone(),
        verify: Arc::new(|token, now| Box::pin(async move { user(&token, now) })),
        proxies: Proxies::default(),
        directory: None,
    };
    let chat = Chat::start(parts)?;
    let _ = cache.observe(stream(), |change| chat.observe(change));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    match control::serve::serve(listener, chat.router(), control::serve::Settings::default()).await {}
}

/// The token is the user's name.
fn user(token: &str, now: Timestamp) -> Result<User, AuthError> {
    let id = token.parse().map_err(|_| Reason::User)?;
    let expires_at = now.plus(std::time::Duration::from_secs(3600));
    Ok(User { id, role: Role::User, name: Some(token.to_owned()), picture: None, expires_at })
}

fn stream() -> Stream {
    let now = Timestamp::now();
    Stream {
        room_name: "bench".into(),
        state: StreamState::Live,
        started_at: Some(now),
        ..Stream::new("owner".parse().expect("a short text is an id"), now)
    }
}
