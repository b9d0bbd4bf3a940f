//! Name, metadata and attributes of a participant, changed by itself or by the server API (docs/livekit.md 4.5, 8.2).

use std::collections::HashMap;

use livekit_protocol as proto;
use proto::request_response::{Reason as Refusal, Request};
use shared::id::ParticipantSid;

use super::Room;
use super::context::Context;
use super::timer::Now;
use super::updates::Urgency;
use super::view::Change;
use crate::participant::Participant;
use crate::quirks::Quirk;
use crate::settings::exceeds;
use crate::wire;

/// What is wanted of a profile. Empty text means unchanged; an empty attribute is deleted.
#[derive(Debug, Clone, Default)]
pub(super) struct ProfileUpdate {
    pub name: String,
    pub metadata: String,
    pub attributes: HashMap<String, String>,
}

/// Whether a profile is another one now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Applied {
    Changed,
    Unchanged,
}

impl Room {
    pub(super) fn on_update_metadata(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        request: proto::UpdateParticipantMetadata,
    ) {
        let Some((participant, context)) = self.participant_mut(sid) else { return };
        let id = request.request_id;
        let update = ProfileUpdate {
            name: request.name.clone(),
            metadata: request.metadata.clone(),
            attributes: request.attributes.clone(),
        };
        let echo = Some(Request::UpdateMetadata(request));
        if !participant.state.grants.video.may_update_own_metadata() {
            let text = "does not have permission to update own metadata";
            participant.refuse(context, id, Refusal::NotAllowed, text, echo);
            return;
        }
        let applied = participant.apply_profile(context, &update);
        if applied == Ok(Applied::Changed) {
            self.profile_changed(now, sid);
        }
        self.with(sid, |participant, context| match applied {
            Err(text) => participant.refuse(context, id, Refusal::LimitExceeded, text, echo),
            Ok(_) if participant.state.quirks.has(Quirk::NoOkResponse) => {}
            Ok(_) => participant.respond(context, wire::request_response(id, Refusal::Ok, "", echo)),
        });
    }

    /// Applies what is within limits, tells everybody, and renews the token. The error says which limit was exceeded.
    pub(super) fn update_profile(
        &mut self,
        now: Now,
        sid: &ParticipantSid,
        update: &ProfileUpdate,
    ) -> Result<(), &'static str> {
        let Some((participant, context)) = self.participant_mut(sid) else { return Ok(()) };
        if participant.apply_profile(context, update)? == Applied::Changed {
            self.profile_changed(now, sid);
        }
        Ok(())
    }

    fn profile_changed(&mut self, now: Now, sid: &ParticipantSid) {
        self.announce(now, sid, Urgency::Now);
        self.with(sid, |participant, context| participant.send_refresh_token(now, context));
    }
}

impl Participant {
    fn apply_profile(&mut self, context: &mut Context, update: &ProfileUpdate) -> Result<Applied, &'static str> {
        let limits = &context.config.limits;
        let grants = &mut self.state.grants;
        let attributes = merge(&grants.attributes, &update.attributes);
        if exceeds(update.name.len(), limits.name_bytes_max) {
            return Err("exceeds name length limit");
        }
        if exceeds(update.metadata.len(), limits.metadata_bytes_max) {
            return Err("exceeds metadata size limit");
        }
        if exceeds(attributes_size(&attributes), limits.attributes_bytes_max) {
            return Err("exceeds attributes size limit");
        }
        let name = if update.name.is_empty() { grants.name.clone() } else { update.name.clone() };
        let metadata = if update.metadata.is_empty() { grants.metadata.clone() } else { update.metadata.clone() };
        if (&name, &metadata, &attributes) == (&grants.name, &grants.metadata, &grants.attributes) {
            return Ok(Applied::Unchanged);
        }
        grants.name.clone_from(&name);
        grants.metadata.clone_from(&metadata);
        grants.attributes.clone_from(&attributes);
        context.change(Change::Profile { sid: self.state.sid.clone(), name, metadata, attributes });
        Ok(Applied::Changed)
    }
}

fn merge(old: &HashMap<String, String>, changes: &HashMap<String, String>) -> HashMap<String, String> {
    let mut merged = old.clone();
    for (key, value) in changes {
        if value.is_empty() {
            merged.remove(key);
        } else {
            merged.insert(key.clone(), value.clone());
        }
    }
    merged
}

/// Bytes of all keys and values.
pub(super) fn attributes_size(attributes: &HashMap<String, String>) -> usize {
    attributes.iter().map(|(key, value)| key.len() + value.len()).sum()
}
