//! Typed fields of an element, with all that is wrong collected.

use time::OffsetDateTime;

use crate::{
    date,
    fault::{Fault, is_control, quoted},
    number,
    xml::Element,
};

/// The fields of one element. A field that cannot be read is a fault and empty. An empty element counts as absent.
#[derive(Debug)]
pub struct Fields<'a> {
    element: &'a Element,
    path: String,
    faults: Vec<Fault>,
}

impl<'a> Fields<'a> {
    /// Of an element that stands at `path`.
    pub fn new(element: &'a Element, path: impl Into<String>) -> Fields<'a> {
        Fields {
            element,
            path: path.into(),
            faults: Vec::new(),
        }
    }

    /// What was wrong with the fields that were read.
    pub fn into_faults(self) -> Vec<Fault> {
        self.faults
    }

    /// Text of 1 to `longest` characters in one line.
    pub fn text(&mut self, name: &str, longest: usize) -> String {
        match self.given(name) {
            Some(_) => self.optional_text(name, longest),
            None => {
                self.missing(name);
                String::new()
            }
        }
    }

    /// Text of at most `longest` characters in one line; empty when it is absent.
    pub fn optional_text(&mut self, name: &str, longest: usize) -> String {
        let text = self.optional_lines(name, longest);
        if text.contains(['\t', '\n', '\r', '\u{2028}', '\u{2029}']) {
            self.invalid(name, "has a tab or a line break");
            return String::new();
        }
        text
    }

    /// Text of at most `longest` characters, which may have several lines; empty when it is absent.
    pub fn optional_lines(&mut self, name: &str, longest: usize) -> String {
        match self.given(name) {
            Some(text) if text.chars().count() > longest => {
                self.invalid(name, &format!("has more than {longest} characters"));
                String::new()
            }
            // The claim is refused for a control character; what is shown of it has none.
            text => text.unwrap_or_default().replace(is_control, "\u{fffd}"),
        }
    }

    /// A licence: text of at most 50 characters without white space.
    pub fn licence(&mut self, name: &str) -> String {
        let licence = self.text(name, 50);
        self.without_white_space(name, licence)
    }

    /// A licence that need not be there.
    pub fn optional_licence(&mut self, name: &str) -> String {
        let licence = self.optional_text(name, 50);
        self.without_white_space(name, licence)
    }

    fn without_white_space(&mut self, name: &str, licence: String) -> String {
        if licence.contains(char::is_whitespace) {
            self.invalid(name, "has white space");
        }
        licence
    }

    /// A date and time of day in Dubai.
    pub fn date(&mut self, name: &str) -> Option<OffsetDateTime> {
        self.required(name)?;
        self.optional_date(name)
    }

    /// A date and time of day that need not be there.
    pub fn optional_date(&mut self, name: &str) -> Option<OffsetDateTime> {
        let text = self.given(name)?;
        let read = date::read(text);
        if read.is_none() {
            let message = format!("{} is no date like 31/12/2025 23:59", quoted(text));
            self.invalid(name, &message);
        }
        read
    }

    /// A number in plain decimal form: `5E2` is `500`, `150.0000` is `150`.
    pub fn number(&mut self, name: &str) -> Option<String> {
        self.required(name)?;
        self.optional_number(name)
    }

    /// A number that need not be there.
    pub fn optional_number(&mut self, name: &str) -> Option<String> {
        let text = self.given(name)?;
        let plain = number::plain(text);
        if plain.is_none() {
            let comma = match text.contains(',') {
                true => ": a point separates decimals, and nothing separates thousands",
                false => "",
            };
            self.invalid(name, &format!("{} is no number{comma}", quoted(text)));
        }
        plain
    }

    /// A number without a fraction, as codes and counts are.
    pub fn whole_number(&mut self, name: &str) -> Option<i64> {
        let plain = self.number(name)?;
        self.whole(name, &plain)
    }

    /// A number without a fraction that need not be there.
    pub fn optional_whole_number(&mut self, name: &str) -> Option<i64> {
        let plain = self.optional_number(name)?;
        self.whole(name, &plain)
    }

    fn whole(&mut self, name: &str, plain: &str) -> Option<i64> {
        let whole = plain.parse().ok();
        if whole.is_none() {
            self.invalid(name, &format!("{plain} is no whole number"));
        }
        whole
    }

    /// Adds that a required field is absent.
    pub fn missing(&mut self, name: &str) {
        self.add("FIELD_MISSING", name, "is missing");
    }

    /// Adds that a field has a value which cannot be taken.
    pub fn invalid(&mut self, name: &str, problem: &str) {
        self.add("FIELD_INVALID", name, problem);
    }

    fn add(&mut self, rule: &'static str, name: &str, problem: &str) {
        let place = format!("{}.{name}", self.path);
        self.faults.push(Fault::new(rule, place, problem));
    }

    fn required(&mut self, name: &str) -> Option<&'a str> {
        let given = self.given(name);
        if given.is_none() {
            self.missing(name);
        }
        given
    }

    fn given(&self, name: &str) -> Option<&'a str> {
        self.element
            .child(name)
            .map(|child| child.text.as_str())
            .filter(|text| !text.is_empty())
    }
}
