//! Gives back a fulfilled order: some lines, an amount, or all that is left.

use chassis::idempotency::{self, Claim};
use uuid::Uuid;

use crate::{
    answer::{Answered, Reply, Until},
    desk::{Desk, Request},
    error::Error,
    refund::{self, Refund, Wanted},
    saga::{Caller, Kind, Run, Saga},
    store::{self, refunds::Origin},
    told,
};

/// A checked request to give something back.
#[derive(Clone, Debug)]
pub struct Return {
    pub order_id: Uuid,
    pub wanted: Wanted,
    pub reason: String,
    /// The caller's own number; may be empty.
    pub reference: String,
}

/// Gives it back. What is asked for is reserved under the order's lock, so that refunds at the same time never exceed
/// what was paid.
///
/// # Errors
/// FAILED_PRECONDITION when the order is not fulfilled or less is left; ALREADY_EXISTS when the reference is taken.
pub async fn refund(desk: &Desk, request: &Request, asked: Return) -> Result<Answered, Error> {
    let order_id = asked.order_id;
    match refund_now(desk, request, asked).await {
        // It finds its own work done, or under way.
        Err(error @ (Error::Made | Error::RefundReferenceTaken | Error::Precondition(..))) => {
            again(desk, request, order_id).await?.ok_or(error)
        }
        refunded => refunded,
    }
}

/// A request whose answer is forgotten and whose refund is not is answered with the order as it is now.
async fn again(desk: &Desk, request: &Request, order_id: Uuid) -> Result<Option<Answered>, Error> {
    let mut tx = desk.database.begin(&request.facility).await?;
    let made = store::refunds::made_by(&mut tx, &request.facility, &request.key).await?;
    let lines = store::lines::of(&mut tx, order_id).await?.into();
    tx.commit().await?;
    let Some((refund_id, hash)) = made else {
        return Ok(None);
    };
    if hash != request.key.hash() {
        return Err(idempotency::Error::KeyReused.into());
    }
    let reply = Reply {
        key: request.key.clone(),
        lines,
    };
    let until = Until::Refunded { order_id, refund_id };
    desk.conclude_again(request, &reply, until).await.map(Some)
}

async fn refund_now(desk: &Desk, request: &Request, asked: Return) -> Result<Answered, Error> {
    let (order_id, refund_id) = (asked.order_id, Uuid::now_v7());
    let mut tx = desk.database.begin(&request.facility).await?;
    let claimed = idempotency::claim(&mut tx, &request.facility, &request.key, refund_id).await?;
    if let Claim::Answered(bytes) = claimed {
        return Ok(Answered::again(bytes));
    }
    let order = store::orders::lock(&mut tx, order_id).await?;
    let mut order = order.ok_or_else(|| Error::NoOrder(order_id.to_string()))?;
    let lines = store::lines::of(&mut tx, order_id).await?.into();
    let reply = Reply {
        key: request.key.clone(),
        lines,
    };
    if let Claim::Running { resource_id } = claimed {
        tx.rollback().await?;
        let until = Until::Refunded {
            order_id,
            refund_id: resource_id,
        };
        return desk.conclude_again(request, &reply, until).await;
    }

    let earlier = match order.refund_count {
        0 => Vec::new(),
        _ => store::refunds::of(&mut tx, order_id).await?,
    };
    let planned = refund::plan(&order, &reply.lines, &earlier, &asked.wanted)?;
    let refund = Refund {
        id: refund_id,
        reason: asked.reason,
        reference: asked.reference,
        ..planned
    };

    let from = order.version;
    let plan = Kind::refund(&order, &refund);
    let mut saga = Saga::begin(
        Kind::RefundOrder,
        plan,
        order.facility.clone(),
        order_id,
        desk.deadline(),
    );
    saga.refund_id = Some(refund_id);
    order.saga_id = saga.id;
    order.refund_count += 1;
    order.touch();
    store::orders::save(&mut tx, &[(&order, from)]).await?;
    let origin = Origin {
        order: &order,
        saga_id: saga.id,
        key: Some(&request.key),
    };
    store::refunds::insert(&mut tx, &origin, &refund).await?;
    store::sagas::insert(&mut tx, &[(&saga, desk.engine.lease())]).await?;
    events::append(&mut tx, &told::of_saga(&mut saga)).await?;
    tx.commit().await?;
    desk.outbox.wake();

    let mut run = Run::new(saga, order);
    run.refund = Some(refund);
    let driven = desk
        .engine
        .drive(run, &Caller::Waiting(request.context.clone()), Some(&reply))
        .await;
    desk.conclude(request, &reply, Until::Refunded { order_id, refund_id }, driven)
        .await
}
