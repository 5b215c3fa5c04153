//! Conditions on a call's headers.
//!
//! A header that is there several times counts as one, its values joined by commas, as in gRFC A28.

use http::{HeaderMap, HeaderName};

/// A condition on one header.
#[derive(Debug)]
pub(crate) struct HeaderMatch {
    pub(crate) name: HeaderName,
    pub(crate) expected: Expected,
}

/// What a header must be.
#[derive(Debug)]
pub(crate) enum Expected {
    Exact(String),
    Prefix(String),
    Present(bool),
}

impl HeaderMatch {
    pub(crate) fn matches(&self, headers: &HeaderMap) -> bool {
        let present = headers.contains_key(&self.name);
        let mut value = value(headers, &self.name);
        match &self.expected {
            Expected::Exact(expected) => present && value.eq(expected.bytes()),
            Expected::Prefix(prefix) => present && prefix.bytes().all(|byte| value.next() == Some(byte)),
            Expected::Present(expected) => present == *expected,
        }
    }
}

/// The 64-bit FNV-1a hash of a header, mixed by the finalizer of MurmurHash3, so that short values are
/// distributed evenly too. It has no salt: all clients agree. `None` without the header.
pub(super) fn hash(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    headers.contains_key(name).then(|| {
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
        mix(value(headers, name).fold(OFFSET, fnv))
    })
}

/// The finalizer of MurmurHash3: every bit of the result depends on all bits of `bits`.
pub(super) fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// The bytes of all values, joined by commas.
fn value(headers: &HeaderMap, name: &HeaderName) -> impl Iterator<Item = u8> {
    let values = headers.get_all(name).iter().enumerate();
    values.flat_map(|(place, value)| {
        let comma = (place > 0).then_some(b',');
        comma.into_iter().chain(value.as_bytes().iter().copied())
    })
}
