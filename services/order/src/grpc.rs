//! The gRPC API: decode, use case, encode. No SQL.

mod decode;
pub mod encode;
mod sagas;

use std::pin::Pin;

use chassis::{
    Identity, Process, bulk,
    idempotency::{self, Key},
    page, status,
};
use futures_util::Stream;
use mesh::Context;
use prost::Message;
use proto::order::v1::{
    CancelOrderRequest, CancelOrderResponse, FulfilOrderRequest, FulfilOrderResponse, GetOrderRequest,
    GetOrderResponse, ListOrdersRequest, ListOrdersResponse, PlaceOrderRequest, PlaceOrderResponse,
    PlaceOrdersRequest, PlaceOrdersResponse, PlaceOrdersResult, RefundOrderRequest, RefundOrderResponse,
    ResolveOrderBalanceRequest, ResolveOrderBalanceResponse, WatchOrderRequest, WatchOrderResponse,
    order_service_server::OrderService, place_orders_result::Result as PlaceOrderResult,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::{
    app::App, cancel_order, error::Error, fulfil_order, place_order, read_orders, refund_order, request,
    resolve_order_balance, response, watch_order::Watch,
};

/// Serves OrderService and SagaService.
#[derive(Clone)]
pub struct Grpc {
    pub app: App,
    pub process: Process,
}

#[tonic::async_trait]
impl OrderService for Grpc {
    async fn place_order(
        &self,
        request: Request<PlaceOrderRequest>,
    ) -> Result<Response<PlaceOrderResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        if request.get_ref().validate_only {
            let context = context(&request);
            let input =
                decode::place_order(&identity.facility, request.into_inner()).map_err(Error::Invalid)?;
            let order = place_order::validate(&self.app, &context, input).await?;
            return Ok(Response::new(PlaceOrderResponse { order: Some(order) }));
        }
        let app_request = to_app_request("PlaceOrder", &identity, &request, &request.get_ref().request_id)?;
        let input = decode::place_order(&identity.facility, request.into_inner()).map_err(Error::Invalid)?;
        encode_response(&place_order::execute(&self.app, &app_request, input).await?)
    }

    async fn place_orders(
        &self,
        request: Request<PlaceOrdersRequest>,
    ) -> Result<Response<PlaceOrdersResponse>, Status> {
        let service = self.clone();
        let handle = move |one| {
            let service = service.clone();
            async move { service.place_order(one).await }
        };
        let request_id = |one: &PlaceOrderRequest| one.request_id.clone();
        let outcomes = bulk::execute_all(request.map(|call| call.requests), request_id, handle).await;
        let results = bulk::results(outcomes, |outcome, replayed| PlaceOrdersResult {
            result: Some(outcome.map_or_else(PlaceOrderResult::Error, PlaceOrderResult::Response)),
            replayed,
        });
        Ok(Response::new(PlaceOrdersResponse { results }))
    }

    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let GetOrderRequest { id, reference } = request.into_inner();
        let name = match reference.as_str() {
            "" => read_orders::Identifier::Id(uuid("id", &id)?),
            _ => read_orders::Identifier::Reference(reference),
        };
        let (_, order) = read_orders::get(&self.app, &identity.facility, &name).await?;
        Ok(Response::new(GetOrderResponse { order: Some(order) }))
    }

    async fn list_orders(
        &self,
        request: Request<ListOrdersRequest>,
    ) -> Result<Response<ListOrdersResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let request = request.into_inner();
        let filter = decode::order_filter(&request);
        let described = format!(
            "{:?}/{:?}/{:?}",
            filter.state, filter.patient_id, filter.line_code
        );
        let (method, facility) = ("order.v1.OrderService/ListOrders", &identity.facility);
        let list = page::List {
            method,
            facility,
            filter: &described,
        };
        let after: Option<Uuid> = self.app.page_tokens.decode(&list, &request.page_token)?;
        let size = page::size(request.page_size)?;
        let (orders, next) = read_orders::list(&self.app, facility, &filter, after, size).await?;
        let next_page_token = next
            .map(|next| self.app.page_tokens.encode(&list, &next))
            .transpose()?;
        Ok(Response::new(ListOrdersResponse {
            orders,
            next_page_token: next_page_token.unwrap_or_default(),
        }))
    }

    type WatchOrderStream = Pin<Box<dyn Stream<Item = Result<WatchOrderResponse, Status>> + Send>>;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let identity = Identity::from_request(&request)?;
        let id = uuid("id", &request.get_ref().id)?;
        let watch = Watch::new(&self.app, identity.facility, id);
        let updates = watch
            .start(&self.process.tasks, self.process.shutdown.clone())
            .await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(updates))))
    }

    async fn fulfil_order(
        &self,
        request: Request<FulfilOrderRequest>,
    ) -> Result<Response<FulfilOrderResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let app_request = to_app_request("FulfilOrder", &identity, &request, &request.get_ref().request_id)?;
        let id = uuid("id", &request.get_ref().id)?;
        encode_response(&fulfil_order::execute(&self.app, &app_request, id).await?)
    }

    async fn cancel_order(
        &self,
        request: Request<CancelOrderRequest>,
    ) -> Result<Response<CancelOrderResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let app_request = to_app_request("CancelOrder", &identity, &request, &request.get_ref().request_id)?;
        let id = uuid("id", &request.get_ref().id)?;
        encode_response(&cancel_order::execute(&self.app, &app_request, id, &request.get_ref().reason).await?)
    }

    async fn refund_order(
        &self,
        request: Request<RefundOrderRequest>,
    ) -> Result<Response<RefundOrderResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let app_request = to_app_request("RefundOrder", &identity, &request, &request.get_ref().request_id)?;
        let id = uuid("id", &request.get_ref().id)?;
        let name = read_orders::Identifier::Id(id);
        let (order, _) = read_orders::get(&self.app, &identity.facility, &name).await?;
        let input = decode::refund(&order, request.into_inner()).map_err(Error::Invalid)?;
        encode_response(&refund_order::execute(&self.app, &app_request, input).await?)
    }

    async fn resolve_order_balance(
        &self,
        request: Request<ResolveOrderBalanceRequest>,
    ) -> Result<Response<ResolveOrderBalanceResponse>, Status> {
        let identity = Identity::from_request(&request)?;
        let app_request = to_app_request(
            "ResolveOrderBalance",
            &identity,
            &request,
            &request.get_ref().request_id,
        )?;
        let decided = decode::resolution(request.into_inner())?;
        encode_response(&resolve_order_balance::execute(&self.app, &app_request, decided).await?)
    }
}

fn to_app_request<M: Message>(
    method: &str,
    identity: &Identity,
    request: &Request<M>,
    request_id: &str,
) -> Result<request::Request, Status> {
    let key = Key::new(
        &format!("order.v1.OrderService/{method}"),
        request_id,
        request.get_ref(),
    )?;
    Ok(request::Request::new(
        identity.facility.clone(),
        context(request),
        key,
    ))
}

fn context<M>(request: &Request<M>) -> Context {
    request
        .extensions()
        .get::<Context>()
        .cloned()
        .or_else(Context::current)
        .unwrap_or_default()
}

fn uuid(field: &str, text: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| status::invalid_field(field, "must be a UUID"))
}

/// Every response is sent exactly as it is stored, so that repetitions get the same one.
fn encode_response<M: Message + Default>(response: &response::Response) -> Result<Response<M>, Status> {
    if response.replayed {
        idempotency::replay(&response.bytes)
    } else {
        M::decode(response.bytes.as_slice())
            .map(Response::new)
            .map_err(|error| status::internal(&error))
    }
}
