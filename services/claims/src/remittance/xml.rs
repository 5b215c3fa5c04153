//! XML, one child of the root at a time, within bounds.

use std::io::{self, BufRead, Read};

use quick_xml::{
    Reader as Events,
    escape::resolve_xml_entity,
    events::{BytesDecl, BytesRef, BytesStart, Event},
};

/// The most bytes that one child of the root may take: a claim of a thousand activities takes less than one MiB.
const CHILD_BYTES: usize = 4 << 20;
/// Elements inside elements below the root.
const DEPTH: usize = 8;

/// An element without its attributes, which eClaimLink does not use.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// Without a namespace prefix.
    pub(super) name: String,
    /// Its own text, without the white space around it.
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

/// The input is no XML that is taken here.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("is not well-formed XML: {0}")]
    Syntax(#[from] quick_xml::Error),
    #[error("is not well-formed XML: {0}")]
    Structure(&'static str),
    #[error("is not UTF-8: {0}")]
    Encoding(#[from] quick_xml::encoding::EncodingError),
    #[error("declares the encoding {0:?}; UTF-8 is taken")]
    OtherEncoding(String),
    #[error("has a document type, which is not taken")]
    DocumentType,
    #[error("uses the unknown entity &{0};")]
    UnknownEntity(String),
    #[error("nests elements deeper than {DEPTH}")]
    TooDeep,
}

impl Element {
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }
}

/// Reads a document's root and then its children one by one.
pub(super) struct Reader<R: BufRead> {
    events: Events<Bounded<R>>,
    buffer: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(source: R) -> Reader<R> {
        let mut events = Events::from_reader(Bounded {
            source,
            left: CHILD_BYTES,
        });
        events.config_mut().expand_empty_elements = true;
        Reader {
            events,
            buffer: Vec::new(),
        }
    }

    /// Opens the document; answers the root's name.
    pub(super) fn root(&mut self) -> Result<String, Malformed> {
        loop {
            match next(&mut self.events, &mut self.buffer)? {
                Event::Start(start) => return name(&start),
                Event::Decl(declaration) => utf8(&declaration)?,
                Event::Eof => return Err(Malformed::Structure("there is no element")),
                Event::Text(_) | Event::Comment(_) | Event::PI(_) => {}
                _ => {
                    return Err(Malformed::Structure(
                        "the document starts with something else than an element",
                    ));
                }
            }
        }
    }

    /// The next child of the root; none after the last.
    pub(super) fn child(&mut self) -> Result<Option<Element>, Malformed> {
        self.events.get_mut().left = CHILD_BYTES;
        let mut open: Vec<Element> = Vec::new();
        loop {
            match next(&mut self.events, &mut self.buffer)? {
                Event::Start(start) if open.len() < DEPTH => {
                    open.push(Element {
                        name: name(&start)?,
                        ..Element::default()
                    });
                }
                Event::Start(_) => return Err(Malformed::TooDeep),
                Event::End(_) => match (open.pop(), open.last_mut()) {
                    (Some(closed), Some(parent)) => parent.children.push(trimmed(closed)),
                    (Some(closed), None) => return Ok(Some(trimmed(closed))),
                    (None, _) => return self.nothing_follows(),
                },
                Event::Text(text) => append(&mut open, &text.xml10_content()?),
                Event::CData(text) => append(&mut open, &text.xml10_content()?),
                Event::GeneralRef(reference) => append(&mut open, &resolve(&reference)?),
                Event::Eof => return Err(Malformed::Structure("it ends inside an element")),
                Event::DocType(_) => return Err(Malformed::DocumentType),
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) | Event::Empty(_) => {}
            }
        }
    }

    fn nothing_follows(&mut self) -> Result<Option<Element>, Malformed> {
        loop {
            match next(&mut self.events, &mut self.buffer)? {
                Event::Eof => return Ok(None),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Text(text) if text.decode()?.trim().is_empty() => {}
                _ => return Err(Malformed::Structure("something follows the root element")),
            }
        }
    }
}

fn next<'b, R: BufRead>(
    events: &mut Events<Bounded<R>>,
    buffer: &'b mut Vec<u8>,
) -> Result<Event<'b>, Malformed> {
    buffer.clear();
    match events.read_event_into(buffer)? {
        Event::DocType(_) => Err(Malformed::DocumentType),
        event => Ok(event),
    }
}

fn name(start: &BytesStart<'_>) -> Result<String, Malformed> {
    let name = start.local_name();
    let name = std::str::from_utf8(name.as_ref()).map_err(quick_xml::encoding::EncodingError::from)?;
    Ok(name.to_owned())
}

fn utf8(declaration: &BytesDecl<'_>) -> Result<(), Malformed> {
    match declaration.encoding() {
        Some(Ok(encoding)) if !encoding.eq_ignore_ascii_case(b"utf-8") => Err(Malformed::OtherEncoding(
            String::from_utf8_lossy(&encoding).into_owned(),
        )),
        _ => Ok(()),
    }
}

fn resolve(reference: &BytesRef<'_>) -> Result<String, Malformed> {
    if let Some(character) = reference.resolve_char_ref()? {
        return Ok(character.to_string());
    }
    let name = reference.decode()?;
    resolve_xml_entity(&name)
        .map(str::to_owned)
        .ok_or_else(|| Malformed::UnknownEntity(name.into_owned()))
}

/// Text between the root's children belongs to nothing.
fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

fn trimmed(mut element: Element) -> Element {
    let text = element.text.trim();
    if text.len() != element.text.len() {
        element.text = text.to_owned();
    }
    element
}

/// A source that ends with an error when a child of the root takes too much.
struct Bounded<R> {
    source: R,
    left: usize,
}

impl<R: BufRead> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(into.len());
        into[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Bounded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Err(io::Error::other(format!(
                "one claim takes more than {CHILD_BYTES} bytes"
            )));
        }
        let available = self.source.fill_buf()?;
        Ok(&available[..available.len().min(self.left)])
    }

    fn consume(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
        self.source.consume(count);
    }
}

#[cfg(test)]
#[path = "xml/tests.rs"]
mod tests;
