//! XML, one child of the root at a time, within bounds. Namespace prefixes are ignored; a document type is refused, so
//! that there are no entities but XML's own five.

use std::io::{self, BufRead, Read};

use quick_xml::{
    Reader as Events,
    escape::resolve_xml_entity,
    events::{BytesRef, BytesStart, Event},
};

use crate::{
    encoding::{Undecodable, Utf8},
    fault::Fault,
};

/// The most bytes of names and texts that a claim may have.
pub(crate) const CLAIM_BYTES: usize = 4 << 20;
/// The most elements that a claim may have.
pub(crate) const CLAIM_ELEMENTS: usize = 200_000;
/// Elements inside elements below the root.
pub(crate) const DEPTH: usize = 8;
/// The most bytes between two tags: what a claim that is too large may take while it is skipped.
pub(crate) const TOKEN_BYTES: usize = 16 << 20;

/// An element: its name without a prefix, its own text without the white space around it, and what is inside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Without a namespace prefix.
    pub name: String,
    /// Without the white space around it.
    pub text: String,
    /// In the file's order.
    pub children: Vec<Element>,
    /// Names of attributes that are neither a namespace nor a hint for schema processors.
    pub(crate) attributes: Vec<String>,
}

impl Element {
    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The children of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// A child of the root.
#[derive(Debug)]
pub(crate) struct Child {
    /// What was kept of it.
    pub(crate) element: Element,
    /// It is beyond a bound, and not whole.
    pub(crate) beyond: Option<Fault>,
}

/// The input is no XML that is taken here.
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
    #[error("has a document type, which is not taken")]
    DocumentType,
    #[error("uses the unknown entity &{0};")]
    UnknownEntity(String),
}

impl From<quick_xml::Error> for Malformed {
    fn from(error: quick_xml::Error) -> Malformed {
        match error {
            quick_xml::Error::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(undecodable) => Malformed::Encoding(Undecodable::to_string(undecodable)),
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
    events: Events<Bounded<Utf8<R>>>,
    buffer: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(source: R) -> Reader<R> {
        let mut events = Events::from_reader(Bounded {
            source: Utf8::new(source),
            left: TOKEN_BYTES,
        });
        events.config_mut().expand_empty_elements = true;
        Reader {
            events,
            buffer: Vec::new(),
        }
    }

    /// How many bytes of the source were read.
    pub(crate) fn position(&self) -> u64 {
        self.events.get_ref().source.position()
    }

    /// Opens the document; answers the root's name.
    pub(crate) fn root(&mut self) -> Result<String, Malformed> {
        loop {
            match next(&mut self.events, &mut self.buffer)? {
                Event::Start(start) => return Ok(name(&start)),
                Event::Eof => return Err(Malformed::Structure("there is no element")),
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                Event::Text(text) if is_blank(&text) => {}
                _ => {
                    return Err(Malformed::Structure(
                        "the document starts with something else than an element",
                    ));
                }
            }
        }
    }

    /// The next child of the root; none after the last.
    pub(crate) fn child(&mut self) -> Result<Option<Child>, Malformed> {
        let mut tree = Tree::default();
        loop {
            match next(&mut self.events, &mut self.buffer)? {
                Event::Start(start) => tree.open(&start),
                Event::End(_) if tree.depth == 0 => return self.nothing_follows(),
                Event::End(_) => {
                    if let Some(element) = tree.close() {
                        return Ok(Some(Child {
                            element,
                            beyond: tree.beyond,
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

    fn nothing_follows(&mut self) -> Result<Option<Child>, Malformed> {
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

/// One child of the root while it is read. Beyond a bound nothing more is kept: what there is of it names it.
#[derive(Default)]
struct Tree {
    open: Vec<Element>,
    depth: usize,
    bytes: usize,
    elements: usize,
    beyond: Option<Fault>,
}

impl Tree {
    fn open(&mut self, start: &BytesStart<'_>) {
        self.depth += 1;
        self.elements += 1;
        self.bytes += start.len();
        let name = name(start);
        if self.depth > DEPTH {
            self.stop("TOO_DEEP", format!("has elements more than {DEPTH} deep"));
        } else if self.elements > CLAIM_ELEMENTS {
            self.stop(
                "CLAIM_TOO_LARGE",
                format!("has more than {CLAIM_ELEMENTS} elements"),
            );
        } else if self.bytes > CLAIM_BYTES {
            self.too_many_bytes();
        }
        if self.beyond.is_none() || self.depth == 1 {
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
        if self.bytes > CLAIM_BYTES {
            self.too_many_bytes();
        }
        if self.beyond.is_none()
            && let Some(element) = self.open.last_mut()
        {
            element.text.push_str(text);
        }
        Ok(())
    }

    /// The child itself, once it is closed.
    fn close(&mut self) -> Option<Element> {
        self.depth -= 1;
        if self.beyond.is_none() || self.depth == 0 {
            let element = self.open.pop().map(trimmed)?;
            match self.open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => return Some(element),
            }
        }
        None
    }

    fn too_many_bytes(&mut self) {
        let most = CLAIM_BYTES >> 20;
        self.stop("CLAIM_TOO_LARGE", format!("takes more than {most} MiB"));
    }

    fn stop(&mut self, rule: &'static str, message: String) {
        if self.beyond.is_none() {
            let name = self.open.first().map_or("", |element| element.name.as_str());
            self.beyond = Some(Fault::new(rule, name, message));
            // The fields that are complete stay, to name it.
            self.open.truncate(1);
            if let Some(child) = self.open.first_mut() {
                child.children.retain(|field| field.children.is_empty());
            }
        }
    }
}

fn next<'b, R: BufRead>(
    events: &mut Events<Bounded<R>>,
    buffer: &'b mut Vec<u8>,
) -> Result<Event<'b>, Malformed> {
    buffer.clear();
    events.get_mut().left = TOKEN_BYTES;
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
    // XML's white space only: another space may be part of a number or a name.
    let text = element.text.trim_matches([' ', '\t', '\n', '\r']);
    if text.len() != element.text.len() {
        element.text = text.to_owned();
    }
    element
}

/// A source that ends with an error when what stands between two tags takes too much.
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
            let most = TOKEN_BYTES >> 20;
            return Err(io::Error::other(format!(
                "one element has more than {most} MiB of text"
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
