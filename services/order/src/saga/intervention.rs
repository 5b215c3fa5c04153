//! Interventions of operators in stuck sagas, and the remarks that they leave on the order. An intervention must
//! not contradict the payment service's records, which are read first. Pure.

use money::Money;

use super::{Action, Kind, OperatorNote, Saga, SagaContext, Step, apply::Rules};
use crate::{
    order::Hold,
    order::{OpenIssue, WrongState},
    refund::{Refund, RefundState},
};

/// What an operator does to a stuck saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intervention {
    /// Skips the current step.
    Skip,
    /// Declares that all remaining steps were done manually.
    ForceComplete,
}

/// The payment service's records of an order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderPayments {
    pub share: PaymentTotals,
    pub balance: PaymentTotals,
}

/// The captured and refunded amounts of one payment, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaymentTotals {
    pub captured: i64,
    pub refunded: i64,
    /// A refund is in progress.
    pub refunding: bool,
    /// The processor has not reported yet whether it has authorized or captured the payment.
    pub undecided: bool,
}

/// Why an intervention is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterventionError {
    /// The reason, and what to do instead.
    Refused(&'static str, String),
    WrongState(WrongState),
}

impl From<WrongState> for InterventionError {
    fn from(wrong: WrongState) -> InterventionError {
        InterventionError::WrongState(wrong)
    }
}

impl Saga {
    /// The remaining actions, beginning with the current one.
    fn remaining_actions(&self) -> Vec<Action> {
        let step = |step: &Step| Action {
            step: *step,
            compensation: self.backward,
        };
        if self.backward {
            self.plan[..=self.position]
                .iter()
                .rev()
                .filter(|step| step.undo_step().is_some())
                .map(step)
                .collect()
        } else {
            self.plan[self.position..].iter().map(step).collect()
        }
    }

    /// Whether an intervention needs the payment service's records.
    pub fn moves_money(&self) -> bool {
        self.remaining_actions().into_iter().any(|action| {
            !matches!(
                action.executed_step(),
                Some(Step::PrepareClaim | Step::SubmitClaim | Step::WithdrawClaim)
            )
        })
    }
}

impl Action {
    /// The step that the action executes.
    fn executed_step(self) -> Option<Step> {
        if self.compensation {
            self.step.undo_step()
        } else {
            Some(self.step)
        }
    }
}

impl SagaContext {
    /// The context after an operator's intervention. `earlier` are the order's refunds, this one included.
    pub fn intervene(
        &self,
        intervention: Intervention,
        by: &OperatorNote,
        (payments, earlier): (&OrderPayments, &[Refund]),
        rules: &Rules<'_>,
    ) -> Result<SagaContext, InterventionError> {
        let mut next = self.clone();
        let left = self.saga.remaining_actions();
        let open = match intervention {
            Intervention::Skip => {
                let step = left.first().and_then(|action| action.executed_step());
                let open = next.skip(step, payments, earlier)?;
                next.saga.skip_step(by, rules.now, rules.stuck_after);
                open
            }
            Intervention::ForceComplete => {
                for step in left.iter().filter_map(|action| action.executed_step()) {
                    self.check_done_manually(step, payments, earlier)?;
                }
                next.saga.force_complete(by);
                let steps: Vec<_> = left
                    .iter()
                    .filter_map(|action| action.executed_step())
                    .map(Step::name)
                    .collect();
                let text = format!("done by hand and not by the saga: {}", steps.join(", "));
                OpenIssue("DONE_BY_HAND", text)
            }
        };
        next.order.add_remark(&open, &by.actor, &by.reason, self.saga.id);
        next.update_order(rules)?;
        next.touch_if_busy_changed(self);
        Ok(next)
    }

    /// Skips a step; returns what it leaves open.
    fn skip(
        &mut self,
        step: Option<Step>,
        payments: &OrderPayments,
        earlier: &[Refund],
    ) -> Result<OpenIssue, InterventionError> {
        let needed = |text: &str| Err(InterventionError::Refused("STEP_NEEDED", text.to_owned()));
        let currency = self.order.currency;
        let money = |minor| Money::new(minor, currency).to_string();
        Ok(match step {
            None | Some(Step::PrepareClaim | Step::AuthorizePayment) => {
                return needed(
                    "an order is not confirmed without this step: retry the saga, or cancel the order",
                );
            }
            Some(Step::CapturePayment) => {
                return needed(
                    "an order is not fulfilled without its share: capture the payment by hand and force-complete the \
                     saga, or void the payment by hand and retry the saga, which then cancels the order",
                );
            }
            Some(Step::WithdrawClaim) if self.saga.kind == Kind::RefundOrder => {
                return needed(
                    "an order is not returned while its claim stands: withdraw the claim, then retry the saga",
                );
            }
            Some(Step::SubmitClaim) => {
                self.order.hold = Hold::Review;
                OpenIssue(
                    "CLAIM_NOT_SUBMITTED",
                    "the claim was not submitted to the payer".to_owned(),
                )
            }
            Some(Step::WithdrawClaim) => OpenIssue(
                "CLAIM_NOT_WITHDRAWN",
                "the draft of the claim was not withdrawn".to_owned(),
            ),
            Some(Step::VoidPayment) => {
                self.check_not_captured(payments)?;
                let held = money(self.order.price.patient_share);
                OpenIssue(
                    "HOLD_NOT_RELEASED",
                    format!("the hold of {held} on the patient's card was not released"),
                )
            }
            Some(Step::VoidBalance) => {
                check_decided(&payments.balance)?;
                OpenIssue(
                    "BALANCE_NOT_RELEASED",
                    "the payment of the patient's balance was not voided".to_owned(),
                )
            }
            Some(step @ (Step::RefundPayment | Step::RefundBalance)) => {
                self.check_not_refunded(step, payments, earlier)?;
                let amount = money(self.refund.as_ref().map_or(0, |refund| refund_part(refund, step)));
                match (&mut self.refund, step) {
                    (Some(refund), Step::RefundBalance) => refund.balance = 0,
                    (Some(refund), _) => refund.share = 0,
                    (None, _) => {}
                }
                OpenIssue(
                    "NOT_GIVEN_BACK",
                    format!("{amount} was not given back to the patient"),
                )
            }
        })
    }

    /// Checks a step that was done manually. The operator's statement is trusted only where the payment service
    /// has no records.
    fn check_done_manually(
        &self,
        step: Step,
        payments: &OrderPayments,
        earlier: &[Refund],
    ) -> Result<(), InterventionError> {
        match step {
            Step::PrepareClaim | Step::AuthorizePayment => Err(InterventionError::Refused(
                "STEP_NEEDED",
                "an order is not confirmed by hand: retry the saga, or cancel the order".to_owned(),
            )),
            Step::CapturePayment if payments.share.captured < self.order.price.patient_share => {
                let text = "the payment of the share is not captured: capture it by hand first, or void it by hand and \
                            retry the saga, which then cancels the order";
                Err(InterventionError::Refused("NOT_CAPTURED", text.to_owned()))
            }
            Step::CapturePayment if payments.share.captured == payments.share.refunded => {
                let text =
                    "the payment of the share was given back: retry the saga, which then cancels the order";
                Err(InterventionError::Refused("PAYMENT_REFUNDED", text.to_owned()))
            }
            Step::VoidPayment => self.check_not_captured(payments),
            Step::VoidBalance => check_decided(&payments.balance),
            Step::RefundPayment | Step::RefundBalance => {
                let (wanted, given) = self.refund_amounts(step, payments, earlier)?;
                if given >= wanted {
                    Ok(())
                } else {
                    Err(InterventionError::Refused(
                        "NOT_GIVEN_BACK",
                        format!(
                            "of {} the payment service has given back {}: refund the payment by hand first, or skip \
                             the step",
                            self.order.money(wanted),
                            self.order.money(given)
                        ),
                    ))
                }
            }
            Step::CapturePayment | Step::SubmitClaim | Step::WithdrawClaim => Ok(()),
        }
    }

    /// Checks that no captured money of the patient is kept, and none may be.
    fn check_not_captured(&self, payments: &OrderPayments) -> Result<(), InterventionError> {
        check_decided(&payments.share)?;
        let kept = payments.share.captured - payments.share.refunded;
        if kept == 0 && !payments.share.refunding {
            return Ok(());
        }
        let text = format!(
            "the payment of the share is captured and {} of it is kept: refund the payment by hand first",
            self.order.money(kept)
        );
        Err(InterventionError::Refused("PAYMENT_CAPTURED", text))
    }

    fn check_not_refunded(
        &self,
        step: Step,
        payments: &OrderPayments,
        earlier: &[Refund],
    ) -> Result<(), InterventionError> {
        let (_, given) = self.refund_amounts(step, payments, earlier)?;
        if given == 0 {
            return Ok(());
        }
        let text = format!(
            "the payment service has given back {} that no other refund of the order accounts for: retry the saga, or \
             force-complete it",
            self.order.money(given)
        );
        Err(InterventionError::Refused("GIVEN_BACK", text))
    }

    /// The amount that a refund step was to refund, and what the payment has refunded beyond the order's other
    /// refunds.
    fn refund_amounts(
        &self,
        step: Step,
        payments: &OrderPayments,
        earlier: &[Refund],
    ) -> Result<(i64, i64), InterventionError> {
        let paid = match step {
            Step::RefundBalance => payments.balance,
            _ => payments.share,
        };
        let this = self.refund.as_ref().map(|refund| refund.id);
        let others = || earlier.iter().filter(|refund| Some(refund.id) != this);
        if paid.refunding || others().any(|refund| refund.state == RefundState::Pending) {
            let text = "a refund of the order is in progress: try again when it has finished".to_owned();
            return Err(InterventionError::Refused("REFUND_PENDING", text));
        }
        let wanted = self.refund.as_ref().map_or(0, |refund| refund_part(refund, step));
        let accounted: i64 = others()
            .filter(|refund| refund.state == RefundState::Done)
            .map(|refund| refund_part(refund, step))
            .sum();
        Ok((wanted, paid.refunded - accounted))
    }
}

/// Checks that the processor's outcome is known: an unknown outcome may be a capture.
fn check_decided(paid: &PaymentTotals) -> Result<(), InterventionError> {
    if !paid.undecided {
        return Ok(());
    }
    let text = "the outcome of the payment is not known yet, and its money may be taken: try again when it is known, or \
                void the payment by hand first";
    Err(InterventionError::Refused("PAYMENT_PENDING", text.to_owned()))
}

/// The part of a refund that a step refunds.
fn refund_part(refund: &Refund, step: Step) -> i64 {
    match step {
        Step::RefundBalance => refund.balance,
        _ => refund.share,
    }
}

#[cfg(test)]
#[path = "intervention/tests.rs"]
mod tests;
