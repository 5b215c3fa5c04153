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

/// A name of a file, or a message that repeats one: at most `longest` characters in one line. Control characters are
/// replaced by U+FFFD.
pub(crate) fn cut(text: &str, longest: usize) -> String {
    let clean = |character| match is_control(character) || matches!(character, '\t' | '\n' | '\r') {
        true => char::REPLACEMENT_CHARACTER,
        false => character,
    };
    let mut shown: String = text.chars().take(longest).map(clean).collect();
    if text.chars().nth(longest).is_some() {
        shown.push('…');
    }
    shown
}

/// What no text of a file may hold. XML 1.0 has no control characters but tab and line ends, and no noncharacters at the
/// end of a plane; bidirectional controls change how the text around them is shown. The same characters are refused in
/// every request.
pub(crate) fn is_control(character: char) -> bool {
    match character {
        '\t' | '\n' | '\r' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{fdd0}'..='\u{fdef}' => true,
        _ => character.is_control() || u32::from(character) & 0xfffe == 0xfffe,
    }
}
