//! Faults: broken rules of a file.

use std::fmt;

/// A broken rule and the element that breaks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rule's name in UPPER_SNAKE case.
    pub rule: &'static str,
    /// The path of the element, such as `Claim.Activity[0].Net`, or `the file`.
    pub place: String,
    /// A description that continues a sentence starting with the place.
    pub message: String,
}

impl Fault {
    /// Creates a fault of `place`.
    pub fn new(rule: &'static str, place: impl Into<String>, message: impl Into<String>) -> Fault {
        Fault {
            rule,
            place: place.into(),
            message: message.into(),
        }
    }

    /// The place and the description.
    pub fn text(&self) -> String {
        format!("{} {}", self.place, self.message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.rule, self.place, self.message)
    }
}

/// Quotes text of a file for a message: truncated, with control characters escaped.
pub(crate) fn quoted(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut shown: String = text
        .chars()
        .take(MAX_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// Truncates text that may contain content of a file to `max_chars` characters. Control characters and line breaks
/// are replaced by U+FFFD.
pub(crate) fn truncate(text: &str, max_chars: usize) -> String {
    let clean = |character| {
        if is_control(character) || matches!(character, '\t' | '\n' | '\r') {
            char::REPLACEMENT_CHARACTER
        } else {
            character
        }
    };
    let mut shown: String = text.chars().take(max_chars).map(clean).collect();
    if text.chars().nth(max_chars).is_some() {
        shown.push('…');
    }
    shown
}

/// Whether a character is forbidden in the text of a file. XML 1.0 allows no control characters except tab and
/// line breaks and no noncharacters at the end of a plane; bidirectional controls change how the surrounding text
/// is displayed. The same characters are refused in all requests.
pub(crate) fn is_control(character: char) -> bool {
    match character {
        '\t' | '\n' | '\r' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fdd0}'..='\u{fdef}' => true,
        _ => character.is_control() || u32::from(character) & 0xfffe == 0xfffe,
    }
}
