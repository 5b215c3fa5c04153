//! Hedging: starts another attempt before the first has answered, and returns the first successful response.
//!
//! Applies only to methods without side effects, and only after the method's observed 95th percentile, so that
//! about one call in twenty is sent twice and tail latency is cut (Dean and Barroso, "The tail at scale"). Hedges
//! use the retry budget, and the slower attempts are cancelled.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::Response;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status, body::Body};
use tower::Service;

use crate::{
    call::{Attempt, AttemptOutcome, Call, Outcome},
    code,
    failure::{Failure, Reached},
    method::Method,
    policy::Hedging,
    replay::Replay,
    retry::{
        budget::{Budget, Budgets},
        counts_as_failure,
        pushback::Pushback,
    },
    telemetry::{Metrics, Repetitions, span},
};

/// Hedges the calls of methods that declare it, and passes all others to the retries.
#[derive(Clone, Debug)]
pub(crate) struct Hedge<A, R> {
    pub(crate) attempts: A,
    pub(crate) retry: R,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) replay_limit: usize,
}

impl<A, R> Service<Call> for Hedge<A, R>
where
    A: Service<Attempt, Response = Response<Body>, Error = Failure> + Clone + Send + 'static,
    A::Future: Send + 'static,
    R: Service<Call, Response = Response<Body>, Error = Status, Future = BoxFuture<'static, Outcome>>,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = R::Future;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), Status>> {
        self.retry.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let declared = call
            .method
            .policy
            .as_ref()
            .and_then(|policy| policy.hedging.clone());
        let Some(hedging) = declared.filter(|_| !call.context.serving_retry()) else {
            return self.retry.call(call);
        };
        let (attempts, budget, metrics) = (
            self.attempts.clone(),
            Arc::clone(self.budgets.get(call.method.criticality())),
            Arc::clone(&self.metrics),
        );
        let limit = self.replay_limit;
        Box::pin(async move {
            let Call {
                method,
                context,
                deadline,
                destination,
                request,
            } = call;
            // A method that the contract does not describe may be a stream, whose end must not be waited for.
            let policy = method.policy.as_ref();
            let replay = if policy.is_some_and(|policy| policy.has_known_shape()) {
                Replay::buffer(request, limit).await?
            } else {
                Replay::buffer_if_complete(request, limit).await?
            };
            budget.record_call();
            let template = Attempt {
                method: Arc::clone(&method),
                context,
                deadline,
                destination,
                previous: 0,
                tried: Arc::default(),
                running: None,
                request: http::Request::new(Body::empty()),
            };
            let mut race = Race {
                attempts,
                budget,
                template,
                replay,
                hedging,
                started: 0,
                transparent_retry_left: true,
                repetitions: Repetitions::new(metrics, method),
            };
            race.run().await
        })
    }
}

/// The attempts of one hedged call.
struct Race<A> {
    attempts: A,
    budget: Arc<Budget>,
    template: Attempt,
    replay: Replay,
    hedging: Hedging,
    started: u32,
    /// Whether the one transparent retry is still available.
    transparent_retry_left: bool,
    repetitions: Repetitions,
}

impl<A> Race<A>
where
    A: Service<Attempt, Response = Response<Body>, Error = Failure>,
    A::Future: Send + 'static,
{
    async fn run(&mut self) -> Outcome {
        let started_at = Instant::now();
        let mut running = FuturesUnordered::new();
        let Some(first) = self.start_attempt() else {
            return Err(Status::internal("a buffered request cannot be sent"));
        };
        running.push(first);
        let mut failed = None;
        let mut next = self.hedge_time(self.method().latencies.p95().unwrap_or(self.hedging.delay));
        loop {
            let wait = next.unwrap_or(started_at);
            tokio::select! {
                biased;
                Some(mut outcome) = running.next() => {
                    if let Some(again) = self.repeat_unsent(&mut outcome) {
                        span::record_retry(&outcome, self.started, Duration::ZERO);
                        running.push(again);
                        continue;
                    }
                    match self.decide(&outcome) {
                    Decision::Return => {
                        self.method().latencies.record(started_at.elapsed());
                        return outcome.map_err(|failure| failure.status);
                    }
                    Decision::Hedge { at } => {
                        // After a failure the next attempt starts without waiting for the hedging delay.
                        next = next.and(at);
                        if running.is_empty() && next.is_none() {
                            return outcome.map_err(|failure| failure.status);
                        }
                        failed = Some(outcome);
                    }
                    }
                }
                () = sleep_until(wait), if next.is_some() => {
                    let hedge = self.budget.withdraw().then(|| self.start_attempt()).flatten();
                    if hedge.is_some() {
                        self.repetitions.hedges += 1;
                        span::record_hedge(failed.as_ref(), self.started);
                    }
                    next = hedge.as_ref().and_then(|_| self.hedge_time(self.hedging.delay));
                    running.extend(hedge);
                    if running.is_empty() && let Some(outcome) = failed.take() {
                        return outcome.map_err(|failure| failure.status);
                    }
                }
            }
        }
    }

    fn method(&self) -> &Method {
        &self.template.method
    }

    /// When the next attempt starts after `delay`; `None` if it would exceed the attempts or the deadline.
    fn hedge_time(&self, delay: Duration) -> Option<Instant> {
        let then = Instant::now().checked_add(delay)?;
        let in_time = self.template.deadline.is_none_or(|deadline| then < deadline);
        (in_time && self.started < self.hedging.max_attempts && self.replay.available()).then_some(then)
    }

    fn start_attempt(&mut self) -> Option<A::Future> {
        let request = self.replay.request()?;
        let attempt = self.template.again(self.started, request);
        self.started += 1;
        Some(self.attempts.call(attempt))
    }

    /// Sends a request that no server can have processed once more without using the budget, as the retries do.
    fn repeat_unsent(&mut self, outcome: &mut AttemptOutcome) -> Option<A::Future> {
        let Err(failure) = outcome else { return None };
        if failure.reached != Reached::Never {
            return None;
        }
        if let Some(unsent) = failure.request.take() {
            self.replay.put_back(*unsent);
        }
        if !self.transparent_retry_left {
            return None;
        }
        let request = self.replay.request()?;
        self.transparent_retry_left = false;
        self.repetitions.transparent += 1;
        let attempt = self.template.again(self.started.saturating_sub(1), request);
        Some(self.attempts.call(attempt))
    }

    fn decide(&self, outcome: &AttemptOutcome) -> Decision {
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
        let codes = &self.hedging.non_fatal_codes;
        let non_fatal = if codes.is_empty() {
            code == Code::Unavailable
        } else {
            codes.contains(&code)
        };
        if !non_fatal {
            return Decision::Return;
        }
        if counts_as_failure(outcome) {
            self.budget.record_failure();
        }
        let at = match pushback {
            Pushback::Stop => None,
            Pushback::Exactly(wait) | Pushback::AtLeast(wait) => self.hedge_time(wait),
            Pushback::Absent => self.hedge_time(Duration::ZERO),
        };
        Decision::Hedge { at }
    }
}

enum Decision {
    /// The outcome is the call's outcome.
    Return,
    /// Another attempt may succeed, and may start at the given time.
    Hedge { at: Option<Instant> },
}

#[cfg(test)]
mod tests;
