//! gRPC message framing: one byte for compression, four for the length, then the message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::HeaderMap;
use tonic::{Code, Status, metadata::MetadataValue};

use super::protocol::MALFORMED_FRAME;
use crate::{contract::grouped, status};

const PREFIX: usize = 5;

/// Extracts frames from the chunks of a body. Buffers at most one message.
pub(super) struct Frames {
    buffer: BytesMut,
    max_message_bytes: usize,
    /// The compression named by `grpc-encoding`.
    encoding: Option<String>,
}

impl Frames {
    /// The frames of a request with these headers. Removes `grpc-encoding`, because the frames are uncompressed.
    pub(super) fn new(headers: &mut HeaderMap, max_message_bytes: usize) -> Frames {
        let encoding = headers.remove("grpc-encoding");
        Frames {
            buffer: BytesMut::new(),
            max_message_bytes,
            encoding: encoding
                .map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned())
                .filter(|name| name != "identity"),
        }
    }

    pub(super) fn push(&mut self, piece: impl Buf) {
        self.buffer.put(piece);
    }

    /// Whether no part of an incomplete message is left.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next complete message with its prefix. Invalid messages are rejected by the prefix alone.
    ///
    /// # Errors
    /// UNIMPLEMENTED `COMPRESSED` and RESOURCE_EXHAUSTED `MESSAGE_TOO_LARGE`; INTERNAL when it is compressed and
    /// no encoding is named.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(mut prefix) = self.buffer.get(..PREFIX) else {
            return Ok(None);
        };
        match prefix.get_u8() {
            0 => {}
            1 => return Err(self.compressed()),
            flag => {
                let text = format!("the first byte of a message is 0 or 1, not {flag}");
                return Err(status::protocol(Code::Internal, MALFORMED_FRAME, text));
            }
        }
        let length = prefix.get_u32() as usize;
        if length > self.max_message_bytes {
            return Err(too_large(length, self.max_message_bytes));
        }
        let whole = PREFIX + length;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(whole).freeze()))
    }

    /// The error that gRPC's compression specification requires; a header lists the accepted encodings.
    fn compressed(&self) -> Status {
        let Some(encoding) = &self.encoding else {
            let text = "a message is compressed, and `grpc-encoding` does not say with what";
            return status::protocol(Code::Internal, MALFORMED_FRAME, text);
        };
        let encoding = crate::contract::text::sanitized(encoding, 50);
        let text = format!(
            "messages compressed with {encoding} are not taken, only those of `grpc-encoding: identity`"
        );
        let mut refusal = status::unimplemented("COMPRESSED", text);
        refusal
            .metadata_mut()
            .insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
        refusal
    }
}

/// The message without the frame's prefix.
pub(super) fn message(mut frame: Bytes) -> Bytes {
    frame.advance(PREFIX.min(frame.len()));
    frame
}

fn too_large(length: usize, limit: usize) -> Status {
    let text = format!(
        "the message has {} bytes; at most {} are taken",
        grouped(length),
        grouped(limit)
    );
    let mut refusal = status::too_large("MESSAGE_TOO_LARGE", text);
    // A retry would have the same size.
    refusal
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", MetadataValue::from_static("-1"));
    refusal
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn frames(encoding: Option<&'static str>) -> Frames {
        let mut headers = HeaderMap::new();
        if let Some(encoding) = encoding {
            headers.insert("grpc-encoding", http::HeaderValue::from_static(encoding));
        }
        Frames::new(&mut headers, 10)
    }

    fn frame(flag: u8, length: u32) -> Vec<u8> {
        let mut frame = vec![flag];
        frame.put_u32(length);
        frame.resize(PREFIX + length as usize, 7);
        frame
    }

    #[test]
    fn messages_are_extracted_whole_from_any_chunks() {
        let mut frames = frames(Some("identity"));
        let both = [frame(0, 3), frame(0, 0), frame(0, 10)].concat();
        let mut lengths = Vec::new();
        for byte in both {
            frames.push(&[byte][..]);
            while let Some(frame) = frames.next().unwrap() {
                lengths.push(message(frame).len());
            }
        }
        assert_eq!(lengths, [3, 0, 10]);
        assert!(frames.is_empty());
    }

    #[test]
    fn an_oversized_message_is_rejected_by_its_prefix() {
        let mut frames = frames(None);
        frames.push(&frame(0, 11)[..PREFIX]);
        let refusal = frames.next().unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        assert_eq!(refusal.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
    }

    #[test]
    fn a_compressed_message_is_rejected_with_the_accepted_encodings() {
        let mut compressed = frames(Some("gzip"));
        compressed.push(&frame(0, 2)[..]);
        assert!(compressed.next().unwrap().is_some());
        compressed.push(&frame(1, 2)[..]);
        let refusal = compressed.next().unwrap_err();
        assert_eq!(refusal.code(), Code::Unimplemented);
        assert_eq!(
            refusal.metadata().get("grpc-accept-encoding").unwrap(),
            "identity"
        );
        assert!(refusal.message().contains("gzip"));
    }

    #[test]
    fn an_unexplained_flag_is_a_protocol_violation() {
        for (encoding, flag) in [(None, 1), (Some("identity"), 1), (None, 2)] {
            let mut frames = frames(encoding);
            frames.push(&frame(flag, 2)[..]);
            let refusal = frames.next().unwrap_err();
            assert_eq!(refusal.code(), Code::Internal);
            let details = refusal.get_error_details();
            assert_eq!(details.error_info().unwrap().reason, "MALFORMED_FRAME");
        }
    }
}
