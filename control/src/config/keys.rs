//! The keys that a configuration may have.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use serde_yaml_ng::{Mapping, Value};

use super::Config;
use super::livekit::{self, Standing};
use super::values::scalar_text;

/// Maps whose keys are the operator's.
pub(super) const OPEN_MAPS: [&str; 2] = ["keys", "room.room_configurations"];

/// The keys that a [`Config`] has.
pub(super) struct KnownKeys {
    values: BTreeSet<String>,
    sections: BTreeSet<String>,
}

impl KnownKeys {
    pub(super) fn new() -> Self {
        let mut known = Self { values: BTreeSet::new(), sections: BTreeSet::new() };
        let tree = serde_yaml_ng::to_value(Config::default()).expect("the defaults are plain data");
        if let Value::Mapping(tree) = tree {
            known.add("", &tree);
        }
        known
    }

    fn add(&mut self, prefix: &str, tree: &Mapping) {
        for (key, value) in tree {
            let path = joined(prefix, key.as_str().unwrap_or_default());
            match value {
                Value::Mapping(below) if !OPEN_MAPS.contains(&path.as_str()) => {
                    self.sections.insert(path.clone());
                    self.add(&path, below);
                }
                _ => {
                    self.values.insert(path);
                }
            }
        }
    }

    /// Known keys that the environment sets. Maps have variables of their own, or none.
    pub(super) fn environment_overrides(&self, environment: &[(String, String)]) -> Vec<(String, String)> {
        let by_name: BTreeMap<String, &String> = self
            .values
            .iter()
            .filter(|path| !OPEN_MAPS.contains(&path.as_str()))
            .map(|path| (format!("LIVEKIT_{}", path.replace('.', "_").to_ascii_uppercase()), path))
            .collect();
        environment
            .iter()
            .filter_map(|(name, text)| by_name.get(name).map(|path| ((*path).clone(), text.clone())))
            .collect()
    }

    /// Takes out what Onair does not know; complains as the key's standing demands.
    pub(super) fn check(&self, tree: &mut Mapping, strict: bool, warnings: &mut Vec<String>) -> anyhow::Result<()> {
        self.check_section("", tree, strict, warnings)
    }

    fn check_section(
        &self,
        prefix: &str,
        tree: &mut Mapping,
        strict: bool,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let mut unknown = Vec::new();
        for (key, value) in tree.iter_mut() {
            let Some(name) = scalar_text(key) else {
                bail!("keys must be text, but {prefix:?} has one that is not");
            };
            let path = joined(prefix, &name);
            if self.values.contains(&path) {
                continue;
            }
            match value {
                Value::Mapping(below) if self.sections.contains(&path) => {
                    self.check_section(&path, below, strict, warnings)?;
                }
                // `rtc:` with nothing below it.
                Value::Null if self.sections.contains(&path) => unknown.push(key.clone()),
                _ if self.sections.contains(&path) => bail!("{path} has keys below it, not a value"),
                _ => {
                    self.complain(&path, value, strict, warnings)?;
                    unknown.push(key.clone());
                }
            }
        }
        for key in unknown {
            tree.remove(&key);
        }
        Ok(())
    }

    fn complain(&self, path: &str, value: &Value, strict: bool, warnings: &mut Vec<String>) -> anyhow::Result<()> {
        match livekit::standing(path) {
            Some(_) if is_off(value) => {}
            Some(Standing::Ignored) => warnings.push(format!("{path} has no effect: this server works without it")),
            Some(Standing::Unsupported) if strict => {
                bail!(
                    "{path} is not supported yet: take it out, or start with --disable-strict-config to go on without it"
                )
            }
            Some(Standing::Unsupported) => warnings.push(format!("{path} is not supported yet and has no effect")),
            None if strict => bail!("unknown key {path}{}", self.hint(path)),
            None => warnings.push(format!("unknown key {path}{}", self.hint(path))),
        }
        Ok(())
    }

    fn hint(&self, path: &str) -> String {
        let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        let near = |known: &&String| edits(path, known).min(edits(&last(path), &last(known)) + 1);
        let nearest = self.values.iter().chain(&self.sections).min_by_key(near);
        match nearest {
            Some(known) if near(&known) <= 3 => format!(": did you mean {known}?"),
            Some(_) | None => ": config/onair.yaml lists all keys".to_owned(),
        }
    }
}

/// Whether a feature is switched off by this value, so that not having it changes nothing.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(below) => below.get("enabled") == Some(&Value::Bool(false)) || below.values().all(is_off),
        Value::Bool(true) | Value::Tagged(_) => false,
    }
}

pub(super) fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Levenshtein distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            let here = (left + 1).min(above + 1).min(diagonal + usize::from(x != y));
            diagonal = above;
            left = here;
            *cell = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}
