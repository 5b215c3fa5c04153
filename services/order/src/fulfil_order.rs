//! FulfilOrder: captures the share of a confirmed order and submits its claim.

use chassis::idempotency::{self, KeyState};
use proto::order::v1 as wire;
use uuid::Uuid;

use crate::{
    app::App,
    cancel_order,
    error::Error,
    events,
    order::{Order, State},
    request::Request,
    response::{Completion, PendingResponse, Response},
    saga::{Kind, Origin, Saga, SagaContext},
    store,
};

/// Fulfils the order. If its payment can no longer be captured, the order is cancelled and returned as such.
///
/// # Errors
/// FAILED_PRECONDITION unless it is CONFIRMED; ABORTED while another saga changes it.
pub async fn execute(app: &App, request: &Request, id: Uuid) -> Result<Response, Error> {
    let mut tx = app.database.begin(&request.facility).await?;
    let claimed = idempotency::acquire(&mut tx, &request.facility, &request.key, id).await?;
    if let KeyState::Completed(bytes) = claimed {
        return Ok(Response::replayed(bytes));
    }
    let order = store::orders::lock(&mut tx, id).await?;
    let mut order = order.ok_or_else(|| Error::OrderNotFound(id.to_string()))?;
    let lines = store::lines::list(&mut tx, id).await?.into();
    let pending = PendingResponse::new::<wire::FulfilOrderResponse>(&request.key, lines);
    if let KeyState::InProgress { .. } = claimed {
        tx.rollback().await?;
        return pending
            .finish_repeated(app, request, Completion::OrderAtRest { order_id: id })
            .await;
    }
    match check_fulfillable(&order) {
        Err(Error::Busy) => return Err(cancel_order::busy_error(&mut tx, &order).await?),
        checked => checked?,
    }

    let from = order.version;
    let plan = Kind::fulfil(&order);
    let mut saga = Saga::begin(
        Kind::FulfilOrder,
        plan,
        order.facility.clone(),
        id,
        app.saga_deadline(),
    );
    order.saga_id = saga.id;
    order.busy = true;
    order.touch();
    store::orders::save(&mut tx, &[(&order, from)]).await?;
    store::sagas::insert(&mut tx, &[(&saga, app.engine.lease())]).await?;
    ::events::append(&mut tx, &events::take_from_saga(&mut saga)).await?;
    tx.commit().await?;
    app.outbox.wake();

    let origin = Origin::Request(request.context.clone());
    let result = app
        .engine
        .drive(SagaContext::new(saga, order), &origin, Some(&pending))
        .await;
    pending
        .finish(app, request, Completion::OrderAtRest { order_id: id }, result)
        .await
}

fn check_fulfillable(order: &Order) -> Result<(), Error> {
    match order.state {
        State::Confirmed | State::Pending if order.busy => Err(Error::Busy),
        State::Confirmed => Ok(()),
        state => Err(Error::Precondition(
            state.refusal(),
            format!("an order that is {state} cannot be fulfilled"),
        )),
    }
}
