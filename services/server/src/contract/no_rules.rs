//! Without the feature `validation` no `buf.validate` rules are checked.

use std::convert::Infallible;

use prost_reflect::{DescriptorPool, DynamicMessage};

use crate::Violations;

pub(super) type Error = Infallible;

/// Checks nothing.
pub(super) struct Rules;

impl Rules {
    pub(super) fn new(_: &DescriptorPool) -> Rules {
        Rules
    }

    /// No violations.
    pub(super) fn check(&self, _: &DynamicMessage) -> Result<Violations, Error> {
        Ok(Violations::new())
    }
}
