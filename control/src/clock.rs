//! Points in time as the control plane keeps and shows them: milliseconds, RFC 3339 in UTC on the wire.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Tells the time; tests bring their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Milliseconds since 1970 in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is no RFC 3339 time of the years 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a time in RFC 3339 form, such as 2026-01-02T03:04:05.678Z")]
pub struct NotATime;

impl Timestamp {
    /// The end of the year 9999, the last that RFC 3339 can write.
    const MILLIS_MAX: i64 = 253_402_300_799_999;

    /// Twice what clocks of nodes are apart at most (`store::CLOCKS_APART`).
    pub const AHEAD_MAX: Duration = Duration::from_secs(120);

    /// Notes of requests that are so far ahead are removed. None is kept for longer than a day, so that what is ahead
    /// by less is past its time soon enough.
    pub const EXPIRED_AHEAD: Duration = Duration::from_secs(2 * 24 * 3600);

    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Clamped to the years 1970 to 9999.
    pub fn from_millis(millis: i64) -> Self {
        Self(millis.clamp(0, Self::MILLIS_MAX))
    }

    pub fn millis(self) -> i64 {
        self.0
    }

    pub fn plus(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    pub fn minus(self, duration: Duration) -> Self {
        Self::from_millis(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Whether this is further ahead of `now` than clocks of nodes are apart: it was noted while a clock was wrong, and
    /// nobody is to wait until then.
    pub fn is_far_ahead(self, now: Timestamp) -> bool {
        self > now.plus(Self::AHEAD_MAX)
    }

    /// Zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0 - earlier.0).unwrap_or(0))
    }

    /// # Errors
    /// [`NotATime`]
    pub fn parse(text: &str) -> Result<Self, NotATime> {
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| NotATime)?;
        let millis = i64::try_from(time.unix_timestamp_nanos() / 1_000_000).map_err(|_| NotATime)?;
        if (0..=Self::MILLIS_MAX).contains(&millis) { Ok(Self(millis)) } else { Err(NotATime) }
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// With milliseconds and `Z`, always.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (date, clock) = (time.date(), time.time());
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            clock.hour(),
            clock.minute(),
            clock.second(),
            clock.millisecond()
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_milliseconds_and_read_back() {
        let time = Timestamp::from_millis(1_767_323_045_678);

        assert_eq!(time.to_string(), "2026-01-02T03:04:05.678Z");
        assert_eq!(Timestamp::parse(&time.to_string()), Ok(time));
    }

    #[test]
    fn a_time_is_far_ahead_beyond_what_clocks_are_apart() {
        let (now, ahead) = (Timestamp::from_millis(1_767_323_045_678), Timestamp::AHEAD_MAX);

        assert!(!now.is_far_ahead(now) && !now.plus(ahead).is_far_ahead(now));
        assert!(now.plus(ahead + Duration::from_millis(1)).is_far_ahead(now));
        assert!(!Timestamp::default().is_far_ahead(now));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "2026-01-02", "yesterday", "-001-01-01T00:00:00Z", "1969-12-31T23:59:59Z"] {
            assert_eq!(Timestamp::parse(text), Err(NotATime), "{text}");
        }
    }
}
