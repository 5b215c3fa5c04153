//! One value for each criticality, so that failures of batch work do not affect critical calls.

use crate::policy::Criticality;

/// One value for each criticality.
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

    pub(crate) fn get(&self, criticality: Criticality) -> &T {
        match criticality {
            Criticality::Sheddable => &self.sheddable,
            Criticality::Critical => &self.critical,
            Criticality::Normal => &self.normal,
        }
    }

    pub(crate) fn values(&self) -> [&T; 3] {
        [&self.sheddable, &self.normal, &self.critical]
    }
}
