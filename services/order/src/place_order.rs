//! Takes an order, and sees it to a final state if the caller's time allows.

use std::sync::Arc;

use chassis::{
    Violations,
    idempotency::{self, Claim},
};
use proto::{claims::v1::ClaimDetails, order::v1 as wire};
use tonic::Code;
use uuid::Uuid;

use crate::{
    answer::{Answered, Reply, To, Until},
    desk::{Desk, Request},
    error::Error,
    grpc::encode,
    order::{Line, Order, Placing},
    saga::{Caller, Kind, Run, Saga, outcome},
    store, told,
};

/// A checked request to place an order.
#[derive(Clone, Debug)]
pub struct Intake {
    pub placing: Placing,
    pub lines: Vec<Line>,
    pub claim: Option<ClaimDetails>,
}

/// Places the order.
///
/// # Errors
/// ALREADY_EXISTS when the reference is taken; ABORTED while the same request still runs.
pub async fn place(desk: &Desk, request: &Request, intake: Intake) -> Result<Answered, Error> {
    let Intake {
        placing,
        lines,
        claim,
    } = intake;
    let mut order = Order::place(placing, Uuid::nil());
    let plan = Kind::place(&order);
    let mut saga = Saga::begin(
        Kind::PlaceOrder,
        plan,
        order.facility.clone(),
        order.id,
        desk.patience,
    );
    order.saga_id = saga.id;
    let reply = Reply {
        key: request.key.clone(),
        to: To::PlaceOrder,
        lines: lines.into(),
    };

    let mut tx = desk.database.begin(&request.facility).await?;
    match idempotency::claim(&mut tx, &request.facility, &request.key, order.id).await? {
        Claim::New => {}
        Claim::Answered(bytes) => return Ok(Answered::again(bytes)),
        Claim::Running { resource_id } => {
            tx.rollback().await?;
            return desk
                .conclude_again(
                    request,
                    &reply,
                    Until::Rest {
                        order_id: resource_id,
                    },
                )
                .await;
        }
    }
    if let Err(error) = store::orders::insert(&mut tx, &order, claim.as_ref(), &request.key).await {
        tx.rollback().await?;
        return again(desk, request, &reply, error.into()).await;
    }
    store::lines::insert(&mut tx, &order.facility, order.id, &reply.lines).await?;
    store::sagas::insert(&mut tx, &saga, desk.engine.lease()).await?;
    let mut events = told::of_order(&mut order, Some(saga.id), None);
    events.extend(told::of_saga(&mut saga));
    events::append(&mut tx, &events).await?;
    tx.commit().await?;
    desk.outbox.wake();

    let until = Until::Rest { order_id: order.id };
    let mut run = Run::new(saga, order);
    run.claim = claim.map(Arc::new);
    let driven = desk
        .engine
        .drive(run, &Caller::Waiting(request.context.clone()), Some(&reply))
        .await;
    desk.conclude(request, &reply, until, driven).await
}

/// A request whose answer is forgotten and whose order is not is answered with the order as it is now.
async fn again(desk: &Desk, request: &Request, reply: &Reply, error: Error) -> Result<Answered, Error> {
    if !matches!(error, Error::Made | Error::ReferenceTaken) {
        return Err(error);
    }
    let mut tx = desk.database.begin(&request.facility).await?;
    let made = store::orders::made_by(&mut tx, &request.facility, &request.key).await?;
    tx.commit().await?;
    match made {
        None => Err(error),
        Some((_, hash)) if hash != request.key.hash() => Err(idempotency::Error::KeyReused.into()),
        Some((order_id, _)) => {
            desk.conclude_again(request, reply, Until::Rest { order_id })
                .await
        }
    }
}

/// Checks the order and its claim, and keeps nothing.
///
/// # Errors
/// INVALID_ARGUMENT with all that is wrong with the claim.
pub async fn check(desk: &Desk, context: &mesh::Context, intake: Intake) -> Result<wire::Order, Error> {
    let Intake {
        placing,
        lines,
        claim,
    } = intake;
    if let Some(details) = claim {
        let checked = desk.participants.check_claim(context, details).await;
        checked.map_err(|status| match status.code() {
            Code::InvalidArgument => {
                let mut violations = Violations::new();
                for (field, description) in outcome::claim_violations(&status) {
                    violations.add(field, description);
                }
                Error::Invalid(violations)
            }
            _ => Error::Upstream(Box::new(status)),
        })?;
    }
    let order = Order::place(placing, Uuid::nil());
    Ok(wire::Order {
        id: String::new(),
        saga_id: String::new(),
        ..encode::order(&order, &lines, &[])
    })
}
