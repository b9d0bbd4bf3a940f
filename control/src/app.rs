//! What runs, and how it stops. [`App::start`] builds the parts in order, sockets first so that a taken port shows
//! before anything runs; [`App::run`] serves until told to stop, then drains in reverse.

use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use axum::Router;
use axum::middleware::from_fn_with_state;
use futures_util::future::OptionFuture;
use sfu::certificate::Certificate;
use sfu::engine::EngineConfig;
use sfu::io::{UdpPorts, WorkerHandle, Workers};
use shared::id::NodeId;
use signaling::http::{Counters, Sizes, Surface};
use signaling::rooms::Rooms;
use signaling::settings::{Limits, RoomsConfig};
use signaling::token::{JoinToken, Keys, SECRET_BYTES_ADVISED, Secret};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::config::product::SfuMode;
use crate::config::{Config, PortRange};
use crate::heap;
use crate::http::client::{self, Proxies};
use crate::product::Product;
use crate::stream_cache::StreamCache;
use crate::webhook_sender::WebhookSender;
use crate::{event_log, metrics, serve};

/// How long a join token lasts that is made for somebody who tries the server.
pub const JOIN_TOKEN_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Addresses of this machine that the greeting names.
const ADDRESSES_SHOWN_MAX: usize = 4;

/// How long a stop waits for receivers of webhooks to take the last ones.
const WEBHOOKS_PATIENCE: Duration = Duration::from_secs(5);

/// The running server.
pub struct App {
    config: Config,
    keys: Keys,
    rooms: Rooms,
    workers: Arc<Workers>,
    http: Vec<SocketAddr>,
    metrics: Vec<SocketAddr>,
    servers: JoinSet<Infallible>,
    webhooks: WebhookSender,
    /// Absent in a media server alone.
    product: Option<Product>,
}

/// How the server stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everybody was told, and left or was given the time.
    Drained,
    /// Asked twice.
    AtOnce,
}

/// The API keys of a configuration.
///
/// # Errors
/// Says how to make one if there is none.
pub fn keys(config: &Config) -> anyhow::Result<Keys> {
    if config.keys.0.is_empty() {
        return Err(anyhow!(
            "there is no API key: make one with `onair generate-keys` and set it as keys in the configuration file \
             or as LIVEKIT_KEYS=\"<key>: <secret>\"; to only try the server, start it with --dev"
        ));
    }
    Ok(Keys::new(config.keys.0.iter().cloned())?)
}

impl App {
    /// Binds all sockets and starts all parts. Nothing is served yet.
    ///
    /// # Errors
    /// Says what is in the way and what to do.
    pub async fn start(config: Config) -> anyhow::Result<App> {
        let keys = keys(&config)?;
        refuse_weak(&keys, &config)?;
        let listeners = listen(&config.bind_addresses, config.port, "port")?;
        let metrics_listeners = match config.prometheus_port() {
            0 => Vec::new(),
            port => listen(&config.bind_addresses, port, "prometheus.port")?,
        };
        let certificate = Certificate::generate();
        let (on_event, events) = signaling::media::worker_events();
        let fingerprint = certificate.fingerprint;
        let workers = Workers::start(media_config(&config, certificate), on_event)
            .map_err(|error| media_error(&config, &error))?;
        let workers = Arc::new(workers);
        warn_of_reach(&config, &media_addresses(&workers));
        let node_id = NodeId::generate();
        let rooms_config = rooms_config(&config, &keys, &node_id, fingerprint)?;
        let rooms = Rooms::start(rooms_config, workers.handles().to_vec(), events);
        let secret = config.secret(&config.webhook.api_key).map(|secret| secret.bytes().to_vec()).unwrap_or_default();
        let webhooks = WebhookSender::start(&config.webhook, &secret, || rooms.events())?;
        let cache = StreamCache::default();
        tokio::spawn(event_log::run(rooms.events(), cache.clone()));
        let proxies = Proxies::new(&config.http.trusted_proxies)?;
        let front = serve::Settings {
            per_address: config.http.max_connections_per_ip,
            proxies: proxies.clone(),
            ..serve::Settings::default()
        };
        let meanwhile = answer_meanwhile(&listeners, &front)?;
        let product = match config.sfu.mode {
            SfuMode::Only => None,
            SfuMode::Builtin | SfuMode::External => {
                Some(Product::start(&config, &proxies, &rooms, cache.clone(), node_id.as_ref()).await?)
            }
        };
        drop(meanwhile);
        let (product, product_routes) = product.unzip();
        let admit = product.as_ref().map(|product| product.admission(cache));
        let counters = Arc::new(Counters::default());
        let surface = Surface {
            keys: keys.clone(),
            rooms: rooms.clone(),
            auto_create: config.room.auto_create,
            admit,
            bodies: Arc::default(),
            sizes: Sizes {
                signal_message_max: config.limit.signal_message_size_limit,
                request_body_max: config.limit.max_api_request_body_size,
            },
            counters: Arc::clone(&counters),
        };
        let sources = metrics::Sources {
            node_id: node_id.to_string(),
            began: SystemTime::now(),
            refusals: Arc::default(),
            serving: Arc::clone(&front.counters),
            rooms: rooms.clone(),
            workers: Arc::clone(&workers),
            surface: counters,
            webhooks: webhooks.counters(),
            product: product.as_ref().map(Product::sources),
        };
        let mut servers = JoinSet::new();
        servers.spawn(heap::keep_small());
        let router = signaling::http::router(surface)
            .merge(product_routes.unwrap_or_default())
            .merge(metrics::beside_the_api(sources.clone(), &config.prometheus, proxies.clone(), config.development))
            .layer(from_fn_with_state(proxies.clone(), client::identify));
        let http = serve(&mut servers, listeners, &router, &front)?;
        let metrics = serve(
            &mut servers,
            metrics_listeners,
            &metrics::router(sources, &config.prometheus, proxies.clone()),
            &front,
        )?;
        Ok(App { config, keys, rooms, workers, http, metrics, servers, webhooks, product })
    }

    /// Where HTTP is served.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where metrics are served.
    pub fn metrics_addresses(&self) -> &[SocketAddr] {
        &self.metrics
    }

    /// Says in the log that the server serves, and where.
    pub fn log_listening(&self) {
        let list = |addresses: &[SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let PortRange { first, last } = self.config.udp_ports();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            http = list(&self.http),
            metrics = (!self.metrics.is_empty()).then(|| list(&self.metrics)),
            udp = if first == last { first.to_string() } else { format!("{first}-{last}") },
            tcp = (self.config.rtc.tcp_port != 0).then_some(self.config.rtc.tcp_port),
            mode = self.config.sfu.mode.name(),
            development = self.config.development,
            "listening"
        );
    }

    /// What a person who started the server wants to know. Names secrets only of development, which are public.
    pub fn greeting(&self) -> String {
        let list = |addresses: &[SocketAddr]| {
            let all = addresses.iter().flat_map(|address| reachable(*address));
            all.map(|address| format!("http://{address}")).collect::<Vec<_>>().join(", ")
        };
        let media = media_addresses(&self.workers).iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
        let PortRange { first, last } = self.config.udp_ports();
        let udp = if first == last { format!("UDP {first}") } else { format!("UDP {first}-{last}") };
        let tcp = match self.config.rtc.tcp_port {
            0 => String::new(),
            port => format!(", TCP {port}"),
        };
        let mut lines = vec![
            format!("onair {}", env!("CARGO_PKG_VERSION")),
            format!("  HTTP and WebSocket  {}", list(&self.http)),
            format!("  media               {udp}{tcp} of {media}"),
        ];
        if !self.metrics.is_empty() {
            lines.push(format!("  metrics             {}", list(&self.metrics)));
        }
        if self.config.development {
            lines.extend(self.development_lines());
        }
        lines.join("\n")
    }

    fn development_lines(&self) -> Vec<String> {
        use crate::config::{DEV_KEY, DEV_SECRET};
        let public = self.config.keys.0 == [(DEV_KEY.to_owned(), Secret::new(DEV_SECRET))];
        // One that neighbours can use as well comes first.
        let mut addresses: Vec<_> = self.http.iter().flat_map(|address| reachable(*address)).collect();
        addresses.sort_by_key(|address| address.ip().is_loopback());
        let Some(host) = addresses.first().filter(|_| public) else {
            return Vec::new();
        };
        let join = JoinToken {
            identity: "guest".parse().expect("a short text is an identity"),
            room: "demo".parse().expect("a short text is a room name"),
            recorder: false,
            life: JOIN_TOKEN_LIFE,
        };
        let token = self.keys.signer().create_join_token(&join, SystemTime::now());
        vec![
            format!("Development mode: API key {DEV_KEY}, secret {DEV_SECRET}. Anybody knows them."),
            format!("  URL                 ws://{host}"),
            format!("  token for a day     {token}"),
            format!("                      joins room {} as {}", join.room, join.identity),
        ]
    }

    /// Serves until `stop` ends, then tells everybody to come back elsewhere and waits for them, at most until the
    /// configured deadline, and then for receivers of webhooks. `stop_now` ends all waiting.
    ///
    /// # Errors
    /// A server task that ended by itself.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        stop_now: impl Future<Output = ()>,
    ) -> anyhow::Result<Stopped> {
        let App { config, rooms, workers, mut servers, webhooks, product, .. } = self;
        tokio::select! {
            () = stop => {}
            Some(ended) = servers.join_next() => {
                match ended.context("a server task failed")? {}
            }
        }
        let deadline = Duration::from_secs(config.drain_timeout);
        info!(?deadline, participants = rooms.counts().participants, "draining");
        let in_order = async {
            // What rooms tell from here on is no event of a stream any more.
            let letting_go = product.map(|product| product.stop(deadline));
            tokio::join!(OptionFuture::from(letting_go), rooms.drain(deadline));
            servers.shutdown().await;
            webhooks.finish(WEBHOOKS_PATIENCE).await;
        };
        let stopped = tokio::select! {
            biased;
            () = in_order => Stopped::Drained,
            () = stop_now => Stopped::AtOnce,
        };
        servers.shutdown().await;
        // Metrics held the other handle, and went with their server.
        if let Some(workers) = Arc::into_inner(workers) {
            let _ = tokio::task::spawn_blocking(move || workers.stop()).await;
        }
        Ok(stopped)
    }
}

/// Addresses that clients send media to, each once.
fn media_addresses(workers: &Workers) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for candidate in workers.handles().iter().flat_map(WorkerHandle::candidates) {
        if !addresses.contains(&candidate.address.ip()) {
            addresses.push(candidate.address.ip());
        }
    }
    addresses
}

/// Tells when clients from elsewhere would join and then get no media.
fn warn_of_reach(config: &Config, media: &[IpAddr]) {
    let listed = || media.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    let what_to_do = "name the address that clients reach this machine by: rtc.node_ip (--node-ip)";
    match media.iter().map(|address| Reach::of(*address)).max() {
        Some(Reach::Internet) => {}
        _ if config.development => {}
        Some(Reach::Network) => {
            warn!("clients of this network alone get media, from {}; for others {what_to_do}", listed());
        }
        Some(Reach::Machine) | None => {
            warn!("clients on this machine alone get media, from {}; for others {what_to_do}", listed());
        }
    }
}

/// From where an address can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Machine,
    /// Private ones (RFC 1918, RFC 4193), those of a provider's NAT (RFC 6598), link-local ones.
    Network,
    Internet,
}

impl Reach {
    fn of(address: IpAddr) -> Self {
        let is_near = match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [first, second, ..] = v4.octets();
                v4.is_private() || v4.is_link_local() || (first == 100 && second & 0xc0 == 64)
            }
            IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
        };
        if address.to_canonical().is_loopback() || address.is_unspecified() {
            Reach::Machine
        } else if is_near {
            Reach::Network
        } else {
            Reach::Internet
        }
    }
}

/// What to write for an address that is listened on: for all of them, those of the interfaces.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    if !address.ip().is_unspecified() {
        return vec![address];
    }
    let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let mut all: Vec<IpAddr> = sfu::io::interface_addresses().unwrap_or_default();
    all.retain(|ip| !is_link_local(ip) && (ip.is_ipv4() || address.is_ipv6()));
    all.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    all.truncate(ADDRESSES_SHOWN_MAX);
    if all.is_empty() {
        all.push(Ipv4Addr::LOCALHOST.into());
    }
    all.into_iter().map(|ip| SocketAddr::new(ip, address.port())).collect()
}

/// Whoever finds a secret by trying, or knows that of development, makes tokens for every room.
fn refuse_weak(keys: &Keys, config: &Config) -> anyhow::Result<()> {
    let weak: Vec<_> = keys.weak().collect();
    if config.development || weak.is_empty() {
        return Ok(());
    }
    Err(anyhow!(
        "the secret of an API key needs {SECRET_BYTES_ADVISED} bytes or more, so that nobody finds it by trying: that of {} \
         is shorter. Make another pair with `onair generate-keys` and set it as keys in the configuration file or as \
         LIVEKIT_KEYS; to only try the server, start it with --dev",
        weak.join(", ")
    ))
}

/// Listens on every address; without any, or with `::` among them, on all of both families, or of IPv4 where there is
/// no IPv6.
fn listen(addresses: &[IpAddr], port: u16, setting: &str) -> anyhow::Result<Vec<TcpListener>> {
    if addresses.is_empty() || addresses.contains(&Ipv6Addr::UNSPECIFIED.into()) {
        let mut all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let mut bound = bind(all);
        if bound.as_ref().is_err_and(no_such_address) {
            all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            bound = bind(all);
        }
        return match bound {
            Ok(listener) => Ok(vec![listener]),
            Err(error) => Err(listen_error(all, setting, &error)),
        };
    }
    let mut listeners = Vec::with_capacity(addresses.len());
    for &address in addresses {
        match bind((address, port).into()) {
            Ok(listener) => listeners.push(listener),
            // Development names it without knowing whether there is IPv6.
            Err(error) if address == Ipv6Addr::LOCALHOST && !listeners.is_empty() && no_such_address(&error) => {
                debug!("no IPv6 on this machine: {error}");
            }
            Err(error) => return Err(listen_error((address, port).into(), setting, &error)),
        }
    }
    Ok(listeners)
}

/// Connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`). With a short queue a
/// crowd that knocks at once makes everybody else wait for a second, until their system asks again.
const BACKLOG: u32 = 4096;

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that is started anew has the port back at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Without IPv6 the system may know the address family, or not even that.
fn no_such_address(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn listen_error(address: SocketAddr, setting: &str, error: &std::io::Error) -> anyhow::Error {
    let (ip, port) = (address.ip(), address.port());
    match error.kind() {
        ErrorKind::AddrInUse => anyhow!("TCP port {port} of {ip} is taken: stop what listens there, or set {setting}"),
        ErrorKind::PermissionDenied => anyhow!(
            "TCP port {port} needs a privilege: take one above 1023 for {setting}, or grant CAP_NET_BIND_SERVICE"
        ),
        ErrorKind::AddrNotAvailable => {
            anyhow!("{ip} is not an address of this machine: correct bind_addresses (--bind)")
        }
        _ => anyhow!("cannot listen on {address}: {error}"),
    }
}

fn serve(
    servers: &mut JoinSet<Infallible>,
    listeners: Vec<TcpListener>,
    router: &Router,
    settings: &serve::Settings,
) -> anyhow::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::with_capacity(listeners.len());
    for listener in listeners {
        addresses.push(listener.local_addr().context("a listener has no address")?);
        servers.spawn(serve::serve(listener, router.clone(), settings.clone()));
    }
    Ok(addresses)
}

/// How long a start may take until requests are told of it; those of most starts wait for so long without noticing.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// Answers on these listeners, until it is dropped, that the server is starting: a database that is away is awaited.
fn answer_meanwhile(listeners: &[TcpListener], settings: &serve::Settings) -> anyhow::Result<JoinSet<Infallible>> {
    let router = Router::new().fallback(async || crate::http::starting());
    let mut servers = JoinSet::new();
    for listener in listeners {
        let same = SockRef::from(listener).try_clone().context("cannot share a listener")?;
        let same = TcpListener::from_std(same.into()).context("cannot share a listener")?;
        let (router, settings) = (router.clone(), settings.clone());
        servers.spawn(async move {
            tokio::time::sleep(START_PATIENCE).await;
            serve::serve(same, router, settings).await
        });
    }
    Ok(servers)
}

fn media_config(config: &Config, certificate: Certificate) -> sfu::io::Config {
    let PortRange { first, last } = config.udp_ports();
    sfu::io::Config {
        workers: config.rtc.workers,
        bind: Vec::new(),
        advertise: advertised(config),
        udp: if first == last { UdpPorts::Single(first) } else { UdpPorts::Range(first, last) },
        tcp_port: (config.rtc.tcp_port != 0).then_some(config.rtc.tcp_port),
        certificate,
        engine: EngineConfig {
            audio: config.audio.detection(),
            datachannel_slow_threshold: config.rtc.datachannel_slow_threshold,
        },
    }
}

/// Empty: the workers find out. In development clients are on this machine, and some of them reach it by its loopback
/// address alone, others by any address but that.
fn advertised(config: &Config) -> Vec<IpAddr> {
    if !config.rtc.node_ip.0.is_empty() || !config.development {
        return config.rtc.node_ip.0.clone();
    }
    outgoing_address().into_iter().chain([IpAddr::from([127, 0, 0, 1])]).collect()
}

/// The address that this machine would send from. Connecting a UDP socket sends nothing; 192.0.2.0/24 is for
/// documentation (RFC 5737).
fn outgoing_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
fn media_error(config: &Config, error: &std::io::Error) -> anyhow::Error {
    let PortRange { first, last } = config.udp_ports();
    match error.kind() {
        ErrorKind::AddrInUse => {
            anyhow!("{error}: stop what listens there, or set rtc.udp_port (--udp-port) and rtc.tcp_port")
        }
        _ => anyhow!("cannot start the media workers on UDP {first}-{last} and TCP {}: {error}", config.rtc.tcp_port),
    }
}

fn rooms_config(
    config: &Config,
    keys: &Keys,
    node_id: &NodeId,
    fingerprint: sfu::command::Fingerprint,
) -> anyhow::Result<RoomsConfig> {
    let room = &config.room;
    let mut room_configurations = std::collections::HashMap::new();
    for (name, settings) in &room.room_configurations {
        let settings = signaling::protobuf_json::read_value(settings.clone())
            .with_context(|| format!("room.room_configurations.{name} is not a room configuration"))?;
        room_configurations.insert(name.clone(), settings);
    }
    let stun: Vec<String> = config.rtc.stun_servers.iter().map(|host| format!("stun:{host}")).collect();
    let ice_servers = if stun.is_empty() { serde_json::json!([]) } else { serde_json::json!([{ "urls": stun }]) };
    Ok(RoomsConfig {
        auto_create: room.auto_create,
        max_participants: room.max_participants,
        audience_threshold: room.audience_threshold,
        empty_timeout: Duration::from_secs(room.empty_timeout.into()),
        departure_timeout: Duration::from_secs(room.departure_timeout.into()),
        enabled_codecs: config.codecs()?,
        enable_remote_unmute: room.enable_remote_unmute,
        limits: Limits {
            metadata_bytes_max: config.limit.max_metadata_size,
            attributes_bytes_max: config.limit.max_attributes_size,
            name_bytes_max: config.limit.max_participant_name_length,
            room_name_bytes_max: config.limit.max_room_name_length,
            node_tracks_max: usize::try_from(config.limit.num_tracks).unwrap_or(0),
        },
        region: config.region.clone(),
        node_id: node_id.to_string(),
        ice_servers: serde_json::from_value(ice_servers).context("rtc.stun_servers is not usable")?,
        room_configurations,
        signer: keys.signer(),
        fingerprint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_this_machine_does_not_have_is_a_mistake_of_the_configuration() {
        let listen = |addresses: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            listen(&addresses, 0, "http.addresses")
        };

        for addresses in [&["192.0.2.1"][..], &["127.0.0.1", "192.0.2.1"], &["127.0.0.1", "2001:db8::1"]] {
            let refused = listen(addresses).expect_err("it is nobody's").to_string();
            assert!(refused.contains(addresses.last().unwrap()), "{refused}");
        }
        // There may be no IPv6.
        let both = listen(&["127.0.0.1", "::1"]).unwrap();
        assert_eq!(both[0].local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        for all in [&[][..], &["::"], &["127.0.0.1", "::"]] {
            let all = listen(all).unwrap();
            assert!(matches!(&all[..], [one] if one.local_addr().unwrap().ip().is_unspecified()), "{all:?}");
        }
    }

    #[test]
    fn an_address_tells_from_where_it_can_be_reached() {
        let of = |text: &str| Reach::of(text.parse().unwrap());

        for text in ["127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"] {
            assert_eq!(of(text), Reach::Machine, "{text}");
        }
        for text in ["10.1.2.3", "172.16.0.1", "192.168.1.2", "169.254.1.1", "100.64.0.1", "fd00::1", "fe80::1"] {
            assert_eq!(of(text), Reach::Network, "{text}");
        }
        for text in ["203.0.113.9", "100.128.0.1", "172.32.0.1", "2001:db8::1"] {
            assert_eq!(of(text), Reach::Internet, "{text}");
        }
    }

    #[test]
    fn all_addresses_are_written_as_those_of_the_interfaces() {
        let all = reachable("[::]:7880".parse().unwrap());

        assert!(!all.is_empty() && all.iter().all(|address| !address.ip().is_unspecified() && address.port() == 7880));
        assert!(reachable("0.0.0.0:1".parse().unwrap()).iter().all(SocketAddr::is_ipv4));
        let one: SocketAddr = "10.0.0.7:1".parse().unwrap();
        assert_eq!(reachable(one), [one]);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_in_ipv6_is_not_listened_on_in_ipv4_alone() {
        // Without IPv6 there is nothing to tell apart.
        let Ok(taken) = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else { return };
        let port = taken.local_addr().unwrap().port();

        let error = listen(&[], port, "port").unwrap_err();

        assert!(error.to_string().contains("is taken"), "{error}");
    }

    #[tokio::test]
    async fn a_crowd_that_knocks_at_once_waits_in_the_queue_of_the_listener() {
        let listeners = listen(&[Ipv4Addr::LOCALHOST.into()], 0, "port").unwrap();
        let address = listeners[0].local_addr().unwrap();
        let allowed: usize = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();

        let knock = |_| std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(10));
        let crowd: Result<Vec<_>, _> = (0..allowed.min(400)).map(knock).collect();

        assert!(crowd.is_ok(), "nobody is turned away: {crowd:?}");
    }

    #[tokio::test]
    async fn all_addresses_are_listened_on_once() {
        for addresses in [vec![], vec!["::".parse().unwrap(), "0.0.0.0".parse().unwrap(), "127.0.0.1".parse().unwrap()]]
        {
            let listeners = listen(&addresses, 0, "port").unwrap();

            assert_eq!(listeners.len(), 1);
            assert!(listeners[0].local_addr().unwrap().ip().is_unspecified());
        }
    }
}
