//! Captures the share of a confirmed order and files its claim.

use chassis::idempotency::{self, Claim};
use uuid::Uuid;

use crate::{
    answer::{Answered, Reply, Until},
    cancel_order,
    desk::{Desk, Request},
    error::Error,
    order::{Order, State},
    saga::{Caller, Kind, Run, Saga},
    store, told,
};

/// Fulfils the order. One whose money cannot be taken any more is cancelled, and answered so.
///
/// # Errors
/// FAILED_PRECONDITION unless it is CONFIRMED; ABORTED while another saga decides about it.
pub async fn fulfil(desk: &Desk, request: &Request, id: Uuid) -> Result<Answered, Error> {
    let mut tx = desk.database.begin(&request.facility).await?;
    let claimed = idempotency::claim(&mut tx, &request.facility, &request.key, id).await?;
    if let Claim::Answered(bytes) = claimed {
        return Ok(Answered::again(bytes));
    }
    let order = store::orders::lock(&mut tx, id).await?;
    let mut order = order.ok_or_else(|| Error::NoOrder(id.to_string()))?;
    let lines = store::lines::of(&mut tx, id).await?.into();
    let reply = Reply {
        key: request.key.clone(),
        lines,
    };
    if let Claim::Running { .. } = claimed {
        tx.rollback().await?;
        return desk
            .conclude_again(request, &reply, Until::Rest { order_id: id })
            .await;
    }
    match may_fulfil(&order) {
        Err(Error::Busy) => return Err(cancel_order::busy(&mut tx, &order).await?),
        checked => checked?,
    }

    let from = order.version;
    let plan = Kind::fulfil(&order);
    let mut saga = Saga::begin(
        Kind::FulfilOrder,
        plan,
        order.facility.clone(),
        id,
        desk.deadline(),
    );
    order.saga_id = saga.id;
    order.busy = true;
    order.touch();
    store::orders::save(&mut tx, &[(&order, from)]).await?;
    store::sagas::insert(&mut tx, &[(&saga, desk.engine.lease())]).await?;
    events::append(&mut tx, &told::of_saga(&mut saga)).await?;
    tx.commit().await?;
    desk.outbox.wake();

    let caller = Caller::Waiting(request.context.clone());
    let driven = desk
        .engine
        .drive(Run::new(saga, order), &caller, Some(&reply))
        .await;
    desk.conclude(request, &reply, Until::Rest { order_id: id }, driven)
        .await
}

fn may_fulfil(order: &Order) -> Result<(), Error> {
    match order.state {
        State::Confirmed | State::Pending if order.busy => Err(Error::Busy),
        State::Confirmed => Ok(()),
        state => Err(Error::Precondition(
            state.refusal(),
            format!("an order that is {state} cannot be fulfilled"),
        )),
    }
}
