//! XML as elements with text: one child of the root at a time, so that memory is bounded by the largest of them.

use std::io::BufRead;

use quick_xml::{Reader, escape, events::Event};

use super::Violation;

/// An element without attributes: its name, its text without the white space around it, and its children.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

impl Element {
    pub(crate) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// Reads the children of the root.
pub(crate) struct Elements<R> {
    reader: Reader<R>,
    buffer: Vec<u8>,
    inside: bool,
}

/// eClaimLink nests five deep.
const DEEPEST: usize = 16;

/// Text in one child of the root; a claim's attachments are its largest part.
const MOST_TEXT_BYTES: usize = 64 * 1024 * 1024;

/// Elements in one child of the root.
const MOST_ELEMENTS: usize = 500_000;

impl<R: BufRead> Elements<R> {
    pub(crate) fn new(reader: R) -> Elements<R> {
        Elements {
            reader: Reader::from_reader(reader),
            buffer: Vec::new(),
            inside: false,
        }
    }

    /// How many bytes were read.
    pub(crate) fn position(&self) -> u64 {
        self.reader.buffer_position()
    }

    /// The next child of the root; `None` after the last one.
    ///
    /// # Errors
    /// When the file is not well-formed, or has another root.
    pub(crate) fn next_below(&mut self, root: &str) -> Result<Option<Element>, Violation> {
        let mut open: Vec<Element> = Vec::new();
        let (mut bytes, mut elements) = (0, 0);
        loop {
            self.buffer.clear();
            let event = self
                .reader
                .read_event_into(&mut self.buffer)
                .map_err(|error| broken(&self.reader, &error))?;
            match event {
                Event::Start(start) => {
                    let name = String::from_utf8_lossy(start.name().as_ref()).into_owned();
                    if !self.inside {
                        expect_root(&name, root)?;
                        self.inside = true;
                        continue;
                    }
                    elements += 1;
                    if open.len() >= DEEPEST || elements > MOST_ELEMENTS {
                        return Err(Violation::new(
                            "NOT_WELL_FORMED",
                            &name,
                            "has too many elements inside",
                        ));
                    }
                    open.push(Element {
                        name,
                        ..Element::default()
                    });
                }
                Event::Empty(start) => {
                    let name = String::from_utf8_lossy(start.name().as_ref()).into_owned();
                    let element = Element {
                        name,
                        ..Element::default()
                    };
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None if self.inside => return Ok(Some(element)),
                        None => expect_root(&element.name, root)?,
                    }
                }
                Event::End(_) => {
                    let Some(mut element) = open.pop() else {
                        self.inside = false;
                        continue;
                    };
                    element.text = element.text.trim().to_owned();
                    match open.last_mut() {
                        Some(parent) => parent.children.push(element),
                        None => return Ok(Some(element)),
                    }
                }
                Event::Text(text) => {
                    let text = text.decode().map_err(|error| broken_text(&error))?;
                    append(&mut open, &text, &mut bytes)?;
                }
                Event::CData(text) => {
                    let text = text.decode().map_err(|error| broken_text(&error))?;
                    append(&mut open, &text, &mut bytes)?;
                }
                Event::GeneralRef(reference) => {
                    let name = reference.decode().map_err(|error| broken_text(&error))?;
                    let named = escape::resolve_predefined_entity(&name).map(str::to_owned);
                    let numbered = || reference.resolve_char_ref().ok().flatten().map(String::from);
                    let text = named
                        .or_else(numbered)
                        .ok_or_else(|| broken_text(&format!("unknown entity &{name};")))?;
                    append(&mut open, &text, &mut bytes)?;
                }
                Event::DocType(_) => return Err(broken_text(&"a document type is not allowed")),
                Event::Eof if open.is_empty() && !self.inside => return Ok(None),
                Event::Eof => return Err(broken_text(&"the file ends in the middle of an element")),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            }
        }
    }
}

fn append(open: &mut [Element], text: &str, bytes: &mut usize) -> Result<(), Violation> {
    *bytes += text.len();
    if *bytes > MOST_TEXT_BYTES {
        return Err(broken_text(&"one claim has more text than any claim may"));
    }
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
    Ok(())
}

fn expect_root(name: &str, root: &str) -> Result<(), Violation> {
    match name {
        _ if name == root => Ok(()),
        "Remittance.Advice" => Err(Violation::new(
            "WRONG_ROOT",
            name,
            "is what `weft remittance import` takes, not an order",
        )),
        _ => Err(Violation::new("WRONG_ROOT", name, format!("must be {root}"))),
    }
}

fn broken<R>(reader: &Reader<R>, error: &quick_xml::Error) -> Violation {
    Violation::new(
        "NOT_WELL_FORMED",
        format!("byte {}", reader.error_position()),
        error.to_string(),
    )
}

fn broken_text(error: &dyn std::fmt::Display) -> Violation {
    Violation::new("NOT_WELL_FORMED", "the file", error.to_string())
}
