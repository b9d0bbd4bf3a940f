//! How much a transport keeps once it is connected.

#[path = "support/allocations.rs"]
mod allocations;
mod support;

use std::mem;
use std::time::Duration;

use sfu::certificate::Certificate;
use sfu::command::{ChannelOpener, TransportId};
use sfu::ice;
use sfu::transport::{Transport, TransportOutput};
use support::{Client, LIBWEBRTC_PROFILES, World};

/// Bytes on the heap that go with the world's transport.
fn heap_of_transport(world: &mut World) -> usize {
    let fresh =
        Transport::new(TransportId(2), ice::new_credentials(0), ChannelOpener::Client, &Certificate::generate(), 2);
    allocations::bytes_of(mem::replace(&mut world.transport, fresh))
}

/// Bytes on the heap before the handshake and after it.
fn before_and_after(client: fn() -> Client) -> (usize, usize) {
    let mut world = World::with_client(ChannelOpener::Client, 1, client());
    let fresh = heap_of_transport(&mut world);

    let mut world = World::with_client(ChannelOpener::Client, 1, client());
    world.transport.set_fingerprint(world.now, world.client.fingerprint);
    assert!(world.run_until(Duration::from_secs(1), |world| {
        matches!(world.outputs.first(), Some(TransportOutput::Connected(_)))
    }));
    (fresh, heap_of_transport(&mut world))
}

#[test]
fn a_connected_transport_keeps_little_more_than_its_keys() {
    let clients: [fn() -> Client; 2] =
        [|| Client::new(&LIBWEBRTC_PROFILES), || Client::passive(&LIBWEBRTC_PROFILES).waiting_for_init()];
    for (role, client) in ["server", "client"].into_iter().zip(clients) {
        let (fresh, connected) = before_and_after(client);
        println!(
            "DTLS {role}: {} bytes inline; on the heap {fresh} fresh, {connected} connected",
            size_of::<Transport>()
        );
        assert!(connected < 4 * 1024, "{connected}");
    }

    let mut world = World::connected(ChannelOpener::Client, 1);
    world.run_for(Duration::from_secs(2));
    println!("{} with three channels", heap_of_transport(&mut world));
}
