//! The way to the server: ICE, the DTLS handshake, and the data channels inside of it.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::feedback::REPORT_INTERVAL;
use super::{Transport, TransportEvent};
use crate::dtls::{Dtls, DtlsEvent};
use crate::ice::IceEvent;

impl Transport {
    pub(super) fn on_stun(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let out = &mut self.out;
        let crypto = self.identity.provider.crypto();
        let event = self.ice.on_datagram(from, datagram, now, crypto, |to, answer| out.push((to, answer)));
        self.on_ice(event, now);
    }

    pub(super) fn on_ice(&mut self, event: Option<IceEvent>, now: Instant) {
        match event {
            Some(IceEvent::Nominated(_)) => {
                if let Some(dtls) = &mut self.dtls
                    && let Err(error) = dtls.start(now)
                {
                    self.fail(format!("DTLS: {error:#}"));
                }
                self.flush_dtls();
            }
            Some(IceEvent::Failed) => self.fail("ICE: no answer from the server".to_owned()),
            None => {}
        }
    }

    pub(super) fn on_dtls(&mut self, datagram: &[u8], now: Instant, now_ns: u64) {
        let Some(dtls) = &mut self.dtls else { return };
        let events = match dtls.on_datagram(now, datagram) {
            Ok(events) => events,
            Err(error) => {
                // Once established, a bad record concerns nobody else.
                if self.srtp.is_none() {
                    self.fail(format!("DTLS: {error:#}"));
                }
                Vec::new()
            }
        };
        for event in events {
            match event {
                DtlsEvent::Established => self.on_established(now, now_ns),
                DtlsEvent::Data(data) => self.on_sctp(data.freeze(), now),
                DtlsEvent::Closed => {
                    self.dead = true;
                    self.events.push(TransportEvent::Closed);
                }
            }
        }
        self.flush_dtls();
    }

    fn on_established(&mut self, now: Instant, now_ns: u64) {
        match self.dtls.as_ref().map(Dtls::srtp) {
            Some(Ok(srtp)) => {
                self.stats.profile = Some(srtp.profile);
                self.stats.connected_ns = Some(now_ns);
                self.events.push(TransportEvent::Connected(srtp.profile));
                self.srtp = Some(srtp);
                self.next_report = Some(now + REPORT_INTERVAL);
            }
            Some(Err(error)) => self.fail(format!("SRTP: {error:#}")),
            None => {}
        }
        if let Some(channels) = &mut self.channels {
            channels.start(now);
        }
        self.flush_channels(now);
    }

    fn on_sctp(&mut self, packet: Bytes, now: Instant) {
        let Some(channels) = &mut self.channels else { return };
        let events = channels.on_packet(now, packet);
        self.events.extend(events.into_iter().map(TransportEvent::Channel));
        self.flush_channels(now);
    }

    pub(super) fn flush_channels(&mut self, now: Instant) {
        let (Some(channels), Some(dtls)) = (&mut self.channels, &mut self.dtls) else { return };
        while let Some(packets) = channels.poll_transmit(now) {
            for packet in packets {
                // SCTP retransmits what an association that is not up refuses.
                let _ = dtls.write(now, &packet);
            }
        }
        self.flush_dtls();
    }

    pub(super) fn flush_dtls(&mut self) {
        let (Some(dtls), Some(to)) = (&mut self.dtls, self.ice.nominated()) else { return };
        while let Some(datagram) = dtls.poll_transmit() {
            self.out.push((to, datagram.to_vec()));
        }
    }
}
