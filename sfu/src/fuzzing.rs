//! Entry functions of the fuzz targets; the ordinary tests call them too, with the committed corpora.
//!
//! Each takes any bytes and must neither panic nor run long, and what is said twice must agree.

use shared::media::Codec;

use crate::{codec, rtcp, rtp};

/// Header, extensions and payload of an RTP packet.
pub fn rtp(bytes: &[u8]) {
    let Some(view) = rtp::RtpView::parse(bytes) else { return };
    assert!(view.header_len() + view.payload().len() <= bytes.len());
    for (id, _) in view.extensions() {
        assert!(view.extension(id).is_some());
    }
    let _ = rtp::rtx_original(view.payload());
}

/// Every packet of a compound, every element of it.
pub fn rtcp(bytes: &[u8]) {
    for packet in rtcp::parse(bytes).flatten() {
        match packet {
            rtcp::Feedback::SenderReport(_, blocks) | rtcp::Feedback::ReceiverReport { blocks, .. } => {
                assert!(blocks.count() <= 31);
            }
            rtcp::Feedback::Nack { pairs, .. } => assert!(pairs.count() <= 17 * bytes.len() / 4),
            rtcp::Feedback::Fir { entries, .. } => assert!(entries.count() <= bytes.len() / 8),
            rtcp::Feedback::TransportCc(feedback) => {
                assert_eq!(feedback.statuses().count(), usize::from(feedback.status_count));
            }
            rtcp::Feedback::Remb { ssrcs, .. } | rtcp::Feedback::Bye(ssrcs) => assert!(ssrcs.count() <= 255),
            rtcp::Feedback::Pli { .. } | rtcp::Feedback::Other(_) => {}
        }
    }
}

const CODECS: [Codec; 5] = [
    Codec::Vp8,
    Codec::Vp9 { profile: 0 },
    Codec::H264 { packetization_mode: 1, profile: [0x42, 0xE0] },
    Codec::Av1 { profile: 0 },
    Codec::H265,
];

/// Payload descriptors of all codecs.
pub fn codec(bytes: &[u8]) {
    for kind in CODECS {
        codec::is_keyframe_start(kind, bytes, None);
        codec::is_keyframe_start(kind, &[], Some(bytes));
    }
    if let Some(descriptor) = codec::Vp9Descriptor::parse(bytes) {
        assert!(descriptor.header_len <= bytes.len());
    }
    if let Some(descriptor) = codec::Vp8Descriptor::parse(bytes) {
        let mut copy = bytes.to_vec();
        codec::rewrite_vp8(&descriptor, &mut copy, 0x1234, 0x56, 0x0A);
        assert_eq!(copy.get(descriptor.header_len..), bytes.get(descriptor.header_len..));
    }
}
