use std::time::Duration;

/// The longest time of all handlers in one transaction. For that time its rows stay locked and its first event
/// waits for its last.
const MAX_HANDLER_TIME: Duration = Duration::from_millis(50);

/// The size before any commit is known.
const INITIAL: usize = 8;

/// The number of events that may share a transaction: as many as their handlers' time allows, and fewer after a
/// rollback.
pub(super) struct BatchSize {
    max: usize,
    limit: usize,
    /// The time of one handler, smoothed over some eight runs.
    handler_time: Duration,
}

impl BatchSize {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            limit: INITIAL.min(max),
            handler_time: Duration::ZERO,
        }
    }

    pub(super) fn current(&self) -> usize {
        let affordable = MAX_HANDLER_TIME.as_micros() / self.handler_time.as_micros().max(1);
        usize::try_from(affordable)
            .unwrap_or(usize::MAX)
            .clamp(1, self.limit)
    }

    pub(super) fn record_handler_time(&mut self, took: Duration) {
        self.handler_time = (self.handler_time * 7 + took) / 8;
    }

    pub(super) fn record_commit(&mut self) {
        self.limit = (self.limit + 1).min(self.max);
    }

    pub(super) fn record_rollback(&mut self) {
        self.limit = (self.limit / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_steady_commits(handler_time: Duration) -> BatchSize {
        let mut batch_size = BatchSize::new(64);
        for _ in 0..100 {
            batch_size.record_handler_time(handler_time);
            batch_size.record_commit();
        }
        batch_size
    }

    #[test]
    fn it_grows_with_every_commit_up_to_the_setting() {
        let mut batch_size = BatchSize::new(10);
        assert_eq!(batch_size.current(), 8);
        for expected in [9, 10, 10] {
            batch_size.record_commit();
            assert_eq!(batch_size.current(), expected);
        }
        assert_eq!(BatchSize::new(1).current(), 1);
    }

    #[test]
    fn slow_handlers_do_not_share_a_transaction() {
        assert_eq!(after_steady_commits(Duration::from_micros(300)).current(), 64);
        assert_eq!(after_steady_commits(Duration::from_millis(5)).current(), 10);
        assert_eq!(after_steady_commits(Duration::from_secs(30)).current(), 1);
    }

    #[test]
    fn later_quick_runs_outweigh_one_slow_run() {
        let mut batch_size = after_steady_commits(Duration::from_micros(300));
        batch_size.record_handler_time(Duration::from_secs(1));
        assert_eq!(batch_size.current(), 1);
        for _ in 0..64 {
            batch_size.record_handler_time(Duration::from_micros(300));
        }
        assert_eq!(batch_size.current(), 64);
    }

    #[test]
    fn it_halves_when_a_transaction_is_rolled_back_and_stays_at_least_one() {
        let mut batch_size = after_steady_commits(Duration::from_micros(300));
        for expected in [32, 16, 8, 4, 2, 1, 1] {
            batch_size.record_rollback();
            assert_eq!(batch_size.current(), expected);
        }
        batch_size.record_commit();
        assert_eq!(batch_size.current(), 2);
    }
}
