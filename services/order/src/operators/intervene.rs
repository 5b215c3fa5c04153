//! SkipSagaStep and ForceCompleteSaga: an operator skips a step of a stuck saga, or ends the saga where it is.

use chassis::idempotency::{self, KeyState};
use prost::Message;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    operators::show::SagaView,
    order::Order,
    refund::Refund,
    request::Request,
    response::Response,
    saga::{Intervention, OperatorNote, OrderPayments, Saga, SagaContext, State},
    store::{self, saga_actions},
};

/// A checked request to intervene in a saga.
#[derive(Clone, Debug)]
pub struct Input {
    pub saga_id: Uuid,
    pub intervention: Intervention,
    pub by: OperatorNote,
    /// The step that the operator expects the saga to be at; empty: any step.
    pub step: String,
}

/// Applies the intervention. The payment service's records are read first, outside the transaction; the saga must
/// not have changed since then.
///
/// # Errors
/// FAILED_PRECONDITION when the saga is not stuck or the intervention is not allowed; ABORTED while a process is
/// driving the saga.
pub async fn execute<M: Message>(
    app: &App,
    request: &Request,
    input: &Input,
    encode: impl Fn(&SagaView) -> M,
) -> Result<Response, Error> {
    let (before, payments) = load_saga(app, request, input.saga_id).await?;
    let id = input.saga_id;
    let mut tx = app.database.begin(&request.facility).await?;
    if let KeyState::Completed(bytes) =
        idempotency::acquire(&mut tx, &request.facility, &request.key, id).await?
    {
        return Ok(Response::replayed(bytes));
    }
    let (current, earlier) = lock(&mut tx, &before).await?;
    check_intervention(&current.saga, input)?;
    if store::sagas::is_leased(&mut tx, id).await? || current.saga.version != before.version {
        return Err(Error::Busy);
    }
    let rules = app.engine.rules();
    let mut next = current.intervene(input.intervention, &input.by, (&payments, &earlier), &rules)?;
    if next.order.version != current.order.version {
        store::orders::save(&mut tx, &[(&next.order, current.order.version)]).await?;
    }
    saga_actions::insert(&mut tx, &current.saga, input.intervention.into(), &input.by).await?;
    app.engine.write_saga(&mut tx, &current, &mut next).await?;
    let message = encode(&SagaView::load(&mut tx, next.saga).await?);
    let bytes = idempotency::store_response(&mut tx, &request.facility, &request.key, &message).await?;
    tx.commit().await?;
    app.engine.wake();
    app.outbox.wake();
    app.order_notifier.notify(next.order.id);
    Ok(Response::new(bytes))
}

/// Reads the saga, and the order's payments if the intervention depends on them.
async fn load_saga(app: &App, request: &Request, id: Uuid) -> Result<(Saga, OrderPayments), Error> {
    let mut tx = app.database.begin(&request.facility).await?;
    let saga = store::sagas::get(&mut tx, id)
        .await?
        .ok_or(Error::SagaNotFound(id))?;
    let order = order(store::orders::get(&mut tx, saga.order_id).await?, &saga)?;
    tx.commit().await?;
    if saga.state != State::Stuck || !saga.moves_money() {
        return Ok((saga, OrderPayments::default()));
    }
    // An operator of sagas need not be allowed to read payments, so the call uses the service's own token.
    let context = app
        .engine
        .service_context(&request.facility)?
        .with_deadline(request.answer_by);
    let payments = app.participants.order_payments(&context, &order).await;
    Ok((
        saga,
        payments.map_err(|status| Error::Upstream(Box::new(status)))?,
    ))
}

/// Locks the order's row before the saga's, as everywhere.
async fn lock(conn: &mut PgConnection, before: &Saga) -> Result<(SagaContext, Vec<Refund>), Error> {
    let order = order(store::orders::lock(conn, before.order_id).await?, before)?;
    let saga = store::sagas::lock(conn, before.id)
        .await?
        .ok_or(Error::SagaNotFound(before.id))?;
    let refunds = store::refunds::list(conn, order.id).await?;
    let mut current = SagaContext::new(saga, order);
    current.refund = refunds
        .iter()
        .find(|refund| Some(refund.id) == current.saga.refund_id)
        .cloned();
    Ok((current, refunds))
}

fn order(found: Option<Order>, saga: &Saga) -> Result<Order, Error> {
    found.ok_or_else(|| Error::OrderNotFound(saga.order_id.to_string()))
}

fn check_intervention(saga: &Saga, input: &Input) -> Result<(), Error> {
    if saga.state != State::Stuck {
        let state = saga.state.name().to_uppercase();
        let text = if saga.has_ended() {
            format!("the saga is {state}: there is nothing left to do")
        } else {
            format!("the saga is {state} and continues by itself; RetrySaga wakes it at once")
        };
        return Err(Error::Precondition("SAGA_NOT_STUCK", text));
    }
    let at = saga.action().map(|action| action.step.name()).unwrap_or_default();
    if input.step.is_empty() || input.step == at {
        return Ok(());
    }
    let text = format!("the saga is now at {at}, not at {}: read it again", input.step);
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
