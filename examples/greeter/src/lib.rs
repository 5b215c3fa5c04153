//! The types that are generated from the contract, and its descriptors.

include!(concat!(env!("OUT_DIR"), "/greeter.v1.rs"));

/// The encoded `FileDescriptorSet` of the contract.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
