//! One of a thing for each criticality: what happens to batch work must not be held against what matters.

use crate::{call::Method, policy::Criticality};

/// A thing for each criticality.
#[derive(Debug)]
pub(crate) struct PerCriticality<T> {
    sheddable: T,
    normal: T,
    critical: T,
}

impl<T> PerCriticality<T> {
    pub(crate) fn new(make: impl Fn() -> T) -> PerCriticality<T> {
        PerCriticality {
            sheddable: make(),
            normal: make(),
            critical: make(),
        }
    }

    /// The one for calls of the method. Foreign methods are normal ones.
    pub(crate) fn of(&self, method: &Method) -> &T {
        match method.policy.as_ref().map(|policy| policy.criticality) {
            Some(Criticality::Sheddable) => &self.sheddable,
            Some(Criticality::Critical) => &self.critical,
            Some(Criticality::Normal | Criticality::Unspecified) | None => &self.normal,
        }
    }

    pub(crate) fn all(&self) -> [&T; 3] {
        [&self.sheddable, &self.normal, &self.critical]
    }
}
