//! Reads typed fields of an element and collects their faults.

use time::OffsetDateTime;

use crate::{
    date,
    fault::{Fault, is_control, quoted},
    number,
    xml::Element,
};

/// The fields of one element. A field that cannot be read is empty and adds a fault. An empty element counts as
/// absent.
#[derive(Debug)]
pub struct Fields<'a> {
    element: &'a Element,
    path: String,
    faults: Vec<Fault>,
}

impl<'a> Fields<'a> {
    /// The fields of the element at `path`.
    pub fn new(element: &'a Element, path: impl Into<String>) -> Fields<'a> {
        Fields {
            element,
            path: path.into(),
            faults: Vec::new(),
        }
    }

    /// The faults of the fields that were read.
    pub fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    /// Required text of at most `max_chars` characters in one line.
    pub fn text(&mut self, name: &str, max_chars: usize) -> String {
        match self.value(name) {
            Some(_) => self.optional_text(name, max_chars),
            None => {
                self.missing(name);
                String::new()
            }
        }
    }

    /// Optional text of at most `max_chars` characters in one line; empty if it is absent.
    pub fn optional_text(&mut self, name: &str, max_chars: usize) -> String {
        let text = self.optional_lines(name, max_chars);
        if text.contains(['\t', '\n', '\r', '\u{2028}', '\u{2029}']) {
            self.invalid(name, "has a tab or a line break");
            return String::new();
        }
        text
    }

    /// Optional text of at most `max_chars` characters, which may have several lines; empty if it is absent.
    pub fn optional_lines(&mut self, name: &str, max_chars: usize) -> String {
        match self.value(name) {
            Some(text) if text.chars().count() > max_chars => {
                self.invalid(name, &format!("has more than {max_chars} characters"));
                String::new()
            }
            // A claim with a control character is refused elsewhere; here it is replaced so that it is never
            // displayed.
            text => text.unwrap_or_default().replace(is_control, "\u{fffd}"),
        }
    }

    /// A required licence: text of at most 50 characters without white space.
    pub fn licence(&mut self, name: &str) -> String {
        let licence = self.text(name, 50);
        self.check_white_space(name, licence)
    }

    /// An optional licence.
    pub fn optional_licence(&mut self, name: &str) -> String {
        let licence = self.optional_text(name, 50);
        self.check_white_space(name, licence)
    }

    fn check_white_space(&mut self, name: &str, licence: String) -> String {
        if licence.contains(char::is_whitespace) {
            self.invalid(name, "has white space");
        }
        licence
    }

    /// A required date and time of day in Dubai.
    pub fn date(&mut self, name: &str) -> Option<OffsetDateTime> {
        self.required(name)?;
        self.optional_date(name)
    }

    /// An optional date and time of day in Dubai.
    pub fn optional_date(&mut self, name: &str) -> Option<OffsetDateTime> {
        let text = self.value(name)?;
        let date = date::parse(text);
        if date.is_none() {
            let message = format!("{} is not a date like 31/12/2025 23:59", quoted(text));
            self.invalid(name, &message);
        }
        date
    }

    /// A required number in plain decimal notation: `5E2` is `500`, `150.0000` is `150`.
    pub fn number(&mut self, name: &str) -> Option<String> {
        self.required(name)?;
        self.optional_number(name)
    }

    /// An optional number in plain decimal notation.
    pub fn optional_number(&mut self, name: &str) -> Option<String> {
        let text = self.value(name)?;
        let plain = number::to_plain(text);
        if plain.is_none() {
            let comma = if text.contains(',') {
                ": a point separates decimals, and nothing separates thousands"
            } else {
                ""
            };
            self.invalid(name, &format!("{} is no number{comma}", quoted(text)));
        }
        plain
    }

    /// A required whole number, such as a code or a count.
    pub fn whole_number(&mut self, name: &str) -> Option<i64> {
        let plain = self.number(name)?;
        self.parse_whole(name, &plain)
    }

    /// An optional whole number.
    pub fn optional_whole_number(&mut self, name: &str) -> Option<i64> {
        let plain = self.optional_number(name)?;
        self.parse_whole(name, &plain)
    }

    fn parse_whole(&mut self, name: &str, plain: &str) -> Option<i64> {
        let whole = plain.parse().ok();
        if whole.is_none() {
            self.invalid(name, &format!("{plain} is not a whole number"));
        }
        whole
    }

    /// Adds the fault of a required field that is absent.
    pub fn missing(&mut self, name: &str) {
        self.add("FIELD_MISSING", name, "is missing");
    }

    /// Adds the fault of a field with an invalid value.
    pub fn invalid(&mut self, name: &str, problem: &str) {
        self.add("FIELD_INVALID", name, problem);
    }

    fn add(&mut self, rule: &'static str, name: &str, problem: &str) {
        let place = format!("{}.{name}", self.path);
        self.faults.push(Fault::new(rule, place, problem));
    }

    fn required(&mut self, name: &str) -> Option<&'a str> {
        let value = self.value(name);
        if value.is_none() {
            self.missing(name);
        }
        value
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.element
            .child(name)
            .map(|child| child.text.as_str())
            .filter(|text| !text.is_empty())
    }
}
