//! The delay between attempts: exponential, capped, and with 20 % of jitter, so that clients that failed together
//! do not retry together.

use std::time::Duration;

use rand::Rng;

use crate::policy;

/// The delay after attempt number `made` (from 1): `min(initial * multiplier^(made-1), max) * rand(0.8, 1.2)`.
pub(crate) fn delay(made: u32, retry: &policy::Retry) -> Duration {
    let exponent = i32::try_from(made.saturating_sub(1)).unwrap_or(i32::MAX);
    let grown = retry.initial_backoff.as_secs_f64() * retry.backoff_multiplier.powi(exponent);
    let capped = grown.min(retry.max_backoff.as_secs_f64());
    jitter(Duration::try_from_secs_f64(capped).unwrap_or(retry.max_backoff))
}

/// `wait`, randomized evenly from 20 % less to 20 % more.
pub(crate) fn jitter(wait: Duration) -> Duration {
    let spread = wait.as_secs_f64() * rand::rng().random_range(0.8..1.2);
    Duration::try_from_secs_f64(spread).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_stay_within_the_jitter() {
        let retry = policy::Retry {
            max_attempts: 5,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_millis(300),
            backoff_multiplier: 2.0,
            retryable_codes: vec![tonic::Code::Unavailable],
            attempt_timeout: None,
        };
        for (made, middle) in [(1, 100), (2, 200), (3, 300), (4, 300), (u32::MAX, 300)] {
            for _ in 0..200 {
                let wait = delay(made, &retry).as_secs_f64() * 1000.0;
                let middle = f64::from(middle);
                assert!(
                    (0.8 * middle..=1.2 * middle).contains(&wait),
                    "after {made}: {wait} ms"
                );
            }
        }
    }
}
