//! Shows sagas to operators, and wakes those that are stuck.

use chassis::{
    Facility,
    idempotency::{self, Claim},
};
use prost::Message;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    answer::Answered,
    desk::{Desk, Request},
    error::Error,
    saga::{Saga, Statement},
    store::{
        self, saga_actions, saga_steps,
        sagas::{Filter, Moved},
    },
    told,
};

/// A saga, with what became of its steps and what operators did to it. Lists leave those out.
#[derive(Clone, Debug)]
pub struct Shown {
    pub saga: Saga,
    pub history: Option<History>,
}

/// The steps of a saga that have ended, and what operators did to it.
#[derive(Clone, Debug)]
pub struct History {
    pub steps: Vec<saga_steps::Row>,
    pub actions: Vec<saga_actions::Row>,
}

impl Shown {
    /// A saga with its history, as it is in this transaction.
    pub async fn whole(conn: &mut PgConnection, saga: Saga) -> Result<Shown, sqlx::Error> {
        let steps = saga_steps::of(conn, saga.id).await?;
        let actions = saga_actions::of(conn, saga.id).await?;
        let history = Some(History { steps, actions });
        Ok(Shown { saga, history })
    }
}

/// Reads one saga.
///
/// # Errors
/// NOT_FOUND, also for another facility's.
pub async fn get(desk: &Desk, facility: &Facility, id: Uuid) -> Result<Shown, Error> {
    let mut tx = desk.database.begin(facility).await?;
    let saga = store::sagas::get(&mut tx, id).await?.ok_or(Error::NoSaga(id))?;
    let shown = Shown::whole(&mut tx, saga).await?;
    tx.commit().await?;
    Ok(shown)
}

/// A page of the sagas that match, newest first, and whether more follow.
///
/// # Errors
/// Only the database's.
pub async fn list(
    desk: &Desk,
    facility: &Facility,
    filter: &Filter,
    after: Option<Uuid>,
    size: u32,
) -> Result<(Vec<Saga>, bool), Error> {
    let mut tx = desk.database.begin(facility).await?;
    let mut sagas = store::sagas::list(&mut tx, filter, after, i64::from(size) + 1).await?;
    tx.commit().await?;
    let more = sagas.len() > size as usize;
    sagas.truncate(size as usize);
    Ok((sagas, more))
}

/// Wakes a saga that is stuck or waiting, at once and with its attempts counted from zero. One that is being driven
/// right now goes on as soon as its driver would wait.
///
/// # Errors
/// FAILED_PRECONDITION when it has ended.
pub async fn retry<M: Message>(
    desk: &Desk,
    request: &Request,
    id: Uuid,
    actor: &str,
    answer: impl Fn(&Shown) -> M,
) -> Result<Answered, Error> {
    let mut tx = desk.database.begin(&request.facility).await?;
    if let Claim::Answered(bytes) = idempotency::claim(&mut tx, &request.facility, &request.key, id).await? {
        return Ok(Answered::again(bytes));
    }
    let mut saga = store::sagas::lock(&mut tx, id).await?.ok_or(Error::NoSaga(id))?;
    if saga.has_ended() {
        let text = format!("the saga is {}", saga.state.name().to_uppercase());
        return Err(Error::Precondition("SAGA_ENDED", text));
    }
    let by = Statement {
        actor: actor.to_owned(),
        reason: String::new(),
    };
    saga_actions::insert(&mut tx, &saga, saga_actions::Kind::Retried, &by).await?;
    if !store::sagas::is_leased(&mut tx, id).await? {
        saga.wake(desk.database.clock().now(), desk.patience);
        store::sagas::save(&mut tx, &[Moved::released(&saga, saga.epoch)]).await?;
        events::append(&mut tx, &told::of_saga(&mut saga)).await?;
    } else {
        store::sagas::wake(&mut tx, id).await?;
    }
    let message = answer(&Shown::whole(&mut tx, saga).await?);
    let bytes = idempotency::answer(&mut tx, &request.facility, &request.key, &message).await?;
    tx.commit().await?;
    desk.engine.wake();
    Ok(Answered::first(bytes))
}
