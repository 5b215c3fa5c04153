//! Shows sagas to operators, and wakes those that are stuck.

use chassis::{
    Facility,
    idempotency::{self, Claim},
};
use prost::Message;
use uuid::Uuid;

use crate::{
    answer::Answered,
    desk::{Desk, Request},
    error::Error,
    saga::Saga,
    store::{
        self,
        sagas::{Filter, Lease, StepRow},
    },
    told,
};

/// A saga, with the steps that have ended unless they were left out.
#[derive(Clone, Debug)]
pub struct Shown {
    pub saga: Saga,
    pub steps: Option<Vec<StepRow>>,
}

/// Reads one saga.
///
/// # Errors
/// NOT_FOUND, also for another facility's.
pub async fn get(desk: &Desk, facility: &Facility, id: Uuid) -> Result<Shown, Error> {
    let mut tx = desk.database.begin(facility).await?;
    let saga = store::sagas::get(&mut tx, id).await?.ok_or(Error::NoSaga(id))?;
    let steps = Some(store::sagas::steps(&mut tx, id).await?);
    tx.commit().await?;
    Ok(Shown { saga, steps })
}

/// A page of the sagas that match, newest first, and where the next one begins.
///
/// # Errors
/// Only the database's.
pub async fn list(
    desk: &Desk,
    facility: &Facility,
    filter: &Filter,
    after: Option<Uuid>,
    size: u32,
) -> Result<(Vec<Saga>, Option<Uuid>), Error> {
    let mut tx = desk.database.begin(facility).await?;
    let mut sagas = store::sagas::list(&mut tx, filter, after, i64::from(size) + 1).await?;
    tx.commit().await?;
    let more = sagas.len() > size as usize;
    sagas.truncate(size as usize);
    let next = if more {
        sagas.last().map(|saga| saga.id)
    } else {
        None
    };
    Ok((sagas, next))
}

/// Wakes a saga that is stuck or waiting, at once and with its attempts counted from zero. One that is being driven
/// right now is left to its driver.
///
/// # Errors
/// FAILED_PRECONDITION when it has ended.
pub async fn retry<M: Message>(
    desk: &Desk,
    request: &Request,
    id: Uuid,
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
    if !store::sagas::is_leased(&mut tx, id).await? {
        saga.wake(desk.patience);
        store::sagas::save(&mut tx, &saga, saga.epoch, Lease::Released).await?;
        events::append(&mut tx, &told::of_saga(&mut saga)).await?;
    }
    let steps = Some(store::sagas::steps(&mut tx, id).await?);
    let message = answer(&Shown { saga, steps });
    let bytes = idempotency::answer(&mut tx, &request.facility, &request.key, &message).await?;
    tx.commit().await?;
    desk.engine.wake();
    Ok(Answered::first(bytes))
}
