//! Fault injection, for tests of resilience: attempts are delayed or answered with an error as configured.
//!
//! Faults are injected below the retries, so that they have the same effect as real ones.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Response;
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tonic::{Code, Status, body::Body};
use tower::Service;

use crate::{
    call::{Attempt, AttemptOutcome},
    code,
    failure::Failure,
    origin,
};

/// A fault injected into the attempts of some methods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// `package.Service/Method`, `package.Service/*` or `*`.
    pub method: String,
    /// The share of attempts that are delayed. Percent, 0 to 100.
    pub delay_percent: f64,
    /// The delay. Milliseconds, at most 60000.
    pub delay_ms: u64,
    /// The share of attempts that are not sent but answered with an error. Percent, 0 to 100.
    pub abort_percent: f64,
    /// The error's code: `UNAVAILABLE`.
    pub abort_code: String,
}

impl Default for Fault {
    fn default() -> Fault {
        let abort_code = code::name(Code::Unavailable).to_owned();
        Fault {
            method: "*".to_owned(),
            delay_percent: 0.0,
            delay_ms: 0,
            abort_percent: 0.0,
            abort_code,
        }
    }
}

impl Fault {
    /// The error of an invalid setting; `None` if it is valid.
    pub(crate) fn problem(&self) -> Option<String> {
        let percent = 0.0..=100.0;
        if !percent.contains(&self.delay_percent) || !percent.contains(&self.abort_percent) {
            return Some("percentages must be 0 to 100".to_owned());
        }
        if self.delay_ms > 60_000 {
            return Some(format!("delay_ms must be at most 60000, is {}", self.delay_ms));
        }
        self.code()
            .is_none()
            .then(|| format!("`{}` is not an error code", self.abort_code))
    }

    fn code(&self) -> Option<Code> {
        (1..=16)
            .map(Code::from_i32)
            .find(|code| code::name(*code) == self.abort_code)
    }

    fn matches(&self, method: &str) -> bool {
        match self.method.strip_suffix('*') {
            Some(prefix) => method.starts_with(prefix),
            None => self.method == method,
        }
    }
}

/// Injects the configured faults.
#[derive(Clone, Debug)]
pub(crate) struct Faults<S> {
    inner: S,
    faults: Arc<[Fault]>,
}

impl<S> Faults<S> {
    pub(crate) fn new(inner: S, faults: &[Fault]) -> Faults<S> {
        Faults {
            inner,
            faults: Arc::from(faults),
        }
    }
}

impl<S> Service<Attempt> for Faults<S>
where
    S: Service<
            Attempt,
            Response = Response<Body>,
            Error = Failure,
            Future = BoxFuture<'static, AttemptOutcome>,
        > + Clone
        + Send
        + 'static,
{
    type Response = Response<Body>;
    type Error = Failure;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut attempt: Attempt) -> Self::Future {
        let Some(fault) = self
            .faults
            .iter()
            .find(|fault| fault.matches(&attempt.method.name))
        else {
            return self.inner.call(attempt);
        };
        let delay = occurs(fault.delay_percent).then(|| Duration::from_millis(fault.delay_ms));
        let abort = if occurs(fault.abort_percent) {
            fault.code()
        } else {
            None
        };
        let mut inner = self.inner.clone();
        Box::pin(async move {
            if let Some(delay) = delay {
                sleep(delay).await;
            }
            match abort {
                // Marked as the callee's response, so that the layers above treat it like a real one.
                Some(code) => {
                    attempt.end(code);
                    Ok(origin::respond_as_callee(Status::new(code, "injected fault")))
                }
                None => inner.call(attempt).await,
            }
        })
    }
}

fn occurs(percent: f64) -> bool {
    percent > 0.0 && rand::rng().random_range(0.0..100.0) < percent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_matches_one_method_a_service_or_all() {
        let matches = |pattern: &str, method| {
            Fault {
                method: pattern.to_owned(),
                ..Fault::default()
            }
            .matches(method)
        };
        assert!(matches("*", "a.B/C") && matches("a.B/*", "a.B/C") && matches("a.B/C", "a.B/C"));
        assert!(!matches("a.B/C", "a.B/D") && !matches("a.C/*", "a.B/C"));
    }

    #[test]
    fn an_invalid_setting_is_rejected() {
        assert_eq!(Fault::default().problem(), None);
        for fault in [
            Fault {
                delay_percent: 101.0,
                ..Fault::default()
            },
            Fault {
                abort_percent: f64::NAN,
                ..Fault::default()
            },
            Fault {
                delay_ms: 60_001,
                ..Fault::default()
            },
            Fault {
                abort_code: "OK".to_owned(),
                ..Fault::default()
            },
        ] {
            assert!(fault.problem().is_some(), "{fault:?}");
        }
    }
}
