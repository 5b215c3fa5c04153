//! ResolveOrderBalance: bills an open amount to the patient or writes it off.

use chassis::idempotency::{self, KeyState};
use money::Money;
use proto::order::v1 as wire;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    events,
    order::Order,
    request::Request,
    response::{PendingResponse, Response},
    settlement::Resolution,
    store::{self, resolutions},
};

/// A checked request to resolve an open amount.
#[derive(Clone, Debug)]
pub struct Input {
    pub order_id: Uuid,
    pub resolution: Resolution,
    /// Above zero; `None`: everything that is open.
    pub amount: Option<Money>,
    pub reason: String,
}

/// Resolves the open amount. A write-off that includes a part of the patient's balance first voids the balance's
/// payment, so that the patient cannot pay it as well. The idempotency key is claimed before that: a refused
/// request has no effect, and a repetition of an interrupted one continues. A balance that was voided but not
/// written off is requested again: see [`Order::request_balance_again`].
///
/// # Errors
/// FAILED_PRECONDITION when the order is not fulfilled, nothing or less is open, or the patient is paying the
/// balance.
pub async fn execute(app: &App, request: &Request, input: Input) -> Result<Response, Error> {
    match execute_new(app, request, &input).await {
        Err(error @ (Error::Precondition(..) | Error::AlreadyResolved)) => {
            respond_to_repeated(app, request, input.order_id)
                .await?
                .ok_or(error)
        }
        resolved => resolved,
    }
}

async fn execute_new(app: &App, request: &Request, input: &Input) -> Result<Response, Error> {
    let id = input.order_id;
    let mut tx = app.database.begin(&request.facility).await?;
    if let KeyState::Completed(bytes) =
        idempotency::acquire(&mut tx, &request.facility, &request.key, id).await?
    {
        return Ok(Response::replayed(bytes));
    }
    let mut order = lock(&mut tx, id).await?;
    let mut amount = check(&order, input)?;
    if input.resolution == Resolution::WriteOff && order.write_off_takes_balance(amount) {
        tx.commit().await?;
        release_balance(app, request, &order).await?;
        tx = app.database.begin(&request.facility).await?;
        let claimed = idempotency::acquire(&mut tx, &request.facility, &request.key, id).await?;
        if let KeyState::Completed(bytes) = claimed {
            return Ok(Response::replayed(bytes));
        }
        order = lock(&mut tx, id).await?;
        amount = check(&order, input)?;
    }
    let from = order.version;
    order.resolve(input.resolution, amount)?;
    store::orders::save(&mut tx, &[(&order, from)]).await?;
    let row = resolutions::NewRow {
        order: &order,
        key: &request.key,
        resolution: input.resolution,
        amount,
        reason: &input.reason,
    };
    resolutions::insert(&mut tx, row).await?;
    ::events::append(&mut tx, &events::take_from_order(&mut order, None, None)).await?;
    let bytes = pending_response(&mut tx, request, id)
        .await?
        .store(&mut tx, &order)
        .await?;
    tx.commit().await?;
    app.outbox.wake();
    app.order_notifier.notify(id);
    Ok(Response::new(bytes))
}

/// The stored response was deleted, but the resolution still exists: the response is the order as it is now.
async fn respond_to_repeated(app: &App, request: &Request, id: Uuid) -> Result<Option<Response>, Error> {
    let mut tx = app.database.begin(&request.facility).await?;
    let Some(hash) = resolutions::find_by_request(&mut tx, &request.facility, &request.key).await? else {
        return Ok(None);
    };
    if hash != request.key.hash() {
        return Err(idempotency::Error::KeyReused.into());
    }
    let order = lock(&mut tx, id).await?;
    let bytes = pending_response(&mut tx, request, id)
        .await?
        .store(&mut tx, &order)
        .await?;
    tx.commit().await?;
    Ok(Some(Response::replayed(bytes)))
}

async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Order, Error> {
    let order = store::orders::lock(conn, id).await?;
    order.ok_or_else(|| Error::OrderNotFound(id.to_string()))
}

async fn pending_response(
    conn: &mut PgConnection,
    request: &Request,
    id: Uuid,
) -> Result<PendingResponse, Error> {
    Ok(PendingResponse::new::<wire::ResolveOrderBalanceResponse>(
        &request.key,
        store::lines::list(conn, id).await?.into(),
    ))
}

/// The amount to resolve, in minor units.
fn check(order: &Order, input: &Input) -> Result<i64, Error> {
    let open = order.resolvable(input.resolution);
    if open == 0 {
        let state = order.state;
        return Err(if state.is_fulfilled() {
            let text = "nothing is open that could be resolved this way".to_owned();
            Error::Precondition("NOTHING_OPEN", text)
        } else {
            let text = format!("an order that is {state} has no balance to resolve");
            Error::Precondition(state.refusal(), text)
        });
    }
    let Some(amount) = input.amount else {
        return Ok(open);
    };
    if amount.currency() != order.currency {
        let mut violations = chassis::Violations::new();
        violations.add(
            "amount",
            format!("must be in {}, the order's currency", order.currency),
        );
        return Err(Error::Invalid(violations));
    }
    if amount.minor() > open {
        let text = format!("{amount} is more than the {} that is open", order.money(open));
        return Err(Error::Precondition("AMOUNT_EXCEEDS_OPEN", text));
    }
    Ok(amount.minor())
}

/// Voids the payment of the balance. A caller who may resolve balances need not be allowed to void payments, so
/// the call uses the service's own token.
async fn release_balance(app: &App, request: &Request, order: &Order) -> Result<(), Error> {
    let context = app
        .engine
        .service_context(&request.facility)?
        .with_deadline(request.answer_by);
    let key = Uuid::new_v5(&order.id, request.key.request_id().as_bytes());
    let voided = app.participants.void_balance(&context, order, key).await;
    voided.map_err(|status| Error::Upstream(Box::new(status)))
}
