//! What a saga has done since it was last written.

use std::time::Duration;

use tokio::time::Instant;

use super::{Run, decide::Movement, follow::Rules};
use crate::order::WrongState;

/// How a saga has moved since it was last written.
pub(super) struct Journal {
    pub(super) written: Run,
    pub(super) moves: Vec<Movement>,
    pub(super) write_by: Instant,
}

/// How long a saga goes on without being written, so that readers see where it is.
const UNWRITTEN: Duration = Duration::from_secs(2);

impl Journal {
    pub(super) fn new(written: &Run) -> Journal {
        Journal {
            written: written.clone(),
            moves: Vec::new(),
            write_by: Instant::now() + UNWRITTEN,
        }
    }

    /// The moves made again, from another state of the order.
    pub(super) fn replayed(&self, rules: &Rules<'_>) -> Result<Run, WrongState> {
        let mut run = self.written.clone();
        for movement in &self.moves {
            run = run.moved(movement, rules)?;
        }
        Ok(run)
    }
}
