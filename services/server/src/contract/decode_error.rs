//! Describes why a message cannot be decoded.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_reflect::{Kind, MessageDescriptor};
use tonic::Status;

use super::well_known_types;
use crate::status;

/// prost's own limit on nesting.
const MAX_DEPTH: usize = 100;

/// INVALID_ARGUMENT for bytes that cannot be decoded as `message`. If a string is not UTF-8, its field is named.
pub(crate) fn decode_error(message: &MessageDescriptor, bytes: &[u8], error: &prost::DecodeError) -> Status {
    match find_invalid_utf8(message, bytes, MAX_DEPTH) {
        Some(path) => status::invalid_field(&path, "must be a text in UTF-8"),
        None => status::invalid_field(
            "",
            format!("cannot be decoded as {}: {error}", message.full_name()),
        ),
    }
}

/// The path of the first string that is not UTF-8; `None` also when the bytes end before it.
fn find_invalid_utf8(message: &MessageDescriptor, mut bytes: &[u8], depth: usize) -> Option<String> {
    let mut next_index = std::collections::HashMap::new();
    while bytes.has_remaining() && depth > 0 {
        let (tag, wire_type) = decode_key(&mut bytes).ok()?;
        let field = message.get_field(tag);
        let (WireType::LengthDelimited, Some(field)) = (wire_type, field) else {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).ok()?;
            continue;
        };
        let length = usize::try_from(decode_varint(&mut bytes).ok()?).ok()?;
        let (value, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        let place = if field.is_list() {
            let index = next_index.entry(tag).or_insert(0_usize);
            *index += 1;
            format!("{}[{}]", field.name(), *index - 1)
        } else {
            field.name().to_owned()
        };
        match field.kind() {
            Kind::String if std::str::from_utf8(value).is_err() => return Some(place),
            Kind::Message(inner) => {
                if let Some(path) = find_invalid_utf8(&inner, value, depth - 1) {
                    // An entry of a map is reported by the map's name, and a well-known type as one value.
                    let is_named_whole = field.is_map() || well_known_types::is_one_value(&inner);
                    return Some(if is_named_whole {
                        place
                    } else {
                        format!("{place}.{path}")
                    });
                }
            }
            _ => {}
        }
    }
    None
}
