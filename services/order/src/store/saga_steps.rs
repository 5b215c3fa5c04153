//! Finished steps of sagas.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::attempts;
use crate::saga::Saga;

/// A finished step as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub step: String,
    pub compensation: bool,
    pub ending: String,
    pub result: String,
    pub attempts: i32,
    pub begun_at: OffsetDateTime,
    pub ended_at: OffsetDateTime,
}

/// Finished steps to be written, one array for each column.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) sagas: Vec<Uuid>,
    pub(super) steps: Vec<&'a str>,
    pub(super) compensations: Vec<bool>,
    pub(super) endings: Vec<&'a str>,
    pub(super) results: Vec<&'a str>,
    pub(super) attempts: Vec<i32>,
    pub(super) begun_at: Vec<OffsetDateTime>,
    pub(super) ended_at: Vec<OffsetDateTime>,
}

impl<'a> Columns<'a> {
    /// The steps of these sagas that have finished since they were last saved.
    pub(super) fn from(sagas: impl Iterator<Item = &'a Saga>) -> Columns<'a> {
        let mut columns = Columns::default();
        for saga in sagas {
            for step in &saga.finished_steps {
                columns.sagas.push(saga.id);
                columns.steps.push(step.action.step.name());
                columns.compensations.push(step.action.compensation);
                columns.endings.push(step.ending.name());
                columns.results.push(&step.result);
                columns.attempts.push(attempts(step.attempts));
                columns.begun_at.push(step.begun_at);
                columns.ended_at.push(step.ended_at);
            }
        }
        columns
    }
}

/// Lists the finished steps of a saga in the order in which they began.
pub async fn list(conn: &mut PgConnection, saga_id: Uuid) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "select step, compensation, state as ending, result, attempts, begun_at, ended_at
         from orders.saga_step where saga_id = $1 order by begun_at, ended_at",
        saga_id
    )
    .fetch_all(conn)
    .await
}
