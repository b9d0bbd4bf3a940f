//! What is to be said of a configuration: refusals and warnings, all at once.

use anyhow::bail;

/// What is to be said of a configuration.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    refusals: Vec<String>,
    /// How many of the refusals are of keys that Onair does not support.
    unsupported: usize,
    warnings: Vec<String>,
}

impl Remarks {
    /// It cannot be used.
    pub(super) fn refuse(&mut self, text: impl Into<String>) {
        self.refusals.push(text.into());
    }

    /// It has a key of LiveKit's that Onair does not support, and could go on without.
    pub(super) fn refuse_unsupported(&mut self, text: impl Into<String>) {
        self.unsupported += 1;
        self.refuse(text);
    }

    pub(super) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// The warnings, if there is no refusal.
    ///
    /// # Errors
    /// All refusals in one text.
    pub(super) fn conclude(self) -> anyhow::Result<Vec<String>> {
        match self.refusals.as_slice() {
            [] => Ok(self.warnings),
            [one] => bail!("{one}{}", self.way_out()),
            all => {
                let lines: String = all.iter().map(|text| format!("\n  {text}")).collect();
                bail!("{} things in the configuration stand in the way:{lines}{}", all.len(), self.way_out())
            }
        }
    }

    /// What helps against unsupported keys alone.
    fn way_out(&self) -> &'static str {
        if self.unsupported == self.refusals.len() {
            "\nTake it out, or start with --disable-strict-config to go on without it"
        } else {
            ""
        }
    }
}
