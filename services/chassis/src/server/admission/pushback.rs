//! When a refused caller is to come back: later the more are refused, and each at a moment of its own, so that those who
//! were refused together do not return together.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::Rng;
use tokio::time::Instant;

/// While next to nothing is refused.
const LEAST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(5);
/// How long is counted before it counts.
const WINDOW: Duration = Duration::from_secs(1);

/// How many calls are refused for one that is taken.
pub(super) struct Pressure(Mutex<Counts>);

struct Counts {
    began: Instant,
    taken: u32,
    refused: u32,
    /// Of the window before.
    before: f64,
}

impl Pressure {
    pub(super) fn new() -> Pressure {
        Pressure(Mutex::new(Counts {
            began: Instant::now(),
            taken: 0,
            refused: 0,
            before: 0.0,
        }))
    }

    pub(super) fn taken(&self) {
        self.count(|counts| counts.taken += 1);
    }

    /// How long the refused caller is to stay away. Whoever could be served between two of its calls was refused for
    /// nothing, so that the wait grows with the number of those who wait.
    pub(super) fn refused(&self) -> Duration {
        let refused_for_one = self.count(|counts| counts.refused += 1);
        jittered(LEAST.mul_f64(1.0 + refused_for_one)).min(MOST)
    }

    fn count(&self, count: impl FnOnce(&mut Counts)) -> f64 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let age = counts.began.elapsed();
        if age >= WINDOW {
            // After a pause nothing is known.
            let before = if age < 2 * WINDOW { counts.ratio() } else { 0.0 };
            *counts = Counts {
                began: Instant::now(),
                taken: 0,
                refused: 0,
                before,
            };
        }
        count(&mut counts);
        counts.before.max(counts.ratio())
    }
}

impl Counts {
    fn ratio(&self) -> f64 {
        f64::from(self.refused) / f64::from(self.taken.max(1))
    }
}

/// Half more or less.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::advance;

    use super::*;

    /// The mean of many refusals, after `refused` of them for each call that was taken.
    fn mean(pressure: &Pressure, refused: usize) -> Duration {
        for _ in 0..200 {
            pressure.taken();
        }
        let waits: Vec<_> = (0..200 * refused).map(|_| pressure.refused()).collect();
        assert!(waits.iter().all(|wait| (LEAST / 2..=MOST).contains(wait)));
        let different: BTreeSet<_> = waits.iter().map(Duration::as_millis).collect();
        assert!(different.len() > 50, "they come back in step");
        waits.iter().sum::<Duration>() / u32::try_from(waits.len()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_more_are_refused_the_later_they_come_back_and_never_in_step() {
        let pressure = Pressure::new();
        let few = mean(&pressure, 1);
        advance(2 * WINDOW).await;
        mean(&pressure, 8);
        advance(WINDOW).await;
        let many = mean(&pressure, 8);
        assert!(few < LEAST * 2 && many > LEAST * 7, "{few:?}, {many:?}");
        // Forgotten after a pause.
        advance(5 * WINDOW).await;
        assert!(mean(&pressure, 1) < LEAST * 2);
    }
}
