//! When a rejected caller may retry: later under more rejections, and with jitter, so that callers that were
//! rejected together do not return together.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::Rng;
use tokio::time::Instant;

/// The delay when almost no calls are rejected.
const MIN_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// Length of the counting window.
const WINDOW: Duration = Duration::from_secs(1);

/// Rejected calls for each accepted one.
pub(super) struct RejectionRate(Mutex<Counts>);

struct Counts {
    began: Instant,
    accepted: u32,
    rejected: u32,
    /// The rate of the previous window.
    previous: f64,
}

impl RejectionRate {
    pub(super) fn new() -> RejectionRate {
        RejectionRate(Mutex::new(Counts {
            began: Instant::now(),
            accepted: 0,
            rejected: 0,
            previous: 0.0,
        }))
    }

    pub(super) fn accepted(&self) {
        self.count(|counts| counts.accepted += 1);
    }

    /// The delay for a rejected caller. It grows with the number of rejected callers: only as many should return
    /// as can be accepted.
    pub(super) fn rejected(&self) -> Duration {
        let ratio = self.count(|counts| counts.rejected += 1);
        jittered(MIN_DELAY.mul_f64(1.0 + ratio)).min(MAX_DELAY)
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) -> f64 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = counts.began.elapsed();
        if age >= WINDOW {
            // After a pause the old rate does not apply.
            let previous = if age < 2 * WINDOW { counts.ratio() } else { 0.0 };
            *counts = Counts {
                began: Instant::now(),
                accepted: 0,
                rejected: 0,
                previous,
            };
        }
        count(&mut counts);
        counts.previous.max(counts.ratio())
    }
}

impl Counts {
    fn ratio(&self) -> f64 {
        f64::from(self.rejected) / f64::from(self.accepted.max(1))
    }
}

/// Between half and one and a half times the delay.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::advance;

    use super::*;

    /// The mean of many delays, with `rejected` rejections for each accepted call.
    fn mean(rejections: &RejectionRate, rejected: usize) -> Duration {
        for _ in 0..200 {
            rejections.accepted();
        }
        let waits: Vec<_> = (0..200 * rejected).map(|_| rejections.rejected()).collect();
        assert!(
            waits
                .iter()
                .all(|wait| (MIN_DELAY / 2..=MAX_DELAY).contains(wait))
        );
        let different: BTreeSet<_> = waits.iter().map(Duration::as_millis).collect();
        assert!(different.len() > 50, "they come back in step");
        waits.iter().sum::<Duration>() / u32::try_from(waits.len()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn more_rejections_mean_longer_delays_with_jitter() {
        let rejections = RejectionRate::new();
        let few = mean(&rejections, 1);
        advance(2 * WINDOW).await;
        mean(&rejections, 8);
        advance(WINDOW).await;
        let many = mean(&rejections, 8);
        assert!(few < MIN_DELAY * 2 && many > MIN_DELAY * 7, "{few:?}, {many:?}");
        // Forgotten after a pause.
        advance(5 * WINDOW).await;
        assert!(mean(&rejections, 1) < MIN_DELAY * 2);
    }
}
