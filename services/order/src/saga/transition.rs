//! Chooses the transition after a try of a step.

use mesh::Context;
use time::{Duration, OffsetDateTime};
use tonic::{Code, Status};
use uuid::Uuid;

use super::{Effect, Origin, Outcome, Saga, Wait, outcome};
use crate::{config, order::Failure};

/// A transition of a saga after a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Succeeded(Effect),
    Refused {
        failure: Failure,
        undo: bool,
    },
    AwaitPaymentMethod {
        payment_id: Uuid,
    },
    AwaitPaymentOutcome {
        payment_id: Uuid,
        pause: Duration,
    },
    /// `counted`: the try had its full time.
    Retry {
        pause: Duration,
        counted: bool,
    },
    Stuck {
        reason: String,
        pause: Duration,
    },
    /// The next step calls a participant without a free slot.
    Requeue,
    /// The plan has no steps.
    EmptyPlan,
}

/// Chooses the transition by the result of a try. Before the pivot a step that keeps failing is abandoned and
/// undone; from the pivot on it is retried until it succeeds, and the saga counts as stuck when that takes too
/// long.
pub(super) fn decide(
    saga: &Saga,
    (settings, now): (&config::Saga, OffsetDateTime),
    (origin, context): (&Origin, &Context),
    tried: Result<Outcome, Status>,
) -> Transition {
    let tries = saga.attempts + 1;
    let overdue = saga.deadline_at <= now;
    let pause = settings.backoff(tries);
    let status = match tried {
        Ok(Outcome::Done(effect)) => return Transition::Succeeded(effect),
        Ok(Outcome::Refused { failure, undo }) => return Transition::Refused { failure, undo },
        Ok(Outcome::Stuck { reason }) => {
            let pause = settings.stuck_retry();
            return Transition::Stuck { reason, pause };
        }
        Ok(Outcome::Wait(Wait::PaymentMethod(payment_id))) => {
            return Transition::AwaitPaymentMethod { payment_id };
        }
        Ok(Outcome::Wait(Wait::PaymentOutcome(_))) if overdue => {
            let reason = "the processor has not reported the outcome of the payment".to_owned();
            return Transition::Stuck {
                reason,
                pause: settings.stuck_retry(),
            };
        }
        Ok(Outcome::Wait(Wait::PaymentOutcome(payment_id))) => {
            return Transition::AwaitPaymentOutcome { payment_id, pause };
        }
        Err(status) => status,
    };
    let stuck = || Transition::Stuck {
        reason: outcome::describe(&status),
        pause: settings.stuck_retry(),
    };
    if !outcome::is_transient(&status) {
        return if saga.can_compensate() {
            Transition::Refused {
                failure: outcome::to_failure(&status),
                undo: false,
            }
        } else {
            stuck()
        };
    }
    if is_caller_timeout(origin, context, &status) && !overdue {
        return Transition::Retry {
            pause: Duration::ZERO,
            counted: false,
        };
    }
    let exhausted = tries >= settings.step_tries;
    if exhausted && saga.can_compensate() && !saga.is_at_pivot() {
        return Transition::Refused {
            failure: outcome::to_failure(&status),
            undo: true,
        };
    }
    if overdue || (exhausted && saga.backward) {
        return stuck();
    }
    Transition::Retry { pause, counted: true }
}

/// Whether the caller's time was over, which says nothing about the step. A call ends a little before its caller's
/// deadline, and the callee may have stopped even earlier: in a request, a try that ran out of time is never
/// counted.
fn is_caller_timeout(origin: &Origin, context: &Context, status: &Status) -> bool {
    let late = context.remaining().is_some_and(|left| left.is_zero());
    let cut_off = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
    matches!(origin, Origin::Request(_)) && (late || cut_off)
}

#[cfg(test)]
mod tests {
    use chassis::Facility;

    use super::*;
    use crate::saga::{Kind, Step};

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const PLAN: [Step; 4] = [
        Step::PrepareClaim,
        Step::AuthorizePayment,
        Step::CapturePayment,
        Step::SubmitClaim,
    ];

    fn at(position: usize, attempts: u32) -> Saga {
        let facility = Facility::new("F1").unwrap();
        let mut saga = Saga::begin(
            Kind::PlaceOrder,
            PLAN.into(),
            facility,
            Uuid::nil(),
            NOW + Duration::minutes(1),
        );
        (saga.position, saga.attempts) = (position, attempts);
        saga
    }

    fn after(saga: &Saga, status: Status) -> Transition {
        let own = (&Origin::Background, &Context::new());
        decide(
            saga,
            (&config::Saga::default(), NOW),
            own,
            Err(mesh::Origin::mark_callee(status)),
        )
    }

    #[test]
    fn a_step_that_was_partly_done_manually_is_stuck_and_never_refused() {
        let reason = "only a part was captured".to_owned();
        let stuck = Ok(Outcome::Stuck {
            reason: reason.clone(),
        });
        let own = (&Origin::Background, &Context::new());
        let transition = decide(&at(2, 0), (&config::Saga::default(), NOW), own, stuck);
        assert!(matches!(transition, Transition::Stuck { reason: found, .. } if found == reason));
    }

    #[test]
    fn before_the_pivot_a_step_that_keeps_failing_is_abandoned_and_undone() {
        assert!(matches!(
            after(&at(1, 3), Status::unavailable("")),
            Transition::Retry { counted: true, .. }
        ));
        assert!(matches!(
            after(&at(1, 19), Status::unavailable("")),
            Transition::Refused { undo: true, .. }
        ));
        assert!(matches!(
            after(&at(1, 0), Status::failed_precondition("")),
            Transition::Refused { undo: false, .. }
        ));
    }

    #[test]
    fn the_pivot_is_refused_only_by_the_callees_response() {
        assert!(matches!(
            after(&at(2, 500), Status::unavailable("")),
            Transition::Retry { .. }
        ));
        assert!(matches!(
            after(&at(2, 0), Status::failed_precondition("")),
            Transition::Refused { .. }
        ));
    }

    #[test]
    fn after_the_pivot_nothing_is_compensated() {
        assert!(matches!(
            after(&at(3, 500), Status::unavailable("")),
            Transition::Retry { .. }
        ));
        assert!(matches!(
            after(&at(3, 0), Status::failed_precondition("")),
            Transition::Stuck { .. }
        ));
        let mut late = at(3, 0);
        late.deadline_at = NOW;
        assert!(matches!(
            after(&late, Status::unavailable("")),
            Transition::Stuck { .. }
        ));
    }

    #[test]
    fn a_compensation_that_keeps_failing_is_stuck() {
        let mut saga = at(1, 19);
        saga.backward = true;
        assert!(matches!(
            after(&saga, Status::unavailable("")),
            Transition::Stuck { .. }
        ));
    }

    #[tokio::test]
    async fn a_try_that_ends_at_the_callers_deadline_is_not_counted() {
        // The call ends a little before the caller's deadline.
        for left in [std::time::Duration::ZERO, std::time::Duration::from_secs(60)] {
            let context = Context::new().with_timeout(left);
            let origin = Origin::Request(context.clone());
            let failed = |origin: &Origin| {
                let late = Err(Status::deadline_exceeded("out of time"));
                let by = (&config::Saga::default(), NOW);
                decide(&at(1, 19), by, (origin, &context), late)
            };
            assert_eq!(
                failed(&origin),
                Transition::Retry {
                    pause: Duration::ZERO,
                    counted: false
                }
            );
            assert!(matches!(
                failed(&Origin::Background),
                Transition::Refused { undo: true, .. }
            ));
        }
    }
}
