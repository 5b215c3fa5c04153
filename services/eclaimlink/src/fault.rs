//! Broken rules.

use std::fmt;

/// A broken rule, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule's name, UPPER_SNAKE.
    pub rule: &'static str,
    /// The element, as a path: `Claim.Activity[0].Net`; or `the file`.
    pub place: String,
    /// What is wrong, in words that follow the place.
    pub message: String,
}

impl Fault {
    /// A rule that `place` breaks.
    pub fn new(rule: &'static str, place: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault {
            rule,
            place: place.into(),
            message: message.into(),
        }
    }

    /// The place and what is wrong with it.
    pub fn text(&self) -> String {
        format!("{} {}", self.place, self.message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.rule, self.place, self.message)
    }
}

/// Text of a file inside a message: cut, with control characters made visible.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}
