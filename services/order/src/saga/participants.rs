//! The services that steps call: payment and claims. One call per try; every called method accepts a repeated
//! `request_id`.

mod bulk;
mod claims;
mod manual_changes;
mod payment_outcome;
mod payments;

use chassis::Tasks;
use claims::ClaimsClient;
use mesh::{Channel, Context};
use payments::PaymentClient;
use proto::claims::v1::ClaimDetails;
use time::OffsetDateTime;
use tonic::Status;

use super::{Action, OrderPayments, Outcome, Saga, ServiceCredentials, Step};
use crate::{order::Order, refund::Refund};

/// The services that sagas call. Cheap to clone.
#[derive(Clone)]
pub struct Participants {
    payments: PaymentClient,
    claims: ClaimsClient,
}

/// The inputs of a step's call.
pub(super) struct StepCall<'a> {
    pub(super) saga: &'a Saga,
    pub(super) action: Action,
    pub(super) order: &'a Order,
    pub(super) refund: Option<&'a Refund>,
    /// All refunds of the order, this one included; only read for refund steps.
    pub(super) refunds: &'a [Refund],
    pub(super) claim: Option<&'a ClaimDetails>,
    /// By the database's clock.
    pub(super) now: OffsetDateTime,
}

impl Participants {
    /// Creates clients for these channels.
    pub fn new(
        payment: Channel,
        claims: Channel,
        credentials: &ServiceCredentials,
        tasks: &Tasks,
    ) -> Participants {
        Participants {
            payments: PaymentClient::new(payment, credentials, tasks),
            claims: ClaimsClient::new(claims, credentials, tasks),
        }
    }

    /// Validates the claim of an order without storing it.
    ///
    /// # Errors
    /// The claims service's refusal, with every violation.
    pub async fn check_claim(&self, context: &Context, details: ClaimDetails) -> Result<(), Status> {
        self.claims.check(context, details).await
    }

    /// Voids the payment of an order's balance.
    ///
    /// # Errors
    /// The payment service's refusal: it is paid, or being paid.
    pub async fn void_balance(
        &self,
        context: &Context,
        order: &Order,
        key: uuid::Uuid,
    ) -> Result<(), Status> {
        self.payments
            .void_balance(context, order, key, "written off")
            .await
    }

    /// Reads the payment service's records of an order.
    ///
    /// # Errors
    /// When the payment service does not respond.
    pub async fn order_payments(&self, context: &Context, order: &Order) -> Result<OrderPayments, Status> {
        self.payments.order_payments(context, order).await
    }

    /// Makes one try at an action.
    pub(super) async fn execute(&self, context: &Context, call: &StepCall<'_>) -> Result<Outcome, Status> {
        let StepCall {
            saga, action, order, ..
        } = *call;
        let key = saga.request_id(action);
        let step = if action.compensation {
            action
                .step
                .undo_step()
                .ok_or_else(|| internal("the step has nothing to undo"))?
        } else {
            action.step
        };
        let why = order
            .failure
            .as_ref()
            .map(|failure| failure.reason.as_str())
            .unwrap_or_default();
        match step {
            Step::PrepareClaim => {
                let details = call
                    .claim
                    .cloned()
                    .ok_or_else(|| internal("the order's claim is missing"))?;
                self.claims.prepare(context, order, key, details).await
            }
            Step::SubmitClaim => self.claims.submit(context, order, key).await,
            Step::WithdrawClaim => self.claims.withdraw(context, order, key, why).await,
            Step::AuthorizePayment => self.payments.authorize(context, order, key, call.now).await,
            Step::CapturePayment => self.payments.capture(context, order, key).await,
            Step::VoidPayment => self.payments.void_share(context, order, key, why).await,
            Step::VoidBalance => self.payments.void_balance_step(context, order, key, why).await,
            Step::RefundPayment | Step::RefundBalance => {
                let refund = call
                    .refund
                    .ok_or_else(|| internal("the order's refund is missing"))?;
                let part = manual_changes::Part::new(refund, call.refunds, step);
                self.payments
                    .refund(context, (order, key), &part, &refund.reason)
                    .await
            }
        }
    }
}

fn done() -> Outcome {
    Outcome::Done(super::Effect::Nothing)
}

/// Data is missing in the database; a retry may find it after a repair.
fn internal(text: &'static str) -> Status {
    Status::internal(text)
}

/// A response without a required field, or with an id that is not a UUID.
fn malformed(what: &str) -> Status {
    Status::internal(format!("the response has no valid {what}"))
}
