//! Which characters a text may contain: in fields, headers and tokens.

use std::borrow::Cow;

/// How many lines a text may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lines {
    /// One: an identifier, a code, a name.
    One,
    /// Several: free text for people, a document.
    Several,
}

/// What is wrong with a text; `None` if it is valid.
///
/// Not allowed are control characters (C0 with NUL, DEL, C1), because logs, terminals, XML and PostgreSQL cannot
/// store them; bidirectional embeddings, overrides and isolates, because they change how the surrounding text is
/// displayed; and noncharacters, because XML cannot contain them. Texts of several lines may contain line ends and
/// tabs. The bidirectional marks U+200E, U+200F and U+061C, which Arabic and Hebrew need, and joiners are allowed.
pub(crate) fn violation(text: &str, lines: Lines) -> Option<String> {
    let refused = text.chars().find(|&c| !is_allowed(c, lines))?;
    let code = u32::from(refused);
    Some(match (refused, lines) {
        ('\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}', _) => {
            format!("must be one line without tabs; it holds U+{code:04X}")
        }
        (c, _) if c.is_control() => format!("must not hold control characters; it holds U+{code:04X}"),
        (c, _) if is_bidirectional_control(c) => {
            format!("must not hold bidirectional controls; it holds U+{code:04X}")
        }
        _ => format!("must not hold noncharacters; it holds U+{code:04X}"),
    })
}

fn is_allowed(c: char, lines: Lines) -> bool {
    match c {
        '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => lines == Lines::Several,
        c => !c.is_control() && !is_bidirectional_control(c) && !is_noncharacter(c),
    }
}

/// Embeddings, overrides and isolates, and their terminators.
fn is_bidirectional_control(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

/// Makes a text safe to store, log and echo: one line of at most `max_chars` characters, truncated with "…".
/// Characters that are not allowed are replaced by U+FFFD.
pub(crate) fn sanitized(text: &str, max_chars: usize) -> Cow<'_, str> {
    let is_cut = text.len() > max_chars && text.chars().nth(max_chars).is_some();
    if !is_cut && violation(text, Lines::One).is_none() {
        return Cow::Borrowed(text);
    }
    let kept = if is_cut {
        max_chars.saturating_sub(1)
    } else {
        max_chars
    };
    let clean = |c| {
        if is_allowed(c, Lines::One) {
            c
        } else {
            char::REPLACEMENT_CHARACTER
        }
    };
    let mut shown: String = text.chars().take(kept).map(clean).collect();
    if is_cut {
        shown.push('…');
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_refused_in_every_text() {
        for code in (0..0x20).chain(0x7f..0xa0) {
            let c = char::from_u32(code).unwrap();
            let text = format!("a{c}b");
            assert!(violation(&text, Lines::One).is_some(), "U+{code:04X}");
            let is_line_end = matches!(c, '\n' | '\r' | '\t');
            assert_eq!(
                violation(&text, Lines::Several).is_none(),
                is_line_end,
                "U+{code:04X}"
            );
        }
    }

    #[test]
    fn bidirectional_controls_and_noncharacters_are_rejected() {
        for c in [
            '\u{202e}',
            '\u{2066}',
            '\u{fffe}',
            '\u{ffff}',
            '\u{1fffe}',
            '\u{fdd0}',
        ] {
            assert!(violation(&c.to_string(), Lines::Several).is_some(), "{c:?}");
        }
        assert!(violation("\u{2028}", Lines::One).is_some());
    }

    #[test]
    fn names_and_texts_of_all_scripts_are_accepted() {
        for text in [
            "José O'Neil",
            "محمد\u{200f} (ب)",
            "می\u{200c}خواهم",
            "日本語",
            "👩\u{200d}⚕️",
            "a\u{a0}b",
            "\u{fffd}",
        ] {
            assert_eq!(violation(text, Lines::One), None, "{text:?}");
        }
    }

    #[test]
    fn sanitized_text_is_truncated_and_clean_and_never_dropped() {
        assert_eq!(sanitized("order.v1", 100), "order.v1");
        assert_eq!(sanitized("abcdef", 6), "abcdef");
        assert_eq!(sanitized("abcdefg", 6), "abcde…");
        assert_eq!(sanitized("a\0b\nc", 6), "a\u{fffd}b\u{fffd}c");
        assert_eq!(sanitized(&"ع".repeat(7), 6).chars().count(), 6);
    }
}
