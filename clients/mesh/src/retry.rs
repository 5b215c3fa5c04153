//! Retries according to gRFC A6.
//!
//! A call is retried if its method may be repeated, its code is declared retryable, the budget permits it, and the
//! backoff ends before the deadline. Response headers without an error commit a call: the rest of the response is
//! passed to the application. A request that no server can have processed is sent again once without using the
//! budget (transparent retry), whatever its method.

pub(crate) mod backoff;
pub(crate) mod budget;
pub(crate) mod pushback;

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Response;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, body::Body};
use tower::Service;

use crate::{
    call::{Attempt, AttemptOutcome, Call, Outcome},
    code,
    failure::{Failure, Reached},
    policy,
    refusal::Refusal,
    replay::Replay,
    telemetry::{Metrics, Repetitions, span},
};
use budget::{Budget, Budgets};
use pushback::Pushback;

/// Sends a [`Call`] as one or several [`Attempt`]s.
#[derive(Clone, Debug)]
pub(crate) struct Retry<S> {
    inner: S,
    budgets: Arc<Budgets>,
    metrics: Arc<Metrics>,
    replay_limit: usize,
}

impl<S> Retry<S> {
    pub(crate) fn new(
        inner: S,
        budgets: Arc<Budgets>,
        metrics: Arc<Metrics>,
        replay_limit: usize,
    ) -> Retry<S> {
        Retry {
            inner,
            budgets,
            metrics,
            replay_limit,
        }
    }
}

impl<S> Service<Call> for Retry<S>
where
    S: Service<Attempt, Response = Response<Body>, Error = Failure> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Outcome>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Status>> {
        // The layers below wait inside `call`, where the deadline bounds the wait.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let Retry {
            inner,
            budgets,
            metrics,
            replay_limit,
        } = self.clone();
        let budget = Arc::clone(budgets.get(call.method.criticality()));
        Box::pin(async move {
            let policy = call.method.policy.as_deref();
            let unary = policy.is_some_and(|policy| policy.has_known_shape() && !policy.client_streaming);
            let unknown = policy.is_some_and(|policy| !policy.has_known_shape());
            let Call {
                method,
                context,
                deadline,
                destination,
                request,
            } = call;
            let replay = if unary {
                Replay::buffer(request, replay_limit).await?
            } else if unknown {
                Replay::buffer_if_complete(request, replay_limit).await?
            } else {
                Replay::pass_through(request)
            };
            budget.record_call();
            let attempt = Attempt {
                method,
                context,
                deadline,
                destination,
                previous: 0,
                tried: Arc::default(),
                running: None,
                request: http::Request::new(Body::empty()),
            };
            let repetitions = Repetitions::new(metrics, Arc::clone(&attempt.method));
            let mut attempts = Attempts {
                attempt,
                replay,
                budget,
                transparent_retry_left: true,
                made: 1,
                since_pushback: 1,
                repetitions,
            };
            attempts.run(inner).await
        })
    }
}

/// Ends an attempt with DEADLINE_EXCEEDED if it exceeds its own timeout.
async fn with_timeout(
    limit: Option<Duration>,
    attempt: impl Future<Output = AttemptOutcome>,
) -> AttemptOutcome {
    let Some(limit) = limit else {
        return attempt.await;
    };
    timeout(limit, attempt).await.unwrap_or_else(|_| {
        let text = format!("no answer within the {} ms of one attempt", limit.as_millis());
        Err(Failure {
            status: Status::deadline_exceeded(text),
            reached: Reached::TimedOut,
            request: None,
        })
    })
}

/// Whether a failed attempt counts against the retry budget. A request that was not sent, or that exceeded a limit
/// of its caller, does not.
pub(crate) fn counts_as_failure(outcome: &AttemptOutcome) -> bool {
    match outcome {
        Err(failure) => failure.reached != Reached::NoEndpoint,
        Ok(response) => Refusal::from_response(response) != Some(Refusal::Limit),
    }
}

/// The attempts of one call so far.
struct Attempts {
    /// The template of all attempts; its request is a placeholder.
    attempt: Attempt,
    replay: Replay,
    budget: Arc<Budget>,
    /// Whether the one transparent retry is still available.
    transparent_retry_left: bool,
    /// Attempts made, the current one included, transparent retries excluded.
    made: u32,
    /// Attempts since the last pushback with a delay, which restarts the backoff (gRFC A6).
    since_pushback: u32,
    repetitions: Repetitions,
}

/// What to do after an attempt.
enum Decision {
    Return,
    Retry { after: Duration, counted: bool },
}

impl Attempts {
    async fn run<S>(&mut self, mut inner: S) -> Outcome
    where
        S: Service<Attempt, Response = Response<Body>, Error = Failure>,
    {
        loop {
            let Some(request) = self.replay.request() else {
                return Err(Status::internal("a streamed request cannot be sent twice"));
            };
            let attempt = self.attempt.again(self.attempt.previous, request);
            let mut outcome = with_timeout(self.attempt_timeout(), inner.call(attempt)).await;
            if let Err(Failure {
                request: Some(unsent),
                ..
            }) = &mut outcome
            {
                self.replay
                    .put_back(std::mem::replace(unsent, http::Request::new(Body::empty())));
            }
            match self.decide(&outcome) {
                Decision::Return => return outcome.map_err(|failure| failure.status),
                Decision::Retry { after, counted } => {
                    if counted {
                        self.made += 1;
                        self.attempt.previous += 1;
                        self.repetitions.retries += 1;
                        self.repetitions.waited += after;
                    } else {
                        self.repetitions.transparent += 1;
                    }
                    span::record_retry(&outcome, self.made, after);
                    sleep(after).await;
                }
            }
        }
    }

    fn decide(&mut self, outcome: &AttemptOutcome) -> Decision {
        if let Err(Failure {
            reached: Reached::Never,
            ..
        }) = outcome
            && self.transparent_retry_left
            && self.replay.available()
        {
            self.transparent_retry_left = false;
            return Decision::Retry {
                after: Duration::ZERO,
                counted: false,
            };
        }
        let (code, pushback) = match outcome {
            Err(failure) => (failure.status.code(), Pushback::Absent),
            Ok(response) => match code::early(response) {
                None | Some(Code::Ok) => {
                    self.budget.record_success();
                    return Decision::Return;
                }
                Some(code) => (code, Pushback::from_response(response)),
            },
        };
        let Some(retry) = self.policy() else {
            return Decision::Return;
        };
        let timed_out = matches!(outcome, Err(failure) if failure.reached == Reached::TimedOut);
        let retryable = timed_out || retry.retryable_codes.contains(&code);
        if (retryable || pushback == Pushback::Stop) && counts_as_failure(outcome) {
            self.budget.record_failure();
        }
        if !retryable || !self.replay.available() || self.made >= retry.max_attempts {
            return Decision::Return;
        }
        let backoff = backoff::delay(self.since_pushback, &retry);
        let after = match pushback {
            Pushback::Stop => return Decision::Return,
            Pushback::Exactly(wait) => wait,
            Pushback::AtLeast(wait) => backoff.max(wait),
            Pushback::Absent => backoff,
        };
        // A delay that overflows the clock ends after every deadline.
        let in_time = Instant::now()
            .checked_add(after)
            .is_some_and(|then| self.attempt.deadline.is_none_or(|deadline| then < deadline));
        if in_time && self.budget.withdraw() {
            self.since_pushback = match pushback {
                Pushback::Exactly(_) => 1,
                _ => self.since_pushback + 1,
            };
            Decision::Retry { after, counted: true }
        } else {
            Decision::Return
        }
    }

    /// The timeout of one attempt; `None` for the last one, which may use all the remaining time.
    fn attempt_timeout(&self) -> Option<Duration> {
        let retry = self.policy().filter(|retry| self.made < retry.max_attempts)?;
        retry.attempt_timeout.filter(|_| self.replay.available())
    }

    /// The retry policy, if this call may be retried. Calls made while serving a retry are not retried: the layer
    /// above retries already, and retries in every layer multiply the load.
    fn policy(&self) -> Option<policy::Retry> {
        let policy = self.attempt.method.policy.as_ref()?;
        if self.attempt.context.serving_retry() || !policy.repeatable() {
            return None;
        }
        policy.retry.clone()
    }
}

#[cfg(test)]
mod tests;
