//! Where media is served in tests of what signals it.

use sfu::certificate::Certificate;
use sfu::engine::EngineConfig;
use sfu::io::{Config, UdpPorts};

/// One worker, on any UDP port of loopback.
pub fn loopback(certificate: Certificate) -> Config {
    Config {
        workers: 1,
        bind: vec![[127, 0, 0, 1].into()],
        advertise: vec![[127, 0, 0, 1].into()],
        udp: UdpPorts::Single(0),
        tcp_port: None,
        certificate,
        engine: EngineConfig::default(),
    }
}
