//! The response to a mutating request. It is stored once the order is at rest; repetitions get the same one.

use std::sync::Arc;

use chassis::idempotency::{self, Key};
use prost::Message;
use proto::order::v1 as wire;
use sqlx::PgConnection;
use tokio::time::sleep_until;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    grpc::encode,
    order::{Line, Order},
    refund::{Refund, RefundState},
    request::Request,
    saga::SagaContext,
    store,
};

/// A response that is sent once the work is done.
#[derive(Clone, Debug)]
pub struct PendingResponse {
    /// The key under which it is stored.
    pub key: Key,
    /// The order's lines.
    pub lines: Arc<[Line]>,
    /// Encodes the method's response with the order.
    encode: fn(wire::Order) -> Vec<u8>,
}

/// The response of a method that answers with the order.
pub trait OrderResponse: Message + Sized {
    fn with_order(order: wire::Order) -> Self;
}

macro_rules! answers_with_order {
    ($($response:ident),*) => {
        $(impl OrderResponse for wire::$response {
            fn with_order(order: wire::Order) -> Self {
                Self { order: Some(order) }
            }
        })*
    };
}

answers_with_order!(
    PlaceOrderResponse,
    FulfilOrderResponse,
    CancelOrderResponse,
    RefundOrderResponse,
    ResolveOrderBalanceResponse
);

/// An encoded response.
#[derive(Clone, Debug)]
pub struct Response {
    pub bytes: Vec<u8>,
    /// Whether this is the stored response to an earlier request with the same key.
    pub replayed: bool,
}

/// What must have happened before a response is stored.
#[derive(Clone, Copy, Debug)]
pub enum Completion {
    /// The order is at rest.
    OrderAtRest { order_id: Uuid },
    /// The refund has succeeded or failed.
    RefundFinished { order_id: Uuid, refund_id: Uuid },
}

impl PendingResponse {
    /// A response of the type `R` to a request with this key.
    pub fn new<R: OrderResponse>(key: &Key, lines: Arc<[Line]>) -> PendingResponse {
        PendingResponse {
            key: key.clone(),
            lines,
            encode: |order| R::with_order(order).encode_to_vec(),
        }
    }

    /// Encodes the order as it is now and stores the response. Returns the stored response, which may be an
    /// earlier one.
    pub async fn store(&self, conn: &mut PgConnection, order: &Order) -> Result<Vec<u8>, Error> {
        let response = self.encode_current(conn, order).await?;
        let stored = idempotency::store_responses(conn, &[(&order.facility, &self.key, response)]).await?;
        Ok(stored.into_iter().next().unwrap_or_default())
    }

    /// Encodes the order as it is now. The result is not stored, because the request is not finished.
    async fn encode_current(&self, conn: &mut PgConnection, order: &Order) -> Result<Vec<u8>, Error> {
        let refunds = match order.refund_count {
            0 => Vec::new(),
            _ => store::refunds::list(conn, order.id).await?,
        };
        Ok(self.encode(order, &refunds))
    }

    /// Encodes the response with the order.
    pub fn encode(&self, order: &Order, refunds: &[Refund]) -> Vec<u8> {
        (self.encode)(encode::order(order, &self.lines, refunds))
    }

    /// The response to a request that has begun a saga and driven it with this result: the order in its final
    /// state if it gets there in time, otherwise as it is now.
    pub async fn finish(
        &self,
        app: &App,
        request: &Request,
        completion: Completion,
        result: Result<SagaContext, Error>,
    ) -> Result<Response, Error> {
        match result {
            Ok(SagaContext {
                response: Some(bytes),
                ..
            }) => return Ok(Response::new(bytes)),
            // Another process drives the saga now, or this process's worker will.
            Ok(_) | Err(Error::LeaseLost) => app.engine.wake(),
            Err(error) => return Err(error),
        }
        if let Some(bytes) = self.wait(app, request, completion).await? {
            return Ok(Response::new(bytes));
        }
        let mut tx = app.database.begin(&request.facility).await?;
        let order = store::orders::get(&mut tx, completion.order_id()).await?;
        let order = order.ok_or_else(|| Error::OrderNotFound(completion.order_id().to_string()))?;
        let bytes = self.encode_current(&mut tx, &order).await?;
        tx.commit().await?;
        Ok(Response::new(bytes))
    }

    /// The response to a repeated request when the first one has begun and has no stored response: it is still
    /// running, or was interrupted and is resumed.
    pub async fn finish_repeated(
        &self,
        app: &App,
        request: &Request,
        completion: Completion,
    ) -> Result<Response, Error> {
        let bytes = self.wait(app, request, completion).await?;
        bytes.map(Response::replayed).ok_or(Error::InProgress)
    }

    /// Waits for the completion and stores the response; `None` when the request's time is over first.
    async fn wait(
        &self,
        app: &App,
        request: &Request,
        completion: Completion,
    ) -> Result<Option<Vec<u8>>, Error> {
        let deadline = request.answer_by;
        let mut subscription = app
            .order_notifier
            .subscribe(&request.facility, completion.order_id());
        loop {
            let mut tx = app.database.begin(&request.facility).await?;
            let order = store::orders::get(&mut tx, completion.order_id()).await?;
            let order = order.ok_or_else(|| Error::OrderNotFound(completion.order_id().to_string()))?;
            if completion.is_reached(&mut tx, &order).await? {
                let bytes = self.store(&mut tx, &order).await?;
                tx.commit().await?;
                idempotency::notify_waiters(&app.database, &request.facility, &self.key);
                return Ok(Some(bytes));
            }
            tx.commit().await?;
            tokio::select! {
                () = subscription.changed() => {}
                () = sleep_until(deadline) => return Ok(None),
            }
        }
    }
}

impl Response {
    /// A response that is sent for the first time.
    pub fn new(bytes: Vec<u8>) -> Response {
        Response {
            bytes,
            replayed: false,
        }
    }

    /// The stored response to an earlier request with the same key.
    pub fn replayed(bytes: Vec<u8>) -> Response {
        Response {
            bytes,
            replayed: true,
        }
    }
}

impl Completion {
    fn order_id(self) -> Uuid {
        match self {
            Completion::OrderAtRest { order_id } | Completion::RefundFinished { order_id, .. } => order_id,
        }
    }

    async fn is_reached(self, conn: &mut PgConnection, order: &Order) -> Result<bool, Error> {
        match self {
            Completion::OrderAtRest { .. } => Ok(order.is_at_rest()),
            Completion::RefundFinished { order_id, refund_id } => {
                let refunds = store::refunds::list(conn, order_id).await?;
                let refund = refunds.iter().find(|refund| refund.id == refund_id);
                Ok(refund.is_none_or(|refund| refund.state != RefundState::Pending))
            }
        }
    }
}
