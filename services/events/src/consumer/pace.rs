use std::time::Duration;

/// Handlers' time in one transaction: as long do its rows stay locked, and does its first event wait for its last.
const TOGETHER: Duration = Duration::from_millis(50);

/// What is tried before anything is known.
const FIRST: usize = 8;

/// How many events may share a transaction: as many as their handlers have time for, and fewer while transactions
/// fall apart.
pub(super) struct Pace {
    most: usize,
    bound: usize,
    /// A handler's time, smoothed over some eight runs.
    handling: Duration,
}

impl Pace {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            bound: FIRST.min(most),
            handling: Duration::ZERO,
        }
    }

    pub(super) fn size(&self) -> usize {
        let affordable = TOGETHER.as_micros() / self.handling.as_micros().max(1);
        usize::try_from(affordable)
            .unwrap_or(usize::MAX)
            .clamp(1, self.bound)
    }

    pub(super) fn handled(&mut self, took: Duration) {
        self.handling = (self.handling * 7 + took) / 8;
    }

    pub(super) fn committed(&mut self) {
        self.bound = (self.bound + 1).min(self.most);
    }

    pub(super) fn fell_apart(&mut self) {
        self.bound = (self.bound / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(handling: Duration) -> Pace {
        let mut pace = Pace::new(64);
        for _ in 0..100 {
            pace.handled(handling);
            pace.committed();
        }
        pace
    }

    #[test]
    fn it_grows_with_every_commit_up_to_the_setting() {
        let mut pace = Pace::new(10);
        assert_eq!(pace.size(), 8);
        for expected in [9, 10, 10] {
            pace.committed();
            assert_eq!(pace.size(), expected);
        }
        assert_eq!(Pace::new(1).size(), 1);
    }

    #[test]
    fn slow_handlers_do_not_share() {
        assert_eq!(settled(Duration::from_micros(300)).size(), 64);
        assert_eq!(settled(Duration::from_millis(5)).size(), 10);
        assert_eq!(settled(Duration::from_secs(30)).size(), 1);
    }

    #[test]
    fn one_slow_run_is_forgotten_by_later_quick_ones() {
        let mut pace = settled(Duration::from_micros(300));
        pace.handled(Duration::from_secs(1));
        assert_eq!(pace.size(), 1);
        for _ in 0..64 {
            pace.handled(Duration::from_micros(300));
        }
        assert_eq!(pace.size(), 64);
    }

    #[test]
    fn it_halves_when_a_transaction_falls_apart_and_never_ends() {
        let mut pace = settled(Duration::from_micros(300));
        for expected in [32, 16, 8, 4, 2, 1, 1] {
            pace.fell_apart();
            assert_eq!(pace.size(), expected);
        }
        pace.committed();
        assert_eq!(pace.size(), 2);
    }
}
