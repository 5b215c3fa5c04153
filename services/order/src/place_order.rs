//! PlaceOrder: accepts an order and drives it to a final state if the caller's time allows.

use std::sync::Arc;

use chassis::{
    Violations, audit,
    idempotency::{self, KeyState},
};
use prost::Message;
use proto::{claims::v1::ClaimDetails, order::v1 as wire};
use tonic::Code;
use uuid::Uuid;

use crate::{
    accept_orders::AcceptedOrder,
    app::App,
    error::Error,
    events,
    grpc::encode,
    order::{Line, NewOrder, Order},
    request::Request,
    response::{Completion, PendingResponse, Response},
    saga::{Kind, Origin, Saga, SagaContext, outcome},
    store,
};

/// A checked request to place an order.
#[derive(Clone, Debug)]
pub struct Input {
    pub new_order: NewOrder,
    pub lines: Vec<Line>,
    pub claim: Option<ClaimDetails>,
}

/// Places the order.
///
/// # Errors
/// ALREADY_EXISTS when the reference is taken; ABORTED while the same request is still running.
pub async fn execute(app: &App, request: &Request, input: Input) -> Result<Response, Error> {
    let Input {
        new_order,
        lines,
        claim,
    } = input;
    let mut order = Order::place(new_order, Uuid::nil());
    let plan = Kind::place(&order);
    let mut saga = Saga::begin(
        Kind::PlaceOrder,
        plan,
        order.facility.clone(),
        order.id,
        app.saga_deadline(),
    );
    order.saga_id = saga.id;
    let pending = PendingResponse::new::<wire::PlaceOrderResponse>(&request.key, lines.into());
    let mut events = events::take_from_order(&mut order, Some(saga.id), None);
    events.extend(events::take_from_saga(&mut saga));
    let accepted = AcceptedOrder {
        order: order.clone(),
        lines: pending.lines.clone(),
        claim: claim.as_ref().map(ClaimDetails::encode_to_vec),
        key: request.key.clone(),
        saga: saga.clone(),
        lease: app.engine.lease(),
        events,
        origin: audit::Origin::current(),
    };
    match app
        .accept_orders
        .submit(accepted, Some(request.answer_by))
        .await
        .map_err(Error::from)
    {
        Ok(true) => {}
        Ok(false) | Err(Error::AlreadyCreated) => return respond_to_repeated(app, request, &pending).await,
        Err(error) => return Err(error),
    }

    let completion = Completion::OrderAtRest { order_id: order.id };
    let mut context = SagaContext::new(saga, order);
    context.claim = claim.map(Arc::new);
    let result = app
        .engine
        .drive(context, &Origin::Request(request.context.clone()), Some(&pending))
        .await;
    pending.finish(app, request, completion, result).await
}

/// Answers a request whose order was not inserted: the same request has created an order before, or the reference
/// is taken by another order.
async fn respond_to_repeated(
    app: &App,
    request: &Request,
    pending: &PendingResponse,
) -> Result<Response, Error> {
    let (facility, key) = (&request.facility, &request.key);
    let mut tx = app.database.begin(facility).await?;
    let found = idempotency::find(&mut tx, &[(facility, key)]).await?.remove(0);
    let created = match found.transpose()? {
        Some(KeyState::Completed(bytes)) => return Ok(Response::replayed(bytes)),
        Some(KeyState::InProgress { resource_id }) => Some((resource_id, key.hash().to_vec())),
        // The stored response was deleted, but the order still exists: the response is the order as it is now.
        Some(KeyState::New) | None => store::orders::find_by_request(&mut tx, facility, key).await?,
    };
    tx.commit().await?;
    match created {
        None => Err(Error::ReferenceTaken),
        Some((_, hash)) if hash != key.hash() => Err(idempotency::Error::KeyReused.into()),
        Some((order_id, _)) => {
            pending
                .finish_repeated(app, request, Completion::OrderAtRest { order_id })
                .await
        }
    }
}

/// Checks the order and its claim without storing anything.
///
/// # Errors
/// INVALID_ARGUMENT with all violations of the claim.
pub async fn validate(app: &App, context: &mesh::Context, input: Input) -> Result<wire::Order, Error> {
    let Input {
        new_order,
        lines,
        claim,
    } = input;
    if let Some(details) = claim {
        let checked = app.participants.check_claim(context, details).await;
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
    let order = Order::place(new_order, Uuid::nil());
    Ok(wire::Order {
        id: String::new(),
        saga_id: String::new(),
        ..encode::order(&order, &lines, &[])
    })
}
