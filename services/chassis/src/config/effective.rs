//! The merged settings, and the origin of each value.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::{
    Origin, Settings,
    tree::{self, Merged},
};
use crate::Violations;

/// Settings merged from all sources, with all violations. Prints as TOML, secrets redacted, each line with its
/// origin.
#[derive(Debug)]
pub struct Effective<S> {
    settings: S,
    origins: BTreeMap<String, Origin>,
    violations: Violations,
    /// How many violations, from the first on, concern values that could not be read.
    unread: usize,
}

impl<S> Effective<S> {
    /// The settings.
    ///
    /// # Errors
    /// All violations.
    pub fn into_settings(self) -> Result<S, Violations> {
        self.violations.into_result().map(|()| self.settings)
    }

    /// The settings, for code that uses one section only: violations in other sections are ignored. Unknown
    /// settings are not, because they may be misspelled settings of this section.
    ///
    /// # Errors
    /// Violations in the section, and values that could not be read.
    pub fn into_settings_for(mut self, section: &str) -> Result<S, Violations> {
        let (unread, section) = (self.unread, format!("{section}."));
        self.violations
            .retain(|index, field| index < unread || field.starts_with(&section));
        self.into_settings()
    }

    /// All violations.
    pub fn violations(&self) -> &Violations {
        &self.violations
    }
}

/// Deserializes the merged tree. A value that cannot be read is reported and replaced by its default, so that the
/// rest is still checked.
pub(super) fn build<S: Settings>(mut merged: Merged, mut violations: Violations) -> Effective<S> {
    let settings = loop {
        let error = match serde_path_to_error::deserialize::<_, S>(merged.values.clone()) {
            Ok(settings) => break settings,
            Err(error) => error,
        };
        let path = segments(error.path());
        // A setting without a default has no known type, so text may stand for a number or a boolean.
        if let Some(Value::String(text)) = merged.get(&path) {
            let value = tree::scalar(text);
            if !value.is_string() {
                let origin = merged
                    .origins
                    .get(&path.join("."))
                    .cloned()
                    .unwrap_or(Origin::Default);
                merged.set(&path, value, origin);
                continue;
            }
        }
        let origin = origin(&merged.origins, &path.join("."));
        violations.add(
            path.join("."),
            format!("{} ({origin})", with_bounds(&error.inner().to_string())),
        );
        if !merged.reset(&path) {
            break S::default();
        }
    };
    let unread = violations.iter().count();
    settings.sections().check(&mut violations);
    settings.check(&mut violations);
    violations.mask();
    Effective {
        settings,
        origins: merged.origins,
        violations,
        unread,
    }
}

/// The deserializer names a Rust type where it expects a whole number; the type's bounds are more helpful.
fn with_bounds(reason: &str) -> String {
    for (kind, least, most) in [
        ("u8", "0", u8::MAX.to_string()),
        ("u16", "0", u16::MAX.to_string()),
        ("u32", "0", u32::MAX.to_string()),
        ("u64", "0", u64::MAX.to_string()),
        ("usize", "0", usize::MAX.to_string()),
        ("i32", "-2147483648", i32::MAX.to_string()),
        ("f64", "", String::new()),
    ] {
        if let Some(reason) = reason.strip_suffix(&format!("expected {kind}")) {
            return match kind {
                "f64" => format!("{reason}must be a number"),
                _ => format!("{reason}must be a whole number from {least} to {most}"),
            };
        }
    }
    reason.to_owned()
}

fn segments(path: &serde_path_to_error::Path) -> Vec<String> {
    use serde_path_to_error::Segment;
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Unknown => None,
        })
        .collect()
}

/// The source of the value at `path`, or of the table above it.
fn origin(origins: &BTreeMap<String, Origin>, path: &str) -> Origin {
    let mut at = path;
    loop {
        if let Some(origin) = origins.get(at) {
            return origin.clone();
        }
        match at.rsplit_once('.') {
            Some((parent, _)) => at = parent,
            None => return Origin::Default,
        }
    }
}

impl<S: Settings> fmt::Display for Effective<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = serde_json::to_value(&self.settings).map_err(|_| fmt::Error)?;
        write_lines(f, &self.origins, &mut Vec::new(), &value)
    }
}

/// Masks the secrets of URLs in every text, for every setting.
fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(crate::masked(text).into_owned()),
        Value::Array(items) => {
            let is_url = |item: &Value| item.as_str().is_some_and(|text| text.contains("://"));
            let holds_urls = items.iter().any(is_url);
            // The rest of a password that contains a comma.
            let is_rest =
                |item: &Value| item.as_str().is_some_and(|text| text.contains('@')) && !is_url(item);
            let shown = |item: &Value| {
                if holds_urls && is_rest(item) {
                    Value::from("***")
                } else {
                    masked(item)
                }
            };
            Value::Array(items.iter().map(shown).collect())
        }
        Value::Object(table) => {
            let items = table.iter().map(|(name, value)| (name.clone(), masked(value)));
            Value::Object(items.collect())
        }
        other => other.clone(),
    }
}

fn write_lines(
    f: &mut fmt::Formatter<'_>,
    origins: &BTreeMap<String, Origin>,
    path: &mut Vec<String>,
    value: &Value,
) -> fmt::Result {
    let key = path.join(".");
    match value {
        Value::Object(table) if !table.is_empty() || path.is_empty() => {
            for (name, value) in table {
                path.push(name.clone());
                write_lines(f, origins, path, value)?;
                path.pop();
            }
            Ok(())
        }
        Value::Null => writeln!(f, "# {key} is not set"),
        value => {
            let value = &masked(value);
            let shown =
                toml::Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string());
            writeln!(f, "{key} = {shown}  # {}", origin(origins, &key))
        }
    }
}
