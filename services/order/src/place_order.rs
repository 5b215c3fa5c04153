//! Takes an order, and sees it to a final state if the caller's time allows.

mod accept;

use std::sync::Arc;

pub use accept::AcceptOrders;
use accept::Accepted;
use chassis::{
    Violations,
    audit::Origin,
    idempotency::{self, Claim},
};
use prost::Message;
use proto::{claims::v1::ClaimDetails, order::v1 as wire};
use tonic::Code;
use uuid::Uuid;

use crate::{
    answer::{Answered, Reply, Until},
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
        desk.deadline(),
    );
    order.saga_id = saga.id;
    let reply = Reply {
        key: request.key.clone(),
        lines: lines.into(),
    };
    let mut events = told::of_order(&mut order, Some(saga.id), None);
    events.extend(told::of_saga(&mut saga));
    let accepted = Accepted {
        order: order.clone(),
        lines: reply.lines.clone(),
        claim: claim.as_ref().map(ClaimDetails::encode_to_vec),
        key: request.key.clone(),
        saga: saga.clone(),
        lease: desk.engine.lease(),
        events,
        origin: Origin::current(),
    };
    match desk
        .accepting
        .submit(accepted, Some(request.answer_by))
        .await
        .map_err(Error::from)
    {
        Ok(true) => {}
        Ok(false) | Err(Error::Made) => return again(desk, request, &reply).await,
        Err(error) => return Err(error),
    }

    let until = Until::Rest { order_id: order.id };
    let mut run = Run::new(saga, order);
    run.claim = claim.map(Arc::new);
    let driven = desk
        .engine
        .drive(run, &Caller::Waiting(request.context.clone()), Some(&reply))
        .await;
    desk.conclude(request, &reply, until, driven).await
}

/// The answer to a request that cannot make an order: it has made one before, or the reference is another order's.
async fn again(desk: &Desk, request: &Request, reply: &Reply) -> Result<Answered, Error> {
    let (facility, key) = (&request.facility, &request.key);
    let mut tx = desk.database.begin(facility).await?;
    let known = idempotency::find(&mut tx, &[(facility, key)]).await?.remove(0);
    let made = match known.transpose()? {
        Some(Claim::Answered(bytes)) => return Ok(Answered::again(bytes)),
        Some(Claim::Running { resource_id }) => Some((resource_id, key.hash().to_vec())),
        // A request whose answer is forgotten and whose order is not is answered with the order as it is now.
        Some(Claim::New) | None => store::orders::made_by(&mut tx, facility, key).await?,
    };
    tx.commit().await?;
    match made {
        None => Err(Error::ReferenceTaken),
        Some((_, hash)) if hash != key.hash() => Err(idempotency::Error::KeyReused.into()),
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
