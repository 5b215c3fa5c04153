//! Reads a CSV file with one record per line, so that an unclosed quotation mark affects only its own line.

use std::io::{self, BufRead, Read as _};

/// One line of the file.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Line {
    /// From 1; the heading is line 1.
    pub(crate) number: u64,
    /// The fields that could be split.
    pub(crate) fields: Vec<String>,
    /// Why the line is no record.
    pub(crate) fault: Option<String>,
    /// All fields could be split, even if the line has another fault.
    pub(crate) is_whole: bool,
}

/// Reads lines, and skips empty ones.
pub(crate) struct Lines<R> {
    reader: R,
    number: u64,
    position: u64,
}

/// The longest line. A longer one is a fault, and only its beginning is kept.
const MAX_LINE_BYTES: u64 = 64 * 1024;

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Lines<R> {
        Lines {
            reader,
            number: 0,
            position: 0,
        }
    }

    /// The number of bytes read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next line; `None` at the end of the file.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            if !self.read_some(&mut bytes)? {
                return Ok(None);
            }
            self.number += 1;
            let is_ended = |bytes: &[u8]| bytes.len() < MAX_LINE_BYTES as usize || bytes.ends_with(b"\n");
            let is_too_long = !is_ended(&bytes);
            let mut rest = Vec::new();
            while is_too_long && self.read_some(&mut rest)? && !is_ended(&rest) {
                rest.clear();
            }
            let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if text.is_empty() {
                continue;
            }
            let mut line = read(self.number, text);
            if is_too_long {
                line.fault = Some(format!(
                    "UNREADABLE: the line is longer than {MAX_LINE_BYTES} bytes"
                ));
                line.is_whole = false;
            }
            return Ok(Some(line));
        }
    }

    fn read_some(&mut self, into: &mut Vec<u8>) -> io::Result<bool> {
        let read = (&mut self.reader).take(MAX_LINE_BYTES).read_until(b'\n', into)?;
        self.position += read as u64;
        Ok(read > 0)
    }
}

fn read(number: u64, bytes: &[u8]) -> Line {
    let text = String::from_utf8_lossy(bytes);
    let (fields, fault) = split(text.trim_start_matches('\u{feff}'));
    let is_whole = fault.is_none();
    let fault = match fault {
        None if std::str::from_utf8(bytes).is_err() => Some("UNREADABLE: the line is not UTF-8".to_owned()),
        fault => fault,
    };
    Line {
        number,
        fields,
        fault,
        is_whole,
    }
}

/// Splits a line into fields; returns the fault at which it stopped, if any. A field that begins with a quotation
/// mark ends with one; two within it mean one.
fn split(text: &str) -> (Vec<String>, Option<String>) {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
            Some(quoted) => match unquoted(quoted) {
                Ok((field, after)) => (field, after),
                Err(why) => {
                    let column = fields.len() + 1;
                    if fields.is_empty() {
                        // The first field is probably still the invoice's number.
                        fields.extend(quoted.split([',', '"']).next().map(str::to_owned));
                    }
                    return (fields, Some(format!("UNREADABLE: column {column} {why}")));
                }
            },
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(after) => rest = after,
            None => return (fields, None),
        }
    }
}

/// The quoted text without its quotation marks, and the rest, which is empty or begins with a comma.
fn unquoted(quoted: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest
            .split_once('"')
            .ok_or("begins with a quotation mark that the line does not close")?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => {
                let after = after.trim_start_matches([' ', '\t']);
                return if after.is_empty() || after.starts_with(',') {
                    Ok((field, after))
                } else {
                    Err("goes on after its closing quotation mark")
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        split(text).0
    }

    #[test]
    fn fields_are_split_at_commas_outside_quotation_marks() {
        assert_eq!(
            fields(r#"1,"a, ""b""" ,12" RULER,"#),
            ["1", "a, \"b\"", "12\" RULER", ""]
        );
        assert_eq!(fields(r#""1","2""#), ["1", "2"]);
    }

    #[test]
    fn a_fault_in_quotation_marks_names_the_column() {
        let open = split(r#"920011,A,"x,1,12/1/2010 8:26,1.00,1,UK"#);
        assert_eq!(open.0, ["920011", "A"]);
        assert!(open.1.unwrap().contains("column 3 begins with a quotation mark"));
        let goes_on = split(r#"1,"a"b,2"#);
        assert!(goes_on.1.unwrap().contains("column 2 goes on after"));
        assert_eq!(fields(r#""920011,"A""#), ["920011"]);
    }

    #[test]
    fn a_line_that_is_too_long_affects_no_other_line() {
        let long = "x".repeat(3 * MAX_LINE_BYTES as usize + 7);
        let text = format!("a\n{long}\n\r\nb\r\n{long}");
        let mut lines = Lines::new(text.as_bytes());
        let mut read = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            read.push((line.number, line.fault.is_some()));
        }
        assert_eq!(read, [(1, false), (2, true), (4, false), (5, true)]);
        assert_eq!(lines.position(), text.len() as u64);
    }
}
