//! The transitions of a saga since it was last saved.

use std::time::Duration;

use tokio::time::Instant;

use super::{SagaContext, apply::Rules, transition::Transition};
use crate::order::WrongState;

/// The saga as it was last saved, and its transitions since then.
pub(super) struct UnsavedTransitions {
    pub(super) saved: SagaContext,
    pub(super) transitions: Vec<Transition>,
    pub(super) save_by: Instant,
}

/// How long a saga may remain unsaved, so that readers see its progress.
const MAX_UNSAVED: Duration = Duration::from_secs(2);

impl UnsavedTransitions {
    pub(super) fn new(saved: &SagaContext) -> UnsavedTransitions {
        UnsavedTransitions {
            saved: saved.clone(),
            transitions: Vec::new(),
            save_by: Instant::now() + MAX_UNSAVED,
        }
    }

    /// Applies the transitions again to another state of the order.
    pub(super) fn reapply(&self, rules: &Rules<'_>) -> Result<SagaContext, WrongState> {
        let mut current = self.saved.clone();
        for transition in &self.transitions {
            current = current.apply(transition, rules)?;
        }
        Ok(current)
    }
}
