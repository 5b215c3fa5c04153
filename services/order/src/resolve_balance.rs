//! A person decides what becomes of what is still open.

use chassis::idempotency::{self, Claim};
use money::Money;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    answer::{Answered, Reply},
    desk::{Desk, Request},
    error::Error,
    order::Order,
    settlement::Resolution,
    store::{self, resolutions},
    told,
};

/// A checked decision.
#[derive(Clone, Debug)]
pub struct Decided {
    pub order_id: Uuid,
    pub resolution: Resolution,
    /// Above zero; `None`: all that is open.
    pub amount: Option<Money>,
    pub reason: String,
}

/// Carries the decision out. A write-off that takes the patient's balance first lets its payment go, so that it cannot
/// be paid as well; the request is claimed before, so that one that is refused has no effect, and a repetition of one
/// that was cut short goes on with it. What is let go in between and not written off is asked for again: see
/// [`Order::balance_let_go`].
///
/// # Errors
/// FAILED_PRECONDITION when the order is not fulfilled, nothing or less is open, or the patient is paying the balance.
pub async fn resolve(desk: &Desk, request: &Request, decided: Decided) -> Result<Answered, Error> {
    match resolve_now(desk, request, &decided).await {
        Err(error @ (Error::Precondition(..) | Error::Resolved)) => {
            again(desk, request, decided.order_id).await?.ok_or(error)
        }
        resolved => resolved,
    }
}

async fn resolve_now(desk: &Desk, request: &Request, decided: &Decided) -> Result<Answered, Error> {
    let id = decided.order_id;
    let mut tx = desk.database.begin(&request.facility).await?;
    if let Claim::Answered(bytes) = idempotency::claim(&mut tx, &request.facility, &request.key, id).await? {
        return Ok(Answered::again(bytes));
    }
    let mut order = lock(&mut tx, id).await?;
    let mut amount = check(&order, decided)?;
    if decided.resolution == Resolution::WriteOff && order.write_off_takes_balance(amount) {
        tx.commit().await?;
        release_balance(desk, request, &order).await?;
        tx = desk.database.begin(&request.facility).await?;
        let claimed = idempotency::claim(&mut tx, &request.facility, &request.key, id).await?;
        if let Claim::Answered(bytes) = claimed {
            return Ok(Answered::again(bytes));
        }
        order = lock(&mut tx, id).await?;
        amount = check(&order, decided)?;
    }
    let from = order.version;
    order.resolve(decided.resolution, amount)?;
    store::orders::save(&mut tx, &[(&order, from)]).await?;
    resolutions::insert(&mut tx, &order, &request.key, decided, amount).await?;
    events::append(&mut tx, &told::of_order(&mut order, None, None)).await?;
    let bytes = reply(&mut tx, request, id).await?.store(&mut tx, &order).await?;
    tx.commit().await?;
    desk.outbox.wake();
    desk.changes.tell(id);
    Ok(Answered::first(bytes))
}

/// A decision that was carried out so long ago that its answer is forgotten: the order as it is now.
async fn again(desk: &Desk, request: &Request, id: Uuid) -> Result<Option<Answered>, Error> {
    let mut tx = desk.database.begin(&request.facility).await?;
    let Some(hash) = resolutions::made_by(&mut tx, &request.facility, &request.key).await? else {
        return Ok(None);
    };
    if hash != request.key.hash() {
        return Err(idempotency::Error::KeyReused.into());
    }
    let order = lock(&mut tx, id).await?;
    let bytes = reply(&mut tx, request, id).await?.store(&mut tx, &order).await?;
    tx.commit().await?;
    Ok(Some(Answered::again(bytes)))
}

async fn lock(conn: &mut PgConnection, id: Uuid) -> Result<Order, Error> {
    let order = store::orders::lock(conn, id).await?;
    order.ok_or_else(|| Error::NoOrder(id.to_string()))
}

async fn reply(conn: &mut PgConnection, request: &Request, id: Uuid) -> Result<Reply, Error> {
    Ok(Reply {
        key: request.key.clone(),
        lines: store::lines::of(conn, id).await?.into(),
    })
}

/// How much is resolved, in minor units.
fn check(order: &Order, decided: &Decided) -> Result<i64, Error> {
    let open = order.resolvable(decided.resolution);
    if open == 0 {
        let state = order.state;
        return Err(match state.is_fulfilled() {
            true => {
                let text = "nothing is open that could be resolved so".to_owned();
                Error::Precondition("NOTHING_OPEN", text)
            }
            false => {
                let text = format!("an order that is {state} has no balance to resolve");
                Error::Precondition(state.refusal(), text)
            }
        });
    }
    let Some(amount) = decided.amount else {
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

/// Lets the payment of the balance go. Whoever may decide about balances need not be allowed to void payments, so the
/// service asks in its own name.
async fn release_balance(desk: &Desk, request: &Request, order: &Order) -> Result<(), Error> {
    let context = desk
        .engine
        .own_context(&request.facility)?
        .with_deadline(request.answer_by);
    let key = Uuid::new_v5(&order.id, request.key.request_id().as_bytes());
    let voided = desk.participants.void_balance(&context, order, key).await;
    voided.map_err(|status| Error::Upstream(Box::new(status)))
}
