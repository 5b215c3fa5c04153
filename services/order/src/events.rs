//! Maps domain changes to published events.

use events::{Event, Meta};
use proto::order::v1::{
    OrderAdjusted, OrderBalanceDue, OrderCancelled, OrderConfirmed, OrderExpired, OrderFulfilled,
    OrderPlaced, OrderRejected, OrderReopened, OrderReturned, OrderSettled, SagaCompensated,
    SagaCompensating, SagaCompleted, SagaCompletedStep, SagaForceCompleted, SagaStarted, SagaStepCompleted,
    SagaStepSkipped, SagaStuck,
};
use uuid::Uuid;

use crate::{
    order::{Change, Order},
    saga::{Progress, Saga},
};

/// Takes the recorded changes of an order and maps them to events. `saga_id` and `causation_id` are the saga and
/// the event that caused the changes.
pub fn take_from_order(order: &mut Order, saga_id: Option<Uuid>, causation_id: Option<Uuid>) -> Vec<Event> {
    let changes = std::mem::take(&mut order.changes);
    let meta = |version| Meta {
        facility: order.facility.to_string(),
        aggregate_id: order.id,
        version,
        saga_id,
        causation_id,
    };
    changes
        .iter()
        .map(|(version, change)| order_event(order, change, meta(*version)))
        .collect()
}

/// Takes the recorded progress of a saga and maps it to events. The steps directly before its end are part of its
/// last event.
pub fn take_from_saga(saga: &mut Saga) -> Vec<Event> {
    let mut progress = std::mem::take(&mut saga.progress);
    let steps = match progress.last() {
        Some((_, Progress::Completed | Progress::Compensated)) => steps_before_the_end(&mut progress),
        _ => Vec::new(),
    };
    let meta = |version| Meta {
        facility: saga.facility.to_string(),
        aggregate_id: saga.id,
        version,
        saga_id: Some(saga.id),
        causation_id: None,
    };
    progress
        .iter()
        .map(|(version, progress)| saga_event(saga, progress, &steps, meta(*version)))
        .collect()
}

fn steps_before_the_end(progress: &mut Vec<(i64, Progress)>) -> Vec<SagaCompletedStep> {
    let end = progress.len() - 1;
    let is_step = |(_, progress): &(i64, Progress)| matches!(progress, Progress::StepCompleted(_));
    let first = progress[..end]
        .iter()
        .rposition(|one| !is_step(one))
        .map_or(0, |last| last + 1);
    let taken = progress.drain(first..end);
    let step = |(_, progress)| match progress {
        Progress::StepCompleted(action) => Some(SagaCompletedStep {
            step: action.step.name().to_owned(),
            compensation: action.compensation,
        }),
        _ => None,
    };
    taken.filter_map(step).collect()
}

fn order_event(order: &Order, change: &Change, meta: Meta) -> Event {
    let order_id = order.id.to_string();
    let money = |minor| Some(order.money(minor).into());
    match change {
        Change::Placed => {
            let (gross, patient_share) = (money(order.price.gross), money(order.price.patient_share));
            let (payer_net, reference) = (money(order.price.payer_net), order.reference.clone());
            Event::new(
                &OrderPlaced {
                    order_id,
                    reference,
                    gross,
                    patient_share,
                    payer_net,
                },
                meta,
            )
        }
        Change::Confirmed => Event::new(&OrderConfirmed { order_id }, meta),
        Change::Rejected { reason } => Event::new(
            &OrderRejected {
                order_id,
                reason: reason.clone(),
            },
            meta,
        ),
        Change::Expired => Event::new(&OrderExpired { order_id }, meta),
        Change::Fulfilled => {
            let (patient_share, payer_net) = (money(order.price.patient_share), money(order.price.payer_net));
            Event::new(
                &OrderFulfilled {
                    order_id,
                    patient_share,
                    payer_net,
                },
                meta,
            )
        }
        Change::Cancelled { reason } => Event::new(
            &OrderCancelled {
                order_id,
                reason: reason.clone(),
            },
            meta,
        ),
        Change::Returned {
            patient_share,
            payer_net,
            full,
        } => {
            let (patient_share, payer_net) = (money(*patient_share), money(*payer_net));
            Event::new(
                &OrderReturned {
                    order_id,
                    patient_share,
                    payer_net,
                    full: *full,
                },
                meta,
            )
        }
        Change::BalanceDue {
            transferred,
            written_off,
            balance,
            billed,
        } => {
            let (transferred, written_off, balance) =
                (money(*transferred), money(*written_off), money(*balance));
            Event::new(
                &OrderBalanceDue {
                    order_id,
                    transferred,
                    written_off,
                    balance,
                    billed: money(*billed),
                },
                meta,
            )
        }
        Change::Adjusted { adjustment, billed } => {
            let some = |minor: i64| money(minor).filter(|_| minor != 0);
            let adjusted = OrderAdjusted {
                order_id,
                transferred: some(adjustment.transferred),
                written_off: some(adjustment.written_off),
                patient_written_off: some(adjustment.patient_written_off),
                transfer_reversed: some(adjustment.transfer_reversed),
                write_off_reversed: some(adjustment.write_off_reversed),
                patient_write_off_reversed: some(adjustment.patient_write_off_reversed),
                rounding: some(adjustment.rounding),
                billed: money(*billed),
            };
            Event::new(&adjusted, meta)
        }
        Change::Settled {
            written_off,
            patient_written_off,
        } => {
            let (written_off, patient_written_off) = (money(*written_off), money(*patient_written_off));
            Event::new(
                &OrderSettled {
                    order_id,
                    written_off,
                    patient_written_off,
                },
                meta,
            )
        }
        Change::Reopened { outstanding } => Event::new(
            &OrderReopened {
                order_id,
                outstanding: money(*outstanding),
            },
            meta,
        ),
    }
}

fn saga_event(saga: &Saga, progress: &Progress, steps: &[SagaCompletedStep], meta: Meta) -> Event {
    let (saga_id, order_id) = (saga.id.to_string(), saga.order_id.to_string());
    let kind = saga.kind.name().to_owned();
    match progress {
        Progress::Started => Event::new(
            &SagaStarted {
                saga_id,
                kind,
                order_id,
            },
            meta,
        ),
        Progress::StepCompleted(action) => {
            let (step, compensation) = (action.step.name().to_owned(), action.compensation);
            Event::new(
                &SagaStepCompleted {
                    saga_id,
                    kind,
                    order_id,
                    step,
                    compensation,
                },
                meta,
            )
        }
        Progress::Compensating { reason } => Event::new(
            &SagaCompensating {
                saga_id,
                kind,
                order_id,
                reason: reason.clone(),
            },
            meta,
        ),
        Progress::Compensated => Event::new(
            &SagaCompensated {
                saga_id,
                kind,
                order_id,
                steps: steps.to_vec(),
            },
            meta,
        ),
        Progress::Stuck { step, reason } => {
            let (step, reason) = (step.name().to_owned(), reason.clone());
            Event::new(
                &SagaStuck {
                    saga_id,
                    kind,
                    order_id,
                    step,
                    reason,
                },
                meta,
            )
        }
        Progress::Skipped { action, by } => {
            let (step, compensation) = (action.step.name().to_owned(), action.compensation);
            let (actor, reason) = (by.actor.clone(), by.reason.clone());
            let event = SagaStepSkipped {
                saga_id,
                kind,
                order_id,
                step,
                compensation,
                actor,
                reason,
            };
            Event::new(&event, meta)
        }
        Progress::ForceCompleted { action, by } => {
            let (step, compensation) = (action.step.name().to_owned(), action.compensation);
            let (actor, reason) = (by.actor.clone(), by.reason.clone());
            let event = SagaForceCompleted {
                saga_id,
                kind,
                order_id,
                step,
                compensation,
                actor,
                reason,
            };
            Event::new(&event, meta)
        }
        Progress::Completed => Event::new(
            &SagaCompleted {
                saga_id,
                kind,
                order_id,
                steps: steps.to_vec(),
            },
            meta,
        ),
    }
}
