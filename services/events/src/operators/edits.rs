//! Other bodies for dead letters: checked against the event's type, and approved by a second person where the
//! settings want it.

use proto::ops::v1 as ops;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Caller,
    actions::{self, About},
    failure::Failure,
    letters,
};
use crate::contract;

/// Who must agree to an edit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Approval {
    Needless,
    SecondPerson,
}

pub(super) async fn edit(
    tx: &mut PgConnection,
    service: &str,
    caller: &Caller,
    approval: Approval,
    request: &ops::EditDeadLetterRequest,
) -> Result<(ops::EditDeadLetterResponse, About), Failure> {
    let letter = actions::uuid(&request.dead_letter_id, "dead_letter_id")?;
    actions::lock_open(tx, letter, "edited").await?;
    let event = sqlx::query!(
        "select type, subject from events.dead_letter where id = $1",
        letter
    )
    .fetch_one(&mut *tx)
    .await?;
    let type_name = contract::type_name(&event.r#type, &event.subject);
    let body = contract::from_json(type_name, &request.body_json).map_err(Failure::Body)?;
    sqlx::query!(
        "update events.edit set state = 'replaced' where dead_letter_id = $1 and state = 'proposed'",
        letter
    )
    .execute(&mut *tx)
    .await?;
    let edit = Uuid::now_v7();
    sqlx::query!(
        "insert into events.edit (id, facility, dead_letter_id, state, body, original_body, reason, proposed_by)
         select $1, facility, id, 'proposed', $3,
             coalesce((select e.original_body from events.edit e where e.dead_letter_id = $2 order by e.id limit 1), body),
             $4, $5
         from events.dead_letter where id = $2",
        edit,
        letter,
        body,
        request.reason,
        caller.subject,
    )
    .execute(&mut *tx)
    .await?;
    if approval == Approval::Needless {
        apply(tx, service, edit, letter, "").await?;
    }
    let answer = ops::EditDeadLetterResponse {
        dead_letter: letters::find(tx, letter).await?.map(Into::into),
        edit: latest(tx, letter).await?,
    };
    Ok((answer, About::letter(letter, request.reason.clone())))
}

pub(super) async fn approve(
    tx: &mut PgConnection,
    service: &str,
    caller: &Caller,
    request: &ops::ApproveDeadLetterEditRequest,
) -> Result<(ops::ApproveDeadLetterEditResponse, About), Failure> {
    let id = actions::uuid(&request.edit_id, "edit_id")?;
    let edit = sqlx::query!(
        "select dead_letter_id, state, proposed_by, reason from events.edit where id = $1 for update",
        id
    );
    let edit = edit.fetch_optional(&mut *tx).await?;
    let edit = edit.ok_or_else(|| Failure::NotFound {
        kind: "edit",
        id: id.to_string(),
    })?;
    if edit.state != "proposed" {
        return Err(Failure::EditClosed(edit.state));
    }
    if edit.proposed_by == caller.subject {
        return Err(Failure::OwnEdit);
    }
    actions::lock_open(tx, edit.dead_letter_id, "edited").await?;
    apply(tx, service, id, edit.dead_letter_id, &caller.subject).await?;
    let answer = ops::ApproveDeadLetterEditResponse {
        dead_letter: letters::find(tx, edit.dead_letter_id).await?.map(Into::into),
        edit: latest(tx, edit.dead_letter_id).await?,
    };
    let said = format!("proposed by {}: {}", edit.proposed_by, edit.reason);
    Ok((answer, About::letter(edit.dead_letter_id, said)))
}

pub(super) async fn latest(
    tx: &mut PgConnection,
    letter: Uuid,
) -> Result<Option<ops::DeadLetterEdit>, sqlx::Error> {
    let row = sqlx::query!(
        "select e.id, e.state, e.body, e.original_body, e.reason, e.proposed_by, e.proposed_at, e.approved_by, d.type,
             d.subject
         from events.edit e join events.dead_letter d on d.id = e.dead_letter_id
         where e.dead_letter_id = $1 order by e.id desc limit 1",
        letter,
    );
    let Some(row) = row.fetch_optional(tx).await? else {
        return Ok(None);
    };
    let state = match row.state.as_str() {
        "proposed" => ops::DeadLetterEditState::Proposed,
        "applied" => ops::DeadLetterEditState::Applied,
        "replaced" => ops::DeadLetterEditState::Replaced,
        _ => ops::DeadLetterEditState::Unspecified,
    };
    let type_name = contract::type_name(&row.r#type, &row.subject);
    Ok(Some(ops::DeadLetterEdit {
        id: row.id.to_string(),
        state: state.into(),
        body_json: contract::to_json(type_name, &row.body).unwrap_or_default(),
        original_body_json: contract::to_json(type_name, &row.original_body).unwrap_or_default(),
        reason: row.reason,
        proposed_by: row.proposed_by,
        propose_time: Some(letters::timestamp(row.proposed_at)),
        approved_by: row.approved_by,
    }))
}

async fn apply(
    tx: &mut PgConnection,
    service: &str,
    edit: Uuid,
    letter: Uuid,
    approved_by: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "with applied as (
             update events.edit set state = 'applied', approved_by = $2 where id = $1 returning body
         )
         update events.dead_letter set body = applied.body from applied where id = $3",
        edit,
        approved_by,
        letter,
    )
    .execute(&mut *tx)
    .await?;
    actions::send(tx, service, letter).await
}
