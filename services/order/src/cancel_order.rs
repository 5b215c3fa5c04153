//! CancelOrder: cancels an order before it is fulfilled.

use chassis::idempotency::{self, KeyState};
use proto::order::v1 as wire;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    events,
    order::{Failure, Order, State},
    request::Request,
    response::{Completion, PendingResponse, Response},
    saga::{Kind, Origin, Saga, SagaContext, Step},
    store::{
        self,
        sagas::{Lease, SagaUpdate},
    },
};

/// Cancels the order: voids the payment and withdraws the claim draft.
///
/// # Errors
/// FAILED_PRECONDITION once it is fulfilled or has ended; ABORTED while a saga has passed the point where it may
/// be stopped.
pub async fn execute(app: &App, request: &Request, id: Uuid, reason: &str) -> Result<Response, Error> {
    let mut tx = app.database.begin(&request.facility).await?;
    let claimed = idempotency::acquire(&mut tx, &request.facility, &request.key, id).await?;
    if let KeyState::Completed(bytes) = claimed {
        return Ok(Response::replayed(bytes));
    }
    let order = store::orders::lock(&mut tx, id).await?;
    let mut order = order.ok_or_else(|| Error::OrderNotFound(id.to_string()))?;
    let lines = store::lines::list(&mut tx, id).await?.into();
    let pending = PendingResponse::new::<wire::CancelOrderResponse>(&request.key, lines);
    if let KeyState::InProgress { .. } = claimed {
        tx.rollback().await?;
        return pending
            .finish_repeated(app, request, Completion::OrderAtRest { order_id: id })
            .await;
    }

    match order.state {
        State::Pending | State::AwaitingPayment | State::Confirmed => {}
        State::Cancelling => return Err(busy_error(&mut tx, &order).await?),
        state => {
            let text = format!("an order that is {state} cannot be cancelled");
            return Err(Error::Precondition(state.refusal(), text));
        }
    }
    if order.busy {
        stop_place_order(&mut tx, &order).await?;
    }
    let failure = Failure::new(
        "CANCELLED",
        if reason.is_empty() {
            "the order was cancelled"
        } else {
            reason
        },
    );
    let saga = begin(
        &mut tx,
        &mut order,
        failure,
        app.saga_deadline(),
        app.engine.lease(),
        None,
    )
    .await?;
    tx.commit().await?;
    app.outbox.wake();
    app.order_notifier.notify(id);

    let origin = Origin::Request(request.context.clone());
    let result = app
        .engine
        .drive(SagaContext::new(saga, order), &origin, Some(&pending))
        .await;
    pending
        .finish(app, request, Completion::OrderAtRest { order_id: id }, result)
        .await
}

/// Begins the saga that cancels an order. The order must be locked and no other saga may be changing it.
pub async fn begin(
    conn: &mut PgConnection,
    order: &mut Order,
    failure: Failure,
    deadline_at: OffsetDateTime,
    lease: Lease,
    causation_id: Option<Uuid>,
) -> Result<Saga, Error> {
    let from = order.version;
    let plan = Kind::cancel(order);
    let mut saga = Saga::begin(
        Kind::CancelOrder,
        plan,
        order.facility.clone(),
        order.id,
        deadline_at,
    );
    order.begin_cancelling(failure)?;
    order.saga_id = saga.id;
    order.busy = true;
    store::orders::save(conn, &[(order, from)]).await?;
    store::sagas::insert(conn, &[(&saga, lease)]).await?;
    let mut events = events::take_from_order(order, Some(saga.id), causation_id);
    events.extend(events::take_from_saga(&mut saga));
    ::events::append(conn, &events).await?;
    Ok(saga)
}

/// The error for a request that must wait for the order's current saga.
pub async fn busy_error(conn: &mut PgConnection, order: &Order) -> Result<Error, Error> {
    let saga = store::sagas::get(conn, order.saga_id).await?;
    Ok(saga.map_or(Error::Busy, |saga| Error::busy(&saga)))
}

/// Stops a PlaceOrder saga that has not begun to capture. Voiding (or refunding) and withdrawing undo everything
/// it may have done, including the call in progress.
async fn stop_place_order(conn: &mut PgConnection, order: &Order) -> Result<(), Error> {
    let saga = store::sagas::lock(conn, order.saga_id).await?;
    let mut saga = saga.ok_or(Error::SagaNotFound(order.saga_id))?;
    let at = saga.action().map(|action| action.step);
    let fulfils = matches!(at, Some(Step::CapturePayment | Step::SubmitClaim));
    if saga.kind != Kind::PlaceOrder || saga.backward || fulfils {
        return Err(Error::busy(&saga));
    }
    let epoch = saga.epoch;
    saga.supersede("CANCELLED");
    store::sagas::save(conn, &[SagaUpdate::released(&saga, epoch)]).await?;
    ::events::append(conn, &events::take_from_saga(&mut saga)).await?;
    Ok(())
}
