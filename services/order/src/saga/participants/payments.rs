//! Calls of the payment service.

use chassis::{Tasks, idempotency::REPLAYED};
use mesh::{Channel, Context};
use proto::payment::v1::{
    AuthorizePaymentRequest, CapturePaymentRequest, GetPaymentRequest, ListPaymentsRequest, Payment,
    PaymentPurpose, RefundPaymentRequest, VoidPaymentRequest, payment_service_client::PaymentServiceClient,
};
use time::OffsetDateTime;
use tonic::{Code, Response, Status};
use uuid::Uuid;

use super::{
    super::outcome,
    bulk::{Authorize, Calls},
    done, internal, malformed,
    manual_changes::{self, Part},
    payment_outcome::{authorization_outcome, payment_id},
};
use crate::{
    order::Order,
    saga::{Effect, OrderPayments, Outcome, ServiceCredentials},
};

#[derive(Clone)]
pub(super) struct PaymentClient {
    client: PaymentServiceClient<Channel>,
    authorize: Calls<Authorize>,
}

impl PaymentClient {
    pub(super) fn new(channel: Channel, credentials: &ServiceCredentials, tasks: &Tasks) -> PaymentClient {
        let client = PaymentServiceClient::new(channel);
        PaymentClient {
            authorize: Calls::new(Authorize(client.clone()), credentials, tasks),
            client,
        }
    }

    /// Authorizes the share. An existing payment is only queried, because it may have been charged. If there is a
    /// payment method and the capture comes next, one call does both.
    pub(super) async fn authorize(
        &self,
        context: &Context,
        order: &Order,
        key: Uuid,
        now: OffsetDateTime,
    ) -> Result<Outcome, Status> {
        let capture = order.immediate && !order.payment_method.is_empty();
        let payment = match order.payment_id {
            Some(id) => self.get_by_id(context, id.to_string()).await?,
            None => {
                // An earlier version of this service may have called with the saga's key and without the capture.
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
                match self
                    .authorize
                    .call(context, (&order.facility, order.id), request)
                    .await
                {
                    Ok(answer) => {
                        let payment = self.current(context, answer, |answer| answer.payment).await?;
                        match manual_changes::check_captured(order, &payment)? {
                            Some(Outcome::Done(_)) => {
                                return Ok(Outcome::Done(Effect::PaymentCaptured(payment_id(&payment)?)));
                            }
                            Some(given_back) => return Ok(given_back),
                            None => payment,
                        }
                    }
                    Err(refused) if outcome::is_refusal(&refused) => {
                        let payment = self
                            .get_refused(context, order, PaymentPurpose::Share, refused)
                            .await?;
                        if let Some(other) = manual_changes::check_amount(order, &payment)? {
                            return Ok(other);
                        }
                        payment
                    }
                    Err(status) => return Err(status),
                }
            }
        };
        authorization_outcome(order, &payment, now)
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
        match self
            .client
            .clone()
            .capture_payment(context.request(request))
            .await
        {
            Ok(answer) => {
                let payment = self.current(context, answer, |answer| answer.payment).await?;
                let unconfirmed = || Status::unavailable("the capture has not been confirmed yet");
                manual_changes::check_captured(order, &payment)?.ok_or_else(unconfirmed)
            }
            Err(refused) if outcome::is_refusal(&refused) => {
                let payment = self
                    .get_refused(context, order, PaymentPurpose::Share, refused.clone())
                    .await?;
                manual_changes::check_captured(order, &payment)?.ok_or(refused)
            }
            Err(status) => Err(status),
        }
    }

    /// Voids the share. With immediate capture the authorizing call may have captured it; then it is refunded. In
    /// other orders a captured share was captured manually.
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
            .get_refused(context, order, PaymentPurpose::Share, refused.clone())
            .await?;
        if !order.immediate {
            return manual_changes::check_fully_refunded(order, &payment)?.ok_or(refused);
        }
        match manual_changes::kept_amount(&payment)? {
            None if manual_changes::is_undecided(&payment) => {
                Err(Status::unavailable("the outcome of the payment is not known yet"))
            }
            None => Err(refused),
            Some(0) => Ok(done()),
            Some(_) => {
                let request = RefundPaymentRequest {
                    request_id: Uuid::new_v5(&key, b"refund").to_string(),
                    id: payment.id,
                    amount: None,
                    reason: reason.to_owned(),
                };
                self.client
                    .clone()
                    .refund_payment(context.request(request))
                    .await?;
                Ok(done())
            }
        }
    }

    /// Voids the payment of the balance. If the patient has paid it in the meantime, it is to be refunded instead.
    pub(super) async fn void_balance_step(
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
                    .get_refused(context, order, PaymentPurpose::Balance, refused.clone())
                    .await?;
                manual_changes::check_balance_paid(order, &payment)?.ok_or(refused)
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

    /// Refunds a part of a refund. A part that was already refunded manually is done.
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
            (PaymentPurpose::Balance, _) => {
                self.get_by_order(context, order, PaymentPurpose::Balance)
                    .await?
                    .id
            }
            (_, Some(id)) => id.to_string(),
            (_, None) => return Err(internal("the order's payment is not known")),
        };
        let request = RefundPaymentRequest {
            request_id: key.to_string(),
            id,
            amount: Some(order.money(part.wanted).into()),
            reason: reason.to_owned(),
        };
        match self.client.clone().refund_payment(context.request(request)).await {
            Ok(_) => Ok(done()),
            Err(refused) if outcome::is_refusal(&refused) => {
                let payment = self
                    .get_refused(context, order, part.purpose, refused.clone())
                    .await?;
                manual_changes::check_refunded(order, &payment, part)?.ok_or(refused)
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
        self.client
            .clone()
            .void_payment(context.request(request))
            .await
            .map(drop)
    }

    pub(super) async fn order_payments(
        &self,
        context: &Context,
        order: &Order,
    ) -> Result<OrderPayments, Status> {
        let request = ListPaymentsRequest {
            order_id: order.id.to_string(),
            ..ListPaymentsRequest::default()
        };
        let answer = self
            .client
            .clone()
            .list_payments(context.request(request))
            .await?;
        let mut payments = OrderPayments::default();
        for payment in answer.into_inner().payments {
            let paid = manual_changes::totals(&payment)?;
            match payment.purpose() {
                PaymentPurpose::Balance => payments.balance = paid,
                PaymentPurpose::Share | PaymentPurpose::Unspecified => payments.share = paid,
            }
        }
        Ok(payments)
    }

    /// The payment of a response in its current state. A replayed response does not include later refunds.
    async fn current<M>(
        &self,
        context: &Context,
        answer: Response<M>,
        payment: impl Fn(M) -> Option<Payment>,
    ) -> Result<Payment, Status> {
        let is_repeated = answer.metadata().contains_key(REPLAYED);
        let payment = payment(answer.into_inner()).ok_or_else(|| malformed("payment"))?;
        if is_repeated {
            self.get_by_id(context, payment.id).await
        } else {
            Ok(payment)
        }
    }

    /// The payment that a call was refused for; if it is not found, the refusal stands.
    async fn get_refused(
        &self,
        context: &Context,
        order: &Order,
        purpose: PaymentPurpose,
        refused: Status,
    ) -> Result<Payment, Status> {
        match self.get_by_order(context, order, purpose).await {
            Err(status) if status.code() == Code::NotFound => Err(refused),
            found => found,
        }
    }

    async fn get_by_id(&self, context: &Context, id: String) -> Result<Payment, Status> {
        let request = GetPaymentRequest {
            id,
            ..GetPaymentRequest::default()
        };
        self.get(context, request).await
    }

    async fn get_by_order(
        &self,
        context: &Context,
        order: &Order,
        purpose: PaymentPurpose,
    ) -> Result<Payment, Status> {
        let request = GetPaymentRequest {
            id: String::new(),
            order_id: order.id.to_string(),
            purpose: purpose.into(),
        };
        self.get(context, request).await
    }

    async fn get(&self, context: &Context, request: GetPaymentRequest) -> Result<Payment, Status> {
        let answer = self
            .client
            .clone()
            .get_payment(context.request(request))
            .await?
            .into_inner();
        answer.payment.ok_or_else(|| malformed("payment"))
    }
}
