//! Settings: defaults < TOML file < environment < flags. All errors are reported together.
//!
//! The structure of the defaults defines which settings exist. An unknown setting is an error in every source,
//! except below a table that is empty by default, whose keys are data.

mod effective;
mod tree;

use std::{collections::BTreeMap, fmt, path::PathBuf};

pub use effective::Effective;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{Sections, Violations};

/// A service's settings: plain data with defaults.
pub trait Settings: Serialize + DeserializeOwned + Default + Send + Sync + 'static {
    /// The sections that the chassis uses and checks.
    fn sections(&self) -> Sections<'_>;

    /// Reports each of the service's own settings that breaks a rule, by its dotted path.
    fn check(&self, violations: &mut Violations);
}

/// Sources of settings, besides the defaults.
#[derive(Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// The process's environment; only `SERVICE__…` is read.
    pub environment: Vec<(String, String)>,
    /// `key=value` pairs; the key is a dotted path.
    pub flags: Vec<String>,
}

/// The source that set a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Not set by any source.
    Default,
    /// The file.
    File,
    /// The environment variable of this name.
    Environment(String),
    /// A flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File => f.write_str("file"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// Merges the sources for the service `name` and checks the result. Errors are collected.
pub fn load<S: Settings>(name: &str, sources: &Sources) -> Effective<S> {
    let mut violations = Violations::new();
    let defaults = serde_json::to_value(S::default()).unwrap_or(Value::Null);
    let mut merged = tree::Merged::new(defaults);
    if let Some(path) = &sources.file {
        match read_file(path) {
            Ok(values) => merged.merge_file(values, &mut violations),
            Err(reason) => violations.add(path.display().to_string(), reason),
        }
    }
    let prefix = format!("{}__", name.to_uppercase().replace('-', "_"));
    let ours: BTreeMap<_, _> = sources
        .environment
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .cloned()
        .collect();
    for (variable, text) in ours {
        let path: Vec<String> = variable[prefix.len()..]
            .split("__")
            .map(str::to_lowercase)
            .collect();
        merged.set_text(&path, &text, Origin::Environment(variable), &mut violations);
    }
    for flag in &sources.flags {
        match flag.split_once('=') {
            Some((key, text)) => {
                let path: Vec<String> = key.split('.').map(str::to_owned).collect();
                merged.set_text(&path, text, Origin::Flag, &mut violations);
            }
            // Text without `=` may be a secret, so it is not repeated.
            None => violations.add("--set", "must be `KEY=VALUE`, the key a dotted path"),
        }
    }
    effective::build(merged, violations)
}

fn read_file(path: &PathBuf) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    // The parser's own message would show the line, and with it a possible secret.
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| {
            text[..span.start.min(text.len())].lines().count().max(1)
        });
        format!("is not TOML at line {line}: {}", error.message())
    })?;
    serde_json::to_value(table).map_err(|error| format!("cannot be represented: {error}"))
}

#[cfg(test)]
mod tests;
