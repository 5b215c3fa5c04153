//! Operators' actions on sagas.

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::saga::{OperatorNote, Saga};

/// The kinds of operators' actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Retried,
    Skipped,
    ForceCompleted,
}

/// An action as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub kind: String,
    pub step: String,
    pub compensation: bool,
    pub actor: String,
    pub reason: String,
    pub created_at: OffsetDateTime,
}

/// Inserts an operator's action; `saga` is the saga before it.
pub async fn insert(
    conn: &mut PgConnection,
    saga: &Saga,
    kind: Kind,
    by: &OperatorNote,
) -> Result<(), sqlx::Error> {
    let action = saga.action();
    sqlx::query!(
        "insert into orders.saga_action (id, saga_id, facility, kind, step, compensation, actor, reason)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        Uuid::now_v7(),
        saga.id,
        saga.facility.as_str(),
        kind.name(),
        action.map(|action| action.step.name()).unwrap_or_default(),
        action.is_some_and(|action| action.compensation),
        by.actor,
        by.reason
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Lists the actions on a saga, oldest first.
pub async fn list(conn: &mut PgConnection, saga_id: Uuid) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        "select kind, step, compensation, actor, reason, created_at
         from orders.saga_action where saga_id = $1 order by created_at, id",
        saga_id
    )
    .fetch_all(conn)
    .await
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Retried, Kind::Skipped, Kind::ForceCompleted];

    /// The name as it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Retried => "retried",
            Kind::Skipped => "skipped",
            Kind::ForceCompleted => "force_completed",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
