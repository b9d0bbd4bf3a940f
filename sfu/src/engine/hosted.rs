//! A transport that an engine hosts, with what hangs on it.

use std::time::Instant;

use super::budget::Budget;
use super::load::Sender;
use crate::downlink::Downlink;
use crate::id::{RoomId, TransportId};
use crate::key::{PublicationKey, SubscriptionKey};
use crate::path::Path;
use crate::section::ExtensionIds;
use crate::srtp::SrtpReceiver;
use crate::transport::Transport;
use crate::twcc::recorder::TwccRecorder;

/// A transport, and its share of the engine's state.
pub(super) struct Hosted {
    pub(super) id: TransportId,
    pub(super) room: RoomId,
    pub(super) transport: Box<Transport>,
    pub(super) downlink: Downlink,
    pub(super) receiver: Option<Box<SrtpReceiver>>,
    /// Addresses from which it has been checked.
    pub(super) paths: Vec<Path>,
    pub(super) ufrags: Vec<String>,
    /// What it publishes, and which SSRC is what.
    pub(super) publications: Vec<PublicationKey>,
    pub(super) streams: Vec<(u32, Stream)>,
    pub(super) receive_extensions: ExtensionIds,
    pub(super) twcc: Option<Box<TwccRecorder>>,
    /// What it gets.
    pub(super) subscriptions: Vec<SubscriptionKey>,
    /// When its timer was last set for.
    pub(super) scheduled: Option<Instant>,
    /// When it is closed, if its room has given it up already.
    pub(super) closes_at: Option<Instant>,
    /// Its part of [`super::load::DataFlow::backlog`].
    pub(super) data_backlog: usize,
    pub(super) data: Sender,
    pub(super) budget: Budget,
}

/// What an SSRC of a publisher carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stream {
    pub(super) publication: PublicationKey,
    pub(super) layer: u8,
    pub(super) rtx: bool,
}
