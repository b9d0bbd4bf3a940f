//! Rules of fields (stream API, section 3.3), in the form that `garde` asks for. What a field becomes is made by
//! [`crate::text`], from the same functions.

use std::time::Duration;

use garde::{Error, Report};

use crate::clock::Timestamp;
use crate::problem::{FieldError, Problem};
use crate::store::stream::{StreamId, UserId};
use crate::text::{self, NotAcceptable, Schemes};

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

impl Rules {
    pub fn schemes(&self) -> Schemes {
        if self.development { Schemes::HttpAndHttps } else { Schemes::Https }
    }
}

/// All violations, one for each field.
pub(super) fn problem(report: &Report) -> Problem {
    let mut errors: Vec<FieldError> = Vec::new();
    for (path, error) in report.iter() {
        let field = camel_case(&path.to_string());
        if errors.iter().all(|known| known.field != field) && errors.len() < ERRORS_MAX {
            errors.push(FieldError { field, message: error.message().to_owned() });
        }
    }
    Problem::validation(errors)
}

fn camel_case(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut capital = false;
    for c in name.chars() {
        match c {
            '_' => capital = true,
            c if capital => {
                camel.push(c.to_ascii_uppercase());
                capital = false;
            }
            c => camel.push(c),
        }
    }
    camel
}

fn outcome<T>(result: Result<T, NotAcceptable>) -> garde::Result {
    result.map(|_| ()).map_err(|error| Error::new(error.0))
}

pub(super) fn title(value: &Option<String>, _: &Rules) -> garde::Result {
    outcome(value.as_deref().map_or(Ok(None), text::title))
}

pub(super) fn needed_title(value: &str, _: &Rules) -> garde::Result {
    match text::title(value) {
        Ok(None) => Err(Error::new("must not be empty")),
        result => outcome(result),
    }
}

pub(super) fn tags(value: &Option<Vec<String>>, _: &Rules) -> garde::Result {
    outcome(value.as_ref().map_or(Ok(Vec::new()), |tags| text::tags(tags)))
}

pub(super) fn cover_url(value: &Option<String>, rules: &Rules) -> garde::Result {
    outcome(value.as_deref().map_or(Ok(None), |url| text::picture_url(url, rules.schemes())))
}

pub(super) fn stream_id(value: &Option<String>, _: &Rules) -> garde::Result {
    match value.as_deref().map(str::parse::<StreamId>) {
        Some(Err(_)) => Err(Error::new("24 lower-case hexadecimal digits")),
        Some(Ok(_)) | None => Ok(()),
    }
}

pub(super) fn user_id(value: &Option<String>, rules: &Rules) -> garde::Result {
    value.as_deref().map_or(Ok(()), |id| needed_user_id(id, rules))
}

pub(super) fn needed_user_id(value: &str, _: &Rules) -> garde::Result {
    value.parse::<UserId>().map(|_| ()).map_err(|_| Error::new("1 to 128 bytes"))
}

/// An id that we gave: letters and digits.
pub(super) fn own_id(value: &Option<String>, _: &Rules) -> garde::Result {
    let proper = |id: &String| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if value.as_ref().is_none_or(proper) { Ok(()) } else { Err(Error::new("an id of letters and digits")) }
}

pub(super) fn words<const CHARS_MAX: usize>(value: &Option<String>, _: &Rules) -> garde::Result {
    outcome(value.as_deref().map_or(Ok(None), |text| text::short(text, CHARS_MAX)))
}

pub(super) fn needed_words<const CHARS_MAX: usize>(value: &str, _: &Rules) -> garde::Result {
    match text::short(value, CHARS_MAX) {
        Ok(None) => Err(Error::new("must not be empty")),
        result => outcome(result),
    }
}

pub(super) fn schedule(value: &Timestamp, rules: &Rules) -> garde::Result {
    let (soonest, latest) = SCHEDULE_AHEAD;
    if (rules.now.plus(soonest)..=rules.now.plus(latest)).contains(value) {
        Ok(())
    } else {
        Err(Error::new("5 minutes to 90 days ahead"))
    }
}

pub(super) fn future(value: &Option<Timestamp>, rules: &Rules) -> garde::Result {
    if value.is_none_or(|at| at > rules.now) { Ok(()) } else { Err(Error::new("must be in the future")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_as_clients_write_them() {
        assert_eq!(camel_case("cover_url"), "coverUrl");
        assert_eq!(camel_case("tags"), "tags");
        assert_eq!(camel_case("scheduled_for"), "scheduledFor");
    }

    #[test]
    fn a_stream_is_scheduled_5_minutes_to_90_days_ahead() {
        let rules = Rules { development: false, now: Timestamp::from_millis(1_000_000) };
        let at = |seconds: u64| schedule(&rules.now.plus(Duration::from_secs(seconds)), &rules).is_ok();

        assert!(at(300) && at(90 * 24 * 3600));
        assert!(!at(299) && !at(90 * 24 * 3600 + 1) && !at(0));
    }
}
