use time::Duration;

use super::*;
use crate::order::tests::insured;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

fn saga(kind: Kind, plan: Vec<Step>) -> Saga {
    let mut saga = Saga::begin(kind, plan, Facility::new("F1").unwrap(), Uuid::now_v7(), NOW);
    saga.progress.clear();
    saga
}

fn placing() -> Saga {
    let mut order = insured(50_000, 10_000, 40_000);
    order.immediate = true;
    saga(Kind::PlaceOrder, Kind::place(&order))
}

fn forward(step: Step) -> Option<Action> {
    Some(Action {
        step,
        compensation: false,
    })
}

fn undo(step: Step) -> Option<Action> {
    Some(Action {
        step,
        compensation: true,
    })
}

fn take_progress(saga: &mut Saga) -> Vec<Progress> {
    saga.progress.drain(..).map(|(_, progress)| progress).collect()
}

#[test]
fn plans_omit_steps_that_an_order_does_not_need() {
    use Step::{AuthorizePayment, CapturePayment, PrepareClaim, SubmitClaim};
    let mut order = insured(50_000, 10_000, 40_000);
    assert_eq!(Kind::place(&order), [PrepareClaim, AuthorizePayment]);
    order.immediate = true;
    assert_eq!(
        Kind::place(&order),
        [PrepareClaim, AuthorizePayment, CapturePayment, SubmitClaim]
    );
    let mut free = insured(40_000, 0, 40_000);
    free.immediate = true;
    assert_eq!(Kind::place(&free), [PrepareClaim, SubmitClaim]);
    assert_eq!(Kind::fulfil(&insured(1_000, 1_000, 0)), [CapturePayment]);
    assert_eq!(Kind::cancel(&insured(1_000, 1_000, 0)), [Step::VoidPayment]);
}

#[test]
fn the_pivot_is_the_first_step_that_cannot_be_undone() {
    let mut saga = placing();
    assert!(saga.can_compensate() && !saga.is_at_pivot());
    saga.complete_step(String::new());
    saga.complete_step(String::new());
    assert_eq!(saga.action(), forward(Step::CapturePayment));
    assert!(saga.can_compensate() && saga.is_at_pivot());
    saga.complete_step(String::new());
    assert!(!saga.can_compensate());
    saga.complete_step(String::new());
    assert_eq!((saga.state, saga.action()), (State::Completed, None));
}

#[test]
fn a_refused_step_undoes_what_was_done_before_in_reverse() {
    let mut saga = placing();
    saga.complete_step(String::new());
    saga.complete_step(String::new());
    take_progress(&mut saga);
    saga.fail_step("PAYMENT_EXPIRED", false);
    assert_eq!(saga.action(), undo(Step::AuthorizePayment));
    saga.complete_step(String::new());
    assert_eq!(saga.action(), undo(Step::PrepareClaim));
    saga.complete_step(String::new());
    assert_eq!(saga.state, State::Compensated);
    assert_eq!(
        take_progress(&mut saga),
        [
            Progress::Compensating {
                reason: "PAYMENT_EXPIRED".into()
            },
            Progress::StepCompleted(undo(Step::AuthorizePayment).unwrap()),
            Progress::StepCompleted(undo(Step::PrepareClaim).unwrap()),
            Progress::Compensated,
        ]
    );
}

#[test]
fn a_step_of_unknown_outcome_is_undone_too() {
    let mut saga = placing();
    saga.complete_step(String::new());
    saga.fail_step("UNAVAILABLE", true);
    assert_eq!(saga.action(), undo(Step::AuthorizePayment));
}

#[test]
fn a_refused_first_step_leaves_nothing_to_undo() {
    let mut saga = placing();
    saga.fail_step("CLAIM_INVALID", false);
    assert_eq!(saga.state, State::Compensated);
}

#[test]
fn a_step_has_the_same_request_id_in_every_try_and_another_one_in_compensation() {
    let mut saga = placing();
    let key = saga.request_id(saga.action().unwrap());
    saga.retry(NOW, true);
    assert_eq!(saga.request_id(saga.action().unwrap()), key);
    saga.fail_step("UNAVAILABLE", true);
    assert_ne!(saga.request_id(saga.action().unwrap()), key);
}

#[test]
fn a_stuck_saga_is_reported_once_and_continues_at_its_step() {
    let mut saga = placing();
    saga.fail_step("UNAVAILABLE", true);
    take_progress(&mut saga);
    saga.mark_stuck("the withdrawal keeps failing", NOW);
    saga.mark_stuck("the withdrawal keeps failing", NOW);
    assert_eq!(take_progress(&mut saga).len(), 1);
    saga.wake(NOW, Duration::minutes(15));
    assert_eq!((saga.state, saga.attempts), (State::Compensating, 0));
    saga.complete_step(String::new());
    assert_eq!(saga.state, State::Compensated);
}

#[test]
fn superseding_a_saga_fences_off_its_driver() {
    let mut saga = placing();
    let epoch = saga.epoch;
    saga.supersede("cancelled");
    assert!(saga.has_ended() && saga.epoch > epoch);
}
