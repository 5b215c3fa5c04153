//! Applies a saga's transition to the order, its refund, and the saga that may follow. Pure.

use std::sync::Arc;

use proto::claims::v1::ClaimDetails;
use time::{Duration, OffsetDateTime};

use super::{Effect, Kind, Saga, State, Step, transition::Transition};
use crate::{
    order::Hold,
    order::{Failure, Order, State as OrderState, WrongState},
    refund::{Refund, RefundState},
    settlement::DenialPolicy,
};

/// A saga with the order and the refund that it changes.
#[derive(Clone, Debug)]
pub struct SagaContext {
    pub saga: Saga,
    pub order: Order,
    pub refund: Option<Refund>,
    /// The order's claim, if it is loaded.
    pub claim: Option<Arc<ClaimDetails>>,
    /// The response that was stored when the order came to rest.
    pub response: Option<Vec<u8>>,
    /// The saga that continues when this one has ended.
    pub(super) successor: Option<Saga>,
}

/// Settings and the time that transitions depend on.
pub struct Rules<'a> {
    pub(super) denial_policy: &'a DenialPolicy,
    pub(super) payment_window: Duration,
    pub(super) stuck_after: Duration,
    /// By the database's clock.
    pub(super) now: OffsetDateTime,
}

impl SagaContext {
    /// Creates the context of a saga that has just begun or was read.
    pub fn new(saga: Saga, order: Order) -> SagaContext {
        SagaContext {
            saga,
            order,
            refund: None,
            claim: None,
            response: None,
            successor: None,
        }
    }

    /// Whether the response to the request that began the saga can be stored.
    pub fn is_at_rest(&self) -> bool {
        match self.saga.kind {
            Kind::RefundOrder => self.saga.has_ended(),
            Kind::PlaceOrder | Kind::FulfilOrder | Kind::CancelOrder => self.order.is_at_rest(),
        }
    }

    /// The context after `transition`.
    pub(super) fn apply(
        &self,
        transition: &Transition,
        rules: &Rules<'_>,
    ) -> Result<SagaContext, WrongState> {
        let mut next = self.clone();
        match transition {
            // Two transitions, as if authorization and capture had been separate calls.
            Transition::Succeeded(Effect::PaymentCaptured(id)) => {
                let authorized = Transition::Succeeded(Effect::PaymentAuthorized(*id));
                let captured = Transition::Succeeded(Effect::Nothing);
                return self.apply(&authorized, rules)?.apply(&captured, rules);
            }
            Transition::Succeeded(effect) => {
                next.apply_effect(effect);
                next.saga.complete_step(effect.describe());
            }
            Transition::Refused { failure, undo } => {
                next.saga.fail_step(&failure.reason, *undo);
                next.fail(failure)?;
            }
            Transition::AwaitPaymentMethod { payment_id } => {
                next.order
                    .await_payment(*payment_id, rules.now + rules.payment_window)?;
                let until = next.order.expires_at.unwrap_or(rules.now);
                next.saga.wait(until, false);
                next.saga.extend_deadline(until, rules.stuck_after);
            }
            Transition::AwaitPaymentOutcome { payment_id, pause } => {
                next.order.set_payment(*payment_id);
                next.saga.wait(rules.now + *pause, true);
            }
            Transition::Retry { pause, counted } => next.saga.retry(rules.now + *pause, *counted),
            Transition::Stuck { reason, pause } => next.saga.mark_stuck(reason, rules.now + *pause),
            Transition::Requeue => next.saga.requeue(rules.now),
            Transition::EmptyPlan => next.saga.complete_empty_plan(),
        }
        next.update_order(rules)?;
        next.touch_if_busy_changed(self);
        Ok(next)
    }

    pub(super) fn touch_if_busy_changed(&mut self, before: &SagaContext) {
        if self.order.busy != before.order.busy && self.order.version == before.order.version {
            self.order.touch();
        }
    }

    fn apply_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Nothing | Effect::ClaimSubmitted { rejection: None } => {}
            Effect::ClaimPrepared(id) => self.order.set_claim(*id),
            Effect::PaymentAuthorized(id) | Effect::PaymentCaptured(id) => self.order.set_payment(*id),
            Effect::BalanceToRefund(left) => {
                if let Some(refund) = &mut self.refund {
                    refund.balance = *left;
                }
            }
            Effect::ClaimSubmitted { rejection: Some(_) } => {
                self.order.hold = Hold::Review;
                self.order.touch();
            }
        }
    }

    fn fail(&mut self, failure: &Failure) -> Result<(), WrongState> {
        match self.saga.kind {
            Kind::PlaceOrder | Kind::FulfilOrder => self.order.fail(failure.clone()),
            Kind::CancelOrder | Kind::RefundOrder => Ok(()),
        }
    }

    /// Updates the order to the state of its saga.
    pub(super) fn update_order(&mut self, rules: &Rules<'_>) -> Result<(), WrongState> {
        let unconfirmed = matches!(
            self.order.state,
            OrderState::Pending | OrderState::AwaitingPayment
        );
        let fulfils = self
            .saga
            .plan
            .iter()
            .any(|step| matches!(step, Step::CapturePayment | Step::SubmitClaim));
        match (self.saga.state, self.saga.kind) {
            (State::Running, Kind::PlaceOrder) if unconfirmed && self.has_reached_fulfilment() => {
                self.order.confirm()
            }
            (State::Completed, Kind::PlaceOrder) => {
                if unconfirmed {
                    self.order.confirm()?;
                }
                // Without anything to capture or submit, the plan does not show that the order is fulfilled at
                // once.
                if fulfils || self.order.immediate {
                    self.fulfil(rules)?;
                }
                self.clear_busy();
                Ok(())
            }
            (State::Completed, Kind::FulfilOrder) => {
                self.fulfil(rules)?;
                self.clear_busy();
                Ok(())
            }
            (State::Completed, Kind::CancelOrder)
            | (State::Compensated, Kind::PlaceOrder | Kind::CancelOrder) => {
                self.order.mark_undone()?;
                self.clear_busy();
                Ok(())
            }
            (State::Compensated, Kind::FulfilOrder) => {
                self.begin_cancellation(rules);
                Ok(())
            }
            (State::Completed, Kind::RefundOrder) => self.apply_refund(),
            (State::Compensated, Kind::RefundOrder) => {
                self.end_refund(RefundState::Failed);
                self.order.touch();
                // The payment of the balance may have been voided.
                if self.refund.as_ref().is_some_and(|refund| refund.whole) {
                    self.order.request_balance_again();
                }
                Ok(())
            }
            (State::Running | State::Waiting | State::Compensating | State::Stuck, _) => Ok(()),
        }
    }

    fn has_reached_fulfilment(&self) -> bool {
        let next = self.saga.action().map(|action| action.step);
        matches!(next, Some(Step::CapturePayment | Step::SubmitClaim))
    }

    fn fulfil(&mut self, rules: &Rules<'_>) -> Result<(), WrongState> {
        self.order.fulfil()?;
        self.order.settle(rules.denial_policy)
    }

    fn apply_refund(&mut self) -> Result<(), WrongState> {
        match &self.refund {
            // All of it was skipped by operators.
            Some(refund) if refund.amount() == 0 && !(refund.whole && self.order.is_insured()) => {
                self.end_refund(RefundState::Failed);
                self.order.touch();
                return Ok(());
            }
            Some(refund) => self.order.apply_refund(refund)?,
            None => {}
        }
        self.end_refund(RefundState::Done);
        Ok(())
    }

    fn end_refund(&mut self, state: RefundState) {
        if let Some(refund) = &mut self.refund {
            refund.state = state;
        }
    }

    /// Allows other sagas to change the order again.
    fn clear_busy(&mut self) {
        self.order.busy = false;
    }

    /// Begins the saga that cancels an order whose payment can no longer be captured.
    fn begin_cancellation(&mut self, rules: &Rules<'_>) {
        let order = &mut self.order;
        let plan = Kind::cancel(order);
        let saga = Saga::begin(
            Kind::CancelOrder,
            plan,
            order.facility.clone(),
            order.id,
            rules.now + rules.stuck_after,
        );
        order.saga_id = saga.id;
        self.successor = Some(saga);
    }
}
