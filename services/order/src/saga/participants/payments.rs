//! The payment service.

use mesh::{Channel, Context};
use proto::payment::v1::{
    AuthorizePaymentRequest, CapturePaymentRequest, GetPaymentRequest, ListPaymentsRequest, Payment,
    PaymentPurpose, PaymentState, RefundPaymentRequest, VoidPaymentRequest,
    payment_service_client::PaymentServiceClient,
};
use time::OffsetDateTime;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{
    super::outcome,
    by_hand::{self, Part},
    done, internal, malformed,
};
use crate::{
    order::{Failure, Order, State},
    saga::{Books, Effect, Outcome, Wait},
};

#[derive(Clone)]
pub(super) struct Payments(PaymentServiceClient<Channel>);

impl Payments {
    pub(super) fn new(channel: Channel) -> Payments {
        Payments(PaymentServiceClient::new(channel))
    }

    /// Once there is a payment, it is only asked about: it may have been charged. Where there is a payment method
    /// and the capture comes next, one call does both.
    pub(super) async fn authorize(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
    ) -> Result<Outcome, Status> {
        let capture = order.immediate && !order.payment_method.is_empty();
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
                // An earlier version of this service may have asked under the saga's key, without the capture.
                let key = if capture {
                    Uuid::new_v5(&key, b"capture")
                } else {
                    key
                };
                let request = AuthorizePaymentRequest {
                    request_id: key.to_string(),
                    order_id: order.id.to_string(),
                    purpose: PaymentPurpose::Share.into(),
                    amount: Some(order.money(order.price.patient_share).into()),
                    payment_method: order.payment_method.clone(),
                    capture,
                };
                match self.0.clone().authorize_payment(context.request(request)).await {
                    Ok(answer) => {
                        let payment = answer.into_inner().payment.ok_or_else(|| malformed("payment"))?;
                        if payment.state() == PaymentState::Captured {
                            return Ok(Outcome::Done(Effect::PaymentCaptured(id_of(&payment)?)));
                        }
                        payment
                    }
                    Err(refused) if outcome::is_refusal(&refused) => {
                        let payment = self.found(context, order, PaymentPurpose::Share, refused).await?;
                        if let Some(other) = by_hand::another_amount(order, &payment)? {
                            return Ok(other);
                        }
                        payment
                    }
                    Err(status) => return Err(status),
                }
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
        match self.0.clone().capture_payment(context.request(request)).await {
            Ok(answer) => {
                let payment = answer.into_inner().payment.ok_or_else(|| malformed("payment"))?;
                match payment.state() {
                    PaymentState::Captured => Ok(done()),
                    _ => Err(Status::unavailable("the capture has not been confirmed yet")),
                }
            }
            Err(refused) if outcome::is_refusal(&refused) => {
                let payment = self
                    .found(context, order, PaymentPurpose::Share, refused.clone())
                    .await?;
                by_hand::captured(order, &payment)?.ok_or(refused)
            }
            Err(status) => Err(status),
        }
    }

    /// Lets the share go. That of an order with immediate capture may have been captured by the call that authorized it, and is
    /// given back then; another one that is captured somebody has captured by hand.
    pub(super) async fn void_share(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
        reason: &str,
    ) -> Result<Outcome, Status> {
        let refused = match self
            .void(context, order, PaymentPurpose::Share, key, reason)
            .await
        {
            Ok(()) => return Ok(done()),
            Err(refused) if outcome::is_refusal(&refused) => refused,
            Err(status) => return Err(status),
        };
        let payment = self
            .found(context, order, PaymentPurpose::Share, refused.clone())
            .await?;
        if !order.immediate {
            return by_hand::given_back_whole(order, &payment)?.ok_or(refused);
        }
        match by_hand::kept(&payment)? {
            None if is_open(&payment) => Err(Status::unavailable(
                "the outcome of the payment is being found out",
            )),
            None => Err(refused),
            Some(0) => Ok(done()),
            Some(_) => {
                let request = RefundPaymentRequest {
                    request_id: Uuid::new_v5(&key, b"refund").to_string(),
                    id: payment.id,
                    amount: None,
                    reason: reason.to_owned(),
                };
                self.0.clone().refund_payment(context.request(request)).await?;
                Ok(done())
            }
        }
    }

    /// Lets the payment of the balance go. One that the patient has paid meanwhile is to be given back instead.
    pub(super) async fn let_balance_go(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
        reason: &str,
    ) -> Result<Outcome, Status> {
        match self.void_balance(context, order, key, reason).await {
            Ok(()) => Ok(done()),
            Err(refused) if outcome::is_refusal(&refused) => {
                let payment = self
                    .found(context, order, PaymentPurpose::Balance, refused.clone())
                    .await?;
                by_hand::balance_paid(order, &payment)?.ok_or(refused)
            }
            Err(status) => Err(status),
        }
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

    /// Gives a part of a refund back. One that somebody has given back already is done.
    pub(super) async fn refund(
        &self,
        context: &Context,
        (order, key): (&Order, Uuid),
        part: &Part,
        reason: &str,
    ) -> Result<Outcome, Status> {
        if part.wanted == 0 {
            return Ok(done());
        }
        let id = match (part.purpose, order.payment_id) {
            (PaymentPurpose::Balance, _) => self.of(context, order, PaymentPurpose::Balance).await?.id,
            (_, Some(id)) => id.to_string(),
            (_, None) => return Err(internal("the order's payment is not known")),
        };
        let request = RefundPaymentRequest {
            request_id: key.to_string(),
            id,
            amount: Some(order.money(part.wanted).into()),
            reason: reason.to_owned(),
        };
        match self.0.clone().refund_payment(context.request(request)).await {
            Ok(_) => Ok(done()),
            Err(refused) if outcome::is_refusal(&refused) => {
                let payment = self.found(context, order, part.purpose, refused.clone()).await?;
                by_hand::given_back(order, &payment, part)?.ok_or(refused)
            }
            Err(status) => Err(status),
        }
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
            let paid = by_hand::paid(&payment)?;
            match payment.purpose() {
                PaymentPurpose::Balance => books.balance = paid,
                PaymentPurpose::Share | PaymentPurpose::Unspecified => books.share = paid,
            }
        }
        Ok(books)
    }

    /// The payment that a call was refused for; when it cannot be found, the refusal stands.
    async fn found(
        &self,
        context: &Context,
        order: &Order,
        purpose: PaymentPurpose,
        refused: Status,
    ) -> Result<Payment, Status> {
        match self.of(context, order, purpose).await {
            Err(status) if status.code() == Code::NotFound => Err(refused),
            found => found,
        }
    }

    async fn of(&self, context: &Context, order: &Order, purpose: PaymentPurpose) -> Result<Payment, Status> {
        let request = GetPaymentRequest {
            id: String::new(),
            order_id: order.id.to_string(),
            purpose: purpose.into(),
        };
        self.get(context, request).await
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
    let id = id_of(payment)?;
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
        PaymentState::Declined => Ok(refused(decline(payment), "the payment method was declined", true)),
        PaymentState::Voided => Ok(refused("PAYMENT_VOIDED", "the payment was let go", true)),
        PaymentState::Expired => Ok(refused("PAYMENT_EXPIRED", "the authorization has lapsed", true)),
        PaymentState::Created | PaymentState::Authorizing | PaymentState::Unknown => {
            Ok(Outcome::Wait(Wait::PaymentOutcome(id)))
        }
        PaymentState::Unspecified => Err(malformed("payment state")),
    }
}

/// Whether the processor has not told yet whether it has set the money aside.
fn is_open(payment: &Payment) -> bool {
    matches!(payment.state(), PaymentState::Authorizing | PaymentState::Unknown)
}

fn id_of(payment: &Payment) -> Result<Uuid, Status> {
    Uuid::parse_str(&payment.id).map_err(|_| malformed("payment"))
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
