//! The retry budget of a channel. Two bounds apply together.
//!
//! gRFC A6's token bucket stops retries while more than half of the recent attempts fail. It does not limit the
//! rate, so a window caps retries at a fifth of the calls of the last ten seconds, plus ten a second so that a
//! client with few calls can retry at all. Together they keep a client from amplifying an outage.
//!
//! Each criticality has its own budget: failing batch work must not use up the retries of critical calls.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::criticality::PerCriticality;

/// The window, in slots of one second.
const SLOTS: usize = 10;
const RETRY_RATIO: f64 = 0.2;
const RESERVE_PER_SECOND: f64 = 10.0;

/// The parameters of gRFC A6's `retryThrottling`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Throttling {
    /// The bucket's size, more than 0 and at most 1000. Retries stop at half of it.
    pub(crate) max_tokens: f64,
    /// Tokens that a success adds; a failure removes one.
    pub(crate) token_ratio: f64,
}

impl Default for Throttling {
    fn default() -> Throttling {
        Throttling {
            max_tokens: 100.0,
            token_ratio: 0.1,
        }
    }
}

/// A channel's budgets.
pub(crate) type Budgets = PerCriticality<Arc<Budget>>;

impl Budgets {
    /// Changes the parameters of all buckets.
    pub(crate) fn set_throttling(&self, throttling: Throttling) {
        self.values()
            .into_iter()
            .for_each(|budget| budget.set_throttling(throttling));
    }

    /// The retries available now, of the criticality that has the fewest.
    pub(crate) fn remaining(&self) -> u32 {
        self.values()
            .into_iter()
            .map(|budget| budget.remaining())
            .min()
            .unwrap_or_default()
    }
}

/// The budget of one criticality. Shared by all its calls.
#[derive(Debug)]
pub(crate) struct Budget {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    throttling: Throttling,
    tokens: f64,
    started: Instant,
    /// The second of the newest slot, counted from `started`.
    newest: u64,
    slots: [Slot; SLOTS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    calls: u32,
    retries: u32,
}

impl Budget {
    pub(crate) fn new(throttling: Throttling) -> Budget {
        let state = State {
            throttling,
            tokens: throttling.max_tokens,
            started: Instant::now(),
            newest: 0,
            slots: [Slot::default(); SLOTS],
        };
        Budget {
            state: Mutex::new(state),
        }
    }

    /// The bucket stays filled to the same part of its size.
    fn set_throttling(&self, throttling: Throttling) {
        self.with(|state| {
            state.tokens *= throttling.max_tokens / state.throttling.max_tokens;
            state.throttling = throttling;
        });
    }

    /// Records that a call begins.
    pub(crate) fn record_call(&self) {
        self.with(|state| state.slot().calls += 1);
    }

    /// Records a successful attempt.
    pub(crate) fn record_success(&self) {
        self.with(|state| {
            let Throttling {
                max_tokens,
                token_ratio,
            } = state.throttling;
            state.tokens = (state.tokens + token_ratio).min(max_tokens);
        });
    }

    /// Records an attempt that failed with a retryable code, or whose server forbade a retry.
    pub(crate) fn record_failure(&self) {
        self.with(|state| state.tokens = (state.tokens - 1.0).max(0.0));
    }

    /// Takes one retry from the budget; `false` if none is available.
    pub(crate) fn withdraw(&self) -> bool {
        self.with(|state| {
            let available = state.above_threshold() && state.window_remaining() >= 1.0;
            if available {
                state.slot().retries += 1;
            }
            available
        })
    }

    fn remaining(&self) -> u32 {
        self.with(|state| {
            if state.above_threshold() {
                state.window_remaining() as u32
            } else {
                0
            }
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn above_threshold(&self) -> bool {
        self.tokens > self.throttling.max_tokens / 2.0
    }

    fn window_remaining(&mut self) -> f64 {
        self.slot();
        let (calls, retries) = self.slots.iter().fold((0, 0), |(calls, retries), slot| {
            (calls + slot.calls, retries + slot.retries)
        });
        (f64::from(calls) * RETRY_RATIO + RESERVE_PER_SECOND * SLOTS as f64 - f64::from(retries)).max(0.0)
    }

    /// The slot of the current second. Clears the slots that have left the window.
    fn slot(&mut self) -> &mut Slot {
        let now = self.started.elapsed().as_secs();
        let passed = (now - self.newest.min(now)).min(SLOTS as u64);
        for second in 0..passed {
            self.slots[((now - second) % SLOTS as u64) as usize] = Slot::default();
        }
        self.newest = now;
        &mut self.slots[(now % SLOTS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn drain(budget: &Budget) -> u32 {
        (0..).take_while(|_| budget.withdraw()).count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_permits_a_fifth_of_the_calls_and_a_reserve_and_refills() {
        let budget = Budget::new(Throttling::default());
        assert_eq!(drain(&budget), 100);
        (0..500).for_each(|_| budget.record_call());
        assert_eq!(drain(&budget), 100);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(budget.remaining(), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            drain(&budget),
            100,
            "the calls have left the window with the retries"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_bucket_stops_retries_at_half_and_successes_refill_it() {
        let budget = Budget::new(Throttling {
            max_tokens: 10.0,
            token_ratio: 0.5,
        });
        (0..4).for_each(|_| budget.record_failure());
        assert!(budget.withdraw());
        budget.record_failure();
        assert!(!budget.withdraw());
        assert_eq!(budget.remaining(), 0);
        budget.record_success();
        assert!(budget.withdraw());
    }
}
