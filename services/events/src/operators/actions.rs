//! What operators do to dead letters: each action once, however often its request comes, and on record.

use chassis::idempotency;
use prost::{Message, Name};
use proto::ops::v1 as ops;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};
use tonic::{Response, Status};
use uuid::Uuid;

use super::{Caller, failure::Failure, letters, runs};
use crate::dead_letter;

/// A mutating request, as the audit trail and a repetition of it need to know it.
pub(super) struct Action<'a> {
    pub(super) name: &'static str,
    pub(super) request_id: Uuid,
    request_hash: Vec<u8>,
    pub(super) caller: &'a Caller,
}

/// Does an action that was not done before, and answers a repeated request as the first time.
pub(super) async fn once<A: Message + Default>(
    pool: &PgPool,
    action: &Action<'_>,
    act: impl AsyncFnOnce(&mut PgConnection) -> Result<(A, About), Failure>,
) -> Result<Response<A>, Status> {
    let mut tx = action.caller.begin(pool).await.map_err(Failure::from)?;
    if let Some(answer) = action.answered(&mut tx).await? {
        return Ok(idempotency::replayed(answer));
    }
    chassis::record_effect(&mut tx).await.map_err(Failure::from)?;
    let (answer, about) = act(&mut tx).await?;
    action.record(&mut tx, &answer, about).await?;
    tx.commit().await.map_err(Failure::from)?;
    tracing::info!(
        action = action.name,
        actor = action.caller.subject,
        request_id = %action.request_id,
        "an operator acted"
    );
    Ok(Response::new(answer))
}

/// What an action is about.
#[derive(Default)]
pub(super) struct About {
    dead_letter: Option<Uuid>,
    run: Option<Uuid>,
    detail: String,
}

impl About {
    pub(super) fn said(detail: String) -> Self {
        Self {
            detail,
            ..Self::default()
        }
    }

    pub(super) fn letter(id: Uuid, detail: String) -> Self {
        Self {
            dead_letter: Some(id),
            detail,
            ..Self::default()
        }
    }
}

impl<'a> Action<'a> {
    pub(super) fn of<M: Message + Name>(
        name: &'static str,
        request: &M,
        request_id: &str,
        caller: &'a Caller,
    ) -> Result<Self, Failure> {
        Ok(Self {
            name,
            request_id: uuid(request_id, "request_id")?,
            request_hash: Sha256::digest(request.encode_to_vec()).to_vec(),
            caller,
        })
    }

    /// The answer that this request got before.
    pub(super) async fn answered<A: Message + Default>(
        &self,
        tx: &mut PgConnection,
    ) -> Result<Option<A>, Failure> {
        let row = sqlx::query!(
            "select request_hash, answer from events.operator_action
             where facility = $1 and action = $2 and request_id = $3",
            self.caller.facility,
            self.name,
            self.request_id,
        );
        let Some(row) = row.fetch_optional(tx).await? else {
            return Ok(None);
        };
        if row.request_hash != self.request_hash {
            return Err(Failure::RequestIdReused);
        }
        let answer = A::decode(row.answer.as_slice()).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Some(answer))
    }

    /// Puts the action and its answer on record. Fails when the same request is faster elsewhere.
    pub(super) async fn record<A: Message>(
        &self,
        tx: &mut PgConnection,
        answer: &A,
        about: About,
    ) -> Result<(), Failure> {
        let recorded = sqlx::query!(
            "insert into events.operator_action (facility, action, request_id, request_hash, answer, actor,
                 dead_letter_id, replay_run_id, detail)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (facility, action, request_id) do nothing",
            self.caller.facility,
            self.name,
            self.request_id,
            self.request_hash,
            answer.encode_to_vec(),
            self.caller.subject,
            about.dead_letter,
            about.run,
            about.detail,
        )
        .execute(tx)
        .await?;
        if recorded.rows_affected() == 0 {
            Err(Failure::Concurrent)
        } else {
            Ok(())
        }
    }
}

/// Sends a dead letter to its consumer again. One whose replay got lost can be sent once more.
pub(super) async fn replay(
    tx: &mut PgConnection,
    service: &str,
    request: &ops::ReplayDeadLetterRequest,
) -> Result<(ops::ReplayDeadLetterResponse, About), Failure> {
    let id = uuid(&request.dead_letter_id, "dead_letter_id")?;
    let state = lock(tx, id).await?;
    if !matches!(state.as_str(), "open" | "replaying") {
        return Err(Failure::Closed {
            state,
            wanted: "replayed",
        });
    }
    send(tx, service, id).await?;
    let letter = letters::find(tx, id).await?;
    let answer = ops::ReplayDeadLetterResponse {
        dead_letter: letter.map(Into::into),
    };
    Ok((answer, About::letter(id, String::new())))
}

pub(super) async fn discard(
    tx: &mut PgConnection,
    service: &str,
    request: &ops::DiscardDeadLetterRequest,
) -> Result<(ops::DiscardDeadLetterResponse, About), Failure> {
    let id = uuid(&request.dead_letter_id, "dead_letter_id")?;
    lock_open(tx, id, "discarded").await?;
    sqlx::query!(
        "update events.dead_letter set state = 'discarded', resolved_at = now(), discard_reason = $2 where id = $1",
        id,
        request.reason,
    )
    .execute(&mut *tx)
    .await?;
    // Tells the consumer to go on with what waits behind it.
    dead_letter::call(tx, service, id, format!("discard:{id}")).await?;
    let letter = letters::find(tx, id).await?;
    let answer = ops::DiscardDeadLetterResponse {
        dead_letter: letter.map(Into::into),
    };
    Ok((answer, About::letter(id, request.reason.clone())))
}

pub(super) async fn replay_group(
    tx: &mut PgConnection,
    caller: &Caller,
    request: &ops::ReplayDeadLetterGroupRequest,
) -> Result<(ops::ReplayDeadLetterGroupResponse, About), Failure> {
    let run = runs::start(tx, caller, request).await?;
    let kinds = match request.fingerprint.as_str() {
        "" => "all kinds".to_owned(),
        fingerprint => format!("fingerprint {fingerprint}"),
    };
    let detail = format!("{kinds}, {} dead letters", run.total_count);
    let about = About {
        run: run.id.parse().ok(),
        detail,
        ..About::default()
    };
    Ok((ops::ReplayDeadLetterGroupResponse { run: Some(run) }, about))
}

/// The message id differs from replay to replay: the broker drops an id that it has seen within two minutes.
pub(super) async fn send(tx: &mut PgConnection, service: &str, id: Uuid) -> Result<(), sqlx::Error> {
    let count = sqlx::query_scalar!(
        "update events.dead_letter set state = 'replaying', replay_count = replay_count + 1 where id = $1
         returning replay_count",
        id,
    )
    .fetch_one(&mut *tx)
    .await?;
    dead_letter::call(tx, service, id, format!("replay:{id}:{count}")).await
}

pub(super) fn uuid(text: &str, field: &'static str) -> Result<Uuid, Failure> {
    text.parse().map_err(|_| Failure::Invalid {
        field,
        problem: "must be a UUID",
    })
}

/// Locks a dead letter until the end of the transaction. `wanted`: what is to be done to it.
pub(super) async fn lock_open(tx: &mut PgConnection, id: Uuid, wanted: &'static str) -> Result<(), Failure> {
    let state = lock(tx, id).await?;
    if state == "open" {
        Ok(())
    } else {
        Err(Failure::Closed { state, wanted })
    }
}

async fn lock(tx: &mut PgConnection, id: Uuid) -> Result<String, Failure> {
    let state = sqlx::query_scalar!(
        "select state from events.dead_letter where id = $1 for update",
        id
    );
    let state = state.fetch_optional(tx).await?;
    state.ok_or_else(|| Failure::NotFound {
        kind: "dead letter",
        id: id.to_string(),
    })
}
