//! The keys that a configuration may have, those of LiveKit's that have no effect here, and what a mistyped one was
//! meant to be.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml_ng::{Mapping, Value};

use super::Config;
use super::livekit::{self, Standing};
use super::remarks::Remarks;
use super::tree::{remove, set};
use super::values::{scalar_text, truth};

/// Maps whose keys are the operator's.
pub(super) const OPEN_MAPS: [&str; 2] = ["keys", "room.room_configurations"];

/// What variables of single keys begin with, before the key in capitals.
const VARIABLE_PREFIX: &str = "LIVEKIT_";

/// Variables with that beginning that are read elsewhere: by flags of the command line, and by [`super::product`].
const OTHER_VARIABLES: [&str; 6] =
    ["LIVEKIT_CONFIG", "LIVEKIT_KEYS", "LIVEKIT_REGION", "LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"];

/// Most slips that a key may differ by from the one that it was meant to be.
const SLIPS_MAX: usize = 3;

/// The keys that a [`Config`] has.
pub(super) struct KnownKeys {
    /// With their defaults.
    values: BTreeMap<String, Value>,
    sections: BTreeSet<String>,
}

impl KnownKeys {
    pub(super) fn new() -> Self {
        let mut known = Self { values: BTreeMap::new(), sections: BTreeSet::new() };
        let tree = serde_yaml_ng::to_value(Config::default()).expect("the defaults are plain data");
        if let Value::Mapping(tree) = tree {
            known.add("", &tree);
        }
        known
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
    fn add(&mut self, prefix: &str, tree: &Mapping) {
        for (key, value) in tree {
            let path = joined(prefix, key.as_str().unwrap_or_default());
            match value {
                Value::Mapping(below) if !OPEN_MAPS.contains(&path.as_str()) => {
                    self.sections.insert(path.clone());
                    self.add(&path, below);
                }
                _ => {
                    self.values.insert(path, value.clone());
                }
            }
        }
    }

    /// Whether a key has a value, and that a single one.
    pub(super) fn has(&self, path: &str) -> bool {
        self.values.contains_key(path) && !OPEN_MAPS.contains(&path)
    }

    /// Whether a key is switched on or off.
    pub(super) fn is_switch(&self, path: &str) -> bool {
        self.values.get(path).is_some_and(Value::is_bool)
    }

    /// What the text of a variable or a flag means for a key. What makes no sense there is refused by its type later.
    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
    pub(super) fn value_of(&self, path: &str, text: &str) -> Value {
        let as_text = || Value::String(text.to_owned());
        let as_yaml = || serde_yaml_ng::from_str(text).unwrap_or_else(|_| as_text());
        match self.values.get(path) {
            // Digits alone are text as well where text is wanted.
            Some(Value::String(_)) => as_text(),
            Some(Value::Bool(_)) => truth(text).map_or_else(as_text, Value::Bool),
            Some(Value::Sequence(_)) => match as_yaml() {
                list @ Value::Sequence(_) => list,
                _ => text.split(',').map(|part| Value::String(part.trim().to_owned())).collect::<Vec<_>>().into(),
            },
            Some(Value::Null | Value::Number(_) | Value::Mapping(_) | Value::Tagged(_)) | None => as_yaml(),
        }
    }

    /// Sets what the environment sets under names of LiveKit's making, and names the variables that nobody reads. One
    /// that is empty counts as not set.
    pub(super) fn read_environment(&self, environment: &[(String, String)], tree: &mut Mapping, remarks: &mut Remarks) {
        let variable = |path: &str| format!("{VARIABLE_PREFIX}{}", path.replace('.', "_").to_ascii_uppercase());
        let by_name: BTreeMap<String, &String> =
            self.values.keys().filter(|path| self.has(path)).map(|path| (variable(path), path)).collect();
        for (name, text) in environment.iter().filter(|(_, text)| !text.is_empty()) {
            if let Some(path) = by_name.get(name) {
                set(tree, path, self.value_of(path, text));
            } else if OTHER_VARIABLES.contains(&name.as_str()) {
                // `LIVEKIT_API_KEY` is none of LiveKit's section `api`.
            } else if let Some(path) = livekit::key_of_variable(name) {
                set(tree, &path, self.value_of(&path, text));
            } else if name.starts_with(VARIABLE_PREFIX) {
                let bare = |name: &'_ str| name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name).to_owned();
                let known: Vec<_> = by_name.keys().map(|name| bare(name)).chain(OTHER_VARIABLES.map(bare)).collect();
                let near = nearest(&bare(name), known.iter().map(String::as_str));
                let hint = near.map_or_else(String::new, |near| format!(": did you mean {VARIABLE_PREFIX}{near}?"));
                remarks.warn(format!("the variable {name} is not known and has no effect{hint}"));
            }
        }
    }

    /// Takes out what Onair does not know, with a remark on each.
    pub(super) fn check(&self, tree: &mut Mapping, strict: bool, remarks: &mut Remarks) {
        self.check_section("", tree, strict, remarks);
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "an enum of a library, which may grow")]
    fn check_section(&self, prefix: &str, tree: &mut Mapping, strict: bool, remarks: &mut Remarks) {
        let mut taken_out = Vec::new();
        for (key, value) in tree.iter_mut() {
            let Some(name) = scalar_text(key) else {
                let place = if prefix.is_empty() { "the configuration" } else { prefix };
                remarks.refuse(format!("keys must be text, but {place} has one that is not"));
                taken_out.push(key.clone());
                continue;
            };
            let path = joined(prefix, &name);
            if self.values.contains_key(&path) {
                continue;
            }
            match value {
                Value::Mapping(below) if self.sections.contains(&path) => {
                    self.check_section(&path, below, strict, remarks);
                    continue;
                }
                // `rtc:` with nothing below it.
                Value::Null if self.sections.contains(&path) => {}
                _ if self.sections.contains(&path) => remarks.refuse(format!("{path} has keys below it, not a value")),
                _ => self.remark(&path, value, strict, remarks),
            }
            taken_out.push(key.clone());
        }
        for key in taken_out {
            tree.remove(&key);
        }
    }

    /// What is to be said of a key that is none of ours.
    fn remark(&self, path: &str, value: &Value, strict: bool, remarks: &mut Remarks) {
        let refused = match livekit::standing(path) {
            Some(Standing::Fixed(here)) if value.is_null() || value.as_u64() == Some(here) => return,
            Some(Standing::AlwaysOn(_)) if value.is_null() => return,
            Some(Standing::WithoutEffect(_) | Standing::Refused(_)) if is_off(value) => return,
            Some(Standing::WithoutEffect(reason) | Standing::AlwaysOn(reason)) => {
                return remarks.warn(format!("{path} has no effect: {reason}"));
            }
            Some(Standing::Fixed(here)) => format!("{path} is not supported: it is {here} here"),
            Some(Standing::Refused(reason)) => format!("{path} is not supported: {reason}"),
            None => {
                let unknown = format!("unknown key {path}{}", self.hint(path));
                return if strict { remarks.refuse(unknown) } else { remarks.warn(unknown) };
            }
        };
        if strict { remarks.refuse_unsupported(refused) } else { remarks.warn(refused) }
    }

    fn hint(&self, path: &str) -> String {
        let known = self.values.keys().chain(&self.sections).map(String::as_str);
        match nearest(path, known) {
            Some(known) => format!(": did you mean {known}?"),
            None => ": config/onair.yaml lists all keys".to_owned(),
        }
    }
}

/// Puts what stands at LiveKit's old places where it is read now. To be called before a stronger source is laid over
/// the tree, so that this one does not win.
pub(super) fn move_old(tree: &mut Mapping) {
    for (from, to) in livekit::MOVED {
        let moved = remove(tree, from);
        if let Some(value) = moved.filter(|value| !is_off(value)) {
            set(tree, to, value);
        }
    }
}

/// Whether a feature is switched off by this value, so that not having it changes nothing. LiveKit writes limits that
/// do not hold as 0 or -1.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64().is_some_and(|number| number <= 0.0),
        Value::String(text) => text.is_empty(),
        Value::Sequence(items) => items.is_empty(),
        Value::Mapping(below) => below.get("enabled") == Some(&Value::Bool(false)) || below.values().all(is_off),
        Value::Bool(true) | Value::Tagged(_) => false,
    }
}

pub(super) fn joined(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// Section and name of a key.
fn parted(path: &str) -> (&str, &str) {
    path.rsplit_once('.').unwrap_or(("", path))
}

/// The known key that a mistyped one must have been meant to be: it differs in few letters for its length, or it stands
/// at the top in place of in its section, or the other way round.
fn nearest<'a>(path: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (section, name) = parted(path);
    let near = |known: &str| {
        let (its_section, its_name) = parted(known);
        let misplaced = name == its_name && (section.is_empty() || its_section.is_empty());
        let (section_slips, slips) = (slips(section, its_section), slips(name, its_name));
        let allowed = |text: &str| (text.len() / 3).clamp(1, SLIPS_MAX);
        let mistyped = slips <= allowed(name) && section_slips <= allowed(section);
        if misplaced { Some(1) } else { mistyped.then_some(slips + section_slips) }
    };
    known.filter_map(|known| near(known).map(|distance| (distance, known))).min().map(|(_, known)| known)
}

/// Letters left out, added, changed or exchanged with the next one (optimal string alignment), in bytes.
fn slips(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted() {
        for (a, b, count) in [("", "abc", 3), ("port", "prot", 1), ("kitten", "sitting", 3), ("udp", "udp", 0)] {
            assert_eq!((slips(a, b), slips(b, a)), (count, count), "{a} {b}");
        }
    }

    #[test]
    fn only_a_near_key_is_suggested() {
        let known = KnownKeys::new();
        let hint = |path: &str| nearest(path, known.values.keys().chain(&known.sections).map(String::as_str));

        assert_eq!(hint("rtc.udp_prot"), Some("rtc.udp_port"));
        assert_eq!(hint("prot"), Some("port"));
        assert_eq!(hint("rtcc.udp_port"), Some("rtc.udp_port"));
        assert_eq!(hint("node_ip"), Some("rtc.node_ip"));
        assert_eq!(hint("http.port"), Some("port"));
        for far in ["foo", "roo.url", "zzz.enabled", "mode", "chat.color", "limits.max_rooms"] {
            let hint = hint(far);
            assert!(hint.is_none() || far == "mode" && hint == Some("sfu.mode"), "{far}: {hint:?}");
        }
    }
}
