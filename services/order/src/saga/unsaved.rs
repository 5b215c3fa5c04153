//! What a saga has done since it was last written.

use std::time::Duration;

use tokio::time::Instant;

use super::{SagaContext, apply::Rules, transition::Transition};
use crate::order::WrongState;

/// How a saga has moved since it was last written.
pub(super) struct UnsavedTransitions {
    pub(super) saved: SagaContext,
    pub(super) transitions: Vec<Transition>,
    pub(super) save_by: Instant,
}

/// How long a saga goes on without being written, so that readers see where it is.
const MAX_UNSAVED: Duration = Duration::from_secs(2);

impl UnsavedTransitions {
    pub(super) fn new(saved: &SagaContext) -> UnsavedTransitions {
        UnsavedTransitions {
            saved: saved.clone(),
            transitions: Vec::new(),
            save_by: Instant::now() + MAX_UNSAVED,
        }
    }

    /// The moves made again, from another state of the order.
    pub(super) fn reapply(&self, rules: &Rules<'_>) -> Result<SagaContext, WrongState> {
        let mut current = self.saved.clone();
        for transition in &self.transitions {
            current = current.apply(transition, rules)?;
        }
        Ok(current)
    }
}
