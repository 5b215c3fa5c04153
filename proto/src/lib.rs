//! The wire contract: the types generated from `proto/`, and the descriptors they came from.

#![allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]

include!(concat!(env!("OUT_DIR"), "/mod.rs"));

/// The encoded `FileDescriptorSet` of every contract, imports, comments and extension options included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The same without comments: what programs read while they run. In memory it takes a third of the room.
pub const SCHEMA: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.bin"));
