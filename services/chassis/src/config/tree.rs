//! The tree of settings while sources are merged.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Origin;
use crate::Violations;

/// The merged values, and the source of each.
pub(super) struct Merged {
    pub(super) defaults: Value,
    pub(super) values: Value,
    pub(super) origins: BTreeMap<String, Origin>,
}

impl Merged {
    pub(super) fn new(defaults: Value) -> Merged {
        Merged {
            values: defaults.clone(),
            defaults,
            origins: BTreeMap::new(),
        }
    }

    /// Merges the tables of a file.
    pub(super) fn merge_file(&mut self, values: Value, violations: &mut Violations) {
        let defaults = self.defaults.clone();
        self.merge(&defaults, values, &mut Vec::new(), violations);
    }

    fn merge(&mut self, default: &Value, value: Value, path: &mut Vec<String>, violations: &mut Violations) {
        let (Value::Object(known), Value::Object(given)) = (default, value.clone()) else {
            return self.set(path, value, Origin::File);
        };
        if known.is_empty() {
            return self.set(path, value, Origin::File);
        }
        for (key, value) in given {
            path.push(key.clone());
            match known.get(&key) {
                Some(default) => self.merge(default, value, path, violations),
                None => violations.add(path.join("."), self.describe_unknown(path, &Origin::File)),
            }
            path.pop();
        }
    }

    /// Sets one value given as text, parsed according to the default's type.
    pub(super) fn set_text(
        &mut self,
        path: &[String],
        text: &str,
        origin: Origin,
        violations: &mut Violations,
    ) {
        match self.kind(path) {
            Some(kind) => self.set(path, parse(text, kind), origin),
            None => violations.add(path.join("."), self.describe_unknown(path, &origin)),
        }
    }

    /// The error for an unknown path, with the setting or section that was probably meant.
    fn describe_unknown(&self, path: &[String], origin: &Origin) -> String {
        let mut known = Vec::new();
        list_paths(&self.defaults, "", &mut known);
        let typed = path.join(".");
        let similar = known.iter().map(|name| (strsim::jaro(&typed, name), name));
        let nearest = similar
            .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
            .max_by(|(one, _), (other, _)| one.total_cmp(other));
        match nearest {
            // A section, or a setting that has the given path as its section.
            Some((_, name)) if *name == typed => format!("is a section, not a setting ({origin})"),
            Some((_, name)) => format!("is not a setting, did you mean {name}? ({origin})"),
            None => format!("is not a setting ({origin})"),
        }
    }

    /// The default at `path`; null for a key of a table whose keys are data.
    fn kind(&self, path: &[String]) -> Option<&Value> {
        let mut at = &self.defaults;
        for key in path {
            match at {
                Value::Object(table) if table.is_empty() => return Some(&Value::Null),
                Value::Object(table) => at = table.get(key)?,
                // A section that is absent by default; the deserializer knows its keys.
                Value::Null => return Some(&Value::Null),
                _ => return None,
            }
        }
        // A whole section cannot be given as text.
        if at.as_object().is_some_and(|table| !table.is_empty()) {
            None
        } else {
            Some(at)
        }
    }

    pub(super) fn set(&mut self, path: &[String], value: Value, origin: Origin) {
        let mut at = &mut self.values;
        for key in path {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            let Value::Object(table) = at else { return };
            at = table.entry(key.clone()).or_insert(Value::Null);
        }
        *at = value;
        self.origins.insert(path.join("."), origin);
    }

    /// The value at a dotted path.
    pub(super) fn get(&self, path: &[String]) -> Option<&Value> {
        path.iter().try_fold(&self.values, |at, key| at.get(key))
    }

    /// Restores the default at the deepest part of `path` that has one; false if it was already there.
    pub(super) fn reset(&mut self, path: &[String]) -> bool {
        for depth in (1..=path.len()).rev() {
            let part = &path[..depth];
            let default = part
                .iter()
                .try_fold(&self.defaults, |at, key| at.get(key))
                .cloned();
            if let Some(default) = default {
                let changed = self.get(part) != Some(&default);
                self.set(part, default, Origin::Default);
                return changed;
            }
        }
        false
    }
}

/// Least similarity (Jaro) for suggesting a name; the same as clap's.
const MIN_SIMILARITY: f64 = 0.7;

/// The dotted paths of all sections and settings.
fn list_paths(value: &Value, path: &str, known: &mut Vec<String>) {
    let Value::Object(table) = value else { return };
    for (key, value) in table {
        let path = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        list_paths(value, &path, known);
        known.push(path);
    }
}

/// A value of unknown type stays text; the deserializer decides.
fn parse(text: &str, kind: &Value) -> Value {
    match kind {
        Value::Bool(_) | Value::Number(_) => scalar(text),
        Value::Array(_) if text.trim_start().starts_with('[') => scalar(text),
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        Value::Object(_) => scalar(text),
        Value::Null | Value::String(_) => Value::String(text.to_owned()),
    }
}

/// Parses text as a TOML value; other text stays text.
pub(super) fn scalar(text: &str) -> Value {
    format!("value = {text}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| serde_json::to_value(table.remove("value")?).ok())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}
