//! The payment service.

use mesh::{Channel, Context};
use money::Money;
use proto::payment::v1::{
    AuthorizePaymentRequest, CapturePaymentRequest, GetPaymentRequest, ListPaymentsRequest, Payment,
    PaymentPurpose, PaymentState, RefundPaymentRequest, RefundState, VoidPaymentRequest,
    payment_service_client::PaymentServiceClient,
};
use time::OffsetDateTime;
use tonic::Status;
use uuid::Uuid;

use super::{done, internal, malformed};
use crate::{
    order::{Failure, Order, State},
    refund::Refund,
    saga::{Books, Effect, Outcome, Paid, Wait},
};

#[derive(Clone)]
pub(super) struct Payments(PaymentServiceClient<Channel>);

impl Payments {
    pub(super) fn new(channel: Channel) -> Payments {
        Payments(PaymentServiceClient::new(channel))
    }

    /// Once there is a payment, it is only asked about: it may have been charged.
    pub(super) async fn authorize(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
    ) -> Result<Outcome, Status> {
        let payment = match order.payment_id {
            Some(id) => {
                self.get(
                    context,
                    GetPaymentRequest {
                        id: id.to_string(),
                        ..Default::default()
                    },
                )
                .await?
            }
            None => {
                let request = AuthorizePaymentRequest {
                    request_id: key.to_string(),
                    order_id: order.id.to_string(),
                    purpose: PaymentPurpose::Share.into(),
                    amount: Some(order.money(order.price.patient_share).into()),
                    payment_method: order.payment_method.clone(),
                };
                let answer = self.0.clone().authorize_payment(context.request(request)).await?;
                answer.into_inner().payment.ok_or_else(|| malformed("payment"))?
            }
        };
        authorization(order, &payment)
    }

    pub(super) async fn capture(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
    ) -> Result<Outcome, Status> {
        let id = order
            .payment_id
            .ok_or_else(|| internal("the order's payment is not known"))?;
        let request = CapturePaymentRequest {
            request_id: key.to_string(),
            id: id.to_string(),
            amount: None,
        };
        let answer = self
            .0
            .clone()
            .capture_payment(context.request(request))
            .await?
            .into_inner();
        let payment = answer.payment.ok_or_else(|| malformed("payment"))?;
        match payment.state() {
            PaymentState::Captured => Ok(done()),
            _ => Err(Status::unavailable("the capture has not been confirmed yet")),
        }
    }

    pub(super) async fn void_share(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
        reason: &str,
    ) -> Result<Outcome, Status> {
        self.void(context, order, PaymentPurpose::Share, key, reason)
            .await
            .map(|()| done())
    }

    pub(super) async fn void_balance(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
        reason: &str,
    ) -> Result<(), Status> {
        self.void(context, order, PaymentPurpose::Balance, key, reason)
            .await
    }

    pub(super) async fn refund_share(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
        refund: &Refund,
    ) -> Result<Outcome, Status> {
        let id = order
            .payment_id
            .ok_or_else(|| internal("the order's payment is not known"))?;
        self.refund(
            context,
            id.to_string(),
            key,
            order,
            (refund.share, &refund.reason),
        )
        .await
    }

    pub(super) async fn refund_balance(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
        refund: &Refund,
    ) -> Result<Outcome, Status> {
        let order_id = order.id.to_string();
        let purpose = PaymentPurpose::Balance.into();
        let payment = self
            .get(
                context,
                GetPaymentRequest {
                    id: String::new(),
                    order_id,
                    purpose,
                },
            )
            .await?;
        self.refund(context, payment.id, key, order, (refund.balance, &refund.reason))
            .await
    }

    async fn refund(
        &self,
        context: &Context,
        id: String,
        key: Uuid,
        order: &Order,
        (amount, reason): (i64, &str),
    ) -> Result<Outcome, Status> {
        let amount = Some(order.money(amount).into());
        let request = RefundPaymentRequest {
            request_id: key.to_string(),
            id,
            amount,
            reason: reason.to_owned(),
        };
        self.0.clone().refund_payment(context.request(request)).await?;
        Ok(done())
    }

    async fn void(
        &self,
        context: &Context,
        order: &Order,
        purpose: PaymentPurpose,
        key: Uuid,
        reason: &str,
    ) -> Result<(), Status> {
        let request = VoidPaymentRequest {
            request_id: key.to_string(),
            order_id: order.id.to_string(),
            purpose: purpose.into(),
            reason: reason.to_owned(),
        };
        self.0
            .clone()
            .void_payment(context.request(request))
            .await
            .map(drop)
    }

    pub(super) async fn books(&self, context: &Context, order: &Order) -> Result<Books, Status> {
        let request = ListPaymentsRequest {
            order_id: order.id.to_string(),
            ..ListPaymentsRequest::default()
        };
        let answer = self.0.clone().list_payments(context.request(request)).await?;
        let mut books = Books::default();
        for payment in answer.into_inner().payments {
            let minor = |amount: &Option<proto::google::r#type::Money>| {
                let money = amount.as_ref().map(Money::try_from).transpose();
                money.map(|money| money.map_or(0, |money| money.minor()))
            };
            let paid = Paid {
                captured: minor(&payment.captured).map_err(|_| malformed("amount"))?,
                refunded: minor(&payment.refunded).map_err(|_| malformed("amount"))?,
                refunding: payment
                    .refunds
                    .iter()
                    .any(|refund| refund.state() == RefundState::Pending),
            };
            match payment.purpose() {
                PaymentPurpose::Balance => books.balance = paid,
                PaymentPurpose::Share | PaymentPurpose::Unspecified => books.share = paid,
            }
        }
        Ok(books)
    }

    async fn get(&self, context: &Context, request: GetPaymentRequest) -> Result<Payment, Status> {
        let answer = self
            .0
            .clone()
            .get_payment(context.request(request))
            .await?
            .into_inner();
        answer.payment.ok_or_else(|| malformed("payment"))
    }
}

/// What a payment's state means for the order that waits for it.
fn authorization(order: &Order, payment: &Payment) -> Result<Outcome, Status> {
    let id = Uuid::parse_str(&payment.id).map_err(|_| malformed("payment"))?;
    let unpaid = order.state == State::AwaitingPayment || order.payment_method.is_empty();
    match payment.state() {
        PaymentState::Authorized | PaymentState::Captured => Ok(Outcome::Done(Effect::PaymentAuthorized(id))),
        // The patient may try another method as long as the window is open.
        PaymentState::Created | PaymentState::Declined if unpaid => {
            match order.is_expired(OffsetDateTime::now_utc()) {
                true => Ok(refused("PAYMENT_WINDOW_PASSED", "it was not paid in time", true)),
                false => Ok(Outcome::Wait(Wait::PaymentMethod(id))),
            }
        }
        // It is voided, too: PayOrder could still pay it with another card, for an order that is no more.
        PaymentState::Declined => Ok(refused(decline(payment), "the card was declined", true)),
        PaymentState::Voided => Ok(refused("PAYMENT_VOIDED", "the payment was let go", true)),
        PaymentState::Expired => Ok(refused("PAYMENT_EXPIRED", "the authorization has lapsed", true)),
        PaymentState::Created | PaymentState::Authorizing | PaymentState::Unknown => {
            Ok(Outcome::Wait(Wait::PaymentOutcome(id)))
        }
        PaymentState::Unspecified => Err(malformed("payment state")),
    }
}

fn decline(payment: &Payment) -> &str {
    match payment.decline_reason.as_str() {
        "" => "CARD_DECLINED",
        reason => reason,
    }
}

fn refused(reason: &str, message: &str, undo: bool) -> Outcome {
    Outcome::Refused {
        failure: Failure::new(reason, message),
        undo,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
