//! Operators' actions on dead letters. Each is executed once, however often its request is sent, and is recorded.

use chassis::idempotency;
use prost::{Message, Name};
use proto::ops::v1 as ops;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};
use tonic::{Response, Status};
use uuid::Uuid;

use super::{Operator, dead_letters, error::Error, replays, runs};
use crate::replay_notice;

/// A mutating request, with what identifies it in the audit trail and when it is repeated.
pub(super) struct Action<'a> {
    pub(super) name: &'static str,
    pub(super) request_id: Uuid,
    request_hash: Vec<u8>,
    pub(super) operator: &'a Operator,
}

/// Executes an action that was not executed before. A repeated request gets the stored response.
pub(super) async fn execute_once<A: Message + Default>(
    pool: &PgPool,
    action: &Action<'_>,
    act: impl AsyncFnOnce(&mut PgConnection) -> Result<(A, AuditDetail), Error>,
) -> Result<Response<A>, Status> {
    let mut tx = action.operator.begin(pool).await.map_err(Error::from)?;
    if let Some(response) = action.find_response(&mut tx).await? {
        return Ok(idempotency::replayed(response));
    }
    chassis::record_effect(&mut tx).await.map_err(Error::from)?;
    let (response, detail) = act(&mut tx).await?;
    action.record(&mut tx, &response, detail).await?;
    tx.commit().await.map_err(Error::from)?;
    tracing::info!(
        action = action.name,
        actor = action.operator.subject,
        request_id = %action.request_id,
        "an operator's action was executed"
    );
    Ok(Response::new(response))
}

/// The subject of an action, for the audit trail.
#[derive(Default)]
pub(super) struct AuditDetail {
    dead_letter: Option<Uuid>,
    run: Option<Uuid>,
    detail: String,
}

impl AuditDetail {
    pub(super) fn new(detail: String) -> Self {
        Self {
            detail,
            ..Self::default()
        }
    }

    pub(super) fn for_dead_letter(id: Uuid, detail: String) -> Self {
        Self {
            dead_letter: Some(id),
            detail,
            ..Self::default()
        }
    }
}

impl<'a> Action<'a> {
    pub(super) fn new<M: Message + Name>(
        name: &'static str,
        request: &M,
        request_id: &str,
        operator: &'a Operator,
    ) -> Result<Self, Error> {
        Ok(Self {
            name,
            request_id: uuid(request_id, "request_id")?,
            request_hash: Sha256::digest(request.encode_to_vec()).to_vec(),
            operator,
        })
    }

    /// The stored response of an earlier execution of this request.
    pub(super) async fn find_response<A: Message + Default>(
        &self,
        tx: &mut PgConnection,
    ) -> Result<Option<A>, Error> {
        let row = sqlx::query!(
            "select request_hash, answer from events.operator_action
             where facility = $1 and action = $2 and request_id = $3",
            self.operator.facility,
            self.name,
            self.request_id,
        );
        let Some(row) = row.fetch_optional(tx).await? else {
            return Ok(None);
        };
        if row.request_hash != self.request_hash {
            return Err(Error::RequestIdReused);
        }
        let response = A::decode(row.answer.as_slice()).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Some(response))
    }

    /// Stores the action and its response. Fails when the same request has been executed concurrently.
    pub(super) async fn record<A: Message>(
        &self,
        tx: &mut PgConnection,
        response: &A,
        detail: AuditDetail,
    ) -> Result<(), Error> {
        let recorded = sqlx::query!(
            "insert into events.operator_action (facility, action, request_id, request_hash, answer, actor,
                 dead_letter_id, replay_run_id, detail)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (facility, action, request_id) do nothing",
            self.operator.facility,
            self.name,
            self.request_id,
            self.request_hash,
            response.encode_to_vec(),
            self.operator.subject,
            detail.dead_letter,
            detail.run,
            detail.detail,
        )
        .execute(tx)
        .await?;
        if recorded.rows_affected() == 0 {
            Err(Error::Concurrent)
        } else {
            Ok(())
        }
    }
}

/// Sends a dead letter to its consumer again. A replay that got lost can be sent once more.
pub(super) async fn replay(
    tx: &mut PgConnection,
    service: &str,
    request: &ops::ReplayDeadLetterRequest,
) -> Result<(ops::ReplayDeadLetterResponse, AuditDetail), Error> {
    let id = uuid(&request.dead_letter_id, "dead_letter_id")?;
    let state = lock(tx, id).await?;
    if !matches!(state.as_str(), "open" | "replaying") {
        return Err(Error::Closed {
            state,
            wanted: "replayed",
        });
    }
    replays::send(tx, service, id).await?;
    let dead_letter_row = dead_letters::find(tx, id).await?;
    let response = ops::ReplayDeadLetterResponse {
        dead_letter: dead_letter_row.map(Into::into),
    };
    Ok((response, AuditDetail::for_dead_letter(id, String::new())))
}

pub(super) async fn discard(
    tx: &mut PgConnection,
    service: &str,
    request: &ops::DiscardDeadLetterRequest,
) -> Result<(ops::DiscardDeadLetterResponse, AuditDetail), Error> {
    let id = uuid(&request.dead_letter_id, "dead_letter_id")?;
    lock_open(tx, id, "discarded").await?;
    sqlx::query!(
        "update events.dead_letter set state = 'discarded', resolved_at = now(), discard_reason = $2 where id = $1",
        id,
        request.reason,
    )
    .execute(&mut *tx)
    .await?;
    // Makes the consumer continue with the events parked behind it.
    replay_notice::send(tx, service, id, format!("discard:{id}")).await?;
    let dead_letter_row = dead_letters::find(tx, id).await?;
    let response = ops::DiscardDeadLetterResponse {
        dead_letter: dead_letter_row.map(Into::into),
    };
    Ok((response, AuditDetail::for_dead_letter(id, request.reason.clone())))
}

pub(super) async fn replay_group(
    tx: &mut PgConnection,
    operator: &Operator,
    request: &ops::ReplayDeadLetterGroupRequest,
) -> Result<(ops::ReplayDeadLetterGroupResponse, AuditDetail), Error> {
    let run = runs::start(tx, operator, request).await?;
    let kinds = match request.fingerprint.as_str() {
        "" => "all kinds".to_owned(),
        fingerprint => format!("fingerprint {fingerprint}"),
    };
    let detail = format!("{kinds}, {} dead letters", run.total_count);
    let detail = AuditDetail {
        run: run.id.parse().ok(),
        detail,
        ..AuditDetail::default()
    };
    Ok((ops::ReplayDeadLetterGroupResponse { run: Some(run) }, detail))
}

pub(super) fn uuid(text: &str, field: &'static str) -> Result<Uuid, Error> {
    text.parse().map_err(|_| Error::Invalid {
        field,
        problem: "must be a UUID",
    })
}

/// Locks an open dead letter until the end of the transaction. `wanted`: the action's past participle, for the
/// error.
pub(super) async fn lock_open(tx: &mut PgConnection, id: Uuid, wanted: &'static str) -> Result<(), Error> {
    let state = lock(tx, id).await?;
    if state == "open" {
        Ok(())
    } else {
        Err(Error::Closed { state, wanted })
    }
}

async fn lock(tx: &mut PgConnection, id: Uuid) -> Result<String, Error> {
    let state = sqlx::query_scalar!(
        "select state from events.dead_letter where id = $1 for update",
        id
    );
    let state = state.fetch_optional(tx).await?;
    state.ok_or_else(|| Error::NotFound {
        kind: "dead letter",
        id: id.to_string(),
    })
}
