//! Typed fields of an element, with all that is wrong collected.

use money::{Currency, Money};
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset, format_description::StaticFormatDescription};

use super::{Fault, xml::Element};
use crate::rules::LARGEST_AMOUNT;

const DATE: StaticFormatDescription =
    time::macros::format_description!("[day]/[month]/[year] [hour]:[minute]");

/// eClaimLink's dates name no zone: they are the time of day in Dubai, which has no summer time.
const DUBAI: UtcOffset = time::macros::offset!(+4);

/// The fields of one element.
pub(super) struct Fields<'a> {
    element: &'a Element,
    pub(super) faults: Vec<Fault>,
}

impl<'a> Fields<'a> {
    pub(super) fn of(element: &'a Element) -> Fields<'a> {
        Fields {
            element,
            faults: Vec::new(),
        }
    }

    /// Text of 1 to `longest` characters; empty, and a fault, if it is none.
    pub(super) fn text(&mut self, name: &str, longest: usize) -> String {
        if let Some(text) = self.optional_text(name, longest) {
            return text;
        }
        if self.given(name).is_none() {
            self.missing(name);
        }
        String::new()
    }

    /// Text of at most `longest` characters. An empty element counts as absent.
    pub(super) fn optional_text(&mut self, name: &str, longest: usize) -> Option<String> {
        let text = self.given(name)?;
        if text.chars().count() > longest {
            self.invalid(name, &format!("has more than {longest} characters"));
            return None;
        }
        // PostgreSQL keeps no NUL in text.
        if text.contains('\0') {
            self.invalid(name, "has a NUL character");
            return None;
        }
        Some(text.to_owned())
    }

    /// A licence: text without white space.
    pub(super) fn licence(&mut self, name: &str) -> String {
        let licence = self.text(name, 50);
        self.without_white_space(name, licence)
    }

    /// A licence that need not be there.
    pub(super) fn optional_licence(&mut self, name: &str) -> Option<String> {
        let licence = self.optional_text(name, 50)?;
        Some(self.without_white_space(name, licence))
    }

    fn without_white_space(&mut self, name: &str, licence: String) -> String {
        if licence.contains(char::is_whitespace) {
            self.invalid(name, "has white space");
        }
        licence
    }

    /// A date and time of day.
    pub(super) fn date(&mut self, name: &str) -> Option<OffsetDateTime> {
        if self.given(name).is_none() {
            self.missing(name);
        }
        self.optional_date(name)
    }

    /// A date and time of day that need not be there.
    pub(super) fn optional_date(&mut self, name: &str) -> Option<OffsetDateTime> {
        let text = self.given(name)?;
        match PrimitiveDateTime::parse(text, &DATE) {
            Ok(date) => Some(date.assume_offset(DUBAI)),
            Err(_) => {
                self.invalid(name, &format!("{text:?} is no date like 31/12/2025 23:59"));
                None
            }
        }
    }

    /// An amount in dirham, as fils.
    pub(super) fn amount(&mut self, name: &str) -> Option<i64> {
        if self.given(name).is_none() {
            self.missing(name);
        }
        self.optional_amount(name)
    }

    /// An amount in dirham that need not be there.
    pub(super) fn optional_amount(&mut self, name: &str) -> Option<i64> {
        let text = self.given(name)?;
        match Money::parse(text, Currency::AED) {
            Ok(amount) if amount.minor().abs() <= LARGEST_AMOUNT => Some(amount.minor()),
            Ok(_) => {
                self.invalid(name, "is too large");
                None
            }
            Err(error) => {
                self.invalid(name, &error.to_string());
                None
            }
        }
    }

    /// Checks a field that is not kept.
    pub(super) fn parsed<T: std::str::FromStr>(&mut self, name: &str, what: &str) -> Option<T> {
        let Some(text) = self.given(name) else {
            self.missing(name);
            return None;
        };
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.invalid(name, &format!("{text:?} is no {what}"));
        }
        parsed
    }

    fn given(&self, name: &str) -> Option<&'a str> {
        self.element
            .child(name)
            .map(|child| child.text.as_str())
            .filter(|text| !text.is_empty())
    }

    fn missing(&mut self, name: &str) {
        self.faults
            .push(Fault::new("FIELD_MISSING", format!("{name} is missing")));
    }

    pub(super) fn invalid(&mut self, name: &str, problem: &str) {
        self.faults
            .push(Fault::new("FIELD_INVALID", format!("{name}: {problem}")));
    }
}
