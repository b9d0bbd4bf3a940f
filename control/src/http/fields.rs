//! Fields of bodies (stream API, section 3.3): each is read once, by its rule, into what it means. All that are wrong
//! are named at once. How texts become titles, tags and URLs is in [`crate::text`].

use std::fmt;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::clock::Timestamp;
use crate::problem::{FieldError, Problem};
use crate::store::stream::{StreamId, UserId};
use crate::text::{self, CoverUrl, NotAcceptable, Schemes, Tags, Title};

/// Fields that are named in one answer.
const ERRORS_MAX: usize = 20;

/// Soonest and latest time of a scheduled stream, from now.
pub const SCHEDULE_AHEAD: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(90 * 24 * 3600));

/// What rules depend on.
#[derive(Debug, Clone)]
pub struct Rules {
    pub development: bool,
    pub now: Timestamp,
}

/// A body as clients write it.
pub(super) trait Fields: DeserializeOwned {
    /// What it means.
    type Read;

    /// Whether no body at all, or `null`, is as good as `{}`.
    const IS_OPTIONAL: bool = false;

    /// Reads each field. `None` only if one that is needed is wrong.
    fn read(self, fields: &mut Reader<'_>) -> Option<Self::Read>;
}

/// Reads fields by their rules, and notes which ones are wrong.
pub(super) struct Reader<'a> {
    rules: &'a Rules,
    errors: Vec<FieldError>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(rules: &'a Rules) -> Self {
        Self { rules, errors: Vec::new() }
    }

    /// What is wrong, one error for each field; `None` if nothing is.
    pub(super) fn refusal(self) -> Option<Problem> {
        (!self.errors.is_empty()).then(|| Problem::validation(self.errors))
    }

    /// A field by any rule. `field` is its name on the wire.
    pub(super) fn field<T, E: fmt::Display>(&mut self, field: &str, read: Result<T, E>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(error) => {
                if self.errors.iter().all(|known| known.field != field) && self.errors.len() < ERRORS_MAX {
                    self.errors.push(FieldError { field: field.to_owned(), message: error.to_string() });
                }
                None
            }
        }
    }

    /// A text that may be absent or empty.
    pub(super) fn words(&mut self, field: &str, text: Option<&str>, chars_max: usize) -> Option<String> {
        self.field(field, text.map_or(Ok(None), |text| text::short(text, chars_max))).flatten()
    }

    pub(super) fn needed_words(&mut self, field: &str, text: &str, chars_max: usize) -> Option<String> {
        self.field(field, text::short_and_given(text, chars_max))
    }

    pub(super) fn title(&mut self, title: Option<&str>) -> Option<Title> {
        self.field("title", title.map_or(Ok(None), Title::if_given)).flatten()
    }

    pub(super) fn needed_title(&mut self, title: &str) -> Option<Title> {
        self.field("title", title.parse())
    }

    pub(super) fn tags(&mut self, tags: Option<&[String]>) -> Tags {
        self.field("tags", Tags::read(tags.unwrap_or_default())).unwrap_or_default()
    }

    pub(super) fn cover_url(&mut self, url: Option<&str>) -> Option<CoverUrl> {
        let schemes = if self.rules.development { Schemes::HttpAndHttps } else { Schemes::Https };
        self.field("coverUrl", url.map_or(Ok(None), |url| CoverUrl::if_given(url, schemes))).flatten()
    }

    pub(super) fn stream_id(&mut self, id: Option<&str>) -> Option<StreamId> {
        let id = id.map(str::parse).transpose();
        self.field("streamId", id.map_err(|_| "24 lower-case hexadecimal digits")).flatten()
    }

    pub(super) fn user_id(&mut self, id: Option<&str>) -> Option<UserId> {
        id.and_then(|id| self.needed_user_id(id))
    }

    pub(super) fn needed_user_id(&mut self, id: &str) -> Option<UserId> {
        self.field("userId", id.parse().map_err(|_| "1 to 128 bytes"))
    }

    /// An id that we gave: letters and digits.
    pub(super) fn own_id(&mut self, field: &str, id: Option<String>) -> Option<String> {
        let proper = |id: &String| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let is_proper = id.as_ref().is_none_or(proper);
        self.field(field, if is_proper { Ok(id) } else { Err("an id of letters and digits") }).flatten()
    }

    /// A number, if it is given, between these.
    pub(super) fn within(&mut self, field: &str, value: Option<u32>, min: u32, max: u32) -> Option<u32> {
        let is_within = value.is_none_or(|value| (min..=max).contains(&value));
        self.field(field, if is_within { Ok(value) } else { Err(format!("must be {min} to {max}")) }).flatten()
    }

    /// The time of a scheduled stream. It stands also if it is refused.
    pub(super) fn schedule(&mut self, at: Timestamp) -> Timestamp {
        self.field("scheduledFor", schedule(at, self.rules.now));
        at
    }

    pub(super) fn future(&mut self, field: &str, at: Option<Timestamp>) -> Option<Timestamp> {
        let is_to_come = at.is_none_or(|at| at > self.rules.now);
        self.field(field, if is_to_come { Ok(at) } else { Err("must be in the future") }).flatten()
    }
}

fn schedule(at: Timestamp, now: Timestamp) -> Result<(), NotAcceptable> {
    let (soonest, latest) = SCHEDULE_AHEAD;
    let times = now.plus(soonest)..=now.plus(latest);
    if times.contains(&at) { Ok(()) } else { Err("5 minutes to 90 days ahead".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_scheduled_5_minutes_to_90_days_ahead() {
        let now = Timestamp::from_millis(1_000_000);
        let at = |seconds: u64| schedule(now.plus(Duration::from_secs(seconds)), now).is_ok();

        assert!(at(300) && at(90 * 24 * 3600));
        assert!(!at(299) && !at(90 * 24 * 3600 + 1) && !at(0));
    }
}
