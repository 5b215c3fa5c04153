//! Maps a row of `orders.saga` to a saga.

use chassis::Facility;
use time::OffsetDateTime;
use uuid::Uuid;

use super::corrupt;
use crate::saga::{Kind, Saga, State, Step};

/// All columns of a saga.
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) facility: String,
    pub(super) kind: String,
    pub(super) order_id: Uuid,
    pub(super) refund_id: Option<Uuid>,
    pub(super) plan: Vec<String>,
    pub(super) position: i32,
    pub(super) backward: bool,
    pub(super) state: String,
    pub(super) reason: String,
    pub(super) attempts: i32,
    pub(super) version: i64,
    pub(super) lease_epoch: i64,
    pub(super) nudges: i64,
    pub(super) wake_at: Option<OffsetDateTime>,
    pub(super) deadline_at: OffsetDateTime,
    pub(super) begun_at: OffsetDateTime,
    pub(super) created_at: OffsetDateTime,
    pub(super) updated_at: OffsetDateTime,
}

impl TryFrom<Row> for Saga {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Saga, sqlx::Error> {
        let plan = row
            .plan
            .iter()
            .map(|name| Step::from_name(name).ok_or_else(|| corrupt("saga step")));
        Ok(Saga {
            id: row.id,
            facility: Facility::new(row.facility).map_err(|_| corrupt("facility"))?,
            kind: Kind::from_name(&row.kind).ok_or_else(|| corrupt("saga kind"))?,
            order_id: row.order_id,
            refund_id: row.refund_id,
            plan: plan.collect::<Result<_, _>>()?,
            position: usize::try_from(row.position).map_err(|_| corrupt("saga position"))?,
            backward: row.backward,
            state: State::from_name(&row.state).ok_or_else(|| corrupt("saga state"))?,
            reason: row.reason,
            attempts: u32::try_from(row.attempts).map_err(|_| corrupt("saga attempts"))?,
            version: row.version,
            epoch: row.lease_epoch,
            nudges: row.nudges,
            wake_at: row.wake_at,
            deadline_at: row.deadline_at,
            begun_at: row.begun_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
            progress: Vec::new(),
            finished_steps: Vec::new(),
        })
    }
}
