//! GetSaga and ListSagas: reads sagas for operators.

use chassis::Facility;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    app::App,
    error::Error,
    saga::Saga,
    store::{self, saga_actions, saga_steps, sagas::Filter},
};

/// A saga with its history. Lists have no history.
#[derive(Clone, Debug)]
pub struct SagaView {
    pub saga: Saga,
    pub history: Option<History>,
}

/// The finished steps of a saga, and the operators' actions on it.
#[derive(Clone, Debug)]
pub struct History {
    pub steps: Vec<saga_steps::Row>,
    pub actions: Vec<saga_actions::Row>,
}

impl SagaView {
    /// Reads the history of a saga in this transaction.
    pub async fn load(conn: &mut PgConnection, saga: Saga) -> Result<SagaView, sqlx::Error> {
        let steps = saga_steps::list(conn, saga.id).await?;
        let actions = saga_actions::list(conn, saga.id).await?;
        let history = Some(History { steps, actions });
        Ok(SagaView { saga, history })
    }
}

/// Reads one saga.
///
/// # Errors
/// NOT_FOUND, also when the saga belongs to another facility.
pub async fn get(app: &App, facility: &Facility, id: Uuid) -> Result<SagaView, Error> {
    let mut tx = app.database.begin(facility).await?;
    let saga = store::sagas::get(&mut tx, id)
        .await?
        .ok_or(Error::SagaNotFound(id))?;
    let view = SagaView::load(&mut tx, saga).await?;
    tx.commit().await?;
    Ok(view)
}

/// Lists a page of the sagas that match, newest first; the flag says whether more follow.
///
/// # Errors
/// Database errors only.
pub async fn list(
    app: &App,
    facility: &Facility,
    filter: &Filter,
    after: Option<Uuid>,
    size: u32,
) -> Result<(Vec<Saga>, bool), Error> {
    let mut tx = app.database.begin(facility).await?;
    let mut sagas = store::sagas::list(&mut tx, filter, after, i64::from(size) + 1).await?;
    tx.commit().await?;
    let more = sagas.len() > size as usize;
    sagas.truncate(size as usize);
    Ok((sagas, more))
}
