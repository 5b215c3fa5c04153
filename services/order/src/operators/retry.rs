//! RetrySaga: wakes a saga that is stuck or waiting.

use chassis::idempotency::{self, KeyState};
use prost::Message;
use uuid::Uuid;

use super::show::SagaView;
use crate::{
    app::App,
    error::Error,
    events,
    request::Request,
    response::Response,
    saga::OperatorNote,
    store::{self, saga_actions, sagas::SagaUpdate},
};

/// Makes a stuck or waiting saga due at once and resets its attempts to zero. A saga that a process is driving now
/// continues when it would otherwise wait.
///
/// # Errors
/// FAILED_PRECONDITION when it has ended.
pub async fn execute<M: Message>(
    app: &App,
    request: &Request,
    id: Uuid,
    actor: &str,
    encode: impl Fn(&SagaView) -> M,
) -> Result<Response, Error> {
    let mut tx = app.database.begin(&request.facility).await?;
    if let KeyState::Completed(bytes) =
        idempotency::acquire(&mut tx, &request.facility, &request.key, id).await?
    {
        return Ok(Response::replayed(bytes));
    }
    let mut saga = store::sagas::lock(&mut tx, id)
        .await?
        .ok_or(Error::SagaNotFound(id))?;
    if saga.has_ended() {
        let text = format!("the saga is {}", saga.state.name().to_uppercase());
        return Err(Error::Precondition("SAGA_ENDED", text));
    }
    let by = OperatorNote {
        actor: actor.to_owned(),
        reason: String::new(),
    };
    saga_actions::insert(&mut tx, &saga, saga_actions::Kind::Retried, &by).await?;
    if !store::sagas::is_leased(&mut tx, id).await? {
        saga.wake(app.database.clock().now(), app.stuck_after);
        store::sagas::save(&mut tx, &[SagaUpdate::released(&saga, saga.epoch)]).await?;
        ::events::append(&mut tx, &events::take_from_saga(&mut saga)).await?;
    } else {
        store::sagas::wake(&mut tx, id).await?;
    }
    let message = encode(&SagaView::load(&mut tx, saga).await?);
    let bytes = idempotency::store_response(&mut tx, &request.facility, &request.key, &message).await?;
    tx.commit().await?;
    app.engine.wake();
    Ok(Response::new(bytes))
}
