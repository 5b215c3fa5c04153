//! Reads XML, one child of the root at a time, within bounds. Namespace prefixes are ignored. A document type is
//! refused, so only the five predefined entities exist.

use std::io::{self, BufRead, Read};

use quick_xml::{
    Reader as Events,
    escape::resolve_xml_entity,
    events::{BytesRef, BytesStart, Event},
};

use crate::{
    encoding::{DecodeError, Utf8},
    fault::Fault,
};

/// The largest number of bytes of names and texts in a claim.
pub(crate) const MAX_CLAIM_BYTES: usize = 4 << 20;
/// The largest number of elements in a claim.
pub(crate) const MAX_CLAIM_ELEMENTS: usize = 200_000;
/// The largest depth of elements below the root.
pub(crate) const MAX_DEPTH: usize = 8;
/// The largest number of bytes between two tags. It bounds the memory use while a claim that is too large is
/// skipped.
pub(crate) const MAX_TOKEN_BYTES: usize = 16 << 20;

/// An element with its text and its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// The name without a namespace prefix.
    pub name: String,
    /// The text without leading and trailing white space.
    pub text: String,
    /// The children in the order of the file.
    pub children: Vec<Element>,
    /// The names of attributes other than namespaces and hints for schema processors.
    pub(crate) attributes: Vec<String>,
}

impl Element {
    /// The first child with this name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children with this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// A child of the root.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its element; incomplete if a bound was exceeded.
    pub(crate) element: Element,
    /// The fault, if a bound was exceeded.
    pub(crate) exceeded: Option<Fault>,
}

/// Why the input cannot be read as XML.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("is not well-formed XML: {0}")]
    Syntax(quick_xml::Error),
    #[error("is not well-formed XML: {0}")]
    Structure(&'static str),
    #[error("{0}")]
    Encoding(String),
    #[error("cannot be read: {0}")]
    Io(String),
    #[error("has a document type, which is not supported")]
    DocumentType,
    #[error("uses the unknown entity &{0};")]
    UnknownEntity(String),
}

impl From<quick_xml::Error> for Malformed {
    fn from(error: quick_xml::Error) -> Malformed {
        match error {
            quick_xml::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(undecodable) => Malformed::Encoding(DecodeError::to_string(undecodable)),
                None => Malformed::Io(error.to_string()),
            },
            error => Malformed::Syntax(error),
        }
    }
}

impl From<quick_xml::encoding::EncodingError> for Malformed {
    fn from(error: quick_xml::encoding::EncodingError) -> Malformed {
        Malformed::Syntax(error.into())
    }
}

/// Reads a document's root and then its children one by one.
pub(crate) struct Reader<R: BufRead> {
    events: Events<Limited<Utf8<R>>>,
    buffer: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(source: R) -> Reader<R> {
        let mut events = Events::from_reader(Limited {
            source: Utf8::new(source),
            remaining: MAX_TOKEN_BYTES,
        });
        events.config_mut().expand_empty_elements = true;
        Reader {
            events,
            buffer: Vec::new(),
        }
    }

    /// The number of bytes of the source that were read.
    pub(crate) fn position(&self) -> u64 {
        self.events.get_ref().source.position()
    }

    /// Reads up to the root element and returns its name.
    pub(crate) fn root(&mut self) -> Result<String, Malformed> {
        loop {
            match next(&mut self.events, &mut self.buffer)? {
                Event::Start(start) => return Ok(name(&start)),
                Event::Eof => return Err(Malformed::Structure("there is no element")),
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                Event::Text(text) if is_blank(&text) => {}
                _ => {
                    return Err(Malformed::Structure(
                        "the document does not start with an element",
                    ));
                }
            }
        }
    }

    /// The next child of the root; `None` after the last.
    pub(crate) fn child(&mut self) -> Result<Option<Child>, Malformed> {
        let mut tree = TreeBuilder::default();
        loop {
            match next(&mut self.events, &mut self.buffer)? {
                Event::Start(start) => tree.open(&start),
                Event::End(_) if tree.depth == 0 => return self.expect_end(),
                Event::End(_) => {
                    if let Some(element) = tree.close() {
                        return Ok(Some(Child {
                            element,
                            exceeded: tree.exceeded,
                        }));
                    }
                }
                Event::Text(text) => tree.text(&text.xml10_content()?)?,
                Event::CData(text) => tree.text(&text.xml10_content()?)?,
                Event::GeneralRef(reference) => tree.text(&resolve(&reference)?)?,
                Event::Eof => return Err(Malformed::Structure("it ends inside an element")),
                Event::DocType(_) => return Err(Malformed::DocumentType),
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) | Event::Empty(_) => {}
            }
        }
    }

    /// Checks that only comments and white space follow the root element.
    fn expect_end(&mut self) -> Result<Option<Child>, Malformed> {
        loop {
            match next(&mut self.events, &mut self.buffer)? {
                Event::Eof => return Ok(None),
                Event::Comment(_) | Event::PI(_) => {}
                Event::Text(text) if is_blank(&text) => {}
                _ => return Err(Malformed::Structure("something follows the root element")),
            }
        }
    }
}

/// Builds one child of the root. After a bound is exceeded, nothing more is stored; the fields that are complete
/// identify it.
#[derive(Default)]
struct TreeBuilder {
    open: Vec<Element>,
    depth: usize,
    bytes: usize,
    elements: usize,
    exceeded: Option<Fault>,
}

impl TreeBuilder {
    fn open(&mut self, start: &BytesStart<'_>) {
        self.depth += 1;
        self.elements += 1;
        self.bytes += start.len();
        let name = name(start);
        if self.depth > MAX_DEPTH {
            self.exceed("TOO_DEEP", format!("has elements more than {MAX_DEPTH} deep"));
        } else if self.elements > MAX_CLAIM_ELEMENTS {
            self.exceed(
                "CLAIM_TOO_LARGE",
                format!("has more than {MAX_CLAIM_ELEMENTS} elements"),
            );
        } else if self.bytes > MAX_CLAIM_BYTES {
            self.exceed_bytes();
        }
        if self.exceeded.is_none() || self.depth == 1 {
            let mut attributes = start.attributes();
            attributes.with_checks(false);
            self.open.push(Element {
                name,
                attributes: attributes
                    .flatten()
                    .map(|attribute| String::from_utf8_lossy(attribute.key.as_ref()).into_owned())
                    .filter(|name| !name.starts_with("xmlns") && !name.starts_with("xsi:"))
                    .collect(),
                ..Element::default()
            });
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Malformed> {
        if self.depth == 0 {
            return match text.trim() {
                "" => Ok(()),
                _ => Err(Malformed::Structure("there is text between the root's elements")),
            };
        }
        self.bytes += text.len();
        if self.bytes > MAX_CLAIM_BYTES {
            self.exceed_bytes();
        }
        if self.exceeded.is_none()
            && let Some(element) = self.open.last_mut()
        {
            element.text.push_str(text);
        }
        Ok(())
    }

    /// Closes an element. Returns the child of the root once it is complete.
    fn close(&mut self) -> Option<Element> {
        self.depth -= 1;
        if self.exceeded.is_none() || self.depth == 0 {
            let element = self.open.pop().map(trimmed)?;
            match self.open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => return Some(element),
            }
        }
        None
    }

    fn exceed_bytes(&mut self) {
        let limit = MAX_CLAIM_BYTES >> 20;
        self.exceed("CLAIM_TOO_LARGE", format!("takes more than {limit} MiB"));
    }

    fn exceed(&mut self, rule: &'static str, message: String) {
        if self.exceeded.is_none() {
            let name = self.open.first().map_or("", |element| element.name.as_str());
            self.exceeded = Some(Fault::new(rule, name, message));
            // The complete fields remain, to identify the child.
            self.open.truncate(1);
            if let Some(child) = self.open.first_mut() {
                child.children.retain(|field| field.children.is_empty());
            }
        }
    }
}

fn next<'b, R: BufRead>(
    events: &mut Events<Limited<R>>,
    buffer: &'b mut Vec<u8>,
) -> Result<Event<'b>, Malformed> {
    buffer.clear();
    events.get_mut().remaining = MAX_TOKEN_BYTES;
    match events.read_event_into(buffer)? {
        Event::DocType(_) => Err(Malformed::DocumentType),
        event => Ok(event),
    }
}

fn name(start: &BytesStart<'_>) -> String {
    String::from_utf8_lossy(start.local_name().as_ref()).into_owned()
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_whitespace)
}

fn resolve(reference: &BytesRef<'_>) -> Result<String, Malformed> {
    if let Some(character) = reference.resolve_char_ref()? {
        return Ok(character.to_string());
    }
    let name = reference.decode()?;
    resolve_xml_entity(&name)
        .map(str::to_owned)
        .ok_or_else(|| Malformed::UnknownEntity(name.chars().take(40).collect()))
}

fn trimmed(mut element: Element) -> Element {
    // Only XML's white space is trimmed: other spaces may be part of a number or a name.
    let text = element.text.trim_matches([' ', '\t', '\n', '\r']);
    if text.len() != element.text.len() {
        element.text = text.to_owned();
    }
    element
}

/// A source that fails when the bytes between two tags exceed [`MAX_TOKEN_BYTES`].
struct Limited<R> {
    source: R,
    remaining: usize,
}

impl<R: BufRead> Read for Limited<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(into.len());
        into[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Limited<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.remaining == 0 {
            let limit = MAX_TOKEN_BYTES >> 20;
            return Err(io::Error::other(format!(
                "one element has more than {limit} MiB of text"
            )));
        }
        let available = self.source.fill_buf()?;
        Ok(&available[..available.len().min(self.remaining)])
    }

    fn consume(&mut self, count: usize) {
        self.remaining = self.remaining.saturating_sub(count);
        self.source.consume(count);
    }
}

#[cfg(test)]
#[path = "xml/tests.rs"]
mod tests;
