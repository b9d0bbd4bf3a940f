//! Values in a tree of settings, by their paths.

use serde_yaml_ng::{Mapping, Value};

/// Takes a value out.
pub(super) fn remove(tree: &mut Mapping, path: &str) -> Option<Value> {
    match path.split_once('.') {
        None => tree.remove(path),
        Some((section, rest)) => remove(tree.get_mut(section)?.as_mapping_mut()?, rest),
    }
}

pub(super) fn set(tree: &mut Mapping, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            tree.insert(Value::from(path), value);
        }
        Some((section, rest)) => {
            let below = tree.entry(Value::from(section)).or_insert_with(|| Value::Mapping(Mapping::new()));
            if !below.is_mapping() {
                *below = Value::Mapping(Mapping::new());
            }
            if let Value::Mapping(below) = below {
                set(below, rest, value);
            }
        }
    }
}
