//! Ids that rooms give: minted by the caller and never used twice.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u64);
    };
}

id!(
    /// A room, as far as a worker cares: where its events go.
    RoomId
);
id!(
    /// One ICE/DTLS/SRTP association with a client.
    TransportId
);
id!(
    /// One published track.
    PublicationId
);
id!(
    /// One viewer of one publication.
    SubscriptionId
);
