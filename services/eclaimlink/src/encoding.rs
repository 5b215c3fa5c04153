//! Decodes the bytes of a file to UTF-8.
//!
//! The encoding is determined by a byte order mark; without one, UTF-16 is recognised by its first character;
//! otherwise the XML declaration selects UTF-8 or a single-byte encoding of the WHATWG Encoding Standard, which
//! reads ISO-8859-1 and US-ASCII as windows-1252. A single-byte file that declares UTF-16 is read as UTF-8.
//! Invalid bytes are an error; they are never replaced.

use std::io::{self, BufRead, Read};

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE, X_USER_DEFINED};

/// The number of bytes in which the XML declaration must be complete.
const HEAD_BYTES: usize = 512;
/// The number of bytes that are decoded at once.
const CHUNK_BYTES: usize = 32 << 10;

/// Why a file cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error(
        "declares the encoding {0:?}, which is not supported: UTF-8, UTF-16 and the single-byte ISO-8859 and windows encodings are"
    )]
    Unsupported(String),
    #[error("is not {encoding}: the bytes before byte {position} are not a valid character")]
    Malformed { encoding: &'static str, position: u64 },
}

/// Whether a file that starts with these bytes is XML and not plain text.
pub fn is_xml(head: &[u8]) -> bool {
    let head = match Encoding::for_bom(head) {
        Some((_, mark)) => &head[mark..],
        None => head,
    };
    // In UTF-16 every other byte of ASCII text is zero.
    let first = head
        .iter()
        .find(|byte| !byte.is_ascii_whitespace() && **byte != 0);
    first == Some(&b'<')
}

/// Reads a source as UTF-8 text without a byte order mark.
pub(crate) struct Utf8<R> {
    source: R,
    decoder: Option<Decoder>,
    /// Bytes that were read to detect the encoding and are not decoded yet.
    head: Vec<u8>,
    text: Vec<u8>,
    consumed: usize,
    /// The number of bytes of the source that were decoded.
    position: u64,
    ended: bool,
}

impl<R: BufRead> Utf8<R> {
    pub(crate) fn new(source: R) -> Utf8<R> {
        Utf8 {
            source,
            decoder: None,
            head: Vec::new(),
            text: Vec::new(),
            consumed: 0,
            position: 0,
            ended: false,
        }
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    fn detect_encoding(&mut self) -> io::Result<()> {
        (&mut self.source)
            .take(HEAD_BYTES as u64)
            .read_to_end(&mut self.head)?;
        let encoding = detect(&self.head).map_err(to_io_error)?;
        self.decoder = Some(encoding.new_decoder_with_bom_removal());
        Ok(())
    }

    fn decode_chunk(&mut self) -> io::Result<()> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(());
        };
        let from_head = !self.head.is_empty();
        let input = if from_head {
            &self.head[..]
        } else {
            self.source.fill_buf()?
        };
        let input = &input[..input.len().min(CHUNK_BYTES)];
        self.ended = input.is_empty();
        let capacity = decoder.max_utf8_buffer_length_without_replacement(input.len());
        self.text.resize(capacity.unwrap_or(CHUNK_BYTES * 3 + 16), 0);
        self.consumed = 0;
        let (result, read, written) =
            decoder.decode_to_utf8_without_replacement(input, &mut self.text, self.ended);
        self.text.truncate(written);
        self.position += read as u64;
        if let DecoderResult::Malformed(..) = result {
            let encoding = decoder.encoding().name();
            return Err(to_io_error(DecodeError::Malformed {
                encoding,
                position: self.position,
            }));
        }
        if from_head {
            self.head.drain(..read);
        } else {
            self.source.consume(read);
        }
        Ok(())
    }
}

impl<R: BufRead> BufRead for Utf8<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.decoder.is_none() {
            self.detect_encoding()?;
        }
        while self.consumed == self.text.len() && !self.ended {
            self.decode_chunk()?;
        }
        Ok(&self.text[self.consumed..])
    }

    fn consume(&mut self, count: usize) {
        self.consumed += count;
    }
}

impl<R: BufRead> Read for Utf8<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(into.len());
        into[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

fn to_io_error(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn detect(head: &[u8]) -> Result<&'static Encoding, DecodeError> {
    if let Some((encoding, _)) = Encoding::for_bom(head) {
        return Ok(encoding);
    }
    match head {
        [b'<', 0, ..] => return Ok(UTF_16LE),
        [0, b'<', ..] => return Ok(UTF_16BE),
        _ => {}
    }
    let Some(label) = declared_label(head) else {
        return Ok(UTF_8);
    };
    match Encoding::for_label(label) {
        Some(encoding) if encoding == UTF_8 => Ok(UTF_8),
        // The file was converted from UTF-16 without a change of the declaration.
        Some(encoding) if encoding == UTF_16LE || encoding == UTF_16BE => Ok(UTF_8),
        Some(encoding) if encoding.is_single_byte() && encoding != X_USER_DEFINED => Ok(encoding),
        _ => {
            let label = String::from_utf8_lossy(&label[..label.len().min(40)]).into_owned();
            Err(DecodeError::Unsupported(label))
        }
    }
}

/// The value of `encoding` in the XML declaration.
fn declared_label(head: &[u8]) -> Option<&[u8]> {
    let declaration = head.strip_prefix(b"<?xml")?;
    let end = declaration.windows(2).position(|window| window == b"?>")?;
    let declaration = &declaration[..end];
    let name = b"encoding";
    let at = declaration
        .windows(name.len())
        .position(|window| window == name)?;
    let value = declaration[at + name.len()..]
        .trim_ascii_start()
        .strip_prefix(b"=")?
        .trim_ascii_start();
    let (quote, value) = value.split_first()?;
    let end = value.iter().position(|byte| byte == quote)?;
    Some(&value[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<String, String> {
        let mut text = String::new();
        // With a buffer of three bytes, characters are split.
        let source = io::BufReader::with_capacity(3, bytes);
        match Utf8::new(source).read_to_string(&mut text) {
            Ok(_) => Ok(text),
            Err(error) => Err(error.to_string()),
        }
    }

    fn declaring(encoding: &str, rest: &[u8]) -> Vec<u8> {
        let mut bytes = format!("<?xml version='1.0' encoding='{encoding}'?>").into_bytes();
        bytes.extend_from_slice(rest);
        bytes
    }

    fn utf16(text: &str, mark: bool, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mark = mark.then_some(0xFEFF);
        mark.into_iter()
            .chain(text.encode_utf16())
            .flat_map(bytes)
            .collect()
    }

    #[test]
    fn utf8_is_read_with_and_without_a_byte_order_mark_and_for_all_labels() {
        let long = "é".repeat(2_000);
        assert_eq!(read(long.as_bytes()).unwrap(), long);
        assert_eq!(read("\u{feff}<a>é</a>".as_bytes()).unwrap(), "<a>é</a>");
        for name in ["UTF-8", "utf8", "UTF8", "utf-16"] {
            let text = read(&declaring(name, "<a>é</a>".as_bytes())).unwrap();
            assert!(text.ends_with("<a>é</a>"), "{text}");
        }
    }

    #[test]
    fn utf16_is_read_in_both_byte_orders_with_and_without_a_mark() {
        for mark in [true, false] {
            assert_eq!(
                read(&utf16("<a>é</a>", mark, u16::to_le_bytes)).unwrap(),
                "<a>é</a>"
            );
            assert_eq!(
                read(&utf16("<a>é</a>", mark, u16::to_be_bytes)).unwrap(),
                "<a>é</a>"
            );
        }
    }

    #[test]
    fn single_byte_encodings_are_read_as_declared() {
        for (name, byte, character) in [
            ("windows-1252", 0x92, "’"),
            ("ISO-8859-1", 0xE9, "é"),
            ("us-ascii", 0xE9, "é"),
            ("windows-1256", 0xC7, "ا"),
        ] {
            let text = read(&declaring(name, &[byte])).unwrap();
            assert!(text.ends_with(character), "{name}: {text}");
        }
    }

    #[test]
    fn invalid_bytes_are_an_error_with_the_encoding() {
        let broken = read(b"<a>\x92</a>").unwrap_err();
        assert!(
            broken.contains("is not UTF-8") && broken.contains("byte 4"),
            "{broken}"
        );
        let cut = read("<a>é".as_bytes().split_last().unwrap().1).unwrap_err();
        assert!(cut.contains("is not UTF-8"), "{cut}");
        for name in ["shift_jis", "ebcdic-cp-us", "x-user-defined", ""] {
            let unsupported = read(&declaring(name, b"")).unwrap_err();
            assert!(unsupported.contains("declares the encoding"), "{unsupported}");
        }
    }

    #[test]
    fn xml_is_distinguished_from_plain_text_in_every_encoding() {
        for xml in [
            b"<a/>".to_vec(),
            b" \r\n<a/>".to_vec(),
            "\u{feff}<a/>".as_bytes().to_vec(),
            utf16("<a/>", true, u16::to_le_bytes),
            utf16("<a/>", false, u16::to_be_bytes),
        ] {
            assert!(is_xml(&xml), "{xml:?}");
        }
        for other in [&b""[..], b"InvoiceNo,<b>", b"\xef\xbb\xbfInvoiceNo"] {
            assert!(!is_xml(other), "{other:?}");
        }
    }
}
