//! Nothing is allocated for a forwarded packet once a stream flows.

mod media;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use media::*;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: forwards to the system allocator; the counter is const-initialised and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_forwarded_packet_allocates_nothing_in_steady_state() {
    let mut world = World::new();
    world.join(1);
    world.publish(1, 1, video_section(100));
    world.publish(1, 2, audio_section(200));
    for n in 0..50 {
        world.join(10 + n);
        world.subscribe(10 + n, n, 1, send_section(1000 + 4 * n as u32, video_codecs()));
        world.subscribe(10 + n, 100 + n, 2, send_section(1002 + 4 * n as u32, audio_codecs()));
    }
    world.out.transmitter().discard = true;
    let mut source = Source::new(100);
    let mut sealed = Vec::new();
    let mut publisher = publisher_cipher();
    for sequence in 1..=60 {
        let mut packets = source.frame(sequence == 1, 7);
        packets.push(Rtp { payload_type: AUDIO, sequence, ssrc: 200, payload: vec![1; 100], ..Rtp::default() });
        let datagrams: Vec<Vec<u8>> =
            packets.iter().map(|packet| publisher.encrypt_rtp(&packet.bytes()).expect("seals").to_vec()).collect();
        sealed.push(datagrams);
    }
    let path = sfu::transport::Path { remote: address(1), via: sfu::transport::Via::Udp(0) };
    let (mut warm, mut sent) = (0, 0);
    for (number, frame) in sealed.iter_mut().enumerate() {
        if number == 30 {
            (warm, sent) = (ALLOCATIONS.get(), world.engine.stats.rtp_sent);
        }
        for datagram in frame {
            world.engine.receive(world.now, path, datagram, &mut world.out);
        }
        world.engine.forward(world.now, &mut world.out);
        world.out.flush();
        while world.engine.poll_event().is_some() {}
    }
    let forwarded = world.engine.stats.rtp_sent - sent;
    assert_eq!(forwarded, 30 * 8 * 50);
    assert_eq!(ALLOCATIONS.get() - warm, 0, "allocations while {forwarded} packets were forwarded");
}

fn publisher_cipher() -> rtc_srtp::context::Context {
    let keys = keys(1);
    let provider = rtc_crypto::default_provider().expect("a provider");
    let profile = rtc_srtp::protection_profile::ProtectionProfile::AeadAes128Gcm;
    rtc_srtp::context::Context::new(&keys.client_key, &keys.client_salt, profile, None, None, provider.crypto())
        .expect("a context")
}
