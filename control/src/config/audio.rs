//! Settings of speaker detection, under LiveKit's names.

use std::time::Duration;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use sfu::audio::{AudioConfig, SILENCE};

/// Milliseconds: two packets of audio.
const UPDATE_INTERVAL_MIN: u32 = 40;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audio {
    /// In dB below full scale, 0 to 127.
    pub active_level: u8,
    /// Percent.
    pub min_percentile: u8,
    /// Milliseconds.
    pub update_interval: u32,
    pub smooth_intervals: u32,
}

impl Default for Audio {
    fn default() -> Self {
        let AudioConfig { active_level, min_percentile, update_interval, smooth_intervals } = AudioConfig::default();
        let update_interval = u32::try_from(update_interval.as_millis()).unwrap_or(u32::MAX);
        Self { active_level, min_percentile, update_interval, smooth_intervals }
    }
}

impl Audio {
    pub fn detection(&self) -> AudioConfig {
        let Self { active_level, min_percentile, update_interval, smooth_intervals } = *self;
        let update_interval = Duration::from_millis(update_interval.into());
        AudioConfig { active_level, min_percentile, update_interval, smooth_intervals }
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        if self.active_level > SILENCE {
            bail!("audio.active_level is {}, but levels go from 0, the loudest, to {SILENCE}", self.active_level);
        }
        if self.min_percentile > 100 {
            bail!("audio.min_percentile is {}, but is a percentage: 0 to 100", self.min_percentile);
        }
        if (1..UPDATE_INTERVAL_MIN).contains(&self.update_interval) {
            let interval = self.update_interval;
            bail!(
                "audio.update_interval is {interval}, but levels come every 20 ms: {UPDATE_INTERVAL_MIN} ms at least, or 0"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_make_no_sense_are_refused_by_name() {
        assert!(Audio::default().check().is_ok());
        let loud = Audio { active_level: 128, ..Audio::default() };
        assert!(loud.check().unwrap_err().to_string().contains("audio.active_level"));
        let much = Audio { min_percentile: 101, ..Audio::default() };
        assert!(much.check().unwrap_err().to_string().contains("audio.min_percentile"));
        for (update_interval, refused) in [(0, false), (1, true), (39, true), (40, false)] {
            let check = Audio { update_interval, ..Audio::default() }.check();
            assert_eq!(check.is_err_and(|error| error.to_string().contains("audio.update_interval")), refused);
        }
    }
}
