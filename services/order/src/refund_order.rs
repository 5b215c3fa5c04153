//! RefundOrder: refunds some lines, an amount, or everything that is left of a fulfilled order.

use chassis::idempotency::{self, KeyState};
use proto::order::v1 as wire;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    events,
    refund::{self, Refund, Scope},
    request::Request,
    response::{Completion, PendingResponse, Response},
    saga::{Kind, Origin, Saga, SagaContext},
    store::{self, refunds::Source},
};

/// A checked request to refund a part or all of an order.
#[derive(Clone, Debug)]
pub struct Input {
    pub order_id: Uuid,
    pub scope: Scope,
    pub reason: String,
    /// The caller's own reference; may be empty.
    pub reference: String,
}

/// Refunds the order. The amount is reserved under the order's lock, so that concurrent refunds never exceed what
/// was paid.
///
/// # Errors
/// FAILED_PRECONDITION when the order is not fulfilled or less is left; ALREADY_EXISTS when the reference is
/// taken.
pub async fn execute(app: &App, request: &Request, input: Input) -> Result<Response, Error> {
    let order_id = input.order_id;
    match execute_new(app, request, input).await {
        // The same request may have created a refund before; then that refund determines the response.
        Err(error @ (Error::AlreadyCreated | Error::RefundReferenceTaken | Error::Precondition(..))) => {
            respond_to_repeated(app, request, order_id).await?.ok_or(error)
        }
        refunded => refunded,
    }
}

/// The stored response was deleted, but the refund still exists: the response is the order as it is now.
async fn respond_to_repeated(
    app: &App,
    request: &Request,
    order_id: Uuid,
) -> Result<Option<Response>, Error> {
    let mut tx = app.database.begin(&request.facility).await?;
    let created = store::refunds::find_by_request(&mut tx, &request.facility, &request.key).await?;
    let lines = store::lines::list(&mut tx, order_id).await?.into();
    tx.commit().await?;
    let Some((refund_id, hash)) = created else {
        return Ok(None);
    };
    if hash != request.key.hash() {
        return Err(idempotency::Error::KeyReused.into());
    }
    let pending = PendingResponse::new::<wire::RefundOrderResponse>(&request.key, lines);
    let completion = Completion::RefundFinished { order_id, refund_id };
    pending.finish_repeated(app, request, completion).await.map(Some)
}

async fn execute_new(app: &App, request: &Request, input: Input) -> Result<Response, Error> {
    let (order_id, refund_id) = (input.order_id, Uuid::now_v7());
    let mut tx = app.database.begin(&request.facility).await?;
    let claimed = idempotency::acquire(&mut tx, &request.facility, &request.key, refund_id).await?;
    if let KeyState::Completed(bytes) = claimed {
        return Ok(Response::replayed(bytes));
    }
    let order = store::orders::lock(&mut tx, order_id).await?;
    let mut order = order.ok_or_else(|| Error::OrderNotFound(order_id.to_string()))?;
    let lines = store::lines::list(&mut tx, order_id).await?.into();
    let pending = PendingResponse::new::<wire::RefundOrderResponse>(&request.key, lines);
    if let KeyState::InProgress { resource_id } = claimed {
        tx.rollback().await?;
        let completion = Completion::RefundFinished {
            order_id,
            refund_id: resource_id,
        };
        return pending.finish_repeated(app, request, completion).await;
    }

    let earlier = match order.refund_count {
        0 => Vec::new(),
        _ => store::refunds::list(&mut tx, order_id).await?,
    };
    let planned = refund::plan(&order, &pending.lines, &earlier, &input.scope)?;
    let refund = Refund {
        id: refund_id,
        reason: input.reason,
        reference: input.reference,
        ..planned
    };

    let from = order.version;
    let plan = Kind::refund(&order, &refund);
    let mut saga = Saga::begin(
        Kind::RefundOrder,
        plan,
        order.facility.clone(),
        order_id,
        app.saga_deadline(),
    );
    saga.refund_id = Some(refund_id);
    order.saga_id = saga.id;
    order.refund_count += 1;
    order.touch();
    store::orders::save(&mut tx, &[(&order, from)]).await?;
    let source = Source {
        order: &order,
        saga_id: saga.id,
        key: Some(&request.key),
    };
    store::refunds::insert(&mut tx, &source, &refund).await?;
    store::sagas::insert(&mut tx, &[(&saga, app.engine.lease())]).await?;
    ::events::append(&mut tx, &events::take_from_saga(&mut saga)).await?;
    tx.commit().await?;
    app.outbox.wake();

    let mut context = SagaContext::new(saga, order);
    context.refund = Some(refund);
    let result = app
        .engine
        .drive(context, &Origin::Request(request.context.clone()), Some(&pending))
        .await;
    pending
        .finish(
            app,
            request,
            Completion::RefundFinished { order_id, refund_id },
            result,
        )
        .await
}
