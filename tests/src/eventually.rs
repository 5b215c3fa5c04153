//! Waiting for a condition instead of sleeping.

use std::{
    fmt::Display,
    future::Future,
    panic::Location,
    time::{Duration, Instant},
};

/// Time between two checks of the condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Checks a condition every 20 ms until it holds, and returns its value.
///
/// The condition returns `bool`, `Option<T>` or `Result<T, E>`; false, `None` and `Err` mean "not yet".
///
/// # Panics
/// When it does not hold `within` this time; the message has the caller's line and the last error.
#[track_caller]
pub fn eventually<C, F>(
    within: Duration,
    mut condition: C,
) -> impl Future<Output = <F::Output as Outcome>::Value>
where
    C: FnMut() -> F,
    F: Future,
    F::Output: Outcome,
{
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        loop {
            let reason = match condition().await.outcome() {
                Ok(value) => return value,
                Err(reason) => reason,
            };
            assert!(
                start.elapsed() < within,
                "not within {within:?} at {caller}: {reason}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// A result of a condition.
pub trait Outcome {
    /// The value of a condition that holds.
    type Value;

    /// The value, or why it does not hold yet.
    fn outcome(self) -> Result<Self::Value, String>;
}

impl Outcome for bool {
    type Value = ();

    fn outcome(self) -> Result<(), String> {
        if self {
            Ok(())
        } else {
            Err("still false".to_owned())
        }
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "still nothing".to_owned())
    }
}

impl<T, E: Display> Outcome for Result<T, E> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:#}"))
    }
}
