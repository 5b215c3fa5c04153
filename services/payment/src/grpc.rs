//! The gRPC services: decodes a request, executes its use case, encodes the response.

mod decode;
pub mod encode;
mod ledger;

use chassis::{
    Identity, PageTokens, bulk, idempotency,
    page::{self, List},
    status,
};
use proto::payment::v1::{
    AuthorizePaymentRequest, AuthorizePaymentResponse, AuthorizePaymentsRequest, AuthorizePaymentsResponse,
    AuthorizePaymentsResult, CapturePaymentRequest, CapturePaymentResponse, GetPaymentRequest,
    GetPaymentResponse, ListPaymentsRequest, ListPaymentsResponse, PayOrderRequest, PayOrderResponse,
    RefundPaymentRequest, RefundPaymentResponse, VoidPaymentRequest, VoidPaymentResponse,
    authorize_payments_result::Result as AuthorizeResult, payment_service_server::PaymentService,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    app::App,
    authorize_payment::{self, AuthorizePayment},
    capture_payment::{self, CapturePayment},
    pay_order::{self, PayOrder},
    read_payments::{PaymentRef, get_payment, list_payments},
    refund_payment::{self, RefundPayment},
    response,
    store::Filter,
    void_payment::{self, VoidPayment},
};

/// Serves PaymentService and LedgerService.
#[derive(Clone)]
pub struct Grpc {
    pub app: App,
    pub pages: PageTokens,
}

#[tonic::async_trait]
impl PaymentService for Grpc {
    async fn authorize_payment(
        &self,
        request: Request<AuthorizePaymentRequest>,
    ) -> Result<Response<AuthorizePaymentResponse>, Status> {
        let decoded = decode::request("AuthorizePayment", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let command = AuthorizePayment {
            order_id: decode::id("order_id", &message.order_id)?,
            purpose: decode::purpose(message.purpose)?,
            amount: decode::amount(message.amount.as_ref())?
                .ok_or_else(|| status::invalid_field("amount", "must be set"))?,
            method: message.payment_method,
            capture: message.capture,
        };
        let response = authorize_payment::execute(&self.app, &decoded, command).await?;
        Ok(encode_response(response, |payment| AuthorizePaymentResponse {
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
        let outcomes = bulk::execute(request.map(|call| call.requests), handle).await;
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
        let decoded = decode::request("CapturePayment", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let command = CapturePayment {
            id: decode::id("id", &message.id)?,
            amount: decode::amount(message.amount.as_ref())?,
        };
        let response = capture_payment::execute(&self.app, &decoded, command).await?;
        Ok(encode_response(response, |payment| CapturePaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn void_payment(
        &self,
        request: Request<VoidPaymentRequest>,
    ) -> Result<Response<VoidPaymentResponse>, Status> {
        let decoded = decode::request("VoidPayment", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let command = VoidPayment {
            order_id: decode::id("order_id", &message.order_id)?,
            purpose: decode::purpose(message.purpose)?,
            reason: message.reason,
        };
        let response = void_payment::execute(&self.app, &decoded, command).await?;
        Ok(encode_response(response, |payment| VoidPaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn refund_payment(
        &self,
        request: Request<RefundPaymentRequest>,
    ) -> Result<Response<RefundPaymentResponse>, Status> {
        let decoded = decode::request("RefundPayment", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let (id, amount) = (
            decode::id("id", &message.id)?,
            decode::amount(message.amount.as_ref())?,
        );
        let command = RefundPayment {
            id,
            amount,
            reason: message.reason,
        };
        let response = refund_payment::execute(&self.app, &decoded, command).await?;
        Ok(encode_response(response, |payment| RefundPaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn pay_order(
        &self,
        request: Request<PayOrderRequest>,
    ) -> Result<Response<PayOrderResponse>, Status> {
        let decoded = decode::request("PayOrder", &request, &request.get_ref().request_id)?;
        let message = request.into_inner();
        let command = PayOrder {
            order_id: decode::id("order_id", &message.order_id)?,
            method: message.payment_method,
        };
        let response = pay_order::execute(&self.app, &decoded, command).await?;
        Ok(encode_response(response, |payment| PayOrderResponse {
            payment: Some(payment),
        }))
    }

    async fn get_payment(
        &self,
        request: Request<GetPaymentRequest>,
    ) -> Result<Response<GetPaymentResponse>, Status> {
        let facility = Identity::from_request(&request)?.facility;
        let message = request.into_inner();
        let payment = if message.id.is_empty() {
            PaymentRef::OrderPurpose(
                decode::id("order_id", &message.order_id)?,
                decode::purpose(message.purpose)?,
            )
        } else {
            PaymentRef::Id(decode::id("id", &message.id)?)
        };
        let payment = get_payment(&self.app, &facility, payment).await?;
        Ok(Response::new(GetPaymentResponse {
            payment: Some(payment),
        }))
    }

    async fn list_payments(
        &self,
        request: Request<ListPaymentsRequest>,
    ) -> Result<Response<ListPaymentsResponse>, Status> {
        let facility = Identity::from_request(&request)?.facility;
        let message = request.into_inner();
        let filter = Filter {
            order_id: decode::optional_id("order_id", &message.order_id)?,
            state: decode::state(message.state),
        };
        let list = List {
            method: "payment.v1.PaymentService/ListPayments",
            facility: &facility,
            filter: &format!("order={} state={}", message.order_id, message.state),
        };
        let after: Option<Uuid> = self.pages.decode(&list, &message.page_token)?;
        let size = page::size(message.page_size)?;
        let (payments, next) = list_payments(&self.app, &facility, filter, after, size).await?;
        let next = next.map(|next| self.pages.encode(&list, &next)).transpose()?;
        Ok(Response::new(ListPaymentsResponse {
            payments,
            next_page_token: next.unwrap_or_default(),
        }))
    }
}

fn encode_response<M>(
    response: response::Response,
    encode: impl FnOnce(proto::payment::v1::Payment) -> M,
) -> Response<M> {
    let message = encode(response.payment);
    if response.replayed {
        idempotency::replayed(message)
    } else {
        Response::new(message)
    }
}
