//! Decode, use case, encode.

mod ledger;

use chassis::{
    Identity, PageTokens, bulk, idempotency,
    idempotency::Key,
    page::{self, List},
    status,
};
use mesh::Context;
use money::Money;
use prost::Message;
use proto::{
    google::r#type::Money as WireMoney,
    payment::v1::{
        AuthorizePaymentRequest, AuthorizePaymentResponse, AuthorizePaymentsRequest,
        AuthorizePaymentsResponse, AuthorizePaymentsResult, CapturePaymentRequest, CapturePaymentResponse,
        GetPaymentRequest, GetPaymentResponse, ListPaymentsRequest, ListPaymentsResponse, PayOrderRequest,
        PayOrderResponse, RefundPaymentRequest, RefundPaymentResponse, VoidPaymentRequest,
        VoidPaymentResponse, authorize_payments_result::Result as AuthorizeResult,
        payment_service_server::PaymentService,
    },
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    authorize_payment::{AuthorizePayment, authorize_payment},
    capture_payment::{CapturePayment, capture_payment},
    desk::{self, Answer, Desk},
    pay_order::{PayOrder, pay_order},
    payment::Purpose,
    read_payments::{Named, get_payment, list_payments},
    refund_payment::{RefundPayment, refund_payment},
    store::Filter,
    void_payment::{VoidPayment, void_payment},
    wire,
};

/// Serves PaymentService and LedgerService.
#[derive(Clone)]
pub struct Grpc {
    pub desk: Desk,
    pub pages: PageTokens,
}

#[tonic::async_trait]
impl PaymentService for Grpc {
    async fn authorize_payment(
        &self,
        request: Request<AuthorizePaymentRequest>,
    ) -> Result<Response<AuthorizePaymentResponse>, Status> {
        let made = made("AuthorizePayment", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let command = AuthorizePayment {
            order_id: id("order_id", &message.order_id)?,
            purpose: purpose(message.purpose)?,
            amount: amount(message.amount.as_ref())?
                .ok_or_else(|| status::invalid_field("amount", "must be set"))?,
            method: message.payment_method,
            capture: message.capture,
        };
        let answer = authorize_payment(&self.desk, &made, command).await?;
        Ok(respond(answer, |payment| AuthorizePaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn authorize_payments(
        &self,
        request: Request<AuthorizePaymentsRequest>,
    ) -> Result<Response<AuthorizePaymentsResponse>, Status> {
        let service = self.clone();
        let handle = move |one| {
            let service = service.clone();
            async move { service.authorize_payment(one).await }
        };
        let outcomes = bulk::carry_out(request.map(|call| call.requests), handle).await;
        let results = bulk::results(outcomes, |outcome, replayed| AuthorizePaymentsResult {
            result: Some(outcome.map_or_else(AuthorizeResult::Error, AuthorizeResult::Response)),
            replayed,
        });
        Ok(Response::new(AuthorizePaymentsResponse { results }))
    }

    async fn capture_payment(
        &self,
        request: Request<CapturePaymentRequest>,
    ) -> Result<Response<CapturePaymentResponse>, Status> {
        let made = made("CapturePayment", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let command = CapturePayment {
            id: id("id", &message.id)?,
            amount: amount(message.amount.as_ref())?,
        };
        let answer = capture_payment(&self.desk, &made, command).await?;
        Ok(respond(answer, |payment| CapturePaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn void_payment(
        &self,
        request: Request<VoidPaymentRequest>,
    ) -> Result<Response<VoidPaymentResponse>, Status> {
        let made = made("VoidPayment", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let command = VoidPayment {
            order_id: id("order_id", &message.order_id)?,
            purpose: purpose(message.purpose)?,
            reason: message.reason,
        };
        let answer = void_payment(&self.desk, &made, command).await?;
        Ok(respond(answer, |payment| VoidPaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn refund_payment(
        &self,
        request: Request<RefundPaymentRequest>,
    ) -> Result<Response<RefundPaymentResponse>, Status> {
        let made = made("RefundPayment", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let (id, amount) = (id("id", &message.id)?, amount(message.amount.as_ref())?);
        let command = RefundPayment {
            id,
            amount,
            reason: message.reason,
        };
        let answer = refund_payment(&self.desk, &made, command).await?;
        Ok(respond(answer, |payment| RefundPaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn pay_order(
        &self,
        request: Request<PayOrderRequest>,
    ) -> Result<Response<PayOrderResponse>, Status> {
        let made = made("PayOrder", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let command = PayOrder {
            order_id: id("order_id", &message.order_id)?,
            method: message.payment_method,
        };
        let answer = pay_order(&self.desk, &made, command).await?;
        Ok(respond(answer, |payment| PayOrderResponse {
            payment: Some(payment),
        }))
    }

    async fn get_payment(
        &self,
        request: Request<GetPaymentRequest>,
    ) -> Result<Response<GetPaymentResponse>, Status> {
        let facility = Identity::of(&request)?.facility;
        let message = request.into_inner();
        let named = if message.id.is_empty() {
            Named::Of(id("order_id", &message.order_id)?, purpose(message.purpose)?)
        } else {
            Named::Id(id("id", &message.id)?)
        };
        let payment = get_payment(&self.desk, &facility, named).await?;
        Ok(Response::new(GetPaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn list_payments(
        &self,
        request: Request<ListPaymentsRequest>,
    ) -> Result<Response<ListPaymentsResponse>, Status> {
        let facility = Identity::of(&request)?.facility;
        let message = request.into_inner();
        let filter = Filter {
            order_id: optional_id("order_id", &message.order_id)?,
            state: wire::state_of(message.state),
        };
        let list = List {
            method: "payment.v1.PaymentService/ListPayments",
            facility: &facility,
            filter: &format!("order={} state={}", message.order_id, message.state),
        };
        let after: Option<Uuid> = self.pages.decode(&list, &message.page_token)?;
        let size = page::size(message.page_size)?;
        let (payments, next) = list_payments(&self.desk, &facility, filter, after, size).await?;
        let next = next.map(|next| self.pages.encode(&list, &next)).transpose()?;
        Ok(Response::new(ListPaymentsResponse {
            payments,
            next_page_token: next.unwrap_or_default(),
        }))
    }
}

/// What makes this request and its repetitions one.
fn made<M: Message>(method: &str, request: &Request<M>, request_id: &str) -> Result<desk::Request, Status> {
    let method = format!("payment.v1.PaymentService/{method}");
    Ok(desk::Request {
        facility: Identity::of(request)?.facility,
        key: Key::of(&method, request_id, request.get_ref())?,
        deadline: request.extensions().get::<Context>().and_then(Context::deadline),
    })
}

fn respond<M>(answer: Answer, response: impl FnOnce(proto::payment::v1::Payment) -> M) -> Response<M> {
    let message = response(answer.payment);
    if answer.replayed {
        idempotency::replayed(message)
    } else {
        Response::new(message)
    }
}

fn id(field: &str, text: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| status::invalid_field(field, "must be a UUID"))
}

fn optional_id(field: &str, text: &str) -> Result<Option<Uuid>, Status> {
    if text.is_empty() {
        Ok(None)
    } else {
        id(field, text).map(Some)
    }
}

fn purpose(wire: i32) -> Result<Purpose, Status> {
    wire::purpose_of(wire).ok_or_else(|| status::invalid_field("purpose", "must be SHARE or BALANCE"))
}

fn amount(wire: Option<&WireMoney>) -> Result<Option<Money>, Status> {
    wire.map(|wire| wire::money(wire).map_err(|problem| status::invalid_field("amount", problem)))
        .transpose()
}
