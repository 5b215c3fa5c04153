//! An operator leaves a step of a stuck saga out, or ends the saga as it stands.

use chassis::idempotency::{self, Claim};
use prost::Message;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    answer::Answered,
    desk::{Desk, Request},
    error::Error,
    operate_sagas::Shown,
    order::Order,
    refund::Refund,
    saga::{Books, Intervention, Run, Saga, State, Statement},
    store::{self, saga_actions},
};

/// A checked request to help a saga on.
#[derive(Clone, Debug)]
pub struct Help {
    pub saga_id: Uuid,
    pub intervention: Intervention,
    pub by: Statement,
    /// The step that the operator has looked at; empty: whichever it is at.
    pub step: String,
}

/// Helps the saga on. What the payment service has in its books is asked first, outside of the transaction; the saga
/// must not have moved since.
///
/// # Errors
/// FAILED_PRECONDITION when the saga is not stuck, or cannot be helped so; ABORTED while it is being tried.
pub async fn help<M: Message>(
    desk: &Desk,
    request: &Request,
    help: &Help,
    answer: impl Fn(&Shown) -> M,
) -> Result<Answered, Error> {
    let (seen, books) = look(desk, request, help.saga_id).await?;
    let id = help.saga_id;
    let mut tx = desk.database.begin(&request.facility).await?;
    if let Claim::Answered(bytes) = idempotency::claim(&mut tx, &request.facility, &request.key, id).await? {
        return Ok(Answered::again(bytes));
    }
    let (run, earlier) = lock(&mut tx, &seen).await?;
    may_help(&run.saga, help)?;
    if store::sagas::is_leased(&mut tx, id).await? || run.saga.version != seen.version {
        return Err(Error::Busy);
    }
    let rules = desk.engine.rules();
    let mut next = run.helped(help.intervention, &help.by, (&books, &earlier), &rules)?;
    if next.order.version != run.order.version {
        store::orders::save(&mut tx, &[(&next.order, run.order.version)]).await?;
    }
    saga_actions::insert(&mut tx, &run.saga, help.intervention.into(), &help.by).await?;
    desk.engine.write(&mut tx, &run, &mut next).await?;
    let message = answer(&Shown::whole(&mut tx, next.saga).await?);
    let bytes = idempotency::answer(&mut tx, &request.facility, &request.key, &message).await?;
    tx.commit().await?;
    desk.engine.wake();
    desk.outbox.wake();
    desk.changes.tell(next.order.id);
    Ok(Answered::first(bytes))
}

/// The saga as it is now, and what the payment service knows if that matters.
async fn look(desk: &Desk, request: &Request, id: Uuid) -> Result<(Saga, Books), Error> {
    let mut tx = desk.database.begin(&request.facility).await?;
    let saga = store::sagas::get(&mut tx, id).await?.ok_or(Error::NoSaga(id))?;
    let order = order(store::orders::get(&mut tx, saga.order_id).await?, &saga)?;
    tx.commit().await?;
    if saga.state != State::Stuck || !saga.moves_money() {
        return Ok((saga, Books::default()));
    }
    // Whoever may help sagas need not be allowed to see payments, so the service asks in its own name.
    let context = desk
        .engine
        .own_context(&request.facility)?
        .with_deadline(request.answer_by);
    let books = desk.participants.books(&context, &order).await;
    Ok((saga, books.map_err(|status| Error::Upstream(Box::new(status)))?))
}

/// The order's row is taken before the saga's, here and everywhere.
async fn lock(conn: &mut PgConnection, seen: &Saga) -> Result<(Run, Vec<Refund>), Error> {
    let order = order(store::orders::lock(conn, seen.order_id).await?, seen)?;
    let saga = store::sagas::lock(conn, seen.id)
        .await?
        .ok_or(Error::NoSaga(seen.id))?;
    let refunds = store::refunds::of(conn, order.id).await?;
    let mut run = Run::new(saga, order);
    run.refund = refunds
        .iter()
        .find(|refund| Some(refund.id) == run.saga.refund_id)
        .cloned();
    Ok((run, refunds))
}

fn order(found: Option<Order>, saga: &Saga) -> Result<Order, Error> {
    found.ok_or_else(|| Error::NoOrder(saga.order_id.to_string()))
}

fn may_help(saga: &Saga, help: &Help) -> Result<(), Error> {
    if saga.state != State::Stuck {
        let state = saga.state.name().to_uppercase();
        let text = match saga.has_ended() {
            true => format!("the saga is {state}: there is nothing left to do"),
            false => format!("the saga is {state} and goes on by itself; RetrySaga wakes it at once"),
        };
        return Err(Error::Precondition("SAGA_NOT_STUCK", text));
    }
    let at = saga.action().map(|action| action.step.name()).unwrap_or_default();
    if help.step.is_empty() || help.step == at {
        return Ok(());
    }
    let text = format!(
        "the saga is at {at} by now, not at {}: look at it again",
        help.step
    );
    Err(Error::Precondition("SAGA_MOVED", text))
}

impl From<Intervention> for saga_actions::Kind {
    fn from(intervention: Intervention) -> saga_actions::Kind {
        match intervention {
            Intervention::Skip => saga_actions::Kind::Skipped,
            Intervention::ForceComplete => saga_actions::Kind::ForceCompleted,
        }
    }
}
