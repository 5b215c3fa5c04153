//! Descriptors without their comments, which take two thirds of their room.

use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};

/// `FileDescriptorSet.file`.
const FILE: u32 = 1;
/// `FileDescriptorProto.source_code_info`.
const SOURCE_CODE_INFO: u32 = 9;

/// An encoded file without its comments.
pub(crate) fn without_comments(mut file: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
    let mut kept = Vec::with_capacity(file.len());
    while !file.is_empty() {
        let whole = file;
        let (tag, wire_type) = decode_key(&mut file)?;
        skip_field(wire_type, tag, &mut file, DecodeContext::default())?;
        if tag != SOURCE_CODE_INFO {
            kept.extend_from_slice(&whole[..whole.len() - file.len()]);
        }
    }
    Ok(kept)
}

/// An encoded `FileDescriptorSet` without the comments of its files; `None` when it is malformed.
pub(super) fn set_without_comments(mut set: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(set.len());
    while !set.is_empty() {
        let (tag, wire_type) = decode_key(&mut set).ok()?;
        if (tag, wire_type) != (FILE, WireType::LengthDelimited) {
            return None;
        }
        let length = usize::try_from(decode_varint(&mut set).ok()?).ok()?;
        let (file, rest) = set.split_at_checked(length)?;
        set = rest;
        let file = without_comments(file).ok()?;
        encode_key(FILE, WireType::LengthDelimited, &mut kept);
        encode_varint(file.len() as u64, &mut kept);
        kept.extend_from_slice(&file);
    }
    Some(kept)
}
