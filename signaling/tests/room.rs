//! Rooms in virtual time: inputs and moments go in, messages, commands, deltas and events come out. No sockets.

#[path = "support/joins.rs"]
mod joins;
#[path = "room/world.rs"]
mod world;

#[path = "room/sdp.rs"]
mod sdp;

#[path = "room/audience.rs"]
mod audience;
#[path = "room/broadcasting.rs"]
mod broadcasting;
#[path = "room/charging.rs"]
mod charging;
#[path = "room/data.rs"]
mod data;
#[path = "room/deltas.rs"]
mod deltas;
#[path = "room/joining.rs"]
mod joining;
#[path = "room/leaving.rs"]
mod leaving;
#[path = "room/metadata.rs"]
mod metadata;
#[path = "room/permissions.rs"]
mod permissions;
#[path = "room/publishing.rs"]
mod publishing;
#[path = "room/quirks.rs"]
mod quirks;
#[path = "room/resuming.rs"]
mod resuming;
#[path = "room/session_state.rs"]
mod session_state;
#[path = "room/speakers.rs"]
mod speakers;
#[path = "room/subscribing.rs"]
mod subscribing;
#[path = "room/swapping.rs"]
mod swapping;
#[path = "room/visibility.rs"]
mod visibility;
