//! The calls and attempts of a channel in the last ten seconds, for snapshots.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::Code;

use crate::snapshot;

/// Length of the window. Seconds.
const WINDOW: usize = 10;
/// Upper bounds of the latency buckets grow by the fourth root of two: 20 us to 5 minutes.
const BUCKETS: usize = 96;
const SHORTEST_US: f64 = 20.0;
const PER_DOUBLING: f64 = 4.0;

/// Counts calls and attempts, second by second.
#[derive(Debug)]
pub(crate) struct Traffic {
    began: Instant,
    seconds: Mutex<Box<[Second; WINDOW]>>,
}

#[derive(Clone, Copy, Debug)]
struct Second {
    /// The number of the second since the channel was created.
    number: u64,
    calls: u32,
    failed_calls: u32,
    attempts: u32,
    failed_attempts: u32,
    latencies: [u32; BUCKETS],
}

impl Second {
    const fn new(number: u64) -> Second {
        Second {
            number,
            calls: 0,
            failed_calls: 0,
            attempts: 0,
            failed_attempts: 0,
            latencies: [0; BUCKETS],
        }
    }
}

impl Traffic {
    pub(crate) fn new() -> Traffic {
        Traffic {
            began: Instant::now(),
            seconds: Mutex::new(Box::new([Second::new(0); WINDOW])),
        }
    }

    pub(super) fn call_ended(&self, code: Code, duration: Duration) {
        self.update(|second| {
            second.calls += 1;
            second.failed_calls += u32::from(failed(code));
            second.latencies[bucket(duration)] += 1;
        });
    }

    pub(super) fn attempt_ended(&self, code: Code) {
        self.update(|second| {
            second.attempts += 1;
            second.failed_attempts += u32::from(failed(code));
        });
    }

    fn update(&self, change: impl FnOnce(&mut Second)) {
        let number = self.began.elapsed().as_secs();
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let second = &mut seconds[number as usize % WINDOW];
        if second.number != number {
            *second = Second::new(number);
        }
        change(second);
    }

    /// The sums of the window.
    pub(crate) fn snapshot(&self) -> snapshot::Traffic {
        let age = self.began.elapsed();
        let oldest = (age.as_secs() + 1).saturating_sub(WINDOW as u64);
        let mut sum = Second::new(0);
        let seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        for second in seconds.iter().filter(|second| second.number >= oldest) {
            sum.calls += second.calls;
            sum.failed_calls += second.failed_calls;
            sum.attempts += second.attempts;
            sum.failed_attempts += second.failed_attempts;
            for (all, part) in sum.latencies.iter_mut().zip(second.latencies) {
                *all += part;
            }
        }
        drop(seconds);
        let window = age.as_secs_f64().clamp(1.0, WINDOW as f64);
        snapshot::Traffic {
            calls_per_s: f64::from(sum.calls) / window,
            success: success(sum.calls, sum.failed_calls),
            attempts_per_s: f64::from(sum.attempts) / window,
            attempt_success: success(sum.attempts, sum.failed_attempts),
            p50_ms: quantile(&sum, 0.50),
            p95_ms: quantile(&sum, 0.95),
            p99_ms: quantile(&sum, 0.99),
        }
    }
}

/// Whether the code is a failure of the server, not of its caller.
fn failed(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Unimplemented
    )
}

fn success(all: u32, failed: u32) -> Option<f64> {
    (all > 0).then(|| 1.0 - f64::from(failed) / f64::from(all))
}

fn bucket(duration: Duration) -> usize {
    let doublings = (duration.as_secs_f64() * 1e6 / SHORTEST_US).max(1.0).log2();
    ((doublings * PER_DOUBLING) as usize).min(BUCKETS - 1)
}

/// The middle of the bucket that contains the quantile, which is exact within a tenth. Milliseconds.
fn quantile(sum: &Second, share: f64) -> Option<f64> {
    let wanted = (f64::from(sum.calls) * share).ceil() as u32;
    let mut seen = 0;
    let found = sum.latencies.iter().position(|count| {
        seen += count;
        *count > 0 && seen >= wanted
    })?;
    Some(SHORTEST_US / 1e3 * ((found as f64 + 0.5) / PER_DOUBLING).exp2())
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rates_success_and_percentiles_cover_the_last_ten_seconds() {
        let traffic = Traffic::new();
        assert_eq!(traffic.snapshot().success, None);
        traffic.call_ended(Code::Internal, Duration::from_secs(9));
        advance(Duration::from_secs(20)).await;
        for call in 0..100_u64 {
            traffic.attempt_ended(if call % 4 == 0 {
                Code::Unavailable
            } else {
                Code::Ok
            });
            let code = if call == 0 { Code::Internal } else { Code::NotFound };
            traffic.call_ended(code, Duration::from_millis(call + 1));
        }
        let seen = traffic.snapshot();
        assert_eq!((seen.calls_per_s, seen.success), (10.0, Some(0.99)));
        assert_eq!(seen.attempt_success, Some(0.75));
        for (found, true_ms) in [(seen.p50_ms, 50.0), (seen.p95_ms, 95.0), (seen.p99_ms, 99.0)] {
            let ratio = found.unwrap() / true_ms;
            assert!((0.89..1.12).contains(&ratio), "{found:?} for {true_ms}");
        }
        advance(Duration::from_secs(10)).await;
        assert_eq!(traffic.snapshot().calls_per_s, 0.0);
    }
}
